"""EnMAP L2A and DESIS L2A: a GeoTIFF with an XML beside it. Experimental: no real XML was at hand.

Structure: EnMAP HSI Level 1B / 1C / 2A product specification (DLR, EN-PCV-ICD-2009-2) and DESIS products
definition document (DLR, 2019). Both name, for each band, its wavelength, width, gain and offset (only the
tags differ), and when the scene was taken (temporalCoverage/startTime). The pixels' own layout (int16,
reflectance x 10000, nodata -32768) a real EnMAP crop confirms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from hsi_fuse.acquisition import tag_of
from hsi_fuse.errors import ReadError
from hsi_fuse.read import geotiff
from hsi_fuse.read.source import Numbers, Source
from hsi_fuse.read.wavelengths import numbers, spectrum_of

METADATA, IMAGE = "-metadata.xml", "-spectral_image"
IMAGE_SUFFIXES = (".tif", ".tiff")
MISSING = -32768.0
LARGEST_XML = 64 << 20


@dataclass(frozen=True)
class Product:
    """What a ground segment calls things: the element of a band, and its entries."""

    sensor: str
    starts: str
    band: str
    wavelength: str
    fwhm: str
    gain: str
    offset: str


PRODUCTS = (
    Product("EnMAP", "enmap", "bandID", "wavelengthCenterOfBand", "FWHMOfBand", "GainOfBand", "OffsetOfBand"),
    Product(
        "DESIS",
        "desis",
        "band",
        "wavelengthCenterOfBand",
        "wavelengthWidthOfBand",
        "gainOfBand",
        "offsetOfBand",
    ),
)


def find(path: Path) -> Source | None:
    """An EnMAP or DESIS L2A product named by its folder, its XML or its GeoTIFF; None for other paths.

    Raises
    ------
    ReadError
        If half of it is missing, or its XML does not describe its bands.
    """
    for xml in _metadata_of(path):
        for product in PRODUCTS:
            if xml.name.lower().startswith(product.starts):
                return _describe(product, xml)
    return None


def _metadata_of(path: Path) -> Iterator[Path]:
    """The XML files that `path` may stand for; the name of an image never comes out of them."""
    if path.is_dir():
        yield from sorted(each for each in path.iterdir() if each.name.lower().endswith(METADATA))
    elif path.name.lower().endswith(METADATA):
        yield path
    else:
        head, sign, _ = path.name.lower().rpartition(IMAGE)
        if sign and path.suffix.lower() in IMAGE_SUFFIXES and path.parent.is_dir():
            yield from (each for each in path.parent.iterdir() if each.name.lower() == head + METADATA)


def _describe(product: Product, xml: Path) -> Source:
    wanted = xml.name.lower().removesuffix(METADATA) + IMAGE
    images = [
        each for each in xml.parent.iterdir() if each.name.lower() in {wanted + s for s in IMAGE_SUFFIXES}
    ]
    if not images:
        raise ReadError(f"{xml} has no image beside it; expected a name that ends in -SPECTRAL_IMAGE.TIF")
    source = geotiff.describe(images[0])
    root = _root(xml)
    bands = _bands(product, root, xml)
    if len(bands) != source.bands:
        raise ReadError(f"{xml} describes {len(bands)} bands, but {images[0]} has {source.bands}")
    known = any(nodata is not None for nodata in source.nodata)
    columns = {
        name: numbers([each.findtext(name, "") for each in bands], name, xml)
        for name in (product.wavelength, product.fwhm, product.gain, product.offset)
    }
    gain: Numbers = columns[product.gain]
    if not (np.isfinite(gain).all() and (gain > 0).all() and np.isfinite(columns[product.offset]).all()):
        raise ReadError(f"{xml}: {product.gain} or {product.offset} makes no sense as a scaling: {gain[:4]}")
    return replace(
        source,
        scale=gain,
        offset=columns[product.offset],
        nodata=source.nodata if known else (MISSING,) * source.bands,
        spectrum=spectrum_of(columns[product.wavelength], columns[product.fwhm], "nm", None, xml),
        tags={
            **source.tags,
            **tag_of(root.findtext(".//temporalCoverage/startTime")),
            "sensor": product.sensor,
            "product": "L2A",
        },
        beside=(*source.beside, xml),
    )


def _root(xml: Path) -> ElementTree.Element:
    if xml.stat().st_size > LARGEST_XML:
        raise ReadError(f"{xml} has {xml.stat().st_size} bytes: no metadata of one image is as long")
    try:
        return ElementTree.parse(xml).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise ReadError(f"cannot read {xml}: {error}") from error


def _bands(product: Product, root: ElementTree.Element, xml: Path) -> list[ElementTree.Element]:
    # the same element stands in other parts of the file too (geometry)
    part = next(root.iter("bandCharacterisation"), None)
    found = [] if part is None else list(part.iter(product.band))
    if not found:
        raise ReadError(f"{xml} describes no bands (bandCharacterisation/{product.band})")
    return found
