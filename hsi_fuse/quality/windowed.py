"""Quality indices over windows and blocks: SSIM, UIQI, Q2n and the high-pass.

The conventions, the mask and the border are those of `metrics`, which is where callers find these functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.physics import blur_down
from hsi_fuse.threads import at_once, in_turn

BLOCK = 32
TILE = 512
"""Side of what is filtered at a time, pixels: it stays in the processor's cache."""


def ssim(estimate: Tensor, truth: Tensor, mask: Tensor | None = None, border: int = 0) -> float:
    """Structural similarity (Wang 2004), mean over bands and pixels.

    Gaussian window 11 x 11, sigma 1.5, K1 0.01, K2 0.03, population covariance, data range = the band's
    peak in the truth. Pixels nearer than 5 to an edge are left out; pixels outside the mask weigh nothing
    within a window.
    """
    keep = valid(truth, mask, border)
    reach = 5
    inner = keep & _inside(keep.shape, reach, keep.device)
    if not bool(inner.any()):
        return math.nan
    weight = keep.double()
    total = _gaussian(weight, 1.5, reach).clamp_min(1e-12)
    values = []
    for e, t in zip(estimate, truth, strict=True):
        x, y = e.double() * weight, t.double() * weight
        peak = t[keep].max().double()
        c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
        mx, my, xx, yy, xy = _gaussian(torch.stack([x, y, x * x, y * y, x * y]), 1.5, reach) / total
        top = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
        bottom = (mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2)
        values.append((top / positive(bottom))[inner].mean())
    return band_mean(torch.stack(values))


def uiqi(
    estimate: Tensor, truth: Tensor, mask: Tensor | None = None, border: int = 0, block: int = BLOCK
) -> float:
    """Universal image quality index (Wang & Bovik 2002), mean over bands and blocks.

    Q = 4 cov m1 m2 / ((v1 + v2)(m1^2 + m2^2)). Where both are constant Q is 2 m1 m2 / (m1^2 + m2^2), and 1
    where both are also zero.
    """

    def index(a: Tensor, b: Tensor) -> Tensor:
        ma, mb = a.mean(1), b.mean(1)
        va, vb = a.var(1, correction=0), b.var(1, correction=0)
        cov = ((a - ma[:, None]) * (b - mb[:, None])).mean(1)
        return (_share(2 * cov, va + vb) * _share(2 * ma * mb, ma**2 + mb**2)).mean()

    return _mean_over_blocks(index, estimate, truth, valid(truth, mask, border), block)


def q2n(
    estimate: Tensor,
    truth: Tensor,
    mask: Tensor | None = None,
    border: int = 0,
    block: int = BLOCK,
    normalise: bool = True,
) -> float:
    """Hypercomplex quality index Q2^n (Garzelli & Nencini 2009), mean over blocks.

    A pixel's spectrum, zero-padded to 2^n bands, is one hypercomplex number (Cayley-Dickson, with
    (a, b)(c, d) = (ac - d*b, da + bc*)). In each block, with z the truth and w the estimate,

        Q = |E[z w*] - E[z] E[w]*| / (var z + var w) * 2 * 2 |E z| |E w| / (|E z|^2 + |E w|^2).

    The product is bilinear and e_i e_j = +-e_(i xor j), so the hypercomplex covariance is a signed sum over
    the ordinary cross-covariance matrix: one matrix product a block.

    Parameters
    ----------
    normalise : bool
        First bring each band of the block to mean 1 and variance 1 of the truth, as is customary for
        images (else the bright bands decide alone). The published definition itself is `False`.
    """
    n = truth.shape[0]
    size = 1 << (n - 1).bit_length()
    sign = cayley_dickson_signs(size)[:n, :n].to(truth.device)
    sign[:, 1:] *= -1  # the second factor is conjugated
    number = torch.arange(n, device=truth.device)
    unit = number[:, None] ^ number[None, :]  # (n, n): which imaginary unit each product of bands feeds

    def index(w: Tensor, z: Tensor) -> Tensor:
        mz, mw = z.mean(1), w.mean(1)
        z -= mz[:, None]
        w -= mw[:, None]
        vz, vw = (torch.linalg.vecdot(x, x) / z.shape[1] for x in (z, w))
        cross = z @ w.T / z.shape[1]  # (n, n)
        if normalise:
            spread = torch.where(vz > 0, vz, 1.0).sqrt()
            mz, mw = torch.ones_like(mz), (mw - mz) / spread + 1
            vz, vw, cross = vz / spread**2, vw / spread**2, cross / torch.outer(spread, spread)
        parts = cross.new_zeros(size).index_add_(0, unit.ravel(), (sign * cross).ravel())
        spread_sum = (vz + vw).sum()
        q = _share(2 * parts.norm(), spread_sum) * _share(2 * mz.norm() * mw.norm(), (mz**2 + mw**2).sum())
        return q.clamp_max(1)  # above 1 it is rounding

    return _mean_over_blocks(index, estimate, truth, valid(truth, mask, border), block)


def cayley_dickson_signs(size: int) -> Tensor:
    """(size, size) table of s with e_i e_j = s[i, j] e_(i xor j), for size a power of two."""
    table = torch.ones(1, 1, dtype=torch.float64)
    while table.shape[0] < size:
        conj = torch.full((table.shape[0],), -1.0, dtype=torch.float64)
        conj[0] = 1.0
        # with (a, b)(c, d) = (ac - d*b, da + bc*); i and j are indices within a half
        ad, bc = table.T, table * conj[None, :]  # da: e_j e_i; bc*: e_i e_j*
        bd = -table.T * conj[None, :]  # -d*b: -(e_j)* e_i
        table = torch.cat([torch.cat([table, ad], 1), torch.cat([bc, bd], 1)], 0)
    return table


def high_pass(image: Tensor, sigma: float, mask: Tensor | None = None) -> Tensor:
    """x minus its Gaussian mean of `sigma` pixels over the valid pixels; (bands, H, W), 0 outside the mask.

    The Gaussian reaches 4 sigma and is normalised by the valid weight within, so neither nodata nor the
    image's edge makes an edge of its own.
    """
    keep, reach = valid(image, mask, 0), reach_of(sigma)
    out = torch.empty_like(image)

    def filtered(corner: Sequence[int]) -> None:
        own = [slice(first, min(first + TILE, size)) for first, size in zip(corner, keep.shape, strict=True)]
        seen = [slice(max(part.start - reach, 0), part.stop + reach) for part in own]
        inner = [slice(a.start - b.start, a.stop - b.start) for a, b in zip(own, seen, strict=True)]
        weight = keep[*seen].to(image)
        total = _gaussian(weight, sigma, reach).clamp_min(1e-12)
        for band, to in zip(image[:, *seen], out[:, *own], strict=True):
            rest = band - _gaussian(band * weight, sigma, reach).div_(total)
            to.copy_(rest.mul_(weight)[*inner])

    at_once(filtered, product(*(range(0, size, TILE) for size in keep.shape)))
    return out


def low_pass(image: Tensor, sigma: float, mask: Tensor | None = None) -> Tensor:
    """The Gaussian mean that `high_pass` takes away; (bands, H, W), 0 outside the mask."""
    return (image - high_pass(image, sigma, mask)).mul_(valid(image, mask, 0))


def reach_of(sigma: float) -> int:
    """Pixels that `high_pass` and `low_pass` look to each side."""
    return int(4 * sigma + 0.5)


def noise_passed(sigma: float) -> float:
    """Share of white noise's variance that `low_pass` lets through."""
    reach = reach_of(sigma)
    point = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
    point[reach, reach] = 1
    return float((_gaussian(point, sigma, reach) ** 2).sum())


def valid(image: Tensor, mask: Tensor | None, border: int) -> Tensor:
    """The pixels that count, bool (H, W)."""
    keep = _inside(image.shape[1:], border, image.device)
    return keep if mask is None else keep & mask.bool()


def _inside(shape: torch.Size, border: int, device: torch.device) -> Tensor:
    keep = torch.zeros(shape, dtype=torch.bool, device=device)
    keep[border : shape[0] - border, border : shape[1] - border] = True
    return keep


def _mean_over_blocks(
    index: Callable[[Tensor, Tensor], Tensor], estimate: Tensor, truth: Tensor, keep: Tensor, block: int
) -> float:
    """Mean index over blocks, weighted by their valid pixels; NaN where there are none.

    `index` is given float64 copies of both cubes' valid spectra, (n, pixels). Blocks begin at the first valid
    row and column, which makes `border` mean what it says: they lie inside it. One counts where half of it
    is valid.
    """
    rows, columns = torch.nonzero(keep.any(1)).ravel(), torch.nonzero(keep.any(0)).ravel()
    if not rows.numel():
        return math.nan
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    block = min(block, bottom - top, right - left)

    def of(corner: tuple[int, int]) -> tuple[float, int]:
        i, j = corner
        window = (slice(i, min(i + block, bottom)), slice(j, min(j + block, right)))
        inside = keep[window]
        count = int(inside.sum())
        if 2 * count < block * block:
            return 0.0, 0
        pixels = pixels_of(inside)
        a, b = (pixels(x[:, *window]).to(torch.float64, copy=True) for x in (estimate, truth))
        return float(index(a, b)), count

    total, pixels = 0.0, 0
    for value, count in in_turn(of, product(range(top, bottom, block), range(left, right, block))):
        total, pixels = total + value * count, pixels + count
    return total / pixels if pixels else math.nan


def pixels_of(keep: Tensor) -> Callable[[Tensor], Tensor]:
    """What takes the pixels of a mask (H, W) out of images: (..., H, W) -> (..., N)."""
    if bool(keep.all()):
        return lambda image: image.flatten(-2)
    index = keep.ravel().nonzero()[:, 0]
    return lambda image: image.flatten(-2).index_select(-1, index)


def _gaussian(image: Tensor, sigma: float, reach: int) -> Tensor:
    """Separable Gaussian sum of (H, W) or (c, H, W) over -reach..reach, zero beyond the edge."""
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(image)
    wide = F.pad(image, [reach] * 4)
    # many times faster than a convolution
    blurred = blur_down(wide.view(-1, *wide.shape[-2:]), torch.outer(kernel, kernel), 1)
    height, width = image.shape[-2:]
    return blurred[:, reach : reach + height, reach : reach + width].reshape(image.shape)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, 1 where the whole is zero: two images that both have nothing agree on it."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), 1.0)


def positive(x: Tensor) -> Tensor:
    """x where it is positive, NaN elsewhere: what it divides then has no figure."""
    return torch.where(x > 0, x, math.nan)


def band_mean(x: Tensor) -> float:
    """Mean of what is not NaN."""
    found = x[~x.isnan()]
    return float(found.mean()) if found.numel() else math.nan
