"""A displacement of an image: a polynomial plus a field of splines, linear in its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy import sparse

from hsi_fuse.registration.field import Splines
from hsi_fuse.registration.prior import MONOMIALS

Array = NDArray[np.float64]

POWERS = ((0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0))
"""Of y and x in each monomial."""


class Move(Protocol):
    """A displacement of HSI coordinates: on the crossings of columns (W,) and rows (H,), (2, H, W)."""

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the HSI."""

    @property
    def affine(self) -> Affine:
        """Identity plus what of it is of first order, in HSI pixels."""

    def __call__(self, columns: Array, rows: Array) -> Array: ...


@dataclass(frozen=True)
class Displacement:
    """A displacement of HSI coordinates: polynomial plus local field, HSI pixels.

    Attributes
    ----------
    shape : (h, w)
    polynomial : ndarray (2, MONOMIALS)
        Of 1, x, y, x^2, x y, y^2; x and y run from -1 to 1 over the longer side.
    splines : Splines or None
    coefficients : ndarray (2, size)
    """

    shape: tuple[int, int]
    polynomial: Array
    splines: Splines | None = None
    coefficients: Array | None = None

    @classmethod
    def none(cls, shape: tuple[int, int]) -> Displacement:
        """No displacement of an image of (h, w) pixels."""
        return cls(shape, np.zeros((2, MONOMIALS)))

    def __call__(self, columns: Array, rows: Array) -> Array:
        """On the crossings of columns (W,) and rows (H,): (2, H, W)."""
        across, down = (np.vander(x, 3, increasing=True) for x in _normalised(columns, rows, self.shape))
        nodes = np.zeros((2, 3, 3))  # of powers of y and of x
        nodes[:, *np.transpose(POWERS)] = self.polynomial
        out: Array = down @ nodes @ across.T
        if self.splines is not None and self.coefficients is not None:
            out = out + self.splines.on_grid(self.coefficients, columns, rows)
        return out

    @property
    def parameters(self) -> Array:
        """(2, MONOMIALS + size)."""
        return (
            self.polynomial if self.coefficients is None else np.hstack([self.polynomial, self.coefficients])
        )

    @property
    def affine(self) -> Affine:
        """Identity plus the polynomial's first order, in HSI pixels."""
        (height, width), scale = self.shape, max(self.shape) / 2
        (tx, xx, xy), (ty, yx, yy) = self.polynomial[:, :3]
        return (
            Affine.translation(width / 2 + tx, height / 2 + ty)
            * Affine(1 + xx / scale, xy / scale, 0, yx / scale, 1 + yy / scale, 0)
            * Affine.translation(-width / 2, -height / 2)
        )


def basis_at(columns: Array, rows: Array, like: Displacement) -> sparse.csr_matrix:
    """Monomials and splines of a displacement at scattered places: (N, MONOMIALS + size)."""
    polynomial = sparse.csr_matrix(_monomials(*_normalised(columns, rows, like.shape)).T)
    if like.splines is None:
        return polynomial
    return sparse.csr_matrix(sparse.hstack([polynomial, like.splines.at(columns, rows)]))


class PixelBasis:
    """Monomials and splines of a displacement at the centres of pixels.

    Each is a function of the row times one of the column. So are their products, of which only those of
    neighbours are not 0: sums over all pixels are two small matrix products.

    Attributes
    ----------
    at : sparse matrix (N, q)
        q = MONOMIALS + size.
    """

    def __init__(self, columns: Array, rows: Array, like: Displacement) -> None:
        """`columns`, `rows` (N,): centres of different pixels."""
        self.at = basis_at(columns, rows, like)
        self._pixels = rows.astype(int), columns.astype(int)
        powers, splines = np.array(POWERS), like.splines
        i, j = (np.arange(side, dtype=np.float64) + 0.5 for side in like.shape)
        x, y = _normalised(j, i, like.shape)
        along = [np.vander(where, 3, increasing=True) for where in (y, x)]
        which = [powers[:, 0], powers[:, 1]]  # of the functions along either axis makes each of the q
        if splines is not None:
            fields = splines.along(j, i)
            along = [np.hstack(both) for both in zip(along, fields[::-1], strict=True)]
            nodes = np.indices([f.shape[1] for f in fields[::-1]]).reshape(2, -1) + 3
            which = [np.append(w, n) for w, n in zip(which, nodes, strict=True)]
        (self._down, rows_of), (self._across, columns_of) = (_products(functions) for functions in along)
        down, across = (index[np.ix_(w, w)] for index, w in zip((rows_of, columns_of), which, strict=True))
        self._entries = down * self._across.shape[1] + across  # (q, q)

    def gram(self, weight: Array) -> Array:
        """at.T diag(weight) at: (N,) -> (q, q)."""
        image = np.zeros((len(self._down), len(self._across)))
        image[self._pixels] = weight
        return np.asarray((self._down.T @ image @ self._across).ravel()[self._entries])


def _products(functions: Array) -> tuple[Array, NDArray[np.intp]]:
    """Products of any two of the functions (side, u) along an axis.

    Returns
    -------
    products (side, P + 1)
        Those that are not 0 everywhere; the last one is.
    index (u, u)
        Which of them each pair has.
    """
    one, other = np.triu_indices(functions.shape[1])
    products = functions[:, one] * functions[:, other]
    kept = products.any(0)
    index = np.full((functions.shape[1],) * 2, kept.sum())
    index[one[kept], other[kept]] = np.arange(kept.sum())
    return np.pad(products[:, kept], ((0, 0), (0, 1))), np.minimum(index, index.T)


def _normalised(columns: Array, rows: Array, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Coordinates about the image's centre, in halves of its longer side."""
    scale = max(shape) / 2
    return (columns - shape[1] / 2) / scale, (rows - shape[0] / 2) / scale


def _monomials(x: Array, y: Array) -> Array:
    return np.stack([y**down * x**across for down, across in POWERS])
