"""What a run learned and measured: report, figures, SRF, PSF, mapping, quicklook."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import torch

from hsi_fuse.pipeline import FusionResult
from hsi_fuse.quality.assess import plain
from hsi_fuse.quality.cube import strips
from hsi_fuse.registration import mapping_files
from hsi_fuse.report.page import render, take_pictures
from hsi_fuse.report.pictures import composite, rgb_bands, stretch_limits
from hsi_fuse.write.cube import write_image
from hsi_fuse.write.product import Job

Paths = tuple[Path, ...]
STRETCHED_PIXELS = 1 << 22
"""Of whose values a quicklook's limits are taken, in rows from all over it."""


def write_quality(job: Job, paths: Paths) -> None:
    """Every figure of the report, as JSON."""
    paths[0].write_text(json.dumps(plain(job.figures), indent=1) + "\n", encoding="utf-8")


def write_report(job: Job, paths: Paths) -> None:
    """The report, as one HTML file."""
    paths[0].write_text(_report(job), encoding="utf-8")


def _report(job: Job) -> str:
    result = job.result
    pictures = take_pictures(
        result.problem,
        result.estimate,
        result.interpolation,
        good_wavelengths(result),
        result.quality.maps["sam_deg"],
        confidence=result.alignment.confidence,
        uncertainty=result.uncertainty,
    )
    return render(
        result.quality,
        pictures,
        title=job.output.name,
        provenance=job.figures["provenance"],
        alignment=result.alignment,
    )


def write_srf(job: Job, paths: Paths) -> None:
    """One line for each good band: wavelength, response of each guide band (HSI units -> guide units)."""
    srf = job.result.problem.sensor.srf.cpu().numpy()
    names = [f"guide_band_{i + 1}" for i in range(len(srf))]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([axis_name(job.result), *names])
    for where, row in zip(band_axis(job.result), srf.T, strict=True):
        table.writerow([f"{where:.6g}", *(f"{v:.6g}" for v in row)])
    paths[0].write_text(text.getvalue(), encoding="utf-8")


def write_psf(job: Job, paths: Paths) -> None:
    """The PSF on the fine grid, one line for each row."""
    psf = job.result.problem.sensor.psf.cpu().numpy()
    lines = (",".join(f"{v:.6g}" for v in row) for row in psf)
    paths[0].write_text("\n".join(lines) + "\n", encoding="utf-8")


def lacks_mapping(result: FusionResult) -> str | None:
    """There is none where nothing was registered."""
    return None if result.over_guide is None else "nothing was registered"


def write_mapping(job: Job, paths: Paths) -> None:
    """Tie points and displacement."""
    result = job.result
    ground = mapping_files.ground_of(result.hsi.grid, result.grid.crs)
    mapping_files.write_mapping(job.output, result.alignment, ground, result.problem.ratio)


def write_quicklook(job: Job, paths: Paths) -> None:
    """An 8-bit RGB of the product."""
    result = job.result
    bands = rgb_bands(result.problem.hsi.shape[0], good_wavelengths(result))
    valid, estimate = result.frame.valid_rows(0, result.grid.height), result.estimate
    if result.extended is not None:
        valid, estimate = result.extended.valid, result.extended.extension.estimate
    chosen = estimate.mixed(torch.eye(len(estimate.basis))[list(bands)])
    ranges = strips(chosen.shape)  # stretched in float64, a large image would take gigabytes
    thin = max(valid.size // STRETCHED_PIXELS, 1)
    some = torch.cat([chosen.rows(row, row + 1) for row in range(0, len(valid), thin)], 1)
    limits = stretch_limits(some.cpu().numpy(), valid[::thin])
    parts = zip(ranges, chosen.parts(ranges), strict=True)
    image = np.concatenate([composite(p.cpu().numpy(), limits, valid[slice(*rows)]) for rows, p in parts])
    names = ("red", "green", "blue")
    grid = result.product.grid
    write_image(paths[0], image.transpose(2, 0, 1), grid, valid=valid, descriptions=names)


def good_wavelengths(result: FusionResult) -> list[float] | None:
    """Wavelengths of the good bands, nm; None where the HSI has none."""
    known = result.hsi.wavelengths_nm
    return None if known is None else [float(w) for w in known[result.hsi.good_bands]]


def band_axis(result: FusionResult) -> list[float]:
    """Wavelengths of the good bands, nm, or their numbers among themselves from 1."""
    return good_wavelengths(result) or [float(k + 1) for k in range(int(result.hsi.good_bands.sum()))]


def axis_name(result: FusionResult) -> str:
    """What `band_axis` counts, as a column of a table."""
    return "good_band" if result.hsi.wavelengths_nm is None else "wavelength_nm"
