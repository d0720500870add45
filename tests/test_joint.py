"""Mapping and sensors of an unregistered pair, together."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from affine import Affine
from rasterio.crs import CRS
from registering import SHEARED, SHIFT, SMALL, bytes_of, disagreement, registered
from synthetic import (
    PSF,
    RATIO,
    astray,
    cut,
    fwhm_of,
    hsi_of,
    unregistered,
    window_of,
)

from hsi_fuse.grid import Grid
from hsi_fuse.registration.figures import registration_figures
from hsi_fuse.registration.joint import Registered, Start, register_pair
from hsi_fuse.registration.register import RegisterOptions
from hsi_fuse.registration.warp import Pair, on_lattice
from hsi_fuse.sensors.sense import SenseOptions, Sensing, sense

NEAR = Affine.translation(0.3 * RATIO, -0.2 * RATIO)


pytestmark = pytest.mark.usefixtures("easily_found")


def waves(x, y):
    """A smooth field of 0.3 HSI pixels."""
    return 0.3 * RATIO * np.stack([np.sin(y / 33 + 1), np.cos(x / 29)])


def places(found: Registered, pair: Pair) -> np.ndarray:
    """Where the mapping puts the HSI's pixels in the guide, as its consumers read it: (2, h, w)."""
    height, width = pair.shape
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    there = np.stack(found.hsi_to_guide * tuple(np.meshgrid(columns, rows)))
    return there if found.bend is None else there + on_lattice(found.bend, columns, rows, pair.shape)


def rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def rrmse(ties: np.ndarray) -> float:
    return rms(np.hypot(ties[:, 2], ties[:, 3]))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return cut(unregistered(SHEARED, waves, 3), *SMALL)


@pytest.fixture(scope="module")
def found(pair) -> Registered:
    return registered(pair)


@pytest.fixture(scope="module")
def shifted() -> Pair:
    return cut(unregistered(NEAR, guide_bands=3), *SMALL)


@pytest.fixture(scope="module")
def trusted(shifted) -> Registered:
    """The start as it is, off by `NEAR`."""
    return registered(shifted, model="none")


@pytest.mark.parametrize("specks", [False, True])
def test_a_part_of_the_guide_teaches_the_sensors_what_the_whole_does(shifted, specks):
    """Of a large guide only the part around the learned window is brought over while turns go on."""
    how = Sensing(SenseOptions(psf_fwhm_hsi_px=(0.15, 1.0), crop_hsi_px=10))
    window = window_of(shifted)
    if specks:  # single pixels with data in an empty half hold no ground
        valid = window.valid.copy()
        valid[:, : valid.shape[1] // 2] = False
        valid[::9, ::9] = True
        window = replace(window, valid=valid)
    values, weight, start = hsi_of(shifted), shifted.low_weight, Start(shifted.start, shifted.bend)
    found = register_pair(values, weight, window, start, RATIO, RegisterOptions(model="none"), how)
    guide, there = torch.from_numpy(found.guide), torch.from_numpy(found.guide_weight)
    whole = sense(values, weight, guide, there, RATIO, how)
    assert found.sensed.sensor.found["hsi_pixels"] == whole.sensor.found["hsi_pixels"]
    assert torch.equal(found.sensed.sensor.psf, whole.sensor.psf)
    assert torch.allclose(found.sensed.sensor.srf, whole.sensor.srf)
    assert torch.allclose(found.sensed.guide_noise, whole.guide_noise)


# --- what is found -----------------------------------------------------------------------------------------


def test_a_handful_of_pixels_is_enough():
    """Of 9 x 9 pixels under a guide that shows no more, half a checkerboard determines few coefficients."""
    pair = cut(unregistered(NEAR), 9, 9, 0)
    found = registered(pair)
    assert astray(pair, found.fitted.base, found.fitted.shift, NEAR).mean() < 0.1
    assert found.evidence.probability > 0.9


@pytest.mark.parametrize("bands", [1, 3, 4, 9])
def test_an_affine_and_a_smooth_field_are_recovered(bands):
    pair = cut(unregistered(SHEARED, waves, bands), *SMALL)
    found = registered(pair)
    error = astray(pair, found.fitted.base, found.fitted.shift, SHEARED, waves)
    assert error.max() < 0.1
    assert rms(error) < 0.02
    assert found.fitted.amplitude > 0.05
    assert found.evidence.unexplained < 0.01
    assert found.evidence.probability > 0.9
    for each in (found.guide, found.guide_weight, found.confidence, found.before, found.after, found.bend):
        assert np.isfinite(each).all()
    assert found.guide.shape == (bands, SMALL[0] * RATIO, SMALL[1] * RATIO)
    assert found.guide_weight.shape == found.guide.shape[1:]
    assert found.confidence.shape == SMALL
    assert len(found.responses) == bands
    # its own idea of the error is of the error's size
    assert 1 / 5 < rms(error) / found.evidence.deviation_hsi_px < 5


def test_no_field_is_made_up_where_there_is_none():
    pair = cut(unregistered(SHEARED, guide_bands=3), *SMALL)
    found = registered(pair)
    assert astray(pair, found.fitted.base, found.fitted.shift, SHEARED).max() < 0.03
    assert found.fitted.amplitude <= 0.02


def test_without_local_the_mapping_is_affine(pair, found):
    stiff = registered(pair, local=False)
    assert stiff.bend is None
    assert stiff.fitted.amplitude == 0
    error = astray(pair, stiff.fitted.base, stiff.fitted.shift, SHEARED, waves)
    assert rms(error) > 3 * rms(astray(pair, found.fitted.base, found.fitted.shift, SHEARED, waves))
    assert rms(error) < 0.3


def test_the_psf_is_learned_on_the_way(found):
    assert fwhm_of(found.sensed.sensor.psf) == pytest.approx(fwhm_of(PSF), rel=0.05)


def test_the_resampled_guide_shows_what_the_hsi_shows(pair, found):
    assert disagreement(pair, found) < 0.003


def test_affine_and_bend_are_the_mapping_that_was_fitted(pair, found):
    columns, rows = np.arange(SMALL[1]) + 0.5, np.arange(SMALL[0]) + 0.5
    x, y = np.stack(np.meshgrid(columns, rows)) + found.fitted.shift(columns, rows)
    off = np.hypot(*(places(found, pair) - np.stack(found.fitted.base * (x, y)))) / RATIO
    # the bend is bilinear between the HSI pixels' corners
    assert off.max() < 0.01
    assert found.bend is not None
    assert np.abs(found.bend).max() > 0.05 * RATIO


def test_a_bend_of_the_start_is_carried_on():
    nodes = np.linspace(-1, 1, 9)
    bend = 3 * np.stack(np.broadcast_arrays(nodes[:, None] ** 2, nodes * nodes[:, None])).astype(np.float32)
    pair = cut(unregistered(SHIFT, guide_bands=1), *SMALL)

    def local(x, y):
        columns, rows = ~pair.start * (x, y)
        u, v = (np.clip(2 * at / side - 1, -1, 1) for at, side in ((columns, SMALL[1]), (rows, SMALL[0])))
        return 3 * np.stack([v**2, u * v])

    carried = replace(cut(unregistered(SHIFT, local, 1), *SMALL), bend=bend)
    found = registered(carried, local=False)
    true = np.stack(pair.start * tuple(np.meshgrid(np.arange(SMALL[1]) + 0.5, np.arange(SMALL[0]) + 0.5)))
    true = np.stack(SHIFT * tuple(true)) + local(*true)
    assert np.hypot(*(places(found, pair) - true)).max() / RATIO < 0.05
    assert rrmse(found.after) < 0.05


# --- trusting the start ------------------------------------------------------------------------------------


def test_model_none_keeps_the_start(shifted, trusted):
    assert trusted.hsi_to_guide == shifted.start
    assert trusted.bend is None
    assert np.isnan(trusted.evidence.deviation_hsi_px)
    assert np.isfinite(trusted.guide).all()


def test_model_none_keeps_the_starts_bend(shifted):
    bend = np.random.default_rng(0).uniform(-0.5, 0.5, (2, *(side + 1 for side in SMALL))).astype(np.float32)
    found = registered(replace(shifted, bend=bend), model="none")
    assert found.hsi_to_guide == shifted.start
    assert np.allclose(found.bend, bend, atol=1e-5)


# --- what spoils a pair ------------------------------------------------------------------------------------


def test_values_without_weight_change_nothing():
    """Whatever stands there, in the HSI or in the guide."""
    pair = cut(unregistered(SHEARED, waves, 1), *SMALL)
    weight, valid = pair.low_weight.clone(), window_of(pair).valid.copy()
    weight[3:8, 4:9], valid[60:90, 100:140], valid[:20] = 0, False, False
    rng, made, options = np.random.default_rng(0), [], RegisterOptions(local=False)
    for size in (0.0, 1e4):
        values, window = hsi_of(pair), window_of(pair)
        noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
        values = torch.where(weight > 0, values, size * noise)
        garbage = (size * rng.standard_normal(window.values.shape)).astype(np.float32)
        window = replace(window, values=np.where(valid, window.values, garbage), valid=valid)
        made.append(register_pair(values, weight, window, Start(pair.start), RATIO, options, Sensing()))
    assert bytes_of(made[0]) == bytes_of(made[1])
    assert rms(astray(pair, made[0].fitted.base, made[0].fitted.shift, SHEARED, waves)) < 0.3
    assert 0 < (made[0].guide_weight == 0).mean() < 0.5


@pytest.fixture(scope="module")
def again(pair) -> tuple[Registered, list[tuple[int, int]]]:
    """The same once more, and the progress that was told."""
    told: list[tuple[int, int]] = []
    pair = replace(pair, guide=pair.guide.clone())
    return registered(pair, lambda turn, turns: told.append((turn, turns))), told


def test_the_same_pair_gives_the_same_bytes(found, again):
    assert bytes_of(again[0]) == bytes_of(found)


def test_progress_counts_the_turns_to_the_end(again):
    turns = [turn for turn, _ in again[1]]
    assert turns[0] == 0
    assert turns == sorted(set(turns))
    assert {all_of_them for _, all_of_them in again[1]} == {turns[-1]}


def test_a_clouded_area_is_low_in_confidence_and_harms_little():
    pair = cut(unregistered(SHEARED, guide_bands=3), 32, 28)
    guide = pair.guide.clone()
    guide[:, 100:135, 90:125] = guide.max()
    found = registered(replace(pair, guide=guide), local=False)
    assert rms(astray(pair, found.fitted.base, found.fitted.shift, SHEARED)) < 0.05
    x, y = places(found, pair)
    inside = (abs(x - 107.5) < 13) & (abs(y - 117.5) < 13)
    outside = (abs(x - 107.5) > 26) | (abs(y - 117.5) > 26)
    assert inside.sum() > 20
    assert np.median(found.confidence[inside]) < 0.3
    assert np.median(found.confidence[outside]) > 0.8


# --- tie points --------------------------------------------------------------------------------------------


def test_tie_points_show_the_error_of_the_start_and_its_end(pair, found):
    """Those of the start where it is off by far more than a block finds, too."""
    assert len(found.after) == len(found.before) > 20
    assert np.array_equal(found.before[:, :2], found.after[:, :2])
    assert rrmse(found.after) < 0.05
    columns, rows = found.before[:, :2].T
    x, y = pair.start * (columns, rows)
    there = np.stack(SHEARED * (x, y)) + waves(x, y)
    wanted = np.stack(~pair.start * tuple(there)) - (columns, rows)
    assert np.abs(found.before[:, 2:].T - wanted).max() < 0.1
    assert rrmse(found.before) > 1


def test_tie_points_of_a_trusted_start_show_its_error(trusted):
    assert len(trusted.after) > 20
    assert np.abs(trusted.after[:, 2:] - (0.3, -0.2)).max() < 0.1
    assert trusted.after[:, 2:].mean(0) == pytest.approx((0.3, -0.2), abs=0.02)
    assert np.allclose(trusted.before, trusted.after, atol=1e-6)


# --- the figures -------------------------------------------------------------------------------------------

UTM = CRS.from_epsg(32632)
NORTH_UP = Grid(UTM, Affine.translation(5e5, 5e6) * Affine.scale(30, -30), SMALL[1], SMALL[0])


def figures(found: Registered, pair: Pair, grid: Grid = NORTH_UP) -> dict:
    return registration_figures(found, pair.start, grid, RATIO)


def test_the_figures_are_those_of_the_displacement(pair, found):
    told = figures(found, pair)
    middle = pair.start * (SMALL[1] / 2, SMALL[0] / 2)
    shift = np.array(~pair.start * (SHEARED * middle)) - (SMALL[1] / 2, SMALL[0] / 2)
    # of the affine; what the field moves the middle by belongs to either
    assert told["shift_px"] == pytest.approx(RATIO * shift, abs=0.4 * RATIO)
    assert told["shift_m"] == pytest.approx(30 * np.hypot(*shift), abs=0.5 * 30)
    assert told["rotation_deg"] == pytest.approx(1.5, abs=1)
    assert told["scale_change"] == pytest.approx(1.01, abs=0.02)
    assert told["explained"] > 0.99
    assert told["covered"] == 1
    assert told["standard_error_m"] == pytest.approx(30 / RATIO * told["standard_error_px"])
    assert told["tie_points"] == told["before_tie_points"] == len(found.after)
    assert told["rrmse_px"] == pytest.approx(RATIO * rrmse(found.after))
    assert told["rrmse_m"] == pytest.approx(30 * rrmse(found.after))
    assert told["before_rrmse_px"] == pytest.approx(RATIO * rrmse(found.before))
    assert told["rrmse_px"] <= told["ce90_px"] * 1.5
    assert told["before_bias_px"] == pytest.approx(RATIO * found.before[:, 2:].mean(0))
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize(
    ("degrees", "scale", "shift"), [(0, 1, (0, 0)), (3, 1.02, (2.5, -1)), (-7, 0.9, (0, 4))]
)
def test_shift_rotation_and_scale_are_told_as_they_are(shifted, trusted, degrees, scale, shift):
    """Of a mapping that is just that."""
    to_centre = Affine.translation(SMALL[1] / 2, SMALL[0] / 2)
    moved = (
        Affine.translation(*shift) * to_centre * Affine.rotation(degrees) * Affine.scale(scale) * ~to_centre
    )
    told = figures(replace(trusted, hsi_to_guide=shifted.start * moved), shifted)
    assert told["shift_px"] == pytest.approx([RATIO * s for s in shift], abs=1e-6)
    assert told["shift_m"] == pytest.approx(30 * np.hypot(*shift), abs=1e-6)
    assert told["rotation_deg"] == pytest.approx(degrees, abs=1e-6)
    assert told["scale_change"] == pytest.approx(scale)
    # found to the right and down in a north-up guide, the content itself lies to the left and up
    assert told["content_offset_east_m"] == pytest.approx(-30 * shift[0], abs=1e-6)
    assert told["content_offset_north_m"] == pytest.approx(30 * shift[1], abs=1e-6)


def test_offsets_follow_the_grids_axes(shifted, trusted):
    moved = replace(trusted, hsi_to_guide=shifted.start * Affine.translation(2, -1))
    turned = replace(
        NORTH_UP, transform=Affine.translation(5e5, 5e6) * Affine.rotation(90) * Affine.scale(30, -30)
    )
    told = figures(moved, shifted, turned)
    assert told["content_offset_east_m"] == pytest.approx(30)
    assert told["content_offset_north_m"] == pytest.approx(-60)
    bare = figures(moved, shifted, Grid(None, Affine.identity(), *SMALL[::-1]))
    assert "content_offset_east_m" not in bare
    assert bare["shift_px"] == told["shift_px"]


def test_without_tie_points_there_are_no_figures_of_them(shifted, trusted):
    none = np.zeros((0, 4))
    told = figures(replace(trusted, after=none, before=none), shifted)
    assert told["tie_points"] == told["before_tie_points"] == 0
    assert [told[f"{name}_px"] for name in ("rrmse", "ce90", "bias", "before_rrmse")] == [None] * 4
