"""Overviews of a GeoTIFF, averaged from its rows while these are written.

GDAL would unpack the finished file once more, which takes about as long as writing it. It lays the levels
out, and is handed their pixels when the image is done. Where an image's sides are no multiples of a factor,
a viewer stretches the level over the image and shows its far end less than one of its pixels off. From the
second on a level is the mean of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from hsi_fuse.scratch import Scratch
from hsi_fuse.threads import at_once
from hsi_fuse.write.encode import cast

# Smaller images are shown as fast without overviews.
LARGE_PX = 1024
FIRST = 4
"""Smallest factor: that of two would cost as much as all others, and saves a viewer few pixels."""
LEAST_PX = 128
"""Of the larger side of the smallest level."""
EXACT_BYTES = 2
"""Of integers whose sums over a level's pixel float32 holds exactly."""


@dataclass(frozen=True)
class Overviews:
    """The levels of an image: laid out before it has pixels, filled when it has all.

    Attributes
    ----------
    factors : sequence of int
        Pixels of the image along a side of a level's.
    levels : sequence of Scratch
        Their stored numbers, (band, h, w) each.
    nodata : float
        Stored number of pixels without a value, which do not count.
    """

    factors: Sequence[int]
    levels: Sequence[Scratch]
    nodata: float

    @classmethod
    def within(cls, file: Any, factors: Sequence[int], nodata: float, folder: Path) -> Overviews:
        """Of a file that is open for writing and has no pixels yet; `folder` has room for the levels."""
        if factors:
            with rasterio.Env(SPARSE_OK_OVERVIEW="ON"):  # else tiles of zeros would stay in the file
                file.build_overviews(factors, Resampling.nearest)
        sizes = [[-(-size // factor) for size in file.shape] for factor in factors]
        levels = [Scratch.zeros((file.count, *size), file.dtypes[0], folder) for size in sizes]
        return cls(factors, levels, nodata)

    def add(self, top: int, strip: NDArray[Any]) -> None:
        """Rows of the image from `top`, a multiple of `FIRST`, on: stored numbers (band, rows, W)."""
        if self.levels:
            bottom = -(-(top + strip.shape[1]) // FIRST)
            self._shrink(strip, self.levels[0].values[:, top // FIRST : bottom], FIRST)
            self.levels[0].let_go()

    def fill(self, path: Path, nodata: float | None) -> None:
        """Write all levels into the finished file, whose nodata number, if any, is `nodata`.

        Raises
        ------
        OSError, RasterioError
            They cannot be written, or are not all there afterwards.
        """
        for level, kept in enumerate(self.levels):
            if level:
                ratio = self.factors[level] // self.factors[level - 1]
                self._shrink(self.levels[level - 1].values, kept.values, ratio)
            try:
                file = rasterio.open(path, "r+", overview_level=level)
            except TypeError as error:  # rasterio's, of a file whose end is missing
                raise OSError("the file is incomplete") from error
            with file:
                file.nodata = nodata
                tall = file.block_shapes[0][0]
                for top in range(0, file.height, tall):  # all bands of whole tiles, however they are laid
                    rows = kept.values[:, top : top + tall]
                    file.write(rows, window=Window(0, top, file.width, rows.shape[1]))
                for band in file.indexes:
                    file.update_tags(band, RESAMPLING="AVERAGE")
            kept.let_go()
        if self.levels:
            self._verify(path)

    def _verify(self, path: Path) -> None:
        """That each tile is there: GDAL writes the last ones on closing, and rasterio drops errors there."""
        shapes = []
        with rasterio.open(path) as file:
            if len(file.overviews(1)) != len(self.levels):
                raise OSError("overviews are missing")
        for level in range(len(self.levels)):
            with rasterio.open(path, overview_level=level) as overview:
                tall, wide = overview.block_shapes[0]
                shapes.append((-(-overview.height // tall), -(-overview.width // wide)))
        with rasterio.open(path) as file:
            for level, (down, across) in enumerate(shapes):
                for band, i, j in product(file.indexes, range(down), range(across)):
                    if file.get_tag_item(f"BLOCK_OFFSET_{j}_{i}", "TIFF", bidx=band, ovr=level) is None:
                        raise OSError(f"a tile of overview {level} is missing")

    def _shrink(self, image: NDArray[Any], to: NDArray[Any], by: int) -> None:
        """Means of `by` x `by` pixels (band, H, W) into `to` (band, h, w)."""

        def shrunk(band: int) -> None:
            to[band] = mean_of_pixels(image[band], by, self.nodata)

        at_once(shrunk, range(len(image)))


def factors_of(shape: Sequence[int]) -> list[int]:
    """Factors of the overviews of an image (H, W); none for a small one."""
    side = max(shape)
    return [1 << k for k in range(2, side.bit_length()) if side >= LEAST_PX << k] if side > LARGE_PX else []


def mean_of_pixels(image: NDArray[Any], by: int, nodata: float) -> NDArray[Any]:
    """Mean of `by` x `by` pixels that have a value, `nodata` where none has: (H, W) -> (h, w).

    At the far ends it is that of the pixels there are. The mean of integers is rounded; one that is `nodata`
    by chance is moved to the next number.
    """
    kind, whole = image.dtype, image.dtype.kind != "f"
    number = kind.type(int(nodata) if whole else nodata)
    missing = np.isnan(image) if np.isnan(nodata) else image == number
    ends = [(0, -size % by) for size in image.shape]
    with np.errstate(over="ignore"):  # the type's last numbers, which infinity is stored as
        if not missing.any() and not any(end for _, end in ends):  # nearly always
            mean = _sums(image, by) / by**2
            empty = np.zeros(mean.shape, bool)
        else:
            count = _sums(np.pad(~missing, ends), by)
            mean, empty = _sums(np.pad(np.where(missing, 0, image), ends), by), count == 0
            mean /= np.maximum(count, 1)
    if whole:
        low, high = (int(end) for end in (np.iinfo(kind).min, np.iinfo(kind).max))
        out = cast(np.rint(mean), kind, low, high)
        out[out == number] += 1  # a number between others is never the type's last
    else:
        out = np.clip(mean, np.finfo(kind).min, np.finfo(kind).max).astype(kind)
        out[out == number] = np.nextafter(number, kind.type(-np.inf if number > 0 else np.inf))
    out[empty] = number
    return out


def _sums(image: NDArray[Any], by: int) -> NDArray[Any]:
    """Of `by` x `by` pixels, in floats that hold sums of small integers exactly."""
    # whole rows first: many times faster than sums over two axes
    rows: NDArray[Any] = image[::by].astype(np.float32 if image.dtype.itemsize <= EXACT_BYTES else np.float64)
    for first in range(1, by):
        np.add(rows, image[first::by], out=rows)
    sums: NDArray[Any] = rows[:, ::by].copy()
    for first in range(1, by):
        np.add(sums, rows[:, first::by], out=sums)
    return sums
