"""A folder of acquisitions for tests of batches, and scenes that only pretend to run."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from hsi_fuse.apart import Outcome
from hsi_fuse.preset import load_preset
from hsi_fuse.scene import Job, RunSettings
from hsi_fuse.write import outputs

SETTINGS = RunSettings(load_preset("interpolation", ["align.model=none", "align.local=false"]), threads=1)
SITES = ("north", "south", "west")


def fill(home: Path, pair: Any) -> Path:
    """A folder of scenes, each an HSI and its reference in a folder of its own."""
    for site in SITES:
        (home / site).mkdir(parents=True)
        for file in (pair.hsi, pair.hsi.with_suffix(".img"), pair.ref):
            shutil.copy(file, home / site)
    return home


class Pretend:
    """Stands for `run_apart`: writes the outputs, or fails for the sites named in `broken`."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.broken: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.seconds = 0.0
        self._mutex = threading.Lock()

    def __call__(self, job: Job, log: Path, on_step: Any = None, children: Any = None) -> Outcome:
        with self._mutex:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.seconds)
        site = job.hsi.parent.name
        self.ran.append(site)
        assert not job.output.exists()  # what stood there is gone before the scene begins
        if site in self.broken:
            log.write_text("alas")
        else:
            self.write(job)
        with self._mutex:
            self.at_once -= 1
        return Outcome(4, "refused") if site in self.broken else Outcome(0, seconds=1.0, peak_bytes=10**9)

    def write(self, job: Job) -> None:
        figures = {
            "verdict": {"light": "green", "sentences": ["Good."]},
            "registration": {"rrmse_px": 0.1, "probability": 1.0},
            "consistency": {"learned_psf": {"product": {"sam_deg": {"median": 0.5}}}},
            "synthesis": {"assessable": False},
        }
        for path in outputs(job.output):
            path.write_text(json.dumps(figures))
