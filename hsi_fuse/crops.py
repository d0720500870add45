"""Training windows: whole HSI pixels and the fine pixels under them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TILES = 16


@dataclass(frozen=True)
class Crop:
    """A window of HSI pixels, its fine pixels, and which HSI pixels see only the window (h, w)."""

    coarse: tuple[slice, slice]
    fine: tuple[slice, slice]
    inner: Tensor


class Crops:
    """Training windows that hold enough usable HSI pixels."""

    def __init__(self, usable: Tensor, side: int, ring: int, ratio: int) -> None:
        """`ring`: HSI pixels at a window's rim whose PSF reaches out of it."""
        self.shape = usable.shape
        self.size = (min(side, usable.shape[0]), min(side, usable.shape[1]))
        self.ring, self.ratio, self.device = ring, ratio, usable.device
        share = F.avg_pool2d(usable.float()[None, None], self.size, stride=1)[0, 0]
        self.origins = torch.nonzero(share >= min(0.5, float(share.max()))).cpu()

    def any(self, draw: torch.Generator) -> Crop:
        """A random window."""
        i, j = self.origins[int(torch.randint(len(self.origins), (1,), generator=draw))].tolist()
        return self._at(i, j)

    def tiles(self, most: int = TILES) -> Iterator[Crop]:
        """At most so many windows spread evenly over the scene."""
        chosen = torch.linspace(0, len(self.origins) - 1, min(most, len(self.origins))).round().long()
        for i, j in self.origins[chosen].tolist():
            yield self._at(i, j)

    def _at(self, i: int, j: int) -> Crop:
        s, (height, width) = self.ratio, self.size
        inner = torch.ones(self.size, device=self.device)
        for axis, (first, size) in enumerate(((i, height), (j, width))):
            # at the scene's own border edges are mirrored, as in the whole image
            if first > 0:
                inner.narrow(axis, 0, min(self.ring, size)).zero_()
            if first + size < self.shape[axis]:
                inner.narrow(axis, size - min(self.ring, size), min(self.ring, size)).zero_()
        coarse = (slice(i, i + height), slice(j, j + width))
        return Crop(coarse, (slice(i * s, (i + height) * s), slice(j * s, (j + width) * s)), inner)
