"""Stage `fresco`: texture where the guide does not reach."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from synthetic import RATIO, observed, problem_of, scene
from torch import Tensor

from hsi_fuse.nets.translator import Critic, Sharpen, Soften
from hsi_fuse.overlap.blockterm import BlockTermOptions
from hsi_fuse.overlap.unregistered import UnmixOptions
from hsi_fuse.physics import blur_down, gaussian_psf
from hsi_fuse.problem import Estimate, NativeGuide, Problem, StageResult, silent
from hsi_fuse.stages import fresco
from hsi_fuse.stages.fresco import Fresco, gradient_distance
from hsi_fuse.subspace import interpolate, upsample

EDGE = 56
"""First fine column that the guide does not show."""
QUICK = Fresco(
    steps=12,
    width=8,
    patch=8,
    batch=4,
    unmix=UnmixOptions(endmembers=5, starts=1, terms=BlockTermOptions(iterations=5)),
)


@pytest.fixture(scope="module")
def problem() -> Problem:
    """20 x 24 HSI pixels, of which the guide shows the left."""
    pair = observed(truth=scene(80, 96, 3))
    weight = torch.ones(80, 96)
    weight[:, EDGE:] = 0
    return problem_of(pair, weight)


@pytest.fixture(scope="module")
def start(problem: Problem) -> Estimate:
    return interpolate(problem)


@pytest.fixture(scope="module")
def filled(problem: Problem, start: Estimate) -> StageResult:
    """What it does after few steps, the gate held open."""
    with pytest.MonkeyPatch.context() as patch:
        judged = fresco._Held.judge
        patch.setattr(
            fresco._Held, "judge", lambda *a: {**judged(*a), "psnr_gain_db": 1.0, "gradient_ratio": 0.5}
        )
        patch.setattr(fresco, "GAINS", (1.0,))
        return QUICK(problem, start, silent)


def test_what_the_guide_shows_stays_as_it_is(filled: StageResult, start: Estimate) -> None:
    assert filled.verdict["kept"]
    assert torch.equal(filled.estimate.coefficients[:, :, :EDGE], start.coefficients[:, :, :EDGE])
    assert not torch.equal(filled.estimate.coefficients[:, :, EDGE:], start.coefficients[:, :, EDGE:])


def test_what_is_filled_is_in_line_with_the_hsi(
    filled: StageResult, start: Estimate, problem: Problem
) -> None:
    def off(estimate: Estimate) -> float:
        low = blur_down(estimate.rows(0, 80), problem.sensor.psf, RATIO)
        return float((low - problem.hsi)[:, :, EDGE // RATIO + 2 :].square().mean())

    assert off(filled.estimate) < 0.3 * off(start)


def test_the_pair_in_materials_comes_with_it(filled: StageResult, problem: Problem) -> None:
    assert filled.unmixed is not None
    assert filled.products["abundances"].shape == (5, 80, 96)
    assert filled.products["endmembers"].shape == (len(problem.hsi), 5)


def test_without_a_gain_on_held_out_ground_interpolation_stays(
    problem: Problem, start: Estimate, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = {"psnr_gain_db": -0.1, "gradient_ratio": 0.5}
    monkeypatch.setattr(fresco._Held, "judge", lambda *_: worse)
    result = QUICK(problem, start, silent)
    assert not result.verdict["kept"]
    assert "no better than interpolation" in str(result.verdict["reason"])
    assert result.estimate is start


def test_a_guide_that_shows_everything_leaves_nothing_to_do(problem: Problem, start: Estimate) -> None:
    whole = replace(problem, guide_weight=torch.ones_like(problem.guide_weight))
    result = QUICK(whole, start, silent)
    assert result.estimate is start
    assert "covers all" in str(result.verdict["reason"])


def test_a_guide_too_small_to_learn_from_is_said_so(problem: Problem, start: Estimate) -> None:
    weight = torch.zeros_like(problem.guide_weight)
    weight[:, :24] = 1
    small = replace(problem, guide_weight=weight, guide=problem.guide * weight)
    result = QUICK(small, start, silent)
    assert result.estimate is start
    assert "too little ground" in str(result.verdict["reason"])


def test_a_native_guide_is_learned_from_and_all_of_the_hsi_filled(problem: Problem, start: Estimate) -> None:
    native = NativeGuide(problem.guide.rot90(1, (1, 2)), problem.guide_weight.rot90(1))
    lost = replace(
        problem,
        guide=torch.zeros_like(problem.guide),
        guide_weight=torch.zeros_like(problem.guide_weight),
        native=native,
    )
    result = QUICK(lost, start, silent)
    assert result.unmixed is not None
    assert result.unmixed.fine.shape == (5, 96, 80)
    assert "psnr_gain_db" in result.verdict


# --- parts -------------------------------------------------------------------------------------------------


def test_gradients_of_the_truth_are_at_no_distance_and_blur_adds_to_it() -> None:
    truth = scene(40, 48, 3)[:6]
    everywhere = torch.ones(40, 48, dtype=torch.bool)
    low = blur_down(truth, gaussian_psf(4, 4.0), 4)
    assert gradient_distance(truth, truth, everywhere) == 0
    assert gradient_distance(truth.flip(1, 2), truth, everywhere) < 0.02  # places do not count
    assert gradient_distance(upsample(low, 4), truth, everywhere) > 0.3
    assert gradient_distance(2 * truth, truth, everywhere) == pytest.approx(1, abs=0.02)


def test_the_translator_begins_as_interpolation() -> None:
    maps = torch.rand(3, 1, 9, 12)
    assert torch.allclose(Sharpen(4, 8)(maps)[:, 0], upsample(maps[:, 0], 4))


def test_the_way_back_begins_as_the_psf() -> None:
    psf, maps = gaussian_psf(4, 4.0), torch.rand(2, 1, 40, 48)
    inner = (slice(None), slice(2, -2), slice(2, -2))  # its edges are mirrored otherwise
    assert torch.allclose(Soften(psf, 4)(maps)[:, 0][inner], blur_down(maps[:, 0], psf, 4)[inner], atol=1e-4)


def test_the_critic_has_a_head_for_each_material() -> None:
    critic, patch = Critic(3, 8), torch.rand(1, 1, 32, 32).expand(3, 1, 32, 32)
    told = critic(patch, torch.arange(3))
    assert told.shape == (3, 1, 4, 4)
    assert not torch.allclose(told[0], told[1])


def test_patches_are_turned_and_mirrored_but_not_stretched() -> None:
    """A cone is the same from all sides; its gradient's length is 1 wherever a patch lies."""
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(70.0), indexing="ij")
    cone = torch.hypot(y - 29.5, x - 34.5)[None]
    made = fresco._Patches(cone, torch.ones(60, 70, dtype=torch.bool), 16)(
        torch.zeros(20, dtype=torch.long), torch.Generator().manual_seed(0)
    )
    down, across = torch.gradient(made[:, 0], dim=(1, 2))
    assert float(torch.hypot(down, across)[:, 2:-2, 2:-2].median()) == pytest.approx(1, abs=0.01)
    angles = torch.atan2(down, across).mean((1, 2))
    assert float(angles.max() - angles.min()) > math.pi / 2


def test_no_grid_of_hsi_pixels_is_left_in_the_detail() -> None:
    draw = torch.Generator().manual_seed(0)
    maps, detail = torch.rand(2, 9, 11, generator=draw), torch.randn(2, 36, 44, generator=draw)
    grid = torch.randn(4, 4, generator=draw).repeat(9, 11)
    spoilt = detail + grid * (0.5 + 2 * maps).repeat_interleave(4, 1).repeat_interleave(4, 2)
    clean = detail - fresco._grid_pattern(detail, maps, 4)
    assert torch.allclose(spoilt - fresco._grid_pattern(spoilt, maps, 4), clean, atol=1e-4)
    assert float((clean - detail).square().mean()) < 0.1


def test_the_held_out_part_is_a_quarter_and_whole(problem: Problem) -> None:
    valid: Tensor = problem.guide_weight > 0
    held, taught = fresco._split(valid, RATIO)
    assert not bool((held & taught).any())
    assert torch.equal(held | taught, valid)
    assert 0.2 < float(held.sum() / valid.sum()) < 0.35
