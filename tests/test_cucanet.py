"""Stage `cucanet`: the paper's networks, the sensors that it learns, its switches."""

from dataclasses import replace

import pytest
import torch
from synthetic import RATIO, observed, problem_of, psnr, scene

from hsi_fuse.errors import PresetError
from hsi_fuse.losses import mean_misfit, sparsity, sum_to_one
from hsi_fuse.nets import coupled_training
from hsi_fuse.nets.coupled_autoencoders import CoupledAutoencoders
from hsi_fuse.nets.coupled_training import CoupledTraining
from hsi_fuse.nets.sensor_layers import SensorLayers, Units, resized
from hsi_fuse.physics import gaussian_psf
from hsi_fuse.preset import Preset, load_preset
from hsi_fuse.problem import Estimate, Problem, StageResult, silent
from hsi_fuse.solving import run_stages
from hsi_fuse.stages.cucanet import Cucanet
from hsi_fuse.subspace import interpolate

TINY = Cucanet(steps=30, sensor_steps=20, widths=(16, 16, 16), endmembers=10, crop_px=32)


@pytest.fixture(scope="module")
def pair():
    return observed(4, truth=scene(96, 112))


@pytest.fixture(scope="module")
def problem(pair):
    return problem_of(pair)


def blurred(problem: Problem, fwhm_px: float) -> Problem:
    """The problem with a wrong PSF."""
    sensor = replace(problem.sensor, psf=gaussian_psf(RATIO, fwhm_px, size=len(problem.sensor.psf)))
    return replace(problem, sensor=sensor)


def network(count: int = 8, clamp: bool = True, cross: bool = True, reach: int = 3) -> CoupledAutoencoders:
    """One whose attention has learned something already."""
    net = untrained(count, clamp, cross, reach)
    for last in (net.hsi_last, net.guide_last):
        if last.attended is not None:
            torch.nn.init.normal_(last.attended, std=0.3)
    return net


def untrained(count: int = 8, clamp: bool = True, cross: bool = True, reach: int = 3) -> CoupledAutoencoders:
    torch.manual_seed(0)
    return CoupledAutoencoders(6, 3, (5, 7), 4, count, (8, 8, 8), (5, 3, 1), clamp, cross, reach)


def unmixed(problem: Problem, stage: Cucanet) -> Estimate:
    """What the network has made of the guide at the end of its training."""
    training = CoupledTraining.of(problem, stage)
    assert training is not None
    training.run(silent)
    return training.unmixed()


def parameters(part: torch.nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def test_the_paper_s_network_has_the_paper_s_shapes():
    stage = dict(load_preset("cucanet-paper").stages)["cucanet"]
    assert isinstance(stage, Cucanet)
    with torch.device("meta"):  # shapes alone: CAVE at x32, 31 bands, 512 x 512
        net = CoupledAutoencoders(
            31,
            3,
            (16, 16),
            32,
            stage.endmembers,
            stage.widths,
            stage.kernels,
            True,
            True,
            stage.attention_reach,
        )
        hsi, guide = torch.rand(31, 16, 16), torch.rand(3, 518, 518)
        assert net.cross is not None
        # n 128 + 128, 128 256 + 256, 256 512 + 512: 1 x 1 convolutions with biases
        assert parameters(net.hsi_blocks) == 4096 + 33024 + 131584
        # 5 x 5 and 3 x 3 before the last 1 x 1
        assert parameters(net.guide_blocks) == 9728 + 295168 + 131584
        # features and attended features, 1024 in all, to 100 materials
        assert parameters(net.hsi_last) == parameters(net.guide_last) == 102500
        # 512 filters of 16 x 16; 5 x 5 over 512 channels; a PSF of 32 x 32
        assert parameters(net.cross) == 131584 + 12801 + 1024
        assert net.endmembers.shape == (31, 100)
        assert net.guide_endmembers.shape == (3, 100)
        fine, seen = net.unmix_guide(guide, net.attention(hsi))
        coarse = net.unmix_hsi(hsi, seen)
        assert seen.shape == (512, 512, 512)
        assert fine.shape == (100, 512, 512)
        assert coarse.shape == (100, 16, 16)
        (fine.sum() + coarse.sum()).backward()
        assert all(p.grad is not None for name, p in net.named_parameters() if "endmembers" not in name)


def test_the_paper_s_preset_trains_on_the_whole_image_from_random_weights(problem):
    paper = dict(load_preset("cucanet-paper").stages)["cucanet"]
    assert isinstance(paper, Cucanet)
    assert (paper.crop_px, paper.held_out, paper.warm, paper.disjoint, paper.solve) == (
        0,
        0,
        False,
        True,
        False,
    )
    assert paper.steps * (paper.flat or 0) == 2000  # of 10000 epochs, before the rate falls
    small = replace(paper, steps=3, widths=(8, 8, 8), endmembers=40)  # more than HSI bands
    assert unmixed(problem, small).basis.shape == (problem.hsi.shape[0], 40)
    result = small(problem, interpolate(problem), silent)
    assert result.estimate.shape == (problem.hsi.shape[0], *problem.guide.shape[1:])


def test_a_crop_with_its_halo_and_rim_is_unmixed_as_the_whole():
    net = network()
    hsi, guide = torch.rand(6, 5 + 4, 7 + 4), torch.rand(3, 20 + 6, 28 + 6)
    whole = net.unmix_guide(guide, net.attention(hsi))[0]
    part = net.unmix_guide(guide[:, 4:18, 8:30], net.attention(hsi[:, 1:7, 2:10]))[0]
    assert part.shape == (8, 8, 16)
    assert torch.allclose(part, whole[:, 4:12, 8:24], atol=1e-5)


def test_tiles_leave_no_seams(problem, monkeypatch):
    stage = replace(TINY, steps=5, kernels=(3, 3, 1), solve=False)
    whole = unmixed(problem, stage).coefficients
    monkeypatch.setattr(coupled_training, "TILE_PX", 37)
    tiled = unmixed(problem, stage).coefficients
    assert tiled.shape == whole.shape
    assert torch.allclose(tiled, whole, atol=1e-5)


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_attention_tells_each_branch_of_the_other(reach):
    rim = reach // 2 + 1 if reach else 0
    around, guide = torch.rand(6, 5 + 2 * rim, 7 + 2 * rim), torch.rand(3, 26, 34)
    hsi = around[:, rim : rim + 5, rim : rim + 7]
    for cross in (True, False):
        net = network(cross=cross, reach=reach)
        fine, coarse = [], []
        for told, b in ((around, guide), (around.flip(0), guide), (around, guide.flip(1))):
            maps, seen = net.unmix_guide(b, net.attention(told))
            fine.append(maps)
            coarse.append(net.unmix_hsi(hsi, seen))
        assert torch.equal(fine[0], fine[1]) is not cross
        assert torch.equal(coarse[0], coarse[2]) is not cross


def test_the_last_convolution_could_take_up_an_attention_as_large_as_the_image():
    """One factor a channel for all of the image: what it says is learned otherwise, but it says no more."""
    net, without = network(reach=0), network(cross=False)
    hsi, guide = torch.rand(6, 5, 7), torch.rand(3, 26, 34)
    spectral = net.attention(hsi)
    assert spectral is not None
    assert spectral.shape == (8, 1, 1)
    without.guide_blocks.load_state_dict(net.guide_blocks.state_dict())
    with torch.no_grad():
        last = net.guide_last
        assert last.attended is not None
        without.guide_last.plain.load_state_dict(last.plain.state_dict())
        without.guide_last.plain.weight += (last.attended * spectral.flatten())[..., None, None]
    maps = (net.unmix_guide(guide, spectral)[0], without.unmix_guide(guide, None)[0])
    assert torch.allclose(*maps, atol=1e-5)


def test_local_attention_tells_one_colour_apart_by_the_hsi_above_it():
    net = network()
    hsi, flat = torch.rand(6, 1, 1).repeat(1, 9, 11), torch.rand(3, 1, 1).expand(3, 26, 34)
    hsi[:, :, 6:] = torch.rand(6, 1, 1)
    maps = net.unmix_guide(flat, net.attention(hsi))[0]  # (K, 20, 28)
    left, right = maps[..., :8], maps[..., -4:]
    assert torch.allclose(left, left[:, :1, :1].expand_as(left), atol=1e-6)
    assert torch.allclose(right, right[:, :1, :1].expand_as(right), atol=1e-6)
    assert float((left[:, 0, 0] - right[:, 0, 0]).detach().abs().max()) > 0.01


def test_with_attention_a_network_begins_as_it_does_without():
    hsi, guide = torch.rand(6, 5, 7), torch.rand(3, 26, 34)
    around = torch.nn.functional.pad(hsi[None], [2] * 4, mode="replicate")[0]
    made = []
    for net, told in ((untrained(), around), (untrained(reach=0), hsi), (untrained(cross=False), hsi)):
        fine, seen = net.unmix_guide(guide, net.attention(told))
        made.append((fine, net.unmix_hsi(hsi, seen), net.endmembers, net.guide_endmembers))
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))


@pytest.mark.parametrize("reach", [0, 3])
def test_attention_has_a_mean_of_one(reach):
    net = network(reach=reach).requires_grad_(False)
    assert net.cross is not None
    features = torch.rand(8, 5, 7)
    assert float(net.cross.spectral(features).mean()) == pytest.approx(1, rel=1e-5)
    assert float(net.cross.spatial(torch.rand(8, 20, 28)).mean()) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("reach", [0, 3])
def test_neither_training_nor_score_sees_held_out_pixels_by_attention(problem, monkeypatch, reach):
    stage = replace(TINY, attention_reach=reach)
    weight = problem.hsi_weight.clone()
    weight[5:7], weight[::7, ::5] = 0, 0  # holes, to be filled from beside them
    holed = replace(problem, hsi_weight=weight)
    first = CoupledTraining.of(holed, stage)
    assert first is not None
    held = (first.check > 0) & (first.learn == 0)
    spoilt = holed.hsi.clone()
    spoilt[:, held] *= 0.9  # no new maximum, by which the network's units are told
    other = CoupledTraining.of(replace(holed, hsi=spoilt), stage)
    assert other is not None
    assert held.any()
    assert not torch.equal(first.hsi, other.hsi)
    for each in (first, other):
        assert each.network.guide_last.attended is not None
        torch.manual_seed(0)
        torch.nn.init.normal_(each.network.guide_last.attended, std=0.3)
    # what is made, and not what it is compared with
    monkeypatch.setattr(coupled_training, "mean_misfit", lambda made, wanted, weight: (made * weight).sum())
    crop = first.crops.any(torch.Generator().manual_seed(1))
    assert torch.equal(first.loss(crop), other.loss(crop))
    assert first.score() == other.score()


def test_a_wrong_psf_is_mended_and_the_sensor_handed_on(problem):
    wrong = blurred(problem, 1.5)
    result = replace(TINY, sensor_steps=150)(wrong, interpolate(wrong), silent)
    assert result.sensor is not None
    assert result.verdict["sensor_kept"] is True
    true, given, learned = (p.sensor.psf for p in (problem, wrong, result))  # type: ignore[union-attr]
    assert float((learned - true).abs().sum()) < 0.5 * float((given - true).abs().sum())
    assert result.sensor.psf_fwhm == pytest.approx(problem.sensor.psf_fwhm, rel=0.15)


def test_a_right_sensor_stands(problem):
    result = TINY(problem, interpolate(problem), silent)
    assert result.sensor is None
    assert result.verdict["sensor_kept"] is False


def test_the_next_stage_gets_the_sensor_that_was_learned(problem):
    learned = blurred(problem, 3.0).sensor
    seen = []

    def learner(p, start, on_step):
        return StageResult(start, sensor=learned)

    def witness(p, start, on_step):
        seen.append(p.sensor)
        return StageResult(start)

    preset = Preset("test", stages=(("a", learner), ("b", witness), ("c", witness)))
    run_stages(problem, interpolate(problem), preset, silent)
    assert seen == [learned, learned]


def test_units_and_layers_give_the_sensor_back(problem):
    sensor = replace(problem.sensor, srf=30 * problem.sensor.srf, offset=problem.sensor.offset + 5)
    units = Units.of(sensor, problem.hsi.flatten(1), 30 * problem.guide.flatten(1) + 5)
    found = units.sensor(SensorLayers(sensor.srf, sensor.psf, RATIO), sensor)
    assert torch.allclose(found.srf, sensor.srf, atol=1e-4)
    assert torch.allclose(found.offset, sensor.offset)
    assert float((found.psf - sensor.psf).abs().sum()) < 0.02  # but for the floor it starts from


def test_a_response_below_zero_comes_back_and_none_leaves_its_support(problem):
    support = torch.ones_like(problem.sensor.srf)
    support[:, -3:] = 0
    layers = SensorLayers(problem.sensor.srf, problem.sensor.psf, RATIO, support)
    with torch.no_grad():
        layers.responses.fill_(1)
        layers.responses[0, 0] = -0.1
    layers.project()
    assert bool((layers.responses >= 0).all())
    assert not bool(layers.srf[:, -3:].any())
    layers.mix(problem.hsi).square().sum().backward()
    assert float(layers.responses.grad[0, 0]) != 0


def test_a_psf_is_widened_or_cut_about_its_centre():
    psf = gaussian_psf(4, 3.0, size=8)
    assert torch.allclose(resized(psf, 12)[2:-2, 2:-2], psf)
    assert resized(psf, 4).shape == (4, 4)
    assert float(resized(psf, 4).sum()) == pytest.approx(1)


@pytest.fixture(scope="module")
def whole(problem):
    return replace(TINY, steps=10)(problem, interpolate(problem), silent)


@pytest.mark.parametrize(
    "switch", ["clamp", "consistency", "learned_sensors", "cross_attention", "warm", "solve"]
)
def test_every_part_has_a_switch(problem, whole, switch):
    stage = replace(TINY, steps=10, **{switch: False})
    training = CoupledTraining.of(problem, stage)
    assert training is not None
    result = stage.finish(training, training.run(silent))
    assert bool(result.estimate.coefficients.isfinite().all())
    assert not torch.equal(result.estimate.coefficients, whole.estimate.coefficients)
    total = training.unmixed().coefficients.sum(0)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-4) is (switch == "clamp")


@pytest.fixture(scope="module")
def narrow():
    """A PSF that a flat one misses by 1.4 of at most 2."""
    return problem_of(observed(4, psf=gaussian_psf(RATIO, 1.2, size=RATIO), truth=scene(96, 112)))


def missed_by(narrow: Problem, **off: object) -> float:
    """How far off the PSF is that was learned from nothing."""
    cold = replace(TINY, steps=50, crop_px=24, warm=False, disjoint=True)
    training = CoupledTraining.of(narrow, replace(cold, **off))  # type: ignore[arg-type]
    assert training is not None
    training.run(silent)
    return float((training.layers.psf - narrow.sensor.psf).abs().sum().detach())


def test_from_nothing_sensors_come_as_far_as_their_rate_lets_them(narrow):
    flat = missed_by(narrow, steps=1, learned_sensors=False)
    assert flat == pytest.approx(1.4, abs=0.05)
    assert missed_by(narrow, sensor_rate=0.12) < 0.15 * flat
    assert missed_by(narrow) > 0.9 * flat  # a thousandth a step
    assert missed_by(narrow, steps=2, sensor_rate=0.12, learned_sensors=False) == flat


def test_kernels_have_a_middle():
    with pytest.raises(PresetError, match="odd"):
        load_preset("cucanet", ["cucanet.kernels=4,3,1"])


def test_crops_need_not_divide_the_scene(pair, problem):
    stage = replace(TINY, steps=30, crop_px=25)  # 7 HSI pixels of 24 x 28
    found = stage(problem, interpolate(problem), silent).estimate
    plain = interpolate(problem)
    quality = [psnr(e.rows(0, 96), pair.truth) for e in (found, plain)]
    assert quality[0] > quality[1] + 0.5


def test_endmembers_stay_between_zero_and_the_brightest_pixel(problem):
    spectra = unmixed(problem, TINY).basis
    assert float(spectra.min()) >= 0
    assert float(spectra.max()) <= float(problem.hsi.max()) * (1 + 1e-6)


def test_losses_are_means_over_valid_pixels():
    a, weight = torch.rand(5, 8, 9), (torch.rand(8, 9) > 0.3).float()
    for loss in (lambda a, w: mean_misfit(a, a**2, w), sum_to_one, sparsity):
        twice = loss(torch.cat([a, a], 2), torch.cat([weight, weight], 1))
        assert float(twice) == pytest.approx(float(loss(a, weight)), rel=1e-5)
        assert float(loss(torch.where(weight > 0, a, 7.0), weight)) == pytest.approx(float(loss(a, weight)))
        assert float(loss(a, 0 * weight)) == 0
    assert float(sparsity(torch.full((5, 8, 9), 0.01), weight)) == pytest.approx(0, abs=1e-6)
    assert float(sparsity(torch.full((5, 8, 9), 0.2), weight)) > 0.05
    assert float(sum_to_one(torch.full((5, 8, 9), 0.2), weight)) == pytest.approx(0, abs=1e-6)
