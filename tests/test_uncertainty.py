"""How far the product may be off: rows, calibration, and that it says more where less is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from synthetic import observed, problem_of, scene

from hsi_fuse.errors import SolveError
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Estimate, Problem, silent
from hsi_fuse.quality.uncertainty import (
    UNSEEN,
    WITHIN_ONE,
    Uncertainty,
    _detail,
    _gain,
    _hidden,
    _window,
    calibrate,
)
from hsi_fuse.stages.map import Map
from hsi_fuse.subspace import interpolate


def solver(problem: Problem) -> Estimate:
    return Map()(problem, interpolate(problem), silent).estimate


@pytest.fixture(scope="module")
def pair():
    return observed(truth=scene(96, 112))


@pytest.fixture(scope="module")
def found(pair) -> tuple[Problem, Estimate, Uncertainty]:
    problem = problem_of(pair)
    estimate = solver(problem)
    uncertainty = calibrate(problem, estimate, solver)
    assert uncertainty is not None
    return problem, estimate, uncertainty


def errors(pair, estimate: Estimate) -> torch.Tensor:
    return (estimate.rows(0, estimate.shape[1]) - pair.truth).abs()


def test_rows_in_blocks_are_the_rows_of_the_whole(found):
    *_, uncertainty = found
    whole = uncertainty.rows(0, 96)
    assert whole.shape == (30, 96, 112)
    assert bool((whole > 0).all())
    blocks = [uncertainty.rows(a, b) for a, b in ((0, 1), (1, 3), (3, 64), (64, 95), (95, 96))]
    assert torch.allclose(torch.cat(blocks, 1), whole, rtol=1e-5)


def test_variance_is_the_local_mean_of_the_spread_under_its_gain():
    spread = torch.zeros(1, 9, 9)
    spread[0, 4, 4] = 3.0
    uncertainty = Uncertainty(
        *(torch.tensor([[2.0]]), spread, 5.0, torch.tensor([0.25]), torch.tensor([7.0])),
        *(torch.zeros(9, 9).index_fill(0, torch.tensor([0]), 1.0), 1, 50, 0.95),
    )
    variance = uncertainty.rows(0, 9).square()[0]
    wanted = torch.full((9, 9), 0.25)
    wanted[3:6, 3:6] += 5 * (2 * 3) ** 2 / 9
    wanted[0] += 7
    assert torch.allclose(variance, wanted)


def test_errors_lie_within_one_and_two_deviations_as_often_as_they_should(pair, found):
    _, estimate, uncertainty = found
    z = errors(pair, estimate) / uncertainty.rows(0, 96)
    # six spectra make this scene: nothing hides below the noise, which the floor allows for
    assert 0.6 < float((z < 1).float().mean()) < 0.9
    assert float((z < 2).float().mean()) > 0.9


def test_dropping_what_is_uncertain_leaves_smaller_errors(pair, found):
    _, estimate, uncertainty = found
    order = uncertainty.rows(0, 96).flatten().argsort()
    squares = errors(pair, estimate).flatten()[order].square()
    third = len(squares) // 3
    assert squares[-third:].mean() > 2 * squares[:-third].mean()


def test_more_noise_is_more_uncertainty(pair, found):
    problem, _, clean = found
    draw = torch.Generator().manual_seed(0)
    noise = 0.02 * float(problem.hsi.mean())
    noisy = replace(
        problem,
        hsi=problem.hsi + noise * torch.randn(problem.hsi.shape, generator=draw),
        hsi_noise=torch.hypot(problem.hsi_noise, torch.tensor(noise)),
    )
    more = calibrate(noisy, solver(noisy), solver)
    assert more is not None
    assert more.rows(0, 96).mean() > 1.25 * clean.rows(0, 96).mean()


def test_without_guide_it_is_interpolation_s_uncertainty(pair):
    weight = torch.ones(pair.guide.shape[1:])
    weight[:, 56:] = 0
    problem = problem_of(pair, weight)
    estimate = solver(problem)
    uncertainty = calibrate(problem, estimate, solver)
    assert uncertainty is not None
    sigma, off = uncertainty.rows(0, 96), errors(pair, estimate)
    assert sigma[:, :, 80:].mean() > 2 * sigma[:, :, :28].mean()
    assert 0.6 < float((off < sigma)[:, :, 80:].float().mean()) < 0.95


def test_detail_outside_the_subspace_shows_in_what_neighbours_share(pair, found):
    problem, estimate, _ = found
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn(problem.hsi.shape, generator=draw) * problem.hsi_noise[:, None, None]
    fine = torch.randn(len(problem.hsi), *problem.guide.shape[1:], generator=draw)
    detail = blur_down(6**0.5 * fine, problem.sensor.psf, problem.ratio) * problem.hsi_noise[:, None, None]
    assert _detail(replace(problem, hsi=noise), estimate) == UNSEEN
    # a fifth of it lies in the subspace, and what neighbours share is a small part of the noise
    assert 4 < _detail(replace(problem, hsi=noise + detail), estimate) < 8
    sharp = replace(problem.sensor, psf=torch.full((problem.ratio, problem.ratio), problem.ratio**-2.0))
    assert _detail(replace(problem, hsi=noise + detail, sensor=sharp), estimate) == UNSEEN


def test_smooth_spectra_outside_the_subspace_are_not_taken_for_hidden_detail(pair, found):
    """Bands brighten towards a corner, each by its own amount; neighbours alone would say over a hundred."""
    problem, estimate, _ = found
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn(problem.hsi.shape, generator=draw)
    height, width = problem.hsi.shape[1:]
    slope = torch.linspace(-1.7, 1.7, height)[:, None] + torch.linspace(-1.7, 1.7, width)  # variance 2
    smooth = torch.randn(len(problem.hsi), 1, 1, generator=draw) * slope
    level = problem.hsi_noise[:, None, None]
    assert 1 < _detail(replace(problem, hsi=level * (noise + smooth)), estimate) < 20


def test_the_gain_puts_the_wanted_share_inside():
    draw = torch.Generator().manual_seed(0)
    spread, noise = torch.rand(20, 500, generator=draw) + 0.1, torch.full((20, 1), 0.3)
    error = (4 * spread + noise).sqrt() * torch.randn(20, 500, generator=draw)
    gain = _gain(error.square(), spread, noise)
    assert gain == pytest.approx(4, rel=0.05)
    assert float((error.square() <= gain * spread + noise).float().mean()) == pytest.approx(
        WITHIN_ONE, abs=0.002
    )
    assert _gain(0.1 * noise.expand_as(spread), spread, noise) == 0  # noise alone explains it


def test_hidden_pixels_have_data_guide_and_neighbours(pair):
    problem = problem_of(pair)
    hole = problem.hsi_weight.clone()
    hole[5, 5] = 0
    hidden = _hidden(replace(problem, hsi=problem.hsi * hole, hsi_weight=hole))
    assert not bool(hidden[5, 5])
    assert bool(hidden[3, 3])
    assert not bool(hidden[[0, -1]].any() | hidden[:, [0, -1]].any())
    assert not bool((hidden[1:] & hidden[:-1]).any() | (hidden[:, 1:] & hidden[:, :-1]).any())


def test_a_large_scene_is_calibrated_on_a_window_under_the_guide(monkeypatch, pair):
    monkeypatch.setattr("hsi_fuse.quality.uncertainty.WINDOW_HSI_PX", 12)
    weight = torch.ones(pair.guide.shape[1:])
    weight[:48] = 0
    part = _window(problem_of(pair, weight))
    assert part.hsi.shape[1:] == (12, 12)
    assert part.guide.shape[1:] == (48, 48)
    assert float(part.guide_weight.mean()) == 1


@pytest.mark.parametrize("why", ["no spread", "no guide", "a failure"])
def test_what_cannot_be_calibrated_is_not(pair, found, why):
    problem, estimate, _ = found

    def failing(_):
        raise SolveError("no")

    if why == "no spread":
        assert calibrate(problem, interpolate(problem), interpolate) is None
    elif why == "no guide":
        bare = problem_of(pair, torch.zeros(pair.guide.shape[1:]))
        assert calibrate(bare, estimate, solver) is None
    else:
        assert calibrate(problem, estimate, failing) is None


def test_its_figures_are_means_over_the_pixels_that_count(found):
    problem, _, uncertainty = found
    keep = torch.zeros(96, 112, dtype=torch.bool)
    keep[:40] = True
    level = problem.hsi.flatten(1).mean(1)
    figures = uncertainty.figures(level, keep)
    sigma = uncertainty.rows(0, 40).mean((1, 2))
    assert torch.allclose(figures["sigma"].float(), sigma, rtol=1e-4)
    assert figures["share"] == pytest.approx(float(sigma.mean() / level.mean()), rel=1e-4)
