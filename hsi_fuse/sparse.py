"""Linear operators on images as sparse matrices, whose columns are pixels: images (H W, r), channels last.

What an operator does to a pixel it does to all channels of it at once, in one pass over the image: where
channels are many, several times faster than one operation after the other on each of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.physics import Blur, Strip, blur_of

with warnings.catch_warnings():  # torch tells once in a process that such matrices are new
    warnings.simplefilter("ignore")
    torch.eye(1).to_sparse_csr()


def matrix(columns: Tensor, values: Tensor, width: int) -> Tensor:
    """A sparse matrix (N, width) with m entries in each row: their columns (N, m) and values (N, m)."""
    rows, each = columns.shape
    starts = torch.arange(0, each * rows + 1, each, dtype=torch.int32, device=values.device)
    parts = starts, columns.reshape(-1).int(), values.reshape(-1)
    return torch.sparse_csr_tensor(*parts, (rows, width), check_invariants=False)


def five_point(centre: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """The symmetric matrix (H W, H W) of a stencil.

    Parameters
    ----------
    centre : Tensor (H, W)
        Of each pixel with itself.
    down, across : Tensor (H - 1, W), (H, W - 1)
        Of neighbours with each other.
    """
    height, width = centre.shape
    at = torch.arange(height * width, dtype=torch.int32, device=centre.device)
    beside = (
        F.pad(down, (0, 0, 1, 0)),
        F.pad(across, (1, 0)),
        F.pad(across, (0, 1)),
        F.pad(down, (0, 0, 0, 1)),
    )
    values = torch.stack([beside[0], beside[1], centre, beside[2], beside[3]], -1)
    columns = torch.stack([at - width, at - 1, at, at + 1, at + width], -1)
    # what lies beyond the image has no value
    return matrix(columns.clamp_(0, len(at) - 1), values.flatten(0, 1), len(at))


def product(sparse: Tensor, image: Tensor, out: Tensor | None = None) -> Tensor:
    """A sparse matrix (N, M) times (M, r); `torch.mm` clears the result first, which takes as long."""
    out = image.new_empty(len(sparse), image.shape[1]) if out is None else out
    return torch.addmm(out, sparse, image, beta=0, out=out)


@dataclass(frozen=True)
class SparseBlur:
    """D B (`physics.blur_down`) of images (H W, r), H = ratio h, W = ratio w.

    Each separable term of the PSF takes columns together after rows.

    Attributes
    ----------
    rows, columns : sequence of Tensor (h W, H W), (h w, h W)
        A term's matrices.
    rows_back, columns_back : sequence of Tensor
        Their transposes.
    """

    rows: Sequence[Tensor]
    columns: Sequence[Tensor]
    rows_back: Sequence[Tensor]
    columns_back: Sequence[Tensor]

    @classmethod
    def of(cls, blur: Blur, like: Tensor) -> SparseBlur:
        """The same as `blur`, of the type and on the device of `like`."""
        down, across = _along(blur.rows, blur.rank), _along(blur.columns, blur.rank)
        height, width = down.shape[1], across.shape[2]
        return cls(
            [_repeated(each, width) for each in down.to(like)],
            [_in_each_row(each, height) for each in across.to(like)],
            [_repeated(each.T, width) for each in down.to(like)],
            [_in_each_row(each.T, height) for each in across.to(like)],
        )

    def down(self, image: Tensor) -> Tensor:
        """(H W, r) -> (h w, r)."""
        low = product(self.columns[0], product(self.rows[0], image))
        for rows, columns in zip(self.rows[1:], self.columns[1:], strict=True):
            low.addmm_(columns, product(rows, image))
        return low

    def add_up(self, low: Tensor, onto: Tensor) -> None:
        """The adjoint of `down`, (h w, r) -> (H W, r), added to `onto` in place."""
        for rows, columns in zip(self.rows_back, self.columns_back, strict=True):
            onto.addmm_(rows, product(columns, low))


def _along(strips: Sequence[Strip], rank: int) -> Tensor:
    """The strips of an axis as whole matrices (rank, coarse, fine)."""
    whole = strips[0].taps.new_zeros(rank, strips[-1].last, max(s.high for s in strips))
    for s in strips:
        whole[:, s.first : s.last, s.low : s.high] = s.taps
    return whole


def _entries(dense: Tensor) -> tuple[Tensor, Tensor]:
    """Columns and values (a, m) of what a matrix (a, b) holds; m of the fullest row, zeros in others."""
    there = dense != 0
    most = max(int(there.sum(1).max()), 1)
    columns = there.byte().sort(dim=1, descending=True, stable=True).indices[:, :most]
    return columns, dense.gather(1, columns)


def _repeated(dense: Tensor, width: int) -> Tensor:
    """A matrix (a, b) along the rows of an image, in each of its columns: (a width, b width)."""
    columns, values = _entries(dense)
    across = torch.arange(width, device=dense.device)[:, None]
    at = columns[:, None] * width + across  # (a, width, m)
    values = values[:, None].expand_as(at)
    return matrix(at.flatten(0, 1), values.flatten(0, 1), dense.shape[1] * width)


def _in_each_row(dense: Tensor, height: int) -> Tensor:
    """A matrix (a, b) along the columns of an image, in each of its rows: (height a, height b)."""
    columns, values = _entries(dense)
    down = torch.arange(height, device=dense.device)[:, None, None]
    at = columns + down * dense.shape[1]  # (height, a, m)
    values = values.expand_as(at)
    return matrix(at.flatten(0, 1), values.flatten(0, 1), height * dense.shape[1])


def sparse_blur(psf: Tensor, ratio: int, shape: tuple[int, int], like: Tensor) -> SparseBlur:
    """D B of a PSF for HSI images of `shape` (h, w), of the type and on the device of `like`."""
    return SparseBlur.of(blur_of(psf, ratio, shape, like), like)
