"""The guide: a reference image of any size, read through a window."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rasterio.windows import Window

from hsi_fuse.errors import ReadError
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Encoding, Raster
from hsi_fuse.read.hsi import describe
from hsi_fuse.read.source import Flags, Source, opened, read_values

MOST_BANDS = 13


@dataclass(frozen=True)
class Guide:
    """A reference image that stays on disk.

    Attributes
    ----------
    path : Path
        The file with the pixels.
    grid : Grid
        Of the whole file. CRS None and pixel units where it is not georeferenced (ground control points
        alone do not count).
    bands : int
        1..13; an alpha band is not one of them.
    dtype : str
    band_names : tuple of str
        Empty where the file names none.
    nodata : float or None
    """

    path: Path
    grid: Grid
    bands: int
    dtype: str
    band_names: tuple[str, ...]
    nodata: float | None
    source: Source = field(repr=False)

    def read(self, row: int, column: int, height: int, width: int) -> Raster:
        """Read a window, clipped to the file.

        A pixel is invalid where any band is NaN or infinite, where alpha or the file's mask says so, or
        where any band equals nodata; but in integer files a declared nodata of 0 (and 255 in 8-bit ones)
        is also an ordinary dark or saturated reading, so there all bands must equal it.

        Parameters
        ----------
        row, column : int
            First pixel of the window; may lie outside the file.
        height, width : int

        Returns
        -------
        Raster
            values (band, y, x) scaled once; its grid is the clipped window's.

        Raises
        ------
        ReadError
            If the window does not meet the file or the pixels cannot be read.
        """
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + height, self.grid.height), min(column + width, self.grid.width)
        if bottom <= top or right <= left:
            raise ReadError(
                f"{self.path}: the window at row {row}, column {column} of {height} x {width} pixels lies "
                f"outside the image ({self.grid.height} x {self.grid.width})"
            )
        window = Window(left, top, right - left, bottom - top)
        with opened(self.path, self.source.driver) as dataset:
            values = read_values(dataset, self.source, window, saturated=True)
        present: Flags = np.isfinite(values)
        valid: Flags = np.asarray(present.all(axis=0))
        return Raster(
            values=np.where(present, values, np.float32(0)),
            valid=valid,
            grid=self.grid.window(top, left, bottom - top, right - left),
            wavelengths_nm=self.source.spectrum.wavelengths_nm,
            fwhm_nm=self.source.spectrum.fwhm_nm,
            band_names=self.band_names,
            encoding=Encoding(
                self.dtype, float(self.source.scale[0]), float(self.source.offset[0]), self.nodata
            ),
            tags=self.source.tags,
        )


def open_guide(path: str | Path) -> Guide:
    """Open a reference image (GeoTIFF, ENVI, any GDAL raster) without reading its pixels.

    Raises
    ------
    ReadError
        If it is missing, unreadable, or has no or more than 13 bands.
    """
    source = describe(path)
    bands = len(source.indexes)
    if not 1 <= bands <= MOST_BANDS:
        raise ReadError(
            f"{path} has {bands} bands, a reference image has 1 to {MOST_BANDS}; is it the hyperspectral "
            "image? Give the hyperspectral image first, then the reference"
        )
    return Guide(
        path=source.path,
        grid=source.grid,
        bands=bands,
        dtype=source.dtype,
        band_names=source.names,
        nodata=next((n for n in source.nodata if n is not None), None),
        source=source,
    )
