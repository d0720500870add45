"""The real scenes as truth cubes: `load(name) -> (truth, wavelengths_nm)`."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from torch import Tensor

ROOT = Path(os.environ.get("HSI_FUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))

NOMINAL_NM = {"muufl": (375, 1050), "pavia_centre": (430, 860), "samson": (401, 889)}
"""Nominal range where the file stores no wavelengths; the AVIRIS and HYDICE scenes: 400-2500."""

ALIASES = {
    "enmap": "enmap_potsdam_south",
    "jasper": "jasper_ridge",
    "muufl": "muufl_gulfport_crop",
    "pavia_centre": "pavia_centre_crop",
}
OTHERS = (
    *("abu_airport_2", "abu_airport_3", "abu_airport_4", "abu_beach_1", "abu_beach_2", "abu_beach_3"),
    *("abu_urban_1", "abu_urban_3", "abu_urban_5", "hydice", "indian_pines", "samson", "sandiego"),
    *("cave_balloons", "cave_chart_and_stuffed_toy", "cave_oil_painting", "cave_superballs"),
)
NAMES = (*ALIASES, *OTHERS)


@cache
def load(name: str) -> tuple[Tensor, NDArray[np.float64]]:
    """A scene as a truth cube.

    Returns
    -------
    truth : Tensor (n, H, W), float32, units of the file
    wavelengths_nm : ndarray (n,)
        As stored, else evenly spread over the sensor's nominal range.

    EnMAP comes without its six empty bands, cut to the largest rectangle without nodata (64 x 128).
    """
    if name not in NAMES:
        raise KeyError(f"unknown scene {name!r}; one of {', '.join(NAMES)}")
    folder = ROOT / ALIASES.get(name, name)
    files = sorted((*folder.glob("*.npz"), *folder.glob("*.tif")))
    if len(files) != 1:
        raise FileNotFoundError(f"{folder}: no scene there; set HSI_FUSE_DATA to the folder of the scenes")
    return _from_npz(files[0], name) if files[0].suffix == ".npz" else _from_tiff(files[0])


def _from_npz(path: Path, name: str) -> tuple[Tensor, NDArray[np.float64]]:
    with np.load(path) as stored:
        cube = stored["cube"].astype(np.float32).transpose(2, 0, 1)  # (n, H, W)
        if "wavelength_nm_approx" in stored:
            wavelengths = stored["wavelength_nm_approx"]
        else:
            wavelengths = np.linspace(*NOMINAL_NM.get(name, (400, 2500)), len(cube))
    return torch.from_numpy(np.ascontiguousarray(cube)), wavelengths


def _from_tiff(path: Path) -> tuple[Tensor, NDArray[np.float64]]:
    with rasterio.open(path) as file:
        cube = file.read()
        wavelengths = np.array([float(file.tags(b)["wavelength"]) for b in file.indexes])
        missing = np.zeros(cube.shape, bool) if file.nodata is None else cube == file.nodata
    kept = ~missing.all((1, 2))
    cube, missing = cube[kept], missing[kept].any(0)
    if missing.any():
        rows, columns = _full_rectangle(~missing)
        cube = cube[:, rows, columns]
    return torch.from_numpy(np.ascontiguousarray(cube, np.float32)), wavelengths[kept]


def _full_rectangle(valid: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The largest rectangle of valid pixels, the first of equals: its rows and columns."""
    best, found = 0, (slice(0), slice(0))
    run = np.zeros(valid.shape[1], int)  # valid pixels upwards from the current row
    for bottom, row in enumerate(valid):
        run = np.where(row, run + 1, 0)
        for left in range(len(run)):
            heights = np.minimum.accumulate(run[left:])
            areas = heights * np.arange(1, len(heights) + 1)
            width = int(areas.argmax())
            if areas[width] > best:
                best, height = int(areas[width]), int(heights[width])
                found = slice(bottom + 1 - height, bottom + 1), slice(left, left + width + 1)
    return found
