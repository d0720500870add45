"""Regression of what the guide shows on what the HSI shows, with outliers; and how much it explains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Weigh = Callable[[Tensor], Tensor]

FREEDOM = 2.0
"""Degrees of freedom of Student's t."""
SCALE_ROUNDS = 20
ROUNDS_OF_WEIGHTS = 3
ROBUST_ROUNDS = 4
TUKEY = 4.7
"""Tukey's biweight constant in standard deviations: 95 % efficient on Gaussian residuals."""


def tukey(residual: Tensor) -> Tensor:
    """Tukey's biweight of residuals (m, N), the worst band of each pixel: (N,)."""
    scale = 1.4826 * residual.abs().median(1, keepdim=True).values
    u = (residual / (TUKEY * scale).clamp_min(1e-30)).abs().amax(0)
    return (1 - u.clamp_max(1) ** 2) ** 2


def unexplained(values: Array, residual: Array, support: Array) -> float:
    """Share of the variance left, geometric mean over bands, from mean absolute deviations.

    Outliers are not left out: where the few bright pixels of a dull scene carry all there is to align, a
    wrong place that calls them outliers must not look good.
    """
    inside = support > 0
    centred = values[:, inside] - np.median(values[:, inside], axis=1, keepdims=True)
    share = np.abs(residual[:, inside]).mean(1) / np.maximum(np.abs(centred).mean(1), 1e-30)
    return float(np.exp(2 * np.log(np.clip(share, 1e-6, 1)).mean()))


def student(residual: Tensor) -> Tensor:
    """Weights of residuals (m, N) under Student's t, the worst band of each sample: (N,)."""
    scale = 1.4826 * residual.abs().median(1, keepdim=True).values
    return (FREEDOM + 1) / (FREEDOM + ((residual / scale.clamp_min(1e-30)) ** 2).amax(0))


def information(values: Array, residual: Array, support: Array) -> float:
    """Log-likelihood ratio of a regression to a constant, for each sample and band, nats.

    Errors follow Student's t with a scale of maximum likelihood: each outlier costs the logarithm of how far
    off it is. A cloud cannot hide a good fit elsewhere; nor can a wrong place call the few bright pixels of a
    dull scene, all there is to align, outliers for nothing.
    """
    inside = support > 0
    centred = values[:, inside] - np.median(values[:, inside], axis=1, keepdims=True)
    return float((_likelihood(residual[:, inside]) - _likelihood(centred)).mean())


def _likelihood(values: Array) -> Array:
    """Mean log-likelihood of (m, N) under Student's t about 0, up to a constant: (m,)."""
    squares = values**2
    scale = np.median(squares, axis=1, keepdims=True)
    for _ in range(SCALE_ROUNDS):
        scale = ((FREEDOM + 1) / (FREEDOM + squares / np.maximum(scale, 1e-30)) * squares).mean(
            1, keepdims=True
        )
    scale = np.maximum(scale, 1e-30)
    tail = (FREEDOM + 1) / 2 * np.log1p(squares / (FREEDOM * scale)).mean(1)
    return np.asarray(-0.5 * np.log(scale[:, 0]) - tail)


def robust_regression(
    values: Array, design: Array, support: Array, weigh: Weigh = tukey, in_proportion: float = 0.0
) -> tuple[Array, Array, Array]:
    """Regress values (m, N) on design (p, N) with robust weights, the worst band of each sample.

    Parameters
    ----------
    in_proportion : float
        Square of the error, as a share of a sample's contrast to all, that is no outlier. Such a sample
        weighs what the noise variance is of its own: where all else is a dull sea, the few bright pixels,
        which tell most of the place, miss by many deviations of the sea's and would not count at all.

    Returns
    -------
    weight (N,), residual (m, N), span (N, p)
        `span`: orthonormal columns that span sqrt(weight) design.
    """
    weight, inside = support, support > 0
    contrast = values[:, inside] - np.median(values[:, inside], axis=1, keepdims=True)
    for _ in range(ROUNDS_OF_WEIGHTS):
        residual, _ = _regress(values, design, weight)
        missed = residual[:, inside]
        kept = weigh(torch.from_numpy(missed)).numpy()
        if in_proportion:
            noise = (1.4826 * np.median(np.abs(missed), axis=1, keepdims=True)) ** 2
            share = noise / np.maximum(noise + in_proportion * contrast**2, 1e-30)
            spared = weigh(torch.from_numpy(missed * np.sqrt(share))).numpy() * share.min(0)
            kept = np.maximum(kept, spared)
        weight = np.zeros_like(support)
        weight[inside] = kept * support[inside]
    residual, span = _regress(values, design, weight)
    return weight, residual, span


def robust_slopes(values: Array, design: Array, support: Array) -> Array:
    """Slopes (p, m) of `robust_regression`."""
    weight, _, _ = robust_regression(values, design, support)
    return _slopes(values, design, weight)[0]


def _regress(values: Array, design: Array, weight: Array) -> tuple[Array, Array]:
    slopes, span = _slopes(values, design, weight)
    return values - slopes.T @ design, span


def _slopes(values: Array, design: Array, weight: Array) -> tuple[Array, Array]:
    root = np.sqrt(weight)
    span, triangle = np.linalg.qr((design * root).T)
    # the least ridge: a component that never varies here has no slope
    ridge = 1e-6 * np.abs(triangle.diagonal()).max()
    lhs = np.concatenate([triangle, ridge * np.eye(len(triangle))])
    rhs = np.concatenate([span.T @ (values * root).T, np.zeros((len(triangle), len(values)))])
    return np.linalg.lstsq(lhs, rhs, rcond=None)[0], span
