"""Stage `cnmf`: coupled non-negative matrix factorisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hsi_fuse.classical import LinearModel, guide_deviation, keep_guided
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult
from hsi_fuse.sense import supported
from hsi_fuse.subspace import fill_nearest, upsample
from hsi_fuse.vca import vertices

TINY = 1e-12
SUBSPACE = 24
"""Dimensions in which the gaps of the guide are filled."""
BLOCK_PIXELS = 1 << 13
"""Pixels updated at a time: the updates are many and simple, and what they cost is the way to memory."""


@dataclass(frozen=True)
class Cnmf:
    """Coupled unmixing by NMF: Yokoya, Yairi and Iwasaki, TGRS 2012.

    The HSI X = E A and the guide Y = F S are unmixed in turn by multiplicative updates, each handing the
    other its better half: the guide's endmembers start as the HSI's seen through the SRF, F = R E; the
    HSI's abundances become the guide's seen through the PSF, A = D B S, and the endmembers are fitted to
    them. The result is E S. Sum-to-one is a row of constants under the data (Heinz and Chang's).

    Deviations: bands are divided by their noise; the number of endmembers and of updates is fixed; given the
    guide's abundances only the HSI's endmembers are updated, as updating its abundances too undoes the
    coupling (-0.3 to -1.5 dB); the guide's abundances start from the HSI's, interpolated, and not from
    1 / K: the start decides among the many mixtures that give one colour (+0.6 dB and 7 % less SAM on MUUFL,
    nothing on Pavia Centre); negative values are clipped to 0. Where there is no guide the abundances are
    the HSI's, interpolated.

    Attributes
    ----------
    endmembers : int
        How many, K; at most as many as HSI bands.
    updates : int
        Multiplicative updates in each unmixing.
    rounds : int
        How often HSI and guide hand over.
    sum_to_one : float
        The constants' size, in root mean square lengths of the data's spectra. Shade breaks sum-to-one, so it
        is weak.
    """

    endmembers: int = 30
    updates: int = 200
    rounds: int = 3
    sum_to_one: float = 0.1

    def __call__(self, problem: Problem, start: Estimate, on_step: OnStep) -> StageResult:
        """Unmix both images of `problem`; `start` is not used."""
        psf, ratio = problem.sensor.psf, problem.ratio
        scale = problem.hsi_noise[:, None]
        hsi = (fill_nearest(problem.hsi, problem.hsi_weight).flatten(1) / scale).clamp_min(0)  # (n, hw)
        guide, mixing = _positive_guide(problem)
        guide = guide.flatten(1)  # (m, HW)
        coarse, fine = problem.hsi_weight.shape, problem.guide_weight.shape
        support = supported(problem.guide_weight, problem.hsi_weight, psf, ratio).flatten()

        spectra = hsi[:, vertices(hsi, self.endmembers, problem.seed)].clamp_min(TINY)  # (n, K)
        even = hsi.new_full((spectra.shape[1], hsi.shape[1]), 1 / spectra.shape[1])
        spectra, abundances = self._unmix(hsi, spectra, self._mixed(hsi, spectra, even))
        sharp = upsample(abundances.view(-1, *coarse), ratio).clamp_min(1e-6).flatten(1)  # (K, HW)
        rounds = self.rounds if int(support.sum()) >= spectra.shape[1] else 0
        for step in range(1, rounds + 1):
            _, sharp = self._unmix(guide, mixing @ spectra, sharp)
            abundances = blur_down(sharp.view(-1, *fine), psf, ratio).flatten(1)
            known = abundances[:, support]
            cross, gram = hsi[:, support] @ known.T, known @ known.T
            for _ in range(self.updates):
                spectra = _better_spectra(cross, spectra, gram)
            on_step("cnmf", step, self.rounds, 0.0)
        abundances = self._mixed(hsi, spectra, abundances)
        plain = upsample(abundances.view(-1, *coarse), ratio).clamp_min(0)
        sharp = keep_guided(problem, sharp.view(-1, *fine), plain)
        on_step("cnmf", self.rounds, self.rounds, 0.0)
        estimate = Estimate(spectra * scale, torch.zeros_like(problem.hsi_noise), sharp)
        products = {"endmembers": estimate.basis, "abundances": sharp}
        return StageResult(estimate, {"kept": True, "endmembers": len(sharp)}, (), products)

    def _unmix(self, data: Tensor, spectra: Tensor, abundances: Tensor) -> tuple[Tensor, Tensor]:
        """Update spectra (b, K) and abundances (K, N) in turn on data (b, N)."""
        rows = torch.split(self._lifted(data, data), BLOCK_PIXELS, 1)
        blocks = [part.clone() for part in torch.split(abundances, BLOCK_PIXELS, 1)]
        for _ in range(self.updates):
            cross = torch.stack([y[:-1] @ a.T for y, a in zip(rows, blocks, strict=True)]).sum(0)
            spectra = _better_spectra(cross, spectra, torch.stack([a @ a.T for a in blocks]).sum(0))
            seen = self._lifted(spectra, data)
            gram = seen.T @ seen
            for y, a in zip(rows, blocks, strict=True):
                _improve(a, seen.T @ y, gram)
        return spectra, torch.cat(blocks, 1)

    def _mixed(self, data: Tensor, spectra: Tensor, abundances: Tensor) -> Tensor:
        """Update abundances (K, N) of known spectra (b, K) on data (b, N)."""
        seen = self._lifted(spectra, data)
        gram, blocks = seen.T @ seen, []
        rows = torch.split(self._lifted(data, data), BLOCK_PIXELS, 1)
        for y, start in zip(rows, torch.split(abundances, BLOCK_PIXELS, 1), strict=True):
            cross, a = seen.T @ y, start.clone()
            for _ in range(self.updates):
                _improve(a, cross, gram)
            blocks.append(a)
        return torch.cat(blocks, 1)

    def _lifted(self, spectra: Tensor, data: Tensor) -> Tensor:
        """Spectra (b, N) above the row of constants that holds mixtures of `data` to sum-to-one."""
        constant = self.sum_to_one * data.square().sum(0).mean().sqrt()
        return torch.cat([spectra, constant.expand(1, spectra.shape[1])])


def _improve(abundances: Tensor, cross: Tensor, gram: Tensor) -> None:
    """One multiplicative update of abundances (K, N), in place (Lee and Seung, NIPS 2001)."""
    abundances.mul_(cross / (gram @ abundances).add_(TINY))


def _better_spectra(cross: Tensor, spectra: Tensor, gram: Tensor) -> Tensor:
    """One multiplicative update of spectra (b, K) (Lee and Seung, NIPS 2001).

    `cross` is data times transposed abundances (b, K), `gram` abundances times their transpose (K, K).
    """
    return spectra * cross / (spectra @ gram + TINY)


def _positive_guide(problem: Problem) -> tuple[Tensor, Tensor]:
    """The guide (m, H, W) without gaps or offset in units of its noise, and its SRF."""
    model = LinearModel.of(problem, SUBSPACE)
    sensor, deviation = problem.sensor, guide_deviation(problem)
    level = (sensor.srf @ model.subspace.mean / deviation)[:, None, None]
    return (model.guide + level).clamp_min(0), sensor.srf * problem.hsi_noise / deviation[:, None]
