"""Malformed files, read under limits by a process of their own.

`python tests/read_malformed.py FOLDER FIRST LAST MEGABYTES` reads the cases FIRST..LAST-1 of `malformed`
and prints one JSON list of what went wrong. The process is killed after `SECONDS` on one case, and may
grow by MEGABYTES.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

from malformed import geotiff, spoiled

SECONDS = 10


def _main(folder: Path, first: int, last: int, megabytes: int) -> None:
    import resource

    from hsi_fuse.errors import ReadError

    warnings.simplefilter("ignore")
    for read in ("hsi", "guide"):  # import what they import before memory is limited
        _read(read, _sound(folder))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20, resource.RLIM_INFINITY))
    wrong = []
    for number in range(first, last):
        place = folder / str(number)
        place.mkdir()
        kind, path, damaged = spoiled(number, place)
        before = listing(place)
        print(f"{number} {kind}", file=sys.stderr, flush=True)  # the last line names what killed the process
        signal.alarm(SECONDS)
        for read in ("hsi", "guide"):
            try:
                _read(read, path)
            except ReadError as error:
                if not names(str(error), path, damaged):
                    wrong.append(f"{number} {kind} {read}: {damaged}, poor message: {str(error)[:300]}")
            except BaseException as error:
                wrong.append(f"{number} {kind} {read}: {type(error).__name__}: {error}"[:400])
        signal.alarm(0)
        if listing(place) != before:
            wrong.append(f"{number} {kind}: files were written")
        shutil.rmtree(place)
    print(json.dumps(wrong))


def names(message: str, path: Path, damaged: tuple[str, ...]) -> bool:
    """Whether a message is of some length, and names the file and a field that was damaged."""
    field = not damaged or any(name in message for name in damaged)
    return len(message) <= 2000 and path.stem.removesuffix("-METADATA") in message and field


def _sound(folder: Path) -> Path:
    geotiff(folder / "scene.tif")
    return folder / "scene.tif"


def _read(how: str, path: Path) -> None:
    from hsi_fuse.read import open_guide, read_hsi

    if how == "hsi":
        read_hsi(path)
        return
    guide = open_guide(path)
    guide.read(0, 0, guide.grid.height, guide.grid.width)


def listing(folder: Path) -> list[str]:
    """All that lies in a folder."""
    return sorted(str(each) for each in folder.rglob("*"))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
