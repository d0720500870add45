"""The pictures of the report: composites, zooms and spectra, taken from factors without mixing the cube."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.problem import Cube, Problem
from hsi_fuse.quality.uncertainty import Uncertainty
from hsi_fuse.report.places import grid_places, telling_places, unlike_pixels, windows

RGB_NM = (640.0, 550.0, 460.0)
SWIR_NM = (2200.0, 1650.0, 860.0)
NEAR_NM = 40.0
NODATA_GREY = 128
BAND_PIXELS = 4_000_000
"""Pixels of the pictures of single bands, all bands together."""

Image = NDArray[np.uint8]  # (H, W, 3), or (H, W): grey


@dataclass(frozen=True)
class Zoom:
    """One place at full resolution: interpolation, product and reference side by side."""

    name: str
    row: int
    column: int
    size: int
    before: Image
    after: Image
    reference: Image


@dataclass(frozen=True)
class Spectrum:
    """The spectra (n,) of one fine pixel before (interpolation) and after (product), and its deviation."""

    name: str
    row: int
    column: int
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    sigma: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class View:
    """The whole scene in one choice of bands: interpolation and product in one stretch.

    `bands` are numbers from 0 among the good bands; pictures (y, x, 3), smaller than the product where that
    is large.
    """

    name: str
    bands: tuple[int, ...]
    before: Image
    after: Image


@dataclass(frozen=True)
class EveryBand:
    """Each good band alone, small: interpolation and product in one stretch, (n, y, x) uint8."""

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


@dataclass(frozen=True)
class PixelGrid:
    """Spectra of a grid of fine pixels.

    Attributes
    ----------
    rows, columns : ndarray (p,), int
        Places in the product.
    before, after : ndarray (p, n)
        Spectra of interpolation and product.
    sigma : ndarray (p, n) or None
        Standard deviation of the product.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    sigma: NDArray[np.float32] | None


@dataclass(frozen=True)
class Pictures:
    """What the report shows of the scene.

    Attributes
    ----------
    views : tuple of View
        The first in natural colours, or what comes closest.
    every_band : EveryBand
    size : (int, int)
        Rows and columns of the product itself; zooms and pixels give their places in it.
    zooms : tuple of Zoom
    spectra : tuple of Spectrum
        A few pixels as unlike as can be.
    grid : PixelGrid
        Those that can be picked.
    """

    views: tuple[View, ...]
    every_band: EveryBand
    size: tuple[int, int]
    zooms: tuple[Zoom, ...]
    spectra: tuple[Spectrum, ...]
    grid: PixelGrid


def take_pictures(
    problem: Problem,
    estimate: Cube,
    interpolation: Cube,
    wavelengths_nm: Sequence[float] | None = None,
    sam_map: NDArray[np.float32] | None = None,
    *,
    confidence: NDArray[np.float32] | None = None,
    uncertainty: Uncertainty | None = None,
    longest: int = 1024,
    zoom_size: int = 96,
) -> Pictures:
    """Views of the whole scene and of every band, zooms at telling places and spectra.

    Zooms: where the product differs most from interpolation, where its spectra agree least with the input
    (`sam_map`), where the reference is least believed (`confidence`, (H, W)), and where it ends. Spectra:
    pixels of the input as unlike as can be, and a grid of at most `places.MOST_PIXELS`.
    """
    choices = views_of(problem.hsi.shape[0], wavelengths_nm)
    ratio = problem.ratio
    valid = (problem.hsi_weight > 0).repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)
    height, width = valid.shape
    step = max(1, -(-max(height, width) // longest))
    valid_small = valid[: height // step * step : step, : width // step * step : step].cpu().numpy()
    wanted = sorted({band for _, bands in choices for band in bands})
    before, after = (view(cube, wanted, step) for cube in (interpolation, estimate))  # (bands, y, x)
    views = []
    for name, bands in choices:
        of = [wanted.index(band) for band in bands]
        limits = stretch_limits(after[of], valid_small)
        pair = [composite(each[of], limits, valid_small) for each in (before, after)]
        views.append(View(name, bands, *pair))
    bands = choices[0][1]
    natural = [wanted.index(band) for band in bands]
    limits = stretch_limits(after[natural], valid_small)
    guide_bands = _guide_bands(problem, wavelengths_nm)
    guide_limits = stretch_limits(
        problem.guide[guide_bands, ::step, ::step].cpu().numpy(),
        (problem.guide_weight[::step, ::step] > 0).cpu().numpy(),
    )
    zooms = []
    size = min(zoom_size, height, width)
    places = telling_places(
        problem, before[natural], after[natural], valid_small, step, sam_map, confidence, size
    )
    for name, top, left in windows(places, size, height, width):
        window = (slice(top, top + size), slice(left, left + size))
        inside = valid[window].cpu().numpy()
        shots = [_window(cube, bands, *window) for cube in (interpolation, estimate)]
        seen = (problem.guide_weight[window] > 0).cpu().numpy()
        guide = problem.guide[guide_bands][:, *window].cpu().numpy()
        images = [composite(shot, limits, inside) for shot in shots]
        zooms.append(Zoom(name, top, left, size, images[0], images[1], composite(guide, guide_limits, seen)))
    spectra = []
    for i, place in enumerate(unlike_pixels(problem)):
        plain, own, sigma = _spectra_at([place], interpolation, estimate, uncertainty)
        spectra.append(Spectrum(str(i + 1), *place, plain[0], own[0], None if sigma is None else sigma[0]))
    at = grid_places(valid)
    grid = PixelGrid(
        np.array([r for r, _ in at], np.int64),
        np.array([c for _, c in at], np.int64),
        *_spectra_at(at, interpolation, estimate, uncertainty),
    )
    alone = _every_band(interpolation, estimate, valid.cpu().numpy())
    return Pictures(tuple(views), alone, (height, width), tuple(zooms), tuple(spectra), grid)


def _every_band(before: Cube, after: Cube, valid: NDArray[np.bool_]) -> EveryBand:
    """Single bands, as fine as `BAND_PIXELS` allows."""
    count, height, width = after.shape
    step = min(math.ceil(math.sqrt(count * height * width / BAND_PIXELS)), height, width)
    valid = valid[: height // step * step : step, : width // step * step : step]
    pair = [view(cube, None, step) for cube in (before, after)]
    limits = stretch_limits(pair[1], valid)
    return EveryBand(*(np.moveaxis(composite(each, limits, valid), 2, 0) for each in pair))


def _spectra_at(
    places: Sequence[tuple[int, int]], before: Cube, after: Cube, uncertainty: Uncertainty | None
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
    """Spectra (p, n) of both cubes and the deviation of the second; places row by row."""
    ranges = [(row, row + 1) for row in dict.fromkeys(r for r, _ in places)]

    def taken(lines: Iterable[Tensor]) -> NDArray[np.float32]:
        found = [torch.zeros(0, after.shape[0])]
        for (row, _), line in zip(ranges, lines, strict=True):
            found.append(line[:, 0, [c for r, c in places if r == row]].T.float().cpu())
        return torch.cat(found).numpy()

    sigma = None if uncertainty is None else taken(uncertainty.rows(*each) for each in ranges)
    return taken(before.parts(ranges)), taken(after.parts(ranges)), sigma


def views_of(count: int, wavelengths_nm: Sequence[float] | None = None) -> list[tuple[str, tuple[int, ...]]]:
    """Names and bands of the composites: natural colours, and SWIR where there is any."""
    views: list[tuple[str, tuple[int, ...]]] = [("RGB", rgb_bands(count, wavelengths_nm))]
    if wavelengths_nm is None:
        return views
    nm = np.asarray(wavelengths_nm, float)
    swir = [int(np.abs(nm - target).argmin()) for target in SWIR_NM]
    if all(abs(nm[band] - target) <= NEAR_NM for band, target in zip(swir, SWIR_NM, strict=True)):
        views.append(("SWIR", tuple(swir)))
    return views


def rgb_bands(count: int, wavelengths_nm: Sequence[float] | None = None) -> tuple[int, int, int]:
    """The bands nearest to 640, 550 and 460 nm; without wavelengths, or outside the visible, spread bands."""
    if wavelengths_nm is not None:
        nm = np.asarray(wavelengths_nm, float)
        nearest = [int(np.abs(nm - target).argmin()) for target in RGB_NM]
        if len(set(nearest)) == 3:
            return nearest[0], nearest[1], nearest[2]
        order = np.argsort(nm)
    else:
        order = np.arange(count)
    spread = [int(order[round(share * (count - 1))]) for share in (5 / 6, 1 / 2, 1 / 6)]
    return spread[0], spread[1], spread[2]


def view(cube: Cube, bands: Sequence[int] | None, step: int = 1) -> NDArray[np.float32]:
    """A few bands of the cube, or all, each step x step pixels averaged: (bands, H // step, W // step)."""
    return cube.averaged(step, bands).float().cpu().numpy()


def stretch_limits(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The 2nd and 98th percentile of the valid pixels of each band, (bands, 2)."""
    if not valid.any():
        return np.tile([0.0, 1.0], (values.shape[0], 1))
    return np.percentile(values[:, valid].astype(float), (2, 98), axis=1).T


def composite(values: NDArray[np.float32], limits: NDArray[np.float64], valid: NDArray[np.bool_]) -> Image:
    """Bands (3, H, W), or any other number of them, stretched to 0..255, (H, W, 3); grey where not valid.

    Share `limits` between pictures that are to be compared.
    """
    low, high = limits[:, :1, None], limits[:, 1:, None]
    scaled = (values - low) / np.where(high > low, high - low, 1)
    image = np.round(255 * np.clip(scaled, 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    image[~valid] = NODATA_GREY
    return np.ascontiguousarray(image)


def _picked(cube: Cube, bands: Sequence[int]) -> Tensor:
    """The matrix that picks some bands, (bands, n)."""
    matrix = torch.zeros(len(bands), cube.shape[0])
    matrix[range(len(bands)), list(bands)] = 1
    return matrix


def _window(cube: Cube, bands: Sequence[int], rows: slice, columns: slice) -> NDArray[np.float32]:
    few = cube.mixed(_picked(cube, bands))
    return few.rows(rows.start, rows.stop)[:, :, columns].float().cpu().numpy()


def _guide_bands(problem: Problem, wavelengths_nm: Sequence[float] | None) -> list[int]:
    """The guide's red, green and blue by the centres of its learned responses."""
    srf = problem.sensor.srf.double().cpu().numpy()
    axis = np.arange(srf.shape[1]) if wavelengths_nm is None else np.asarray(wavelengths_nm, float)
    centres = (srf @ axis) / np.maximum(srf.sum(1), 1e-30)
    if srf.shape[0] < 3:
        return [0, 0, 0]
    if wavelengths_nm is not None:
        nearest = [int(np.abs(centres - target).argmin()) for target in RGB_NM]
        if len(set(nearest)) == 3:
            return nearest
    order = np.argsort(centres)
    return [int(order[2]), int(order[1]), int(order[0])]
