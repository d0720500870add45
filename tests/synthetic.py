"""A small synthetic scene and its observations, for the tests of tensor-land: quick, and its truth known."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from hsi_fuse.physics import gaussian_psf
from hsi_fuse.problem import Problem
from hsi_fuse.simulate import FWHM_PER_SIGMA, MS4, PAN, RGB, ObservedPair, Protocol, observe

RATIO, ROWS, COLUMNS, BANDS, MATERIALS = 4, 48, 40, 30, 6
WAVELENGTHS = np.linspace(410.0, 990.0, BANDS)
MARGIN = 32
"""Fine pixels of scene around the HSI that only an unregistered guide looks at."""
MS9 = tuple((430 + 60 * i, 480 + 60 * i) for i in range(9))
EDGES = {1: PAN, 3: RGB, 4: MS4, 9: MS9}


def spectra() -> NDArray[np.float64]:
    """(6, n) smooth reflectances: leaves, soil, concrete, water, red roof, blue roof."""
    w = (WAVELENGTHS - 410) / 580
    red_edge = 1 / (1 + np.exp(-(w - 0.5) * 30))
    return np.stack(
        [
            0.05 + 0.45 * red_edge + 0.06 * np.exp(-(((w - 0.22) / 0.06) ** 2)),
            0.10 + 0.30 * w,
            0.35 - 0.05 * w + 0.05 * np.sin(5 * w),
            0.08 * np.exp(-3 * w) + 0.01,
            0.06 + 0.35 / (1 + np.exp(-(w - 0.3) * 25)),
            0.05 + 0.30 * np.exp(-(((w - 0.1) / 0.12) ** 2)) + 0.1 * w**2,
        ]
    )


@cache
def scene(height: int = RATIO * ROWS, width: int = RATIO * COLUMNS, seed: int = 0) -> Tensor:
    """(n, height, width): cells of mixed materials with hard edges, under a textured shade."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    seeds = rng.uniform((0, 0), (height, width), (height * width // 200, 2))
    nearest = ((y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2).argmin(-1)
    abundance = rng.dirichlet(np.full(MATERIALS, 0.3), len(seeds))[nearest]  # (H, W, 6)
    texture = gaussian_filter(rng.standard_normal((height, width)), 1.5)
    shade = (1 + 0.15 * texture / texture.std()).clip(0.5, 1.5)
    return torch.from_numpy((abundance * shade[..., None]) @ spectra()).permute(2, 0, 1).float().contiguous()


def observed(guide_bands: int = 4, psf: Tensor | None = None, truth: Tensor | None = None) -> ObservedPair:
    """A registered pair at x4, 35/40 dB; the PSF's FWHM is 4 fine pixels unless given."""
    protocol = Protocol(
        "test", RATIO, gaussian_psf(RATIO, 4.0, size=10) if psf is None else psf, EDGES[guide_bands]
    )
    return observe(scene() if truth is None else truth, WAVELENGTHS, protocol, seed=1)


def problem_of(pair: ObservedPair, guide_weight: Tensor | None = None, **more: object) -> Problem:
    """The registered problem with the true sensor, all of it valid unless a guide weight is given."""
    weight = torch.ones(pair.guide.shape[1:]) if guide_weight is None else guide_weight
    return Problem(
        pair.hsi,
        torch.ones(pair.hsi.shape[1:]),
        pair.guide * (weight > 0),
        weight,
        pair.sensor,
        pair.hsi_noise,
        pair.guide_noise,
        **more,  # type: ignore[arg-type]
    )


def psnr(found: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Mean over bands of 10 log10(peak^2 / MSE), dB."""
    if mask is not None:
        found, truth = found[:, mask], truth[:, mask]
    found, truth = found.flatten(1), truth.flatten(1)
    return float((10 * torch.log10(truth.amax(1) ** 2 / ((found - truth) ** 2).mean(1))).mean())


def moved(image: NDArray[np.float64], where: Affine, bend_px: float = 0.0) -> NDArray[np.float64]:
    """Show (m, H, W) such that what is at p appears at `where` p, off by waves of amplitude `bend_px`."""
    height, width = image.shape[1:]
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    if bend_px:
        wave = bend_px * np.stack([np.sin(rows / 23 + 1), np.sin(columns / 19)])
        columns, rows = columns + wave[0], rows + wave[1]
    x, y = ~where * (columns, rows)
    return np.stack([map_coordinates(band, [y - 0.5, x - 0.5], order=3, mode="mirror") for band in image])


def fwhm_of(psf: Tensor) -> tuple[float, float]:
    """Largest and smallest full width at half maximum, from the PSF's second moments, fine pixels."""
    offsets = torch.arange(len(psf), dtype=torch.float64) - (len(psf) - 1) / 2
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    psf = psf.double()
    moments = torch.stack(
        [torch.stack([(psf * a * b).sum() for b in (y, x)]) for a in (y, x)]
    )  # rows, columns
    small, large = torch.linalg.eigvalsh(moments).sqrt().tolist()
    return FWHM_PER_SIGMA * large, FWHM_PER_SIGMA * small
