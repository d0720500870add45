"""Mappings fitted to pairs whose guide was moved by a known displacement."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from affine import Affine
from synthetic import COLUMNS, MARGIN, PSF, RATIO, ROWS, START, cut, misplaced, unregistered

from hsi_fuse.errors import AlignmentError
from hsi_fuse.registration import fit as module
from hsi_fuse.registration.displacement import Displacement, PixelBasis
from hsi_fuse.registration.field import Splines
from hsi_fuse.registration.fit import fit
from hsi_fuse.registration.prior import Expected, Quadratic, priors_of, solve
from hsi_fuse.registration.robust import robust_regression, tukey, unexplained
from hsi_fuse.registration.warp import Observer, Pair

CENTRE = (RATIO * COLUMNS / 2 + MARGIN, RATIO * ROWS / 2 + MARGIN)
SHIFT = Affine.translation(2.1, -1.7)
TURN = SHIFT * Affine.rotation(0.5, CENTRE)
SHEAR = (
    TURN
    * Affine.translation(*CENTRE)
    * Affine(1.01, 0.006, 0, -0.002, 0.995, 0)
    * ~Affine.translation(*CENTRE)
)
SHAPE = (ROWS, COLUMNS)


def perspective(x, y):
    """A homography, without its affine part: 3 fine pixels at the corners."""
    u, v = x - CENTRE[0], y - CENTRE[1]
    depth = 1e-4 * u + 7e-5 * v
    return np.stack([-u * depth, -v * depth]) / (1 + depth)


def waves(x, y):
    """A smooth field of 0.3 HSI pixels."""
    return 0.3 * RATIO * np.stack([np.sin(y / 33 + 1), np.cos(x / 29)])


MOVES = {
    "translation": (SHIFT, None),
    "similarity": (TURN, None),
    "affine": (SHEAR, None),
    "projective": (SHEAR, perspective),
}


def fitted(pair: Pair, model="affine", local=False, **more):
    return fit(Observer(pair, PSF, RATIO), pair.start, model, local, **more)


def rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def spread(found) -> np.ndarray:
    """The fit's own deviation at every HSI pixel (h, w)."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS] + 0.5
    return found.deviation(columns.ravel(), rows.ravel()).reshape(SHAPE)


@pytest.fixture(scope="module")
def bent() -> Pair:
    return unregistered(SHEAR, waves)


@pytest.fixture(scope="module")
def followed(bent):
    return fitted(bent, local=True)


# --- what is found -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MOVES)
@pytest.mark.parametrize("bands", [1, 3, 4, 9])
def test_every_model_finds_its_displacement(model, bands):
    where, local = MOVES[model]
    found = fitted(unregistered(where, local, bands), model)
    assert misplaced(found.base, found.shift, where, local).max() < 0.02
    assert found.left < 0.01
    assert found.amplitude == 0


@pytest.mark.parametrize(("model", "move"), [("translation", "similarity"), ("affine", "projective")])
def test_a_model_that_is_too_stiff_is_not(model, move):
    where, local = MOVES[move]
    found = fitted(unregistered(where, local), model)
    assert 0.03 < rms(misplaced(found.base, found.shift, where, local)) < 0.3


def test_a_similarity_is_one():
    """On a pair that is sheared: it must not shear."""
    a, b, _, d, e, _ = fitted(unregistered(SHEAR), "similarity").shift.affine[:6]
    assert (a, b) == pytest.approx((e, -d))
    assert abs(d) > 0.003


def test_a_local_field_is_followed(bent, followed):
    assert misplaced(followed.base, followed.shift, SHEAR, waves).max() < 0.08
    assert rms(misplaced(followed.base, followed.shift, SHEAR, waves)) < 0.02
    assert 0.1 <= followed.amplitude <= 0.4
    stiff = fitted(bent)
    assert rms(misplaced(stiff.base, stiff.shift, SHEAR, waves)) > 0.1
    assert stiff.left > 10 * followed.left


@pytest.mark.parametrize("noise", [0.0, 10.0])
def test_no_local_field_is_found_where_there_is_none(noise):
    pair = unregistered(SHEAR)
    generator = torch.Generator().manual_seed(1)
    pair = replace(pair, low=pair.low + noise * torch.randn(pair.low.shape, generator=generator))
    found = fitted(pair, local=True)
    assert found.amplitude <= 0.02
    x, y = np.arange(COLUMNS) + 0.5, np.arange(ROWS) + 0.5
    field = found.shift.splines.on_grid(found.shift.coefficients, x, y)
    assert np.abs(field).max() < 0.02
    assert misplaced(found.base, found.shift, SHEAR).max() < 0.01 + 0.004 * noise


def test_a_start_far_off_is_walked_back_in_small_steps():
    far = START * Affine.translation(2.2, -1.8)
    found = fit(Observer(unregistered(), PSF, RATIO), far, "affine", iterations=30)
    assert misplaced(found.base, found.shift, Affine.identity()).max() < 0.02


def test_a_turned_start_is_no_other_problem():
    """Displacements are counted in HSI pixels, whichever way the guide lies."""
    turned = Affine.rotation(140, CENTRE)
    pair = unregistered(turned * SHEAR)
    found = fit(Observer(pair, PSF, RATIO), turned * START, "affine")
    inside = Observer(pair, PSF, RATIO).see(turned * START).support.reshape(SHAPE) > 0
    assert misplaced(found.base, found.shift, turned * SHEAR)[inside].max() < 0.02
    assert found.shift.affine * (COLUMNS / 2, ROWS / 2) == pytest.approx(
        (COLUMNS / 2 + 2.1 / RATIO, ROWS / 2 - 1.7 / RATIO), abs=0.02
    )


def test_a_pixel_at_the_guides_rim_weighs_by_what_the_guide_shows_of_it():
    pair = cut(unregistered(), 12, 12, 0)  # the guide ends where the HSI ends
    at_rim = []
    for move in (-0.6, -0.3, 0.0, 0.3, 0.6):
        seen = Observer(pair, PSF, RATIO).see(pair.start * Affine.translation(move, 0))
        weight, support = seen.weight.reshape(12, 12), seen.support.reshape(12, 12) > 0
        assert (weight[6, 2:10] > 0.99).all()
        assert (weight[support] > 0.85).all()
        assert (weight[~support] < 0.9).all()
        at_rim.append(weight[6, -1])
    assert at_rim[0] > 0.9
    assert 0.1 < at_rim[2] < 0.5
    assert at_rim[-1] == 0
    assert sorted(at_rim, reverse=True) == at_rim


def test_the_affine_is_the_first_order_of_the_displacement():
    polynomial = np.array([[0.3, 0.02, -0.1, 0, 0, 0], [-0.2, 0.05, 0.03, 0, 0, 0]])
    shift = Displacement(SHAPE, polynomial)
    columns, rows = np.array([0.0, 13.0, 40.0]), np.array([0.0, 48.0])
    x, y = np.meshgrid(columns, rows)
    assert np.allclose(shift(columns, rows) + np.stack([x, y]), shift.affine * (x, y))


def test_a_start_is_taken_up_again(bent, followed):
    again = fit(Observer(bent, PSF, RATIO), bent.start, "affine", True, 1, followed.shift)
    x, y = np.arange(COLUMNS) + 0.5, np.arange(ROWS) + 0.5
    assert np.abs(again.shift(x, y) - followed.shift(x, y)).max() < 0.01


def test_the_same_pair_gives_the_same_bytes(bent, followed):
    again = fitted(bent, local=True)
    assert again.shift.polynomial.tobytes() == followed.shift.polynomial.tobytes()
    assert again.shift.coefficients.tobytes() == followed.shift.coefficients.tobytes()
    assert again.covariance.tobytes() == followed.covariance.tobytes()


# --- what spoils a pair ------------------------------------------------------------------------------------


def test_gross_outliers_do_not_matter():
    pair, rng = unregistered(SHEAR), np.random.default_rng(3)
    wrong = torch.from_numpy(rng.permutation(ROWS * COLUMNS)[: ROWS * COLUMNS // 20])
    low = pair.low.flatten(1).clone()
    low[:, wrong] = 3 * low[:, wrong.flip(0)]
    found = fitted(replace(pair, low=low.reshape(pair.low.shape)))
    assert misplaced(found.base, found.shift, SHEAR).max() < 0.02
    weight = np.zeros(ROWS * COLUMNS)
    weight[(found.weight > 0.5).nonzero()] = 1
    assert weight[wrong].mean() < 0.2
    assert weight.mean() > 0.7


def test_a_cloud_does_not_matter():
    pair = unregistered(SHEAR)
    guide = pair.guide.clone()
    guide[:, 80:130, 70:120] = 0.9
    found = fitted(replace(pair, guide=guide))
    assert misplaced(found.base, found.shift, SHEAR).max() < 0.03


def test_inverted_and_stretched_bands_do_not_matter():
    pair = unregistered(SHEAR)
    gain, offset = torch.tensor([[-700.0, 1, 0.1, -1], [500, 0, 0, 2]])[..., None, None]
    guide = gain * pair.guide + offset
    found, plain = fitted(replace(pair, guide=guide)), fitted(pair)
    assert np.allclose(found.shift.polynomial, plain.shift.polynomial, atol=1e-3)
    assert found.left == pytest.approx(plain.left, rel=0.01)


def test_a_hole_costs_only_what_it_hides():
    pair = unregistered(SHEAR)
    weight, guide = pair.guide_weight.clone(), pair.guide.clone()
    weight[100:180, 30:110] = 0
    guide[:, 100:180, 30:110] = 1e3
    found = fitted(replace(pair, guide=guide, guide_weight=weight))
    assert misplaced(found.base, found.shift, SHEAR).max() < 0.02
    assert (found.weight == 0).mean() > 0.1


@pytest.mark.parametrize("shift", [(60, 0), (0, -60), (500, 500)])
def test_a_mapping_beside_the_guide_is_an_error(shift):
    with pytest.raises(AlignmentError, match="slid off"):
        fit(Observer(unregistered(), PSF, RATIO), START * Affine.translation(*shift))


# --- how sure it is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["translation", "affine", "projective"])
def test_the_deviation_is_that_of_the_error(model):
    errors, expected = [], []
    for seed in range(6):
        pair = unregistered(SHIFT, seed=seed)
        noise = torch.randn(pair.low.shape, generator=torch.Generator().manual_seed(seed))
        found = fitted(replace(pair, low=pair.low + 10 * noise), model)
        errors.append(misplaced(found.base, found.shift, SHIFT))
        expected.append(spread(found))
    assert 1 / 2 < rms(errors) / rms(expected) < 2


def test_the_deviation_of_a_field_is_that_of_its_error(bent, followed):
    noise = torch.randn(bent.low.shape, generator=torch.Generator().manual_seed(5))
    noisy = fitted(replace(bent, low=bent.low + 10 * noise), local=True)
    ratios = [
        rms(misplaced(found.base, found.shift, SHEAR, waves)) / rms(spread(found))
        for found in (followed, noisy)
    ]
    assert min(ratios) > 1 / 3
    assert max(ratios) < 3
    assert rms(spread(noisy)) > 2 * rms(spread(followed))


def test_the_deviation_grows_where_nothing_is_seen():
    pair = unregistered(SHIFT)
    weight = pair.guide_weight.clone()
    weight[:, 120:] = 0
    deviation = spread(fitted(replace(pair, guide_weight=weight)))
    assert deviation[:, -1].mean() > 3 * deviation[:, 8].mean()


# --- its parts ---------------------------------------------------------------------------------------------


def test_the_quadratic_is_the_data_term_about_the_mapping(bent):
    """The decrease that a step promises is what differences of the true misfit say."""
    observer, rng = Observer(bent, PSF, RATIO), np.random.default_rng(0)
    splines = Splines.over(SHAPE, 6.0)
    scale = np.repeat([0.3, 0.1], [6, splines.size])
    now = scale * rng.standard_normal((2, 6 + splines.size))

    def displaced(parameters) -> Displacement:
        return Displacement(SHAPE, parameters[:, :6], splines, parameters[:, 6:])

    def projected(parameters, weight):
        root = np.sqrt(weight)
        span = np.linalg.qr((observer.design * root).T)[0]
        values = observer.see(START, displaced(parameters)).values * root
        return values - (values @ span) @ span.T

    seen = observer.see(START, displaced(now))
    basis = PixelBasis(observer.columns, observer.rows, displaced(now))
    linear = module._linearise(observer, seen, basis, now, 0.0, tukey, module.IN_PROPORTION)
    clear = linear.residual[:, 0] != 0
    assert clear.all()
    how = tukey, module.IN_PROPORTION
    weight, residual, _ = robust_regression(seen.values, observer.design, seen.support, *how)
    sigma = (residual[:, 0] / linear.residual[:, 0])[:, None]

    def misfit(parameters) -> float:
        return float(((projected(parameters, weight) / sigma) ** 2).sum())

    flat = now.ravel()
    assert linear.constant + 2 * linear.gradient @ flat + flat @ linear.normal @ flat == pytest.approx(
        misfit(now)
    )
    slope = 2 * (linear.gradient + linear.normal @ flat)
    for free in (np.s_[:, :6], np.s_[:, 6:], np.s_[0], np.s_[1]):
        direction = np.zeros_like(now)
        direction[free] = rng.standard_normal(direction[free].shape)
        direction *= np.sign(slope @ direction.ravel())
        step = 0.01 * direction
        wanted = (misfit(now + step) - misfit(now - step)) / 0.02
        scale = np.sqrt(direction.ravel() @ linear.normal @ direction.ravel() * linear.constant)
        assert slope @ direction.ravel() == pytest.approx(wanted, abs=0.05 * wanted + 0.002 * scale)


def test_the_constant_map_is_projected_out():
    """Whatever is linear in the HSI leaves nothing, and moves nothing."""
    rng = np.random.default_rng(0)
    design = np.concatenate([np.ones((1, 500)), rng.standard_normal((3, 500))])
    values = rng.standard_normal((2, 4)) @ design
    weight, residual, span = robust_regression(values, design, np.ones(500))
    assert np.abs(residual).max() < 1e-4 * np.abs(values).max()
    assert np.allclose(span.T @ span, np.eye(4))
    assert unexplained(values, residual, weight) < 1e-5


@pytest.mark.parametrize("splines", [None, Splines.over(SHAPE, 6.0)])
def test_sums_over_pixels_are_those_of_the_basis_itself(splines):
    rng = np.random.default_rng(0)
    chosen = np.flatnonzero(rng.random(SHAPE) < 0.7)
    rows, columns = np.divmod(chosen, COLUMNS)
    basis = PixelBasis(columns + 0.5, rows + 0.5, replace(Displacement.none(SHAPE), splines=splines))
    weight = rng.standard_normal(len(chosen))
    dense = basis.at.toarray()
    assert dense.shape[1] == 6 + (splines.size if splines else 0)
    assert np.allclose(basis.gram(weight), dense.T @ (weight[:, None] * dense))


@pytest.mark.parametrize("local", [False, True])
def test_the_freedom_is_what_the_data_determine(local):
    splines = Splines.over(SHAPE, 6.0) if local else None
    prior = priors_of("affine", SHAPE, splines, Expected(9.0))[0]
    size = 2 * (6 + (splines.size if splines else 0))
    root = np.random.default_rng(0).standard_normal((size, 40))
    answer = solve(Quadratic(1.0, root[:, 0], root @ root.T, 0.0, np.ones(1), np.ones((1, 1))), prior, None)
    determined = answer.covariance @ prior.free(prior.free(root @ root.T).T)
    assert answer.freedom == pytest.approx(np.trace(determined), rel=1e-6)
    assert 1 < answer.freedom < 41
