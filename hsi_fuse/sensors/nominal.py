"""Nominal sensors that ship: band edges of guides, band centres and widths of imaging spectrometers."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_fuse.errors import PresetError

SHIPPED = "hsi_fuse.presets"


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
