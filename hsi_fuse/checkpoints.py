"""States of trainings on disk, so that a run that was interrupted goes on where it stood.

Stages know nothing of it: `keeping` says where states go, and `optimise.train` asks for a place for each
training in the order in which they come. All else of a run is done again; given the same problem and settings
it comes out the same, and so does what follows from a state.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hsi_fuse.errors import HsiFuseWarning, WriteError
from hsi_fuse.files import atomic

ENDING = ".checkpoint.safetensors"
EVERY_S = 60.0
"""Seconds between two states of a training."""

Draw = torch.Generator | np.random.Generator


@dataclass
class Place:
    """Where one training's states go, each over the one before.

    Attributes
    ----------
    path : Path
    every_s : float
    """

    path: Path
    every_s: float

    def __post_init__(self) -> None:
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last state was some time ago."""
        return time.monotonic() - self._last >= self.every_s

    def write(self, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
        """Keep a state. A disk that is full costs the checkpoint, not the run."""
        kept = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(self.path) as part:
                save_file(kept, part, metadata={"state": json.dumps(told)})
        except (OSError, SafetensorError, WriteError) as failure:
            warnings.warn(f"no checkpoint was written: {failure}", HsiFuseWarning, stacklevel=2)
        self._last = time.monotonic()

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state last kept; None where there is none that can be read."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, json.loads(file.metadata()["state"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as failure:
            told = f"{self.path} is no checkpoint ({failure}): training starts anew"
            warnings.warn(told, HsiFuseWarning, stacklevel=2)
            return None


class _Places:
    """Hands out a place for each training of a run."""

    def __init__(self, folder: Path, every_s: float) -> None:
        self.folder, self.every_s, self.count = folder, every_s, 0

    def next(self, what: str) -> Place:
        self.count += 1
        return Place(self.folder / f"{self.count:03d}_{what}{ENDING}", self.every_s)


_CURRENT: ContextVar[_Places | None] = ContextVar("checkpoints", default=None)


@contextmanager
def keeping(folder: Path | None, key: str = "", every_s: float | None = None) -> Iterator[None]:
    """Within, trainings keep their states in `folder/key`, and go on from those that are there.

    Parameters
    ----------
    folder : Path or None
        None: nothing is kept.
    key : str
        Of all that the trainings follow from, see `key_of`: others' states are never taken.
    every_s : float, optional
        Seconds between two states of a training; None: `EVERY_S`.
    """
    every_s = EVERY_S if every_s is None else every_s
    token = _CURRENT.set(None if folder is None else _Places(folder / key, every_s))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def next_place(what: str) -> Place | None:
    """Where the training that starts now keeps its states; None where nothing is kept."""
    places = _CURRENT.get()
    return None if places is None else places.next(what)


def key_of(problem: Any, *settings: object) -> str:
    """A name for all that a run's trainings follow from: a `Problem`, and settings as JSON has them."""
    digest = hashlib.sha256()
    for part in _parts(problem):
        digest.update(part)
    machine = torch.get_num_threads(), version("torch"), version("hsi-fuse")
    digest.update(json.dumps([*settings, *machine]).encode())
    return digest.hexdigest()[:16]


def _parts(value: Any) -> Iterator[bytes]:
    for each in fields(value):
        part = getattr(value, each.name)
        if isinstance(part, Tensor):
            yield part.detach().cpu().contiguous().numpy().tobytes()
        elif is_dataclass(part):
            yield from _parts(part)
        elif isinstance(part, int | float | None):
            yield repr(part).encode()


def discard(folder: Path) -> None:
    """Remove the states in a folder, and the folders that are empty then."""
    for path in folder.glob(f"*/*{ENDING}"):
        path.unlink()
    for each in (*folder.glob("*/"), folder):
        if each.is_dir() and not any(each.iterdir()):
            each.rmdir()


# --- random numbers ----------------------------------------------------------------------------------------


def drawn(draws: Sequence[Draw]) -> tuple[dict[str, Tensor], list[Any]]:
    """How far generators have got: torch's as tensors by name, numpy's JSON-ready (None for torch's)."""
    tensors = {f"draw.{i}": d.get_state() for i, d in enumerate(draws) if isinstance(d, torch.Generator)}
    return tensors, [d.bit_generator.state if isinstance(d, np.random.Generator) else None for d in draws]


def redraw(draws: Sequence[Draw], tensors: Mapping[str, Tensor], states: Sequence[Any]) -> None:
    """Bring generators to where `drawn` found them."""
    for i, (draw, state) in enumerate(zip(draws, states, strict=True)):
        if isinstance(draw, torch.Generator):
            draw.set_state(tensors[f"draw.{i}"])
        else:
            draw.bit_generator.state = state
