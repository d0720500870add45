"""Where a guide ends: its weight fades, so that no line shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

REACH_HSI_PX = 6


def feather(weight: Tensor, hsi_weight: Tensor, ratio: int) -> Tensor:
    """Let the guide's weight (H, W) fall to 0 smoothly towards where the guide ends: (H, W).

    It falls *inside* the guide's support over `REACH_HSI_PX` HSI pixels: over fewer the eye sees where the
    fine texture ends as a line. Where the HSI has no data either there is nothing to blend with, and holes
    smaller than about two HSI pixels are too small to show a seam: neither makes the weight fall around it.
    """
    if bool((weight >= 1).all()):
        return weight
    empty = (hsi_weight <= 0).to(weight)
    solid = torch.maximum(weight, empty.repeat_interleave(ratio, 0).repeat_interleave(ratio, 1))
    closed = -_largest(-_largest(solid, ratio), ratio)
    half = ratio * REACH_HSI_PX // 2
    lowest = -_largest(-closed, half)
    side = 2 * half + 1
    smooth = F.avg_pool2d(
        _replicate(lowest, half), (side, 1), stride=1
    )  # by axes: a square is many times slower
    smooth = F.avg_pool2d(smooth, (1, side), stride=1)[0, 0]
    return torch.minimum(smooth, weight)


def _largest(image: Tensor, reach: int) -> Tensor:
    """Largest value within `reach` pixels along both axes: (H, W) -> (H, W)."""
    along = F.max_pool2d(_replicate(image, reach), (2 * reach + 1, 1), stride=1)
    return F.max_pool2d(along, (1, 2 * reach + 1), stride=1)[0, 0]


def _replicate(image: Tensor, width: int) -> Tensor:
    """(H, W) -> (1, 1, H + 2 width, W + 2 width), the rim repeated."""
    return F.pad(image[None, None], [width] * 4, mode="replicate")
