"""Overviews: means of the pixels that have a value, of the image and then of the level before."""

import os
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from written import INT16, scene, write

from hsi_fuse.raster import Encoding
from hsi_fuse.write.overviews import mean_of_pixels

WIDE = (301, 1403)


def means(image, by, nodata):
    """Pixel by pixel, as plain as can be."""
    height, width = (-(-size // by) for size in image.shape)
    out = np.full((height, width), nodata, np.float64)
    for i in range(height):
        for j in range(width):
            square = image[i * by : (i + 1) * by, j * by : (j + 1) * by].astype(np.float64)
            there = square[~np.isnan(square) if np.isnan(nodata) else square != nodata]
            if there.size:
                out[i, j] = there.mean()
    return out


def without_gaps(shape, encoding):
    """As `scene`, with a value in each pixel and band."""
    values = np.random.default_rng(0).integers(0, 9000, (6, *shape)) * encoding.scale
    return replace(
        scene(*shape, encoding=encoding),
        values=values.astype(np.float32),
        valid=np.ones(shape, bool),
        good_bands=np.ones(6, bool),
    )


def levels(path):
    """Stored numbers of the image and of each level."""
    with rasterio.open(path) as file:
        found = [file.read()]
        for level in range(len(file.overviews(1))):
            with rasterio.open(path, overview_level=level) as overview:
                found.append(overview.read())
    return found


@pytest.mark.parametrize(
    "encoding",
    [INT16, Encoding("int32", 0.25, 0.0, -9999), Encoding("float32", 1.0, 0.0, float("nan"))],
    ids=str,
)
def test_levels_are_means_of_the_pixels_with_a_value(tmp_path, encoding):
    summary = write(tmp_path, scene(*WIDE, encoding=encoding))
    image, *smaller = levels(summary.paths[0])
    nodata = summary.encoding.nodata
    assert [level.shape[1:] for level in smaller] == [(76, 351), (38, 176)]
    assert (np.isnan(image) if np.isnan(nodata) else image == nodata).any()
    for before, level, by in zip([image, smaller[0]], smaller, (4, 2), strict=True):
        for band in range(len(image)):
            wanted = means(before[band], by, nodata)
            atol = 0.5 if image.dtype.kind == "i" else 1e-4
            np.testing.assert_allclose(level[band], wanted, rtol=1e-6, atol=atol)


def test_the_first_level_is_that_of_gdal(tmp_path):
    path = write(tmp_path, scene(300, 1404)).paths[0]
    copy = tmp_path / "copy.tif"
    with rasterio.open(path) as file, rasterio.open(copy, "w", **file.profile) as out:
        out.write(file.read())
    with rasterio.open(copy, "r+") as file:
        file.build_overviews([4], Resampling.average)
    ours, theirs = levels(path)[1], levels(copy)[1]
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # halves are rounded to even, or up


def test_levels_say_how_they_were_made_and_what_marks_no_data(tmp_path):
    whole = without_gaps(WIDE, replace(INT16, nodata=None))
    for raster, nodata in ((scene(*WIDE), INT16.nodata), (whole, None)):
        path = write(tmp_path, raster, overwrite=True).paths[0]
        with rasterio.open(path) as file:
            assert file.nodata == nodata
        for level in (0, 1):
            with rasterio.open(path, overview_level=level) as overview:
                assert overview.nodata == nodata
                assert {overview.tags(band)["RESAMPLING"] for band in overview.indexes} == {"AVERAGE"}
    assert sorted(os.listdir(tmp_path)) == [path.name]  # nothing is left of what it was made of


def test_a_mean_that_is_the_nodata_number_by_chance_is_moved():
    image = np.array([[-1, 1, 0, 0], [1, -1, 0, 5]], np.int16)
    assert mean_of_pixels(image, 2, nodata=0).tolist() == [[1, 5]]
    assert mean_of_pixels(np.zeros((3, 3), np.int16), 2, nodata=0).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    "options", [{"interleave": "pixel"}, {"blockxsize": "512", "blockysize": "512"}], ids=str
)
def test_other_tiles_take_no_more_space(tmp_path, options):
    """A tile that is written before it is whole is compressed again, and the file keeps both."""
    raster = without_gaps((300, 1404), INT16)
    plain, other = (
        write(tmp_path, raster, overwrite=True, creation_options=o).paths[0].stat().st_size
        for o in ({}, options)
    )
    assert other < 1.02 * plain


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int32", "int64", "uint64", "float32", "float64"])
def test_means_at_the_ends_of_a_type(kind):
    limits = np.finfo(kind) if kind.startswith("f") else np.iinfo(kind)
    image = np.full((2, 4), limits.max, kind)
    image[:, 2:] = limits.min
    with np.errstate(all="raise"):
        assert mean_of_pixels(image, 2, nodata=7).tolist() == [[image[0, 0], image[0, 3]]]
        # no data is exactly that number, although no float holds the largest integers
        assert mean_of_pixels(image, 2, nodata=image[0, 0].item()).tolist() == [[image[0, 0], image[0, 3]]]


def test_means_of_large_integers_are_exact():
    image = np.arange(1 << 30, (1 << 30) + 64, dtype=np.int32).reshape(8, 8)
    np.testing.assert_array_equal(mean_of_pixels(image, 2, nodata=0), np.rint(means(image, 2, 0)))


def test_a_mean_of_floats_that_is_the_nodata_number_is_moved_too():
    image = np.array([[-1, 1], [2, -2]], np.float32)
    assert mean_of_pixels(image, 2, nodata=0)[0, 0] == np.nextafter(np.float32(0), np.float32(1))


def test_levels_take_a_twelfth_of_the_image_and_no_more(tmp_path):
    raster = without_gaps((300, 1404), INT16)
    path = write(tmp_path, raster).paths[0]
    plain = tmp_path / "plain.tif"
    with rasterio.open(path) as file, rasterio.open(plain, "w", **file.profile, predictor=2, zlevel=1) as out:
        out.write(file.read())
    assert path.stat().st_size < 1.1 * plain.stat().st_size


@pytest.mark.parametrize("options", [{}, {"interleave": "pixel"}, {"sparse_ok": "true"}], ids=str)
def test_tiles_without_data_or_of_zeros_are_no_missing_tiles(tmp_path, options):
    raster = without_gaps((620, 1500), INT16)
    raster.values[:, :, 800:] = 0
    raster = replace(raster, valid=raster.valid & (np.arange(1500) > 700))
    first = levels(write(tmp_path, raster, creation_options=options).paths[0])[1]
    assert (first[:, :, :175] == INT16.nodata).all()
    assert (first[:, :, 200:] == 0).all()
