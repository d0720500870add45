"""Simulate: a truth cube -> what the two instruments would have seen of it.

The one place, with `assess`, where truth is allowed: methods get the observations only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.errors import GridError, PresetError, ReadError
from hsi_fuse.physics import blur_down, gaussian_psf, mix_bands, psf_padding
from hsi_fuse.sensor import Sensor
from hsi_fuse.sensors.srf import ALI, MS4, NIKON_D700, PAN, RGB, SHARP, Edges, ResponseTable, srf_rows
from hsi_fuse.simulation.displace import Displaced, Mask, Misregistration, Window, centres, displace
from hsi_fuse.simulation.look import PLAIN, Look

__all__ = [
    "DISPLACED",
    "FWHM_PER_SIGMA",
    "MS4",
    "PAN",
    "PROTOCOLS",
    "RGB",
    "VARIANTS",
    "Edges",
    "GuideTruth",
    "ObservedPair",
    "Protocol",
    "find_protocol",
    "guide_truth",
    "observe",
    "srf_rows",
]

FWHM_PER_SIGMA = 2.3548200450309493
MARGIN = 0.08
"""Share of the cube left on each side of the HSI window for an unregistered guide to look at."""


@dataclass(frozen=True)
class Protocol:
    """How a truth cube is observed.

    Attributes
    ----------
    name : str
    ratio : int
        Fine pixels per HSI pixel along one axis.
    psf : Tensor (p, p)
        Sums to 1; p and ratio of one parity.
    guide_edges_nm : pairs of float
        Lower and upper edge of each guide band; empty where there is a table.
    snr_hsi_db, snr_guide_db : float
        Power ratio per band; infinite for no noise.
    misregistration : Misregistration or None
        None: the guide lies on the fine grid.
    look : Look
    guide_table : ResponseTable or None
        Measured responses of the guide bands, in place of edges.
    """

    name: str
    ratio: int
    psf: Tensor
    guide_edges_nm: Edges
    snr_hsi_db: float = 35.0
    snr_guide_db: float = 40.0
    misregistration: Misregistration | None = None
    look: Look = PLAIN
    guide_table: ResponseTable | None = None

    def srf(self, wavelengths_nm: NDArray[np.float64]) -> Tensor:
        """Responses of the guide bands (m, n), rows sum to 1; ReadError where one sees no band."""
        if self.guide_table is not None:
            return self.guide_table.rows(wavelengths_nm)
        return srf_rows(wavelengths_nm, self.guide_edges_nm)


@dataclass(frozen=True)
class ObservedPair:
    """What the instruments saw, and what was there.

    Attributes
    ----------
    hsi : Tensor (n, h, w)
    guide : Tensor (m, H, W)
        On the grid its georeferencing claims: the fine grid, H = ratio h. 0 where not valid.
    guide_valid : Tensor (H, W), bool
    truth : Tensor (n, H, W)
        The scene on the fine grid, 0..1.
    sensor : Sensor
        The true one.
    hsi_noise, guide_noise : Tensor (n,), (m,)
        Standard deviations of the noise that was added.
    fine_to_guide : ndarray (2, H, W), float64
        Where each fine pixel's centre appears in the guide: (column, row), corner-based as in `Grid`.
    georeferenced : bool
        Whether the guide says where it lies.
    claimed_shift_px : (float, float)
        Where it says that is: the fine pixel at q appears at q + this, (columns, rows). Methods may know it.
    objects : ndarray (H, W), int
        Which object each fine pixel belongs to; 0: the ground.
    occluded : ndarray (H, W), bool
        Fine pixels that an object hides in the guide.
    changed : ndarray (H, W), bool
        Guide pixels that show a cloud or something else than the scene.
    """

    hsi: Tensor
    guide: Tensor
    guide_valid: Tensor
    truth: Tensor
    sensor: Sensor
    hsi_noise: Tensor
    guide_noise: Tensor
    fine_to_guide: NDArray[np.float64]
    georeferenced: bool
    claimed_shift_px: tuple[float, float]
    objects: NDArray[np.intp]
    occluded: Mask
    changed: Mask


MILD = Misregistration(shift_px=(2.7, -3.4), degrees=0.6, local_px=1.0)
ROTATED = Misregistration(shift_share=(0.05, -0.04), local_px=1.0, max_overlap=0.7, georeferenced=False)
VARIANTS: dict[str, tuple[Misregistration, Look]] = {
    "mild": (MILD, PLAIN),
    "strong": (
        Misregistration(shift_share=(0.038, -0.074), degrees=7.0, scale=1.02, local_px=2.0, max_overlap=0.8),
        PLAIN,
    ),
    **{f"rotated{angle}": (replace(ROTATED, degrees=float(angle)), PLAIN) for angle in (85, 180, 263)},
    "off10": (replace(MILD, claimed_hsi_px=10.0), PLAIN),
    "contrast": (MILD, Look(changed_share=0.1, gamma=2.2, inverted_bands=1, gain=0.5, offset=0.1)),
    "parallax": (replace(MILD, local_px=0.0, objects=12), PLAIN),
}
"""How an unregistered guide may differ, by name."""


PARTIAL = Misregistration(shift_share=(0.25, -0.1), degrees=85.0, max_overlap=0.7, georeferenced=False)
"""Two images of one area, either of which shows what the other does not."""


def _gaussian(ratio: int, fwhm_px: float) -> Tensor:
    """A Gaussian PSF, as many fine pixels wide as the published kernels: 9 x 9 at ratio 4, 17 x 17 at 8.

    Where that is odd it cannot be centred on an HSI pixel, whose middle lies between fine pixels: one row and
    column more, sampled at half-pixel offsets.
    """
    size = math.ceil(2 * fwhm_px + 1)
    return gaussian_psf(ratio, fwhm_px, size=size + (size - ratio) % 2)


DISPLACED = ("x4-ms4", "x8-ms4", "x4-rgb", "x8-rgb", "x16-rgb", "x4-pan", "x4-sharp")
"""The protocols that exist with an unregistered guide too."""
PSF_HSI_PX = (0.3, 0.6, 1.0, 1.5, 2.0)
"""FWHM of the PSF in HSI pixels, as the variants of `x4-ms4` by its sharpness have it."""


def _protocols() -> dict[str, Protocol]:
    x4, x8 = _gaussian(4, 4.0), _gaussian(8, 8.0)
    sharp, cave = (gaussian_psf(s, 0.5 * FWHM_PER_SIGMA, size=s) for s in (4, 32))
    registered = {
        p.name: p
        for p in (
            Protocol("x4-ms4", 4, x4, MS4),
            Protocol("x8-ms4", 8, x8, MS4),
            Protocol("x4-rgb", 4, x4, RGB),
            Protocol("x8-rgb", 8, x8, RGB),
            Protocol("x16-rgb", 16, _gaussian(16, 16.0), RGB),
            Protocol("x4-pan", 4, x4, PAN),
            Protocol("x4-sharp", 4, sharp, SHARP, math.inf, math.inf),
            *(Protocol(f"x4-ms4-psf{f:g}", 4, _gaussian(4, 4 * f), MS4) for f in PSF_HSI_PX),
            Protocol("cave-x32", 32, cave, (), math.inf, math.inf, guide_table=NIKON_D700),
            Protocol("x3-ali", 3, _gaussian(3, 3.0), ALI, math.inf, math.inf),
        )
    }
    sides = replace(registered["x4-ms4"], snr_hsi_db=math.inf, snr_guide_db=math.inf)
    partial = replace(sides, name="fresco", misregistration=PARTIAL)
    displaced = (
        replace(registered[base], name=f"{base}-{variant}", misregistration=moved, look=look)
        for base in DISPLACED
        for variant, (moved, look) in VARIANTS.items()
    )
    return registered | {partial.name: partial} | {p.name: p for p in displaced}


PROTOCOLS = _protocols()
"""The protocols by name: the registered ones, `fresco` with its partial overlap, and `DISPLACED` as
`<name>-<variant>` for every one of `VARIANTS`."""


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises
    ------
    PresetError
        There is none; the message lists those there are.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    registered = [n for n in PROTOCOLS if n == "fresco" or PROTOCOLS[n].misregistration is None]
    raise PresetError(
        f"unknown protocol {name!r}; choose from {', '.join(registered)}, or one of {', '.join(DISPLACED)} "
        f"with an ending: -{', -'.join(VARIANTS)}"
    )


def observe(
    truth: Tensor, wavelengths_nm: NDArray[np.float64], protocol: Protocol, seed: int = 0
) -> ObservedPair:
    """Observe a scene by both instruments.

    Parameters
    ----------
    truth : Tensor (n, H0, W0)
        Clipped at 0, divided by its maximum and cropped to whole HSI pixels (at the lower right when
        registered; to the middle, `MARGIN` left around it, when not).
    wavelengths_nm : ndarray (n,)
    protocol : Protocol
    seed : int
        Of the noise and of whatever the variant draws.

    Raises
    ------
    ReadError
        A guide band sees none of the wavelengths, or the scene holds nothing above 0.
    GridError
        The scene is smaller than an HSI pixel, or than the PSF reaches beyond it.
    """
    cube = truth.float().clamp(min=0)
    peak = cube.max()
    if not peak > 0:
        raise ReadError("the cube holds no value above 0; give radiance or reflectance")
    cube = cube / peak
    s, moved = protocol.ratio, protocol.misregistration
    top, left, height, width = window_of(protocol, cube.shape[1:])
    window = cube[:, top : top + height, left : left + width].contiguous()
    hsi_rng, guide_rng, field_rng, object_rng, look_rng, claim_rng = _streams(seed)

    srf = protocol.srf(wavelengths_nm)
    hsi, hsi_noise = _add_noise(blur_down(window, protocol.psf, s), protocol.snr_hsi_db, hsi_rng)
    clean = mix_bands(cube, srf)  # (m, H0, W0)
    if moved is None:
        seen = _in_place(clean[:, :height, :width].contiguous())
    else:
        seen = displace(clean, (top, left, height, width), moved, field_rng, object_rng)
    looks, changed = protocol.look(seen.guide, seen.valid, look_rng)
    guide, guide_noise = _add_noise(looks, protocol.snr_guide_db, guide_rng, seen.valid)
    sensor = Sensor(srf, torch.zeros(len(srf)), protocol.psf, s, {"from": f"protocol {protocol.name}"})
    claim = moved or Misregistration()
    return ObservedPair(
        *(hsi, guide, seen.valid, window, sensor, hsi_noise, guide_noise, seen.fine_to_guide),
        georeferenced=claim.georeferenced,
        claimed_shift_px=_diagonal(s * claim.claimed_hsi_px, claim_rng),
        objects=seen.objects,
        occluded=seen.occluded,
        changed=changed,
    )


@dataclass(frozen=True)
class GuideTruth:
    """What an imaging spectrometer of the guide's pixels would have seen in its place.

    Attributes
    ----------
    cube : Tensor (n, H, W)
        On the guide's grid, 0..1 as `ObservedPair.truth`; 0 where the guide is not valid.
    within : Tensor (H, W), bool
        Guide pixels whose ground the HSI shows too.
    places : ndarray (2, H, W), float64
        Where each guide pixel's ground lies on the fine grid: (column, row), corner-based.
    """

    cube: Tensor
    within: Tensor
    places: NDArray[np.float64]


def guide_truth(
    truth: Tensor, wavelengths_nm: NDArray[np.float64], protocol: Protocol, seed: int = 0
) -> GuideTruth:
    """The truth as the guide of `observe` with the same arguments sees it."""
    cube = truth.float().clamp(min=0)
    cube = cube / cube.max()
    clean = mix_bands(cube, protocol.srf(wavelengths_nm))
    window = window_of(protocol, cube.shape[1:])
    _, _, field_rng, object_rng, _, _ = _streams(seed)
    # the guide's bands come first: objects are found in them
    seen = displace(
        torch.cat([clean, cube]), window, protocol.misregistration or Misregistration(), field_rng, object_rng
    )
    columns, rows = seen.guide_to_fine
    height, width = window[2:]
    within = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return GuideTruth(seen.guide[len(clean) :], torch.from_numpy(within) & seen.valid, seen.guide_to_fine)


def _streams(seed: int) -> list[np.random.Generator]:
    """Random numbers of HSI noise, guide noise, local field, objects, looks and the claimed place."""
    return [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(6)]


def window_of(protocol: Protocol, shape: Sequence[int]) -> Window:
    """The part of a cube (H0, W0) that the HSI sees: top, left, height and width.

    Whole HSI pixels; from the upper left when registered, `MARGIN` left around it when not.

    Raises
    ------
    GridError
        The cube is smaller than an HSI pixel, or than the PSF reaches beyond it.
    """
    s = protocol.ratio
    top, left = (math.ceil(MARGIN * side) if protocol.misregistration else 0 for side in shape)
    height, width = ((side - 2 * m) // s * s for side, m in zip(shape, (top, left), strict=True))
    if min(height, width) < max(s, psf_padding(len(protocol.psf), s)):
        raise GridError(f"a cube of {shape[0]} x {shape[1]} pixels is too small for protocol {protocol.name}")
    return top, left, height, width


def _add_noise(
    image: Tensor, snr_db: float, rng: np.random.Generator, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """White noise per band at a power ratio; the image with it (0 where not valid), and its deviations."""
    mask = torch.ones(image.shape[1:]) if valid is None else valid.float()
    power = (image**2 * mask).sum((1, 2)) / mask.sum().clamp(min=1)
    deviation = (power * 10 ** (-snr_db / 10)).sqrt()
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
    return (image + deviation[:, None, None] * noise) * mask, deviation


def _in_place(guide: Tensor) -> Displaced:
    """A guide (m, H, W) that lies on the fine grid."""
    height, width = guide.shape[1:]
    valid = torch.ones(height, width, dtype=torch.bool)
    nothing = np.zeros((height, width), bool)
    places = centres(height, width)
    return Displaced(guide, valid, places, nothing.astype(np.intp), nothing, places)


def _diagonal(length: float, rng: np.random.Generator) -> tuple[float, float]:
    """A vector (columns, rows) of the given length along one of the four diagonals."""
    columns, rows = rng.choice([-1.0, 1.0], 2) * length / math.sqrt(2) + 0.0  # no negative zeros
    return float(columns), float(rows)
