"""Killed, out of room, locked out: no partial file under a final name, inputs untouched."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import interrupted
import pytest

pytest.importorskip("resource", reason="limits of files are set as POSIX has them")
ROUNDS = 3
"""Of too little room, and of a locked folder. By hand many more, and whole runs: docs/lab-notes.md."""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """`tmp_path` lies in a folder that others may not enter."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


def test_whatever_ends_a_run_leaves_whole_files_or_none(open_folder):
    pair, home = interrupted.new_home(open_folder)
    inputs, told = interrupted.files_in(open_folder / "in"), interrupted.Findings()
    interrupted.saves(pair, home, ROUNDS, 7, told)
    assert told.wrong == []
    assert {"o.tif", "o_report.html", "o_quality.json"} <= set(told.whole)
    assert interrupted.CUT_OFF not in told.whole.values()
    assert told.ends["too little room: 7"] == ROUNDS
    assert told.ends["read-only: 7"] >= 1
    assert interrupted.files_in(open_folder / "in") == inputs
