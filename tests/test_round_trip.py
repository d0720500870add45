"""Round trips by properties: what any storage holds is read, written and read again unchanged."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import WktVersion
from spectral.io import envi as spectral_envi

from hsi_fuse.errors import HsiFuseWarning
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Raster
from hsi_fuse.read import read_hsi
from hsi_fuse.subspace import upsample
from hsi_fuse.write import write_cube

CODES = {"u1": 1, "i2": 2, "i4": 3, "f4": 4, "f8": 5, "u2": 12, "u4": 13, "i8": 14, "u8": 15}
AXES = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}
PLACES = {32632: (5e5, 5e6, 30.0), 4326: (9.5, 45.25, 3e-4), 3857: (1e6, 6e6, 0.7)}
quick = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@dataclass(frozen=True)
class Scene:
    """An ENVI image in some storage."""

    dtype: str
    interleave: str
    order: int
    offset: int
    suffix: str
    nodata: str
    scaling: str
    epsg: int | None
    rotation: float
    reference: tuple[float, float]
    shape: tuple[int, int, int]
    unit: str
    flagged: int
    unsorted: bool
    seed: int


scenes = st.builds(
    Scene,
    dtype=st.sampled_from(sorted(CODES)),
    interleave=st.sampled_from(sorted(AXES)),
    order=st.integers(0, 1),
    offset=st.sampled_from([0, 1, 512]),
    suffix=st.sampled_from(["", ".img", ".dat", ".bsq", ".raw"]),
    nodata=st.sampled_from(["none", "value", "zero", "nan"]),
    scaling=st.sampled_from(["none", "factor", "gains"]),
    epsg=st.sampled_from([None, *PLACES]),
    rotation=st.sampled_from([0.0, 0.0, 53.0, -66.25, 180.0, 12.345678]),
    reference=st.sampled_from([(1.0, 1.0), (1.5, 1.5), (4.0, 7.5)]),
    shape=st.tuples(st.integers(3, 7), st.integers(2, 6), st.integers(2, 7)),
    unit=st.sampled_from(["Nanometers", "Micrometers", "um"]),
    flagged=st.integers(0, 1),
    unsorted=st.booleans(),
    seed=st.integers(0, 10**6),
)


@dataclass(frozen=True)
class Made:
    """The file and what is true of it."""

    header: Path
    stored: np.ndarray
    missing: np.ndarray
    gain: float
    offset: float
    transform: Affine
    wavelengths_nm: np.ndarray
    nodata: float | None


def make(scene: Scene, folder: Path) -> Made:
    """Write a scene with numpy alone."""
    rng = np.random.default_rng(scene.seed)
    kind = np.dtype(scene.dtype)
    low, high = (1, 200) if kind.kind in "u" else (-200, 200)
    stored = rng.integers(low, high, scene.shape).astype(kind)
    stored[stored == 0] = 1
    if kind.kind == "f":
        stored += rng.random(scene.shape).astype(kind)
    bands, lines, samples = scene.shape
    missing = rng.random((lines, samples)) < 0.2
    missing[0, 0], missing[-1, -1] = True, False
    stored[:, -1, -1] += np.arange(bands).astype(kind)
    stored[:, -1, 0] = 7  # two values that differ: no band is constant
    missing[-1, 0] = False
    nodata = {"none": None, "value": 250.0, "zero": 0.0, "nan": np.nan if kind.kind == "f" else None}[
        scene.nodata
    ]
    if nodata is None:
        missing[:] = False
    else:
        stored[:, missing] = nodata
    nm = np.linspace(430, 2400, bands).round(2)
    nm = nm[::-1] if scene.unsorted else nm
    written = nm if scene.unit == "Nanometers" else nm / 1e3
    fields = {
        "samples": samples, "lines": lines, "bands": bands, "header offset": scene.offset,
        "file type": "ENVI Standard", "data type": CODES[scene.dtype], "interleave": scene.interleave,
        "byte order": scene.order, "wavelength units": scene.unit, "wavelength": listed(written),
        "fwhm": listed(np.full(bands, 5.0 if scene.unit == "Nanometers" else 0.005)),
        "bbl": listed([1 - (k < scene.flagged) for k in range(bands)]),
        "band names": listed([f"b{k}" for k in range(bands)]), "acquisition time": "2024-05-01T10:00:00Z",
    }  # fmt: skip
    gain, offset = {"none": (1.0, 0.0), "factor": (1e-4, 0.0), "gains": (0.02, -3.0)}[scene.scaling]
    if scene.scaling == "factor":
        fields["reflectance scale factor"] = "10000"
    if scene.scaling == "gains":
        fields["data gain values"], fields["data offset values"] = (
            listed([gain] * bands),
            listed([offset] * bands),
        )
    if nodata is not None:
        fields["data ignore value"] = nodata
    transform = Affine.identity()
    if scene.epsg is not None:
        east, north, size = PLACES[scene.epsg]
        x, y = scene.reference
        what = "Geographic Lat/Lon" if scene.epsg == 4326 else "UTM" if scene.epsg == 32632 else "Arbitrary"
        zone = [32, "North", "WGS-84"] if what == "UTM" else ["WGS-84"]
        info = [what, x, y, east, north, size, size, *zone, f"rotation={scene.rotation}"]
        fields["map info"] = listed(info)
        fields["coordinate system string"] = (
            "{" + CRS.from_epsg(scene.epsg).to_wkt(version=WktVersion.WKT1_ESRI) + "}"
        )
        turn = Affine.rotation(scene.rotation)
        transform = (
            Affine.translation(east, north)
            * turn
            * Affine.scale(size, -size)
            * Affine.translation(1 - x, 1 - y)
        )
    raw = stored.transpose(AXES[scene.interleave]).astype(kind.newbyteorder("<>"[scene.order]))
    (folder / f"scene{scene.suffix}").write_bytes(b"\xab" * scene.offset + raw.tobytes())
    header = folder / "scene.hdr"
    header.write_text("ENVI\n" + "".join(f"{key} = {value}\n" for key, value in fields.items()))
    return Made(header, stored, missing, gain, offset, transform, nm, nodata)


def listed(values: object) -> str:
    return "{" + ", ".join(str(value) for value in values) + "}"  # type: ignore[attr-defined]


def same_place(one: Affine, other: Affine, shape: tuple[int, int]) -> None:
    """Corners agree to 1e-6 pixel."""
    height, width = shape
    for corner in ((0, 0), (width, 0), (0, height), (width, height)):
        moved = ~one * (other * corner)
        assert np.hypot(moved[0] - corner[0], moved[1] - corner[1]) < 1e-6


@given(scenes, st.sampled_from(["GTiff", "ENVI"]))
@quick
@pytest.mark.filterwarnings("ignore::hsi_fuse.errors.HsiFuseWarning")
def test_any_storage_is_read_as_it_was_made_and_survives_writing(scene, driver):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = make(scene, folder)
        read = read_hsi(made.header)
        expected = (made.stored.astype(float) * made.gain + made.offset).astype(np.float32)
        np.testing.assert_array_equal(read.valid, ~made.missing)
        np.testing.assert_allclose(read.values[:, read.valid], expected[:, read.valid], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(read.wavelengths_nm, made.wavelengths_nm, rtol=1e-9)
        np.testing.assert_allclose(read.fwhm_nm, 5.0)
        assert read.good_bands.sum() == len(expected) - scene.flagged
        assert read.encoding.dtype == np.dtype(scene.dtype).name
        assert read.band_names == tuple(f"b{k}" for k in range(len(expected)))
        same_place(read.grid.transform, made.transform, read.grid.shape)
        if scene.epsg is not None:
            assert read.grid.crs == CRS.from_epsg(scene.epsg)

        written = folder / ("out.tif" if driver == "GTiff" else "out.img")
        product = np.where(read.valid, read.values, np.float32(np.nan))
        write_cube(written, lambda a, b: product[:, a:b], read.grid, read, driver=driver)
        again = read_hsi(written)
        assert again.encoding.dtype == read.encoding.dtype
        np.testing.assert_array_equal(again.valid, read.valid)
        assert_same_numbers(again, read)
        np.testing.assert_allclose(again.wavelengths_nm, read.wavelengths_nm, rtol=1e-9)
        np.testing.assert_allclose(again.fwhm_nm, read.fwhm_nm, rtol=1e-9)
        np.testing.assert_array_equal(again.good_bands, read.good_bands)
        assert again.band_names == read.band_names
        same_place(again.grid.transform, read.grid.transform, read.grid.shape)
        assert again.grid.crs == read.grid.crs
        assert {k.lower(): v for k, v in again.tags.items()}["acquisition time"] == "2024-05-01T10:00:00Z"
        if driver == "ENVI":
            theirs = spectral_envi.open(
                str(written.with_suffix(".hdr"))
            ).open_memmap()  # (y, x, band), unscaled
            assert theirs.dtype.newbyteorder("=") == np.dtype(scene.dtype)
            stored = theirs.transpose(2, 0, 1)[:, read.valid]
            # values are float32: beside an offset of 150 gains a float keeps 150 * 2**-24 of a gain
            limit = 0 if stored.dtype.kind in "iu" else 3e-5
            np.testing.assert_allclose(stored, made.stored[:, read.valid], rtol=0, atol=limit)


def assert_same_numbers(again: Raster, read: Raster) -> None:
    """To the last digit a float32 holds; integers are stored as the same integers."""
    np.testing.assert_allclose(again.values[:, read.valid], read.values[:, read.valid], rtol=2e-7, atol=1e-9)


grids = st.builds(
    lambda epsg, rotation, size: Grid(
        CRS.from_epsg(epsg),
        Affine.translation(*PLACES[epsg][:2])
        * Affine.rotation(rotation)
        * Affine.scale(PLACES[epsg][2] * size, -PLACES[epsg][2] * size),
        5,
        4,
    ),
    epsg=st.sampled_from(list(PLACES)),
    rotation=st.floats(-180, 180),
    size=st.sampled_from([1.0, 1 / 3, 7.123]),
)


@given(grids, st.integers(1, 12), st.sampled_from(["GTiff", "ENVI", "COG"]))
@quick
@pytest.mark.filterwarnings("ignore::hsi_fuse.errors.HsiFuseWarning")
def test_corners_of_a_product_are_those_of_the_image_at_every_ratio(grid, ratio, driver):
    fine = grid.refine(ratio)
    rng = np.random.default_rng(ratio)
    like = Raster(np.zeros((2, *fine.shape), np.float32), np.ones(fine.shape, bool), fine)
    values = rng.random((2, *fine.shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / ("out.img" if driver == "ENVI" else "out.tif")
        write_cube(path, lambda a, b: values[:, a:b], fine, like, driver=driver)
        read = read_hsi(path).grid
    assert read.crs == grid.crs
    for x, y in ((0, 0), (5, 0), (0, 4), (5, 4)):
        column, row = ~read.transform * (grid.transform * (x, y))
        assert abs(column - x * ratio) < 1e-6
        assert abs(row - y * ratio) < 1e-6


@pytest.mark.parametrize("rotation", [0.0, 37.0, -120.0])
@pytest.mark.parametrize("ratio", [1, 2, 3, 4, 5, 8])
def test_a_point_lies_where_it_lay(tmp_path, rotation, ratio):
    """Interpolation of one bright pixel, written and read again: its centre of mass is the same place."""
    grid = Grid(
        CRS.from_epsg(32632),
        Affine.translation(5e5, 5e6) * Affine.rotation(rotation) * Affine.scale(30, -30),
        17,
        15,
    )
    hsi = np.zeros((2, 15, 17), np.float32)
    hsi[:, 6, 9] = 1
    fine = upsample(torch.from_numpy(hsi), ratio).numpy()
    like = Raster(hsi, np.ones((15, 17), bool), grid)
    target = grid.refine(ratio)
    for name, driver in (("p.tif", "GTiff"), ("p.img", "ENVI")):
        write_cube(tmp_path / name, lambda a, b: fine[:, a:b], target, like, driver=driver)
        with pytest.warns(HsiFuseWarning, match="no wavelengths"):
            read = read_hsi(tmp_path / name)
        rows, columns = np.mgrid[: read.grid.height, : read.grid.width] + 0.5
        mass = read.values[0].astype(float)
        x, y = (float((mass * k).sum() / mass.sum()) for k in (columns, rows))
        column, row = ~grid.transform * (read.grid.transform * (x, y))
        assert abs(column - 9.5) < 1e-3
        assert abs(row - 6.5) < 1e-3
