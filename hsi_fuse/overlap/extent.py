"""Map-land's side of a product over more ground than the HSI's: its grid, its guide, its rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray

from hsi_fuse.align import Alignment, from_guide, resample, to_guide
from hsi_fuse.errors import GridError, HsiFuseWarning
from hsi_fuse.grid import Grid
from hsi_fuse.overlap.extend import Extension, Kind, extend
from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.raster import Raster
from hsi_fuse.read import Guide

EXTENTS = ("hsi", "guide", "union")
"""Whose footprint the product has."""
MOST_PIXELS = 1 << 26
NODES_APART = 8
"""Product pixels between the nodes that carry a displacement beyond the HSI."""


class Rows(Protocol):
    """A product that is read in rows."""

    @property
    def grid(self) -> Grid:
        """Where its pixels lie."""
        ...

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """(band, rows, W), NaN where there is no value."""
        ...

    def sigma_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """The same of its standard deviation; SolveError where there is none."""
        ...


@dataclass(frozen=True)
class Footprint:
    """The ground of a product.

    Attributes
    ----------
    grid : Grid
        Its pixels are those of the refined HSI grid, whole HSI pixels of them.
    row, column : int
        Where the HSI's first fine pixel lies on it; negative where that is off it.
    """

    grid: Grid
    row: int
    column: int

    @classmethod
    def of(cls, extent: str, alignment: Alignment, fine: Grid, guide: Grid, ratio: int) -> Footprint:
        """The footprint of the guide, or of both images, by their alignment.

        Parameters
        ----------
        extent : "guide" or "union"
        alignment : Alignment
        fine : Grid
            The refined HSI grid.
        guide : Grid
        ratio : int

        Raises
        ------
        GridError
            It has more than `MOST_PIXELS` pixels.
        """
        edge = np.linspace(0, 1, 33)
        columns = np.concatenate([edge, edge, 0 * edge, 0 * edge + 1]) * guide.width
        rows = np.concatenate([0 * edge, 0 * edge + 1, edge, edge]) * guide.height
        there = from_guide(alignment.hsi_to_guide, alignment.displacement_px, fine.shape, columns, rows)
        low, high = np.floor(there.min(1) / ratio), np.ceil(there.max(1) / ratio)  # HSI pixels, (x, y)
        if extent == "union":
            low = np.minimum(low, 0)
            high = np.maximum(high, np.array([fine.width, fine.height]) / ratio)
        (left, top), (right, bottom) = (low * ratio).astype(int), (high * ratio).astype(int)
        if (bottom - top) * (right - left) > MOST_PIXELS:
            raise GridError(
                f"--extent {extent}: the product would have {right - left} x {bottom - top} pixels, more "
                f"than {MOST_PIXELS:.2g}: cut the reference to the ground that is wanted"
            )
        grid = fine.window(int(top), int(left), int(bottom - top), int(right - left))
        return cls(grid, int(-top), int(-left))


@dataclass(frozen=True)
class Extended:
    """A product carried on over a footprint.

    Attributes
    ----------
    inner : Rows
        The product over the HSI.
    extension : Extension
    footprint : Footprint
    hsi : Raster
        The input; bands that took no part have values only where `inner` has.
    """

    inner: Rows
    extension: Extension
    footprint: Footprint
    hsi: Raster

    @property
    def grid(self) -> Grid:
        """The footprint's."""
        return self.footprint.grid

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where there are values, (H, W)."""
        valid: NDArray[np.bool_] = self.extension.valid.cpu().numpy()
        return valid

    @property
    def kind(self) -> NDArray[np.uint8]:
        """What stands behind each pixel, (H, W): see `extend.Kind`."""
        kind: NDArray[np.uint8] = self.extension.kind.cpu().numpy()
        return kind

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows of the product with all of the input's bands, (band, rows, W); NaN where there are no data."""
        good = self.hsi.good_bands
        out = self._empty(start, stop)
        out[good] = self.extension.estimate.rows(start, stop).cpu().numpy()
        if not good.all():
            self._paste(out, self.inner.rows, start, stop, ~good)
        out[:, ~self.valid[start:stop]] = np.nan
        return out

    def sigma_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """The same of the standard deviation; beyond the inner product that of held-out HSI pixels."""
        good, out = self.hsi.good_bands, self._empty(start, stop)
        out[good] = self.extension.sigma(start, stop).cpu().numpy()
        self._paste(out, self.inner.sigma_rows, start, stop, good)
        out[:, ~self.valid[start:stop]] = np.nan
        return out

    def _empty(self, start: int, stop: int) -> NDArray[np.float32]:
        return np.full((self.hsi.bands, stop - start, self.grid.width), np.nan, np.float32)

    def _paste(
        self,
        out: NDArray[np.float32],
        rows: Callable[[int, int], NDArray[np.float32]],
        start: int,
        stop: int,
        bands: NDArray[np.bool_],
    ) -> None:
        """Put bands of the inner product where the footprint's rows show it and it has values."""
        top, left, inner = self.footprint.row, self.footprint.column, self.inner.grid
        first, last = max(start - top, 0), min(stop - top, inner.height)
        begin, end = max(left, 0), min(left + inner.width, self.grid.width)
        if last <= first or end <= begin:
            return
        values = rows(first, last)[:, :, begin - left : end - left]
        there = (slice(first + top - start, last + top - start), slice(begin, end))
        own = np.isin(self.kind[start:stop][there], (Kind.FUSED, Kind.INTERPOLATED))
        for band in np.flatnonzero(bands):
            part = out[band][there]
            part[own] = values[band][own]


def carry_on(
    extent: str, fine: Grid, problem: Problem, product: Estimate, alignment: Alignment, guide: Guide
) -> tuple[Footprint, Extension]:
    """Carry a fused product on over the footprint of the guide, or of both images.

    Parameters
    ----------
    extent : "guide" or "union"
    fine : Grid
        Of the product over the HSI.
    problem : Problem
    product : Estimate
    alignment : Alignment
    guide : Guide
        Read whole.

    Raises
    ------
    GridError, SolveError, ReadError

    Warns
    -----
    HsiFuseWarning
        How much of the product is inferred, and how much refused.
    """
    footprint = Footprint.of(extent, alignment, fine, guide.grid, problem.ratio)
    values, weight = seen_over(footprint, alignment, fine, guide)
    found = extend(
        problem,
        product,
        torch.from_numpy(values).to(problem.hsi),
        torch.from_numpy(weight).to(problem.hsi),
        (footprint.row, footprint.column),
        everywhere=extent == "union",
    )
    text = (
        f"--extent {extent}: {found.share(Kind.INFERRED):.1%} of the product lies outside the HSI; its "
        "spectra are inferred from the reference's colours alone"
    )
    if found.share(Kind.REFUSED):
        refused = f"{found.share(Kind.REFUSED):.2%}"
        text += f"; {refused} show colours that were never seen with a spectrum and stay empty"
    warnings.warn(text, HsiFuseWarning, stacklevel=2)
    return footprint, found


def seen_over(
    footprint: Footprint, alignment: Alignment, fine: Grid, guide: Guide
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The guide on the footprint's grid, (m, H, W) and its weight (H, W), as `Problem.guide` sees it."""
    image = guide.read(0, 0, guide.grid.height, guide.grid.width)
    if alignment.responses:
        straight = [r(band) for r, band in zip(alignment.responses, image.values, strict=True)]
        image = replace(image, values=np.stack(straight))
    moved = Affine.translation(-footprint.column, -footprint.row)
    bend: NDArray[np.float32] | None = None
    if alignment.displacement_px is not None:
        # on a lattice over the footprint; beyond the HSI its slopes go on for a while
        columns, rows = (
            np.linspace(0, side, max(side // NODES_APART, 2) + 1)
            for side in (footprint.grid.width, footprint.grid.height)
        )
        x, y = np.meshgrid(columns - footprint.column, rows - footprint.row)
        mapping = alignment.hsi_to_guide
        straight_on = to_guide(mapping, None, fine.shape, x, y)
        there = to_guide(mapping, alignment.displacement_px, fine.shape, x, y)
        bend = (there - straight_on).astype(np.float32)
    return resample(image, alignment.hsi_to_guide * moved, bend, footprint.grid.shape)
