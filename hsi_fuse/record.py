"""What a run notes of itself: seconds, the warnings it gave, and all that is needed to repeat it."""

from __future__ import annotations

import hashlib
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hsi_fuse.errors import HsiFuseWarning, ReadError
from hsi_fuse.preset import Preset, describe
from hsi_fuse.read.recognise import describe as describe_image

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


def files_of(path: str | Path) -> tuple[Path, ...]:
    """Every file that an image is made of; of what is no image itself, or all that is in the folder."""
    path = Path(path)
    own = (path,) if path.is_file() else ()
    with warnings.catch_warnings(), suppress(ReadError):
        warnings.simplefilter("ignore")  # whoever reads the image hears them
        return tuple(dict.fromkeys((*own, *describe_image(path).files)))
    return own or tuple(sorted(each for each in path.rglob("*") if each.is_file()))


def fingerprints(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of files, each once."""
    found = []
    for path in dict.fromkeys(files):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found.append({"name": str(path), "bytes": path.stat().st_size, "sha256": digest})
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
