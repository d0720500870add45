"""Repair of what a warp has damaged: the second stage of SSC-HSR's alignment (2025)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsi_fuse.nets.deform import zero_conv


def stretch(flow: Tensor) -> Tensor:
    """A flow's change from pixel to pixel, along columns and along rows: (b, 2, H, W) -> (b, 4, H, W).

    Where it is large, the warp tears, doubles or hides texture.
    """
    across = F.pad(flow.diff(dim=3), [0, 1, 0, 0])
    down = F.pad(flow.diff(dim=2), [0, 0, 0, 1])
    return torch.cat([across, down], 1)


class Repair(nn.Module):
    """A warped guide -> what it lacks, in proportion to how the warp has stretched it; at first nothing.

    Elsewhere the guide is a measurement, and nothing that was learned beats it.

    Parameters
    ----------
    bands, width : int
        Of the guide; channels inside.
    """

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2 * bands + 4, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=2, dilation=2),
            nn.LeakyReLU(0.2),
            zero_conv(width, bands),
        )

    def forward(self, warped: Tensor, lacking: Tensor, flow: Tensor) -> Tensor:
        """What to add to the warped guide.

        Parameters
        ----------
        warped : Tensor (b, m, H, W)
            The guide, fetched along the flow.
        lacking : Tensor (b, m, H, W)
            What it should look like through the PSF, less what it looks like.
        flow : Tensor (b, 2, H, W)

        Returns
        -------
        Tensor (b, m, H, W)
        """
        stretched = stretch(flow)
        added: Tensor = self.layers(torch.cat([warped, lacking, stretched], 1))
        return added * stretched.norm(dim=1, keepdim=True).clamp(max=1)
