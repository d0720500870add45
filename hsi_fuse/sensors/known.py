"""What the user knows of the sensors beforehand: a nominal or a measured SRF, a PSF."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from hsi_fuse.errors import GridError, HsiFuseWarning, PresetError, ReadError
from hsi_fuse.physics import gaussian_psf, psf_padding
from hsi_fuse.raster import Raster
from hsi_fuse.sensor import Sensor
from hsi_fuse.sensors.nominal import guide_edges
from hsi_fuse.sensors.srf import ResponseTable, srf_rows

MOST_FWHM_HSI_PX = 10.0
LEAST_COSINE = 0.8
"""Likeness of a learned response to its nominal one; neighbouring bands that overlap by half reach 0.5."""


@dataclass(frozen=True)
class KnownSensor:
    """Knowledge that `sense` takes instead of learning, or as a prior.

    Attributes
    ----------
    srf : Tensor (m, n) or None
        Response of each guide band over the HSI's good bands, in any unit: the radiometric gain and offset
        are learned all the same, as no two instruments agree on them.
    nominal : bool
        Whether the learned SRF may differ from `srf` where the pair says so clearly.
    psf : Tensor (p, p), float or None
        On the fine grid; or the full width at half maximum of a Gaussian, in HSI pixels.
    """

    srf: Tensor | None = None
    nominal: bool = False
    psf: Tensor | float | None = None

    def words(self) -> str:
        """What is known, in words."""
        srf = "learned" if self.srf is None else "learned around a nominal one" if self.nominal else "given"
        return f"SRF {srf}, PSF {'learned' if self.psf is None else 'given'}"

    def kernel(self, ratio: int) -> Tensor | None:
        """The PSF (p, p) on a fine grid of that ratio.

        Raises
        ------
        GridError
            A kernel of the other parity than the ratio has no common centre with an HSI pixel.
        """
        if self.psf is None:
            return None
        if not isinstance(self.psf, Tensor):
            return gaussian_psf(ratio, self.psf * ratio)
        try:
            psf_padding(len(self.psf), ratio)
        except ValueError:
            raise GridError(
                f"the PSF has {len(self.psf)} x {len(self.psf)} fine pixels and the scale is {ratio}: both "
                "must be even or both odd, to have one centre; resample the PSF, or give its FWHM instead"
            ) from None
        return self.psf


@dataclass(frozen=True)
class SensorWords:
    """What the user says of the sensors, before the images are known.

    Attributes
    ----------
    srf : Path or None
        CSV of measured responses, taken as they are: long, with columns `band, wavelength_nm, response`, or
        wide, `wavelength_nm` and one column for each guide band (as a run's own `_srf.csv`). Bands in the
        guide's order.
    guide_sensor : str or None
        A shipped nominal sensor, which serves as a prior: `NAME`, or `NAME:BAND,BAND,...` in the guide's
        order.
    psf : str or None
        CSV of a kernel on the fine grid (as a run's own `_psf.csv`); or, where it is a number, the full width
        at half maximum of a Gaussian, HSI pixels.
    """

    srf: Path | None = None
    guide_sensor: str | None = None
    psf: str | None = None

    @property
    def files(self) -> dict[str, Path]:
        """The files that it names, by field."""
        width = self.psf is None or _width(self.psf) is not None
        named = {"srf": self.srf, "psf": None if width else Path(self.psf or "")}
        return {name: path for name, path in named.items() if path is not None}

    def known(self, hsi: Raster, guide_bands: int) -> KnownSensor:
        """What that means for a pair.

        Raises
        ------
        ReadError
            A file is missing or makes no sense; the HSI has no wavelengths; the numbers of bands differ.
        PresetError
            There is no such sensor or band, or both an SRF and a sensor are given.
        """
        if self.srf is not None and self.guide_sensor is not None:
            raise PresetError(
                "give either a measured SRF (--srf) or a nominal one (--guide-sensor), not both"
            )
        width = None if self.psf is None else _width(self.psf)
        psf = read_psf(self.psf) if self.psf is not None and width is None else width
        if self.srf is None and self.guide_sensor is None:
            return KnownSensor(psf=psf)
        if hsi.wavelengths_nm is None:
            raise ReadError("the HSI has no wavelengths to look responses up at: give --wavelengths FILE")
        at = hsi.wavelengths_nm[hsi.good_bands]
        if self.srf is not None:
            rows, what = read_responses(self.srf).rows(at), str(self.srf)
        else:
            edges = guide_edges(self.guide_sensor or "")
            rows, what = srf_rows(at, list(edges.values())), f"sensor {self.guide_sensor}"
        if len(rows) != guide_bands:
            raise ReadError(
                f"{what} has {len(rows)} bands and the reference has {guide_bands}: name the reference's "
                "bands in their order, as --guide-sensor NAME:BAND,BAND,..., or give a file with as many"
            )
        return KnownSensor(rows, self.srf is None, psf)


def _width(psf: str) -> float | None:
    """The FWHM that the words of a PSF are, HSI pixels; None where they name a file.

    Raises
    ------
    PresetError
        The width cannot be.
    """
    try:
        width = float(psf)
    except ValueError:
        return None
    if not 0 < width <= MOST_FWHM_HSI_PX:
        raise PresetError(f"--psf {psf}: a FWHM is above 0 and at most {MOST_FWHM_HSI_PX:g} (HSI pixels)")
    return width


def warn_of_contradiction(sensor: Sensor) -> None:
    """Warn where the responses that a pair taught are not like the nominal ones."""
    alike = cast(Sequence[float], sensor.found.get("srf_nominal_cosine", ()))
    odd = [f"{i} ({cosine:.2f})" for i, cosine in enumerate(alike, 1) if cosine < LEAST_COSINE]
    if odd:
        warnings.warn(
            f"the pair contradicts the nominal response of the reference's band {', '.join(odd)} (likeness, "
            "1 is equal): is the order of --guide-sensor that of the file? What the pair says is used",
            HsiFuseWarning,
            stacklevel=2,
        )


def read_responses(path: str | Path) -> ResponseTable:
    """Responses of a CSV, see `known_sensor`."""
    header, rows = _csv(path)
    if not rows:
        raise ReadError(f"{path}: no line follows the first: there is no response")
    if header == ["band", "wavelength_nm", "response"]:
        bands: dict[str, list[tuple[float, float]]] = {}
        for line, row in rows:
            bands.setdefault(row[0], []).append((_number(row[1], path, line), _number(row[2], path, line)))
        curves = [np.array(sorted(points)).T for points in bands.values()]
    elif header[:1] == ["wavelength_nm"] and len(header) > 1:
        table = np.array(sorted([_number(v, path, line) for v in row] for line, row in rows)).T
        curves = [table[[0, k]] for k in range(1, len(header))]
    else:
        raise ReadError(
            f"{path}: the first line of an SRF file is `band,wavelength_nm,response` or `wavelength_nm,...` "
            f"with one column for each guide band, found {','.join(header)[:80]!r}"
        )
    axis = np.unique(np.concatenate([x for x, _ in curves]))
    responses = [np.interp(axis, x, y, left=0, right=0).clip(0) for x, y in curves]
    for k, response in enumerate(responses):
        if not response.any():
            raise ReadError(f"{path}: band {k + 1} has no response above 0")
    return ResponseTable(tuple(axis.tolist()), tuple(tuple(r.tolist()) for r in responses))


def read_psf(path: str | Path) -> Tensor:
    """The kernel (p, p) of a CSV, one line for each row; made to sum to 1."""
    first, rest = _csv(path)
    lines = [(1, first), *rest]
    values = [[_number(v, path, line) for v in row] for line, row in lines]
    if any(len(row) != len(values) for row in values):
        raise ReadError(f"{path}: a PSF is square, found {len(values)} lines of {len(values[0])} values")
    kernel = np.array(values)
    if (kernel < 0).any() or kernel.sum() <= 0:
        raise ReadError(f"{path}: a PSF has no negative values and a positive sum, found {kernel.min():g}")
    return torch.from_numpy((kernel / kernel.sum()).astype(np.float32))


def _csv(path: str | Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The first line of a CSV, and the others with their numbers; lines that are empty are left out."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ReadError(f"{path}: cannot be read as a text file ({error})") from error
    lines: Sequence[list[str]] = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines())]
    filled = [(number, row) for number, row in enumerate(lines, 1) if any(row)]
    if not filled:
        raise ReadError(f"{path}: expected a table in CSV, found an empty file")
    wrong = [number for number, row in filled if len(row) != len(filled[0][1])]
    if wrong:
        raise ReadError(f"{path}: line {wrong[0]} does not have {len(filled[0][1])} values as the first has")
    return filled[0][1], filled[1:]


def _number(text: str, path: str | Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ReadError(f"{path}: {text!r} in line {line} is not a number")
    return value
