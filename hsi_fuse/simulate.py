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
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from hsi_fuse.errors import GridError, ReadError
from hsi_fuse.physics import blur_down, gaussian_psf, mix_bands
from hsi_fuse.sensor import Sensor

Edges = tuple[tuple[float, float], ...]

RGB: Edges = ((450, 520), (520, 600), (630, 690))
MS4: Edges = (*RGB, (760, 855))
PAN: Edges = ((450, 855),)
SHARP: Edges = ((452, 512), (533, 590), (636, 673))
FWHM_PER_SIGMA = 2.3548200450309493
MARGIN = 0.08
"""Share of the cube left on each side of the HSI window for an unregistered guide to look at."""


@dataclass(frozen=True)
class Misregistration:
    """How the guide's content lies off the place its georeferencing claims.

    A scene point at fine pixel q appears in the guide at `A (q - centre) + centre + shift + local(q)`, A a
    rotation and a scale. Pairs are (columns, rows).

    Attributes
    ----------
    shift_px, shift_share : (float, float)
        Translation in fine pixels, and as a share of the HSI window's sides; they add up.
    degrees, scale : float
        Rotation (columns towards rows) and magnification about the window's centre.
    local_px : float
        RMS length of a smooth random displacement of zero mean; its autocorrelation is Gaussian and falls
        to 1/e at min(64 px, side / 3).
    max_overlap : float
        Share of the HSI window that the guide may show; columns at its left are lost until that holds.
    """

    shift_px: tuple[float, float] = (0.0, 0.0)
    shift_share: tuple[float, float] = (0.0, 0.0)
    degrees: float = 0.0
    scale: float = 1.0
    local_px: float = 0.0
    max_overlap: float = 1.0


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
        Lower and upper edge of each guide band.
    snr_hsi_db, snr_guide_db : float
        Power ratio per band; infinite for no noise.
    misregistration : Misregistration or None
        None: the guide lies on the fine grid.
    """

    name: str
    ratio: int
    psf: Tensor
    guide_edges_nm: Edges
    snr_hsi_db: float = 35.0
    snr_guide_db: float = 40.0
    misregistration: Misregistration | None = None


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
    """

    hsi: Tensor
    guide: Tensor
    guide_valid: Tensor
    truth: Tensor
    sensor: Sensor
    hsi_noise: Tensor
    guide_noise: Tensor
    fine_to_guide: NDArray[np.float64]


MISREGISTRATIONS = {
    "mild": Misregistration(shift_px=(2.7, -3.4), degrees=0.6, local_px=1.0),
    "strong": Misregistration(
        shift_share=(0.038, -0.074), degrees=7.0, scale=1.02, local_px=2.0, max_overlap=0.8
    ),
}


def _protocols() -> dict[str, Protocol]:
    # Where the published kernels are odd (9 x 9 at ratio 4, 17 x 17 at 8) they cannot be centred on an HSI
    # pixel, whose middle lies between fine pixels: one row and column more, sampled at half-pixel offsets.
    x4, x8 = gaussian_psf(4, 4.0, size=10), gaussian_psf(8, 8.0, size=18)
    sharp = gaussian_psf(4, 0.5 * FWHM_PER_SIGMA, size=4)
    registered = (
        Protocol("x4-ms4", 4, x4, MS4),
        Protocol("x8-ms4", 8, x8, MS4),
        Protocol("x4-rgb", 4, x4, RGB),
        Protocol("x8-rgb", 8, x8, RGB),
        Protocol("x4-pan", 4, x4, PAN),
        Protocol("x4-sharp", 4, sharp, SHARP, math.inf, math.inf),
    )
    displaced = (
        replace(p, name=f"{p.name}-{variant}", misregistration=m)
        for p in registered
        for variant, m in MISREGISTRATIONS.items()
    )
    return {p.name: p for p in (*registered, *displaced)}


PROTOCOLS = _protocols()
"""The protocols by name; each also as `<name>-mild` and `<name>-strong`, which add a misregistration."""


def srf_rows(wavelengths_nm: NDArray[np.float64], edges_nm: Sequence[tuple[float, float]]) -> Tensor:
    """Nominal flat-topped responses: exp(-ln 2 |x|^6), x = 1 at a band's edges.

    Parameters
    ----------
    wavelengths_nm : ndarray (n,)
    edges_nm : (lower, upper) of each of m bands

    Returns
    -------
    Tensor (m, n), float32
        Rows sum to 1; responses under 1e-3 are dropped.
    """
    lower, upper = np.array(edges_nm, float).T[:, :, None]  # (m, 1) each
    x = (np.asarray(wavelengths_nm, float) - (lower + upper) / 2) / ((upper - lower) / 2)
    response = np.exp(-math.log(2) * np.minimum(np.abs(x), 10) ** 6)
    response[response < 1e-3] = 0
    total = response.sum(1, keepdims=True)
    if not total.all():
        missing = [f"{a:g}-{b:g}" for (a, b), t in zip(edges_nm, total[:, 0], strict=True) if t == 0]
        raise ReadError(
            f"no band of the cube lies within the guide band {', '.join(missing)} nm "
            f"(the cube: {np.min(wavelengths_nm):g}-{np.max(wavelengths_nm):g} nm); choose another protocol"
        )
    return torch.from_numpy((response / total).astype(np.float32))


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
        Of the noise and the local displacement.
    """
    cube = truth.float().clamp(min=0)
    cube = cube / cube.max()
    s, moved = protocol.ratio, protocol.misregistration
    top, left = (math.ceil(MARGIN * side) if moved else 0 for side in cube.shape[1:])
    height, width = ((side - 2 * m) // s * s for side, m in zip(cube.shape[1:], (top, left), strict=True))
    if min(height, width) < s:
        raise GridError(f"a cube of {tuple(cube.shape[1:])} pixels is too small for protocol {protocol.name}")
    window = cube[:, top : top + height, left : left + width].contiguous()
    hsi_rng, guide_rng, field_rng = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))

    srf = srf_rows(wavelengths_nm, protocol.guide_edges_nm)
    hsi, hsi_noise = _add_noise(blur_down(window, protocol.psf, s), protocol.snr_hsi_db, hsi_rng)
    clean = mix_bands(cube, srf)  # (m, H0, W0)
    if moved is None:
        seen, valid = clean[:, :height, :width].contiguous(), torch.ones(height, width, dtype=torch.bool)
        fine_to_guide = _centres(height, width)
    else:
        seen, valid, fine_to_guide = _displace(clean, (top, left, height, width), moved, field_rng)
    guide, guide_noise = _add_noise(seen, protocol.snr_guide_db, guide_rng, valid)
    sensor = Sensor(srf, torch.zeros(len(srf)), protocol.psf, s, {"from": f"protocol {protocol.name}"})
    return ObservedPair(hsi, guide, valid, window, sensor, hsi_noise, guide_noise, fine_to_guide)


def _add_noise(
    image: Tensor, snr_db: float, rng: np.random.Generator, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """White noise per band at a power ratio; the image with it (0 where not valid), and its deviations."""
    mask = torch.ones(image.shape[1:]) if valid is None else valid.float()
    power = (image**2 * mask).sum((1, 2)) / mask.sum().clamp(min=1)
    deviation = (power * 10 ** (-snr_db / 10)).sqrt()
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
    return (image + deviation[:, None, None] * noise) * mask, deviation


def _displace(
    clean: Tensor, window: tuple[int, int, int, int], moved: Misregistration, rng: np.random.Generator
) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
    """See the guide image (m, H0, W0) of the whole cube displaced, on the window's grid.

    Returns the guide (m, H, W), its valid mask and `fine_to_guide`. Coordinates are the window's pixels.
    """
    top, left, height, width = window
    field = _local_field(clean.shape[1], clean.shape[2], window, moved.local_px, rng)  # (2, H0, W0)
    centre = np.array([width / 2, height / 2])
    shift = np.add(moved.shift_px, np.multiply(moved.shift_share, (width, height)))
    angle = math.radians(moved.degrees)
    turn = moved.scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    origin = centre[:, None, None]

    def local(points: NDArray[np.float64]) -> NDArray[np.float64]:
        rows_columns = points[::-1] + np.array([top - 0.5, left - 0.5])[:, None, None]
        return np.stack([map_coordinates(f, rows_columns, order=3, mode="nearest") for f in field])

    def linear(matrix: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.tensordot(matrix, points, axes=1)

    fine = _centres(height, width)
    offset = origin + shift[:, None, None]
    fine_to_guide = linear(turn, fine - origin) + offset + local(fine)
    # each guide pixel's place in the scene: the mapping inverted by fixed-point steps (the local field is
    # smooth: a step shrinks the error by its gradient, about 0.1)
    back, source = np.asarray(np.linalg.inv(turn), np.float64), fine.copy()
    for _ in range(12):
        source = origin + linear(back, fine - offset - local(source))
    rows, columns = source[1] + top - 0.5, source[0] + left - 0.5
    inside = (rows >= 0) & (rows <= clean.shape[1] - 1) & (columns >= 0) & (columns <= clean.shape[2] - 1)
    inside = _limit_overlap(inside, fine_to_guide, moved.max_overlap)
    seen = np.stack(
        [map_coordinates(b, [rows, columns], order=3, mode="mirror") for b in clean.double().numpy()]
    )
    return torch.from_numpy((seen * inside).astype(np.float32)), torch.from_numpy(inside), fine_to_guide


def _centres(height: int, width: int) -> NDArray[np.float64]:
    """(column, row) of every pixel's centre, corner-based: (2, height, width)."""
    return np.array(np.mgrid[:height, :width][::-1], float) + 0.5


def _local_field(
    rows: int, columns: int, window: tuple[int, int, int, int], rms: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """A smooth random displacement (2, rows, columns) of zero mean and the given RMS length in the window."""
    top, left, height, width = window
    reach = min(64.0, min(height, width) / 3)
    white = rng.standard_normal((2, rows, columns))
    # a filter of sigma gives an autocorrelation exp(-r^2 / (4 sigma^2)): 1/e at r = 2 sigma
    field = np.stack([gaussian_filter(f, reach / 2, mode="reflect") for f in white])
    inner = field[:, top : top + height, left : left + width]
    mean = inner.mean((1, 2), keepdims=True)
    return (field - mean) * (rms / math.sqrt(((inner - mean) ** 2).sum(0).mean()))


def _limit_overlap(
    inside: NDArray[np.bool_], fine_to_guide: NDArray[np.float64], most: float
) -> NDArray[np.bool_]:
    """Drop the guide's left columns until it shows at most a share of the fine pixels."""
    height, width = inside.shape
    columns, rows = np.floor(fine_to_guide).astype(int)
    within = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    shown = np.zeros(inside.shape, bool)
    shown[within] = inside[rows[within], columns[within]]
    keep = np.sort(np.where(shown, columns, -1).ravel())[::-1]  # guide columns of the shown pixels, falling
    allowed = int(most * inside.size)
    if shown.sum() <= allowed:
        return inside
    return inside & (np.arange(width) > keep[allowed])
