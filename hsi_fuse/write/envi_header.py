"""Writing ENVI headers."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import RasterioError

from hsi_fuse.errors import WriteError
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Bands, Encoding, Raster
from hsi_fuse.read.envi import CONSUMED, DATA_SUFFIXES, DTYPES, read_header

DATA_TYPES = {dtype: code for code, dtype in DTYPES.items()}


def envi_paths(path: Path) -> tuple[Path, Path]:
    """(data file, header) for an output named by either."""
    if path.suffix.lower() == ".hdr":
        return path.with_suffix(".img"), path
    if path.suffix.lower() in DATA_SUFFIXES:
        return path, path.with_suffix(".hdr")
    return path, path.with_name(path.name + ".hdr")


def header_text(like: Raster | Bands, grid: Grid, encoding: Encoding, tags: Mapping[str, str]) -> str:
    """The header of a band-interleaved-by-line, little-endian image of all bands of `like`.

    Raises
    ------
    WriteError
        If ENVI has no such data type, or cannot express the grid.
    """
    if encoding.dtype not in DATA_TYPES:
        raise WriteError(f"ENVI cannot store {encoding.dtype}; use one of {', '.join(DATA_TYPES)}")
    fields: dict[str, str] = {
        "samples": str(grid.width),
        "lines": str(grid.height),
        "bands": str(like.bands),
        "header offset": "0",
        "file type": "ENVI Standard",
        "data type": str(DATA_TYPES[encoding.dtype]),
        "interleave": "bil",
        "byte order": "0",
        **_map_fields(grid),
        **_scale_fields(encoding, like.bands),
    }
    if encoding.nodata is not None:
        fields["data ignore value"] = f"{encoding.nodata:.17g}"
    fields["bbl"] = _braced(str(int(good)) for good in like.good_bands)
    if like.wavelengths_nm is not None:
        fields["wavelength units"] = "Nanometers"
        fields["wavelength"] = _braced(f"{w:.10g}" for w in like.wavelengths_nm)
        if like.fwhm_nm is not None:
            fields["fwhm"] = _braced(f"{w:.10g}" for w in like.fwhm_nm)
    if like.band_names:
        fields["band names"] = _braced(name.replace(",", ";") for name in like.band_names)
    for key, value in tags.items():
        if key.lower() not in fields and key.lower() not in CONSUMED and "=" not in key:
            fields[key] = _braced([value]) if key == "description" else _value(value)
    return "ENVI\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())


def _scale_fields(encoding: Encoding, bands: int) -> dict[str, str]:
    """The reflectance factor where it says it all (what readers of reflectance expect), else gains."""
    if encoding.scale == 1 and encoding.offset == 0:
        return {}
    factor = 1 / encoding.scale
    if encoding.offset == 0 and factor > 1 and math.isclose(factor, round(factor), rel_tol=1e-9):
        return {"reflectance scale factor": str(round(factor))}
    return {
        "data gain values": _braced([f"{encoding.scale:.17g}"] * bands),
        "data offset values": _braced([f"{encoding.offset:.17g}"] * bands),
    }


def _map_fields(grid: Grid) -> dict[str, str]:
    """`map info` and the CRS as GDAL writes them for an upright grid, plus our own rotation."""
    if not grid.georeferenced:
        return {}
    a, b, east, d, e, north = grid.transform[:6]
    angle = math.atan2(d, a)
    dx, dy = math.hypot(a, d), b * math.sin(angle) - e * math.cos(angle)
    turned = (dx * math.cos(angle), dy * math.sin(angle), dx * math.sin(angle), -dy * math.cos(angle))
    if not np.allclose(turned, (a, b, d, e), rtol=0, atol=1e-9 * dx):
        raise WriteError(f"ENVI cannot express the sheared grid {tuple(grid.transform[:6])}; write GeoTIFF")
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.img"
        upright = Affine(dx, 0, east, 0, -abs(dy), north)
        try:
            with rasterio.open(
                probe,
                "w",
                driver="ENVI",
                width=1,
                height=1,
                count=1,
                dtype="uint8",
                crs=grid.crs,
                transform=upright,
            ):
                pass
        except RasterioError as error:
            raise WriteError(f"ENVI cannot express the coordinate system {grid.crs}: {error}") from error
        written = read_header(probe.with_suffix(".hdr"))
    info = [entry for entry in written.fields["map info"] if not entry.lower().startswith("rotation")]
    info[3:7] = [f"{value:.15g}" for value in (east, north, dx, dy)]
    if angle:
        info.append(f"rotation={math.degrees(angle):.15g}")
    fields = {"map info": _braced(info)}
    for key in ("projection info", "coordinate system string"):
        if key in written.fields:
            fields[key] = "{" + ",".join(written.fields[key]) + "}"
    return fields


def _braced(entries: Iterable[str]) -> str:
    return "{" + ", ".join(_plain(entry) for entry in entries) + "}"


def _plain(text: str) -> str:
    """One line without braces: they would end the field early."""
    return " ".join(text.replace("{", "(").replace("}", ")").split())


def _value(text: str) -> str:
    """A field from elsewhere; a list stays a list."""
    text = text.strip()
    return "{" + _plain(text[1:-1]) + "}" if text[:1] == "{" and text[-1:] == "}" else _plain(text)
