"""The forward model's operators and their adjoints: pure functions on tensors.

HSI pixel (i, j) covers the fine pixels s*i .. s*i+s-1 by s*j .. s*j+s-1 and the PSF is centred on its
middle; edges are mirrored (half-sample symmetric: d c b a | a b c d).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def psf_padding(size: int, ratio: int) -> int:
    """Fine pixels a PSF of `size` reaches beyond an HSI pixel to each side; negative where it is smaller.

    The PSF and the HSI pixel share their centre, which needs size and ratio of one parity.
    """
    if (size - ratio) % 2:
        raise ValueError(f"PSF size {size} and ratio {ratio} must both be even or both be odd")
    return (size - ratio) // 2


def _pad(image: Tensor, axis: int, width: int) -> Tensor:
    """Extend an axis at both ends by half-sample mirroring, at most by its own length."""
    length = image.shape[axis]
    if width > length:
        raise ValueError(f"a PSF that reaches {width} pixels beyond an image of {length} cannot be mirrored")
    ends = image.narrow(axis, 0, width).flip(axis), image.narrow(axis, length - width, width).flip(axis)
    return torch.cat([ends[0], image, ends[1]], axis)


def _fold(image: Tensor, axis: int, width: int) -> Tensor:
    """The adjoint of `_pad`."""
    length = image.shape[axis] - 2 * width
    inner = image.narrow(axis, width, length).clone()
    inner.narrow(axis, 0, width).add_(image.narrow(axis, 0, width).flip(axis))
    inner.narrow(axis, length - width, width).add_(image.narrow(axis, width + length, width).flip(axis))
    return inner


def _kernel(psf: Tensor, ratio: int, channels: int) -> tuple[Tensor, int]:
    """The PSF for a grouped convolution, no smaller than the HSI pixel, and how far it reaches beyond."""
    reach = psf_padding(psf.shape[0], ratio)
    if reach < 0:
        psf, reach = F.pad(psf, [-reach] * 4), 0
    return psf.expand(channels, 1, *psf.shape), reach


def blur_down(cube: Tensor, psf: Tensor, ratio: int) -> Tensor:
    """Blur with the PSF and keep one value per HSI pixel: D B.

    Parameters
    ----------
    cube : Tensor (c, H, W)
    psf : Tensor (p, p)
        p and ratio both even or both odd. A PSF smaller than the ratio is allowed.
    ratio : int

    Returns
    -------
    Tensor (c, H / ratio, W / ratio)

    Raises
    ------
    ValueError
        The PSF reaches further beyond the image than the image is large.
    """
    kernel, reach = _kernel(psf, ratio, len(cube))
    padded = _pad(_pad(cube, 1, reach), 2, reach)
    return F.conv2d(padded[None], kernel, stride=ratio, groups=len(cube))[0]


def blur_down_adjoint(image: Tensor, psf: Tensor, ratio: int) -> Tensor:
    """The adjoint of `blur_down`: (c, h, w) -> (c, ratio h, ratio w)."""
    kernel, reach = _kernel(psf, ratio, len(image))
    padded = F.conv_transpose2d(image[None], kernel, stride=ratio, groups=len(image))[0]
    return _fold(_fold(padded, 2, reach), 1, reach)


def mix_bands(cube: Tensor, srf: Tensor) -> Tensor:
    """See a cube through spectral responses: (n, H, W), (m, n) -> (m, H, W)."""
    return torch.tensordot(srf, cube, dims=1)


def mix_bands_adjoint(image: Tensor, srf: Tensor) -> Tensor:
    """The adjoint of `mix_bands`: (m, H, W), (m, n) -> (n, H, W)."""
    return torch.tensordot(srf.T, image, dims=1)


def gaussian_psf(
    ratio: int,
    fwhm_rows: float,
    fwhm_columns: float | None = None,
    angle: float = 0.0,
    size: int | None = None,
) -> Tensor:
    """A sampled Gaussian PSF that sums to 1.

    Parameters
    ----------
    ratio : int
    fwhm_rows, fwhm_columns : float
        Full width at half maximum along rows (y) and columns (x), in fine pixels.
    angle : float
        Rotation of the axes in radians.
    size : int, optional
        Default: as wide as 3.2 standard deviations to each side, of the ratio's parity.

    Returns
    -------
    Tensor (size, size)
    """
    to_sigma = 1 / 2.3548200450309493
    sy = fwhm_rows * to_sigma
    sx = (fwhm_rows if fwhm_columns is None else fwhm_columns) * to_sigma
    if size is None:
        size = max(int(2 * 3.2 * max(sx, sy)) + 1, 1)
        size += (size - ratio) % 2
    offsets = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    cos, sin = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    u, v = (cos * y + sin * x) / sy, (-sin * y + cos * x) / sx
    exponent = -0.5 * (u * u + v * v)
    psf = torch.exp(exponent - exponent.max())
    return (psf / psf.sum()).float()
