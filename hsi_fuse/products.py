"""What a run leaves on disk: the product, its report and what was learned, all of it or nothing."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hsi_fuse import mapping_files
from hsi_fuse.assess import plain
from hsi_fuse.encode import Encoder
from hsi_fuse.envi_header import envi_paths
from hsi_fuse.errors import HsiFuseWarning, RefusedError, WriteError
from hsi_fuse.files import check_output, staged, write_text
from hsi_fuse.pictures import composite, rgb_bands, stretch_limits, view
from hsi_fuse.pipeline import FusionResult
from hsi_fuse.problem import OnStep, silent
from hsi_fuse.raster import Encoding
from hsi_fuse.record import versions
from hsi_fuse.report import render, render_refusal, take_pictures
from hsi_fuse.write import Driver, write_cube, write_image

REPORT = "_report.html"
SIDE_PRODUCTS = ("_quality.json", REPORT, "_rgb.tif", "_srf.csv", "_psf.csv", *mapping_files.ENDINGS)
"""Endings of the files that stand beside every product."""
ON_REQUEST = {"uncertainty": "_uncertainty.tif"}
"""Side products as large as the product: name -> ending of the file."""


def outputs(
    output: str | Path, driver: Driver = "GTiff", endings: Sequence[str] = SIDE_PRODUCTS
) -> tuple[Path, ...]:
    """Every file that `save` writes, the product first."""
    output = Path(output)
    rasters = envi_paths(output) if driver == "ENVI" else (output,)
    return (*rasters, *(output.with_name(output.stem + ending) for ending in endings))


def check_outputs(
    output: str | Path,
    driver: Driver = "GTiff",
    overwrite: bool = False,
    endings: Sequence[str] = SIDE_PRODUCTS,
) -> None:
    """Fail before the work rather than after it.

    Raises
    ------
    WriteError
        One of the outputs exists (without `overwrite`), or the folder is missing or not writable.
    """
    for path in outputs(output, driver, endings):
        check_output(path, overwrite)


def stored_as(encoding: Encoding, nodata: float | None = None) -> Encoding:
    """How an output is stored: as its input, but for another nodata value where one is given.

    Raises
    ------
    WriteError
        The type cannot hold that nodata value.
    """
    if nodata is None:
        return encoding
    encoding = replace(encoding, nodata=nodata)
    dtype = np.dtype(encoding.dtype)
    if dtype.kind in "iu" and Encoder.of(encoding).reserved:
        limits = np.iinfo(dtype)
        raise WriteError(
            f"--nodata {nodata:g} does not fit {dtype}, as which the input is stored: "
            f"give a whole number from {limits.min} to {limits.max}"
        )
    return encoding


def endings_with(products: Sequence[str]) -> tuple[str, ...]:
    """Endings of all side products when some of `ON_REQUEST` are asked for by name."""
    return (*SIDE_PRODUCTS, *(ON_REQUEST[name] for name in products))


def save(
    result: FusionResult,
    output: str | Path,
    *,
    products: Sequence[str] = (),
    driver: Driver = "GTiff",
    creation_options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    nodata: float | None = None,
    on_step: OnStep = silent,
) -> list[Path]:
    """Write the product and, with its stem and `SIDE_PRODUCTS`, what stands beside it.

    Everything is made in a folder beside the output and moved into place at the end.

    Parameters
    ----------
    result : FusionResult
    output : path
    products : sequence of str
        Which of `ON_REQUEST` to write too. `uncertainty`: a standard deviation for each value of the product,
        as float32; left out where it could not be calibrated.
    driver : "GTiff", "ENVI" or "COG"
    creation_options : mapping, optional
        Of the GDAL driver.
    overwrite : bool
    nodata : float, optional
        Stored value that marks no data; default: the input's.
    on_step : callable
        Progress.

    Returns
    -------
    list of Path
        The files, the product first.

    Raises
    ------
    WriteError
        An output exists, or cannot be written; nothing is left behind then.
    """
    output = Path(output)
    if result.uncertainty is None and "uncertainty" in products:
        why = result.quality.figures["uncertainty"]["reason"]
        warnings.warn(f"no uncertainty is written: {why}", HsiFuseWarning, stacklevel=2)
        products = [name for name in products if name != "uncertainty"]
    endings = endings_with(products)
    check_outputs(output, driver, overwrite, endings)
    finals = outputs(output, driver, endings)
    like = result.hsi
    encoding = stored_as(like.encoding, nodata)
    with staged(*finals) as folder:
        summary = write_cube(
            folder / output.name,
            result.rows,
            result.grid,
            like,
            driver=driver,
            encoding=encoding,
            creation_options=creation_options or {},
            on_rows=lambda done, total: on_step("write", done, total, 0.0),
        )
        figures = dict(result.quality.figures)
        figures["integrity"] = {**figures["integrity"], "clipped_values": summary.clipped}
        figures["provenance"] = {**result.provenance, "versions": versions()}
        beside = {ending: folder / (output.stem + ending) for ending in endings}
        beside["_quality.json"].write_text(json.dumps(plain(figures), indent=1) + "\n", encoding="utf-8")
        beside[REPORT].write_text(_report(result, output.name, figures["provenance"]), encoding="utf-8")
        beside["_srf.csv"].write_text(_srf_table(result), encoding="utf-8")
        beside["_psf.csv"].write_text(_psf_table(result), encoding="utf-8")
        _quicklook(result, beside["_rgb.tif"])
        if "uncertainty" in products:
            write_cube(
                beside[ON_REQUEST["uncertainty"]],
                result.sigma_rows,
                result.grid,
                like,
                encoding=Encoding("float32", nodata=float("nan")),
            )
        ground = mapping_files.ground_of(like.grid, result.grid.crs)
        mapping_files.write_mapping(folder / output.name, result.alignment, ground, result.problem.ratio)
    return list(finals)


@contextmanager
def refusal_reported(output: str | Path, overwrite: bool = False) -> Iterator[None]:
    """On a refusal, write what was tried as the report of `output`, and name it in the error.

    Raises
    ------
    RefusedError
    WriteError
        The report exists (without `overwrite`), or cannot be written.
    """
    output = Path(output)
    try:
        yield
    except RefusedError as error:
        page = output.with_name(output.stem + REPORT)
        write_text(page, render_refusal(error.attempt, str(error), title=output.name), overwrite)
        raise RefusedError(f"{error}; what was tried: {page}", error.attempt) from error


def _wavelengths(result: FusionResult) -> list[float] | None:
    known = result.hsi.wavelengths_nm
    return None if known is None else [float(w) for w in known[result.hsi.good_bands]]


def _report(result: FusionResult, name: str, provenance: Mapping[str, Any]) -> str:
    pictures = take_pictures(
        result.problem,
        result.estimate,
        result.interpolation,
        _wavelengths(result),
        result.quality.maps["sam_deg"],
    )
    return render(result.quality, pictures, title=name, provenance=provenance, alignment=result.alignment)


def _srf_table(result: FusionResult) -> str:
    """One line for each good band: wavelength, response of each guide band (HSI units -> guide units)."""
    srf = result.problem.sensor.srf.cpu().numpy()
    axis = _wavelengths(result) or [float(k + 1) for k in range(srf.shape[1])]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = [f"guide_band_{i + 1}" for i in range(len(srf))]
    table.writerow(["wavelength_nm" if result.hsi.wavelengths_nm is not None else "good_band", *names])
    for where, row in zip(axis, srf.T, strict=True):
        table.writerow([f"{where:.6g}", *(f"{v:.6g}" for v in row)])
    return text.getvalue()


def _psf_table(result: FusionResult) -> str:
    """The PSF on the fine grid, one line for each row."""
    psf = result.problem.sensor.psf.cpu().numpy()
    return "\n".join(",".join(f"{v:.6g}" for v in row) for row in psf) + "\n"


def _quicklook(result: FusionResult, path: Path) -> None:
    """An 8-bit RGB of the product."""
    bands = rgb_bands(result.problem.hsi.shape[0], _wavelengths(result))
    ratio = result.problem.ratio
    valid = result.hsi.valid.repeat(ratio, 0).repeat(ratio, 1)
    values = view(result.estimate, bands)
    image = composite(values, stretch_limits(values, valid), valid)  # (H, W, 3)
    write_image(
        path, image.transpose(2, 0, 1), result.grid, valid=valid, descriptions=("red", "green", "blue")
    )
