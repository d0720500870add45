"""Products, as files made here by their documented structure: no real one was at hand."""

from __future__ import annotations

import shutil
import warnings
from datetime import UTC, datetime

import h5py
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from hsi_fuse.acquisition import acquired
from hsi_fuse.errors import HsiFuseWarning, ReadError
from hsi_fuse.read import open_guide, read_hsi
from hsi_fuse.read.recognise import describe

ROWS, COLUMNS = 11, 9
TAKEN = datetime(2022, 7, 24, 10, 45, 26, tzinfo=UTC)
VNIR = np.array([0.0, 990, 930, 700, 450])
SWIR = np.array([2400.0, 1600, 1020, 950, 0])


def prisma(path, *, centred=True, **spoil):
    """A PRISMA L2D file; bands of wavelength 0 are empty; stored is 1000 row + 100 column + band."""
    attributes = {
        "List_Cw_Vnir": VNIR, "List_Cw_Swir": SWIR,
        "List_Fwhm_Vnir": np.where(VNIR, 12.0, 0), "List_Fwhm_Swir": np.where(SWIR, 10.0, 0),
        "L2ScaleVnirMin": 0.0, "L2ScaleVnirMax": 1.2, "L2ScaleSwirMin": -0.1, "L2ScaleSwirMax": 0.9,
        "Epsg_Code": 32632,
        "Product_ULcorner_easting": 500000.0, "Product_ULcorner_northing": 5000000.0,
        "Product_LRcorner_easting": 500000.0 + 30 * (COLUMNS - centred),
        "Product_LRcorner_northing": 5000000.0 - 30 * (ROWS - centred),
    }  # fmt: skip
    stored = {}
    with h5py.File(path, "w") as file:
        for name, value in {**attributes, **spoil}.items():
            if value is not None:
                file.attrs[name] = value
        for name, wavelengths in (("VNIR", VNIR), ("SWIR", SWIR)):
            row, band, column = np.mgrid[:ROWS, : len(wavelengths), :COLUMNS]
            cube = (1000 * row + 100 * column + 10 * band + 1).astype("u2") * (wavelengths > 0)[None, :, None]
            cube[2, :, 3] = 0  # outside the swath
            stored[name] = cube
            file.create_dataset(f"HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/{name}_Cube", data=cube.astype("u2"))
    return path, stored


def taken_at(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return acquired(describe(path).tags)


def files_of(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return set(describe(path).files)


def test_prisma_tells_when_it_was_taken(tmp_path):
    path, _ = prisma(tmp_path / "p.he5", Product_StartTime=b"2022-07-24T10:45:26.123456")
    assert taken_at(path).replace(microsecond=0) == TAKEN
    assert files_of(path) == {path}
    assert taken_at(prisma(tmp_path / "q.he5")[0]) is None


def test_prisma_bands_come_sorted_and_scaled_by_their_detector(tmp_path):
    path, stored = prisma(tmp_path / "p.he5")
    with pytest.warns(HsiFuseWarning, match="different gains"):
        raster = read_hsi(path)
    np.testing.assert_array_equal(raster.wavelengths_nm, [450, 700, 930, 990, 950, 1020, 1600, 2400])
    np.testing.assert_array_equal(raster.fwhm_nm, [12.0] * 4 + [10.0] * 4)
    vnir = stored["VNIR"][:, [4, 3, 2, 1]].transpose(1, 0, 2) * 1.2 / 65535
    swir = stored["SWIR"][:, [3, 2, 1, 0]].transpose(1, 0, 2) / 65535 - 0.1
    expected = np.concatenate([vnir, swir])
    np.testing.assert_allclose(raster.values[:, raster.valid], expected[:, raster.valid], rtol=1e-6)
    assert np.argwhere(~raster.valid).tolist() == [[2, 3]]


@pytest.mark.parametrize("centred", [True, False])
def test_prisma_lies_where_its_corners_say(tmp_path, centred):
    path, _ = prisma(tmp_path / "p.he5", centred=centred)
    with pytest.warns(HsiFuseWarning, match="different gains"):
        grid = read_hsi(path).grid
    half = 15 if centred else 0
    assert grid.transform == Affine(30, 0, 500000 - half, 0, -30, 5000000 + half)
    assert (grid.crs.to_epsg(), grid.shape) == (32632, (ROWS, COLUMNS))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"List_Cw_Swir": None}, "List_Cw_Swir is missing"),
        ({"List_Cw_Vnir": VNIR[:3]}, "List_Cw_Vnir"),
        ({"L2ScaleVnirMax": np.nan}, "L2ScaleVnirMax"),
        ({"L2ScaleSwirMax": -0.2}, "L2ScaleSwirMax"),
        ({"Epsg_Code": 1}, "no coordinate system"),
        ({"Product_LRcorner_easting": 9e9}, "Product_LRcorner"),
    ],
)
def test_prisma_that_makes_no_sense_names_the_field(tmp_path, spoil, message):
    with pytest.raises(ReadError, match=message):
        read_hsi(prisma(tmp_path / "p.he5", **spoil)[0])


def test_prisma_of_another_level_is_refused_by_name(tmp_path):
    with h5py.File(tmp_path / "p.he5", "w") as file:
        file.create_group("HDFEOS/SWATHS/PRS_L1_HCO")
    with pytest.raises(ReadError, match=r"PRS_L1_HCO.*L2D"):
        read_hsi(tmp_path / "p.he5")


def emit(path):
    """An EMIT file whose table turns the swath: stored is 100 downtrack + crosstrack + band / 10."""
    down, across, bands = 12, 10, 5
    d, a, b = np.mgrid[:down, :across, :bands]
    cube = (100 * d + a + b / 10).astype("f4")
    cube[4, 4] = -9999
    y, x = np.mgrid[:15, :13]
    glt_x, glt_y = (x + y) // 2 - 1, (y - x) // 2 + 5  # crosstrack, downtrack from 1
    outside = (glt_x < 1) | (glt_x > across) | (glt_y < 1) | (glt_y > down)
    with h5py.File(path, "w") as file:
        file.create_dataset("reflectance", data=cube).attrs["_FillValue"] = np.float32(-9999)
        file["sensor_band_parameters/wavelengths"] = np.linspace(381, 2493, bands).astype("f4")
        file["sensor_band_parameters/fwhm"] = np.full(bands, 8.5, "f4")
        file["sensor_band_parameters/good_wavelengths"] = np.array([1, 1, 0, 1, 1], "u1")
        file["location/glt_x"] = np.where(outside, 0, glt_x).astype("i4")
        file["location/glt_y"] = np.where(outside, 0, glt_y).astype("i4")
        file.attrs["geotransform"] = [-115.9, 5.4e-4, 0, 33.4, 0, -5.4e-4]
        file.attrs["time_coverage_start"] = "2022-07-24T10:45:26+0000"
        file.attrs["spatial_ref"] = CRS.from_epsg(4326).to_wkt()
    return path, cube, np.where(outside, 0, glt_x), np.where(outside, 0, glt_y)


def test_emit_is_laid_on_its_map_by_the_lookup_table(tmp_path):
    path, cube, glt_x, glt_y = emit(tmp_path / "e.nc")
    raster = read_hsi(path)
    assert acquired(raster.tags) == TAKEN
    assert raster.grid.shape == (15, 13)
    assert raster.grid.transform == Affine(5.4e-4, 0, -115.9, 0, -5.4e-4, 33.4)
    assert raster.grid.crs.to_epsg() == 4326
    assert raster.good_bands.tolist() == [True, True, False, True, True]
    np.testing.assert_allclose(raster.wavelengths_nm, np.linspace(381, 2493, 5), rtol=1e-6)
    for row, column in np.ndindex(15, 13):
        x, y = glt_x[row, column], glt_y[row, column]
        there = x > 0 and cube[y - 1, x - 1, 0] != -9999
        assert raster.valid[row, column] == there
        if there:
            np.testing.assert_array_equal(raster.values[:, row, column], cube[y - 1, x - 1])


def test_a_part_of_emit_is_the_part_of_the_whole(tmp_path):
    path = emit(tmp_path / "e.nc")[0]
    whole = read_hsi(path)
    west, north = whole.grid.transform * (4, 6)
    east, south = whole.grid.transform * (11, 13)
    part = read_hsi(path, bounds=(west, south, east, north))
    np.testing.assert_array_equal(part.values, whole.values[:, 6:13, 4:11])
    np.testing.assert_array_equal(part.valid, whole.valid[6:13, 4:11])
    assert part.grid.transform.almost_equals(whole.grid.transform * Affine.translation(4, 6), 1e-12)


@pytest.mark.parametrize("lost", ["location/glt_x", "sensor_band_parameters/fwhm", "geotransform"])
def test_incomplete_emit_names_what_is_missing(tmp_path, lost):
    path = emit(tmp_path / "e.nc")[0]
    with h5py.File(path, "r+") as file:
        if lost in file:
            del file[lost]
        else:
            del file.attrs[lost]
    with pytest.raises(ReadError, match=lost):
        read_hsi(path)


BAND = {
    "enmap": "<bandID number='{k}'><wavelengthCenterOfBand>{w}</wavelengthCenterOfBand>"
    "<FWHMOfBand>6.5</FWHMOfBand><GainOfBand>0.0001</GainOfBand><OffsetOfBand>0</OffsetOfBand></bandID>",
    "desis": "<band><bandNumber>{k}</bandNumber><wavelengthCenterOfBand>{w}</wavelengthCenterOfBand>"
    "<wavelengthWidthOfBand>3.5</wavelengthWidthOfBand><gainOfBand>0.0001</gainOfBand>"
    "<offsetOfBand>0.0</offsetOfBand></band>",
}
NAMES = {
    "enmap": "ENMAP01-____L2A-DT0000001867_20220724T104526Z_008",
    "desis": "DESIS-HSI-L2A-DT0839438896_004",
}


def dlr_product(folder, kind, wavelengths=(423.0, 560.0, 860.0, 1650.0)):
    image = folder / f"{NAMES[kind]}-SPECTRAL_IMAGE.TIF"
    stored = (np.arange(4 * 6 * 7).reshape(4, 6, 7) * 50 - 300).astype("i2")
    stored[:, 0, 0] = -32768
    profile = {"driver": "GTiff", "count": 4, "height": 6, "width": 7, "dtype": "int16", "crs": "EPSG:32633"}
    with rasterio.open(image, "w", **profile, transform=Affine(30, 0, 3.6e5, 0, -30, 5.8e6)) as file:
        file.write(stored)
    bands = "".join(BAND[kind].format(k=k + 1, w=w) for k, w in enumerate(wavelengths))
    xml = folder / f"{NAMES[kind]}-METADATA.{'XML' if kind == 'enmap' else 'xml'}"
    xml.write_text(
        "<level_X><base><temporalCoverage><startTime>2022-07-24T10:45:26.000Z</startTime></temporalCoverage></base>"
        f"<specific><bandCharacterisation>{bands}</bandCharacterisation><interiorOrientation>"
        "<band><x>1</x></band></interiorOrientation></specific></level_X>"
    )
    return image, xml, stored


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("named", ["folder", "xml", "image"])
def test_enmap_and_desis_take_bands_and_scaling_from_their_xml(tmp_path, kind, named):
    image, xml, stored = dlr_product(tmp_path, kind)
    path = {"folder": tmp_path, "xml": xml, "image": image}[named]
    raster = read_hsi(path)
    assert acquired(raster.tags) == TAKEN
    assert files_of(path) == {image, xml}
    np.testing.assert_array_equal(raster.wavelengths_nm, [423, 560, 860, 1650])
    assert raster.fwhm_nm[0] == (6.5 if kind == "enmap" else 3.5)
    assert (raster.encoding.dtype, raster.encoding.scale, raster.encoding.nodata) == ("int16", 1e-4, -32768)
    assert np.argwhere(~raster.valid).tolist() == [[0, 0]]
    np.testing.assert_allclose(raster.values[:, raster.valid], stored[:, raster.valid] * 1e-4, rtol=1e-6)


def test_half_a_product_is_told(tmp_path):
    image, xml, _ = dlr_product(tmp_path, "enmap", wavelengths=(423.0, 560.0))
    with pytest.raises(ReadError, match=r"describes 2 bands, but .* has 4"):
        read_hsi(xml)
    xml.write_text("<level_X><specific>")
    with pytest.raises(ReadError, match="cannot read"):
        read_hsi(tmp_path)
    image.unlink()
    with pytest.raises(ReadError, match=r"no image beside it.*SPECTRAL_IMAGE"):
        read_hsi(xml)


def test_an_xml_never_says_where_the_pixels_lie(tmp_path):
    """A name inside the metadata could point anywhere; only the file beside it counts."""
    image, xml, _ = dlr_product(tmp_path, "desis")
    xml.write_text(xml.read_text().replace("<specific>", "<specific><name>/etc/passwd</name>"))
    assert read_hsi(xml).bands == 4
    image.rename(tmp_path / "elsewhere.tif")
    with pytest.raises(ReadError, match="no image beside it"):
        read_hsi(xml)


METADATA = """<n1:Level-2A_User_Product xmlns:n1="x"><n1:General_Info><Product_Info><Datatake>
<DATATAKE_SENSING_START>2022-07-24T10:45:26.000Z</DATATAKE_SENSING_START></Datatake></Product_Info><QUANTIFICATION_VALUES_LIST>
<AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE>
<BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>
<BOA_ADD_OFFSET_VALUES_LIST><BOA_ADD_OFFSET band_id="1">-1000</BOA_ADD_OFFSET>
<BOA_ADD_OFFSET band_id="2">-1000</BOA_ADD_OFFSET><BOA_ADD_OFFSET band_id="3">-1000</BOA_ADD_OFFSET>
<BOA_ADD_OFFSET band_id="7">-500</BOA_ADD_OFFSET></BOA_ADD_OFFSET_VALUES_LIST></n1:General_Info>
</n1:Level-2A_User_Product>"""
SAFE = "S2A_MSIL2A_20220724T101559_N0400_R065_T33UUU_20220724T163357.SAFE"


def single_band(path, stored, size=10.0):
    driver = "JP2OpenJPEG" if path.suffix == ".jp2" else "GTiff"
    lossless = {"quality": 100, "reversible": True} if driver == "JP2OpenJPEG" else {}
    shape = {"count": 1, "height": stored.shape[0], "width": stored.shape[1], "dtype": stored.dtype}
    place = {"crs": "EPSG:32633", "transform": Affine(size, 0, 3.6e5, 0, -size, 5.8e6)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver=driver, **shape, **place, **lossless) as file:
        file.write(stored, 1)


@pytest.fixture
def safe(tmp_path):
    """A SAFE folder of level 2A and the stored numbers of its 10 m bands."""
    folder = tmp_path / SAFE / "GRANULE" / "L2A_T33UUU_A037017_20220724T101953" / "IMG_DATA"
    rng = np.random.default_rng(0)
    stored = {}
    for name in ("B02", "B03", "B04", "B08", "AOT", "WVP"):
        stored[name] = rng.integers(1000, 5000, (40, 40)).astype("u2")
        stored[name][:2] = 0
        single_band(folder / "R10m" / f"T33UUU_20220724T101559_{name}_10m.jp2", stored[name])
    single_band(folder / "R20m" / "T33UUU_20220724T101559_B05_20m.jp2", stored["B02"][:20, :20], 20.0)
    (tmp_path / SAFE / "MTD_MSIL2A.xml").write_text(METADATA)
    return tmp_path / SAFE, stored


@pytest.mark.parametrize("named", ["", "GRANULE/*", "GRANULE/*/IMG_DATA", "GRANULE/*/IMG_DATA/R10m"])
def test_sentinel_2_is_one_reference_of_four_bands_its_offset_applied(safe, named):
    folder, stored = safe
    guide = open_guide(next(folder.glob(named)) if named else folder)
    assert (guide.bands, guide.band_names, guide.dtype) == (4, ("B02", "B03", "B04", "B08"), "uint16")
    assert guide.grid.gsd_m == 10
    window = guide.read(0, 0, 40, 40)
    assert not window.valid[:2].any()
    assert window.valid[2:].all()
    for k, (name, offset) in enumerate((("B02", 1000), ("B03", 1000), ("B04", 1000), ("B08", 500))):
        expected = (stored[name][2:].astype(float) - offset) / 1e4
        np.testing.assert_allclose(window.values[k, 2:], expected, atol=1e-6)
    assert window.wavelengths_nm.tolist() == [492.5, 559.5, 664.8, 832.9]
    assert acquired(window.tags) == TAKEN
    bands = {next(folder.rglob(f"*_{name}_10m.jp2")) for name in guide.band_names}
    assert set(guide.source.files) == {*bands, folder / "MTD_MSIL2A.xml"}


def test_sentinel_2_without_metadata_or_band_says_so(safe):
    folder, _ = safe
    (folder / "MTD_MSIL2A.xml").write_text("<a>")
    with pytest.raises(ReadError, match="QUANTIFICATION_VALUE"):
        open_guide(folder)
    (folder / "MTD_MSIL2A.xml").unlink()
    with pytest.warns(HsiFuseWarning, match="used as they are"):
        open_guide(folder)
    next(folder.rglob("*_B08_10m.jp2")).unlink()
    with pytest.raises(ReadError, match="one each of B02, B03, B04, B08"):
        open_guide(folder)
    shutil.rmtree(folder / "GRANULE")
    with pytest.raises(ReadError, match="no 10 m bands"):
        open_guide(folder)


def test_a_folder_of_single_bands_is_one_reference_in_natural_order(tmp_path):
    bands = {name: np.full((8, 8), k + 1, "u2") for k, name in enumerate(("B10", "B2", "B9"))}
    for name, stored in bands.items():
        single_band(tmp_path / f"LC09_{name}.TIF", stored)
    single_band(tmp_path / "LC09_pan_coarse.tif", np.full((4, 4), 9, "u2"), 20.0)
    with pytest.warns(HsiFuseWarning, match=r"LC09_pan_coarse\.tif have larger pixels"):
        guide = open_guide(tmp_path)
    assert guide.band_names == ("LC09_B2", "LC09_B9", "LC09_B10")
    assert set(guide.source.files) == {tmp_path / f"LC09_{name}.TIF" for name in bands}
    assert guide.read(0, 0, 8, 8).values[:, 3, 3].tolist() == [2, 3, 1]


def test_a_folder_that_is_no_one_image_is_refused(tmp_path):
    with pytest.raises(ReadError, match="is a folder that holds no"):
        open_guide(tmp_path)
    single_band(tmp_path / "a.tif", np.full((8, 8), 1, "u2"))
    single_band(tmp_path / "b.tif", np.full((8, 9), 1, "u2"))
    with pytest.raises(ReadError, match="different grids"):
        open_guide(tmp_path)
    with rasterio.open(tmp_path / "b.tif", "w", driver="GTiff", count=3, height=8, width=8, dtype="uint8"):
        pass
    with pytest.raises(ReadError, match=r"several bands \(b\.tif\)"):
        open_guide(tmp_path)
