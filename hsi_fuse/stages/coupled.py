"""Stage `coupled`: an unmixing network learned through the operators, then data consistency. The default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.crops import Crop, Crops
from hsi_fuse.nets.unmixing import UnmixingNetwork
from hsi_fuse.optimise import Schedule, Trained, train
from hsi_fuse.physics import blur_down, psf_padding
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult, silent
from hsi_fuse.sensors.sense import supported
from hsi_fuse.solve import MapOptions, Texture, anchor, hsi_trust, reconcile, solve_map
from hsi_fuse.stages.map import Lesson
from hsi_fuse.stages.sylvester import interpolation_error
from hsi_fuse.subspace import Subspace, fill_nearest, problem_subspace

LARGEST_CROP_PX, LEAST_CROP_HSI_PX = 128, 4
LEAST_SUPPORT = 64
"""HSI pixels under the guide below which there is nothing to learn from."""
BLOCK_PIXELS = 1 << 13
IMITATED_PIXELS, IMITATION_RATE = 2048, 5e-3
LOOSER = 2.5
"""Deviations of the reference that count as one in the training: the MAP estimate after it brings the guess
to the reference, and a network that did so by itself would pay for it with its spectra."""
LEAST_ORTHOGONAL, ORTHOGONAL_RATE = 16, 2.0
"""Smallest side of the weight matrices that are learned by orthogonal steps, and how much faster."""


@dataclass(frozen=True)
class Coupled(MapOptions):
    """Coupled unmixing, unsupervised on this scene.

    A per-pixel network maps the guide to abundances; endmembers are shared by the scene and start at the
    HSI's own vertices. Network and endmembers are learned together through both operators, so that the cube
    they stand for, blurred, is the HSI and, mixed by the SRF, is the guide (the coupling of CUCaNet, Yao et
    al., ECCV 2020, and of coupled unmixing since Yokoya et al., TGRS 2012).

    The network sees colour and not place: it knows what the whole scene teaches about a colour, where stage
    `map` knows the surroundings. It first learns to imitate `map`'s estimate; what it then makes of the data
    is averaged with that estimate, and the mean is the prior mean of the last `solve_map`. The better the
    network alone explains the HSI, held-out pixels too, the more it weighs (`share`).

    Deviations from CUCaNet: one encoder (guide -> abundances) instead of two, per-pixel instead of 5 x 5,
    softmax with an illumination scale instead of a clamp, a signed residual in the subspace for what the
    endmembers cannot carry, squared losses in noise units instead of L1, SRF and PSF given, training on
    crops with a stop on held-out HSI pixels instead of a fixed number of whole-image epochs, and Muon beside
    Adam (`optimise.Descent`).

    Attributes
    ----------
    steps : int
        Most training steps.
    learning_rate : float
        Of Adam's steps; `ORTHOGONAL_RATE` times that of the orthogonal ones.
    hidden : int
        Width of the network.
    endmembers : int
        0: two more than the subspace has dimensions.
    crop_hsi_px : int
        Side of the training crops; smaller where that would be more than `LARGEST_CROP_PX` fine pixels.
    held_out : float
        Fraction of HSI pixels that decide when to stop.
    imitate : int
        Steps in which the network first learns to give `map`'s answer: a better and steadier start than
        random weights.
    balance : float
        0 weighs HSI coefficients by their noise alone, 1 by how far imitation misses each; between is best.
    positive : float
        Weight of the penalty on negative endmember spectra.
    dimensions : int
        Most dimensions of the subspace.
    share : float
        Weight in the prior's mean of a network that explains all of the HSI. It falls in proportion to the
        share that it explains of what interpolation misses: to 0 for one no better than interpolation, as
        with a guide of one band, whose grey may be anything.
    """

    steps: int = 400
    learning_rate: float = 3e-3
    hidden: int = 64
    endmembers: int = 0
    crop_hsi_px: int = 12
    held_out: float = 0.1
    imitate: int = 300
    balance: float = 0.5
    positive: float = 0.01
    dimensions: int = 24
    share: float = 0.5

    def __call__(self, problem: Problem, start: Estimate, on_step: OnStep) -> StageResult:
        """Train on `problem` and solve it; `start` is not used: the guide holds more than interpolation."""
        subspace = problem_subspace(problem, self.dimensions)
        problem = reconcile(problem, subspace)
        taught, mean = self._teach(problem, subspace, on_step)
        floor = Estimate(subspace.basis, subspace.mean, *mean[:2])
        return replace(taught.solve(problem, *mean), floor=floor)

    def learn(self, scene: Problem, subspace: Subspace, on_step: OnStep) -> Callable[[Problem], StageResult]:
        """Train on `scene`, and solve parts of it."""
        taught, _ = self._teach(reconcile(scene, subspace), subspace, on_step)

        def part(problem: Problem) -> StageResult:
            problem = reconcile(problem, subspace)
            return taught.solve(problem, *taught.lesson.estimate(problem, self))

        return part

    def _teach(
        self, scene: Problem, subspace: Subspace, on_step: OnStep
    ) -> tuple[_Taught, tuple[Tensor, Tensor, int]]:
        """What a reconciled scene teaches, and `mean_estimate` of it."""
        lesson, guess = Lesson.of(scene, subspace)
        mean = lesson.estimate(scene, self, guess)
        learned = self._learn(scene, subspace, mean[0], on_step)
        on_step("coupled", self.steps, self.steps, 0.0)
        if learned is None:
            why = {"kept": False, "reason": "too few HSI pixels under the guide to learn from"}
            return _Taught(self, lesson, None, None, 0.0, why, ()), mean
        network, trained, imitation_error = learned
        low = subspace.project(fill_nearest(scene.hsi, scene.hsi_weight))  # (k, h, w)
        detail = _whole(network, scene, lesson.texture)
        missed = float(anchor(scene, low, detail).covariance.trace())
        missed /= float(interpolation_error(low, scene.ratio).trace())
        # a few strange pixels can lead a network away from what it knew of all others
        kept = min((imitation_error + 1e-9) / (trained.best_score + 1e-9), 1.0)
        weight = self.share * max(1 - missed, 0.0) * kept
        blended = anchor(scene, low, weight * detail + (1 - weight) * mean[0], mean[0]).covariance
        verdict = {
            "kept": True,
            "network_weight": weight,
            "best_step": trained.best_step,
            "held_out_error": trained.best_score,
            "held_out_error_imitating": imitation_error,
            "endmembers": len(network.endmembers),
        }
        return _Taught(self, lesson, blended, network, weight, verdict, trained.history), mean

    def _metric(self, variance: Tensor) -> Tensor:
        """Factors (k,) on errors of the coefficients; such errors are then about 1 in the mean."""
        scale = variance ** (-self.balance / 2)
        return scale / (scale**2 * variance).mean().sqrt()

    def _learn(
        self, problem: Problem, subspace: Subspace, answer: Tensor, on_step: OnStep
    ) -> tuple[UnmixingNetwork, Trained, float] | None:
        """The trained network, how that went, and its held-out error when it had only imitated.

        None where there is too little to learn from. `answer`, coefficients (k, H, W), is imitated first.
        """
        ratio, psf, sensor = problem.ratio, problem.sensor.psf, problem.sensor
        low = subspace.project(fill_nearest(problem.hsi, problem.hsi_weight))  # (k, h, w)
        usable = supported(problem.guide_weight, problem.hsi_weight, psf, ratio)
        if int(usable.sum()) < LEAST_SUPPORT:
            return None
        draw = torch.Generator().manual_seed(problem.seed)
        asked = (torch.rand(usable.shape, generator=draw) < self.held_out).to(usable.device)
        trust = hsi_trust(problem, low)
        to_learn, to_check = trust * (usable & ~asked), trust * (usable & asked)
        looser = LOOSER * problem.guide_noise[:, None, None]
        texture = Texture.of(problem.guide, problem.guide_weight)
        guide = texture.scaled(fill_nearest(problem.guide, problem.guide_weight))
        mixing = sensor.srf @ subspace.basis
        known = sensor.offset + sensor.srf @ subspace.mean
        ring = -(-max(psf_padding(psf.shape[0], ratio), 0) // ratio)
        side = min(self.crop_hsi_px, max(LARGEST_CROP_PX // ratio, LEAST_CROP_HSI_PX + 2 * ring))
        crops = Crops(usable, side, ring, ratio)

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(problem.seed)  # `torch.manual_seed` would seed GPUs too
            network = UnmixingNetwork(
                len(guide),
                _vertices(low[:, usable], self.endmembers or subspace.size + 2),
                subspace.project(torch.zeros_like(problem.hsi[:, :1, 0]))[:, 0],
                low[:, usable].std(1),
                self.hidden,
            ).to(problem.device)

        scale = self._metric(interpolation_error(low, ratio).diagonal().to(low))
        pixels = guide[:, problem.guide_weight > 0]  # (m, N)
        answers = answer[:, problem.guide_weight > 0]  # (k, N)

        def imitation() -> Tensor:
            few = torch.randint(pixels.shape[1], (IMITATED_PIXELS,), generator=draw).to(pixels.device)
            return (((network(pixels[:, few]) - answers[:, few]) * scale[:, None]) ** 2).mean()

        weights = [p for name, p in network.named_parameters() if name != "endmembers"]
        if self.imitate:
            once = Schedule(self.imitate, check_every=self.imitate)
            groups: list[dict[str, object]] = [{"params": weights, "lr": IMITATION_RATE}]
            train(network, groups, imitation, lambda: 0.0, once, silent, "coupled", draws=(draw,))
        # from here on errors count by how far imitation misses each coefficient at the HSI's resolution
        scale = self._metric(anchor(problem, low, _whole(network, problem, texture)).covariance.diagonal())

        def misfit(crop: Crop, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Coefficients of a crop, weighted sum of squared HSI misfits, sum of the weights."""
            pixels = guide[:, *crop.fine]
            a = network(pixels.flatten(1)).view(-1, *pixels.shape[1:])  # (k, sc, sc)
            w = weight[:, *crop.coarse] * crop.inner
            error = (low[:, *crop.coarse] - blur_down(a, psf, ratio)) * scale[:, None, None]
            return a, (error**2 * w).sum(), w.sum()

        def loss() -> Tensor:
            crop = crops.any(draw)
            a, squares, count = misfit(crop, to_learn)
            seen = torch.tensordot(mixing, a, dims=1) + known[:, None, None]
            weight = problem.guide_weight[crop.fine]
            difference = (seen - problem.guide[:, *crop.fine]) / looser
            on_guide = (difference**2 * weight).sum() / (weight.sum() * len(mixing)).clamp_min(1)
            spectra = subspace.basis @ network.endmembers.T + subspace.mean[:, None]  # (n, K)
            negative = (F.relu(-spectra) / subspace.noise[:, None]) ** 2
            return squares / count.clamp_min(1) + on_guide + self.positive * negative.mean()

        @torch.no_grad()
        def score() -> float:
            parts = [misfit(crop, to_check)[1:] for crop in crops.tiles()]
            squares, count = (sum(float(p[i]) for p in parts) for i in (0, 1))
            return squares / max(count, 1e-9)

        hidden = [p for p in weights if min(p.shape) >= LEAST_ORTHOGONAL and p.ndim == 2]
        groups = [
            {"params": [p for p in weights if not any(p is h for h in hidden)], "lr": self.learning_rate},
            {"params": hidden, "lr": ORTHOGONAL_RATE * self.learning_rate, "orthogonal": True},
            # endmembers live in noise units: their step is in proportion to the scene's spread
            {
                "params": [network.endmembers],
                "lr": 0.2 * self.learning_rate * float(network.get_buffer("spread").mean()),
            },
        ]
        schedule = Schedule(self.steps, check_every=max(min(100, self.steps // 4), 1))
        before = score()
        trained = train(network, groups, loss, score, schedule, on_step, "coupled", draws=(draw,))
        return network, trained, before


@dataclass(frozen=True)
class _Taught:
    """What a scene taught stage `coupled`, by which it and its parts are solved.

    Attributes
    ----------
    stage : Coupled
    lesson : Lesson
        For the mean of both MAP estimates.
    blended : Tensor (k, k) or None
        How far off the guess is that blends them with the network's answer.
    network : UnmixingNetwork or None
        None where there was too little to learn from.
    weight : float
        Of the network in the guess.
    verdict, history
        How the training went.
    """

    stage: Coupled
    lesson: Lesson
    blended: Tensor | None
    network: UnmixingNetwork | None
    weight: float
    verdict: Mapping[str, object]
    history: Sequence[Mapping[str, float]]

    def solve(self, part: Problem, mean: Tensor, spread: Tensor, iterations: int) -> StageResult:
        """Solve a reconciled part, whose mean estimate (k, H, W) and spread are known."""
        subspace, coefficients = self.lesson.subspace, mean
        if self.network is not None and self.blended is not None:
            detail = _whole(self.network, part, self.lesson.texture)
            low = subspace.project(fill_nearest(part.hsi, part.hsi_weight))  # (k, h, w)
            guess = anchor(part, low, self.weight * detail + (1 - self.weight) * mean, mean)
            guess = replace(guess, covariance=self.blended, texture=self.lesson.texture)
            coefficients, more = solve_map(part, subspace, guess, self.stage)
            iterations += more
        estimate = Estimate(subspace.basis, subspace.mean, coefficients, spread)
        verdict = {**self.verdict, "dimensions": subspace.size, "cg_iterations": iterations}
        return StageResult(estimate, verdict, self.history)


def _vertices(spectra: Tensor, count: int) -> Tensor:
    """Pixels that span the data, (k, N) -> (count, k): successive orthogonal projection (Araujo et al. 2001).

    Lifted by a constant coordinate, so that vertices of the affine hull are found and k + 1 of them
    exist; more are drawn evenly along the pixels' order by brightness.
    """
    lifted = torch.cat([spectra, spectra.std().expand(1, spectra.shape[1])])
    rest, chosen = lifted.clone(), []
    for _ in range(min(count, len(lifted), spectra.shape[1])):
        power = (rest**2).sum(0)
        index = int(power.argmax())
        if float(power[index]) <= 1e-10 * float((lifted**2).sum(0).max()):
            break
        chosen.append(index)
        axis = rest[:, index] / rest[:, index].norm()
        rest = rest - axis[:, None] * (axis @ rest)
    more = count - len(chosen)
    if more > 0:
        order = spectra[0].argsort()
        chosen += order[torch.linspace(0, len(order) - 1, more + 2).long()[1:-1]].tolist()
    return spectra[:, chosen].T


@torch.no_grad()
def _whole(network: UnmixingNetwork, problem: Problem, texture: Texture) -> Tensor:
    """Coefficients (k, H, W) of the whole guide, in blocks of pixels."""
    guide = texture.scaled(fill_nearest(problem.guide, problem.guide_weight))
    parts = torch.split(guide.flatten(1), BLOCK_PIXELS, 1)
    return torch.cat([network(part) for part in parts], 1).view(-1, *problem.guide_weight.shape)
