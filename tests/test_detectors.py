"""SWIR bands that lie off the VNIR bands of one image."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from scipy.ndimage import shift
from synthetic import BANDS, observed

from hsi_fuse.errors import HsiFuseWarning
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Raster
from hsi_fuse.registration.detectors import align_detectors

WAVELENGTHS = np.linspace(420, 2300, BANDS)
SWIR = WAVELENGTHS > 1000


def image(columns: float = 0.0, rows: float = 0.0) -> Raster:
    values = observed().hsi.numpy().copy()
    # further right and down: what the SWIR shows at a pixel lies there
    values[SWIR] = np.stack([shift(band, (rows, columns), order=5, mode="nearest") for band in values[SWIR]])
    height, width = values.shape[1:]
    return Raster(
        values, np.ones((height, width), bool), Grid(None, Affine.identity(), width, height), WAVELENGTHS
    )


@pytest.mark.parametrize(("columns", "rows"), [(0.4, -0.3), (-1.2, 0.8), (0.0, 0.25)])
def test_a_shift_between_detectors_is_found_and_undone(columns, rows):
    with pytest.warns(HsiFuseWarning, match="beyond 1000 nm"):
        mended, found = align_detectors(image(columns, rows))
    assert found.corrected
    assert (found.columns, found.rows) == pytest.approx((columns, rows), abs=0.05)
    inner = (slice(None), slice(4, -4), slice(4, -4))
    off, left = (np.abs(im.values - image().values)[inner].mean() for im in (image(columns, rows), mended))
    assert left < 0.5 * off
    assert np.array_equal(mended.values[~SWIR], image().values[~SWIR])


def test_detectors_that_agree_are_left_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("error", HsiFuseWarning)
        same, found = align_detectors(image())
    assert not found.corrected
    assert np.hypot(found.columns, found.rows) < 0.05
    assert np.array_equal(same.values, image().values)


def test_without_two_detectors_nothing_is_said():
    raster = image()
    for one in (replace(raster, wavelengths_nm=None), replace(raster, wavelengths_nm=WAVELENGTHS / 3)):
        same, found = align_detectors(one)
        assert found is None
        assert same is one


def test_invalid_pixels_stay_what_they_are():
    raster = image(0.5, 0.0)
    valid = raster.valid.copy()
    valid[10:14, 5:9] = False
    values = raster.values.copy()
    values[:, ~valid] = -777
    with pytest.warns(HsiFuseWarning):
        mended, found = align_detectors(replace(raster, values=values, valid=valid))
    assert found.columns == pytest.approx(0.5, abs=0.03)
    assert (mended.values[:, ~valid] == -777).all()
    assert mended.values[:, valid].min() > -1
