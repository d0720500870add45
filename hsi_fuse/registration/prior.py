"""Gaussian priors on a polynomial and a smooth field, and the best of their parameters by evidence.

A step of `fit` is a linear least-squares problem. Under each prior on the field, of one amplitude and one
correlation length, its answer and the evidence for that prior (MacKay, Neural Computation 4, 1992) have a
closed form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.lapack import dtrtri

from hsi_fuse.registration.field import Modes, Splines

Array = NDArray[np.float64]

POLYNOMIALS: dict[str, tuple[tuple[int, ...], ...]] = {
    # rows: 1, x, y, x^2, x y, y^2 of the column's move, then of the row's; columns: free parameters
    "translation": ((0,), (6,)),
    "similarity": ((0,), (6,), (1, 8), (-2, 7)),
    "affine": ((0,), (1,), (2,), (6,), (7,), (8,)),
    "projective": ((0,), (1,), (2,), (6,), (7,), (8,), (3, 10), (4, 11)),
    "none": (),
}
"""Free parameters as the monomials they move; a negative number moves its monomial the other way.

The projective model is that of a homography to second order."""
MONOMIALS = 6
LENGTHS = (4.0, 6.0, 9.0, 13.0, 20.0, 30.0, 45.0, 70.0)
"""Correlation lengths tried, HSI pixels."""
AMPLITUDES = (0.005, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.8)
"""Amplitudes tried, HSI pixels."""
STRETCH = 0.03
"""Rotation, scale and shear expected of a step from one base to the next."""


@dataclass(frozen=True)
class Expected:
    """What a local field is expected to be like, from a similar fit.

    Attributes
    ----------
    length : float
        Correlation length, HSI pixels.
    amplitude : float or None
        HSI pixels. None: the length is not certain either, and two are tried.
    """

    length: float
    amplitude: float | None = None

    @property
    def tried(self) -> int:
        """How many of `LENGTHS`."""
        return 2 if self.amplitude is None else 1

    @property
    def likely(self) -> int | None:
        """The nearest of `AMPLITUDES`."""
        if self.amplitude is None:
            return None
        return int(np.abs(np.log(AMPLITUDES) - np.log(self.amplitude)).argmin())


@dataclass(frozen=True)
class Prior:
    """Free parameters: the polynomial's, then a field's for either axis, of unit variance at amplitude 1.

    Attributes
    ----------
    polynomial : ndarray (2, MONOMIALS, p)
        What its parameters move.
    precision : ndarray (p,)
    modes : Modes or None
    length : float
    """

    polynomial: Array
    precision: Array
    modes: Modes | None
    length: float

    def raw(self, free: Array) -> Array:
        """Columns of free parameters as polynomial and spline coefficients, axis after axis: (2 raw, K)."""
        first, rest = np.split(free, [len(self.precision)])
        if self.modes is None:
            return np.concatenate([moves @ first for moves in self.polynomial])
        fields = [self.modes.coefficients(part) for part in np.split(rest, 2)]
        return np.concatenate([self.polynomial[0] @ first, fields[0], self.polynomial[1] @ first, fields[1]])

    def free(self, raw: Array) -> Array:
        """The transpose: (2 raw, K) -> (q, K)."""
        axes = np.split(raw, 2)
        first = sum(moves.T @ axis[:MONOMIALS] for moves, axis in zip(self.polynomial, axes, strict=True))
        rest = [] if self.modes is None else [self.modes.transposed(axis[MONOMIALS:]) for axis in axes]
        return np.concatenate([first, *rest])


def priors_of(
    model: str, shape: tuple[int, int], splines: Splines | None, expected: Expected | None
) -> list[Prior]:
    """One for each correlation length that the splines can carry or, where one is expected, near it."""
    moves = POLYNOMIALS[model]
    polynomial = np.zeros((2, MONOMIALS, len(moves)))
    for free, entries in enumerate(moves):
        for entry in entries:
            axis, monomial = divmod(abs(entry), MONOMIALS)
            polynomial[axis, monomial, free] = -1.0 if entry < 0 else 1.0
    bends = np.array([abs(entries[0]) % MONOMIALS > 0 for entries in moves])
    precision = bends / (STRETCH * max(shape) / 2) ** 2
    if splines is None:
        return [Prior(polynomial, precision, None, 0.0)]
    lengths = [length for length in LENGTHS if length >= 1.5 * splines.spacing] or [1.5 * splines.spacing]
    if expected is not None:
        near = expected.length
        lengths = sorted(lengths, key=lambda length: abs(np.log(length / near)))[: expected.tried]
    return [Prior(polynomial, precision, splines.modes(length), length) for length in lengths]


@dataclass(frozen=True)
class Quadratic:
    """The data term about the present mapping, as a quadratic in the raw parameters (axis after axis).

    It is `constant + 2 gradient . p + p . normal p`, in units of the residual's variance; the linear map from
    HSI to guide is projected out.
    """

    constant: float
    gradient: Array
    normal: Array
    left: float
    weight: Array
    residual: Array


@dataclass(frozen=True)
class Answer:
    """The best parameters under a prior, and how much the data speak for it.

    Attributes
    ----------
    evidence : float
    free : ndarray (q,)
    amplitude : int
        Of `AMPLITUDES`.
    prior : Prior
    factor
        Of the system solved.
    precision : ndarray (q,)
        Its part, a diagonal, that the prior makes.
    """

    evidence: float
    free: Array
    amplitude: int
    prior: Prior
    factor: tuple[Array, bool]
    precision: Array

    @property
    def raw(self) -> Array:
        """(2, MONOMIALS + size)."""
        return self.prior.raw(self.free[:, None]).reshape(2, -1)

    @property
    def covariance(self) -> Array:
        """Of the free parameters."""
        return np.asarray(cho_solve(self.factor, np.eye(len(self.free))))

    @property
    def freedom(self) -> float:
        """How many parameters the data determine."""
        root, _ = dtrtri(self.factor[0], lower=True)
        return len(self.free) - float(self.precision @ (np.tril(root) ** 2).sum(0))


def solve(linear: Quadratic, prior: Prior, near: int | None) -> Answer:
    """Minimise the quadratic plus prior; the amplitude by evidence.

    All amplitudes are tried, or, where one was best of a similar quadratic, those that lead up from it.
    """
    normal = prior.free(prior.free(linear.normal).T)
    normal, gradient = (normal + normal.T) / 2, prior.free(linear.gradient[:, None])[:, 0]
    floor = 1e-9 * max(normal.trace() / len(normal), 1e-12)
    fixed = len(prior.precision)

    @cache
    def answer(amplitude: int) -> Answer:
        precision = np.full(len(gradient), AMPLITUDES[amplitude] ** -2)
        precision[:fixed] = prior.precision
        precision += floor
        factor = cho_factor(normal + np.diag(precision), lower=True)
        free = -cho_solve(factor, gradient)
        misfit = linear.constant + gradient @ free
        logs = np.log(factor[0].diagonal()).sum() - 0.5 * np.log(precision[fixed:]).sum()
        return Answer(float(-0.5 * misfit - logs), free, amplitude, prior, factor, precision)

    def best(amplitudes: Iterable[int]) -> Answer:
        return max((answer(a) for a in amplitudes), key=lambda a: a.evidence)

    if prior.modes is None:
        return answer(0)
    if near is None:
        return best(range(len(AMPLITUDES)))
    found = answer(near)
    while True:
        at = found.amplitude
        higher = best(range(max(at - 1, 0), min(at + 2, len(AMPLITUDES))))
        if higher.amplitude == at:
            return found
        found = higher
