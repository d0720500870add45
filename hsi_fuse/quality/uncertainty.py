"""How far the product may be off: a standard deviation for each pixel and band, calibrated on the scene.

Two MAP estimates with different priors make the product (stage `map`); where the data leave something open
they differ. By how much the error exceeds the difference is measured on HSI pixels that are hidden from the
solver, at full scale: the degraded pair of a small scene leaves too few pixels, and its errors are those of
another scale (docs/lab-notes.md). Truth is not asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.errors import HsiFuseError
from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.quality.cube import strips
from hsi_fuse.quality.reduced import degrade
from hsi_fuse.sensors.sense import supported
from hsi_fuse.stages.sylvester import interpolation_error
from hsi_fuse.subspace import fill_nearest, problem_subspace

WINDOW_HSI_PX = 48
"""Largest side of the part of the scene that is solved again with hidden pixels."""
LEAST_HIDDEN = 16
"""Hidden HSI pixels below which nothing is calibrated."""
WITHIN_ONE, WITHIN_TWO = 0.68, 0.95
"""Shares of errors within one and two standard deviations, as a Gaussian has them."""
FINER = 0.8
"""Variance in a fine pixel over that in a hidden HSI pixel of the same spread. This number and the two
below are not learned on the scene: chosen on four scenes, others in sight (docs/lab-notes.md)."""
UNSEEN = 0.9
"""Variance of detail outside the subspace, in units of the HSI's noise, where none shows."""
EVEN = 0.1
"""Share of a band's error that is everywhere, however little the estimates differ at a pixel."""
CLEAR = 4.0
"""Standard deviations by which neighbours must agree before what they agree in counts as detail."""


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviation of an estimate's error in factors, never as a cube.

    variance(pixel, band) = gain x mean of (basis @ spread)^2 around the pixel + floor(band)
                            + unguided(pixel) x plain(band)

    The floor stands for the share `EVEN`, and for detail in spectra that the subspace does not hold. That
    hides below the HSI's noise, and is taken to be nearly as large, or larger where neighbours show it.

    Attributes
    ----------
    basis : Tensor (n, k)
    spread : Tensor (k, H, W)
        Half the difference of two estimates, see `Estimate`.
    gain : float
    floor : Tensor (n,)
        Variance, squared HSI units.
    plain : Tensor (n,)
        Variance of interpolation's error.
    unguided : Tensor (H, W)
        0 where the guide has its full weight, 1 where there is none: both estimates interpolate there.
    reach : int
        The mean is taken over pixels at most this far along both axes.
    hidden : int
        HSI pixels that the gain was calibrated on.
    within_two : float
        Share of their values within two standard deviations; within one it is `WITHIN_ONE`.
    """

    basis: Tensor
    spread: Tensor
    gain: float
    floor: Tensor
    plain: Tensor
    unguided: Tensor
    reach: int
    hidden: int
    within_two: float

    def rows(self, start: int, stop: int) -> Tensor:
        """Standard deviations of rows start..stop-1 of the cube, (n, stop - start, W), HSI units."""
        reach, height = self.reach, self.spread.shape[1]
        first, last = max(start - reach, 0), min(stop + reach, height)
        power = torch.tensordot(self.basis, self.spread[:, first:last], dims=1).square()
        rim = (reach, reach, reach - (start - first), reach - (last - stop))
        around = F.avg_pool2d(F.pad(power[None], rim, mode="replicate"), 2 * reach + 1, stride=1)[0]
        variance = self.gain * around + self.floor[:, None, None]
        return (variance + self.unguided[start:stop] * self.plain[:, None, None]).sqrt()

    def figures(self, level: Tensor, keep: Tensor) -> dict[str, Any]:
        """What the report says of it, JSON-ready but for tensors.

        Parameters
        ----------
        level : Tensor (n,)
            Mean of each band, HSI units.
        keep : Tensor (H, W), bool
            Pixels that count.
        """
        bands, height, width = len(self.basis), *keep.shape
        total = torch.zeros(bands, dtype=torch.float64, device=keep.device)
        for start, stop in strips((bands, height, width)):
            total += (self.rows(start, stop) * keep[start:stop]).double().sum((1, 2))
        sigma = total / keep.sum().clamp_min(1)
        return {
            "assessable": True,
            "sigma": sigma,
            "share": float(sigma.mean() / level.double().mean().abs().clamp_min(1e-30)),
            "gain": self.gain,
            "hidden_pixels": self.hidden,
            "within_two_sigma": self.within_two,
        }


def calibrate(
    problem: Problem, estimate: Estimate, solver: Callable[[Problem], Estimate]
) -> Uncertainty | None:
    """The uncertainty of an estimate; None where it cannot be calibrated.

    That is where the estimate has no spread, fewer than `LEAST_HIDDEN` HSI pixels can be hidden, or `solver`,
    which made the estimate, fails without them. The gain is the one with which `WITHIN_ONE` of the hidden
    values, all bands pooled, lie within one standard deviation; the HSI's noise, which is in each of them, is
    allowed for.
    """
    if estimate.spread is None:
        return None
    part = _window(problem)
    hidden = _hidden(part)
    if int(hidden.sum()) < LEAST_HIDDEN:
        return None
    seen = ~hidden
    try:
        again = solver(replace(part, hsi=part.hsi * seen, hsi_weight=part.hsi_weight * seen))
    except HsiFuseError:
        return None
    if again.spread is None:
        return None
    psf, ratio = part.sensor.psf, part.ratio
    error = (degrade(again, psf, ratio) - part.hsi)[:, hidden]  # (n, N)
    difference = degrade(Estimate(again.basis, torch.zeros_like(again.mean), again.spread), psf, ratio)
    spread, noise = difference[:, hidden].square(), part.hsi_noise.square()[:, None]
    spread = (1 - EVEN) * spread + EVEN * spread.mean(1, keepdim=True)
    gain = _gain(error.square(), spread, noise)
    within_two = float((error.square() < 4 * (gain * spread + noise)).float().mean())
    return Uncertainty(
        estimate.basis,
        estimate.spread,
        FINER * gain * (1 - EVEN),
        FINER
        * (gain * EVEN * _power(problem, estimate) + _detail(part, estimate) * problem.hsi_noise.square()),
        _plain(problem),
        1 - problem.fading,
        max(problem.ratio // 2, 1),
        int(hidden.sum()),
        within_two,
    )


def _gain(error: Tensor, spread: Tensor, noise: Tensor) -> float:
    """Factor g >= 0 with which `WITHIN_ONE` of squared errors (n, N) are below g spread + noise."""
    # a value is inside from the gain (error - noise) / spread on
    needed = ((error - noise) / spread.clamp_min(torch.finfo(spread.dtype).tiny)).flatten()
    return max(float(needed.kthvalue(max(round(WITHIN_ONE * len(needed)), 1)).values), 0.0)


def _power(problem: Problem, estimate: Estimate) -> Tensor:
    """Mean square (n,) of the estimate's spread where the guide is."""
    assert estimate.spread is not None
    inside = estimate.spread[:, problem.guide_weight > 0]
    second = inside @ inside.T / max(inside.shape[1], 1)
    return ((estimate.basis @ second) * estimate.basis).sum(1)


def _detail(problem: Problem, estimate: Estimate) -> float:
    """Variance of fine detail outside the subspace, in units of the HSI's noise, at least `UNSEEN`.

    What the subspace leaves of the HSI is noise and blurred detail. Noise has nothing in common between
    neighbouring pixels; white detail of variance v has v times what the PSF shares with itself, moved by one
    HSI pixel, and next to nothing two pixels apart. What pixels two apart have in common is smooth, neither
    blurred away nor hidden: it counts as it is. Below `CLEAR` deviations of chance there is none.
    """
    noise, ratio, psf = problem.hsi_noise, problem.ratio, problem.sensor.psf
    axes = torch.linalg.qr(estimate.basis / noise[:, None]).Q  # (n, k)
    there = problem.hsi_weight > 0
    inside = problem.hsi[:, there] / noise[:, None]  # (n, N)
    inside = inside - inside.mean(1, keepdim=True)
    left = torch.zeros_like(problem.hsi)
    left[:, there] = inside - axes @ (axes.T @ inside)
    freedom = max(len(axes) - axes.shape[1], 1)

    def shared(lag: int) -> float:
        """Of the PSF with itself, both axes."""
        step = min(lag * ratio, len(psf))
        count = len(psf) - step
        return float((psf[step:] * psf[:count]).sum() + (psf[:, step:] * psf[:, :count]).sum())

    def pairs(lag: int) -> tuple[int, int]:
        return int((there[lag:] & there[:-lag]).sum()), int((there[:, lag:] & there[:, :-lag]).sum())

    def common(lag: int) -> float:
        """Covariance of a band between pixels so far apart, both axes."""
        down, across = (left[:, lag:] * left[:, :-lag]).sum(), (left[:, :, lag:] * left[:, :, :-lag]).sum()
        return float(down / pairs(lag)[0] + across / pairs(lag)[1]) / freedom

    if shared(1) <= shared(2) or min(*pairs(1), *pairs(2)) < LEAST_HIDDEN:
        return UNSEEN
    variance = left.square().sum() / (freedom * int(there.sum()))
    chance = float(variance) * (sum(1 / p for p in pairs(1)) / freedom) ** 0.5
    near, far = common(1), max(common(2), 0.0)
    found = max(near - far, 0.0) / (shared(1) - shared(2)) + far / 2
    return max(found, UNSEEN) if near > CLEAR * chance else UNSEEN


def _hidden(problem: Problem) -> Tensor:
    """Every second HSI pixel along both axes, off the border, with data, under the guide: (h, w) bool."""
    usable = supported(problem.guide_weight, problem.hsi_weight, problem.sensor.psf, problem.ratio)
    grid = torch.zeros_like(usable)
    grid[1:-1:2, 1:-1:2] = True
    return usable & grid


def _window(problem: Problem) -> Problem:
    """At most `WINDOW_HSI_PX` a side of the scene, where it holds most HSI pixels under the guide."""
    height, width = (min(size, WINDOW_HSI_PX) for size in problem.hsi_weight.shape)
    if (height, width) == tuple(problem.hsi_weight.shape):
        return problem
    s = problem.ratio
    usable = supported(problem.guide_weight, problem.hsi_weight, problem.sensor.psf, s).float()
    share = F.avg_pool2d(usable[None, None], (height, width), stride=1)[0, 0]
    top, left = divmod(int(share.argmax()), share.shape[1])
    coarse = (slice(top, top + height), slice(left, left + width))
    fine = (slice(top * s, (top + height) * s), slice(left * s, (left + width) * s))
    return replace(
        problem,
        hsi=problem.hsi[:, *coarse],
        hsi_weight=problem.hsi_weight[coarse],
        guide=problem.guide[:, *fine],
        guide_weight=problem.guide_weight[fine],
    )


def _plain(problem: Problem) -> Tensor:
    """Variance (n,) of what interpolation of the HSI misses in each band."""
    subspace = problem_subspace(problem)
    low = subspace.project(fill_nearest(problem.hsi, problem.hsi_weight))
    missed = interpolation_error(low, problem.ratio).to(low)  # (k, k)
    return ((subspace.basis @ missed) * subspace.basis).sum(1)
