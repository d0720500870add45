"""A product that is read row by row, whoever made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from hsi_fuse.physics import blur_down, mix_bands, psf_padding

BLOCK_VALUES = 1 << 24
"""Values of a cube held at one time."""


def block_rows(shape: tuple[int, int, int]) -> int:
    """Rows of a cube (n, H, W) that hold about `BLOCK_VALUES`."""
    return max(1, BLOCK_VALUES // (shape[0] * shape[2]))


@dataclass(frozen=True)
class StreamedCube:
    """A cube that comes in blocks of rows.

    Attributes
    ----------
    shape : (n, H, W)
    read : callable (start, stop) -> Tensor (n, stop - start, W)
        Finite values; what has none is 0.
    """

    shape: tuple[int, int, int]
    read: Callable[[int, int], Tensor]

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start..stop-1, (n, stop - start, W)."""
        return self.read(start, stop)

    def mixed(self, matrix: Tensor, offset: Tensor | None = None) -> StreamedCube:
        """Linear combinations of the bands, each block mixed when it is read."""

        def mix(start: int, stop: int) -> Tensor:
            block = mix_bands(self.read(start, stop), matrix)
            return block if offset is None else block + offset[:, None, None]

        return StreamedCube((len(matrix), *self.shape[1:]), mix)

    def degraded(self, psf: Tensor, ratio: int) -> Tensor:
        """The cube at the HSI's resolution, (n, h, w).

        Each block comes with as many HSI rows more at either side as the PSF reaches; what `blur_down`
        mirrors at the block's own ends is dropped.
        """
        height = self.shape[1] // ratio
        rim = -(-max(psf_padding(len(psf), ratio), 0) // ratio)  # HSI rows
        step = max(4 * rim, block_rows(self.shape) // ratio, 1)
        seen = None
        for start in range(0, height, step):
            stop = min(start + step, height)
            first, last = max(start - rim, 0), min(stop + rim, height)
            low = blur_down(self.read(first * ratio, last * ratio), psf, ratio)
            seen = low.new_empty(low.shape[0], height, low.shape[2]) if seen is None else seen
            seen[:, start:stop] = low[:, start - first : len(low[0]) - (last - stop)]
        assert seen is not None
        return seen
