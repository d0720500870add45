"""Interpolation on demand: the same cube as in factors, whatever has holes and however it is looked at."""

from dataclasses import replace

import pytest
import torch
from synthetic import RATIO, observed, problem_of, scene

from hsi_fuse import interpolation
from hsi_fuse.interpolation import Interpolation, _of_interpolated
from hsi_fuse.physics import blur_down, blur_of, gaussian_psf
from hsi_fuse.subspace import interpolate, upsample


@pytest.fixture(params=["whole", "with holes"])
def problem(request, monkeypatch):
    """20 x 18 HSI pixels, whose factors are made two at a time and whose holes are filled by seven rows."""
    monkeypatch.setattr(interpolation, "FACTORS", 2)
    monkeypatch.setattr(interpolation, "ROWS", 7)
    problem = problem_of(observed(truth=scene(80, 72)))
    if request.param == "whole":
        return problem
    weight = problem.hsi_weight.clone()
    weight[5:9, 3:6] = 0
    weight[:, -1] = 0
    return replace(problem, hsi=problem.hsi * weight, hsi_weight=weight)


@pytest.mark.parametrize("bands", ["all", "few"])
def test_it_is_interpolation(problem, bands):
    plain, lazy = interpolate(problem), Interpolation.of(problem)
    assert lazy.subspace.size > 2 * interpolation.FACTORS
    if bands == "few":  # than factors
        srf, offset = problem.sensor.srf[:2], torch.tensor([1.0, -2.0])
        plain, lazy = plain.mixed(srf, offset), lazy.mixed(srf, offset)
    assert lazy.shape == plain.shape
    psf = problem.sensor.psf
    assert torch.allclose(lazy.rows(9, 50), plain.rows(9, 50), atol=1e-5)
    assert torch.allclose(torch.cat(list(lazy.parts([(0, 3), (3, 80)])), 1), plain.rows(0, 80), atol=1e-5)
    assert torch.allclose(lazy.degraded(psf, RATIO), plain.degraded(psf, RATIO), atol=1e-5)
    for some in (None, (1, 0)):
        assert torch.allclose(lazy.averaged(3, some), plain.averaged(3, some), atol=1e-5)


@pytest.mark.parametrize("ratio", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(40, 7), (1, 19)])
def test_what_a_psf_sees_of_it_is_seen_on_the_pixels_themselves(ratio, shape):
    images = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for psf in (gaussian_psf(ratio, 0.9 * ratio), gaussian_psf(ratio, 0.3 * ratio, 0.6 * ratio, angle=0.4)):
        found = _of_interpolated(blur_of(psf.double(), ratio, shape, images), ratio, shape).down(images)
        assert torch.allclose(found, blur_down(upsample(images, ratio), psf.double(), ratio), atol=1e-12)
