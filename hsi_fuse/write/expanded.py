"""A compact product -> a raster of all or some of its bands and pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsi_fuse.errors import GridError, ReadError
from hsi_fuse.problem import OnStep, silent
from hsi_fuse.raster import Bands
from hsi_fuse.report.pictures import rgb_bands
from hsi_fuse.write.compact import CompactProduct
from hsi_fuse.write.cube import Driver, WriteSummary, rows_at_a_time, write_cube

Window = tuple[int, int, int, int]
"""Column and row of the first pixel, width, height; pixels of the product."""


def expand(
    product: CompactProduct,
    output: str | Path,
    *,
    bands: Sequence[int] | None = None,
    window: Window | None = None,
    driver: Driver = "GTiff",
    creation_options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    on_step: OnStep = silent,
) -> WriteSummary:
    """Write a raster of a compact product, stored as the run stores it.

    With float32 coefficients its values are those of the run's own raster, if that was made on a CPU of the
    same kind; else they may differ by one stored step. Rows are made as they are written.

    Parameters
    ----------
    product : CompactProduct
    output : path
    bands : sequence of int, optional
        Which (from 0), in this order; default all.
    window : Window, optional
        Default all of the product.
    driver : "GTiff", "ENVI" or "COG"
    creation_options : mapping, optional
    overwrite : bool
    on_step : callable

    Raises
    ------
    GridError
        The window does not lie in the product.
    ReadError
        It has no such band, or cannot be read.
    WriteError
    """
    keep = list(range(product.bands.bands)) if bands is None else list(bands)
    for band in keep:
        if not 0 <= band < product.bands.bands:
            raise ReadError(f"{product.path} has no band {band + 1}; it has bands 1 to {product.bands.bands}")
    height, width = product.grid.shape
    left, top, columns, rows = window or (0, 0, width, height)
    if min(columns, rows) < 1 or min(left, top) < 0 or left + columns > width or top + rows > height:
        raise GridError(
            f"the window {left},{top},{columns},{rows} (column, row, width, height) does not lie in "
            f"{product.path}, which has {width} x {height} pixels"
        )

    def some(start: int, stop: int) -> NDArray[np.float32]:
        # all bands and columns, then some: rounding is then that of the whole
        return product.rows(top + start, top + stop)[keep, :, left : left + columns]

    return write_cube(
        output,
        some,
        product.grid.window(top, left, rows, columns),
        product.bands if bands is None else product.bands.take(keep),
        driver=driver,
        creation_options=creation_options,
        overwrite=overwrite,
        block_rows=rows_at_a_time(product.bands.bands, width),
        on_rows=lambda done, total: on_step("write", done, total, 0.0),
    )


def bands_in_range(product: CompactProduct, low_nm: float, high_nm: float) -> list[int]:
    """Bands (from 0) whose wavelengths lie in a range, in the product's order.

    Raises
    ------
    ReadError
        None does, or the product has no wavelengths.
    """
    nm = _wavelengths(product.bands, product.path)
    found = np.flatnonzero((nm >= low_nm) & (nm <= high_nm)).tolist()
    if not found:
        raise ReadError(
            f"{product.path} has no band from {low_nm:g} to {high_nm:g} nm; "
            f"its bands lie from {nm.min():.0f} to {nm.max():.0f} nm"
        )
    return found


def bands_as_rgb(product: CompactProduct) -> list[int]:
    """A red, a green and a blue band (from 0), those of the quicklook."""
    good = np.flatnonzero(product.bands.good_bands)
    nm = product.bands.wavelengths_nm
    return [int(good[i]) for i in rgb_bands(len(good), None if nm is None else nm[good].tolist())]


def _wavelengths(bands: Bands, path: Path) -> NDArray[np.float64]:
    if bands.wavelengths_nm is None:
        raise ReadError(f"{path} has no wavelengths; choose by number, with --bands")
    return bands.wavelengths_nm
