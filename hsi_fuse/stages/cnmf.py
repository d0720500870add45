"""Stage `cnmf`: coupled non-negative matrix factorisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from hsi_fuse.classical import LinearModel, guide_deviation, keep_guided
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult, silent
from hsi_fuse.sensors.sense import supported
from hsi_fuse.subspace import Subspace, fill_nearest, problem_subspace, upsample
from hsi_fuse.threads import one_thread
from hsi_fuse.vca import vertices

TINY = 1e-12
SUBSPACE = 24
"""Dimensions in which the gaps of the guide are filled."""
STEPS = 1, 2, 8
"""How many updates at a time pixels take that follow others, in turn. About its end an update leaves 1 - x of
what is still missing, x between 0 and 1 for each kind of mixture; one taken further, in powers of its factor,
1 - 2 x or 1 - 8 x. Of all three no more than 0.65 is left, where eleven updates leave (1 - x)^11: the long
step that would overshoot comes after short ones, as in Richardson's iteration with Chebyshev's steps."""
LARGEST_FACTOR = 16.0
"""Of one update where it is taken further."""
BLOCK_PIXELS = 1 << 12
"""Pixels updated at a time: the updates are many and simple, and what they cost is the way to memory."""


@dataclass(frozen=True)
class Unmixing:
    """How a scene was unmixed: the spectra of every update, by which other pixels of it are unmixed alike.

    Attributes
    ----------
    subspace : Subspace
        In which gaps of the guide are filled.
    hsi, guide : float
        The constants under the data of either image that stand for sum-to-one.
    coarse : sequence of Tensor (n, K)
        The HSI's endmembers at first and after each update.
    fine : sequence of sequences of Tensor (m, K)
        The guide's, after each update of each round.
    spectra : Tensor (n, K)
        The HSI's at last.
    """

    subspace: Subspace
    hsi: float
    guide: float
    coarse: Sequence[Tensor]
    fine: Sequence[Sequence[Tensor]]
    spectra: Tensor


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
    learners : int
        Most pixels of an image from which its spectra are learned; all pixels then follow these (`STEPS`).
        0: every pixel learns, as in the paper.
    """

    endmembers: int = 30
    updates: int = 200
    rounds: int = 3
    sum_to_one: float = 0.1
    learners: int = 0

    def __call__(self, problem: Problem, start: Estimate, on_step: OnStep) -> StageResult:
        """Unmix both images of `problem`; `start` is not used."""
        return self.unmix(problem, on_step)[0]

    def unmix(
        self, problem: Problem, on_step: OnStep = silent, subspace: Subspace | None = None
    ) -> tuple[StageResult, Unmixing]:
        """Unmix both images of `problem`, and keep what is needed to unmix others of the scene alike.

        `subspace`: the HSI's, where it is known.
        """
        psf, ratio = problem.sensor.psf, problem.ratio
        subspace = subspace or problem_subspace(problem, SUBSPACE)
        hsi, guide, mixing = _positive(problem, subspace)
        constants = self._constant(hsi), self._constant(guide)
        coarse, fine = problem.hsi_weight.shape, problem.guide_weight.shape
        support = supported(problem.guide_weight, problem.hsi_weight, psf, ratio).flatten()

        spectra = hsi[:, vertices(hsi, self.endmembers, problem.seed)].clamp_min(TINY)  # (n, K)
        even = hsi.new_full((spectra.shape[1], hsi.shape[1]), 1 / spectra.shape[1])
        abundances = self._mixed(hsi, spectra, even, constants[0])
        first = spectra
        path, abundances = self._learned(hsi, spectra, abundances, constants[0], problem.seed)
        spectra, rounds_path = path[-1], []
        sharp = upsample(abundances.view(-1, *coarse), ratio).clamp_min(1e-6).flatten(1)  # (K, HW)
        rounds = self.rounds if int(support.sum()) >= spectra.shape[1] else 0
        for step in range(1, rounds + 1):
            seen, sharp = self._learned(guide, mixing @ spectra, sharp, constants[1], problem.seed)
            rounds_path.append(seen)
            abundances = blur_down(sharp.view(-1, *fine), psf, ratio).flatten(1)
            known = abundances[:, support]
            cross, gram = hsi[:, support] @ known.T, known @ known.T
            for _ in range(self.updates):
                spectra = _better_spectra(cross, spectra, gram)
            on_step("cnmf", step, self.rounds, 0.0)
        on_step("cnmf", self.rounds, self.rounds, 0.0)
        learned = Unmixing(subspace, *constants, [first, *path], rounds_path, spectra)
        return self._composed(problem, hsi, abundances, sharp, learned), learned

    def follow(self, problem: Problem, learned: Unmixing) -> StageResult:
        """Unmix a part of a scene by what was learned of the scene: each pixel by the same updates."""
        psf, ratio = problem.sensor.psf, problem.ratio
        hsi, guide, _ = _positive(problem, learned.subspace)
        first, *path = learned.coarse
        even = hsi.new_full((first.shape[1], hsi.shape[1]), 1 / first.shape[1])
        abundances = self._followed(hsi, path, self._mixed(hsi, first, even, learned.hsi), learned.hsi)
        coarse, fine = problem.hsi_weight.shape, problem.guide_weight.shape
        sharp = upsample(abundances.view(-1, *coarse), ratio).clamp_min(1e-6).flatten(1)
        for seen in learned.fine:
            sharp = self._followed(guide, seen, sharp, learned.guide)
            abundances = blur_down(sharp.view(-1, *fine), psf, ratio).flatten(1)
        return self._composed(problem, hsi, abundances, sharp, learned)

    def _composed(
        self, problem: Problem, hsi: Tensor, abundances: Tensor, sharp: Tensor, learned: Unmixing
    ) -> StageResult:
        """The guide's abundances (K, HW) as a result; where there is none, the HSI's, from (K, hw) on."""
        coarse, fine = problem.hsi_weight.shape, problem.guide_weight.shape
        sharp = sharp.view(-1, *fine)
        if not bool((problem.guide_weight >= 1).all() & (problem.hsi_weight > 0).all()):
            abundances = self._mixed(hsi, learned.spectra, abundances, learned.hsi)
            plain = upsample(abundances.view(-1, *coarse), problem.ratio).clamp_min(0)
            sharp = keep_guided(problem, sharp, plain)
        basis = learned.spectra * problem.hsi_noise[:, None]
        estimate = Estimate(basis, torch.zeros_like(problem.hsi_noise), sharp)
        return StageResult(estimate, {"kept": True, "endmembers": len(sharp)})

    def _constant(self, data: Tensor) -> float:
        """What stands under data (b, N) and spectra to hold mixtures to sum-to-one."""
        return self.sum_to_one * float(data.square().sum(0).mean().sqrt())

    def _learned(
        self, data: Tensor, spectra: Tensor, abundances: Tensor, constant: float, seed: int
    ) -> tuple[list[Tensor], Tensor]:
        """As `_unmix`, or by what some of the pixels teach."""
        if not self.learners:
            return self._unmix(data, spectra, abundances, constant)
        draw = torch.Generator().manual_seed(seed)
        some = torch.randperm(data.shape[1], generator=draw)[: self.learners].to(data.device)
        with one_thread():
            path, _ = self._unmix(data[:, some], spectra, abundances[:, some], constant)
        return path, self._followed(data, path, abundances, constant)

    def _unmix(
        self, data: Tensor, spectra: Tensor, abundances: Tensor, constant: float
    ) -> tuple[list[Tensor], Tensor]:
        """Update spectra (b, K) and abundances (K, N) in turn on data (b, N): all spectra, abundances."""
        rows, path = torch.split(_lifted(data, constant), BLOCK_PIXELS, 1), []
        blocks = [part.clone() for part in torch.split(abundances, BLOCK_PIXELS, 1)]
        for _ in range(self.updates):
            cross = torch.stack([y[:-1] @ a.T for y, a in zip(rows, blocks, strict=True)]).sum(0)
            spectra = _better_spectra(cross, spectra, torch.stack([a @ a.T for a in blocks]).sum(0))
            path.append(spectra)
            seen = _lifted(spectra, constant)
            gram = _gram(seen)
            for y, a in zip(rows, blocks, strict=True):
                _improve(a, seen.T @ y, gram)
        return path, torch.cat(blocks, 1)

    def _followed(self, data: Tensor, path: Sequence[Tensor], abundances: Tensor, constant: float) -> Tensor:
        """The updates of `_unmix` on abundances alone, by its spectra, in fewer and longer steps."""
        steps: list[int] = []
        done = 0
        while done < len(path):
            steps.append(min(STEPS[len(steps) % len(STEPS)], len(path) - done))
            done += steps[-1]
        seen = [_lifted(path[done - 1], constant) for done in accumulate(steps)]
        grams, blocks = [_gram(s) for s in seen], []
        rows = torch.split(_lifted(data, constant), BLOCK_PIXELS, 1)
        for y, start in zip(rows, torch.split(abundances, BLOCK_PIXELS, 1), strict=True):
            a, wanted, room = start.clone(), torch.empty_like(start), torch.empty_like(start)
            for s, gram, step in zip(seen, grams, steps, strict=True):
                _improve(a, torch.mm(s.T, y, out=wanted), gram, step, room)
            blocks.append(a)
        return torch.cat(blocks, 1)

    def _mixed(self, data: Tensor, spectra: Tensor, abundances: Tensor, constant: float) -> Tensor:
        """Update abundances (K, N) of known spectra (b, K) on data (b, N)."""
        seen = _lifted(spectra, constant)
        gram, blocks = _gram(seen), []
        rows = torch.split(_lifted(data, constant), BLOCK_PIXELS, 1)
        for y, start in zip(rows, torch.split(abundances, BLOCK_PIXELS, 1), strict=True):
            cross, a = seen.T @ y, start.clone()
            for _ in range(self.updates):
                _improve(a, cross, gram)
            blocks.append(a)
        return torch.cat(blocks, 1)


def _lifted(spectra: Tensor, constant: float) -> Tensor:
    """Spectra (b, N) above the row of constants that holds mixtures to sum-to-one."""
    return torch.cat([spectra, spectra.new_full((1, spectra.shape[1]), constant)])


def _gram(spectra: Tensor) -> Sequence[Tensor]:
    """Gram matrix of spectra (b, K) as matrices whose product it is: two where few bands make them small."""
    return (spectra.T, spectra) if 2 * len(spectra) < spectra.shape[1] else (spectra.T @ spectra,)


def _improve(
    abundances: Tensor, cross: Tensor, gram: Sequence[Tensor], step: int = 1, room: Tensor | None = None
) -> None:
    """A multiplicative update of abundances (K, N), in place, as far as `step` (Lee and Seung, NIPS 2001).

    `room` (K, N) is written to: new memory at every step would take as long as the step.
    """
    first, *rest = gram
    factor = torch.mm(first, rest[0] @ abundances if rest else abundances, out=room).add_(TINY)
    torch.div(cross, factor, out=factor)
    if step > 1:
        factor.clamp_max_(LARGEST_FACTOR)
    while step % 2 == 0:  # squares are cheap, powers are not
        factor.square_()
        step //= 2
    abundances.mul_(factor if step == 1 else factor.pow_(step))


def _better_spectra(cross: Tensor, spectra: Tensor, gram: Tensor) -> Tensor:
    """One multiplicative update of spectra (b, K) (Lee and Seung, NIPS 2001).

    `cross` is data times transposed abundances (b, K), `gram` abundances times their transpose (K, K).
    """
    return spectra * cross / (spectra @ gram + TINY)


def _positive(problem: Problem, subspace: Subspace) -> tuple[Tensor, Tensor, Tensor]:
    """HSI (n, hw) and guide (m, HW) without gaps or offset in units of their noise, and the SRF (m, n)."""
    model = LinearModel.within(problem, subspace)
    sensor, deviation = problem.sensor, guide_deviation(problem)
    level = (sensor.srf @ subspace.mean / deviation)[:, None, None]
    hsi = fill_nearest(problem.hsi, problem.hsi_weight).flatten(1) / problem.hsi_noise[:, None]
    guide = (model.guide + level).flatten(1)
    return hsi.clamp_min(0), guide.clamp_min(0), sensor.srf * problem.hsi_noise / deviation[:, None]
