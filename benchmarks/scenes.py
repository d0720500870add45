"""The real scenes as truth cubes: `load(name) -> (truth, wavelengths_nm)`."""

from __future__ import annotations

import os
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from torch import Tensor

from hsi_fuse.simulation.simulated import largest_rectangle

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
PARIS = "paris"
NAMES = (*ALIASES, *OTHERS, PARIS)


@cache
def load(name: str) -> tuple[Tensor, NDArray[np.float64]]:
    """A scene as a truth cube.

    Returns
    -------
    truth : Tensor (n, H, W), float32, units of the file
    wavelengths_nm : ndarray (n,)
        As stored, else evenly spread over the sensor's nominal range.

    EnMAP comes without its six empty bands, cut to the largest rectangle without nodata (64 x 128). Paris is
    Hyperion's; see `measured_guide`.
    """
    if name not in NAMES:
        raise KeyError(f"unknown scene {name!r}; one of {', '.join(NAMES)}")
    if name == PARIS:
        paris = _paris()
        return _bands_first(paris["hsi"]), paris["wavelength_nm_approx"]
    folder = ROOT / ALIASES.get(name, name)
    files = sorted((*folder.glob("*.npz"), *folder.glob("*.tif")))
    if len(files) != 1:
        raise FileNotFoundError(f"{folder}: no scene there; set HSI_FUSE_DATA to the folder of the scenes")
    return _from_npz(files[0], name) if files[0].suffix == ".npz" else _from_tiff(files[0])


def measured_guide(name: str) -> tuple[Tensor, Tensor] | None:
    """What another instrument saw of a scene, on the same grid, and its responses; None where there is none.

    Paris: the nine bands of EO-1's ALI (9, 72, 72) and the response matrix (9, 128) that goes with them. The
    two images lie as they come, half a pixel of 30 m apart.
    """
    if name != PARIS:
        return None
    paris = _paris()
    return _bands_first(paris["msi"]), torch.from_numpy(paris["srf_ali_9x128"].astype(np.float32))


def _paris() -> dict[str, NDArray[np.float64]]:
    path = ROOT / "paris_hyperion_ali" / "paris_hs_ms.npz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; set HSI_FUSE_DATA to the folder of the scenes")
    with np.load(path) as stored:
        return dict(stored)


def _bands_first(cube: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(cube.transpose(2, 0, 1), np.float32))


def _from_npz(path: Path, name: str) -> tuple[Tensor, NDArray[np.float64]]:
    with np.load(path) as stored:
        cube = _bands_first(stored["cube"])  # (n, H, W)
        if "wavelength_nm_approx" in stored:
            wavelengths = stored["wavelength_nm_approx"]
        else:
            wavelengths = np.linspace(*NOMINAL_NM.get(name, (400, 2500)), len(cube))
    return cube, wavelengths


def _from_tiff(path: Path) -> tuple[Tensor, NDArray[np.float64]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # CAVE is indoors
        file = rasterio.open(path)
    with file:
        cube = file.read()
        wavelengths = np.array([float(file.tags(b)["wavelength"]) for b in file.indexes])
        missing = np.zeros(cube.shape, bool) if file.nodata is None else cube == file.nodata
    kept = ~missing.all((1, 2))
    cube, missing = cube[kept], missing[kept].any(0)
    if missing.any():
        rows, columns = largest_rectangle(np.logical_not(missing))
        cube = cube[:, rows, columns]
    return torch.from_numpy(np.ascontiguousarray(cube, np.float32)), wavelengths[kept]
