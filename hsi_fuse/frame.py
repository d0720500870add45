"""Frame: where an estimate stands among all bands and pixels of a product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.raster import Raster
from hsi_fuse.subspace import upsample

BICUBIC_REACH = 3
"""HSI rows read beyond the one that is interpolated; bicubic interpolation reaches 2."""


@dataclass(frozen=True)
class Frame:
    """What an estimate of the good bands leaves open: bands that took no part, pixels without data.

    Attributes
    ----------
    good_bands : ndarray (band,), bool
        Where the estimate's bands stand among the product's.
    valid : ndarray (h, w), bool
        HSI pixels with data.
    idle : ndarray (b, h, w), float32
        The HSI's other bands, in order.
    ratio : int
        Fine pixels per HSI pixel along one axis.
    """

    good_bands: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    idle: NDArray[np.float32]
    ratio: int

    @classmethod
    def of(cls, hsi: Raster, ratio: int) -> Frame:
        """The frame of an HSI's product."""
        return cls(hsi.good_bands, hsi.valid, np.ascontiguousarray(hsi.values[~hsi.good_bands]), ratio)

    def placed(self, block: Tensor, start: int) -> NDArray[np.float32]:
        """Rows of the good bands (n, rows, W) from row `start` on, among all bands; NaN elsewhere."""
        rows, bare = block.cpu().numpy(), ~self.valid_rows(start, start + block.shape[1])
        if self.good_bands.all() and not bare.any():  # mostly
            return np.asarray(rows, np.float32)
        out = np.full((len(self.good_bands), *block.shape[1:]), np.nan, np.float32)
        out[self.good_bands] = rows
        out[:, bare] = np.nan
        return out

    def filled(self, block: Tensor, start: int) -> NDArray[np.float32]:
        """As `placed`, and the idle bands interpolated; NaN for empty ones."""
        out = self.placed(block, start)
        if len(self.idle):
            stop = start + block.shape[1]
            rows = self._idle_rows(start, stop)
            rows[:, ~self.valid_rows(start, stop)] = np.nan
            out[~self.good_bands] = rows
        return out

    def valid_rows(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Where rows start..stop-1 of the product have data, (rows, W)."""
        ratio = self.ratio
        first, last = start // ratio, -(-stop // ratio)
        valid = self.valid[first:last].repeat(ratio, 0).repeat(ratio, 1)
        return valid[start - first * ratio : stop - first * ratio]

    def _idle_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start..stop-1 of the idle bands, interpolated; NaN for empty bands."""
        ratio, height = self.ratio, self.valid.shape[0]
        parts = []
        for row in range(start // ratio, -(-stop // ratio)):  # one at a time, as in `Estimate.rows`
            first, last = max(row - BICUBIC_REACH, 0), min(row + 1 + BICUBIC_REACH, height)
            around = upsample(torch.from_numpy(self.idle[:, first:last].copy()), ratio).numpy()
            parts.append(around[:, (row - first) * ratio : (row - first + 1) * ratio])
        first_row = start // ratio * ratio
        rows: NDArray[np.float32] = np.concatenate(parts, axis=1)[:, start - first_row : stop - first_row]
        rows[~self.idle.any((1, 2))] = np.nan
        return rows
