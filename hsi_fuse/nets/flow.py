"""Sample images where a flow says, and bring flows from one scale to another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """(column, row) of every pixel, the first one's centre at 0: (2, H, W)."""
    rows = torch.arange(height, dtype=like.dtype, device=like.device)
    columns = torch.arange(width, dtype=like.dtype, device=like.device)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y])


def sample(image: Tensor, places: Tensor, padding: str = "border", mode: str = "bilinear") -> Tensor:
    """Image values between pixels.

    Parameters
    ----------
    image : Tensor (b, c, H, W)
    places : Tensor (b, 2, P, Q)
        Columns and rows, pixels, the first pixel's centre at 0.
    padding : str
        "border" repeats the rim beyond the image, "zeros" has nothing there.
    mode : str
        "bilinear" or "bicubic".

    Returns
    -------
    Tensor (b, c, P, Q)
    """
    height, width = image.shape[2:]
    # grid_sample without aligned corners: pixel i's centre lies at (2 i + 1) / size - 1
    x = (2 * places[:, 0] + 1) / width - 1
    y = (2 * places[:, 1] + 1) / height - 1
    grid = torch.stack([x, y], -1)
    return F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=False)


def warp(image: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """Fetch each pixel from where the flow says: (b, c, H, W), (b, 2, H, W) -> (b, c, H, W)."""
    height, width = flow.shape[2:]
    return sample(image, pixel_grid(height, width, flow) + flow, mode=mode)


def resize_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """The same flow on a grid of another size, in that grid's pixels: (b, 2, h, w) -> (b, 2, H, W)."""
    scale = flow.new_tensor([width / flow.shape[3], height / flow.shape[2]])
    sized = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
    return sized * scale[:, None, None]
