"""Orthogonal steps."""

from __future__ import annotations

import torch
from torch import nn

from hsi_fuse.muon import Muon, orthogonal


def weights(*shapes: tuple[int, int]) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]


def test_steps_are_those_of_the_library_but_for_its_short_numbers():
    shapes = (24, 16), (16, 24), (16, 16), (24, 16)
    ours, theirs = weights(*shapes), weights(*shapes)
    one = Muon([{"params": ours, "lr": 0.1}])
    other = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    before = [weight.detach().clone() for weight in ours]
    for step in range(10):
        for group in (*one.param_groups, *other.param_groups):
            group["momentum"] = 0.85 + 0.01 * step  # as OneCycleLR does
        for parameters, optimiser in ((ours, one), (theirs, other)):
            optimiser.zero_grad()
            torch.stack([(weight**3).sum() for weight in parameters]).sum().backward()
            optimiser.step()
    for a, b, start in zip(ours, theirs, before, strict=True):
        apart, way = (each.detach().norm() for each in (a - b, b - start))
        assert float(apart / way) < 0.02


def test_nearest_orthogonal_matrix_has_the_same_directions():
    draw = torch.Generator().manual_seed(1)
    matrices = torch.randn(3, 20, 32, generator=draw, dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.mT @ orthogonal(matrices) @ right.mT
    values = turned.diagonal(dim1=1, dim2=2)
    assert float((turned - torch.diag_embed(values)).abs().max()) < 1e-9
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    assert torch.equal(orthogonal(matrices.mT), orthogonal(matrices).mT)


def test_weights_without_a_gradient_stay():
    (weight,) = weights((4, 4))
    before = weight.detach().clone()
    Muon([weight]).step()
    assert torch.equal(weight.detach(), before)


def test_a_gradient_of_nothing_moves_nothing():
    (weight,) = weights((4, 4))
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    Muon([weight]).step()
    assert torch.equal(weight.detach(), before)
