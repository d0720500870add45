"""The scene that ships: made by its script, and true to what its truth says."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from scipy.ndimage import map_coordinates

from hsi_fuse.physics import blur_down
from sample_scenes import make

SCENE = Path(make.__file__).parent / "village"
EDGE = 3
"""HSI pixels at the border whose PSF sees ground that the truth does not hold."""


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    with np.load(SCENE / "truth.npz") as stored:
        held = dict(stored)
    abundance = held["abundance"] / float(held["abundance_scale"])
    held["cube"] = np.einsum("nk,khw->nhw", held["endmembers"], abundance)  # (97, 160, 192)
    return held


def stored_hsi(path: Path = SCENE / "hsi.img") -> np.ndarray:
    """(n, h, w) int16; band-interleaved by line on disk."""
    return np.fromfile(path, "<i2").reshape(40, 97, 48).transpose(1, 0, 2)


def test_the_script_makes_the_shipped_files_again(tmp_path: Path):
    make.make(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in SCENE.iterdir()}
    assert (tmp_path / "hsi.hdr").read_bytes() == (SCENE / "hsi.hdr").read_bytes()
    # another processor may round another way at a tie
    assert _close(stored_hsi(tmp_path / "hsi.img"), stored_hsi())
    with rasterio.open(tmp_path / "guide.tif") as new, rasterio.open(SCENE / "guide.tif") as old:
        assert (new.crs, new.transform, new.nodata) == (old.crs, old.transform, old.nodata)
        assert (new.colorinterp, new.descriptions) == (old.colorinterp, old.descriptions)
        assert _close(new.read(), old.read())
    with np.load(tmp_path / "truth.npz") as new, np.load(SCENE / "truth.npz") as old:
        assert new.files == old.files
        assert _close(new["abundance"], old["abundance"])
        for name in set(new.files) - {"abundance", "materials"}:
            assert np.allclose(new[name], old[name], rtol=1e-6, atol=1e-12), name


def _close(new: np.ndarray, old: np.ndarray) -> bool:
    """Equal but for steps of one at a few places in a hundred thousand."""
    difference = np.abs(new.astype(int) - old.astype(int))
    return new.shape == old.shape and difference.max() <= 1 and (difference > 0).mean() < 5e-5


def test_it_is_small():
    assert sum(p.stat().st_size for p in SCENE.iterdir()) < 1.5e6


def test_degraded_truth_is_the_hsi_within_its_noise(truth):
    seen = stored_hsi()
    valid = (seen != make.HSI_NODATA).all(0)
    assert (~valid).sum() == 4
    valid[:EDGE] = valid[-EDGE:] = valid[:, :EDGE] = valid[:, -EDGE:] = False
    clean = blur_down(torch.from_numpy(truth["cube"]), torch.from_numpy(truth["psf"]), 4).numpy()
    residual = (seen / make.HSI_SCALE - clean)[:, valid]
    expected = make.hsi_noise(clean.mean((1, 2)))
    assert residual.std(1) / expected == pytest.approx(np.ones(97), abs=0.08)
    assert (np.abs(residual.mean(1)) < 4 * expected / np.sqrt(valid.sum())).all()


def test_the_guide_shows_the_truth_where_the_mapping_says(truth):
    with rasterio.open(SCENE / "guide.tif") as file:
        guide, valid = file.read().astype(float), file.dataset_mask() > 0
    expected = np.einsum("mn,nhw->mhw", truth["srf"], truth["cube"]) + truth["offset"][:, None, None]
    column, row = np.meshgrid(np.arange(192) + 0.5, np.arange(160) + 0.5)

    def unexplained(east: float, south: float) -> tuple[np.ndarray, float]:
        x, y = Affine.translation(east, south) * Affine(*truth["fine_to_guide"]) * (column, row)
        inside = map_coordinates(valid.astype(float), [y - 0.5, x - 0.5], order=1) > 0.999
        seen = np.stack([map_coordinates(b, [y - 0.5, x - 0.5], order=3) for b in guide])
        return (seen - expected)[:, inside].std(1) / expected[:, inside].std(1), inside.mean()

    left, overlap = unexplained(0, 0)
    assert overlap == pytest.approx(0.92, abs=0.01)
    assert (left < 0.2).all()  # resampling a second time, the drawing's finest edges and noise
    for east, south in ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1)):  # and a tenth of a pixel off is worse
        assert (unexplained(east, south)[0] > left).all()


def test_georeferencing_misleads_by_the_error_that_was_put_in(truth):
    with rasterio.open(SCENE / "guide.tif") as file:
        grid = make.Grid(file.crs, file.transform, file.width, file.height)
    assert grid == make.guide_grid()
    fine = make.HSI_GRID.refine(make.RATIO)
    column, row = np.meshgrid(np.linspace(0, 192, 13), np.linspace(0, 160, 11))
    claimed = np.stack(fine.to_pixels_of(grid, column, row))
    x, y = Affine(*truth["fine_to_guide"]) * (column, row)
    off = np.hypot(x - claimed[0], y - claimed[1]) / make.RATIO  # HSI pixels
    assert 1.1 < off.min() < 1.3 < off.max() < 1.5
    # undo the error: what stays is how far map projections are from an affine
    east, north = make.GUIDE_ERROR_M
    centre = (grid.width / 2, grid.height / 2)
    wrong = Affine.translation(east, -north) * Affine.rotation(make.GUIDE_ERROR_DEG, centre)
    x, y = ~wrong * (x, y)
    assert np.hypot(x - claimed[0], y - claimed[1]).max() < 1e-3


def test_files_say_what_they_are():
    with rasterio.open(SCENE / "hsi.img") as file:
        assert (file.count, file.width, file.height, file.dtypes[0]) == (97, 48, 40, "int16")
        assert file.crs.to_epsg() == 32632
        assert file.transform == make.HSI_GRID.transform
        assert file.nodata == make.HSI_NODATA
        assert (file.read() == stored_hsi()).all()
    with rasterio.open(SCENE / "guide.tif") as file:
        assert (file.count, file.crs.to_epsg(), file.nodata) == (4, 32633, 0)
        assert file.descriptions == ("red", "green", "blue", "nir")


def test_spectra_are_physically_sensible(truth):
    at = {int(w): i for i, w in enumerate(truth["wavelengths_nm"])}
    count = len(truth["materials"])
    sunlit, shaded = truth["endmembers"][:, :count], truth["endmembers"][:, count:]
    pure = dict(zip(truth["materials"], (sunlit + shaded).T, strict=True))
    assert all((s > 0).all() and (s < 0.8).all() for s in pure.values())
    for plant in ("lawn", "crop", "tree"):
        assert pure[plant][at[840]] > 8 * pure[plant][at[672]]  # the red edge
        assert pure[plant][at[552]] > 1.5 * pure[plant][at[672]]  # the green peak
    assert pure["water"][at[852]] < 0.02
    assert (np.diff(pure["asphalt"]) > 0).all()
    assert (shaded[at[450]] / sunlit[at[450]]).mean() > 2 * (
        shaded[at[852]] / sunlit[at[852]]
    ).mean()  # blue sky
    assert truth["cube"].min() >= 0
    assert truth["cube"].max() < 1
