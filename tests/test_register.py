"""The mapping found from the data term, on pairs displaced by a known affine."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from affine import Affine
from synthetic import COLUMNS, MARGIN, RATIO, ROWS, moved, observed, scene

from hsi_fuse.errors import AlignmentError
from hsi_fuse.physics import mix_bands
from hsi_fuse.register import Pair, RegisterOptions, register, sample
from hsi_fuse.subspace import estimate_noise, fit_subspace

HEIGHT, WIDTH = RATIO * ROWS + 2 * MARGIN, RATIO * COLUMNS + 2 * MARGIN
START = Affine.translation(MARGIN, MARGIN) * Affine.scale(RATIO)
CENTRE = (WIDTH / 2, HEIGHT / 2)
SHIFT = Affine.translation(4.3 * RATIO, -5.6 * RATIO)
TURNED = SHIFT * Affine.rotation(1.0, CENTRE) * Affine.translation(*CENTRE) * Affine.scale(1.01)
TURNED = TURNED * Affine.translation(-CENTRE[0], -CENTRE[1])


def displaced(where: Affine, bend_px: float = 0.0, seed: int = 0) -> Pair:
    """The HSI sees the middle of a scene whose guide is wider, and off by `where` (guide pixels)."""
    wide = scene(HEIGHT, WIDTH)
    inner = wide[:, MARGIN:-MARGIN, MARGIN:-MARGIN].contiguous()
    pair = observed(truth=inner)
    everywhere = torch.ones(ROWS, COLUMNS)
    subspace = fit_subspace(pair.hsi, everywhere, estimate_noise(pair.hsi, everywhere), 10)
    clean = mix_bands(scene(HEIGHT, WIDTH, seed), pair.sensor.srf).double().numpy()
    guide = moved(clean, where, bend_px)
    guide += 0.005 * guide.mean() * np.random.default_rng(2).standard_normal(guide.shape)
    weight = torch.ones(HEIGHT, WIDTH)
    return Pair(
        subspace.project(pair.hsi), everywhere, torch.from_numpy(guide).float().contiguous(), weight, START
    )


def error_hsi_px(found: Affine, where: Affine) -> float:
    """Largest error of a mapping over the HSI, HSI pixels."""
    columns, rows = np.meshgrid(np.linspace(0, COLUMNS, 9), np.linspace(0, ROWS, 9))
    x, y = found * (columns, rows)
    u, v = where * START * (columns, rows)
    return float(np.hypot(x - u, y - v).max()) / RATIO


@pytest.fixture(scope="module")
def turned():
    return displaced(TURNED)


@pytest.fixture(scope="module")
def found(turned):
    return register(turned)


def test_shift_rotation_and_scale_are_found(found):
    assert error_hsi_px(found.hsi_to_guide, TURNED) < 0.02
    centre = (COLUMNS / 2, ROWS / 2)
    x, y = ~START * (TURNED * START * centre)
    assert found.shift_hsi_px == pytest.approx((x - centre[0], y - centre[1]), abs=0.02)
    assert found.explained > 0.95


def test_a_pure_shift_is_found_without_bias():
    pair = displaced(SHIFT)
    for model in ("translation", "affine"):
        assert error_hsi_px(register(pair, options=RegisterOptions(model=model)).hsi_to_guide, SHIFT) < 0.01


def test_the_standard_error_is_of_the_size_of_the_error(found):
    assert 0.1 < error_hsi_px(found.hsi_to_guide, TURNED) / found.standard_error_hsi_px < 10


@pytest.mark.parametrize("bands", [[0], [3], [0, 1, 2, 3]])
def test_inverted_contrast_does_not_matter(turned, bands):
    guide = turned.guide[bands].clone()
    guide[-1] = 1000 - 700 * guide[-1]
    assert error_hsi_px(register(replace(turned, guide=guide)).hsi_to_guide, TURNED) < 0.1


def test_clouds_and_holes_in_the_guide_do_not_bend_the_mapping(turned):
    guide, weight = turned.guide.clone(), turned.guide_weight.clone()
    guide[:, 60:110, 80:130] = 0.9
    weight[150:180, 40:70] = 0
    spoilt = replace(turned, guide=guide, guide_weight=weight)
    assert error_hsi_px(register(spoilt).hsi_to_guide, TURNED) < 0.1


def test_a_guide_over_half_the_scene_is_enough(turned):
    weight = turned.guide_weight.clone()
    weight[:, WIDTH // 2 :] = 0
    assert error_hsi_px(register(replace(turned, guide_weight=weight)).hsi_to_guide, TURNED) < 0.1


def test_model_none_trusts_the_start(turned):
    found = register(turned, options=RegisterOptions(model="none"))
    assert found.hsi_to_guide == START
    assert found.shift_hsi_px == pytest.approx((0, 0), abs=1e-9)


def test_an_unknown_model_is_refused(turned):
    with pytest.raises(AlignmentError, match="translation"):
        register(turned, options=RegisterOptions(model="projective"))


def test_a_start_beyond_the_guide_is_refused(turned):
    with pytest.raises(AlignmentError, match="does not overlap"):
        register(replace(turned, start=Affine.translation(10 * WIDTH, 0) * START))


def test_a_guide_without_data_is_refused(turned):
    with pytest.raises(AlignmentError, match="no valid pixel"):
        register(replace(turned, guide_weight=torch.zeros_like(turned.guide_weight)))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_guide_of_another_place_is_refused(seed):
    with pytest.raises(AlignmentError, match="does not seem to show this place"):
        register(displaced(Affine.identity(), seed=seed))


def test_a_guide_of_noise_is_refused(turned):
    noise = torch.randn(turned.guide.shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(AlignmentError, match="does not seem to show this place"):
        register(replace(turned, guide=noise))


def test_the_same_pair_gives_the_same_numbers(turned, found):
    again = register(turned)
    assert again.hsi_to_guide == found.hsi_to_guide
    assert again.standard_error_hsi_px == found.standard_error_hsi_px
    assert torch.equal(again.after, found.after)


def test_tie_points_show_the_error_of_the_start_and_its_end(found):
    length = (found.after[:, 2:] ** 2).sum(1).sqrt()
    assert len(length) >= 6
    assert float((length**2).mean().sqrt()) < 0.05
    # the start is off by far more than the blocks are searched for: it must not look right
    columns, rows = found.before[:, :2].T.numpy()
    x, y = ~START * TURNED * START * (columns, rows)
    wanted = torch.from_numpy(np.stack([x - columns, y - rows], 1))
    assert torch.allclose(found.before[:, 2:], wanted, atol=0.1)


def test_tie_points_measure_a_small_error_of_the_start():
    off = Affine.translation(0.5 * RATIO, -0.8 * RATIO)
    before = register(displaced(off)).before
    assert len(before) >= 6
    assert before[:, 2:].mean(0).tolist() == pytest.approx((0.5, -0.8), abs=0.05)


def test_a_local_warp_shows_in_the_held_out_error(found):
    bent = register(displaced(TURNED, bend_px=0.4 * RATIO))
    rms, calm = (float((r.after[:, 2:] ** 2).sum(1).mean().sqrt()) for r in (bent, found))
    assert rms > 4 * calm
    assert 0.1 < rms < 0.8  # HSI pixels; 0.4 along each axis were put in, and the affine takes some up


def test_sampling_keeps_ramps_and_hits_pixels():
    y, x = np.mgrid[:20, :24] + 0.5
    image = torch.from_numpy(np.stack([2 * x - 3 * y, np.sin(x) * np.cos(y)]))
    columns, rows = torch.meshgrid(
        torch.linspace(3, 20, 31, dtype=torch.float64),
        torch.linspace(3, 16, 29, dtype=torch.float64),
        indexing="xy",
    )
    assert torch.allclose(sample(image, columns, rows)[0], 2 * columns - 3 * rows)
    assert torch.allclose(sample(image, *map(torch.from_numpy, (x, y))), image)
