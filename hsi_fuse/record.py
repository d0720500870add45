"""What a run notes of itself: seconds, the warnings it gave, and all that is needed to repeat it."""

from __future__ import annotations

import hashlib
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hsi_fuse.errors import HsiFuseWarning
from hsi_fuse.preset import Preset, describe
from hsi_fuse.read import envi

LIBRARIES = ("hsi-fuse", "torch", "numpy", "rasterio", "scipy")


class Clock:
    """Seconds of the steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[what] = round(time.perf_counter() - started, 3)


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Collect the messages of our own warnings for the report, and let them pass on."""
    said: list[str] = []
    show = warnings.showwarning

    def record(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, HsiFuseWarning) and str(message) not in said:
            said.append(str(message))
        show(message, category, *rest, **more)

    warnings.showwarning = record
    try:
        yield said
    finally:
        warnings.showwarning = show


def provenance_of(
    preset: Preset, displacement: str | Path | None, seed: int, device: torch.device, clock: Clock
) -> dict[str, Any]:
    """Everything needed to repeat a run but the files and `versions`, and its timings."""
    return {
        "seed": seed,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "seconds": clock.seconds,
        "peak_memory_mb": peak_memory_mb(),
        "displacement": None if displacement is None else str(displacement),
        "preset": describe(preset),
    }


def fingerprints(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of input files; of an ENVI pair header and data, of a folder the files in it."""
    found = []
    for path in map(Path, paths):
        pair = None if path.is_dir() else envi.pair_of(path)
        inside = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
        for part in inside if pair is None else (pair[0].path, pair[1]):
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found.append({"name": str(part), "bytes": part.stat().st_size, "sha256": digest})
    return found


def peak_memory_mb() -> float | None:
    """Largest resident memory that this process has had, MiB; None where the system does not tell."""
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return round(getrusage(RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def versions() -> dict[str, str]:
    """Of this program and of the libraries that its numbers depend on."""
    return {name: version(name) for name in LIBRARIES}
