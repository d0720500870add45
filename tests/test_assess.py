"""The assessment on a small scene whose truth is known: good products pass, spoilt ones are named."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import convolve1d
from torch.utils._python_dispatch import TorchDispatchMode

from hsi_fuse.errors import SolveError
from hsi_fuse.interpolation import Interpolation
from hsi_fuse.physics import blur_down, gaussian_psf, mix_bands
from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.quality import checks, metrics
from hsi_fuse.quality import cube as streamed
from hsi_fuse.quality.assess import (
    COUNTED_ROWS,
    SCHEMA,
    AssessOptions,
    Quality,
    _consistency,
    _integrity,
    assess,
    plain,
)
from hsi_fuse.quality.cube import StreamedCube
from hsi_fuse.quality.reduced import degrade, reduce_problem
from hsi_fuse.quality.verdict import baseline_wins, judge
from hsi_fuse.report.pictures import take_pictures
from hsi_fuse.subspace import interpolate
from tests.assessed import BANDS, GOOD_REGISTRATION, RATIO, WAVELENGTHS, make_scene, regression

SOLVERS = {"product": regression, "interpolation": interpolate}


@pytest.fixture(scope="module")
def scene() -> tuple[Problem, Estimate]:
    return make_scene()


def judged(problem: Problem, estimate: Estimate, **changes) -> Quality:
    settings = {
        "solvers": SOLVERS,
        "registration": GOOD_REGISTRATION,
        "wavelengths_nm": WAVELENGTHS,
    } | changes
    return assess(problem, estimate, interpolate(problem), **settings)


def lights(quality: Quality) -> dict[str, str]:
    return {entry["name"]: entry["light"] for entry in quality.figures["verdict"]["lights"]}


@pytest.fixture(scope="module")
def good(scene) -> Quality:
    return judged(scene[0], scene[1])


def test_the_truth_is_green(good):
    figures = good.figures
    assert set(lights(good).values()) == {"green"}
    assert figures["verdict"]["light"] == "green"
    assert len(figures["verdict"]["sentences"]) == 3
    assert figures["warnings"] == []
    learned = figures["consistency"]["learned_psf"]
    assert learned["product"]["sam_deg"]["median"] < learned["interpolation"]["sam_deg"]["median"]
    assert learned["product"]["pixels"] == 32 * 32
    assert min(learned["product"]["bands"]["cc"]) > 0.98
    assert figures["consistency"]["outside"] is None
    spatial = figures["spatial"]
    assert min(spatial["product"]["cc_highpass"]) > 0.9 > max(spatial["interpolation"]["cc_highpass"])
    assert good.maps["sam_deg"].shape == (32, 32)
    assert float(np.median(good.maps["sam_deg"])) == pytest.approx(
        learned["product"]["sam_deg"]["median"], rel=1e-4
    )


def test_figures_are_json(good):
    text = json.dumps(good.figures, allow_nan=False)
    assert json.loads(text) == good.figures
    assert good.figures["schema"] == SCHEMA
    assert good.figures["scene"]["hsi_size"] == [32, 32]
    assert len(good.figures["scene"]["wavelengths_nm"]) == BANDS


def test_plain_has_no_infinity():
    mapping = {"a": float("inf"), "b": torch.tensor([1.0, float("nan")]), "c": np.float32(2), 4: (True, None)}
    assert plain(mapping) == {"a": None, "b": [1.0, None], "c": 2.0, "4": [True, None]}


def test_synthesis_scores_a_known_answer(good, scene):
    part = good.figures["synthesis"]
    assert part["assessable"]
    assert part["factor"] == 2  # 32 pixels: a factor of 4 would leave 8
    pair = reduce_problem(scene[0], 2)
    found = regression(pair.problem)
    expected = metrics.psnr(found.rows(0, 32), scene[0].hsi, border=part["border"])
    assert part["results"]["product"]["psnr_db"] == pytest.approx(expected, rel=1e-5)
    assert part["results"]["product"]["psnr_db"] > part["results"]["interpolation"]["psnr_db"] + 5


def test_sharpness_is_neither_blamed_on_the_references_noise_nor_hidden_by_it():
    """On a guide of which a good part is noise: the truth, the guide with its noise, half the detail."""
    problem, truth = make_scene(noise=0.03)
    copied = replace(truth, coefficients=truth.coefficients.clone())
    soft = F.avg_pool2d(truth.coefficients[None], 9, 1, 4, count_include_pad=False)[0]
    half = replace(truth, coefficients=(truth.coefficients + soft) / 2)
    noise = torch.linalg.pinv(problem.sensor.srf @ truth.basis) @ (
        problem.guide - mix_bands(truth.rows(0, 128), problem.sensor.srf) - 0.01
    ).flatten(1)
    copied.coefficients.add_(noise.view_as(copied.coefficients))
    gains = [
        torch.tensor(judged(problem, each).figures["spatial"]["product"]["gain_highpass"])
        for each in (truth, copied, half)
    ]
    assert torch.allclose(gains[0], torch.ones(4), atol=0.05)
    assert torch.allclose(gains[1], torch.ones(4), atol=0.15)
    assert gains[2].max() < 0.8


def test_detail_is_not_blamed_on_the_references_resampling(scene):
    """It takes what is finest; what a larger pixel takes is missed."""
    problem, truth = scene

    def detail(taps: list[float]) -> float:
        guide = problem.guide.double().numpy()
        for axis in (1, 2):
            guide = convolve1d(guide, taps, axis)
        lossy = replace(problem, guide=torch.from_numpy(guide).to(problem.guide))
        spatial = assess(lossy, truth, interpolate(problem), solvers={}).figures["spatial"]
        return spatial["product"]["missed_highpass"]

    assert detail([0.1, 0.8, 0.1]) < AssessOptions().detail_green
    assert detail([0.2] * 5) > AssessOptions().detail_green


def test_detail_below_the_references_noise_is_not_missed():
    """Between two bands that see the same there is noise, a little more of it than is believed, or detail."""
    problem, truth = make_scene(noise=0.02)
    draw = torch.Generator().manual_seed(1)
    first, noise, more = (torch.randn(128, 128, generator=draw) for _ in range(3))
    srf, sees = problem.sensor.srf.clone(), problem.guide.clone()
    srf[3] = srf[2]

    def detail(deviations: float) -> float:
        seen = mix_bands(truth.rows(0, 128), srf[2:3])[0] + problem.sensor.offset[2]
        sees[2], sees[3] = seen + 0.02 * first, seen + 0.02 * (noise + deviations * more)
        alike = replace(problem, guide=sees, sensor=replace(problem.sensor, srf=srf))
        spatial = assess(alike, truth, interpolate(problem), solvers={}).figures["spatial"]
        return spatial["product"]["missed_highpass"]

    assert detail(0.9) < AssessOptions().detail_green
    assert detail(3) > AssessOptions().detail_green


SABOTAGE = {
    "radiometry": lambda t: replace(t, basis=1.1 * t.basis),
    "detail": lambda t: replace(t, coefficients=t.coefficients.roll((2, 2), (1, 2))),
    "spectra": lambda t: replace(t, basis=t.basis.flip(0)),
    "integrity": lambda t: replace(t, mean=t.mean - 0.3),
}


@pytest.mark.parametrize("light", SABOTAGE)
def test_sabotage_turns_its_light(scene, light):
    problem, truth = scene
    quality = judged(problem, SABOTAGE[light](truth))
    assert lights(quality)[light] in ("amber", "red")
    assert quality.figures["verdict"]["light"] == "red" or light == "detail"


def test_a_poor_registration_is_red_and_none_is_at_best_amber(scene):
    problem, truth = scene
    assert lights(judged(problem, truth, registration={"rrmse_px": 2.0}))["registration"] == "red"
    fallback = {"rrmse_px": None, "error_px": 0.7}
    assert lights(judged(problem, truth, registration=fallback))["registration"] == "amber"
    unknown = judged(problem, truth, registration=None)
    assert lights(unknown)["registration"] == "none"
    assert unknown.figures["verdict"]["light"] == "amber"


@pytest.mark.parametrize(
    ("probability", "light"), [(0.95, "green"), (0.8, "amber"), (0.2, "red"), (None, "green")]
)
def test_a_reference_that_may_show_another_place_is_no_green_one(good, probability, light):
    figures = good.figures | {"registration": GOOD_REGISTRATION | {"probability": probability}}
    verdict = judge(figures, AssessOptions())
    assert verdict["lights"][0]["light"] == light
    assert any("another place" in text for text in verdict["sentences"]) == (light != "green")
    figures = good.figures | {"registration": {"rrmse_px": 2.0, "probability": 0.8}}
    assert judge(figures, AssessOptions())["lights"][0]["what"] == "the reference may be displaced"


def test_interpolation_sold_as_a_product_is_found_out(scene):
    problem, _ = scene
    solvers = {"product": interpolate, "interpolation": interpolate, "map": regression}
    quality = judged(problem, interpolate(problem), solvers=solvers)
    assert lights(quality)["synthesis"] == "red"  # by far more than synthesis_amber
    assert lights(quality)["detail"] == "red"
    assert any("'map' beats the product" in text for text in quality.figures["warnings"])
    swapped = {"product": interpolate, "interpolation": regression}
    assert lights(judged(problem, interpolate(problem), solvers=swapped))["synthesis"] == "red"


@pytest.mark.parametrize(
    ("lead", "interpolation", "light"),
    [
        (3.0, 20.0, "green"),
        (-0.35, 20.0, "green"),
        (-1.0, 20.0, "amber"),
        (-4.0, 20.0, "red"),
        (3.0, 41.0, "red"),
    ],
)
def test_a_simpler_method_must_win_clearly_to_turn_a_light(good, lead, interpolation, light):
    """A few tenths of a decibel are a warning; they say nothing against the product's use."""
    sam = {"sam_deg": {"mean": 1.0}}
    results = {
        "product": {"psnr_db": 40.0} | sam,
        "map": {"psnr_db": 40.0 - lead} | sam,
        "interpolation": {"psnr_db": interpolation} | sam,
    }
    part = good.figures["synthesis"] | {"results": results}
    part["baseline_wins"] = baseline_wins(results, AssessOptions())
    assert bool(part["baseline_wins"]) == (lead < 0 or interpolation > 40)
    verdict = judge(good.figures | {"synthesis": part}, AssessOptions())
    assert {e["name"]: e["light"] for e in verdict["lights"]}["synthesis"] == light


def test_what_cannot_be_assessed_says_why(scene):
    problem, truth = scene

    def broken(_: Problem) -> Estimate:
        raise SolveError("it did not converge")

    for changes, reason in (
        ({"solvers": {}}, "not at hand"),
        ({"solvers": {"product": broken}}, "did not converge"),
        ({"options": AssessOptions(smallest=20)}, "too few"),
    ):
        quality = judged(problem, truth, **changes)
        assert not quality.figures["synthesis"]["assessable"]
        assert reason in quality.figures["synthesis"]["reason"]
        assert lights(quality)["synthesis"] == "none"
        assert "not assessable" in quality.figures["verdict"]["sentences"][2]
    baseline = judged(problem, truth, solvers=SOLVERS | {"map": broken})
    assert baseline.figures["synthesis"]["assessable"]
    assert any("'map' failed" in text for text in baseline.figures["warnings"])


def test_partial_guides_and_nodata(scene):
    problem, truth = scene
    weight, guide_weight = problem.hsi_weight.clone(), problem.guide_weight.clone()
    weight[:8] = 0
    guide_weight[:, 64:] = 0
    holed = replace(problem, hsi=problem.hsi * weight, hsi_weight=weight,
                    guide=problem.guide * guide_weight, guide_weight=guide_weight)  # fmt: skip
    quality = judged(holed, truth, bad_bands=[3, 7])
    part = quality.figures["integrity"]
    assert part["nodata_pct"] == pytest.approx(25)
    assert part["without_guide_pct"] == pytest.approx(50)
    assert part["bad_bands"] == [3, 7]
    assert np.isnan(quality.maps["sam_deg"][:8]).all()
    consistency = quality.figures["consistency"]
    inside, outside = (consistency[p]["product"]["pixels"] for p in ("inside", "outside"))
    assert inside + outside == consistency["learned_psf"]["product"]["pixels"] == 24 * 32
    low, measured = degrade(truth, problem.sensor.psf, RATIO), weight > 0
    seen = blur_down(guide_weight[None], problem.sensor.psf, RATIO)[0] > 0.5
    for place, mask in {
        "learned_psf": measured,
        "inside": measured & seen,
        "outside": measured & ~seen,
    }.items():
        found = consistency[place]["product"]  # told to six digits
        assert found["psnr_db"] == pytest.approx(metrics.psnr(low, holed.hsi, mask), rel=1e-5)
        assert found["sam_deg"]["p95"] == pytest.approx(metrics.sam_deg(low, holed.hsi, mask).p95, rel=1e-5)
        assert found["q2n"] == pytest.approx(metrics.q2n(low, holed.hsi, mask), rel=1e-5)
        assert found["bands"]["bias"] == pytest.approx(metrics.bias(low, holed.hsi, mask).tolist(), rel=1e-5)
    assert "50 % of the product" in quality.figures["verdict"]["sentences"][1]

    bare = replace(holed, guide=0 * problem.guide, guide_weight=0 * problem.guide_weight)
    nothing = judged(bare, interpolate(bare), solvers={"product": interpolate, "interpolation": interpolate})
    assert not nothing.figures["spatial"]["assessable"]
    assert nothing.figures["consistency"]["inside"] is None


def test_negative_values_weigh_what_they_take_away(scene):
    problem, truth = scene
    cube = truth.rows(0, 128)
    cube[:, :64] *= -0.02
    part = judged(problem, StreamedCube.of(truth.shape, lambda a, b: cube[:, a:b])).figures["integrity"]
    upper, lower = (-cube[:, :64]).double().sum((1, 2)), cube[:, 64:].double().sum((1, 2))
    assert part["negative_pct"] == pytest.approx(50, abs=0.1)
    assert part["negative_weight_pct"] == pytest.approx(100 * float((upper / lower).mean()), rel=1e-4)
    assert part["negative_weight_input_pct"] == 0


def test_products_of_a_high_scene_are_compared_on_strips_of_it_unless_those_miss_a_place(scene):
    small, _ = scene
    times, height = 10, 320  # HSI rows
    problem = replace(
        small,
        hsi=small.hsi.repeat(1, times, 1),
        hsi_weight=small.hsi_weight.repeat(times, 1),
        guide=small.guide.repeat(1, times, 1),
        guide_weight=small.guide_weight.repeat(times, 1),
    )
    methods = {name: interpolate(problem) for name in ("interpolation", "product")}
    rows = torch.cat([torch.arange(32) + round(i * (height - 32) / 7) for i in range(8)])

    part, low, angles = _consistency(problem, methods)
    assert torch.equal(low, degrade(methods["product"], problem.sensor.psf, RATIO))
    assert angles.shape == (height, 32)
    assert bool(angles.isfinite().all())
    for place, psf in {"learned_psf": problem.sensor.psf, "nominal_psf": gaussian_psf(RATIO, 4.0)}.items():
        found, again = part[place]["product"], degrade(methods["product"], psf, RATIO)[:, rows]
        wanted = problem.hsi[:, rows]
        assert plain(found) == plain(part[place]["interpolation"])
        assert found["pixels"] == 8 * 32 * 32
        assert found["psnr_db"] == pytest.approx(metrics.psnr(again, wanted))
        assert found["q2n"] == pytest.approx(metrics.q2n(again, wanted))
        assert found["sam_deg"]["median"] == pytest.approx(metrics.sam_deg(again, wanted).median)

    between = problem.guide_weight.clone()
    between[RATIO * 33 : RATIO * 40] = 0  # no strip looks there
    part, _, _ = _consistency(replace(problem, guide_weight=between), methods)
    assert part["outside"]["product"]["pixels"] >= 6 * 32
    assert part["learned_psf"]["product"]["pixels"] == height * 32


def test_negative_values_of_a_large_scene_are_counted_on_some_of_its_rows(scene):
    small, _ = scene
    high, wide = 4 * COUNTED_ROWS, 5
    hsi = torch.rand(BANDS, high, wide)
    hsi[:, ::2] *= -1  # the input's are counted on the same ground
    problem = replace(
        small,
        hsi=hsi,
        hsi_weight=torch.ones(high, wide),
        guide=torch.ones(len(small.guide), RATIO * high, RATIO * wide),
        guide_weight=torch.ones(RATIO * high, RATIO * wide),
    )
    cube, read = hsi.repeat_interleave(RATIO, 1).repeat_interleave(RATIO, 2), []
    cube[:, :, ::2] *= -1

    def rows(start, stop):
        read.append((start, stop))
        return cube[:, start:stop]

    part = _integrity(problem, StreamedCube.of(tuple(cube.shape), rows), ())
    assert read == [(4 * RATIO * i, 4 * RATIO * i + RATIO) for i in range(COUNTED_ROWS)]
    assert part["negative_pct"] == pytest.approx(50)
    assert part["negative_input_pct"] == pytest.approx(100)
    few = torch.zeros(high, wide)
    few[1:3] = 1
    part = _integrity(replace(problem, hsi_weight=few), StreamedCube.of(tuple(cube.shape), rows), ())
    assert part["negative_input_pct"] == pytest.approx(50)  # of the second and the third row


class Largest(TorchDispatchMode):
    """Values of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor) and not tensor.is_sparse:
                self.values = max(self.values, tensor.untyped_storage().nbytes() // 4)
        return made


def test_a_product_is_never_whole(monkeypatch):
    """With blocks of a tenth of the cube nothing becomes larger than half of it."""
    block = 1 << 18
    monkeypatch.setattr(streamed, "BLOCK_VALUES", block)
    monkeypatch.setattr(checks, "NOISE_PIXELS", 4000)
    monkeypatch.setattr("hsi_fuse.report.pictures.BAND_PIXELS", block)
    problem, truth = make_scene(256)
    twice = torch.arange(BANDS).repeat_interleave(2)
    share = problem.sensor.srf[:, twice] / 2
    large = replace(
        problem, hsi=problem.hsi[twice], hsi_noise=problem.hsi_noise[twice],
        sensor=replace(problem.sensor, srf=share),
    )  # fmt: skip
    factors = replace(truth, basis=truth.basis[twice], mean=truth.mean[twice])
    cube, plain_one = StreamedCube.of(factors.shape, factors.rows), Interpolation.of(large)
    with Largest() as largest:
        quality = assess(large, cube, plain_one, solvers={})
        take_pictures(large, cube, plain_one, sam_map=quality.maps["sam_deg"])
    assert largest.values < math.prod(factors.shape) / 2  # a block and what the PSF sees beyond


def test_a_guide_of_one_band(scene):
    problem, truth = scene
    sensor = replace(problem.sensor, srf=problem.sensor.srf[:1], offset=problem.sensor.offset[:1])
    one = replace(problem, guide=problem.guide[:1], guide_noise=problem.guide_noise[:1], sensor=sensor)
    quality = judged(one, truth)
    assert len(quality.figures["spatial"]["product"]["r2"]) == 1
    assert quality.figures["integrity"]["inferred_bands"] > 0
    assert "does not see" in quality.figures["verdict"]["sentences"][1]
