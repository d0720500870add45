"""The degraded pair, by which the report proves a method: it obeys the model, its noise and its gaps."""

from dataclasses import replace

import pytest
import torch

from hsi_fuse.physics import blur_down, mix_bands
from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.quality.reduced import degrade, reduce_problem, reduction_factor
from tests.assessed import BANDS, RATIO, make_scene


@pytest.fixture(scope="module")
def scene() -> tuple[Problem, Estimate]:
    return make_scene()


def test_degrading_the_factors_is_degrading_the_cube(scene):
    problem, truth = scene
    shifted = replace(truth, mean=torch.linspace(0, 1, BANDS))
    whole = blur_down(shifted.rows(0, 128), problem.sensor.psf, RATIO)
    assert torch.allclose(degrade(shifted, problem.sensor.psf, RATIO), whole, atol=1e-6)


def test_the_degraded_pair_obeys_the_model():
    problem, _ = make_scene(noise=0.0)
    pair = reduce_problem(problem, 2)
    seen = mix_bands(pair.truth, problem.sensor.srf) + 0.01
    assert torch.allclose(pair.problem.guide, seen, atol=1e-5)
    assert torch.allclose(blur_down(pair.truth, pair.problem.sensor.psf, 2), pair.problem.hsi, atol=1e-6)
    assert pair.problem.sensor.psf_fwhm[0] == pytest.approx(problem.sensor.psf_fwhm[0] / 2, rel=0.05)


def test_the_degraded_noise_is_what_it_says(scene):
    problem, truth = scene
    pair = reduce_problem(problem, 4)
    assert pair.problem.sensor.psf is problem.sensor.psf
    left = pair.problem.guide - mix_bands(pair.truth, problem.sensor.srf) - 0.01
    assert left.std().item() == pytest.approx(pair.problem.guide_noise.mean().item(), rel=0.15)
    clean = blur_down(blur_down(truth.rows(0, 128), problem.sensor.psf, 4), problem.sensor.psf, 4)
    noise = (pair.problem.hsi - clean).std().item()
    assert noise == pytest.approx(pair.problem.hsi_noise.mean().item(), rel=0.15)


def test_nodata_does_not_leak_into_the_degraded_pair(scene):
    problem, _ = scene
    weight, guide_weight = problem.hsi_weight.clone(), problem.guide_weight.clone()
    weight[:9, :7] = 0
    guide_weight[:, 90:] = 0
    holed = replace(problem, hsi=problem.hsi * weight, hsi_weight=weight,
                    guide=problem.guide * guide_weight, guide_weight=guide_weight)  # fmt: skip
    pair = reduce_problem(holed, 2)
    inside = pair.problem.hsi_weight > 0
    assert not inside[:4, :3].any()
    assert pair.problem.hsi[:, inside].min() > 0.5 * problem.hsi.min()
    covered = pair.problem.guide_weight > 0
    assert not covered[:, 24:].any()
    assert covered[:, :22].all()
    assert pair.problem.guide[:, covered].min() > 0.5 * problem.guide.min()
    assert pair.mask.sum() == 32 * 32 - 63


def test_sizes_that_are_no_multiple_are_cropped(scene):
    problem, _ = scene
    part = replace(
        problem,
        hsi=problem.hsi[:, :31, :29],
        hsi_weight=problem.hsi_weight[:31, :29],
        guide=problem.guide[:, :124, :116],
        guide_weight=problem.guide_weight[:124, :116],
    )
    pair = reduce_problem(part, 3)
    assert pair.problem.guide.shape == (4, 30, 27)
    assert pair.problem.hsi.shape == (BANDS, 10, 9)
    assert reduction_factor(part, 10) == 2
    assert reduction_factor(part, 16) is None
