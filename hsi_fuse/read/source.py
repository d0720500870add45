"""Source: an image file and what it says about itself, whatever its format."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from hsi_fuse.errors import HsiFuseWarning
from hsi_fuse.grid import Grid
from hsi_fuse.read.store import Flags, Opened, Store

# No instrument measures this; writers of "no data" such as -3.4e38 or -1.23e34 lose digits in headers.
IMPOSSIBLE = 1e30

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """What a file says about its bands; every part may be missing.

    Attributes
    ----------
    wavelengths_nm, fwhm_nm : ndarray (band,), float64, or None
    flagged_good : ndarray (band,), bool, or None
        The file's own list of good bands (bbl).
    """

    wavelengths_nm: Numbers | None = None
    fwhm_nm: Numbers | None = None
    flagged_good: Flags | None = None

    def take(self, keep: NDArray[np.int64]) -> Spectrum:
        """What it says about some of the bands (0-based)."""
        return Spectrum(
            None if self.wavelengths_nm is None else self.wavelengths_nm[keep],
            None if self.fwhm_nm is None else self.fwhm_nm[keep],
            None if self.flagged_good is None else self.flagged_good[keep],
        )


@dataclass(frozen=True)
class Source:
    """Where the pixels are and how to turn stored numbers into physical ones.

    Attributes
    ----------
    path : Path
        What to call it: the file with the pixels, or the folder of a product.
    store : Store
        Opens the pixels.
    grid : Grid
    dtype : str
        Smallest numpy type that holds every band's stored numbers.
    scale, offset : ndarray (band,), float64
        value = stored * scale + offset.
    nodata : tuple of float or None (band,)
        Stored number that marks "no data".
    spectrum : Spectrum
    names : tuple of str (band,) or ()
    tags : mapping
    beside : tuple of Path
        What it is made of besides `path`: header, metadata, other files with pixels.
    """

    path: Path
    store: Store
    grid: Grid
    dtype: str
    scale: Numbers
    offset: Numbers
    nodata: tuple[float | None, ...]
    spectrum: Spectrum = Spectrum()
    names: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[Path, ...] = ()

    @property
    def bands(self) -> int:
        """Number of bands."""
        return len(self.scale)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that it is made of; what a VRT names and is no plain file does not count."""
        return tuple(file for file in dict.fromkeys((self.path, *self.beside)) if file.is_file())


def brief(text: str, most: int = 60) -> str:
    """A value found in a file, fit for a message."""
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def warn(message: str) -> None:
    """Tell the analyst; the report repeats it."""
    warnings.warn(message, HsiFuseWarning, stacklevel=3)


def measured_bands(dataset: Any) -> tuple[tuple[int, ...], int | None]:
    """The 1-based bands that hold measurements, and the alpha band or None.

    TIFF writers call the fourth band of a byte image alpha even when it is near infrared, so a band
    counts as alpha only when it looks like a mask: nearly all of it fully on or fully off.
    """
    alphas = [i for i, c in zip(dataset.indexes, dataset.colorinterp, strict=True) if c == ColorInterp.alpha]
    alpha = alphas[0] if alphas and dataset.count > 1 else None
    if alpha is not None and not _looks_like_mask(dataset, alpha):
        warn(
            f"{dataset.name}: band {alpha} is labelled alpha but holds measurements; it is used as a band. "
            "Correct its colour interpretation if it is a mask."
        )
        alpha = None
    return tuple(i for i in dataset.indexes if i != alpha), alpha


def _looks_like_mask(dataset: Any, band: int, side: int = 128, grey_allowed: float = 0.05) -> bool:
    """Judged from nine windows, since the file may be far larger than memory."""
    samples = []
    for fy in (0.0, 0.5, 1.0):
        for fx in (0.0, 0.5, 1.0):
            height, width = min(side, dataset.height), min(side, dataset.width)
            top, left = int(fy * (dataset.height - height)), int(fx * (dataset.width - width))
            samples.append(dataset.read(band, window=Window(left, top, width, height)).ravel())
    stored = np.concatenate(samples)
    on = np.iinfo(stored.dtype).max if stored.dtype.kind in "iu" else 1.0
    return float(np.mean((stored != 0) & (stored != on) & (stored != stored.max()))) <= grey_allowed


def marks_missing(stored: NDArray[Any], nodata: float | None) -> Flags:
    """Where stored numbers say "no data": equal to nodata (in their own precision), not finite, or absurd."""
    if stored.dtype.kind != "f":
        if nodata is None or not np.isfinite(nodata) or nodata != int(nodata):
            return np.zeros(stored.shape, bool)
        limits = np.iinfo(stored.dtype)
        inside = limits.min <= int(nodata) <= limits.max
        return stored == stored.dtype.type(int(nodata)) if inside else np.zeros(stored.shape, bool)
    missing: Flags = ~(np.abs(stored) < IMPOSSIBLE)  # NaN compares false, so it is missing too
    if nodata is not None and abs(nodata) < IMPOSSIBLE:
        missing |= stored == stored.dtype.type(nodata)
    return missing


def read_values(
    image: Opened, source: Source, window: Window, *, saturated: bool = False
) -> NDArray[np.float32]:
    """Physical values of a window, NaN where the file has none.

    A stored 0 (and, with `saturated`, 255 in 8-bit files) declared as nodata in an integer file is also
    what a dark (bright) pixel reads in a single band. There, a pixel is missing only where every band
    says so; any other nodata number counts in each band by itself.

    Parameters
    ----------
    image : Opened
        `source.store`, open.
    window : Window
        Must lie inside the file.

    Returns
    -------
    values : ndarray (band, y, x), float32
    """
    stored, masked = image.read(window)
    values = np.empty(stored.shape, np.float32)
    missing = np.empty(stored.shape, bool)
    for k, nodata in enumerate(source.nodata):
        missing[k] = marks_missing(stored[k], nodata)
        with np.errstate(over="ignore", invalid="ignore"):
            values[k] = stored[k] * source.scale[k] + source.offset[k]
    doubtful = np.array([_is_reading(n, source.dtype, saturated) for n in source.nodata])
    if doubtful.any():
        asked = source.spectrum.flagged_good  # what flagged bands hold says nothing about the pixel
        missing[doubtful] = missing[slice(None) if asked is None or not asked.any() else asked].all(axis=0)
    missing |= masked
    values[missing] = np.nan
    return values


def _is_reading(nodata: float | None, dtype: str, saturated: bool) -> bool:
    if nodata is None or np.dtype(dtype).kind not in "iu":
        return False
    return nodata == 0 or (saturated and dtype == "uint8" and nodata == 255)
