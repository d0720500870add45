"""Judge a product of any tool: register the reference again, learn the sensors again, assess."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hsi_fuse.align import Alignment
from hsi_fuse.files import check_output, staged
from hsi_fuse.interpolation import Interpolation
from hsi_fuse.planning import plan
from hsi_fuse.prepare import align_or_follow, choose_device
from hsi_fuse.preset import Preset
from hsi_fuse.problem import Cube, OnStep, Problem, silent
from hsi_fuse.quality.assess import Quality, assess, plain
from hsi_fuse.quality.product_files import open_product, truth_of
from hsi_fuse.raster import Raster
from hsi_fuse.read import Guide
from hsi_fuse.record import Clock, files_of, fingerprints, provenance_of, recorded, versions
from hsi_fuse.report.page import is_refusal, render, take_pictures

ENDINGS = ("_report.html", "_quality.json")


@dataclass(frozen=True)
class Judged:
    """A product that was judged.

    Attributes
    ----------
    problem : Problem
        The pair that it should be the answer to, registered and sensed again.
    cube, interpolation : Cube
    alignment : Alignment
    quality : Quality
    provenance : mapping
    """

    problem: Problem
    cube: Cube
    interpolation: Cube
    alignment: Alignment
    quality: Quality
    provenance: Mapping[str, Any]


def judge_product(
    fused: str | Path,
    hsi: Raster,
    guide: Guide,
    preset: Preset,
    *,
    truth: str | Path | None = None,
    displacement: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    on_step: OnStep = silent,
) -> Judged:
    """Assess a product that is a file.

    Nothing of how it was made is known: synthesis at reduced resolution and uncertainty are not assessable.

    Parameters
    ----------
    fused : path
        On the HSI's grid, refined by a whole number (`product_files.open_product`).
    hsi : Raster
    guide : Guide
    preset : Preset
        Of it, `align`, `sense` and `assess` count.
    truth : path, optional
        The right answer, on the product's grid. It is held in memory, and so is the product then.
    displacement, device, seed, on_step
        As `pipeline.fuse` has them.

    Raises
    ------
    ReadError, GridError, AlignmentError
    RefusedError
        See `prepare.align`.
    """
    clock = Clock()
    where = choose_device(device)
    torch.manual_seed(seed)
    with recorded() as warned:
        product = open_product(fused, hsi)
        right = None if truth is None else truth_of(truth, product, hsi).to(where)
        image = product.hsi
        planned = plan(image, guide, product.scale)
        with clock("align"):
            problem, alignment = align_or_follow(
                image, guide, planned, preset, displacement, seed, where, on_step
            )
        cube = product.cube.on(where)
        plain_one = Interpolation.of(problem)  # by rows: a product may be as large as it likes
        with clock("assess"):
            on_step("assess", 0, 1, 0.0)
            known = image.wavelengths_nm
            quality = assess(
                problem,
                cube,
                plain_one,
                solvers={},
                registration=alignment.found,
                wavelengths_nm=None if known is None else known[image.good_bands].tolist(),
                bad_bands=np.flatnonzero(~image.good_bands).tolist(),
                warnings=warned,
                truth=right,
                options=preset.assess,
            )
            on_step("assess", 1, 1, 0.0)
    provenance = provenance_of(preset, displacement, seed, where, clock)
    return Judged(problem, cube, plain_one, alignment, quality, provenance)


def reports_of(output: str | Path) -> tuple[Path, ...]:
    """The files that `save_judged` writes for an output `name`: `name` with `ENDINGS`."""
    output = Path(output)
    return tuple(output.with_name(output.name + ending) for ending in ENDINGS)


def check_reports(output: str | Path, overwrite: bool = False) -> None:
    """Fail before the work rather than after it.

    Raises
    ------
    WriteError
    """
    for path in reports_of(output):
        check_output(path, overwrite or is_refusal(path))


def save_judged(
    judged: Judged,
    output: str | Path,
    *,
    inputs: Mapping[str, str | Path],
    overwrite: bool = False,
) -> list[Path]:
    """Write page and figures.

    Parameters
    ----------
    judged : Judged
    output : path
        Without an ending.
    inputs : mapping of str to path
        What was judged, by its part: hashed into the provenance.
    overwrite : bool

    Raises
    ------
    WriteError
        One exists, or cannot be written; nothing is left behind then.
    """
    check_reports(output, overwrite)
    finals = reports_of(output)
    figures = judged.quality.figures
    known = figures["scene"]["wavelengths_nm"]
    files = [file for path in inputs.values() for file in files_of(path)]
    provenance = {"inputs": fingerprints(files), **judged.provenance, "versions": versions()}
    pictures = take_pictures(
        judged.problem,
        judged.cube,
        judged.interpolation,
        known,
        judged.quality.maps["sam_deg"],
        confidence=judged.alignment.confidence,
    )
    title = f"{Path(output).name}: a product assessed"
    page = render(judged.quality, pictures, title=title, provenance=provenance, alignment=judged.alignment)
    with staged(*finals) as folder:
        (folder / finals[0].name).write_text(page, encoding="utf-8")
        text = json.dumps(plain({**figures, "provenance": provenance}), indent=1) + "\n"
        (folder / finals[1].name).write_text(text, encoding="utf-8")
    return list(finals)
