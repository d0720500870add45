"""A scene that a network is to realign: in its subspace, and beside its degraded pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hsi_fuse.nets.tiles import tiled
from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.quality.reduced import Reduced, reduce_problem, reduction_factor
from hsi_fuse.refinement.gate import hidden_blocks
from hsi_fuse.refinement.sight import Channels, Sight
from hsi_fuse.solve import MapOptions, reconcile
from hsi_fuse.stages.map import mean_estimate, within
from hsi_fuse.subspace import Subspace, fill_nearest, problem_subspace

HELD_OUT_BLOCKS = 0.25
"""Share of the degraded pair's truth that judges the residual, in blocks of two of its HSI pixels."""


@dataclass(frozen=True)
class Degraded:
    """The degraded pair as the network sees it, and the blocks of its truth that are held out."""

    reduced: Reduced
    sight: Sight
    blocks: Tensor

    @classmethod
    def of(
        cls, problem: Problem, subspace: Subspace, dimensions: int, options: MapOptions
    ) -> Degraded | None:
        """The scene's degraded pair, started by a MAP; None where the scene is too small for one."""
        factor = reduction_factor(problem)
        if factor is None:
            return None
        reduced = reduce_problem(problem, factor)
        own = problem_subspace(reduced.problem, dimensions)
        found, _, _ = mean_estimate(reconcile(reduced.problem, own), own, options)
        start = within(subspace, Estimate(own.basis, own.mean, found))
        truth = subspace.project(fill_nearest(reduced.truth, reduced.mask.float()))
        draw = torch.Generator().manual_seed(problem.seed)
        blocks = hidden_blocks(reduced.mask, HELD_OUT_BLOCKS, 2 * factor, draw)
        sight = Sight.of(reduced.problem, subspace, start, truth, (reduced.mask & (blocks == 0)).float())
        return cls(reduced, sight, blocks)


@dataclass(frozen=True)
class Scene:
    """A problem in its subspace, and how the network sees it.

    `drop` (k, c): the network's residual -> coefficients; `start` (k, H, W) and `low` (k, h, w): the start
    and the HSI in coefficients.
    """

    subspace: Subspace
    channels: Channels
    drop: Tensor
    start: Tensor
    low: Tensor
    degraded: Degraded | None

    @classmethod
    def of(
        cls,
        problem: Problem,
        start: Estimate,
        abundances: int | None,
        dimensions: int,
        options: MapOptions,
    ) -> Scene:
        """A problem and its start.

        `abundances`: how many coefficients the network sees and gives; None: the spectral bands instead.
        `dimensions`: most of the subspace; `options`: of the MAP that starts the degraded pair.
        """
        subspace = problem_subspace(problem, dimensions)
        low = subspace.project(fill_nearest(problem.hsi, problem.hsi_weight))
        spread = low.flatten(1).std(1).clamp_min(1)
        if abundances is not None:
            few = min(abundances, subspace.size)
            lift = torch.diag(1 / spread)[:few]  # (c, k)
            drop = torch.diag(spread)[:, :few]
        else:
            bands = subspace.basis / subspace.noise[:, None]  # (n, k), orthonormal columns
            typical = spread.norm() / len(bands) ** 0.5
            lift, drop = bands / typical, bands.T * typical
        channels = Channels.of(problem, subspace, lift)
        degraded = Degraded.of(problem, subspace, dimensions, options)
        return cls(subspace, channels, drop, within(subspace, start), low, degraded)

    def sight(self, problem: Problem) -> Sight:
        return Sight.of(problem, self.subspace, self.start)

    def estimate(self, coefficients: Tensor) -> Estimate:
        return Estimate(self.subspace.basis, self.subspace.mean, coefficients)

    @torch.no_grad()
    def answer(self, network: nn.Module, sight: Sight, crop_px: int) -> tuple[Tensor, Tensor]:
        """The network's residual in coefficients (k, H, W), and its flow (2, H, W)."""
        residual, flow = tiled(network, self.channels(sight), crop_px)
        return torch.tensordot(self.drop, residual[0], dims=1), flow[0]
