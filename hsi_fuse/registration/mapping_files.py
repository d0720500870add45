"""A mapping as files: the displacement as a GeoTIFF, which a later run can follow, and tie points as GeoJSON.

Displacement (`*_displacement.tif`): two float32 bands on the HSI's grid, to the east and to the north, in
metres. Ground that the HSI's georeferencing puts at x shows in the guide where the guide's georeferencing
says x + d. East and north are the axes of the file's CRS; `Grid.metres_per_unit` says what a degree or a foot
of it measures. Without a CRS d is in units of the geotransform, without georeferencing in HSI pixels (to the
right, down). Where either image lacks georeferencing, the guide's is that both show the same ground from edge
to edge.

Tie points (`*_ties.geojson`): a line for each, from a place by the HSI's georeferencing to where the guide's
georeferencing shows it. Longitude and latitude (RFC 7946); without a CRS coordinates of the image's
geotransform, which the member `coordinate_system` then says. Properties, of points that took no part in the
fit:

    column, row                                    the place, pixels of the product, corner-based
    before_px, before_m                            length of the residual by the georeferencing alone
    before_east_m, before_north_m                  its components
    after_px, after_m, after_east_m, after_north_m the same after registration

Metres are null without georeferencing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.warp
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsi_fuse.align import Alignment, Array, from_guide, to_guide
from hsi_fuse.grid import Grid
from hsi_fuse.gtiff import write_image

ENDINGS = ("_ties.geojson", "_displacement.tif")
WGS84 = CRS.from_epsg(4326)


def ground_of(hsi: Grid, crs: CRS | None) -> Grid:
    """The HSI's grid in the CRS that it has or is taken to have; plain pixels without georeferencing."""
    return replace(hsi, crs=crs) if hsi.georeferenced else replace(hsi, transform=Affine.identity())


def write_mapping(output: Path, alignment: Alignment, ground: Grid, scale: int) -> None:
    """Write both files beside `output`, under its stem and `ENDINGS`.

    Parameters
    ----------
    output : Path
    alignment : Alignment
    ground : Grid
        See `ground_of`.
    scale : int
        Fine pixels for each HSI pixel.

    Raises
    ------
    WriteError
    """
    ties, displacement = (output.with_name(output.stem + ending) for ending in ENDINGS)
    ties.write_text(tie_points_geojson(alignment, ground, scale), encoding="utf-8", newline="\n")
    axes, unit = ("to the east", "to the north"), "m"
    if not ground.georeferenced:
        axes, unit = ("to the right", "down"), "pixels"
    elif ground.crs is None:
        unit = "units of the geotransform"
    names = [f"displacement {axis}, {unit}" for axis in axes]
    write_image(displacement, displacement_m(alignment, ground, scale), ground, descriptions=names)


def displacement_m(alignment: Alignment, ground: Grid, scale: int) -> NDArray[np.float32]:
    """The displacement to the east and to the north at the centres of HSI pixels, (2, h, w), metres."""
    shape, coarse = ground.shape, Affine.scale(scale)
    x, y = np.meshgrid(np.arange(ground.width) + 0.5, np.arange(ground.height) + 0.5)
    there = to_guide(alignment.hsi_to_guide * coarse, alignment.displacement_px, shape, x, y, order=3)
    claimed = from_guide(alignment.start * coarse, alignment.start_displacement_px, shape, *there)
    return _on_ground(ground, x, y, claimed - np.stack([x, y])).astype(np.float32)


def tie_points_geojson(alignment: Alignment, ground: Grid, scale: int) -> str:
    """The tie points as GeoJSON text, one feature a line."""
    fine = ground.refine(scale)
    column, row = alignment.ties_after[:, :2].T
    moves = {"before": alignment.ties_before[:, 2:].T, "after": alignment.ties_after[:, 2:].T}
    ends = _lonlat(fine, column, row), _lonlat(fine, column + moves["before"][0], row + moves["before"][1])
    table: dict[str, Array] = {"column": column, "row": row}
    for name, move in moves.items():
        east, north = _on_ground(fine, column, row, move)
        table[f"{name}_px"] = np.hypot(*move)
        table |= {f"{name}_m": np.hypot(east, north), f"{name}_east_m": east, f"{name}_north_m": north}
    features = []
    for i in range(len(column)):
        properties = {
            name: None if name.endswith("_m") and not ground.georeferenced else round(float(values[i]), 4)
            for name, values in table.items()
        }
        line = {"type": "LineString", "coordinates": [np.round(end[i], 9).tolist() for end in ends]}
        features.append({"type": "Feature", "geometry": line, "properties": properties})
    members: dict[str, Any] = {"type": "FeatureCollection"}
    if ground.crs is None:
        members["coordinate_system"] = "the image's geotransform; it names no CRS"
    body = ",\n".join(map(json.dumps, features))
    return json.dumps(members)[:-1] + f', "features": [\n{body}\n]}}\n'


def _on_ground(grid: Grid, columns: Array, rows: Array, move: Array) -> Array:
    """A move (2, ...) in pixels at places of the grid, as metres to the east and to the north."""
    a, b, _, d, e, f = grid.transform[:6]
    east, north = grid.metres_per_unit(d * columns + e * rows + f)
    return np.stack([(a * move[0] + b * move[1]) * east, (d * move[0] + e * move[1]) * north])


def _lonlat(grid: Grid, columns: Array, rows: Array) -> Array:
    """WGS84 longitude and latitude of places, or without a CRS their coordinates: (N, 2)."""
    x, y = grid.transform * (columns, rows)  # type: ignore[operator]  # affine takes arrays too
    if grid.crs is not None and len(columns):
        x, y = rasterio.warp.transform(grid.crs, WGS84, x, y)
    return np.stack([x, y], 1)
