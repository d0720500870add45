"""What the HSI's sensor would see of the guide under a mapping: values, slopes, support, places."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from affine import Affine
from scipy.ndimage import gaussian_filter, map_coordinates
from synthetic import COLUMNS, MARGIN, PSF, RATIO, ROWS, START, unregistered

from hsi_fuse.physics import blur_down, gaussian_psf
from hsi_fuse.registration import tiles, warp
from hsi_fuse.registration.warp import (
    Observer,
    Pair,
    antialias_sigma,
    apply,
    gaussian_blur,
    on_lattice,
    sample,
    step_lengths,
)

TURNED = Affine.translation(5.3, -3.1) * START * Affine.rotation(20, (COLUMNS / 2, ROWS / 2))
WAVES = np.stack([np.sin(np.arange(5)[:, None] + np.arange(6)), np.cos(np.arange(5)[:, None] - np.arange(6))])


@pytest.fixture(scope="module")
def pair() -> Pair:
    return unregistered()


def bent(columns, rows):
    """A displacement of a tenth of an HSI pixel."""
    x, y = np.meshgrid(columns, rows)
    return 0.1 * np.stack([np.sin(y / 7), np.cos(x / 5)])


def smooth(pair: Pair, sigma: float = 2.0) -> Pair:
    guide = gaussian_filter(pair.guide.numpy(), (0, sigma, sigma))
    return replace(pair, guide=torch.from_numpy(guide))


# --- sampling ----------------------------------------------------------------------------------------------


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


def test_sampling_is_cubic_between_pixels():
    y, x = np.mgrid[:40, :50] + 0.5
    image = torch.from_numpy(np.sin(x / 6 + 1) * np.cos(y / 7))[None]
    places = np.random.default_rng(0).uniform(4, 36, (2, 200))
    wanted = np.sin(places[0] / 6 + 1) * np.cos(places[1] / 7)
    found = sample(image, *map(torch.from_numpy, places))[0].numpy()
    linear = map_coordinates(image[0].numpy(), places[::-1] - 0.5, order=1)
    assert np.abs(found - wanted).max() < 5e-4
    assert np.abs(linear - wanted).max() > 2e-3


def test_beyond_the_image_its_edge_goes_on():
    image = torch.arange(12.0).reshape(1, 3, 4)
    far = torch.tensor([-50.0, 50.0])
    assert sample(image, far, far)[0].tolist() == [0, 11]


def test_a_blur_has_its_widths_and_keeps_constants():
    image = torch.zeros(2, 61, 61, dtype=torch.float64)
    image[0, 30, 30], image[1] = 1, 7
    spot, level = gaussian_blur(image, (3.0, 1.5))
    offsets = torch.arange(61) - 30.0
    assert float((spot.sum(0) * offsets**2).sum().sqrt()) == pytest.approx(3.0, rel=0.01)  # along columns
    assert float((spot.sum(1) * offsets**2).sum().sqrt()) == pytest.approx(1.5, rel=0.01)
    assert torch.allclose(level, image[1])
    assert torch.equal(gaussian_blur(image, (0.0, 0.0)), image)


def test_steps_are_counted_along_the_guides_own_axes():
    assert step_lengths(Affine.scale(3, 5)) == pytest.approx((3, 5))
    assert step_lengths(Affine.rotation(90) * Affine.scale(3, 5)) == pytest.approx((5, 3))
    assert step_lengths(Affine.rotation(37) * Affine.scale(4)) == pytest.approx((4, 4))


def test_only_pixels_larger_than_the_guides_are_blurred():
    assert antialias_sigma(Affine.scale(0.7, 1)) == (0, 0)
    # a box of s pixels, sampled: the variance of s equal steps
    across, down = antialias_sigma(Affine.scale(4, 2))
    assert (across**2, down**2) == pytest.approx((np.var(np.arange(4)), np.var(np.arange(2))))


# --- lattices ----------------------------------------------------------------------------------------------


def test_a_lattice_is_bilinear_from_corner_to_corner():
    at = np.linspace(0, 60, 4), np.linspace(0, 40, 6)  # of the nodes: columns, rows
    x, y = np.meshgrid(*at)
    lattice = np.stack([1 + 2 * x - y + 0.1 * x * y, 3 - x])
    columns, rows = np.linspace(0, 60, 23), np.linspace(0, 40, 17)
    x, y = np.meshgrid(columns, rows)
    found = on_lattice(lattice, columns, rows, (40, 60))
    assert np.allclose(found, np.stack([1 + 2 * x - y + 0.1 * x * y, 3 - x]))
    assert np.allclose(on_lattice(lattice, *at, (40, 60)), lattice)


def test_beyond_the_image_the_lattices_rim_goes_on():
    lattice = WAVES
    found = on_lattice(lattice, np.array([-9.0, 70.0]), np.array([-1.0, 99.0]), (40, 60))
    assert np.allclose(found, lattice[:, [0, -1]][:, :, [0, -1]])


# --- the observer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 6, 10, 16])
def test_in_place_the_sensor_sees_the_guide_blurred_down(pair, size):
    psf = gaussian_psf(RATIO, 1.2 * size / 3, size=size)
    seen = Observer(pair, psf, RATIO).see(START)
    inner = pair.guide[:, MARGIN - 16 : 16 - MARGIN, MARGIN - 16 : 16 - MARGIN]
    wanted = blur_down(inner, psf, RATIO)[:, 4:-4, 4:-4].reshape(4, -1)
    assert np.allclose(seen.values, wanted, atol=1e-6)
    assert seen.support.all()


def test_pixels_come_with_their_places_and_coefficients(pair):
    observer = Observer(pair, PSF, RATIO)
    index = np.arange(ROWS * COLUMNS)
    assert np.array_equal(observer.columns, index % COLUMNS + 0.5)
    assert np.array_equal(observer.rows, index // COLUMNS + 0.5)
    assert (observer.design[0] == 1).all()
    assert np.array_equal(observer.design[1:], pair.low.flatten(1).double())


def test_a_mapping_is_a_base_of_a_shifted_place_and_a_bend(pair):
    there = START * Affine.translation(1, -2)  # whole pixels: nothing is interpolated
    wanted = Observer(pair, PSF, RATIO).see(there)
    shifted = Observer(pair, PSF, RATIO).see(
        START, lambda columns, rows: np.array([1.0, -2.0])[:, None, None] * np.ones((len(rows), len(columns)))
    )
    bend = np.array([RATIO, -2.0 * RATIO], np.float32)[:, None, None] * np.ones((2, 3, 3), np.float32)
    carried = Observer(replace(pair, bend=bend), PSF, RATIO).see(START)
    for seen in (shifted, carried):
        assert np.allclose(seen.values, wanted.values, atol=1e-6)
        assert np.allclose(seen.slopes, wanted.slopes, atol=1e-6)


@pytest.mark.parametrize("base", [START, TURNED, TURNED * Affine.scale(1.1, 0.9)])
@pytest.mark.parametrize("moved", [None, bent])
def test_slopes_are_what_a_small_shift_changes(pair, base, moved):
    observer = Observer(smooth(replace(pair, bend=WAVES.astype(np.float32))), PSF, RATIO)
    seen, step = observer.see(base, moved), 0.05
    for axis in (0, 1):

        def off(columns, rows, sign, axis=axis):
            shift = np.zeros((2, len(rows), len(columns))) if moved is None else moved(columns, rows)
            shift[axis] += sign * step
            return shift

        ahead, behind = (observer.see(base, lambda c, r, s=sign: off(c, r, s)).values for sign in (1, -1))
        wanted = (ahead - behind) / (2 * step)
        clear = seen.support > 0
        # differences over two fine pixels fall short of the derivative by a few per cent
        scale = np.abs(wanted[:, clear]).mean()
        assert np.abs(seen.slopes[axis] - wanted)[:, clear].mean() < 0.05 * scale


def test_the_whole_psf_must_lie_on_valid_guide_pixels(pair):
    weight = pair.guide_weight.clone()
    weight[MARGIN + 80 : MARGIN + 81, MARGIN + 60 : MARGIN + 61] = 0  # one pixel, of HSI pixel (15, 20)
    support = (
        Observer(replace(pair, guide_weight=weight), PSF, RATIO).see(START).support.reshape(ROWS, COLUMNS)
    )
    assert not support[20, 15]
    assert support[:, 17:].all()
    assert support[:, :13].all()
    weight[:, : MARGIN + 40] = 0
    support = (
        Observer(replace(pair, guide_weight=weight), PSF, RATIO).see(START).support.reshape(ROWS, COLUMNS)
    )
    assert not support[:, :10].any()
    assert support[:18, 11:].all()


def test_beyond_the_guides_edge_nothing_is_seen(pair):
    support = (
        Observer(pair, PSF, RATIO).see(START * Affine.translation(-12, 12)).support.reshape(ROWS, COLUMNS)
    )
    # MARGIN fine pixels are 8 HSI pixels: 4 columns and rows of the HSI lie beyond, and one is half seen
    assert not support[:, :4].any()
    assert not support[-4:].any()
    assert support[:-5, 5:].all()


def test_only_valid_and_wanted_hsi_pixels_are_looked_at(pair):
    low_weight, keep = torch.ones(ROWS, COLUMNS), torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    low_weight[3, 5], keep[7] = 0, False
    observer = Observer(replace(pair, low_weight=low_weight), PSF, RATIO, keep)
    places = set(zip(observer.rows, observer.columns, strict=True))
    assert len(places) == ROWS * COLUMNS - 1 - COLUMNS
    assert (3.5, 5.5) not in places
    assert not any(row == 7.5 for row, _ in places)
    assert observer.see(START).values.shape == (4, len(places))


def test_strips_see_what_the_whole_sees(pair, monkeypatch):
    pair = replace(pair, bend=WAVES.astype(np.float32))
    whole = Observer(pair, PSF, RATIO)
    monkeypatch.setattr(warp, "STRIP_PIXELS", 7 * RATIO**2 * (COLUMNS + 2))
    parts = Observer(pair, PSF, RATIO)
    assert (len(whole.tiles), len(parts.tiles)) == (1, 7)
    one, other = whole.see(TURNED, bent), parts.see(TURNED, bent)
    assert np.array_equal(whole.design, parts.design)
    assert np.allclose(one.values, other.values, atol=1e-6)
    assert np.array_equal(one.support, other.support)
    assert np.allclose(one.slopes, other.slopes, atol=1e-5)


def test_of_a_large_scene_only_textured_tiles_are_looked_at(pair, monkeypatch):
    whole = Observer(pair, PSF, RATIO)
    monkeypatch.setattr(tiles, "SIDE", 8)
    monkeypatch.setattr(warp, "MOST_HSI_PIXELS", ROWS * COLUMNS // 3)
    low = pair.low.clone()
    low[:, :, 16:32] = low[:, :1, 16:32, None][..., 0]  # columns without texture along rows
    some = Observer(replace(pair, low=low), PSF, RATIO)
    places = whole.rows * 1000 + whole.columns
    same = np.isin(places, some.rows * 1000 + some.columns)
    assert 64 * 6 <= same.sum() <= ROWS * COLUMNS // 3
    order = np.argsort(some.rows * 1000 + some.columns)
    assert np.allclose(
        some.see(TURNED, bent).values[:, order], whole.see(TURNED, bent).values[:, same], atol=1e-6
    )


def test_what_is_seen_is_what_is_warped_and_blurred(pair):
    observer = Observer(pair, PSF, RATIO)
    (fine,) = observer.warped(TURNED, bent)
    assert fine.shape == (5, (ROWS + 2) * RATIO, (COLUMNS + 2) * RATIO)  # the PSF reaches into one HSI pixel
    assert torch.equal(fine[-1], fine[-1].round())
    seen = observer.see(TURNED, bent)
    assert np.array_equal(observer.blurred([fine[:2]]), seen.values[:2])
    assert np.array_equal(observer.blurred([fine[-1:]])[0] > 0.98, seen.support > 0)


def test_a_finer_guide_is_seen_as_if_its_pixels_were_averaged():
    noise = torch.randn(1, 384, 320, generator=torch.Generator().manual_seed(0))
    averaged = torch.nn.functional.avg_pool2d(noise, 2)
    low = torch.randn(2, 48, 40)
    fine, coarse = (
        Pair(low, torch.ones(48, 40), image, torch.ones(image.shape[1:]), Affine.scale(step))
        for image, step in ((noise, 2.0 * RATIO), (averaged, float(RATIO)))
    )
    found, wanted = (Observer(p, PSF, RATIO).see(p.start) for p in (fine, coarse))
    assert found.values.std() == pytest.approx(wanted.values.std(), rel=0.05)
    assert np.corrcoef(found.values[0], wanted.values[0])[0, 1] > 0.98


# --- pooling -----------------------------------------------------------------------------------------------


def test_a_pooled_pair_has_a_pooled_guide_under_the_same_mapping(pair):
    bend = WAVES.astype(np.float32)
    pooled = replace(pair, bend=bend).pooled(4)
    assert pooled.grain == 2  # an HSI pixel is 16 native guide pixels now
    assert pooled.pooled(2).grain == 4
    assert pooled.guide.shape[1:] == tuple(side // 2 for side in pair.guide.shape[1:])
    native = replace(pooled, guide=pair.guide, guide_weight=pair.guide_weight, grain=1)
    base = TURNED * Affine.scale(4)
    seen, wanted = (Observer(p, PSF, RATIO).see(base) for p in (pooled, native))
    assert np.abs(seen.values - wanted.values).mean() < 0.02 * wanted.values.std()
    assert np.abs(seen.slopes - wanted.slopes).mean() < 0.05 * wanted.slopes.std()
    assert (seen.support == wanted.support).mean() > 0.9


def test_a_pooled_pair_lies_where_the_pair_lies(pair):
    pair = replace(pair, start=TURNED, bend=WAVES.astype(np.float32))
    pooled = pair.pooled(4)
    assert pooled.shape == (ROWS // 4, COLUMNS // 4)
    assert pooled.start * (3, 5) == pytest.approx(TURNED * (12, 20))
    assert torch.allclose(pooled.low[:, 2, 1], pair.low[:, 8:12, 4:8].mean((1, 2)), atol=1e-4)
    assert pair.pooled(1) is pair
    # whichever of them is looked at, the guide is seen in the same place
    psf = gaussian_psf(RATIO, 4.0 * RATIO)
    coarse = (
        Observer(pooled, gaussian_psf(RATIO, float(RATIO)), RATIO).see(pooled.start).values.reshape(4, 12, 10)
    )
    fine = Observer(pair, psf, RATIO).see(TURNED).values.reshape(4, ROWS, COLUMNS)
    centres = fine.reshape(4, 12, 4, 10, 4)[:, :, 1:3, :, 1:3].mean((2, 4))
    assert np.abs(coarse - centres).mean() < 0.02 * centres.std()


def test_pooling_leaves_out_what_is_not_valid(pair):
    weight = pair.low_weight.clone()
    weight[0, :3] = 0
    weight[4:8, 4:8] = 0
    low = torch.where(weight > 0, pair.low, 1e6)
    pooled = replace(pair, low=low, low_weight=weight).pooled(4)
    assert torch.allclose(pooled.low[:, 0, 0], pair.low[:, :4, :4].flatten(1)[:, 3:].mean(1), atol=1e-4)
    assert pooled.low_weight[0, 0] == 1
    assert pooled.low_weight[1, 1] == 0
    assert pooled.low_weight.sum() == pooled.low_weight.numel() - 1


def test_pooling_keeps_the_bend_where_it_was(pair):
    """A side that no whole number of large pixels fills: the bend is a lattice over the old image."""
    bend = np.stack([np.tile(np.linspace(0, 40, 5, dtype=np.float32), (4, 1))] * 2)
    pooled = replace(pair, bend=bend).pooled(7)
    assert pooled.shape == (6, 5)
    x, y = np.array([3.0]), np.array([2.0])
    found = on_lattice(pooled.bend, x, y, pooled.shape)
    assert found == pytest.approx(on_lattice(bend, 7 * x, 7 * y, pair.shape), abs=1e-4)


def test_an_affine_is_applied_as_affine_does():
    columns, rows = np.arange(3.0), np.array([2.0, -1.0, 4.0])
    wanted = [TURNED * place for place in zip(columns, rows, strict=True)]
    assert np.allclose(np.stack(apply(TURNED, columns, rows), 1), wanted)


def test_what_is_shown_is_what_is_seen_without_its_slopes():
    pair = unregistered()
    observer = Observer(pair, PSF, RATIO)
    seen = observer.see(TURNED)
    values, support = observer.shown(TURNED)
    assert np.array_equal(values, seen.values)
    assert np.array_equal(support, seen.support)


def test_pooling_copies_no_guide_whose_pixels_stay():
    pair = replace(unregistered(), start=Affine.scale(3))
    pooled = pair.pooled(2)
    assert pooled.grain == 1
    assert pooled.guide is pair.guide
