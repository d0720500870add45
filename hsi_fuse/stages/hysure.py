"""Stage `hysure`: subspace fusion under vector total variation, solved by ADMM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hsi_fuse.classical import LinearModel
from hsi_fuse.cyclic import CyclicBlur, mirror, rim_hsi_px, unmirror
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult


@dataclass(frozen=True)
class Hysure:
    """HySure: Simoes, Bioucas-Dias, Almeida and Chanussot, TGRS 2015.

    Minimises |D B A - low|^2 / 2 + |M A - guide|^2 / 2 + variation TV(A), where TV sums over the pixels the
    Euclidean norm of all coefficients' horizontal and vertical steps, so that edges fall together. By SALSA
    (ADMM) with copies V1 = B A, V2 = A, V3 and V4 = A's steps: the copies' updates are one small division
    for each pixel or a shrinkage, and A's is a division in the Fourier domain.

    Deviations: bands are whitened by their noise and the guide weighs `classical.GUIDE_TRUST`, where the
    paper weighs all alike; the subspace is the principal one, each coefficient in units of its spread,
    instead of VCA's abundances (their scale matters to TV: orthonormal coefficients lose 7 dB on MUUFL,
    abundances 2); the objective is divided by the mean signal power, as the paper scales images to [0, 1];
    it starts from the interpolated HSI; the torus is made of the mirrored scene; SRF and PSF are given, not
    estimated here. Where there is no guide the result is interpolation.

    Attributes
    ----------
    dimensions : int
        Most dimensions of the subspace.
    variation : float
        Weight of the total variation.
    penalty : float
        ADMM's weight of the copies' constraints: speed only, were it run to convergence.
    iterations : int
    """

    dimensions: int = 10
    variation: float = 5e-4
    penalty: float = 1e-3
    iterations: int = 200

    def __call__(self, problem: Problem, start: Estimate, on_step: OnStep) -> StageResult:
        """Solve `problem`; `start` is not used, the problem is convex."""
        model = LinearModel.of(problem, self.dimensions)
        psf, ratio = problem.sensor.psf, problem.ratio
        spread = model.low.flatten(1).std(1).clamp_min(1.0)[:, None, None]  # (k, 1, 1)
        unit = (spread**2).mean()  # of the objective
        mixing = model.mixing * spread[:, 0].T / unit.sqrt()
        rim = rim_hsi_px(psf, ratio)
        guide = mirror(model.guide, rim * ratio) / unit.sqrt()
        blur = CyclicBlur.of(psf, ratio, guide)
        solved = self._admm(
            blur,
            mirror(model.low, rim) * spread / unit,
            spread**2 / unit,
            torch.tensordot(mixing.T, guide, dims=1),
            mixing.T @ mixing,
            mirror(model.plain, rim * ratio) / spread,
            on_step,
        )
        estimate = model.estimate(problem, unmirror(solved, rim * ratio) * spread)
        return StageResult(estimate, {"kept": True, "dimensions": model.subspace.size})

    def _admm(
        self,
        blur: CyclicBlur,
        low: Tensor,
        low_curvature: Tensor,
        guide: Tensor,
        guide_curvature: Tensor,
        start: Tensor,
        on_step: OnStep,
    ) -> Tensor:
        """Minimise the objective over A (k, H, W) on the torus.

        Its data terms are, but for constants, <D B A, low_curvature D B A> / 2 - <D B A, low> and
        <A, guide_curvature A> / 2 - <A, guide>: `low` (k, h, w), `low_curvature` (k, 1, 1), `guide`
        (k, H, W), `guide_curvature` (k, k).
        """
        mu, step = self.penalty, blur.ratio
        eye = torch.eye(len(start), dtype=torch.float64, device=start.device)
        by_guide = torch.linalg.inv(guide_curvature.double() + mu * eye).to(start)
        response = 1 / (blur.transfer.abs() ** 2 + 1 + step_power(start))
        a, dual_blur, dual_self = start, torch.zeros_like(start), torch.zeros_like(start)
        dual_steps = torch.zeros_like(steps(start))
        for iteration in range(1, self.iterations + 1):
            blurred = blur.filter(a, blur.transfer) - dual_blur
            v_blur = blurred.clone()
            v_blur[:, ::step, ::step] = (low + mu * blurred[:, ::step, ::step]) / (low_curvature + mu)
            v_self = torch.tensordot(by_guide, guide + mu * (a - dual_self), dims=1)
            wanted = steps(a) - dual_steps
            v_steps = shrink(wanted, self.variation / mu)
            # minus what the copies miss, added up
            dual_blur, dual_self, dual_steps = v_blur - blurred, dual_self + v_self - a, v_steps - wanted
            spectrum = torch.fft.rfft2(v_self + dual_self + steps_adjoint(v_steps + dual_steps))
            spectrum += torch.fft.rfft2(v_blur + dual_blur) * blur.transfer.conj()
            before, a = a, torch.fft.irfft2(spectrum * response, blur.shape)
            if iteration % 20 == 0 or iteration == self.iterations:
                on_step("hysure", iteration, self.iterations, float((a - before).norm() / a.norm()))
        return a


def steps(image: Tensor) -> Tensor:
    """Differences to the next pixel down and to the right on the torus: (k, H, W) -> (2, k, H, W)."""
    return torch.stack([image.roll(-1, 1), image.roll(-1, 2)]) - image


def steps_adjoint(image: Tensor) -> Tensor:
    """The adjoint of `steps`: (2, k, H, W) -> (k, H, W)."""
    return image[0].roll(1, 1) + image[1].roll(1, 2) - image.sum(0)


def step_power(image: Tensor) -> Tensor:
    """Response (H, W // 2 + 1) of `steps_adjoint(steps(image))` in the Fourier domain."""
    rows = torch.fft.fftfreq(image.shape[1], device=image.device)[:, None]
    columns = torch.fft.rfftfreq(image.shape[2], device=image.device)
    return 4 - 2 * torch.cos(2 * torch.pi * rows) - 2 * torch.cos(2 * torch.pi * columns)


def shrink(image: Tensor, threshold: float) -> Tensor:
    """Shorten the vector of all steps and coefficients at each pixel by a threshold: (2, k, H, W)."""
    length = image.square().sum((0, 1)).sqrt()
    return image * (1 - threshold / length.clamp_min(1e-30)).clamp_min(0)
