"""Where georeferencing puts the HSI in the guide, and the one resampling."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio.warp
from affine import Affine
from rasterio.crs import CRS

from hsi_fuse.align import covered, resample, start_mapping, window_of
from hsi_fuse.errors import AlignmentError, HsiFuseWarning
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Raster

UTM32, UTM33, DEGREES = (CRS.from_epsg(code) for code in (32632, 32633, 4326))
HSI = Grid(UTM32, Affine(30, 0, 700_000, 0, -30, 5_400_000), 200, 160)
GUIDES = {
    "the same system": Grid(UTM32, Affine(10, 0, 699_000, 0, -10, 5_401_000), 900, 800),
    "the next UTM zone": Grid(UTM33, Affine(10, 0, 250_000, 0, -10, 5_410_000), 1200, 1200),
    "degrees": Grid(DEGREES, Affine(1.2e-4, 0, 11.7, 0, -0.9e-4, 48.75), 900, 900),
    "turned": Grid(
        UTM32, Affine.translation(699_000, 5_400_000) * Affine.rotation(20) * Affine.scale(8, -8), 900, 900
    ),
}


def through(mapping, column, row):
    a, b, c, d, e, f = mapping[:6]
    return a * column + b * row + c, d * column + e * row + f


def picture(values, valid=None):
    values = np.asarray(values, np.float32)
    values = values[None] if values.ndim == 2 else values
    grid = Grid(None, Affine.identity(), values.shape[2], values.shape[1])
    return Raster(values, np.ones(values.shape[1:], bool) if valid is None else valid, grid)


# --- the start ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDES)
def test_the_start_goes_through_both_systems(name):
    guide = GUIDES[name]
    mapping, displacement = start_mapping(HSI, guide)
    for i, row in ((0, 0), (32, 160)):
        for j, column in ((0, 0), (32, 200)):
            x, y = through(HSI.transform, column, row)
            (x,), (y,) = rasterio.warp.transform(HSI.crs, guide.crs, [x], [y])
            wanted = through(~guide.transform, x, y)
            found = np.array(through(mapping, column, row))
            if displacement is not None:
                found += displacement[:, i, j]
            assert found == pytest.approx(wanted, abs=0.03)


def test_what_an_affine_cannot_say_is_carried_and_only_that():
    assert start_mapping(HSI, GUIDES["the same system"])[1] is None
    wide = replace(HSI, width=2000, height=2000)
    bent = start_mapping(wide, GUIDES["degrees"])[1]
    assert bent is not None
    assert 1 < np.abs(bent).max() < 100
    assert np.abs(bent.mean((1, 2))).max() < 0.1


@pytest.mark.parametrize("missing", ["the HSI", "the reference", "neither image"])
def test_without_georeferencing_both_show_the_same_ground(missing):
    bare = Affine.identity()
    hsi = Grid(None, bare, 50, 40) if missing != "the reference" else HSI.window(0, 0, 40, 50)
    guide = Grid(None, bare, 200, 120) if missing != "the HSI" else Grid(UTM32, HSI.transform, 200, 120)
    with pytest.warns(HsiFuseWarning, match=f"{missing} has"):
        mapping, displacement = start_mapping(hsi, guide)
    assert displacement is None
    assert mapping == Affine.scale(4, 3)


@pytest.mark.parametrize("missing", ["the HSI", "the reference"])
def test_a_missing_system_is_taken_to_be_the_others(missing):
    guide = GUIDES["the same system"]
    wanted, _ = start_mapping(HSI, guide)
    hsi = replace(HSI, crs=None) if missing == "the HSI" else HSI
    guide = replace(guide, crs=None) if missing == "the reference" else guide
    with pytest.warns(HsiFuseWarning, match=f"{missing} names no CRS"):
        assert start_mapping(hsi, guide)[0] == wanted


def test_ground_that_the_guides_system_cannot_express_is_refused():
    nonsense = Grid(DEGREES, Affine(1, 0, 0, 0, -1, 400), 50, 40)  # latitudes beyond the pole
    with pytest.raises(AlignmentError, match="CRS"):
        start_mapping(nonsense, GUIDES["the same system"])


# --- the window --------------------------------------------------------------------------------------------


def test_the_window_holds_the_ground_and_its_margin():
    guide = Grid(None, Affine.identity(), 1000, 900)
    mapping = Affine.translation(100, 200) * Affine.scale(4)
    assert window_of(Grid(None, Affine.identity(), 50, 40), guide, mapping, 3) == (188, 88, 184, 224)


def test_the_window_is_clipped_to_the_guide():
    guide = Grid(None, Affine.identity(), 120, 900)
    mapping = Affine.translation(-20, 800) * Affine.scale(4)
    top, left, height, width = window_of(Grid(None, Affine.identity(), 50, 40), guide, mapping, 3)
    assert (top, left) == (788, 0)
    assert (top + height, left + width) == (900, 120)


def test_a_turned_window_holds_all_corners():
    guide = Grid(None, Affine.identity(), 1000, 1000)
    mapping = Affine.translation(500, 200) * Affine.rotation(45) * Affine.scale(4)
    top, left, height, width = window_of(Grid(None, Affine.identity(), 50, 40), guide, mapping, 0)
    for corner in ((0, 0), (50, 0), (0, 40), (50, 40)):
        x, y = through(mapping, *corner)
        assert left <= x <= left + width
        assert top <= y <= top + height


@pytest.mark.parametrize("where", [(-5000, 0), (5000, 0), (0, -5000), (0, 5000)])
def test_a_guide_elsewhere_is_refused(where):
    guide = Grid(None, Affine.identity(), 1000, 900)
    with pytest.raises(AlignmentError, match="does not overlap"):
        window_of(Grid(None, Affine.identity(), 50, 40), guide, Affine.translation(*where), 3)


# --- the resampling ----------------------------------------------------------------------------------------


def smooth(x, y):
    return np.stack([2 + np.sin(x / 19 + 0.3) * np.cos(y / 23), 3 + np.cos((x + y) / 27)])


def test_the_identity_changes_nothing():
    values = np.random.default_rng(0).standard_normal((3, 24, 31)).astype(np.float32)
    found, weight = resample(picture(values), Affine.identity(), None, (24, 31))
    assert np.abs(found - values).max() < 1e-5
    assert (weight == 1).all()
    assert (found.dtype, weight.dtype) == (np.float32, np.float32)


def test_whole_pixels_are_moved_exactly():
    values = np.random.default_rng(0).standard_normal((2, 30, 40)).astype(np.float32)
    found, weight = resample(picture(values), Affine.translation(7, 5), None, (20, 30))
    assert np.abs(found - values[:, 5:25, 7:37]).max() < 1e-5
    assert weight.all()


@pytest.mark.parametrize("size", [0.4, 1.0, 1.3, 3.0])
def test_a_smooth_function_survives_rotation_and_scale(size):
    y, x = np.mgrid[:200, :220] + 0.5
    mapping = Affine.translation(60, 40) * Affine.rotation(11) * Affine.scale(size)
    shape = (int(100 / size), int(90 / size))
    found, weight = resample(picture(smooth(x, y)), mapping, None, shape)
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    assert weight.all()
    assert np.abs(found / smooth(*through(mapping, columns, rows)) - 1).max() < 0.01


def test_the_displacement_is_added_after_the_mapping():
    y, x = np.mgrid[:160, :170] + 0.5
    lattice = np.mgrid[:5, :5].astype(np.float32)
    displacement = np.stack([3 * lattice[1] / 4, -2 * lattice[0] / 4])  # 0..3 columns, 0..-2 rows
    mapping = Affine.translation(20, 30)
    found, _ = resample(picture(smooth(x, y)), mapping, displacement, (100, 120))
    rows, columns = np.mgrid[:100, :120] + 0.5
    wanted = smooth(columns + 20 + 3 * columns / 120, rows + 30 - 2 * rows / 100)
    assert np.abs(found - wanted).max() < 2e-3


@pytest.mark.parametrize("size", [1.0, 3.0])
def test_a_guide_brought_over_in_tiles_is_the_same(monkeypatch, size):
    """Each tile has splines of its own, of the guide's pixels around it."""
    draw = np.random.default_rng(3)
    values = draw.random((2, 180, 190)).astype(np.float32)
    guide = picture(values, draw.random((180, 190)) > 0.001)
    mapping = Affine.translation(10, 8) * Affine.rotation(12) * Affine.scale(size)
    displacement = draw.standard_normal((2, 9, 9)).astype(np.float32)
    shape = int(150 / size), int(160 / size)
    whole = resample(guide, mapping, displacement, shape)
    monkeypatch.setattr("hsi_fuse.align.TILE_PX", 16)
    tiles = resample(guide, mapping, displacement, shape)
    assert np.array_equal(tiles[1], whole[1])
    assert 0.5 < whole[1].mean() < 1
    assert np.allclose(tiles[0], whole[0], atol=1e-6)
    part = slice(13, 90 // int(size)), slice(5, 41)
    few = resample(guide, mapping, displacement, shape, part)
    assert np.array_equal(few[1], whole[1][part])
    assert np.allclose(few[0], whole[0][:, *part], atol=1e-6)


def test_pixels_are_covered_where_their_centre_is():
    valid = np.ones((40, 60), bool)
    valid[:, 20:24] = False
    found = covered(valid, Affine.translation(-8, 0) * Affine.scale(4), None, (12, 15))
    expected = np.zeros((12, 15), bool)
    expected[:10, 2:] = True  # the guide begins with the third column and ends with the tenth row
    expected[:, 7] = False
    assert np.array_equal(found, expected)


def test_large_pixels_do_not_alias():
    checkers = 10.0 + (-1.0) ** np.add(*np.mgrid[:160, :160])
    found, _ = resample(picture(checkers), Affine.translation(0.3, 0.1) * Affine.scale(4), None, (39, 39))
    assert np.abs(found[0, 2:-2, 2:-2] - 10).max() < 1e-3
    kept, _ = resample(picture(checkers), Affine.identity(), None, (160, 160))
    assert np.abs(kept[0] - checkers).max() < 1e-4


def test_large_pixels_blur_only_the_axis_that_needs_it():
    stripes = np.tile((-1.0) ** np.arange(160)[:, None], (1, 160))  # alternate down the rows
    wide, _ = resample(picture(stripes), Affine.scale(4, 1), None, (160, 40))
    assert np.abs(wide[0]).min() > 0.99
    tall, _ = resample(picture(stripes), Affine.scale(1, 4), None, (40, 160))
    assert np.abs(tall[0, 2:-2]).max() < 0.01


@pytest.mark.parametrize("size", [0.7, 1.0, 3.0])
def test_what_a_hole_holds_leaks_nowhere(size):
    values = 1 + np.random.default_rng(0).random((2, 120, 120))
    valid = np.ones((120, 120), bool)
    valid[50:62, 40:70] = valid[20, 20] = False
    mapping = Affine.rotation(7, (60, 60)) * Affine.translation(9, 9) * Affine.scale(size)
    shape = (int(100 / size), int(100 / size))
    results = [
        resample(picture(np.where(valid, values, garbage), valid), mapping, None, shape)
        for garbage in (0.0, 1e6)
    ]
    (found, weight), (other, same) = results
    assert np.array_equal(found, other)
    assert np.array_equal(weight, same)
    assert 0.5 < weight.mean() < 1
    inside = found[:, weight > 0]
    assert inside.min() > 0.5
    assert inside.max() < 2.5
    assert not found[:, weight == 0].any()


def test_nothing_is_seen_beyond_the_guide():
    found, weight = resample(picture(np.ones((40, 50))), Affine.translation(-10, -5), None, (60, 80))
    wanted = np.zeros((60, 80), np.float32)
    wanted[5:45, 10:60] = 1
    assert np.array_equal(weight, wanted)
    assert np.abs(found[0] - wanted).max() < 1e-6
