"""Run a network over an image of any size, tile by tile, without seams."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

GRID = 32
"""Pixels: tiles start on multiples of it, so that windows of attention and strides fall as in the whole."""


def tiled(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], side: int, overlap: int = GRID
) -> list[Tensor]:
    """Overlapping tiles, blended linearly over their overlap.

    Parameters
    ----------
    function : callable
        Images (b, c, H, W), one for each input -> images (b, o, H, W).
    inputs : sequence of Tensor (b, c, H, W)
    side : int
        Of the tiles, pixels; an image up to half as large again is done in one piece. Rounded up to a
        multiple of 32 and at least 32 more than the overlap.
    overlap : int

    Returns
    -------
    list of Tensor (b, o, H, W)
    """
    height, width = inputs[0].shape[2:]
    side = max(-(-side // GRID), -(-overlap // GRID) + 1) * GRID
    spans = [_spans(size, side, overlap) for size in (height, width)]
    if len(spans[0]) * len(spans[1]) == 1:
        return list(function(*inputs))
    sums: list[Tensor] = []
    weights = inputs[0].new_zeros(height, width)
    for top, bottom in spans[0]:
        for left, right in spans[1]:
            ramp = _ramp(top, bottom, height, overlap)[:, None] * _ramp(left, right, width, overlap)
            ramp = ramp.to(weights)
            weights[top:bottom, left:right] += ramp
            parts = function(*(image[:, :, top:bottom, left:right] for image in inputs))
            if not sums:
                sums = [p.new_zeros(*p.shape[:2], height, width) for p in parts]
            for total, part in zip(sums, parts, strict=True):
                total[:, :, top:bottom, left:right] += part * ramp
    return [total / weights for total in sums]


def _spans(size: int, side: int, overlap: int) -> list[tuple[int, int]]:
    """First and last pixel (exclusive) of each tile along an axis."""
    if size <= 3 * side // 2:
        return [(0, size)]
    step = (side - overlap) // GRID * GRID or GRID
    starts = list(range(0, size - overlap, step))
    return [(start, min(start + side, size)) for start in starts if start == 0 or size - start > overlap]


def _ramp(start: int, stop: int, size: int, overlap: int) -> Tensor:
    """Weights of a tile along an axis: rising and falling where it overlaps others, else 1."""
    ramp = torch.ones(stop - start)
    rise = torch.arange(1, overlap + 1) / (overlap + 1)
    if start > 0:
        ramp[:overlap] *= rise[: len(ramp)]
    if stop < size:
        ramp[-overlap:] *= rise.flip(0)[-len(ramp) :]
    return ramp
