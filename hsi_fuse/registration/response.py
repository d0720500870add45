"""The guide's radiometric response: is it linear in what the HSI sees, and if not, which curve makes it so?

Cameras compress (gamma), processing stretches and inverts; the forward model is linear. For each guide band
the black level and exponent are sought whose power law, blurred to the HSI's resolution, the HSI explains
best; the exponent is one for all bands. The curves are used only where they leave clearly less unexplained
than straight lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar, nnls
from torch import Tensor

from hsi_fuse.errors import AlignmentError
from hsi_fuse.registration.displacement import Move
from hsi_fuse.registration.robust import robust_regression
from hsi_fuse.registration.warp import Array, Observer, Pair

EXPONENTS = tuple(np.exp(np.linspace(np.log(0.35), np.log(3.5), 25)).tolist())
BLACK_LEVELS = (0.001, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5)
"""Below the darkest pixels, as a share of the band's range."""
FINE = {"xatol": 2e-3}
"""To which the logarithm of an exponent and a black level are sought between the grid's places."""
SETTLED_LOG_EXPONENT = 0.02
KNOTS = 48
"""Of the piecewise linear functions by which curves are tried."""
ROUNDS = 2
CLEARLY_LESS = 0.85
"""A curve must leave at most this share of what a straight line leaves unexplained."""
WELL_EXPLAINED = 2e-4
"""A pair that leaves less than this has no curve to look for."""
CLEARLY_INVERTED = 0.5
RANGE = (0.001, 0.999)
"""Quantiles that are a band's range; a curve goes on straight beyond the upper one."""
MOST_BANDS = 24
MOST_PIXELS = 4000


@dataclass(frozen=True)
class Response:
    """What makes a guide band linear in the scene: |span| x^exponent, x = (value - black) / span.

    Attributes
    ----------
    black : float
        The value of no light.
    span : float
        From there to the brightest pixels; negative where larger values are darker.
    exponent : float
    gain : float
        Share of a straight line's unexplained variance that goes away.
    """

    black: float
    span: float
    exponent: float = 1.0
    gain: float = 0.0

    @property
    def linear(self) -> bool:
        """True where the band is used as it is."""
        return self.exponent == 1.0 and self.span > 0

    def close_to(self, other: Response) -> bool:
        """Whether a mapping fitted under one serves under the other."""
        same_sign = (self.span > 0) == (other.span > 0)
        return same_sign and abs(np.log(self.exponent / other.exponent)) < SETTLED_LOG_EXPONENT

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The linearised band."""
        return values if self.linear else self.bent(values.astype(np.float64)).astype(np.float32)

    def bent(self, values: Array) -> Array:
        """The power law, straight beyond the brightest pixels."""
        x = (values - self.black) / self.span
        bent = np.clip(x, 0, 1) ** self.exponent + self.exponent * np.maximum(x - 1, 0)
        return np.asarray(abs(self.span) * bent)


def fit_responses(
    pair: Pair, base: Affine, shift: Move | None, observer: Observer, spectra: NDArray[np.float32]
) -> Sequence[Response]:
    """One response for each guide band.

    Parameters
    ----------
    pair : Pair
    base, shift
        The mapping.
    observer : Observer
        How the pair is looked at.
    spectra : ndarray (n, h, w)
        The HSI.
    """
    there = spectra[:, observer.rows.astype(int), observer.columns.astype(int)].astype(np.float64)
    tiles = observer.warped(base, shift)
    support = (observer.blurred([tile[-1:] for tile in tiles])[0] > 0.98).astype(np.float64)
    if support.sum() < 2 * len(observer.design):
        raise AlignmentError("the mapping slid off the reference")
    valid = (pair.guide_weight > 0).cpu().numpy()
    bands = []
    for index, native in enumerate(pair.guide.cpu().numpy()):
        low, high = (float(q) for q in np.quantile(native[valid], RANGE))
        bands.append(_Band([tile[index] for tile in tiles], (low, high), observer, support, there))
    straight = np.array([band.left(band.line) for band in bands])
    if straight.max() < WELL_EXPLAINED:
        return [band.response(band.line) for band in bands]
    curves = [band.line for band in bands]
    for _ in range(ROUNDS):
        curves = _best_curves(bands)
        for band, curve in zip(bands, curves, strict=True):
            band.reweigh(curve)
    gains = [1 - b.left(c) / b.left(b.line) for b, c in zip(bands, curves, strict=True)]
    if np.log1p(-np.array(gains)).mean() > np.log(CLEARLY_LESS):
        return [band.response(band.line) for band in bands]
    return [band.response(c, gain) for band, c, gain in zip(bands, curves, gains, strict=True)]


def _best_curves(bands: list[_Band]) -> list[tuple[float, float]]:
    """The curves that leave least: one camera, one exponent, of which each band has something to say.

    The best of a grid, then between its neighbours: where a scene is well explained, what a curve a tenth off
    leaves is enough for the local field to follow, by a pixel.
    """

    def cost(log_exponent: float) -> float:
        exponent = float(np.exp(log_exponent))
        return float(sum(np.log(band.left(band.best(exponent))) for band in bands))

    logs = np.log(EXPONENTS)
    first = int(np.argmin([cost(log) for log in logs]))
    near = logs[max(first - 1, 0)], logs[min(first + 1, len(logs) - 1)]
    exponent = float(np.exp(minimize_scalar(cost, bounds=near, method="bounded", options=FINE).x))
    return [band.best(exponent) for band in bands]


class _Band:
    """One guide band under a mapping: its range, its sign, and how well a curve serves.

    A curve is (exponent, black level as a share of the range).
    """

    line = (1.0, 0.0)

    def __init__(
        self,
        tiles: list[Tensor],
        limits: tuple[float, float],
        observer: Observer,
        support: Array,
        spectra: Array,
    ) -> None:
        """`tiles`: the warped band, (rows, columns) each; `spectra` (n, N)."""
        self.low, high = limits
        self.span = max(high - self.low, 1e-30)
        self.design, self.support = observer.design, support
        hats = [_hats((s - self.low) / self.span) for s in tiles]
        self.hats = observer.blurred(hats)  # what the HSI sees of each, (KNOTS, N)
        self.knots = np.linspace(0, 1, KNOTS)
        self.weight = support
        self.inverted = False
        self.reweigh(self.line)
        self.inverted = _inverted(self.knots @ self.hats, spectra, self.weight)

    def reweigh(self, curve: tuple[float, float]) -> None:
        """Robust weights of the residuals under a curve."""
        values = self._bent(curve)[None] @ self.hats
        self.weight, _, span = robust_regression(values, self.design, self.support)
        root = np.sqrt(self.weight)
        seen = self.hats * root
        mean = (seen @ root) / max(float(self.weight.sum()), 1e-30)
        rest, varied = seen - (seen @ span) @ span.T, seen - mean[:, None] * root
        self.rest, self.varied = rest @ rest.T, varied @ varied.T

    def response(self, curve: tuple[float, float], gain: float = 0.0) -> Response:
        """The power law whose black lies a share of the range under the darkest pixels."""
        exponent, below = curve
        span, high = self.span * (1 + below), self.low + self.span
        if self.inverted:
            return Response(self.low + span, -span, exponent, float(gain))
        return Response(high - span, span, exponent, float(gain))

    def best(self, exponent: float) -> tuple[float, float]:
        """The curve of an exponent that leaves least."""

        def left(below: float) -> float:
            return self.left((exponent, below))

        first = int(np.argmin([left(below) for below in BLACK_LEVELS]))
        near = BLACK_LEVELS[max(first - 1, 0)], BLACK_LEVELS[min(first + 1, len(BLACK_LEVELS) - 1)]
        return exponent, float(minimize_scalar(left, bounds=near, method="bounded", options=FINE).x)

    def left(self, curve: tuple[float, float]) -> float:
        """Share of the variance that stays unexplained."""
        c = self._bent(curve)
        rest, varied = float(c @ self.rest @ c), float(c @ self.varied @ c)
        return max(rest / max(varied, 1e-30), 1e-12)

    def _bent(self, curve: tuple[float, float]) -> Array:
        """The curve at the knots."""
        response = self.response(curve)
        values = self.low + self.span * self.knots
        return np.asarray(response.bent(values))


def _hats(shares: Tensor) -> Tensor:
    """Piecewise linear functions that add up to what they are weighted with: (H, W) -> (KNOTS, H, W)."""
    at = shares * (KNOTS - 1)
    first = at.floor().clamp(0, KNOTS - 2)
    part = (at - first)[None]
    index = first.long()[None]
    out = torch.zeros(KNOTS, *shares.shape, dtype=shares.dtype, device=shares.device)
    return out.scatter_(0, index, 1 - part).scatter_(0, index + 1, part)


def _inverted(values: Array, spectra: Array, weight: Array) -> bool:
    """Whether the band is clearly a non-negative mixture of the HSI's bands only when turned around."""
    thin = slice(None, None, max(len(values) // MOST_PIXELS, 1))
    some = np.array_split(np.arange(len(spectra)), min(MOST_BANDS, len(spectra)))
    mixed = np.stack([spectra[group].mean(0) for group in some])[:, thin]
    root, y = np.sqrt(weight[thin]), values[thin]
    total = max(float((root**2).sum()), 1e-30)
    mixed = (mixed - (mixed @ root**2)[:, None] / total) * root
    y = (y - float(y @ root**2) / total) * root
    scale = np.maximum(np.sqrt((mixed**2).mean()), 1e-30)
    up, down = (nnls((mixed / scale).T, s * y)[1] ** 2 for s in (1.0, -1.0))
    return bool(down < CLEARLY_INVERTED * up)


def linearised(pair: Pair, responses: Sequence[Response]) -> Pair:
    """The pair with its guide made linear; itself where that is so already."""
    if all(response.linear for response in responses):
        return pair
    guide = [r(b.cpu().numpy()) for r, b in zip(responses, pair.guide, strict=True)]
    return replace(pair, guide=torch.from_numpy(np.stack(guide)).to(pair.guide))
