"""Networks that turn maps of one resolution into maps of another, and one that tells them apart.

They work on one map at a time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _double(before: int, after: int) -> nn.Sequential:
    """Two 3 x 3 convolutions; edges are mirrored, as the operators do."""
    layers: list[nn.Module] = []
    for width in (before, after):
        layers += [nn.Conv2d(width, after, 3, padding=1, padding_mode="reflect"), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


class Sharpen(nn.Module):
    """(N, 1, h, w) -> (N, 1, ratio h, ratio w): what interpolation misses, by one U-Net for all materials.

    The U-Net works on coarse pixels and gives each its ratio x ratio fine ones; it starts at nothing.
    """

    def __init__(self, ratio: int, width: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.first, self.deep = _double(1, width), _double(width, 2 * width)
        self.join = _double(3 * width, width)
        self.last = nn.Conv2d(width, ratio**2, 3, padding=1, padding_mode="reflect")
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor, materials: Tensor) -> Tensor:
        """See the class; whose maps they are, (N,), does not matter."""
        near = self.first(maps)
        far = F.interpolate(self.deep(F.avg_pool2d(near, 2, ceil_mode=True)), near.shape[2:], mode="nearest")
        return F.pixel_shuffle(self.last(self.join(torch.cat([near, far], 1))), self.ratio)


class SharpenEach(nn.Module):
    """A `Sharpen` for each material: what the shared one is compared with."""

    def __init__(self, materials: int, ratio: int, width: int) -> None:
        super().__init__()
        self.each = nn.ModuleList([Sharpen(ratio, width) for _ in range(materials)])

    def forward(self, maps: Tensor, materials: Tensor) -> Tensor:
        """(N, 1, h, w) of the materials (N,)."""
        parts = [self.each[int(k)](one[None], k) for one, k in zip(maps, materials, strict=True)]
        return torch.cat(parts)


class Critic(nn.Module):
    """Patches (N, 1, H, W) of the materials (N,) -> scores (N, 1, H / 8, W / 8), a head for each material."""

    def __init__(self, materials: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, width), (width, 2 * width), (2 * width, 2 * width)):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.Conv2d(2 * width, materials, 1)

    def forward(self, patches: Tensor, materials: Tensor) -> Tensor:
        """See the class."""
        scores: Tensor = self.heads(self.trunk(patches))
        return scores[torch.arange(len(patches), device=patches.device), materials][:, None]
