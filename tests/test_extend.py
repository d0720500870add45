"""A product carried on over ground that the HSI does not show."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from synthetic import RATIO, observed, problem_of, psnr, scene
from torch import Tensor

from hsi_fuse.errors import SolveError
from hsi_fuse.overlap.extend import Extension, Kind, extend
from hsi_fuse.physics import blur_down, mix_bands
from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.subspace import problem_subspace

ROWS, COLUMNS, WIDE, BLIND = 64, 72, 112, 12
"""Fine rows and columns of the HSI; the guide goes on to column `WIDE` and misses the first `BLIND`."""


@pytest.fixture(scope="module")
def truth() -> Tensor:
    """(n, ROWS, WIDE), as the simulation scales it."""
    cube = scene(ROWS, WIDE, 2).clamp(min=0)
    return cube / cube[:, :, :COLUMNS].max()


@pytest.fixture(scope="module")
def problem(truth: Tensor) -> Problem:
    pair = observed(truth=truth[:, :, :COLUMNS])
    weight = torch.ones(ROWS, COLUMNS)
    weight[:, :BLIND] = 0
    return problem_of(pair, weight)


@pytest.fixture(scope="module")
def product(truth: Tensor, problem: Problem) -> Estimate:
    """The truth in factors: what comes out is then the extension's work alone."""
    subspace = problem_subspace(problem)
    return Estimate(subspace.basis, subspace.mean, subspace.project(truth[:, :, :COLUMNS]))


def seen(problem: Problem, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The guide over the whole scene, and its weight."""
    weight = torch.ones(ROWS, WIDE)
    weight[:, :BLIND] = 0
    return mix_bands(truth, problem.sensor.srf) * weight, weight


@pytest.fixture(scope="module")
def union(problem: Problem, product: Estimate, truth: Tensor) -> Extension:
    return extend(problem, product, *seen(problem, truth), (0, 0), everywhere=True)


def test_every_pixel_says_what_stands_behind_it(union: Extension) -> None:
    kind = union.kind
    assert bool((kind[:, :BLIND] == Kind.INTERPOLATED).all())
    assert bool((kind[:, BLIND:COLUMNS] == Kind.FUSED).all())
    assert set(kind[:, COLUMNS:].flatten().tolist()) <= {Kind.INFERRED, Kind.REFUSED}
    assert union.share(Kind.INFERRED) > 0.95 * (WIDE - COLUMNS) / WIDE


def test_the_product_itself_is_left_as_it_is(union: Extension, product: Estimate) -> None:
    assert torch.equal(union.estimate.coefficients[:, :, :COLUMNS], product.coefficients)


def test_inferred_spectra_beat_a_linear_regression(union: Extension, problem: Problem, truth: Tensor) -> None:
    low, guide = blur_down(problem.guide, problem.sensor.psf, RATIO), seen(problem, truth)[0]
    inner = (slice(None), slice(None), slice(BLIND // RATIO + 2, None))  # whole PSFs on the guide
    design = torch.cat([low, torch.ones_like(low[:1])])[inner].flatten(1)
    slopes = torch.linalg.lstsq(design.T, problem.hsi[inner].flatten(1).T).solution.T
    straight = torch.tensordot(slopes, torch.cat([guide, torch.ones_like(guide[:1])]), dims=1)
    mask = union.kind == Kind.INFERRED
    found = psnr(union.estimate.rows(0, ROWS), truth, mask)
    assert found > psnr(straight, truth, mask) + 0.5
    assert union.figures["over_linear_db"] > 0


def test_sigma_is_about_as_large_as_the_errors(union: Extension, truth: Tensor) -> None:
    mask = union.kind == Kind.INFERRED
    error = (union.estimate.rows(0, ROWS) - truth).square()[:, mask].mean().sqrt()
    sigma = union.sigma(0, ROWS).square()[:, mask].mean().sqrt()
    assert 0.4 < float(sigma / error) < 2.5


def test_colours_never_seen_are_refused(problem: Problem, product: Estimate, truth: Tensor) -> None:
    guide, weight = seen(problem, truth)
    guide[:, 20:30, 90:100] = guide.amax() * torch.tensor([3.0, 0.0, 3.0, 0.0])[:, None, None]
    found = extend(problem, product, guide, weight, (0, 0), everywhere=True)
    assert bool((found.kind[20:30, 90:100] == Kind.REFUSED).all())
    assert not found.valid[20:30, 90:100].any()
    assert found.figures["refused_pct"] == pytest.approx(100 * found.share(Kind.REFUSED))


def test_over_the_guides_footprint_nothing_fades(problem: Problem, product: Estimate, truth: Tensor) -> None:
    """Where the guide ends the product is interpolation; there model and HSI together know better."""
    interpolated = problem_subspace(problem).project(problem.hsi)
    fades = product.coefficients.clone()
    plain = interpolated.repeat_interleave(RATIO, 1).repeat_interleave(RATIO, 2)
    fades[:, :, : BLIND + 16] = plain[:, :, : BLIND + 16]
    faded = replace(product, coefficients=fades)
    found = extend(problem, faded, *seen(problem, truth), (0, 0), everywhere=False)
    rim = torch.zeros(ROWS, WIDE, dtype=torch.bool)
    rim[:, BLIND : BLIND + 8] = True
    before = torch.nn.functional.pad(faded.rows(0, ROWS), (0, WIDE - COLUMNS))
    assert psnr(found.estimate.rows(0, ROWS), truth, rim) > psnr(before, truth, rim) + 3
    assert bool((found.kind[:, :BLIND] == Kind.NOTHING).all())


def test_what_the_model_misses_at_the_border_is_carried_on(
    problem: Problem, product: Estimate, truth: Tensor
) -> None:
    """A level that the colours do not tell of must not stop at a line."""
    level = torch.zeros_like(product.coefficients)
    step = 3 * product.coefficients[0].std()
    level[0] = step * torch.linspace(-1, 1, COLUMNS)
    found = extend(
        problem,
        replace(product, coefficients=product.coefficients + level),
        *seen(problem, truth),
        (0, 0),
        everywhere=True,
    )
    own = problem_subspace(problem).project(truth)[0]
    off = (found.estimate.coefficients[0] - own).mean(0)  # (WIDE)
    assert float(off[COLUMNS + 1]) == pytest.approx(float(step), rel=0.35)
    assert abs(float(off[-1])) < 0.5 * float(step)


def test_the_footprint_may_lie_anywhere(problem: Problem, product: Estimate, truth: Tensor) -> None:
    """The same, seen from a grid that begins within the HSI, and one that begins before it."""
    guide, weight = seen(problem, truth)
    whole = extend(problem, product, guide, weight, (0, 0), everywhere=True)
    part = extend(problem, product, guide[:, 8:, 20:], weight[8:, 20:], (-8, -20), everywhere=True)
    assert torch.equal(part.kind, whole.kind[8:, 20:])
    assert torch.allclose(part.estimate.coefficients[:, :, : COLUMNS - 20], product.coefficients[:, 8:, 20:])
    padded = torch.nn.functional.pad(guide, (4, 0, 8, 0)), torch.nn.functional.pad(weight, (4, 0, 8, 0))
    more = extend(problem, product, *padded, (8, 4), everywhere=True)
    assert torch.equal(more.kind[8:, 4:], whole.kind)
    assert bool((more.kind[:8] == Kind.NOTHING).all())


def test_too_small_an_overlap_is_an_error(problem: Problem, product: Estimate, truth: Tensor) -> None:
    weight = problem.guide_weight.clone()
    weight[:, : COLUMNS - 12] = 0
    small = replace(problem, guide_weight=weight, guide=problem.guide * weight)
    with pytest.raises(SolveError, match="--extent hsi"):
        extend(small, product, *seen(problem, truth), (0, 0), everywhere=True)
