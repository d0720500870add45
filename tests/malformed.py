"""Malformed files by the thousand, from a seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import rasterio
from affine import Affine

SEED = 20_26
Spoilt = tuple[Path, tuple[str, ...]]
"""What to read, and the fields of which at least one must be named; none where mere bytes were damaged."""
Spoil = Callable[[np.random.Generator, Path], Spoilt]

NUMBERS = (
    *("0", "-1", "1", "2", "3", "1e9", "99999999999999999999", "2147483647", "-2147483648", "4294967297"),
    *(
        "nan",
        "inf",
        "-inf",
        "1e308",
        "-1e308",
        "1e-320",
        "0x10",
        "",
        " ",
        "{}",
        "{1}",
        "{nan, nan}",
        "3.5",
        "\\0",
    ),
    *("../../etc/passwd", "/etc/passwd", "µm", "{" * 40, "a" * 5000, "%s%n", "{1, 2, 3, 4, 5, 6, 7, 8}"),
)
FIELDS = {
    "samples": "6", "lines": "5", "bands": "4", "header offset": "0", "file type": "ENVI Standard",
    "data type": "2", "interleave": "bsq", "byte order": "0", "data ignore value": "-9999",
    "reflectance scale factor": "10000", "wavelength units": "Nanometers",
    "wavelength": "{450, 550, 650, 850}", "fwhm": "{10, 10, 10, 10}", "bbl": "{1, 1, 1, 1}",
    "band names": "{a, b, c, d}", "data gain values": "{1, 1, 1, 1}", "data offset values": "{0, 0, 0, 0}",
    "map info": "{UTM, 1, 1, 500000, 5000000, 30, 30, 32, North, WGS-84, rotation=10}",
    "coordinate system string": "{GEOGCS[\"GCS_WGS_1984\",DATUM[\"D_WGS_1984\"]]}", "file compression": "0",
    "classes": "3", "data file": "../../etc/passwd",
}  # fmt: skip
USUAL = tuple(FIELDS)[:15]


def _stored() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 9000, (4, 5, 6)).astype("i2")


def _header(fields: dict[str, str]) -> str:
    return "ENVI\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())


def _envi(folder: Path, fields: dict[str, str]) -> Path:
    (folder / "scene.img").write_bytes(_stored().tobytes())
    (folder / "scene.hdr").write_text(_header(fields), encoding="utf-8")
    return folder / "scene.hdr"


def envi_field(rng: np.random.Generator, folder: Path) -> Spoilt:
    """A header with one to three fields of rubbish."""
    damaged = tuple(map(str, rng.choice(list(FIELDS), rng.integers(1, 4), replace=False)))
    rubbish = {key: str(rng.choice(NUMBERS)) for key in damaged}
    return _envi(folder, {**{key: FIELDS[key] for key in USUAL}, **rubbish}), damaged


def envi_lost(rng: np.random.Generator, folder: Path) -> Spoilt:
    """A header without one to four of its fields, or with one twice."""
    lost = tuple(map(str, rng.choice(USUAL, rng.integers(1, 5), replace=False)))
    return _envi(folder, {key: FIELDS[key] for key in USUAL if key not in lost}), lost


def envi_map(rng: np.random.Generator, folder: Path) -> Spoilt:
    """Rubbish in one entry of `map info`."""
    entries = FIELDS["map info"].strip("{}").split(", ")
    entries[rng.integers(len(entries))] = str(rng.choice(NUMBERS)).strip("{}")
    if rng.random() < 0.2:
        entries = entries[: rng.integers(len(entries))]
    fields = {key: FIELDS[key] for key in USUAL}
    return _envi(folder, {**fields, "map info": "{" + ", ".join(entries) + "}"}), ("map info",)


def envi_bomb(rng: np.random.Generator, folder: Path) -> Spoilt:
    """Sizes far beyond memory, in front of a file that looks large, or is declared compressed."""
    fields = {key: FIELDS[key] for key in USUAL}
    for key in ("samples", "lines", "bands"):
        fields[key] = str(rng.choice(["30000", "100000", "2000000000", "4"]))
    path = _envi(folder, fields)
    if rng.random() < 0.7:
        with (folder / "scene.img").open("r+b") as file:
            file.truncate(int(rng.choice([10**9, 10**11, 4 * 10**12])))  # a hole: takes no room
    else:
        path.write_text(_header({**fields, "file compression": "1"}))
    return path, ("samples", "lines", "bands")


def envi_link(rng: np.random.Generator, folder: Path) -> Spoilt:
    """A header or data file that is a link to somewhere."""
    path = _envi(folder, {key: FIELDS[key] for key in USUAL})
    link = path if rng.random() < 0.3 else folder / "scene.img"
    link.unlink()
    link.symlink_to(
        str(rng.choice(["/etc/passwd", "nowhere", "/", "scene.img", "scene.hdr", "/dev/zero", ".."]))
    )
    return path, ()


def _damaged(rng: np.random.Generator, raw: bytes) -> bytes:
    """Cut off, some bytes changed (most near the start, where the structure is), or a piece doubled."""
    data = bytearray(raw)
    how = rng.integers(4)
    if how == 0:
        return bytes(data[: rng.integers(len(data))])
    if how == 1:
        at = int(rng.integers(len(data)))
        return bytes(data[:at] + data[max(at - 50, 0) :])
    reach = len(data) if how == 2 else min(len(data), 600)
    for at in rng.integers(0, reach, rng.integers(1, 12)):
        data[at] = rng.choice([0, 255, 127, 128, int(rng.integers(256))])
    return bytes(data)


def envi_bytes(rng: np.random.Generator, folder: Path) -> Spoilt:
    """A damaged header."""
    path = _envi(folder, FIELDS if rng.random() < 0.3 else {key: FIELDS[key] for key in USUAL})
    path.write_bytes(_damaged(rng, path.read_bytes()))
    return path, ()


def geotiff(path: Path, driver: str = "GTiff", **more: object) -> None:
    stored = _stored()
    shape = {"count": 4, "height": 5, "width": 6, "dtype": "int16"}
    place = {"crs": "EPSG:32632", "transform": Affine(30, 0, 5e5, 0, -30, 5e6), "nodata": -9999}
    with rasterio.open(path, "w", driver=driver, **{**shape, **place, **more}) as file:
        file.write(stored)
        for k, wavelength in enumerate((450, 550, 650, 850)):
            file.update_tags(k + 1, wavelength=str(wavelength), wavelength_units="Nanometers", fwhm="10")


def tiff_bytes(rng: np.random.Generator, folder: Path) -> Spoilt:
    """A damaged GeoTIFF."""
    path = folder / "scene.tif"
    kinds = (
        {},
        {"compress": "deflate"},
        {"compress": "lzw", "predictor": 2},
        {"tiled": True, "BIGTIFF": "YES"},
    )
    geotiff(path, **kinds[rng.integers(len(kinds))])
    path.write_bytes(_damaged(rng, path.read_bytes()))
    return path, ()


def tiff_tags(rng: np.random.Generator, folder: Path) -> Spoilt:
    """A sound GeoTIFF whose tags, transform or scaling are rubbish."""
    path = folder / "scene.tif"
    geotiff(path)
    wild = np.array([0, np.nan, np.inf, 1e308, -1e-320, 1.0])
    with warnings.catch_warnings(), rasterio.open(path, "r+") as file:
        warnings.simplefilter("ignore")
        choice, damaged = rng.integers(4), ("scale", "offset")
        if choice == 0:
            damaged = ("transform",)
            file.transform = Affine(*rng.choice(wild, 6))
        elif choice == 1:
            key = str(rng.choice(["wavelength", "fwhm", "bbl", "wavelength_units"]))
            damaged = (key,)
            for band in range(1, 5):
                file.update_tags(band, **{key: str(rng.choice(NUMBERS)).replace("\0", "")})
        elif choice == 2:
            file.scales, file.offsets = (tuple(rng.choice(wild, 4)) for _ in range(2))
        else:
            damaged = ("scale",)
            file.update_tags(reflectance_scale_factor=str(rng.choice(NUMBERS)))
    return path, damaged


def tiff_bomb(rng: np.random.Generator, folder: Path) -> Spoilt:
    """A few kilobytes that promise terabytes: a sparse file."""
    path, side = folder / "scene.tif", int(rng.choice([20_000, 200_000, 2_000_000]))
    more = {"SPARSE_OK": True, "tiled": True, "blockxsize": 4096, "blockysize": 4096, "BIGTIFF": "YES"}
    shape = {"count": int(rng.choice([3, 40])), "height": side, "width": side, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **more):
        pass
    return path, ()


def vrt(rng: np.random.Generator, folder: Path) -> Spoilt:
    """A virtual raster that names itself, nothing, or a file elsewhere, with rubbish sizes."""
    names = [
        "scene.vrt",
        "nowhere.tif",
        "/etc/passwd",
        "../../../../etc/passwd",
        "/dev/zero",
        "/vsizip/x",
        "a.tif",
    ]
    geotiff(folder / "a.tif")
    size = [str(rng.choice(["6", "0", "-1", "2147483647", "a", "1e9"])) for _ in range(2)]
    bands = int(rng.choice([2, 4, 20]))
    band = (
        '<VRTRasterBand dataType="Int16" band="{k}"><SimpleSource><SourceFilename relativeToVRT="'
        f'{rng.integers(2)}">{rng.choice(names)}</SourceFilename>'
        f"<SourceBand>{rng.integers(-1, 6)}</SourceBand></SimpleSource></VRTRasterBand>"
    )
    text = "".join(band.format(k=k + 1) for k in range(bands))
    raw = f'<VRTDataset rasterXSize="{size[0]}" rasterYSize="{size[1]}">{text}</VRTDataset>'.encode()
    (folder / "scene.vrt").write_bytes(_damaged(rng, raw) if rng.random() < 0.4 else raw)
    return folder / "scene.vrt", ()


def _prisma(path: Path, shape: tuple[int, int, int] = (5, 4, 6)) -> None:
    rows, bands, columns = shape
    with h5py.File(path, "w") as file:
        for name in ("VNIR", "SWIR"):
            field = f"HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/{name}_Cube"
            if rows * columns * bands < 10_000:
                file[field] = np.random.default_rng(0).integers(1, 9000, shape).astype("u2")
            else:
                file.create_dataset(field, shape, "u2", chunks=(1, bands, 64))
            short = name.title()
            file.attrs[f"List_Cw_{short}"] = np.linspace(450, 900, bands) + 1000 * (name == "SWIR")
            file.attrs[f"List_Fwhm_{short}"] = np.full(bands, 10.0)
            file.attrs[f"L2Scale{short}Min"], file.attrs[f"L2Scale{short}Max"] = 0.0, 1.0
        file.attrs["Epsg_Code"] = 32632
        for corner, x, y in (("UL", 0, 0), ("LR", columns, rows)):
            file.attrs[f"Product_{corner}corner_easting"] = 5e5 + 30 * x
            file.attrs[f"Product_{corner}corner_northing"] = 5e6 - 30 * y


def prisma_bytes(rng: np.random.Generator, folder: Path) -> Spoilt:
    """A damaged PRISMA file."""
    path = folder / "scene.he5"
    _prisma(path)
    path.write_bytes(_damaged(rng, path.read_bytes()))
    return path, ()


def prisma_attributes(rng: np.random.Generator, folder: Path) -> Spoilt:
    """A PRISMA file with rubbish attributes, or cubes that promise too much."""
    path = folder / "scene.he5"
    if rng.random() < 0.2:
        _prisma(path, (200_000, 60, 200_000))
        return path, ("bands", "lines", "samples")
    _prisma(path)
    with h5py.File(path, "r+") as file:
        key = str(rng.choice(sorted(file.attrs)))
        wild = (
            np.nan,
            np.inf,
            -1e308,
            0,
            "text",
            np.zeros(0),
            np.zeros((3, 3)),
            b"\xff\xfe",
            [1e30] * 4,
            2**62,
        )
        file.attrs[key] = wild[rng.integers(len(wild))]
    return path, (key,)


BAND_FIELDS = ("wavelengthCenterOfBand", "FWHMOfBand", "GainOfBand", "OffsetOfBand")


def metadata(rng: np.random.Generator, folder: Path) -> Spoilt:
    """An EnMAP product with a damaged XML, or one that expands without end."""
    geotiff(folder / "ENMAP01_L2A-SPECTRAL_IMAGE.TIF")
    band = (
        "<bandID><wavelengthCenterOfBand>{}</wavelengthCenterOfBand><FWHMOfBand>{}</FWHMOfBand>"
        "<GainOfBand>{}</GainOfBand><OffsetOfBand>{}</OffsetOfBand></bandID>"
    )
    values = [["550", "10", "0.0001", "0"] for _ in range(4)]
    damaged: tuple[str, ...] = ()
    if rng.random() < 0.5:
        field = rng.integers(4)
        values[rng.integers(4)][field] = str(rng.choice(NUMBERS)).replace("\0", "")
        damaged = (BAND_FIELDS[field],)
    head = ""
    if rng.random() < 0.1:
        entities = "".join(f'<!ENTITY e{k} "{f"&e{k - 1};" * 10}">' for k in range(1, 12))
        head = f'<!DOCTYPE x [<!ENTITY e0 "0123456789">{entities}<!ENTITY f SYSTEM "file:///etc/passwd">]>'
        values[0][0] = str(rng.choice(["&e11;", "&f;"]))
    bands = "".join(band.format(*each) for each in values)
    raw = f"{head}<a><bandCharacterisation>{bands}</bandCharacterisation></a>".encode()
    path = folder / "ENMAP01_L2A-METADATA.XML"
    if head or rng.random() < 0.4:
        damaged, raw = (), raw if head else _damaged(rng, raw)
    path.write_bytes(raw)
    return path, damaged


def rubbish(rng: np.random.Generator, folder: Path) -> Spoilt:
    """Bytes of no format at all, or of the first bytes of one."""
    starts = (
        b"",
        b"II*\0",
        b"MM\0*",
        b"\x89HDF\r\n\x1a\n",
        b"ENVI\n",
        b"CDF\x01",
        b"<?xml",
        b"\xff\xd8\xff",
        b"PK\3\4",
    )
    suffix = str(rng.choice([".tif", ".img", ".hdr", ".he5", ".nc", "", ".jp2", ".png", ".vrt", ".zip"]))
    path = folder / f"scene{suffix}"
    path.write_bytes(starts[rng.integers(len(starts))] + rng.bytes(int(rng.integers(0, 3000))))
    return path, ()


KINDS: tuple[tuple[Spoil, int], ...] = (
    *(
        (envi_field, 700),
        (envi_lost, 100),
        (envi_map, 250),
        (envi_bomb, 60),
        (envi_link, 40),
        (envi_bytes, 250),
    ),
    *((tiff_bytes, 250), (tiff_tags, 120), (tiff_bomb, 20), (vrt, 100)),
    *((prisma_bytes, 100), (prisma_attributes, 60), (metadata, 100), (rubbish, 100)),
)
"""What is done to files, and to how many."""
COUNT = sum(count for _, count in KINDS)


def spoiled(number: int, folder: Path) -> tuple[str, Path, tuple[str, ...]]:
    """Make malformed file `number` in an empty folder: the kind, what to read, and the damaged fields."""
    rng, left = np.random.default_rng((SEED, number)), number
    for kind, count in KINDS:
        if left < count:
            return (kind.__name__, *kind(rng, folder))
        left -= count
    raise IndexError(number)


def shuffled(count: int) -> list[int]:
    """So many of all numbers, of every kind its share."""
    return [int(k) for k in np.random.default_rng(SEED).permutation(COUNT)[:count]]
