"""A mapping from a displacement file (see `mapping_files`): followed as it is, instead of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from hsi_fuse.align import Alignment, Array, as_affine, fill_holes, from_guide, interpolated, to_guide
from hsi_fuse.errors import GridError, ReadError
from hsi_fuse.grid import Grid
from hsi_fuse.planning import Plan
from hsi_fuse.raster import Raster
from hsi_fuse.read.recognise import describe
from hsi_fuse.read.source import read_values
from hsi_fuse.registration.mapping_files import ground_of

MOST_NODES = 1024
"""Largest side of the lattice that carries the mapping; in smaller scenes it has every centre and corner."""
EXACT_PX = 1e-6
SEARCHED = (
    *(
        "probability",
        "shift_px",
        "shift_m",
        "content_offset_east_m",
        "content_offset_north_m",
        "rotation_deg",
    ),
    *("scale_change", "standard_error_px", "standard_error_m", "local_amplitude_px", "local_length_px"),
)
"""Figures of a search and a fit, which a mapping that is followed has not had."""


def follow(path: str | Path, hsi: Raster, planned: Plan) -> Plan:
    """A plan whose start is the mapping of a displacement file instead of the georeferencing.

    Parameters
    ----------
    path : path
        Two bands on any grid, in any CRS, that cover the HSI's valid pixels.
    hsi : Raster
    planned : Plan

    Raises
    ------
    ReadError
        Not a raster of two bands.
    GridError
        It does not cover the HSI, or has no value at some of its pixels.
    """
    ground = ground_of(hsi.grid, planned.target.crs)
    values, grid = _read(path, ground)
    _check_cover(path, values, grid, ground, hsi.valid)
    columns, rows = np.meshgrid(
        *(np.linspace(0, side, min(2 * side, MOST_NODES) + 1) for side in (ground.width, ground.height))
    )
    at = ground.to_pixels_of(grid, columns, rows)
    # cubic, as a smooth field asks for: bilinear costs up to 0.1 pixels where it is lively
    whole = fill_holes(values, np.isnan(values[0]))
    east, north = interpolated(whole, at[0] - 0.5, at[1] - 0.5, 3, 2)
    x, y = grid.transform * at  # type: ignore[operator]  # affine takes arrays too
    unit = grid.metres_per_unit(y)
    moved = ~grid.transform * (x + east / unit[0], y + north / unit[1])
    claimed = grid.to_pixels_of(ground, *moved)
    there = to_guide(planned.start, planned.displacement, ground.shape, *claimed)
    if not np.isfinite(there).all():
        raise GridError(f"{path}: its displacements lead to places that {ground.crs} cannot express")
    mapping, rest = as_affine(columns, rows, *there)
    return replace(planned, start=mapping, displacement=rest if np.abs(rest).max() > EXACT_PX else None)


def as_followed(alignment: Alignment, planned: Plan, hsi: Grid, path: str | Path) -> Alignment:
    """The alignment of a run that followed a file, told as every other: against the georeferencing.

    Parameters
    ----------
    alignment : Alignment
        Its start is the file's mapping.
    planned : Plan
        By the georeferencing.
    hsi : Grid
    path : path
        Of the file.
    """
    start, shape = planned.start * Affine.scale(1 / planned.scale), planned.target.shape
    place, move = alignment.ties_after[:, :2].T, alignment.ties_after[:, 2:].T
    there = to_guide(alignment.hsi_to_guide, alignment.displacement_px, shape, *(place + move))
    claimed = from_guide(start, planned.displacement, shape, *there)
    before = np.concatenate([place, claimed - place]).T
    found = {name: value for name, value in alignment.found.items() if name not in SEARCHED}
    found |= {"displacement": str(path), **_residuals(before, hsi.gsd_m / planned.scale)}
    return replace(
        alignment,
        start=start,
        start_displacement_px=planned.displacement,
        ties_before=before,
        found=found,
    )


def _residuals(ties: Array, pixel_m: float) -> Mapping[str, Any]:
    """Figures of tie points by the georeferencing alone."""
    if not len(ties):
        return {}
    length = np.hypot(ties[:, 2], ties[:, 3])
    rmse = float(np.sqrt((length**2).mean()))
    return {
        "before_rrmse_px": rmse,
        "before_rrmse_m": rmse * pixel_m,
        "before_ce90_px": float(np.quantile(length, 0.9)),
        "before_bias_px": ties[:, 2:].mean(0).tolist(),
    }


def _read(path: str | Path, ground: Grid) -> tuple[NDArray[np.float32], Grid]:
    """Both bands, NaN where there is no value, and their grid."""
    source = describe(path)
    if source.bands != 2:
        raise ReadError(
            f"{path} has {source.bands} bands; a displacement has 2 (to the east and to the north, "
            "metres), as `hsi-fuse align` writes it"
        )
    with source.store.opened() as image:
        values = read_values(image, source, Window(0, 0, source.grid.width, source.grid.height))
    values[:, ~np.isfinite(values).all(0)] = np.nan
    return values, replace(source.grid, crs=source.grid.crs or ground.crs)


def _check_cover(
    path: str | Path, values: NDArray[np.float32], grid: Grid, ground: Grid, valid: NDArray[np.bool_]
) -> None:
    """GridError unless there is a value at every valid pixel of the HSI."""
    rows, columns = np.nonzero(valid)
    at = np.stack(ground.to_pixels_of(grid, columns + 0.5, rows + 0.5))
    inside = (at[0] >= 0) & (at[0] < grid.width) & (at[1] >= 0) & (at[1] < grid.height)
    if not inside.any():
        raise GridError(
            f"{path} does not overlap the HSI: it covers {_spelt(grid)}, the HSI {_spelt(ground)}; "
            "check the CRS and geotransform of both"
        )
    if not inside.all():
        raise GridError(
            f"{path} covers {100 * inside.mean():.1f} % of the HSI's valid pixels; it must cover all of them"
        )
    column, row = at.astype(int)
    missing = int(np.isnan(values[0, row, column]).sum())
    if missing:
        raise GridError(
            f"{path} has no value (NaN or nodata) at {missing} of the HSI's {len(rows)} valid pixels; "
            "fill its holes first (gdal_fillnodata)"
        )


def _spelt(grid: Grid) -> str:
    west, south, east, north = grid.bounds
    return f"{west:.10g}..{east:.10g}, {south:.10g}..{north:.10g} in {grid.crs or 'no CRS'}"
