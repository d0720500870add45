"""A mapping as files: displacement and tie points, there and back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import rasterio.warp
from affine import Affine
from mappings import DEGREES, FEET, GRIDS, OFF, SCALE, UTM32, UTM33, aligned, error_px, image, planned

from hsi_fuse.align import to_guide
from hsi_fuse.errors import GridError, ReadError
from hsi_fuse.grid import Grid
from hsi_fuse.gtiff import write_image
from hsi_fuse.registration.follow import as_followed, follow
from hsi_fuse.registration.mapping_files import displacement_m, ground_of, tie_points_geojson, write_mapping

# --- the displacement file ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::hsi_fuse.errors.HsiFuseWarning")
@pytest.mark.parametrize("name", GRIDS)
def test_ground_shows_where_the_displacement_says(name):
    hsi, guide = GRIDS[name]
    alignment = aligned(planned(hsi, guide), OFF)
    east, north = displacement_m(alignment, hsi, SCALE)
    rows, columns = np.mgrid[:30, :40]
    x, y = hsi.transform * (columns + 0.5, rows + 0.5)
    across = {UTM32: 1.0, FEET: 1200 / 3937, None: 1.0, DEGREES: 111_320 * np.cos(np.radians(y))}[hsi.crs]
    down = 111_320 if hsi.crs == DEGREES else across
    x, y = x + east / across, y + north / down
    if hsi.crs is not None:
        x, y = (
            np.reshape(v, x.shape) for v in rasterio.warp.transform(hsi.crs, guide.crs, x.ravel(), y.ravel())
        )
    claimed = ~guide.transform * (x, y)
    if name == "no georeferencing":
        claimed = 4 * x, 4 * y
    wanted = to_guide(
        alignment.hsi_to_guide, alignment.displacement_px, (120, 160), 4 * columns + 2, 4 * rows + 2
    )
    assert np.hypot(*(np.stack(claimed) - wanted)).max() < 0.05
    assert np.hypot(east, north).max() > 1


def test_east_and_north_are_positive_to_the_east_and_north():
    hsi, guide = GRIDS["one system"]
    off = Affine.translation(2, -1)  # two HSI pixels of 4 m to the right, one up
    d = displacement_m(aligned(planned(hsi, guide), off), hsi, SCALE)
    assert d[0] == pytest.approx(8)
    assert d[1] == pytest.approx(4)


@pytest.mark.filterwarnings("ignore::hsi_fuse.errors.HsiFuseWarning")
@pytest.mark.parametrize("local_px", [0.0, 1.0])
@pytest.mark.parametrize("name", GRIDS)
def test_a_mapping_written_and_followed_is_the_same(name, local_px, tmp_path):
    hsi, guide = GRIDS[name]
    plan = planned(hsi, guide)
    alignment = aligned(plan, OFF, local_px)
    write_mapping(tmp_path / "a.tif", alignment, ground_of(hsi, hsi.crs), SCALE)
    given = follow(tmp_path / "a_displacement.tif", image(hsi), plan)
    assert error_px(alignment, given) < 0.05
    assert error_px(alignment, plan) > 5


def test_the_displacement_file_describes_itself(tmp_path):
    hsi, guide = GRIDS["one system"]
    write_mapping(tmp_path / "a.tif", aligned(planned(hsi, guide), OFF), hsi, SCALE)
    with rasterio.open(tmp_path / "a_displacement.tif") as file:
        assert file.dtypes == ("float32", "float32")
        assert file.descriptions == ("displacement to the east, m", "displacement to the north, m")
        assert (file.crs, file.transform, file.shape) == (hsi.crs, hsi.transform, hsi.shape)


@pytest.mark.parametrize("crs", [UTM32, UTM33])
def test_a_displacement_on_another_grid_means_the_same(tmp_path, crs):
    hsi, guide = GRIDS["one system"]
    plan = planned(hsi, guide)
    x, y = rasterio.warp.transform(UTM32, crs, [699_980.0], [5_400_060.0])
    grid = Grid(crs, Affine.translation(x[0], y[0]) * Affine.scale(7, -7), 40, 40)
    values = np.empty((2, 40, 40), np.float32)
    values[0], values[1] = 6, -5
    write_image(tmp_path / "d.tif", values, grid)
    given = follow(tmp_path / "d.tif", image(hsi), plan)
    moved = given.start * (20, 15)
    start = plan.start * (20, 15)
    turn = np.radians(4.43 if crs == UTM33 else 0)  # of the next zone's grid north
    wanted = Affine.rotation(-np.degrees(turn)) * (6, 5)
    assert np.subtract(moved, start) == pytest.approx(wanted, abs=0.05)


def east(grid: Grid, metres: float) -> Grid:
    return replace(grid, transform=Affine.translation(metres, 0) * grid.transform)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda v, g: (v[:1], g), ReadError, "1 bands"),
        (lambda v, g: (np.concatenate([v, v]), g), ReadError, "4 bands"),
        (lambda v, g: (v, east(g, 9000)), GridError, "does not overlap"),
        (lambda v, g: (v, east(g, 80)), GridError, "50.0 %"),
        (lambda v, g: (np.where(np.arange(40) == 7, np.nan, v), g), GridError, "30 of the HSI's 1200"),
    ],
)  # fmt: skip
def test_a_displacement_that_does_not_fit_is_refused_in_words(tmp_path, spoil, error, words):
    hsi, guide = GRIDS["one system"]
    values, grid = spoil(np.zeros((2, 30, 40), np.float32), hsi)
    write_image(tmp_path / "d.tif", values.astype(np.float32), grid)
    with pytest.raises(error, match=words):
        follow(tmp_path / "d.tif", image(hsi), planned(hsi, guide))


def test_holes_where_the_hsi_has_none_do_not_matter(tmp_path):
    hsi, guide = GRIDS["one system"]
    values = np.ones((2, 30, 40), np.float32)
    values[:, :, 30:] = np.nan
    write_image(tmp_path / "d.tif", values, hsi)
    scene = image(hsi)
    scene.valid[:, 30:] = False
    given = follow(tmp_path / "d.tif", scene, planned(hsi, guide))
    assert given.start * (0, 0) == pytest.approx((1, -1))


@pytest.mark.filterwarnings("ignore::hsi_fuse.errors.HsiFuseWarning")
@pytest.mark.parametrize("name", ["turned", "two zones"])
def test_what_was_followed_is_told_against_the_georeferencing(name):
    hsi, guide = GRIDS[name]
    plan = planned(hsi, guide)
    searched = aligned(plan, OFF, 1.0)
    followed = as_followed(
        replace(searched, start=searched.hsi_to_guide, start_displacement_px=None), plan, hsi, "d.tif"
    )
    assert followed.start == searched.start
    place = followed.ties_before[:, :2] + followed.ties_before[:, 2:]
    there = followed.ties_after[:, :2] + followed.ties_after[:, 2:]
    shape = plan.target.shape
    one = to_guide(followed.start, followed.start_displacement_px, shape, *place.T)
    other = to_guide(followed.hsi_to_guide, followed.displacement_px, shape, *there.T)
    assert one == pytest.approx(other, abs=1e-3)
    assert "shift_px" not in followed.found
    assert followed.found["displacement"] == "d.tif"
    length = np.hypot(*followed.ties_before[:, 2:].T)
    assert followed.found["before_rrmse_px"] == pytest.approx(np.sqrt((length**2).mean()))
    assert followed.found["rrmse_px"] == 0.1


# --- the tie points ----------------------------------------------------------------------------------------


def test_tie_points_are_lines_on_the_map():
    hsi, guide = GRIDS["two zones"]
    found = json.loads(tie_points_geojson(aligned(planned(hsi, guide)), hsi, SCALE))
    assert found.keys() == {"type", "features"}
    assert found["type"] == "FeatureCollection"
    feature = found["features"][0]
    (lon, lat), end = feature["geometry"]["coordinates"]
    x, y = rasterio.warp.transform(DEGREES, UTM32, [lon, end[0]], [lat, end[1]])
    assert (x[0], y[0]) == pytest.approx((700_020, 5_399_970), abs=1e-3)  # fine pixels of 1 m
    assert (x[1] - x[0], y[1] - y[0]) == pytest.approx((8.25, -3.5), abs=1e-3)
    assert feature["properties"] == {
        "column": 20,
        "row": 30,
        "before_px": pytest.approx(np.hypot(8.25, 3.5), abs=1e-4),
        "before_m": pytest.approx(np.hypot(8.25, 3.5), abs=1e-4),
        "before_east_m": 8.25,
        "before_north_m": -3.5,
        "after_px": pytest.approx(np.hypot(0.25, 0.5), abs=1e-4),
        "after_m": pytest.approx(np.hypot(0.25, 0.5), abs=1e-4),
        "after_east_m": 0.25,
        "after_north_m": 0.5,
    }


@pytest.mark.filterwarnings("ignore::hsi_fuse.errors.HsiFuseWarning")
def test_without_a_crs_tie_points_say_so():
    hsi, guide = GRIDS["no georeferencing"]
    alignment = aligned(planned(hsi, guide))
    found = json.loads(tie_points_geojson(alignment, hsi, SCALE))
    assert "no CRS" in found["coordinate_system"]
    assert found["features"][0]["geometry"]["coordinates"][0] == [5, 7.5]  # HSI pixels
    assert found["features"][0]["properties"]["after_m"] is None
    none = replace(alignment, ties_before=np.zeros((0, 4)), ties_after=np.zeros((0, 4)))
    assert json.loads(tie_points_geojson(none, hsi, SCALE))["features"] == []
