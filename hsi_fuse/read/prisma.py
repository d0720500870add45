"""PRISMA L2D (.he5). Experimental: built from the format's description, no real file was at hand.

Structure: ASI, PRISMA Products Specification Document, issue 2.3 (2020). Swath `PRS_L2D_HCO`, a cube (row,
band, column) of uint16 for each detector, reflectance = min + stored (max - min) / 65535; bands run from long
to short wavelengths, and those of wavelength 0 were not downloaded.
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
from hsi_fuse.grid import Grid
from hsi_fuse.read.hdf5 import attribute, crs_of, dataset, is_hdf5, opened_hdf5, text_attribute
from hsi_fuse.read.place import checked_grid
from hsi_fuse.read.source import Numbers, Source
from hsi_fuse.read.store import BLOCK_BYTES, Flags, Opened
from hsi_fuse.read.wavelengths import spectrum_of

SWATHS = "HDFEOS/SWATHS"
FIELDS = f"{SWATHS}/PRS_L2D_HCO/Data Fields"
DETECTORS = ("Vnir", "Swir")
STEPS = 65535
PIXEL_M = 30.0


def find(path: Path) -> Source | None:
    """The hyperspectral cube of a PRISMA L2D file; None for other files.

    Bands come out in the order of their wavelengths within each detector, VNIR first.

    Raises
    ------
    ReadError
        For a PRISMA product of another level, or an incomplete one.
    """
    if not is_hdf5(path):
        return None
    with opened_hdf5(path) as file:
        swaths = file.get(SWATHS)
        names = sorted(swaths) if swaths is not None else []
        if "PRS_L2D_HCO" in names:
            return _describe(file, path)
        other = [name for name in names if name.startswith("PRS_")]
    if other:
        raise ReadError(
            f"{path} is a PRISMA product that does not lie on a map ({', '.join(other)}); order level L2D"
        )
    return None


def _describe(file: Any, path: Path) -> Source:
    cubes = {each: dataset(file, f"{FIELDS}/{each.upper()}_Cube", 3, path) for each in DETECTORS}
    (height, _, width), (other_height, _, other_width) = (cube.shape for cube in cubes.values())
    if (height, width) != (other_height, other_width):
        raise ReadError(
            f"{path}: VNIR_Cube covers {height} x {width} pixels, SWIR_Cube {other_height} x {other_width}"
        )
    bands = [_bands(file, each, cubes[each].shape[1], path) for each in DETECTORS]
    scales = [_scaling(file, each, path) for each in DETECTORS]
    sizes = [len(each.order) for each in bands]
    return Source(
        path=path,
        store=PrismaStore(path, tuple(tuple(each.order.tolist()) for each in bands)),
        grid=_grid(file, height, width, path),
        dtype=str(np.result_type(*(cube.dtype for cube in cubes.values()))),
        scale=np.repeat([scale for scale, _ in scales], sizes),
        offset=np.repeat([offset for _, offset in scales], sizes),
        nodata=(0.0,) * sum(sizes),
        spectrum=spectrum_of(
            np.concatenate([each.wavelengths_nm for each in bands]),
            np.concatenate([each.fwhm_nm for each in bands]),
            "nm",
            None,
            path,
        ),
        tags={"sensor": "PRISMA", "product": "L2D", **tag_of(text_attribute(file, "Product_StartTime"))},
    )


@dataclass(frozen=True)
class _Bands:
    order: NDArray[np.intp]
    wavelengths_nm: Numbers
    fwhm_nm: Numbers


def _bands(file: Any, detector: str, count: int, path: Path) -> _Bands:
    centre = attribute(file, f"List_Cw_{detector}", path, count)
    width = attribute(file, f"List_Fwhm_{detector}", path, count)
    order = np.argsort(centre, kind="stable")
    order = order[centre[order] > 0]
    if not len(order):
        raise ReadError(f"{path}: List_Cw_{detector} names no band")
    return _Bands(order, centre[order], width[order])


def _scaling(file: Any, detector: str, path: Path) -> tuple[float, float]:
    low, high = (float(attribute(file, f"L2Scale{detector}{end}", path)[0]) for end in ("Min", "Max"))
    if not high > low:
        raise ReadError(f"{path}: L2Scale{detector}Max is {high}, not above L2Scale{detector}Min {low}")
    return (high - low) / STEPS, low


def _grid(file: Any, height: int, width: int, path: Path) -> Grid:
    """From the corners, which are pixel centres or pixel corners: what makes pixels of 30 m is meant."""

    def place(corner: str) -> tuple[float, float]:
        east, north = (
            float(attribute(file, f"Product_{corner}corner_{axis}", path)[0])
            for axis in ("easting", "northing")
        )
        return east, north

    west, north = place("UL")
    east, south = place("LR")
    centred = abs((east - west) / max(width - 1, 1) - PIXEL_M) < abs((east - west) / width - PIXEL_M)
    dx, dy = ((east - west) / max(width - centred, 1), (north - south) / max(height - centred, 1))
    if not (0.5 < dx / PIXEL_M < 2 and 0.5 < dy / PIXEL_M < 2):
        raise ReadError(
            f"{path}: Product_ULcorner_easting, Product_ULcorner_northing, Product_LRcorner_easting and "
            f"Product_LRcorner_northing make pixels of {dx:.4g} x {dy:.4g} m in cubes of {height} x {width} "
            f"pixels; PRISMA's measure {PIXEL_M:g} m"
        )
    crs = crs_of(int(attribute(file, "Epsg_Code", path)[0]), path)
    corner = Affine(dx, 0, west, 0, -dy, north) * Affine.translation(-centred / 2, -centred / 2)
    return checked_grid(crs, corner, width, height, path)


@dataclass(frozen=True)
class PrismaStore:
    """Both cubes of a PRISMA file.

    Attributes
    ----------
    path : Path
    order : tuple of tuple of int
        Bands of each detector to give, 0-based.
    """

    path: Path
    order: tuple[tuple[int, ...], ...]

    @contextmanager
    def opened(self) -> Iterator[Opened]:
        """Open it."""
        with opened_hdf5(self.path) as file:
            yield _PrismaOpened([file[f"{FIELDS}/{each.upper()}_Cube"] for each in DETECTORS], self.order)


class _PrismaOpened:
    def __init__(self, cubes: list[Any], order: tuple[tuple[int, ...], ...]) -> None:
        self._cubes, self._order = cubes, order
        per_row = sum(cube.shape[1] * cube.shape[2] * cube.dtype.itemsize for cube in cubes)
        self.rows_at_once = max(1, BLOCK_BYTES // per_row)

    def read(self, window: Window) -> tuple[NDArray[Any], Flags]:
        rows, columns = window.toslices()
        parts = [
            cube[rows, :, columns][:, list(order)].transpose(1, 0, 2)
            for cube, order in zip(self._cubes, self._order, strict=True)
        ]
        return np.concatenate(parts), np.zeros((1, 1, 1), bool)
