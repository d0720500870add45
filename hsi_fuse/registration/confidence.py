"""Where the guide shows what the HSI shows: low at clouds, changes, occlusion, wherever content differs."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation, binary_opening, map_coordinates

from hsi_fuse.registration.fit import Mapped
from hsi_fuse.registration.robust import robust_regression
from hsi_fuse.registration.warp import Array, Observer

NOISE_FACTOR = 3.0
"""Residuals of so many standard deviations are nothing unusual."""
CONTENT_SHARE = 0.1
"""Nor is a residual whose square is this share of the pixel's squared contrast to the scene: an imperfect
sensor model (saturation, a bent response) errs in proportion."""
REJECTED = 0.4
CLUSTER = 3
"""Side of the smallest area that is taken out, HSI pixels: a cloud, a field that was mown; not an edge, where
what misfits is two pixels wide."""
CLUSTER_OF_BENT = 2
"""The same of a guide whose response is a curve: that follows a small cloud, where a straight line cannot."""


def confidence_map(observer: Observer, fitted: Mapped) -> Array:
    """Confidence of every HSI pixel looked at, 0 to 1, on the HSI's grid (h, w); 1 where nothing is known.

    Parameters
    ----------
    observer : Observer
        Should look at every pixel.
    fitted : Mapped
    """
    seen = observer.see(fitted.base, fitted.shift)
    out = np.ones(observer.pair.shape)
    inside = seen.support > 0
    if inside.sum() < 2 * len(observer.design):
        return out
    _, residual, _ = robust_regression(seen.values, observer.design, seen.support)
    residual, values = residual[:, inside], seen.values[:, inside]
    sigma = 1.4826 * np.median(np.abs(residual), axis=1, keepdims=True)
    contrast = values - np.median(values, axis=1, keepdims=True)
    usual = (NOISE_FACTOR * sigma) ** 2 + CONTENT_SHARE * contrast**2
    unusual = (residual**2 / np.maximum(usual, 1e-30)).mean(0)
    rows, columns = observer.rows[inside].astype(int), observer.columns[inside].astype(int)
    out[rows, columns] = 1 / (1 + unusual)
    return out


def refined(confidence: Array, ratio: int) -> Array:
    """The map on the fine grid, bilinear: (h, w) -> (ratio h, ratio w)."""
    height, width = confidence.shape
    rows, columns = ((np.arange(side * ratio) + 0.5) / ratio - 0.5 for side in (height, width))
    grid = np.meshgrid(rows, columns, indexing="ij")
    return np.asarray(map_coordinates(confidence, grid, order=1, mode="nearest"))


def rejected(confidence: Array, smallest: int = CLUSTER) -> Array:
    """Areas whose content differs, without the single pixels and edges that merely fit badly: bool (h, w).

    `smallest`: their least side, HSI pixels.
    """
    low = confidence < REJECTED
    core = binary_opening(low, np.ones((smallest, smallest)))
    return np.asarray(binary_dilation(core, np.ones((3, 3))) & (confidence < 0.5 * (1 + REJECTED)) | core)
