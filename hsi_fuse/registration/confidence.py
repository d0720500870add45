"""Where the guide shows what the HSI shows: low at clouds, changes, occlusion, wherever content differs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_opening

from hsi_fuse.registration.fit import Mapped
from hsi_fuse.registration.robust import robust_slopes
from hsi_fuse.registration.warp import Array, Observer

NOISE_FACTOR = 3.0
"""Residuals of so many standard deviations are nothing unusual."""
TAUGHT = 1 << 17
"""HSI pixels that say what the HSI makes of the guide."""
REJECTED = 0.4
CLUSTER = 3
"""Side of the smallest area that is taken out, HSI pixels: a cloud, a field that was mown; not an edge, where
what misfits is two pixels wide."""
CLUSTER_OF_BENT = 2
"""The same of a guide whose response is a curve: that follows a small cloud, where a straight line cannot."""


@dataclass(frozen=True)
class Leniency:
    """What is nothing unusual beside the noise.

    Attributes
    ----------
    content_share : float
        A residual whose square is this share of the pixel's squared contrast to the scene: an imperfect
        sensor model (saturation, a bent response) errs in proportion.
    misplaced_hsi_px : float
        What a misplacement by so much makes of the guide's gradient.
    """

    content_share: float
    misplaced_hsi_px: float


AREAS = Leniency(0.1, 0.0)
"""Where areas are taken out of the guide: better one too few."""
PIXELS = Leniency(0.03, 0.15)
"""Where an analyst is told of each pixel, what is hidden behind an object too."""


@dataclass(frozen=True)
class Misfit:
    """How far what the guide shows is off what the HSI makes of it.

    Attributes
    ----------
    values, residual : ndarray (m, N)
        What the guide shows, and what is left of it.
    rows, columns : ndarray (N,)
        HSI pixels.
    shape : (h, w)
    """

    values: Array
    residual: Array
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    shape: tuple[int, int]

    @classmethod
    def of(cls, observer: Observer, fitted: Mapped) -> Misfit:
        """At every HSI pixel looked at; none where they are too few to tell.

        Of many pixels some, evenly spread, say what the HSI makes of the guide.
        """
        values, support = observer.shown(fitted.base, fitted.shift)
        residual, inside = np.zeros_like(values), support > 0
        few = slice(None, None, max(len(support) // TAUGHT, 1))
        design = observer.design_of(few)
        if (support[few] > 0).sum() < 2 * len(design):
            inside[:] = False
        else:
            slopes = robust_slopes(values[:, few], design, support[few])
            for start in range(0, len(support), TAUGHT):
                piece = slice(start, start + TAUGHT)
                residual[:, piece] = values[:, piece] - slopes.T @ observer.design_of(piece)
        rows, columns = (places[inside].astype(int) for places in (observer.rows, observer.columns))
        return cls(values[:, inside], residual[:, inside], rows, columns, observer.pair.shape)

    def confidence(self, leniency: Leniency) -> Array:
        """0 to 1 on the HSI's grid (h, w); 1 where nothing is known."""
        out = np.ones(self.shape)
        if not self.rows.size:
            return out
        unusual = np.zeros(len(self.rows))
        for values, residual in zip(self.values, self.residual, strict=True):
            level = np.median(values)
            usual = (NOISE_FACTOR * 1.4826 * np.median(np.abs(residual))) ** 2
            usual = usual + leniency.content_share * (values - level) ** 2
            usual += leniency.misplaced_hsi_px**2 * self._squared_slopes(values, level)
            unusual += residual**2 / np.maximum(usual, 1e-30)
        out[self.rows, self.columns] = 1 / (1 + unusual / len(self.values))
        return out

    def _squared_slopes(self, values: Array, level: float) -> Array:
        """Squared gradient (N,) of what the guide shows in a band, (N,) about its level, an HSI pixel."""
        image = np.full(self.shape, level)
        image[self.rows, self.columns] = values
        squared = sum(np.gradient(image, axis=axis) ** 2 for axis in (0, 1))
        return np.asarray(squared)[self.rows, self.columns]


def confidence_map(observer: Observer, fitted: Mapped, leniency: Leniency = AREAS) -> Array:
    """Confidence of every HSI pixel looked at, 0 to 1, on the HSI's grid (h, w); 1 where nothing is known.

    Parameters
    ----------
    observer : Observer
        Should look at every pixel.
    fitted : Mapped
    leniency : Leniency
    """
    return Misfit.of(observer, fitted).confidence(leniency)


def refined(confidence: Array, ratio: int) -> NDArray[np.float32]:
    """The map on the fine grid, bilinear: (h, w) -> (ratio h, ratio w)."""
    image = torch.from_numpy(confidence.astype(np.float32))[None, None]
    fine = F.interpolate(image, scale_factor=float(ratio), mode="bilinear", align_corners=False)
    return np.asarray(fine[0, 0].numpy())


def rejected(confidence: Array, smallest: int = CLUSTER) -> NDArray[np.bool_]:
    """Areas whose content differs, without the single pixels and edges that merely fit badly: bool (h, w).

    `smallest`: their least side, HSI pixels.
    """
    low = confidence < REJECTED
    core = binary_opening(low, np.ones((smallest, smallest)))
    return np.asarray(binary_dilation(core, np.ones((3, 3))) & (confidence < 0.5 * (1 + REJECTED)) | core)
