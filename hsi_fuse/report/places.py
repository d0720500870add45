"""Places of a scene that are worth a closer look."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.problem import Problem

MOST_PIXELS = 400
LEAST_DOUBT = 0.02
"""Mean of 1 - confidence in a window below which nothing there is worth showing."""


def grid_places(valid: Tensor) -> list[tuple[int, int]]:
    """At most `MOST_PIXELS` valid fine pixels (row, column) on a regular grid, row by row."""
    height, width = valid.shape
    spacing = max(1.0, (height * width / MOST_PIXELS) ** 0.5)
    down, across = (max(1, int(side / spacing)) for side in (height, width))
    rows, columns = (
        ((np.arange(k) + 0.5) * side / k).astype(int) for k, side in ((down, height), (across, width))
    )
    return [(int(r), int(c)) for r in rows for c in columns if bool(valid[r, c])]


def windows(
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


def telling_places(
    problem: Problem,
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    valid: NDArray[np.bool_],
    step: int,
    sam_map: NDArray[np.float32] | None,
    confidence: NDArray[np.float32] | None,
    size: int,
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
    if confidence is not None:
        # the window in which most pixels under the reference are doubted
        doubt = torch.from_numpy(1 - confidence).to(seen.device) * seen
        mean = F.avg_pool2d(doubt[None, None].float(), size, stride=max(1, size // 4))[0, 0]
        if float(mean.max()) > LEAST_DOUBT:
            top, left = (max(1, size // 4) * i for i in divmod(int(mean.argmax()), mean.shape[1]))
            places.append(("reference least believed", top + size // 2, left + size // 2))
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


def unlike_pixels(problem: Problem, count: int = 4) -> list[tuple[int, int]]:
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
