"""Scenes of any size: a real truth cube, mirrored again and again, as a misregistered pair of files.

The fine cube is never whole: it is made, blurred and mixed in strips of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor

from benchmarks.scenes import load
from hsi_fuse.physics import blur_down, mix_bands
from hsi_fuse.registration.warp import sample
from hsi_fuse.simulation.displace import smooth_field
from hsi_fuse.simulation.simulate import find_protocol

PROTOCOL = "x4-ms4"
STRIP_HSI_ROWS = 16
RIM_HSI = 2
"""HSI rows beyond a strip that its PSF may see."""
SHIFT_PX, TURN_DEG, LOCAL_RMS_PX = (2.7, -3.4), 0.02, 0.5
LIGHT = 0.2
"""How much brighter or darker one place of the mosaic is than another: no two tiles are the same."""
MOST_TILE_PX = 97
"""Side of the tile, a prime: where it is mirrored nothing steps, which should not fall on blocks' borders."""
GSD_M = 30.0
MOST = 10_000
"""Stored value of the brightest reading."""


@dataclass(frozen=True)
class Mosaic:
    """A mirrored scene.

    Attributes
    ----------
    tile : Tensor (n, H0, W0)
        0..1.
    wavelengths_nm : ndarray (n,)
    height, width : int
        HSI pixels.
    seed : int
    """

    tile: Tensor
    wavelengths_nm: NDArray[np.float64]
    height: int
    width: int
    seed: int

    @classmethod
    def of(cls, scene: str, height: int, width: int, bands: int, seed: int = 0) -> Mosaic:
        """A scene with as many bands as asked for, interpolated where it has not that many."""
        cube, wavelengths = load(scene)
        cube = cube[:, :MOST_TILE_PX, :MOST_TILE_PX]
        at = np.linspace(0, len(cube) - 1, bands)
        first = np.minimum(at.astype(int), len(cube) - 2)
        share = torch.from_numpy(at - first).float()[:, None, None]
        tile = ((1 - share) * cube[first] + share * cube[first + 1]).clamp_min(0)
        return cls(tile / tile.max(), np.interp(at, np.arange(len(cube)), wavelengths), height, width, seed)

    @property
    def ratio(self) -> int:
        """Fine pixels per HSI pixel."""
        return find_protocol(PROTOCOL).ratio

    def fine(self, top: int, bottom: int) -> Tensor:
        """Rows of the fine cube (n, rows, W); beyond the first and the last row mirrored too."""
        across = torch.from_numpy(mirrored(np.arange(self.width * self.ratio), self.tile.shape[2]))
        down = torch.from_numpy(mirrored(np.arange(top, bottom), self.tile.shape[1]))
        return self.tile[:, down][:, :, across] * self._light(top, bottom)

    def _light(self, top: int, bottom: int) -> Tensor:
        """Illumination (rows, W): long waves that fit no tile."""
        y = torch.arange(top, bottom)[:, None] / 331.0
        x = torch.arange(self.width * self.ratio)[None] / 277.0
        return 1 - LIGHT + LIGHT * torch.sin(y + 0.5) * torch.cos(x) * torch.sin(0.3 * (x + y))

    def observed(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """First HSI row, HSI (n, h, w) and fine guide (m, ratio h, ratio w) of each strip; no noise."""
        protocol, s = find_protocol(PROTOCOL), self.ratio
        srf = protocol.srf(self.wavelengths_nm)
        for first in range(0, self.height, STRIP_HSI_ROWS):
            last = min(first + STRIP_HSI_ROWS, self.height)
            strip = self.fine((first - RIM_HSI) * s, (last + RIM_HSI) * s)
            low = blur_down(strip, protocol.psf, s)[:, RIM_HSI:-RIM_HSI]
            yield first, low, mix_bands(strip[:, RIM_HSI * s : -RIM_HSI * s], srf)


def mirrored(index: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Indices of half-sample mirroring: d c b a | a b c d | d c b a."""
    folded = index % (2 * size)
    return np.where(folded < size, folded, 2 * size - 1 - folded)


def save_mosaic(mosaic: Mosaic, folder: Path) -> tuple[Path, Path]:
    """Write the pair: `hsi.tif`, int16, and `guide.tif`, uint16 on a grid that lies about its place."""
    folder.mkdir(parents=True, exist_ok=True)
    protocol, s, rng = find_protocol(PROTOCOL), mosaic.ratio, np.random.default_rng(mosaic.seed)
    signal = mosaic.tile.square().mean((1, 2)).sqrt()  # (n,)
    deviation = (signal / 10 ** (protocol.snr_hsi_db / 20)).numpy()[:, None, None]
    guide = np.empty((len(protocol.guide_edges_nm), mosaic.height * s, mosaic.width * s), np.float32)
    profile = {"driver": "GTiff", "crs": "EPSG:32632", "tiled": True, "blockxsize": 256, "blockysize": 256}
    coarse = Affine(GSD_M, 0, 500_000, 0, -GSD_M, 5_000_000)
    paths = folder / "hsi.tif", folder / "guide.tif"
    size = {"width": mosaic.width, "height": mosaic.height, "count": len(mosaic.tile)}
    kind = {"dtype": "int16", "interleave": "band", "nodata": -9999, "transform": coarse}
    with rasterio.open(paths[0], "w", **profile, **size, **kind) as file:
        for band, wavelength in enumerate(mosaic.wavelengths_nm, 1):
            file.update_tags(band, wavelength=f"{wavelength:.3f}", wavelength_units="nm")
        for first, low, seen in mosaic.observed():
            noisy = low.numpy() + deviation * rng.standard_normal(low.shape, dtype=np.float32)
            window = Window(0, first, low.shape[2], low.shape[1])
            file.write(np.rint(MOST * noisy).astype(np.int16), window=window)
            guide[:, first * s : first * s + seen.shape[1]] = seen.numpy()
    displaced = _displaced(torch.from_numpy(guide), rng).numpy()
    noise = np.sqrt((displaced**2).mean((1, 2), keepdims=True)) / 10 ** (protocol.snr_guide_db / 20)
    for band, level in zip(displaced, noise, strict=True):
        band += level * rng.standard_normal(band.shape, dtype=np.float32)
    size = {"width": mosaic.width * s, "height": mosaic.height * s, "count": len(guide)}
    kind = {"dtype": "uint16", "transform": coarse * Affine.scale(1 / s)}
    with rasterio.open(paths[1], "w", **profile, **size, **kind) as file:
        file.write(np.clip(np.rint(MOST * displaced), 1, 65535).astype(np.uint16))
    return paths


def _displaced(guide: Tensor, rng: np.random.Generator) -> Tensor:
    """The guide (m, H, W) shifted, turned a little and bent, its rim repeated."""
    height, width = guide.shape[1:]
    step = 16  # pixels between the nodes of the local field
    nodes = smooth_field(-(-height // step) + 1, -(-width // step) + 1, 64 / step, rng)
    nodes *= LOCAL_RMS_PX / np.sqrt((nodes**2).sum(0).mean())
    local = torch.nn.functional.interpolate(
        torch.from_numpy(nodes)[None], scale_factor=step, mode="bilinear"
    )[0, :, :height, :width]
    turn = np.deg2rad(TURN_DEG)
    out = torch.empty_like(guide)
    for top in range(0, height, 256):
        bottom = min(top + 256, height)
        y, x = torch.meshgrid(
            torch.arange(top, bottom).double() + 0.5, torch.arange(width).double() + 0.5, indexing="ij"
        )
        u, v = x - width / 2, y - height / 2
        columns = x + SHIFT_PX[0] + (np.cos(turn) - 1) * u - np.sin(turn) * v + local[0, top:bottom]
        rows = y + SHIFT_PX[1] + np.sin(turn) * u + (np.cos(turn) - 1) * v + local[1, top:bottom]
        out[:, top:bottom] = sample(guide, columns, rows)
    return out
