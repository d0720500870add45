"""How much detail is carried over: what does best on the ground that the guide shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hsi_fuse.overlap.texture import Ground, HeldOut
from hsi_fuse.problem import Problem

GAINS = tuple(0.25 * i for i in range(13))
"""Of the translator's detail alone."""
SHARES = (0.0, 0.5, 1.0)
"""Of it, where examples fill what it misses."""
EXAMPLES = tuple(0.1 * i for i in range(11))
"""How much of the examples' detail: no more than they have, whatever does best where it can be judged."""
PRICE_PER_DB = 0.05
"""What a decibel counts in distances of gradients: of shares that do about alike, that of least error."""
UNPLACED_MARGIN_DB = 0.5
"""By how much interpolation's error must be beaten where nothing is registered.

There the ground that judges is the guide's own, made coarse. Else it must not be worse, no more.
"""


@dataclass(frozen=True)
class Strength:
    """Shares of the translator's and of the examples' detail, and what they do on the ground.

    Attributes
    ----------
    gain, examples : float
    psnr_gain_db : float
        Over interpolation.
    gradient_ratio : float
        Distance of gradients to the guide's, over interpolation's.
    """

    gain: float
    examples: float
    psnr_gain_db: float
    gradient_ratio: float

    @property
    def helps(self) -> bool:
        """Whether it beats interpolation in both."""
        return self.psnr_gain_db >= 0 and self.gradient_ratio < 1

    def regret(self, problem: Problem) -> float:
        """Distance of gradients, the price of the error, and what it lacks to interpolation's or a margin."""
        margin = 0.0 if problem.native is None else UNPLACED_MARGIN_DB
        lacking = max(margin - self.psnr_gain_db, 0.0)
        return self.gradient_ratio - PRICE_PER_DB * self.psnr_gain_db + lacking


def alone(problem: Problem, held: HeldOut, made: Tensor) -> Strength:
    """The best share of what a translator made of the ground (k, H, W), without examples."""
    told = held.judge(gain * made for gain in GAINS)
    return _best(problem, [Strength(gain, 0.0, **each) for gain, each in zip(GAINS, told, strict=True)])


def with_examples(
    problem: Problem, ground: Ground, made: Tensor, unseen: Callable[[Tensor], Tensor]
) -> Strength:
    """The best shares of what translators made of the ground (k, H, W) and of examples of what they miss.

    Each part of the ground takes its examples from the rest, and `made` should come from translators that
    were not taught it. `unseen` leaves of a detail what the HSI's sensor does not see.
    """
    held = HeldOut.of(ground, ground.valid, problem.ratio)
    tried = []
    for gain in SHARES:
        pasted = torch.zeros_like(made)
        for part in ground.quarters():
            examples = ground.examples(ground.detail - gain * made, problem.ratio, part, problem.seed)
            pasted = torch.where(part, examples.pasted(ground.coarse), pasted)
        pasted = unseen(pasted)
        told = held.judge(gain * made + amount * pasted for amount in EXAMPLES)
        tried += [Strength(gain, amount, **each) for amount, each in zip(EXAMPLES, told, strict=True)]
    return _best(problem, tried)


def _best(problem: Problem, tried: list[Strength]) -> Strength:
    return min(tried, key=lambda each: (not each.helps, each.regret(problem)))
