"""Ways to find where fine pixels lie in the guide, by name: ours, and baselines that know the true sensors.

A method sees the HSI, the guide and what its georeferencing claims. The baselines also get the true SRF and
PSF: they match the HSI, seen through the SRF and interpolated to the fine grid, against the blurred guide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates
from skimage.registration import phase_cross_correlation

from hsi_fuse.errors import AlignmentError
from hsi_fuse.grid import Grid
from hsi_fuse.physics import mix_bands
from hsi_fuse.raster import Raster
from hsi_fuse.registration import warp
from hsi_fuse.registration.confidence import refined
from hsi_fuse.registration.joint import Registered, Start, register_pair
from hsi_fuse.registration.register import RegisterOptions
from hsi_fuse.sensors.sense import Sensing
from hsi_fuse.simulation.displace import Mask, centres
from hsi_fuse.simulation.simulate import FWHM_PER_SIGMA, ObservedPair
from hsi_fuse.subspace import fill_nearest, upsample

Array = NDArray[np.float64]
DIMENSIONS = 10
ITERATIONS = 50
SETTLED_PX = 1e-3


@dataclass(frozen=True)
class Found:
    """A mapping as a method found it.

    Attributes
    ----------
    columns, rows : ndarray (H, W)
        Where each fine pixel's centre appears in the guide, corner-based.
    confidence : ndarray (H, W) or None
        0 to 1; low where the guide does not show the fine pixel.
    error_px : float
        The method's own estimate of its error, fine pixels.
    probability : float
        Of the guide showing the place, by the method; NaN where it does not say.
    """

    columns: Array
    rows: Array
    confidence: Array | None = None
    error_px: float = 0.0
    probability: float = math.nan


def ours(pair: ObservedPair) -> Found:
    """`hsi_fuse.registration.joint` as the pipeline asks it: mapping and sensors together, blind.

    Raises
    ------
    AlignmentError
        Nothing is found, or what is found is too improbable.
    """
    found = registered(pair)
    if refused(found):
        raise AlignmentError(f"refused: probability {found.evidence.probability:.2f}")
    return as_found(found, pair)


def registered(pair: ObservedPair) -> Registered:
    """What the registration finds, whatever the verdict."""
    ratio, (_, height, width) = pair.sensor.ratio, pair.guide.shape
    window = Raster(
        pair.guide.numpy(), pair.guide_valid.numpy(), Grid(None, Affine.identity(), width, height)
    )
    return register_pair(
        pair.hsi,
        torch.ones(pair.hsi.shape[1:]),
        window,
        claimed(pair),
        ratio,
        RegisterOptions(),
        Sensing(),
    )


def claimed(pair: ObservedPair) -> Start:
    """Where a pair's georeferencing puts the HSI."""
    mapping = Affine.translation(*pair.claimed_shift_px) * Affine.scale(pair.sensor.ratio)
    return Start(mapping, georeferenced=pair.georeferenced)


def refused(found: Registered) -> bool:
    """The verdict of `hsi-fuse run`, by its default options."""
    return RegisterOptions().refuses(found.evidence)


def as_found(found: Registered, pair: ObservedPair) -> Found:
    """The mapping at the pair's fine pixels."""
    ratio, (_, height, width) = pair.sensor.ratio, pair.guide.shape
    x, y = (np.arange(side) + 0.5 for side in (width, height))
    columns, rows = warp.apply(found.hsi_to_guide * Affine.scale(1 / ratio), *np.meshgrid(x, y))
    if found.bend is not None:
        bend = warp.on_lattice(found.bend, x, y, (height, width))
        columns, rows = columns + bend[0], rows + bend[1]
    confidence = refined(found.confidence, ratio)
    error = ratio * found.evidence.deviation_hsi_px
    return Found(columns, rows, confidence, error, found.evidence.probability)


def phase(pair: ObservedPair) -> Found:
    """A shift by cross-correlation of the band sums under a Hann window, upsampled 100 times.

    Not whitened: whitening raises the noise of frequencies that the HSI does not have, and finds no shift.
    """
    template, image, _ = _common(pair)
    height, width = image.shape[1:]
    fine = centres(height, width)
    claimed = fine + np.array(pair.claimed_shift_px)[:, None, None]
    moving = map_coordinates(image.sum(0), claimed[::-1] - 0.5, order=3)
    hann = np.outer(np.hanning(height), np.hanning(width))
    correlate: Any = phase_cross_correlation  # carries no types
    down, right = correlate(hann * template.sum(0), hann * moving, upsample_factor=100, normalization=None)[0]
    return Found(claimed[0] - right, claimed[1] - down)


def ecc(pair: ObservedPair) -> Found:
    """An affine that maximises the enhanced correlation coefficient, coarse to fine, from `phase`'s shift.

    Forward-additive Gauss-Newton of Evangelidis & Psarakis (2008), with all bands stacked, each of them
    normalised and with a mean of its own.
    """
    template, image, valid = _common(pair)
    height, width = valid.shape
    start = phase(pair)
    centre, reach = np.array([width / 2, height / 2]), max(height, width) / 2
    thin = max(pair.sensor.ratio // 2, 1)
    places = centres(height, width)[:, thin // 2 :: thin, thin // 2 :: thin].reshape(2, -1)
    x, y = (places - centre[:, None]) / reach
    basis = np.stack([x, y, np.ones_like(x)])  # (3, N)
    shift = [start.columns[0, 0] - 0.5, start.rows[0, 0] - 0.5]
    affine = np.array([[reach, 0, centre[0] + shift[0]], [0, reach, centre[1] + shift[1]]])
    for blur in (2.0, 1.0, 0.0):  # HSI pixels
        sigma = (0, blur * pair.sensor.ratio, blur * pair.sensor.ratio)
        smooth, seen = gaussian_filter(template, sigma), gaussian_filter(image, sigma)
        wanted = np.stack([b[thin // 2 :: thin, thin // 2 :: thin].ravel() for b in smooth])
        slopes = np.gradient(seen, axis=(2, 1))
        for _ in range(ITERATIONS):
            step = _ecc_step(wanted, seen, slopes, valid, affine @ basis, basis)
            affine += step
            if np.abs(step).max() < SETTLED_PX:
                break
    everywhere = (centres(height, width) - centre[:, None, None]) / reach
    columns, rows = np.tensordot(affine[:, :2], everywhere, axes=1) + affine[:, 2, None, None]
    return Found(columns, rows)


def _ecc_step(
    wanted: Array, seen: Array, slopes: tuple[Array, Array], valid: Mask, places: Array, basis: Array
) -> Array:
    """The next change (2, 3) of the affine; `wanted` (m, N) at `places` (2, N) of the image `seen`."""
    at = places[::-1] - 0.5
    inside = map_coordinates(valid.astype(float), at, order=1, cval=0) > 0.99
    if inside.sum() < 0.1 * len(inside):
        raise AlignmentError(
            f"ECC: only {100 * inside.mean():.0f} % of the HSI lies on the guide (10 % needed)"
        )
    at, basis = at[:, inside], basis[:, inside]

    def look(image: Array) -> Array:
        """Samples (m, N) without their mean."""
        values = np.stack([map_coordinates(b, at, order=1, mode="nearest") for b in image])
        return values - values.mean(1, keepdims=True)

    target = wanted[:, inside] - wanted[:, inside].mean(1, keepdims=True)
    current = look(seen)
    jacobian = np.concatenate([look(slope)[:, None] * basis for slope in slopes], 1)  # (m, 6, N)
    normal = np.einsum("min,mjn->ij", jacobian, jacobian)
    along_current = np.einsum("min,mn->i", jacobian, current)
    along_target = np.einsum("min,mn->i", jacobian, target)
    solved = np.linalg.solve(normal, along_current)
    agreement = (target * current).sum() - along_target @ solved
    if agreement <= 0:
        raise AlignmentError("ECC: the correlation cannot be raised from here")
    gain = ((current**2).sum() - along_current @ solved) / agreement
    step: Array = np.linalg.solve(normal, gain * along_target - along_current).reshape(2, 3)
    return step


def _common(pair: ObservedPair) -> tuple[Array, Array, Mask]:
    """The HSI seen as the guide and the guide blurred as the HSI, bands normalised; and where the latter is.

    (m, H, W), (m, H, W), (H, W).
    """
    template = upsample(mix_bands(pair.hsi, pair.sensor.srf), pair.sensor.ratio).double().numpy()
    sigma = tuple(fwhm / FWHM_PER_SIGMA for fwhm in pair.sensor.psf_fwhm)
    filled = fill_nearest(pair.guide, pair.guide_valid.float()).double().numpy()
    blurred = np.stack([gaussian_filter(band, sigma, mode="nearest") for band in filled])
    valid = pair.guide_valid.numpy()
    clear = binary_erosion(valid, iterations=round(max(sigma)), border_value=1)
    return _normalised(template, np.ones_like(valid)), _normalised(blurred, clear), clear


def _normalised(image: Array, valid: Mask) -> Array:
    inner = image[:, valid]
    normalised: Array = (image - inner.mean(1)[:, None, None]) / inner.std(1)[:, None, None]
    return normalised


METHODS: dict[str, Callable[[ObservedPair], Found]] = {"ours": ours, "phase": phase, "ecc": ecc}
