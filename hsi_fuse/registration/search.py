"""Find roughly where the HSI lies in the guide: every shift, and rotations and scales, by regression.

At each trial the guide's bands are regressed on the HSI's leading coefficients over the overlap; what counts
is the likelihood ratio against "the HSI explains nothing", count x log(variance / residual variance): it asks
for a good fit and a large overlap at once, and knows no contrast. All shifts of one rotation and scale come
from a few cross-correlations by FFT.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from affine import Affine
from torch import Tensor

from hsi_fuse.errors import AlignmentError
from hsi_fuse.registration.warp import Pair, apply, gaussian_blur, sample, step_lengths

COARSE_SIDE, COARSE_SIDE_FREE = 40, 28
"""The HSI is pooled until its longer side has at most so many pixels."""
COMPONENTS = 4
FWHM_PX = 1.6
"""Blur of the guide, in (pooled) HSI pixels."""
TOLERATED_PX = 2.0
"""Displacement at the HSI's corners, in (pooled) HSI pixels, from one trial rotation or scale to the next."""
APART_PX = 3
SMALLEST_COUNT = 40


@dataclass(frozen=True)
class Range:
    """What is searched.

    Attributes
    ----------
    shift_hsi_px : float or None
        To each side of the start; None: wherever the overlap suffices.
    degrees : float
        Largest rotation to each side; 180 for any.
    scale : float
        Largest magnification either way, at least 1.
    least_overlap : float
        Fraction of the HSI's valid pixels that must lie under the guide.
    """

    shift_hsi_px: float | None
    degrees: float
    scale: float
    least_overlap: float


@dataclass(frozen=True)
class Candidate:
    """A trial mapping.

    Attributes
    ----------
    mapping : Affine
        HSI pixel -> guide pixel.
    score : float
        Log-likelihood ratio for each (pooled) HSI pixel of the whole image.
    explained : float
        Share of the guide's variance that the HSI explains there.
    """

    mapping: Affine
    score: float
    explained: float


def search(pair: Pair, within: Range, most: int) -> list[Candidate]:
    """The best distinct trial mappings, best first.

    Parameters
    ----------
    pair : Pair
        Its start is the centre of the search.
    within : Range
    most : int
        Number of candidates.

    Raises
    ------
    AlignmentError
        Nowhere within the range do both images overlap enough.
    """
    if not bool((pair.guide_weight > 0).any()):
        raise AlignmentError(
            "the reference has no valid pixel where the HSI lies (all nodata): "
            "check its nodata value and footprint"
        )
    factor = -(-max(pair.shape) // (COARSE_SIDE if within.shift_hsi_px is not None else COARSE_SIDE_FREE))
    coarse = pair.pooled(factor)
    reach = None if within.shift_hsi_px is None else int(np.ceil(within.shift_hsi_px / factor))
    images = _HsiSide(coarse)
    found: list[Candidate] = []
    for magnification in _scales(coarse, within):
        blurred = _blurred(coarse, magnification)
        for degrees in _angles(coarse, within):
            turned = _about_centre(coarse, degrees, magnification)
            found += _best_shifts(images, coarse.grain, blurred, turned, reach, within.least_overlap, most)
    if not found:
        raise AlignmentError(
            "the reference does not overlap the HSI within the range searched"
            + ("" if reach is None else f" ({within.shift_hsi_px:g} HSI pixels about its georeferencing)")
            + ": check that both show one place, or raise align.search_hsi_px"
        )
    fine = [Candidate(c.mapping * Affine.scale(1 / factor), c.score, c.explained) for c in found]
    return _distinct(fine, pair, factor, most)


def _radius(pair: Pair) -> float:
    return float(np.hypot(*pair.shape)) / 2


def _angles(pair: Pair, within: Range) -> Iterator[float]:
    """Trial rotations, degrees, from the smallest on."""
    step = float(np.degrees(TOLERATED_PX / _radius(pair)))
    steps = int(within.degrees / step + 0.999)
    if within.degrees >= 180:
        count = int(np.ceil(360 / step))
        yield from (360 * i / count for i in range(count))
    else:
        yield from (within.degrees * i / max(steps, 1) for i in range(-steps, steps + 1))


def _scales(pair: Pair, within: Range) -> Iterator[float]:
    """Trial magnifications."""
    span = float(np.log(within.scale))
    steps = int(span / (TOLERATED_PX / _radius(pair)) + 0.999)
    yield from (float(np.exp(span * i / max(steps, 1))) for i in range(-steps, steps + 1))


def _about_centre(pair: Pair, degrees: float, magnification: float) -> Affine:
    """The start, with the HSI turned and magnified about its centre."""
    height, width = pair.shape
    to_centre = Affine.translation(width / 2, height / 2)
    return pair.start * to_centre * Affine.rotation(degrees) * Affine.scale(magnification) * ~to_centre


def _blurred(pair: Pair, magnification: float) -> tuple[Tensor, Tensor]:
    """The guide at the HSI's resolution, and where (nearly) the whole blur lies on valid pixels."""
    across, down = step_lengths(Affine.scale(1 / pair.grain) * pair.start)
    sigma = (FWHM_PX / 2.3548 * magnification * across, FWHM_PX / 2.3548 * magnification * down)
    weight = torch.nn.functional.pad(pair.guide_weight[None], [1, 1, 1, 1])
    support = gaussian_blur(weight, sigma)[0, 1:-1, 1:-1]
    return gaussian_blur(pair.guide, sigma), support


class _HsiSide:
    """The HSI's sums that every trial needs: transforms of 1, x_i and x_i x_j over the valid pixels."""

    def __init__(self, pair: Pair) -> None:
        valid = (pair.low_weight > 0).double()
        low = pair.low[:COMPONENTS].double()
        mean = (low * valid).sum((1, 2), keepdim=True) / valid.sum().clamp_min(1)
        low = (low - mean) / (((low - mean) ** 2 * valid).sum((1, 2), keepdim=True).sqrt().clamp_min(1e-30))
        low = low * float(valid.sum()) ** 0.5
        design = torch.cat([torch.ones_like(low[:1]), low]) * valid
        self.size = len(design)
        self.upper = torch.triu_indices(self.size, self.size)
        self.images = torch.cat([design, design[self.upper[0]] * design[self.upper[1]]])
        self.count = float(valid.sum())
        self.shape = pair.shape
        self._cache: dict[tuple[int, int], Tensor] = {}

    def transform(self, size: tuple[int, int]) -> Tensor:
        """Conjugate transforms, padded to a size."""
        if size not in self._cache:
            self._cache = {size: torch.fft.rfft2(self.images, s=size).conj()}
        return self._cache[size]


def _best_shifts(
    hsi: _HsiSide,
    grain: int,
    blurred: tuple[Tensor, Tensor],
    turned: Affine,
    reach: int | None,
    least_overlap: float,
    most: int,
) -> list[Candidate]:
    """The best shifts of one rotation and scale; the mapping goes to guide pixels `grain` times smaller."""
    height, width = hsi.shape
    guide, support = blurred
    (left, right), (top, bottom) = _reach(Affine.scale(1 / grain) * turned, guide, hsi.shape, reach)
    columns, rows = np.arange(left, right + width) + 0.5, np.arange(top, bottom + height) + 0.5
    x, y = apply(Affine.scale(1 / grain) * turned, *np.meshgrid(columns, rows))
    u, v = torch.from_numpy(x), torch.from_numpy(y)
    tall, wide = support.shape
    inside = (u > 0) & (u < wide) & (v > 0) & (v < tall)
    covered = support[v.long().clamp(0, tall - 1), u.long().clamp(0, wide - 1)]
    weight = ((covered > 0.9) & inside).double()
    if float(weight.sum()) < SMALLEST_COUNT:
        return []
    seen = sample(guide, u, v).double()
    centre = (seen * weight).sum((1, 2), keepdim=True) / weight.sum()
    seen = (seen - centre) * weight
    m = len(seen)
    size = (len(rows), len(columns))
    ours = hsi.transform(size)
    theirs = torch.fft.rfft2(torch.cat([weight[None], seen, seen**2]))
    shifts = (bottom - top + 1, right - left + 1)

    def correlate(a: Tensor, b: Tensor) -> Tensor:
        return torch.fft.irfft2(a * b, s=size)[..., : shifts[0], : shifts[1]]

    products = correlate(ours[hsi.size :], theirs[:1])  # sums of x_i x_j over the overlap
    count = products[0]
    enough = count > max(least_overlap * hsi.count, SMALLEST_COUNT)
    if not bool(enough.any()):
        return []
    gram = torch.zeros(int(enough.sum()), hsi.size, hsi.size, dtype=torch.float64)
    gram[:, hsi.upper[0], hsi.upper[1]] = products[:, enough].T
    gram[:, hsi.upper[1], hsi.upper[0]] = products[:, enough].T
    n = count[enough]
    gram = gram + 1e-6 * n[:, None, None] * torch.eye(hsi.size, dtype=torch.float64)
    score = torch.zeros_like(n)
    factor = torch.linalg.cholesky(gram)
    for band in range(m):
        cross = correlate(ours[: hsi.size], theirs[1 + band][None])[:, enough].T[..., None]  # (T, p, 1)
        power = correlate(ours[0], theirs[1 + m + band])[enough]
        explained = (torch.linalg.solve_triangular(factor, cross, upper=False) ** 2).sum((1, 2))
        total = (power - cross[:, 0, 0] ** 2 / n).clamp_min(1e-30)
        rest = (power - explained).clamp_min(0) * n / (n - hsi.size).clamp_min(1)
        score += (rest / total).clamp(1e-6, 1).log() / m
    strength = torch.full(shifts, -torch.inf, dtype=torch.float64)
    strength[enough] = -score * n / hsi.count
    rest = torch.zeros(shifts, dtype=torch.float64)
    rest[enough] = score.exp()
    out = []
    for _ in range(most):
        best = int(strength.argmax())
        i, j = divmod(best, shifts[1])
        value = float(strength[i, j])
        if not np.isfinite(value) or value <= 0:
            break
        mapping = turned * Affine.translation(left + j, top + i)
        out.append(Candidate(mapping, value, 1 - float(rest[i, j])))
        near = (slice(max(i - APART_PX, 0), i + APART_PX + 1), slice(max(j - APART_PX, 0), j + APART_PX + 1))
        strength[near] = -torch.inf
    return out


def _reach(
    turned: Affine, guide: Tensor, shape: tuple[int, int], reach: int | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last shift in columns and rows."""
    if reach is not None:
        return (-reach, reach), (-reach, reach)
    tall, wide = guide.shape[1:]
    corners = [~turned * corner for corner in ((0, 0), (wide, 0), (0, tall), (wide, tall))]
    (x0, x1), (y0, y1) = ((min(c), max(c)) for c in zip(*corners, strict=True))
    height, width = shape
    # a quarter of the HSI at least must lie on the guide along either axis
    return (
        (int(np.floor(x0 - 0.75 * width)), int(np.ceil(x1 - 0.25 * width))),
        (int(np.floor(y0 - 0.75 * height)), int(np.ceil(y1 - 0.25 * height))),
    )


def _distinct(found: list[Candidate], pair: Pair, factor: int, most: int) -> list[Candidate]:
    """The best candidates whose corners lie apart."""
    height, width = pair.shape
    corners = ((0, 0), (width, 0), (0, height), (width, height))
    kept: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: -c.score):
        places = np.array([candidate.mapping * c for c in corners])
        step = float(np.sqrt(abs(candidate.mapping.determinant)))
        others = (np.array([k.mapping * c for c in corners]) for k in kept)
        if all(np.abs(places - o).max() > APART_PX * factor * step for o in others):
            kept.append(candidate)
        if len(kept) == most:
            break
    return kept
