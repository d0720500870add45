"""Raster: pixels with everything known about them. Map-land's one currency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hsi_fuse.errors import ReadError
from hsi_fuse.grid import Grid


@dataclass(frozen=True)
class Encoding:
    """How values are stored in a file: value = stored * scale + offset.

    Attributes
    ----------
    dtype : str
        numpy name, e.g. "int16".
    scale, offset : float
    nodata : float or None
        Stored value that marks "no data".
    """

    dtype: str = "float32"
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None


@dataclass(frozen=True)
class Raster:
    """A multi-band image in physical units.

    Attributes
    ----------
    values : ndarray (band, y, x), float32
        Scaled exactly once (reflectance as 0..1 where the file says how). Finite everywhere: 0 where
        not valid.
    valid : ndarray (y, x), bool
        True where every good band has a value.
    grid : Grid
    wavelengths_nm, fwhm_nm : ndarray (band,) or None
    good_bands : ndarray (band,), bool
        False for bands that take no part (flagged bad, empty or constant); they come back out in their place.
    band_names : tuple of str
    encoding : Encoding
        How the file stores values; the writer's default.
    tags : mapping
        What else the file says, kept for the output (e.g. remaining ENVI header keys).
    """

    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    grid: Grid
    wavelengths_nm: NDArray[np.float64] | None = None
    fwhm_nm: NDArray[np.float64] | None = None
    good_bands: NDArray[np.bool_] = field(default=None)  # type: ignore[arg-type]
    band_names: tuple[str, ...] = ()
    encoding: Encoding = Encoding()
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bands = self.values.shape[0]
        if self.good_bands is None:
            object.__setattr__(self, "good_bands", np.ones(bands, bool))
        if self.values.dtype != np.float32 or self.values.shape[1:] != self.grid.shape:
            raise ReadError(
                f"raster values must be float32 (band, y, x) on a {self.grid.shape} grid, "
                f"got {self.values.dtype} {self.values.shape}"
            )
        if self.valid.shape != self.grid.shape or self.valid.dtype != np.bool_:
            raise ReadError(
                f"valid mask must be bool {self.grid.shape}, got {self.valid.dtype} {self.valid.shape}"
            )
        _check_bands(self)

    @property
    def bands(self) -> int:
        """Number of bands, bad ones included."""
        return int(self.values.shape[0])


@dataclass(frozen=True)
class Bands:
    """A raster without its pixels: what is known about its bands, and how they are stored.

    Attributes
    ----------
    bands : int
        Number of bands.
    wavelengths_nm, fwhm_nm, good_bands, band_names, encoding, tags
        As in `Raster`.
    """

    bands: int
    wavelengths_nm: NDArray[np.float64] | None = None
    fwhm_nm: NDArray[np.float64] | None = None
    good_bands: NDArray[np.bool_] = field(default=None)  # type: ignore[arg-type]
    band_names: tuple[str, ...] = ()
    encoding: Encoding = Encoding()
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.good_bands is None:
            object.__setattr__(self, "good_bands", np.ones(self.bands, bool))
        _check_bands(self)

    @classmethod
    def of(cls, raster: Raster) -> Bands:
        """What a raster says of its bands."""
        return cls(
            raster.bands,
            raster.wavelengths_nm,
            raster.fwhm_nm,
            raster.good_bands,
            raster.band_names,
            raster.encoding,
            raster.tags,
        )

    def take(self, indexes: Sequence[int]) -> Bands:
        """These bands (from 0) in this order; of the tags, lists of one entry for each band follow.

        `default bands` goes: it names bands by their number.
        """
        keep = list(indexes)

        def some(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
            return None if values is None else values[keep]

        tags = {}
        for key, text in self.tags.items():
            entries = text.strip("{}").split(",") if text[:1] == "{" and text[-1:] == "}" else []
            if key.lower() == "default bands":
                continue
            one_each = len(entries) == self.bands and self.bands > 1
            tags[key] = "{" + ",".join(entries[i] for i in keep) + "}" if one_each else text
        return Bands(
            len(keep),
            some(self.wavelengths_nm),
            some(self.fwhm_nm),
            self.good_bands[keep],
            tuple(self.band_names[i] for i in keep) if self.band_names else (),
            self.encoding,
            tags,
        )


def _check_bands(described: Raster | Bands) -> None:
    bands = described.bands
    for name in ("wavelengths_nm", "fwhm_nm", "good_bands"):
        value = getattr(described, name)
        if value is not None and value.shape != (bands,):
            raise ReadError(f"{name} must have one entry for each of {bands} bands, got shape {value.shape}")
    if described.band_names and len(described.band_names) != bands:
        raise ReadError(f"{len(described.band_names)} band names for {bands} bands")
