"""What the classical methods share: the whitened linear model without gaps, and where their answer counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.subspace import Subspace, fill_nearest, problem_subspace, upsample

GUIDE_TRUST = 3.0
"""Weight of the guide's squared misfit against the HSI's, each in units of the HSI's noise."""


@dataclass(frozen=True)
class LinearModel:
    """A problem for methods that know no weights: every pixel there, every noise white with unit variance.

    low = D B A + noise and guide = mixing A + noise, A the coefficients in `subspace`. An invalid HSI pixel
    takes its nearest neighbour's values. Where there is no guide stands what it would show of the
    interpolated HSI, so that it tells nothing new there.

    Attributes
    ----------
    subspace : Subspace
    low : Tensor (k, h, w)
    guide : Tensor (m, H, W)
        Less its offset and what it sees of the subspace's mean, each band in units of `guide_deviation`.
    mixing : Tensor (m, k)
    plain : Tensor (k, H, W)
        `low` interpolated.
    """

    subspace: Subspace
    low: Tensor
    guide: Tensor
    mixing: Tensor
    plain: Tensor

    @classmethod
    def of(cls, problem: Problem, dimensions: int) -> LinearModel:
        """The model in a subspace of at most so many dimensions."""
        return cls.within(problem, problem_subspace(problem, dimensions))

    @classmethod
    def within(cls, problem: Problem, subspace: Subspace) -> LinearModel:
        """The model in a known subspace."""
        sensor, deviation = problem.sensor, guide_deviation(problem)
        low = subspace.project(fill_nearest(problem.hsi, problem.hsi_weight))
        plain = upsample(low, problem.ratio)
        mixing = sensor.srf @ subspace.basis / deviation[:, None]
        known = sensor.offset + sensor.srf @ subspace.mean
        guide = (problem.guide - known[:, None, None]) / deviation[:, None, None]
        expected = torch.tensordot(mixing, plain, dims=1)
        return cls(subspace, low, torch.where(problem.guide_weight > 0, guide, expected), mixing, plain)

    def estimate(self, problem: Problem, found: Tensor) -> Estimate:
        """The factors of coefficients (k, H, W) where the guide is, of interpolation elsewhere."""
        coefficients = keep_guided(problem, found, self.plain)
        return Estimate(self.subspace.basis, self.subspace.mean, coefficients)


def guide_deviation(problem: Problem) -> Tensor:
    """By how much each guide band may differ from what the scene in its subspace shows: (m,).

    A fixed share of the HSI's noise, seen in the guide's units, as the papers weigh both images by one
    constant. Not `problem.guide_noise`: it knows nothing of what the subspace leaves out, so that a guide
    without noise would be fitted by coefficients of any size; and learned blind it takes texture for noise.
    """
    return problem.sensor.srf @ problem.hsi_noise / GUIDE_TRUST**0.5


def keep_guided(problem: Problem, found: Tensor, plain: Tensor) -> Tensor:
    """`found` where the guide is, `plain` where it is not, blended between: (c, H, W)."""
    return plain + problem.fading * (found - plain)
