"""Where an open raster lies: its transform, else its ground control points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from hsi_fuse.errors import GridError, ReadError
from hsi_fuse.grid import Grid
from hsi_fuse.read.source import warn

FEWEST_POINTS = 3
MOST_BENT = 0.05
"""What an affine may miss of the ground control points, as a share of the image's longer side."""
PLAIN = (Affine.identity(), Affine.scale(1, -1))
"""Transforms that are nothing but pixel numbers."""


def grid_of(dataset: Any, path: Path) -> Grid:
    """The grid of an open dataset.

    A local CRS ("Arbitrary" in ENVI) cannot be related to any other, so it counts as none.

    Raises
    ------
    ReadError
        If the transform makes no sense, the ground control points fit no affine, or the file is placed by
        rational polynomials (RPC) alone: they need the heights of the ground.
    """
    crs, transform = _usable(dataset.crs), dataset.transform
    if transform in PLAIN:
        points, points_crs = dataset.gcps
        if points:
            crs, transform = _by_control_points(points, _usable(points_crs), dataset, path)
        elif _has_rpcs(dataset):
            raise ReadError(
                f"{path} is placed by rational polynomials (RPC) alone, which need a terrain model; "
                "orthorectify it first (gdalwarp -rpc -to RPC_DEM=dem.tif)"
            )
    return checked_grid(crs, transform, dataset.width, dataset.height, path)


def checked_grid(crs: CRS | None, transform: Affine, width: int, height: int, path: Path) -> Grid:
    """A grid, or a ReadError that names the file whose transform makes none."""
    try:
        return Grid(crs, transform, width, height)
    except GridError as error:
        raise ReadError(f"{path}: {error}; correct its georeferencing") from error


def _usable(crs: CRS | None) -> CRS | None:
    return crs if crs is not None and (crs.is_projected or crs.is_geographic) else None


def _has_rpcs(dataset: Any) -> bool:
    return bool(dataset.tags(ns="RPC"))


def _by_control_points(
    points: list[Any], crs: CRS | None, dataset: Any, path: Path
) -> tuple[CRS | None, Affine]:
    """The affine nearest to ground control points, by least squares; what it misses is told."""
    pixels = np.array([(p.col, p.row, 1.0) for p in points], float)
    ground = np.array([(p.x, p.y) for p in points], float)
    known = np.isfinite(pixels).all(1) & np.isfinite(ground).all(1)
    pixels, ground = pixels[known], ground[known]
    if len(pixels) < FEWEST_POINTS or np.linalg.matrix_rank(pixels) < 3:
        warn(f"{path}: its {len(points)} ground control points fix no place; they are not used")
        return None, Affine.identity()
    middle = ground.mean(0)  # coordinates of millions would cost digits
    fit = np.linalg.lstsq(pixels, ground - middle, rcond=None)[0]  # (3, 2)
    (a, d), (b, e), (c, f) = fit
    transform = Affine(a, b, c + middle[0], d, e, f + middle[1])
    if not transform.determinant:
        raise ReadError(f"{path}: its ground control points lie on one line; correct or remove them")
    columns, rows = ~Affine(a, b, c, d, e, f) * (ground - middle).T
    missed = float(np.hypot(columns - pixels[:, 0], rows - pixels[:, 1]).max())
    if missed > MOST_BENT * max(dataset.width, dataset.height):
        raise ReadError(
            f"{path} is placed by {len(pixels)} ground control points that no affine fits (off by up to "
            f"{missed:.0f} pixels); warp it first (gdalwarp -tps)"
        )
    warn(
        f"{path} is placed by {len(pixels)} ground control points: the affine nearest to them is used, "
        f"which is off by up to {missed:.2g} pixels"
    )
    return crs, transform
