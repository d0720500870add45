"""The scene's subspace: noise of each band, whitened basis, and the factors of plain interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.optimize import nnls
from torch import Tensor

from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.threads import at_once, in_turn

NEIGHBOUR_BANDS = 6
"""Bands to each side that predict a band when its noise is estimated."""
MOMENT_VALUES = 1 << 22
"""Values of which a float64 copy is made at a time, in whole rows."""
PROJECTED_VALUES = 1 << 22
"""Values of a cube that are whitened at a time."""


class Moments(NamedTuple):
    """Mean (n,) and covariance (n, n), float64, of a number of pixels."""

    mean: Tensor
    covariance: Tensor
    pixels: int


def moments(hsi: Tensor, weight: Tensor) -> Moments:
    """Of the pixels of (n, h, w) that have weight (h, w)."""
    n, height, width = hsi.shape
    count = int((weight > 0).sum())
    total = torch.zeros(n, dtype=torch.float64, device=hsi.device)
    second = torch.zeros(n, n, dtype=torch.float64, device=hsi.device)
    step = max(MOMENT_VALUES // (n * width), 1)
    blocks = [slice(top, top + step) for top in range(0, height, step)]

    def spectra(rows: slice) -> Tensor:
        part, there = hsi[:, rows], weight[rows] > 0
        return (part.flatten(1) if bool(there.all()) else part[:, there]).to(torch.float64, copy=True)

    def products(rows: slice) -> Tensor:
        centred = spectra(rows).sub_(mean[:, None])
        return centred @ centred.T

    for part in in_turn(lambda rows: spectra(rows).sum(1), blocks):
        total += part
    mean = total / max(count, 1)
    for part in in_turn(products, blocks):
        second += part
    return Moments(mean, second / max(count, 1), count)


def estimate_noise(hsi: Tensor, weight: Tensor) -> Tensor:
    """Noise of each band, from how well its spectral neighbours predict it.

    Every band is regressed on its neighbours in the cube (multiple regression, as in Bioucas-Dias and
    Nascimento, HySime, TGRS 2008, section II-A). Deviations: only `NEIGHBOUR_BANDS` on each side take part,
    so that small scenes of many bands keep degrees of freedom; and what is left holds the neighbours' noise
    too, each by its squared regression coefficient, which is solved for (at a spectrum's ends, where
    neighbours stand on one side only, it doubles the deviation).

    Parameters
    ----------
    hsi : Tensor (n, h, w)
    weight : Tensor (h, w)
        Pixels with weight 0 are left out.

    Returns
    -------
    Tensor (n,)
        Standard deviation, never below 1e-4 of the band's own spread (quantisation; a simulation without).
    """
    return _noise(moments(hsi, weight)).to(hsi.dtype)


def _noise(of: Moments) -> Tensor:
    """`estimate_noise` by the moments of the pixels, float64."""
    _, gram, count = of
    n = len(gram)
    spread = gram.diagonal().clamp_min(0).sqrt()
    left = torch.empty_like(spread)
    shares = torch.eye(n, dtype=gram.dtype, device=gram.device)  # of each band's noise in what is left
    for band in range(n):
        others = [
            b for b in range(max(0, band - NEIGHBOUR_BANDS), min(n, band + NEIGHBOUR_BANDS + 1)) if b != band
        ]
        if not others:
            left[band] = (0.01 * spread[band]) ** 2
            continue
        inner = gram[others][:, others]
        inner = inner + 1e-9 * inner.diagonal().mean() * torch.eye(
            len(others), dtype=inner.dtype, device=inner.device
        )
        cross = gram[others, band]
        slopes = torch.linalg.solve(inner, cross)
        freedom = max(1.0 - len(others) / max(count, 1), 0.1)
        left[band] = (gram[band, band] - cross @ slopes).clamp_min(0) / freedom
        shares[band, others] = slopes**2
    variance = torch.from_numpy(nnls(shares.cpu().numpy(), left.cpu().numpy())[0]).to(left)
    noise = torch.maximum(variance, 0.1 * left).sqrt()
    floor = 1e-4 * torch.maximum(spread, spread.mean())
    return torch.maximum(noise, floor.clamp_min(1e-12))


@dataclass(frozen=True)
class Subspace:
    """An affine subspace that holds the scene's spectra: spectrum = basis @ coefficients + mean.

    Attributes
    ----------
    basis : Tensor (n, k)
        Columns in HSI units, orthonormal once each band is divided by its noise: the coefficients' noise is
        white.
    mean : Tensor (n,)
    noise : Tensor (n,)
    """

    basis: Tensor
    mean: Tensor
    noise: Tensor

    @property
    def size(self) -> int:
        """Number of dimensions k."""
        return self.basis.shape[1]

    def project(self, cube: Tensor) -> Tensor:
        """Coefficients (k, ...) of spectra (n, ...): least squares, each band weighted by its noise."""
        flat, shape = cube.reshape(cube.shape[0], -1), cube.shape[1:]
        weights = (self.basis / self.noise[:, None] / self.noise[:, None]).T
        step = max(1, PROJECTED_VALUES // len(flat))  # copies of a big cube cost a gigabyte each
        parts = at_once(lambda part: weights @ (part - self.mean[:, None]), torch.split(flat, step, dim=1))
        return torch.cat(parts, 1).reshape(-1, *shape)


def fit_subspace(hsi: Tensor, weight: Tensor, noise: Tensor, largest: int = 24) -> Subspace:
    """Principal subspace of the noise-whitened scene.

    Its size is the number of eigenvalues of the whitened covariance above the Marchenko-Pastur edge
    (1 + sqrt(n / N))^2 of pure noise, between 2 and `largest`.

    Parameters
    ----------
    hsi : Tensor (n, h, w)
    weight : Tensor (h, w)
    noise : Tensor (n,)
    largest : int
    """
    return _principal(moments(hsi, weight), noise, largest)


def learn_subspace(hsi: Tensor, weight: Tensor, largest: int = 24) -> Subspace:
    """`fit_subspace` of an image (n, h, w) whose noise is estimated too (`estimate_noise`), in one pass."""
    seen = moments(hsi, weight)
    return _principal(seen, _noise(seen).to(hsi.dtype), largest)


def _principal(of: Moments, noise: Tensor, largest: int) -> Subspace:
    """`fit_subspace` by the moments of the pixels."""
    mean, covariance, count = of
    n, deviation = len(mean), noise.double()
    values, vectors = torch.linalg.eigh(covariance / deviation[:, None] / deviation)  # ascending
    edge = (1 + (n / count) ** 0.5) ** 2
    size = int((values > edge).sum())
    size = max(min(size, largest, n, count - 1), min(2, n))
    basis = vectors[:, -size:].flip(1)
    # the sign of an eigenvector is arbitrary: fix it, so that every machine sees the same numbers
    signs = torch.sign(basis.gather(0, basis.abs().argmax(0, keepdim=True)))
    basis = basis * signs * deviation[:, None]
    return Subspace(basis.to(noise.dtype), mean.to(noise.dtype), noise)


def fill_nearest(image: Tensor, weight: Tensor) -> Tensor:
    """Replace pixels of weight 0 by the nearest of positive weight: (c, h, w), (h, w) -> (c, h, w)."""
    places = nearest(weight)
    return image if places is None else image[:, *places]


def nearest(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Row and column (h, w) of the nearest pixel of positive weight (h, w); None if no hole can be filled."""
    hole = (weight <= 0).cpu().numpy()
    if not hole.any() or hole.all():
        return None
    rows, columns = ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
    return torch.from_numpy(np.asarray(rows)), torch.from_numpy(np.asarray(columns))


def upsample(image: Tensor, ratio: int) -> Tensor:
    """Bicubic interpolation on pixel centres: (c, h, w) -> (c, ratio h, ratio w).

    Keys' kernel with a = -1/2, which keeps ramps straight. PyTorch has it behind `antialias`; its other
    bicubic (a = -3/4) bends them by up to 0.04 pixels.
    """
    if ratio == 1:
        return image
    return F.interpolate(
        image[None], scale_factor=float(ratio), mode="bicubic", align_corners=False, antialias=True
    )[0]


def problem_subspace(problem: Problem, largest: int = 24) -> Subspace:
    """The subspace of a problem's HSI."""
    return fit_subspace(problem.hsi, problem.hsi_weight, problem.hsi_noise, largest)


def interpolate(problem: Problem) -> Estimate:
    """Plain interpolation of the HSI in factors: what every stage starts from and must beat.

    The subspace is taken large (up to 64 dimensions), so that what it leaves out is noise.
    """
    subspace = problem_subspace(problem, largest=64)
    low = subspace.project(fill_nearest(problem.hsi, problem.hsi_weight))
    return Estimate(subspace.basis, subspace.mean, upsample(low, problem.ratio))
