"""Try a flow on HSI pixels that neither the network nor the solver has seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Problem
from hsi_fuse.refinement.aligning import Scene
from hsi_fuse.refinement.gate import Comparison
from hsi_fuse.refinement.realign import realigned
from hsi_fuse.solve import MapOptions, reconcile
from hsi_fuse.stages.map import around_interpolation


@dataclass(frozen=True)
class Tried:
    """The guide fetched along a flow (2, H, W), and what a MAP with it misses of the HSI (h, w)."""

    flow: Tensor
    moved: Problem
    error: Tensor
    judged: Comparison


@dataclass(frozen=True)
class Trial:
    """A problem some of whose HSI pixels are hidden.

    Attributes
    ----------
    scene : Scene
    hiding : Problem
        The pixels of `blocks` (h, w) have no weight in it.
    blocks : Tensor (h, w)
        See `gate.hidden_blocks`.
    options : MapOptions
    crop_px : int
        Side of the network's tiles, fine pixels.
    as_it_lies : Tensor (h, w)
        What the MAP misses without a flow.
    """

    scene: Scene
    hiding: Problem
    blocks: Tensor
    options: MapOptions
    crop_px: int
    as_it_lies: Tensor

    @classmethod
    def of(cls, scene: Scene, hiding: Problem, blocks: Tensor, options: MapOptions, crop_px: int) -> Trial:
        """A trial of a problem whose pixels in `blocks` are `hidden`."""
        return cls(scene, hiding, blocks, options, crop_px, _missed(scene, hiding, options))

    def __call__(self, network: nn.Module) -> Tried:
        """Of the flow that a network finds."""
        _, flow = self.scene.answer(network, self.scene.sight(self.hiding), self.crop_px)
        moved = realigned(self.hiding, flow)
        error = self.missed(moved)
        return Tried(flow, moved, error, Comparison.on(self.blocks, self.as_it_lies, error))

    def missed(self, problem: Problem) -> Tensor:
        """What a quick MAP of a problem misses of the scene's HSI, hidden pixels too: (h, w)."""
        return _missed(self.scene, problem, self.options)


def without(problem: Problem, hidden: Tensor) -> Problem:
    """The problem without some HSI pixels (h, w)."""
    return replace(problem, hsi=problem.hsi * ~hidden, hsi_weight=problem.hsi_weight * ~hidden)


def _missed(scene: Scene, problem: Problem, options: MapOptions) -> Tensor:
    answer, _ = around_interpolation(reconcile(problem, scene.subspace), scene.subspace, options)
    seen = blur_down(answer, problem.sensor.psf, problem.ratio)
    return ((seen - scene.low) ** 2).mean(0)
