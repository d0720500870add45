"""What a run leaves on disk: the product, its report and what was learned, all of it or nothing."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from hsi_fuse.errors import HsiFuseWarning, RefusedError, WriteError
from hsi_fuse.files import check_output, staged, write_text
from hsi_fuse.inputs import Inputs
from hsi_fuse.pipeline import FusionResult
from hsi_fuse.problem import OnStep, silent
from hsi_fuse.quality.verdict import gate
from hsi_fuse.raster import Encoding
from hsi_fuse.record import versions
from hsi_fuse.report.page import is_refusal, render_refusal
from hsi_fuse.threads import hand_back_memory
from hsi_fuse.write.cube import Driver, write_cube
from hsi_fuse.write.encode import Encoder
from hsi_fuse.write.envi_header import envi_paths
from hsi_fuse.write.product import CompactDtype, Job, Product
from hsi_fuse.write.table import ON_REQUEST, REPORT, SIDE_PRODUCTS, chosen


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
        One of the outputs exists (without `overwrite`; the page of a refusal before may go), or the folder is
        missing or not writable.
    """
    for path in outputs(output, driver, endings):
        check_output(path, overwrite or is_refusal(path))


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


def endings_with(names: Sequence[str]) -> tuple[str, ...]:
    """Endings of all side products when some of `ON_REQUEST` are asked for by name.

    Raises
    ------
    WriteError
        There is no such product.
    """
    for name in names:
        if name not in ON_REQUEST:
            raise WriteError(f"there is no side product {name!r}; there are {', '.join(ON_REQUEST)}")
    return tuple(ending for product in chosen(tuple(names)) for ending in product.endings)


def save(
    result: FusionResult,
    output: str | Path,
    *,
    products: Sequence[str] = (),
    driver: Driver = "GTiff",
    creation_options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    nodata: float | None = None,
    compact_dtype: CompactDtype = "float32",
    inputs: Inputs | None = None,
    on_step: OnStep = silent,
) -> list[Path]:
    """Write the product and, with its stem, what stands beside it.

    Everything is made in a folder beside the output and moved into place at the end.

    Parameters
    ----------
    result : FusionResult
    output : path
    products : sequence of str
        Which of `ON_REQUEST` to write too; see `write.table`. What a result has not is left out with a
        warning.
    driver : "GTiff", "ENVI" or "COG"
    creation_options : mapping, optional
        Of the GDAL driver.
    overwrite : bool
    nodata : float, optional
        Stored value that marks no data; default: the input's.
    compact_dtype : "float32" or "int16"
        How the compact product keeps its coefficients: exactly, or in half the space with an error that it
        states.
    inputs : Inputs, optional
        What the result was made of, for its provenance.
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

    Warns
    -----
    HsiFuseWarning
        There is no such side product of this result.
    """
    output = Path(output)
    endings_with(products)
    written = tuple(product for product in chosen(tuple(products)) if _there_is(product, result))
    endings = tuple(ending for product in written for ending in product.endings)
    check_outputs(output, driver, overwrite, endings)
    finals = outputs(output, driver, endings)
    encoding = stored_as(result.hsi.encoding, nodata)
    with staged(*finals) as folder:
        place = folder / output.name
        summary = write_cube(
            place,
            result.product.rows,
            result.product.grid,
            result.hsi,
            driver=driver,
            encoding=encoding,
            creation_options=creation_options or {},
            on_rows=lambda done, total: on_step("write", done, total, 0.0),
        )
        hand_back_memory()  # strips of a big scene are large, and so are the pictures that follow
        figures = dict(result.quality.figures)
        figures["integrity"] = {**figures["integrity"], "clipped_values": summary.clipped}
        figures["provenance"] = {
            **({} if inputs is None else inputs.provenance()),
            **result.provenance,
            "versions": versions(),
        }
        names = tuple((product, tuple(p.name for p in product.paths(output))) for product in written)
        job = Job(result, place, driver, encoding, summary, figures, names, compact_dtype)
        for product in written:
            product.write(job, product.paths(place))
    return list(finals)


def _there_is(product: Product, result: FusionResult) -> bool:
    why = product.lacks(result)
    if why is not None and not product.always:  # it was asked for
        warnings.warn(f"no {product.name} written: {why}", HsiFuseWarning, stacklevel=3)
    return why is None


def gate_written(output: str | Path, fail_on: str) -> None:
    """Let the verdict on a product that `save` wrote pass or not, see `verdict.gate`.

    Raises
    ------
    QualityError
    """
    output = Path(output)
    gate(json.loads(output.with_name(output.stem + "_quality.json").read_text(encoding="utf-8")), fail_on)


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
        text = render_refusal(error.attempt, str(error), title=output.name)
        write_text(page, text, overwrite or is_refusal(page))
        raise RefusedError(f"{error}; what was tried: {page}", error.attempt) from error
