"""The classical methods: that each solves what its paper states, beyond the common contract of a stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import observed, problem_of, psnr, scene

from hsi_fuse.classical import LinearModel, guide_deviation
from hsi_fuse.cyclic import CyclicBlur, mirror, rim_hsi_px, unmirror
from hsi_fuse.physics import blur_down, gaussian_psf
from hsi_fuse.problem import silent
from hsi_fuse.stages.cnmf import Cnmf, _gram, _improve
from hsi_fuse.stages.gsa import Gsa
from hsi_fuse.stages.hysure import Hysure, step_power, steps, steps_adjoint
from hsi_fuse.stages.sylvester import Sylvester, interpolation_error
from hsi_fuse.subspace import interpolate
from hsi_fuse.vca import vertices

PSFS = {
    "round": (4, gaussian_psf(4, 4.0)),
    "odd ratio": (3, gaussian_psf(3, 4.0)),
    "slanted": (4, gaussian_psf(4, 6.0, 3.0, angle=0.6)),
    "smaller than the ratio": (4, torch.full((2, 2), 0.25)),
}


@pytest.fixture(params=PSFS)
def optics(request):
    return PSFS[request.param]


@pytest.fixture(scope="module")
def pair():
    return observed(truth=scene(96, 112))


@pytest.fixture(scope="module")
def problem(pair):
    return problem_of(pair)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cube(stage, problem):
    estimate = stage(problem, interpolate(problem), silent).estimate
    return estimate.rows(0, estimate.shape[1])


# --- the torus --------------------------------------------------------------------------------------------


def test_on_the_mirrored_torus_the_blur_is_the_scene_s_own(optics):
    ratio, psf = optics
    image = noise(2, 8 * ratio, 10 * ratio)
    rim = rim_hsi_px(psf, ratio)
    around = mirror(image, rim * ratio)
    seen = CyclicBlur.of(psf, ratio, around).down(around)
    assert torch.allclose(unmirror(seen, rim), blur_down(image, psf, ratio), atol=1e-5)


def test_mirroring_goes_on_beyond_the_image_s_own_size():
    image = noise(1, 3, 2)
    assert torch.equal(unmirror(mirror(image, 7), 7), image)
    assert torch.equal(mirror(image, 7)[0, 7:, 7][:6], torch.cat([image[0, :, 0], image[0, :, 0].flip(0)]))


def test_up_is_the_adjoint_of_down(optics):
    ratio, psf = optics
    fine, coarse = noise(2, 8 * ratio, 10 * ratio), noise(2, 8, 10, seed=1)
    blur = CyclicBlur.of(psf, ratio, fine)
    assert torch.allclose((blur.down(fine) * coarse).sum(), (fine * blur.up(coarse)).sum(), rtol=1e-4)


def test_the_damped_normal_equations_are_inverted_exactly(optics):
    ratio, psf = optics
    image, damping = noise(2, 8 * ratio, 10 * ratio), torch.tensor([0.02, 3.0])
    blur = CyclicBlur.of(psf, ratio, image)
    found = blur.invert(image, damping)
    again = blur.up(blur.down(found)) + damping[:, None, None] * found
    assert torch.allclose(again, image, atol=1e-4)


def test_steps_have_their_adjoint_and_their_spectrum():
    image, field = noise(3, 12, 10), noise(2, 3, 12, 10, seed=1)
    assert torch.allclose((steps(image) * field).sum(), (image * steps_adjoint(field)).sum(), rtol=1e-4)
    by_spectrum = torch.fft.irfft2(torch.fft.rfft2(image) * step_power(image), image.shape[1:])
    assert torch.allclose(by_spectrum, steps_adjoint(steps(image)), atol=1e-5)


# --- the model they share ---------------------------------------------------------------------------------


def test_the_model_explains_guide_and_hsi_within_their_noise(pair, problem):
    model = LinearModel.of(problem, 24)
    truth = model.subspace.project(pair.truth)
    guide = model.guide - torch.tensordot(model.mixing, truth, dims=1)
    low = model.low - blur_down(truth, problem.sensor.psf, problem.ratio)
    # white in each coefficient; the guide's is the protocol's, known to it only up to a constant
    assert 0.8 < float(low.std()) < 1.2
    assert 0.2 < float(guide.std()) < 2


def test_the_guide_s_weight_follows_its_units_and_not_its_noise(problem):
    sensor = replace(problem.sensor, srf=700 * problem.sensor.srf)
    counts = replace(problem, guide=700 * problem.guide, sensor=sensor, guide_noise=0 * problem.guide_noise)
    assert torch.allclose(guide_deviation(counts), 700 * guide_deviation(problem))


@pytest.mark.parametrize("stage", [Gsa(), Cnmf(updates=40), Hysure(iterations=60), Sylvester()])
def test_nothing_is_lost_at_the_edges(stage, pair, problem):
    error = (cube(stage, problem) - pair.truth).square().mean(0)
    inner = error[8:-8, 8:-8].mean()
    rim = (error.sum() - error[8:-8, 8:-8].sum()) / (error.numel() - error[8:-8, 8:-8].numel())
    assert float(rim) < 2.5 * float(inner)


# --- gsa --------------------------------------------------------------------------------------------------


def test_gsa_of_a_panchromatic_guide_has_the_published_gains():
    problem = problem_of(observed(1, truth=scene(96, 112)))
    model = LinearModel.of(problem, 24)
    seen = blur_down(model.guide, problem.sensor.psf, problem.ratio).flatten(1)
    design = torch.cat([model.low.flatten(1), torch.ones_like(seen)]).double()
    intensity = design.T @ torch.linalg.lstsq(design.T, seen.T.double()).solution  # (N, 1)
    spectra = model.subspace.basis.double() @ model.low.flatten(1).double()
    centred = intensity - intensity.mean()
    gains = (spectra - spectra.mean(1, keepdim=True)) @ centred / centred.square().sum()  # (n, 1)
    found = Gsa(ridge=0.0)(problem, interpolate(problem), silent).estimate.basis[:, -1:]
    assert torch.allclose(found, gains.float(), rtol=1e-3)


def test_gsa_injects_nothing_where_the_guide_shows_nothing(problem):
    flat = replace(problem, guide=0 * problem.guide + 0.3)
    plain = interpolate(problem)
    assert psnr(cube(Gsa(), flat), plain.rows(0, plain.shape[1])) > 60


# --- cnmf -------------------------------------------------------------------------------------------------


def test_vertices_are_the_pure_pixels():
    corners = torch.rand(20, 5, generator=torch.Generator().manual_seed(2)) + 0.1
    mixed = np.random.default_rng(0).dirichlet(np.ones(5), 400).T  # (5, 400)
    abundances = torch.from_numpy(mixed).float()
    abundances[:, [3, 50, 111, 200, 399]] = torch.eye(5)
    for seed in range(3):
        assert sorted(vertices(corners @ abundances, 5, seed).tolist()) == [3, 50, 111, 200, 399]


def test_there_are_never_more_vertices_than_bands_or_pixels():
    assert len(vertices(torch.rand(4, 50), 30, 0)) == 4
    assert len(vertices(torch.rand(40, 6), 30, 0)) == 6


def test_cnmf_gives_an_unmixing(problem):
    result = Cnmf(endmembers=8)(problem, interpolate(problem), silent)
    endmembers, abundances = result.estimate.basis, result.estimate.coefficients
    assert endmembers.shape == (30, 8)
    assert abundances.shape == (8, 96, 112)
    assert bool((endmembers >= 0).all())
    assert bool((abundances >= 0).all())
    made = result.estimate.rows(0, 96)
    assert torch.allclose(torch.tensordot(endmembers, abundances, dims=1), made, atol=1e-5)


def test_pixels_that_follow_a_few_are_unmixed_as_if_all_had_learned(problem):
    all_learn = Cnmf(8, updates=100, sum_to_one=0.5)
    few_learn = replace(all_learn, learners=problem.guide_weight.numel() // 4)
    (whole, _), (followed, learned) = all_learn.unmix(problem), few_learn.unmix(problem)
    height = problem.guide_weight.shape[0]
    cube, other = (r.estimate.rows(0, height) for r in (whole, followed))
    assert float((cube - other).square().mean().sqrt()) < 2e-3 * float(cube.max() - cube.min())
    # and others that follow later, as parts of a big scene do, are unmixed alike
    again = few_learn.follow(problem, learned).estimate.rows(0, height)
    assert torch.allclose(again, other, atol=1e-5 * float(cube.max()))


@pytest.mark.parametrize(("bands", "factors"), [(5, 2), (40, 1)])
def test_few_bands_update_abundances_as_many_do(bands, factors):
    draw = torch.Generator().manual_seed(0)
    spectra, data, abundances = (
        torch.rand(*shape, generator=draw, dtype=torch.float64)
        for shape in ((bands, 20), (bands, 50), (20, 50))
    )
    cross, gram = spectra.T @ data, _gram(spectra)
    assert len(gram) == factors
    expected = abundances * (cross / (spectra.T @ spectra @ abundances)) ** 2
    room = torch.empty_like(abundances)
    _improve(abundances, cross, gram, 2, room)
    assert torch.allclose(abundances, expected)


def test_cnmf_s_sum_to_one_is_as_strict_as_asked(problem):
    def spread(weight):
        abundances = Cnmf(8, 60, 1, weight)(problem, interpolate(problem), silent).estimate.coefficients
        return float((abundances.sum(0) - 1).abs().mean())

    assert spread(3.0) < 0.5 * spread(0.03)


# --- hysure and sylvester ---------------------------------------------------------------------------------


def objective(problem, coefficients, dimensions, prior):
    model = LinearModel.of(problem, dimensions)
    sensor = problem.sensor
    hsi = blur_down(coefficients, sensor.psf, sensor.ratio) - model.low
    guide = torch.tensordot(model.mixing, coefficients, dims=1) - model.guide
    return float(hsi.square().sum() + guide.square().sum() + prior(model, coefficients))


def test_sylvester_is_the_minimum_of_its_objective(problem):
    def prior(model, coefficients):
        left = (coefficients - model.plain).flatten(1).double()
        precision = torch.linalg.inv(interpolation_error(model.low, problem.ratio))
        return float((left * (precision @ left)).sum())

    found = Sylvester(8)(problem, interpolate(problem), silent).estimate.coefficients
    least = objective(problem, found, 8, prior)
    spread = found.flatten(1).std(1)[:, None, None]
    for seed in range(3):
        aside = found + 1e-2 * spread * noise(*found.shape, seed=seed)
        assert objective(problem, aside, 8, prior) > least


def test_hysure_goes_down_to_a_minimum_of_its_objective(problem):
    def variation(model, coefficients):
        spread = model.low.flatten(1).std(1).clamp_min(1.0)[:, None, None]
        scaled = coefficients / spread
        down, right = scaled[:, 1:, :-1] - scaled[:, :-1, :-1], scaled[:, :-1, 1:] - scaled[:, :-1, :-1]
        weight = 2 * Hysure().variation * float((spread**2).mean())
        return weight * float((down**2 + right**2).sum(0).sqrt().sum())

    few, many = (
        Hysure(6, iterations=n)(problem, interpolate(problem), silent).estimate.coefficients
        for n in (20, 200)
    )
    least = objective(problem, many, 6, variation)
    assert least < objective(problem, few, 6, variation)
    spread = many.flatten(1).std(1)[:, None, None]
    for seed in range(3):
        aside = many + 1e-2 * spread * noise(*many.shape, seed=seed)
        assert objective(problem, aside, 6, variation) > least


def test_total_variation_smooths(problem):
    def rough(weight):
        found = cube(Hysure(iterations=60, variation=weight), problem)
        return float((found[:, 1:] - found[:, :-1]).abs().mean())

    assert rough(3e-2) < 0.95 * rough(5e-4)


def test_a_scene_of_few_hsi_pixels_is_solved_too():
    small = observed(truth=scene(32, 40))
    problem = problem_of(small)
    for stage in (Gsa(), Cnmf(updates=20), Hysure(iterations=20), Sylvester()):
        assert bool(cube(stage, problem).isfinite().all())
