"""Where the guide shows what the HSI shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from affine import Affine
from scipy.ndimage import zoom
from synthetic import COLUMNS, PSF, RATIO, ROWS, START, unregistered

from hsi_fuse.registration.confidence import (
    AREAS,
    CLUSTER,
    CLUSTER_OF_BENT,
    PIXELS,
    Leniency,
    Misfit,
    confidence_map,
    refined,
    rejected,
)
from hsi_fuse.registration.fit import fit
from hsi_fuse.registration.warp import Observer, Pair

SHAPE = (ROWS, COLUMNS)
SPOT = np.s_[80:130, 70:120]
"""Guide pixels."""


def seen_spot(grow_px: float) -> np.ndarray:
    """HSI pixels whose centre lies in the spot, grown to all sides: bool (h, w)."""
    x, y = START * tuple(np.meshgrid(np.arange(COLUMNS) + 0.5, np.arange(ROWS) + 0.5))
    rows, columns = SPOT
    g = grow_px
    return (x > columns.start - g) & (x < columns.stop + g) & (y > rows.start - g) & (y < rows.stop + g)


INSIDE, OUTSIDE = seen_spot(-RATIO), ~seen_spot(2 * RATIO)


def clouded(guide):
    return guide.amax((1, 2), keepdim=True).expand(-1, 50, 50)


def shadowed(guide):
    return 0.2 * guide[:, *SPOT]


def changed(guide):
    return guide[:, 150:200, 150:200]


def spoilt(how, bands: int) -> Pair:
    pair = unregistered(guide_bands=bands)
    guide = pair.guide.clone()
    guide[:, *SPOT] = how(pair.guide)
    return replace(pair, guide=guide)


def map_of(pair: Pair, leniency: Leniency = AREAS) -> np.ndarray:
    found = fit(Observer(pair, PSF, RATIO), pair.start, "affine")
    return confidence_map(Observer(pair, PSF, RATIO, thin=False), found, leniency)


def area_under_curve(low: np.ndarray, high: np.ndarray) -> float:
    """How often a value of the one is below a value of the other."""
    return float((low[:, None] < high).mean() + 0.5 * (low[:, None] == high).mean())


# --- the map -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [clouded, shadowed, changed])
@pytest.mark.parametrize("bands", [1, 3, 4, 9])
@pytest.mark.parametrize("leniency", [AREAS, PIXELS])
def test_what_the_guide_shows_otherwise_is_low_and_the_rest_high(how, bands, leniency):
    confidence = map_of(spoilt(how, bands), leniency)
    assert confidence.shape == SHAPE
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    assert area_under_curve(confidence[INSIDE], confidence[OUTSIDE]) > 0.99
    assert np.median(confidence[INSIDE]) < 0.2
    assert np.quantile(confidence[OUTSIDE], 0.05) > 0.7


@pytest.mark.parametrize("how", [clouded, shadowed, changed])
@pytest.mark.parametrize("bands", [1, 4])
def test_the_area_is_rejected_and_the_rest_is_not(how, bands):
    out = rejected(map_of(spoilt(how, bands)))
    assert out[INSIDE].mean() > 0.8
    assert out[OUTSIDE].mean() < 0.01


@pytest.mark.parametrize("bands", [1, 3, 4, 9])
@pytest.mark.parametrize("leniency", [AREAS, PIXELS])
def test_a_faultless_guide_is_trusted(bands, leniency):
    confidence = map_of(unregistered(guide_bands=bands), leniency)
    assert np.quantile(confidence, 0.1) > 0.8
    assert not rejected(confidence).any()


def test_noise_alone_is_nothing_unusual():
    pair = unregistered()
    noise = torch.randn(pair.low.shape, generator=torch.Generator().manual_seed(0))
    confidence = map_of(replace(pair, low=pair.low + 20 * noise))
    assert np.median(confidence) > 0.8
    assert not rejected(confidence).any()


def test_where_nothing_is_known_confidence_is_full():
    """No HSI pixel, no guide: the weights speak of that, not the confidence."""
    pair = spoilt(clouded, 4)
    weight, low_weight = pair.guide_weight.clone(), pair.low_weight.clone()
    weight[SPOT], low_weight[40:44] = 0, 0
    confidence = map_of(replace(pair, guide_weight=weight, low_weight=low_weight))
    assert (confidence[INSIDE] == 1).all()
    assert (confidence[40:44] == 1).all()
    assert (confidence < 1).mean() > 0.5
    nothing = replace(pair, guide_weight=torch.zeros_like(weight))
    found = fit(Observer(pair, PSF, RATIO), pair.start, "affine")
    assert (confidence_map(Observer(nothing, PSF, RATIO, thin=False), found) == 1).all()


def test_what_half_known_places_explain_is_nothing_unusual():
    pair = unregistered()
    found = fit(Observer(pair, PSF, RATIO), pair.start, "affine")
    beside = replace(found, base=START * Affine.translation(0.1, 0))
    misfit = Misfit.of(Observer(pair, PSF, RATIO, thin=False), beside)
    strict, lenient = (misfit.confidence(Leniency(0.0, off)) for off in (0.0, 0.15))
    assert (lenient >= strict).all()
    assert lenient.min() > strict.min() + 0.2


def test_a_wrong_mapping_is_seen_at_edges():
    pair = unregistered()
    found = fit(Observer(pair, PSF, RATIO), pair.start, "affine")
    whole = Observer(pair, PSF, RATIO, thin=False)
    there, beside = (
        confidence_map(whole, replace(found, base=START * Affine.translation(off, 0))) for off in (0, 1.0)
    )
    assert beside.mean() < there.mean() - 0.05


# --- what is rejected --------------------------------------------------------------------------------------


def low_at(*places) -> np.ndarray:
    confidence = np.full((30, 40), 0.95)
    for place in places:
        confidence[place] = 0.05
    return confidence


def test_single_pixels_and_edges_are_not_rejected():
    lines = low_at(
        (5, 5), np.s_[10], np.s_[:, 20], np.s_[20:22, 30:32], np.s_[25:27], (np.arange(8), 30 + np.arange(8))
    )
    assert not rejected(lines).any()
    assert not rejected(np.ones((30, 40))).any()


@pytest.mark.parametrize(
    ("side", "smallest"), [(CLUSTER, CLUSTER), (CLUSTER + 4, CLUSTER), (CLUSTER_OF_BENT, CLUSTER_OF_BENT)]
)
def test_an_area_is_rejected_as_it_is(side, smallest):
    area = np.s_[8 : 8 + side, 12 : 12 + side]
    out = rejected(low_at(area, (25, 25)), smallest)
    wanted = np.zeros(out.shape, bool)
    wanted[area] = True
    assert out.dtype == bool
    assert np.array_equal(out, wanted)


def test_the_fringe_of_an_area_goes_with_it():
    """Half clouded pixels beside it do, others as doubtful elsewhere don't."""
    confidence = low_at(np.s_[8:14, 8:14])
    confidence[7, 9:12] = 0.6
    confidence[14, 9:12] = 0.9
    confidence[20:26, 20:26] = 0.6
    out = rejected(confidence)
    assert out[7, 9:12].all()
    assert not out[14].any()
    assert not out[20:26].any()


# --- on the fine grid --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1, 2, 3, 4])
def test_the_fine_map_is_bilinear(ratio):
    confidence = np.random.default_rng(0).uniform(size=(6, 9))
    fine = refined(confidence, ratio)
    assert fine.shape == (6 * ratio, 9 * ratio)
    assert fine.min() >= confidence.min()
    assert fine.max() <= confidence.max()
    inner = np.s_[ratio:-ratio, ratio:-ratio] if ratio > 1 else np.s_[:, :]
    wanted = zoom(confidence, ratio, order=1, mode="nearest", grid_mode=True)
    assert np.allclose(fine[inner], wanted[inner])


def test_the_fine_map_keeps_ramps_and_its_rim():
    ramp = np.tile(np.linspace(0.1, 0.9, 9), (6, 1))
    fine = refined(ramp, 4)
    assert np.allclose(np.diff(fine[:, 2:-2], axis=1), 0.1 / 4)
    assert np.allclose(fine[:, :2], 0.1)
    assert np.allclose(fine.mean(), ramp.mean())


def test_of_many_pixels_some_say_what_the_hsi_makes_of_the_guide(monkeypatch):
    pair = spoilt(clouded, 3)
    observer = Observer(pair, PSF, RATIO, thin=False)
    found = fit(observer, START)
    whole = Misfit.of(observer, found)
    monkeypatch.setattr("hsi_fuse.registration.confidence.TAUGHT", 200)
    some = Misfit.of(observer, found)
    assert np.array_equal(some.values, whole.values)
    assert np.abs(some.residual - whole.residual).max() < 0.1 * whole.residual.std()
    assert (rejected(some.confidence(AREAS)) == rejected(whole.confidence(AREAS))).mean() > 0.99
