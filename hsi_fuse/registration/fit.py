"""Refine a mapping by the data term itself: robust Gauss-Newton over a polynomial and a smooth field.

For a trial mapping the best linear map from the HSI's subspace to what its sensor would see of the guide has
a closed form (variable projection), so neither SRF nor contrast must be known. What is left over is linear in
a small displacement; a Gaussian prior on the local field, whose amplitude and correlation length maximise the
evidence (MacKay, Neural Computation 4, 1992), lets the data say how much local displacement there is: none,
where a polynomial explains the pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from hsi_fuse.errors import AlignmentError
from hsi_fuse.registration.displacement import Displacement, Move, PixelBasis, basis_at
from hsi_fuse.registration.field import Splines
from hsi_fuse.registration.prior import AMPLITUDES, MONOMIALS, Expected, Quadratic, priors_of, solve
from hsi_fuse.registration.robust import Weigh, robust_regression, tukey, unexplained
from hsi_fuse.registration.warp import Observer, Seen

Array = NDArray[np.float64]

NODES_ALONG_SIDE = 22
LEAST_SPACING = 2.0
LONGEST_STEP = 1.5
SETTLED = 0.004
ROUNDS_OF_LENGTH = 5
ENOUGH_FOR_EACH = 16
"""HSI pixels under the guide for each coefficient; where there are less, those at the guide's rim count too.
Only there: a cloud at the rim goes on beyond it, and bends the mapping before it is known for one."""

IN_PROPORTION = 0.003
"""Squared error of a bright pixel, as a share of its contrast, that a PSF or place half known may make."""


class Mapped(Protocol):
    """A mapping `base(place + shift(place))` and what is known of it: of `Fitted` what all have."""

    @property
    def base(self) -> Affine: ...
    @property
    def shift(self) -> Move: ...
    @property
    def left(self) -> float: ...
    @property
    def amplitude(self) -> float: ...
    @property
    def length(self) -> float: ...
    def deviation(self, columns: Array, rows: Array) -> Array:
        """Standard error of the place (root of both axes' variances) at scattered places (N,), HSI pixels."""


@dataclass(frozen=True)
class Fitted:
    """A mapping `base(place + shift(place))` and what is known of it.

    Attributes
    ----------
    base : Affine
        HSI pixel -> guide pixel.
    shift : Displacement
    covariance : ndarray (q, q)
        Of the free parameters.
    jacobian : ndarray (2 (MONOMIALS + size), q)
        From free parameters to polynomial and spline coefficients.
    left : float
        Geometric mean over bands of the share of the guide's variance that stays unexplained.
    amplitude, length : float
        Of the local field, HSI pixels; 0 where there is none.
    weight : ndarray (N,)
        Robust weights of the pixels looked at.
    residual : ndarray (m, N)
        What stays unexplained there, in its own standard deviations.
    """

    base: Affine
    shift: Displacement
    covariance: Array
    jacobian: Array
    left: float
    amplitude: float
    length: float
    weight: Array
    residual: Array

    def deviation(self, columns: Array, rows: Array) -> Array:
        """Standard error of the place (root of both axes' variances) at scattered places (N,), HSI pixels."""
        raw = basis_at(columns, rows, self.shift)
        half = self.jacobian.shape[0] // 2
        root = np.linalg.cholesky(self.covariance + 1e-15 * np.eye(len(self.covariance)))
        spread = self.jacobian @ root
        parts = [raw @ spread[axis * half : (axis + 1) * half] for axis in (0, 1)]
        return np.asarray(np.sqrt(sum((part**2).sum(1) for part in parts)))


def fit(
    observer: Observer,
    base: Affine,
    model: str = "affine",
    local: bool = False,
    iterations: int = 15,
    start: Move | None = None,
    weigh: Weigh = tukey,
    expected: Expected | None = None,
    bright: bool = False,
    settled: float = SETTLED,
) -> Fitted:
    """Gauss-Newton from `base` (and `start`), until nothing moves.

    Parameters
    ----------
    observer : Observer
    base : Affine
        HSI pixel -> guide pixel.
    model : str
        A key of `prior.POLYNOMIALS`.
    local : bool
        Whether to fit a smooth local field too.
    iterations : int
    start : Displacement, optional
        Taken as far as this fit has the same parameters.
    weigh : callable
        Robust weights (N,) of residuals (m, N).
    expected : Expected, optional
        Of the local field; without it all correlation lengths and amplitudes are tried.
    bright : bool
        Whether bright pixels that misfit in proportion to their contrast count (`IN_PROPORTION`). With a
        local field they do; a polynomial, where a field is missing, may go astray by them.
    settled : float
        Largest step, HSI pixels, after which there is no other.

    Raises
    ------
    AlignmentError
        The mapping slid off the guide: too few HSI pixels are left under it.
    """
    shape = observer.pair.shape
    splines = Splines.over(shape, max(LEAST_SPACING, max(shape) / NODES_ALONG_SIDE)) if local else None
    shift = _started(shape, splines, start)
    basis = PixelBasis(observer.columns, observer.rows, shift)
    priors = priors_of(model, shape, splines, expected)
    likely = dict.fromkeys((p.length for p in priors), None if expected is None else expected.likely)
    freedom, spared = 0.0, IN_PROPORTION if local or bright else 0.0
    for step in range(iterations):
        seen = observer.see(base, shift)
        linear = _linearise(observer, seen, basis, shift.parameters, freedom, weigh, spared)
        answers = [solve(linear, prior, likely[prior.length]) for prior in priors]
        likely = {a.prior.length: a.amplitude for a in answers}
        answer = max(answers, key=lambda a: a.evidence)
        if step >= ROUNDS_OF_LENGTH:
            priors = [p for p in priors if p.length == answer.prior.length]
        change = answer.raw - shift.parameters
        # beyond the guide a field may go on moving for long, and nothing comes of it
        move = float(np.abs((basis.at @ change.T)[linear.weight > 0]).max())
        new = shift.parameters + change * min(1.0, LONGEST_STEP / max(move, 1e-12))
        shift = Displacement(shape, new[:, :MONOMIALS], splines, new[:, MONOMIALS:])
        freedom = answer.freedom
        if move < settled:
            break
    return Fitted(
        base, shift, answer.covariance, answer.prior.raw(np.eye(len(answer.free))), linear.left,
        AMPLITUDES[answer.amplitude] if local else 0.0, answer.prior.length, linear.weight, linear.residual,
    )  # fmt: skip


def _started(shape: tuple[int, int], splines: Splines | None, start: Move | None) -> Displacement:
    """The start as a displacement of this fit's own parameters."""
    size = 0 if splines is None else splines.size
    if not isinstance(start, Displacement):
        return Displacement(shape, np.zeros((2, MONOMIALS)), splines, np.zeros((2, size)))
    kept = start.coefficients
    if kept is None or kept.shape[1] != size:
        kept = np.zeros((2, size))
    return Displacement(shape, start.polynomial, splines, kept)


def _linearise(
    observer: Observer,
    seen: Seen,
    basis: PixelBasis,
    now: Array,
    freedom: float,
    weigh: Weigh,
    in_proportion: float,
) -> Quadratic:
    raw = basis.at
    plenty = seen.support.sum() > ENOUGH_FOR_EACH * len(observer.design)
    weight, m = seen.support if plenty else seen.weight, len(seen.values)
    if weight.sum() < 2 * len(observer.design):
        raise AlignmentError("the mapping slid off the reference")
    weight, residual, span = robust_regression(seen.values, observer.design, weight, weigh, in_proportion)
    root = np.sqrt(weight)
    count = weight.sum()
    # what the displacement itself explains costs freedom too; never more than it has
    spare = max(count - len(observer.design) - freedom / m, 0.2 * count)
    sigma = np.maximum(np.sqrt((residual**2 * weight).sum(1) / spare), 1e-12)
    slopes = seen.slopes / sigma[:, None]
    moved = np.einsum("amn,an->mn", seen.slopes, (raw @ now.T).T)
    rest = (seen.values - moved) / sigma[:, None] * root
    rest = rest - (rest @ span) @ span.T
    half = raw.shape[1]
    gradient, normal = np.zeros(2 * half), np.zeros((2 * half, 2 * half))
    blocks = [slice(0, half), slice(half, 2 * half)]
    for a in (0, 1):
        gradient[blocks[a]] = raw.T @ (slopes[a] * root * rest).sum(0)
        for b in (a, 1):
            normal[blocks[a], blocks[b]] = basis.gram((slopes[a] * slopes[b]).sum(0) * weight)
    normal[blocks[1], blocks[0]] = normal[blocks[0], blocks[1]].T
    cross = np.concatenate([raw.T @ _each_with_each(slope * root, span) for slope in slopes])
    normal -= cross @ cross.T
    left = unexplained(seen.values, residual, seen.support)
    return Quadratic(float((rest**2).sum()), gradient, normal, left, weight, residual / sigma[:, None])


def _each_with_each(one: Array, other: Array) -> Array:
    """Products of (m, N) with (N, p): (N, m p)."""
    return (one.T[:, :, None] * other[:, None]).reshape(len(other), -1)
