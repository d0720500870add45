"""What an aligning network sees of a pair, and pairs whose guide is misplaced on purpose to teach it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from hsi_fuse.crops import Crop
from hsi_fuse.nets.flow import warp
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Problem
from hsi_fuse.simulation.displace import segments, smooth_field
from hsi_fuse.solve import standardise
from hsi_fuse.subspace import Subspace, fill_nearest, upsample

OBJECTS = 64
OBJECTS_PX = (2.0, 4.0)
"""Number of a scene's segments that may stand out, and how far they are displaced, fine pixels."""
CONTRAST = 3.0


@dataclass(frozen=True)
class Sight:
    """A pair in the coefficients of one subspace, without gaps.

    Attributes
    ----------
    low : Tensor (k, h, w)
        The HSI.
    low_weight : Tensor (h, w)
    guide : Tensor (m, H, W)
    guide_weight : Tensor (H, W)
    start : Tensor (k, H, W)
        The estimate that is to be improved: it lies where the guide lies.
    truth : Tensor (k, H, W)
        What the answer should be, where `truth_weight` is not 0; zeros where nobody knows.
    truth_weight : Tensor (H, W)
    psf : Tensor (p, p)
    ratio : int
    """

    low: Tensor
    low_weight: Tensor
    guide: Tensor
    guide_weight: Tensor
    start: Tensor
    truth: Tensor
    truth_weight: Tensor
    psf: Tensor
    ratio: int

    @classmethod
    def of(
        cls,
        problem: Problem,
        subspace: Subspace,
        start: Tensor,
        truth: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Sight:
        """A problem's sight; `start` and `truth` (k, H, W) in the subspace."""
        return cls(
            low=subspace.project(fill_nearest(problem.hsi, problem.hsi_weight)),
            low_weight=problem.hsi_weight,
            guide=fill_nearest(problem.guide, problem.guide_weight),
            guide_weight=problem.guide_weight,
            start=start,
            truth=torch.zeros_like(start) if truth is None else truth,
            truth_weight=torch.zeros_like(problem.guide_weight) if weight is None else weight,
            psf=problem.sensor.psf,
            ratio=problem.ratio,
        )

    def crop(self, window: Crop) -> Sight:
        """The part of it in a window."""
        fine = {name: getattr(self, name)[..., *window.fine] for name in FINE}
        low, weight = self.low[:, *window.coarse], self.low_weight[window.coarse]
        return replace(self, low=low, low_weight=weight, **fine)

    def misplaced(self, flow: Tensor) -> Sight:
        """The same scene under a guide that was fetched from where `flow` (2, H, W) says.

        The start moves with the guide, since it took its detail from there; then the HSI corrects its level,
        as the data terms of whatever made it would.
        """
        moved = {name: warp(getattr(self, name)[None], flow[None])[0] for name in ("guide", "start")}
        weight = warp(self.guide_weight[None, None], flow[None])[0, 0]
        start = moved["start"]
        start = start + upsample(self.low - blur_down(start, self.psf, self.ratio), self.ratio)
        return replace(self, guide=moved["guide"], start=start, guide_weight=weight)


FINE = ("guide", "guide_weight", "start", "truth", "truth_weight")


@dataclass(frozen=True)
class Channels:
    """How a sight becomes the two inputs of a network, alike for every sight of a scene.

    Abundances: the HSI's, interpolated; what the guide should look like; and how it differs from what it
    looks like through the PSF. Reference: the guide as it is and through the PSF, and where it is. An HSI
    pixel without weight wants what the guide shows: filled from its neighbour it would look displaced.

    Attributes
    ----------
    lift : Tensor (f, k)
        Coefficients -> features of about unit spread.
    mixing : Tensor (m, k), known : Tensor (m,)
        What the guide sees of coefficients, and of the scene's mean.
    mean, spread : Tensor (m,)
        Of the guide.
    """

    lift: Tensor
    mixing: Tensor
    known: Tensor
    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, problem: Problem, subspace: Subspace, lift: Tensor) -> Channels:
        """For the sights of one problem."""
        there = problem.guide_weight > 0
        inside = problem.guide[:, there if int(there.sum()) > 1 else torch.ones_like(there)]
        sensor = problem.sensor
        return cls(
            lift,
            sensor.srf @ subspace.basis,
            sensor.offset + sensor.srf @ subspace.mean,
            inside.mean(1),
            inside.std(1).clamp_min(1e-12),
        )

    def expected(self, coefficients: Tensor) -> Tensor:
        """What the guide would show: (k, H, W) -> (m, H, W)."""
        return torch.tensordot(self.mixing, coefficients, dims=1) + self.known[:, None, None]

    def scaled(self, guide: Tensor) -> Tensor:
        """A guide in units of its spread."""
        return (guide - self.mean[:, None, None]) / self.spread[:, None, None]

    def __call__(self, sight: Sight) -> tuple[Tensor, Tensor]:
        """Abundances (1, f + 2 m, H, W) and reference (1, 2 m + 1, H, W)."""
        plain = upsample(sight.low, sight.ratio)
        seen = blur_down(sight.guide, sight.psf, sight.ratio)
        blurred = self.scaled(upsample(seen, sight.ratio))
        known = torch.where(sight.low_weight > 0, self.expected(sight.low), seen)
        wanted = self.scaled(upsample(known, sight.ratio))
        lifted = torch.tensordot(self.lift, plain, dims=1)
        abundances = torch.cat([lifted, wanted, CONTRAST * (wanted - blurred)])
        reference = torch.cat([self.scaled(sight.guide), blurred, sight.guide_weight[None]])
        return abundances[None], reference[None]


class Misplacer:
    """Random misregistration of a guide: smooth, and by objects that stand out of the ground.

    Parameters
    ----------
    problem : Problem
        Whose guide is cut into objects.
    rms_px : float
        RMS length of the smooth part, fine pixels.
    rng : numpy Generator
    """

    def __init__(self, problem: Problem, rms_px: float, rng: np.random.Generator) -> None:
        guide = standardise(fill_nearest(problem.guide, problem.guide_weight), problem.guide_weight)
        self.labels = segments(guide.float().cpu().numpy(), OBJECTS, rng)  # (H, W)
        self.rms_px, self.rng = rms_px, rng

    def __call__(self, labels: NDArray[np.intp], like: Tensor) -> Tensor:
        """A flow (2, H, W) for a window whose objects are numbered; 0: the ground."""
        height, width = labels.shape
        smooth = smooth_field(height, width, min(64.0, min(height, width) / 3), self.rng)
        smooth *= self.rms_px / math.sqrt((smooth**2).sum(0).mean())
        objects = self._objects(np.where(self.rng.random(labels.max() + 1) < 0.5, 1, 0)[labels] * labels)
        return torch.from_numpy(smooth + objects).to(like)

    def _objects(self, labels: NDArray[np.intp]) -> NDArray[np.float64]:
        """Where each pixel is fetched from when objects have moved: (2, H, W)."""
        height, width = labels.shape
        angle, length = self.rng.uniform(0, 2 * math.pi), self.rng.uniform(*OBJECTS_PX)
        move = length * np.array([math.cos(angle), math.sin(angle)])
        rows, columns = np.mgrid[:height, :width]
        if not (labels == 0).any():
            return np.zeros((2, height, width))
        # what an object leaves shows the nearest ground
        y, x = distance_transform_edt(labels > 0, return_distances=False, return_indices=True)
        flow = np.stack([x - columns, y - rows]).astype(float)
        i, j = np.rint(rows - move[1]).astype(int), np.rint(columns - move[0]).astype(int)
        within = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        shown = within & (labels[np.where(within, i, 0), np.where(within, j, 0)] > 0)
        return np.where(shown, -move[:, None, None], flow)


def reobserved(sight: Sight, channels: Channels, noise: Tensor, draw: torch.Generator) -> Sight:
    """A pair as the estimate would have given it, so that the estimate is its truth.

    `noise` (m,) is the guide's; the HSI's has unit variance in the subspace.
    """

    def white(image: Tensor) -> Tensor:
        return torch.randn(image.shape, generator=draw).to(image)

    low = blur_down(sight.start, sight.psf, sight.ratio)
    guide = channels.expected(sight.start)
    return replace(
        sight,
        low=low + white(low),
        guide=guide + noise[:, None, None] * white(guide),
        truth=sight.start,
        truth_weight=(sight.guide_weight > 0).to(guide),
    )
