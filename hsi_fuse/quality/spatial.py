"""Part B of the assessment: every method seen through the responses, beside the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hsi_fuse.problem import Cube, Problem
from hsi_fuse.quality import metrics
from hsi_fuse.quality.cube import block_rows
from hsi_fuse.quality.metrics import Moments
from hsi_fuse.threads import in_turn

STRIP_PIXELS = 1 << 20
"""Of which figures are formed at a time: whole images of a large scene are gigabytes each."""
HALOS = 8
"""Rows of a strip at least, in what the filters look beyond it: all of that is worked out twice."""
RESAMPLED_PX = 0.7
"""Blur, fine pixels, under which the product's detail is held against the reference's: that was resampled,
which takes what is finer, and no product has to miss it too."""
HIDDEN = 2
"""Variances of the reference's noise that are no detail a product misses: one is its noise, and what is less
than another cannot be told from noise that is larger, or more alike in neighbours, than is believed."""
LEAST_SIGNAL = 0.1
"""Share of the reference's detail that is taken for more than noise, however noisy it is."""


@dataclass(frozen=True)
class _Seen:
    """What a strip tells of a method: moments of all and of the detail, and the missed detail's (m, m)."""

    all: Moments
    fine: Moments
    missed: Tensor


@dataclass(frozen=True)
class _Strip:
    """What a strip tells: of the reference's detail and of its part `kept`, sums (m, m); of each method."""

    sharp: Tensor
    kept: Tensor
    seen: Mapping[str, _Seen]


def spatial(problem: Problem, methods: Mapping[str, Cube]) -> tuple[dict[str, Any], Tensor | None]:
    """The figures of `methods`, one of them "product"; JSON-ready but for tensors.

    Also the product's mean error over reference bands, each in its standard deviation: (H, W); None where
    the reference covers no pixel.
    """
    mask = problem.guide_weight > 0
    count = int(mask.sum())
    if not count:
        return {"assessable": False, "reason": "the reference covers no pixel"}, None
    sigma = problem.ratio / 2  # passes what is finer than about an HSI pixel
    halo = metrics.reach_of(sigma) + metrics.reach_of(RESAMPLED_PX)
    height, width = mask.shape
    rows = max(STRIP_PIXELS // width, HALOS * halo)
    ranges = [(top, min(top + rows, height)) for top in range(0, height, rows)]
    wide = [(max(top - halo, 0), min(bottom + halo, height)) for top, bottom in ranges]
    spread = _spread(problem.guide, mask, ranges)
    error = torch.empty_like(problem.guide_weight)

    def compared(
        strip: tuple[tuple[int, int], tuple[int, int], tuple[Callable[[], Tensor], ...]],
    ) -> _Strip:
        (top, bottom), (first, last), seen = strip
        inner = slice(top - first, bottom - first)
        guide, near = problem.guide[:, first:last], mask[first:last]
        sharp = metrics.high_pass(guide, sigma, near)
        kept = metrics.low_pass(sharp, RESAMPLED_PX, near)
        found = {}
        for name, made in zip(methods, seen, strict=True):
            image = made()
            through = metrics.high_pass(image, sigma, near)
            missed = metrics.low_pass(through, RESAMPLED_PX, near).sub_(kept)
            found[name] = _Seen(
                metrics.moments(image[:, inner], guide[:, inner], near[inner]),
                metrics.moments(through[:, inner], sharp[:, inner], near[inner]),
                _squares(missed[:, inner]),
            )
            if name == "product":
                error[top:bottom] = ((image - guide)[:, inner] / spread).mean(0)
        return _Strip(_squares(sharp[:, inner]), _squares(kept[:, inner]), found)

    images = zip(*(_seen(problem, cube, wide) for cube in methods.values()), strict=True)
    strips = list(in_turn(compared, zip(ranges, wide, images, strict=True)))
    noise = torch.diag(problem.guide_noise.double() ** 2)  # no product has to follow it
    power, kept = (
        torch.stack([getattr(s, name) for s in strips]).sum(0) / count for name in ("sharp", "kept")
    )
    signal = 1 - noise.diagonal() / metrics.positive(power.diagonal())  # share of the reference's detail
    part: dict[str, Any] = {"assessable": True, "sigma_px": sigma, "pixels": count}
    for name in methods:
        told = [strip.seen[name] for strip in strips]
        moments, fine = Moments.joined([t.all for t in told]), Moments.joined([t.fine for t in told])
        missed = torch.stack([t.missed for t in told]).sum(0) / count
        missed = missed - HIDDEN * metrics.noise_passed(RESAMPLED_PX) * noise
        part[name] = {
            "r2": moments.r2,
            "rmse": moments.rmse,
            "cc_highpass": fine.correlation,
            "gain_highpass": _gain(fine.slope, signal),
            "missed_highpass": metrics.worst_share(missed, kept),
        }
    return part, error


def _spread(guide: Tensor, mask: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """Standard deviation of each band of an image (m, H, W) within a mask (H, W), not 0: (m, 1, 1)."""
    parts = ((guide[:, top:bottom], mask[top:bottom]) for top, bottom in ranges)
    told = Moments.joined([metrics.moments(part, part, keep) for part, keep in parts])
    return told.var_truth.sqrt().clamp_min(1e-30)[:, None, None].to(guide)


def _seen(problem: Problem, cube: Cube, ranges: Sequence[tuple[int, int]]) -> Iterator[Callable[[], Tensor]]:
    """What makes a cube as seen through the guide's responses, (m, rows, W) of each range.

    Of its bands a few rows at a time.
    """
    step = block_rows(cube.shape)
    pieces = [[(top, min(top + step, last)) for top in range(first, last, step)] for first, last in ranges]
    parts = cube.mixed(problem.sensor.srf, problem.sensor.offset).pending(
        each for some in pieces for each in some
    )
    for some in pieces:
        yield partial(_joined, [next(parts) for _ in some])


def _joined(parts: Sequence[Callable[[], Tensor]]) -> Tensor:
    """Rows below each other."""
    return torch.cat([part() for part in parts], 1)


def _gain(slope: Tensor, signal: Tensor) -> Tensor:
    """Slopes (m,) of detail on a reference only a share `signal` (m,) of whose detail is no noise.

    A product that has all of that share, and none of the noise, has the slope `signal`; one that copies the
    noise too has 1. Between the two nothing is off.
    """
    return torch.where(slope < 1, (slope / signal.clamp_min(LEAST_SIGNAL)).clamp_max(1), slope)


def _squares(image: Tensor) -> Tensor:
    """Sums of products of bands (m, m), float64, of what is 0 (m, H, W) outside the mask."""
    pieces = (piece.double() for piece in torch.split(image.flatten(1), metrics.PIECE, 1))
    return torch.stack([piece @ piece.T for piece in pieces]).sum(0)
