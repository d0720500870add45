"""What the user knows of the sensors beforehand: a nominal or a measured SRF, a PSF."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.errors import GridError, PresetError, ReadError
from hsi_fuse.physics import gaussian_psf, psf_padding
from hsi_fuse.raster import Raster
from hsi_fuse.srf import ResponseTable, srf_rows

SHIPPED = "hsi_fuse.presets"


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


def known_sensor(
    hsi: Raster,
    guide_bands: int,
    *,
    srf: str | Path | None = None,
    guide_sensor: str | None = None,
    psf: str | Path | float | None = None,
) -> KnownSensor:
    """Collect what is known.

    Parameters
    ----------
    hsi : Raster
        Its wavelengths say where responses are looked up.
    guide_bands : int
    srf : path, optional
        CSV of measured responses, taken as they are: long, with columns `band, wavelength_nm, response`, or
        wide, `wavelength_nm` and one column for each guide band (as a run's own `_srf.csv`). Bands in the
        guide's order.
    guide_sensor : str, optional
        A shipped nominal sensor, which serves as a prior: `NAME`, or `NAME:BAND,BAND,...` in the guide's
        order.
    psf : path or float, optional
        CSV of a kernel on the fine grid (as a run's own `_psf.csv`); or the FWHM of a Gaussian, HSI pixels.

    Raises
    ------
    ReadError
        A file is missing or makes no sense; the HSI has no wavelengths; the numbers of bands differ.
    PresetError
        There is no such sensor or band.
    """
    if srf is not None and guide_sensor is not None:
        raise PresetError("give either a measured SRF (--srf) or a nominal sensor (--guide-sensor), not both")
    kernel = read_psf(psf) if isinstance(psf, str | Path) else psf
    if srf is None and guide_sensor is None:
        return KnownSensor(psf=kernel)
    if hsi.wavelengths_nm is None:
        raise ReadError(
            "the HSI has no wavelengths, so responses cannot be looked up: give --wavelengths FILE"
        )
    at = hsi.wavelengths_nm[hsi.good_bands]
    if srf is not None:
        rows, what = read_responses(srf).rows(at), str(srf)
    else:
        assert guide_sensor is not None
        rows, what = srf_rows(at, list(guide_edges(guide_sensor).values())), f"sensor {guide_sensor}"
    if len(rows) != guide_bands:
        raise ReadError(
            f"{what} has {len(rows)} bands and the reference has {guide_bands}: name the reference's bands "
            "in their order, as --guide-sensor NAME:BAND,BAND,..., or give a file with as many"
        )
    return KnownSensor(rows, srf is None, kernel)


def sensor_names(kind: str) -> list[str]:
    """Shipped sensors: `kind` is "guide" (they have band edges) or "hsi" (centres and widths)."""
    key = {"guide": "bands_nm", "hsi": "centres_nm"}[kind]
    folder = resources.files(SHIPPED).joinpath("sensors")
    names = sorted(
        item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")
    )
    return [name for name in names if key in _table(name)]


def guide_edges(name: str) -> dict[str, tuple[float, float]]:
    """Band edges in nm of `NAME` or `NAME:BAND,BAND,...`, in the order named.

    Raises
    ------
    PresetError
        There is no such sensor or band; the message lists those there are.
    """
    sensor, _, chosen = name.partition(":")
    if sensor not in sensor_names("guide"):
        raise PresetError(f"no guide sensor {sensor!r}; there are {', '.join(sensor_names('guide'))}")
    bands: dict[str, tuple[float, float]] = {k: (a, b) for k, (a, b) in _table(sensor)["bands_nm"].items()}
    wanted = [each.strip() for each in chosen.split(",")] if chosen else list(bands)
    by_name = {band.lower(): band for band in bands}
    for each in wanted:
        if each.lower() not in by_name:
            raise PresetError(f"sensor {sensor} has no band {each!r}; it has {', '.join(bands)}")
    return {by_name[each.lower()]: bands[by_name[each.lower()]] for each in wanted}


def hsi_bands(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres and widths (FWHM) of a shipped imaging spectrometer's bands, nm, (n,) each.

    Raises
    ------
    PresetError
        There is no such sensor.
    """
    if name not in sensor_names("hsi"):
        raise PresetError(f"no hyperspectral sensor {name!r}; there are {', '.join(sensor_names('hsi'))}")
    table = _table(name)
    return np.array(table["centres_nm"], float), np.array(table["fwhm_nm"], float)


def _table(name: str) -> dict[str, Any]:
    text = resources.files(SHIPPED).joinpath(f"sensors/{name}.toml").read_text("utf-8")
    return tomllib.loads(text)


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
