"""Spatial-channel modulated fusion (SCMF) of UAFL (CVPR 2026): two features gated by place and by channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Scmf(nn.Module):
    """Fuse an encoder's features with a decoder's.

    Both together, once by depth-wise 3 x 3 and 1 x 1 convolutions under a sigmoid map of place, once by a
    1 x 1 convolution under a sigmoid of the channels' means; their sum is added to the decoder's features.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        both = 2 * channels
        self.spatial = nn.Sequential(
            nn.Conv2d(both, both, 3, padding=1, groups=both), nn.LeakyReLU(0.2), nn.Conv2d(both, channels, 1)
        )
        self.place = nn.Sequential(nn.Conv2d(both, 1, 3, padding=1), nn.Sigmoid())
        self.spectral = nn.Conv2d(both, channels, 1)
        self.channel = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(both, channels, 1), nn.Sigmoid())

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        """(b, c, H, W), (b, c, H, W) -> (b, c, H, W)."""
        both = torch.cat([encoded, decoded], 1)
        place = self.spatial(both) * self.place(both)
        return decoded + place + self.spectral(both) * self.channel(both)
