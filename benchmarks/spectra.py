"""Fused spectra against what was measured in the field: `python -m benchmarks.spectra [--preset fast]`.

DLR HySU: HySpex (0.7 m) sharpened by the 3K camera, targets of five materials and known size, spectra by a
field spectrometer. The targets' polygons were digitised on the camera's image (`hysu_targets.json`) before
any score was seen; the run's own registration says where they lie in the product.

Printed is the angle to the field spectrum: of the mean over the target's pixels, and in brackets the mean of
the pixels' own. A target in which no pixel has its centre is judged by the pixel nearest to its middle. The
data's own mask of red metal has grass around the targets in it: there it is the angle of the pixel that is
most like red metal, in brackets the mean of all.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import spectral
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from skimage.measure import label

from benchmarks.scenes import ROOT
from hsi_fuse.align import from_guide
from hsi_fuse.pipeline import FusionResult, fuse
from hsi_fuse.read import open_guide, read_hsi

SOURCE = ROOT / "dlr_hysu_hyspex_3k"
TARGETS = Path(__file__).with_name("hysu_targets.json")
MASK_CLUSTERS_M = {36: 3.0, 16: 2.0, 6: 1.0, 5: 0.5, 4: 0.25}
"""Pixels of the mask's clusters -> the target's size; the 3 m cluster has its rim in it."""
SCALE = 4
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One target: angles of the input and of the product, degrees; (of the mean, mean of the pixels')."""

    target: str
    hsi: tuple[float, float]
    fused: tuple[float, float]


def field_spectra() -> dict[str, Array]:
    """Material -> reflectance (band,) at HySpex' wavelengths."""
    library = spectral.io.envi.open(SOURCE / "DLR_HySU_SVC.hdr", SOURCE / "DLR_HySU_SVC.lib")
    return {name.split("'")[1]: s for name, s in zip(library.names, library.spectra, strict=True)}


def angles(cube: Array, inside: NDArray[np.bool_], spectrum: Array) -> tuple[float, float]:
    """Angle of the mean spectrum of the pixels inside, and the mean of their angles; cube (n, h, w)."""
    pixels = cube[:, inside]
    each = np.rad2deg(np.arccos(_cosine(pixels, spectrum)))
    return float(np.rad2deg(np.arccos(_cosine(pixels.mean(1), spectrum)))), float(each.mean())


def _cosine(pixels: Array, spectrum: Array) -> Array:
    lengths = np.linalg.norm(pixels, axis=0) * np.linalg.norm(spectrum)
    cosine: Array = np.clip(spectrum @ pixels / lengths, -1, 1)
    return cosine


def inside(corners: Array, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (h, w) whose centre lies within corners (corner, 2); (column, row), corner-based."""
    x, y = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    within = Outline(corners).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(shape)
    if not within.any():
        middle = corners.mean(0)
        within.flat[np.hypot(x - middle[0], y - middle[1]).argmin()] = True
    found: NDArray[np.bool_] = within
    return found


def lines_of(result: FusionResult) -> list[Line]:
    """Every target by its polygon, then red metal by the mask."""
    known = field_spectra()
    good = result.hsi.good_bands
    fused = result.rows(0, result.grid.height)[good].astype(float)
    hsi = result.hsi.values[good].astype(float)
    lines = []
    for target in json.loads(TARGETS.read_text("utf-8"))["targets"]:
        columns, rows = np.array(target["corners"]).T + 0.5  # from pixels' centres to corner-based
        alignment = result.alignment
        there = from_guide(
            alignment.hsi_to_guide, alignment.displacement_px, fused.shape[1:], columns, rows
        ).T  # (corner, 2)
        lines.append(
            Line(
                f"{target['material']}, {target['size_m']} m",
                angles(hsi, inside(there / SCALE, hsi.shape[1:]), known[target["material"]][good]),
                angles(fused, inside(there, fused.shape[1:]), known[target["material"]][good]),
            )
        )
    mask = np.fromfile(SOURCE / "redMetal", np.uint8).reshape(hsi.shape[1:]) > 0
    return lines + [_by_mask(part, hsi, fused, known["Red Metal"][good]) for part in _clusters(mask)]


def _clusters(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    numbers = label(mask, connectivity=2)
    parts = [numbers == number for number in range(1, numbers.max() + 1)]
    return sorted(parts, key=lambda part: -int(part.sum()))


def _by_mask(part: NDArray[np.bool_], hsi: Array, fused: Array, spectrum: Array) -> Line:
    fine = part.repeat(SCALE, 0).repeat(SCALE, 1)
    found = []
    for cube, where in ((hsi, part), (fused, fine)):
        each = np.rad2deg(np.arccos(_cosine(cube[:, where], spectrum)))
        found.append((float(each.min()), float(each.mean())))
    return Line(f"Red Metal, {MASK_CLUSTERS_M[int(part.sum())]:g} m, mask", found[0], found[1])


def main(arguments: list[str] | None = None) -> int:
    """Print the table in markdown; 1 where a 3 m target got worse or a smaller one no better."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.spectra", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="fast")
    options = parser.parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = fuse(
            read_hsi(SOURCE / "DLR_HySU_HS_full.hdr"),
            open_guide(SOURCE / "DLR_HySU_3K.tiff"),
            options.preset,
            scale=SCALE,
        )
    print("| target | HySpex ° | fused ° |\n|---|---|---|")
    worse = 0
    for line in lines_of(result):
        worse += line.fused[0] > line.hsi[0]
        shown = " | ".join(f"{mean:.2f} ({pixels:.2f})" for mean, pixels in (line.hsi, line.fused))
        print(f"| {line.target} | {shown} |")
    return int(worse > 0)


if __name__ == "__main__":
    sys.exit(main())
