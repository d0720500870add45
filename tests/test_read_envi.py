"""ENVI in every storage that the format knows, against numbers written by numpy alone."""

import itertools
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from hsi_fuse.errors import HsiFuseWarning, ReadError
from hsi_fuse.read import open_guide, read_hsi

DATA = Path(os.environ.get("HSI_FUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"real scenes not found in {DATA}")
TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
AXES = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}


def cube(bands=4, height=3, width=5):
    """Every value differs, all fit a byte."""
    return np.arange(bands * height * width).reshape(bands, height, width) + 1


def write_envi(
    folder, values, *, name="scene", suffix=".img", kind=4, interleave="bsq", order=0, offset=0, **fields
):
    """An ENVI pair; fields with _ for blanks, None to leave a default one out."""
    stored = values.transpose(AXES[interleave]).astype(("<", ">")[order] + TYPES[kind])
    (folder / (name + suffix)).write_bytes(b"\xff" * offset + stored.tobytes())
    bands, lines, samples = values.shape
    header = {
        "samples": samples, "lines": lines, "bands": bands, "header offset": offset,
        "file type": "ENVI Standard", "data type": kind, "interleave": interleave, "byte order": order,
        "wavelength units": "Nanometers", "wavelength": listed(np.linspace(450, 900, bands)),
        **{key.replace("_", " "): value for key, value in fields.items()},
    }  # fmt: skip
    text = "ENVI\n" + "".join(f"{k} = {v}\n" for k, v in header.items() if v is not None)
    (folder / f"{name}.hdr").write_text(text, encoding="utf-8")
    return folder / f"{name}.hdr"


def listed(values):
    return "{" + ", ".join(str(v) for v in values) + "}"


@pytest.mark.parametrize(("interleave", "kind", "order"), list(itertools.product(AXES, TYPES, (0, 1))))
def test_every_interleave_type_and_byte_order_gives_the_same_values(tmp_path, interleave, kind, order):
    raster = read_hsi(write_envi(tmp_path, cube(), kind=kind, interleave=interleave, order=order))
    np.testing.assert_array_equal(raster.values, cube())
    assert np.dtype(raster.encoding.dtype) == np.dtype(TYPES[kind])
    assert raster.valid.all()
    assert raster.good_bands.all()


@pytest.mark.parametrize("interleave", AXES)
def test_bytes_before_the_image_are_skipped(tmp_path, interleave):
    raster = read_hsi(write_envi(tmp_path, cube(), kind=2, interleave=interleave, offset=77))
    np.testing.assert_array_equal(raster.values, cube())


@pytest.mark.parametrize("suffix", ["", ".img", ".dat", ".bsq", ".bil", ".bip", ".raw", ".IMG", ".xyz"])
def test_data_file_and_header_stand_for_each_other(tmp_path, suffix):
    header = write_envi(tmp_path, cube(), suffix=suffix)
    np.testing.assert_array_equal(read_hsi(tmp_path / f"scene{suffix}").values, cube())
    if suffix != ".xyz":  # an unknown suffix is found only from the data file
        np.testing.assert_array_equal(read_hsi(header).values, cube())


@pytest.mark.parametrize("name", ["scene.img.hdr", "scene.HDR", "SCENE.hdr"])
def test_header_names_of_other_writers_are_found(tmp_path, name):
    write_envi(tmp_path, cube()).rename(tmp_path / name)
    np.testing.assert_array_equal(read_hsi(tmp_path / name).values, cube())


def test_reflectance_factor_divides_once_and_is_kept_for_the_writer(tmp_path):
    raster = read_hsi(write_envi(tmp_path, cube(), kind=2, reflectance_scale_factor="10000.0"))
    np.testing.assert_allclose(raster.values, cube() / 1e4, rtol=1e-6)
    assert raster.encoding.scale == pytest.approx(1e-4)


def test_gains_and_offsets_apply_once(tmp_path):
    header = write_envi(
        tmp_path, cube(), kind=12, data_gain_values=listed([0.5] * 4), data_offset_values=listed([-3] * 4)
    )
    raster = read_hsi(header)
    np.testing.assert_allclose(raster.values, cube() * 0.5 - 3)
    assert (raster.encoding.scale, raster.encoding.offset) == (0.5, -3)


def test_gains_that_repeat_the_reflectance_factor_do_not_scale_twice(tmp_path):
    header = write_envi(
        tmp_path, cube(), kind=2, data_gain_values=listed([1e-4] * 4), reflectance_scale_factor=10000
    )
    np.testing.assert_allclose(read_hsi(header).values, cube() / 1e4, rtol=1e-6)


def test_gains_that_differ_between_bands_apply_and_are_announced(tmp_path):
    header = write_envi(tmp_path, cube(), kind=2, data_gain_values=listed([1, 2, 3, 4]))
    with pytest.warns(HsiFuseWarning, match="different gains"):
        raster = read_hsi(header)
    np.testing.assert_allclose(raster.values, cube() * np.arange(1, 5)[:, None, None])
    assert raster.encoding.dtype == "float32"


@pytest.mark.parametrize(
    ("unit", "factor", "warns"),
    [
        ("Nanometers", 1, False), ("nm", 1, False), ("Micrometers", 1e-3, False), ("µm", 1e-3, False),
        ("Unknown", 1e-3, True), ("Unknown", 1, True), (None, 1e-3, True), ("Nanometers", 1e-3, True),
    ],
)  # fmt: skip
def test_wavelengths_come_out_in_nm_whatever_the_unit_says(tmp_path, unit, factor, warns):
    nm = np.array([450.5, 900.25, 700, 2400])  # in file order, not sorted
    fields = {"wavelength": listed(nm * factor), "fwhm": listed([5 * factor] * 4), "wavelength_units": unit}
    header = write_envi(tmp_path, cube(), **fields)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HsiFuseWarning)
        raster = read_hsi(header)
    np.testing.assert_allclose(raster.wavelengths_nm, nm)
    np.testing.assert_allclose(raster.fwhm_nm, 5)
    assert bool([w for w in caught if "unit" in str(w.message)]) == warns


def test_band_names_that_tell_edges_stand_in_for_wavelengths(tmp_path):
    names = "{450-520 nm, 520-600 nm, 630-690 nm, 760-855 nm}"
    raster = open_guide(write_envi(tmp_path, cube(), wavelength=None, band_names=names)).read(0, 0, 3, 5)
    np.testing.assert_allclose(raster.wavelengths_nm, [485, 560, 660, 807.5])
    np.testing.assert_allclose(raster.fwhm_nm, [70, 80, 60, 95])


def test_no_wavelengths_is_a_warning(tmp_path):
    header = write_envi(tmp_path, cube(), wavelength=None, wavelength_units=None)
    with pytest.warns(HsiFuseWarning, match="no wavelengths"):
        assert read_hsi(header).wavelengths_nm is None


def test_wavelength_file_takes_the_place_of_the_header(tmp_path):
    (tmp_path / "w.csv").write_text("wavelength,fwhm\n0.5,0.01\n0.6,0.01\n0.7,0.02\n0.8,0.02\n")
    with pytest.warns(HsiFuseWarning, match="micrometres"):
        raster = read_hsi(write_envi(tmp_path, cube()), tmp_path / "w.csv")
    np.testing.assert_allclose(raster.wavelengths_nm, [500, 600, 700, 800])
    np.testing.assert_allclose(raster.fwhm_nm, [10, 10, 20, 20])


def test_wavelength_file_of_another_length_is_refused(tmp_path):
    (tmp_path / "w.txt").write_text("500 nm\n")
    with pytest.raises(ReadError, match="1 wavelengths for 4 bands"):
        read_hsi(write_envi(tmp_path, cube()), tmp_path / "w.txt")


def test_flagged_empty_and_constant_bands_are_bad_and_cost_no_pixel(tmp_path):
    values = cube(6).astype(float)
    values[1], values[2], values[3] = -9999, np.nan, 7
    header = write_envi(tmp_path, values, bbl="{0.0, 1, 1, 1, 1, 1}", data_ignore_value=-9999)
    raster = read_hsi(header)
    assert raster.good_bands.tolist() == [False, False, False, False, True, True]
    assert raster.valid.all()
    np.testing.assert_array_equal(raster.values[0], values[0])
    assert (raster.values[1:3] == 0).all()


def test_one_nan_stays_in_its_pixel(tmp_path):
    values = cube().astype(float)
    values[2, 1, 3], values[0, 0, 0] = np.nan, np.inf
    raster = read_hsi(write_envi(tmp_path, values))
    expected = np.ones((3, 5), bool)
    expected[1, 3] = expected[0, 0] = False
    np.testing.assert_array_equal(raster.valid, expected)
    assert raster.values[2, 1, 3] == 0
    assert raster.values[1, 1, 3] == values[1, 1, 3]  # the other bands of that pixel keep their values


@pytest.mark.parametrize("text", ["-1.23e+34", "-3.4028235e+38", "-3.40e38", "NaN"])
def test_huge_ignore_values_are_recognised_despite_lost_digits(tmp_path, text):
    values = cube().astype("f4")
    values[:, 0, 0] = -3.4028235e38 if "3.4" in text else float(text)
    raster = read_hsi(write_envi(tmp_path, values, data_ignore_value=text))
    assert raster.valid.sum() == 14
    assert not raster.valid[0, 0]
    assert raster.values.min() == 0


def test_zero_as_ignore_value_spares_dark_readings_in_single_bands(tmp_path):
    values = cube()
    values[:, 0, 0], values[1, 2, 2] = 0, 0
    raster = read_hsi(write_envi(tmp_path, values, kind=12, data_ignore_value=0))
    assert np.argwhere(~raster.valid).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("rotation", "reference", "sizes"), [(0, (1, 1), (2, 2)), (30, (1, 1), (2, 2)), (-75, (3.5, 2), (2, 3))]
)
def test_map_info_turns_counter_clockwise_about_the_reference_pixel(tmp_path, rotation, reference, sizes):
    (rx, ry), (dx, dy) = reference, sizes
    info = f"UTM, {rx}, {ry}, 500000, 4000000, {dx}, {dy}, 33, North, WGS-84, units=Meters"
    info = f"{{{info}, rotation={rotation}}}"
    grid = read_hsi(write_envi(tmp_path, cube(), map_info=info)).grid
    assert grid.crs.to_epsg() == 32633
    # by complex numbers: east is 1, north is i; down the image is -i
    turn = complex(math.cos(math.radians(rotation)), math.sin(math.radians(rotation)))
    for column, row in ((0, 0), (5, 0), (0, 3), (2.5, 1.5)):
        step = complex((column - (rx - 1)) * dx, -(row - (ry - 1)) * dy) * turn
        x, y = grid.transform * (column, row)
        assert complex(x, y) == pytest.approx(complex(500000, 4000000) + step, abs=1e-6)


def test_aux_xml_does_not_override_the_header(tmp_path):
    info = "{UTM, 1, 1, 500000, 4000000, 2, 2, 33, North, WGS-84, units=Meters}"
    header = write_envi(tmp_path, cube(), kind=2, map_info=info, data_ignore_value=60)
    (tmp_path / "scene.img.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:4326</SRS><GeoTransform>0,1,0,0,0,-1</GeoTransform>"
        '<PAMRasterBand band="1"><NoDataValue>1</NoDataValue><Scale>7</Scale></PAMRasterBand></PAMDataset>'
    )
    raster = read_hsi(header)
    assert raster.grid.crs.to_epsg() == 32633
    assert tuple(raster.grid.transform[:6]) == (2, 0, 500000, 0, -2, 4000000)
    assert raster.encoding.nodata == 60
    assert raster.values[0, 0, 0] == 1


def test_latin1_and_upper_case_headers_are_read(tmp_path):
    header = write_envi(
        tmp_path, cube(), wavelength="{0.5, 0.6, 0.7, 0.8}", wavelength_units="µm", Sensor_Type="Grün"
    )
    header.write_bytes(header.read_text(encoding="utf-8").encode("latin-1"))
    raster = read_hsi(header)
    np.testing.assert_allclose(raster.wavelengths_nm, [500, 600, 700, 800])
    assert raster.tags["sensor type"] == "Grün"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data_type": 6}, "complex"),
        ({"data_type": 99}, "unknown type"),
        ({"lines": 30}, "promises"),
        ({"samples": "five"}, "samples is 'five'"),
        ({"bands": None}, "bands is ''"),
        ({"wavelength": "{450, 500, x, 700}"}, "entry 3 of wavelength is 'x'"),
        ({"wavelength": "{450, 500}"}, "2 entries for 4 bands"),
        ({"data_ignore_value": "none"}, "'none', not a number"),
        ({"reflectance_scale_factor": 0}, "must be positive"),
        ({"bbl": "{1, 0, 0, 0}"}, r"1 usable of 4 bands \(3 flagged bad"),
        ({"file_type": "ENVI Spectral Library"}, "spectral library"),
        ({"file_type": "TIFF"}, "no data file"),
        ({"description": "{never closed"}, "cannot be parsed"),
    ],
)  # fmt: skip
def test_unusable_headers_say_what_is_wrong(tmp_path, fields, message):
    with pytest.raises(ReadError, match=message):
        read_hsi(write_envi(tmp_path, cube(), **fields))


def test_all_nodata_is_refused(tmp_path):
    with pytest.raises(ReadError, match="every pixel is nodata"):
        read_hsi(write_envi(tmp_path, np.full((4, 3, 5), -9999), data_ignore_value=-9999))


def test_lost_halves_are_named(tmp_path):
    header = write_envi(tmp_path, cube())
    data = tmp_path / "scene.img"
    with pytest.raises(ReadError, match="does not exist"):
        read_hsi(tmp_path / "other.hdr")
    kept = header.read_text()
    header.unlink()
    with pytest.raises(ReadError, match=r"no ENVI header.*scene\.hdr"):
        read_hsi(data)
    data.unlink()
    header.write_text(kept)
    with pytest.raises(ReadError, match="no data file beside it"):
        read_hsi(header)
    header.write_text("not a header")
    with pytest.raises(ReadError, match="not an ENVI header"):
        read_hsi(header)


@needs_data
@pytest.mark.parametrize("name", ["DLR_HySU_HS_full.hdr", "DLR_HySU_HS_full.tif"])
def test_hysu_takes_pixels_from_the_tiff_and_the_spectrum_from_the_header(name):
    with pytest.warns(HsiFuseWarning, match="taken as micrometres"):
        raster = read_hsi(DATA / "dlr_hysu_hyspex_3k" / name)
    assert raster.values.shape == (135, 86, 123)
    np.testing.assert_allclose(raster.wavelengths_nm[[0, -1]], [417.4, 902.79])
    assert raster.fwhm_nm[0] == pytest.approx(4.76)
    assert (raster.encoding.dtype, raster.encoding.nodata) == ("int16", 15000)
    assert 0 < np.median(raster.values) < 0.6
    assert raster.grid.crs.to_epsg() == 32632
    assert raster.grid.gsd == pytest.approx((0.7, 0.7))


@needs_data
def test_emit_is_read_without_a_suffix_as_its_raw_bytes():
    path = DATA / "envi_small" / "emit20250324t221005_jpl_unmix_ex"
    raw = np.fromfile(path, "<f4").reshape(10, 285, 10).transpose(1, 0, 2)  # BIL
    with pytest.warns(HsiFuseWarning, match="unit is missing"):
        raster = read_hsi(path)
    np.testing.assert_array_equal(raster.values, np.where(raw == -9999, 0, raw))
    assert raster.good_bands.sum() == 244
    assert raster.grid.crs is None


@needs_data
@pytest.mark.parametrize(
    ("name", "rotation", "size", "corner"),
    [
        ("ang20140912t192359_corr_v1c_img_2580-2590_540-550", 53, 3.1, (277811.628, 4483607.425)),
        ("ang20150420t182808_corr_v1e_img_4200-4210_70-80", 75, 1.1, (724440.117, 4077192.168)),
        ("ang20150422t163638_corr_v1e_img_4000-4010_550-560", -66, 2.7, (736600.089, 4078126.750)),
    ],
)
def test_aviris_ng_rotated_scenes_lie_where_the_header_says(name, rotation, size, corner):
    raster = read_hsi(DATA / "envi_small" / f"{name}.hdr")
    turn = complex(math.cos(math.radians(rotation)), math.sin(math.radians(rotation)))
    far = complex(*corner) + complex(10 * size, -10 * size) * turn
    assert complex(*(raster.grid.transform * (0, 0))) == pytest.approx(complex(*corner), abs=1e-6)
    assert complex(*(raster.grid.transform * (10, 10))) == pytest.approx(far, abs=1e-6)
    assert raster.grid.gsd == pytest.approx((size, size))
    assert raster.good_bands.sum() < raster.bands == 432


@needs_data
def test_class_image_and_library_are_refused_as_not_hyperspectral():
    with pytest.raises(ReadError, match="class image"):
        read_hsi(DATA / "envi_small" / "ang20150420t182808_corr_v1e_img_class_4200-4210_70-80.hdr")
    with pytest.raises(ReadError, match="class image"):
        open_guide(DATA / "dlr_hysu_hyspex_3k" / "redMetal.hdr")
    with pytest.raises(ReadError, match="spectral library"):
        read_hsi(DATA / "usgs_splib07_aviris95" / "s07_AV95_envi.hdr")
