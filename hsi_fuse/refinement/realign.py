"""A problem whose guide is fetched from where a flow says it lies."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hsi_fuse.nets.flow import warp
from hsi_fuse.problem import Problem
from hsi_fuse.subspace import fill_nearest

SOLID = 0.99
"""Share of a fetched value that must come from pixels with weight."""


def realigned(problem: Problem, flow: Tensor) -> Problem:
    """The problem with its guide warped: what belongs at fine pixel q is fetched at q + flow(q).

    Bicubic; the guide's own pixels are long gone, this is its second resampling. A value that rests on
    pixels without weight has none.

    Parameters
    ----------
    flow : Tensor (2, H, W)
        Columns and rows, fine pixels.
    """
    filled = fill_nearest(problem.guide, problem.guide_weight)
    there = (problem.guide_weight > 0).to(filled)
    weight, solid = warp(torch.stack([problem.guide_weight, there])[None], flow[None])[0]
    weight = torch.where(solid > SOLID, weight.clamp(0, 1), 0.0)
    guide = warp(filled[None], flow[None], "bicubic")[0]
    return replace(problem, guide=guide * (weight > 0), guide_weight=weight)
