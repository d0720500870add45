"""A gate: is one answer clearly better than another on blocks of pixels that neither has seen?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_PX = 1
LEAST_BLOCKS, ENOUGH_BLOCKS = 12, 40
"""Fewer than the first say nothing; of a gain that fewer than the second tell, as many others are asked."""
CLEAR = 1.0
"""Standard errors."""
LEAST_GAIN_DB = 0.5


@dataclass(frozen=True)
class Comparison:
    """Two answers' squared errors on the same unseen blocks.

    Attributes
    ----------
    before, after : Tensor (b,)
        Mean squared error of each block.
    """

    before: Tensor
    after: Tensor

    @classmethod
    def on(cls, blocks: Tensor, before: Tensor, after: Tensor) -> Comparison:
        """Of squared errors (h, w) on blocks numbered from 1 (h, w)."""
        inside = blocks > 0
        _, which = torch.unique(blocks[inside], return_inverse=True)
        count = torch.bincount(which).double()
        sums = (torch.bincount(which, error[inside].double()) for error in (before, after))
        return cls(*(total / count for total in sums))

    @property
    def gain_db(self) -> float:
        """How much smaller the later error is."""
        floor = 1e-30
        return float(10 * torch.log10((self.before.mean() + floor) / (self.after.mean() + floor)))

    @property
    def wins(self) -> bool:
        """Whether it is smaller by more than chance would make it, and by enough to matter."""
        if len(self.before) < LEAST_BLOCKS:
            return False
        gain = self.before.sqrt() - self.after.sqrt()  # roots: one block shall not decide
        error = gain.std() / len(gain) ** 0.5
        return bool(gain.mean() > CLEAR * error) and self.gain_db > LEAST_GAIN_DB

    @property
    def undecided(self) -> bool:
        """Whether it is smaller by enough to matter, but chance or too few blocks might have made it so."""
        few = len(self.before) < ENOUGH_BLOCKS
        return self.gain_db > LEAST_GAIN_DB and (few or not self.wins)

    def joined(self, other: Comparison) -> Comparison:
        """Both comparisons' blocks together."""
        pairs = ((self.before, other.before), (self.after, other.after))
        return Comparison(*(torch.cat(pair) for pair in pairs))

    def figures(self, name: str) -> dict[str, object]:
        """For a stage's verdict."""
        return {
            f"{name}_kept": self.wins,
            f"{name}_gain_db": self.gain_db,
            f"{name}_blocks": len(self.before),
        }


def hidden_blocks(usable: Tensor, share: float, side: int, draw: torch.Generator) -> Tensor:
    """Number random blocks of pixels from 1 on: (h, w), bool -> (h, w), 0 where none is.

    Parameters
    ----------
    usable : Tensor (h, w), bool
        Blocks that hold others are not taken.
    share : float
        Of the usable pixels, about.
    side : int
    """
    rows, columns = usable.shape[0] // side, usable.shape[1] // side
    whole = usable[: rows * side, : columns * side].reshape(rows, side, columns, side).all(3).all(1)
    places = torch.nonzero(whole.flatten())[:, 0]
    chosen = places[
        torch.randperm(len(places), generator=draw)[: round(share * len(places))].to(places.device)
    ]
    numbers = torch.zeros(rows * columns, dtype=torch.long, device=usable.device)
    numbers[chosen] = torch.arange(1, len(chosen) + 1, device=usable.device)
    blocks = torch.zeros_like(usable, dtype=torch.long)
    large = numbers.reshape(rows, columns).repeat_interleave(side, 0).repeat_interleave(side, 1)
    blocks[: rows * side, : columns * side] = large
    return blocks
