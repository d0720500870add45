"""Which HSI pixels a mapping is fitted to: all of a small image, textured tiles from all over a large one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch.nn.functional as F
from torch import Tensor

SIDE = 32
"""Of a tile, HSI pixels: the PSF asks for a rim around each."""

Tile = tuple[slice, slice]
"""Rows and columns of an image, the HSI's unless said otherwise."""


def finer(tile: Tile, ratio: int) -> Tile:
    """The same part of the refined grid."""
    rows, columns = (slice(part.start * ratio, part.stop * ratio) for part in tile)
    return rows, columns


def strips(shape: tuple[int, int], tall: int) -> list[Tile]:
    """The whole image (h, w) in strips of rows."""
    height, width = shape
    return [(slice(top, min(top + tall, height)), slice(0, width)) for top in range(0, height, tall)]


def spread(side: int, most: int, overlap: int) -> list[slice]:
    """Parts of one axis, at most so long, each reaching at least `overlap` into the next."""
    count = max(-(-(side - overlap) // (most - overlap)), 1)
    long = min(-(-(side + (count - 1) * overlap) // count), side)
    starts = np.linspace(0, side - long, count).round().astype(int).tolist()
    return [slice(start, start + long) for start in starts]


def textured(low: Tensor, weight: Tensor, most: int) -> list[Tile]:
    """Of each cell of a grid over the image the tile with most texture; together at most `most` pixels.

    A flat area says nothing of where it lies. But a field must be known everywhere: hence the grid.

    Parameters
    ----------
    low : Tensor (k, h, w)
        Coefficients in units of their noise.
    weight : Tensor (h, w)
    most : int
        Where the image has no more pixels, it is one tile.
    """
    height, width = weight.shape
    if height * width <= most:
        return strips((height, width), height)
    side = min(SIDE, height), min(SIDE, width)
    texture = _texture(low, weight, side)
    cells = most // (side[0] * side[1])
    fewer = max(int(min(texture.shape) * np.sqrt(cells / texture.numel())), 1)  # along the shorter axis
    more = min(cells // fewer, max(texture.shape))
    rows, columns = (
        np.linspace(0, count, (fewer if count == min(texture.shape) else more) + 1).round().astype(int)
        for count in texture.shape
    )
    out = []
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            i, j = divmod(int(texture[top:bottom, left:right].argmax()), right - left)
            first = (top + i) * side[0], (left + j) * side[1]
            out.append((slice(first[0], first[0] + side[0]), slice(first[1], first[1] + side[1])))
    return out


def _texture(low: Tensor, weight: Tensor, side: tuple[int, int]) -> Tensor:
    """Energy of differences between neighbours in each whole tile."""
    valid = weight > 0
    across = (low[:, :, 1:] - low[:, :, :-1]).square().sum(0) * (valid[:, 1:] & valid[:, :-1])
    down = (low[:, 1:] - low[:, :-1]).square().sum(0) * (valid[1:] & valid[:-1])
    energy = F.pad(across, (0, 1)) + F.pad(down, (0, 0, 0, 1))
    return F.avg_pool2d(energy[None], side)[0]
