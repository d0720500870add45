"""Pairs of grids and mappings between them, as if a search had found them."""

from __future__ import annotations

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter

from hsi_fuse.align import Alignment, start_mapping, to_guide
from hsi_fuse.grid import Grid
from hsi_fuse.planning import Plan
from hsi_fuse.raster import Raster

SCALE = 4
UTM32, UTM33, DEGREES, FEET = (CRS.from_epsg(code) for code in (32632, 32633, 4326, 2263))
NORTH_UP = Affine(4, 0, 700_000, 0, -4, 5_400_000)
TURNED = Affine.translation(700_000, 5_400_000) * Affine.rotation(25) * Affine.scale(4, -4)
DEGREE = Affine(5e-5, 0, 11.7, 0, -4e-5, 48.7)


def grid_of(crs: CRS | None, transform: Affine, scale: int = 1) -> Grid:
    return Grid(crs, transform, 40, 30).refine(scale)


# (HSI, guide): the guide's pixels are a quarter of the HSI's
GRIDS = {
    "one system": (grid_of(UTM32, NORTH_UP), grid_of(UTM32, NORTH_UP, SCALE)),
    "turned": (grid_of(UTM32, TURNED), grid_of(UTM32, NORTH_UP, SCALE)),
    "two zones": (
        grid_of(UTM32, NORTH_UP),
        Grid(UTM33, Affine(1, 0, 259_500, 0, -1, 5_409_500), 400, 400),
    ),
    "degrees": (grid_of(DEGREES, DEGREE), grid_of(DEGREES, DEGREE, SCALE)),
    "degrees, guide in metres": (
        grid_of(DEGREES, DEGREE),
        Grid(UTM32, Affine(1, 0, 698_500, 0, -1, 5_398_500), 400, 400),
    ),
    "feet": (grid_of(FEET, NORTH_UP), grid_of(FEET, NORTH_UP, SCALE)),
    "no CRS": (grid_of(None, NORTH_UP), grid_of(None, NORTH_UP, SCALE)),
    "no georeferencing": (grid_of(None, Affine.identity()), Grid(None, Affine.identity(), 160, 120)),
}


def planned(hsi: Grid, guide: Grid) -> Plan:
    start, bend = start_mapping(hsi, guide)
    return Plan(SCALE, hsi.refine(SCALE), start, bend, 1.0, 0.25, 0, {})


def waves(shape: tuple[int, int], rms: float) -> np.ndarray:
    """A smooth random displacement on a lattice of HSI corners, guide pixels."""
    noise = np.random.default_rng(1).standard_normal((2, shape[0] + 1, shape[1] + 1))
    smooth = gaussian_filter(noise, (0, 5, 5))
    return (rms * smooth / smooth.std()).astype(np.float32)


NOWHERE = Affine.identity()
OFF = Affine.translation(2.3, -1.2) * Affine.rotation(3) * Affine.scale(1.01)


def aligned(plan: Plan, off: Affine = NOWHERE, local_px: float = 0.0) -> Alignment:
    """As if the search had found that content lies `off` (HSI pixels) from where georeferencing puts it."""
    height, width = plan.target.shape
    shape = (height // SCALE, width // SCALE)
    fine = Affine.scale(1 / SCALE)
    bend = None if plan.displacement is None and not local_px else waves(shape, local_px)
    ties = np.array([[20.0, 30.0, 0.25, -0.5], [100.0, 60.0, 0.0, 0.0]])
    return Alignment(
        plan.start * off * fine,
        bend,
        np.ones((height, width), np.float32),
        plan.start * fine,
        plan.displacement,
        ties + np.array([0, 0, 8, 4]),
        ties,
        0.1,
        {"rrmse_px": 0.1, "shift_px": [1, 2], "before_rrmse_px": 0.1},
    )


def error_px(one: Alignment, plan: Plan) -> float:
    """Largest distance between an alignment and a plan's mapping at product pixels, in product pixels."""
    height, width = plan.target.shape
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    wanted = to_guide(one.hsi_to_guide, one.displacement_px, (height, width), x, y)
    start = plan.start * Affine.scale(1 / SCALE)
    found = to_guide(start, plan.displacement, (height, width), x, y)
    return float(np.hypot(*(found - wanted)).max() / np.sqrt(abs(start.determinant)))


def image(grid: Grid) -> Raster:
    return Raster(np.ones((2, *grid.shape), np.float32), np.ones(grid.shape, bool), grid)
