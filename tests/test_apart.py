"""One scene in a process of its own: the batch hears how it ends, and it does not outlive the batch."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hsi_fuse.apart import INTERRUPTED, Children, leftovers, run_apart
from hsi_fuse.batch.lock import locked
from hsi_fuse.errors import WriteError
from hsi_fuse.files import check_output


@dataclass
class Threads:
    threads: int | None = 1


class Deed:
    """A job that does something as soon as it arrives in its process, long before torch is imported."""

    def __init__(self, output: Path, deed: Any, *arguments: Any) -> None:
        self.output, self.settings = output, Threads()
        self._deed = deed, arguments

    def __reduce__(self) -> Any:
        return self._deed


@pytest.fixture
def do(tmp_path: Path) -> Any:
    """A function that has a process do something; its outcome."""

    def run(deed: Any, *arguments: Any, children: Children | None = None) -> Any:
        job: Any = Deed(tmp_path / "x.tif", deed, *arguments)
        return run_apart(job, tmp_path / "log.txt", children=children)

    return run


def test_an_error_of_ours_keeps_its_exit_code_and_message(do, tmp_path):
    outcome = do(check_output, tmp_path / "no" / "folder.tif", False)
    assert outcome.exit_code == WriteError.exit_code
    assert "does not exist" in outcome.message
    assert outcome.peak_bytes > 1e6
    assert "does not exist" in (tmp_path / "log.txt").read_text()


def test_any_other_error_is_an_internal_one_with_its_traceback_in_the_log(do, tmp_path):
    outcome = do(operator.truediv, 1, 0)
    assert (outcome.exit_code, outcome.message) == (1, "internal: ZeroDivisionError: division by zero")
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_a_crash_is_named_and_its_place_stands_in_the_log(do, tmp_path):
    outcome = do(os.abort)
    assert outcome.exit_code == -signal.SIGABRT
    assert "SIGABRT" in outcome.message
    assert "apart.py" in (tmp_path / "log.txt").read_text()


def test_a_process_that_was_killed_is_told_to_lack_memory(do):
    outcome = do(signal.raise_signal, signal.SIGKILL)
    assert outcome.exit_code == -signal.SIGKILL
    assert "memory" in outcome.message


def test_a_process_that_leaves_without_a_word_has_failed(do):
    assert do(os._exit, 0).exit_code == 1
    assert do(os._exit, 5).exit_code == 5


def test_children_stop_when_they_are_told_to(do):
    children = Children()
    threading.Timer(1.0, children.stop).start()
    started = time.monotonic()
    assert do(time.sleep, 60, children=children).exit_code == INTERRUPTED
    assert time.monotonic() - started < 20
    with pytest.raises(KeyboardInterrupt):
        do(time.sleep, 60, children=children)


ORPHAN = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_apart import Deed
from hsi_fuse.apart import Children, run_apart
from hsi_fuse.batch.lock import locked
here = Path({folder!r})
with locked(here) as lock:
    print("begun", flush=True)
    run_apart(Deed(here / "x.tif", time.sleep, 60), here / "log.txt", children=Children((lock,)))
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a folder's lock and has a child at work."""
    text = ORPHAN.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_in_use_is_refused_and_the_user_told_by_whom(parent, tmp_path):
    with (
        pytest.raises(WriteError, match=f"another batch works in .*: process {parent.pid}"),
        locked(tmp_path),
    ):
        pass


def test_the_lock_of_a_dead_batch_is_taken_over_once_its_scene_has_ended(parent, tmp_path):
    while not (tmp_path / "log.txt").exists():
        time.sleep(0.05)
    time.sleep(1.0)
    parent.kill()
    parent.wait()
    started = time.monotonic()
    with locked(tmp_path):
        # the scene would have slept for a minute
        assert time.monotonic() - started < 30
        held = [p for p in Path("/proc").glob("[0-9]*/fd/*") if _same(p, tmp_path / "batch.lock")]
        assert {p.parts[2] for p in held} == {str(os.getpid())}


def _same(link: Path, path: Path) -> bool:
    try:
        return os.readlink(link) == str(path)
    except OSError:
        return False


def test_a_folder_is_free_again_after_use(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            pass


def test_half_written_files_go_and_others_stay(tmp_path):
    (tmp_path / ".x.abc.part").mkdir()
    (tmp_path / ".x.abc.part" / "x.tif").touch()
    (tmp_path / "x.tif.part").touch()
    (tmp_path / "x.tif").touch()
    leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tif"]
