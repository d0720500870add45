"""SRF and PSF learned blind from pairs whose sensors are known."""

import numpy as np
import pytest
import torch
from synthetic import RATIO, fwhm_of, observed, psnr

from hsi_fuse.errors import AlignmentError
from hsi_fuse.physics import gaussian_psf, mix_bands
from hsi_fuse.registration.robust import tukey
from hsi_fuse.sensors.sense import LEAST_OWN, _pixel_noise, _separable, sense, supported

WIDTHS = {
    "2 px": (2.0, 2.0, 0.0),
    "4 px": (4.0, 4.0, 0.0),
    "6 px": (6.0, 6.0, 0.0),
    "3 x 5 px turned": (3.0, 5.0, np.radians(30)),
}


def whole(pair):
    return torch.ones(pair.hsi.shape[1:]), torch.ones(pair.guide.shape[1:])


def learn(pair, guide=None, guide_weight=None):
    hsi_weight, everywhere = whole(pair)
    weight = everywhere if guide_weight is None else guide_weight
    return sense(pair.hsi, hsi_weight, pair.guide if guide is None else guide, weight, RATIO)


def shape(srf):
    """Rows that sum to one: the response without the radiometric gain."""
    return srf / srf.sum(1, keepdim=True)


@pytest.fixture(scope="module")
def pair():
    return observed()


@pytest.fixture(scope="module")
def learned(pair):
    return learn(pair)


@pytest.mark.parametrize("narrow", [0.4, 1.0, 4.0])
def test_a_psf_of_one_term_is_not_negative(narrow):
    """Its tails are below what rounding leaves of their sign."""
    for wide in np.linspace(0.4, 8.0, 20):
        psf = _separable(gaussian_psf(RATIO, wide, narrow))
        assert bool((psf >= 0).all())
        assert float(psf.sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", WIDTHS)
def test_psf_width_and_direction_are_found(name):
    rows, columns, angle = WIDTHS[name]
    true = gaussian_psf(RATIO, rows, columns, angle)
    psf = learn(observed(psf=true)).sensor.psf
    assert float(psf.sum()) == pytest.approx(1, abs=1e-5)
    assert bool((psf >= 0).all())
    assert fwhm_of(psf) == pytest.approx(fwhm_of(true), rel=0.05)
    if rows != columns:
        assert tilt(psf) == pytest.approx(tilt(true), abs=0.1 * abs(tilt(true)))


def test_a_tilt_that_no_pair_could_show_is_no_tilt():
    near, turned = gaussian_psf(RATIO, 4.0, 4.1, 0.02), gaussian_psf(RATIO, 3.0, 5.0, 0.5)
    assert int(torch.linalg.matrix_rank(_separable(near).double(), rtol=1e-6)) == 1
    assert float((_separable(near) - near).abs().max()) < 1e-3 * float(near.max())
    assert _separable(turned) is turned


def tilt(psf):
    """The mixed second moment: its sign says which way an ellipse leans."""
    offsets = torch.arange(len(psf)) - (len(psf) - 1) / 2
    return float((psf * offsets[:, None] * offsets).sum())


def test_psf_is_centred(learned):
    offsets = torch.arange(len(learned.sensor.psf)) - (len(learned.sensor.psf) - 1) / 2
    assert float((learned.sensor.psf.sum(1) * offsets).sum()) == pytest.approx(0, abs=1e-3)
    assert float((learned.sensor.psf.sum(0) * offsets).sum()) == pytest.approx(0, abs=1e-3)


def test_srf_is_non_negative_and_predicts_the_guide(pair, learned):
    sensor = learned.sensor
    assert bool((sensor.srf >= 0).all())
    predicted = mix_bands(pair.truth, sensor.srf) + sensor.offset[:, None, None]
    assert psnr(predicted, mix_bands(pair.truth, pair.sensor.srf)) > 45
    assert psnr(predicted, pair.guide) > 35  # the guide's own noise is 40 dB


def test_srf_lies_where_the_band_is(pair, learned):
    overlap = torch.minimum(shape(learned.sensor.srf), shape(pair.sensor.srf)).sum(1)
    assert float(overlap.min()) > 0.6


def test_gain_and_offset_are_free(pair, learned):
    scaled = learn(pair, guide=pair.guide * 700 + 50)
    assert torch.allclose(shape(scaled.sensor.srf), shape(learned.sensor.srf), atol=2e-3)
    gain = scaled.sensor.srf.sum(1) / learned.sensor.srf.sum(1)
    assert torch.allclose(gain, torch.full_like(gain, 700.0), rtol=0.01)
    moved = scaled.sensor.offset - 700 * learned.sensor.offset
    assert torch.allclose(moved, torch.full_like(moved, 50.0), atol=1.0)
    assert torch.allclose(scaled.sensor.psf, learned.sensor.psf, atol=1e-3)
    assert torch.allclose(scaled.guide_noise, 700 * learned.guide_noise, rtol=0.05)


def test_clouds_over_a_tenth_of_the_guide_bend_nothing(pair, learned):
    clouded = pair.guide.clone()
    height, width = clouded.shape[1:]
    clouded[:, height // 4 : height // 4 + int(0.25 * height), width // 3 : width // 3 + int(0.4 * width)] = (
        0.9
    )
    assert float((clouded != pair.guide).any(0).float().mean()) == pytest.approx(0.1, abs=0.005)
    found = learn(pair, guide=clouded)
    assert fwhm_of(found.sensor.psf) == pytest.approx(fwhm_of(pair.sensor.psf), rel=0.05)
    predicted = mix_bands(pair.truth, found.sensor.srf) + found.sensor.offset[:, None, None]
    assert psnr(predicted, mix_bands(pair.truth, pair.sensor.srf)) > 40
    assert found.sensor.found["outlier_fraction"] > 0.08
    assert learned.sensor.found["outlier_fraction"] < 0.02


def test_guide_noise_is_that_of_the_guide_where_the_model_is_right(pair, learned):
    ratio = learned.guide_noise / pair.guide_noise
    assert float(ratio.min()) > 0.8
    assert float(ratio.max()) < 2


def test_what_lies_under_no_weight_is_not_seen(pair):
    weight = torch.ones(pair.guide.shape[1:])
    weight[:, : 4 * RATIO] = 0
    garbage = torch.where(weight > 0, pair.guide, 1e3)
    one, other = learn(pair, pair.guide, weight), learn(pair, garbage, weight)
    assert torch.equal(one.sensor.srf, other.sensor.srf)
    assert torch.equal(one.sensor.psf, other.sensor.psf)


def test_too_little_overlap_is_refused(pair):
    weight = torch.zeros(pair.guide.shape[1:])
    weight[20 * RATIO : 26 * RATIO, 20 * RATIO : 26 * RATIO] = 1
    with pytest.raises(AlignmentError, match="covers more"):
        learn(pair, guide_weight=weight)


def test_ground_beyond_the_guides_end_is_not_mirrored(pair):
    # what the guide does not show must count as such, also where the learning looks only at the overlap
    weight = torch.zeros(pair.guide.shape[1:])
    weight[10 * RATIO : 38 * RATIO, 8 * RATIO : 30 * RATIO] = 1
    pixels = learn(pair, guide_weight=weight).sensor.found["hsi_pixels"]
    assert 24 * 18 <= pixels <= 26 * 20


def test_no_overlap_is_refused(pair):
    with pytest.raises(AlignmentError, match="only 0 HSI pixels"):
        learn(pair, guide_weight=torch.zeros(pair.guide.shape[1:]))


def test_support_needs_the_whole_psf_on_the_guide():
    weight = torch.ones(32, 32)
    weight[:, 16:] = 0
    inside = supported(weight, torch.ones(8, 8), gaussian_psf(4, 4.0, size=10), 4)
    assert inside[:, :3].all()
    assert not inside[:, 3:].any()  # column 3 touches the guide's end, and its PSF reaches beyond
    hole = torch.ones(8, 8)
    hole[2, 1] = 0
    assert not supported(weight, hole, gaussian_psf(4, 4.0, size=10), 4)[2, 1]


def test_robust_weights_drop_outliers_and_keep_the_rest():
    residual = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    residual[1, :50] = 30
    weight = tukey(residual)
    assert float(weight[:50].max()) == 0
    assert float(weight[50:].mean()) > 0.8


# --- the guide's noise -------------------------------------------------------------------------------------


def noisy(*deviations, size=200, texture=0.0):
    """Bands of white noise over a texture that all of them show."""
    draw = torch.Generator().manual_seed(0)
    same = texture * torch.rand(1, size, size, generator=draw)
    level = torch.tensor(deviations)[:, None, None]
    return same + level * torch.randn(len(deviations), size, size, generator=draw)


@pytest.mark.parametrize("deviations", [(0.1,), (0.1, 0.4), (0.1, 0.2, 0.3, 0.4)])
def test_white_noise_has_its_level(deviations):
    found = _pixel_noise(noisy(*deviations), torch.ones(200, 200))
    assert found == pytest.approx(deviations, rel=0.08)


def test_a_texture_that_all_bands_show_is_no_noise():
    """Nothing is flat here: what a band varies by is five times its noise."""
    found = _pixel_noise(noisy(0.1, 0.1, 0.1, 0.1, texture=2.0), torch.ones(200, 200))
    # what the others show of it is as noisy as the band itself
    assert found == pytest.approx([0.1 * np.sqrt(4 / 3)] * 4, rel=0.08)


def test_bands_alike_have_noise_all_the_same():
    band = noisy(0.5)
    found = _pixel_noise(band.expand(3, -1, -1), torch.ones(200, 200))
    assert found == pytest.approx([LEAST_OWN * 0.5] * 3, rel=0.08)


def test_noise_is_sought_where_the_guide_is():
    guide, weight = noisy(0.1, 0.2), torch.ones(200, 200)
    guide[:, :90], weight[:90] = 0, 0
    assert _pixel_noise(guide, weight) == pytest.approx([0.1, 0.2], rel=0.1)
    assert _pixel_noise(guide, weight * 0).tolist() == [0, 0]
    assert _pixel_noise(guide[:, :12, :12], weight[:12, :12]).tolist() == [0, 0]
    assert np.isfinite(_pixel_noise(guide * 0, torch.ones(200, 200))).all()


@pytest.mark.parametrize("unit", [1e-12, 1e6])
def test_noise_is_that_of_any_unit_and_of_many_bands(unit):
    guide = unit * noisy(*[0.1] * 300)
    assert _pixel_noise(guide, torch.ones(200, 200)) == pytest.approx([0.1 * unit] * 300, rel=0.15)
