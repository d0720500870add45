"""What an aligning network learns from: the scene through both operators, and pairs misplaced on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hsi_fuse.checkpoints import Draw
from hsi_fuse.crops import Crop, Crops
from hsi_fuse.nets.flow import warp
from hsi_fuse.physics import blur_down, psf_padding
from hsi_fuse.refinement.sight import Channels, Misplacer, Sight
from hsi_fuse.solve import bonds
from hsi_fuse.subspace import upsample

CHECKED_TILES = 6
RESIDUAL = 0.1
"""Weight of what teaches the residual: features serve the flow first."""
LEAST_STEP = 1e-2
"""Pixels; below, the flow's total variation is quadratic."""


@dataclass(frozen=True)
class Weights:
    """How the parts of the loss are weighed; see `Refining`."""

    stiffness: float
    robust: float
    misplaced: float
    edge: float
    endpoint: float = 0.0


@dataclass(frozen=True)
class Taught:
    """A pair whose answer is known, and how its guide may be misplaced."""

    sight: Sight
    misplacer: Misplacer
    crops: Crops


class Lesson:
    """Losses of a network that gives residual abundances and a flow.

    Parameters
    ----------
    sight : Sight
        Of the scene itself.
    channels : Channels
    drop : Tensor (k, c) or None
        The network's residual -> coefficients. None: only its flow counts.
    to_learn, to_check : Tensor (h, w)
        Weights of the HSI's pixels in training, and in the score.
    guide_noise, level_noise : Tensor (m,)
        Of the guide, and of what is left when it is seen through the PSF and compared with the HSI.
    taught : sequence of Taught
    crop_px : int
    weights : Weights
    draw : torch.Generator
    """

    def __init__(
        self,
        sight: Sight,
        channels: Channels,
        drop: Tensor | None,
        to_learn: Tensor,
        to_check: Tensor,
        guide_noise: Tensor,
        level_noise: Tensor,
        taught: Sequence[Taught],
        crop_px: int,
        weights: Weights,
        draw: torch.Generator,
    ) -> None:
        self.sight, self.channels, self.drop, self.weights, self.draw = sight, channels, drop, weights, draw
        self.to_learn, self.to_check, self.taught = to_learn, to_check, taught
        self.guide_noise, self.level_noise = guide_noise[:, None, None], level_noise[:, None, None]
        rngs = {id(pair.misplacer.rng): pair.misplacer.rng for pair in taught}
        self.draws: tuple[Draw, ...] = (draw, *rngs.values())
        self.inputs = channels(sight)
        self.bonds = bonds(channels.scaled(sight.guide), sight.guide_weight, weights.edge)
        self.crops = crops_of(to_learn > 0, crop_px, sight)
        # between counting coefficients by their noise and by their spread, as `coupled` has it
        variance = sight.low.flatten(1).var(1).clamp_min(1)
        self.scale = (variance**-0.25 / variance.sqrt().mean().sqrt())[:, None, None]

    def loss(self, network: nn.Module) -> Tensor:
        """One crop of the scene, and one of a pair misplaced on purpose."""
        total = self._on_scene(network, self.crops.any(self.draw), self.to_learn, whole=True)
        # half as often: it costs as much, and steadies only
        if self.taught and bool(torch.randint(2, (), generator=self.draw)):
            chosen = int(torch.randint(len(self.taught), (1,), generator=self.draw))
            total = total + self.weights.misplaced * self._on_pair(network, self.taught[chosen])
        return total

    @torch.no_grad()
    def unexplained(self) -> float:
        """Misfit of the guide as it lies, seen through the PSF, over what noise alone makes of it."""
        sight, weight = self.sight, self.to_learn + self.to_check
        left = blur_down(sight.guide, sight.psf, sight.ratio) - self.channels.expected(sight.low)
        z = torch.linspace(-6, 6, 1201, dtype=torch.float64)
        chance = (torch.log1p((z / self.weights.robust) ** 2) * torch.exp(-(z**2) / 2)).sum()
        chance = chance / torch.exp(-(z**2) / 2).sum()
        return float(self._penalty(left / self.level_noise, weight)) / float(chance)

    @torch.no_grad()
    def score(self, network: nn.Module) -> float:
        """Misfit of held-out HSI pixels."""
        tiles = list(self.crops.tiles(CHECKED_TILES))
        return sum(float(self._on_scene(network, c, self.to_check, whole=False)) for c in tiles) / len(tiles)

    def _penalty(self, misfit: Tensor, weight: Tensor) -> Tensor:
        """Robust mean of misfits (c, h, w) in units of their noise, under weights (h, w)."""
        each = torch.log1p((misfit / self.weights.robust) ** 2)
        return (each * weight).sum() / (weight.sum() * len(misfit)).clamp_min(1e-6)

    def _on_scene(self, network: nn.Module, crop: Crop, allowed: Tensor, whole: bool) -> Tensor:
        """Both data terms; `whole`: and how rough the flow is."""
        sight = self.sight.crop(crop)
        residual, flow = network(*(image[..., *crop.fine] for image in self.inputs))
        psf, ratio = sight.psf, sight.ratio
        guide = warp(sight.guide[None], flow, "bicubic")[0]
        weight = allowed[crop.coarse] * crop.inner
        expected = self.channels.expected(sight.low)
        total = self._penalty((blur_down(guide, psf, ratio) - expected) / self.level_noise, weight)
        if self.drop is not None:
            answer = self._answer(sight, residual, flow)
            difference = (self.channels.expected(answer) - guide.detach()) / self.guide_noise
            on_both = self._penalty(sight.low - blur_down(answer, psf, ratio), weight)
            total = total + RESIDUAL * (on_both + self._penalty(difference, sight.guide_weight))
        return total + self.weights.stiffness * self._roughness(flow, crop) if whole else total

    def misplace(self, taught: Taught) -> tuple[Sight, Sight, Tensor]:
        """A crop of a pair as it is, under a misplaced guide, and the flow (2, H, W) that misplaced it."""
        crop = taught.crops.any(self.draw)
        sight = taught.sight.crop(crop)
        applied = taught.misplacer(taught.misplacer.labels[crop.fine], sight.guide)
        return sight, sight.misplaced(applied), applied

    def _on_pair(self, network: nn.Module, taught: Taught) -> Tensor:
        """Whether guide and start were brought back from where they had been misplaced."""
        sight, moved, applied = self.misplace(taught)
        residual, flow = network(*self.channels(moved))
        found = warp(moved.guide[None], flow)[0]
        total = _mean((found - sight.guide).abs() / self.channels.spread[:, None, None], sight.guide_weight)
        if self.weights.endpoint:
            # found at q + flow(q), which had come from q + flow(q) + applied(q + flow(q)): from q, if right
            off = flow[0] + warp(applied[None], flow)[0]
            length = (off.square().sum(0, keepdim=True) + LEAST_STEP**2).sqrt()
            total = total + self.weights.endpoint * _mean(length, sight.guide_weight)
        if self.drop is not None:
            error = (self._answer(moved, residual, flow) - sight.truth) * self.scale
            total = total + RESIDUAL * _mean(error.abs(), sight.truth_weight)
        return total

    def _answer(self, sight: Sight, residual: Tensor, flow: Tensor) -> Tensor:
        """Coefficients (k, H, W): the start, fetched along the flow, and what the network adds.

        The flow learns nothing from it. The HSI has put the start's level right whatever the guide showed, so
        the start as it lies always agrees with the HSI: it would tell the flow to stay at zero. For the same
        reason the level is put right again once the start has moved.
        """
        assert self.drop is not None
        moved = warp(sight.start[None], flow.detach())[0]
        level = upsample(sight.low - blur_down(moved, sight.psf, sight.ratio), sight.ratio)
        return moved + level + torch.tensordot(self.drop, residual[0], dims=1)

    def _roughness(self, flow: Tensor, crop: Crop) -> Tensor:
        """Total variation of a flow (1, 2, H, W), less across the guide's edges."""
        rows, columns = crop.fine
        down = self.bonds[0][rows.start : rows.stop - 1, columns]
        across = self.bonds[1][rows, columns.start : columns.stop - 1]
        total = flow.new_zeros(())
        for axis, bond in ((1, down), (2, across)):
            length = (flow[0].diff(dim=axis).square().sum(0) + LEAST_STEP**2).sqrt()
            total = total + (bond * length).mean()
        return total


def crops_of(usable: Tensor, crop_px: int, sight: Sight) -> Crops:
    """Windows of about so many fine pixels."""
    beyond = max(psf_padding(len(sight.psf), sight.ratio), 0)
    return Crops(usable, max(crop_px // sight.ratio, 1), -(-beyond // sight.ratio), sight.ratio)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of (c, H, W) under (H, W)."""
    return (values * weight).sum() / (weight.sum() * len(values)).clamp_min(1e-6)
