"""The guide's SRF by regression: non-negative, robust, as like its prior as the pair allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

from hsi_fuse.registration.robust import ROBUST_ROUNDS, tukey
from hsi_fuse.sensors.known import KnownSensor

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
    spectra: Array, seen: Array, fold: NDArray[np.int64], noise: Array, prior: SrfPrior
) -> tuple[Array, Array, Array, list[float]]:
    """Non-negative and robust: srf (m, n), offset (m,), residual deviation (m,), the prior's strength (m,).

    Minimises sum_i w_i (y_i - r x_i - o)^2 + strength r P r subject to r >= 0, P the prior's penalty. The
    strength is chosen for each guide band by spatial cross-validation, the weights w are Tukey's.

    Parameters
    ----------
    spectra : ndarray (n, N)
        HSI pixels.
    seen : ndarray (m, N)
        The guide seen through the PSF.
    fold : ndarray (N,)
        Which pixels are left out together.
    noise : ndarray (n,)
        Of each HSI band.
    prior : SrfPrior
    """
    n = len(spectra)
    middle = spectra.mean(1)
    scale = max(float(spectra.std()), 1e-30)
    centred = (spectra - middle[:, None]) / scale
    floor = np.diag((noise / scale) ** 2) * 1e-3
    srf, offset = np.zeros((len(seen), n)), np.zeros(len(seen))
    left, chosen = np.zeros(len(seen)), []
    grid = prior.strengths
    for band, (y, penalty) in enumerate(zip(seen, prior.penalties, strict=True)):
        level = y.mean()

        def solve(
            moments: Array, strength: float, penalty: Array = penalty, level: float = level
        ) -> tuple[Array, float]:
            mean = moments[0, 1:] / moments[0, 0]
            covariance = moments[1:, 1:] / moments[0, 0] - np.outer(mean, mean)
            gram, cross = covariance[:n, :n] + floor, covariance[:n, n]
            system = gram + gram.trace() / n * (strength * penalty + 1e-7 * np.eye(n))
            factor = np.linalg.cholesky(system)
            r = nnls(factor.T, np.linalg.solve(factor, cross), maxiter=30 * n)[0]
            return r / scale, level + float(mean[n] - r @ mean[:n] - r @ middle / scale)

        samples = np.concatenate([np.ones((1, len(y))), centred, (y - level)[None]])  # (n + 2, N)
        weight = np.ones(len(y))
        for _ in range(ROBUST_ROUNDS):
            r, o = solve(_moments(samples, weight), grid[len(grid) // 2])
            weight = tukey(torch.from_numpy((y - r @ spectra - o)[None])).numpy()
        folds = [fold == k for k in range(int(fold.max()) + 1)]
        parts = [_moments(samples[:, inside], weight[inside]) for inside in folds]
        whole = np.sum(parts, axis=0)
        scores = np.zeros(len(grid))
        for trial, strength in enumerate(grid):
            for inside, part in zip(folds, parts, strict=True):
                r, o = solve(whole - part, strength)
                error = y[inside] - r @ spectra[:, inside] - o
                scores[trial] += float((weight[inside] * error**2).sum())
        # the strongest within a little of the best: equal evidence, simpler or better known curve
        best = int(np.flatnonzero(scores <= (1 + prior.patience) * scores.min()).max())
        r, o = solve(whole, grid[best])
        srf[band], offset[band] = r, o
        residual = y - r @ spectra - o
        left[band] = np.sqrt(float((weight * residual**2).sum() / weight.sum()))
        chosen.append(float(grid[best]))
    return srf, offset, left, chosen


def _moments(samples: Array, weight: Array) -> Array:
    """Weighted sums of products, all that a regression needs: (p, N), (N,) -> (p, p)."""
    return np.asarray((samples * weight) @ samples.T)


def strips(support: Tensor, folds: int) -> NDArray[np.int64]:
    """Spatial fold of each supported HSI pixel, N of (h, w): strips of rows."""
    rows = torch.nonzero(support)[:, 0].cpu().numpy()
    order = np.argsort(rows, kind="stable")
    fold = np.empty(len(rows), np.int64)
    fold[order] = np.arange(len(rows)) * folds // max(len(rows), 1)
    return fold
