"""The guide: windows of any image, and what counts as a missing pixel in it."""

import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC

from hsi_fuse.errors import HsiFuseWarning, ReadError
from hsi_fuse.read import open_guide

DATA = Path(os.environ.get("HSI_FUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"real scenes not found in {DATA}")


def write_guide(path, values, *, interp=None, tagged=None, driver="GTiff", **profile):
    bands, height, width = values.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": values.dtype}
    place = {"crs": "EPSG:4326", "transform": Affine(0.1, 0, 10, 0, -0.1, 50)}
    with rasterio.open(path, "w", driver=driver, **{**shape, **place, **profile}) as file:
        file.write(values)
        if interp:
            file.colorinterp = interp
        if tagged:
            file.scales, file.offsets = ((x,) * bands for x in tagged)
    return path


def ramp(bands=3, height=20, width=30, dtype="u2"):
    return (np.arange(bands * height * width).reshape(bands, height, width) % 251 + 1).astype(dtype)


def test_window_reads_only_its_pixels_and_knows_where_they_lie(tmp_path):
    guide = open_guide(write_guide(tmp_path / "g.tif", ramp()))
    window = guide.read(4, 7, 5, 6)
    np.testing.assert_array_equal(window.values, ramp()[:, 4:9, 7:13])
    assert window.grid.transform * (0, 0) == pytest.approx((10.7, 49.6))
    assert window.grid.shape == (5, 6)
    assert window.grid.crs.to_epsg() == 4326


def test_window_is_clipped_to_the_file(tmp_path):
    guide = open_guide(write_guide(tmp_path / "g.tif", ramp()))
    window = guide.read(-3, 25, 8, 100)
    np.testing.assert_array_equal(window.values, ramp()[:, :5, 25:])
    assert window.grid.transform * (0, 0) == pytest.approx((12.5, 50))
    with pytest.raises(ReadError, match="lies outside"):
        guide.read(20, 0, 5, 5)


@pytest.mark.parametrize("bands", [1, 3, 13])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4", "f8"])
def test_any_type_and_up_to_13_bands(tmp_path, bands, dtype):
    guide = open_guide(write_guide(tmp_path / "g.tif", ramp(bands, dtype=dtype)))
    assert (guide.bands, np.dtype(guide.dtype)) == (bands, np.dtype(dtype))
    np.testing.assert_array_equal(guide.read(0, 0, 20, 30).values, ramp(bands))


def test_14_bands_are_refused(tmp_path):
    with pytest.raises(ReadError, match="14 bands"):
        open_guide(write_guide(tmp_path / "g.tif", ramp(14)))


def test_scale_and_offset_apply_once(tmp_path):
    guide = open_guide(write_guide(tmp_path / "g.tif", ramp(), tagged=(1e-4, -0.1)))
    np.testing.assert_allclose(guide.read(0, 0, 20, 30).values, ramp() * 1e-4 - 0.1, atol=1e-6)


def test_alpha_is_validity_not_a_band(tmp_path):
    values = ramp(4, dtype="u1")
    values[3], values[3, 0, :5] = 255, 0
    interp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    guide = open_guide(write_guide(tmp_path / "g.tif", values, interp=interp))
    window = guide.read(0, 0, 20, 30)
    assert guide.bands == 3
    np.testing.assert_array_equal(window.valid, values[3] > 0)
    assert (window.values[:, 0, :5] == 0).all()


def test_near_infrared_labelled_alpha_stays_a_band(tmp_path):
    interp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    path = write_guide(tmp_path / "g.tif", ramp(4, dtype="u1"), interp=interp)
    with pytest.warns(HsiFuseWarning, match="labelled alpha but holds measurements"):
        guide = open_guide(path)
    assert guide.bands == 4
    assert guide.read(0, 0, 20, 30).valid.all()


@pytest.mark.parametrize(
    ("dtype", "nodata", "single_counts"),
    [
        ("u1", 0, False), ("u1", 255, False), ("u2", 0, False), ("i2", 0, False),
        ("u2", 65535, True), ("i2", -9999, True), ("f4", -9999, True), ("f4", 0, True),
    ],
)  # fmt: skip
def test_nodata_in_one_band_counts_unless_it_is_an_ordinary_reading(tmp_path, dtype, nodata, single_counts):
    values = ramp(dtype=dtype)
    values[:, 0, 0] = nodata
    values[1, 5, 5] = nodata
    window = open_guide(write_guide(tmp_path / "g.tif", values, nodata=nodata)).read(0, 0, 20, 30)
    expected = [[0, 0], [5, 5]] if single_counts else [[0, 0]]
    assert np.argwhere(~window.valid).tolist() == expected
    assert window.values[1, 5, 5] == (0 if single_counts else nodata)


def test_one_nan_stays_in_its_pixel(tmp_path):
    values = ramp(dtype="f4")
    values[1, 5, 5] = np.nan
    window = open_guide(write_guide(tmp_path / "g.tif", values)).read(0, 0, 20, 30)
    assert np.argwhere(~window.valid).tolist() == [[5, 5]]
    assert window.values[0, 5, 5] == values[0, 5, 5]


def test_envi_reference_is_read_like_any_other(tmp_path):
    write_guide(tmp_path / "g.img", ramp(), driver="ENVI")
    guide = open_guide(tmp_path / "g.hdr")
    np.testing.assert_array_equal(guide.read(2, 3, 4, 5).values, ramp()[:, 2:6, 3:8])
    assert guide.grid.crs.to_epsg() == 4326


def with_control_points(path, place, pixels=((0, 0), (0, 30), (20, 0), (20, 30))):
    points = [GroundControlPoint(r, c, *place(c, r)) for r, c in pixels]
    shape = {"count": 3, "height": 20, "width": 30, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="GTiff", gcps=points, crs="EPSG:32632", **shape) as file:
        file.write(ramp())
    return path


def test_ground_control_points_place_by_the_nearest_affine(tmp_path):
    place = Affine.translation(5e5, 5e6) * Affine.rotation(20) * Affine.scale(3, -3)
    with pytest.warns(HsiFuseWarning, match=r"4 ground control points: the affine nearest"):
        guide = open_guide(with_control_points(tmp_path / "g.tif", lambda c, r: place * (c, r)))
    assert guide.grid.crs.to_epsg() == 32632
    assert guide.grid.transform.almost_equals(place, 1e-6)


def test_ground_control_points_that_no_affine_fits_are_refused(tmp_path):
    bent = with_control_points(tmp_path / "g.tif", lambda c, r: (5e5 + c * (1 + r / 20), 5e6 - r))
    with pytest.raises(ReadError, match=r"4 ground control points that no affine fits.*gdalwarp"):
        open_guide(bent)


@pytest.mark.parametrize("pixels", [((0, 0), (0, 30)), ((0, 0), (0, 10), (0, 20), (0, 30))])
def test_ground_control_points_that_fix_no_place_are_left_with_a_word(tmp_path, pixels):
    with pytest.warns(HsiFuseWarning, match="fix no place"):
        guide = open_guide(with_control_points(tmp_path / "g.tif", lambda c, r: (5e5 + c, 5e6), pixels))
    assert not guide.grid.georeferenced


def test_rational_polynomials_alone_are_refused_with_a_word(tmp_path):
    path = write_guide(tmp_path / "g.tif", ramp(), crs=None, transform=Affine.identity())
    one = [1.0] + [0.0] * 19
    offsets = {"height_off": 200, "lat_off": 50, "line_off": 10, "long_off": 10, "samp_off": 15}
    scales = {"height_scale": 500, "lat_scale": 1, "line_scale": 10, "long_scale": 1, "samp_scale": 15}
    names = ("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff")
    rpcs = RPC(**offsets, **scales, **dict.fromkeys(names, one), err_bias=None, err_rand=None)
    with rasterio.open(path, "r+") as file:
        file.rpcs = rpcs
    with pytest.raises(ReadError, match=r"RPC.*orthorectify"):
        open_guide(path)
    with rasterio.open(path, "r+") as file:  # what has a place besides is used
        file.transform, file.crs = Affine(2, 0, 5e5, 0, -2, 5e6), "EPSG:32632"
    assert open_guide(path).grid.gsd_m == 2


def test_a_palette_is_expanded_to_its_colours(tmp_path):
    numbers = (ramp(1, dtype="u1") % 4).astype("u1")
    path = write_guide(tmp_path / "g.tif", numbers, nodata=3)
    colours = {0: (10, 20, 30, 255), 1: (200, 100, 50, 255), 2: (0, 255, 0, 255), 3: (1, 2, 3, 255)}
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, colours)
    guide = open_guide(path)
    assert (guide.bands, guide.band_names, guide.dtype) == (3, ("red", "green", "blue"), "uint8")
    window = guide.read(2, 3, 6, 7)
    expected = np.array([colours[n][:3] for n in range(4)])[numbers[0, 2:8, 3:10]].transpose(2, 0, 1)
    part = numbers[0, 2:8, 3:10]
    np.testing.assert_array_equal(window.valid, part != 3)
    np.testing.assert_array_equal(window.values[:, part != 3], expected[:, part != 3])


def test_a_compressed_camera_image_with_mask_and_overviews_is_read_at_full_size(tmp_path):
    y, x = np.mgrid[:256, :256]
    values = np.stack([100 + 60 * np.sin(x / 20), 120 + 60 * np.cos(y / 25), 90 + 0.2 * x]).astype("u1")
    path = tmp_path / "g.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_guide(
            path, values, compress="jpeg", photometric="ycbcr", tiled=True, blockxsize=128, blockysize=128
        )
        with rasterio.open(path, "r+") as file:
            mask = np.full((256, 256), 255, "u1")
            mask[:10] = 0
            file.write_mask(mask)
            file.build_overviews([2, 4])
    window = open_guide(path).read(0, 0, 256, 256)
    assert np.abs(window.values - values)[:, 20:].mean() < 2
    np.testing.assert_array_equal(window.valid, mask > 0)


def test_a_virtual_raster_is_read_like_the_files_it_names(tmp_path):
    write_guide(tmp_path / "a.tif", ramp())
    (tmp_path / "g.vrt").write_text(
        '<VRTDataset rasterXSize="30" rasterYSize="20"><GeoTransform>10,.1,0,50,0,-.1</GeoTransform>'
        + "".join(
            f'<VRTRasterBand dataType="UInt16" band="{k}"><SimpleSource>'
            f'<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>{4 - k}</SourceBand>'
            "</SimpleSource></VRTRasterBand>"
            for k in (1, 2, 3)
        )
        + "</VRTDataset>"
    )
    window = open_guide(tmp_path / "g.vrt").read(0, 0, 20, 30)
    np.testing.assert_array_equal(window.values, ramp()[::-1])
    (tmp_path / "a.tif").unlink()
    with pytest.raises(ReadError, match=r"g\.vrt"):
        open_guide(tmp_path / "g.vrt").read(0, 0, 20, 30)


def test_guide_is_a_value_that_travels_to_other_processes(tmp_path):
    guide = open_guide(write_guide(tmp_path / "g.tif", ramp()))
    copy = pickle.loads(pickle.dumps(guide))
    np.testing.assert_array_equal(copy.read(0, 0, 3, 3).values, guide.read(0, 0, 3, 3).values)
    with pytest.raises(dataclasses.FrozenInstanceError):
        guide.bands = 2


@needs_data
def test_camera_image_of_hysu_has_its_place_and_few_holes():
    guide = open_guide(DATA / "dlr_hysu_hyspex_3k" / "DLR_HySU_3K.tiff")
    assert (guide.bands, guide.dtype, guide.nodata, guide.grid.shape) == (3, "uint8", 0, (427, 488))
    assert guide.grid.gsd_m == pytest.approx(0.13115, abs=1e-5)
    assert guide.read(0, 0, 427, 488).valid.mean() > 0.9


@needs_data
def test_hyperspectral_image_given_as_reference_is_refused():
    with pytest.raises(ReadError, match="224 bands"):
        open_guide(DATA / "enmap_potsdam_south" / "enmap_potsdam_south.tif")
