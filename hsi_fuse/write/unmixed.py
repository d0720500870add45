"""What an unmixing stage found: endmembers as a table and as a spectral library, abundances as an image.

They are the last such stage's (`coupled`, `cnmf`). Of `cnmf` the product is endmembers times abundances. Of
`coupled` they are the materials that its network explains the reference with: abundances sum to one, and the
product differs from the mixture by an illumination factor, a residual and the final data consistency.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from torch import Tensor

from hsi_fuse.pipeline import FusionResult
from hsi_fuse.raster import Bands, Encoding
from hsi_fuse.write.cube import write_cube
from hsi_fuse.write.learned import axis_name, band_axis
from hsi_fuse.write.product import Job

Paths = tuple[Path, ...]


def lacks_unmixing(result: FusionResult) -> str | None:
    """Why a result has no endmembers."""
    if unmixed(result) is not None:
        return None
    tried = [name for name, _ in result.stages]
    if "coupled" in tried or "cnmf" in tried:
        return "the unmixing stage had too few pixels under the reference to learn from"
    return f"none of the preset's stages ({', '.join(tried) or 'none'}) unmixes; try --preset fast or cnmf"


def unmixed(result: FusionResult) -> tuple[Tensor, Tensor] | None:
    """Endmembers (n, K), HSI units, and abundances (K, H, W); None where no stage has any."""
    for _, stage in reversed(result.stages):
        if "endmembers" in stage.products:
            return stage.products["endmembers"], stage.products["abundances"]
    return None


def write_endmembers(job: Job, paths: Paths) -> None:
    """A table, and an ENVI spectral library with its header; good bands only, in physical units."""
    found = unmixed(job.result)
    assert found is not None
    spectra = found[0].cpu().numpy().T.astype("<f4")  # (K, n)
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
    """One band for each endmember, float32."""
    result, found = job.result, unmixed(job.result)
    assert found is not None
    abundances = found[1]  # (K, H, W)

    def rows(start: int, stop: int) -> np.ndarray:
        block = abundances[:, start:stop].cpu().numpy().astype(np.float32)
        block[:, ~result.frame.valid_rows(start, stop)] = np.nan
        return block

    names = tuple(endmember_names(len(abundances)))
    described = Bands(len(names), band_names=names, encoding=Encoding("float32", nodata=float("nan")))
    write_cube(paths[0], rows, result.grid, described)


def endmember_names(count: int) -> list[str]:
    """From 1 on."""
    return [f"endmember {k + 1}" for k in range(count)]
