"""Where the HSI lies in the guide, roughly: shifts, rotations and scales by regression."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from affine import Affine
from synthetic import COLUMNS, MARGIN, RATIO, ROWS, astray, cut, unregistered

from hsi_fuse.errors import AlignmentError
from hsi_fuse.registration.search import APART_PX, Range, search
from hsi_fuse.registration.warp import Pair

CENTRE = (RATIO * COLUMNS / 2 + MARGIN, RATIO * ROWS / 2 + MARGIN)
SMALL, WHOLE = (24, 20), (ROWS, COLUMNS)
NEAR = Range(12, 10, 1.05, 0.05)
TURNS, SCALES = Range(None, 180, 1, 0.4), Range(None, 0, 2, 0.4)
SHIFT = Affine.translation(5 * RATIO, -7 * RATIO)


def about_centre(degrees: float = 0.0, scale: float = 1.0) -> Affine:
    to_centre = Affine.translation(*CENTRE)
    return to_centre * Affine.rotation(degrees) * Affine.scale(scale) * ~to_centre


def corners(mapping: Affine, shape: tuple[int, int]) -> np.ndarray:
    height, width = shape
    return np.array([mapping * corner for corner in ((0, 0), (width, 0), (0, height), (width, height))])


@pytest.fixture(scope="module")
def shifted() -> Pair:
    return cut(unregistered(SHIFT), *SMALL)


# --- what is found -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SMALL, WHOLE])  # the latter is pooled
@pytest.mark.parametrize("shift", [(0, 0), (12, -12), (-12, 0), (5.5, -7.3)])
def test_a_shift_is_found_up_to_the_reach(shape, shift):
    where = Affine.translation(RATIO * shift[0], RATIO * shift[1])
    pair = cut(unregistered(where), *shape)
    best, second = search(pair, NEAR, 2)
    # a trial grid of whole (pooled) pixels and of rotations and scales that move a corner by two of them
    assert astray(pair, best.mapping, where=where).max() < 1.5
    assert best.explained > 0.75
    assert best.score > 2 * second.score


def test_beyond_the_reach_nothing_is_tried(shifted):
    found = search(shifted, replace(NEAR, shift_hsi_px=4, degrees=0, scale=1), 50)
    assert len(found) > 2
    moves = np.array([~shifted.start * candidate.mapping * (0, 0) for candidate in found])
    assert np.abs(moves).max() == pytest.approx(4)
    assert found[0].explained < 0.5


@pytest.mark.parametrize("degrees", [37, 90, -120, 180])
def test_any_rotation_is_found_without_georeferencing(degrees):
    where = about_centre(degrees)
    pair = cut(unregistered(where, guide_bands=1), *SMALL)
    best = search(pair, TURNS, 1)[0]
    assert astray(pair, best.mapping, where=where).max() < 1.5
    assert best.explained > 0.75


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.4, 2.0])
def test_scales_to_a_half_and_twice_are_found_without_georeferencing(scale):
    where = about_centre(scale=scale)
    pair = cut(unregistered(where, guide_bands=3), *SMALL)
    best = search(pair, SCALES, 1)[0]
    assert astray(pair, best.mapping, where=where).max() < 1.5 * scale
    assert best.explained > 0.75


def test_the_start_may_claim_a_shape_that_pixels_do_not_have():
    """Both images from edge to edge of each other: a wide guide stretches the HSI's pixels."""
    pair = cut(unregistered(), *SMALL)
    stretched = (
        Affine.translation(*CENTRE) * Affine.scale(1.1, 0.9) * Affine.translation(-CENTRE[0], -CENTRE[1])
    )
    best = search(replace(pair, start=stretched * pair.start), SCALES, 1)[0]
    assert astray(pair, best.mapping).mean() < 1
    assert best.explained > 0.5


# --- what does not matter ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 3, 4, 9])
def test_neither_contrast_nor_level_matters(bands):
    pair = cut(unregistered(SHIFT, guide_bands=bands), *SMALL)
    gain, offset = torch.tensor([-700.0, 0.3, 40.0, -1.0] * 3), torch.tensor([5000.0, 0.0, 0.0, 8.0] * 3)
    guide = gain[:bands, None, None] * pair.guide + offset[:bands, None, None]
    found, plain = search(replace(pair, guide=guide), NEAR, 1)[0], search(pair, NEAR, 1)[0]
    assert found.mapping == plain.mapping
    assert found.score == pytest.approx(plain.score, rel=1e-3)


def test_half_an_overlap_is_enough(shifted):
    weight = shifted.guide_weight.clone()
    weight[:, int(CENTRE[0] + 5 * RATIO) :] = 0  # the right half of the HSI lies there
    best = search(replace(shifted, guide_weight=weight), NEAR, 1)[0]
    assert astray(shifted, best.mapping, where=SHIFT).max() < 0.5
    assert best.explained > 0.75


@pytest.mark.parametrize(("least", "known"), [(0.2, True), (0.6, False)])
def test_less_overlap_than_asked_for_is_no_candidate(shifted, least, known):
    weight = shifted.guide_weight.clone()
    weight[:, int(CENTRE[0] + 5 * RATIO) :] = 0
    found = search(replace(shifted, guide_weight=weight), replace(NEAR, least_overlap=least), 8)
    near = [astray(shifted, candidate.mapping, where=SHIFT).max() < 0.5 for candidate in found]
    assert any(near) == known


def test_pixels_without_weight_do_not_count(shifted):
    weight = shifted.low_weight.clone()
    weight[3:10, 4:9] = 0
    low, generator = shifted.low, torch.Generator().manual_seed(0)
    garbage = torch.where(weight > 0, low, 1e4 * torch.randn(low.shape, generator=generator))
    clean = torch.where(weight > 0, low, 0.0)
    found, wanted = (search(replace(shifted, low=x, low_weight=weight), NEAR, 3) for x in (garbage, clean))
    assert found == wanted
    assert found[0].explained > 0.9


# --- the candidates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SMALL, WHOLE])
def test_candidates_lie_apart_and_the_best_comes_first(shape):
    pair = cut(unregistered(SHIFT), *shape)
    found = search(pair, NEAR, 6)
    assert len(found) == 6
    scores = [candidate.score for candidate in found]
    assert scores == sorted(scores, reverse=True)
    places = [corners(candidate.mapping, shape) for candidate in found]
    for i, one in enumerate(places):
        for other in places[:i]:  # counted in a candidate's own steps, which are 5 % shorter at most
            assert np.abs(one - other).max() > 0.95 * APART_PX * RATIO


def test_the_same_pair_gives_the_same_candidates(shifted):
    assert search(shifted, NEAR, 8) == search(replace(shifted, guide=shifted.guide.clone()), NEAR, 8)


def test_noise_explains_nothing(shifted):
    noise = torch.randn(shifted.guide.shape, generator=torch.Generator().manual_seed(0))
    assert all(candidate.explained < 0.15 for candidate in search(replace(shifted, guide=noise), NEAR, 8))


@pytest.mark.parametrize("place", [1, 2])
def test_another_place_explains_little(place):
    assert all(c.explained < 0.4 for c in search(cut(unregistered(place=place), *SMALL), NEAR, 8))


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("within", [NEAR, TURNS])
def test_a_guide_without_data_is_refused(shifted, within):
    with pytest.raises(AlignmentError, match="no valid pixel"):
        search(replace(shifted, guide_weight=torch.zeros_like(shifted.guide_weight)), within, 1)


def test_a_guide_of_elsewhere_is_refused(shifted):
    far = Affine.translation(10_000, 0) * shifted.start
    with pytest.raises(AlignmentError, match=r"does not overlap .*\(12 HSI pixels"):
        search(replace(shifted, start=far), NEAR, 1)


def test_a_guide_with_too_little_data_is_refused_without_georeferencing(shifted):
    weight = torch.zeros_like(shifted.guide_weight)
    weight[100:130, 100:130] = 1
    with pytest.raises(AlignmentError, match="does not overlap"):
        search(replace(shifted, guide_weight=weight), TURNS, 1)
