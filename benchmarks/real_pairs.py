"""The whole program on real pairs: `python -m benchmarks.real_pairs --out FOLDER [--only NAME]`.

hysu       HySpex (0.70 m) and the 3K camera (0.13 m), as they are
enmap      EnMAP degraded 4 times to 120 m, and a guide of four bands from its own 30 m pixels; truth known
enmap-utm  the same with the guide in EPSG:3035, 1.4 HSI pixels off; truth known
paris      Hyperion and ALI's panchromatic band, no georeferencing
neon       a strip of 10 x 27 HSI pixels without wavelengths and CRS, and a camera: an edge case

Each is prepared in FOLDER/NAME and run by the command line as a user would. Seconds are processor seconds
over two cores. Synthesis: PSNR of the method over interpolation on the pair's own degraded pair. Pixels of
the errors are the product's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import numpy as np
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.warp import calculate_default_transform, reproject, transform

from benchmarks.scenes import ROOT
from hsi_fuse.physics import blur_down, gaussian_psf
from hsi_fuse.quality.metrics import psnr, sam_deg
from hsi_fuse.simulation.simulate import srf_rows

CORES = 2
RATIO = 4
MS_NM = ((450, 520), (520, 600), (630, 690), (760, 855))
DISPLACED_HSI_PX = 1.4
ENMAP = ROOT / "enmap_potsdam_south" / "enmap_potsdam_south.tif"


@dataclass(frozen=True)
class Pair:
    """Two files to be run, and what no program is told.

    Attributes
    ----------
    hsi, guide : Path
    scale : int or None
    truth : Path or None
        The scene on the product's grid, stored as the product is.
    offset_m : (float, float) or None
        True (east, north) offset of the HSI's content from the guide's.
    """

    hsi: Path
    guide: Path
    scale: int | None = None
    truth: Path | None = None
    offset_m: tuple[float, float] | None = None


# --- preparation -------------------------------------------------------------------------------------------


def hysu(folder: Path) -> Pair:
    """DLR HySU as it is."""
    source = ROOT / "dlr_hysu_hyspex_3k"
    return Pair(source / "DLR_HySU_HS_full.hdr", source / "DLR_HySU_3K.tiff", 4)


def neon(folder: Path) -> Pair:
    """NEON HARV as it is."""
    source = ROOT / "neon_harv_strip"
    return Pair(source / "harv_hsi.tif", source / "harv_rgb.tif", 10)


def paris(folder: Path) -> Pair:
    """Hyperion as ENVI with wavelengths, ALI PAN as GeoTIFF without georeferencing."""
    with np.load(ROOT / "paris_hyperion_ali" / "paris_hs_pan.npz") as stored:
        cube = stored["hsi"].transpose(2, 0, 1).astype("<f4")  # (n, h, w)
        pan, wavelengths = stored["pan"].astype(np.float32), stored["wavelength_nm_approx"]
    bands, lines, samples = cube.shape
    cube.tofile(folder / "hyperion.img")
    header = {
        "samples": samples, "lines": lines, "bands": bands, "header offset": 0, "data type": 4,
        "interleave": "bsq", "byte order": 0, "wavelength units": "Nanometers",
        "wavelength": f"{{{', '.join(f'{w:.2f}' for w in wavelengths)}}}",
    }  # fmt: skip
    text = "\n".join(["ENVI", *(f"{key} = {value}" for key, value in header.items())])
    (folder / "hyperion.hdr").write_text(text + "\n", encoding="utf-8")
    _write(folder / "pan.tif", pan[None], crs=None, transform=Affine.identity(), nodata=None)
    return Pair(folder / "hyperion.hdr", folder / "pan.tif", 3)


def enmap(folder: Path) -> Pair:
    """EnMAP at 120 m by a Gaussian PSF of FWHM 4 px; the guide: four broad bands of its 30 m pixels."""
    with rasterio.open(ENMAP) as file:
        cube, nodata, grid = file.read(), int(file.nodata), file.transform
        crs, tags = file.crs, [file.tags(b) for b in file.indexes]
    missing = cube == nodata  # (n, H, W)
    empty = missing.all((1, 2))
    present = torch.from_numpy(~missing[~empty].any(0))[None].float()  # (1, H, W)
    psf = gaussian_psf(RATIO, RATIO)
    values = torch.from_numpy(cube.astype(np.float32)) * present
    share = blur_down(present, psf, RATIO)
    coarse = (blur_down(values, psf, RATIO) / share.clamp_min(1e-6)).round().numpy().astype(np.int16)
    # a coarse pixel exists where all of its fine pixels do
    whole = -torch.nn.functional.max_pool2d(-present, RATIO)[0].numpy() > 0
    coarse[:, ~whole] = nodata
    coarse[empty] = nodata
    _write(folder / "hsi.tif", coarse, crs, grid * Affine.scale(RATIO), nodata, tags)

    wavelengths = np.array([float(t["wavelength"]) for t in tags])[~empty]
    srf = srf_rows(wavelengths, MS_NM).numpy()
    guide = np.rint(np.tensordot(srf, cube[~empty], 1)).astype(np.int16)  # (4, H, W)
    guide[:, present[0].numpy() == 0] = nodata
    _write(folder / "guide.tif", guide, crs, grid, nodata)
    return Pair(folder / "hsi.tif", folder / "guide.tif", RATIO, ENMAP, (0.0, 0.0))


def enmap_utm(folder: Path) -> Pair:
    """The guide warped to EPSG:3035 by cubic convolution, then moved by 1.4 HSI pixels to the south-east."""
    plain = enmap(folder)
    with rasterio.open(plain.guide) as file:
        stored, nodata, crs, grid, bounds = file.read(), file.nodata, file.crs, file.transform, file.bounds
        other = rasterio.CRS.from_epsg(3035)
        to, width, height = calculate_default_transform(crs, other, file.width, file.height, *bounds)
    warped = np.full((len(stored), height, width), nodata, np.int16)
    reproject(
        stored, warped, src_crs=crs, src_transform=grid, src_nodata=nodata, dst_crs=other, dst_transform=to,
        dst_nodata=nodata, resampling=Resampling.cubic,
    )  # fmt: skip
    size = RATIO * grid.a * DISPLACED_HSI_PX / np.hypot(1, 0.7)
    east, north = size, -0.7 * size
    centre = (bounds.left + bounds.right) / 2, (bounds.bottom + bounds.top) / 2
    # the displacement is meant in the HSI's CRS, whose north is turned against the guide's
    xs, ys = transform(crs, other, [centre[0], centre[0] + east], [centre[1], centre[1] + north])
    moved = Affine.translation(xs[1] - xs[0], ys[1] - ys[0]) * to
    _write(folder / "guide_3035.tif", warped, other, moved, nodata)
    # the guide's content lies south-east of the HSI's, so the HSI's lies north-west of the guide's
    return Pair(plain.hsi, folder / "guide_3035.tif", RATIO, plain.truth, (-east, -north))


def _write(
    path: Path,
    values: NDArray[Any],
    crs: Any,
    transform: Affine,
    nodata: float | None,
    tags: list[dict[str, str]] | None = None,
) -> None:
    bands, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", dtype=values.dtype, count=bands, height=height, width=width, crs=crs,
        transform=transform, nodata=nodata,
    ) as file:  # fmt: skip
        file.write(values)
        if tags:
            file.update_tags(reflectance_scale_factor="10000")
        for band, each in enumerate(tags or [], 1):
            file.update_tags(band, **each)


PAIRS: dict[str, Callable[[Path], Pair]] = {
    "hysu": hysu,
    "enmap": enmap,
    "enmap-utm": enmap_utm,
    "paris": paris,
    "neon": neon,
}

# --- running and judging -----------------------------------------------------------------------------------


def run(pair: Pair, output: Path, preset: str) -> tuple[int, float, str]:
    """Exit code, processor seconds over CORES, and stderr."""
    command = [
        sys.executable,
        "-m",
        "hsi_fuse.cli",
        "run",
        pair.hsi,
        pair.guide,
        "--preset",
        preset,
        "-o",
        output,
    ]
    command += ["--overwrite", *(["--scale", pair.scale] if pair.scale else [])]
    before = getrusage(RUSAGE_CHILDREN)
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, env=os.environ
    )
    after = getrusage(RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, spent / CORES, done.stderr


def figures(pair: Pair, output: Path) -> dict[str, float | None]:
    """The few figures of the table, from the report's own."""
    found = json.loads(output.with_name(output.stem + "_quality.json").read_text(encoding="utf-8"))
    results = found["synthesis"].get("results", {})
    gain = None
    if found["synthesis"]["assessable"]:
        gain = results["product"]["psnr_db"] - results["interpolation"]["psnr_db"]
    registration, spatial = found["registration"], found["spatial"]
    highpass = (
        [c for c in spatial["product"]["cc_highpass"] if c is not None] if spatial["assessable"] else []
    )
    out = {
        "sam": found["consistency"]["learned_psf"]["product"]["sam_deg"]["median"],
        "cc": float(np.mean(highpass)) if highpass else None,
        "synthesis": gain,
        "rrmse": registration["rrmse_px"],
    }
    if pair.offset_m is not None:
        miss = [
            registration[f"content_offset_{axis}_m"] - true
            for axis, true in zip(("east", "north"), pair.offset_m, strict=True)
        ]
        with rasterio.open(output) as file:
            out["shift_error"] = float(np.hypot(*miss)) / file.transform.a
    return out


def against_truth(pair: Pair, output: Path) -> list[str]:
    """Product and interpolation against truth, and whether nodata stayed where it was."""
    assert pair.truth is not None
    with rasterio.open(pair.truth) as file, rasterio.open(output) as made, rasterio.open(pair.hsi) as coarse:
        truth, product, hsi, nodata = file.read(), made.read(), coarse.read(), file.nodata
        kept = made.transform == file.transform and made.crs == file.crs and made.nodata == nodata
    empty = (hsi == nodata).all((1, 2))
    expected = (hsi[~empty] == nodata).any(0).repeat(RATIO, 0).repeat(RATIO, 1)  # (H, W)
    found = product[~empty] == nodata
    places = bool((found == expected).all())
    lines = [
        f"  grid, CRS and nodata number as they should be: {_yes(kept)}; "
        f"nodata where the input has it: {_yes(places)}; "
        f"{int(empty.sum())} empty bands come back empty: {_yes(bool((product[empty] == nodata).all()))}"
    ]
    full = ~expected & ~(truth[~empty] == nodata).any(0)
    clear = torch.from_numpy(full)
    exact = torch.from_numpy(truth[~empty].astype(np.float32))
    filled = _filled(hsi[~empty].astype(np.float32), ~(hsi[~empty] == nodata).any(0))
    plain = torch.nn.functional.interpolate(
        filled[None], scale_factor=RATIO, mode="bicubic", align_corners=False
    )[0]
    for name, cube in (("product", torch.from_numpy(product[~empty].astype(np.float32))), ("bicubic", plain)):
        quality = psnr(cube, exact, clear, RATIO)
        angle = sam_deg(cube, exact, clear, RATIO)
        lines.append(
            f"  against truth, {name:<8} PSNR {quality:6.2f} dB   "
            f"SAM {angle.mean:5.2f}° mean, {angle.median:5.2f}° median"
        )
    return lines


def _filled(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> torch.Tensor:
    """Holes take their nearest pixel's values, so that bicubic does not smear nodata."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return torch.from_numpy(np.ascontiguousarray(values[:, rows, columns]))


def _yes(fact: bool) -> str:
    return "yes" if fact else "NO"


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 1 where a pair that should run did not."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.real_pairs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--only", choices=list(PAIRS), metavar="NAME", help=", ".join(PAIRS))
    options = parser.parse_args(arguments)
    names = [options.only] if options.only else list(PAIRS)
    failed = 0
    print(
        f"{'name':<11}{'exit':>4}{'seconds':>9}{'SAM deg':>9}{'detail CC':>11}{'synthesis dB':>14}"
        f"{'rrmse px':>10}{'shift error px':>16}"
    )
    for name in names:
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        pair = PAIRS[name](folder)
        output = folder / f"{name}.tif"
        started = time.perf_counter()
        code, seconds, said = run(pair, output, options.preset)
        if code:
            failed += name != "neon" or code == 1  # the strip may be refused, but in plain words
            print(f"{name:<11}{code:>4}{seconds:9.1f}  {said.splitlines()[-1] if said else ''}", flush=True)
            continue
        f = figures(pair, output)
        print(
            f"{name:<11}{code:>4}{seconds:9.1f}{_number(f['sam']):>9}{_number(f['cc'], 3):>11}"
            f"{_number(f['synthesis']):>14}{_number(f['rrmse']):>10}{_number(f.get('shift_error')):>16}",
            flush=True,
        )
        for line in said.splitlines():
            if ": warning: " in line:
                print(f"  {line.partition(': ')[2]}")
        for line in against_truth(pair, output) if pair.truth else []:
            print(line)
        print(f"  {time.perf_counter() - started:.0f} s by the clock; {output}", flush=True)
    return 1 if failed else 0


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
