"""Outputs: the same numbers back through our reader and through others'."""

import hashlib
import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import spectral.io.envi
from affine import Affine
from rasterio.crs import CRS
from written import INT16, NAMES, UPRIGHT, UTM, rows_of, same, scene, write

from hsi_fuse.errors import HsiFuseWarning, WriteError
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Encoding
from hsi_fuse.read import read_hsi
from hsi_fuse.write import write_cube, write_image
from hsi_fuse.write.encode import Encoder

DATA = Path(os.environ.get("HSI_FUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"real scenes not found in {DATA}")


@pytest.mark.parametrize("driver", ["GTiff", "ENVI", "COG"])
@pytest.mark.parametrize(
    "encoding",
    [
        INT16,
        Encoding("int16", 2e-4, 0.5, -32768),
        Encoding("uint16", 1e-4, -0.1, 65535),
        Encoding("int32", 0.25, 0.0, -9999),
        Encoding("float32", 1.0, 0.0, -3.4028234663852886e38),
        Encoding("float32", 1.0, 0.0, -9999),
        Encoding("float64", 1.0, 0.0, float("nan")),
    ],
    ids=str,
)
def test_cube_comes_back_as_it_was(tmp_path, driver, encoding):
    raster = scene(encoding=encoding)
    summary = write(tmp_path, raster, driver)
    back = read_hsi(summary.paths[-1])
    same(back, raster)
    assert repr(back.encoding) == repr(replace(encoding, nodata=float(encoding.nodata)))
    assert summary.clipped == 0
    assert summary.nodata_fraction == pytest.approx(35 / 1200)


@pytest.mark.parametrize("driver", ["GTiff", "ENVI"])
@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (UTM, Affine.translation(500_000, 4e6) * Affine.rotation(53) * Affine.scale(3.1, -3.1)),
        (UTM, Affine.translation(500_000, 4e6) * Affine.rotation(-120) * Affine.scale(2, -3)),
        (CRS.from_epsg(4326), Affine(1e-4, 0, 13.25, 0, -2e-4, 52.5)),
        (CRS.from_epsg(3035), Affine(10, 0, 4_321_000, 0, -10, 3_210_000)),
        (CRS.from_epsg(32733), Affine(2, 0, 500_000, 0, -2, 6_000_000)),
        (UTM, Affine(2, 0, 500_000, 0, 2, 4_000_000)),
        (None, Affine(2, 0, 5, 0, -2, 7)),
        (None, Affine.identity()),
        (None, Affine.scale(0.25)),
    ],
)
def test_every_kind_of_grid_comes_back(tmp_path, driver, crs, transform):
    raster = scene(crs=crs, transform=transform)
    same(read_hsi(write(tmp_path, raster, driver).paths[0]), raster)


def test_envi_refuses_a_sheared_grid(tmp_path):
    with pytest.raises(WriteError, match="sheared"):
        write(tmp_path, scene(transform=Affine(2, 0.5, 0, 0, -2, 0)), "ENVI")
    assert not list(tmp_path.iterdir())


def test_envi_is_readable_by_spectral_and_by_gdal(tmp_path):
    raster = scene()
    data, header = write(tmp_path, raster, "ENVI").paths
    image = spectral.io.envi.open(str(header), str(data))
    assert image.bands.band_unit == "Nanometers"
    np.testing.assert_allclose(image.bands.centers, raster.wavelengths_nm)
    pixels = np.asarray(image.load()).transpose(2, 0, 1)  # spectral divides by the factor
    np.testing.assert_allclose(pixels[:, raster.valid][0], raster.values[0, raster.valid], atol=1e-7)
    with rasterio.open(data) as file:
        assert (file.nodata, file.crs, file.transform) == (-9999, UTM, UPRIGHT)
        np.testing.assert_allclose(
            file.read(1)[raster.valid] * 1e-4, raster.values[0, raster.valid], atol=1e-7
        )


def test_geotiff_says_everything_where_others_look(tmp_path):
    (path,) = write(tmp_path, scene()).paths
    assert [f.name for f in tmp_path.iterdir()] == ["o.tif"]
    with rasterio.open(path) as file:
        assert file.block_shapes[0] == (256, 256)
        assert (file.profile["interleave"], file.profile["compress"]) == ("band", "deflate")
        assert (file.nodata, file.scales[0], file.dtypes[0], file.crs) == (-9999, 1e-4, "int16", UTM)
        assert file.descriptions == tuple("abcdef")
        assert file.tags(3) == {
            "wavelength": "650", "wavelength_units": "Nanometers", "fwhm": "6", "bbl": "0",
        }  # fmt: skip
        assert file.tags(1, ns="IMAGERY") == {"CENTRAL_WAVELENGTH_UM": "0.450123456", "FWHM_UM": "0.0055"}


def test_file_does_not_depend_on_the_block_size_or_the_day(tmp_path):
    raster = scene(height=300)
    digests = set()
    for block_rows in (None, 7, 300):
        summary = write(tmp_path, raster, block_rows=block_rows, overwrite=True)
        digests.add(hashlib.sha256(summary.paths[0].read_bytes()).hexdigest())
    assert len(digests) == 1


def test_file_does_not_depend_on_the_number_of_threads(tmp_path, monkeypatch):
    """On two of them, tiles of several rows and bands are compressed at a time; overviews too."""
    raster, hashes = scene(700, 1100), []
    for threads in (1, 2, 3):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        (path,) = write(tmp_path, raster, overwrite=True).paths
        hashes.append(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(set(hashes)) == 1


def test_rows_are_asked_for_once_in_order_and_reported(tmp_path):
    raster, asked, told = scene(height=300), [], []

    def rows(start, stop):
        asked.append((start, stop))
        return rows_of(raster)(start, stop)

    write_cube(
        tmp_path / "o.tif", rows, raster.grid, raster, block_rows=100, on_rows=lambda *done: told.append(done)
    )
    assert asked == [(0, 100), (100, 200), (200, 256), (256, 300)]
    assert told == [(stop, 300) for _, stop in asked]


def test_large_images_get_overviews_and_small_ones_do_not(tmp_path):
    large = scene(height=20, width=1400)
    with rasterio.open(write(tmp_path, large).paths[0]) as file:
        assert file.overviews(1) == [4, 8]
    with rasterio.open(write(tmp_path, scene(), overwrite=True).paths[0]) as file:
        assert file.overviews(1) == []


def test_creation_options_win_over_the_defaults(tmp_path):
    summary = write(tmp_path, scene(), creation_options={"compress": "ZSTD"})
    with rasterio.open(summary.paths[0]) as file:
        assert file.profile["compress"] == "zstd"


def test_tags_of_the_old_pixel_grid_are_dropped(tmp_path):
    raster = replace(scene(), tags={"x start": "12", "pixel size": "{2, 2}", "sensor type": "Test"})
    assert read_hsi(write(tmp_path, raster, "ENVI").paths[1]).tags == {"sensor type": "Test"}


@pytest.mark.parametrize(
    ("encoding", "value", "stored", "clipped"),
    [
        (Encoding("int16", 1e-4, 0, -9999), 0.12346, 1235, 0),  # rounds, not truncates
        (Encoding("int16", 1e-4, 0, -9999), -0.12346, -1235, 0),
        (Encoding("int16", 1e-4, 0, -9999), 99.0, 32767, 1),
        (Encoding("int16", 1e-4, 0, -9999), float("inf"), 32767, 1),
        (Encoding("int16", 1e-4, 0, -32768), -99.0, -32767, 1),  # not onto nodata
        (Encoding("int16", 1e-4, 0, -9999), -0.99994, -10000, 1),  # -9999.4: the nearer neighbour of nodata
        (Encoding("int16", 1e-4, 0, -9999), -0.99986, -9998, 1),
        (Encoding("int16", 1e-4, 0, -9999), -0.99981, -9998, 0),
        (Encoding("uint16", 1e-4, 0, 0), -0.5, 1, 1),
        (Encoding("uint8", 1, 0, 255), 255.0, 254, 1),
        (Encoding("int64", 1, 0, -1), 1e30, 2**63 - 1, 1),
        (Encoding("uint64", 1, 0, 0), 1e30, 2**64 - 1, 1),
        (Encoding("float32", 1, 0, -9999.0), -9999.0, np.nextafter(np.float32(-9999), np.float32(np.inf)), 1),
        (Encoding("float32", 1, 0, None), 1.5, 1.5, 0),
    ],
)
def test_values_that_do_not_fit_are_moved_and_counted(encoding, value, stored, clipped):
    out, count = Encoder.of(encoding)(np.array([value], np.float32))
    assert (out[0], count) == (stored, clipped)
    assert out.dtype == encoding.dtype


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "int64", "uint64", "float32", "float64"]
)
def test_nan_always_becomes_the_nodata_number(dtype):
    encoder = Encoder.of(Encoding(dtype))
    out, clipped = encoder(np.array([np.nan, 1], np.float32))
    np.testing.assert_array_equal(out[0].astype(float), float(encoder.encoding.nodata))
    assert (out[1], clipped) == (1, 0)


@pytest.mark.parametrize("driver", ["GTiff", "ENVI"])
def test_missing_pixels_without_a_nodata_number_get_a_declared_one(tmp_path, driver):
    raster = scene(encoding=Encoding("uint16", 1e-4, -0.1))
    with pytest.warns(HsiFuseWarning, match="65535"):
        summary = write(tmp_path, raster, driver)
    back = read_hsi(summary.paths[0])
    assert back.encoding.nodata == summary.encoding.nodata == 65535
    np.testing.assert_array_equal(back.valid, raster.valid)


def test_no_nodata_is_declared_where_nothing_is_missing(tmp_path):
    raster = scene(encoding=Encoding("int16", 1e-4))
    full = np.abs(raster.values) + np.float32(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", HsiFuseWarning)
        summary = write_cube(tmp_path / "o.tif", lambda a, b: full[:, a:b], raster.grid, raster)
    with rasterio.open(summary.paths[0]) as file:
        assert file.nodata is None
    assert summary.nodata_fraction == 0


def test_side_products_open_by_themselves(tmp_path):
    grid = Grid(UTM, UPRIGHT, 4, 3)
    valid = np.ones((3, 4), bool)
    valid[0, 0] = False
    rgb = np.full((3, 3, 4), 7, np.uint8)
    write_image(tmp_path / "rgb.tif", rgb, grid, valid=valid)
    with rasterio.open(tmp_path / "rgb.tif") as file:
        assert [c.name for c in file.colorinterp] == ["red", "green", "blue"]
        np.testing.assert_array_equal(file.dataset_mask() > 0, valid)
        assert file.crs == UTM
    shift = np.ones((2, 3, 4), np.float32)
    write_image(tmp_path / "d.tif", shift, grid, valid=valid, descriptions=("east (m)", "north (m)"))
    with rasterio.open(tmp_path / "d.tif") as file:
        assert file.descriptions == ("east (m)", "north (m)")
        np.testing.assert_array_equal(np.isnan(file.read()), np.broadcast_to(~valid, shift.shape))
    with pytest.raises(WriteError, match="do not fit"):
        write_image(tmp_path / "x.tif", rgb[:, :2], grid)


@needs_data
@pytest.mark.parametrize("driver", ["GTiff", "ENVI"])
@pytest.mark.parametrize(
    "name",
    [
        "dlr_hysu_hyspex_3k/DLR_HySU_HS_full.hdr",
        "enmap_potsdam_south/enmap_potsdam_south.tif",
        "envi_small/ang20140912t192359_corr_v1c_img_2580-2590_540-550.hdr",
    ],
)
def test_real_scenes_survive_the_round_trip(tmp_path, driver, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HsiFuseWarning)
        raster = read_hsi(DATA / name)
        values = np.where(raster.valid, raster.values, np.float32(np.nan))
        summary = write_cube(
            tmp_path / NAMES[driver], lambda a, b: values[:, a:b], raster.grid, raster, driver=driver
        )
        back = read_hsi(summary.paths[0])
    np.testing.assert_array_equal(back.values, np.where(raster.valid, raster.values, 0))
    np.testing.assert_array_equal(back.valid, raster.valid)
    np.testing.assert_array_equal(back.good_bands, raster.good_bands)
    np.testing.assert_allclose(back.wavelengths_nm, raster.wavelengths_nm)
    assert back.grid.crs == raster.grid.crs
    assert back.grid.transform.almost_equals(raster.grid.transform, 1e-6)
