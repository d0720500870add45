"""Physical values -> the numbers that a file stores, without inventing or losing any."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_fuse.errors import WriteError
from hsi_fuse.raster import Encoding
from hsi_fuse.threads import at_once

PIECE = 1 << 15
"""Values encoded at a time: they stay in the processor's cache."""
PIECES = 32
"""Of which a thread takes so many one after the other."""


@dataclass(frozen=True)
class Encoder:
    """stored = round((value - offset) / scale), kept inside the type and off the nodata number.

    Attributes
    ----------
    encoding : Encoding
        Its nodata is the number written for NaN, never None.
    reserved : bool
        True where that nodata number was chosen here, since the encoding named none.
    """

    encoding: Encoding
    reserved: bool

    @classmethod
    def of(cls, encoding: Encoding) -> Encoder:
        """Whose nodata fits the type: as given, else NaN (float) or an end of the range (integer)."""
        dtype, nodata = np.dtype(encoding.dtype), encoding.nodata
        if dtype.kind not in "iuf" or encoding.scale == 0:
            raise WriteError(
                f"values cannot be stored as {encoding.dtype} with scale {encoding.scale}; "
                "use an integer or float type and a scale other than 0"
            )
        if dtype.kind == "f":
            with np.errstate(over="ignore"):
                stored = math.nan if nodata is None else float(dtype.type(nodata))
            stored = stored if math.isfinite(stored) else math.nan
            return cls(Encoding(encoding.dtype, encoding.scale, encoding.offset, stored), False)
        limits = np.iinfo(dtype)
        if nodata is not None and float(nodata).is_integer() and limits.min <= nodata <= limits.max:
            return cls(encoding, False)
        # headers and GDAL keep nodata as float64, which rounds the largest 64-bit integer up and out
        highest = limits.max if float(limits.max) <= limits.max else math.nextafter(float(limits.max), 0)
        chosen = limits.min if dtype.kind == "i" else highest
        return cls(Encoding(encoding.dtype, encoding.scale, encoding.offset, float(chosen)), True)

    def __call__(self, values: NDArray[np.float32]) -> tuple[NDArray[Any], int]:
        """Encode an array of any shape; NaN becomes nodata.

        Returns
        -------
        stored : ndarray, the encoding's dtype
        clipped : int
            Values that did not fit: beyond the type's range, or equal to the nodata number.
        """
        stored = np.empty(values.shape, self.encoding.dtype)
        values, out = values.reshape(-1), stored.reshape(-1)
        encode = self._floats if stored.dtype.kind == "f" else self._integers

        def encoded(start: int) -> int:
            clipped = 0
            for first in range(start, min(start + PIECES * PIECE, len(values)), PIECE):
                piece = slice(first, first + PIECE)
                out[piece], beyond = encode(values[piece])
                clipped += beyond
            return clipped

        return stored, sum(at_once(encoded, range(0, len(values), PIECES * PIECE)))

    def _integers(self, values: NDArray[np.float32]) -> tuple[NDArray[Any], int]:
        assert self.encoding.nodata is not None
        dtype, wanted = np.dtype(self.encoding.dtype), self._scaled(values)
        nodata, limits = int(self.encoding.nodata), np.iinfo(dtype)
        low, high = limits.min + (nodata == limits.min), limits.max - (nodata == limits.max)
        rounded = np.rint(wanted)
        least, most = rounded.min(initial=high), rounded.max(initial=low)  # NaN where one is
        if low <= least and most <= high and not least <= nodata <= most:  # nearly always
            return cast(rounded, dtype, low, high), 0
        missing = np.isnan(values)
        wanted[missing] = rounded[missing] = low
        inside = np.clip(rounded, low, high)
        if low <= nodata <= high:
            collides = inside == nodata
            inside[collides] += np.where(wanted[collides] >= nodata, 1, -1)
        stored = cast(inside, dtype, low, high)
        stored[missing] = nodata
        return stored, int(np.count_nonzero((inside != rounded) & ~missing))

    def _floats(self, values: NDArray[np.float32]) -> tuple[NDArray[Any], int]:
        assert self.encoding.nodata is not None
        dtype, missing, wanted = np.dtype(self.encoding.dtype), np.isnan(values), self._scaled(values)
        with np.errstate(over="ignore"):
            stored = wanted.astype(dtype)
        limit = np.finfo(dtype).max
        beyond = ~missing & ~np.isfinite(stored)
        np.clip(stored, -limit, limit, out=stored)
        collides = ~missing & (stored == dtype.type(self.encoding.nodata))
        stored[collides] = np.nextafter(stored[collides], dtype.type(np.inf))
        stored[missing] = self.encoding.nodata
        return stored, int(np.count_nonzero(beyond) + np.count_nonzero(collides))

    def _scaled(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """What is to be stored, not rounded yet."""
        wanted = values.astype(np.float64)
        if self.encoding.offset:
            wanted -= self.encoding.offset
        if self.encoding.scale != 1:
            wanted /= self.encoding.scale
        return wanted


def cast(inside: NDArray[np.float64], dtype: np.dtype[Any], low: int, high: int) -> NDArray[Any]:
    """Whole numbers as integers.

    float64 holds no 64-bit extreme: 2**63 - 1 rounds up to 2**63, which does not fit.
    """
    if dtype.itemsize < 8:
        return inside.astype(dtype)
    stored = np.empty(inside.shape, dtype)
    top, bottom = inside >= float(high), inside <= float(low)
    middle = ~(top | bottom)
    stored[top], stored[bottom] = high, low
    stored[middle] = inside[middle].astype(dtype)
    return stored
