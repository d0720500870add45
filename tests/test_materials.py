"""Unmixing a product: endmembers, abundances, illumination."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

from hsi_fuse.errors import SolveError
from hsi_fuse.materials import MaterialOptions, Materials, _shares, materials_of
from hsi_fuse.problem import Estimate

BANDS, SIDE, COUNT = 40, 48, 4
NOISE = torch.full((BANDS,), 0.002)


def spectra() -> Tensor:
    """Four smooth, positive spectra (n, 4)."""
    axis = torch.linspace(0, 1, BANDS)
    centres, levels = (0.1, 0.4, 0.7, 0.95), (0.2, 0.3, 0.15, 0.4)
    return torch.stack(
        [v + 0.5 * torch.exp(-(((axis - c) / 0.2) ** 2)) for c, v in zip(centres, levels, strict=True)], 1
    )


def mixed(uneven: float) -> tuple[Tensor, Estimate]:
    """Abundances (4, H, W), none purer than 0.9, and the product that they make in uneven light."""
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.full(COUNT, 0.6), 4 * SIDE * SIDE)
    shares = shares[shares.max(1) < 0.9][: SIDE * SIDE].T.reshape(COUNT, SIDE, SIDE)
    light = rng.uniform(1 - uneven, 1 + uneven, (SIDE, SIDE))
    cube = torch.from_numpy(np.tensordot(spectra().numpy(), shares * light, 1)).float()
    mean = cube.mean((1, 2))
    basis = torch.linalg.svd(cube.flatten(1) - mean[:, None]).U[:, :COUNT]
    coefficients = torch.tensordot(basis.T, cube - mean[:, None, None], dims=1)
    return torch.from_numpy(shares).float(), Estimate(basis, mean, coefficients)


@pytest.fixture(scope="module")
def estimate() -> Estimate:
    """Of a scene in uneven light."""
    return mixed(0.2)[1]


def unmix(estimate: Estimate, count: int = COUNT) -> Materials:
    everywhere = torch.ones(SIDE, SIDE, dtype=torch.bool)
    return materials_of(estimate, everywhere, NOISE, MaterialOptions(count))


def test_endmembers_purer_than_any_pixel_are_found():
    shares, estimate = mixed(0.0)
    found = unmix(estimate)
    ours, _ = found.rows(0, SIDE)
    orders = itertools.permutations(range(COUNT))
    best = min(orders, key=lambda order: float((ours[list(order)] - shares).square().mean()))
    assert float((ours[list(best)] - shares).square().mean().sqrt()) < 0.03
    true, made = spectra(), found.endmembers[:, list(best)]
    cosine = torch.cosine_similarity(true, made, dim=0).clamp(max=1)
    assert float(torch.rad2deg(torch.acos(cosine)).max()) < 2


def test_the_product_is_reproduced_within_the_noise_by_as_many_as_it_takes(estimate):
    found = unmix(estimate, 0)
    shares, light = found.rows(0, SIDE)
    made = torch.tensordot(found.endmembers, shares * light, dims=1)
    left = (made - estimate.rows(0, SIDE)) / NOISE[:, None, None]
    assert found.endmembers.shape[1] in (COUNT, COUNT + 1)
    assert float(left.square().mean().sqrt()) == pytest.approx(found.misfit, rel=1e-2)
    assert found.misfit < 1


def test_abundances_are_shares(estimate):
    shares, light = unmix(estimate).rows(5, 17)
    assert shares.shape == (COUNT, 12, SIDE)
    assert float(shares.min()) >= 0
    assert torch.allclose(shares.sum(0), torch.ones(12, SIDE), atol=1e-5)
    assert float(light.min()) > 0


def test_rows_do_not_depend_on_the_block_they_are_asked_in(estimate):
    found = unmix(estimate)
    whole, part = found.rows(0, SIDE)[0], found.rows(20, 30)[0]
    assert torch.allclose(whole[:, 20:30], part, atol=1e-4)


def test_pixels_without_data_teach_nothing(estimate):
    valid = torch.ones(SIDE, SIDE, dtype=torch.bool)
    valid[:8] = False
    spoilt = estimate.coefficients.clone()
    spoilt[:, :8] = 1e3
    options = MaterialOptions(COUNT)
    a = materials_of(estimate, valid, NOISE, options).endmembers
    b = materials_of(replace(estimate, coefficients=spoilt), valid, NOISE, options).endmembers
    assert torch.equal(a, b)


def test_a_black_pixel_has_finite_shares(estimate):
    dark = estimate.coefficients.clone()
    dark[:, 0, 0] = estimate.basis.T @ -estimate.mean
    shares, light = unmix(replace(estimate, coefficients=dark)).rows(0, 1)
    assert bool(torch.isfinite(shares).all())
    assert float(light[0, 0]) < 0.2


def test_shares_are_the_non_negative_least_squares_solution():
    rng = np.random.default_rng(0)
    corners, pixels = rng.random((12, 5)), rng.random((12, 30)) - 0.2
    ours = _shares(torch.from_numpy(corners), torch.from_numpy(pixels)).numpy()
    theirs = np.stack([nnls(corners, pixel)[0] for pixel in pixels.T], 1)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_more_endmembers_than_dimensions_are_refused(estimate):
    with pytest.raises(SolveError, match=r"9 endmembers: .* 4 dimensions .* at most 5"):
        unmix(estimate, 9)
    with pytest.raises(ValueError, match="at least 2"):
        MaterialOptions(1)
