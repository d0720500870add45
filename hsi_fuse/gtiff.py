"""GeoTIFF: how it is laid out, what it says about its bands, and small images."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.windows import Window

from hsi_fuse.errors import HsiFuseWarning, WriteError
from hsi_fuse.files import atomic, check_output
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Bands, Encoding, Raster

TILE = 256
DEFLATE_LEVEL = "1"
"""What predictors leave of a measured image repeats nothing: higher levels search twice as long and find
nothing more (docs/lab-notes.md)."""
# No `.aux.xml` beside the product, and a cache whose size (so the order of tiles in the file) does not
# depend on the machine.
GDAL: dict[str, Any] = {"GDAL_PAM_ENABLED": "NO", "GDAL_CACHEMAX": 128 << 20}
# True of the file that was read, not of a product on another grid.
SPATIAL_TAGS = frozenset(
    (
        "x start",
        "y start",
        "pixel size",
        "geo points",
        "rpc info",
        "major frame offsets",
        "minor frame offsets",
    )
)


def write_image(
    path: str | Path,
    values: NDArray[Any],
    grid: Grid,
    *,
    valid: NDArray[np.bool_] | None = None,
    descriptions: Sequence[str] = (),
    palette: Mapping[int, tuple[int, int, int, int]] | None = None,
    tags: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a small side product as a GeoTIFF.

    Parameters
    ----------
    path : path
    values : ndarray (band, H, W)
        Any integer or float type; three uint8 bands are shown as RGB.
    grid : Grid
    valid : ndarray (H, W), bool, optional
        False becomes NaN in float images, and is masked by the file's own mask in integer ones.
    descriptions : sequence of str, optional
        Band names.
    palette : mapping of int to (red, green, blue, alpha), optional
        Colours of a single uint8 band of classes, in which 0 marks no data.
    tags : mapping of str to str, optional
        Metadata of the file.
    overwrite : bool

    Raises
    ------
    WriteError
    """
    path = Path(path)
    check_output(path, overwrite)
    if values.ndim != 3 or values.shape[1:] != grid.shape or len(descriptions) not in (0, len(values)):
        raise WriteError(
            f"{path}: values {values.shape} with {len(descriptions)} names do not fit a {grid.shape} grid"
        )
    floats = values.dtype.kind == "f"
    options = profile(str(values.dtype), {"PHOTOMETRIC": "RGB"} if _is_rgb(values) else {})
    if floats:
        options["nodata"] = float("nan")
        values = values if valid is None else np.where(valid, values, values.dtype.type(np.nan))
    if palette is not None:
        options["nodata"] = 0
    with (
        atomic(path) as part,
        rasterio.Env(**GDAL, GDAL_TIFF_INTERNAL_MASK="YES"),
        rasterio.open(part, "w", count=len(values), **geometry(grid), **options) as file,
    ):
        file.write(values)
        if valid is not None and not floats:
            file.write_mask(valid)
        for i, text in enumerate(descriptions):
            file.set_band_description(i + 1, text)
        if palette is not None:
            file.write_colormap(1, dict(palette))
        file.update_tags(**(tags or {}))
    path.with_name(path.name + ".aux.xml").unlink(missing_ok=True)
    return path


def _is_rgb(values: NDArray[Any]) -> bool:
    return len(values) == 3 and values.dtype == np.uint8


@contextmanager
def gdal() -> Iterator[None]:
    """GDAL as `GDAL` sets it; what it thinks of the creation options becomes a warning of ours."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage().partition(" in ")[2]
            if ("creation option" in text or "ignoring" in text) and text not in said:
                said.append(text)

    logger, listener = logging.getLogger("rasterio._env"), Listener(logging.WARNING)
    logger.addHandler(listener)
    try:
        # tiles are written in their order, however many are compressed at a time: the bytes stay the same
        with rasterio.Env(**GDAL, GDAL_NUM_THREADS=torch.get_num_threads()):
            yield
    finally:
        logger.removeHandler(listener)
    if said:
        warnings.warn(f"creation options: {'; '.join(said)}", HsiFuseWarning, stacklevel=4)


def geometry(grid: Grid) -> dict[str, Any]:
    return {"width": grid.width, "height": grid.height, "crs": grid.crs, "transform": grid.transform}


def profile(dtype: str, options: Mapping[str, str]) -> dict[str, Any]:
    predictor = "3" if np.dtype(dtype).kind == "f" else "2"
    defaults = {"TILED": "YES", "BLOCKXSIZE": str(TILE), "BLOCKYSIZE": str(TILE), "INTERLEAVE": "BAND"}
    # GDAL would call the fourth of four bands alpha, and viewers would show near infrared as transparency
    defaults |= {"COMPRESS": "DEFLATE", "PREDICTOR": predictor, "BIGTIFF": "IF_SAFER", "ALPHA": "NO"}
    defaults |= {"ZLEVEL": DEFLATE_LEVEL}
    return {"driver": "GTiff", "dtype": dtype, **defaults, **upper(options)}


def upper(options: Mapping[str, str]) -> dict[str, str]:
    return {key.upper(): value for key, value in options.items()}


def lasting_tags(like: Raster | Bands) -> dict[str, str]:
    return {k: v for k, v in like.tags.items() if k.lower() not in SPATIAL_TAGS}


def describe(file: Any, like: Raster | Bands, encoding: Encoding) -> None:
    """Everything known about the bands, in the two places where other software looks."""
    file.nodata = encoding.nodata
    file.scales, file.offsets = (encoding.scale,) * like.bands, (encoding.offset,) * like.bands
    file.update_tags(**lasting_tags(like))
    for i in range(like.bands):
        tags, imagery = {"bbl": str(int(like.good_bands[i]))}, {}
        name = like.band_names[i] if like.band_names else ""
        if like.wavelengths_nm is not None:
            nm = like.wavelengths_nm[i]
            tags |= {"wavelength": f"{nm:.10g}", "wavelength_units": "Nanometers"}
            imagery["CENTRAL_WAVELENGTH_UM"] = f"{nm / 1e3:.10g}"
            name = name or f"{nm:.10g} nm"
        if like.fwhm_nm is not None:
            tags["fwhm"] = f"{like.fwhm_nm[i]:.10g}"
            imagery["FWHM_UM"] = f"{like.fwhm_nm[i] / 1e3:.10g}"
        file.set_band_description(i + 1, name or f"band {i + 1}")
        file.update_tags(i + 1, **tags)
        if imagery:
            file.update_tags(i + 1, ns="IMAGERY", **imagery)


def verify(part: Path, grid: Grid) -> None:
    """Look at the end of the file: GDAL writes its directory on closing, and rasterio drops errors there."""
    with rasterio.open(part) as file:
        corner = Window(grid.width - 1, grid.height - 1, 1, 1)
        file.read(window=corner)
        for level in range(len(file.overviews(1))):
            with rasterio.open(part, overview_level=level) as overview:
                overview.read(window=Window(overview.width - 1, overview.height - 1, 1, 1))
