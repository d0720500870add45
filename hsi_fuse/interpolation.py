"""Plain interpolation of the HSI, the honest floor beside a product, of scenes of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from hsi_fuse.physics import Blur, Strip, blur_of
from hsi_fuse.problem import Estimate, Problem, averaged
from hsi_fuse.subspace import Subspace, nearest, problem_subspace, upsample

FACTORS = 8
"""Made at a time where all of the scene is looked at: all of a big one, up to 64, are as large as the HSI."""
ROWS = 64
"""Of the HSI whose holes are filled at a time."""
REACH = 2
"""HSI rows that bicubic interpolation looks to each side."""


@dataclass(frozen=True)
class Interpolation:
    """What `subspace.interpolate` makes, as a cube whose factors are made of the HSI when they are asked for.

    Attributes
    ----------
    hsi : Tensor (n, h, w)
    nearest : pair of Tensor (h, w), or None
        Where the values of each pixel are taken from (`subspace.nearest`).
    subspace : Subspace
        In which the HSI is interpolated, k dimensions.
    basis, mean : Tensor (b, k), (b,)
        From there to the cube's bands.
    ratio : int
    """

    hsi: Tensor
    nearest: tuple[Tensor, Tensor] | None
    subspace: Subspace
    basis: Tensor
    mean: Tensor
    ratio: int

    @classmethod
    def of(cls, problem: Problem) -> Interpolation:
        """Of a problem's HSI."""
        subspace = problem_subspace(problem, largest=64)
        places = nearest(problem.hsi_weight)
        return cls(problem.hsi, places, subspace, subspace.basis, subspace.mean, problem.ratio)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(b, H, W)."""
        _, h, w = self.hsi.shape
        return len(self.basis), h * self.ratio, w * self.ratio

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start..stop-1, (b, stop - start, W)."""
        s, height = self.ratio, self.hsi.shape[1]
        first, last = max(start // s - REACH, 0), min(-(-stop // s) + REACH, height)
        low, inner = self._low(first, last), slice(start - first * s, stop - first * s)
        if len(self.basis) < len(low):  # fewer bands than factors to interpolate
            return upsample(Estimate(self.basis, self.mean, low).rows(0, last - first), s)[:, inner]
        return Estimate(self.basis, self.mean, upsample(low, s)[:, inner]).rows(0, stop - start)

    def parts(self, ranges: Iterable[tuple[int, int]]) -> Iterator[Tensor]:
        """The rows of one range (start, stop) after the other."""
        return (self.rows(*each) for each in ranges)

    def pending(self, ranges: Iterable[tuple[int, int]]) -> Iterator[Callable[[], Tensor]]:
        """`parts` that are still to be made."""
        return (partial(self.rows, *each) for each in ranges)

    def mixed(self, matrix: Tensor, offset: Tensor | None = None) -> Interpolation:
        """Linear combinations of its bands."""
        matrix = matrix.to(self.basis)
        level = matrix @ self.mean
        return replace(self, basis=matrix @ self.basis, mean=level if offset is None else level + offset)

    def degraded(self, psf: Tensor, ratio: int) -> Tensor:
        """The cube at the HSI's resolution, (b, h, w): no fine image is formed."""
        _, height, width = self.shape
        blur = blur_of(psf, ratio, (height // ratio, width // ratio), self.hsi)
        again = _of_interpolated(blur, self.ratio, self.hsi.shape[1:])
        return self._as_seen(again.down)

    def averaged(self, step: int, bands: Sequence[int] | None = None) -> Tensor:
        """Means of step x step pixels of some bands or all, (bands, H // step, W // step)."""
        few = slice(None) if bands is None else list(bands)
        some = replace(self, basis=self.basis[few], mean=self.mean[few])

        def means(image: Tensor) -> Tensor:  # of fine images one at a time
            return torch.cat([averaged(upsample(part[None], self.ratio), step) for part in image])

        return some._as_seen(means)

    def _as_seen(self, by: Callable[[Tensor], Tensor]) -> Tensor:
        """The cube as something linear sees it that takes images (c, h, w) of it, to (c, p, q)."""
        if len(self.basis) < self.subspace.size:  # fewer bands than factors to interpolate
            return by(self._composed(lambda factors: factors))
        return self._composed(by)

    def _composed(self, of: Callable[[Tensor], Tensor]) -> Tensor:
        """The bands, (b, p, q), of images (some, p, q) made of some of the factors at a time."""
        seen = self.mean[:, None]
        for first in range(0, self.subspace.size, FACTORS):
            some = slice(first, first + FACTORS)
            images = of(self._low(0, self.hsi.shape[1], some))
            if not first:
                seen = seen.repeat(1, images[0].numel())
            seen.addmm_(self.basis[:, some], images.flatten(1))
        return seen.view(-1, *images.shape[1:])

    def _low(self, first: int, last: int, some: slice = slice(None)) -> Tensor:
        """Some of the factors of rows first..last-1 of the HSI, (some, last - first, w)."""
        subspace = replace(self.subspace, basis=self.subspace.basis[:, some])
        if self.nearest is None:
            return subspace.project(self.hsi[:, first:last])
        rows, columns = self.nearest
        parts = [slice(top, min(top + ROWS, last)) for top in range(first, last, ROWS)]
        filled = (self.hsi[:, rows[part], columns[part]] for part in parts)
        return torch.cat([subspace.project(part) for part in filled], 1)


def _of_interpolated(blur: Blur, ratio: int, shape: Sequence[int]) -> Blur:
    """A blur of images that are interpolated first as one of the images themselves, (h, w)."""

    def of(strip: Strip, size: int) -> Strip:
        first, last = max(strip.low // ratio - REACH, 0), min(-(-strip.high // ratio) + REACH, size)
        each = torch.eye(last - first).to(strip.taps)[:, :, None]  # one pixel after the other along the axis
        inner = slice(strip.low - first * ratio, strip.high - first * ratio)
        weights = upsample(each, ratio)[:, inner, 0].T  # (high - low, last - first)
        return replace(strip, low=first, high=last, taps=strip.taps @ weights)

    rows, columns = (
        [of(strip, size) for strip in strips]
        for strips, size in zip((blur.rows, blur.columns), shape, strict=True)
    )
    return replace(blur, rows=rows, columns=columns)
