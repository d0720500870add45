"""Iterative deformable feature aggregation (IDFA) of SSC-HSR (2025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hsi_fuse.nets.deform import TAPS, DeformConv, split_taps, zero_conv
from hsi_fuse.nets.flow import warp


class Idfa(nn.Module):
    """A reference aggregated where the fusion's features want it, offsets refined in a few iterations.

    Each iteration sees the fusion's features of its scale and what was aggregated so far (at first the
    reference fetched along the prior flow), adds to every tap's offset up to `reach` pixels and to its
    mask's logit, and aggregates again. The iterations share their weights, so their number can be
    changed without changing the network. Offsets start at the prior flow.

    Parameters
    ----------
    channels, groups : int
    reach : float
        Pixels that an iteration may move a tap.
    iterations : int
        At least 1.
    """

    def __init__(self, channels: int, groups: int, reach: float, iterations: int) -> None:
        super().__init__()
        self.groups, self.reach, self.iterations = groups, reach, iterations
        self.look = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            zero_conv(channels, 3 * TAPS * groups),
        )
        self.aggregate = DeformConv(channels)

    def forward(self, features: Tensor, reference: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Bring the reference to the features.

        Parameters
        ----------
        features, reference : Tensor (b, c, H, W)
        prior : Tensor (b, 2, H, W)
            A flow.

        Returns
        -------
        aggregated : Tensor (b, c, H, W)
        flow : Tensor (b, 2, H, W)
            Mean of the taps' offsets.
        """
        batch, _, height, width = features.shape
        offsets = prior[:, None, None].expand(batch, self.groups, TAPS, 2, height, width)
        logits = prior.new_zeros(batch, self.groups, TAPS, height, width)
        aggregated = warp(reference, prior)
        for _ in range(self.iterations):
            step, told = split_taps(self.look(torch.cat([features, aggregated], 1)), self.groups)
            offsets, logits = offsets + self.reach * torch.tanh(step), logits + told
            aggregated = self.aggregate(reference, offsets, torch.sigmoid(logits))
        return aggregated, offsets.mean((1, 2))
