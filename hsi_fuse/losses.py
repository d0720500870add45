"""Losses: means over valid pixels, so that their weights carry from scene to scene."""

from __future__ import annotations

import torch
from torch import Tensor

SPARSE = 0.01
"""The abundance that `sparsity` wants in the mean (Yao et al., ECCV 2020)."""
LEAST_ABUNDANCE = 1e-3
"""Where its logarithm is cut off."""


def mean_misfit(made: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Mean |made - wanted| of images (c, H, W) under a weight (H, W); 0 without any."""
    return ((made - wanted).abs() * weight).sum() / (len(made) * weight.sum()).clamp_min(1e-9)


def sum_to_one(abundances: Tensor, weight: Tensor) -> Tensor:
    """Mean distance of abundances (K, H, W) from a sum of 1."""
    return mean_misfit(abundances.sum(0, keepdim=True), torch.ones_like(weight)[None], weight)


def sparsity(abundances: Tensor, weight: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence KL(`SPARSE` || a) of abundances (K, H, W), cut off near 0 and 1."""
    a = abundances.clamp(LEAST_ABUNDANCE, 1 - LEAST_ABUNDANCE)
    divergence = SPARSE * (SPARSE / a).log() + (1 - SPARSE) * ((1 - SPARSE) / (1 - a)).log()
    return (divergence * weight).sum() / (len(a) * weight.sum()).clamp_min(1e-9)
