"""A product in rows is the same product as one in factors, and nobody holds it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from hsi_fuse.physics import blur_down, gaussian_psf
from hsi_fuse.problem import Estimate
from hsi_fuse.quality.assess import assess
from hsi_fuse.quality.cube import BLOCK_VALUES, StreamedCube, block_rows
from hsi_fuse.report.pictures import take_pictures
from hsi_fuse.subspace import interpolate
from tests.assessed import WAVELENGTHS, make_scene


@pytest.fixture
def estimate() -> Estimate:
    torch.manual_seed(0)
    return Estimate(torch.randn(7, 3), torch.randn(7), torch.randn(3, 36, 28))


def streamed(estimate: Estimate) -> StreamedCube:
    return StreamedCube.of(estimate.shape, estimate.rows)


@pytest.mark.parametrize("fwhm", [1.0, 4.0, 9.0])
def test_degraded_block_by_block_is_degraded_whole(estimate, fwhm, monkeypatch):
    monkeypatch.setattr("hsi_fuse.quality.cube.BLOCK_VALUES", 1)  # the smallest blocks there are
    monkeypatch.setattr("hsi_fuse.quality.cube.block_rows", lambda shape: 1)
    psf = gaussian_psf(4, fwhm)
    whole = blur_down(estimate.rows(0, 36), psf, 4)
    assert torch.allclose(streamed(estimate).degraded(psf, 4), whole, atol=1e-5)
    assert torch.allclose(estimate.degraded(psf, 4), whole, atol=1e-5)


def test_mixed_bands_are_mixed_rows(estimate):
    matrix, offset = torch.randn(2, 7), torch.randn(2)
    wanted = torch.tensordot(matrix, estimate.rows(5, 9), 1) + offset[:, None, None]
    for cube in (estimate, streamed(estimate)):
        mixed = cube.mixed(matrix, offset)
        assert mixed.shape == (2, 36, 28)
        assert torch.allclose(mixed.rows(5, 9), wanted, atol=1e-5)
    assert torch.allclose(
        estimate.mixed(matrix).rows(0, 2), wanted[:, :2] * 0 + torch.tensordot(matrix, estimate.rows(0, 2), 1)
    )


@dataclass
class Counting:
    """A cube that counts the values of each block that is asked for."""

    cube: Estimate
    blocks: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.cube.shape

    def rows(self, start: int, stop: int) -> Tensor:
        assert 0 <= start < stop <= self.shape[1]
        self.blocks.append(self.shape[0] * (stop - start) * self.shape[2])
        return self.cube.rows(start, stop)


def test_assessment_and_pictures_never_ask_for_the_cube(monkeypatch):
    """In blocks of a sixteenth of it, whatever is looked at."""
    problem, truth = make_scene()
    size = int(np.prod(truth.shape))
    monkeypatch.setattr("hsi_fuse.quality.cube.BLOCK_VALUES", size // 16)
    counting = Counting(truth)
    cube = StreamedCube.of(truth.shape, counting.rows)
    options = {"solvers": {}, "registration": {"rrmse_px": 0.1}, "wavelengths_nm": WAVELENGTHS}
    seen = assess(problem, cube, interpolate(problem), **options)
    pictures = take_pictures(
        problem, cube, interpolate(problem), WAVELENGTHS, seen.maps["sam_deg"], zoom_size=8
    )
    assert max(counting.blocks) <= size / 4  # a sixteenth, and what a PSF of ten pixels reaches beyond it
    whole = assess(problem, truth, interpolate(problem), **options)
    for part in ("consistency", "spatial", "full_scale", "integrity"):
        assert seen.figures[part] == nearly(whole.figures[part])
    assert np.allclose(
        pictures.grid.after,
        take_pictures(problem, truth, interpolate(problem), WAVELENGTHS).grid.after,
        atol=1e-6,
    )


def nearly(value):
    """`pytest.approx` through nested figures."""
    if isinstance(value, dict):
        return {key: nearly(v) for key, v in value.items()}
    if isinstance(value, list):
        return [nearly(v) for v in value]
    return pytest.approx(value, rel=2e-3, abs=1e-5) if isinstance(value, float) else value


def test_blocks_hold_what_they_should():
    assert block_rows((230, 4000, 4000)) == BLOCK_VALUES // (230 * 4000)
    assert block_rows((10**9, 4, 4)) == 1
