"""A fused product that somebody else wrote: file -> a cube of the HSI's good bands on its refined grid."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor

from hsi_fuse.errors import GridError, HsiFuseWarning
from hsi_fuse.grid import Grid
from hsi_fuse.quality.cube import Ranges, StreamedCube, strips
from hsi_fuse.raster import Raster
from hsi_fuse.read.recognise import describe
from hsi_fuse.read.source import Source, read_values

OFF_GRID_PX = 0.1
"""What a product may lie beside the refined grid, its own pixels."""
UNLIKE_UNITS = 20.0


@dataclass(frozen=True)
class Product:
    """A product and the part of the HSI that it belongs to.

    Attributes
    ----------
    cube : StreamedCube
        The HSI's good bands, in its order; 0 where the product has no value.
    hsi : Raster
        Cropped to the product; only bands of the product are good, only pixels whose fine pixels all have
        values are valid.
    scale : int
        Fine pixels per HSI pixel.
    grid : Grid
        Of the cube.
    """

    cube: StreamedCube
    hsi: Raster
    scale: int
    grid: Grid


def open_product(path: str | Path, hsi: Raster) -> Product:
    """Open a product without reading it whole: it is read once, in blocks, for what it leaves out.

    The product's pixels must be the HSI's, divided by a whole number along both axes; it may cover a part of
    the HSI. Its bands are the HSI's, or its good ones, in order, or are matched by wavelength.

    Raises
    ------
    ReadError
    GridError
        Grid or bands are not those of the HSI.

    Warns
    -----
    HsiFuseWarning
        The values seem to be in other units than the HSI's.
    """
    source = describe(path)
    scale, row, column, part = _placed(source, hsi.grid, path)
    files, bands = _matched(source, hsi, path)
    top, left = part
    height, width = (
        (size - off) // scale for size, off in zip(source.grid.shape, (row, column), strict=True)
    )
    height, width = min(height, hsi.grid.height - top), min(width, hsi.grid.width - left)
    shape = (len(bands), height * scale, width * scale)

    def read(ranges: Ranges) -> Iterator[NDArray[np.float32]]:
        with source.store.opened() as image:
            for start, stop in ranges:
                window = Window(column, row + start, shape[2], stop - start)
                yield read_values(image, source, window)[files]

    good = np.zeros(hsi.bands, bool)
    good[bands] = True
    cropped = replace(
        hsi,
        values=np.ascontiguousarray(hsi.values[:, top : top + height, left : left + width]),
        valid=hsi.valid[top : top + height, left : left + width],
        grid=hsi.grid.window(top, left, height, width),
        good_bands=good,
    )
    whole, level = _surveyed(read, shape, scale)
    cropped = replace(cropped, valid=cropped.valid & whole)
    if not cropped.valid.any():
        raise GridError(
            f"{path} has no values where the HSI has: check both files' nodata and georeferencing"
        )
    ours = float(np.mean([np.abs(cropped.values[band][cropped.valid]).mean() for band in bands]))
    if not 1 / UNLIKE_UNITS < level / max(ours, 1e-30) < UNLIKE_UNITS:
        warnings.warn(
            f"{path}: its mean value is {level:.4g}, that of the HSI {ours:.4g}: are both in the same units "
            "(scale factors)?",
            HsiFuseWarning,
            stacklevel=2,
        )

    def filled(ranges: Ranges) -> Iterator[Tensor]:
        return (torch.from_numpy(np.nan_to_num(each)) for each in read(ranges))

    cube = StreamedCube(shape, filled)
    return Product(cube, cropped, scale, cropped.grid.refine(scale))


def truth_of(path: str | Path, product: Product, hsi: Raster) -> Tensor:
    """The truth of a simulated pair on a product's grid, (n, H, W).

    Raises
    ------
    ReadError
    GridError
        Its grid or its bands are not the product's.
    """
    truth = open_product(path, hsi)
    if truth.cube.shape != product.cube.shape or truth.hsi.grid != product.hsi.grid:
        raise GridError(
            f"{path}: the truth has shape {truth.cube.shape} (bands, rows, columns), the product "
            f"{product.cube.shape}; both must cover the same ground in the same pixels"
        )
    return truth.cube.rows(0, truth.cube.shape[1])


def _placed(source: Source, hsi: Grid, path: str | Path) -> tuple[int, int, int, tuple[int, int]]:
    """Scale, the product's first row and column that start an HSI pixel, and that HSI pixel's."""
    grid = source.grid
    if grid.georeferenced and hsi.georeferenced:
        corners = np.array([0.0, grid.width]), np.array([0.0, grid.height])
        (x0, x1), (y0, y1) = grid.to_pixels_of(hsi, *corners)
    else:
        (x0, x1), (y0, y1) = (0.0, float(hsi.width)), (0.0, float(hsi.height))
    ratio = grid.width / (x1 - x0), grid.height / (y1 - y0)
    scale = round(ratio[0])
    sides = zip(ratio, grid.shape[::-1], strict=True)
    astray = max(abs(r / scale - 1) * side for r, side in sides) if scale else np.inf
    if astray > 0.5:  # pixels, from edge to edge
        raise GridError(
            f"{path}: its pixels are {ratio[0]:.3f} x {ratio[1]:.3f} times finer than the HSI's; a product "
            "on the HSI's grid, refined by a whole number, is needed (gdalwarp -te ... -tr ...)"
        )
    places = []
    for at in (y0, x0):
        first = max(int(np.ceil(at - OFF_GRID_PX / scale)), 0)
        skipped = (first - at) * scale
        if abs(skipped - round(skipped)) > OFF_GRID_PX:
            raise GridError(
                f"{path}: its pixels do not lie on the HSI's refined grid (off by "
                f"{abs(skipped - round(skipped)):.2f} pixels): resample it to that grid, or write it there"
            )
        places.append((round(skipped), first))
    (row, top), (column, left) = places
    if grid.height - row < scale or grid.width - column < scale or top >= hsi.height or left >= hsi.width:
        raise GridError(f"{path} and the HSI do not show the same ground: check both files' georeferencing")
    return scale, row, column, (top, left)


def _matched(source: Source, hsi: Raster, path: str | Path) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Numbers of the bands in the product's file, and of the same bands among the HSI's; good ones only."""
    count, good = source.bands, np.flatnonzero(hsi.good_bands)
    if count == hsi.bands:
        return good, good
    if count == len(good):
        return np.arange(count), good
    theirs, ours = source.spectrum.wavelengths_nm, hsi.wavelengths_nm
    if theirs is None or ours is None:
        raise GridError(
            f"{path} has {count} bands, the HSI {hsi.bands} ({len(good)} good ones), and without wavelengths "
            "in both files nobody knows which is which"
        )
    near = np.abs(ours[good][:, None] - theirs[None])  # (good, bands of the product)
    reach = float(np.median(np.abs(np.diff(np.sort(ours[good]))))) / 2
    found = near.min(1) <= reach
    if found.sum() < 2:
        raise GridError(f"{path}: its wavelengths are none of the HSI's")
    return near.argmin(1)[found], good[found]


def _surveyed(
    read: Callable[[Ranges], Iterator[NDArray[np.float32]]], shape: tuple[int, int, int], scale: int
) -> tuple[NDArray[np.bool_], float]:
    """HSI pixels all of whose fine pixels have values, (h, w), and the mean size of the values."""
    rows, total, count = [], 0.0, 0
    for block in read(strips(shape, scale)):
        there = np.isfinite(block)
        total, count = total + float(np.abs(np.where(there, block, 0)).sum()), count + int(there.sum())
        fine = there.all(0).reshape(block.shape[1] // scale, scale, shape[2] // scale, scale)
        rows.append(fine.all((1, 3)))
    return np.concatenate(rows), total / max(count, 1)
