"""Grids: sizes, units and places, in plain, rotated and geographic systems."""

import math

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform

from hsi_fuse.errors import GridError
from hsi_fuse.grid import Grid

UTM = CRS.from_epsg(32632)
NORTH_UP = Grid(UTM, Affine(4, 0, 500_000, 0, -4, 5_300_000), 48, 40)
TURNED = Grid(UTM, Affine.translation(5e5, 5.3e6) * Affine.rotation(30) * Affine.scale(4, -4), 48, 40)


def at(grid, column, row):
    a, b, c, d, e, f = grid.transform[:6]
    return a * column + b * row + c, d * column + e * row + f


@pytest.mark.parametrize("grid", [NORTH_UP, TURNED], ids=["north up", "turned"])
def test_refined_pixels_are_smaller_and_cover_the_same_ground(grid):
    fine = grid.refine(4)
    assert fine.shape == (160, 192)
    assert fine.gsd == pytest.approx((1, 1))
    assert fine.bounds == pytest.approx(grid.bounds)
    assert at(fine, 4, 8) == pytest.approx(at(grid, 1, 2))
    assert grid.refine(1) == grid


@pytest.mark.parametrize("grid", [NORTH_UP, TURNED], ids=["north up", "turned"])
def test_a_window_starts_at_its_row_and_column(grid):
    part = grid.window(5, 7, 10, 12)
    assert part.shape == (10, 12)
    assert at(part, 0, 0) == pytest.approx(at(grid, 7, 5))
    assert at(part, 12, 10) == pytest.approx(at(grid, 19, 15))


def test_bounds_of_a_turned_grid_hold_all_its_corners():
    left, _, right, top = TURNED.bounds
    corners = [at(TURNED, c, r) for c in (0, 48) for r in (0, 40)]
    assert left == min(x for x, _ in corners)
    assert top == max(y for _, y in corners)
    assert right - left == pytest.approx(48 * 4 * math.cos(math.pi / 6) + 40 * 4 * math.sin(math.pi / 6))


@pytest.mark.parametrize("grid", [NORTH_UP, TURNED], ids=["north up", "turned"])
def test_sampling_distance_does_not_depend_on_rotation(grid):
    assert grid.gsd == pytest.approx((4, 4))
    assert grid.gsd_m == pytest.approx(4)


def test_sampling_distance_in_degrees_becomes_metres_at_the_latitude():
    step = 30 / 111_320
    grid = Grid(CRS.from_epsg(4326), Affine(step, 0, 11, 0, -step, 60 + 50 * step), 100, 100)
    assert grid.gsd_m == pytest.approx(30 * math.sqrt(math.cos(math.radians(60))), rel=1e-3)
    # against the ground itself
    x, y = transform("EPSG:4326", "EPSG:32632", [11, 11 + step, 11], [60, 60, 60 + step])
    sides = [math.hypot(x[i] - x[0], y[i] - y[0]) for i in (1, 2)]
    assert grid.gsd_m == pytest.approx(math.sqrt(math.prod(sides)), rel=0.01)


def test_sampling_distance_in_feet_becomes_metres():
    grid = Grid(CRS.from_epsg(2263), Affine(10, 0, 1e6, 0, -10, 2e5), 20, 20)  # US survey feet
    assert grid.gsd_m == pytest.approx(3.048, rel=1e-4)


def test_pixels_of_another_grid_and_back():
    other = Grid(CRS.from_epsg(32633), Affine(1, 0.1, 56_000, 0.2, -1.1, 5_320_000), 500, 400)
    columns, rows = np.meshgrid(np.linspace(0, 48, 7), np.linspace(0, 40, 5))
    there = NORTH_UP.to_pixels_of(other, columns, rows)
    assert there[0].shape == columns.shape
    back = other.to_pixels_of(NORTH_UP, *there)
    assert np.allclose(back[0], columns, atol=1e-4)
    assert np.allclose(back[1], rows, atol=1e-4)


def test_pixels_of_a_refined_grid_are_a_multiple():
    columns, rows = np.array([0.5, 3.0]), np.array([0.5, 7.0])
    x, y = TURNED.to_pixels_of(TURNED.refine(4), columns, rows)
    assert np.allclose([x, y], [4 * columns, 4 * rows], atol=1e-6)


def test_a_missing_crs_is_taken_to_be_the_others():
    nameless = Grid(None, NORTH_UP.transform, 48, 40)
    x, y = nameless.to_pixels_of(NORTH_UP.window(2, 3, 10, 10), np.array([10.0]), np.array([10.0]))
    assert (x[0], y[0]) == pytest.approx((7, 8))


@pytest.mark.parametrize(
    ("crs", "affine", "said"),
    [
        (None, Affine.identity(), False),
        (None, Affine.scale(1, -1), False),  # what GDAL makes of a file without any
        (None, Affine.scale(2), True),
        (UTM, Affine.identity(), True),
    ],
)
def test_a_grid_is_georeferenced_where_it_says_more_than_pixel_numbers(crs, affine, said):
    assert Grid(crs, affine, 4, 4).georeferenced is said


@pytest.mark.parametrize(
    ("affine", "width", "height"),
    [
        (Affine.identity(), 0, 4),
        (Affine.identity(), 4, -1),
        (Affine.scale(0, 1), 4, 4),
        (Affine.translation(math.nan, 0), 4, 4),
        (Affine(1, 2, 0, 2, 4, 0), 4, 4),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(affine, width, height):
    with pytest.raises(GridError):
        Grid(UTM, affine, width, height)


@pytest.mark.parametrize("factor", [0, -2])
def test_a_factor_below_one_is_refused(factor):
    with pytest.raises(GridError, match="at least 1"):
        NORTH_UP.refine(factor)
