"""Conjugate gradients, and the matrix that the MAP estimate solves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hsi_fuse.errors import SolveError
from hsi_fuse.physics import blur_down, blur_down_adjoint, gaussian_psf
from hsi_fuse.solve import bonds
from hsi_fuse.system import System, conjugate_gradients, degree


def definite(size, seed=0):
    matrix = np.random.default_rng(seed).standard_normal((size, size))
    return torch.from_numpy(matrix @ matrix.T + 0.1 * np.eye(size))


def times(matrix):
    return lambda v, out: torch.mv(matrix, v, out=out)


def scaled(factor):
    return lambda v, out: torch.mul(v, factor, out=out)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_conjugate_gradients_solve_the_system(preconditioned):
    matrix, right = definite(40), torch.from_numpy(np.random.default_rng(1).standard_normal(40))
    scale = matrix.diagonal() if preconditioned else torch.ones(40)
    found, steps = conjugate_gradients(times(matrix), right.clone(), scaled(1 / scale), 400, 1e-12)
    assert np.allclose(found, np.linalg.solve(matrix.numpy(), right.numpy()), rtol=1e-6)
    assert steps < 400


def test_a_perfect_preconditioner_needs_one_step():
    matrix, right = definite(20), torch.ones(20, dtype=torch.float64)
    inverse = torch.linalg.inv(matrix)
    assert conjugate_gradients(times(matrix), right.clone(), times(inverse), 50, 1e-8)[1] == 1


def test_conjugate_gradients_stop_at_the_tolerance_or_the_limit():
    """The residual in the norm of the preconditioner, in the mean over the unknowns."""
    matrix, right = definite(60), torch.ones(60, dtype=torch.float64)
    found, steps = conjugate_gradients(times(matrix), right.clone(), scaled(0.25), 1000, 1e-3)
    assert float(((matrix @ found - right) ** 2 / 4).mean().sqrt()) <= 1.1e-3
    assert conjugate_gradients(times(matrix), right.clone(), scaled(1.0), 5, 1e-12)[1] == 5
    assert steps > 5


def test_nothing_on_the_right_gives_nothing():
    found, steps = conjugate_gradients(scaled(2.0), torch.zeros(3, 4), scaled(1.0), 10, 1e-3)
    assert not found.any()
    assert steps == 0


def test_values_that_are_not_finite_are_an_error():
    with pytest.raises(SolveError, match="not finite"):
        conjugate_gradients(scaled(float("nan")), torch.ones(3), scaled(1.0), 10, 1e-3)


def test_the_system_is_symmetric_and_holds_constants_by_its_diagonal_alone():
    draw = torch.Generator().manual_seed(0)
    guide, trust = (torch.randn(3, 9, 7, dtype=torch.float64, generator=draw) for _ in range(2))
    one, other = (torch.randn(63, 3, dtype=torch.float64, generator=draw) for _ in range(2))
    weight = torch.ones(9, 7).double()
    down, across = bonds(guide[:2], weight, 1.0)
    system = System(
        psf=torch.ones(1, 1).double(),
        ratio=1,
        trust=trust.square(),
        change=torch.eye(3).double() + 0.1,
        curvature=torch.tensor([2.0, 1.0, 0.0]).double(),
        weight=weight,
        held=0.5 + degree(down, across),
        down=down,
        across=across,
    )
    assert float((system(one) * other).sum()) == pytest.approx(float((one * system(other)).sum()), rel=1e-12)
    free = replace(system, trust=torch.zeros_like(trust), curvature=torch.zeros(3).double())
    assert torch.allclose(free(torch.ones_like(one)), torch.full_like(one, 0.5))


def test_the_system_is_what_its_parts_say():
    """Of a part of the scene without guide, and channels of which the guide says nothing."""
    draw = torch.Generator().manual_seed(1)
    size, ratio, r = (12, 16), 4, 3
    weight = torch.rand(size, dtype=torch.float64, generator=draw)
    weight[:4] = 0
    down, across = bonds(torch.randn(2, *size, dtype=torch.float64, generator=draw), weight, 1.0)
    psf = gaussian_psf(ratio, 3.0, 5.0, 0.5).double()
    change = torch.randn(r + 1, r, dtype=torch.float64, generator=draw)
    curvature = torch.tensor([0.0, 3.0, 0.5]).double()
    trust = torch.rand(r + 1, 3, 4, dtype=torch.float64, generator=draw)
    held = 0.1 + degree(down, across)
    system = System(psf, ratio, trust, change, curvature, weight, held, down, across)
    image = torch.randn(r, *size, dtype=torch.float64, generator=draw)

    low = blur_down(image, psf, ratio)
    seen = torch.tensordot(change.T, trust * torch.tensordot(change, low, 1), 1)
    expected = blur_down_adjoint(seen, psf, ratio) + (curvature[:, None, None] * weight + held) * image
    expected[:, 1:] -= down * image[:, :-1]
    expected[:, :-1] -= down * image[:, 1:]
    expected[:, :, 1:] -= across * image[:, :, :-1]
    expected[:, :, :-1] -= across * image[:, :, 1:]
    assert torch.allclose(system(image.flatten(1).T), expected.flatten(1).T, atol=1e-12)
