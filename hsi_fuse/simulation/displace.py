"""Displace: a guide that does not lie where it should, for `simulate`; every fine pixel's place is known.

A scene point at fine pixel q appears in the guide at
`A (q - centre) + centre + shift + local(q) + object(q)`: A is a rotation and a scale, `local` a smooth random
field, `object` the parallax of what stands out of the ground. Coordinates are (column, row), corner-based, in
fine pixels of the HSI's window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from skimage.segmentation import felzenszwalb
from torch import Tensor

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Window = tuple[int, int, int, int]
"""Top, left, height and width of the HSI's window in the cube."""

OBJECT_SHARE = (0.003, 0.03)
"""Area of a segment that may be an object, as a share of the window's."""


@dataclass(frozen=True)
class Misregistration:
    """How the guide's content lies off the place that its georeferencing claims. Pairs are (columns, rows).

    Attributes
    ----------
    shift_px, shift_share : (float, float)
        Translation in fine pixels, and as a share of the HSI window's sides; they add up.
    degrees, scale : float
        Rotation (columns towards rows) and magnification about the window's centre.
    local_px : float
        RMS length of a smooth random displacement of zero mean; its autocorrelation is Gaussian and falls
        to 1/e at min(64 px, side / 3).
    max_overlap : float
        Share of the HSI window that the guide may show; columns at its left are lost until that holds.
    objects : int
        Segments of the scene that stand out of the ground, displaced along one random direction. They hide
        ground on one side; on the other the guide shows ground that the scene does not.
    objects_px : (float, float)
        Least and greatest length of their displacement, fine pixels.
    claimed_hsi_px : float
        Length of the georeferencing's own error, HSI pixels, along a random diagonal.
    georeferenced : bool
        False: the guide says nothing of where it lies.
    """

    shift_px: tuple[float, float] = (0.0, 0.0)
    shift_share: tuple[float, float] = (0.0, 0.0)
    degrees: float = 0.0
    scale: float = 1.0
    local_px: float = 0.0
    max_overlap: float = 1.0
    objects: int = 0
    objects_px: tuple[float, float] = (2.0, 4.0)
    claimed_hsi_px: float = 0.0
    georeferenced: bool = True


@dataclass(frozen=True)
class Displaced:
    """A displaced guide, and where everything went.

    Attributes
    ----------
    guide : Tensor (m, H, W)
        0 where not valid.
    valid : Tensor (H, W), bool
    fine_to_guide : ndarray (2, H, W)
        Where each fine pixel's centre appears in the guide.
    objects : ndarray (H, W), int
        On the fine grid: 0 the ground, else the object's number; a greater number hides a smaller one.
    occluded : ndarray (H, W), bool
        Fine pixels that an object hides in the guide.
    guide_to_fine : ndarray (2, H, W)
        Where each guide pixel's ground, without objects, lies on the fine grid.
    """

    guide: Tensor
    valid: Tensor
    fine_to_guide: Array
    objects: NDArray[np.intp]
    occluded: Mask
    guide_to_fine: Array


class _Ground:
    """The mapping without objects, and its inverse."""

    def __init__(self, local: Array, window: Window, moved: Misregistration) -> None:
        """`local` (2, H0, W0): displacement over the whole cube."""
        self.top, self.left, height, width = window
        self.local = local
        angle = math.radians(moved.degrees)
        self.turn = moved.scale * np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        self.origin = np.array([width / 2, height / 2])
        self.offset = self.origin + np.add(moved.shift_px, np.multiply(moved.shift_share, (width, height)))

    def forward(self, points: Array) -> Array:
        """Scene (2, ...) -> guide."""
        origin, offset = _as(points, self.origin), _as(points, self.offset)
        return np.tensordot(self.turn, points - origin, axes=1) + offset + self._local(points)

    def backward(self, points: Array) -> Array:
        """Guide (2, ...) -> scene.

        By fixed-point steps: the local field is smooth, each shrinks the error by its gradient, about 0.1.
        """
        origin, offset = _as(points, self.origin), _as(points, self.offset)
        back, source = np.asarray(np.linalg.inv(self.turn), np.float64), points.copy()
        for _ in range(12):
            source = origin + np.tensordot(back, points - offset - self._local(source), axes=1)
        return source

    def rows_columns(self, points: Array) -> Array:
        """Array indices in the cube."""
        indices: Array = points[::-1] + _as(points, np.array([self.top - 0.5, self.left - 0.5]))
        return indices

    def _local(self, points: Array) -> Array:
        if not self.local.any():
            return np.zeros_like(points)
        at = self.rows_columns(points)
        return np.stack([map_coordinates(f, at, order=3, mode="nearest") for f in self.local])


def _as(points: Array, pair: Array) -> Array:
    """A pair shaped to be added to points (2, ...)."""
    return pair.reshape(2, *[1] * (points.ndim - 1))


def displace(
    clean: Tensor,
    window: Window,
    moved: Misregistration,
    field_rng: np.random.Generator,
    object_rng: np.random.Generator,
) -> Displaced:
    """See the guide image (m, H0, W0) of the whole cube displaced, on the window's grid."""
    top, left, height, width = window
    rows, columns = clean.shape[1:]
    ground = _Ground(_local_field(rows, columns, window, moved.local_px, field_rng), window, moved)
    inner = (slice(top, top + height), slice(left, left + width))
    objects = segments(clean[:, *inner].numpy(), moved.objects, object_rng)
    moves = _object_moves(moved, object_rng)  # (objects + 1, 2)
    labels = np.zeros((rows, columns), np.intp)
    labels[inner] = objects

    def label(points: Array) -> NDArray[np.intp]:
        at = np.rint(ground.rows_columns(points)).astype(int)
        within = (at >= 0).all(0) & (at[0] < rows) & (at[1] < columns)
        return np.where(within, labels[tuple(np.where(within, at, 0))], 0)

    fine = centres(height, width)
    fine_to_guide = ground.forward(fine) + moves[objects].transpose(2, 0, 1)
    source = guide_to_fine = ground.backward(fine)  # each guide pixel's place on the ground
    y, x = ground.rows_columns(source)
    inside = (y >= 0) & (y <= rows - 1) & (x >= 0) & (x <= columns - 1)
    inside = _limit_overlap(inside, fine_to_guide, moved.max_overlap)
    image = clean.double().numpy()
    seen = _sample(_bare(image, labels > 0), ground.rows_columns(source))
    occluded = np.zeros(objects.shape, bool)
    for number, move in enumerate(moves[1:], 1):  # later ones stand higher
        source = ground.backward(fine - _as(fine, move))
        shown = label(source) == number
        seen[:, shown] = _sample(image, ground.rows_columns(source[:, shown]))
        behind = label(ground.backward(fine_to_guide - _as(fine, move))) == number
        occluded |= behind & (objects < number)
    return Displaced(
        torch.from_numpy((seen * inside).astype(np.float32)),
        torch.from_numpy(inside),
        fine_to_guide,
        objects,
        occluded,
        guide_to_fine,
    )


def centres(height: int, width: int) -> Array:
    """(column, row) of every pixel's centre, corner-based: (2, height, width)."""
    return np.array(np.mgrid[:height, :width][::-1], float) + 0.5


def _sample(image: Array, rows_columns: Array) -> Array:
    """Cubic splines at array indices: (m, H0, W0), (2, ...) -> (m, ...)."""
    return np.stack([map_coordinates(b, rows_columns, order=3, mode="mirror") for b in image])


def segments(image: NDArray[np.float32], wanted: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Number some compact segments of an image (m, H, W) from 1 on, in random order: what may stand out."""
    objects = np.zeros(image.shape[1:], np.intp)
    if not wanted:
        return objects
    image = image[:3]  # as many as the segmentation takes; one object is one object to RGB and to MS4
    lower, upper = np.percentile(image, [1, 99], axis=(1, 2), keepdims=True)
    stretched = np.clip((image - lower) / np.maximum(upper - lower, 1e-12), 0, 1)
    smallest, largest = (share * objects.size for share in OBJECT_SHARE)
    found = felzenszwalb(
        stretched.transpose(1, 2, 0), scale=0.1 * math.sqrt(objects.size), sigma=0.8, min_size=int(smallest)
    )
    compact = {}
    for segment, area in enumerate(np.bincount(found.ravel())):
        if smallest <= area <= largest:
            inscribed = distance_transform_edt(np.pad(found == segment, 1)).max()
            compact[segment] = inscribed**2 / area
    candidates = sorted(compact, key=compact.__getitem__)[-2 * wanted :]  # not the thin rims of larger things
    for number, segment in enumerate(rng.permutation(candidates)[:wanted], 1):
        objects[found == segment] = number
    return objects


def _object_moves(moved: Misregistration, rng: np.random.Generator) -> Array:
    """(objects + 1, 2): the ground's (0, 0) first, then ever longer ones along one direction."""
    angle, lengths = rng.uniform(0, 2 * math.pi), np.sort(rng.uniform(*moved.objects_px, moved.objects))
    return np.outer([0.0, *lengths], [math.cos(angle), math.sin(angle)])


def _bare(image: Array, objects: Mask) -> Array:
    """The ground without its objects: each of their pixels from the nearest ground (m, H0, W0)."""
    if not objects.any():
        return image
    rows, columns = distance_transform_edt(objects, return_distances=False, return_indices=True)
    bare: Array = image[:, rows, columns]
    return bare


def _local_field(rows: int, columns: int, window: Window, rms: float, rng: np.random.Generator) -> Array:
    """A smooth random displacement (2, rows, columns) of zero mean and the given RMS length in the window."""
    top, left, height, width = window
    field = smooth_field(rows, columns, min(64.0, min(height, width) / 3), rng)
    inner = field[:, top : top + height, left : left + width]
    mean = inner.mean((1, 2), keepdims=True)
    return (field - mean) * (rms / math.sqrt(((inner - mean) ** 2).sum(0).mean()))


def smooth_field(rows: int, columns: int, reach: float, rng: np.random.Generator) -> Array:
    """A random field (2, rows, columns); its autocorrelation is Gaussian, 1/e at `reach` pixels."""
    white = rng.standard_normal((2, rows, columns))
    # a filter of sigma gives an autocorrelation exp(-r^2 / (4 sigma^2)): 1/e at r = 2 sigma
    return np.stack([gaussian_filter(f, reach / 2, mode="reflect") for f in white])


def _limit_overlap(inside: Mask, fine_to_guide: Array, most: float) -> Mask:
    """Drop the guide's left columns until it shows at most a share of the fine pixels."""
    width = inside.shape[1]
    within, (columns, _) = shown_at(inside, fine_to_guide)
    keep = np.sort(np.where(within, columns, -1).ravel())[::-1]  # guide columns of the shown pixels, falling
    allowed = int(most * inside.size)
    if within.sum() <= allowed:
        return inside
    return inside & (np.arange(width) > keep[allowed])


def shown_at(mask: Mask, places: Array) -> tuple[Mask, NDArray[np.intp]]:
    """Which places (2, ...) lie in true pixels of a mask (H, W); and the pixels, (column, row)."""
    height, width = mask.shape
    at = np.floor(places).astype(np.intp)
    within = (at >= 0).all(0) & (at[0] < width) & (at[1] < height)
    columns, rows = np.where(within, at, 0)
    return within & mask[rows, columns], at
