"""Coarse-to-fine deformable aggregation (CFDA) of UAFL (CVPR 2026): a reference brought to its place."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsi_fuse.nets.deform import TAPS, DeformConv, split_taps, zero_conv
from hsi_fuse.nets.flow import resize_flow, warp

FREQUENCIES, TEMPERATURE = 8, 10000.0


def fractional_encoding(flow: Tensor) -> Tensor:
    """Sines and cosines of a flow's fraction of a pixel: (b, 2, H, W) -> (b, 32, H, W).

    The fraction is where between pixels a value was fetched, hence how much interpolation has blurred it.
    """
    fraction = flow - flow.detach().floor()
    powers = torch.arange(FREQUENCIES, dtype=flow.dtype, device=flow.device) / FREQUENCIES
    phases = 2 * math.pi * fraction[:, :, None] / TEMPERATURE ** powers[:, None, None]
    return torch.cat([phases.sin(), phases.cos()], 2).flatten(1, 2)


class Cfda(nn.Module):
    """Coarse flow, flow and similarity, then offsets and mask of a modulated deformable convolution.

    1. Both features averaged by 2, one 3 x 3 convolution -> a coarse flow.
    2. The reference warped by it; a convolution of both -> what the flow lacks, and how similar they are.
    3. Features, the reference warped by the flow and its fractional encoding -> for each tap an offset
       within `reach` pixels of the flow, and a mask, sigmoid(similarity x logit).

    Convolutions that give flows and offsets start at zero: at first it is a convolution of the reference
    as it lies. Deviations: a prior flow may come from a coarser scale, to which the coarse flow is added.

    Parameters
    ----------
    channels, groups : int
    reach : float
        Pixels.
    """

    def __init__(self, channels: int, groups: int, reach: float = 10.0) -> None:
        super().__init__()
        self.groups, self.reach = groups, reach
        self.coarse = zero_conv(2 * channels, 2)
        self.fine = zero_conv(2 * channels, 3)
        self.refine = nn.Sequential(
            nn.Conv2d(2 * channels + 4 * FREQUENCIES, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            zero_conv(channels, 3 * TAPS * groups),
        )
        self.aggregate = DeformConv(channels)

    def forward(self, features: Tensor, reference: Tensor, prior: Tensor | None) -> tuple[Tensor, Tensor]:
        """Bring the reference to the features.

        Parameters
        ----------
        features, reference : Tensor (b, c, H, W)
        prior : Tensor (b, 2, H, W) or None
            A flow to start from; None: zero.

        Returns
        -------
        aggregated : Tensor (b, c, H, W)
        flow : Tensor (b, 2, H, W)
        """
        height, width = features.shape[2:]
        moved = reference if prior is None else warp(reference, prior)
        pooled = F.avg_pool2d(torch.cat([features, moved], 1), 2, ceil_mode=True, count_include_pad=False)
        flow = resize_flow(self.coarse(pooled), height, width)
        if prior is not None:
            flow = flow + prior
        told = self.fine(torch.cat([features, warp(reference, flow)], 1))
        flow, similarity = flow + told[:, :2], torch.sigmoid(told[:, 2:])
        seen = torch.cat([features, warp(reference, flow), fractional_encoding(flow)], 1)
        offsets, logits = split_taps(self.refine(seen), self.groups)
        offsets = flow[:, None, None] + self.reach * torch.tanh(offsets)
        mask = torch.sigmoid(similarity[:, None] * logits)
        return self.aggregate(reference, offsets, mask), flow
