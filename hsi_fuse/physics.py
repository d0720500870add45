"""The forward model's operators and their adjoints: pure functions on tensors.

HSI pixel (i, j) covers the fine pixels s*i .. s*i+s-1 by s*j .. s*j+s-1 and the PSF is centred on its
middle; edges are mirrored (half-sample symmetric: d c b a | a b c d).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

STRIP = 16
"""HSI pixels along an axis that one matrix product makes."""


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
    ends = image.narrow(axis, 0, width).flip(axis), image.narrow(axis, length - width, width).flip(axis)
    return torch.cat([ends[0], image, ends[1]], axis)


def _padded(psf: Tensor, ratio: int) -> tuple[Tensor, int]:
    """The PSF, no smaller than the HSI pixel, and how far it reaches beyond."""
    reach = psf_padding(psf.shape[0], ratio)
    return (F.pad(psf, [-reach] * 4), 0) if reach < 0 else (psf, reach)


@dataclass(frozen=True)
class Strip:
    """A PSF along one axis, of a few HSI pixels: coarse[first:last] = taps @ fine[low:high].

    `taps` (r, last - first, high - low) has an entry for each of the PSF's r separable terms; what is
    mirrored at the ends of the axis is in it.
    """

    first: int
    last: int
    low: int
    high: int
    taps: Tensor


@dataclass(frozen=True)
class Blur:
    """D B as products with small matrices, many times faster than a convolution of few channels.

    A PSF is a sum of few separable terms, by its singular values: one for a Gaussian along the axes, some
    more for one that is turned. `rows` and `columns` are their strips.
    """

    rows: list[Strip]
    columns: list[Strip]
    rank: int

    @classmethod
    def of(cls, psf: Tensor, ratio: int, shape: Sequence[int], like: Tensor) -> Blur:
        """For coarse images of `shape` (h, w), of the type and on the device of `like`."""
        psf, reach = _padded(psf.detach().cpu().double(), ratio)
        left, values, right = torch.linalg.svd(psf)
        rank = max(int((values > values[0] * torch.finfo(like.dtype).eps).sum()), 1)
        down, across = left.T[:rank] * values[:rank, None], right[:rank]
        rows, columns = (
            _strips(taps.to(like), ratio, reach, size)
            for taps, size in zip((down, across), shape, strict=True)
        )
        return cls(rows, columns, rank)

    def down(self, cube: Tensor) -> Tensor:
        """(c, ratio h, ratio w) -> (c, h, w)."""
        c, _, width = cube.shape
        high = torch.cat(
            [
                torch.bmm(s.taps.flatten(0, 1).expand(c, -1, -1), cube[:, s.low : s.high]).view(
                    c, self.rank, -1, width
                )
                for s in self.rows
            ],
            2,
        )  # (c, r, h, ratio w)
        h = high.shape[2]
        # copied once, where there are several, and not for every strip
        planes = [high[:, r].reshape(c * h, width) for r in range(self.rank)]
        parts = []
        for s in self.columns:
            terms = [plane[:, s.low : s.high] @ s.taps[r].T for r, plane in enumerate(planes)]
            parts.append(sum(terms[1:], terms[0]))
        return torch.cat(parts, 1).view(c, h, -1)

    def up(self, image: Tensor, onto: Tensor | None = None) -> Tensor:
        """The adjoint: (c, h, w) -> (c, ratio h, ratio w); added to `onto`, in place, where that is given."""
        c, h, w = image.shape
        flat = image.reshape(c * h, w)
        width, height = self.columns[-1].high, self.rows[-1].high
        high = image.new_zeros(self.rank, c * h, width)
        for s in self.columns:
            for r in range(self.rank):
                high[r, :, s.low : s.high].addmm_(flat[:, s.first : s.last], s.taps[r])
        high = high.view(self.rank, c, h, width)
        out = image.new_zeros(c, height, width) if onto is None else onto
        for s in self.rows:
            for r in range(self.rank):
                taps = s.taps[r].T.expand(c, -1, -1)
                out[:, s.low : s.high].baddbmm_(taps, high[r, :, s.first : s.last])
        return out


def _strips(taps: Tensor, ratio: int, reach: int, size: int) -> list[Strip]:
    """The strips of an axis of `size` HSI pixels for taps (r, p)."""
    length, out = ratio * size, []
    if reach > length:
        raise ValueError(f"a PSF that reaches {reach} pixels beyond an image of {length} cannot be mirrored")
    inner: Tensor | None = None  # away from the ends all strips are alike
    for first in range(0, size, STRIP):
        last = min(first + STRIP, size)
        start, stop = ratio * first - reach, ratio * last + reach
        low, high = max(start, 0), min(stop, length)
        plain = start >= 0 and stop <= length and last - first == STRIP
        if plain and inner is not None:
            out.append(Strip(first, last, low, high, inner))
            continue
        at = ratio * torch.arange(last - first)[:, None] + torch.arange(taps.shape[1])[None] + start
        at = torch.where(at < 0, -1 - at, at)
        at = torch.where(at >= length, 2 * length - 1 - at, at)
        # what is mirrored may reach further into the image than the strip itself does
        low, high = min(low, int(at.min())), max(high, int(at.max()) + 1)
        matrix = taps.new_zeros(len(taps), last - first, high - low)
        matrix.scatter_add_(
            2,
            (at - low).to(taps.device).expand(len(taps), -1, -1),
            taps[:, None].expand(-1, last - first, -1).contiguous(),
        )
        if plain:
            inner = matrix
        out.append(Strip(first, last, low, high, matrix))
    return out


@lru_cache(maxsize=32)
def _kept(
    psf: bytes, side: int, kind: torch.dtype, ratio: int, shape: tuple[int, int], of: torch.dtype, on: str
) -> Blur:
    values = torch.frombuffer(bytearray(psf), dtype=kind).view(side, side)
    return Blur.of(values, ratio, shape, torch.empty(0, dtype=of, device=on))


def blur_of(psf: Tensor, ratio: int, shape: tuple[int, int], like: Tensor) -> Blur:
    """D B of a PSF for HSI images of `shape` (h, w), of the type and on the device of `like`; made once.

    For what blurs again and again: `blur_down` looks it up every time.
    """
    psf_padding(len(psf), ratio)
    there = psf.detach().cpu().contiguous()
    return _kept(there.numpy().tobytes(), len(psf), psf.dtype, ratio, shape, like.dtype, str(like.device))


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
    height, width = cube.shape[1:]
    # singular vectors have no stable gradient; and what is left over at the end is mirrored there
    if psf.requires_grad or height % ratio or width % ratio:
        kernel, reach = _padded(psf, ratio)
        padded = _pad(_pad(cube, 1, reach), 2, reach)
        kernel = kernel.expand(len(cube), 1, *kernel.shape)
        return F.conv2d(padded[None], kernel, stride=ratio, groups=len(cube))[0]
    return blur_of(psf, ratio, (height // ratio, width // ratio), cube).down(cube)


def blur_down_adjoint(image: Tensor, psf: Tensor, ratio: int) -> Tensor:
    """The adjoint of `blur_down`: (c, h, w) -> (c, ratio h, ratio w)."""
    height, width = image.shape[1:]
    return blur_of(psf, ratio, (height, width), image).up(image)


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
