"""Stage `uafl` where the guide does not fit, where it fits, and the parts of it that are its own."""

import numpy as np
import pytest
import torch
from displaced import TINY, displaced, fitting, loses_nothing, quality, repeatable, started
from synthetic import problem_of

from hsi_fuse.errors import HsiFuseWarning
from hsi_fuse.nets.flow import warp
from hsi_fuse.nets.tiles import tiled
from hsi_fuse.problem import silent
from hsi_fuse.refinement.gate import Comparison, hidden_blocks
from hsi_fuse.refinement.realign import realigned
from hsi_fuse.refinement.sight import Misplacer
from hsi_fuse.stages.uafl import Uafl

SMALL = {"steps": 40, "width": 8, "scaca": False, "misplaced": 0.0}


@pytest.fixture(scope="module")
def pair():
    return fitting()


def test_a_displaced_guide_is_found_and_the_gain_is_real(pair):
    problem = displaced(problem_of(pair), 2.0)
    start = started(problem)
    result = Uafl(**SMALL)(problem, start, silent)
    assert result.verdict["flow_kept"]
    assert result.verdict["flow_gain_db"] > 0.5
    assert quality(result.estimate, pair) > quality(start, pair) + 1


def test_a_guide_that_fits_to_within_the_noise_costs_no_training(pair):
    problem = problem_of(pair)
    start = started(problem)
    result = Uafl(**SMALL)(problem, start, silent)
    assert result.estimate is start
    assert not result.history
    assert "nothing to mend" in result.verdict["reason"]
    assert 0.5 < result.verdict["misfit_over_noise"] < 1.5  # what it is made of is known here


def test_a_guide_that_fits_passes_through_or_loses_nothing_when_it_is_looked_at(pair):
    loses_nothing(Uafl(**SMALL, fits=0.0), pair)


def test_training_ends_a_third_of_the_way_where_hidden_pixels_are_predicted_worse(pair, monkeypatch):
    """The flow is turned round: worse than none where the network has learned anything."""
    problem = displaced(problem_of(pair), 2.0)
    start = started(problem)

    def turned(problem, flow):
        return realigned(problem, -4 * flow)

    monkeypatch.setattr("hsi_fuse.refinement.trial.realigned", turned)
    result = Uafl(**SMALL)(problem, start, silent)
    assert result.estimate is start
    assert result.verdict["flow_gain_db"] < 0
    assert result.verdict["steps"] == result.history[-1]["step"] == 12  # of 40, looked at every 6
    assert "worse than none" in result.verdict["reason"]


def test_too_few_pixels_to_judge_by_pass_through(pair):
    weight = torch.zeros(96, 112)
    weight[:24, :24] = 1
    problem = problem_of(pair, weight)
    start = started(problem)
    result = Uafl(**SMALL)(problem, start, silent)
    assert result.estimate is start
    assert "too few" in result.verdict["reason"]


def test_a_diverging_training_passes_through_with_a_warning(pair):
    problem = problem_of(pair)
    start = started(problem)
    with pytest.warns(HsiFuseWarning, match="uafl is left out"):
        result = Uafl(**(SMALL | {"learning_rate": float("inf"), "fits": 0.0}))(problem, start, silent)
    assert result.estimate is start


def test_without_memory_it_goes_on_with_smaller_crops_and_then_without_the_gpu(pair, monkeypatch):
    problem, tried = problem_of(pair), []
    start, improve = started(problem), Uafl._improve

    def fails(self, problem, start, crop_px, on_step):
        tried.append(crop_px)
        if len(tried) < 4:
            raise torch.cuda.OutOfMemoryError
        return improve(self, problem, start, crop_px, on_step)

    monkeypatch.setattr(Uafl, "_improve", fails)
    with pytest.warns(HsiFuseWarning, match="memory does not suffice"):
        Uafl(**(SMALL | {"steps": 2}))(problem, start, silent)
    assert tried == [96, 48, 96, 48]  # 24 would be too small: on the processor from the start again


@pytest.mark.parametrize(
    "off",
    [
        {},
        {"reformulation": False},
        {"aggregation": "plain"},
        {"aggregation": "still"},
        {"scaca": False, "scmf": False},
    ],
)
def test_every_switch_gives_a_network_that_learns_and_the_same_bytes_twice(off, monkeypatch):
    """With the gate held open."""
    monkeypatch.setattr(Comparison, "wins", True)
    result = repeatable(Uafl(**TINY, **off))
    assert result.verdict["kept"]
    assert bool(result.flow.any()) == (off.get("aggregation") != "still")


# --- its parts ---------------------------------------------------------------------------------------------


def test_the_gate_opens_for_what_is_clearly_better_only():
    draw = torch.Generator().manual_seed(0)
    blocks = torch.arange(1, 101).reshape(10, 10)
    before = torch.rand(10, 10, generator=draw) + 0.5
    noise = 0.9 + 0.2 * torch.rand(10, 10, generator=draw)
    assert Comparison.on(blocks, before, 0.5 * before * noise).wins
    assert not Comparison.on(blocks, before, before * noise).wins
    assert not Comparison.on(blocks, 0.5 * before, before).wins
    assert not Comparison.on(blocks * (blocks < 8), before, 0.1 * before).wins  # too few to say


def test_one_block_does_not_open_the_gate():
    blocks, before = torch.arange(1, 101).reshape(10, 10), torch.ones(10, 10)
    after = torch.full((10, 10), 1.01)
    before[0, 0], after[0, 0] = 400.0, 1.0
    assert not Comparison.on(blocks, before, after).wins


def test_a_gain_that_chance_might_have_made_is_decided_by_more_blocks():
    draw = torch.Generator().manual_seed(3)
    blocks, before = torch.arange(1, 50).reshape(7, 7), torch.ones(7, 7)
    noisy = Comparison.on(blocks, before, 0.5 + 3 * (torch.rand(7, 7, generator=draw) < 0.12))
    assert noisy.gain_db < 0.5
    assert not noisy.undecided
    better = before.clone()
    before[0, :2], better[0, :2] = 100.0, torch.tensor([1.0, 90.0])
    one = Comparison.on(blocks, before, better + 0.1)
    assert one.undecided
    assert one.joined(Comparison.on(blocks, torch.ones(7, 7), torch.full((7, 7), 0.5))).wins
    assert not one.joined(Comparison.on(blocks, torch.ones(7, 7), torch.full((7, 7), 1.5))).wins


def test_a_clear_gain_of_few_blocks_is_decided_by_more_blocks():
    ones = torch.ones(5, 5)
    few = Comparison.on(torch.arange(1, 26).reshape(5, 5), ones, 0.8 * ones)
    assert few.wins
    assert few.undecided
    many = few.joined(Comparison.on(torch.arange(1, 26).reshape(5, 5), ones, 0.8 * ones))
    assert many.wins
    assert not many.undecided
    assert not few.joined(Comparison.on(torch.arange(1, 26).reshape(5, 5), ones, ones)).wins


def test_hidden_blocks_lie_among_usable_pixels():
    usable = torch.ones(21, 34, dtype=torch.bool)
    usable[:, :10] = False
    blocks = hidden_blocks(usable, 0.2, 2, torch.Generator().manual_seed(0))
    assert not bool((blocks > 0)[~usable].any())
    assert 0.15 < float((blocks > 0).sum() / usable.sum()) < 0.25
    assert (torch.bincount(blocks.flatten())[1:] == 4).all()


@pytest.mark.parametrize("size", [(40, 50), (200, 130), (97, 161)])
def test_tiles_leave_no_seams(size):
    image = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(0))

    def local(part: torch.Tensor) -> list[torch.Tensor]:
        return [part.cumsum(1), part + 0 * part.mean()]

    found = tiled(local, [image], 64, 32)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, local(image), strict=True))
    shades = tiled(lambda part: [part * 0 + part.mean()], [image], 64, 32)[0]  # what differs by tile
    step = max(float(shades.diff(dim=axis).abs().max()) for axis in (2, 3))
    assert step <= float(shades.max() - shades.min()) / 10 + 1e-6


def test_a_guide_is_fetched_along_a_flow_and_holes_stay_holes(pair):
    weight = torch.ones(96, 112)
    weight[:, 100:] = 0
    problem = problem_of(pair, weight)
    flow = torch.tensor([3.0, -2.0])[:, None, None].expand(2, 96, 112)
    moved = realigned(problem, flow)
    assert torch.allclose(moved.guide[:, 10:80, 10:80], problem.guide[:, 8:78, 13:83], atol=1e-5)
    assert not bool(moved.guide_weight[:, 97:].any())
    assert bool((moved.guide_weight[:, :96] == 1).all())


def test_misplaced_objects_show_elsewhere_and_leave_the_ground_behind(pair):
    misplacer = Misplacer(problem_of(pair), 0.0, np.random.default_rng(0))
    labels = np.zeros((30, 30), np.intp)
    labels[10:16, 10:16] = 1
    flow = torch.from_numpy(misplacer._objects(labels)).float()
    image = torch.from_numpy(labels).float()
    shown = warp(image[None, None], flow[None])[0, 0] > 0.5
    assert abs(int(shown.sum()) - 36) <= 12  # all of it, somewhere else
    assert not torch.equal(shown, image > 0.5)


def test_smooth_misplacement_has_the_length_asked_for(pair):
    misplacer = Misplacer(problem_of(pair), 1.5, np.random.default_rng(0))
    flow = misplacer(np.zeros((40, 60), np.intp), torch.zeros(1))
    assert float((flow**2).sum(0).mean().sqrt()) == pytest.approx(1.5, rel=1e-4)
