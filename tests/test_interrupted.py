"""Killed, out of room, locked out: no partial file under a final name, inputs untouched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import interrupted
import pytest

ROUNDS = 2
"""Of a kill, a full disk and a locked folder each. By hand many more (docs/lab-notes.md)."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_whatever_ends_a_run_leaves_whole_files_or_none(pair):
    home = Path(tempfile.mkdtemp())  # tmp_path lies in a folder that others may not enter
    home.chmod(0o755)
    arguments = [str(each) for each in (pair.hsi, pair.ref, home / "out", ROUNDS, 0, 7)]
    done = subprocess.run(
        [sys.executable, interrupted.__file__, *arguments],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    shutil.rmtree(home)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"o.tif", "o_report.html", "o_quality.json"} <= set(told["whole"])
    assert told["wrong"] == []
