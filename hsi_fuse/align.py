"""Map-land's side of registration: the start that georeferencing gives, the one resampling of the guide."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

from hsi_fuse.errors import AlignmentError, HsiFuseWarning
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Raster
from hsi_fuse.registration.tiles import Tile
from hsi_fuse.threads import at_once

Array = NDArray[np.float64]
LATTICE = 33
"""Points along each axis at which a map projection is evaluated."""
NEGLIGIBLE_PX = 0.02
"""What an affine may miss of a map projection, guide pixels, before it is carried as displacement."""
INVERSIONS = 10
TILE_PX = 512
"""Side of what is resampled at a time."""
SPLINE_REACH, BLUR_REACH = 16, 4.5
"""How far a sample looks: pixels, where a spline weighs a billionth, and deviations of the blur."""


@dataclass(frozen=True)
class Alignment:
    """Where each target pixel lies in the guide.

    Attributes
    ----------
    hsi_to_guide : Affine
        (column, row) on the refined HSI grid -> (column, row) on the guide's full native grid, both
        corner-based (a pixel's centre is at +0.5).
    displacement_px : ndarray (2, h, w), float32, or None
        (column, row) added after `hsi_to_guide`, guide pixels, on a lattice over the whole target grid; what
        an affine cannot express (map projections).
    confidence : ndarray (H, W), float32
        0 to 1: where the guide has data for the target pixel, and shows what the HSI shows.
    start : Affine
        What `hsi_to_guide` is by the georeferencing alone.
    start_displacement_px : ndarray (2, p, q), float32, or None
        What is added after `start`.
    ties_before, ties_after : ndarray (p, 4)
        Tie points that took no part in the fit: column, row, and residual shift in columns and rows, before
        and after registration; pixels of the refined grid.
    error_px : float
        Residual error in refined-HSI pixels: RMS over held-out tie points, or the fit's own standard error.
    found : mapping
        Figures of the search and the fit; JSON-ready.
    responses : sequence of callables
        What makes each guide band linear (`response.Response`); empty where all are used as they are.
    """

    hsi_to_guide: Affine
    displacement_px: NDArray[np.float32] | None
    confidence: NDArray[np.float32]
    start: Affine
    start_displacement_px: NDArray[np.float32] | None
    ties_before: Array
    ties_after: Array
    error_px: float
    found: Mapping[str, object] = field(default_factory=dict)
    responses: Sequence[Callable[[NDArray[np.float32]], NDArray[np.float32]]] = ()

    @property
    def local_px(self) -> NDArray[np.float32] | None:
        """What of the mapping is neither affine nor known from the start: (2, p, q), refined-HSI pixels.

        On a lattice over the target grid; None where it is negligible.
        """
        if self.displacement_px is None:
            return None
        local = self.displacement_px.astype(np.float64)
        if self.start_displacement_px is not None:
            down, across = (
                np.linspace(0, nodes - 1, wanted)
                for nodes, wanted in zip(self.start_displacement_px.shape[1:], local.shape[1:], strict=True)
            )
            local = local - interpolated(self.start_displacement_px, *np.meshgrid(across, down), 1, 0)
        a, b, _, d, e, _ = (~self.hsi_to_guide)[:6]
        moved = np.stack([a * local[0] + b * local[1], d * local[0] + e * local[1]]).astype(np.float32)
        return moved if np.abs(moved).max() > NEGLIGIBLE_PX else None


def start_mapping(hsi: Grid, guide: Grid) -> tuple[Affine, NDArray[np.float32] | None]:
    """The mapping HSI pixel -> guide pixel before any matching, and what of it an affine cannot express.

    From the georeferencing where both have one, through both CRS; a missing CRS is taken to be the other's.
    Without georeferencing both images are taken to show the same ground from edge to edge.

    Returns
    -------
    mapping : Affine
    displacement : ndarray (2, LATTICE, LATTICE) or None
        Guide pixels, (column, row), on a lattice from corner to corner of the HSI.
    """
    if not (hsi.georeferenced and guide.georeferenced):
        missing = (
            "the HSI" if guide.georeferenced else "the reference" if hsi.georeferenced else "neither image"
        )
        verb = "has" if missing == "neither image" else "has no"
        warnings.warn(
            f"{missing} {verb} georeferencing: both are taken to show the same ground from edge to edge",
            HsiFuseWarning,
            stacklevel=2,
        )
        return Affine.scale(guide.width / hsi.width, guide.height / hsi.height), None
    if (hsi.crs is None) != (guide.crs is None):
        which, other = ("the HSI", "the reference") if hsi.crs is None else ("the reference", "the HSI")
        warnings.warn(f"{which} names no CRS: that of {other} is assumed", HsiFuseWarning, stacklevel=2)
    columns, rows = np.meshgrid(np.linspace(0, hsi.width, LATTICE), np.linspace(0, hsi.height, LATTICE))
    to_columns, to_rows = hsi.to_pixels_of(guide, columns, rows)
    if not (np.isfinite(to_columns).all() and np.isfinite(to_rows).all()):
        raise AlignmentError(
            f"the HSI's ground cannot be expressed in the reference's CRS ({guide.crs}): "
            "check both files' CRS"
        )
    mapping, rest = as_affine(columns, rows, to_columns, to_rows)
    return mapping, rest if np.abs(rest).max() > NEGLIGIBLE_PX else None


def as_affine(
    columns: Array, rows: Array, to_columns: Array, to_rows: Array
) -> tuple[Affine, NDArray[np.float32]]:
    """The affine nearest to a mapping given at places (p, q), and what it misses there, (2, p, q)."""
    design = np.stack([columns.ravel(), rows.ravel(), np.ones(columns.size)], 1)
    wanted = np.stack([to_columns.ravel(), to_rows.ravel()], 1)
    parameters = np.linalg.lstsq(design, wanted, rcond=None)[0]  # (3, 2)
    rest = (wanted - design @ parameters).T.reshape(2, *columns.shape)
    return Affine(*parameters[:, 0], *parameters[:, 1]), rest.astype(np.float32)


def window_of(hsi: Grid, guide: Grid, mapping: Affine, margin_hsi_px: float) -> tuple[int, int, int, int]:
    """The guide's window (row, column, height, width) that may show the HSI's ground, clipped to the guide.

    Raises
    ------
    AlignmentError
        The guide has no pixel there.
    """
    m = margin_hsi_px
    corners = [(x, y) for x in (-m, hsi.width + m) for y in (-m, hsi.height + m)]
    xs, ys = zip(*(mapping * corner for corner in corners), strict=True)
    left, top = max(int(np.floor(min(xs))), 0), max(int(np.floor(min(ys))), 0)
    right, bottom = min(int(np.ceil(max(xs))), guide.width), min(int(np.ceil(max(ys))), guide.height)
    if right <= left or bottom <= top:
        raise AlignmentError(
            "the reference does not overlap the HSI: by its georeferencing the HSI lies at columns "
            f"{min(xs):.0f}..{max(xs):.0f}, rows {min(ys):.0f}..{max(ys):.0f} of a reference of "
            f"{guide.width} x {guide.height} pixels; check both files' CRS and transform"
        )
    return top, left, bottom - top, right - left


def resample(
    guide: Raster,
    mapping: Affine,
    displacement: NDArray[np.float32] | None,
    shape: tuple[int, int],
    part: Tile | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bring native guide pixels to the target grid, once, by cubic splines.

    Where target pixels are larger than guide pixels the guide is first blurred by a Gaussian of the variance
    that the larger pixel's box has more, which is the anti-aliasing that the target pixel's area asks for.

    Parameters
    ----------
    guide : Raster
        A window of the guide.
    mapping : Affine
        Target pixel -> pixel of this window, corner-based.
    displacement : ndarray (2, p, q) or None
        Added after `mapping`, guide pixels, on a lattice from corner to corner of the target.
    shape : (H, W)
    part : pair of slice, optional
        Rows and columns of the target that are wanted: H and W of the results are theirs.

    Returns
    -------
    values : ndarray (m, H, W), float32
        0 where there is no weight.
    weight : ndarray (H, W), float32
        1 where the guide has data around the sample, else 0.
    """
    first, last = zip(*((p.start, p.stop) for p in part), strict=True) if part else ((0, 0), shape)
    a, b, _, d, e, _ = mapping[:6]
    # guide pixels per target pixel along the guide's own columns and rows
    sigma = [np.sqrt(max(step**2 - 1, 0) / 12) for step in (np.hypot(d, e), np.hypot(a, b))]
    margin = SPLINE_REACH + int(np.ceil(BLUR_REACH * max(sigma)))
    holes = ~guide.valid
    native = fill_holes(guide.values, holes)
    clear = _clear(guide.valid)
    weight = np.zeros([end - start for start, end in zip(first, last, strict=True)], np.float32)
    values = np.zeros((len(native), *weight.shape), np.float32)

    def sample(tile: Tile) -> None:
        down, across = (
            np.arange(axis.start, axis.stop) + start + 0.5 for axis, start in zip(tile, first, strict=True)
        )
        columns, rows = to_guide(mapping, displacement, shape, *np.meshgrid(across, down)) - 0.5
        # pixels' centres are integers now
        nearest = [np.rint(where).astype(int) for where in (rows, columns)]
        seen = _at(clear, nearest)
        weight[tile] = seen
        if not seen.any():
            return
        # of a big guide the coefficients of all splines take gigabytes
        window = tuple(
            slice(max(int(index[seen].min()) - margin, 0), int(index[seen].max()) + margin + 1)
            for index in nearest
        )
        places = [where[seen] - axis.start for where, axis in zip((rows, columns), window, strict=True)]
        for band, image in enumerate(native):
            splines = _prepared(image[window], sigma)
            sampled = ndimage.map_coordinates(splines, places, order=3, mode="mirror", prefilter=False)
            values[band][tile][seen] = sampled

    tops, lefts = (
        [slice(start, min(start + TILE_PX, side)) for start in range(0, side, TILE_PX)]
        for side in weight.shape
    )
    at_once(sample, list(product(tops, lefts)))
    return values, weight


def covered(
    valid: NDArray[np.bool_],
    mapping: Affine,
    displacement: NDArray[np.float32] | None,
    shape: tuple[int, int],
) -> NDArray[np.bool_]:
    """Which pixels of an image (H, W) have their centre where `resample` has values of valid (gh, gw) pixels.

    `mapping`, `displacement`, `shape`: as of `to_guide`.
    """
    rows, columns = (np.arange(side) + 0.5 for side in shape)
    across, down = to_guide(mapping, displacement, shape, *np.meshgrid(columns, rows))
    return _at(_clear(valid), [np.floor(where).astype(int) for where in (down, across)])


def _clear(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Guide pixels around which a sample counts: those that carry most of the spline are all valid."""
    return valid if valid.all() else ndimage.binary_erosion(valid, np.ones((3, 3)), border_value=1)


def _at(valid: NDArray[np.bool_], places: Sequence[NDArray[np.intp]]) -> NDArray[np.bool_]:
    """Whether the guide is valid (gh, gw) at rows and columns (...); nowhere beyond its edges."""
    there = np.ones(places[0].shape, bool)
    for index, size in zip(places, valid.shape, strict=True):
        there &= (index >= 0) & (index < size)
    there[there] = valid[places[0][there], places[1][there]]
    return there


def _prepared(band: NDArray[np.float32], sigma: Sequence[float]) -> NDArray[np.float32]:
    """A band as its spline's coefficients, anti-aliased."""
    blurred = ndimage.gaussian_filter(band, sigma, mode="nearest")
    return np.asarray(ndimage.spline_filter(blurred, order=3, mode="mirror", output=np.float32))


def to_guide(
    mapping: Affine,
    displacement: NDArray[np.float32] | None,
    shape: tuple[int, int],
    x: Array,
    y: Array,
    order: int = 1,
) -> Array:
    """Where places in an image lie in the guide: (2, ...) of columns and rows, corner-based like the places.

    Parameters
    ----------
    mapping, displacement
        As `Alignment` has them: an affine, and what is added on a lattice from corner to corner. Some way
        outside the image the lattice's slopes go on.
    shape : (H, W) of the image
    x, y : ndarray (...)
        Columns and rows.
    order : int
        Of the splines between the lattice's nodes.
    """
    a, b, c, d, e, f = mapping[:6]
    affine = np.stack([a * x + b * y + c, d * x + e * y + f])
    if displacement is None:
        return affine
    tall, wide = (side - 1 for side in displacement.shape[1:])
    nodes = x / shape[1] * wide, y / shape[0] * tall
    return affine + interpolated(displacement, *nodes, order, min(tall, wide) // 4)


def from_guide(
    mapping: Affine,
    displacement: NDArray[np.float32] | None,
    shape: tuple[int, int],
    columns: Array,
    rows: Array,
) -> Array:
    """The inverse of `to_guide`: places in the image (2, ...) of places in the guide."""
    there, off = np.stack([columns, rows]), np.zeros((2, *np.shape(columns)))
    a, b, c, d, e, f = (~mapping)[:6]
    # fixed-point steps: a displacement bends so gently that each gains a digit or two
    for _ in range(1 if displacement is None else INVERSIONS):
        u, v = there - off
        x, y = a * u + b * v + c, d * u + e * v + f
        off = to_guide(mapping, displacement, shape, x, y) - (there - off)
    return np.stack([x, y])


def interpolated(image: NDArray[np.float32], columns: Array, rows: Array, order: int, beyond: int) -> Array:
    """An image (c, H, W) at array indices (...): (c, ...); its slopes go on for `beyond` pixels outside."""
    pad = ((0, 0), (beyond, beyond), (beyond, beyond))
    wide = np.pad(image.astype(np.float64), pad, mode="reflect", reflect_type="odd")
    at = [rows + beyond, columns + beyond]
    return np.stack([ndimage.map_coordinates(band, at, order=order, mode="nearest") for band in wide])


def fill_holes(image: NDArray[np.float32], holes: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Holes (H, W) of an image (c, H, W) filled by the nearest pixel: no spline overshoots at their rims."""
    if not holes.any() or holes.all():
        return image
    rows, columns = ndimage.distance_transform_edt(holes, return_distances=False, return_indices=True)
    filled: NDArray[np.float32] = image[:, rows, columns]
    return filled
