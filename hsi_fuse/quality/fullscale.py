"""Indices at full scale, where no answer is known: D_lambda, D_s and what is made of them (HQNR, QNR).

They compare relations inside the product with the same relations inside the inputs, block by block, and are
complements to the other parts, no proxies of error. All of them are taken over the same few blocks, spread
over the scene, so that the product is neither held nor read as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Cube, Problem
from hsi_fuse.quality.checks import MOST_PIXELS, thinned

BLOCK_HSI_PX = 8
MOST_BLOCKS = 64
P, Q = 1.0, 1.0
"""Exponents of D_lambda and D_s."""


def full_scale(problem: Problem, cube: Cube, q2n: float) -> dict[str, Any]:
    """Full-scale indices of a product without truth.

    - `d_lambda_khan` = 1 - Q2n(degraded product, input) (Khan et al., TGRS 2009), Q2n as given.
    - `d_s` = (mean_b |Q(Z_b, Y_g(b)) - Q(X_b, Y_g(b) degraded)|^q)^(1/q) (Alparone et al., PERS 2008), Q the
      universal image quality index. The reference has several bands: each band b of the product is compared
      with the one, g(b), that its values in the input correlate with best, brought linearly to the mean and
      deviation of band b (its units are its own).
    - `d_lambda` = (mean over pairs a < b of |Q(Z_a, Z_b) - Q(X_a, X_b)|^p)^(1/p), the same source.
    - `hqnr` = (1 - d_lambda_khan)(1 - d_s), `qnr` = (1 - d_lambda)(1 - d_s).

    Q of a pair is its mean over blocks of `BLOCK_HSI_PX` input pixels a side, the same ground at both
    resolutions; blocks with a pixel that has no data, or lies outside the reference, take no part.

    Parameters
    ----------
    problem : Problem
    cube : Cube (n, H, W)
    q2n : float
        Of the degraded product against the input; NaN where it cannot be formed.
    """
    ratio = problem.ratio
    seen = blur_down(problem.guide, problem.sensor.psf, ratio)  # (m, h, w)
    places = _places(problem)
    if not places:
        return {"assessable": False, "reason": f"no block of {BLOCK_HSI_PX} input pixels has all data"}
    matched = _matched(problem, seen)
    across: list[list[Tensor]] = [[], []]
    within: list[list[Tensor]] = [[], []]
    for coarse, fine in _pairs(problem, cube, seen, places):
        for k, (image, guide) in enumerate((fine, coarse)):
            image = image.double()
            across[k].append(_q(image, matched(guide)))
            within[k].append(_q_table(image))
    d_s = _distance(across, Q)
    bands = cube.shape[0]
    upper = torch.triu_indices(bands, bands, 1)
    d_lambda = _distance([[t[upper[0], upper[1]] for t in tables] for tables in within], P)
    khan = 1 - q2n
    return {
        "assessable": True,
        "d_lambda_khan": khan,
        "d_s": d_s,
        "hqnr": (1 - khan) * (1 - d_s),
        "d_lambda": d_lambda,
        "qnr": (1 - d_lambda) * (1 - d_s),
        "block_hsi_px": BLOCK_HSI_PX,
        "blocks": len(places),
        "p": P,
        "q": Q,
    }


def _distance(tables: list[list[Tensor]], exponent: float) -> float:
    fine, coarse = (torch.stack(each).mean(0) for each in tables)
    if not fine.numel():
        return 0.0
    return float(((fine - coarse).abs() ** exponent).mean() ** (1 / exponent))


def _q(a: Tensor, b: Tensor) -> Tensor:
    """Q of each band (c, N) of a block with the same band of another image: (c,)."""
    ma, mb = a.mean(1), b.mean(1)
    covariance = ((a - ma[:, None]) * (b - mb[:, None])).mean(1)
    return _combined(covariance, a.var(1, correction=0) + b.var(1, correction=0), ma * mb, ma**2 + mb**2)


def _q_table(bands: Tensor) -> Tensor:
    """Q of every pair of bands (c, N) of a block: (c, c)."""
    mean = bands.mean(1)
    free = bands - mean[:, None]
    covariance = free @ free.T / bands.shape[1]
    variance, square = covariance.diagonal(), mean**2
    return _combined(
        covariance,
        variance[:, None] + variance[None],
        mean[:, None] * mean[None],
        square[:, None] + square[None],
    )


def _combined(covariance: Tensor, spread: Tensor, product: Tensor, square: Tensor) -> Tensor:
    """Q from its four parts; two images that both have no contrast, or no light, agree on it."""
    contrast = torch.where(spread > 0, 2 * covariance / torch.where(spread > 0, spread, 1.0), 1.0)
    return contrast * torch.where(square > 0, 2 * product / torch.where(square > 0, square, 1.0), 1.0)


def _places(problem: Problem) -> list[tuple[int, int]]:
    """First row and column (input pixels) of the blocks that count."""
    ratio, b = problem.ratio, BLOCK_HSI_PX
    height, width = problem.hsi_weight.shape
    found = []
    for i in range(0, height - b + 1, b):
        for j in range(0, width - b + 1, b):
            fine = problem.guide_weight[i * ratio : (i + b) * ratio, j * ratio : (j + b) * ratio]
            if bool((problem.hsi_weight[i : i + b, j : j + b] > 0).all()) and bool((fine > 0).all()):
                found.append((i, j))
    few = np.unique(np.linspace(0, len(found) - 1, min(len(found), MOST_BLOCKS)).astype(int))
    return [found[k] for k in few]


def _pairs(
    problem: Problem, cube: Cube, seen: Tensor, places: list[tuple[int, int]]
) -> Iterator[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Of each block (input, degraded reference) and (product, reference), (bands, pixels) each."""
    ratio, b = problem.ratio, BLOCK_HSI_PX
    tops = sorted({i for i, _ in places})
    parts = cube.parts((top * ratio, (top + b) * ratio) for top in tops)
    for top, rows in zip(tops, parts, strict=True):
        for left in (j for i, j in places if i == top):
            coarse = (slice(None), slice(top, top + b), slice(left, left + b))
            columns = slice(left * ratio, (left + b) * ratio)
            guide = problem.guide[:, top * ratio : (top + b) * ratio, columns]
            yield (
                (problem.hsi[coarse].flatten(1), seen[coarse].flatten(1)),
                (rows[:, :, columns].flatten(1), guide.flatten(1)),
            )


def _matched(problem: Problem, seen: Tensor) -> Callable[[Tensor], Tensor]:
    """Reference (m, N) -> for each band of the input its partner in that band's units, (n, N)."""
    keep = (problem.hsi_weight > 0) & (
        blur_down(problem.guide_weight[None], problem.sensor.psf, problem.ratio)[0] > 0.99
    )
    keep = thinned(keep, MOST_PIXELS)
    hsi, guide = (image[:, keep].double() for image in (problem.hsi, seen))
    mean, level = hsi.mean(1), guide.mean(1)
    x, y = hsi - mean[:, None], guide - level[:, None]
    scale = x.norm(dim=1)[:, None] * y.norm(dim=1)[None]
    partner = (x @ y.T / scale.clamp_min(1e-30)).argmax(1)
    gain = x.norm(dim=1) / y.norm(dim=1)[partner].clamp_min(1e-30)
    offset = mean - gain * level[partner]
    return lambda image: gain[:, None] * image.double()[partner] + offset[:, None]
