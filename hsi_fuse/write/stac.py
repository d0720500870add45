"""The run as a STAC 1.1 item, with the extensions eo v2, projection v2, raster v2 and processing v1.2.

One file beside the raster, with relative links to what the run wrote; https://stacspec.org and
https://stac-extensions.github.io describe the fields.
"""

from __future__ import annotations

import json
import math
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.warp
from rasterio.crs import CRS

from hsi_fuse.acquisition import acquired
from hsi_fuse.errors import HsiFuseWarning
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Encoding, Raster
from hsi_fuse.write.envi_header import envi_paths
from hsi_fuse.write.product import Job

EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/{version}/schema.json"
    for name, version in (
        ("eo", "v2.0.0"),
        ("projection", "v2.0.0"),
        ("raster", "v2.0.0"),
        ("processing", "v1.2.0"),
    )
)
COMMON_NAMES = {"blue": (450, 530), "green": (510, 600), "red": (600, 700)}
"""eo:common_name of the band nearest to the middle of the range, if it lies within; nm."""
EDGE_POINTS = 20
"""On each side of the footprint: a straight line of one CRS is none of another."""
MEDIA_TYPES = {
    "GTiff": "image/tiff; application=geotiff",
    "COG": "image/tiff; application=geotiff; profile=cloud-optimized",
    "ENVI": "application/octet-stream",
}


def write_stac(job: Job, paths: tuple[Path, ...]) -> None:
    """Write the item."""
    text = json.dumps(item_of(job), indent=1, allow_nan=False, ensure_ascii=False)
    paths[0].write_text(text + "\n", encoding="utf-8")


def item_of(job: Job) -> dict[str, Any]:
    """The item, JSON-ready.

    Warns
    -----
    HsiFuseWarning
        The input names no acquisition time: STAC asks for one, so the item has that of processing.
    """
    result = job.result
    now = _rfc3339(datetime.now(UTC))
    taken = acquired(result.hsi.tags)
    if taken is None:
        warnings.warn(
            f"{paths_of(job)[-1]}: the input names no acquisition time; `datetime` is that of processing. "
            "Correct it before you catalogue the item",
            HsiFuseWarning,
            stacklevel=2,
        )
    footprint, bbox = footprint_of(result.grid)
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        # an item must use what it declares: eo describes wavelengths
        "stac_extensions": list(EXTENSIONS if result.hsi.wavelengths_nm is not None else EXTENSIONS[1:]),
        "id": job.output.stem,
        "geometry": footprint,
        "properties": {
            "datetime": now if taken is None else _rfc3339(taken),
            "gsd": _rounded(result.grid.gsd_m) if result.grid.georeferenced else None,
            "processing:datetime": now,
            "processing:software": dict(job.figures["provenance"]["versions"]),
            "processing:lineage": f"hyperspectral image sharpened by hsi-fuse, preset {result.preset.name}",
            **projection_of(result.grid),
        },
        "links": [],
        "assets": {"product": _raster_asset(job), **_side_assets(job)},
    }
    item["properties"] = {k: v for k, v in item["properties"].items() if v is not None or k == "proj:code"}
    if bbox is not None:
        item["bbox"] = bbox
    return item


def paths_of(job: Job) -> tuple[str, ...]:
    """Names of the item's own files."""
    return next(names for product, names in job.written if product.name == "stac")


def _rfc3339(time: datetime) -> str:
    """A time in UTC as STAC wants it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def footprint_of(grid: Grid) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Polygon of a grid's outline in WGS84 and its bounding box; None for both without a CRS."""
    if grid.crs is None:
        return None, None
    side = np.linspace(0, 1, EDGE_POINTS + 1)[:-1]
    u = np.concatenate([side * 0, side, side * 0 + 1, 1 - side])  # down the left side first: anticlockwise
    v = np.concatenate([side, side * 0 + 1, 1 - side, side * 0])
    pixels = (u * grid.width, v * grid.height)
    x, y = grid.transform * pixels  # type: ignore[operator]  # affine takes arrays too
    longitude, latitude = rasterio.warp.transform(grid.crs, CRS.from_epsg(4326), x, y)
    ring = np.round(np.stack([longitude, latitude], 1), 8)
    area = np.sum(ring[:, 0] * np.roll(ring[:, 1], -1) - np.roll(ring[:, 0], -1) * ring[:, 1])
    ring = ring if area > 0 else ring[::-1]
    closed = [*ring.tolist(), ring[0].tolist()]
    low, high = ring.min(0).tolist(), ring.max(0).tolist()
    return {"type": "Polygon", "coordinates": [closed]}, [*low, *high]


def projection_of(grid: Grid) -> dict[str, Any]:
    """Fields of the projection extension."""
    fields: dict[str, Any] = {
        "proj:code": None,
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform[:6]),
    }
    if grid.crs is not None:
        authority = grid.crs.to_authority()
        fields["proj:code"] = ":".join(authority) if authority else None
        if authority is None:
            fields["proj:wkt2"] = grid.crs.to_wkt(version="WKT2_2019")
        fields["proj:bbox"] = list(grid.bounds)
    return fields


def _raster_asset(job: Job) -> dict[str, Any]:
    result = job.result
    files = envi_paths(job.output) if job.driver == "ENVI" else (job.output,)
    return {
        "href": f"./{files[0].name}",
        "type": MEDIA_TYPES[job.driver],
        "title": "the fused hyperspectral image",
        "roles": ["data"],
        **_stored(job.summary.encoding, result.grid),
        "bands": bands_of(result.hsi),
    }


def _stored(encoding: Encoding, grid: Grid) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "data_type": encoding.dtype,
        "raster:sampling": "area",
        "raster:scale": encoding.scale,
        "raster:offset": encoding.offset,
    }
    if grid.georeferenced:
        fields["raster:spatial_resolution"] = _rounded(grid.gsd_m)
    if encoding.nodata is not None:
        fields["nodata"] = encoding.nodata if math.isfinite(encoding.nodata) else str(encoding.nodata)
    return fields


def bands_of(hsi: Raster) -> list[dict[str, Any]]:
    """Every band: name, and by eo v2 centre and width in micrometres."""
    bands: list[dict[str, Any]] = []
    for i in range(hsi.bands):
        band: dict[str, Any] = {"name": str(i + 1)}
        if hsi.band_names and hsi.band_names[i]:
            band["description"] = hsi.band_names[i]
        if hsi.wavelengths_nm is not None:
            band["eo:center_wavelength"] = _rounded(hsi.wavelengths_nm[i] / 1e3)
        if hsi.fwhm_nm is not None:
            band["eo:full_width_half_max"] = _rounded(hsi.fwhm_nm[i] / 1e3)
        bands.append(band)
    if hsi.wavelengths_nm is not None:
        for name, (low, high) in COMMON_NAMES.items():
            nearest = int(np.abs(hsi.wavelengths_nm - (low + high) / 2).argmin())
            if low <= hsi.wavelengths_nm[nearest] <= high:
                bands[nearest].setdefault("eo:common_name", name)
    return bands


def _side_assets(job: Job) -> dict[str, Any]:
    assets = {}
    if job.driver == "ENVI":
        header = envi_paths(job.output)[1].name
        assets["header"] = {"href": f"./{header}", "type": "text/plain", "roles": ["metadata"]}
    for product, names in job.written:
        if product.name == "stac":
            continue
        for k, (name, media_type) in enumerate(zip(names, product.media_type, strict=True)):
            key = product.name if k == 0 else f"{product.name}-{k + 1}"
            assets[key] = {
                "href": f"./{name}",
                "type": media_type,
                "title": product.title,
                "roles": list(product.roles),
            }
    return assets


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")
