"""The registered reference alone: register_guide(hsi, guide, preset) -> RegisteredGuide -> files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from hsi_fuse.align import Alignment, resample, window_of
from hsi_fuse.files import staged
from hsi_fuse.grid import Grid
from hsi_fuse.inputs import Inputs
from hsi_fuse.planning import plan
from hsi_fuse.prepare import align_or_follow, choose_device
from hsi_fuse.preset import Preset
from hsi_fuse.problem import OnStep, silent
from hsi_fuse.quality.assess import plain
from hsi_fuse.raster import Raster
from hsi_fuse.read import Guide
from hsi_fuse.read.hsi import encoding_of
from hsi_fuse.record import Clock, provenance_of, recorded, versions
from hsi_fuse.registration import mapping_files
from hsi_fuse.registration.detectors import align_detectors
from hsi_fuse.sensors.known import KnownSensor
from hsi_fuse.write import REPORT, Driver, check_outputs, outputs, stored_as, write_cube

SIDE_PRODUCTS = (*mapping_files.ENDINGS, "_registration.json")
"""Endings of the files that stand beside a registered reference."""
SPLINE_PX, BLUR_PX = 12, 4
"""How far resampling looks around a place: guide pixels for its splines, product pixels for its blur."""


@dataclass(frozen=True)
class RegisteredGuide:
    """A guide, and where an HSI's refined grid lies in it.

    Attributes
    ----------
    guide : Guide
    alignment : Alignment
    grid : Grid
        The refined HSI grid.
    ground : Grid
        The HSI's own grid; see `mapping_files.ground_of`.
    scale : int
        Fine pixels for each HSI pixel.
    warnings : tuple of str
    provenance : mapping
        Everything needed to repeat the run, and its timings.
    """

    guide: Guide
    alignment: Alignment
    grid: Grid
    ground: Grid
    scale: int
    warnings: tuple[str, ...]
    provenance: Mapping[str, Any]

    def read(self) -> Raster:
        """The guide on the refined HSI grid, resampled once from its native pixels."""
        mapping, bend = self.alignment.hsi_to_guide, self.alignment.displacement_px
        reach = SPLINE_PX + (0.0 if bend is None else float(np.abs(bend).max()))  # guide pixels
        margin = BLUR_PX + reach / float(np.sqrt(abs(mapping.determinant)))
        top, left, height, width = window_of(self.grid, self.guide.grid, mapping, margin)
        window = self.guide.read(top, left, height, width)
        to_window = Affine.translation(-left, -top) * mapping
        values, weight = resample(window, to_window, bend, self.grid.shape)
        return replace(window, values=values, valid=weight > 0, grid=self.grid)


def register_guide(
    hsi: Raster,
    guide: Guide,
    preset: Preset,
    *,
    scale: int | None = None,
    known: KnownSensor | None = None,
    displacement: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    on_step: OnStep = silent,
) -> RegisteredGuide:
    """Register a guide to an HSI, and fuse nothing.

    Parameters, errors and warnings are those of `pipeline.fuse`; of the preset only `align` and `sense`
    count.
    """
    clock = Clock()
    where = choose_device(device)
    with recorded() as warned:
        planned = plan(hsi, guide, scale, known)
        with clock("align"):
            hsi, apart = align_detectors(hsi)
            _, alignment = align_or_follow(hsi, guide, planned, preset, displacement, seed, where, on_step)
            if apart is not None:
                alignment = replace(alignment, found={**alignment.found, **apart.figures()})
    return RegisteredGuide(
        guide,
        alignment,
        planned.target,
        mapping_files.ground_of(hsi.grid, planned.target.crs),
        planned.scale,
        tuple(warned),
        provenance_of(preset, displacement, seed, where, clock),
    )


def save_registered(
    result: RegisteredGuide,
    output: str | Path,
    *,
    driver: Driver = "GTiff",
    creation_options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    nodata: float | None = None,
    inputs: Inputs | None = None,
    on_step: OnStep = silent,
) -> list[Path]:
    """Write the registered reference and, with its stem and `SIDE_PRODUCTS`, what stands beside it.

    Type, scaling, nodata and band names are the guide's; without a nodata number in an integer file one is
    chosen where the guide does not cover the product, with a warning. With `overwrite` the report of an
    earlier refusal goes. Parameters, errors and what is left behind after them (nothing) are those of
    `write.save`.

    Returns
    -------
    list of Path
        The files, the reference first.
    """
    output = Path(output)
    check_outputs(output, driver, overwrite, (*SIDE_PRODUCTS, REPORT))
    finals = outputs(output, driver, SIDE_PRODUCTS)
    with recorded() as warned, staged(*finals) as folder:
        encoding = stored_as(encoding_of(result.guide.source), nodata)
        image = result.read()
        summary = write_cube(
            folder / output.name,
            lambda start, stop: np.where(image.valid[start:stop], image.values[:, start:stop], np.nan),
            result.grid,
            image,
            driver=driver,
            encoding=encoding,
            creation_options=creation_options or {},
            on_rows=lambda done, total: on_step("write", done, total, 0.0),
        )
        mapping_files.write_mapping(folder / output.name, result.alignment, result.ground, result.scale)
        told = {} if inputs is None else inputs.provenance()
        figures = {
            "schema": 1,
            "registration": result.alignment.found,
            "integrity": {"nodata_fraction": summary.nodata_fraction, "clipped_values": summary.clipped},
            "warnings": [*result.warnings, *warned],
            "provenance": {**told, **result.provenance, "versions": versions()},
        }
        text = json.dumps(plain(figures), indent=1) + "\n"
        (folder / (output.stem + "_registration.json")).write_text(text, encoding="utf-8")
    output.with_name(output.stem + REPORT).unlink(missing_ok=True)  # of a refusal before
    return list(finals)
