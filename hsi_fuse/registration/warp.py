"""A pair to be registered, a mapping between its pixels, and what the HSI's sensor would see of the guide.

Coordinates: HSI pixels and guide pixels, (column, row), corner-based (a pixel's centre is at +0.5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from affine import Affine
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.physics import blur_down
from hsi_fuse.registration.tiles import Tile, strips, textured
from hsi_fuse.threads import at_once

Array = NDArray[np.float64]
Shift = Callable[[Array, Array], Array]
"""Displacement in HSI pixels, (2, rows, columns), on the lattice of given columns and rows."""
LEAST_FINE = 8
"""Guide pixels along a side of a pooled HSI pixel."""
BEND_NODES = 65
"""Along each axis of a part of a pair."""
STRIP_PIXELS = 2_000_000
AT_ONCE = 16_384
"""Places sampled at a time: they stay in the processor's cache, which halves the time."""
REACH = 2
"""Pixels beyond that of a place which its cubic takes in, at most."""
KEYS = (0.0, 1.0, 0.0, 0.0), (-0.5, 0.0, 0.5, 0.0), (1.0, -2.5, 2.0, -0.5), (-0.5, 1.5, -1.5, 0.5)
"""Weights of the four samples around a place, by powers of the way from the second to the third."""
LEAST_SIGMA = 0.05
"""Pixels: a narrower Gaussian blurs nothing."""
RIM = 3
"""Pixels around an image, of which the farthest is a tap of a place that is two beyond its edge."""
MOST_HSI_PIXELS = 32_768
LEAST_BEYOND, HALF_BEYOND, MOST_BEYOND = 0.02, 0.06, 0.3
"""Share of the PSF beyond the guide: of a pixel that counts as seen, of one that weighs half in a fit, and
from which on it weighs nothing. What lies beyond errs by half of the contrast, a good fit by a thirtieth."""


@dataclass(frozen=True)
class Pair:
    """What registration sees.

    Attributes
    ----------
    low : Tensor (k, h, w)
        HSI coefficients in a noise-whitened subspace.
    low_weight : Tensor (h, w)
    guide : Tensor (m, gh, gw)
        Holes filled.
    guide_weight : Tensor (gh, gw)
    start : Affine
        HSI pixel -> guide pixel.
    bend : ndarray (2, p, q) or None
        Added after `start`, guide pixels, on a lattice from corner to corner of the HSI.
    grain : int
        Native guide pixels along a side of a pixel of `guide`. Mappings go to native ones, whatever it is.
    """

    low: Tensor
    low_weight: Tensor
    guide: Tensor
    guide_weight: Tensor
    start: Affine
    bend: NDArray[np.float32] | None = None
    grain: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the HSI."""
        return self.low.shape[1], self.low.shape[2]

    def pooled(self, factor: int) -> Pair:
        """The pair with HSI pixels `factor` times larger; what does not fill a pixel is left out.

        The guide's pixels grow too, as long as `LEAST_FINE` of them fit into one of the HSI.
        """
        if factor == 1:
            return self
        both = torch.cat([self.low * self.low_weight, self.low_weight[None]])
        mean = F.avg_pool2d(both[None], factor)[0]
        weight = mean[-1]
        start = self.start * Affine.scale(factor)
        grain = int(min(*step_lengths(start), *self.guide.shape[1:]) / (self.grain * LEAST_FINE)) or 1
        guide, valid = self.guide, self.guide_weight.to(self.guide)
        if grain > 1:
            guide, valid = (F.avg_pool2d(image[None], grain)[0] for image in (guide, valid[None]))
            valid = valid[0]
        return Pair(
            mean[:-1] / weight.clamp_min(1e-6),
            (weight > 0.5).to(weight),
            guide,
            valid,
            start,
            self._bend_over((weight.shape[0] * factor, weight.shape[1] * factor)),
            self.grain * grain,
        )

    def part(self, tile: Tile) -> Pair:
        """A part of the HSI beside the whole guide."""
        rows, columns = tile
        bend = self.bend
        if bend is not None:
            x, y = (np.linspace(t.start, t.stop, BEND_NODES) for t in (columns, rows))
            bend = on_lattice(bend, x, y, self.shape).astype(np.float32)
        return replace(
            self,
            low=self.low[:, rows, columns],
            low_weight=self.low_weight[tile],
            start=self.start * Affine.translation(columns.start, rows.start),
            bend=bend,
        )

    def _bend_over(self, shape: tuple[int, int]) -> NDArray[np.float32] | None:
        """The bend on a lattice over the image's first (h, w) pixels."""
        if self.bend is None or shape == self.shape:
            return self.bend
        rows, columns = (
            np.linspace(0, side, nodes) for side, nodes in zip(shape, self.bend.shape[1:], strict=True)
        )
        return on_lattice(self.bend, columns, rows, self.shape).astype(np.float32)


def apply(mapping: Affine, columns: Array, rows: Array) -> tuple[Array, Array]:
    """An affine on arrays of coordinates."""
    a, b, c, d, e, f = mapping[:6]
    return a * columns + b * rows + c, d * columns + e * rows + f


def on_lattice(lattice: NDArray[np.floating], columns: Array, rows: Array, shape: tuple[int, int]) -> Array:
    """A lattice from corner to corner of an image, bilinear, at the crossings of columns and rows.

    Parameters
    ----------
    lattice : ndarray (c, p, q)
    columns, rows : ndarray (W,), (H,)
        Outside the image the lattice's rim goes on.
    shape : (h, w) of the image

    Returns
    -------
    ndarray (c, H, W), float64
    """

    def matrix(where: Array, nodes: int, side: int) -> Array:
        at = np.clip(where / side, 0, 1) * (nodes - 1)
        return np.asarray(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(nodes))))

    down = matrix(rows, lattice.shape[1], shape[0])
    across = matrix(columns, lattice.shape[2], shape[1])
    return np.asarray(down @ lattice.astype(np.float64) @ across.T)


def gaussian_blur(image: Tensor, sigma: tuple[float, float]) -> Tensor:
    """Gaussian blur with replicated edges, sigma along (columns, rows) in pixels: (c, H, W) -> (c, H, W)."""
    if max(sigma) < LEAST_SIGMA:
        return image
    reaches = [max(int(3.5 * width + 0.5), 1) if width >= LEAST_SIGMA else 0 for width in sigma]
    size = max(reaches)
    x = torch.arange(-size, size + 1, dtype=torch.float64)
    across, down = (
        torch.exp(-0.5 * (x / max(width, LEAST_SIGMA)) ** 2) * (x.abs() <= reach)
        for width, reach in zip(sigma, reaches, strict=True)
    )
    psf = torch.outer(down / down.sum(), across / across.sum()).to(image)
    inner, out = slice(size, -size), torch.empty_like(image)
    for band, to in zip(image, out, strict=True):  # of a big guide each copy takes a gigabyte
        wider = F.pad(band[None, None], [size] * 4, mode="replicate")[0]
        to.copy_(blur_down(wider, psf, 1)[0, inner, inner])
    return out


def step_lengths(mapping: Affine) -> tuple[float, float]:
    """Guide pixels, along the guide's own columns and rows, that one pixel step of the source spans."""
    a, b, _, d, e, _ = mapping[:6]
    return float(np.hypot(a, b)), float(np.hypot(d, e))


def antialias_sigma(mapping: Affine) -> tuple[float, float]:
    """Gaussian (columns, rows), guide pixels, of the variance that a larger target pixel's box has more."""
    across, down = (float(np.sqrt(max(step**2 - 1, 0) / 12)) for step in step_lengths(mapping))
    return across, down


def sample(image: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Cubic sampling at corner-based pixel coordinates, edges replicated: (c, H, W), (...) -> (c, ...).

    Keys' kernel with a = -1/2, which keeps ramps straight. That of `grid_sample` (a = -3/4) does not, and
    since HSI pixels mostly meet the guide at one phase, it moved the mapping by 0.02 guide pixels.
    """
    image, columns, rows = _around(image, columns, rows)
    channels, height, width = image.shape
    # from two pixels beyond its edge on an image stays what it is, so that no tap lies outside this rim
    table = F.pad(image[None], [RIM] * 4, mode="replicate")[0].reshape(channels, -1).T.contiguous()
    across, down = (
        (where.reshape(-1) - 0.5).clamp_(-2, size) for where, size in ((columns, width), (rows, height))
    )
    wide = width + 2 * RIM
    near = torch.arange(RIM - 1, RIM + 3, dtype=torch.int32, device=image.device)
    taps = (near[:, None] * wide + near).flatten()
    # products with these make all sixteen weights: many times faster than four polynomials' outer product
    keys = torch.tensor(KEYS, dtype=image.dtype, device=image.device)
    by_row, by_column = keys.repeat_interleave(4, 1), keys.repeat(1, 4)
    sampled = torch.empty(len(across), channels, dtype=image.dtype, device=image.device)
    for first in range(0, len(across), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        (left, x), (top, y) = (_powers(where[part], image) for where in (across, down))
        corner = (top * wide + left).int()
        sampled[part] = F.embedding_bag(
            corner[:, None] + taps,
            table,
            mode="sum",
            per_sample_weights=(y @ by_row).mul_(x @ by_column),
        )
    return sampled.T.reshape(channels, *columns.shape)


def _around(image: Tensor, columns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The part of an image (c, H, W) that cubic sampling at these places looks at, and the places in it."""
    if columns.numel() == 0:
        return image, columns, rows
    parts, inside = [], []
    for where, size in ((rows, image.shape[1]), (columns, image.shape[2])):
        # a place outside takes the nearest pixels, so that these have to be there
        low, high = (int(end.floor().clamp(0, size - 1)) for end in where.aminmax())
        first = max(low - REACH, 0)
        parts.append(slice(first, high + REACH + 1))
        inside.append(where - first)
    return image[:, parts[0], parts[1]], inside[1], inside[0]


def _powers(where: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """The sample (N,) before array indices (N,), and powers 0 to 3 of the way to the next, (N, 4)."""
    first = where.floor()
    t = (where - first).to(like)
    square = t * t
    return first, torch.stack([torch.ones_like(t), t, square, square * t]).T


@dataclass(frozen=True)
class Seen:
    """What the HSI's sensor would see of the guide under a mapping, at the HSI pixels looked at.

    Attributes
    ----------
    values : ndarray (m, N)
    slopes : ndarray (2, m, N)
        Derivatives along HSI columns and rows, per HSI pixel.
    support : ndarray (N,)
        1 where (nearly) the whole PSF lies on valid guide pixels, else 0.
    weight : ndarray (N,)
        What a fit should make of each: 1 under the whole PSF; less where a part of it lies beyond the guide,
        of which only the nearest pixels' values are known; 0 where that is much.
    """

    values: Array
    slopes: Array
    support: Array
    weight: Array


class Observer:
    """Warps the guide to the HSI's frame and blurs it there, as the sensor does.

    The order matters: a blur in the guide's frame has the wrong width wherever the mapping stretches, which
    costs half of the accuracy where the displacement's slope is 0.1. Scenes of more than `MOST_HSI_PIXELS`
    are looked at in tiles.

    Attributes
    ----------
    columns, rows : ndarray (N,)
        Centres of the valid HSI pixels looked at.
    """

    def __init__(
        self,
        pair: Pair,
        psf: Tensor,
        ratio: int,
        keep: Tensor | None = None,
        thin: bool = True,
        image: Tensor | None = None,
    ) -> None:
        """`psf`, `ratio`: as in `physics.blur_down`. `keep` (h, w), bool: use these HSI pixels only.

        `image`: the guide as another observer of it has prepared it.
        """
        self.pair, self.psf, self.ratio, self.keep = pair, psf.to(pair.guide), ratio, keep
        height, width = pair.shape
        self.margin = -(-max((psf.shape[0] - ratio) // 2, 0) // ratio)  # HSI pixels the PSF reaches beyond
        most = MOST_HSI_PIXELS if thin else height * width
        if height * width > most:
            self.tiles = textured(pair.low, pair.low_weight, most)
        else:
            tall = STRIP_PIXELS // (ratio**2 * (width + 2 * self.margin))
            self.tiles = strips(pair.shape, max(tall, 1))
        used = pair.low_weight > 0 if keep is None else (pair.low_weight > 0) & keep
        self.used = [torch.nonzero(used[tile], as_tuple=True) for tile in self.tiles]
        places = [
            (r + rows.start, c + columns.start)
            for (rows, columns), (r, c) in zip(self.tiles, self.used, strict=True)
        ]
        self.index = torch.cat([r for r, _ in places]), torch.cat([c for _, c in places])
        self.rows, self.columns = (i.cpu().numpy() + 0.5 for i in self.index)
        fine = Affine.scale(1 / pair.grain) * pair.start * Affine.scale(1 / ratio)
        self.image = gaussian_blur(pair.guide, antialias_sigma(fine)) if image is None else image

    @cached_property
    def design(self) -> Array:
        """1 and the HSI's coefficients at the pixels looked at: (k + 1, N)."""
        return self.design_of(slice(None))

    def design_of(self, some: slice) -> Array:
        """The same at some of the pixels."""
        rows, columns = (each[some] for each in self.index)
        low = self.pair.low[:, rows, columns].double().cpu().numpy()
        return np.concatenate([np.ones((1, low.shape[1])), low])

    def part(self, tile: Tile) -> Observer:
        """An observer of all HSI pixels of a part."""
        keep = None if self.keep is None else self.keep[tile]
        return Observer(self.pair.part(tile), self.psf, self.ratio, keep, False, self.image)

    def see(self, base: Affine, shift: Shift | None = None) -> Seen:
        """Look at the guide through `base(place + shift(place)) + bend(place)`."""

        def looked(index: int) -> Tensor:
            warped = self._tile(self.tiles[index], base, shift)
            slopes = [torch.gradient(warped[:-1], dim=axis)[0] * self.ratio for axis in (2, 1)]
            return self._blurred(torch.cat([warped[:-1], *slopes, warped[-1:]]), index)

        out, m = _joined(at_once(looked, range(len(self.tiles)))), len(self.image)
        beyond = 1 - out[-1]
        weight = np.where(beyond < MOST_BEYOND, 1 / (1 + (beyond / HALF_BEYOND) ** 2), 0.0)
        return Seen(out[:m], out[m : 3 * m].reshape(2, m, -1), _supported(out[-1]), weight)

    def shown(self, base: Affine, shift: Shift | None = None) -> tuple[Array, Array]:
        """`values` (m, N) and `support` (N,) of what `see` sees: slopes of a large image are gigabytes."""

        def looked(index: int) -> Tensor:
            return self._blurred(self._tile(self.tiles[index], base, shift), index)

        out = _joined(at_once(looked, range(len(self.tiles))))
        return out[:-1], _supported(out[-1])

    def warped(self, base: Affine, shift: Shift | None = None) -> list[Tensor]:
        """The guide and, last, its validity on the fine grid, tile by tile: (m + 1, rows, columns) each."""
        return at_once(lambda tile: self._tile(tile, base, shift), self.tiles)

    def blurred(self, tiles: list[Tensor]) -> Array:
        """What the HSI's sensor sees of fine images at the HSI pixels looked at: (c, N)."""
        return _joined([self._blurred(tile, i) for i, tile in enumerate(tiles)])

    def _blurred(self, tile: Tensor, index: int) -> Tensor:
        """The same of a tile (c, rows, columns)."""
        r, (rows, columns) = self.margin, self.used[index]
        seen = blur_down(tile, self.psf, self.ratio)
        return seen[:, r : seen.shape[1] - r, r : seen.shape[2] - r][:, rows, columns]

    def _tile(self, tile: Tile, base: Affine, shift: Shift | None) -> Tensor:
        r, s = self.margin, self.ratio
        rows, columns = (
            (np.arange((part.stop - part.start + 2 * r) * s) + 0.5) / s - r + part.start for part in tile
        )
        x, y = np.meshgrid(columns, rows)
        if shift is not None:
            move = shift(columns, rows)
            x, y = x + move[0], y + move[1]
        u, v = apply(base, x, y)
        if self.pair.bend is not None:
            bend = on_lattice(self.pair.bend, columns, rows, self.pair.shape)
            u, v = u + bend[0], v + bend[1]
        across, down = (torch.from_numpy(w / self.pair.grain).to(self.image.device) for w in (u, v))
        tall, wide = self.pair.guide_weight.shape
        inside = (across > 0) & (across < wide) & (down > 0) & (down < tall)
        valid = self.pair.guide_weight[down.long().clamp(0, tall - 1), across.long().clamp(0, wide - 1)]
        return torch.cat([sample(self.image, across, down), (valid * inside)[None]])


def _supported(share: Array) -> Array:
    """1 where (nearly) all of the PSF lies on the guide, by the share (N,) that does; else 0."""
    return ((1 - share) < LEAST_BEYOND).astype(np.float64)


def _joined(parts: list[Tensor]) -> Array:
    """(c, n) each -> (c, N)."""
    return np.asarray(torch.cat(parts, 1).double().cpu().numpy())
