"""Noise, basis and interpolation of a scene whose noise and rank are known."""

import numpy as np
import pytest
import torch
from synthetic import MATERIALS, RATIO, observed, problem_of, psnr

from hsi_fuse.subspace import (
    estimate_noise,
    fill_nearest,
    fit_subspace,
    interpolate,
    upsample,
)


@pytest.fixture(scope="module")
def pair():
    return observed()


@pytest.fixture(scope="module")
def everywhere(pair):
    return torch.ones(pair.hsi.shape[1:])


def test_noise_is_found_within_a_quarter(pair, everywhere):
    ratio = estimate_noise(pair.hsi, everywhere) / pair.hsi_noise
    assert float(ratio.median()) == pytest.approx(1, abs=0.05)
    assert float(ratio[2:-2].min()) > 0.75
    assert float(ratio[2:-2].max()) < 1.25
    # at the ends neighbours stand on one side only, and a bend of the spectrum counts as noise
    assert float(ratio.min()) > 0.6
    assert float(ratio.max()) < 2


def test_noise_ignores_pixels_without_weight(pair, everywhere):
    weight, spoilt = everywhere.clone(), pair.hsi.clone()
    weight[:5], spoilt[:, :5] = 0, 1e3
    assert torch.equal(estimate_noise(spoilt, weight), estimate_noise(pair.hsi, weight))


def test_a_noise_free_cube_still_has_positive_noise():
    ramp = torch.linspace(0.1, 0.5, 5)[:, None, None] * torch.arange(1, 82.0).reshape(9, 9)
    noise = estimate_noise(ramp, torch.ones(9, 9))
    assert bool((noise > 0).all())
    assert bool((noise < 1e-2 * ramp.std()).all())


def test_one_band_has_noise_too():
    assert float(estimate_noise(torch.randn(1, 9, 9), torch.ones(9, 9))) > 0


def test_dimension_is_the_number_of_signals(pair, everywhere):
    size = fit_subspace(pair.hsi, everywhere, pair.hsi_noise).size
    assert MATERIALS - 2 <= size <= MATERIALS + 1
    blind = fit_subspace(pair.hsi, everywhere, estimate_noise(pair.hsi, everywhere)).size
    assert abs(blind - size) <= 1


@pytest.mark.parametrize("largest", [2, 3, 5])
def test_dimension_never_exceeds_the_limit(pair, everywhere, largest):
    assert fit_subspace(pair.hsi, everywhere, pair.hsi_noise, largest).size == largest


def test_dimension_is_below_the_number_of_pixels(pair):
    few = pair.hsi[:, :2, :2]
    assert fit_subspace(few, torch.ones(2, 2), pair.hsi_noise, 24).size <= 3


def test_projection_undoes_reconstruction(pair, everywhere):
    subspace = fit_subspace(pair.hsi, everywhere, pair.hsi_noise)
    coefficients = 10 * torch.randn(subspace.size, 7, 5, generator=torch.Generator().manual_seed(0))
    cube = torch.tensordot(subspace.basis, coefficients, 1) + subspace.mean[:, None, None]
    assert torch.allclose(subspace.project(cube), coefficients, atol=2e-3)


def test_reconstruction_leaves_out_noise_only(pair, everywhere):
    subspace = fit_subspace(pair.hsi, everywhere, pair.hsi_noise)
    back = torch.tensordot(subspace.basis, subspace.project(pair.hsi), 1) + subspace.mean[:, None, None]
    left = (back - pair.hsi).std((1, 2)) / pair.hsi_noise
    assert float(left.max()) < 1.05


def test_noise_of_the_coefficients_is_white(pair, everywhere):
    subspace = fit_subspace(pair.hsi, everywhere, pair.hsi_noise)
    noise = pair.hsi_noise[:, None, None] * torch.randn(
        len(pair.hsi), 100, 100, generator=torch.Generator().manual_seed(0)
    )
    seen = subspace.project(noise + subspace.mean[:, None, None]).flatten(1)
    assert torch.allclose(seen @ seen.T / seen.shape[1], torch.eye(subspace.size), atol=0.05)


def test_the_subspace_ignores_pixels_without_weight(pair, everywhere):
    weight, spoilt = everywhere.clone(), pair.hsi.clone()
    weight[:, :4], spoilt[:, :, :4] = 0, -50.0
    a = fit_subspace(spoilt, weight, pair.hsi_noise)
    b = fit_subspace(pair.hsi, weight, pair.hsi_noise)
    assert torch.equal(a.basis, b.basis)
    assert torch.equal(a.mean, b.mean)


def test_the_sign_of_the_basis_does_not_depend_on_the_sign_of_the_scene(pair, everywhere):
    a = fit_subspace(pair.hsi, everywhere, pair.hsi_noise, 4)
    b = fit_subspace(-pair.hsi, everywhere, pair.hsi_noise, 4)
    assert torch.allclose(a.basis, b.basis, atol=1e-4 * float(a.basis.abs().max()))


def test_holes_take_the_value_of_their_nearest_neighbour():
    image = torch.arange(25.0).reshape(1, 5, 5)
    weight = torch.ones(5, 5)
    weight[2, 1:4] = 0
    image[0, 2, 1:4] = 99
    filled = fill_nearest(image, weight)
    assert torch.equal(filled[0, weight > 0], image[0, weight > 0])
    assert float(filled[0, 2, 1]) in (10, 6, 16)  # left, above, below
    assert float(filled[0, 2, 2]) in (7, 17)
    assert fill_nearest(image, torch.ones(5, 5)) is image
    assert torch.equal(fill_nearest(image, torch.zeros(5, 5)), image)


@pytest.mark.parametrize("ratio", [1, 2, 3, 4])
def test_upsampling_keeps_a_ramp_on_pixel_centres(ratio):
    y, x = np.mgrid[:12, :14] + 0.5
    ramp = torch.from_numpy(np.stack([2 * x - 3 * y + 1, 0 * x + 4])).float()
    fine = upsample(ramp, ratio)
    y, x = (np.mgrid[: 12 * ratio, : 14 * ratio] + 0.5) / ratio
    wanted = torch.from_numpy(np.stack([2 * x - 3 * y + 1, 0 * x + 4])).float()
    inner = np.s_[:, 3 * ratio : -3 * ratio, 3 * ratio : -3 * ratio]
    assert torch.allclose(fine[inner], wanted[inner], atol=1e-4)
    assert torch.allclose(fine[1], wanted[1], atol=1e-5)  # a constant to the very edge


def test_interpolation_in_factors_is_interpolation_of_the_cube(pair):
    found = interpolate(problem_of(pair))
    assert psnr(found.rows(0, found.shape[1]), upsample(pair.hsi, RATIO)) > 38  # the noise left out is 35 dB
    assert (
        psnr(found.rows(0, found.shape[1]), pair.truth) > psnr(upsample(pair.hsi, RATIO), pair.truth) - 0.05
    )
