"""How what takes long tells of itself."""

from __future__ import annotations

from typing import Protocol


class OnStep(Protocol):
    """Progress callback: what is done, the step, of how many; of a training its held-out score and loss."""

    def __call__(self, what: str, step: int, total: int, score: float, loss: float = 0.0, /) -> None:
        """Tell of one step. Steps that have no score or loss say 0."""


def silent(what: str, step: int, total: int, score: float, loss: float = 0.0) -> None:
    """The progress callback that says nothing."""
