"""The blur as methods in the Fourier domain need it: on a torus, made of the mirrored scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hsi_fuse.physics import psf_padding

RIM_HSI_PX = 4
"""Mirrored HSI pixels around the scene beyond the PSF's reach, where the torus' seam fades."""


def rim_hsi_px(psf: Tensor, ratio: int) -> int:
    """How far the scene is mirrored before it is wrapped, in HSI pixels."""
    return RIM_HSI_PX + -(-max(psf_padding(psf.shape[0], ratio), 0) // ratio)


def mirror(image: Tensor, rim: int) -> Tensor:
    """Extend (c, H, W) by half-sample mirroring to (c, H + 2 rim, W + 2 rim)."""
    rows, columns = (
        torch.from_numpy(np.pad(np.arange(side), rim, mode="symmetric")).to(image.device)
        for side in image.shape[1:]
    )
    return image[:, rows][:, :, columns]


def unmirror(image: Tensor, rim: int) -> Tensor:
    """The scene within: the inverse of `mirror`."""
    return image[:, rim : image.shape[1] - rim, rim : image.shape[2] - rim]


@dataclass(frozen=True)
class CyclicBlur:
    """The blur B and decimation D of `physics.blur_down`, for images that wrap around at their edges.

    Attributes
    ----------
    transfer : Tensor (H, W // 2 + 1), complex
        Of the blur whose value at a fine pixel belongs to the HSI pixel that *begins* there: the half
        pixel between an HSI pixel's centre and a fine pixel's is in its phase.
    shape : (int, int)
        Of the fine grid.
    ratio : int
    """

    transfer: Tensor
    shape: tuple[int, int]
    ratio: int

    @classmethod
    def of(cls, psf: Tensor, ratio: int, image: Tensor) -> CyclicBlur:
        """For images as large as one (c, H, W): multiples of `ratio`, at least as large as the PSF."""
        shape = image.shape[1], image.shape[2]
        kernel = psf.new_zeros(shape)
        kernel[: psf.shape[0], : psf.shape[1]] = psf
        reach = psf_padding(psf.shape[0], ratio)
        return cls(torch.fft.rfft2(kernel.roll((-reach, -reach), (0, 1))).conj(), shape, ratio)

    def filter(self, image: Tensor, response: Tensor) -> Tensor:
        """Multiply the spectrum of (c, H, W) by a response: (c, H, W)."""
        return torch.fft.irfft2(torch.fft.rfft2(image) * response, image.shape[1:])

    def down(self, image: Tensor) -> Tensor:
        """D B: (c, H, W) -> (c, h, w)."""
        return self.filter(image, self.transfer)[:, :: self.ratio, :: self.ratio]

    def up(self, image: Tensor) -> Tensor:
        """The adjoint of `down`: (c, h, w) -> (c, H, W)."""
        return self.filter(self.spread(image), self.transfer.conj())

    def spread(self, image: Tensor) -> Tensor:
        """The adjoint of the decimation, zeros between the samples: (c, h, w) -> (c, H, W)."""
        fine = image.new_zeros(len(image), *self.shape)
        fine[:, :: self.ratio, :: self.ratio] = image
        return fine

    def invert(self, image: Tensor, damping: Tensor) -> Tensor:
        """Solve (B* D* D B + damping) u = image for each channel, exactly.

        By the Woodbury identity the system shrinks to D B B* D* + damping on the coarse grid, which is a
        convolution there.

        Parameters
        ----------
        image : Tensor (c, H, W)
        damping : Tensor (c,)
            Positive.
        """
        power = torch.fft.irfft2(self.transfer.abs() ** 2, self.shape)
        coarse = torch.fft.rfft2(power[:: self.ratio, :: self.ratio]).real.clamp_min(0)
        damping = damping[:, None, None]
        return (image - self.up(self.filter(self.down(image), 1 / (coarse + damping)))) / damping
