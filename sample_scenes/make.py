"""Make the sample scene: `python -m sample_scenes.make [FOLDER]`. Seeded; the same bytes every time.

An airborne imaging spectrometer (ENVI, UTM 32N, 4 m) and an aerial camera (GeoTIFF, UTM 33N, 1 m) see the
same drawing (`scenery`, spectra from `spectra`), each through its own response, on its own grid. The
camera's georeferencing is wrong by a shift and a small rotation; `truth.npz` holds what was really there.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from scipy.ndimage import convolve1d, map_coordinates

from hsi_fuse.grid import Grid
from sample_scenes import scenery, spectra

Array = NDArray[np.float64]

SEED = 20240604
RATIO = 4
HSI_GRID = Grid(CRS.from_epsg(32632), Affine(4, 0, 715_960, 0, -4, 5_331_520), 48, 40)
GUIDE_CRS = CRS.from_epsg(32633)
GUIDE_MARGIN_M = 14.0
# where the camera's georeferencing puts a place, less where it is: metres east and north, and a turn
GUIDE_ERROR_M, GUIDE_ERROR_DEG = (4.3, -2.9), 0.3

WAVELENGTHS_NM = 420 + 6.0 * np.arange(97)
FWHM_NM = 7.0
BAD_BANDS = (936.0, 942.0, 948.0)
PSF_FWHM_M = (4.6, 4.2)
"""Along rows (y) and columns (x)."""
HSI_SCALE, HSI_NODATA = 10_000, -9999
TRUTH_SCALE = 20_000

CAMERA_NM = {"red": (585, 680), "green": (490, 595), "blue": (415, 505), "nir": (745, 890)}
CAMERA_GAIN = np.array([345.0, 365.0, 390.0, 330.0])  # counts for each unit of reflectance
CAMERA_OFFSET = np.array([7.0, 10.0, 14.0, 4.0])
CAMERA_NOISE = 0.8


def psf() -> Array:
    """The spectrometer's blur on the 1 m grid (16, 16), centred, sums to 1."""
    at = np.arange(16) - 7.5
    profile = [np.exp(-4 * math.log(2) * (at / fwhm) ** 2) for fwhm in PSF_FWHM_M]
    kernel = np.outer(*profile)
    return kernel / kernel.sum()


def srf() -> Array:
    """The camera's responses (4, n), bell-shaped with flat tops; rows sum to 1."""
    rows = []
    for lower, upper in CAMERA_NM.values():
        x = (WAVELENGTHS_NM - (lower + upper) / 2) / ((upper - lower) / 2)
        rows.append(np.exp(-math.log(2) * np.abs(x) ** 3.5))
    response = np.array(rows)
    response[response < 1e-3] = 0
    return response / response.sum(1, keepdims=True)


def hsi_noise(level: Array) -> Array:
    """Noise deviation (reflectance) of each band: a floor, weak blue and infrared ends, and photon noise."""
    wl = WAVELENGTHS_NM
    floor = 0.0008 + 0.0018 * np.exp(-(wl - 420) / 35) + 0.0015 * np.exp((wl - 1000) / 40)
    floor[np.isin(wl, BAD_BANDS)] = 0.05
    return np.sqrt(floor**2 + (0.0025**2) * level)


def blocks(fine: Array, n: int) -> Array:
    """Means of n x n blocks of (c, H, W)."""
    c, height, width = fine.shape
    return fine.reshape(c, height // n, n, width // n, n).mean((2, 4))


def observe_hsi(abundance: Array, endmembers: Array, rng: np.random.Generator) -> NDArray[np.int16]:
    """Abundances on the 1 m grid with their margin -> stored HSI (n, h, w)."""
    kernel = psf()
    blurred = convolve1d(abundance, kernel.sum(1), axis=1, mode="reflect")
    blurred = convolve1d(blurred, kernel.sum(0), axis=2, mode="reflect")
    # scipy centres an even kernel between samples i and i + 1
    start = scenery.MARGIN + RATIO // 2 - 1
    rows, columns = (slice(start, start + RATIO * n, RATIO) for n in HSI_GRID.shape)
    clean = np.einsum("nk,khw->nhw", endmembers, blurred[:, rows, columns])
    noise = hsi_noise(clean.mean((1, 2)))[:, None, None]
    stored = np.rint((clean + noise * rng.standard_normal(clean.shape)) * HSI_SCALE).astype(np.int16)
    stored[:, 11, 30:33] = HSI_NODATA  # a scratch in a scan line
    stored[:, 27, 6] = HSI_NODATA
    return stored


def guide_grid() -> Grid:
    """A whole-metre grid in the camera's CRS, larger than the HSI on every side."""
    left, bottom, right, top = rasterio.warp.transform_bounds(HSI_GRID.crs, GUIDE_CRS, *HSI_GRID.bounds)
    left, top = math.floor(left - GUIDE_MARGIN_M), math.ceil(top + GUIDE_MARGIN_M)
    width, height = math.ceil(right + GUIDE_MARGIN_M - left), math.ceil(top - bottom + GUIDE_MARGIN_M)
    return Grid(GUIDE_CRS, Affine(1, 0, left, 0, -1, top), width, height)


def fine_to_guide(grid: Grid) -> Affine:
    """The truth about the geometry: refined HSI pixel -> guide pixel, both corner-based.

    Map projections are affine to 1e-4 px over such a small place (`tests/test_sample_scene.py`).
    """
    fine = HSI_GRID.refine(RATIO)
    columns, rows = np.meshgrid(np.linspace(0, fine.width, 9), np.linspace(0, fine.height, 9))
    x, y = fine.to_pixels_of(grid, columns, rows)
    known = np.stack([columns.ravel(), rows.ravel(), np.ones(columns.size)], 1)
    (a, d), (b, e), (c, f) = np.linalg.lstsq(known, np.stack([x.ravel(), y.ravel()], 1), rcond=None)[0]
    east, north = GUIDE_ERROR_M
    wrong = Affine.translation(east, -north) * Affine.rotation(
        GUIDE_ERROR_DEG, (grid.width / 2, grid.height / 2)
    )
    return wrong * Affine(a, b, c, d, e, f)


def observe_guide(bands: Array, grid: Grid, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Reflectance in the camera's bands on the drawing's grid (4, rows, columns) -> stored guide (4, H, W).

    Each pixel is the mean of 16 points of its own square. 0 where the flight strip does not reach.
    """
    back = ~fine_to_guide(grid)
    columns, rows = np.meshgrid(np.arange(grid.width), np.arange(grid.height))
    total = np.zeros((4, *grid.shape))
    for dy in (np.arange(4) + 0.5) / 4:
        for dx in (np.arange(4) + 0.5) / 4:
            x, y = back * (columns + dx, rows + dy)  # metres from the HSI's corner
            at = [(v + scenery.MARGIN) / scenery.STEP - 0.5 for v in (y, x)]
            total += [map_coordinates(b, at, order=1, mode="nearest") for b in bands]
    counts = total / 16 * CAMERA_GAIN[:, None, None] + CAMERA_OFFSET[:, None, None]
    counts += CAMERA_NOISE * rng.standard_normal(counts.shape)
    stored = np.clip(np.rint(counts), 1, 255).astype(np.uint8)
    stored[:, columns + 0.55 * rows > 1.15 * grid.width] = 0
    return stored


def envi_header() -> str:
    """The HSI's header, as ENVI writes it."""
    g = HSI_GRID
    wl = ", ".join(f"{w:.1f}" for w in WAVELENGTHS_NM)
    fwhm = ", ".join(f"{FWHM_NM:.1f}" for _ in WAVELENGTHS_NM)
    good = ", ".join("0" if w in BAD_BANDS else "1" for w in WAVELENGTHS_NM)
    fields = {
        "description": "{Village by the river: synthetic reflectance, hsi-fuse sample scene}",
        "samples": g.width,
        "lines": g.height,
        "bands": len(WAVELENGTHS_NM),
        "header offset": 0,
        "file type": "ENVI Standard",
        "data type": 2,
        "interleave": "bil",
        "byte order": 0,
        "reflectance scale factor": HSI_SCALE,
        "data ignore value": HSI_NODATA,
        "map info": f"{{UTM, 1, 1, {g.transform.c:.1f}, {g.transform.f:.1f}, 4.0, 4.0, 32, North, WGS-84}}",
        "coordinate system string": f"{{{g.crs.to_wkt(version='WKT1_ESRI')}}}",
        "wavelength units": "Nanometers",
        "wavelength": f"{{{wl}}}",
        "fwhm": f"{{{fwhm}}}",
        "bbl": f"{{{good}}}",
    }
    return "ENVI\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())


def make(folder: Path) -> None:
    """Draw the scene, observe it and write hsi.hdr, hsi.img, guide.tif and truth.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    materials = spectra.library(WAVELENGTHS_NM)
    pure = np.stack(list(materials.values()), 1)  # (n, K)
    sky = spectra.sky_share(WAVELENGTHS_NM)[:, None]
    endmembers = np.concatenate([pure * (1 - sky), pure * sky], 1)  # in sunlight only, in skylight only
    fine = HSI_GRID.refine(RATIO)
    canvas = scenery.draw(tuple(materials), fine.width, fine.height, SEED)
    cover = np.stack(list(canvas.cover.values()))
    abundance = np.concatenate([cover * canvas.sunlight(), cover])  # (2 K, rows, columns)
    hsi_rng, guide_rng = map(np.random.default_rng, np.random.SeedSequence(SEED).spawn(2))

    metre = blocks(abundance, round(1 / scenery.STEP))
    stored = observe_hsi(metre, endmembers, hsi_rng)
    (folder / "hsi.img").write_bytes(stored.transpose(1, 0, 2).astype("<i2").tobytes())  # line, band, sample
    (folder / "hsi.hdr").write_text(envi_header(), encoding="ascii", newline="\n")

    grid = guide_grid()
    counts = observe_guide(np.tensordot(srf() @ endmembers, abundance, axes=1), grid, guide_rng)
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 4,
        "nodata": 0,
        "compress": "deflate",
        "predictor": 2,
    }
    size = {"width": grid.width, "height": grid.height, "crs": grid.crs, "transform": grid.transform}
    with rasterio.open(folder / "guide.tif", "w", **profile, **size, photometric="RGB", alpha="NO") as file:
        file.write(counts)
        file.descriptions = tuple(CAMERA_NM)

    inner = np.s_[:, scenery.MARGIN : -scenery.MARGIN, scenery.MARGIN : -scenery.MARGIN]
    np.savez_compressed(
        folder / "truth.npz",
        endmembers=endmembers.astype(np.float32),
        abundance=np.rint(metre[inner] * TRUTH_SCALE).astype(np.uint16),
        abundance_scale=TRUTH_SCALE,
        materials=list(materials),
        wavelengths_nm=WAVELENGTHS_NM,
        psf=psf(),
        srf=srf() * CAMERA_GAIN[:, None],
        offset=CAMERA_OFFSET,
        fine_to_guide=np.array(fine_to_guide(grid)[:6]),
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "village")
