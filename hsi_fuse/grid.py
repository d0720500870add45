"""Grid: where pixels lie on the ground. Immutable."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import rasterio.warp
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS

from hsi_fuse.errors import GridError

METRES_PER_DEGREE = 111_320.0


@dataclass(frozen=True)
class Grid:
    """A regular raster grid.

    Attributes
    ----------
    crs : CRS or None
        None where the file names none.
    transform : Affine
        (column, row) of a pixel's corner -> (x, y) in the CRS; pixel (0, 0)'s upper-left corner is the
        origin, so its centre is at (0.5, 0.5). May be rotated.
    width, height : int
        Size in pixels.
    """

    crs: CRS | None
    transform: Affine
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise GridError(f"a grid needs at least one pixel, got {self.width} x {self.height}")
        if self.transform.determinant == 0 or not all(map(math.isfinite, self.transform[:6])):
            raise GridError(f"the geotransform is degenerate: {tuple(self.transform[:6])}")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def georeferenced(self) -> bool:
        """True where the transform says more than pixel numbers."""
        identity = self.transform in (Affine.identity(), Affine.scale(1, -1))
        return self.crs is not None or not identity

    @property
    def gsd(self) -> tuple[float, float]:
        """Ground sampling distance along columns and rows, in units of the CRS."""
        a, b, _, d, e, _ = self.transform[:6]
        return math.hypot(a, d), math.hypot(b, e)

    @property
    def gsd_m(self) -> float:
        """Ground sampling distance in metres (geometric mean of both axes).

        In a geographic CRS degrees are turned into metres at the centre's latitude; without a CRS the
        units are taken as metres.
        """
        middle = (self.transform * (self.width / 2, self.height / 2))[1]
        mx, my = (float(m) for m in self.metres_per_unit(middle))
        a, b, _, d, e, _ = self.transform[:6]
        gx, gy = math.hypot(a * mx, d * my), math.hypot(b * mx, e * my)
        return math.sqrt(gx * gy)

    def metres_per_unit(self, y: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Metres in one unit of the CRS along x and along y, at the ordinate y (a latitude, in degrees).

        Without a CRS the units are taken as metres.
        """
        one = np.ones_like(y, dtype=np.float64)
        if self.crs is not None and self.crs.is_geographic:
            across = METRES_PER_DEGREE * np.maximum(np.cos(np.radians(y)), 1e-6)
            return across * one, METRES_PER_DEGREE * one
        if self.crs is not None and self.crs.is_projected:
            one = one * self.crs.linear_units_factor[1]
        return one, one

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of the grid's corners in its CRS."""
        corners = ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height))
        xs, ys = zip(*(self.transform * c for c in corners), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def refine(self, n: int) -> Grid:
        """The grid whose pixels are n times smaller, over the same ground."""
        if n < 1:
            raise GridError(f"a grid is refined by a factor of at least 1, got {n}")
        return Grid(self.crs, self.transform * Affine.scale(1 / n), self.width * n, self.height * n)

    def window(self, row: int, column: int, height: int, width: int) -> Grid:
        """The grid of a window that starts at (row, column)."""
        return Grid(self.crs, self.transform * Affine.translation(column, row), width, height)

    def covering(self, bounds: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
        """The smallest window (row, column, height, width) of whole pixels that covers bounds.

        Parameters
        ----------
        bounds : (left, bottom, right, top)
            In the CRS; in pixels, rows counted downwards, where the grid is not georeferenced.

        Raises
        ------
        GridError
            If the bounds make no box, or meet no pixel.
        """
        left, bottom, right, top = bounds
        if not all(map(math.isfinite, bounds)) or right <= left or bottom == top:
            raise GridError(f"the bounds {bounds} are no box; give left, bottom, right, top")
        if self.georeferenced and top < bottom:
            raise GridError(
                f"the bounds {bounds} have their top below their bottom; give left, bottom, right, top"
            )
        corners = [~self.transform * (x, y) for x in (left, right) for y in (bottom, top)]
        columns, rows = zip(*corners, strict=True)
        edge = 1e-6  # of a pixel: a corner given in decimal digits is not meant to touch the next one
        first, last = math.floor(min(columns) + edge), math.ceil(max(columns) - edge)
        above, below = math.floor(min(rows) + edge), math.ceil(max(rows) - edge)
        first, above = max(first, 0), max(above, 0)
        last, below = min(last, self.width), min(below, self.height)
        if last <= first or below <= above:
            raise GridError(
                f"the bounds {bounds} meet no pixel: the image covers "
                f"{tuple(round(b, 6) for b in self.bounds)} (CRS {self.crs or 'none'})"
            )
        return above, first, below - above, last - first

    def to_pixels_of(
        self, other: Grid, columns: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map corner-based pixel coordinates of this grid to those of another, through both CRS.

        Where either CRS is missing, both are taken as the same.

        Parameters
        ----------
        other : Grid
        columns, rows : ndarray
            Pixel coordinates with (0, 0) at the upper-left corner of the first pixel.

        Returns
        -------
        columns, rows : ndarray, float64, shaped as the input
            NaN where the other CRS cannot express the places.
        """
        shape = np.shape(columns)
        pixels = (np.ravel(columns).astype(float), np.ravel(rows).astype(float))
        x, y = self.transform * pixels  # type: ignore[operator]  # affine takes arrays too
        if self.crs is not None and other.crs is not None and self.crs != other.crs:
            try:
                x, y = map(np.asarray, rasterio.warp.transform(self.crs, other.crs, x, y))
            except CPLE_BaseError:  # PROJ refuses some places instead of answering inf
                x = y = np.full(np.size(x), np.nan)
        c, r = ~other.transform * (x, y)
        return np.reshape(c, shape), np.reshape(r, shape)
