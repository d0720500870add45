"""Masks: a raster on any grid that says which pixels of an image to leave out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.windows import Window

from hsi_fuse.errors import ReadError
from hsi_fuse.grid import Grid
from hsi_fuse.read import envi
from hsi_fuse.read.place import grid_of
from hsi_fuse.read.room import check_room
from hsi_fuse.read.source import marks_missing, warn
from hsi_fuse.read.store import Flags, GdalStore, opened

Range = tuple[float, float]
Window4 = tuple[int, int, int, int]
ROWS = 1024
_NUMBER = r"-?\d+(?:\.\d+)?"
_ENTRY = re.compile(rf"({_NUMBER})(?:-({_NUMBER}))?")
_VALUES = re.compile(rf"{_ENTRY.pattern}(?:,{_ENTRY.pattern})*")


@dataclass(frozen=True)
class Mask:
    """A band of class or flag numbers, some of which exclude.

    Attributes
    ----------
    store : GdalStore
    grid : Grid
    nodata : float or None
        A number that says nothing, and so excludes nothing, unless it is among the ranges.
    ranges : tuple of (float, float)
        Numbers that exclude, ends included; empty: all but 0.
    """

    store: GdalStore
    grid: Grid
    nodata: float | None
    ranges: tuple[Range, ...] = ()

    @property
    def words(self) -> str:
        """It as `parse_mask` reads it."""
        values = ",".join(f"{low:g}" if low == high else f"{low:g}-{high:g}" for low, high in self.ranges)
        return f"{self.store.path}:{values}" if values else str(self.store.path)

    def excluded(self, image: Grid, window: Window4) -> Flags:
        """Which pixels in a window (row, column, height, width) of an image to leave out, (y, x).

        Those whose centre lies in an excluding pixel of the mask, and those in which the centre of an
        excluding pixel lies: so nothing is missed whichever of both is finer. What the mask does not cover
        stays. Without georeferencing of both, mask and image must have the same size.

        Raises
        ------
        ReadError
            If mask and image cannot be related, or the mask cannot be read.
        """
        if not (image.georeferenced and self.grid.georeferenced):
            if image.shape != self.grid.shape:
                raise ReadError(
                    f"the mask {self.store.path} of {self.grid.height} x {self.grid.width} pixels cannot be "
                    f"laid on an image of {image.height} x {image.width}: not both are georeferenced"
                )
            return self._excluding(*window)
        grid = image.window(*window)
        out = np.zeros(grid.shape, bool)
        covering = self._window(grid)
        if covering is None:
            warn(f"the mask {self.store.path} lies elsewhere than the image: it leaves nothing out")
            return out
        flags, part = self._excluding(*covering), self.grid.window(*covering)
        for row in range(0, grid.height, ROWS):
            rows, columns = np.mgrid[row : min(row + ROWS, grid.height), : grid.width] + 0.5
            x, y = grid.to_pixels_of(part, columns, rows)
            inside = (x >= 0) & (x < part.width) & (y >= 0) & (y < part.height)  # NaN is not
            at = np.floor(y[inside]).astype(int), np.floor(x[inside]).astype(int)
            out[row : row + ROWS][inside] = flags[at]
        rows, columns = np.nonzero(flags)
        x, y = part.to_pixels_of(grid, columns + 0.5, rows + 0.5)
        inside = (x >= 0) & (x < grid.width) & (y >= 0) & (y < grid.height)
        out[np.floor(y[inside]).astype(int), np.floor(x[inside]).astype(int)] = True
        return out

    def _window(self, grid: Grid) -> Window4 | None:
        """The part (row, column, height, width) of the mask that covers an image's grid, or None."""
        edge = np.linspace(0, 1, 33)
        columns, rows = np.meshgrid(edge * grid.width, edge * grid.height)
        x, y = grid.to_pixels_of(self.grid, columns, rows)
        known = np.isfinite(x) & np.isfinite(y)
        if not known.any():
            return None
        x, y = np.clip(x[known], -1e9, 1e9), np.clip(y[known], -1e9, 1e9)
        left, top = max(int(x.min()) - 1, 0), max(int(y.min()) - 1, 0)
        right, bottom = min(int(x.max()) + 2, self.grid.width), min(int(y.max()) + 2, self.grid.height)
        return (top, left, bottom - top, right - left) if right > left and bottom > top else None

    def _excluding(self, top: int, left: int, height: int, width: int) -> Flags:
        check_room(
            16.0 * height * width, f"{self.store.path}: a mask of {height} x {width} pixels", "cut it out"
        )
        with self.store.opened() as image:
            stored, masked = image.read(Window(left, top, width, height))
        numbers = stored[0]
        if self.ranges:
            return np.logical_or.reduce([(numbers >= low) & (numbers <= high) for low, high in self.ranges])
        silent = marks_missing(numbers, self.nodata) | np.broadcast_to(masked, stored.shape)[0]
        return (numbers != 0) & ~silent


def open_mask(path: str | Path, ranges: tuple[Range, ...] = ()) -> Mask:
    """Open a mask without reading its pixels: any raster of one band, an ENVI classification too.

    Parameters
    ----------
    path : path
    ranges : tuple of (low, high), optional
        Numbers that exclude, ends included; default: all but 0.

    Raises
    ------
    ReadError
        If it is missing, unreadable, or has more than one band.
    """
    path = Path(path)
    if not path.is_file():
        raise ReadError(f"the mask {path} does not exist")
    pair = envi.pair_of(path)
    data = path if pair is None else pair[1]
    with opened(data) as dataset:
        if dataset.count != 1 or np.dtype(dataset.dtypes[0]).kind not in "iuf":
            raise ReadError(
                f"the mask {path} has {dataset.count} bands of {dataset.dtypes[0]}; one band of numbers is "
                "needed"
            )
        return Mask(GdalStore(data, None, (1,)), grid_of(dataset, data), dataset.nodata, ranges)


def parse_mask(text: str) -> tuple[Path, tuple[Range, ...]]:
    """`FILE` or `FILE:3,8-10` -> the path and the ranges of numbers. A colon in a path does no harm."""
    path, colon, values = text.rpartition(":")
    if not (colon and path and _VALUES.fullmatch(values)):
        return Path(text), ()
    found = (match.groups() for match in _ENTRY.finditer(values))
    return Path(path), tuple((float(low), float(high if high is not None else low)) for low, high in found)
