"""What every method must keep to, whatever it does inside: the contract of `hsi_fuse.problem.Stage`."""

import json
from dataclasses import fields, replace

import pytest
import torch
from synthetic import EDGES, RATIO, WAVELENGTHS, observed, problem_of, psnr, scene

from hsi_fuse.overlap.blockterm import BlockTermOptions
from hsi_fuse.overlap.unregistered import UnmixOptions
from hsi_fuse.physics import gaussian_psf
from hsi_fuse.preset import Preset
from hsi_fuse.problem import Estimate, Problem, Stage, silent
from hsi_fuse.simulation.simulate import Protocol, observe
from hsi_fuse.solving import solvers_of
from hsi_fuse.stages.map import Map, mean_estimate, within
from hsi_fuse.stages.table import STAGES
from hsi_fuse.subspace import fit_subspace, interpolate, problem_subspace

CHEAP = {
    "coupled": {"steps": 60, "imitate": 60},
    "cucanet": {"steps": 60, "sensor_steps": 20, "widths": (24, 24, 24), "crop_px": 32},
    "cnmf": {"updates": 60},
    "fresco": {"steps": 2, "width": 4, "unmix": UnmixOptions(4, 1, terms=BlockTermOptions(iterations=2))},
    "hysure": {"iterations": 60},
    "uafl": {"steps": 2, "width": 4, "levels": 2, "groups": 2, "heads": 2},
    "ssc": {"steps": 2, "width": 4, "levels": 2, "groups": 2, "heads": 2, "iterations": 2},
}
"""Settings by stage that make it quick; those that a stage does not have are left out."""


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> Stage:
    kind = STAGES[request.param]
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in CHEAP.get(request.param, {}).items() if key in known})


@pytest.fixture(scope="module")
def pairs():
    """Registered pairs of 96 x 112 fine pixels by the number of guide bands."""
    return {m: observed(m, truth=scene(96, 112)) for m in (1, 3, 4, 9)}


REFINING = ("uafl", "ssc", "fresco")
"""Stages that improve another's estimate, and may pass it through: they start from `map`'s here."""


def started(stage: Stage, problem: Problem) -> Estimate:
    plain = interpolate(problem)
    refines = isinstance(stage, tuple(STAGES[name] for name in REFINING))
    return STAGES["map"]()(problem, plain, silent).estimate if refines else plain


def run(stage: Stage, problem: Problem) -> Estimate:
    return stage(problem, started(stage, problem), silent).estimate


def cube(estimate: Estimate) -> torch.Tensor:
    return estimate.rows(0, estimate.shape[1])


def half(pair) -> torch.Tensor:
    weight = torch.ones(pair.guide.shape[1:])
    weight[:, weight.shape[1] // 2 :] = 0
    return weight


@pytest.mark.parametrize("bands", [1, 3, 4, 9])
def test_any_guide_gives_a_finite_cube_better_than_interpolation(stage, pairs, bands):
    pair = pairs[bands]
    problem = problem_of(pair)
    estimate = run(stage, problem)
    assert estimate.shape == tuple(pair.truth.shape)
    assert bool(cube(estimate).isfinite().all())
    assert psnr(cube(estimate), pair.truth) > psnr(cube(interpolate(problem)), pair.truth) + 0.5


def test_rows_are_the_factors_mixed(stage, pairs):
    problem = problem_of(pairs[4])
    estimate = run(stage, problem)
    assert estimate.basis.shape == (estimate.shape[0], len(estimate.coefficients))
    assert estimate.basis.shape[1] <= 64  # factors, not the cube
    wanted = torch.einsum("nk,khw->nhw", estimate.basis, estimate.coefficients[:, 10:23])
    assert torch.allclose(estimate.rows(10, 23), wanted + estimate.mean[:, None, None], atol=1e-5)
    assert not any(t.requires_grad for t in (estimate.basis, estimate.mean, estimate.coefficients))


def test_the_same_seed_gives_the_same_numbers(stage, pairs):
    problem = problem_of(pairs[4], seed=3)
    one = run(stage, problem)
    torch.rand(7)  # whatever else draws random numbers in between
    other = run(stage, problem)
    assert torch.equal(one.coefficients, other.coefficients)
    assert torch.equal(one.basis, other.basis)


def test_a_stage_leaves_the_random_state_and_its_input_alone(stage, pairs):
    problem = problem_of(pairs[4])
    before = {f.name: getattr(problem, f.name) for f in fields(problem)}
    kept = {name: v.clone() for name, v in before.items() if isinstance(v, torch.Tensor)}
    start = started(stage, problem)
    coefficients = start.coefficients.clone()
    state = torch.get_rng_state()
    stage(problem, start, silent)
    assert all(torch.equal(before[name], v) for name, v in kept.items())
    assert torch.equal(start.coefficients, coefficients)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_has_no_weight_changes_nothing(stage, pairs):
    pair = pairs[4]
    hsi_weight = torch.ones(pair.hsi.shape[1:])
    hsi_weight[3:6, 4:8] = 0
    problem = replace(problem_of(pair, half(pair)), hsi_weight=hsi_weight, hsi=pair.hsi * hsi_weight)
    garbage = replace(
        problem,
        hsi=torch.where(hsi_weight > 0, problem.hsi, 7.0),
        guide=torch.where(problem.guide_weight > 0, problem.guide, -300.0),
    )
    one, other = run(stage, problem), run(stage, garbage)
    assert torch.equal(cube(one), cube(other))


def test_a_guide_over_half_the_scene_helps_there_and_harms_nowhere(stage, pairs):
    pair = pairs[4]
    weight = half(pair)
    problem = problem_of(pair, weight)
    found, plain = cube(run(stage, problem)), cube(interpolate(problem))
    inside, outside = weight > 0, weight == 0
    assert psnr(found, pair.truth, inside) > psnr(plain, pair.truth, inside) + 2
    assert psnr(found, pair.truth, outside) > psnr(plain, pair.truth, outside) - 0.2
    far = torch.zeros_like(outside)
    far[:, -40:] = True  # well outside it is interpolation, but for how much noise the subspace keeps
    if not isinstance(stage, STAGES["fresco"]):  # which is for what lies there
        assert psnr(found, plain, far) > 35


@pytest.mark.parametrize("stage", ["coupled", "uafl", "ssc"], indirect=True)
def test_where_the_guide_ends_no_texture_of_the_map_estimate_is_lost(stage, pairs):
    pair = pairs[4]
    problem = problem_of(pair, half(pair))
    before, found = run(STAGES["map"](), problem), run(stage, problem)
    inside = problem.guide_weight > 0
    assert psnr(cube(found), pair.truth, inside) > psnr(cube(before), pair.truth, inside) - 0.1


def test_without_any_guide_it_is_interpolation(stage, pairs):
    pair = pairs[4]
    problem = problem_of(pair, torch.zeros(pair.guide.shape[1:]))
    assert psnr(cube(run(stage, problem)), cube(interpolate(problem))) > 35


def test_the_guide_s_units_do_not_matter(stage, pairs):
    pair = pairs[4]
    problem = problem_of(pair)
    sensor = replace(pair.sensor, srf=700 * pair.sensor.srf, offset=pair.sensor.offset + 50)
    counts = replace(
        problem, guide=700 * problem.guide + 50, guide_noise=700 * problem.guide_noise, sensor=sensor
    )
    assert psnr(cube(run(stage, counts)), cube(run(stage, problem))) > 45


def test_progress_ends_at_its_total(stage, pairs):
    problem, said = problem_of(pairs[4]), []
    stage(problem, started(stage, problem), lambda *report: said.append(report))
    assert said
    assert all(0 <= step <= total for _, step, total, *_ in said)
    assert said[-1][1] == said[-1][2]


def test_the_verdict_is_json_ready_and_says_whether_it_was_kept(stage, pairs):
    problem = problem_of(pairs[4])
    result = stage(problem, started(stage, problem), silent)
    assert isinstance(result.verdict["kept"], bool)
    json.dumps([dict(result.verdict), list(result.history)])


@pytest.mark.parametrize("ratio", [2, 3])
def test_other_ratios_work_too(stage, ratio):
    psf = gaussian_psf(ratio, float(ratio))
    pair = observe(scene(96, 112), WAVELENGTHS, Protocol("test", ratio, psf, EDGES[4]), seed=1)
    problem = problem_of(pair)
    assert psnr(cube(run(stage, problem)), pair.truth) > psnr(cube(interpolate(problem)), pair.truth) + 0.5


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_the_default_beats_the_classical_methods(pairs, bands):
    problem = problem_of(pairs[bands])
    quality = {
        name: psnr(cube(run(kind(**CHEAP.get(name, {})), problem)), pairs[bands].truth)
        for name, kind in STAGES.items()
    }
    assert quality["coupled"] > max(quality["map"], quality["gsa"], quality["cnmf"], quality["sylvester"])
    assert quality["coupled"] > quality["hysure"] - 0.5  # the scene is piecewise constant, as it assumes


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_the_mean_of_two_answers_is_nearly_the_better_one_or_better(pairs, bands):
    problem = problem_of(pairs[bands])
    subspace = problem_subspace(problem)
    coefficients, half, _ = mean_estimate(problem, subspace, Map())

    def quality(found):
        return psnr(cube(Estimate(subspace.basis, subspace.mean, found)), pairs[bands].truth)

    mean, *parts = (quality(found) for found in (coefficients, coefficients + half, coefficients - half))
    assert mean > sum(parts) / 2
    assert mean > max(parts) - 0.6


def test_a_guide_that_tells_nothing_leaves_the_network_without_weight(pairs):
    problem = problem_of(pairs[1])
    noise = torch.randn(problem.guide.shape, generator=torch.Generator().manual_seed(0))
    blank = replace(problem, guide=noise, guide_noise=torch.ones(1))
    weights = [
        STAGES["coupled"](**CHEAP["coupled"])(p, interpolate(p), silent).verdict["network_weight"]
        for p in (problem_of(pairs[4]), blank)
    ]
    assert weights[0] > 0.3
    assert weights[1] < 0.1


def test_a_network_that_strange_pixels_led_astray_weighs_less(pairs):
    problem, draw = problem_of(pairs[4]), torch.Generator().manual_seed(0)
    strange = torch.rand(problem.hsi.shape[1:], generator=draw) < 0.02
    hsi = problem.hsi.clone()
    hsi[:, strange] = 3 * torch.rand(len(hsi), int(strange.sum()), generator=draw)
    stage = STAGES["coupled"](steps=150, imitate=150)
    told = stage(replace(problem, hsi=hsi), interpolate(problem), silent).verdict
    kept = told["held_out_error_imitating"] / told["held_out_error"]
    assert kept < 0.8
    assert told["network_weight"] < kept * stage.share


def test_maps_answer_is_not_made_twice_for_the_report(pairs, monkeypatch):
    problem = problem_of(pairs[3])
    wanted = run(STAGES["map"](), problem)
    solvers = solvers_of(Preset("quick", stages=(("coupled", STAGES["coupled"](**CHEAP["coupled"])),)))
    solvers["product"](problem)
    with monkeypatch.context() as without:
        without.delitem(STAGES, "map")
        assert torch.equal(cube(solvers["map"](problem)), cube(wanted))
    other = problem_of(pairs[4])
    assert torch.equal(cube(solvers["map"](other)), cube(run(STAGES["map"](), other)))


def test_an_estimate_is_projected_by_its_factors(pairs):
    pair = pairs[4]
    ones = torch.ones(pair.hsi.shape[1:])
    subspace = fit_subspace(pair.hsi, ones, pair.hsi_noise, largest=5)
    draw = torch.Generator().manual_seed(0)
    basis, mean = torch.rand(pair.hsi.shape[0], 7, generator=draw), torch.rand(len(pair.hsi), generator=draw)
    estimate = Estimate(basis, mean, torch.rand(7, 6, 9, generator=draw))
    wanted = subspace.project(cube(estimate))
    assert float((within(subspace, estimate) - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


def test_the_scene_is_not_square():
    assert len({96 // RATIO, 112 // RATIO, scene(96, 112).shape[0]}) == 3


def test_scattered_holes_in_the_guide_cost_little(pairs):
    pair = pairs[4]
    weight = torch.ones(pair.guide.shape[1:])
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(0))
    weight.view(-1)[order[: weight.numel() // 1000]] = 0
    whole, holed = (
        psnr(cube(run(STAGES["map"](), problem)), pair.truth)
        for problem in (problem_of(pair), problem_of(pair, weight))
    )
    assert holed > whole - 2
