"""GeoTIFF and every other raster that GDAL opens: wavelengths from where different writers put them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from hsi_fuse.errors import ReadError
from hsi_fuse.grid import Grid
from hsi_fuse.read.envi import DATA_SUFFIXES
from hsi_fuse.read.place import PLAIN, grid_of
from hsi_fuse.read.source import Numbers, Source, Spectrum, brief, measured_bands, warn
from hsi_fuse.read.store import GdalStore, Palette, opened
from hsi_fuse.read.wavelengths import LONGEST_NM, SHORTEST_NM, SPAN, fwhm_to_nm, numbers, spans_of, to_nm

# Turned into fields of Raster, or about this one file: not kept as tags.
CONSUMED = frozenset(
    ("AREA_OR_POINT", "reflectance_scale_factor", "wavelength_units", "wavelength", "fwhm", "bbl")
)
_NUMBER = r"([0-9]+(?:\.[0-9]*)?)"
_WITH_UNIT = re.compile(_NUMBER + r"\s*(nm|nanomet(?:er|re)s?|um|µm|μm|micromet(?:er|re)s?|microns?)\b", re.I)
_BARE = re.compile(r"^\s*" + _NUMBER + r"\s*$|\(" + _NUMBER + r"\)\s*$")


def find(path: Path) -> Source | None:
    """Any file; None for folders. A suffix of ENVI's without a header is told apart from other rubbish."""
    if path.is_dir():
        return None
    try:
        return describe(path)
    except ReadError as error:
        if path.suffix.lower() in DATA_SUFFIXES:
            raise ReadError(
                f"{path} has no ENVI header beside it (expected {path.stem}.hdr or {path.name}.hdr) "
                "and is no other raster that GDAL knows"
            ) from error
        raise


def describe(path: Path) -> Source:
    """What a GDAL raster says; an `.aux.xml` beside it only fills what the file leaves open."""
    with opened(path) as dataset:
        if dataset.count == 0:
            raise ReadError(
                f"{path} holds no image of its own but {len(dataset.subdatasets)} subdatasets; "
                "convert one of them to GeoTIFF or ENVI first"
            )
        source = _describe(dataset, path)
    sidecar = path.with_name(path.name + ".aux.xml")
    return _filled(source, path) if sidecar.exists() else source


def _describe(dataset: Any, path: Path) -> Source:
    if any(np.dtype(t).kind == "c" for t in dataset.dtypes):
        raise ReadError(
            f"{path} holds complex numbers ({dataset.dtypes[0]}); convert them to real ones first"
        )
    if dataset.count == 1 and dataset.colorinterp[0] == ColorInterp.palette:
        return _expanded(dataset, path)
    indexes, alpha = measured_bands(dataset)
    keep = np.array(indexes, int) - 1
    descriptions = [dataset.descriptions[i] or "" for i in keep]
    scale, offset = _scaling(dataset, keep, path)
    return Source(
        path=path,
        store=GdalStore(path, None, tuple(indexes), alpha),
        grid=grid_of(dataset, path),
        dtype=str(np.result_type(*(dataset.dtypes[i] for i in keep))),
        scale=scale,
        offset=offset,
        nodata=tuple(dataset.nodatavals[i] for i in keep),
        spectrum=_spectrum(dataset, indexes, descriptions, path),
        names=tuple(descriptions) if any(descriptions) else (),
        tags={k: v for k, v in dataset.tags().items() if k not in CONSUMED and not k.startswith("Band_")},
        beside=_named(dataset),
    )


def _expanded(dataset: Any, path: Path) -> Source:
    """A paletted image as the colours that its numbers stand for."""
    table = dataset.colormap(1)
    if dataset.nodata in table:
        table[int(dataset.nodata)] = (0, 0, 0, 0)
    colours = tuple(table.get(number, (0, 0, 0, 0)) for number in range(max(table, default=-1) + 1))
    return Source(
        path=path,
        store=Palette(GdalStore(path, None, (1,)), colours),
        grid=grid_of(dataset, path),
        dtype="uint8",
        scale=np.ones(3),
        offset=np.zeros(3),
        nodata=(None,) * 3,
        names=("red", "green", "blue"),
        beside=_named(dataset),
    )


def _named(dataset: Any) -> tuple[Path, ...]:
    """The files that GDAL reads for it: of a VRT those that it names."""
    return tuple(map(Path, dataset.files))


def _filled(source: Source, path: Path) -> Source:
    with opened(path, sidecar=True) as dataset:
        beside = _describe(dataset, path)
    plain = source.grid.transform in PLAIN
    grid = Grid(
        source.grid.crs or beside.grid.crs,
        beside.grid.transform if plain else source.grid.transform,
        source.grid.width,
        source.grid.height,
    )
    same_bands = source.store == beside.store
    unsaid = source.spectrum.wavelengths_nm is None and same_bands
    return replace(
        source,
        grid=grid,
        nodata=beside.nodata if same_bands and set(source.nodata) == {None} else source.nodata,
        spectrum=beside.spectrum if unsaid else source.spectrum,
        names=source.names or (beside.names if same_bands else ()),
        beside=beside.beside,
    )


def _scaling(dataset: Any, keep: Any, path: Path) -> tuple[Numbers, Numbers]:
    """value = stored * scale + offset, from GDAL's own scale or, only without it, the ENVI-like tag."""
    scale = np.array(dataset.scales, float)[keep]
    offset = np.array(dataset.offsets, float)[keep]
    factor = dataset.tags().get("reflectance_scale_factor")
    if factor and np.all(scale == 1) and np.all(offset == 0):
        value = numbers([factor], "reflectance_scale_factor", path)[0]
        if not (np.isfinite(value) and value > 0):
            raise ReadError(f"{path}: reflectance_scale_factor is {brief(factor)}, it must be positive")
        scale = scale / value
    if not (np.isfinite(scale).all() and np.isfinite(offset).all()):
        raise ReadError(f"{path}: scale {brief(str(scale))} or offset {brief(str(offset))} is not finite")
    return scale, offset


def _spectrum(dataset: Any, indexes: tuple[int, ...], descriptions: list[str], path: Path) -> Spectrum:
    tags = [dataset.tags(i) for i in indexes]
    good = _column(tags, "bbl", path)
    flagged = None if good is None else good != 0
    for find in (_from_band_tags, _from_imagery, _from_envi_domain):
        wavelengths, fwhm = find(dataset, indexes, tags, path)
        if wavelengths is not None:
            return Spectrum(wavelengths, fwhm, flagged)
    wavelengths, fwhm = spans_of(descriptions) or (_from_descriptions(descriptions, path), None)
    return Spectrum(wavelengths, fwhm, flagged)


Found = tuple[Numbers | None, Numbers | None]


def _from_band_tags(dataset: Any, indexes: tuple[int, ...], tags: list[dict[str, str]], path: Path) -> Found:
    """`wavelength, wavelength_units, fwhm` in each band's default domain (EnMAP-Box, GDAL's ENVI driver)."""
    values = _column(tags, "wavelength", path)
    if values is None:
        return None, None
    unit = tags[0].get("wavelength_units") or dataset.tags().get("wavelength_units")
    wavelengths, factor = to_nm(values, unit, path)
    fwhm = _column(tags, "fwhm", path)
    return wavelengths, None if fwhm is None or wavelengths is None else fwhm_to_nm(fwhm, factor, path)


def _from_imagery(dataset: Any, indexes: tuple[int, ...], tags: list[dict[str, str]], path: Path) -> Found:
    """GDAL's IMAGERY domain; asked second since drivers round it to 3 decimals of a micrometre."""
    imagery = [dataset.tags(i, ns="IMAGERY") for i in indexes]
    values = _column(imagery, "CENTRAL_WAVELENGTH_UM", path)
    if values is None:
        return None, None
    wavelengths, factor = to_nm(values, "um", path)
    fwhm = _column(imagery, "FWHM_UM", path)
    return wavelengths, None if fwhm is None or wavelengths is None else fwhm_to_nm(fwhm, factor, path)


def _from_envi_domain(
    dataset: Any, indexes: tuple[int, ...], tags: list[dict[str, str]], path: Path
) -> Found:
    """An ENVI header copied into the dataset's ENVI domain, lists written as {a, b, c}."""
    fields = dataset.tags(ns="ENVI")
    if "wavelength" not in fields:
        return None, None
    keep = np.array(indexes) - 1
    values = numbers(_listed(fields["wavelength"]), "ENVI wavelength", path, dataset.count)[keep]
    wavelengths, factor = to_nm(values, fields.get("wavelength_units"), path)
    if wavelengths is None or "fwhm" not in fields:
        return wavelengths, None
    fwhm = numbers(_listed(fields["fwhm"]), "ENVI fwhm", path, dataset.count)[keep]
    return wavelengths, fwhm_to_nm(fwhm, factor, path)


def _from_descriptions(descriptions: list[str], path: Path) -> Numbers | None:
    """Wavelengths out of band names, only where every name holds exactly one and all are distinct."""
    if any(SPAN.search(d) for d in descriptions):  # of some bands alone: an edge is no wavelength
        return None
    matches = [_WITH_UNIT.findall(d) for d in descriptions]
    if all(len(m) == 1 for m in matches):
        units = {m[0][1].lower() for m in matches}
        texts, unit = [m[0][0] for m in matches], units.pop() if len(units) == 1 else None
    else:
        bare = [_BARE.search(d) for d in descriptions]
        texts = [m.group(1) or m.group(2) for m in bare if m]
        unit = None
    if len(texts) != len(descriptions) or len(set(texts)) != len(texts):
        return None
    values = np.array([float(t) for t in texts])
    # "1", "2", "3" are band numbers: only what lies wholly in one unit's range counts as wavelengths
    if unit is None and not any(
        np.all((values * f >= max(SHORTEST_NM, 300)) & (values * f <= LONGEST_NM)) and np.ptp(values * f) > 50
        for f in (1.0, 1e3)
    ):
        return None
    if unit is None and np.array_equal(values, np.round(values)) and values.max() < SHORTEST_NM:
        return None
    return to_nm(values, unit, path)[0]


def _column(tags: list[dict[str, str]], key: str, path: Path) -> Numbers | None:
    """One tag over all bands; None where no band has it, a warning where only some do."""
    texts = [t.get(key, "") for t in tags]
    if not any(texts):
        return None
    if not all(texts):
        warn(f"{path}: {key} is missing in {texts.count('')} of {len(texts)} bands; it is not used")
        return None
    return numbers(texts, f"band tag {key}", path)


def _listed(text: str) -> list[str]:
    return [t for t in re.split(r"[,\s]+", text.strip("{} \n")) if t]
