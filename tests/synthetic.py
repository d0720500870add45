"""A small synthetic scene and its observations, for the tests of tensor-land: quick, and its truth known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from hsi_fuse.grid import Grid
from hsi_fuse.physics import gaussian_psf, mix_bands
from hsi_fuse.problem import Problem
from hsi_fuse.raster import Encoding, Raster
from hsi_fuse.read import Guide, open_guide
from hsi_fuse.registration.warp import Pair
from hsi_fuse.simulation.simulate import (
    FWHM_PER_SIGMA,
    MS4,
    PAN,
    RGB,
    ObservedPair,
    Protocol,
    observe,
    srf_rows,
)
from hsi_fuse.subspace import estimate_noise, fit_subspace

RATIO, ROWS, COLUMNS, BANDS, MATERIALS = 4, 48, 40, 30, 6
WAVELENGTHS = np.linspace(410.0, 990.0, BANDS)
MARGIN = 32
"""Fine pixels of scene around the HSI that only an unregistered guide looks at."""
MS9 = tuple((430 + 60 * i, 480 + 60 * i) for i in range(9))
EDGES = {1: PAN, 3: RGB, 4: MS4, 9: MS9}
PSF = gaussian_psf(RATIO, 4.0, size=10)
STILL = Affine.identity()
START = Affine.translation(MARGIN, MARGIN) * Affine.scale(RATIO)
"""HSI pixel -> pixel of a guide that lies where it should."""


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


def observed(
    guide_bands: int = 4, psf: Tensor | None = None, truth: Tensor | None = None, seed: int = 1
) -> ObservedPair:
    """A registered pair at x4, 35/40 dB; the PSF's FWHM is 4 fine pixels unless given."""
    protocol = Protocol("test", RATIO, PSF if psf is None else psf, EDGES[guide_bands])
    return observe(scene() if truth is None else truth, WAVELENGTHS, protocol, seed)


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


def moved(
    image: NDArray[np.float64], where: Affine, local: Callable[..., NDArray[np.float64]] | None = None
) -> NDArray[np.float64]:
    """Show (m, H, W) such that what is at p appears at `where` p + local(p); pixels are corner-based."""
    height, width = image.shape[1:]
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = ~where * (columns, rows)
    for _ in range(0 if local is None else 12):  # a local displacement is smooth: each round gains a digit
        dx, dy = local(x, y)  # type: ignore[misc]
        x, y = ~where * (columns - dx, rows - dy)
    return np.stack([map_coordinates(band, [y - 0.5, x - 0.5], order=3, mode="mirror") for band in image])


@cache
def _low(seed: int) -> tuple[Tensor, Tensor]:
    """HSI of the middle of the wide scene (n, h, w), and its coefficients in its whitened subspace."""
    height, width = RATIO * ROWS + 2 * MARGIN, RATIO * COLUMNS + 2 * MARGIN
    inner = scene(height, width)[:, MARGIN:-MARGIN, MARGIN:-MARGIN].contiguous()
    hsi, everywhere = observed(truth=inner, seed=seed).hsi, torch.ones(ROWS, COLUMNS)
    return hsi, fit_subspace(hsi, everywhere, estimate_noise(hsi, everywhere), 10).project(hsi)


def unregistered(
    where: Affine = STILL,
    local: Callable[..., NDArray[np.float64]] | None = None,
    guide_bands: int = 4,
    seed: int = 0,
    place: int = 0,
) -> Pair:
    """An HSI of the middle of a scene, and a wider guide that shows the scene moved.

    What is at p, a pixel of the guide that lies where it should, appears at `where` p + local(p): HSI pixel
    x at `where` (START x) + local(START x). `seed` is the noise's; another `place` is another scene.
    """
    height, width = RATIO * ROWS + 2 * MARGIN, RATIO * COLUMNS + 2 * MARGIN
    srf = srf_rows(WAVELENGTHS, EDGES[guide_bands])
    guide = moved(mix_bands(scene(height, width, place), srf).double().numpy(), where, local)
    guide += 0.005 * guide.mean() * np.random.default_rng(seed + 2).standard_normal(guide.shape)
    seen, weight = torch.from_numpy(guide).float().contiguous(), torch.ones(height, width)
    return Pair(_low(seed + 1)[1], torch.ones(ROWS, COLUMNS), seen, weight, START)


def misplaced(
    base: Affine,
    shift: Callable[..., NDArray[np.float64]] | None,
    where: Affine,
    local: Callable[..., NDArray[np.float64]] | None = None,
) -> NDArray[np.float64]:
    """Distance of each HSI pixel from where `unregistered` put it, HSI pixels: (h, w)."""
    columns, rows = np.arange(COLUMNS) + 0.5, np.arange(ROWS) + 0.5
    x, y = np.meshgrid(columns, rows)
    move = np.zeros((2, ROWS, COLUMNS)) if shift is None else shift(columns, rows)
    found, true = np.stack(base * (x + move[0], y + move[1])), np.stack(START * (x, y))
    true = np.stack(where * (true[0], true[1])) + (0 if local is None else local(true[0], true[1]))
    return np.hypot(*(found - true)) / RATIO


def cut(pair: Pair, height: int, width: int, beyond_hsi_px: int | None = None) -> Pair:
    """The middle of an unregistered pair, (height, width) HSI pixels; quick.

    Of the guide only what lies up to so many HSI pixels beyond them stays, or all of it.
    """
    top, left = (ROWS - height) // 2, (COLUMNS - width) // 2
    part = (slice(top, top + height), slice(left, left + width))
    start = pair.start * Affine.translation(left, top)
    small = replace(
        pair, low=pair.low[:, *part].contiguous(), low_weight=pair.low_weight[part].contiguous(), start=start
    )
    if beyond_hsi_px is None:
        return small
    b = beyond_hsi_px
    (x0, y0), (x1, y1) = (start * corner for corner in ((-b, -b), (width + b, height + b)))
    there = (slice(int(y0), int(y1)), slice(int(x0), int(x1)))
    guide, weight = pair.guide[:, *there].contiguous(), pair.guide_weight[there].contiguous()
    return replace(small, guide=guide, guide_weight=weight, start=Affine.translation(-x0, -y0) * start)


def hsi_of(pair: Pair, seed: int = 0) -> Tensor:
    """The HSI (n, h, w) whose coefficients `unregistered`, and then perhaps `cut`, gave."""
    height, width = pair.shape
    top, left = (ROWS - height) // 2, (COLUMNS - width) // 2
    return _low(seed + 1)[0][:, top : top + height, left : left + width].contiguous()


def window_of(pair: Pair) -> Raster:
    """The guide's pixels as they are read."""
    grid = Grid(None, STILL, pair.guide.shape[2], pair.guide.shape[1])
    return Raster(pair.guide.numpy(), pair.guide_weight.numpy() > 0, grid)


def astray(
    pair: Pair,
    base: Affine,
    shift: Callable[..., NDArray[np.float64]] | None = None,
    where: Affine = STILL,
    local: Callable[..., NDArray[np.float64]] | None = None,
) -> NDArray[np.float64]:
    """As `misplaced`, of any pair whose start is right but for `where` and `local`: (h, w)."""
    height, width = pair.shape
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    x, y = np.meshgrid(columns, rows)
    move = np.zeros((2, height, width)) if shift is None else shift(columns, rows)
    found, true = np.stack(base * (x + move[0], y + move[1])), np.stack(pair.start * (x, y))
    true = np.stack(where * (true[0], true[1])) + (0 if local is None else local(true[0], true[1]))
    return np.hypot(*(found - true)) / RATIO


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


def pair_with_gaps(folder: Path) -> tuple[Raster, Guide]:
    """A registered pair of 24 x 28 HSI pixels: one of them empty, bands 1 and 30 bad, stored as int16."""
    grid = Grid(CRS.from_epsg(32632), Affine(4, 0, 700_000, 0, -4, 5_400_000), 28, 24)
    pair = observed(truth=scene(24 * RATIO, 28 * RATIO))
    path, fine = folder / "guide.tif", grid.refine(RATIO)
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 4, "crs": fine.crs, "transform": fine.transform}
    with rasterio.open(path, "w", **profile, width=fine.width, height=fine.height) as file:
        file.write(np.rint(2e4 * pair.guide.numpy()).clip(1, 65535).astype(np.uint16))
    values, valid = pair.hsi.numpy().copy(), np.ones(grid.shape, bool)
    values[:, 3, 5], valid[3, 5] = 0, False
    good = np.ones(len(values), bool)
    good[[0, 29]] = False
    hsi = Raster(
        values,
        valid,
        grid,
        wavelengths_nm=WAVELENGTHS,
        fwhm_nm=np.full(BANDS, 8.5),
        good_bands=good,
        encoding=Encoding("int16", 1e-4, 0.0, -9999),
        tags={
            "sensor type": "Test",
            "acquisition time": "2022-07-24T10:45:26Z",
            "default bands": "{9, 5, 2}",
        },
    )
    return hsi, open_guide(path)
