"""Optical flow from coarse to fine on cost volumes: the first stage of SSC-HSR's alignment (2025)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsi_fuse.nets.deform import zero_conv
from hsi_fuse.nets.flow import resize_flow, warp

REACH = 2
"""Pixels of a scale that a cost volume looks around."""
LEAST_COST = 1e-2


def cost_volume(wanted: Tensor, seen: Tensor, reach: int = REACH) -> Tensor:
    """How badly each pixel of an image matches those around the same place in another.

    Parameters
    ----------
    wanted, seen : Tensor (b, c, H, W)
        The same quantities; beyond the image its rim is repeated.
    reach : int
        Pixels.

    Returns
    -------
    Tensor (b, (2 reach + 1)^2, H, W)
        Logarithm of the squared difference, less its mean over the places compared: so it does not matter how
        strong the contrast is. Places in row-major order.
    """
    height, width = wanted.shape[2:]
    around = F.pad(seen, [reach] * 4, mode="replicate")
    side = range(2 * reach + 1)
    misfits = [
        ((around[:, :, i : i + height, j : j + width] - wanted) ** 2).mean(1) for i in side for j in side
    ]
    costs = (torch.stack(misfits, 1) + LEAST_COST**2).log()
    return costs - costs.mean(1, keepdim=True)


class OpticalFlow(nn.Module):
    """Flow from features of every scale, the coarsest first; each adds to the flow of the one below.

    A scale compares what the guide should look like with what it looks like where the flow so far says,
    and a few convolutions of these costs and of both features, the reference's fetched along the flow, give
    what the flow lacks. It starts at zero. (The paper tunes a flow network that was trained elsewhere; here
    there is nothing to start from, and cost volumes leave less to learn.)

    Parameters
    ----------
    channels, levels : int
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        costs = (2 * REACH + 1) ** 2
        self.estimate = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(2 * channels + costs, channels, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.LeakyReLU(0.2),
                zero_conv(channels, 2),
            )
            for _ in range(levels)
        )

    def forward(
        self, features: list[Tensor], references: list[Tensor], wanted: Tensor, seen: Tensor
    ) -> list[Tensor]:
        """Flows of every scale.

        Parameters
        ----------
        features, references : list of Tensor (b, c, H, W)
            The finest first, each half as large as the one before.
        wanted, seen : Tensor (b, m, H, W)
            Of the finest size: what the guide should look like, and what it looks like.

        Returns
        -------
        list of Tensor (b, 2, H, W)
            The finest first, in pixels of their scales.
        """
        flows: list[Tensor] = []
        for level in reversed(range(len(features))):
            height, width = features[level].shape[2:]
            prior = (
                resize_flow(flows[0], height, width)
                if flows
                else wanted.new_zeros(len(wanted), 2, height, width)
            )
            smaller = [F.adaptive_avg_pool2d(image, (height, width)) for image in (wanted, seen)]
            costs = cost_volume(smaller[0], warp(smaller[1], prior))
            told = torch.cat([features[level], warp(references[level], prior), costs], 1)
            flows.insert(0, prior + self.estimate[level](told))
        return flows
