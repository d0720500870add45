"""Modulated deformable 3 x 3 convolution (Zhu et al., DCNv2, CVPR 2019) on `grid_sample`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsi_fuse.nets.flow import pixel_grid, sample

TAPS = 9


def deform_conv(
    image: Tensor, offsets: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """A 3 x 3 convolution each of whose taps looks where it is told, and counts as much as it is told.

    With zero offsets and a mask of ones it is `conv2d` with one pixel of zero padding.

    Parameters
    ----------
    image : Tensor (b, c, H, W)
    offsets : Tensor (b, g, 9, 2, H, W)
        Columns and rows, pixels, added to each tap's place. The c channels fall into g groups, each with
        offsets of its own; taps in row-major order.
    mask : Tensor (b, g, 9, H, W)
    weight : Tensor (o, c, 3, 3)
    bias : Tensor (o,), optional

    Returns
    -------
    Tensor (b, o, H, W)

    Raises
    ------
    ValueError
        The channels do not fall into the offsets' groups.
    """
    batch, channels, height, width = image.shape
    groups = offsets.shape[1]
    if channels % groups:
        raise ValueError(f"{channels} channels do not fall into {groups} groups")
    taps = pixel_grid(3, 3, image).flatten(1).T - 1  # (9, 2), columns and rows from -1 to 1
    places = pixel_grid(height, width, image) + taps[:, :, None, None] + offsets  # (b, g, 9, 2, H, W)
    places = places.transpose(2, 3).reshape(batch * groups, 2, TAPS * height, width)
    parts = image.reshape(batch * groups, channels // groups, height, width)
    seen = sample(parts, places, padding="zeros").reshape(batch, groups, -1, TAPS, height, width)
    seen = (seen * mask[:, :, None]).reshape(batch, channels * TAPS, height, width)
    return F.conv2d(seen, weight.reshape(len(weight), -1, 1, 1), bias)


class DeformConv(nn.Module):
    """`deform_conv` with weights of its own: c channels in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        plain = nn.Conv2d(channels, channels, 3)
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, image: Tensor, offsets: Tensor, mask: Tensor) -> Tensor:
        """(b, c, H, W), (b, g, 9, 2, H, W), (b, g, 9, H, W) -> (b, c, H, W)."""
        return deform_conv(image, offsets, mask, self.weight, self.bias)


class PlainDeformable(nn.Module):
    """Deformable aggregation as DCNv2 has it: one convolution of both features gives offsets and mask.

    Parameters
    ----------
    channels, groups : int
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.predict = zero_conv(2 * channels, 3 * TAPS * groups)
        self.aggregate = DeformConv(channels)

    def forward(self, features: Tensor, reference: Tensor, prior: Tensor | None) -> tuple[Tensor, Tensor]:
        """Reference features where `features` want them (b, c, H, W), and the flow they came by (b, 2, H, W).

        As the flow counts the offsets' mean. `prior` (b, 2, H, W) is added to them.
        """
        offsets, logits = split_taps(self.predict(torch.cat([features, reference], 1)), self.groups)
        if prior is not None:
            offsets = offsets + prior[:, None, None]
        return self.aggregate(reference, offsets, torch.sigmoid(logits)), offsets.mean((1, 2))


def split_taps(maps: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """(b, 27 g, H, W) -> offsets (b, g, 9, 2, H, W) and mask logits (b, g, 9, H, W)."""
    batch, _, height, width = maps.shape
    parts = maps.reshape(batch, groups, TAPS, 3, height, width)
    return parts[:, :, :, :2], parts[:, :, :, 2]


def zero_conv(channels: int, out: int) -> nn.Conv2d:
    """A 3 x 3 convolution that starts by saying nothing."""
    conv = nn.Conv2d(channels, out, 3, padding=1)
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
