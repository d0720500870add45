"""Detail by example: what a coarse image leaves open is taken from where the same pattern is known sharp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

REACH = 1
"""Coarse pixels around a place that must look alike, and that its detail is pasted over."""
SIDE = 2 * REACH + 1
TURNS = 8
"""Ways to turn and mirror a square."""
MOST_PLACES = 512
"""Known places to choose from; of more, some are drawn."""
NEAREST = 6
"""Patterns that are looked up for a place."""
MOST_SCALED = 2.0
"""Most by which a pattern is scaled, up or down, to be like another."""
MOST_RAISED = 3.0
"""Most that the mean of overlapping details is raised by."""


@dataclass(frozen=True)
class Examples:
    """Places whose detail is known.

    A coarse pattern of 3 x 3 pixels, less its mean, is looked up among those of the known places, turned,
    mirrored and scaled: a scene of twice the contrast has twice the detail. The fine detail of the nearest,
    scaled alike, goes over it (Freeman, Jones and Pasztor, 2002; without their Markov network), in a mean by
    inverse squared distance. Overlapping details are averaged under a Hann window. An average of what does
    not agree is weaker, so it is raised towards the energy of what was averaged, at most `MOST_RAISED`
    times: where all disagree a mean is all that is known. What agrees stays as it is.

    Attributes
    ----------
    detail : Tensor (k, H, W)
        On the fine grid of the known ground.
    patterns : Tensor (N, d)
        Of the known places, all turns of the first, then of the second, ...
    places : Tensor (P, 2), int
        Their middles, coarse rows and columns; N = 8 P.
    lengths : Tensor (k, k)
        From coefficients to an orthonormal basis.
    ratio : int
    """

    detail: Tensor
    patterns: Tensor
    places: Tensor
    lengths: Tensor
    ratio: int

    @classmethod
    def of(cls, detail: Tensor, coarse: Tensor, known: Tensor, basis: Tensor, seed: int) -> Examples:
        """Of an image in coefficients of `basis` (n, k).

        Parameters
        ----------
        detail : Tensor (k, H, W), coarse : Tensor (k, h, w)
        known : Tensor (h, w), bool
            Coarse pixels whose detail is known. There may be no place that is known all around.
        """
        lengths = torch.linalg.qr(basis).R
        inner = torch.zeros_like(known)
        around = known.unfold(0, SIDE, 1).unfold(1, SIDE, 1).flatten(2).all(2)
        inner[REACH:-REACH, REACH:-REACH] = around
        places = torch.nonzero(inner)
        if len(places) > MOST_PLACES:
            draw = torch.Generator().manual_seed(seed)
            places = places[torch.randperm(len(places), generator=draw)[:MOST_PLACES].to(places.device)]
        around = _around(coarse)[:, places[:, 0], places[:, 1]]  # (k, P, SIDE, SIDE)
        turned = torch.stack([_patterns(_turn(around, way), lengths) for way in range(TURNS)], 1)
        return cls(detail, turned.flatten(0, 1), places, lengths, detail.shape[1] // coarse.shape[1])

    def pasted(self, coarse: Tensor) -> Tensor:
        """The detail that a coarse image (k, h, w) suggests: (k, ratio h, ratio w)."""
        bands, height, width = coarse.shape
        ratio, side = self.ratio, SIDE * self.ratio
        if not len(self.places):
            return coarse.new_zeros(bands, ratio * height, ratio * width)
        known = self.detail.unfold(1, side, ratio).unfold(2, side, ratio)  # (k, h - 2, w - 2, side, side)
        hann = torch.sin(torch.pi * (torch.arange(side) + 0.5) / side).square().to(coarse)
        window = hann[:, None] * hann
        rim = REACH * ratio
        # details, their energy and the window, summed
        total = coarse.new_zeros(bands + 2, ratio * height + 2 * rim, ratio * width + 2 * rim)
        around = _around(coarse)
        for row in range(height):  # a row at a time: all patches at once would not fit
            like, scale, share = self._nearest(_patterns(around[:, row], self.lengths))  # (w, NEAREST) each
            place, way = self.places[like // TURNS] - REACH, like % TURNS
            got = known[:, place[..., 0], place[..., 1]]  # (k, w, NEAREST, side, side)
            for each in range(TURNS):
                got[:, way == each] = _turn(got[:, way == each], each)
            got = got * scale[..., None, None]
            energy = torch.tensordot(self.lengths, got, dims=1).square().sum(0)
            got, energy = (torch.einsum("...wnyx,wn->...wyx", each, share) for each in (got, energy))
            parts = window * torch.cat([got, energy[None], torch.ones_like(energy)[None]])
            strip = parts.permute(0, 2, 3, 1).reshape(1, -1, width)
            found = F.fold(strip, (side, total.shape[2]), side, stride=ratio)[0]
            total[:, ratio * row : ratio * row + side] += found
        total = total[:, rim:-rim, rim:-rim]
        mean, energy = total[:bands] / total[-1], total[bands] / total[-1]
        left = torch.tensordot(self.lengths, mean, dims=1).square().sum(0)
        wanted, have = (_smooth(each, ratio) for each in (energy, left))
        return mean * (wanted / have.clamp_min(1e-30)).sqrt().clamp(max=MOST_RAISED)

    def _nearest(self, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers of the patterns most like each of (w, d), how they are scaled, and their shares."""
        across, own = asked @ self.patterns.T, self.patterns.square().sum(1)
        scale = (across / own.clamp_min(1e-30)).clamp(1 / MOST_SCALED, MOST_SCALED)
        away = asked.square().sum(1, keepdim=True) + scale * (scale * own - 2 * across)
        near, like = away.topk(min(NEAREST, len(own)), largest=False)
        share = 1 / near.clamp_min(1e-30 + 1e-6 * near.mean())  # of those as good as equal none outweighs all
        return like, scale.gather(1, like), share / share.sum(1, keepdim=True)


def _around(coarse: Tensor) -> Tensor:
    """Each pixel's surroundings: (k, h, w) -> (k, h, w, SIDE, SIDE)."""
    padded = F.pad(coarse[None], [REACH] * 4, mode="replicate")[0]
    return padded.unfold(1, SIDE, 1).unfold(2, SIDE, 1)


def _patterns(around: Tensor, lengths: Tensor) -> Tensor:
    """Surroundings (k, N, SIDE, SIDE) without their mean, at lengths that can be compared: (N, d)."""
    away = around - around.mean((2, 3), keepdim=True)
    return torch.tensordot(lengths, away, dims=1).movedim(0, 1).flatten(1)


def _turn(squares: Tensor, way: int) -> Tensor:
    """Squares (..., n, n) turned by right angles, and mirrored, in one of `TURNS` ways."""
    turned = squares.rot90(way // 2, (-2, -1))
    return turned.flip(-1) if way % 2 else turned


def _smooth(image: Tensor, sigma: float) -> Tensor:
    blurred: np.ndarray = ndimage.gaussian_filter(image.cpu().numpy(), sigma, mode="nearest")
    return torch.from_numpy(blurred).to(image)
