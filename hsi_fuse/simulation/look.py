"""Look: a guide of another radiometry, partly clouded and partly changed, for `simulate`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from hsi_fuse.simulation.displace import Mask

PATCH_SHARE = 0.3
CLOUDS = 14
"""The guide's shorter side over the standard deviation of the filter that makes clouds."""


@dataclass(frozen=True)
class Look:
    """How the guide's radiometry and content differ from the scene's; the default: not at all.

    In this order: clouds and changes, gamma, inversion, gain and offset. Noise comes after.

    Attributes
    ----------
    changed_share : float
        Share of the valid guide that does not show the scene: smooth-edged bright clouds, and of it
        `PATCH_SHARE` a patch copied from elsewhere.
    gamma : float
        Values over their band's maximum become x ** (1 / gamma).
    inverted_bands : int
        Randomly chosen bands that become 1 - x.
    gain, offset : float
    """

    changed_share: float = 0.0
    gamma: float = 1.0
    inverted_bands: int = 0
    gain: float = 1.0
    offset: float = 0.0

    def __call__(self, guide: Tensor, valid: Tensor, rng: np.random.Generator) -> tuple[Tensor, Mask]:
        """The guide (m, H, W) with this look, and which of its pixels do not show the scene."""
        if self == PLAIN:
            return guide, np.zeros(valid.shape, bool)
        level = (guide * valid).amax((1, 2), keepdim=True)
        image = (guide / level).clamp(0, 1)
        cloud, moved = _changes(valid.numpy(), self.changed_share, rng)
        elsewhere = image.roll((valid.shape[0] // 2, valid.shape[1] // 2), (1, 2))
        image = torch.where(torch.from_numpy(moved), elsewhere, image)
        image = torch.lerp(image, torch.ones(()), torch.from_numpy(cloud))
        image = image ** (1 / self.gamma)
        inverted = rng.permutation(len(image))[: self.inverted_bands]
        image[inverted] = 1 - image[inverted]
        return self.gain * image + self.offset, moved | (cloud > 0)


PLAIN = Look()


def _changes(valid: Mask, share: float, rng: np.random.Generator) -> tuple[NDArray[np.float32], Mask]:
    """Opacity of clouds (H, W), and a square that shows something else; together a share of the valid."""
    height, width = valid.shape
    cloud, patch = np.zeros(valid.shape, np.float32), np.zeros(valid.shape, bool)
    side = round(math.sqrt(PATCH_SHARE * share * valid.sum()))
    row, column = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    patch[row : row + side, column : column + side] = True
    field = gaussian_filter(rng.standard_normal(valid.shape), min(height, width) / CLOUDS)
    open_sky = valid & ~patch
    covered = share * valid.sum() - (valid & patch).sum()
    if covered >= 1:
        rim = np.quantile(field[open_sky], 1 - covered / open_sky.sum())
        # from clear at the rim to dense within a third of the way to the thickest
        cloud = np.clip(3 * (field - rim) / (field.max() - rim), 0, 1).astype(np.float32)
        cloud = cloud**2 * (3 - 2 * cloud)
    return cloud, patch
