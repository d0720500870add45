"""The approximate inverse of the MAP system: exact where the system is alike everywhere, never indefinite."""

from dataclasses import replace

import pytest
import torch

from hsi_fuse.physics import gaussian_psf
from hsi_fuse.precondition import Preconditioner
from hsi_fuse.solve import bonds
from hsi_fuse.system import System, conjugate_gradients, degree

RATIO, HEIGHT, WIDTH, CHANNELS = 4, 9, 12, 3


def image(seed, channels=CHANNELS):
    """Channels last."""
    return random(RATIO * HEIGHT * RATIO * WIDTH, channels, seed=seed)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gaussian(size):
    """A PSF along the axes, to all digits."""
    offsets = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    profiles = [torch.exp(-0.5 * (offsets / width) ** 2) for width in (1.7, 2.1)]
    return torch.outer(*(p / p.sum() for p in profiles))


def uniform(psf=None):
    """A system without bonds between neighbours, that trusts every HSI pixel as much."""
    fine = RATIO * HEIGHT, RATIO * WIDTH
    return System(
        psf=gaussian(12) if psf is None else psf,
        ratio=RATIO,
        trust=torch.tensor([0.5, 1.0, 0.8]).double()[:, None, None].expand(-1, HEIGHT, WIDTH),
        change=random(CHANNELS, CHANNELS) * torch.tensor([30.0, 3.0, 1.0]).double(),
        curvature=torch.tensor([0.0, 4.0, 200.0]).double(),
        weight=torch.ones(fine).double(),
        held=torch.full(fine, 0.7).double(),
        down=torch.zeros(fine[0] - 1, fine[1]).double(),
        across=torch.zeros(fine[0], fine[1] - 1).double(),
    )


def lively(system):
    """The same with bonds that a guide's edges cut, and a part that neither image shows."""
    weight = torch.ones_like(system.weight)
    weight[:12] = 0
    trust = system.trust.clone()
    trust[:, :3] = 0
    down, across = bonds(random(2, *weight.shape, seed=1), weight, 0.5)
    held = 0.05 + degree(down, across)
    return replace(system, trust=trust, weight=weight, held=held, down=down, across=across)


@pytest.mark.parametrize("size", [4, 12, 20])
def test_it_is_the_inverse_of_a_system_alike_everywhere(size):
    system = uniform(gaussian(size))
    there = image(2)
    assert torch.allclose(Preconditioner.of(system)(system(there)), there, atol=1e-9)


def test_fewer_unknowns_than_coefficients_are_inverted_too():
    system = uniform()
    system = replace(system, change=system.change[:, 1:], curvature=system.curvature[1:])
    there = image(2, CHANNELS - 1)
    inverse = Preconditioner.of(system)
    assert inverse.shrink.shape == (HEIGHT, WIDTH, CHANNELS - 1)
    assert torch.allclose(inverse(system(there)), there, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_it_is_symmetric_and_positive_whatever_the_system(angle):
    system = lively(uniform(gaussian_psf(RATIO, 3.0, 6.0, angle).double()))
    inverse = Preconditioner.of(system)
    one, other = (image(seed) for seed in (3, 4))
    assert float((inverse(one) * other).sum()) == pytest.approx(float((one * inverse(other)).sum()), rel=1e-9)
    smooth = torch.ones_like(one)  # what the HSI sees all of: 1 / d less nearly all of it
    for each in (one, other, smooth, system(one)):
        assert float((inverse(each) * each).sum()) > 0


def test_a_system_takes_a_fraction_of_the_iterations():
    system = lively(uniform())
    system = replace(system, trust=torch.ones_like(system.trust), weight=torch.ones_like(system.weight))
    there = image(5)
    right = system(there)
    found, steps = conjugate_gradients(system, right.clone(), Preconditioner.of(system), 500, 1e-3)
    spread = (system.psf**2).sum() * (system.change**2).sum(0)
    diagonal = system.held.view(-1, 1) + system.curvature + spread
    _, plain = conjugate_gradients(system, right, lambda v, out: torch.div(v, diagonal, out=out), 500, 1e-3)
    off = found - there
    assert float((off * system(off)).mean().sqrt()) < 5e-3  # posterior standard deviations
    assert 3 * steps < plain
