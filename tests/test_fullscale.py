"""D_lambda, D_s and QNR against their definitions, written out pair by pair."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from hsi_fuse.physics import blur_down
from hsi_fuse.quality.fullscale import BLOCK_HSI_PX, full_scale
from hsi_fuse.quality.metrics import uiqi
from hsi_fuse.subspace import interpolate
from tests.assessed import make_scene


@pytest.fixture(scope="module")
def scene():
    return make_scene(size=64)


def blockwise(a: torch.Tensor, b: torch.Tensor, block: int) -> float:
    return uiqi(a[None], b[None], block=block)


def test_they_are_what_they_say(scene):
    problem, truth = scene
    few = replace(truth, basis=truth.basis[:5], mean=truth.mean[:5])
    sensor = replace(problem.sensor, srf=problem.sensor.srf[:, :5])
    problem = replace(problem, hsi=problem.hsi[:5], sensor=sensor, hsi_noise=problem.hsi_noise[:5])
    found = full_scale(problem, few, 0.9)
    fine, coarse, b = few.rows(0, 64), problem.hsi, BLOCK_HSI_PX
    pairs = [
        abs(blockwise(fine[i], fine[j], 4 * b) - blockwise(coarse[i], coarse[j], b))
        for i, j in itertools.combinations(range(5), 2)
    ]
    assert found["d_lambda"] == pytest.approx(np.mean(pairs), abs=1e-4)
    seen = blur_down(problem.guide, problem.sensor.psf, 4)
    distances = []
    for band in range(5):
        x = coarse[band].double()
        of = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for y in seen.double()]
        g = int(np.argmax(of))
        gain = x.std() / seen[g].double().std()
        offset = x.mean() - gain * seen[g].double().mean()
        sides = [
            blockwise(z.double(), gain * y.double() + offset, size)
            for z, y, size in ((fine[band], problem.guide[g], 4 * b), (x, seen[g], b))
        ]
        distances.append(abs(sides[0] - sides[1]))
    assert found["d_s"] == pytest.approx(np.mean(distances), abs=1e-4)
    assert found["d_lambda_khan"] == pytest.approx(0.1)
    assert found["hqnr"] == pytest.approx(0.9 * (1 - found["d_s"]))
    assert found["qnr"] == pytest.approx((1 - found["d_lambda"]) * (1 - found["d_s"]))
    assert found["blocks"] == 4


def test_interpolation_is_further_from_the_reference(scene):
    problem, truth = scene
    assert (
        full_scale(problem, interpolate(problem), 0.9)["d_s"] > full_scale(problem, truth, 0.9)["d_s"] + 0.05
    )


def test_only_blocks_with_all_data_count(scene):
    problem, truth = scene
    weight = problem.guide_weight.clone()
    weight[:32] = 0
    half = replace(problem, guide=problem.guide * weight, guide_weight=weight)
    assert full_scale(half, truth, 0.9)["blocks"] == 2
    none = replace(problem, guide=0 * problem.guide, guide_weight=0 * weight)
    assert "no block" in full_scale(none, truth, 0.9)["reason"]


def test_units_of_the_reference_do_not_matter(scene):
    problem, truth = scene
    sensor = replace(problem.sensor, srf=1000 * problem.sensor.srf, offset=1000 * problem.sensor.offset + 7)
    scaled = replace(problem, guide=1000 * problem.guide + 7, sensor=sensor)
    assert full_scale(scaled, truth, 0.9)["d_s"] == pytest.approx(
        full_scale(problem, truth, 0.9)["d_s"], abs=1e-5
    )
