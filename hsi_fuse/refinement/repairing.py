"""Learn to repair a guide that a flow has fetched, on pairs that were misplaced on purpose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hsi_fuse.nets.flow import warp
from hsi_fuse.nets.repair import Repair
from hsi_fuse.nets.tiles import tiled
from hsi_fuse.optimise import Schedule, train
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Problem, silent
from hsi_fuse.refinement.lesson import Lesson
from hsi_fuse.refinement.sight import CONTRAST, Channels, Sight
from hsi_fuse.subspace import upsample

CHECKED_PAIRS = 4


@dataclass(frozen=True)
class Repairer:
    """A repairing network, and how a scene becomes its input.

    Attributes
    ----------
    network : Repair
    channels : Channels
    """

    network: nn.Module
    channels: Channels

    @classmethod
    def taught(
        cls,
        aligning: nn.Module,
        lesson: Lesson,
        width: int,
        steps: int,
        learning_rate: float,
        seed: int,
        what: str,
    ) -> Repairer | None:
        """Learn what an aligning network's flows damage; None where nothing is misplaced to learn from.

        The guide is misplaced, fetched back along the flow that is found, and compared with what it was.
        `what` names the stage where training fails.
        """
        if not lesson.taught:
            return None
        channels, own = lesson.channels, lesson.taught[0]  # the scene observed again: its guide is known
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = Repair(len(channels.spread), width).to(channels.spread.device)

        def fetched() -> tuple[tuple[Tensor, ...], Sight]:
            sight, moved, _ = lesson.misplace(own)
            with torch.no_grad():
                _, flow = aligning(*channels(moved))
                guide = warp(moved.guide[None], flow, "bicubic")[0]
            return inputs(channels, replace(sight, guide=guide), flow), sight

        def error(pair: tuple[tuple[Tensor, ...], Sight]) -> Tensor:
            given, sight = pair
            left = (given[0] + network(*given))[0] - channels.scaled(sight.guide)
            return (left.abs().mean(0) * sight.guide_weight).sum() / sight.guide_weight.sum().clamp_min(1e-6)

        held_out = [fetched() for _ in range(CHECKED_PAIRS)]

        @torch.no_grad()
        def score() -> float:
            return sum(float(error(pair)) for pair in held_out) / CHECKED_PAIRS

        groups: list[dict[str, object]] = [{"params": list(network.parameters()), "lr": learning_rate}]
        schedule = Schedule(steps, check_every=max(steps // 4, 1), patience=2)
        train(network, groups, lambda: error(fetched()), score, schedule, silent, what, draws=lesson.draws)
        return cls(network, channels)

    @torch.no_grad()
    def __call__(self, problem: Problem, sight: Sight, flow: Tensor, side_px: int) -> Problem:
        """The guide repaired of a problem whose guide has been fetched along a flow (2, H, W); its sight."""
        given = inputs(self.channels, sight, flow[None])
        (added,) = tiled(lambda *images: [self.network(*images)], given, side_px)
        repaired = sight.guide + added[0] * self.channels.spread[:, None, None]
        return replace(problem, guide=repaired * (problem.guide_weight > 0))


def inputs(channels: Channels, sight: Sight, flow: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `Repair` sees of a sight whose guide has been fetched along a flow (1, 2, H, W)."""
    lacking = channels.expected(sight.low) - blur_down(sight.guide, sight.psf, sight.ratio)
    known = lacking / channels.spread[:, None, None] * (sight.low_weight > 0)
    return channels.scaled(sight.guide)[None], CONTRAST * upsample(known, sight.ratio)[None], flow
