"""Texture that was seen somewhere: patches of it to learn from, and ground held out to judge by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.overlap.extend import coefficients_of
from hsi_fuse.overlap.unregistered import Unmixed
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Problem
from hsi_fuse.subspace import fill_nearest, upsample

JUDGED_BANDS = 16
"""Most bands whose gradients are compared, spread evenly over the spectrum."""


def in_line(
    fine: Tensor, coarse: Tensor, psf: Tensor, ratio: int, steps: int, where: Tensor | float = 1.0
) -> Tensor:
    """Maps (c, H, W) corrected until the sensor sees the coarse ones (c, h, w) in them: back-projection.

    Steps that correct by the interpolated difference (Irani and Peleg, 1991). With nothing for `coarse` it
    leaves of a detail what the sensor cannot see.
    """
    for _ in range(steps):
        fine = fine + where * upsample(coarse - blur_down(fine, psf, ratio), ratio)
    return fine


def gradient_distance(image: Tensor, truth: Tensor, where: Tensor) -> float:
    """Distance of the distributions of gradient magnitudes, mean over channels, in the truth's mean.

    Wasserstein's first distance of the magnitudes of (c, H, W) over the pixels `where` (H, W), bool.
    """
    return _apart(_magnitudes(image, where), _magnitudes(truth, where))


def _magnitudes(image: Tensor, where: Tensor) -> Tensor:
    """Quantiles of the magnitudes of the gradients of (c, H, W) over pixels (H, W), bool: (201, c)."""
    levels = torch.linspace(0, 1, 201, dtype=torch.float64, device=image.device)
    down, across = torch.gradient(image.double(), dim=(1, 2))
    return torch.quantile(torch.hypot(down, across)[:, where], levels, dim=1)


def _apart(magnitudes: Tensor, truth: Tensor) -> float:
    return float(((magnitudes - truth).abs().mean(0) / truth.mean(0).clamp_min(1e-30)).mean())


class Patches:
    """Square patches of maps (K, H, W) at random places and angles, mirrored at random.

    Their middles are pixels of `valid` (H, W), bool, whose surroundings are valid but for a turned patch's
    corners. Without `any_angle` they are turned by right angles alone, and no pixel is interpolated: that
    would blur what is to be learned.
    """

    def __init__(self, maps: Tensor, valid: Tensor, size: int, any_angle: bool) -> None:
        self.maps, self.size, self.any_angle = maps, size, any_angle
        self.places = torch.nonzero(places(valid, size)).cpu()

    def __call__(self, chosen: Tensor, draw: torch.Generator) -> Tensor:
        """One patch of each chosen map: (N, 1, size, size)."""
        count = len(chosen)
        at = self.places[torch.randint(len(self.places), (count,), generator=draw)].double()
        if self.any_angle:
            angle = 2 * math.pi * torch.rand(count, generator=draw, dtype=torch.float64)
        else:
            angle = math.pi / 2 * torch.randint(4, (count,), generator=draw)
            at = at - (0.5 - self.size % 2 / 2)  # then every place of the patch is a pixel's middle
        flip = 2.0 * torch.randint(2, (count,), generator=draw) - 1
        height, width = self.maps.shape[1:]
        steps = torch.arange(self.size, dtype=torch.float64) - (self.size - 1) / 2
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        cos, sin = (f(angle)[:, None, None] for f in (torch.cos, torch.sin))
        columns = at[:, 1, None, None] + flip[:, None, None] * (cos * x - sin * y)
        rows = at[:, 0, None, None] + sin * x + cos * y
        grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], -1)
        maps = self.maps[chosen][:, None]
        return F.grid_sample(
            maps, grid.to(maps), mode="bicubic", padding_mode="reflection", align_corners=False
        )


def places(valid: Tensor, size: int) -> Tensor:
    """Pixels of (H, W), bool, around which a patch is valid; of one that is turned all but its corners."""
    return _eroded(valid, size // 2)


def split(valid: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
    """A quarter of the valid pixels (H, W), bool, along the longer side, held out; and the rest."""
    axis = int(valid.shape[1] > valid.shape[0])
    count = valid.sum(1 - axis).cumsum(0)
    border = int((count < 0.75 * count[-1]).sum()) // ratio * ratio
    held = torch.zeros_like(valid)
    held.narrow(axis, border, valid.shape[axis] - border).fill_(True)
    return held & valid, valid & ~held


@dataclass(frozen=True)
class HeldOut:
    """Ground that the guide shows, made coarse, to be sharpened again without it.

    Where the pair is registered the HSI itself is what is coarse; else it is the guide's product, blurred.

    Attributes
    ----------
    maps : Tensor (K, h, w)
        Coarse abundances, as the translator gets them.
    plain : Tensor (k, H, W)
        The coarse image, interpolated.
    start : Tensor (k, H, W)
        The same in line with the sensor.
    truth : Tensor (k, H, W)
        What the guide says.
    where : Tensor (H, W), bool
    mixing : Tensor (k, K)
        Coefficients of what a translator's map stands for.
    bands : Tensor (b, k)
        Some bands of what coefficients stand for.
    """

    maps: Tensor
    plain: Tensor
    start: Tensor
    truth: Tensor
    where: Tensor
    mixing: Tensor
    bands: Tensor

    @classmethod
    def of(
        cls, problem: Problem, unmixed: Unmixed, held: Tensor, scale: Tensor, share: Tensor, steps: int
    ) -> HeldOut:
        """Of the pixels `held` (H, W), bool, of the guide; maps are divided by `scale` (K, 1, 1).

        `share` (K, 1, 1) is how much of the HSI's own maps the translator gets to see.
        """
        ratio, psf, product = problem.ratio, problem.sensor.psf, unmixed.estimate
        (rows, columns), (low_rows, low_columns) = _box(held, ratio)
        truth = product.coefficients[:, rows, columns]
        if problem.native is None:
            hsi = fill_nearest(problem.hsi, problem.hsi_weight)[:, low_rows, low_columns]
            image, maps = coefficients_of(product, hsi, problem.hsi_noise), share * unmixed.coarse
            maps = maps[:, low_rows, low_columns] / scale
        else:
            image = blur_down(truth, psf, ratio)
            maps = blur_down(unmixed.fine[:, rows, columns] / scale, psf, ratio)
        plain = upsample(image, ratio)
        clear = _eroded(held[rows, columns], ratio)  # its rim knows too little of what is around
        some = torch.linspace(0, len(product.basis) - 1, min(len(product.basis), JUDGED_BANDS)).long()
        ends = unmixed.spectra * scale[:, 0, 0] + product.mean[:, None]
        return cls(
            maps,
            plain,
            in_line(plain, image, psf, ratio, steps),
            truth,
            clear if bool(clear.any()) else held[rows, columns],
            coefficients_of(product, ends, problem.hsi_noise),
            product.basis[some],
        )

    def judge(self, detail: Tensor, gains: Sequence[float]) -> list[dict[str, float]]:
        """What a translator's detail (K, H, W) does, `gain` times, in the mean over bands.

        `psnr_gain_db` over interpolation, and the distance of gradients over interpolation's.
        """
        added = torch.tensordot(self.bands @ self.mixing, detail, dims=1)
        truth, start, plain = (
            torch.tensordot(self.bands, each, dims=1) for each in (self.truth, self.start, self.plain)
        )
        wanted = _magnitudes(truth, self.where)
        worst, far = self._error(plain, truth), _apart(_magnitudes(plain, self.where), wanted)
        told = []
        for gain in gains:
            image = start + gain * added
            ratio = worst / self._error(image, truth)
            distance = _apart(_magnitudes(image, self.where), wanted)
            told.append(
                {
                    "gain": gain,
                    "psnr_gain_db": float(10 * torch.log10(ratio).mean()),
                    "gradient_ratio": distance / max(far, 1e-30),
                }
            )
        return told

    def _error(self, image: Tensor, truth: Tensor) -> Tensor:
        """Mean squared error of each band (b,)."""
        return (image - truth)[:, self.where].square().mean(1).clamp_min(1e-30)


def _eroded(valid: Tensor, reach: int) -> Tensor:
    """Pixels of (H, W), bool, whose surroundings are all true and within the image."""
    padded = F.pad(valid.float()[None, None], [reach] * 4)
    return -F.max_pool2d(-padded, 2 * reach + 1, stride=1)[0, 0] > 0


def _box(held: Tensor, ratio: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Whole HSI pixels around the pixels held out, in fine pixels and in HSI pixels: rows, columns."""
    fine, coarse = [], []
    for axis in (1, 0):
        line = torch.nonzero(held.any(axis))[:, 0]
        first, last = int(line.min()) // ratio, min(int(line.max()) + 1, held.shape[1 - axis]) // ratio
        coarse.append(slice(first, last))
        fine.append(slice(first * ratio, last * ratio))
    return (fine[0], fine[1]), (coarse[0], coarse[1])
