"""Tie points: what blocks of HSI pixels that took no part in a fit say about the mapping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hsi_fuse.registration.fit import Mapped
from hsi_fuse.registration.robust import information, robust_regression, unexplained
from hsi_fuse.registration.warp import Array, Observer, Pair

CHECK_HSI_PX = 2
"""Side of the fields of the checkerboard that parts the pixels of the fit from those of the tie points."""
LARGEST_ERROR = 0.15
LARGEST_SHIFT = 3.0
STEPS = 5
LEAST_SHARE = 0.3


def checkerboard(shape: tuple[int, int], device: torch.device) -> Tensor:
    """Two colours of fields: bool (h, w)."""
    rows, columns = (torch.arange(side, device=device) // CHECK_HSI_PX for side in shape)
    return (rows[:, None] + columns[None]) % 2 == 0


def block_side(shape: tuple[int, int], wanted: int) -> int:
    """Blocks of the wanted side, smaller in a scene that would hold fewer than 4 by 4 of them."""
    return max(min(wanted, min(shape) // 4), 5)


def tie_points(
    pair: Pair, fitted: Mapped, psf: Tensor, ratio: int, keep: Tensor, block_hsi_px: int
) -> tuple[Array, int]:
    """Each block's own residual shift: (p, 4) of column, row, shift in columns and in rows; HSI pixels.

    The linear map from HSI to guide is the whole scene's: a block only finds its shift, by Gauss-Newton.
    Blocks whose shift the data does not determine to `LARGEST_ERROR`, or that diverge, give no tie point.

    Parameters
    ----------
    keep : Tensor (h, w), bool
        The pixels used here, which the fit did not see.

    Returns
    -------
    ties : ndarray (p, 4)
    blocks : int
        Those looked at.
    """
    observer = Observer(pair, psf, ratio, keep)
    side = block_side(pair.shape, block_hsi_px)
    grid = tuple(-(-size // side) for size in pair.shape)
    index = (observer.rows // side).astype(int) * grid[1] + (observer.columns // side).astype(int)
    blocks, looked_at = grid[0] * grid[1], len(np.unique(index))
    shifts, step = np.zeros((blocks, 2)), np.zeros((blocks, 2))

    def total(values: Array) -> Array:
        return np.asarray(np.bincount(index, values, blocks), np.float64)

    def moved(columns: Array, rows: Array) -> Array:
        at = [
            np.clip(where // side, 0, count - 1).astype(int)
            for where, count in ((rows, grid[0]), (columns, grid[1]))
        ]
        own = shifts.reshape(*grid, 2)[at[0][:, None], at[1][None]]  # (H, W, 2)
        return np.asarray(fitted.shift(columns, rows) + own.transpose(2, 0, 1))

    for _ in range(STEPS):
        seen = observer.see(fitted.base, moved)
        if seen.support.sum() < 2 * len(observer.design):
            return np.zeros((0, 4)), looked_at
        weight, residual, _ = robust_regression(seen.values, observer.design, seen.support)
        sigma = np.maximum(np.sqrt((residual**2 * weight).sum(1) / max(weight.sum(), 1)), 1e-12)
        rest, slopes = residual / sigma[:, None], seen.slopes / sigma[:, None]
        normal, gradient = np.zeros((blocks, 2, 2)), np.zeros((blocks, 2))
        count = np.maximum(total(weight), 1e-9)
        for r, g in zip(rest, slopes.swapaxes(0, 1), strict=True):
            # a block's own mean (local haze) moves nothing
            r = r - (total(weight * r) / count)[index]
            g = [s - (total(weight * s) / count)[index] for s in g]
            for a in (0, 1):
                gradient[:, a] += total(weight * g[a] * r)
                for b in (0, 1):
                    normal[:, a, b] += total(weight * g[a] * g[b])
        inverse = np.linalg.inv(normal + 1e-9 * np.eye(2))
        step = -np.einsum("bij,bj->bi", inverse, gradient)
        shifts = np.clip(shifts + np.clip(step, -1, 1), -2 * LARGEST_SHIFT, 2 * LARGEST_SHIFT)
    error = np.sqrt(np.einsum("bii->b", inverse))
    share = total(weight) / (side * side)
    good = (
        (error < LARGEST_ERROR)
        & (np.abs(step).max(1) < 0.02)
        & (np.abs(shifts).max(1) < LARGEST_SHIFT)
        & (share > LEAST_SHARE * float(keep.float().mean()))
    )
    places = [
        total(where) / np.maximum(total(np.ones(len(index))), 1)
        for where in (observer.columns, observer.rows)
    ]
    return np.stack([*places, *shifts.T], 1)[good], looked_at


@dataclass(frozen=True)
class Prediction:
    """What a linear map learned on some pixels leaves unexplained of others.

    Attributes
    ----------
    left : float
        Share of the guide's variance.
    information : float
        What the others say of them, nats for each pixel and band (see `robust.information`).
    errors : ndarray (h, w)
        Mean absolute error over bands, each in its own mean absolute deviation; nan elsewhere.
    """

    left: float
    information: float
    errors: Array


def predicted(observer: Observer, unseen: Tensor, fitted: Mapped) -> Prediction:
    """Predict pixels from the others.

    Parameters
    ----------
    observer : Observer
        Of both.
    unseen : Tensor (h, w), bool
        Pixels that the linear map is tried on; it is fitted on the others.
    fitted : Mapped
        The mapping.
    """
    errors = np.full(observer.pair.shape, np.nan)
    seen = observer.see(fitted.base, fitted.shift)
    test = unseen.cpu().numpy()[observer.rows.astype(int), observer.columns.astype(int)]
    enough = 2 * len(observer.design)
    if min(seen.support[~test].sum(), seen.support[test].sum()) < enough:
        return Prediction(1.0, 0.0, errors)
    known, design = seen.values[:, ~test], observer.design[:, ~test]
    weight, _, _ = robust_regression(known, design, seen.support[~test])
    slopes = np.linalg.lstsq((design * np.sqrt(weight)).T, (known * np.sqrt(weight)).T, rcond=1e-6)[0]
    values, support = seen.values[:, test], seen.support[test]
    residual = values - slopes.T @ observer.design[:, test]
    inside = support > 0
    clear = values[:, inside]
    spread = np.abs(clear - np.median(clear, axis=1, keepdims=True)).mean(1)
    places = observer.rows[test][inside].astype(int), observer.columns[test][inside].astype(int)
    errors[places] = (np.abs(residual[:, inside]) / np.maximum(spread, 1e-30)[:, None]).mean(0)
    left = unexplained(values, residual, support)
    return Prediction(left, information(values, residual, support), errors)
