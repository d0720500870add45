"""Sentinel-2: a SAFE folder, a granule or its image folder, as one image of its 10 m bands.

Structure: ESA, Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD): `GRANULE/*/IMG_DATA`, in
level 2A with R10m below it; reflectance = (stored + offset) / quantification, both in `MTD_MSIL*.xml` above
them; stored 0 is no data. Experimental: no real product was at hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from hsi_fuse.acquisition import tag_of
from hsi_fuse.errors import ReadError
from hsi_fuse.read import geotiff
from hsi_fuse.read.bands import stacked
from hsi_fuse.read.source import Source, Spectrum, warn

IMAGE = re.compile(r"_(B\d\d)(_10m)?\.(jp2|tiff?)$", re.IGNORECASE)
CENTRES_NM = {"B02": 492.5, "B03": 559.5, "B04": 664.8, "B08": 832.9}
"""The bands of 10 m, and where they lie: means of Sentinel-2A and 2B."""
BAND_IDS = {"B02": "1", "B03": "2", "B04": "3", "B08": "7"}
"""What the metadata calls them."""
FOLDERS = ("", "R10m", "IMG_DATA", "IMG_DATA/R10m", "GRANULE/*/IMG_DATA", "GRANULE/*/IMG_DATA/R10m")
METADATA = ("MTD_MSIL2A.xml", "MTD_MSIL1C.xml")
LEVELS_UP = 5


def find(path: Path) -> Source | None:
    """The 10 m bands of a Sentinel-2 product; None for other paths.

    Raises
    ------
    ReadError
        If a SAFE folder holds several granules, or lacks one of the four bands.
    """
    if not path.is_dir():
        return None
    images = [
        (match[1].upper(), file)
        for folder in FOLDERS
        for file in sorted(path.glob(f"{folder}/*" if folder else "*"))
        if (match := IMAGE.search(file.name)) and match[1].upper() in CENTRES_NM
    ]
    if not images:
        if path.suffix.lower() == ".safe":
            raise ReadError(f"{path} holds no 10 m bands (GRANULE/*/IMG_DATA/...B02...jp2); is it complete?")
        return None
    names = [name for name, _ in images]
    if sorted(names) != sorted(CENTRES_NM):
        raise ReadError(
            f"{path} holds the bands {', '.join(names)}; one each of {', '.join(CENTRES_NM)} is expected. "
            "Name one granule of a product of several"
        )
    images.sort()
    told = _told(path)
    sources = [
        replace(
            geotiff.describe(file),
            scale=np.array([told.scale]),
            offset=np.array([told.offsets.get(BAND_IDS[name], 0.0) * told.scale]),
            nodata=(0.0,),
            spectrum=Spectrum(np.array([CENTRES_NM[name]])),
            names=(name,),
        )
        for name, file in images
    ]
    image = stacked(sources, path)
    return replace(image, tags=told.tags, beside=(*image.beside, *told.files))


@dataclass(frozen=True)
class _Told:
    """What the metadata say: how to scale the bands' numbers, when they were taken."""

    scale: float = 1.0
    offsets: Mapping[str | None, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def _told(path: Path) -> _Told:
    above = [path.resolve(), *path.resolve().parents][:LEVELS_UP]
    found = [folder / name for folder in above for name in METADATA if (folder / name).is_file()]
    if not found:
        warn(
            f"{path}: no MTD_MSIL2A.xml or MTD_MSIL1C.xml above the bands; their numbers are used as they are"
        )
        return _Told()
    try:
        root = ElementTree.parse(found[0]).getroot()
        value = next(
            float(each.text or "")
            for each in root.iter()
            if _name(each) in ("BOA_QUANTIFICATION_VALUE", "QUANTIFICATION_VALUE")
        )
        offsets = {
            each.get("band_id"): float(each.text or "")
            for each in root.iter()
            if _name(each) in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")
        }
    except (ElementTree.ParseError, OSError, ValueError, StopIteration) as error:
        raise ReadError(
            f"{found[0]}: no QUANTIFICATION_VALUE can be read ({error}); is it complete?"
        ) from error
    if not (np.isfinite(value) and value > 0 and np.isfinite(list(offsets.values())).all()):
        raise ReadError(f"{found[0]}: QUANTIFICATION_VALUE {value} or an ADD_OFFSET makes no sense")
    starts = (each.text for each in root.iter() if _name(each) == "DATATAKE_SENSING_START")
    return _Told(1 / value, offsets, tag_of(next(starts, None)), (found[0],))


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
