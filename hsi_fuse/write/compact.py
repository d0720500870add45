"""The compact product: a fused scene in factors, in one safetensors file::

    product(band, y, x) = sum_k basis(band, k) coefficients(k, y, x) + mean(band)

A scene of 4000 x 4000 pixels and 230 bands takes 7.4 GB as int16; 12 to 24 factors of it take 0.8 to 1.5 GB
as float32 and half of that as int16. `expand` makes the raster of it, or any window or band, with the
values that the run itself wrote.

Tensors (n good of all N bands, k factors, HSI of h x w pixels, product of H x W)::

    basis (n, k), mean (n)        float32, units of the HSI
    coefficients (k, H, W)        float32; or int16: value = stored x coefficient_scale + coefficient_offset
    coefficient_scale, _offset    (k), float32, with int16 only
    error_bound (n)               float32: no value of that band is farther than this from the run's
    good_bands (N), valid (h, w)  uint8, 0 or 1
    idle (N - n, h, w)            float32: bands that took no part, at the HSI's resolution
    wavelengths_nm, fwhm_nm (N)   float64, where they are known

Metadata (in the header; text, but for `format` and `schema` JSON)::

    format, schema                "hsi-fuse compact product", "1"
    grid                          {crs: WKT or null, transform: [6], width, height} of the product
    ratio                         fine pixels per HSI pixel
    encoding                      {dtype, scale, offset, nodata: number, null or "nan"}: how the run stores
    band_names, tags              [text], {text: text} as the HSI has them
    provenance                    as in the quality file
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hsi_fuse.errors import HsiFuseError, ReadError
from hsi_fuse.frame import Frame
from hsi_fuse.grid import Grid
from hsi_fuse.problem import Estimate
from hsi_fuse.quality.assess import plain
from hsi_fuse.raster import Bands, Encoding
from hsi_fuse.write.product import Job

FORMAT, SCHEMA = "hsi-fuse compact product", "1"
STEPS = 2**16 - 1
"""Of int16."""
DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")


def write_compact(job: Job, paths: tuple[Path, ...]) -> None:
    """Write the factors of a run."""
    result, estimate, hsi = job.result, job.result.estimate, job.result.hsi
    coefficients, bound = encoded(estimate, job.compact_dtype)
    tensors = {
        "basis": estimate.basis,
        "mean": estimate.mean,
        **coefficients,
        "error_bound": bound,
        "good_bands": torch.from_numpy(hsi.good_bands.astype(np.uint8)),
        "valid": torch.from_numpy(hsi.valid.astype(np.uint8)),
        "idle": torch.from_numpy(result.frame.idle),
    }
    for name in ("wavelengths_nm", "fwhm_nm"):
        if getattr(hsi, name) is not None:
            tensors[name] = torch.from_numpy(getattr(hsi, name).astype(np.float64))
    grid, encoding = result.grid, job.encoding
    nodata = encoding.nodata
    said = {
        "grid": {
            "crs": None if grid.crs is None else grid.crs.to_wkt(),
            "transform": list(grid.transform[:6]),
            "width": grid.width,
            "height": grid.height,
        },
        "ratio": result.problem.ratio,
        "encoding": {
            "dtype": encoding.dtype,
            "scale": encoding.scale,
            "offset": encoding.offset,
            "nodata": "nan" if nodata is not None and math.isnan(nodata) else nodata,
        },
        "band_names": list(hsi.band_names),
        "tags": dict(hsi.tags),
        "provenance": plain(job.figures["provenance"]),
    }
    metadata = {"format": FORMAT, "schema": SCHEMA, **{key: json.dumps(value) for key, value in said.items()}}
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, paths[0], metadata)
    paths[0].chmod(job.output.stat().st_mode & 0o777)  # safetensors hides files from all others


def encoded(estimate: Estimate, dtype: str) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors that hold an estimate's coefficients, and each band's largest error (n,).

    An int16 step is 1 / 65535 of a coefficient's range over the scene. The bound adds up half a step of each
    coefficient and the rounding of float32 on the way back, times how much the band has of it.
    """
    a = estimate.coefficients
    if dtype == "float32":
        return {"coefficients": a}, torch.zeros_like(estimate.mean)
    low, high = a.amin((1, 2)), a.amax((1, 2))
    scale = ((high - low) / STEPS).clamp_min(torch.finfo(a.dtype).tiny)
    offset = low + scale * 2**15
    stored = torch.empty(a.shape, dtype=torch.int16)
    for k in range(len(a)):
        steps = ((a[k].double() - offset[k].double()) / scale[k].double()).round()
        stored[k] = steps.clamp(-(2**15), 2**15 - 1).to(torch.int16)
    rounding = (len(a) + 3) * torch.finfo(a.dtype).eps * torch.maximum(low.abs(), high.abs())
    bound = estimate.basis.abs() @ (scale / 2 + rounding)
    factors = {"coefficients": stored, "coefficient_scale": scale, "coefficient_offset": offset}
    return factors, bound


@dataclass(frozen=True)
class CompactProduct:
    """A compact product on disk; coefficients are read when rows are asked for.

    Attributes
    ----------
    path : Path
    basis : Tensor (n, k)
    mean : Tensor (n,)
    frame : Frame
    grid : Grid
    bands : Bands
        All N bands, and how the run stores them.
    error_bound : Tensor (n,)
    provenance : mapping
    """

    path: Path
    basis: Tensor
    mean: Tensor
    frame: Frame
    grid: Grid
    bands: Bands
    error_bound: Tensor
    provenance: Mapping[str, Any]

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """As `FusionResult.rows`: (N, stop - start, W)."""
        try:
            with safe_open(self.path, framework="pt") as file:
                block = file.get_slice("coefficients")[:, start:stop].float()
                if "coefficient_scale" in file.keys():  # noqa: SIM118  # it is no mapping
                    scale, offset = (file.get_tensor(f"coefficient_{name}") for name in ("scale", "offset"))
                    block = block * scale[:, None, None] + offset[:, None, None]
        except (OSError, SafetensorError) as error:
            raise ReadError(f"cannot read {self.path}: {error}") from error
        estimate = Estimate(self.basis, self.mean, block)
        return self.frame.filled(estimate.rows(0, stop - start), start)


def open_compact(path: str | Path) -> CompactProduct:
    """Open a compact product and check that it holds together.

    Raises
    ------
    ReadError
        It is missing, no compact product, damaged, or of a newer schema.
    """
    path = Path(path)
    if not path.is_file():
        raise ReadError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            if said.get("format") != FORMAT:
                raise ReadError(
                    f"{path} is no compact product of hsi-fuse; `run --products compact` makes one"
                )
            if said.get("schema") != SCHEMA:
                raise ReadError(
                    f"{path} has schema {said.get('schema')}, this version knows {SCHEMA}; update hsi-fuse"
                )
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            kinds = {name: file.get_slice(name).get_dtype() for name in shapes}
            return _checked(path, said, shapes, kinds, file.get_tensor)
    except (OSError, SafetensorError) as error:
        raise ReadError(f"cannot read {path} as a compact product: {error}; is it complete?") from error


def _checked(
    path: Path,
    said: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    kinds: Mapping[str, str],
    tensor: Any,
) -> CompactProduct:
    def wrong(name: str, why: str) -> ReadError:
        return ReadError(f"{path}: {name} {why}; the file is damaged")

    def json_of(name: str, kind: type | tuple[type, ...]) -> Any:
        try:
            value = json.loads(said[name])
        except (KeyError, ValueError, RecursionError):
            raise wrong(name, "is missing or no JSON") from None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise wrong(name, f"is {said[name][:60]}")
        return value

    grid, ratio = _grid(json_of("grid", dict), wrong), json_of("ratio", int)
    if ratio < 1 or grid.width % ratio or grid.height % ratio:
        raise wrong("ratio", f"is {ratio} and does not divide {grid.width} x {grid.height}")
    coarse = (grid.height // ratio, grid.width // ratio)
    if len(shapes.get("basis", ())) != 2 or len(shapes.get("good_bands", ())) != 1:
        raise wrong("basis or good_bands", "is missing or of wrong shape")
    (n, k), (count,) = shapes["basis"], shapes["good_bands"]
    integers = kinds.get("coefficients") == "I16"
    wanted: dict[str, tuple[tuple[int, ...], str]] = {
        "basis": ((n, k), "F32"),
        "mean": ((n,), "F32"),
        "coefficients": ((k, *grid.shape), "I16" if integers else "F32"),
        "error_bound": ((n,), "F32"),
        "good_bands": ((count,), "U8"),
        "valid": (coarse, "U8"),
        "idle": ((count - n, *coarse), "F32"),
    }
    optional: dict[str, tuple[tuple[int, ...], str]] = {
        "wavelengths_nm": ((count,), "F64"),
        "fwhm_nm": ((count,), "F64"),
    }
    (wanted if integers else optional).update(
        coefficient_scale=((k,), "F32"), coefficient_offset=((k,), "F32")
    )
    for name, (shape, kind) in {**wanted, **optional}.items():
        if name in optional and name not in shapes:
            continue
        if shapes.get(name) != shape or kinds.get(name) != kind:
            found = f"{kinds[name]} {shapes[name]}" if name in shapes else "missing"
            raise wrong(name, f"should be {kind} {shape}, it is {found}")
    good = tensor("good_bands").numpy() > 0
    if good.sum() != n:
        raise wrong("good_bands", f"names {good.sum()} bands, the basis has {n}")
    valid, idle = tensor("valid").numpy() > 0, tensor("idle").numpy()
    axes = {name: tensor(name).numpy() if name in shapes else None for name in optional if "_nm" in name}
    try:
        bands = Bands(
            count,
            axes["wavelengths_nm"],
            axes["fwhm_nm"],
            good,
            tuple(str(name) for name in json_of("band_names", list)),
            _encoding(json_of("encoding", dict), wrong),
            {str(key): str(value) for key, value in json_of("tags", dict).items()},
        )
    except HsiFuseError as error:
        raise wrong("bands", str(error)) from error
    return CompactProduct(
        path,
        tensor("basis"),
        tensor("mean"),
        Frame(good, valid, idle, ratio),
        grid,
        bands,
        tensor("error_bound"),
        json_of("provenance", dict),
    )


def _grid(said: Mapping[str, Any], wrong: Any) -> Grid:
    try:
        crs = None if said["crs"] is None else CRS.from_wkt(said["crs"])
        width, height = said["width"], said["height"]
        if type(width) is not int or type(height) is not int or len(said["transform"]) != 6:
            raise ValueError("width, height or transform")
        return Grid(crs, Affine(*map(float, said["transform"])), width, height)
    except (KeyError, TypeError, ValueError, CRSError, HsiFuseError) as error:
        raise wrong("grid", f"cannot be used ({error})") from None


def _encoding(said: Mapping[str, Any], wrong: Any) -> Encoding:
    try:
        nodata = None if said["nodata"] is None else float(said["nodata"])
        encoding = Encoding(str(said["dtype"]), float(said["scale"]), float(said["offset"]), nodata)
    except (KeyError, TypeError, ValueError) as error:
        raise wrong("encoding", f"cannot be used ({error})") from None
    if (
        encoding.dtype not in DTYPES
        or not math.isfinite(encoding.scale)
        or not math.isfinite(encoding.offset)
    ):
        raise wrong("encoding", f"is {dict(said)}")
    return encoding
