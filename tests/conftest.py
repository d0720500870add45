"""Shared fixtures: the real scenes where they are, and a tiny unregistered pair on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
from acquisitions import Pretend, fill
from numpy.typing import NDArray
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter

from hsi_fuse.batch import schedule
from hsi_fuse.registration import register

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HSI_FUSE_DATA", REPOSITORY.parent / "shared" / "data"))

RATIO, ROWS, COLUMNS, BANDS, MARGIN = 4, 24, 28, 24, 16
WAVELENGTHS = np.linspace(420.0, 980.0, BANDS)
NODATA = -9999
ORIGIN = from_origin(500_000, 5_300_000, RATIO, RATIO)  # metres: the fine pixels measure 1 m


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("data") and not DATA.is_dir():
        pytest.skip(f"the real scenes are not at {DATA}; set HSI_FUSE_DATA")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real scenes."""
    if not DATA.is_dir():
        pytest.skip(f"the real scenes are not at {DATA}; set HSI_FUSE_DATA")
    return DATA


@dataclass(frozen=True)
class Pair:
    """Two files, and what no program is told: the truth (band, y, x) on the refined HSI grid."""

    hsi: Path
    ref: Path
    truth: NDArray[np.float32]


@pytest.fixture
def make_pair(tmp_path: Path) -> Callable[..., Pair]:
    """A function that writes a pair into `tmp_path/in`; its arguments spoil one thing each."""
    return partial(write_pair, tmp_path / "in")


def write_pair(
    folder: Path,
    spoil_hsi: Callable[[NDArray[np.int16]], object] | None = None,
    wavelengths: bool = True,
    shift_m: tuple[float, float] = (2.3, -1.7),
    guide_step: int = 1,
) -> Pair:
    """Write a pair into a folder; the arguments spoil one thing each."""
    folder.mkdir(exist_ok=True)
    wide = _scene()  # with a margin that only the guide looks at
    inner = np.s_[MARGIN:-MARGIN, MARGIN:-MARGIN]

    blurred = gaussian_filter(wide, (0, 1.2, 1.2))[:, *inner]
    pixels = blurred.reshape(BANDS, ROWS, RATIO, COLUMNS, RATIO).mean((2, 4))
    rng = np.random.default_rng(1)
    stored = np.rint(1e4 * (pixels + 0.002 * rng.standard_normal(pixels.shape))).astype(np.int16)
    if spoil_hsi is not None:
        spoil_hsi(stored)
    hsi = _write_envi(folder / "scene.hdr", stored, wavelengths)

    edges = ((450, 520), (520, 600), (630, 690), (760, 860))
    bands = [(lower <= WAVELENGTHS) & (upper >= WAVELENGTHS) for lower, upper in edges]
    guide = np.stack([wide[b].mean(0) for b in bands])[:, ::guide_step, ::guide_step]
    guide = guide + 0.001 * rng.standard_normal(guide.shape)
    # the file says the guide lies where it does not: that is the misregistration
    size = ORIGIN.a / RATIO  # of a fine pixel, metres
    west, north = ORIGIN.c - MARGIN * size + shift_m[0], ORIGIN.f + MARGIN * size + shift_m[1]
    transform = from_origin(west, north, size * guide_step, size * guide_step)
    ref = folder / "camera.tif"
    profile = {"driver": "GTiff", "dtype": "uint16", "count": len(edges), "crs": "EPSG:32632"}
    shape = {"height": guide.shape[1], "width": guide.shape[2]}
    with rasterio.open(ref, "w", **profile, **shape, transform=transform) as file:
        file.write(np.rint(2e4 * guide.clip(0)).astype(np.uint16))
    return Pair(hsi, ref, wide[:, *inner].astype(np.float32))


@pytest.fixture
def pair(make_pair: Callable[..., Pair]) -> Pair:
    """The pair as it should be."""
    return make_pair()


@pytest.fixture
def folder(pair: Pair, tmp_path: Path) -> Path:
    """Three acquisitions of one pair."""
    return fill(tmp_path / "acquisitions", pair)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """What the scenes of a batch are run by instead."""
    fake = Pretend()
    monkeypatch.setattr(schedule, "run_apart", fake)
    return fake


@pytest.fixture(scope="module")
def easily_found() -> Iterator[None]:
    """Few candidates of the search suffice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(register, "CANDIDATES", 2)
        yield


def _scene() -> NDArray[np.float64]:
    """Fields of six materials with edges, texture and shade: (band, y, x), reflectance."""
    rng = np.random.default_rng(0)
    height, width = RATIO * ROWS + 2 * MARGIN, RATIO * COLUMNS + 2 * MARGIN
    w = (WAVELENGTHS - 420) / 560
    spectra = np.stack(
        [
            0.05
            + 0.45 / (1 + np.exp(-(w - 0.5) * 30))
            + 0.06 * np.exp(-(((w - 0.22) / 0.06) ** 2)),  # leaves
            0.10 + 0.30 * w,  # soil
            0.35 - 0.05 * w,  # concrete
            0.08 * np.exp(-3 * w) + 0.01,  # water
            0.06 + 0.35 / (1 + np.exp(-(w - 0.3) * 25)),  # red roof
            0.05 + 0.30 * np.exp(-(((w - 0.1) / 0.12) ** 2)) + 0.1 * w**2,  # blue roof
        ]
    )
    y, x = np.mgrid[:height, :width]
    seeds = rng.uniform((0, 0), (height, width), (60, 2))
    nearest = ((y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2).argmin(-1)
    material = rng.integers(0, len(spectra), len(seeds))[nearest]
    texture = gaussian_filter(rng.standard_normal((height, width)), 1.5)
    shade = 1 + 0.15 * texture / texture.std()
    return spectra[material].transpose(2, 0, 1) * shade.clip(0.5, 1.5)


def _write_envi(header: Path, stored: NDArray[np.int16], wavelengths: bool) -> Path:
    stored.tofile(header.with_suffix(".img"))
    bands, rows, columns = stored.shape
    lines = [
        "ENVI",
        f"samples = {columns}",
        f"lines = {rows}",
        f"bands = {bands}",
        "header offset = 0",
        "file type = ENVI Standard",
        "data type = 2",
        "interleave = bsq",
        "byte order = 0",
        f"data ignore value = {NODATA}",
        "reflectance scale factor = 10000",
        f"map info = {{UTM, 1, 1, {ORIGIN.c}, {ORIGIN.f}, {ORIGIN.a}, {-ORIGIN.e}, 32, North, WGS-84}}",
    ]
    if wavelengths:
        lines += [
            "wavelength units = Nanometers",
            f"wavelength = {{{', '.join(f'{each:.2f}' for each in WAVELENGTHS)}}}",
        ]
    header.write_text("\n".join(lines) + "\n")
    return header
