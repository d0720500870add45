"""The guide: a reference image of any size, read through a window."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rasterio.windows import Window

from hsi_fuse.errors import ReadError
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Encoding, Raster
from hsi_fuse.read.mask import Mask
from hsi_fuse.read.recognise import describe
from hsi_fuse.read.room import check_room
from hsi_fuse.read.source import Source, read_values
from hsi_fuse.read.store import Flags

MOST_BANDS = 13
BYTES_PER_VALUE = 9
"""The stored number, a float32, and whether it is there."""


@dataclass(frozen=True)
class Guide:
    """A reference image that stays on disk.

    Attributes
    ----------
    path : Path
        The file with the pixels.
    grid : Grid
        Of the whole file. CRS None and pixel units where it is not georeferenced.
    bands : int
        1..13; an alpha band is not one of them.
    dtype : str
    band_names : tuple of str
        Empty where the file names none.
    nodata : float or None
    mask : Mask or None
        Pixels to treat as having no data.
    """

    path: Path
    grid: Grid
    bands: int
    dtype: str
    band_names: tuple[str, ...]
    nodata: float | None
    source: Source = field(repr=False)
    mask: Mask | None = None

    def read(self, row: int, column: int, height: int, width: int) -> Raster:
        """Read a window, clipped to the file.

        A pixel is invalid where any band is NaN or infinite, where alpha, the file's mask or `mask` says
        so, or where any band equals nodata; but in integer files a declared nodata of 0 (and 255 in 8-bit
        ones) is also an ordinary dark or saturated reading, so there all bands must equal it.

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
        grid = self.grid.window(top, left, bottom - top, right - left)
        check_room(
            BYTES_PER_VALUE * self.bands * grid.height * grid.width,
            f"{self.path}: what may show the HSI, {self.bands} bands of {grid.height} x {grid.width} pixels,",
            "cut the reference to the HSI's ground, or the HSI to a part of it (--bbox)",
        )
        with self.source.store.opened() as image:
            values = read_values(image, self.source, window, saturated=True)
        present: Flags = np.isfinite(values)
        valid: Flags = np.asarray(present.all(axis=0))
        if self.mask is not None:
            valid &= ~self.mask.excluded(self.grid, (top, left, bottom - top, right - left))
        return Raster(
            values=np.where(present, values, np.float32(0)),
            valid=valid,
            grid=grid,
            wavelengths_nm=self.source.spectrum.wavelengths_nm,
            fwhm_nm=self.source.spectrum.fwhm_nm,
            band_names=self.band_names,
            encoding=Encoding(
                self.dtype, float(self.source.scale[0]), float(self.source.offset[0]), self.nodata
            ),
            tags=self.source.tags,
        )


def open_guide(path: str | Path, mask: Mask | None = None) -> Guide:
    """Open a reference image without reading its pixels.

    Parameters
    ----------
    path : path
        A GeoTIFF, an ENVI file, any other raster that GDAL opens (VRT, JPEG 2000), a Sentinel-2 product
        (SAFE folder, granule or image folder) or a folder of single-band rasters on one grid.
    mask : Mask, optional
        Pixels to treat as having no data.

    Raises
    ------
    ReadError
        If it is missing, unreadable, or has no or more than 13 bands.
    """
    source = describe(path)
    bands = source.bands
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
        mask=mask,
    )
