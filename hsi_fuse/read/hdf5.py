"""HDF5 for the product readers: opened, asked and doubted in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from hsi_fuse.errors import ReadError
from hsi_fuse.read.source import Numbers, brief

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Whether a path is a file that starts as HDF5 does."""
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


@contextmanager
def opened_hdf5(path: Path) -> Iterator[Any]:
    """Open it; whatever the library stumbles over becomes a ReadError."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ReadError(f"cannot read {path}: {error}. Is the file complete?") from error


def dataset(file: Any, name: str, axes: int, path: Path) -> Any:
    """A data set of so many axes.

    Raises
    ------
    ReadError
        If it is missing, of other axes, or holds no numbers.
    """
    found = file.get(name)
    if not isinstance(found, h5py.Dataset) or found.ndim != axes or found.dtype.kind not in "iuf":
        what = "missing" if found is None else "not an array of numbers with " + f"{axes} axes"
        raise ReadError(f"{path}: {name} is {what}; is the product complete?")
    if 0 in found.shape:
        raise ReadError(f"{path}: {name} is empty, {found.shape}")
    return found


def vector(file: Any, name: str, count: int, path: Path) -> Numbers:
    """A data set of `count` numbers."""
    found = dataset(file, name, 1, path)
    if found.shape != (count,):
        raise ReadError(f"{path}: {name} has {found.shape[0]} entries for {count} bands")
    return np.asarray(found[()], float)


def attribute(file: Any, name: str, path: Path, count: int = 1) -> Numbers:
    """An attribute of `count` numbers.

    Raises
    ------
    ReadError
        If it is missing, or holds something else.
    """
    if name not in file.attrs:
        raise ReadError(f"{path}: the attribute {name} is missing; is the product complete?")
    try:
        values = np.asarray(file.attrs[name]).astype(float).ravel()
    except (TypeError, ValueError):
        raise ReadError(f"{path}: the attribute {name} holds no numbers") from None
    if len(values) != count or not np.isfinite(values).all():
        raise ReadError(f"{path}: the attribute {name} is {values[:8]}; {count} finite numbers are expected")
    return values


def text_attribute(file: Any, name: str) -> str:
    """An attribute as text; empty where it is missing."""
    found = file.attrs.get(name, "")
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def crs_of(text: str | int, path: Path) -> CRS:
    """The CRS of a WKT text or an EPSG number."""
    try:
        return CRS.from_epsg(text) if isinstance(text, int) else CRS.from_wkt(text)
    except CRSError:
        raise ReadError(f"{path}: {brief(str(text))} is no coordinate system") from None
