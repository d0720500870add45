"""Overviews of a GeoTIFF, averaged from its rows while these are written.

GDAL would unpack the finished file once more, which takes about as long as writing it. It lays the levels
out, and is handed their pixels when the image is done. Where an image's sides are no multiples of a factor,
a viewer stretches the level over the image and shows its far end less than one of its pixels off.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from hsi_fuse.threads import at_once

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
    first : ndarray (band, h, w)
        The first level, in a file without a name.
    nodata : float
        Stored number of pixels without a value, which do not count.
    """

    factors: Sequence[int]
    first: NDArray[Any]
    nodata: float

    @classmethod
    def within(cls, file: Any, factors: Sequence[int], nodata: float, folder: Path) -> Overviews:
        """Of a file that is open for writing and has no pixels yet; the first level is kept in `folder`."""
        if factors:
            with rasterio.Env(SPARSE_OK_OVERVIEW="ON"):
                file.build_overviews(factors, Resampling.nearest)
        sizes = [-(-size // FIRST) if factors else 0 for size in file.shape]
        return cls(factors, _kept((file.count, *sizes), file.dtypes[0], folder), nodata)

    def add(self, top: int, strip: NDArray[Any]) -> None:
        """Rows of the image from `top`, a multiple of `FIRST`, on: stored numbers (band, rows, W)."""
        if self.factors:
            bottom = -(-(top + strip.shape[1]) // FIRST)
            self._shrink(strip, self.first[:, top // FIRST : bottom], FIRST)

    def fill(self, path: Path, nodata: float | None) -> None:
        """Write all levels into the finished file, whose nodata number, if any, is `nodata`."""
        image = self.first
        for level, factor in enumerate(self.factors):
            if level:
                ratio = factor // self.factors[level - 1]
                sizes = [-(-size // ratio) for size in image.shape[1:]]
                smaller = _kept((len(image), *sizes), image.dtype, path.parent)
                self._shrink(image, smaller, ratio)
                image = smaller
            with rasterio.open(path, "r+", overview_level=level) as file:
                file.nodata = nodata
                tall = file.block_shapes[0][0]
                for top in range(0, file.height, tall):  # all bands of whole tiles, however they are laid
                    rows = image[:, top : top + tall]
                    file.write(rows, window=Window(0, top, file.width, rows.shape[1]))
                for band in file.indexes:
                    file.update_tags(band, RESAMPLING="AVERAGE")

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

    At the far ends it is that of the pixels there are. The mean of integers is rounded, and moved by one
    where it is `nodata` by chance.
    """
    missing = np.isnan(image) if np.isnan(nodata) else image == nodata
    ends = [(0, -size % by) for size in image.shape]
    if not missing.any() and not any(end for _, end in ends):  # nearly always
        mean, empty = _sums(image, by) / by**2, np.zeros((), bool)
    else:
        count = _sums(np.pad(~missing, ends), by)
        mean, empty = _sums(np.pad(np.where(missing, 0, image), ends), by), count == 0
        mean /= np.maximum(count, 1)
    if image.dtype.kind != "f":
        np.rint(mean, out=mean)
        mean[mean == nodata] += 1  # a number between others is never the type's last
    return np.where(empty, nodata, mean).astype(image.dtype)


def _sums(image: NDArray[Any], by: int) -> NDArray[Any]:
    """Of squares of pixels, in floats that hold sums of a few small integers exactly."""
    exact = image.dtype.itemsize <= EXACT_BYTES or image.dtype == np.float32
    # whole rows first: many times faster than sums over two axes
    rows: NDArray[Any] = image[::by].astype(np.float32 if exact else np.float64)
    for first in range(1, by):
        np.add(rows, image[first::by], out=rows)
    sums: NDArray[Any] = rows[:, ::by].copy()
    for first in range(1, by):
        np.add(sums, rows[:, first::by], out=sums)
    return sums


def _kept(shape: Iterable[int], dtype: Any, folder: Path) -> NDArray[Any]:
    """Zeros in a file that ends with them: of a big scene a level takes half a gigabyte."""
    shape = tuple(shape)
    if not all(shape):
        return np.zeros(shape, dtype)
    # no name in the folder: whatever ends the process, nothing is left behind
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)
