"""A raster of every property that a written file must keep, and how tests write and compare it."""

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from hsi_fuse.grid import Grid
from hsi_fuse.raster import Encoding, Raster
from hsi_fuse.write import write_cube

UTM = CRS.from_epsg(32633)
UPRIGHT = Affine(2, 0, 500_000, 0, -2, 4_000_000)
NAMES = {"GTiff": "o.tif", "COG": "o.tif", "ENVI": "o.img"}
INT16 = Encoding("int16", 1e-4, 0.0, -9999)


def scene(height=30, width=40, encoding=INT16, transform=UPRIGHT, crs=UTM):
    """Six bands, one of them empty, a corner without data, values that the encoding holds exactly."""
    rng = np.random.default_rng(0)
    lowest = 0 if encoding.dtype.startswith("u") else -500
    values = rng.integers(lowest, 9000, (6, height, width)) * encoding.scale + encoding.offset
    values = values.astype(np.float32)
    valid = np.ones((height, width), bool)
    valid[:5, :7] = False
    values[:, ~valid], values[2] = 0, 0
    return Raster(
        values,
        valid,
        Grid(crs, transform, width, height),
        wavelengths_nm=np.array([450.123456, 550, 650, 640, 900, 2400]),
        fwhm_nm=np.array([5.5, 6, 6, 6, 7, 10]),
        good_bands=np.array([True, True, False, True, True, True]),
        band_names=tuple("abcdef"),
        encoding=encoding,
        tags={"sensor type": "Test", "acquisition time": "2022-07-24T10:45:26Z", "correction": "{1.0, 2.0}"},
    )


def rows_of(raster):
    values = np.where(raster.valid, raster.values, np.float32(np.nan))
    values[~raster.good_bands] = np.nan
    return lambda start, stop: values[:, start:stop]


def write(folder, raster, driver="GTiff", **options):
    return write_cube(folder / NAMES[driver], rows_of(raster), raster.grid, raster, driver=driver, **options)


def same(a, b):
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.valid, b.valid)
    np.testing.assert_array_equal(a.good_bands, b.good_bands)
    np.testing.assert_allclose(a.wavelengths_nm, b.wavelengths_nm, rtol=1e-9)
    np.testing.assert_allclose(a.fwhm_nm, b.fwhm_nm, rtol=1e-9)
    assert a.grid.crs == b.grid.crs
    assert a.grid.transform.almost_equals(b.grid.transform, 1e-7)
    assert a.band_names == b.band_names
    assert dict(a.tags) == dict(b.tags)
