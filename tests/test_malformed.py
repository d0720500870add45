"""Malformed input: whatever a file holds, it is read or refused with a word, quickly and within memory."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from contextlib import suppress

import malformed
import pytest
import read_malformed

from hsi_fuse import cli
from hsi_fuse.errors import HsiFuseError, ReadError
from hsi_fuse.planning import inspect
from hsi_fuse.read import open_guide, read_hsi

MEGABYTES = 1500
"""What reading may take above what a sound file takes; the bombs promise up to petabytes."""
THROUGH_THE_COMMAND, AS_A_PROCESS = 200, 2


@pytest.mark.parametrize("part", range(3))
def test_thousands_of_malformed_files_are_read_or_refused_with_a_word(tmp_path, part):
    """In a process of their own: a hang or a crash kills it, and its memory is limited."""
    assert malformed.COUNT >= 2000
    first, last = (malformed.COUNT * k // 3 for k in (part, part + 1))
    limits = [str(each) for each in (tmp_path, first, last, MEGABYTES)]
    command = [sys.executable, read_malformed.__file__, *limits]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, f"died at: {done.stderr[-1000:]}"
    assert json.loads(done.stdout) == []


@pytest.fixture
def out(tmp_path, monkeypatch):
    """An empty current folder."""
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


class Reached(HsiFuseError):
    """The input is readable after all, and the work would start."""

    exit_code = 42


def work(hsi, guide, *_, **__):
    """What stands for the work: as that it reads the reference first."""
    guide.read(0, 0, guide.grid.height, guide.grid.width)
    raise Reached("enough")


WAYS = ("run FILE REF", "info FILE", "run HSI FILE", "info FILE REF", "run FILE REF", "info HSI FILE")
"""How a malformed FILE comes to the command: half by `run`."""


def malformed_by(way, path):
    """What the readers say of a file that comes this way; None where it is readable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if way == "info FILE":
                inspect(path)
            elif way.endswith("REF"):
                read_hsi(path)
            else:
                guide = open_guide(path)
                if way.startswith("run"):
                    guide.read(0, 0, guide.grid.height, guide.grid.width)
    except ReadError as error:
        return str(error)
    return None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # names that are no text
def test_the_command_ends_with_code_3_and_one_line_that_names_the_field(
    tmp_path, pair, out, capsys, monkeypatch
):
    monkeypatch.setattr("hsi_fuse.scene.fuse", work)
    refused, by_run = 0, 0
    for turn, number in enumerate(malformed.shuffled(THROUGH_THE_COMMAND)):
        folder = tmp_path / str(number)
        folder.mkdir()
        kind, path, damaged = malformed.spoiled(number, folder)
        before = read_malformed.listing(tmp_path)
        way = WAYS[turn % len(WAYS)]
        command = way.replace("FILE", str(path)).replace("HSI", str(pair.hsi)).replace("REF", str(pair.ref))
        message = malformed_by(way, path)
        capsys.readouterr()
        code = cli.main(command.split())
        told, said = capsys.readouterr()
        errors = [line for line in said.splitlines() if line.startswith("hsi-fuse: error:")]
        where = f"{number} {kind} {damaged}, {way}: exit code {code}, {said}"
        assert "Traceback" not in said, where
        assert "internal" not in said, where
        assert len(errors) == (code != 0), where
        assert read_malformed.listing(tmp_path) == before, where
        by_run += way.startswith("run")
        if message is None:  # what fails then is a pair of sound files: another place, no finer pixels
            assert code in (0, 3, 4, Reached.exit_code), where
            continue
        assert code == 3, where
        assert not told, where
        assert read_malformed.names(errors[0], path, damaged), where
        refused += 1
    assert by_run >= THROUGH_THE_COMMAND / 2
    assert refused > THROUGH_THE_COMMAND / 2  # or this test tests nothing


def test_a_run_of_the_real_command_leaves_nothing(tmp_path, pair, out):
    left = AS_A_PROCESS
    for number in malformed.shuffled(60):
        folder = tmp_path / str(number)
        folder.mkdir()
        kind, path, damaged = malformed.spoiled(number, folder)
        with warnings.catch_warnings(), suppress(HsiFuseError):
            warnings.simplefilter("ignore")
            read_hsi(path)
            continue  # still readable
        before = read_malformed.listing(tmp_path)
        command = [sys.executable, "-m", "hsi_fuse.cli", "run", str(path), str(pair.ref), "-o", "../o.tif"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 3, f"{number} {kind}: {done.stderr}"
        assert done.stderr.count("hsi-fuse: error:") == 1
        assert read_malformed.names(done.stderr, path, damaged)
        assert "Traceback" not in done.stderr
        assert read_malformed.listing(tmp_path) == before
        left -= 1
        if not left:
            return
    pytest.fail("too few of the files were malformed")


def test_names_that_are_no_text_cause_no_traceback(tmp_path):
    """GDAL's message then is no text either, and python tells of that by itself."""
    (tmp_path / "a.vrt").write_bytes(b'<VRTDataset rasterXSize="\xff\x88"></VRTDataset>')
    command = [sys.executable, "-m", "hsi_fuse.cli", "info", str(tmp_path / "a.vrt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 3
    assert done.stderr.startswith("hsi-fuse: error:")
    assert done.stderr.count("\n") == 1
