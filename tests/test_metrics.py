"""Every index against an implementation that shares no code with ours: sewar, skimage, or numpy by hand."""

import math

import numpy as np
import pytest
import sewar.full_ref
import torch
import torchmetrics.functional as tm
import torchmetrics.functional.image as tmi
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from hsi_fuse.quality import metrics
from hsi_fuse.quality.windowed import cayley_dickson_signs


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(5)
    truth = gaussian_filter(rng.random((6, 64, 64)), (1, 2, 2)) * 3 + 0.1 * np.arange(1, 7)[:, None, None]
    estimate = truth + 0.05 * rng.standard_normal(truth.shape)
    return torch.from_numpy(estimate).float(), torch.from_numpy(truth).float()


def hwc(x: torch.Tensor) -> np.ndarray:
    return x.double().numpy().transpose(1, 2, 0)


def test_a_perfect_image_is_perfect(pair):
    _, t = pair
    assert metrics.psnr(t, t) == math.inf
    assert metrics.ergas(t, t, 4) == 0
    assert metrics.sam_deg(t, t).mean < 1e-6
    assert metrics.rmse(t, t).max() == 0
    assert metrics.bias(t, t).abs().max() == 0
    for value in (metrics.ssim(t, t), metrics.uiqi(t, t), metrics.q2n(t, t)):
        assert value == pytest.approx(1, abs=1e-12)
    assert metrics.q2n(t, t, normalise=False) <= 1
    assert metrics.correlation(t, t).min() == pytest.approx(1)
    assert metrics.high_pass_correlation(t, t, 2.0).min() == pytest.approx(1)


def test_known_degradations(pair):
    _, t = pair
    assert metrics.sam_deg(1.1 * t, t).median < 1e-4  # a gain turns no spectrum
    m = metrics.moments(1.1 * t, t)
    assert torch.allclose(m.relative_bias, torch.full((6,), 0.1, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(metrics.bias(t + 0.5, t), torch.full((6,), 0.5, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(metrics.rmse(t - 0.5, t), torch.full((6,), 0.5, dtype=torch.float64), atol=1e-6)
    rms = metrics.moments(t, t).mean_truth
    assert metrics.ergas(t + 0.5, t, 4) == pytest.approx(
        25 * float(((0.5 / rms) ** 2).mean().sqrt()), rel=1e-5
    )


def test_spectral_angle_of_known_vectors():
    truth = torch.tensor([1.0, 0.0])[:, None, None].expand(2, 2, 3).clone()
    estimate = torch.tensor([1.0, 1.0])[:, None, None].expand(2, 2, 3).clone()
    estimate[:, 0, 0] = 0
    truth[:, 1, 1] = 0
    estimate[:, 1, 2] = torch.tensor([-2.0, 0.0])
    estimate[:, 0, 1] = torch.tensor([1.0, 1e-6])
    sam = metrics.sam_deg(estimate, truth)
    assert sam.map[0, 0].isnan()
    assert sam.map[1, 1].isnan()
    assert float(sam.map[0, 2]) == pytest.approx(45)
    assert float(sam.map[1, 2]) == pytest.approx(180)
    assert float(sam.map[0, 1]) == pytest.approx(math.degrees(1e-6), rel=1e-6)  # arccos would say 0
    assert sam.mean == pytest.approx(np.nanmean(sam.map.numpy()))
    assert sam.median == pytest.approx(np.nanmedian(sam.map.numpy()))
    assert sam.p95 == pytest.approx(np.nanpercentile(sam.map.numpy(), 95))


def test_against_sewar(pair):
    e, t = pair
    assert math.radians(metrics.sam_deg(e, t).mean) == pytest.approx(
        np.mean(
            [
                np.arccos(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
                for a, b in zip(hwc(e).reshape(-1, 6), hwc(t).reshape(-1, 6), strict=True)
            ]
        ),
        rel=1e-6,
    )
    assert float((metrics.rmse(e, t) ** 2).mean()) == pytest.approx(
        sewar.full_ref.mse(hwc(t), hwc(e)), rel=1e-6
    )
    each = [
        sewar.full_ref.psnr(a, b, MAX=a.max())
        for a, b in zip(t.double().numpy(), e.double().numpy(), strict=True)
    ]
    assert metrics.psnr(e, t) == pytest.approx(np.mean(each), rel=1e-6)
    assert metrics.psnr_global(e, t) == pytest.approx(
        sewar.full_ref.psnr(hwc(t), hwc(e), MAX=float(t.max())), rel=1e-6
    )


def test_against_torchmetrics(pair):
    """Its conventions: SAM in radians, ERGAS divides by `ratio`, PSNR has the range it is given."""
    e, t = (x.double() for x in pair)
    assert metrics.sam_deg(e, t).mean == pytest.approx(
        math.degrees(tmi.spectral_angle_mapper(e[None], t[None])), rel=1e-4
    )
    theirs = tmi.error_relative_global_dimensionless_synthesis(e[None], t[None], ratio=4.0)
    assert metrics.ergas(e, t, 4) == pytest.approx(float(theirs), rel=1e-4)
    peaks = [float(band.max()) for band in t]
    each = [tmi.peak_signal_noise_ratio(a, b, data_range=p) for a, b, p in zip(e, t, peaks, strict=True)]
    assert metrics.psnr(e, t) == pytest.approx(float(torch.stack(each).mean()), rel=1e-4)
    each = [tm.pearson_corrcoef(a.flatten(), b.flatten()) for a, b in zip(e, t, strict=True)]
    assert torch.allclose(metrics.correlation(e, t), torch.stack(each), atol=1e-6)


def test_opposite_spectra_are_half_a_turn_apart(pair):
    assert metrics.sam_deg(-pair[0], pair[0]).median == pytest.approx(180, abs=1e-5)


def test_ergas_by_hand_and_sewar(pair):
    e, t = (x.double().numpy() for x in pair)
    terms = [((a - b) ** 2).mean() / b.mean() ** 2 for a, b in zip(e, t, strict=True)]
    assert metrics.ergas(*pair, 4) == pytest.approx(100 / 4 * np.sqrt(np.mean(terms)), rel=1e-6)
    ours, theirs = metrics.ergas(*pair, 4), sewar.full_ref.ergas(hwc(pair[1]), hwc(pair[0]), r=1 / 4)
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_correlation_by_hand(pair):
    e, t = pair
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(e.numpy(), t.numpy(), strict=True)]
    assert np.allclose(metrics.correlation(e, t), expected, atol=1e-6)


def test_ssim_against_skimage(pair):
    e, t = pair
    expected = [
        structural_similarity(
            b, a, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=b.max()
        )
        for a, b in zip(e.double().numpy(), t.double().numpy(), strict=True)
    ]
    assert metrics.ssim(e, t) == pytest.approx(np.mean(expected), abs=1e-6)


def test_uiqi_by_hand(pair):
    # not against sewar: its uqi puts window means where the formula has window sums
    e, t = pair
    values = []
    for i in (0, 32):
        for j in (0, 32):
            for a, b in zip(
                e[:, i : i + 32, j : j + 32].double(), t[:, i : i + 32, j : j + 32].double(), strict=True
            ):
                c = np.cov(a.ravel(), b.ravel(), bias=True)
                ma, mb = float(a.mean()), float(b.mean())
                values.append(4 * c[0, 1] * ma * mb / ((c[0, 0] + c[1, 1]) * (ma**2 + mb**2)))
    assert metrics.uiqi(e, t) == pytest.approx(np.mean(values), abs=1e-9)


def multiply(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Hypercomplex product by the Cayley-Dickson doubling, the definition itself."""
    if len(x) == 1:
        return x * y
    half = len(x) // 2
    a, b, c, d = x[:half], x[half:], y[:half], y[half:]
    return np.concatenate(
        [multiply(a, c) - multiply(conjugate(d), b), multiply(d, a) + multiply(b, conjugate(c))]
    )


def conjugate(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x[:1], -x[1:]])


def brute_q2n(e: np.ndarray, t: np.ndarray, block: int, normalise: bool) -> float:
    n = e.shape[0]
    size = 2 ** math.ceil(math.log2(n))
    values = []
    for i in range(0, e.shape[1], block):
        for j in range(0, e.shape[2], block):
            w = e[:, i : i + block, j : j + block].reshape(n, -1)
            z = t[:, i : i + block, j : j + block].reshape(n, -1)
            if normalise:
                m, s = z.mean(1)[:, None], z.std(1)[:, None]
                z, w = (z - m) / s + 1, (w - m) / s + 1
            pad = ((0, size - n), (0, 0))
            z, w = np.pad(z, pad), np.pad(w, pad)
            mz, mw = z.mean(1), w.mean(1)
            products = [multiply(a, conjugate(b)) for a, b in zip(z.T, w.T, strict=True)]
            cov = np.linalg.norm(np.mean(products, 0) - multiply(mz, conjugate(mw)))
            vz, vw = (z**2).sum(0).mean() - (mz**2).sum(), (w**2).sum(0).mean() - (mw**2).sum()
            sz, sw, nz, nw = np.sqrt(vz), np.sqrt(vw), np.linalg.norm(mz), np.linalg.norm(mw)
            values.append(cov / (sz * sw) * 2 * sz * sw / (vz + vw) * 2 * nz * nw / (nz**2 + nw**2))
    return float(np.mean(values))


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 6, 11])
@pytest.mark.parametrize("normalise", [True, False])
def test_q2n_against_brute_force(bands, normalise):
    rng = np.random.default_rng(bands)
    t = rng.random((bands, 16, 8)) + np.linspace(0.1, 2, bands)[:, None, None]
    e = t + 0.2 * rng.standard_normal(t.shape)
    ours = metrics.q2n(torch.from_numpy(e), torch.from_numpy(t), block=8, normalise=normalise)
    assert ours == pytest.approx(brute_q2n(e, t, 8, normalise), abs=1e-10)


def test_q2n_of_one_band_is_uiqi_in_modulus(pair):
    e, t = pair
    assert metrics.q2n(e[:1], t[:1], normalise=False) == pytest.approx(metrics.uiqi(e[:1], t[:1]), abs=1e-9)


def test_signs_make_quaternions():
    s = cayley_dickson_signs(4)
    assert s[1, 1] == s[2, 2] == s[3, 3] == -1  # i^2 = j^2 = k^2
    assert s[1, 2] == -s[2, 1] == 1  # ij = k


def test_high_pass_against_scipy(pair):
    e, _ = pair
    mask = torch.ones(64, 64, dtype=torch.bool)
    mask[10:20, 30:50] = False
    m = mask.double().numpy()
    for got, band in zip(metrics.high_pass(e.double(), 2.0, mask), e.double().numpy(), strict=True):
        mean = gaussian_filter(band * m, 2.0, mode="constant") / gaussian_filter(m, 2.0, mode="constant")
        assert np.allclose(got, (band - mean) * m, atol=1e-9)


def test_low_pass_is_the_rest_and_passes_so_much_noise():
    noise = torch.randn(2, 200, 200, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(200, 200, dtype=torch.bool)
    mask[50:60, 80:90] = False
    low = metrics.low_pass(noise, 0.7, mask)
    assert torch.allclose(low + metrics.high_pass(noise, 0.7, mask), noise * mask, atol=1e-6)
    inner = low[:, 100:-10, 10:-10]
    assert float(inner.var()) == pytest.approx(metrics.noise_passed(0.7), rel=0.05)


def test_high_pass_correlation_sees_detail_only(pair):
    e, t = pair
    ramp = torch.linspace(0, 50, 64)[None, None, :].expand_as(t)
    near = metrics.high_pass_correlation(t + ramp, t, 1.5, border=8)
    assert near.min() > 0.99
    assert metrics.correlation(t + ramp, t).max() < 0.3
    assert metrics.high_pass_correlation(e, t, 1.5).max() < 0.99


def every_figure(e, t, mask=None, border=0):
    return [
        metrics.psnr(e, t, mask, border),
        metrics.psnr_global(e, t, mask, border),
        metrics.ergas(e, t, 4, mask, border),
        metrics.ssim(e, t, mask, border),
        metrics.uiqi(e, t, mask, border),
        metrics.q2n(e, t, mask, border),
        metrics.sam_deg(e, t, mask, border).p95,
        float(metrics.rmse(e, t, mask, border).sum()),
        float(metrics.high_pass_correlation(e, t, 1.5, mask, border).sum()),
    ]


def test_what_is_masked_does_not_matter(pair):
    e, t = pair
    mask = torch.ones(64, 64, dtype=torch.bool)
    mask[20:30, 5:60] = False
    spoilt_e, spoilt_t = e.clone(), t.clone()
    spoilt_e[:, ~mask], spoilt_t[:, ~mask] = 1e4, -7.0
    assert every_figure(spoilt_e, spoilt_t, mask) == pytest.approx(every_figure(e, t, mask), rel=1e-9)


def test_border_is_a_crop(pair):
    e, t = pair
    crop = (slice(None), slice(6, -6), slice(6, -6))
    for figure in (metrics.psnr, metrics.psnr_global, metrics.uiqi, metrics.q2n, metrics.ssim):
        got, wanted = figure(e, t, border=6), figure(e[crop], t[crop])
        # SSIM keeps the windows that reach over the border when the pixels there exist but are dropped
        assert got == pytest.approx(wanted, rel=1e-2 if figure is metrics.ssim else 1e-9)


def test_nothing_valid_is_nan_and_zeros_do_no_harm(pair):
    e, t = pair
    nothing = torch.zeros(64, 64, dtype=torch.bool)
    assert all(math.isnan(x) or x == 0 for x in every_figure(e, t, nothing)[:7])
    dark_e, dark_t = e.clone(), t.clone()
    dark_e[:, :3], dark_t[:, :3] = 0, 0
    dark_t[2], dark_e[2] = 0, 0  # a band without signal
    assert all(map(math.isfinite, every_figure(dark_e, dark_t)[:7]))


def test_the_worst_share_is_that_of_the_worst_combination():
    torch.manual_seed(2)
    parts = torch.randn(2, 3, 500, dtype=torch.float64)
    part, whole = (x @ x.T / 500 for x in (0.1 * parts[0], parts[1] + 3 * parts[1, :1]))
    tried = torch.randn(3, 200_000, dtype=torch.float64)
    shares = (tried * (part @ tried)).sum(0) / (tried * (whole @ tried)).sum(0)
    assert metrics.worst_share(part, whole) == pytest.approx(float(shares.max()), rel=0.02)
    assert metrics.worst_share(-part, whole) == 0
    units = torch.diag(torch.tensor([1e4, 1.0, 1e-3], dtype=torch.float64))  # each band in its own
    scaled = metrics.worst_share(units @ part @ units, units @ whole @ units)
    assert scaled == pytest.approx(metrics.worst_share(part, whole), rel=1e-6)


def test_equal_bands_have_no_colour_to_miss():
    grey = torch.ones(3, 3, dtype=torch.float64)
    assert metrics.worst_share(0.01 * grey, grey) == pytest.approx(0.01, rel=1e-3)
    assert math.isnan(metrics.worst_share(grey * math.nan, grey))


def test_images_cut_into_pieces_have_the_same_figures(pair, monkeypatch):
    """Large ones are looked at in tiles and pieces, so that no copy of them is made in float64."""
    estimate, truth = pair
    mask = torch.rand(truth.shape[1:], generator=torch.Generator().manual_seed(3)) > 0.1
    image = estimate.double()
    whole = metrics.high_pass(image, 2.0, mask), metrics.moments(estimate, truth, mask)
    monkeypatch.setattr("hsi_fuse.quality.windowed.TILE", 7)
    monkeypatch.setattr(metrics, "PIECE", 100)
    assert truth.shape[1] > 3 * 8
    assert torch.allclose(metrics.high_pass(image, 2.0, mask), whole[0], rtol=0, atol=1e-12)
    cut = metrics.moments(estimate, truth, mask)
    for name, value in vars(whole[1]).items():
        assert torch.allclose(torch.as_tensor(vars(cut)[name]), torch.as_tensor(value), rtol=1e-12)


def test_moments_of_parts_make_those_of_the_whole(pair):
    estimate, truth = pair
    mask = torch.rand(truth.shape[1:], generator=torch.Generator().manual_seed(4)) > 0.2
    mask[:10] = False  # a part without a pixel
    rows = [slice(0, 10), slice(10, 21), slice(21, truth.shape[1])]
    parts = [metrics.moments(estimate[:, part], truth[:, part], mask[part]) for part in rows]
    joined, whole = metrics.Moments.joined(parts), metrics.moments(estimate, truth, mask)
    for name, value in vars(whole).items():
        assert torch.allclose(torch.as_tensor(vars(joined)[name]), torch.as_tensor(value), rtol=1e-9)
    none = metrics.Moments.joined(parts[:1])
    assert none.count == 0
    assert bool(none.mse.isnan().all())
