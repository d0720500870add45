"""GeoTIFF: wavelengths from every place that writers use, masks, scales, and the real scenes."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from hsi_fuse.errors import HsiFuseWarning, ReadError
from hsi_fuse.read import open_guide, read_hsi

DATA = Path(os.environ.get("HSI_FUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"real scenes not found in {DATA}")
NM = (450.5, 900.25, 700.0)
CUBE = np.arange(3 * 4 * 5, dtype="f4").reshape(3, 4, 5) + 1


def write_tiff(path, values=CUBE, **profile):
    """A TIFF to be described further by the caller: an open dataset."""
    bands, height, width = values.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": values.dtype}
    place = {"crs": "EPSG:32633", "transform": Affine(2, 0, 500_000, 0, -2, 4_000_000)}
    file = rasterio.open(path, "w", driver="GTiff", **shape, **place, **profile)
    file.write(values)
    return file


def in_band_tags(file):
    for i, nm in enumerate(NM):
        file.update_tags(i + 1, wavelength=nm, wavelength_units="Nanometers", fwhm=6 + i, bbl=int(i != 1))


def in_imagery_domain(file):
    for i, nm in enumerate(NM):
        file.update_tags(i + 1, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=nm / 1e3, FWHM_UM=(6 + i) / 1e3)


def in_envi_domain(file):
    lists = {"wavelength": "{450.5, 900.25, 700}", "fwhm": "{6, 7, 8}", "wavelength_units": "nm"}
    file.update_tags(ns="ENVI", **lists)


@pytest.mark.parametrize("describe", [in_band_tags, in_imagery_domain, in_envi_domain])
def test_wavelengths_and_fwhm_are_found_where_writers_put_them(tmp_path, describe):
    with write_tiff(tmp_path / "a.tif") as file:
        describe(file)
    raster = read_hsi(tmp_path / "a.tif")
    np.testing.assert_allclose(raster.wavelengths_nm, NM)
    np.testing.assert_allclose(raster.fwhm_nm, [6, 7, 8])
    assert raster.good_bands.tolist() == [True, describe is not in_band_tags, True]


def test_exact_band_tags_win_over_rounded_imagery_ones(tmp_path):
    with write_tiff(tmp_path / "a.tif") as file:
        in_band_tags(file)
        for i in (1, 2, 3):
            file.update_tags(i, ns="IMAGERY", CENTRAL_WAVELENGTH_UM="0.5")
    np.testing.assert_allclose(read_hsi(tmp_path / "a.tif").wavelengths_nm, NM)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("band 1 (450.5 Nanometers)", "b2 900.25 nm", "700.0 nm"), NM),
        (("450.5", "900.25", "700"), NM),
        (("x 7 (0.4505)", "x 8 (0.90025)", "x 9 (0.7)"), NM),
        (("Band 1", "Band 2", "Band 3"), None),
        (("1", "2", "3"), None),
        (("450 nm", "red", "700 nm"), None),
        (("450 nm 500 nm", "600 nm", "700 nm"), None),
        (("500", "500", "500"), None),
    ],
)
def test_band_names_give_wavelengths_only_where_unambiguous(tmp_path, names, expected):
    with write_tiff(tmp_path / "a.tif") as file:
        file.descriptions = names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HsiFuseWarning)
        raster = read_hsi(tmp_path / "a.tif")
    if expected is None:
        assert raster.wavelengths_nm is None
    else:
        np.testing.assert_allclose(raster.wavelengths_nm, expected)
    assert raster.band_names == names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("450-520 nm", "520-600 nm", "red 630 - 690nm"), ((485, 560, 660), (70, 80, 60))),
        (
            ("0.45 to 0.52 um", "0.52\u20130.6 \u00b5m", "630..690 Nanometers"),
            ((485, 560, 660), (70, 80, 60)),
        ),
        (("450-520 nm", "560 nm", "630-690 nm"), None),
        (("520-450 nm", "520-600 nm", "630-690 nm"), None),
    ],
)
def test_names_that_tell_both_edges_of_a_band_give_its_centre_and_width(tmp_path, names, expected):
    with write_tiff(tmp_path / "a.tif") as file:
        file.descriptions = names
    raster = open_guide(tmp_path / "a.tif").read(0, 0, 2, 2)
    if expected is None:
        assert raster.wavelengths_nm is None
    else:
        np.testing.assert_allclose([raster.wavelengths_nm, raster.fwhm_nm], expected)


def test_no_wavelengths_is_a_warning(tmp_path):
    write_tiff(tmp_path / "a.tif").close()
    with pytest.warns(HsiFuseWarning, match="no wavelengths"):
        assert read_hsi(tmp_path / "a.tif").wavelengths_nm is None


@pytest.mark.parametrize(
    ("text", "fwhm"),
    [
        ("450.5\n900.25\n700\n", None),
        ("# sensor\nwavelength_um;fwhm\n0.4505;0.006\n0.90025;0.007\n0.7;0.008\n", [6, 7, 8]),
        ("band,center (nm),fwhm\n1,450.5,6\n2,900.25,7\n3,700,8\n", None),
    ],
)
def test_wavelength_files_of_different_shapes_are_understood(tmp_path, text, fwhm):
    write_tiff(tmp_path / "a.tif").close()
    (tmp_path / "w.txt").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HsiFuseWarning)
        raster = read_hsi(tmp_path / "a.tif", tmp_path / "w.txt")
    np.testing.assert_allclose(raster.wavelengths_nm, NM)
    if fwhm:
        np.testing.assert_allclose(raster.fwhm_nm, fwhm)


@pytest.mark.parametrize("text", ["450\nfive\n700\n", "1\n2\n3\n", "", "450\n500\n"])
def test_unusable_wavelength_files_are_refused_by_name(tmp_path, text):
    write_tiff(tmp_path / "a.tif").close()
    (tmp_path / "w.txt").write_text(text)
    with (
        warnings.catch_warnings(action="ignore", category=HsiFuseWarning),
        pytest.raises(ReadError, match=r"w\.txt"),
    ):
        read_hsi(tmp_path / "a.tif", tmp_path / "w.txt")


def test_gdal_scale_applies_once_even_beside_a_reflectance_factor(tmp_path):
    with write_tiff(tmp_path / "a.tif", CUBE.astype("i2"), nodata=7) as file:
        in_band_tags(file)
        file.scales, file.offsets = (0.01,) * 3, (-0.1,) * 3
        file.update_tags(reflectance_scale_factor=100)
    raster = read_hsi(tmp_path / "a.tif")
    np.testing.assert_allclose(raster.values[1:], CUBE[1:] * 0.01 - 0.1, atol=1e-6)
    assert (raster.encoding.dtype, raster.encoding.nodata) == ("int16", 7)
    assert (raster.encoding.scale, raster.encoding.offset) == (0.01, -0.1)
    assert np.argwhere(~raster.valid).tolist() == [[1, 1]]  # stored 7 in band 1


def test_reflectance_factor_as_a_tag_divides(tmp_path):
    with write_tiff(tmp_path / "a.tif", CUBE.astype("i2")) as file:
        in_band_tags(file)
        file.update_tags(reflectance_scale_factor=10000, sensor="X")
    raster = read_hsi(tmp_path / "a.tif")
    np.testing.assert_allclose(raster.values, CUBE / 1e4, rtol=1e-6)
    assert raster.tags == {"sensor": "X"}


def test_nodata_may_differ_between_bands(tmp_path):
    write_tiff(tmp_path / "a.tif").close()
    band = (
        '<VRTRasterBand dataType="Float32" band="{i}"><NoDataValue>{nodata}</NoDataValue><SimpleSource>'
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>{i}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
    )
    bands = "".join(band.format(i=i, nodata=n) for i, n in ((1, 1), (2, 22), (3, 43)))
    (tmp_path / "a.vrt").write_text(f'<VRTDataset rasterXSize="5" rasterYSize="4">{bands}</VRTDataset>')
    with pytest.warns(HsiFuseWarning, match="no wavelengths"):
        raster = read_hsi(tmp_path / "a.vrt")
    assert np.argwhere(~raster.valid).tolist() == [[0, 0], [0, 1], [0, 2]]


@pytest.mark.parametrize("internal", ["YES", "NO"])
def test_mask_of_the_file_decides_validity(tmp_path, internal):
    mask = np.ones((4, 5), bool)
    mask[2, 3] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), write_tiff(tmp_path / "a.tif") as file:
        in_band_tags(file)
        file.write_mask(mask)
    np.testing.assert_array_equal(read_hsi(tmp_path / "a.tif").valid, mask)


def test_sidecar_fills_gaps_but_does_not_override(tmp_path):
    write_tiff(tmp_path / "a.tif", nodata=1).close()
    tags = "".join(
        f'<PAMRasterBand band="{i + 1}"><NoDataValue>2</NoDataValue><Metadata>'
        f'<MDI key="wavelength">{nm}</MDI><MDI key="wavelength_units">nm</MDI></Metadata></PAMRasterBand>'
        for i, nm in enumerate(NM)
    )
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset><SRS>EPSG:4326</SRS>{tags}</PAMDataset>")
    raster = read_hsi(tmp_path / "a.tif")
    np.testing.assert_allclose(raster.wavelengths_nm, NM)
    assert raster.grid.crs.to_epsg() == 32633
    assert raster.encoding.nodata == 1


def test_band_with_too_few_values_is_dropped_rather_than_the_pixels(tmp_path):
    values = CUBE.copy()
    values[1, :3] = np.nan
    with write_tiff(tmp_path / "a.tif", values) as file:
        in_imagery_domain(file)
    with pytest.warns(HsiFuseWarning, match="bands 2 have values in too few"):
        raster = read_hsi(tmp_path / "a.tif")
    assert raster.good_bands.tolist() == [True, False, True]
    assert raster.valid.all()


def test_unusable_files_say_what_is_wrong(tmp_path):
    with pytest.raises(ReadError, match="does not exist"):
        read_hsi(tmp_path / "a.tif")
    with pytest.raises(ReadError, match="is a folder"):
        read_hsi(tmp_path)
    (tmp_path / "a.tif").write_text("no image")
    with pytest.raises(ReadError, match="cannot read"):
        read_hsi(tmp_path / "a.tif")
    write_tiff(tmp_path / "b.tif", CUBE.astype("c8")).close()
    with pytest.raises(ReadError, match="complex"):
        read_hsi(tmp_path / "b.tif")
    write_tiff(tmp_path / "c.tif", np.full((3, 4, 5), -9, "i2"), nodata=-9).close()
    with (
        warnings.catch_warnings(action="ignore", category=HsiFuseWarning),
        pytest.raises(ReadError, match="every pixel is nodata"),
    ):
        read_hsi(tmp_path / "c.tif")
    (tmp_path / "d.tif").write_bytes((tmp_path / "b.tif").read_bytes()[:-150])
    with pytest.raises(ReadError, match=r"d\.tif"):
        read_hsi(tmp_path / "d.tif")


@needs_data
def test_enmap_keeps_empty_corners_bad_bands_and_negative_values():
    path = DATA / "enmap_potsdam_south" / "enmap_potsdam_south.tif"
    raster = read_hsi(path)
    with rasterio.open(path) as file:
        stored = file.read()
    assert np.flatnonzero(~raster.good_bands).tolist() == list(range(129, 135))
    np.testing.assert_array_equal(raster.valid, (stored[raster.good_bands] != -32768).all(axis=0))
    assert raster.valid.mean() == 0.75
    assert raster.values[raster.good_bands][:, raster.valid].min() < 0
    np.testing.assert_allclose(raster.values[10][raster.valid], stored[10][raster.valid] / 1e4, rtol=1e-6)
    assert (raster.values[:, ~raster.valid] == 0).all()
    np.testing.assert_allclose(raster.wavelengths_nm[[0, -1]], [418.24, 2445.53])
    assert raster.encoding.scale == 1e-4


@needs_data
def test_neon_strip_has_a_place_but_no_crs_and_no_wavelengths():
    with pytest.warns(HsiFuseWarning, match="no wavelengths"):
        raster = read_hsi(DATA / "neon_harv_strip" / "harv_hsi.tif")
    assert raster.values.shape == (369, 27, 10)
    assert raster.grid.crs is None
    assert tuple(raster.grid.transform[:6]) == (1, 0, 726499, 0, -1, 4699073)
    assert raster.valid.all()


@needs_data
def test_cave_counts_become_reflectance_on_a_plain_pixel_grid():
    raster = read_hsi(DATA / "cave_balloons" / "balloons_ms.tif")
    np.testing.assert_allclose(raster.wavelengths_nm, np.arange(400, 701, 10))
    assert 0.5 < raster.values.max() <= 1
    assert not raster.grid.georeferenced
