"""The pictures of the report: composites, zooms and spectra, taken from factors without mixing the cube."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.problem import Estimate, Problem

RGB_NM = (640.0, 550.0, 460.0)
NODATA_GREY = 128

Image = NDArray[np.uint8]  # (H, W, 3)


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
    """The spectra (n,) of one fine pixel before (interpolation) and after (product)."""

    name: str
    row: int
    column: int
    before: NDArray[np.float32]
    after: NDArray[np.float32]


@dataclass(frozen=True)
class Pictures:
    """What the report shows of the scene.

    Attributes
    ----------
    before, after : ndarray (y, x, 3), uint8
        Interpolation and product in one stretch; smaller than the product where that is large.
    size : (int, int)
        Rows and columns of the product itself; zooms and spectra give their places in it.
    bands : tuple of int
        Red, green and blue of the composites, numbers from 0 among the good bands.
    """

    before: Image
    after: Image
    size: tuple[int, int]
    bands: tuple[int, int, int]
    zooms: tuple[Zoom, ...]
    spectra: tuple[Spectrum, ...]


def take_pictures(
    problem: Problem,
    estimate: Estimate,
    interpolation: Estimate,
    wavelengths_nm: Sequence[float] | None = None,
    sam_map: NDArray[np.float32] | None = None,
    *,
    longest: int = 1024,
    zoom_size: int = 96,
) -> Pictures:
    """Composites, zooms at telling places and spectra of unlike pixels.

    Zooms: where the product differs most from interpolation, where its spectra agree least with the input
    (`sam_map`), and where the reference ends. Spectra: pixels of the input as unlike as can be.
    """
    bands = rgb_bands(problem.hsi.shape[0], wavelengths_nm)
    ratio = problem.ratio
    valid = (problem.hsi_weight > 0).repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)
    height, width = valid.shape
    step = max(1, -(-max(height, width) // longest))
    valid_small = valid[: height // step * step : step, : width // step * step : step].cpu().numpy()
    before, after = (view(e, bands, step) for e in (interpolation, estimate))  # (3, y, x)
    limits = stretch_limits(after, valid_small)
    guide_bands = _guide_bands(problem, wavelengths_nm)
    guide_limits = stretch_limits(
        problem.guide[guide_bands, ::step, ::step].cpu().numpy(),
        (problem.guide_weight[::step, ::step] > 0).cpu().numpy(),
    )
    zooms = []
    size = min(zoom_size, height, width)
    places = _telling_places(problem, before, after, valid_small, step, sam_map)
    for name, top, left in _windows(places, size, height, width):
        window = (slice(top, top + size), slice(left, left + size))
        inside = valid[window].cpu().numpy()
        shots = [_window(e, bands, *window) for e in (interpolation, estimate)]
        seen = (problem.guide_weight[window] > 0).cpu().numpy()
        guide = problem.guide[guide_bands][:, *window].cpu().numpy()
        images = [composite(shot, limits, inside) for shot in shots]
        zooms.append(Zoom(name, top, left, size, images[0], images[1], composite(guide, guide_limits, seen)))
    spectra = []
    for i, (row, column) in enumerate(_unlike_pixels(problem)):
        pair = [e.rows(row, row + 1)[:, 0, column].cpu().numpy() for e in (interpolation, estimate)]
        spectra.append(Spectrum(str(i + 1), row, column, *pair))
    images = [composite(values, limits, valid_small) for values in (before, after)]
    return Pictures(images[0], images[1], (height, width), bands, tuple(zooms), tuple(spectra))


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


def view(estimate: Estimate, bands: Sequence[int], step: int = 1) -> NDArray[np.float32]:
    """A few bands of the cube, each step x step pixels averaged: (bands, H // step, W // step)."""
    few = Estimate(estimate.basis[list(bands)], estimate.mean[list(bands)], estimate.coefficients)
    _, height, width = few.shape
    rows = []
    for top in range(0, height // step * step, step):
        block = few.rows(top, top + step)[:, :, : width // step * step]  # (3, step, W)
        rows.append(block.reshape(len(bands), step, -1, step).mean((1, 3)))
    return torch.stack(rows, 1).float().cpu().numpy()


def stretch_limits(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The 2nd and 98th percentile of the valid pixels of each band, (bands, 2)."""
    if not valid.any():
        return np.tile([0.0, 1.0], (values.shape[0], 1))
    return np.percentile(values[:, valid].astype(float), (2, 98), axis=1).T


def composite(values: NDArray[np.float32], limits: NDArray[np.float64], valid: NDArray[np.bool_]) -> Image:
    """Three bands (3, H, W) stretched to 0..255, (H, W, 3); grey where not valid.

    Share `limits` between pictures that are to be compared.
    """
    low, high = limits[:, :1, None], limits[:, 1:, None]
    scaled = (values - low) / np.where(high > low, high - low, 1)
    image = np.round(255 * np.clip(scaled, 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    image[~valid] = NODATA_GREY
    return np.ascontiguousarray(image)


def _window(estimate: Estimate, bands: Sequence[int], rows: slice, columns: slice) -> NDArray[np.float32]:
    few = Estimate(estimate.basis[list(bands)], estimate.mean[list(bands)], estimate.coefficients)
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


def _windows(
    places: Sequence[tuple[str, int, int]], size: int, height: int, width: int
) -> list[tuple[str, int, int]]:
    """(name, top, left) of the windows around places; one that half repeats another lends it its name."""
    windows: list[tuple[str, int, int]] = []
    for name, row, column in places:
        top, left = (
            int(np.clip(c - size // 2, 0, full - size)) for c, full in ((row, height), (column, width))
        )
        for i, (other, its_top, its_left) in enumerate(windows):
            shared = max(0, size - abs(top - its_top)) * max(0, size - abs(left - its_left))
            if shared > size * size / 2:
                windows[i] = (f"{other}; {name}", its_top, its_left)
                break
        else:
            windows.append((name, top, left))
    return windows


def _telling_places(
    problem: Problem,
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    valid: NDArray[np.bool_],
    step: int,
    sam_map: NDArray[np.float32] | None,
) -> list[tuple[str, int, int]]:
    """(name, row, column) of fine pixels worth a closer look."""
    places: list[tuple[str, int, int]] = []
    change = np.where(valid, np.abs(after - before).mean(0), 0.0)
    cell = max(1, 48 // step)
    tall, wide = max(1, change.shape[0] // cell), max(1, change.shape[1] // cell)
    cells = np.array(
        [[b.mean() for b in np.array_split(r, wide, 1)] for r in np.array_split(change, tall, 0)]
    )
    for rank in (1, 2):
        row, column = np.unravel_index(int(cells.argmax()), cells.shape)
        if cells[row, column] <= 0:
            break
        centre = [
            (i + 0.5) * n / m * step for i, n, m in zip((row, column), change.shape, cells.shape, strict=True)
        ]
        places.append((f"most detail added ({rank})", int(centre[0]), int(centre[1])))
        cells[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = 0  # the next one elsewhere
    half = problem.ratio // 2
    if sam_map is not None and np.isfinite(sam_map).any():
        row, column = np.unravel_index(int(np.nanargmax(sam_map)), sam_map.shape)
        places.append(
            ("spectra agree least", int(row) * problem.ratio + half, int(column) * problem.ratio + half)
        )
    seen = problem.guide_weight > 0
    border = torch.zeros_like(seen)
    border[:, 1:] |= seen[:, 1:] != seen[:, :-1]
    border[1:] |= seen[1:] != seen[:-1]
    points = torch.nonzero(border)
    if len(points):
        # far from what is shown already
        shown = torch.tensor([place[1:] for place in places] or [[0, 0]], device=points.device)
        points = points[:: max(1, len(points) // 4096)]
        away = (points[:, None] - shown).double().square().sum(-1).amin(1)
        row, column = points[int(away.argmax())].tolist()
        places.append(("edge of the reference", row, column))
    return places


def _unlike_pixels(problem: Problem, count: int = 4) -> list[tuple[int, int]]:
    """Fine pixels at the middle of HSI pixels with unlike spectra: farthest-point sampling by angle.

    The first is the one most like the scene's mean. Where the guide covers enough, only what it covers.
    """
    ratio = problem.ratio
    candidates = problem.hsi_weight > 0
    covered = candidates & (problem.guide_weight[ratio // 2 :: ratio, ratio // 2 :: ratio] > 0)
    if int(covered.sum()) >= count:
        candidates = covered
    points = torch.nonzero(candidates)
    points = points[:: max(1, len(points) // 4096)]
    if not len(points):
        return []
    spectra = problem.hsi[:, points[:, 0], points[:, 1]]  # (n, N)
    unit = spectra / spectra.norm(dim=0).clamp_min(1e-12)
    chosen = [int((unit.mean(1) @ unit).argmax())]
    nearest: Tensor = unit[:, chosen[0]] @ unit
    while len(chosen) < min(count, len(points)):
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, unit[:, chosen[-1]] @ unit)
    return [(int(r) * ratio + ratio // 2, int(c) * ratio + ratio // 2) for r, c in points[chosen].tolist()]
