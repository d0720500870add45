"""The hyperspectral image: any supported file -> Raster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from hsi_fuse.errors import ReadError
from hsi_fuse.raster import Encoding, Raster
from hsi_fuse.read import envi, geotiff
from hsi_fuse.read.source import Flags, Source, Spectrum, opened, read_values, warn
from hsi_fuse.read.wavelengths import read_wavelength_file

BLOCK_BYTES = 64 << 20
FEWEST_BANDS = 2
# A band with values in less than this share of the best band's pixels would cost more than it is worth.
LEAST_COVERAGE = 0.5


def describe(path: str | Path) -> Source:
    """Find out what a path stands for, without reading pixels.

    Raises
    ------
    ReadError
        If it is missing, not an image, or contradicts itself.
    """
    path = Path(path)
    if path.is_dir():
        raise ReadError(f"{path} is a folder; name the image file in it")
    if not path.exists():
        raise ReadError(f"{path} does not exist")
    pair = envi.find(path)
    if pair is not None:
        return envi.describe(*pair)
    try:
        return geotiff.describe(path)
    except ReadError as error:
        if path.suffix.lower() in envi.DATA_SUFFIXES:
            raise ReadError(
                f"{path} has no ENVI header beside it (expected {path.stem}.hdr or {path.name}.hdr) "
                "and is no other raster that GDAL knows"
            ) from error
        raise


def read_hsi(path: str | Path, wavelengths: str | Path | None = None) -> Raster:
    """Read a hyperspectral image, scaled exactly once, with everything known about its bands.

    Parameters
    ----------
    path : path
        An ENVI header or its data file, a GeoTIFF, or any other raster that GDAL opens.
    wavelengths : path, optional
        Text file with one wavelength (and, optionally, FWHM) a line in nm or um; takes the place of the
        file's own.

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
        If the file is missing, incomplete or unreadable, holds no data, or has fewer than two good bands.

    Warns
    -----
    HsiFuseWarning
        Wavelengths or their unit missing or doubtful; bands dropped; gains that differ between bands.
    """
    source = describe(path)
    if wavelengths is not None:
        listed = read_wavelength_file(wavelengths, len(source.indexes))
        source = replace(source, spectrum=Spectrum(*listed, source.spectrum.flagged_good))
    elif source.spectrum.wavelengths_nm is None:
        warn(f"{path}: no wavelengths; give them with --wavelengths FILE where the sensor is known")
    values = _read_all(source)
    present = np.isfinite(values)
    if not present.any():
        raise ReadError(
            f"{path}: every pixel is nodata (ignore value {source.nodata[0]}); nothing to sharpen"
        )
    good = _good_bands(values, present, source.spectrum.flagged_good, path)
    valid: Flags = np.logical_and.reduce(present, axis=0, where=good[:, None, None])
    if not valid.any():
        raise ReadError(
            f"{path}: no pixel has a value in all of its {good.sum()} good bands; flag broken bands as bad"
        )
    np.copyto(values, 0, where=~present)
    return Raster(
        values=values,
        valid=valid,
        grid=source.grid,
        wavelengths_nm=source.spectrum.wavelengths_nm,
        fwhm_nm=source.spectrum.fwhm_nm,
        good_bands=good,
        band_names=source.names,
        encoding=encoding_of(source),
        tags=source.tags,
    )


def _read_all(source: Source) -> NDArray[np.float32]:
    values = np.empty((len(source.indexes), *source.grid.shape), np.float32)
    with opened(source.path, source.driver) as dataset:
        for start, stop in _row_blocks(dataset):
            window = Window(0, start, dataset.width, stop - start)
            values[:, start:stop] = read_values(dataset, source, window)
    return values


def _row_blocks(dataset: Any) -> Iterator[tuple[int, int]]:
    """Rows to read at a time: whole blocks of the file, all bands, about BLOCK_BYTES."""
    per_row = dataset.width * dataset.count * np.dtype(dataset.dtypes[0]).itemsize
    block = dataset.block_shapes[0][0]
    step = max(1, BLOCK_BYTES // per_row // block) * block
    for start in range(0, dataset.height, step):
        yield start, min(start + step, dataset.height)


def _good_bands(
    values: NDArray[np.float32], present: Flags, flagged: Flags | None, path: str | Path
) -> Flags:
    bands = len(values)
    flagged = np.ones(bands, bool) if flagged is None else flagged
    coverage = present.reshape(bands, -1).sum(axis=1)
    varies = np.array([_varies(v, p) for v, p in zip(values, present, strict=True)])
    sparse = varies & flagged & (coverage < LEAST_COVERAGE * coverage.max())
    if sparse.any():
        warn(f"{path}: bands {_listed(sparse)} have values in too few pixels; they are taken as bad")
    good: Flags = flagged & varies & ~sparse
    if good.sum() < FEWEST_BANDS:
        raise ReadError(
            f"{path} has {good.sum()} usable of {bands} bands ({(~flagged).sum()} flagged bad (bbl 0), "
            f"{(coverage == 0).sum()} empty, {(~varies & (coverage > 0)).sum()} constant); a hyperspectral "
            f"image needs at least {FEWEST_BANDS}. Is it the right file, and are 1 = good, 0 = bad in bbl?"
        )
    return good


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
