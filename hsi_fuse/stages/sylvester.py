"""Stage `sylvester`: FUSE, the closed-form Gaussian estimate around the interpolated image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.classical import LinearModel
from hsi_fuse.cyclic import CyclicBlur, mirror, rim_hsi_px, unmirror
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult
from hsi_fuse.subspace import upsample


@dataclass(frozen=True)
class Sylvester:
    """FUSE with the naive Gaussian prior: Wei, Dobigeon and Tourneret, TIP 2015.

    Minimises |D B A - low|^2 + |M A - guide|^2 + <A - P, S^-1 (A - P)> over the coefficients A in the
    noise-whitened subspace, P the interpolated HSI. Setting the derivative to zero gives a Sylvester
    equation, C A + A (B* D* D B) = right, with C = M' M + S^-1. In C's eigenvectors its rows come apart,
    and on a torus each is solved exactly by FFT: the blur's alias terms fold into one division on the
    coarse grid (`CyclicBlur.invert`).

    Deviations: it is solved for A - P; the guide's noise is not estimated (`classical.guide_deviation`);
    the torus is made of the mirrored scene, as the sensor model mirrors edges (exact for a PSF that is
    symmetric along both axes, but for the seam in the rim); the covariance S, left open in the paper, is
    measured: how far interpolation is off when the HSI is first averaged down by the ratio; the subspace's
    size is the scene's own, at most `dimensions` (paper: about 10). Where there is no guide the result is
    interpolation.

    Attributes
    ----------
    dimensions : int
        Most dimensions of the subspace.
    variance : float
        Factor on the measured covariance S.
    """

    dimensions: int = 24
    variance: float = 1.0

    def __call__(self, problem: Problem, start: Estimate, on_step: OnStep) -> StageResult:
        """Solve `problem`; `start` is not used, the problem is convex."""
        model = LinearModel.of(problem, self.dimensions)
        psf, ratio = problem.sensor.psf, problem.ratio
        covariance = self.variance * interpolation_error(model.low, ratio)
        values, vectors = torch.linalg.eigh(
            (model.mixing.T @ model.mixing).double() + torch.linalg.inv(covariance)
        )
        values, vectors = values.to(model.low), vectors.to(model.low)

        rim = rim_hsi_px(psf, ratio)
        low = mirror(model.low - blur_down(model.plain, psf, ratio), rim)
        guide = mirror(model.guide - torch.tensordot(model.mixing, model.plain, dims=1), rim * ratio)
        blur = CyclicBlur.of(psf, ratio, guide)
        right = blur.up(low) + torch.tensordot(model.mixing.T, guide, dims=1)
        turned = blur.invert(torch.tensordot(vectors.T, right, dims=1), values)
        correction = unmirror(torch.tensordot(vectors, turned, dims=1), rim * ratio)
        on_step("sylvester", 1, 1, 0.0)
        estimate = model.estimate(problem, model.plain + correction)
        return StageResult(estimate, {"kept": True, "dimensions": model.subspace.size})


def interpolation_error(low: Tensor, ratio: int) -> Tensor:
    """Second moment (k, k) of what interpolation misses, seen one scale down; unit noise sets its floor.

    The coefficients (k, h, w) are averaged over blocks of ratio x ratio, or smaller ones on a scene of few
    pixels, and interpolated back.
    """
    height, width = low.shape[1:]
    step = min(max(ratio, 2), max(min(height, width) // 4, 1))
    whole = low[:, : height // step * step, : width // step * step]
    missed = (whole - upsample(F.avg_pool2d(whole, step), step)).flatten(1).double()  # (k, N)
    floor = 1e-3 * torch.eye(len(low), dtype=missed.dtype, device=low.device)
    return missed @ missed.T / missed.shape[1] + floor
