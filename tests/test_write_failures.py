"""Nothing half-written: interrupts, full disks, locked folders, and what stood there before."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from written import NAMES, rows_of, scene, write

from hsi_fuse.errors import WriteError
from hsi_fuse.files import atomic, atomic_files, check_output, staged, write_text
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Raster
from hsi_fuse.write import write_cube


@pytest.mark.parametrize("driver", ["GTiff", "ENVI", "COG"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupts_leave_nothing_behind(tmp_path, driver, error):
    raster = scene(height=300)

    def rows(start, stop):
        if start > 100:
            raise error
        return rows_of(raster)(start, stop)

    with pytest.raises(error):
        write_cube(tmp_path / NAMES[driver], rows, raster.grid, raster, driver=driver, block_rows=50)
    assert not list(tmp_path.iterdir())


def test_failure_keeps_the_old_output(tmp_path):
    (tmp_path / "a.img").write_text("old data")
    (tmp_path / "a.hdr").write_text("old header")

    def fail_half_way():
        with atomic_files(tmp_path / "a.img", tmp_path / "a.hdr") as parts:
            parts[0].write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert sorted(f.read_text() for f in tmp_path.iterdir()) == ["old data", "old header"]


def test_a_missing_part_of_an_output_renames_none(tmp_path):
    with (
        pytest.raises(WriteError, match=r"a\.img"),
        atomic_files(tmp_path / "a.img", tmp_path / "a.hdr") as parts,
    ):
        parts[0].write_text("only one")
    assert not list(tmp_path.iterdir())


def test_temporary_file_lies_in_the_target_folder_and_ends_in_part(tmp_path):
    with atomic(tmp_path / "a.txt") as part:
        assert (part.parent, part.suffix) == (tmp_path, ".part")
        part.write_text("x")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "x"


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import numpy as np
from affine import Affine
from hsi_fuse.errors import WriteError
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Raster
from hsi_fuse.write import write_cube
bands, height, width = map(int, sys.argv[3].split("x"))
values = np.random.default_rng(0).random((bands, height, width), np.float32)
raster = Raster(values, np.ones((height, width), bool), Grid(None, Affine.scale(2, -2), width, height))
for limit in map(int, sys.argv[4:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_cube(sys.argv[1], lambda a, b: values[:, a:b], raster.grid, raster, driver=sys.argv[2])
    except WriteError as error:
        assert sys.argv[1] in str(error), error
    else:
        sys.exit(f"no error at {limit} bytes")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits on file sizes")
@pytest.mark.parametrize("driver", ["GTiff", "ENVI", "COG"])
def test_full_disk_is_a_write_error_even_when_gdal_notices_only_on_closing(tmp_path, driver):
    limits = ["2000", "90000", "111000"]  # in the pixels, in the directory at the end (GeoTIFF: 113 kB)
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / NAMES[driver]), driver, "8x60x60", *limits]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits on file sizes")
def test_a_disk_full_at_any_byte_of_an_image_with_overviews_is_a_write_error(tmp_path):
    """In the room kept for the levels, in the pixels, in either level or in the directories at the end."""
    values = np.random.default_rng(0).random((4, 40, 1100), np.float32)
    raster = Raster(values, np.ones((40, 1100), bool), Grid(None, Affine.scale(2, -2), 1100, 40))
    (path,) = write(tmp_path, raster).paths
    whole = path.stat().st_size
    path.unlink()
    limits = [str(round(whole * share)) for share in (0.01, 0.3, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)]
    command = [sys.executable, "-c", FULL_DISK, str(path), "GTiff", "4x40x1100", *limits]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_locked_while_files_get_their_names_is_a_write_error(tmp_path, monkeypatch):
    """What has its name already cannot be taken away then; it is whole, and the product does not stand."""
    move = os.replace

    def lock(source, target):
        if target == tmp_path / "o.tif":
            raise PermissionError(13, "Permission denied")
        return move(source, target)

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    finals = tmp_path / "o.tif", tmp_path / "o_srf.csv"

    def write():
        with staged(*finals) as folder:
            for final in finals:
                (folder / final.name).write_text("whole")
            monkeypatch.setattr("hsi_fuse.files.os.replace", lock)
            monkeypatch.setattr(Path, "unlink", denied)

    with pytest.raises(WriteError, match=r"o\.tif: Permission denied"):
        write()
    assert not finals[0].exists()
    assert finals[1].read_text() == "whole"


def test_outputs_are_checked_before_the_work(tmp_path):
    check_output(tmp_path / "new.tif", overwrite=False)
    (tmp_path / "old.tif").write_text("x")
    check_output(tmp_path / "old.tif", overwrite=True)
    with pytest.raises(WriteError, match="--overwrite"):
        check_output(tmp_path / "old.tif", overwrite=False)
    with pytest.raises(WriteError, match="does not exist"):
        check_output(tmp_path / "no" / "new.tif", overwrite=False)
    with pytest.raises(WriteError, match="is a folder"):
        check_output(tmp_path, overwrite=True)


@pytest.mark.parametrize("taken", ["o.img", "o.hdr"])
def test_existing_half_of_an_envi_pair_stops_it(tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(WriteError, match=taken):
        write(tmp_path, scene(), "ENVI")
    assert (tmp_path / taken).read_text() == "mine"


def test_stale_sidecar_of_a_replaced_file_goes(tmp_path):
    write(tmp_path, scene())
    (tmp_path / "o.tif.aux.xml").write_text("<PAMDataset/>")
    write(tmp_path, scene(), overwrite=True)
    assert [f.name for f in tmp_path.iterdir()] == ["o.tif"]


def test_text_is_utf8_with_unix_line_ends_and_not_overwritten(tmp_path):
    write_text(tmp_path / "a.json", "µ\n")
    assert (tmp_path / "a.json").read_bytes() == "µ\n".encode()
    with pytest.raises(WriteError):
        write_text(tmp_path / "a.json", "other")
    write_text(tmp_path / "a.json", "other", overwrite=True)
    assert (tmp_path / "a.json").read_text() == "other"
