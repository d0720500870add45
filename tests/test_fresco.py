"""Stage `fresco`: texture where the guide does not reach."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from synthetic import RATIO, observed, problem_of, scene
from torch import Tensor

from hsi_fuse.nets.translator import Critic, Sharpen, SharpenEach
from hsi_fuse.overlap import examples, strength
from hsi_fuse.overlap.blockterm import BlockTermOptions
from hsi_fuse.overlap.examples import Examples
from hsi_fuse.overlap.examples import _turn as examples_turn
from hsi_fuse.overlap.lessons import Lessons
from hsi_fuse.overlap.strength import Strength
from hsi_fuse.overlap.texture import HeldOut, Patches, gradient_distance, in_line
from hsi_fuse.overlap.unregistered import UnmixOptions
from hsi_fuse.physics import blur_down, gaussian_psf
from hsi_fuse.preset import load_preset
from hsi_fuse.problem import Estimate, NativeGuide, Problem, StageResult, silent
from hsi_fuse.stages import fresco
from hsi_fuse.stages.fresco import Fresco
from hsi_fuse.subspace import interpolate, upsample

EDGE = 56
"""First fine column that the guide does not show."""
QUICK = Fresco(
    steps=12,
    width=8,
    patch=8,
    batch=4,
    consistency=6,
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
        patch.setattr(
            HeldOut,
            "judge",
            lambda _, details: [{"psnr_gain_db": 1.0, "gradient_ratio": 0.5} for _ in details],
        )
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
    assert filled.unmixed.fine.shape == (5, 80, 96)
    assert filled.unmixed.spectra.shape == (len(problem.hsi), 5)


def test_without_a_gain_on_held_out_ground_interpolation_stays(
    problem: Problem, start: Estimate, filled: StageResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresco, "unmix_problem", lambda *_: filled.unmixed)
    worse = {"psnr_gain_db": -0.1, "gradient_ratio": 0.5}
    monkeypatch.setattr(HeldOut, "judge", lambda _, details: [worse for _ in details])
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


def test_the_translator_begins_at_nothing() -> None:
    maps, chosen = torch.rand(3, 1, 9, 12), torch.arange(3)
    assert Sharpen(4, 8)(maps, chosen).shape == (3, 1, 36, 48)
    assert not Sharpen(4, 8)(maps, chosen).any()
    assert not SharpenEach(3, 4, 8)(maps, chosen).any()


def test_one_translator_is_the_same_for_all_materials_and_one_each_is_not() -> None:
    torch.manual_seed(0)
    maps, chosen = torch.rand(1, 1, 9, 12).expand(2, 1, 9, 12), torch.arange(2)
    for network, same in ((Sharpen(4, 8), True), (SharpenEach(2, 4, 8), False)):
        for name, parameter in network.named_parameters():
            if "last" in name:
                torch.nn.init.normal_(parameter)
        made = network(maps, chosen)
        assert torch.equal(made[0], made[1]) == same


@pytest.mark.parametrize("other", [{"shared": False}, {"paired": 0.0}])
def test_a_translator_each_or_no_pairs_can_be_asked_for(
    other: dict[str, Any],
    problem: Problem,
    start: Estimate,
    filled: StageResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fresco, "unmix_problem", lambda *_: filled.unmixed)
    result = replace(QUICK, steps=4, examples=False, **other)(problem, start, silent)
    assert "psnr_gain_db" in result.verdict


def test_the_sensor_sees_nothing_of_a_detail_in_line_with_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    psf, detail = gaussian_psf(4, 4.0), torch.randn(2, 48, 40, generator=draw)
    unseen = in_line(detail, torch.zeros(2, 12, 10), psf, 4, 30)
    assert float(blur_down(unseen, psf, 4).std()) < 0.03 * float(blur_down(detail, psf, 4).std())
    assert float(unseen.std()) > 0.9 * float(detail.std())  # white noise is mostly out of its sight


@pytest.fixture(scope="module")
def watched(
    problem: Problem, start: Estimate, filled: StageResult
) -> tuple[list[tuple[Tensor, Tensor]], list[Any], StageResult]:
    """What each training of three seeds was taught and judged by, what came of it, and the result."""
    grounds, tries, teach = [], [], Lessons.teach

    def noted(*given: Any) -> Any:
        grounds.append(given[1:3])
        taught = teach(*given)
        scored = replace(taught.trained, best_score=(0.3, 0.2, 0.1, 0.0, 0.5, 0.4, 0.6)[len(tries)])
        tries.append(replace(taught, trained=scored))
        return tries[-1]

    found = Strength(gain=1.0, examples=1.0, psnr_gain_db=1.0, gradient_ratio=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresco, "unmix_problem", lambda *_: filled.unmixed)
        patch.setattr(Fresco, "_strength", lambda *_: found)
        patch.setattr(Lessons, "teach", noted)
        return grounds, tries, replace(QUICK, seeds=3, steps=4)(problem, start, silent)


def test_of_several_seeds_the_best_on_the_guides_ground_is_taken(
    watched: tuple[list[tuple[Tensor, Tensor]], list[Any], StageResult],
) -> None:
    _, tries, result = watched
    assert result.verdict["seeds"] == [0.5, 0.4, 0.6]  # after one for each part of the ground
    assert result.history == tries[5].trained.history


def test_a_part_of_the_ground_is_judged_by_what_was_not_taught_it(
    watched: tuple[list[tuple[Tensor, Tensor]], list[Any], StageResult], problem: Problem
) -> None:
    grounds, valid = watched[0][:4], problem.guide_weight > 0
    assert torch.equal(torch.stack([judged for _, judged in grounds]).sum(0), valid.long())
    for taught, judged in grounds:
        assert torch.equal(taught, valid & ~judged)


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        # (gain over interpolation, distance of gradients) by share; the nearest gradients of those that help
        ([(0.5, 0.8), (0.01, 0.4), (-0.01, 0.1)], 0.25),
        ([(-0.3, 0.9), (-0.1, 0.8), (-0.2, 0.8)], 0.25),
        ([(0.5, 0.8), (1.8, 0.41), (0.1, 0.40)], 0.25),
    ],
)
def test_an_error_above_interpolations_is_not_paid_for_gradients(
    told: list[tuple[float, float]], taken: float, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strength, "GAINS", (0.0, 0.25, 0.5))
    judge = SimpleNamespace(
        judge=lambda _: [{"psnr_gain_db": gain, "gradient_ratio": ratio} for gain, ratio in told]
    )
    assert strength.alone(problem, judge, torch.zeros(1)).gain == taken  # type: ignore[arg-type]


def test_the_critic_is_watched(filled: StageResult) -> None:
    assert all({"critic_real", "critic_made", "held_out"} <= set(each) for each in filled.history)
    assert filled.history[-1]["critic_real"] != 0


def test_what_the_guide_never_showed_of_a_material_is_not_made_sharp(
    filled: StageResult, problem: Problem
) -> None:
    """A map that varies more in the HSI than in the guide is trusted in proportion."""
    assert filled.unmixed is not None
    wild = replace(
        filled.unmixed, coarse=torch.cat([10 * filled.unmixed.coarse[:1], filled.unmixed.coarse[1:]])
    )
    args = problem.guide_weight, problem.hsi_weight, problem.sensor.psf, RATIO
    (_, before), (_, after) = fresco._scales(filled.unmixed, *args), fresco._scales(wild, *args)
    assert torch.equal(after[1:], before[1:])
    assert 0 < float(after[0]) < 0.2 * float(before[0].clamp_min(0.5))
    assert float(after.max()) <= 1


def test_the_papers_schedule_is_a_preset() -> None:
    stages = dict(load_preset("fresco-paper").stages)
    stage = stages["fresco"]
    assert isinstance(stage, Fresco)
    assert (stage.steps, stage.batch, stage.learning_rate, stage.flat) == (2000 * 20, 8, 1e-4, 0.5)
    assert (stage.patch, stage.critic, stage.paired, stage.shared) == (12, 1.0, 0.0, True)
    assert not stage.examples


def test_the_critic_has_a_head_for_each_material() -> None:
    critic, patch = Critic(3, 8), torch.rand(1, 1, 32, 32).expand(3, 1, 32, 32)
    told = critic(patch, torch.arange(3))
    assert told.shape == (3, 1, 4, 4)
    assert not torch.allclose(told[0], told[1])


def test_patches_are_turned_and_mirrored_but_not_stretched() -> None:
    """A cone is the same from all sides; its gradient's length is 1 wherever a patch lies."""
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(70.0), indexing="ij")
    cone = torch.hypot(y - 29.5, x - 34.5)[None]
    made = Patches(cone, torch.ones(60, 70, dtype=torch.bool), 16, any_angle=True)(
        torch.zeros(20, dtype=torch.long), torch.Generator().manual_seed(0)
    )
    down, across = torch.gradient(made[:, 0], dim=(1, 2))
    assert float(torch.hypot(down, across)[:, 2:-2, 2:-2].median()) == pytest.approx(1, abs=0.01)
    angles = torch.atan2(down, across).mean((1, 2))
    assert float(angles.max() - angles.min()) > math.pi / 2


def test_patches_at_right_angles_are_pixels_and_not_between_them() -> None:
    draw = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 40, 50, generator=draw)
    made = Patches(maps, torch.ones(40, 50, dtype=torch.bool), 8, any_angle=False)(
        torch.tensor([0, 1, 1, 0]), draw
    )
    for patch, k in zip(made[:, 0], (0, 1, 1, 0), strict=True):
        apart = (patch.flatten()[:, None] - maps[k].flatten()).abs().min(1).values
        assert float(apart.max()) < 1e-4


# --- examples ----------------------------------------------------------------------------------------------


def _striped(height: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A coarse random image, the fine detail that it determines, and a basis."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, height, width, generator=draw)
    steep = torch.stack([torch.gradient(each, dim=0)[0] for each in coarse])
    wave = torch.tensor([1.0, -1.0, 1.0, -1.0]).repeat(height)[:, None]
    return coarse, steep.repeat_interleave(RATIO, 1).repeat_interleave(RATIO, 2) * wave, torch.eye(6)[:, :2]


def test_a_pattern_that_was_seen_gets_the_detail_that_went_with_it() -> None:
    coarse, detail, basis = _striped(20, 22, 0)
    everywhere = torch.ones(20, 22, dtype=torch.bool)
    again = Examples.of(detail, coarse, everywhere, basis, 0).pasted(coarse)
    inner = (slice(None), slice(26, -26), slice(26, -26))  # what the rim lacks is smoothed in so far
    assert torch.allclose(again[inner], detail[inner], atol=1e-4)


def test_a_turned_pattern_gets_its_detail_turned() -> None:
    coarse, detail, basis = _striped(20, 20, 1)
    known = Examples.of(detail, coarse, torch.ones(20, 20, dtype=torch.bool), basis, 0)
    inner = (slice(None), slice(26, -26), slice(26, -26))  # what the rim lacks is smoothed in so far
    for way in range(8):
        turned = known.pasted(examples_turn(coarse, way))
        assert torch.allclose(turned[inner], examples_turn(detail, way)[inner], atol=1e-4)


def test_a_mean_of_what_does_not_agree_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    coarse, detail = torch.randn(2, 20, 22, generator=draw), torch.randn(2, 80, 88, generator=draw)
    known = Examples.of(detail, coarse, torch.ones(20, 22, dtype=torch.bool), torch.eye(6)[:, :2], 0)
    asked = torch.randn(2, 15, 16, generator=draw)
    raised = known.pasted(asked)
    monkeypatch.setattr(examples, "MOST_RAISED", 1.0)
    assert float(raised.std() / known.pasted(asked).std()) == pytest.approx(3, abs=0.05)
    assert float(raised.std()) < float(detail.std())


def test_a_pattern_of_other_contrast_gets_its_detail_in_proportion() -> None:
    coarse, detail, basis = _striped(20, 22, 5)
    known = Examples.of(detail, coarse, torch.ones(20, 22, dtype=torch.bool), basis, 0)
    inner = (slice(None), slice(26, -26), slice(26, -26))
    for factor in (0.6, 1.8):
        assert torch.allclose(known.pasted(factor * coarse)[inner], factor * detail[inner], atol=1e-3)
    far = known.pasted(10 * coarse)[inner]  # so much was never seen: no further
    assert float(far.std() / detail[inner].std()) == pytest.approx(2, abs=0.3)


def test_without_a_known_place_there_is_no_detail() -> None:
    coarse, detail, basis = _striped(8, 9, 2)
    known = Examples.of(detail, coarse, torch.zeros(8, 9, dtype=torch.bool), basis, 0)
    assert not known.pasted(coarse).any()


def test_only_known_places_are_taken_from() -> None:
    coarse, detail, basis = _striped(12, 14, 3)
    known = torch.ones(12, 14, dtype=torch.bool)
    known[:, 7:] = False
    wrong = detail.clone()
    wrong[:, :, 7 * RATIO :] = 1e6
    assert float(Examples.of(wrong, coarse, known, basis, 0).pasted(coarse).abs().max()) < 100


def test_of_many_places_some_are_drawn() -> None:
    coarse, detail, basis = _striped(40, 40, 4)
    known = Examples.of(detail, coarse, torch.ones(40, 40, dtype=torch.bool), basis, 0)
    assert len(known.places) == 512
    assert len(known.patterns) == 8 * 512
