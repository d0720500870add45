"""Texture that was seen somewhere: patches of it to learn from, and ground held out to judge by."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.overlap.examples import Examples
from hsi_fuse.overlap.extend import coefficients_of, extend, strips
from hsi_fuse.overlap.unregistered import Unmixed
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Estimate, Problem
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


@dataclass(frozen=True)
class Ground:
    """Ground that the guide shows: sharp as it says, and coarse.

    Where the pair is registered that is the fused product, carried on to the guide's rim, and the HSI; else
    it is the guide's own product, and the same made coarse.

    Attributes
    ----------
    sharp : Estimate
        In coefficients (k, H, W), H and W whole coarse pixels.
    coarse : Tensor (k, h, w)
    plain : Tensor (k, H, W)
        The coarse image, interpolated.
    restored : Tensor (k, H, W)
        The same in line with the sensor.
    detail : Tensor (k, H, W)
        What that misses and the sensor cannot see.
    valid : Tensor (H, W), bool
    maps : Tensor (K, h, w)
        Coarse abundances, as the translator gets them.
    mixing : Tensor (k, K)
        Coefficients of what a translator's map stands for.
    """

    sharp: Estimate
    coarse: Tensor
    plain: Tensor
    restored: Tensor
    detail: Tensor
    valid: Tensor
    maps: Tensor
    mixing: Tensor

    @classmethod
    def of(
        cls, problem: Problem, start: Estimate, unmixed: Unmixed, scale: Tensor, share: Tensor, steps: int
    ) -> Ground:
        """Of a pair that was fused to `start` and unmixed; maps are divided by `scale` (K, 1, 1).

        `share` (K, 1, 1) is how much of the HSI's own maps the translator gets to see.

        Raises
        ------
        SolveError
            Too little of the HSI lies under the guide.
        """
        ratio, psf = problem.ratio, problem.sensor.psf
        if problem.native is None:
            shown = problem.guide_weight
            sharp = extend(problem, start, problem.guide, shown, (0, 0), everywhere=False).estimate
            image = fill_nearest(sharp.coefficients, shown)
            coarse = coefficients_of(sharp, fill_nearest(problem.hsi, problem.hsi_weight), problem.hsi_noise)
            maps = share * unmixed.coarse / scale
        else:
            height, width = (side // ratio * ratio for side in problem.native.weight.shape)
            shown = problem.native.weight[:height, :width]
            sharp = unmixed.estimate
            image = fill_nearest(sharp.coefficients[:, :height, :width], shown)
            coarse = blur_down(image, psf, ratio)
            maps = blur_down(unmixed.fine[:, :height, :width] / scale, psf, ratio)
        plain = upsample(coarse, ratio)
        restored = in_line(plain, coarse, psf, ratio, steps)
        detail = in_line(image - restored, torch.zeros_like(coarse), psf, ratio, steps)
        ends = unmixed.spectra * scale[:, 0, 0] + sharp.mean[:, None]
        mixing = coefficients_of(sharp, ends, problem.hsi_noise)
        sharp = replace(sharp, coefficients=image)
        return cls(sharp, coarse, plain, restored, detail, shown > 0, maps, mixing)

    def quarters(self) -> list[Tensor]:
        """Strips of the valid pixels across their longer side, (H, W) bool each."""
        high = self.valid.shape[0] >= self.valid.shape[1]
        numbers = strips(self.valid) if high else strips(self.valid.T).T
        return [(numbers == number) & self.valid for number in range(int(numbers.max()) + 1)]

    def mixed(self, maps: Tensor) -> Tensor:
        """Coefficients (k, ...) of what a translator makes, (K, ...)."""
        return torch.tensordot(self.mixing, maps, dims=1)

    def examples(self, missed: Tensor, ratio: int, without: Tensor | None, seed: int) -> Examples:
        """Of what is missed (k, H, W), from where all is valid and not `without` (H, W), bool."""
        known = self.valid if without is None else self.valid & ~without
        whole = -F.max_pool2d(-known.float()[None, None], ratio)[0, 0] > 0
        # the fused product is soft at the guide's rim
        return Examples.of(missed, self.coarse, _eroded(whole, 1), self.sharp.basis, seed)


@dataclass(frozen=True)
class HeldOut:
    """A part of the ground, to be sharpened again without the guide.

    Attributes
    ----------
    plain, start, truth : Tensor (b, H, W)
        Some bands, interpolated, in line with the sensor, and as the guide says.
    where : Tensor (H, W), bool
    bands : Tensor (b, k)
        Those bands of what coefficients stand for.
    """

    plain: Tensor
    start: Tensor
    truth: Tensor
    where: Tensor
    bands: Tensor

    @classmethod
    def of(cls, ground: Ground, held: Tensor, ratio: int) -> HeldOut:
        """Of the pixels `held` (H, W), bool."""
        basis = ground.sharp.basis
        bands = basis[torch.linspace(0, len(basis) - 1, min(len(basis), JUDGED_BANDS)).long()]
        clear = _eroded(held, ratio)  # its rim knows too little of what is around
        plain, start, truth = (
            torch.tensordot(bands, each, dims=1)
            for each in (ground.plain, ground.restored, ground.sharp.coefficients)
        )
        return cls(plain, start, truth, clear if bool(clear.any()) else held, bands)

    def judge(self, details: Iterable[Tensor]) -> list[dict[str, float]]:
        """What each detail (k, H, W) does, in the mean over bands.

        `psnr_gain_db` over interpolation, and the distance of gradients over interpolation's.
        """
        wanted = _magnitudes(self.truth, self.where)
        worst, far = self._error(self.plain), _apart(_magnitudes(self.plain, self.where), wanted)
        told = []
        for detail in details:
            image = self.start + torch.tensordot(self.bands, detail, dims=1)
            distance = _apart(_magnitudes(image, self.where), wanted)
            told.append(
                {
                    "psnr_gain_db": float(10 * torch.log10(worst / self._error(image)).mean()),
                    "gradient_ratio": distance / max(far, 1e-30),
                }
            )
        return told

    def _error(self, image: Tensor) -> Tensor:
        """Mean squared error of each band (b,)."""
        return (image - self.truth)[:, self.where].square().mean(1).clamp_min(1e-30)


def _eroded(valid: Tensor, reach: int) -> Tensor:
    """Pixels of (H, W), bool, whose surroundings are all true and within the image."""
    padded = F.pad(valid.float()[None, None], [reach] * 4)
    return -F.max_pool2d(-padded, 2 * reach + 1, stride=1)[0, 0] > 0
