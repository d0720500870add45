"""The linear solvers against dense algebra, and how the prior treats what is not there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from synthetic import RATIO, observed, problem_of, psnr, scene

from hsi_fuse.errors import SolveError
from hsi_fuse.feather import REACH_HSI_PX, feather
from hsi_fuse.physics import blur_down, gaussian_psf
from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.sensor import Sensor
from hsi_fuse.solve import (
    LOOSEST,
    MapOptions,
    Prior,
    anchor,
    bonds,
    correctable,
    reconcile,
    solve_map,
    standardise,
)
from hsi_fuse.subspace import Subspace, fit_subspace, problem_subspace, upsample

# --- the MAP system, written out ---------------------------------------------------------------------------

FINE, COARSE, S, K, M, N = 8, 4, 2, 2, 2, 5


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch):
    """A problem of 8 x 8 fine pixels: a hole in the HSI, a guide that ends, noise of all sizes."""
    monkeypatch.setattr("hsi_fuse.feather.REACH_HSI_PX", 2)  # the usual one is larger than the image
    rng = np.random.default_rng(3)
    noise = rng.uniform(0.5, 2, N)
    basis = noise[:, None] * np.linalg.qr(rng.standard_normal((N, K)))[0]
    mean = rng.uniform(1, 2, N)
    truth = 3 * ndimage.gaussian_filter(rng.standard_normal((K, FINE, FINE)), (0, 1, 1))
    psf = np.outer(*[[1.0, 3.0, 3.0, 1.0], [1.0, 2.0, 3.0, 2.0]])
    sensor = Sensor(
        torch.from_numpy(rng.uniform(0, 1, (M, N))),
        torch.from_numpy(rng.standard_normal(M)),
        torch.from_numpy(psf / psf.sum()),
        S,
    )
    cube = torch.from_numpy(np.einsum("nk,khw->nhw", basis, truth) + mean[:, None, None])
    hsi = blur_down(cube, sensor.psf, S) + torch.from_numpy(
        noise[:, None, None] * rng.standard_normal((N, 4, 4))
    )
    guide = torch.tensordot(sensor.srf, cube, 1) + sensor.offset[:, None, None]
    guide = guide + torch.from_numpy(0.3 * rng.standard_normal(guide.shape))
    hsi_weight, guide_weight = torch.ones(COARSE, COARSE).double(), torch.ones(FINE, FINE).double()
    hsi_weight[1, 0], guide_weight[:, 5:] = 0, 0
    guide_noise = torch.tensor([0.3, 0.5]).double()
    problem = Problem(
        *(hsi * hsi_weight, hsi_weight, guide * guide_weight, guide_weight, sensor),
        *(torch.from_numpy(noise), guide_noise),
        position_error=0.2,
    )
    root = rng.standard_normal((K, K))
    prior = Prior(
        torch.from_numpy(truth + rng.standard_normal(truth.shape)),
        torch.from_numpy(root @ root.T + 0.5 * np.eye(K)),
        torch.from_numpy(rng.standard_normal(truth.shape)),
    )
    return problem, Subspace(torch.from_numpy(basis), torch.from_numpy(mean), torch.from_numpy(noise)), prior


@pytest.mark.parametrize("covariance", [1e12 * torch.ones(K, K), torch.full((K, K), np.nan)])
def test_a_guess_hopelessly_far_off_is_an_error_that_asks_for_the_responses(tiny, covariance):
    """As responses of another sensor make it: one direction outweighs all others beyond all digits."""
    problem, subspace, prior = tiny
    hopeless = replace(prior, covariance=covariance.double())
    with pytest.raises(SolveError, match=r"cannot be solved.*--srf"):
        solve_map(problem, subspace, hopeless, MapOptions())


def blur_matrix(psf):
    """(16, 64): every HSI pixel as a sum over fine pixels, edges mirrored."""
    reach, matrix = (len(psf) - S) // 2, np.zeros((COARSE, COARSE, FINE, FINE))
    mirror = np.pad(np.arange(FINE), reach, mode="symmetric")
    for i in range(COARSE):
        for j in range(COARSE):
            for u in range(len(psf)):
                for v in range(len(psf)):
                    matrix[i, j, mirror[S * i + u], mirror[S * j + v]] += psf[u, v]
    return matrix.reshape(COARSE**2, FINE**2)


def laplacian_matrix(guide, there, edge):
    """(64, 64): the graph Laplacian whose bonds weaken across edges of the standardised guide."""
    inside = guide[:, there]
    guide = (guide - inside.mean(1)[:, None, None]) / inside.std(1, ddof=1)[:, None, None]
    pairs = [((i, j), (i + 1, j)) for i in range(FINE - 1) for j in range(FINE)]
    pairs += [((i, j), (i, j + 1)) for i in range(FINE) for j in range(FINE - 1)]
    step = np.array(
        [((guide[:, *p] - guide[:, *q]) ** 2).mean() if there[p] and there[q] else 0.0 for p, q in pairs]
    )
    typical = edge**2 * step.sum() / sum(there[p] and there[q] for p, q in pairs)
    matrix = np.zeros((FINE**2, FINE**2))
    for (p, q), d in zip(pairs, step, strict=True):
        row = np.zeros(FINE**2)
        row[p[0] * FINE + p[1]], row[q[0] * FINE + q[1]] = 1, -1
        matrix += np.outer(row, row) / (1 + d / typical)
    return matrix


def dense_map(problem, subspace, prior, options, along=None):
    """The minimiser of what `solve_map` promises to minimise, by a dense solve.

    `along` (K, r): the directions in which the prior's mean may be corrected.
    """
    basis, mean, noise = (t.numpy() for t in (subspace.basis, subspace.mean, subspace.noise))
    hsi, there = problem.hsi.numpy(), problem.guide_weight.numpy() > 0
    near = ndimage.distance_transform_edt(
        problem.hsi_weight.numpy() == 0, return_distances=False, return_indices=True
    )
    whitened = (basis / noise[:, None]).T
    low = np.einsum("kn,nhw->khw", whitened, (hsi[:, *near] - mean[:, None, None]) / noise[:, None, None])
    window = (2 * S + 1, 2 * S + 1)  # the feather of `tiny`: 2 HSI pixels
    weight = ndimage.minimum_filter(problem.guide_weight.numpy(), window, mode="nearest")
    weight = ndimage.uniform_filter(weight, window, mode="nearest")
    weight = np.minimum(weight, problem.guide_weight.numpy())
    blur = blur_matrix(problem.sensor.psf.numpy())
    slope = np.stack([np.hypot(*np.gradient(band)) for band in low])  # (k, h, w)
    trust = (blur @ weight.ravel()) * problem.hsi_weight.numpy().ravel()
    trust = trust / (1 + (problem.position_error * slope.reshape(K, -1)) ** 2)  # (k, 16)
    smooth = laplacian_matrix(problem.guide.numpy(), there, options.edge)
    held = options.damp * np.eye(FINE**2) + options.smooth * smooth
    mixing = problem.sensor.srf.numpy() @ basis
    known = problem.sensor.offset.numpy() + problem.sensor.srf.numpy() @ mean
    precise = 1 / problem.guide_noise.numpy() ** 2
    system = np.kron(np.linalg.inv(prior.covariance.numpy()), held)
    right = system @ prior.mean.numpy().ravel()
    system = system + np.kron(mixing.T @ (precise[:, None] * mixing), np.diag(weight.ravel()))
    seen = (problem.guide.numpy() - known[:, None, None]).reshape(len(known), -1)
    right = right + ((mixing.T * precise) @ seen * weight.ravel()).ravel()
    for k in range(K):
        part = slice(k * FINE**2, (k + 1) * FINE**2)
        system[part, part] += blur.T @ (trust[k][:, None] * blur)
        right[part] += blur.T @ (trust[k] * low[k].ravel())
    mean = prior.mean.numpy()
    free = np.kron(np.eye(K) if along is None else along, np.eye(FINE**2))
    move = free @ np.linalg.solve(free.T @ system @ free, free.T @ (right - system @ mean.ravel()))
    return mean + move.reshape(K, FINE, FINE)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"smooth": 5.0, "edge": 1.0},
        {"damp": 2.0, "smooth": 0.1},
    ],
    ids=str,
)
def test_the_map_estimate_solves_the_normal_equations(tiny, change):
    options = MapOptions(iterations=2000, tolerance=1e-11, **change)
    found, _ = solve_map(*tiny, options)
    assert np.abs(found.numpy() - dense_map(*tiny, options)).max() < 1e-6


def one_band(problem):
    sensor = replace(problem.sensor, srf=problem.sensor.srf[:1], offset=problem.sensor.offset[:1])
    return replace(problem, guide=problem.guide[:1], guide_noise=problem.guide_noise[:1], sensor=sensor)


@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_where_a_guess_is_off_by_noise_alone_it_is_left_as_it_is(tiny, spread):
    """Of two directions the guide of one band sees one, that of the covariance times its response."""
    problem, subspace, prior = tiny
    problem = one_band(problem)
    rng = np.random.default_rng(0)
    root = np.eye(K) + 0.2 * rng.standard_normal((K, K))
    prior = replace(prior, covariance=torch.from_numpy(spread * root @ root.T))
    along = (prior.covariance @ (problem.sensor.srf @ subspace.basis).T).numpy()  # (K, 1)
    options = MapOptions(iterations=2000, tolerance=1e-11)
    found, _ = solve_map(problem, subspace, prior, options)
    wanted = dense_map(problem, subspace, prior, options, along if spread < options.barely else None)
    assert np.abs(found.numpy() - wanted).max() < 1e-6


def test_one_direction_is_always_corrected():
    values, basis, inverse = correctable(torch.zeros(3).double(), 0.5 * torch.eye(3).double(), 1.5)
    assert values.tolist() == [0]
    assert torch.allclose(inverse @ basis, torch.eye(1).double())


def test_what_the_guide_sees_is_corrected_however_well_it_is_known():
    basis = torch.diag(torch.tensor([0.1, 3.0, 1.0, 1.2]).double())
    values, kept, inverse = correctable(torch.tensor([5.0, 1e-9, 1e-9, 1e-9]).double(), basis, 1.5)
    assert values.tolist() == [0, 5]
    assert torch.allclose(kept.abs(), basis[:, [1, 0]])
    assert torch.allclose(inverse @ kept, torch.eye(2).double())


def test_where_the_solver_starts_does_not_matter(tiny):
    problem, subspace, prior = tiny
    options = MapOptions(iterations=2000, tolerance=1e-11)
    there, _ = solve_map(problem, subspace, prior, options)
    start = replace(prior, correction=-3 * prior.correction)
    assert torch.allclose(solve_map(problem, subspace, start, options)[0], there, atol=1e-6)


def test_half_known_positions_make_steep_places_count_less(tiny):
    problem, subspace, prior = tiny
    options = MapOptions(iterations=2000, tolerance=1e-11)

    def misfit(position_error):
        moved = replace(problem, position_error=position_error)
        found, _ = solve_map(moved, subspace, prior, options)
        wrong = blur_down(found, problem.sensor.psf, S) - subspace.project(problem.hsi)
        return float((wrong[:, problem.hsi_weight > 0] ** 2).sum())

    assert misfit(0.0) < misfit(0.5) < misfit(5.0)


# --- the prior ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half():
    """A guide over the left half of a simulated scene."""
    pair = observed()
    weight = torch.ones(pair.guide.shape[1:])
    weight[:, weight.shape[1] // 2 :] = 0
    return pair, problem_of(pair, weight)


def test_a_full_weight_is_not_feathered():
    assert torch.equal(feather(torch.ones(40, 40), torch.ones(10, 10), 4), torch.ones(40, 40))


def test_the_feather_falls_to_zero_smoothly_and_inside_the_support():
    reach = REACH_HSI_PX * RATIO
    weight = torch.ones(40, 3 * reach)
    weight[:, 2 * reach :] = 0
    soft = feather(weight, torch.ones(40 // RATIO, weight.shape[1] // RATIO), RATIO)
    assert bool((soft <= weight).all())
    assert torch.allclose(soft[:, :reach], torch.tensor(1.0))
    step = soft[:, :-1] - soft[:, 1:]
    assert float(step.min()) > -1e-6
    assert float(step.max()) < 1.2 / reach  # a ramp, and no jump where the support ends


def test_the_feather_does_not_fall_beside_nodata_or_around_small_holes():
    weight, hsi_weight = torch.ones(96, 96), torch.ones(24, 24)
    hsi_weight[:, :6] = 0
    weight[:, : 6 * 4 - 2] = 0  # the guide's own nodata ends within the HSI's
    weight[50:53, 60:63] = 0
    soft = feather(weight, hsi_weight, 4)
    assert torch.equal(soft, weight)


def test_the_feather_respects_fractions():
    assert torch.allclose(feather(torch.full((20, 20), 0.4), torch.ones(5, 5), 4), torch.tensor(0.4))


def test_the_anchor_is_the_guess_inside_and_interpolation_outside(half):
    _, problem = half
    subspace = problem_subspace(problem)
    low = subspace.project(problem.hsi)
    guess = torch.full((subspace.size, *problem.guide.shape[1:]), 7.0)
    guess[:, problem.guide_weight == 0] = 1e6
    prior = anchor(problem, low, guess)
    plain, middle = upsample(low, RATIO), problem.guide.shape[2] // 2
    assert torch.allclose(prior.mean[:, :, middle:], plain[:, :, middle:], atol=1e-3)
    inside = prior.mean[:, :, : middle - REACH_HSI_PX * RATIO]
    assert torch.allclose(inside, torch.tensor(7.0), atol=1e-4)


def test_the_anchor_falls_to_another_estimate_where_one_is_given(half):
    _, problem = half
    low = problem_subspace(problem).project(problem.hsi)
    size = (len(low), *problem.guide.shape[1:])
    prior = anchor(problem, low, torch.full(size, 7.0), torch.full(size, 5.0))
    assert torch.equal(
        prior.mean, 5 + 2 * feather(problem.guide_weight, problem.hsi_weight, RATIO).expand(size)
    )


def test_the_anchor_reads_the_guess_s_error_from_the_hsi(half):
    _, problem = half
    subspace = problem_subspace(problem)
    low = subspace.project(problem.hsi)
    good, bad = (anchor(problem, low, upsample(low, RATIO) + e).covariance.trace() for e in (0.0, 3.0))
    assert float(bad - good) == pytest.approx(9 * subspace.size, rel=0.2)


def test_a_guess_a_million_deviations_off_is_no_looser_than_single_precision_bears():
    """Without the ceiling rounding outgrows the solution, and what came out was worse than interpolation."""
    pair = observed(4, truth=scene(96, 112))
    exact = problem_of(pair)
    problem = replace(exact, hsi_noise=1e-4 * exact.hsi_noise, guide_noise=1e-4 * exact.guide_noise)
    subspace = problem_subspace(problem)
    low = subspace.project(problem.hsi)
    plain = upsample(low, RATIO)
    brightness = 1 + torch.randn(1, *low.shape[1:], generator=torch.Generator().manual_seed(0)) / 2
    prior = anchor(problem, low, plain * upsample(brightness, RATIO))
    assert float(torch.linalg.eigvalsh(prior.covariance.double())[-1]) == pytest.approx(LOOSEST, rel=1e-4)
    solved, _ = solve_map(problem, subspace, prior, MapOptions())
    better, worse = (
        psnr(Estimate(subspace.basis, subspace.mean, each).rows(0, solved.shape[1]), pair.truth)
        for each in (solved, plain)
    )
    assert better > worse + 3


def test_standardising_counts_only_pixels_with_weight():
    guide, weight = torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(0)), torch.ones(9, 9)
    guide[:, 4], weight[4] = 1e4, 0
    inside = standardise(guide, weight)[:, weight > 0]
    assert torch.allclose(inside.mean(1), torch.zeros(2), atol=1e-5)
    assert torch.allclose(inside.std(1), torch.ones(2), atol=1e-5)


def test_bonds_are_weak_across_edges_and_whole_elsewhere():
    guide = torch.zeros(1, 10, 12)
    guide[:, :, 6:] = 1
    down, across = bonds(guide, torch.ones(10, 12), 0.3)
    assert torch.equal(down, torch.ones(9, 12))
    assert float(across[:, 5].max()) < 0.05
    assert bool((across[:, :5] == 1).all())
    weight = torch.ones(10, 12)
    weight[:, 6:] = 0
    assert bool((bonds(guide, weight, 0.3)[1] == 1).all())  # no weight, no edge


# --- the guide's level -------------------------------------------------------------------------------------


def test_a_guide_that_agrees_with_the_hsi_is_left_alone():
    pair = observed()
    problem = problem_of(pair)
    subspace = fit_subspace(pair.hsi, problem.hsi_weight, pair.hsi_noise)
    change = reconcile(problem, subspace).guide - problem.guide
    assert bool(((change**2).mean((1, 2)).sqrt() < 0.5 * pair.guide_noise).all())


def test_what_the_hsi_contradicts_smoothly_is_taken_off():
    pair = observed()
    problem = problem_of(pair)
    subspace = fit_subspace(pair.hsi, problem.hsi_weight, pair.hsi_noise)
    haze = 20 * pair.guide_noise[:, None, None] * torch.linspace(0.3, 1, pair.guide.shape[2])
    hazy = replace(problem, guide=problem.guide + haze)
    left = reconcile(hazy, subspace).guide - problem.guide
    assert bool(((left**2).mean((1, 2)) < 0.05 * (haze**2).mean((1, 2))).all())
    # detail stays: what is taken off is smooth
    taken = hazy.guide - reconcile(hazy, subspace).guide
    detail = (taken[:, :, 1:] - taken[:, :, :-1]).std((1, 2)) / (
        problem.guide[:, :, 1:] - problem.guide[:, :, :-1]
    ).std((1, 2))
    assert float(detail.max()) < 0.2


def test_without_overlap_there_is_nothing_to_reconcile(half):
    pair, _ = half
    problem = problem_of(pair, torch.zeros(pair.guide.shape[1:]))
    assert reconcile(problem, problem_subspace(problem)) is problem


def test_reconciling_ignores_what_has_no_weight(half):
    _, problem = half
    garbage = replace(problem, guide=torch.where(problem.guide_weight > 0, problem.guide, 1e5))
    subspace = problem_subspace(problem)
    one, other = (reconcile(p, subspace).guide for p in (problem, garbage))
    assert torch.equal(one, other)
    assert not one[:, problem.guide_weight == 0].any()


def test_a_psf_wider_than_the_feather_is_handled():
    pair = observed(psf=gaussian_psf(RATIO, 9.0))
    weight = torch.ones(pair.guide.shape[1:])
    weight[:, 100:] = 0
    problem = problem_of(pair, weight)
    subspace = problem_subspace(problem)
    low = subspace.project(problem.hsi)
    found, _ = solve_map(problem, subspace, anchor(problem, low, upsample(low, RATIO)), MapOptions())
    assert bool(found.isfinite().all())
