"""Where stored numbers lie: one raster, several that belong together, or a palette.

A `Store` is a value (it travels to other processes); opened, it gives stored numbers window by window.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # rasterio lets some of GDAL's errors through as they are
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from hsi_fuse.errors import ReadError

BLOCK_BYTES = 64 << 20
Flags = NDArray[np.bool_]
_NO_STORED_MASK = {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha}


class Opened(Protocol):
    """An image that is open for reading.

    Attributes
    ----------
    rows_at_once : int
        Rows to ask for at a time when all are wanted: whole blocks of the file, of about `BLOCK_BYTES`.
    """

    rows_at_once: int

    def read(self, window: Window) -> tuple[NDArray[Any], Flags]:
        """Stored numbers of the measured bands, (band, y, x), in the file's type; and where the file says
        "no data" by other means than a number, which broadcasts to (band, y, x)."""


class Store(Protocol):
    """Something that can be opened for reading, again and again."""

    def opened(self) -> AbstractContextManager[Opened]:
        """Open it.

        Raises
        ------
        ReadError
        """


@contextmanager
def opened(path: Path, driver: str | None = None, *, sidecar: bool = False) -> Iterator[Any]:
    """Open a raster, by default blind to an `.aux.xml` beside it (it may contradict the file itself)."""
    options = {"driver": driver} if driver else {}
    # a VRT may name anything: what lies on a server must not let us wait for ever
    env = {"GDAL_PAM_ENABLED": "YES" if sidecar else "NO", "GDAL_HTTP_CONNECTTIMEOUT": "5"}
    try:
        with warnings.catch_warnings(), rasterio.Env(**env):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # the grid says so by itself
            with rasterio.open(path, **options) as dataset:
                yield dataset
    except (RasterioError, CPLE_BaseError, UnicodeError) as error:  # the last: names that are no text
        raise ReadError(
            f"cannot read {path}: {error}. Is it a complete raster that GDAL knows (gdalinfo)?"
        ) from error


@dataclass(frozen=True)
class GdalStore:
    """Bands of a raster that GDAL opens.

    Attributes
    ----------
    path : Path
    driver : str or None
        GDAL driver that must open it; None: any.
    indexes : tuple of int
        1-based bands of the file that are measurements, in file order.
    alpha : int or None
        1-based band that is 0 where there is no data.
    """

    path: Path
    driver: str | None
    indexes: tuple[int, ...]
    alpha: int | None = None

    @contextmanager
    def opened(self) -> Iterator[Opened]:
        """Open it."""
        with opened(self.path, self.driver) as dataset:
            yield _GdalOpened(dataset, self.indexes, self.alpha)


class _GdalOpened:
    def __init__(self, dataset: Any, indexes: tuple[int, ...], alpha: int | None) -> None:
        self._dataset, self._indexes, self._alpha = dataset, indexes, alpha
        per_row = dataset.width * dataset.count * np.dtype(dataset.dtypes[0]).itemsize
        block = dataset.block_shapes[0][0]
        self.rows_at_once = max(1, BLOCK_BYTES // per_row // block) * block
        flags = [set(of) for of in dataset.mask_flag_enums]  # once: GDAL is asked of every band each time
        self._masks = tuple(i for i in indexes if not flags[i - 1] & _NO_STORED_MASK)
        self._one_mask = bool(self._masks) and MaskFlags.per_dataset in flags[self._masks[0] - 1]

    def read(self, window: Window) -> tuple[NDArray[Any], Flags]:
        # one call: pixel-interleaved files are read once
        return self._dataset.read(self._indexes, window=window), self._masked(window)

    def _masked(self, window: Window) -> Flags:
        data, missing = self._dataset, np.zeros((1, int(window.height), int(window.width)), bool)
        if self._alpha is not None:
            missing = missing | (data.read(self._alpha, window=window) == 0)
        if not self._masks:
            return missing
        if self._one_mask:
            return missing | (data.read_masks(self._masks[0], window=window) == 0)
        per_band = [
            data.read_masks(i, window=window) == 0 if i in self._masks else np.zeros(missing.shape[1:], bool)
            for i in self._indexes
        ]
        return missing | np.stack(per_band)


@dataclass(frozen=True)
class Palette:
    """A band of numbers that stand for colours, expanded to the colours: red, green, blue.

    Attributes
    ----------
    store : Store
        Of one band.
    colours : tuple of (int, int, int, int)
        Red, green, blue and alpha of the numbers 0, 1, ...; a number beyond them has no data.
    """

    store: Store
    colours: tuple[tuple[int, int, int, int], ...]

    @contextmanager
    def opened(self) -> Iterator[Opened]:
        """Open it."""
        with self.store.opened() as inner:
            yield _PaletteOpened(inner, np.array(self.colours, np.uint8))


class _PaletteOpened:
    def __init__(self, inner: Opened, table: NDArray[np.uint8]) -> None:
        self._inner, self._table, self.rows_at_once = inner, table, inner.rows_at_once

    def read(self, window: Window) -> tuple[NDArray[np.uint8], Flags]:
        stored, masked = self._inner.read(window)
        known = (stored[0] >= 0) & (stored[0] < len(self._table))
        rgba = self._table[np.where(known, stored[0], 0)].transpose(2, 0, 1)
        return rgba[:3], masked | ~known | (rgba[3:] == 0)


@dataclass(frozen=True)
class Stack:
    """Several stores on one grid, one behind the other."""

    stores: tuple[Store, ...]

    @contextmanager
    def opened(self) -> Iterator[Opened]:
        """Open all."""
        with ExitStack() as stack:
            yield _StackOpened([stack.enter_context(store.opened()) for store in self.stores])


class _StackOpened:
    def __init__(self, parts: list[Opened]) -> None:
        self._parts, self.rows_at_once = parts, min(part.rows_at_once for part in parts)

    def read(self, window: Window) -> tuple[NDArray[Any], Flags]:
        read = [part.read(window) for part in self._parts]
        masked = [np.broadcast_to(flags, stored.shape) for stored, flags in read]
        return np.concatenate([stored for stored, _ in read]), np.concatenate(masked)
