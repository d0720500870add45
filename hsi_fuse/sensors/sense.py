"""Learn the sensors from the scene: the HSI's PSF and the guide's SRF, blind.

Both come from one linear statement: the guide blurred by the true PSF is a linear function of the HSI.
For the PSF no SRF is needed yet: for each trial PSF the best linear map from the HSI's subspace to the
blurred guide is found in closed form and what it leaves unexplained is minimised. The SRF then is a
non-negative, smooth least-squares fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import chi2
from torch import Tensor

from hsi_fuse.errors import AlignmentError
from hsi_fuse.physics import blur_down, gaussian_psf
from hsi_fuse.registration.robust import ROBUST_ROUNDS, tukey
from hsi_fuse.registration.tiles import Tile, finer
from hsi_fuse.sensor import Sensor
from hsi_fuse.sensors.known import KnownSensor
from hsi_fuse.sensors.srf_fit import SrfPrior, fit_srf, strips
from hsi_fuse.subspace import fill_nearest, learn_subspace
from hsi_fuse.threads import one_thread

Array = NDArray[np.float64]
FLATTEST, LEAST_OWN = 0.02, 0.2
"""Share of blocks that count as flat; share of a band's spread in them that is its own noise at least."""
NOISE_BLOCK, PIXELS_PER_BAND = 16, 8
"""Side of the blocks in which noise is sought, fine pixels, and pixels for each band in it at least."""
NARROWEST_PX = 1.0
"""FWHM that a PSF may always have, fine pixels."""
PSF_STEPS = 0.1, 0.02, 0.02, 0.02
"""Size of the first simplex in each round of weights, in logarithms of widths: the first finds the PSF, the
others mend what outliers made of it."""
NO_TILT = 1e-3
"""Share of a PSF's leading singular value below which the others are nothing that the pair could show."""
LEAST_DIMENSIONS, PIXELS_PER_SLOPE = 6, 3
"""Of the regression that seeks the PSF: fewest coefficients, and HSI pixels for each of its slopes."""


@dataclass(frozen=True)
class SenseOptions:
    """How the sensor model is learned.

    Attributes
    ----------
    psf_fwhm_hsi_px : pair of float
        Range in which the PSF's full width at half maximum is sought, in HSI pixels; from one fine pixel on
        where that is less.
    dimensions : int
        Size of the HSI subspace that explains the guide while the PSF is sought; less on few pixels.
    folds : int
        Spatial folds that choose the SRF's smoothness.
    crop_hsi_px : int
        The sensors are learned on a central window of at most this many HSI pixels a side.
    psf_crop_hsi_px : int
        The PSF, of fewer numbers, on at most so many: each trial blurs the guide again.
    """

    psf_fwhm_hsi_px: tuple[float, float] = (0.15, 3.0)
    dimensions: int = 10
    folds: int = 4
    crop_hsi_px: int = 192
    psf_crop_hsi_px: int = 96


@dataclass(frozen=True)
class Sensing:
    """How the sensors of a pair are learned, and what of them need not be.

    Attributes
    ----------
    options : SenseOptions
    known : KnownSensor
    """

    options: SenseOptions = field(default_factory=SenseOptions)
    known: KnownSensor = field(default_factory=KnownSensor)

    def first_psf(self, ratio: int) -> Tensor:
        """The PSF (p, p) to begin with: the known one, or one as wide as an HSI pixel."""
        known = self.known.kernel(ratio)
        return gaussian_psf(ratio, float(ratio)) if known is None else known


@dataclass(frozen=True)
class Sensed:
    """A sensor and how well it explains the pair.

    Attributes
    ----------
    sensor : Sensor
    guide_noise : Tensor (m,)
        Standard deviation of the guide about the sensor model: noise and model error.
    """

    sensor: Sensor
    guide_noise: Tensor


def sense(
    hsi: Tensor,
    hsi_weight: Tensor,
    guide: Tensor,
    guide_weight: Tensor,
    ratio: int,
    how: Sensing | None = None,
) -> Sensed:
    """Estimate SRF, radiometric offset and PSF of a registered pair.

    Parameters
    ----------
    hsi : Tensor (n, h, w)
    hsi_weight : Tensor (h, w)
    guide : Tensor (m, ratio h, ratio w)
    guide_weight : Tensor (ratio h, ratio w)
    ratio : int
    how : Sensing, optional

    Raises
    ------
    GridError
        A known PSF does not fit the ratio.
    AlignmentError
        Fewer than `PIXELS_PER_SLOPE` (`LEAST_DIMENSIONS` + 1) HSI pixels lie fully under the guide.
    """
    how = how or Sensing()
    options, known = how.options, how.known
    hsi, hsi_weight, guide, guide_weight = _window(hsi, hsi_weight, guide, guide_weight, ratio, options)
    guide = fill_nearest(guide, guide_weight)
    subspace = learn_subspace(hsi, hsi_weight, options.dimensions)
    low = subspace.project(hsi)
    given = known.kernel(ratio)
    if given is None:
        psf, shape = _fit_psf(low, hsi_weight, guide, guide_weight, ratio, options)
    else:
        psf, shape = given.to(hsi), {"psf": "given"}

    support = supported(guide_weight, hsi_weight, psf, ratio)
    _determined(low, support)
    seen = blur_down(guide, psf, ratio)[:, support].double().cpu().numpy()  # (m, N)
    prior = SrfPrior.of(known, len(guide), len(hsi))
    coefficients = low[:, support].double().cpu().numpy()  # (k, N)
    srf, offset, left, strength = fit_srf(subspace, coefficients, seen, strips(support, options.folds), prior)
    fine = _pixel_noise(guide, guide_weight)
    hsi_part = (srf**2) @ subspace.noise.double().cpu().numpy() ** 2
    guide_noise = np.sqrt(np.maximum(left**2 - hsi_part, fine**2))
    variance = seen.var(1)
    found: dict[str, object] = {
        **shape,
        "hsi_pixels": int(support.sum()),
        **prior.found(srf, strength),
        "srf_explained": [float(v) for v in 1 - left**2 / np.maximum(variance, 1e-30)],
        "gain": [float(v) for v in srf.sum(1)],
        "offset": [float(v) for v in offset],
    }
    responses, offsets, deviations = (torch.from_numpy(v).to(hsi) for v in (srf, offset, guide_noise))
    return Sensed(Sensor(responses, offsets, psf, ratio, found), deviations)


def supported(guide_weight: Tensor, hsi_weight: Tensor, psf: Tensor, ratio: int) -> Tensor:
    """HSI pixels (h, w) that are valid and whose whole PSF lies where the guide is: bool."""
    covered = blur_down(guide_weight[None], psf, ratio)[0]
    return (covered > 0.99) & (hsi_weight > 0)


def _window(
    hsi: Tensor, hsi_weight: Tensor, guide: Tensor, guide_weight: Tensor, ratio: int, options: SenseOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Central window of the overlap and its rim, whose HSI pixels have no weight."""
    both = (
        blur_down(guide_weight[None], torch.ones_like(guide_weight[:ratio, :ratio]) / ratio**2, ratio)[0] > 0
    ) & (hsi_weight > 0)
    own, (rows, columns) = windows_of(both, options)
    inner = torch.zeros_like(hsi_weight)
    inner[own] = hsi_weight[own]
    fine = finer((rows, columns), ratio)
    return hsi[:, rows, columns], inner[rows, columns], guide[(slice(None), *fine)], guide_weight[fine]


def windows_of(both: Tensor, options: SenseOptions) -> tuple[Tile, Tile]:
    """Where HSI and guide both are, (h, w): its middle, as much as the options allow, and that with a rim.

    As wide as the widest PSF reaches: at the window's own edge the PSF would see mirrored ground as if the
    guide showed it.
    """
    most, rim = options.crop_hsi_px, int(np.ceil(3.2 * options.psf_fwhm_hsi_px[1] / 2.3548))
    own, wider = [], []
    for axis in (1, 0):
        line, side = torch.nonzero(both.any(axis))[:, 0], both.shape[1 - axis]
        first, last = (int(line.min()), int(line.max()) + 1) if len(line) else (0, side)
        if last - first > most:
            first = (first + last - most) // 2
            last = first + most
        own.append(slice(first, last))
        wider.append(slice(max(first - rim, 0), min(last + rim, side)))
    return (own[0], own[1]), (wider[0], wider[1])


def _unexplained(design: Tensor, seen: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted regression of `seen` (m, N) on `design` (p, N): residual (m, N), share left (m,)."""
    weighted = design * weight
    gram = weighted @ design.T
    gram = gram + 1e-10 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    residual = seen - torch.linalg.solve(gram, weighted @ seen.T).T @ design
    mean = (seen * weight).sum(1, keepdim=True) / weight.sum()
    total = ((seen - mean) ** 2 * weight).sum(1)
    return residual, (residual**2 * weight).sum(1) / total.clamp_min(1e-30)


@one_thread()
def _fit_psf(
    low: Tensor, hsi_weight: Tensor, guide: Tensor, guide_weight: Tensor, ratio: int, options: SenseOptions
) -> tuple[Tensor, dict[str, object]]:
    """An anisotropic Gaussian PSF by variable projection over its two widths and its angle."""
    smallest, largest = (f * ratio for f in options.psf_fwhm_hsi_px)
    smallest = min(smallest, NARROWEST_PX)
    # a kernel is 2.7 widths wide, stretched by its aspect, and must not reach over the whole image
    largest = max(min(largest, 0.25 * min(guide.shape[1:])), smallest)
    whole = low, hsi_weight, guide, guide_weight
    middle = _window(*whole, ratio, replace(options, crop_hsi_px=options.psf_crop_hsi_px))
    # HSI pixels that no trial PSF takes off the guide, unless that leaves too few
    for part, reach in product((middle, whole), (largest / 1.5, ratio)):
        low, hsi_weight, guide, guide_weight = part
        support = supported(guide_weight, hsi_weight, gaussian_psf(ratio, reach), ratio)
        if int(support.sum()) >= 400:
            break
    low = _determined(low, support)
    design = torch.cat([torch.ones_like(low[:1]), low])[:, support].double()
    weight = torch.ones(design.shape[1], dtype=torch.float64, device=low.device)

    def kernel(theta: Array) -> Tensor:
        """theta: log of the geometric mean FWHM, then the ellipse's log-aspect vector (cos 2a, sin 2a)."""
        aspect = min(float(np.hypot(theta[1], theta[2])), 1.0)
        mean = float(np.exp(np.clip(theta[0], np.log(smallest), np.log(largest))))
        angle = 0.5 * float(np.arctan2(theta[2], theta[1]))
        fwhm = max(mean * np.exp(aspect), 0.1), max(mean * np.exp(-aspect), 0.1)
        return gaussian_psf(ratio, *fwhm, angle=angle).to(low)

    def cost(theta: Array) -> float:
        seen = blur_down(guide, kernel(theta), ratio)[:, support].double()
        left = _unexplained(design, seen, weight)[1]
        ridge = 1e-3 * float(theta[1] ** 2 + theta[2] ** 2)  # round, where the data does not say
        return float(left.clamp_min(1e-12).log().mean()) + ridge

    widths = np.geomspace(smallest, largest, 15)
    theta = np.zeros(3)
    for step in PSF_STEPS:  # weights of a wrong PSF spare the wrong pixels
        before = theta
        start = min((np.array([np.log(w), *theta[1:]]) for w in widths), key=cost)
        simplex = np.concatenate([start[None], start + step * np.eye(3)])
        theta = minimize(
            cost,
            start,
            method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 5e-3, "fatol": 1e-4, "maxfev": 120},
        ).x
        seen = blur_down(guide, kernel(theta), ratio)[:, support].double()
        for _ in range(ROBUST_ROUNDS):
            residual, left = _unexplained(design, seen, weight)
            weight = tukey(residual)
        widths = np.exp(theta[0]) * np.geomspace(0.7, 1.4, 7)
        if np.abs(theta - before).max() < 0.01:
            break
    psf = _separable(kernel(theta))
    rim = [abs(float(np.exp(theta[0])) / edge - 1) < 0.02 for edge in (smallest, largest)]
    return psf, {
        "psf": "anisotropic Gaussian, fitted",
        "psf_at_limit": any(rim),
        "psf_unexplained": [float(v) for v in left],
        "outlier_fraction": float((weight < 0.01).double().mean()),
    }


def _separable(psf: Tensor) -> Tensor:
    """A PSF (p, p) as the product of its profiles where all else is within `NO_TILT`: it blurs faster."""
    left, values, right = torch.linalg.svd(psf.double())
    if float(values[1:].sum()) > NO_TILT * float(values[0]):
        return psf
    outer = torch.outer(left[:, 0].abs(), right[0].abs())  # rounding gives the tails of either any sign
    return (outer / outer.sum()).to(psf)


def _determined(low: Tensor, support: Tensor) -> Tensor:
    """As many of the coefficients (k, h, w) as the supported HSI pixels (h, w) determine well.

    Raises
    ------
    AlignmentError
        Not even `LEAST_DIMENSIONS`.
    """
    found, least = int(support.sum()), min(LEAST_DIMENSIONS, len(low))
    if found < PIXELS_PER_SLOPE * (least + 1):
        raise AlignmentError(
            f"only {found} HSI pixels lie fully under the reference, learning the sensors needs "
            f"{PIXELS_PER_SLOPE * (least + 1)}: use a larger scene or a reference that covers more of it"
        )
    return low[: found // PIXELS_PER_SLOPE - 1]


def _pixel_noise(guide: Tensor, weight: Tensor) -> Array:
    """White-noise level of each guide band (m,): what the other bands do not explain in the flattest blocks.

    The mixed second difference removes planes, and a regression on the other bands of a block what all of
    them show, which is texture: nothing is flat in a scene of roofs or crowns. A low percentile (`FLATTEST`)
    over blocks is taken of what is left, and divided by what that percentile is for pure noise (chi-square),
    since a texture of the band's own only ever adds. Noise that bands share is explained too, so that no less
    than `LEAST_OWN` of what the band has without the others counts.
    """
    count, side = len(guide), max(NOISE_BLOCK, math.isqrt(PIXELS_PER_BAND * len(guide)))
    rows, columns = ((size - 1) // side for size in weight.shape)
    grams = []
    for top in range(0, rows * side, side):  # a strip at a time: no copy of the guide in float64
        part = guide[:, top : top + side + 1, : columns * side + 1].double()
        there = (weight[top : top + side + 1, : columns * side + 1] > 0).double()
        mixed = (part[:, :-1, :-1] - part[:, 1:, :-1] - part[:, :-1, 1:] + part[:, 1:, 1:]) / 2
        inside = there[:-1, :-1] * there[1:, :-1] * there[:-1, 1:] * there[1:, 1:]
        whole = inside.view(side, columns, side).amin((0, 2)) > 0
        blocks = mixed.view(count, side, columns, side).permute(2, 0, 1, 3).flatten(2)[whole]
        grams.append(blocks @ blocks.transpose(1, 2))  # (blocks, m, m)
    gram = torch.cat(grams) if grams else torch.zeros(0, count, count)
    if not len(gram):
        return np.zeros(count)
    own = gram.diagonal(dim1=1, dim2=2)
    ridge = (1e-9 * own.mean(1)).clamp_min(1e-200)  # a flat guide has no noise
    held = gram + ridge[:, None, None] * torch.eye(count).to(gram)
    left = 1 / torch.linalg.inv(held).diagonal(dim1=1, dim2=2)

    def level(squares: Tensor, freedom: int) -> Tensor:
        return (torch.quantile(squares, FLATTEST, dim=0) / chi2.ppf(FLATTEST, freedom)).sqrt()

    least = LEAST_OWN * level(own, side**2)
    return np.asarray(torch.maximum(level(left, side**2 - count + 1), least).cpu().numpy())
