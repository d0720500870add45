"""What the assessment finds out by itself: known shifts, widths, steps and noise are found."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from hsi_fuse.physics import blur_down, gaussian_psf, mix_bands
from hsi_fuse.quality import checks
from hsi_fuse.quality.cube import StreamedCube
from hsi_fuse.quality.reduced import degrade
from hsi_fuse.sensors.sense import sense
from hsi_fuse.subspace import interpolate
from tests.assessed import RATIO, make_scene


@pytest.fixture(scope="module")
def scene():
    return make_scene()


def sensors_of(problem):
    return checks.check_sensors(problem, checks.scene_subspace(problem))


def position_of(problem, cube):
    low = degrade(cube, problem.sensor.psf, RATIO)
    return checks.check_position(problem, low, checks.scene_subspace(problem))


def contrast_of(problem, cube):
    low = degrade(cube, problem.sensor.psf, RATIO)
    return checks.check_contrast(problem, low, checks.scene_subspace(problem))


def test_a_good_model_has_nothing_left(scene):
    found = sensors_of(scene[0])
    assert max(found["unexplained"]) < 0.01
    assert max(found["response_excess"]) < 0.005
    assert found["response_misfit"] < 0.5
    assert found["blur_excess"] < 0.02
    assert found["blur_factor"] == 1.0
    assert np.hypot(*found["shift_px"]) < 0.05


@pytest.mark.parametrize(("down", "right"), [(2, 0), (-1, 3), (0, -2)])
def test_a_shifted_reference_is_found_where_it_is(scene, down, right):
    problem = scene[0]
    moved = replace(problem, guide=problem.guide.roll((down, right), (1, 2)))
    assert sensors_of(moved)["shift_px"] == pytest.approx([right, down], abs=0.15)


@pytest.fixture
def tiles(monkeypatch):
    """A scene of 48 x 48 HSI pixels, of which four tiles are looked at."""
    monkeypatch.setattr("hsi_fuse.blocks.SAMPLE_TILES", 2)
    monkeypatch.setattr("hsi_fuse.blocks.SAMPLE_TILE_HSI_PX", 14)
    monkeypatch.setattr(checks, "ENOUGH_PIXELS", 300)
    return make_scene(192)[0]


def test_tiles_of_a_large_scene_say_what_all_of_it_says(tiles, monkeypatch):
    right = sensors_of(tiles)
    assert right["pixels"] < 4 * 14**2
    assert right["response_misfit"] < 0.5
    assert right["blur_factor"] == 1.0
    assert np.hypot(*right["shift_px"]) < 0.05
    moved = replace(tiles, guide=tiles.guide.roll((2, -1), (1, 2)))
    assert sensors_of(moved)["shift_px"] == pytest.approx([-1, 2], abs=0.25)
    wide = replace(tiles, sensor=replace(tiles.sensor, psf=gaussian_psf(RATIO, 1.8 * RATIO)))
    assert sensors_of(wide)["blur_factor"] < 0.8
    monkeypatch.setattr(checks, "ENOUGH_PIXELS", 1 << 20)  # tiles with too little of the reference: all of it
    assert sensors_of(tiles)["pixels"] > 44**2


@pytest.mark.parametrize(("down", "right"), [(1, 0), (-1, 1)])
def test_a_shifted_product_is_found_where_it_is(scene, down, right):
    problem, truth = scene
    moved = replace(truth, coefficients=truth.coefficients.roll((down, right), (1, 2)))
    assert position_of(problem, moved) == pytest.approx([right, down], abs=0.35)
    assert np.abs(position_of(problem, truth)).max() < 0.05


@pytest.mark.parametrize(("used", "factor"), [(2.2, 1.8), (7.3, 0.55)])
def test_the_right_width_of_the_blur_is_named(scene, used, factor):
    problem = scene[0]
    wrong = replace(problem, sensor=replace(problem.sensor, psf=gaussian_psf(RATIO, used)))
    found = sensors_of(wrong)
    assert found["blur_factor"] == factor
    assert found["blur_excess"] > 1


@pytest.mark.parametrize(("used", "factor"), [(2.2, 1.8), (7.3, 0.55)])
def test_few_edges_show_the_width_of_the_blur(scene, used, factor):
    """Most of the scene is smooth; under a wrong width its few edges look like outliers."""
    problem, truth = scene
    sensor = problem.sensor
    fine = truth.coefficients
    soft = torch.from_numpy(gaussian_filter(fine.numpy(), (0, 10, 10)))
    soft[:, :40, :40] = fine[:, :40, :40]
    cube = replace(truth, coefficients=soft).rows(0, 128)
    noise = problem.hsi - blur_down(truth.rows(0, 128), sensor.psf, RATIO)
    pair = replace(problem, hsi=blur_down(cube, sensor.psf, RATIO) + noise, guide=mix_bands(cube, sensor.srf))
    assert sensors_of(pair)["blur_excess"] < 0.02
    found = sensors_of(replace(pair, sensor=replace(sensor, psf=gaussian_psf(RATIO, used))))
    assert found["blur_factor"] == factor
    assert found["blur_excess"] > 1


def test_clouds_in_the_reference_are_no_fault_of_the_responses(scene):
    problem = scene[0]
    guide = problem.guide.clone()
    guide[:, 20:44, 60:84] = 0.9
    found = sensors_of(replace(problem, guide=guide))
    assert max(found["response_excess"]) < 0.01
    assert np.hypot(*found["shift_px"]) < 0.1


def test_too_small_an_overlap_says_so(scene):
    problem = scene[0]
    weight = torch.zeros_like(problem.guide_weight)
    weight[:24, :24] = 1
    found = sensors_of(replace(problem, guide=problem.guide * weight, guide_weight=weight))
    assert not found["assessable"]
    assert "input pixels lie fully under" in found["reason"]


@pytest.mark.parametrize("times", [0.5, 2.0])
def test_noise_is_told_in_that_of_the_input(scene, times):
    problem, truth = scene
    torch.manual_seed(1)
    cube = truth.rows(0, 128) + times * problem.hsi_noise[:, None, None] * torch.randn(20, 128, 128)
    noisy = StreamedCube.of(truth.shape, lambda start, stop: cube[:, start:stop])
    assert checks.check_noise(problem, noisy) == pytest.approx(times, rel=0.15)
    assert checks.check_noise(problem, truth) < 0.1


def test_brightness_is_told_in_that_of_the_pixels_with_data(scene):
    problem = scene[0]
    weight = problem.hsi_weight.clone()
    weight[:5, 3:] = 0
    holed = replace(problem, hsi=problem.hsi * weight, hsi_weight=weight)
    mean = problem.hsi[:, weight > 0].double().mean(1)
    assert holed.mean_spectrum.numpy() == pytest.approx(mean.numpy(), rel=1e-5)
    error = checks.brightness_error(1.02 * holed.hsi, holed)
    assert float(error[weight > 0].mean()) == pytest.approx(0.02, rel=1e-3)
    assert float(error[weight == 0].abs().max()) == 0


def test_a_part_that_is_too_bright_is_found_wherever_its_rim_lies():
    torch.manual_seed(0)
    light = 0.05 * torch.rand(60, 50)
    light[:, 30:] += 1  # the rim of what is too bright lies in the dark
    error = 0.01 * torch.randn(60, 50)
    assert checks.part_gain(error, light) < 0.005
    bright = error.clone()
    bright[:, 25:] += 0.03 * light[:, 25:]
    assert checks.part_gain(bright, light) == pytest.approx(0.03, abs=0.01)
    assert checks.part_gain(-bright.T, light.T) == pytest.approx(0.03, abs=0.01)
    assert checks.part_gain(bright[:5], light[:5]) == pytest.approx(0.03, abs=0.015)
    assert checks.part_gain(error.fill_(torch.nan), light) == 0


def test_a_seam_has_the_steepest_line():
    torch.manual_seed(0)
    error = 0.002 * torch.randn(60, 50)
    assert checks.seam_ratio(error) < 1.7
    seamed = error.clone()
    seamed[:, 25:] += 0.02
    assert checks.seam_ratio(seamed) > 5
    assert checks.seam_ratio(seamed.T) > 5
    seamed[:30] = torch.nan
    assert checks.seam_ratio(seamed) > 5
    assert checks.seam_ratio(torch.full((20, 20), torch.nan)) is None


def test_a_part_says_no_more_than_its_data():
    torch.manual_seed(0)
    light = 0.5 + torch.rand(40, 40)
    error = 0.002 * torch.randn(40, 40)
    error[20, 20] += 0.5  # one pixel is no part
    assert checks.part_gain(error, light) < 0.005
    wrong = error + 0.03 * light
    wrong[::2], wrong[:, ::2] = torch.nan, torch.nan  # a quarter is left
    assert checks.part_gain(wrong, light) == 0


def test_a_guide_of_one_band_is_enough(scene):
    problem = scene[0]
    sensor = replace(problem.sensor, srf=problem.sensor.srf[:1], offset=problem.sensor.offset[:1])
    one = replace(problem, guide=problem.guide[:1], guide_noise=problem.guide_noise[:1], sensor=sensor)
    found = sensors_of(one)
    assert len(found["unexplained"]) == 1
    assert np.hypot(*found["shift_px"]) < 0.1


def sharpened(truth):
    """Unsharp masking."""
    cube = truth.rows(0, 128)
    soft = F.avg_pool2d(F.pad(cube[None], (4,) * 4, mode="replicate"), 9, stride=1)[0]
    cube += 0.5 * (cube - soft)
    return StreamedCube.of(truth.shape, lambda start, stop: cube[:, start:stop])


def test_contrast_is_that_of_the_input(scene):
    problem, truth = scene
    assert contrast_of(problem, truth) == pytest.approx(1, abs=0.03)
    assert contrast_of(problem, interpolate(problem)) < 0.8  # softened
    assert contrast_of(problem, sharpened(truth)) > 1.15


def test_contrast_of_noise_is_none(scene):
    problem, truth = scene
    assert contrast_of(replace(problem, hsi_noise=50 * problem.hsi_noise), truth) is None
    bare = replace(problem, guide_weight=torch.zeros_like(problem.guide_weight))
    assert contrast_of(bare, truth) is None


def test_a_wrong_colour_is_found_in_bands_that_are_much_alike(scene):
    """A common brightness hides what the responses miss of each band; the colours do not."""
    problem, truth = scene
    sensor = replace(problem.sensor, offset=0 * problem.sensor.offset)
    cube = truth.rows(0, 128) * torch.linspace(1, 12, 128)
    coarse = (
        blur_down(cube, sensor.psf, RATIO) + problem.hsi - blur_down(truth.rows(0, 128), sensor.psf, RATIO)
    )  # its noise
    pair = replace(problem, hsi=coarse, guide=mix_bands(cube, sensor.srf), sensor=sensor)
    srf = sensor.srf.clone()
    srf[0] = srf[0].roll(1)
    right = sensors_of(pair)
    wrong = sensors_of(replace(pair, sensor=replace(sensor, srf=srf)))
    assert max(wrong["response_excess"]) < 0.02  # next to nothing of any band
    assert right["response_misfit"] < 3 < 10 < wrong["response_misfit"]


def test_what_no_response_could_show_is_not_the_responses_fault(scene):
    """A reference that one band darkens (haze): the best response there is will do."""
    problem, truth = scene
    sensor = problem.sensor
    srf = sensor.srf.clone()
    srf[0, -10:] -= 0.5 * srf[0].sum() / 10
    guide = mix_bands(truth.rows(0, 128), srf)
    pair = replace(problem, guide=guide)
    learned = sense(pair.hsi, pair.hsi_weight, guide, pair.guide_weight, RATIO).sensor
    found = sensors_of(replace(pair, sensor=learned))
    assert found["response_misfit"] < 1


def test_a_band_stands_out_against_those_beside_it():
    noise = torch.full((30,), 5e-4)
    smooth = torch.linspace(0, 0.04, 30)  # a product that is a little too soft, and more so in the red
    assert checks.standing_out(smooth, noise).max() < 1.2
    swapped = torch.zeros(30)
    swapped[[9, 19]] = 0.02
    assert torch.nonzero(checks.standing_out(swapped, noise) > 10).ravel().tolist() == [9, 19]
    neighbours = torch.zeros(30)
    neighbours[[9, 10]] = 0.02
    assert torch.nonzero(checks.standing_out(neighbours, noise) > 10).ravel().tolist() == [9, 10]
    spoilt = torch.zeros(30)
    spoilt[15:] = 0.6  # a half of the spectrum
    assert (checks.standing_out(spoilt, noise)[15:] > 10).all()
    constant = torch.where(torch.arange(30) == 4, torch.nan, smooth)
    assert int(checks.standing_out(constant, noise).isnan().sum()) == 1
