"""Methods seen through the responses, beside the reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from assessed import make_scene
from scipy.ndimage import gaussian_filter

from hsi_fuse.physics import mix_bands
from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.quality import spatial as module
from hsi_fuse.quality.spatial import spatial
from hsi_fuse.subspace import interpolate


@pytest.fixture(scope="module")
def scene() -> tuple[Problem, dict[str, Estimate]]:
    problem, truth = make_scene(96)
    weight = problem.guide_weight.clone()
    weight[:13] = 0
    weight[40:50, 30:44] = 0
    problem = replace(problem, guide=problem.guide * (weight > 0), guide_weight=weight)
    return problem, {"product": truth, "interpolation": interpolate(problem)}


def test_strips_say_what_the_image_says_as_a_whole(scene, monkeypatch):
    whole, error = spatial(*scene)
    monkeypatch.setattr(module, "STRIP_PIXELS", 1)
    monkeypatch.setattr(module, "HALOS", 1)  # as many rows as the filters reach
    cut, same = spatial(*scene)
    assert error is not None
    assert torch.equal(error, same)
    for method in ("product", "interpolation"):
        for name, value in whole[method].items():
            assert torch.allclose(torch.as_tensor(cut[method][name]), torch.as_tensor(value), rtol=1e-4), name


def test_detail_is_compared_with_the_references(scene):
    """Against scipy's Gaussian, away from where there is no reference."""
    problem, methods = scene
    problem = replace(problem, guide_weight=torch.ones_like(problem.guide_weight))
    found, error = spatial(problem, methods)
    seen = (
        mix_bands(methods["interpolation"].rows(0, 96), problem.sensor.srf)
        + problem.sensor.offset[:, None, None]
    )

    def detail(image: torch.Tensor) -> np.ndarray:
        values = image.double().numpy()
        ones = gaussian_filter(np.ones(values.shape[1:]), 2.0, mode="constant")
        return np.stack([b - gaussian_filter(b, 2.0, mode="constant") / ones for b in values])

    wanted = [
        np.corrcoef(a.ravel(), b.ravel())[0, 1]
        for a, b in zip(detail(seen), detail(problem.guide), strict=True)
    ]
    assert np.allclose(found["interpolation"]["cc_highpass"], wanted, atol=1e-4)
    product = (
        mix_bands(methods["product"].rows(0, 96), problem.sensor.srf) + problem.sensor.offset[:, None, None]
    )
    off = (product - problem.guide) / problem.guide.std((1, 2), correction=0)[:, None, None]
    assert error is not None
    assert torch.allclose(error, off.mean(0), atol=1e-5)


def test_a_reference_that_covers_nothing_is_not_assessable(scene):
    problem, methods = scene
    found, error = spatial(replace(problem, guide_weight=torch.zeros_like(problem.guide_weight)), methods)
    assert not found["assessable"]
    assert error is None
