"""The scene's own degraded pair: a problem whose answer is known, since it is the HSI itself (Wald).

HSI and guide are both degraded by one factor. The guide then has the HSI's pixels, the HSI coarser ones, and
whoever solves that problem is compared with the HSI that was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hsi_fuse.physics import blur_down, gaussian_psf
from hsi_fuse.problem import Cube, NativeGuide, Problem


@dataclass(frozen=True)
class Reduced:
    """A degraded problem and its answer.

    Attributes
    ----------
    problem : Problem
        Its target grid is the HSI's, cropped to multiples of `factor`.
    truth : Tensor (n, h, w)
        The HSI on that grid.
    mask : Tensor (h, w), bool
        True where the truth was measured.
    factor : int
    """

    problem: Problem
    truth: Tensor
    mask: Tensor
    factor: int


def degrade(cube: Cube, psf: Tensor, ratio: int) -> Tensor:
    """A product seen at the HSI's resolution, (n, h, w)."""
    return cube.degraded(psf, ratio)


def reduction_factor(problem: Problem, smallest: int = 16) -> int | None:
    """The ratio, or the largest factor below it that leaves `smallest` HSI pixels a side; None: none does."""
    height, width = problem.hsi_weight.shape
    fitting = (f for f in range(problem.ratio, 1, -1) if min(height // f, width // f) >= smallest)
    return next(fitting, None)


def reduce_problem(problem: Problem, factor: int) -> Reduced:
    """Degrade HSI and guide by `factor`.

    The guide goes to the HSI's grid by the scene's own PSF; the HSI is degraded by the same PSF, or by the
    Gaussian of its width relative to the pixel where `factor` is not the ratio. Means are weighted, so nodata
    does not leak in; a coarse pixel counts where at least half of what it sees is there. Noise is taken as
    white: averaging by a PSF divides it by the PSF's norm; what was the HSI's noise now also separates the
    guide from the SRF-mixed truth.
    """
    height, width = (size // factor * factor for size in problem.hsi_weight.shape)
    truth, weight = problem.hsi[:, :height, :width], problem.hsi_weight[:height, :width]
    sensor = problem.sensor
    psf = sensor.psf
    if factor != problem.ratio:
        rows, columns = (max(fwhm * factor / problem.ratio, 0.3) for fwhm in sensor.psf_fwhm)
        psf = gaussian_psf(factor, rows, columns).to(sensor.psf)
    guide, guide_weight = _weighted(problem.guide, problem.guide_weight, sensor.psf, problem.ratio)
    hsi, hsi_weight = _weighted(truth, weight, psf, factor)
    own, inherited = problem.guide_noise * sensor.psf.norm(), (sensor.srf**2 @ problem.hsi_noise**2).sqrt()
    degraded = Problem(
        hsi=hsi,
        hsi_weight=hsi_weight,
        guide=guide[:, :height, :width],
        guide_weight=guide_weight[:height, :width],
        sensor=replace(sensor, psf=psf, ratio=factor),
        hsi_noise=problem.hsi_noise * psf.norm(),
        guide_noise=torch.hypot(own, inherited),
        seed=problem.seed,
        position_error=problem.position_error / factor,
        native=None
        if problem.native is None
        else NativeGuide(*problem.native.degraded(sensor.psf, problem.ratio)),
    )
    return Reduced(degraded, truth, weight > 0, factor)


def _weighted(image: Tensor, weight: Tensor, psf: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
    """Weighted mean under the PSF, and the mean weight; both 0 where less than half of the PSF sees data."""
    there = blur_down((weight > 0).to(image.dtype)[None], psf, ratio)[0] >= 0.5
    mean_weight = blur_down(weight[None].to(image.dtype), psf, ratio)[0]
    scale = torch.where(there, 1 / mean_weight.clamp_min(1e-12), 0.0)
    bands = [blur_down((band * weight)[None], psf, ratio)[0] * scale for band in image]
    return torch.stack(bands), torch.where(there, mean_weight, 0.0).clamp(0, 1)
