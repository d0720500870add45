"""EMIT L2A reflectance (.nc), orthorectified by its lookup table. Experimental: no real file was at hand.

Structure: the product's user guide (NASA LP DAAC, EMITL2ARFL version 1): `reflectance` (downtrack,
crosstrack, band) float32; `location/glt_x` and `glt_y` hold, for each pixel of the map, the crosstrack and
downtrack number counted from 1, 0 where there is none; `geotransform` is GDAL's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from hsi_fuse.acquisition import tag_of
from hsi_fuse.errors import ReadError
from hsi_fuse.read.hdf5 import attribute, crs_of, dataset, is_hdf5, opened_hdf5, text_attribute, vector
from hsi_fuse.read.place import checked_grid
from hsi_fuse.read.source import Source
from hsi_fuse.read.store import BLOCK_BYTES, Flags, Opened
from hsi_fuse.read.wavelengths import spectrum_of

CUBE = "reflectance"
BANDS = "sensor_band_parameters"
TABLE = ("location/glt_x", "location/glt_y")
FILL = -9999.0
PASSES = 8
"""Each strip of the map looks at a slanted part of the swath: more strips would read it over and over."""


def find(path: Path) -> Source | None:
    """The reflectance of an EMIT L2A file on its map; None for other files.

    The lookup table takes the nearest pixel of the swath: no value is interpolated, some appear twice.

    Raises
    ------
    ReadError
        If the file is incomplete.
    """
    if not is_hdf5(path):
        return None
    with opened_hdf5(path) as file:
        if CUBE not in file or BANDS not in file:
            return None
        return _describe(file, path)


def _describe(file: Any, path: Path) -> Source:
    cube = dataset(file, CUBE, 3, path)
    across, down = (dataset(file, name, 2, path) for name in TABLE)
    if across.shape != down.shape or across.dtype.kind == "f" or down.dtype.kind == "f":
        raise ReadError(f"{path}: {TABLE[0]} {across.shape} and {TABLE[1]} {down.shape} are no lookup table")
    bands = cube.shape[2]
    wavelengths, fwhm = (vector(file, f"{BANDS}/{name}", bands, path) for name in ("wavelengths", "fwhm"))
    flags = f"{BANDS}/good_wavelengths"
    good = vector(file, flags, bands, path) != 0 if flags in file else None
    transform = Affine.from_gdal(*attribute(file, "geotransform", path, 6))
    return Source(
        path=path,
        store=EmitStore(path),
        grid=checked_grid(
            crs_of(text_attribute(file, "spatial_ref"), path),
            transform,
            across.shape[1],
            across.shape[0],
            path,
        ),
        dtype=str(cube.dtype),
        scale=np.ones(bands),
        offset=np.zeros(bands),
        nodata=(float(np.ravel(cube.attrs.get("_FillValue", FILL))[0]),) * bands,
        spectrum=spectrum_of(wavelengths, fwhm, "nm", good, path),
        tags={"sensor": "EMIT", "product": "L2A", **tag_of(text_attribute(file, "time_coverage_start"))},
    )


@dataclass(frozen=True)
class EmitStore:
    """The swath of an EMIT file, seen through its lookup table."""

    path: Path

    @contextmanager
    def opened(self) -> Iterator[Opened]:
        """Open it."""
        with opened_hdf5(self.path) as file:
            yield _EmitOpened(file[CUBE], file[TABLE[0]], file[TABLE[1]])


class _EmitOpened:
    def __init__(self, cube: Any, across: Any, down: Any) -> None:
        self._cube, self._across, self._down = cube, across, down
        self.rows_at_once = -(-across.shape[0] // PASSES)

    def read(self, window: Window) -> tuple[NDArray[Any], Flags]:
        part = window.toslices()
        # negative numbers are a table's own guesses between the lines: the pixel is meant all the same
        columns, rows = (np.abs(table[part].astype(np.int64)) - 1 for table in (self._across, self._down))
        height, width, bands = self._cube.shape
        seen = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        out = np.zeros((*seen.shape, bands), self._cube.dtype)
        step = max(1, BLOCK_BYTES // (width * bands * self._cube.dtype.itemsize))
        first, last = (rows[seen].min(), rows[seen].max() + 1) if seen.any() else (0, 0)
        for top in range(first, last, step):
            strip = self._cube[top : min(top + step, last)]
            here = seen & (rows >= top) & (rows < top + len(strip))
            out[here] = strip[rows[here] - top, columns[here]]
        return out.transpose(2, 0, 1), ~seen[None]
