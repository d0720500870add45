"""The hyperspectral image: any supported file -> Raster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from hsi_fuse.errors import ReadError
from hsi_fuse.raster import Encoding, Raster
from hsi_fuse.read.mask import Mask
from hsi_fuse.read.recognise import describe
from hsi_fuse.read.room import check_room
from hsi_fuse.read.source import Source, Spectrum, read_values, warn
from hsi_fuse.read.store import Flags
from hsi_fuse.read.wavelengths import read_wavelength_file

BYTES_PER_VALUE = 5
"""A float32, and whether it is there."""
FEWEST_BANDS = 2
# A band with values in less than this share of the best band's pixels would cost more than it is worth.
LEAST_COVERAGE = 0.5


def read_hsi(
    path: str | Path,
    wavelengths: str | Path | None = None,
    *,
    bounds: tuple[float, float, float, float] | None = None,
    mask: Mask | None = None,
) -> Raster:
    """Read a hyperspectral image, scaled exactly once, with everything known about its bands.

    Parameters
    ----------
    path : path
        An ENVI header or its data file, a GeoTIFF, any other raster that GDAL opens, or a product: PRISMA
        L2D (.he5), EMIT L2A (.nc), EnMAP or DESIS L2A (folder, XML or GeoTIFF).
    wavelengths : path, optional
        Text file with one wavelength (and, optionally, FWHM) a line in nm or um; takes the place of the
        file's own.
    bounds : (left, bottom, right, top), optional
        Only the whole pixels that cover this box, in the image's CRS (see `Grid.covering`).
    mask : Mask, optional
        Pixels to treat as having no data.

    Returns
    -------
    Raster
        values (band, y, x) float32 in physical units and file order, 0 where there is no value; `valid`
        where every good band has one. Bands flagged bad, empty, constant, or with values in less than
        half of the pixels that other bands have are not good. In an integer file whose nodata is 0, a
        pixel is empty only where all bands are 0 (a dark reading in one band is a value).

    Raises
    ------
    ReadError
        If the file is missing, incomplete or unreadable, holds no data, has fewer than two good bands, or
        does not fit into memory.
    GridError
        If no pixel lies within the bounds.

    Warns
    -----
    HsiFuseWarning
        Wavelengths or their unit missing or doubtful; bands dropped; gains that differ between bands.
    """
    source = describe(path)
    if wavelengths is not None:
        listed = read_wavelength_file(wavelengths, source.bands)
        source = replace(source, spectrum=Spectrum(*listed, source.spectrum.flagged_good))
    elif source.spectrum.wavelengths_nm is None:
        warn(f"{path}: no wavelengths; give them with --wavelengths FILE where the sensor is known")
    part = (0, 0, *source.grid.shape) if bounds is None else source.grid.covering(bounds)
    values = _read_window(source, *part)
    if mask is not None:
        values[:, mask.excluded(source.grid, part)] = np.nan
    present = np.isfinite(values)
    if not present.any():
        why = f"nodata (ignore value {source.nodata[0]})" + (" or masked" if mask is not None else "")
        raise ReadError(
            f"{path}: every pixel is {why}, or beyond all numbers ({_scaling(source)}); nothing to sharpen"
        )
    good = _good_bands(values, present, source, path)
    valid: Flags = np.logical_and.reduce(present, axis=0, where=good[:, None, None])
    if not valid.any():
        raise ReadError(
            f"{path}: no pixel has a value in all of its {good.sum()} good bands; flag broken bands as bad"
        )
    np.copyto(values, 0, where=~present)
    return Raster(
        values=values,
        valid=valid,
        grid=source.grid.window(*part),
        wavelengths_nm=source.spectrum.wavelengths_nm,
        fwhm_nm=source.spectrum.fwhm_nm,
        good_bands=good,
        band_names=source.names,
        encoding=encoding_of(source),
        tags=source.tags,
    )


def _read_window(source: Source, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
    """The pixels of a window, strip by strip: (band, y, x), NaN for none."""
    check_room(
        BYTES_PER_VALUE * source.bands * height * width,
        f"{source.path}: an image of {source.bands} bands, {height} lines and {width} samples",
        "read a part of it (--bbox), or correct the header if the size is wrong",
    )
    values = np.empty((source.bands, height, width), np.float32)
    with source.store.opened() as image:
        # whole blocks of the file: steps count from its first row
        starts = range(top // image.rows_at_once * image.rows_at_once, top + height, image.rows_at_once)
        for start in starts:
            first, last = max(start, top), min(start + image.rows_at_once, top + height)
            window = Window(left, first, width, last - first)
            values[:, first - top : last - top] = read_values(image, source, window)
    return values


def _good_bands(values: NDArray[np.float32], present: Flags, source: Source, path: str | Path) -> Flags:
    bands, said = len(values), source.spectrum.flagged_good
    flagged = np.ones(bands, bool) if said is None else said
    coverage = present.reshape(bands, -1).sum(axis=1)
    varies = np.array([_varies(v, p) for v, p in zip(values, present, strict=True)])
    sparse = varies & flagged & (coverage < LEAST_COVERAGE * coverage.max())
    if sparse.any():
        warn(f"{path}: bands {_listed(sparse)} have values in too few pixels; they are taken as bad")
    good: Flags = flagged & varies & ~sparse
    if good.sum() < FEWEST_BANDS:
        raise ReadError(
            f"{path} has {good.sum()} usable of {bands} bands ({(~flagged).sum()} flagged bad (bbl 0), "
            f"{(coverage == 0).sum()} empty, {(~varies & (coverage > 0)).sum()} constant; "
            f"{_scaling(source)}); a hyperspectral image needs at least {FEWEST_BANDS}. Is it the right "
            "file, and are 1 = good, 0 = bad in bbl?"
        )
    return good


def _scaling(source: Source) -> str:
    """What may make values of no use, in words."""
    spans = (f"{values.min():g} to {values.max():g}" for values in (source.scale, source.offset))
    return "scale {}, offset {}".format(*spans)


def _varies(band: NDArray[np.float32], present: Flags) -> bool:
    here = band[present]
    return here.size > 0 and bool(here.min() < here.max())


def _listed(flags: Flags, most: int = 8) -> str:
    numbers = [str(i + 1) for i in np.flatnonzero(flags)]
    return ", ".join(numbers[:most]) + (f" and {len(numbers) - most} more" if len(numbers) > most else "")


def encoding_of(source: Source) -> Encoding:
    """How to store values as the file does; in physical units, with a warning, where its bands differ."""
    nodata = next((n for n in source.nodata if n is not None), None)
    if np.ptp(source.scale) == 0 and np.ptp(source.offset) == 0:
        return Encoding(source.dtype, float(source.scale[0]), float(source.offset[0]), nodata)
    warn(f"{source.path}: the bands have different gains; output is stored in physical units as float32")
    return Encoding("float32", nodata=float("nan"))
