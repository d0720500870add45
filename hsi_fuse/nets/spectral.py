"""Spectral-wise attention of SSC-HSR (2025): features mixed by how alike their channels are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hsi_fuse.nets.attention import ChannelAttention, FeedForward, Norm


class SpectralFusion(nn.Module):
    """Two spectral-wise attention blocks: within the features, then with the aggregated reference.

    Queries and keys are channels as vectors over the pixels (`ChannelAttention`). The first block's values
    are the features' own; the second's are multiplied by the reference's, which so comes in. Each has a
    residual and a depth-wise feed-forward after it.

    Parameters
    ----------
    channels, heads : int
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attend = nn.ModuleList(ChannelAttention(channels, heads) for _ in range(2))
        self.norms = nn.ModuleList(Norm(channels) for _ in self.attend)
        self.forwards = nn.ModuleList(FeedForward(channels) for _ in self.attend)

    def forward(self, features: Tensor, reference: Tensor) -> Tensor:
        """(b, c, H, W), (b, c, H, W) -> (b, c, H, W)."""
        values = torch.ones_like(reference), reference
        for norm, attend, forward, by in zip(self.norms, self.attend, self.forwards, values, strict=True):
            features = features + attend(norm(features), by)
            features = features + forward(features)
        return features
