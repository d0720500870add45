"""ENVI: header fields by `spectral`, pixels by GDAL. The header has the last word."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from spectral.io.envi import EnviException, read_envi_header

from hsi_fuse.errors import ReadError
from hsi_fuse.grid import Grid
from hsi_fuse.read.place import checked_grid, grid_of
from hsi_fuse.read.source import Numbers, Source, Spectrum, brief, measured_bands, warn
from hsi_fuse.read.store import GdalStore, opened
from hsi_fuse.read.wavelengths import numbers, spans_of, spectrum_of

DATA_SUFFIXES = ("", ".img", ".dat", ".bsq", ".bil", ".bip", ".raw")
TIFF_SUFFIXES = (".tif", ".tiff")
DTYPES = {
    **{1: "uint8", 2: "int16", 3: "int32", 4: "float32", 5: "float64"},
    **{12: "uint16", 13: "uint32", 14: "int64", 15: "uint64"},
}
# Turned into fields of Raster, or about the storage of this one file: not kept as tags.
_SHAPE = ("samples", "lines", "bands", "interleave", "header offset", "byte order")
_KIND = ("file type", "file compression", "data type", "data ignore value")
_PLACE = ("map info", "coordinate system string", "projection info")
_SPECTRUM = ("wavelength", "wavelength units", "fwhm", "bbl", "band names")
_SCALING = ("reflectance scale factor", "data gain values", "data offset values")
CONSUMED = frozenset((*_SHAPE, *_KIND, *_PLACE, *_SPECTRUM, *_SCALING))

STEERING = (*_SHAPE, *_KIND, "map info", "coordinate system string")
"""What GDAL goes by when it opens the data file."""

MOST_BANDS = 10_000
"""Above any spectrometer's; GDAL needs minutes to open ten times as many."""

Fields = Mapping[str, str | list[str]]


@dataclass(frozen=True)
class Header:
    """A parsed ENVI header: its file and its fields by lower-case name."""

    path: Path
    fields: Fields

    def text(self, key: str, default: str = "") -> str:
        """A scalar field; of a list, its entries joined."""
        value = self.fields.get(key, default)
        return value if isinstance(value, str) else ", ".join(value)

    def integer(self, key: str, default: int | None = None) -> int:
        """A field that must be a whole number."""
        if key not in self.fields and default is not None:
            return default
        value = self.text(key)
        try:
            return int(value)
        except ValueError:
            raise ReadError(
                f"{self.path}: {key} is {brief(value)}, not a whole number; correct the header"
            ) from None

    def list(self, key: str, count: int) -> Numbers | None:
        """A field of one number a band, or None where it is absent or empty."""
        value = self.fields.get(key)
        if not value:
            return None
        return numbers([value] if isinstance(value, str) else value, key, self.path, count)

    @property
    def tiff(self) -> bool:
        """True where the pixels are in a TIFF beside the header."""
        return self.text("file type").lower() == "tiff"


def find(path: Path) -> Source | None:
    """The ENVI image that `path` (header or data file) stands for, or None if it is not ENVI.

    Raises
    ------
    ReadError
        If half of it is missing, it contradicts itself, or is no image (a library, a classification).
    """
    pair = pair_of(path)
    if pair is None:
        return None
    header = pair[0]
    if "classification" in header.text("file type").lower() or (
        "classes" in header.fields and header.integer("bands") == 1
    ):
        raise ReadError(
            f"{path} is a class image (classes = {brief(header.text('classes'))}): its numbers are "
            "names, not measurements. It can be a mask (--hsi-mask, --guide-mask)"
        )
    return _describe(*pair)


def pair_of(path: Path) -> tuple[Header, Path] | None:
    """The ENVI header and data file that `path` (either of them) stands for, or None if it is not ENVI.

    Raises
    ------
    ReadError
        If a header was named that is no ENVI header, or whose data file is missing.
    """
    if path.suffix.lower() == ".hdr":
        header = read_header(path)
        return header, _data_of(header)
    for candidate in _beside(path, (path.stem + ".hdr", path.name + ".hdr")):
        if not _is_envi(candidate.read_bytes()):
            continue
        header = read_header(candidate)
        if header.tiff == (path.suffix.lower() in TIFF_SUFFIXES):
            return header, path
    return None


def read_header(path: Path) -> Header:
    """Parse an ENVI header.

    Raises
    ------
    ReadError
        If it is missing or is not an ENVI header.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ReadError(f"cannot read {path}: {error.strerror or error}") from error
    if not _is_envi(raw):
        raise ReadError(
            f"{path} is not an ENVI header (its first line is not ENVI); name the image file itself"
        )
    try:
        header = Header(path, _parse(raw))
    except EnviException as error:
        raise ReadError(f"{path}: the header cannot be parsed: {error}") from error
    if "library" in header.text("file type").lower():
        raise ReadError(f"{path} describes a spectral library, not an image")
    return header


def _describe(header: Header, data: Path) -> Source:
    """What an ENVI pair says, checked against the size of its data file."""
    bands = header.integer("bands")
    driver = "GTiff" if header.tiff else "ENVI"
    if not header.tiff:
        _check_storage(header, data)
    promised = (bands, header.integer("lines"), header.integer("samples"))
    try:
        with opened(data, driver) as dataset:
            found = (dataset.count, dataset.height, dataset.width)
            grid, dtypes = grid_of(dataset, data), dataset.dtypes
            indexes, alpha = measured_bands(dataset) if header.tiff else (dataset.indexes, None)
    except ReadError as error:
        said = ", ".join(f"{key} = {brief(header.text(key))}" for key in STEERING if key in header.fields)
        raise ReadError(f"{error}. The header, {header.path}, says {said}") from error
    if found != promised:
        raise ReadError(
            f"{header.path} promises (bands, lines, samples) = {promised}, but {data} has {found}; "
            "is it the header of another file?"
        )
    keep = np.array(indexes) - 1
    scale, offset = _scaling(header, bands)
    names = header.fields.get("band names", [])
    return Source(
        path=data,
        store=GdalStore(data, driver, tuple(indexes), alpha),
        grid=_grid(header, grid),
        dtype=str(np.result_type(*dtypes)),
        scale=scale[keep],
        offset=offset[keep],
        nodata=(_ignore_value(header),) * len(keep),
        spectrum=_spectrum(header, bands).take(keep),
        names=tuple(names[i] for i in keep) if isinstance(names, list) and len(names) == bands else (),
        tags={k: _as_text(v) for k, v in header.fields.items() if k not in CONSUMED},
        beside=(header.path,),
    )


def map_info_transform(fields: list[str], where: Path) -> Affine:
    """The affine of ENVI's `map info`.

    The reference pixel counts from 1 and names a pixel's upper-left corner, so (1, 1) is GDAL's (0, 0).
    `rotation` turns the image counter-clockwise on the map about the reference pixel. GDAL does the same,
    but turns only the axes (not the step from the reference pixel to the origin) and mixes up the two
    pixel sizes, so rotated scenes take this one.
    """
    numeric = numbers(fields[1:7], "map info", where)
    if len(numeric) != 6:
        raise ReadError(f"{where}: map info has {len(fields)} entries, at least 7 are needed")
    ref_x, ref_y, east, north, dx, dy = numeric
    rotation = next(
        (f.split("=")[1] for f in fields if f.lower().replace(" ", "").startswith("rotation=")), "0"
    )
    angle = math.radians(numbers([rotation], "map info rotation", where)[0])
    c, s = math.cos(angle), math.sin(angle)
    axes = Affine(dx * c, dy * s, 0, dx * s, -dy * c, 0)
    return Affine.translation(east, north) * axes * Affine.translation(1 - ref_x, 1 - ref_y)


def _grid(header: Header, found: Grid) -> Grid:
    """GDAL's grid, corrected where the scene is rotated, or the header's where a TIFF has none."""
    info = header.fields.get("map info")
    if not isinstance(info, list) or len(info) < 7:
        return found
    rotated = any(f.lower().replace(" ", "").startswith("rotation=") for f in info)
    if found.georeferenced and not rotated:
        return found
    crs = found.crs or _crs(header, info)
    transform = map_info_transform(info, header.path)
    return checked_grid(crs, transform, found.width, found.height, header.path)


def _crs(header: Header, info: list[str]) -> CRS | None:
    wkt = header.text("coordinate system string").strip("{}")
    try:
        if wkt:
            return CRS.from_wkt(wkt)
        if info[0].lower() == "utm" and len(info) > 9 and "wgs" in info[9].lower():
            return CRS.from_epsg((32700 if info[8].lower().startswith("s") else 32600) + int(info[7]))
    except (CRSError, ValueError):
        warn(f"{header.path}: the coordinate system cannot be read; the scene has no CRS")
    return None


def _scaling(header: Header, bands: int) -> tuple[Numbers, Numbers]:
    """value = stored * scale + offset; whichever of ENVI's two ways the header uses, but only once."""
    ones, zeros = np.ones(bands), np.zeros(bands)
    gain, offset = header.list("data gain values", bands), header.list("data offset values", bands)
    factor = header.text("reflectance scale factor")
    if factor:
        value = numbers([factor], "reflectance scale factor", header.path)[0]
        if not (math.isfinite(value) and value > 0):
            raise ReadError(
                f"{header.path}: reflectance scale factor is {brief(factor)}, it must be positive"
            )
        if gain is None and offset is None:
            return ones / value, zeros
        if gain is not None and not np.allclose(gain * value, 1, rtol=1e-4):
            warn(f"{header.path}: both gains and a reflectance scale factor; only the gains are used")
    return ones if gain is None else gain, zeros if offset is None else offset


def _spectrum(header: Header, bands: int) -> Spectrum:
    wavelengths, fwhm = header.list("wavelength", bands), header.list("fwhm", bands)
    bbl = header.list("bbl", bands)
    good = None if bbl is None else bbl != 0
    names = header.fields.get("band names", [])
    if wavelengths is None and isinstance(names, list) and len(names) == bands:
        centres, widths = spans_of(names) or (None, None)
        return Spectrum(centres, widths, good)
    return spectrum_of(wavelengths, fwhm, header.text("wavelength units"), good, header.path)


def _ignore_value(header: Header) -> float | None:
    text = header.text("data ignore value")
    return float(numbers([text], "data ignore value", header.path)[0]) if text else None


def _check_storage(header: Header, data: Path) -> None:
    """Refuse what GDAL would misread or pad with zeros."""
    code = header.integer("data type")
    if code not in DTYPES:
        kind = "complex numbers" if code in (6, 9) else "an unknown type"
        raise ReadError(
            f"{header.path}: data type {code} is {kind}; supported: {', '.join(map(str, DTYPES))}"
        )
    sizes = [header.integer(key) for key in ("samples", "lines", "bands")]
    if min(sizes) < 1 or sizes[2] > MOST_BANDS:
        raise ReadError(
            f"{header.path}: samples x lines x bands = {' x '.join(map(str, sizes))}; each must be at least "
            f"1, and bands at most {MOST_BANDS}"
        )
    if header.integer("file compression", 0):
        return
    offset = header.integer("header offset", 0)
    expected = offset + math.prod(sizes) * np.dtype(DTYPES[code]).itemsize
    actual = data.stat().st_size
    if actual < expected:
        raise ReadError(
            f"{data} has {actual} bytes, but its header promises {expected} "
            f"(header offset {offset}, then samples x lines x bands = {' x '.join(map(str, sizes))} of data "
            f"type {code}, {DTYPES[code]}); "
            "the file is cut off or the header is wrong"
        )


def _data_of(header: Header) -> Path:
    stem = header.path.stem  # "x" of x.hdr, "x.img" of x.img.hdr
    suffixes = TIFF_SUFFIXES if header.tiff else DATA_SUFFIXES
    own = (stem,) if header.tiff and Path(stem).suffix.lower() in TIFF_SUFFIXES else ()
    names = (*own, *(stem + s for s in suffixes))
    found = [f for f in _beside(header.path, names) if f != header.path]
    if not found:
        raise ReadError(
            f"{header.path} has no data file beside it; expected {stem} or {stem} with one of "
            f"{', '.join(s for s in suffixes if s)}"
        )
    return found[0]


def _beside(path: Path, names: tuple[str, ...]) -> list[Path]:
    """Existing files among `names` (in that order) in the folder of `path`, whatever their case."""
    try:
        files = {f.name: f for f in path.parent.iterdir() if f.is_file()}
    except OSError:
        return []
    lower = {name.lower(): f for name, f in sorted(files.items(), reverse=True)}
    hits = (files.get(name) or lower.get(name.lower()) for name in names)
    return [f for f in hits if f is not None]


def _is_envi(raw: bytes) -> bool:
    return raw.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"ENVI")


def _parse(raw: bytes) -> Fields:
    """Header fields by `spectral`, which wants a file in the locale's encoding: give it plain UTF-8.

    Headers come in Latin-1 too ("µm").
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    field = _unclosed(text)
    if field is not None:
        raise EnviException(f"the brace that {brief(field)} opens is not closed; close it")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of upper-case field names
        copy = Path(folder) / "header.hdr"
        copy.write_text(text.lstrip(), encoding="utf-8")
        fields: Fields = read_envi_header(str(copy))
    return fields


def _unclosed(text: str) -> str | None:
    """The field whose brace is still open where another field begins, or at the end."""
    field = None
    for line in text.splitlines():
        key, sign, value = (part.strip() for part in line.partition("="))
        if field is not None and sign and key.lower() in CONSUMED:
            return field
        if field is None and value.startswith("{"):
            field = key.lower()
        if line.rstrip().endswith("}"):
            field = None
    return field


def _as_text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "{" + ", ".join(value) + "}"
