"""The local field of a large image: one for each of many overlapping patches, each from its own pixels.

A field's unknowns depend on each other over its correlation length, no further. Patches cost time in
proportion to the image and follow short displacements anywhere in it. Each has an amplitude, a correlation
length and a linear map from HSI to guide of its own: what haze does to a part of the scene bends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor

from hsi_fuse.errors import AlignmentError
from hsi_fuse.registration.displacement import Displacement, Move
from hsi_fuse.registration.fit import Fitted, Mapped, fit
from hsi_fuse.registration.prior import AMPLITUDES, Expected
from hsi_fuse.registration.tiles import Tile, spread
from hsi_fuse.registration.warp import Array, Observer, Pair, apply
from hsi_fuse.threads import at_once

LARGEST = 160
"""Sides of an image that is one patch, HSI pixels."""
SIDE, OVERLAP = 128, 24
"""Of the patches of a larger one."""
UNKNOWN = float(np.sqrt(2) * AMPLITUDES[-1])
"""Standard error of a place that nothing is known of, HSI pixels."""
FIGURES = "left", "amplitude", "length"
SAMPLED = 9
"""Patches that stand for all: their own best correlation lengths, and held-out pixels."""
WELL_SEEN = 0.5
"""Share of its pixels on the guide, in the best patch's, from which on a patch can be one of them."""
SETTLED = 0.025
"""Largest last step of a patch, HSI pixels. The next is half of that at most, and turns fit patches anew."""
LATTICE = 9
"""Places along each axis of a patch at which its standard error is kept."""


@dataclass(frozen=True)
class Patch:
    """A part of the image and its displacement.

    Attributes
    ----------
    tile : Tile
    shift : Displacement
        Of the patch's own coordinates.
    deviation : ndarray (LATTICE, LATTICE)
        Its standard error from corner to corner, HSI pixels.
    """

    tile: Tile
    shift: Displacement
    deviation: Array


@dataclass(frozen=True)
class Patchwork:
    """A displacement of HSI coordinates made of patches, each giving way to the next over their overlap.

    Where there is no patch, nothing moves, and the standard error is `UNKNOWN`.

    Attributes
    ----------
    shape : (h, w)
    patches : tuple of Patch
    """

    shape: tuple[int, int]
    patches: tuple[Patch, ...]

    @property
    def pixels(self) -> NDArray[np.bool_]:
        """Where there are patches, (h, w)."""
        out = np.zeros(self.shape, bool)
        for patch in self.patches:
            out[patch.tile] = True
        return out

    @property
    def affine(self) -> Affine:
        """None of it: the patches carry only what the base does not."""
        return Affine.identity()

    def __call__(self, columns: Array, rows: Array) -> Array:
        """On the crossings of columns (W,) and rows (H,): (2, H, W)."""
        out, total = np.zeros((2, len(rows), len(columns))), np.zeros((len(rows), len(columns)))
        for patch in self.patches:
            down, across = (
                _weight(where, part, side)
                for where, part, side in zip((rows, columns), patch.tile, self.shape, strict=True)
            )
            i, j = np.flatnonzero(down), np.flatnonzero(across)
            if len(i) and len(j):
                weight = down[i, None] * across[j]
                at = columns[j] - patch.tile[1].start, rows[i] - patch.tile[0].start
                out[:, i[:, None], j] += weight * patch.shift(*at)
                total[i[:, None], j] += weight
        return out / np.where(total > 0, total, 1)

    def deviation(self, columns: Array, rows: Array) -> Array:
        """Standard error of the place at scattered places (N,), HSI pixels; the worst patch's."""
        out, known = np.zeros(len(columns)), np.zeros(len(columns), bool)
        for patch in self.patches:
            x, y = columns - patch.tile[1].start, rows - patch.tile[0].start
            height, width = patch.shift.shape
            inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
            at = (LATTICE - 1) * np.stack([y[inside] / height, x[inside] / width])
            out[inside] = np.maximum(out[inside], map_coordinates(patch.deviation, at, order=1))
            known |= inside
        return np.where(known, out, UNKNOWN)


@dataclass(frozen=True)
class Patched:
    """A mapping `base(place + shift(place))` of a large image and what is known of it.

    Attributes
    ----------
    base : Affine
    shift : Patchwork
    left, amplitude, length : float
        As of `Fitted`, the median patch's.
    """

    base: Affine
    shift: Patchwork
    left: float
    amplitude: float
    length: float

    def deviation(self, columns: Array, rows: Array) -> Array:
        """Standard error of the place at scattered places (N,), HSI pixels."""
        return self.shift.deviation(columns, rows)


def fit_fields(
    observer: Observer,
    base: Affine,
    model: str,
    iterations: int,
    start: Move | None = None,
    expected: Expected | None = None,
    sampled: bool = False,
) -> Mapped:
    """`fit` with a local field: of the image as a whole where it is small, else patch by patch.

    In patches the base stays what it is, whatever the model. Some all over the image find out what the local
    field is like, unless the call is told; the others expect the median of that.

    Parameters
    ----------
    sampled : bool
        Fit no other patches than those (see `sample_of`).

    Raises
    ------
    AlignmentError
        No patch lies on the guide.
    """
    shape = observer.pair.shape
    if max(shape) <= LARGEST:
        length = None if expected is None else Expected(expected.length)
        return fit(observer, base, model, True, iterations, start, expected=length)
    before = {_corner(p.tile): p.shift for p in start.patches} if isinstance(start, Patchwork) else {}

    def fitted(tile: Tile, expected: Expected | None) -> tuple[Patch, list[float]]:
        """A patch and its figures; none where it does not lie on the guide."""
        part, last = observer.part(tile), before.get(_corner(tile))
        there = base * Affine.translation(tile[1].start, tile[0].start)
        try:
            found = fit(part, there, "none", True, iterations, last, expected=expected, settled=SETTLED)
        except AlignmentError:
            unknown = np.full((LATTICE, LATTICE), UNKNOWN)
            return Patch(tile, Displacement.none(part.pair.shape), unknown), []
        return Patch(tile, found.shift, _deviations(found)), [getattr(found, name) for name in FIGURES]

    first, others = _tiles(observer.pair, base)
    done = at_once(partial(fitted, expected=expected), first)
    known = [figures for _, figures in done if figures]
    if not sampled:
        if known:
            _, amplitude, length = np.median(known, 0).tolist()
            expected = Expected(length, amplitude)
        done += at_once(partial(fitted, expected=expected), others)
        known = [figures for _, figures in done if figures]
    if not known:
        raise AlignmentError("the mapping slid off the reference")
    return Patched(base, Patchwork(shape, tuple(patch for patch, _ in done)), *np.median(known, 0).tolist())


def sample_of(pair: Pair, base: Affine) -> Tensor:
    """Pixels of patches spread over an image, bool (h, w), to judge a mapping by; all of a small one."""
    pixels = torch.zeros_like(pair.low_weight, dtype=torch.bool)
    if max(pair.shape) <= LARGEST:
        return ~pixels
    for tile in _tiles(pair, base)[0]:
        pixels[tile] = True
    return pixels


def _tiles(pair: Pair, base: Affine) -> tuple[list[Tile], list[Tile]]:
    """Patches of an image: `SAMPLED` of those that lie on the guide, evenly spread, and the others."""
    rows, columns = (spread(side, SIDE, OVERLAP) for side in pair.shape)
    tiles = list(product(rows, columns))
    seen = _on_guide(pair, base)
    # not by its rim, which it shares with its neighbours: of a sample's pixels the sample is the same again
    shares = np.array([seen[_middle(tile)].mean() for tile in tiles])
    well = np.flatnonzero(shares >= WELL_SEEN * shares.max())
    chosen = set(well[np.linspace(0, len(well) - 1, min(SAMPLED, len(well))).round().astype(int)].tolist())
    first = [tile for i, tile in enumerate(tiles) if i in chosen]
    return first, [tile for i, tile in enumerate(tiles) if i not in chosen]


def _on_guide(pair: Pair, base: Affine) -> NDArray[np.bool_]:
    """Which valid HSI pixels (h, w) have their centre on valid pixels of the guide; its bend is left out."""
    rows, columns = (np.arange(side) + 0.5 for side in pair.shape)
    across, down = (where / pair.grain for where in apply(base, *np.meshgrid(columns, rows)))
    tall, wide = pair.guide_weight.shape
    inside = (across >= 0) & (across < wide) & (down >= 0) & (down < tall)
    i, j = (np.clip(w.astype(int), 0, n - 1) for w, n in ((down, tall), (across, wide)))
    valid = pair.guide_weight.cpu().numpy()[i, j] > 0
    return np.asarray(inside & valid & (pair.low_weight.cpu().numpy() > 0))


def _middle(tile: Tile) -> Tile:
    """Half of a tile along each axis."""
    rows, columns = (slice(t.start + (t.stop - t.start) // 4, t.stop - (t.stop - t.start) // 4) for t in tile)
    return rows, columns


def _corner(tile: Tile) -> tuple[int, int]:
    return tile[0].start, tile[1].start


def _deviations(found: Fitted) -> Array:
    rows, columns = (np.linspace(0, side, LATTICE) for side in found.shift.shape)
    x, y = np.meshgrid(columns, rows)
    return found.deviation(x.ravel(), y.ravel()).reshape(x.shape)


def _weight(where: Array, part: slice, side: int) -> Array:
    """How much a patch says along one axis: less over the overlap, but nothing less at the image's ends."""
    ahead = where - part.start if part.start > 0 else np.full(len(where), np.inf)
    behind = part.stop - where if part.stop < side else np.full(len(where), np.inf)
    return np.clip(np.minimum(ahead, behind) / OVERLAP, 0, 1)
