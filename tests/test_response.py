"""Curves that make a guide linear in what the HSI sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from affine import Affine
from synthetic import PSF, RATIO, START, hsi_of, unregistered

from hsi_fuse.errors import AlignmentError
from hsi_fuse.registration.response import EXPONENTS, RANGE, Response, fit_responses, linearised
from hsi_fuse.registration.warp import Observer, Pair


def responses_of(pair: Pair, base: Affine = START) -> list[Response]:
    return list(fit_responses(pair, base, None, Observer(pair, PSF, RATIO), hsi_of(pair).double().numpy()))


def compressed(pair: Pair, gamma: float, black: float = 30.0, span: float = 200.0) -> Pair:
    """What a camera makes of it that takes the gamma-th root between black and white, or inverts."""
    bands = []
    for band in pair.guide:
        low, high = torch.quantile(band, torch.tensor(RANGE, dtype=band.dtype))
        bands.append(black + span * ((band - low) / (high - low)).clamp_min(0) ** (1 / gamma))
    return replace(pair, guide=torch.stack(bands))


def likeness(pair: Pair, other: Pair) -> np.ndarray:
    """Correlation of each band with the other's."""
    return np.array(
        [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(pair.guide, other.guide, strict=True)]
    )


# --- what is found -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [200.0, -200.0])
@pytest.mark.parametrize("gamma", [0.45, 1.6, 2.0, 2.5])
def test_a_gamma_is_found_and_undone(gamma, span):
    plain = unregistered()
    pair = compressed(plain, gamma, span=span)
    found = responses_of(pair)
    for response in found:
        assert response.exponent == pytest.approx(gamma, rel=0.3)
        assert np.sign(response.span) == np.sign(span)
        assert not response.linear
        assert 0.5 < response.gain <= 1
    made = likeness(linearised(pair, found), plain)
    assert (made > 0.999).all()
    assert (1 - made < 0.2 * (1 - np.abs(likeness(pair, plain)))).all()


def test_a_curve_is_found_more_finely_than_it_is_first_looked_for():
    """A black, below the darkest pixel; no exponent and no black level of the grid is right."""
    plain = unregistered()
    lit = replace(plain, guide=plain.guide - plain.guide.amin((1, 2), keepdim=True) * 0.9)
    levels = lit.guide.amax((1, 2), keepdim=True)
    camera = replace(lit, guide=30 + 200 * (lit.guide / levels) ** (1 / 2.07))
    for response in responses_of(camera):
        assert response.exponent == pytest.approx(2.07, rel=0.02)
        assert response.black == pytest.approx(30, abs=3)


@pytest.mark.parametrize("bands", [1, 3, 9])
def test_all_bands_have_the_cameras_exponent(bands):
    found = responses_of(compressed(unregistered(guide_bands=bands), 2.0))
    assert len(found) == bands
    (exponent,) = {response.exponent for response in found}
    assert exponent == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("inverted", [(), (0,), (1, 3), (0, 1, 2, 3)])
def test_exactly_the_inverted_bands_are_turned_around(inverted):
    plain = unregistered()
    guide = plain.guide.clone()
    for band in inverted:
        guide[band] = 4000 - 700 * guide[band]
    pair = replace(plain, guide=guide)
    found = responses_of(pair)
    assert [i for i, response in enumerate(found) if response.span < 0] == list(inverted)
    assert {response.exponent for response in found} == {1.0}
    made = linearised(pair, found)
    assert (likeness(made, plain) > 0.9999).all()
    assert torch.equal(made.guide[2], guide[2]) == (2 not in inverted)


@pytest.mark.parametrize(("gain", "offset"), [(1, 0), (3000, 500), (0.01, -7)])
@pytest.mark.parametrize("bands", [1, 4])
def test_a_linear_guide_stays_as_it_is(bands, gain, offset):
    pair = unregistered(guide_bands=bands)
    pair = replace(pair, guide=gain * pair.guide + offset)
    found = responses_of(pair)
    assert all(response.linear and response.gain == 0 for response in found)
    assert torch.equal(linearised(pair, found).guide, pair.guide)


def test_noise_asks_for_no_curve():
    pair = unregistered()
    noise = torch.randn(pair.guide.shape, generator=torch.Generator().manual_seed(0))
    noisy = replace(pair, guide=pair.guide + 0.5 * pair.guide.std() * noise)
    assert all(response.linear for response in responses_of(noisy))


def test_a_cloud_bends_no_curve():
    pair = unregistered()
    guide = pair.guide.clone()
    guide[:, 80:130, 70:120] = 3 * guide.max()
    assert all(response.linear for response in responses_of(replace(pair, guide=guide)))


def test_a_gamma_is_found_beside_a_hole():
    """What lies in a hole is no part of the band's range."""
    pair = compressed(unregistered(), 2.0)
    weight = pair.guide_weight.clone()
    weight[100:180, 30:110] = 0
    holed = replace(pair, guide=torch.where(weight > 0, pair.guide, 1e4), guide_weight=weight)
    (exponent,) = {response.exponent for response in responses_of(holed)}
    assert exponent == pytest.approx(2, rel=0.15)


def test_a_mapping_beside_the_guide_is_an_error():
    with pytest.raises(AlignmentError, match="slid off"):
        responses_of(unregistered(), START * Affine.translation(500, 0))


# --- the curve ---------------------------------------------------------------------------------------------

VALUES = np.linspace(-50, 400, 901).astype(np.float32)


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize(("black", "span"), [(20.0, 200.0), (220.0, -200.0), (-3.0, 80.0)])
def test_a_response_never_turns_back(black, span, exponent):
    """The order of values stays, or is turned around; nothing jumps; beyond the range it goes on."""
    made = Response(black, span, exponent)(VALUES)
    assert made.dtype == np.float32
    steps = np.diff(made.astype(float)) * np.sign(span)
    assert (steps >= 0).all()
    inside = (VALUES - black) / span
    assert (steps[(inside > 0)[:-1] & (inside > 0)[1:]] > 0).all()
    beyond = inside >= 1  # straight on, by the slope of the curve's end: no jump and no kink
    wanted = np.where(beyond, 1 + exponent * (inside - 1), np.clip(inside, 0, 1) ** exponent)
    if exponent != 1 or span < 0:
        assert np.allclose(made, abs(span) * wanted, atol=1e-3)


def test_a_straight_response_is_the_band_itself():
    assert Response(20.0, 200.0)(VALUES) is VALUES
    assert np.allclose(Response(220.0, -200.0)(VALUES)[100:500], (220 - VALUES)[100:500], atol=1e-3)
    assert not Response(220.0, -200.0).linear
