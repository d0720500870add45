"""The forward model's operators and their adjoints: pure functions on tensors.

HSI pixel (i, j) covers the fine pixels s*i .. s*i+s-1 by s*j .. s*j+s-1 and the PSF is centred on its
middle; edges are mirrored (half-sample symmetric: d c b a | a b c d).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def psf_padding(size: int, ratio: int) -> tuple[int, int]:
    """Fine pixels a PSF of `size` reaches beyond an HSI pixel: before its first, after its last.

    The PSF and the HSI pixel share their centre, which needs size and ratio of one parity.
    """
    if (size - ratio) % 2:
        raise ValueError(f"PSF size {size} and ratio {ratio} must both be even or both be odd")
    return (size - ratio) // 2, (size - ratio) // 2


def _mirror(length: int, before: int, after: int, device: torch.device) -> Tensor:
    """Indices that extend 0..length-1 by half-sample mirroring."""
    index = torch.arange(-before, length + after, device=device) % (2 * length)
    return torch.where(index < length, index, 2 * length - 1 - index)


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
    """
    before, after = psf_padding(psf.shape[0], ratio)
    if before < 0:  # the PSF is smaller than the HSI pixel: bring it to the pixel's size
        psf = F.pad(psf, (-before, -after, -before, -after))
        before = after = 0
    rows = _mirror(cube.shape[1], before, after, cube.device)
    columns = _mirror(cube.shape[2], before, after, cube.device)
    padded = cube[:, rows][:, :, columns]
    return F.conv2d(padded[:, None], psf[None, None], stride=ratio)[:, 0]


def blur_down_adjoint(image: Tensor, psf: Tensor, ratio: int) -> Tensor:
    """The adjoint of `blur_down`: (c, h, w) -> (c, ratio h, ratio w)."""
    before, after = psf_padding(psf.shape[0], ratio)
    if before < 0:
        psf = F.pad(psf, (-before, -after, -before, -after))
        before = after = 0
    c, h, w = image.shape
    height, width = h * ratio, w * ratio
    padded = F.conv_transpose2d(image[:, None], psf[None, None], stride=ratio)[:, 0]
    rows = _mirror(height, before, after, image.device)
    columns = _mirror(width, before, after, image.device)
    folded = padded.new_zeros(c, height, padded.shape[2]).index_add_(1, rows, padded)
    return padded.new_zeros(c, height, width).index_add_(2, columns, folded)


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
