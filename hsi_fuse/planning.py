"""What a run would do: grids, overlap, units, bands, memory and time."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from hsi_fuse.align import start_mapping
from hsi_fuse.blocks import peak_bytes
from hsi_fuse.errors import AlignmentError, GridError, HsiFuseWarning
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Raster
from hsi_fuse.read import Guide, Parts, open_guide, read_hsi
from hsi_fuse.read.guide import MOST_BANDS
from hsi_fuse.read.recognise import describe
from hsi_fuse.sensors.known import KnownSensor

LEAST_RATIO = 1.2
"""How many times finer a reference's pixels must be."""


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes
    ----------
    scale : int
        Fine pixels per HSI pixel along one axis.
    target : Grid
    start : Affine
        HSI pixel -> guide pixel, before matching.
    displacement : ndarray (2, p, q) or None
        What `start` cannot express, guide pixels on a lattice.
    overlap : float
        Fraction of the HSI's valid pixels that lie on the guide before matching.
    guide_gsd_hsi_px : float
        Size of a guide pixel in HSI pixels.
    memory_bytes : int
        Rough peak, on all of the machine's processors.
    facts : mapping
        All of it in words and figures.
    known : KnownSensor
        What of the sensors need not be learned.
    """

    scale: int
    target: Grid
    start: Affine
    displacement: NDArray[np.float32] | None
    overlap: float
    guide_gsd_hsi_px: float
    memory_bytes: int
    facts: Mapping[str, Any]
    known: KnownSensor = field(default_factory=KnownSensor)

    def to_dict(self) -> dict[str, Any]:
        """The facts, JSON-ready."""
        return dict(self.facts)


def plan(hsi: Raster, guide: Guide, scale: int | None = None, known: KnownSensor | None = None) -> Plan:
    """Look at a pair without fusing it.

    Parameters
    ----------
    hsi : Raster
    guide : Guide
    scale : int, optional
        Default: the ratio of the ground sampling distances, rounded.
    known : KnownSensor, optional

    Raises
    ------
    GridError
        The guide is not finer than the HSI, `scale` is below 1, or a known PSF does not fit it.
    AlignmentError
        The guide does not reach the HSI's ground.
    """
    start, displacement = start_mapping(hsi.grid, guide.grid)
    ratio = math.sqrt(abs(start.determinant))  # guide pixels per HSI pixel
    if scale is not None and scale < 1:
        raise GridError(f"--scale must be a whole number of at least 1, got {scale}")
    if ratio < LEAST_RATIO:
        raise GridError(
            f"the reference's pixels ({_size(guide.grid)}) are not finer than the HSI's "
            f"({_size(hsi.grid)}): a sharper reference is needed; "
            "were the two files given in the right order (HSI first)?"
        )
    chosen = scale or max(round(ratio), 1)
    if scale is None and abs(ratio - chosen) > 0.05 * ratio:
        _warn(
            f"the reference's pixels are {ratio:.2f} times finer than the HSI's: "
            f"scale {chosen} is used (--scale)"
        )
    if chosen > 1.25 * ratio:
        _warn(
            f"--scale {chosen} asks for finer pixels than the reference has (ratio {ratio:.2f}): "
            "it adds no detail there"
        )
    known = known or KnownSensor()
    known.kernel(chosen)  # a PSF that does not fit is an error now rather than later
    target = hsi.grid.refine(chosen)
    if target.crs is None and hsi.grid.georeferenced:
        target = replace(target, crs=guide.grid.crs)  # as `start_mapping` assumed, and warned
    rows, columns = np.nonzero(hsi.valid)
    a, b, c, d, e, f = start[:6]
    x, y = a * (columns + 0.5) + b * (rows + 0.5) + c, d * (columns + 0.5) + e * (rows + 0.5) + f
    overlap = float(np.mean((x >= 0) & (x < guide.grid.width) & (y >= 0) & (y < guide.grid.height)))
    good = int(hsi.good_bands.sum())
    fine = target.width * target.height
    memory = peak_bytes((good, *hsi.grid.shape), chosen, os.cpu_count() or 1)
    facts = {
        "HSI": _hsi_facts(hsi),
        "reference": _guide_facts(guide),
        "product": {**_describe(target), "scale": chosen, "bands": hsi.bands},
        "sensors": known.words(),
        "ratio": round(ratio, 3),
        "overlap": f"{100 * overlap:.0f} % of the HSI's valid pixels lie on the reference before matching",
        "memory": f"about {memory / 1e9:.1f} GB",
        "time": f"about {_seconds(fine):.0f} s on two cores, a minute more where there is much to mend",
    }
    return Plan(chosen, target, start, displacement, overlap, 1 / ratio, memory, facts, known)


def pixel_ratio(hsi: Grid, guide: Grid) -> float:
    """How many times finer the guide's pixels are, from the grids alone; 0 where that cannot be told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HsiFuseWarning)
        try:
            return math.sqrt(abs(start_mapping(hsi, guide)[0].determinant))
        except AlignmentError:
            return 0.0


_ALL = Parts()


def inspect(path: str | Path, wavelengths: str | Path | None = None, parts: Parts = _ALL) -> dict[str, Any]:
    """What one file holds and how it is understood; JSON-ready.

    Up to 13 bands are taken for a reference, of which no pixels are read, more for a hyperspectral image.

    Raises
    ------
    ReadError, GridError
        As `read_hsi` and `open_guide`.
    """
    if describe(path).bands <= MOST_BANDS:
        return {"reference": _guide_facts(open_guide(path, parts.guide_mask))}
    hsi = read_hsi(path, wavelengths, bounds=parts.bounds, mask=parts.hsi_mask)
    return {"HSI": _hsi_facts(hsi)}


def _hsi_facts(hsi: Raster) -> dict[str, Any]:
    return {
        **_describe(hsi.grid),
        "bands": f"{hsi.bands}, {int(hsi.good_bands.sum())} of them good",
        "wavelengths": _span(hsi.wavelengths_nm) + _disorder(hsi.wavelengths_nm),
        "units": f"{hsi.encoding.dtype}, value = stored x {hsi.encoding.scale:g} "
        f"+ {hsi.encoding.offset:g}, nodata {hsi.encoding.nodata}",
        "valid pixels": f"{100 * float(hsi.valid.mean()):.1f} %",
        "bad bands": _ranges(np.flatnonzero(~hsi.good_bands)),
    }


def _guide_facts(guide: Guide) -> dict[str, Any]:
    names = {"band names": ", ".join(guide.band_names)} if guide.band_names else {}
    return {**_describe(guide.grid), "bands": guide.bands, **names, "units": guide.dtype}


def _disorder(wavelengths_nm: NDArray[np.float64] | None) -> str:
    """What is unusual in the order of bands."""
    if wavelengths_nm is None or np.all(np.diff(wavelengths_nm) > 0):
        return ""
    return ", falling" if np.all(np.diff(wavelengths_nm) < 0) else ", not in order (detectors overlap?)"


def _warn(text: str) -> None:
    warnings.warn(text, HsiFuseWarning, stacklevel=3)


def _seconds(fine: int) -> float:
    """Rough time of `fast` on two cores, from runs on 0.03 and 0.17 million fine pixels."""
    return 12 + 8e-5 * fine


def _size(grid: Grid) -> str:
    return f"{grid.gsd_m:.3g} m" if grid.georeferenced else f"{grid.width} x {grid.height} pixels"


def _describe(grid: Grid) -> dict[str, Any]:
    return {
        "size": f"{grid.width} x {grid.height} pixels",
        "pixel": f"{grid.gsd_m:.4g} m" if grid.georeferenced else "not georeferenced",
        "CRS": str(grid.crs) if grid.crs is not None else "none",
        "bounds": ", ".join(f"{each:.10g}" for each in grid.bounds),
    }


def _span(wavelengths_nm: NDArray[np.float64] | None) -> str:
    if wavelengths_nm is None:
        return "unknown"
    return f"{wavelengths_nm.min():.0f}-{wavelengths_nm.max():.0f} nm"


def _ranges(numbers: Sequence[int] | NDArray[np.intp]) -> str:
    """Band numbers from 1 as ranges: 130-135, 220."""
    out: list[list[int]] = []
    for n in (int(k) + 1 for k in numbers):
        if out and n == out[-1][1] + 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in out) or "none"
