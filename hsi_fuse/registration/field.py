"""A smooth displacement as a Gaussian process on a lattice of cubic B-splines.

Coefficients of the splines have covariance amplitude^2 exp(-(distance / length)^2), of which the leading
modes are kept. Prior and basis are separable, so that a field on a large grid is two small matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float64]
LEAST_MODE = 1e-3
"""Modes of less variance, as a share of the largest mode's, are left out."""


def _cubic(t: Array) -> Array:
    """The cubic B-spline of unit spacing."""
    t = np.abs(t)
    near, far = 2 / 3 - t**2 + t**3 / 2, (2 - t) ** 3 / 6
    return np.asarray(np.where(t < 1, near, np.where(t < 2, far, 0.0)))


@dataclass(frozen=True)
class Splines:
    """Nodes over an image of (height, width) pixels, about `spacing` pixels apart.

    Attributes
    ----------
    along_columns, along_rows : ndarray
        Places of the nodes; one beyond the image at either end.
    """

    along_columns: Array
    along_rows: Array

    @classmethod
    def over(cls, shape: tuple[int, int], spacing: float) -> Splines:
        """Nodes that cover an image."""
        rows, columns = (_nodes(side, spacing) for side in shape)
        return cls(columns, rows)

    @property
    def spacing(self) -> float:
        """The wider of both spacings, pixels."""
        return float(max(nodes[1] - nodes[0] for nodes in (self.along_columns, self.along_rows)))

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.along_columns) * len(self.along_rows)

    def at(self, columns: Array, rows: Array) -> sparse.csr_matrix:
        """The splines at scattered places (N,): (N, size), 16 entries a row."""
        i, down = _nearest(rows, self.along_rows)
        j, across = _nearest(columns, self.along_columns)
        entries = i[:, :, None] * len(self.along_columns) + j[:, None]  # node (i, j) at i * wide + j
        values, ends = down[:, :, None] * across[:, None], np.arange(0, entries.size + 1, 16)
        return sparse.csr_matrix((values.ravel(), entries.ravel(), ends), (len(rows), self.size))

    def along(self, columns: Array, rows: Array) -> tuple[Array, Array]:
        """The factors of the splines along either axis: (W, nodes), (H, nodes)."""
        return _basis(columns, self.along_columns), _basis(rows, self.along_rows)

    def on_grid(self, coefficients: Array, columns: Array, rows: Array) -> Array:
        """A field (c, size) on the crossings of columns (W,) and rows (H,): (c, H, W)."""
        nodes = coefficients.reshape(-1, len(self.along_rows), len(self.along_columns))
        across, down = self.along(columns, rows)
        return np.asarray(down @ nodes @ across.T)

    def modes(self, length: float) -> Modes:
        """The leading modes of fields of a correlation length, pixels."""
        (values_x, vectors_x), (values_y, vectors_y) = (
            np.linalg.eigh(np.exp(-(((nodes[:, None] - nodes) / length) ** 2)))
            for nodes in (self.along_columns, self.along_rows)
        )
        strength = values_y[:, None] * values_x
        kept = strength > LEAST_MODE * strength.max()
        down, across = kept.any(1), kept.any(0)
        deviation = np.sqrt(np.where(kept, strength, 0))[down][:, across]
        return Modes(vectors_y[:, down], vectors_x[:, across], deviation)


@dataclass(frozen=True)
class Modes:
    """What turns unit normal numbers into coefficients of splines of unit amplitude, and its transpose.

    Separable: what takes q columns of all nodes as a matrix takes those of one axis after the other.

    Attributes
    ----------
    down, across : ndarray (nodes, modes)
        Along rows and columns.
    deviation : ndarray
        Of a mode down times a mode across; 0 where it is left out.
    """

    down: Array
    across: Array
    deviation: Array

    @property
    def count(self) -> int:
        """q."""
        return int(np.count_nonzero(self.deviation))

    def coefficients(self, free: Array) -> Array:
        """Of columns of free numbers: (q, K) -> (nodes, K)."""
        whole = np.zeros((*self.deviation.shape, free.shape[1]))
        whole[self.deviation > 0] = free
        whole = self.across @ (whole * self.deviation[..., None])  # (modes down, nodes across, K)
        return np.asarray((self.down @ whole.reshape(len(whole), -1)).reshape(-1, free.shape[1]))

    def transposed(self, nodes: Array) -> Array:
        """The transpose: (nodes, K) -> (q, K)."""
        columns = nodes.shape[1]
        part = (self.down.T @ nodes.reshape(len(self.down), -1)).reshape(-1, len(self.across), columns)
        whole = (self.across.T @ part) * self.deviation[..., None]
        return np.asarray(whole[self.deviation > 0])


def _nodes(side: int, spacing: float) -> Array:
    """Nodes over one side, at most `spacing` apart, one beyond either end."""
    parts = max(int(np.ceil(side / spacing)), 1)
    return np.arange(-1.0, parts + 2.0) * (side / parts)


def _basis(where: Array, nodes: Array) -> Array:
    """(N, nodes); beyond the outermost whole interval the field stays what it is at its end."""
    return _cubic((_within(where, nodes)[:, None] - nodes) / (nodes[1] - nodes[0]))


def _nearest(where: Array, nodes: Array) -> tuple[NDArray[np.intp], Array]:
    """Of `_basis` the four columns (N, 4) that are not 0, and their values."""
    inside, spacing = _within(where, nodes), nodes[1] - nodes[0]
    first = np.minimum(((inside - nodes[0]) / spacing).astype(int) - 1, len(nodes) - 4)
    four = first[:, None] + np.arange(4)
    return four, _cubic((inside[:, None] - nodes[four]) / spacing)


def _within(where: Array, nodes: Array) -> Array:
    return np.clip(where, nodes[1], nodes[-2])
