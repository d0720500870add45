"""Stage `map`: the mean of two MAP estimates. The quick answer, and every network's floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult
from hsi_fuse.solve import MapOptions, Prior, Texture, anchor, reconcile, solve_map
from hsi_fuse.stages.cnmf import Cnmf, Unmixing
from hsi_fuse.stages.sylvester import interpolation_error
from hsi_fuse.subspace import Subspace, fill_nearest, problem_subspace, upsample

UNMIXING = Cnmf(updates=100, rounds=2, sum_to_one=0.5, learners=1 << 12)
"""How the scene is unmixed for a prior: half the stage's updates and two rounds of its three, as `solve_map`
brings in the data again, and a firmer sum-to-one, which steadies mixtures that a guide of few bands leaves
open. A few thousand pixels teach the spectra."""
BARELY = 2.5
"""`MapOptions.barely` of two estimates whose mean is taken: what one of them leaves is half as much there."""


@dataclass(frozen=True)
class Map(MapOptions):
    """The mean of two MAP estimates with one likelihood, `solve_map`'s, and different priors.

    One expects interpolation and no more: the Gaussian model of Wei, Dobigeon and Tourneret (FUSE, TIP 2015).
    The other expects a mixture of few non-negative spectra: coupled NMF (Yokoya, Yairi and Iwasaki, TGRS
    2012). What the guide does not see is guessed from neighbours by one and from materials by the other.
    Their errors there have little in common, so the mean is mostly better than both and hardly ever much
    worse than the better one, which nobody knows without truth. The data terms are convex: the mean fits the
    data as its parts do.

    Attributes
    ----------
    dimensions : int
        Most dimensions the subspace may have.
    """

    dimensions: int = 24

    def __call__(self, problem: Problem, start: Estimate, on_step: OnStep) -> StageResult:
        """Solve `problem`; `start` is not used."""
        subspace = problem_subspace(problem, self.dimensions)
        on_step("map", 0, 1, 0.0)
        coefficients, spread, steps = mean_estimate(reconcile(problem, subspace), subspace, self)
        on_step("map", 1, 1, 0.0)
        return self._result(subspace, coefficients, spread, steps)

    def learn(self, scene: Problem, subspace: Subspace, on_step: OnStep) -> Callable[[Problem], StageResult]:
        """What `scene` teaches, as a method for its parts."""
        lesson, _ = Lesson.of(reconcile(scene, subspace), subspace)

        def part(problem: Problem) -> StageResult:
            return self._result(subspace, *lesson.estimate(reconcile(problem, subspace), self))

        return part

    def _result(self, subspace: Subspace, coefficients: Tensor, spread: Tensor, steps: int) -> StageResult:
        estimate = Estimate(subspace.basis, subspace.mean, coefficients, spread)
        return StageResult(estimate, {"kept": True, "dimensions": subspace.size, "cg_iterations": steps})


@dataclass(frozen=True)
class Lesson:
    """What a scene teaches about its parts: all that `mean_estimate` measures on many pixels.

    Attributes
    ----------
    subspace : Subspace
    missed : Tensor (k, k)
        What interpolation misses.
    unmixing : Unmixing
    unmixed : Tensor (k, k)
        How far the unmixing is off.
    texture : Texture
        Of the guide.
    """

    subspace: Subspace
    missed: Tensor
    unmixing: Unmixing
    unmixed: Tensor
    texture: Texture

    @classmethod
    def of(cls, scene: Problem, subspace: Subspace) -> tuple[Lesson, Tensor]:
        """Of a reconciled scene; also its unmixing in coefficients (k, H, W)."""
        low = subspace.project(fill_nearest(scene.hsi, scene.hsi_weight))  # (k, h, w)
        result, unmixing = UNMIXING.unmix(scene, subspace=subspace)
        guess = within(subspace, result.estimate)
        missed = interpolation_error(low, scene.ratio).to(low)
        texture = Texture.of(scene.guide, scene.guide_weight)
        return cls(subspace, missed, unmixing, anchor(scene, low, guess).covariance, texture), guess

    def estimate(
        self, part: Problem, options: MapOptions, guess: Tensor | None = None
    ) -> tuple[Tensor, Tensor, int]:
        """`mean_estimate` of a reconciled part; `guess` is its unmixing where that is known."""
        options = replace(options, barely=BARELY)
        low = self.subspace.project(fill_nearest(part.hsi, part.hsi_weight))  # (k, h, w)
        plain = upsample(low, part.ratio)
        prior = Prior(plain, self.missed, torch.zeros_like(plain), self.texture)
        one = solve_map(part, self.subspace, prior, options)
        if guess is None:
            guess = within(self.subspace, UNMIXING.follow(part, self.unmixing).estimate)
        prior = anchor(part, low, guess)
        prior = replace(prior, covariance=self.unmixed, texture=self.texture)
        return _mean(one, solve_map(part, self.subspace, prior, options))


def mean_estimate(problem: Problem, subspace: Subspace, options: MapOptions) -> tuple[Tensor, Tensor, int]:
    """The mean of both MAP estimates, half their difference, both (k, H, W), and the iterations of both."""
    lesson, guess = Lesson.of(problem, subspace)
    return lesson.estimate(problem, options, guess)


def _mean(*estimates: tuple[Tensor, int]) -> tuple[Tensor, Tensor, int]:
    """Mean and half difference of two estimates, and the iterations of both."""
    (one, steps), (other, more) = estimates
    return (one + other) / 2, (one - other) / 2, steps + more


def around_interpolation(problem: Problem, subspace: Subspace, options: MapOptions) -> tuple[Tensor, int]:
    """MAP coefficients (k, H, W) around the interpolated HSI; also the iterations used."""
    low = subspace.project(fill_nearest(problem.hsi, problem.hsi_weight))  # (k, h, w)
    plain = upsample(low, problem.ratio)
    covariance = interpolation_error(low, problem.ratio).to(low)
    return solve_map(problem, subspace, Prior(plain, covariance, torch.zeros_like(plain)), options)


def within(subspace: Subspace, estimate: Estimate) -> Tensor:
    """An estimate projected into a subspace, coefficients (k, H, W), by its factors: no cube is formed."""
    origin = subspace.project(estimate.mean[:, None])  # (k, 1)
    axes = subspace.project(estimate.basis + estimate.mean[:, None]) - origin  # (k, factors)
    return torch.tensordot(axes, estimate.coefficients, dims=1) + origin[:, :, None]
