"""What spectra go with a colour."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hsi_fuse.overlap import colours
from hsi_fuse.overlap.colours import STRANGE, ColourModel, Pixels, learn, sharpened


def curved(seen: Tensor) -> Tensor:
    """A spectrum (3, N) that follows from a colour (2, N), but not in a straight line."""
    return torch.stack([seen[0] + 2 * seen[1], (2 * seen[0]).sin(), seen[1] ** 2])


@pytest.fixture
def taught() -> Tensor:
    return torch.rand(2, 600, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("most", [40, 600])
def test_learns_what_is_not_linear(taught: Tensor, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(colours, "NODES", most)
    asked = torch.rand(2, 200, generator=torch.Generator().manual_seed(1))
    error = ColourModel.of(taught, curved(taught))(asked) - curved(asked)
    design = torch.cat([taught, torch.ones(1, 600)])
    plane = torch.linalg.lstsq(design.T, curved(taught).T).solution.T
    straight = plane @ torch.cat([asked, torch.ones(1, 200)]) - curved(asked)
    assert error.square().mean() < 0.05 * straight.square().mean()


def test_noise_is_chosen_by_parts_of_the_scene_that_were_not_taught() -> None:
    """Where a colour says nothing but a straight line, the process learns to keep still."""
    draw = torch.Generator().manual_seed(2)
    seen, fold = torch.rand(2, 400, generator=draw), torch.arange(400) % 4
    asked = Pixels(torch.rand(2, 400, generator=draw), torch.empty(0), fold)
    asked = replace(asked, spectra=curved(asked.colours))
    lines = torch.randn(3, 400, generator=draw)
    model, errors = learn(Pixels(seen, curved(seen), fold), asked)
    assert float((model(asked.colours) - asked.spectra).abs().mean()) < 0.01
    assert errors.shape == (3, 400)
    noisy = Pixels(seen, seen[:1] + lines, fold)
    still, _ = learn(noisy, replace(asked, spectra=asked.colours[:1] + lines.flip(1)))
    lively = ColourModel.of(noisy.colours, noisy.spectra)
    line = asked.colours[:1]
    assert (still(asked.colours) - line).square().mean() < 0.5 * (
        lively(asked.colours) - line
    ).square().mean()


def test_a_plane_carries_on_beyond_the_colours_that_were_seen(taught: Tensor) -> None:
    flat = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    model = ColourModel.of(taught, flat @ taught + 3)
    far = torch.tensor([[3.0], [-2.0]])
    assert torch.allclose(model(far), flat @ far + 3, atol=0.01)


def test_doubts_colours_that_were_never_seen(taught: Tensor) -> None:
    model = ColourModel.of(taught, curved(taught))
    assert float(model.doubt(taught).max()) < 0.1
    doubts = model.doubt(torch.tensor([[1.1, 1.5, 2.0, 3.0], [0.5, 0.5, 0.5, 0.5]]))
    assert bool((doubts.diff() >= 0).all())
    assert float(doubts[0]) < STRANGE < float(doubts[-1])


def test_is_the_same_for_colours_in_other_units(taught: Tensor) -> None:
    units = torch.tensor([[1e4], [3.0]])
    one = ColourModel.of(taught, curved(taught))(taught)
    other = ColourModel.of(taught * units + 7, curved(taught))(taught * units + 7)
    assert torch.allclose(one, other, atol=1e-3)


def test_sharpening_goes_along_the_line_of_mixing_and_heeds_gaps() -> None:
    image, weight = torch.zeros(2, 7, 7), torch.ones(7, 7)
    image[:, 3, 3] = torch.tensor([0.9, 1.8])
    found = sharpened(image, weight)
    assert torch.allclose(found[1], 2 * found[0])
    assert float(found[0, 3, 3]) == pytest.approx(0.9 + 0.8)
    assert float(found[0, 3, 2]) == pytest.approx(-0.1)
    weight[3, 3] = 0  # what has no weight is mixed into nobody
    assert not sharpened(image, weight)[:, weight > 0].any()
