"""A product that is read row by row, whoever made it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hsi_fuse.physics import blur_down, mix_bands, psf_padding
from hsi_fuse.problem import averaged

BLOCK_VALUES = 1 << 24
"""Values of a cube held at one time."""

Ranges = Iterable[tuple[int, int]]


def block_rows(shape: tuple[int, int, int]) -> int:
    """Rows of a cube (n, H, W) that hold about `BLOCK_VALUES`."""
    return max(1, BLOCK_VALUES // (shape[0] * shape[2]))


def strips(shape: tuple[int, int, int], multiple: int = 1) -> list[tuple[int, int]]:
    """Ranges of rows to go through a cube (n, H, W) in, each a multiple of `multiple` but the last."""
    step = max(1, block_rows(shape) // multiple) * multiple
    return [(start, min(start + step, shape[1])) for start in range(0, shape[1], step)]


@dataclass(frozen=True)
class StreamedCube:
    """A cube that comes in blocks of rows.

    Attributes
    ----------
    shape : (n, H, W)
    read : callable (ranges) -> iterator of Tensor (n, stop - start, W)
        For each range (start, stop) of rows its values, finite; what has none is 0. A file is opened once for
        all ranges: what is compressed in tiles is then unpacked once for all ranges that meet a tile.
    """

    shape: tuple[int, int, int]
    read: Callable[[Ranges], Iterator[Tensor]]

    @classmethod
    def of(cls, shape: tuple[int, int, int], rows: Callable[[int, int], Tensor]) -> StreamedCube:
        """One whose rows start..stop-1 a function gives, in any order."""
        return cls(shape, lambda ranges: (rows(*each) for each in ranges))

    def on(self, device: torch.device) -> StreamedCube:
        """The same, each block on a device."""
        return StreamedCube(self.shape, lambda ranges: (block.to(device) for block in self.read(ranges)))

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start..stop-1, (n, stop - start, W)."""
        (only,) = self.read([(start, stop)])
        return only

    def parts(self, ranges: Ranges) -> Iterator[Tensor]:
        """The rows of one range (start, stop) after the other."""
        return self.read(ranges)

    def pending(self, ranges: Ranges) -> Iterator[Callable[[], Tensor]]:
        """`parts`, which one thread reads in their order."""
        return (partial(_same, block) for block in self.read(ranges))

    def mixed(self, matrix: Tensor, offset: Tensor | None = None) -> StreamedCube:
        """Linear combinations of the bands, each block mixed when it is read."""

        def mix(ranges: Ranges) -> Iterator[Tensor]:
            for each in self.read(ranges):
                block = mix_bands(each, matrix.to(each))
                yield block if offset is None else block + offset[:, None, None]

        return StreamedCube((len(matrix), *self.shape[1:]), mix)

    def degraded(self, psf: Tensor, ratio: int) -> Tensor:
        """The cube at the HSI's resolution, (n, h, w).

        Each block comes with as many HSI rows more at either side as the PSF reaches; what `blur_down`
        mirrors at the block's own ends is dropped.
        """
        height = self.shape[1] // ratio
        rim = -(-max(psf_padding(len(psf), ratio), 0) // ratio)  # HSI rows
        step = max(4 * rim, block_rows(self.shape) // ratio, 1)
        own = [(start, min(start + step, height)) for start in range(0, height, step)]
        wider = [(max(start - rim, 0), min(stop + rim, height)) for start, stop in own]
        parts = self.read((first * ratio, last * ratio) for first, last in wider)
        seen = None
        for (start, stop), (first, last), part in zip(own, wider, parts, strict=True):
            low = blur_down(part, psf, ratio)
            seen = low.new_empty(low.shape[0], height, low.shape[2]) if seen is None else seen
            seen[:, start:stop] = low[:, start - first : len(low[0]) - (last - stop)]
        assert seen is not None
        return seen

    def averaged(self, step: int, bands: Sequence[int] | None = None) -> Tensor:
        """Means of step x step pixels of some bands or all, (bands, H // step, W // step)."""
        few = slice(None) if bands is None else list(bands)
        count, height, width = self.shape
        ranges = strips((count, height // step * step, width), step)
        return torch.cat([averaged(part[few], step) for part in self.parts(ranges)], 1)


def _same(block: Tensor) -> Tensor:
    return block
