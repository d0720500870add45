"""The guide's SRF by regression: non-negative, robust, as like its prior as the pair allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from torch import Tensor

from hsi_fuse.registration.robust import ROBUST_ROUNDS, tukey
from hsi_fuse.sensors.known import KnownSensor
from hsi_fuse.subspace import Subspace

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SrfPrior:
    """What is expected of each guide band's response before the pair is asked.

    Attributes
    ----------
    penalties : ndarray (m, n, n)
        Quadratic forms of responses: roughness, where nothing is known; else what is left of a response
        besides a multiple of the known one.
    strengths : ndarray
        Among which cross-validation chooses.
    known : ndarray (m, n) or None
    patience : float
        Excess of the held-out squared error over the least up to which a stronger prior is taken.
    """

    penalties: Array
    strengths: Array
    known: Array | None = None
    patience: float = 0.01

    @classmethod
    def of(cls, known: KnownSensor, bands: int, n: int) -> SrfPrior:
        """The prior that goes with what is known, for `bands` guide bands and n HSI bands."""
        if known.srf is None:
            second = np.diff(np.eye(n), 2, axis=0) if n > 2 else np.zeros((0, n))
            return cls(np.broadcast_to(second.T @ second, (bands, n, n)), np.geomspace(1e-6, 1e2, 9))
        rows = known.srf.double().cpu().numpy()
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        aside = np.eye(n) - unit[:, :, None] * unit[:, None, :]
        return cls(aside, np.geomspace(1e-6, 1e2, 9) if known.nominal else np.array([1e8]), rows, 0.1)

    def found(self, srf: Array, strengths: list[float]) -> dict[str, object]:
        """How the learned responses (m, n) came about; JSON-ready."""
        if self.known is None:
            return {"srf": "learned", "srf_smoothness": strengths}
        told = self.known / np.linalg.norm(self.known, axis=1, keepdims=True)
        alike = (told * srf).sum(1) / np.linalg.norm(srf, axis=1).clip(1e-30)
        return {
            "srf": "given" if len(self.strengths) == 1 else "learned around a nominal one",
            "srf_prior_strength": strengths,
            "srf_nominal": self.known.tolist(),
            "srf_nominal_cosine": alike.tolist(),
        }


def fit_srf(
    subspace: Subspace, low: Array, seen: Array, fold: NDArray[np.int64], prior: SrfPrior
) -> tuple[Array, Array, Array, list[float]]:
    """Non-negative and robust: srf (m, n), offset (m,), residual deviation (m,), the prior's strength (m,).

    Minimises sum_i w_i (y_i - r x_i - o)^2 + strength r P r subject to r >= 0, P the prior's penalty. The
    strength is chosen for each guide band by spatial cross-validation (geometric mean of the folds' squared
    errors), the weights w are Tukey's, of what the weakest prior leaves. The pixels are asked once for each
    change of weights: a fit, and its error in a fold, take their moments only.

    Parameters
    ----------
    subspace : Subspace
        Of k dimensions; with its noise of each of the n HSI bands.
    low : ndarray (k, N)
        HSI pixels, as coefficients in it.
    seen : ndarray (m, N)
        The guide seen through the PSF.
    fold : ndarray (N,)
        Which pixels are left out together.
    prior : SrfPrior
    """
    fits = [
        _fit_band(_Regression.of(subspace, low, y), fold, penalty, prior)
        for y, penalty in zip(seen, prior.penalties, strict=True)
    ]
    srf, offset, left, chosen = zip(*fits, strict=True)
    return np.stack(srf), np.array(offset), np.array(left), list(chosen)


def freest_srf(subspace: Subspace, low: Array, seen: Array, weight: Array) -> tuple[Array, Array]:
    """Non-negative responses (m, n) and offsets (m,) that fit best, whatever they look like.

    `fit_srf` without a prior, of pixels (N,) that weigh as given.
    """
    fits, everywhere = [], [np.ones(len(weight), bool)]
    for y in seen:
        band = _Regression.of(subspace, low, y)
        fits.append(band.solve(band.moments(weight, everywhere)[0], np.zeros(())))
    srf, offset = zip(*fits, strict=True)
    return np.stack(srf), np.array(offset)


def _fit_band(
    band: _Regression, fold: NDArray[np.int64], penalty: Array, prior: SrfPrior
) -> tuple[Array, float, float, float]:
    """`fit_srf` of one guide band, its response (n,) penalised by (n, n)."""
    grid, folds = prior.strengths, [fold == k for k in range(int(fold.max()) + 1)]
    # an outlier is what no response explains: a smooth one would drop the few pixels that show its shape
    weight, freest = np.ones(len(fold)), grid[0] * penalty
    r, o = band.solve(band.moments(weight, folds).sum(0), freest)
    for _ in range(ROBUST_ROUNDS):
        weight = tukey(torch.from_numpy(band.residual(r, o)[None])).numpy()
        moments = band.moments(weight, folds)
        r, o = band.solve(moments.sum(0), freest)
    whole = moments.sum(0)
    scores = []
    for strength in grid:
        fits = [band.solve(whole - inside, strength * penalty) for inside in moments]
        errors = [band.squares(inside, *fit) for inside, fit in zip(moments, fits, strict=True)]
        # likelihoods of folds that each have their own unknown noise: bright pixels of one do not outvote all
        scores.append(math.exp(np.log(np.maximum(errors, 1e-300)).mean()))
    # the strongest within a little of the best: equal evidence, simpler or better known curve
    best = max(i for i, s in enumerate(scores) if s <= (1 + prior.patience) * min(scores))
    r, o = band.solve(whole, grid[best] * penalty)
    left = np.sqrt(band.squares(whole, r, o) / weight.sum())
    return r, o, float(left), float(grid[best])


@dataclass(frozen=True)
class _Regression:
    """Of one guide band on spectra that lie in a subspace, by second moments.

    Attributes
    ----------
    basis : ndarray (n, k)
    mean, noise : ndarray (n,)
        Of the spectra x = basis a + mean.
    design : ndarray (k + 2, N)
        A row of ones, the coefficients a, the guide band less `level`.
    level : float
    """

    basis: Array
    mean: Array
    noise: Array
    design: Array
    level: float

    @classmethod
    def of(cls, subspace: Subspace, low: Array, y: Array) -> _Regression:
        """Of a guide band (N,) on coefficients (k, N) in a subspace."""
        basis, mean, noise = (
            part.double().cpu().numpy() for part in (subspace.basis, subspace.mean, subspace.noise)
        )
        level = float(y.mean())
        return cls(basis, mean, noise, np.concatenate([np.ones_like(y)[None], low, (y - level)[None]]), level)

    def moments(self, weight: Array, folds: list[NDArray[np.bool_]]) -> Array:
        """Weighted sums of products (folds, k + 2, k + 2) over the pixels of each fold."""
        return np.stack([(self.design[:, f] * weight[f]) @ self.design[:, f].T for f in folds])

    def solve(self, moments: Array, penalty: Array) -> tuple[Array, float]:
        """Response (n,), with the penalty (n, n) on it in units of the spectra's variance, and offset."""
        n, total = len(self.basis), moments[0, 0]
        mean = moments[0, 1:] / total
        covariance = moments[1:, 1:] / total - np.outer(mean, mean)  # (k + 1, k + 1)
        gram = self.basis @ covariance[:-1, :-1] @ self.basis.T + 1e-3 * np.diag(self.noise**2)
        unit = max(float(gram.trace()) / n, 1e-60)
        factor = np.linalg.cholesky(gram / unit + penalty + 1e-7 * np.eye(n))
        cross = self.basis @ covariance[:-1, -1] / unit
        r, _ = nnls(factor.T, solve_triangular(factor, cross, lower=True), maxiter=30 * n)
        offset = mean[-1] + self.level - r @ (self.mean + self.basis @ mean[:-1])
        return r, float(offset)

    def squares(self, moments: Array, r: Array, offset: float) -> float:
        """Weighted sum of squared residuals of a response over the pixels of these moments."""
        slopes = self._slopes(r, offset)
        return max(float(slopes @ moments @ slopes), 0.0)

    def residual(self, r: Array, offset: float) -> Array:
        """Of each pixel (N,)."""
        return np.asarray(self._slopes(r, offset) @ self.design)

    def _slopes(self, r: Array, offset: float) -> Array:
        """Of the residual on the design's rows: (k + 2,)."""
        constant = self.level - offset - r @ self.mean
        return np.concatenate([[constant], -(r @ self.basis), [1.0]])


def strips(support: Tensor, folds: int) -> NDArray[np.int64]:
    """Spatial fold of each supported HSI pixel, N of (h, w): strips of rows."""
    rows = torch.nonzero(support)[:, 0].cpu().numpy()
    order = np.argsort(rows, kind="stable")
    fold = np.empty(len(rows), np.int64)
    fold[order] = np.arange(len(rows)) * folds // max(len(rows), 1)
    return fold
