"""Stages that mend what misregistration is left by a network trained on the scene, behind two gates."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hsi_fuse.errors import HsiFuseWarning, SolveError
from hsi_fuse.nets.abundance import Mixed
from hsi_fuse.nets.flow import warp
from hsi_fuse.optimise import Schedule, Trained, train
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult, on_device, silent
from hsi_fuse.refinement.aligning import Degraded, Scene
from hsi_fuse.refinement.gate import BLOCK_PX, LEAST_BLOCKS, Comparison, hidden_blocks
from hsi_fuse.refinement.lesson import Lesson, Taught, Weights, crops_of
from hsi_fuse.refinement.realign import realigned
from hsi_fuse.refinement.repairing import Repairer
from hsi_fuse.refinement.sight import Misplacer, reobserved
from hsi_fuse.refinement.trial import Trial, Tried, without
from hsi_fuse.sensors.sense import supported
from hsi_fuse.solve import MapOptions, anchor, reconcile, solve_map
from hsi_fuse.stages.map import within
from hsi_fuse.subspace import fill_nearest, problem_subspace

LEAST_CROP_PX = 32
CHECKS = 6
"""Looks at the held-out score in a training."""
EARLY = 2
"""At which of them the hidden pixels are asked whether there is any hope."""


@dataclass(frozen=True)
class Refining(MapOptions, ABC):
    """Z = start, fetched along a flow, + E f: flow and residual f by a network, trained on this scene alone.

    Guide and start are fetched along the flow, and the estimate ends in `solve_map` with the guide so
    fetched. The network is trained by

    - the guide fetched along the flow and seen through the PSF, against the HSI seen through the SRF: it is
      this that tells where the guide lies, at full resolution, and it needs no truth;
    - pairs whose guide is misplaced on purpose, smoothly and by objects: the scene as the start has it,
      observed again, and the scene's own degraded pair, whose truth is the HSI;
    - for f, also both data terms at full resolution.

    Two gates. The flow is kept where a MAP with the guide fetched along it predicts HSI pixels that were
    hidden from training and solver clearly better than with the guide as it lies: misregistration shrinks on
    the degraded pair and must be judged at full scale. A third of the way they are asked whether it is worse
    than none: then training ends there. Where they predict a gain that chance might have made, or are few,
    as many others are hidden from another network, and all of them decide. Once it is kept, the network
    learns on from them too. The residual is kept where it clearly wins on held-out blocks of the degraded
    pair; on scenes too small for one there is none. Without either the start passes through unchanged. A
    stage may repair the guide that the flow has fetched; that too is kept only where it predicts the hidden
    pixels clearly better.

    Attributes
    ----------
    steps, learning_rate
        Of the training.
    width, levels : int
        Channels of every feature map; scales, each half the one above.
    groups, heads : int
        Of the deformable convolutions and of the attention; they divide `width`.
    reach : float
        Pixels of a scale that a tap's offset may lie off the flow, or off the offset before.
    abundances : int
        Coefficients that the network sees and gives.
    crop_px : int
        Side of training crops and inference tiles, fine pixels.
    stiffness : float
        Weight of the flow's total variation, weak across the guide's edges (see `edge`).
    robust : float
        Misfit, in units of its noise, from which on it counts by its logarithm.
    misplaced : float
        Weight of the pairs misplaced on purpose.
    misplaced_px : float
        RMS of their smooth misregistration, fine pixels.
    fits : float
        Misfit of the guide, seen through the PSF, to the HSI, seen through the SRF, below which there is
        nothing to mend; in units of what their noise alone makes.
    hidden, held_out : float
        Shares of HSI pixels that judge the flow, and whose misfit is told while it trains.
    dimensions : int
        Most dimensions of the subspace.
    """

    steps: int = 120
    learning_rate: float = 2e-3
    width: int = 16
    levels: int = 3
    groups: int = 4
    heads: int = 4
    reach: float = 2.0
    abundances: int = 4
    crop_px: int = 96
    stiffness: float = 0.3
    robust: float = 5.0
    misplaced: float = 0.1
    misplaced_px: float = 1.0
    fits: float = 2.0
    hidden: float = 0.25
    held_out: float = 0.1
    dimensions: int = 24

    name: ClassVar[str]
    """As in `STAGES`."""

    @abstractmethod
    def network(self, abundances: int, reference: int, outputs: int) -> nn.Module:
        """Images of so many channels -> a residual of so many and a flow; both zero at first."""

    @property
    def seen(self) -> int | None:
        """Coefficients that the network sees and gives; None: the spectral bands."""
        return self.abundances

    @property
    def moves(self) -> bool:
        """Whether the network gives a flow at all."""
        return True

    @property
    def endpoint(self) -> float:
        """Weight of how far off the flow ends on pairs misplaced on purpose, whose flow is known."""
        return 0.0

    def repairer(self, network: nn.Module, lesson: Lesson, seed: int) -> Repairer | None:
        """What repairs a guide that the network's flow has fetched."""
        return None

    def __call__(self, problem: Problem, start: Estimate, on_step: OnStep) -> StageResult:
        """Improve `start`, or pass it through."""
        crop_px, home = self.crop_px, problem.device
        while True:
            try:
                result = self._improve(problem, start, crop_px, on_step)
            except torch.cuda.OutOfMemoryError:
                crop_px //= 2
                what = f"training crops of {crop_px} pixels"
                if crop_px < LEAST_CROP_PX:
                    crop_px, what = self.crop_px, "the processor"
                    processor = torch.device("cpu")
                    problem, start = on_device(problem, processor), on_device(start, processor)
                torch.cuda.empty_cache()
                told = f"stage {self.name}: the GPU's memory does not suffice; going on with {what}"
                warnings.warn(told, HsiFuseWarning, stacklevel=2)
                continue
            except SolveError as failure:  # the start is an answer too
                warnings.warn(f"stage {self.name} is left out: {failure}", HsiFuseWarning, stacklevel=2)
                result = _passed(start, {"reason": str(failure)})
            on_step(self.name, self.steps, self.steps, 0.0)
            if problem.device == home:
                return result
            flow = None if result.flow is None else result.flow.to(home)
            return replace(result, estimate=on_device(result.estimate, home), flow=flow)

    def _improve(self, problem: Problem, start: Estimate, crop_px: int, on_step: OnStep) -> StageResult:
        draw = torch.Generator().manual_seed(problem.seed)
        usable = supported(problem.guide_weight, problem.hsi_weight, problem.sensor.psf, problem.ratio)
        blocks = hidden_blocks(usable, self.hidden, BLOCK_PX, draw)
        if int(blocks.max()) < LEAST_BLOCKS:
            return _passed(start, {"reason": "too few HSI pixels under the guide to judge by"})
        scene = Scene.of(problem, start, self.seen, self.dimensions, self)
        if not self.moves and scene.degraded is None:
            return _passed(
                start, {"reason": "without a flow, and too small for a residual: nothing to learn"}
            )
        hiding = without(problem, blocks > 0)
        lesson = self._lesson(scene, hiding, crop_px, self.held_out, draw)
        misfit = lesson.unexplained()
        verdict: dict[str, object] = {"misfit_over_noise": misfit}
        if self.moves and misfit < self.fits:
            return _passed(start, {**verdict, "reason": "the reference fits the HSI: nothing to mend"})
        tried = Trial.of(scene, hiding, blocks, self, crop_px)
        network, trained, found = self._learn(lesson, scene.drop.shape[1], problem.seed, tried, on_step)
        steps, judged = int(trained.history[-1]["step"]), found.judged
        verdict |= {"steps": steps, "held_out_error": trained.best_score}
        if judged.undecided:
            judged = judged.joined(self._elsewhere(scene, problem, usable & (blocks == 0), crop_px, draw))
        verdict |= judged.figures("flow")
        if steps < self.steps and judged.gain_db < 0:
            reason = "a third of the way its flow was worse than none where it was not trained"
            return replace(_passed(start, {**verdict, "reason": reason}), history=trained.history)
        repairer = self.repairer(network, lesson, problem.seed) if judged.wins else None
        if repairer is not None:
            seen = repairer(found.moved, scene.sight(found.moved), found.flow, crop_px)
            compared = Comparison.on(blocks, found.error, tried.missed(seen))
            verdict |= compared.figures("repair")
            repairer = repairer if compared.wins else None
        keep_residual = False
        if scene.degraded is not None:
            compared = self._compare_residuals(scene.degraded, scene, network, crop_px)
            verdict |= compared.figures("residual")
            keep_residual = compared.wins
        if not judged.wins and not keep_residual:
            reason = "neither its flow nor its residual is clearly better where it was not trained"
            return replace(_passed(start, {**verdict, "reason": reason}), history=trained.history)
        self._learn_on(network, self._lesson(scene, problem, crop_px, 0.0, draw))
        residual, flow = scene.answer(network, scene.sight(problem), crop_px)
        flow = flow if judged.wins else torch.zeros_like(flow)
        guess = warp(scene.start[None], flow[None])[0]
        moved = realigned(problem, flow)
        moved = moved if repairer is None else repairer(moved, scene.sight(moved), flow, crop_px)
        guess = guess + residual if keep_residual else guess
        estimate = self._finish(moved, scene.estimate(guess), start)
        if start.spread is not None:
            estimate = replace(estimate, spread=warp(start.spread[None], flow[None])[0])
        verdict |= {"kept": True, "flow_rms_px": float((flow**2).sum(0).mean().sqrt())}
        return StageResult(estimate, verdict, trained.history, flow=flow)

    def _elsewhere(
        self, scene: Scene, problem: Problem, usable: Tensor, crop_px: int, draw: torch.Generator
    ) -> Comparison:
        """As many other pixels (h, w), hidden from another network: what they say of its flow."""
        blocks = hidden_blocks(usable, self.hidden / (1 - self.hidden), BLOCK_PX, draw)
        hiding = without(problem, blocks > 0)
        lesson = self._lesson(scene, hiding, crop_px, self.held_out, draw)
        trial = Trial.of(scene, hiding, blocks, self, crop_px)
        return self._learn(lesson, scene.drop.shape[1], problem.seed, trial, silent)[2].judged

    def _lesson(
        self, scene: Scene, problem: Problem, crop_px: int, held_out: float, draw: torch.Generator
    ) -> Lesson:
        """What there is to learn on `problem`; a share of its HSI pixels is held out for the score."""
        sensor, channels, sight = problem.sensor, scene.channels, scene.sight(problem)
        usable = supported(problem.guide_weight, problem.hsi_weight, sensor.psf, problem.ratio)
        asked = (torch.rand(usable.shape, generator=draw) < held_out).to(usable.device)
        rng = np.random.default_rng(problem.seed)
        pairs = []
        if self.misplaced:
            own = reobserved(sight, channels, problem.guide_noise, draw)
            pairs.append((own, Misplacer(problem, self.misplaced_px, rng), usable))
            if scene.degraded is not None:
                there = scene.degraded.sight.low_weight > 0
                coarser = Misplacer(scene.degraded.reduced.problem, self.misplaced_px, rng)
                pairs.append((scene.degraded.sight, coarser, there))
        # of the guide seen through the PSF, and of the HSI seen through the SRF
        level_noise = torch.hypot(problem.guide_noise * sensor.psf.norm(), channels.mixing.norm(dim=1))
        return Lesson(
            sight,
            channels,
            None if scene.degraded is None else scene.drop,
            to_learn=(usable & ~asked).float(),
            to_check=(usable & asked).float(),
            guide_noise=problem.guide_noise,
            level_noise=level_noise,
            taught=[
                Taught(pair, misplacer, crops_of(there, crop_px, pair)) for pair, misplacer, there in pairs
            ],
            crop_px=crop_px,
            weights=Weights(self.stiffness, self.robust, self.misplaced, self.edge, self.endpoint),
            draw=draw,
        )

    def _learn(
        self, lesson: Lesson, outputs: int, seed: int, tried: Trial, on_step: OnStep
    ) -> tuple[Mixed, Trained, Tried]:
        """A network, trained to the end unless there is no hope, and what it does for the hidden pixels."""
        abundances, reference = (image.shape[1] for image in lesson.inputs)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed GPUs too
            network = Mixed(self.network(abundances, reference, outputs)).to(lesson.sight.low.device)
        check_every = max(self.steps // CHECKS, 1)
        early = EARLY * check_every if self.moves else 0
        looked: dict[int, Tried] = {}

        def hopeless(step: int) -> bool:
            if step != early or step >= self.steps:
                return False
            looked[step] = tried(network)
            return looked[step].judged.gain_db < 0

        # few pixels are held out: they choose a state worse than the last one is
        schedule = Schedule(self.steps, check_every, patience=None)
        trained = self._train(network, lesson, schedule, on_step, hopeless)
        return network, trained, looked.get(int(trained.history[-1]["step"])) or tried(network)

    def _learn_on(self, network: Mixed, lesson: Lesson) -> None:
        """Half as many steps more, on all HSI pixels: what was hidden told whether, and now tells where."""
        steps = max(self.steps // 2, 1)
        self._train(network, lesson, Schedule(steps, check_every=steps), silent)

    def _train(
        self,
        network: Mixed,
        lesson: Lesson,
        schedule: Schedule,
        on_step: OnStep,
        hopeless: Callable[[int], bool] = lambda step: False,
    ) -> Trained:
        groups: list[dict[str, object]] = [{"params": list(network.parameters()), "lr": self.learning_rate}]
        loss, score = (lambda: lesson.loss(network)), (lambda: lesson.score(network))
        how = partial(train, draws=lesson.draws, hopeless=hopeless)
        return how(network, groups, loss, score, schedule, on_step, self.name)

    def _compare_residuals(
        self, degraded: Degraded, scene: Scene, network: nn.Module, crop_px: int
    ) -> Comparison:
        """Held-out blocks of the degraded pair's truth, without and with the residual."""
        sight, problem = degraded.sight, degraded.reduced.problem
        added, flow = scene.answer(network, sight, crop_px)
        problem = realigned(problem, torch.zeros_like(flow))
        errors = []
        for guess in (sight.start, sight.start + added):
            found = self._finish(problem, scene.estimate(guess), scene.estimate(sight.start))
            errors.append(((within(scene.subspace, found) - sight.truth) ** 2).mean(0))
        return Comparison.on(degraded.blocks, *errors)

    def _finish(self, problem: Problem, guess: Estimate, start: Estimate) -> Estimate:
        """Data consistency, around a guess; around the start where there is no guide."""
        subspace = problem_subspace(problem, self.dimensions)
        moved = reconcile(problem, subspace)
        low = subspace.project(fill_nearest(moved.hsi, moved.hsi_weight))
        prior = anchor(moved, low, within(subspace, guess), within(subspace, start))
        coefficients, _ = solve_map(moved, subspace, prior, self)
        return Estimate(subspace.basis, subspace.mean, coefficients)


def _passed(start: Estimate, why: dict[str, object]) -> StageResult:
    return StageResult(start, {"kept": False, **why})
