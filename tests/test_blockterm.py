"""Coupled block-term unmixing: the objective, its gradient and its descent."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from hsi_fuse.errors import SolveError
from hsi_fuse.overlap.blockterm import BlockTermOptions, BlockTerms, Factors, gradient, objective, unmix

OPTIONS = BlockTermOptions(low_rank=0.3, edges=0.2, sum_to_one=0.4, anchor=0.3, iterations=60, tolerance=0.0)
"""Every term heavy enough to be seen in a derivative."""


@pytest.fixture
def drawn() -> tuple[Factors, BlockTerms]:
    """Random factors and data of two images that are not square, with holes, and of either orientation."""
    draw = torch.Generator().manual_seed(3)

    def some(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    seen = BlockTerms(
        some(7, 5, 9),
        (some(5, 9) > 0.2).double(),
        some(3, 11, 6),
        (some(11, 6) > 0.2).double(),
        some(3, 7),
        some(7, 11, 6),
    )
    return Factors(some(7, 4), some(4, 5, 9), some(4, 11, 6)), seen


@pytest.mark.parametrize("block", ["spectra", "coarse", "fine"])
def test_the_gradient_is_that_of_the_objective(drawn: tuple[Factors, BlockTerms], block: str) -> None:
    at, seen = drawn
    x, h = getattr(at, block), 1e-5
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)

    def along(t: float) -> float:
        return float(objective(replace(at, **{block: x + t * direction}), seen, OPTIONS))

    wanted = (along(h) - along(-h)) / (2 * h)
    slope, _ = gradient(at, seen, OPTIONS, block)
    assert float((slope * direction).sum()) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("block", ["spectra", "coarse", "fine"])
def test_a_step_of_one_over_the_lipschitz_constant_never_raises_the_objective(
    drawn: tuple[Factors, BlockTerms], block: str
) -> None:
    at, seen = drawn
    for _ in range(10):
        slope, steepest = gradient(at, seen, OPTIONS, block)
        below = replace(at, **{block: (getattr(at, block) - slope / steepest).clamp_min(0)})
        assert objective(below, seen, OPTIONS) <= objective(at, seen, OPTIONS)
        at = below


def test_low_rank_is_a_power_of_the_matrix() -> None:
    """Of a map with one singular value, 5: (25 + tau)^(p/2), and tau^(p/2) for each that is 0."""
    nothing = BlockTermOptions(low_rank=1, edges=0, sum_to_one=0, energy=0, anchor=0, rank_floor=0.5)
    u, v = torch.tensor([0.6, 0.0, 0.8]), torch.tensor([0.5, 0.5, 0.5, 0.5])
    maps = 5 * torch.outer(u, v).double()[None]  # (1, 3, 4)
    blank = torch.zeros(1, 3, 4, dtype=torch.float64)
    weight = torch.zeros(3, 4, dtype=torch.float64)
    seen = BlockTerms(blank, weight, blank, weight, torch.ones(1, 1, dtype=torch.float64), blank)
    at = Factors(torch.zeros(1, 1, dtype=torch.float64), maps, torch.zeros_like(maps))
    floor = 0.5**0.25
    assert float(objective(at, seen, nothing)) == pytest.approx(25.5**0.25 + 2 * floor + 3 * floor)


def test_unmixing_descends_monotonically_and_stays_non_negative(drawn: tuple[Factors, BlockTerms]) -> None:
    start, seen = drawn
    found, values = unmix(start, seen, OPTIONS)
    assert all(b <= a for a, b in pairwise(values))
    assert values[-1] < 0.2 * values[0]
    assert values[-1] == pytest.approx(float(objective(found, seen, OPTIONS)))
    assert min(float(f.min()) for f in (found.spectra, found.coarse, found.fine)) >= 0


def test_pixels_without_weight_say_nothing(drawn: tuple[Factors, BlockTerms]) -> None:
    start, seen = drawn
    other = replace(seen, guide=torch.where(seen.guide_weight > 0, seen.guide, 100.0))
    assert unmix(start, seen, OPTIONS)[1] == unmix(start, other, OPTIONS)[1]


def test_values_that_are_not_finite_are_an_error(drawn: tuple[Factors, BlockTerms]) -> None:
    start, seen = drawn
    with pytest.raises(SolveError, match="not finite"):
        unmix(start, replace(seen, hsi=seen.hsi * torch.nan), OPTIONS)
