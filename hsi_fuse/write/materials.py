"""What the product is made of: endmembers as a table and as a spectral library, abundances as an image.

Illumination times the sum of abundances times endmembers is the product, but for what the report's noise is.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch

from hsi_fuse.errors import SolveError
from hsi_fuse.pipeline import FusionResult
from hsi_fuse.raster import Bands, Encoding
from hsi_fuse.write.cube import write_cube
from hsi_fuse.write.learned import axis_name, band_axis
from hsi_fuse.write.product import Job

Paths = tuple[Path, ...]


def lacks_materials(result: FusionResult) -> str | None:
    """Why a result has no endmembers."""
    try:
        result.materials  # noqa: B018 - worked out here
    except SolveError as e:
        return str(e)
    return None


def write_endmembers(job: Job, paths: Paths) -> None:
    """A table, and an ENVI spectral library with its header; good bands only, in physical units."""
    spectra = job.result.materials.endmembers.cpu().numpy().T.astype("<f4")  # (K, n)
    names = endmember_names(len(spectra))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([axis_name(job.result), *names])
    for where, values in zip(band_axis(job.result), spectra.T, strict=True):
        table.writerow([f"{where:.6g}", *(f"{v:.6g}" for v in values)])
    paths[0].write_text(text.getvalue(), encoding="utf-8")
    paths[1].write_bytes(np.ascontiguousarray(spectra).tobytes())
    paths[2].write_text(_library_header(job.result, len(spectra), names), encoding="utf-8", newline="\n")


def _library_header(result: FusionResult, count: int, names: list[str]) -> str:
    axis = band_axis(result)
    fields = {
        "samples": len(axis),
        "lines": count,
        "bands": 1,
        "header offset": 0,
        "file type": "ENVI Spectral Library",
        "data type": 4,
        "interleave": "bsq",
        "byte order": 0,
        "spectra names": f"{{{', '.join(names)}}}",
    }
    if result.hsi.wavelengths_nm is not None:
        fields["wavelength units"] = "Nanometers"
        fields["wavelength"] = f"{{{', '.join(f'{w:.10g}' for w in axis)}}}"
        if result.hsi.fwhm_nm is not None:
            fwhm = result.hsi.fwhm_nm[result.hsi.good_bands]
            fields["fwhm"] = f"{{{', '.join(f'{w:.10g}' for w in fwhm)}}}"
    return "ENVI\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())


def write_abundances(job: Job, paths: Paths) -> None:
    """One band for each endmember, and the illumination; float32."""
    result, materials = job.result, job.result.materials

    def rows(start: int, stop: int) -> np.ndarray:
        abundances, illumination = materials.rows(start, stop)
        block = torch.cat([abundances, illumination[None]]).cpu().numpy()
        block[:, ~result.frame.valid_rows(start, stop)] = np.nan
        return block

    names = (*endmember_names(materials.endmembers.shape[1]), "illumination")
    described = Bands(len(names), band_names=names, encoding=Encoding("float32", nodata=float("nan")))
    write_cube(paths[0], rows, result.grid, described)


def endmember_names(count: int) -> list[str]:
    """From 1 on."""
    return [f"endmember {k + 1}" for k in range(count)]
