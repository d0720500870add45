"""A guide that does not quite fit, and what the tests of the stages that mend it ask of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from synthetic import EDGES, WAVELENGTHS, observed, problem_of, psnr, scene

from hsi_fuse.nets.flow import warp
from hsi_fuse.physics import gaussian_psf
from hsi_fuse.problem import Estimate, Problem, StageResult, silent
from hsi_fuse.refinement.refining import Refining
from hsi_fuse.simulation.displace import smooth_field
from hsi_fuse.simulation.simulate import ObservedPair, Protocol, observe
from hsi_fuse.stages.map import Map
from hsi_fuse.subspace import interpolate

TINY: dict[str, object] = {
    "steps": 2,
    "width": 4,
    "levels": 2,
    "groups": 2,
    "heads": 2,
    "crop_px": 32,
    "fits": 0.0,
}


def fitting() -> ObservedPair:
    """The pair, as yet registered."""
    return observed(4, truth=scene(96, 112))


def displaced(problem: Problem, rms_px: float) -> Problem:
    """Its guide moved along a smooth field."""
    field = smooth_field(96, 112, 40, np.random.default_rng(5))
    field *= rms_px / np.sqrt((field**2).sum(0).mean())
    flow = torch.from_numpy(field).float()[None]
    return replace(problem, guide=warp(problem.guide[None], flow, "bicubic")[0])


def started(problem: Problem) -> Estimate:
    return Map()(problem, interpolate(problem), silent).estimate


def quality(estimate: Estimate, pair: ObservedPair) -> float:
    return psnr(estimate.rows(0, estimate.shape[1])[:, 4:-4, 4:-4], pair.truth[:, 4:-4, 4:-4])


def loses_nothing(stage: Refining, pair: ObservedPair) -> StageResult:
    """On a guide that fits: the start itself, or as good."""
    problem = problem_of(pair)
    start = started(problem)
    result = stage(problem, start, silent)
    if not result.verdict["kept"]:
        assert result.estimate is start
        assert result.verdict["reason"]
    assert quality(result.estimate, pair) > quality(start, pair) - 0.05
    return result


def repeatable(stage: Refining) -> StageResult:
    """On a scene large enough for a degraded pair, so that all of it runs: the same bytes twice."""
    small = observe(scene(64, 72), WAVELENGTHS, Protocol("test", 2, gaussian_psf(2, 2.0), EDGES[3]), seed=1)
    problem = problem_of(small, seed=4)
    start = started(problem)
    one, other = (stage(problem, start, silent) for _ in range(2))
    assert {"flow_gain_db", "residual_gain_db", "flow_rms_px"} <= set(one.verdict)
    assert torch.equal(one.estimate.coefficients, other.estimate.coefficients)
    assert bool(one.estimate.coefficients.isfinite().all())
    return one
