"""The table of side products. To add one, write its writer and an entry here."""

from __future__ import annotations

from hsi_fuse.registration import mapping_files
from hsi_fuse.write import compact, layers, learned, materials, stac
from hsi_fuse.write.product import Product

GEOTIFF = "image/tiff; application=geotiff"
CSV, JSON, HTML, GEOJSON = "text/csv", "application/json", "text/html", "application/geo+json"
BINARY = "application/octet-stream"
REPORT = "_report.html"

PRODUCTS = (
    Product(
        "quality",
        ("_quality.json",),
        learned.write_quality,
        (JSON,),
        "every figure of the report",
        roles=("metadata",),
        always=True,
    ),
    Product(
        "report", (REPORT,), learned.write_report, (HTML,), "the report", roles=("overview",), always=True
    ),
    Product(
        "rgb", ("_rgb.tif",), learned.write_quicklook, (GEOTIFF,), "quicklook", roles=("visual",), always=True
    ),
    Product(
        "srf", ("_srf.csv",), learned.write_srf, (CSV,), "spectral responses that were learned", always=True
    ),
    Product(
        "psf", ("_psf.csv",), learned.write_psf, (CSV,), "point spread function that was learned", always=True
    ),
    Product(
        "mapping",
        mapping_files.ENDINGS,
        learned.write_mapping,
        (GEOJSON, GEOTIFF),
        "tie points; displacement of the reference",
        always=True,
        lacks=learned.lacks_mapping,
    ),
    Product(
        "guide",
        ("_guide.tif",),
        layers.write_guide,
        (GEOTIFF,),
        "the reference made hyperspectral on its own grid, of pairs that are not registered",
        always=True,
        rare=True,
        lacks=layers.lacks_guide,
    ),
    Product(
        "kind",
        ("_kind.tif",),
        layers.write_kind,
        (GEOTIFF,),
        "what stands behind each pixel, of products over more than the image's ground",
        always=True,
        rare=True,
        lacks=layers.lacks_kind,
    ),
    Product(
        "uncertainty",
        ("_uncertainty.tif",),
        layers.write_uncertainty,
        (GEOTIFF,),
        "standard deviation of each value",
        lacks=layers.lacks_uncertainty,
    ),
    Product(
        "confidence", ("_confidence.tif",), layers.write_confidence, (GEOTIFF,), "confidence in the reference"
    ),
    Product(
        "support",
        ("_support.tif", "_support.csv"),
        layers.write_support,
        (GEOTIFF, CSV),
        "pixels and bands that rest on inference",
    ),
    Product(
        "endmembers",
        ("_endmembers.csv", "_endmembers.sli", "_endmembers.hdr"),
        materials.write_endmembers,
        (CSV, BINARY, "text/plain"),
        "spectra of the materials",
        lacks=materials.lacks_materials,
    ),
    Product(
        "abundances",
        ("_abundances.tif",),
        materials.write_abundances,
        (GEOTIFF,),
        "shares of the materials, and the illumination",
        lacks=materials.lacks_materials,
    ),
    Product(
        "compact",
        ("_compact.safetensors",),
        compact.write_compact,
        (BINARY,),
        "the product in factors; `hsi-fuse expand` makes rasters of it",
    ),
    Product("stac", ("_stac.json",), stac.write_stac, (GEOJSON,), "STAC item", roles=("metadata",)),
)
"""In the order in which they are written."""

ALWAYS = tuple(product for product in PRODUCTS if product.always)
ON_REQUEST = {product.name: product for product in PRODUCTS if not product.always}
SIDE_PRODUCTS = tuple(ending for product in ALWAYS if not product.rare for ending in product.endings)
"""Endings of the files that stand beside every raster."""

ENDINGS = tuple(ending for product in PRODUCTS for ending in product.endings)
"""Of every file that may stand beside a raster."""


def chosen(names: tuple[str, ...]) -> tuple[Product, ...]:
    """What every run writes and what is asked for by name, in order."""
    return tuple(product for product in PRODUCTS if product.always or product.name in names)
