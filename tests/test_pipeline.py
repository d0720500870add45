"""The whole job, end to end: the scene that ships, a pair without georeferencing, a real airborne pair."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from conftest import DATA
from synthetic import BANDS, COLUMNS, MARGIN, RATIO, ROWS, WAVELENGTHS, moved, observed, scene

from hsi_fuse import fuse, load_preset, open_guide, plan, read_hsi, save
from hsi_fuse.errors import AlignmentError, GridError, HsiFuseWarning, PresetError
from hsi_fuse.grid import Grid
from hsi_fuse.physics import mix_bands
from hsi_fuse.pipeline import FusionResult
from hsi_fuse.prepare import choose_device
from hsi_fuse.raster import Raster
from hsi_fuse.read import Guide

VILLAGE = Path(__file__).resolve().parents[1] / "sample_scenes" / "village"
TRUTH_MAPPING_PX = 0.02
"""Largest error of the village's mapping that is accepted, fine pixels; 0.006 was measured."""


@pytest.fixture(scope="module")
def hsi() -> Raster:
    return read_hsi(VILLAGE / "hsi.hdr")


@pytest.fixture(scope="module")
def guide() -> Guide:
    return open_guide(VILLAGE / "guide.tif")


@pytest.fixture(scope="module")
def village(hsi: Raster, guide: Guide) -> FusionResult:
    return fuse(hsi, guide, load_preset("draft"))


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    with np.load(VILLAGE / "truth.npz") as stored:
        held = dict(stored)
    abundance = held["abundance"] / float(held["abundance_scale"])
    held["cube"] = np.einsum("nk,khw->nhw", held["endmembers"], abundance)  # (97, 160, 192)
    return held


def mean_psnr(found: np.ndarray, true: np.ndarray) -> float:
    """(n, N) each: mean over bands of 10 log10(peak^2 / MSE)."""
    return float(np.mean(10 * np.log10(true.max(1) ** 2 / ((found - true) ** 2).mean(1))))


def through(mapping: Affine, column, row):
    a, b, c, d, e, f = mapping[:6]
    return a * column + b * row + c, d * column + e * row + f


# --- the plan ----------------------------------------------------------------------------------------------


def test_the_plan_says_what_a_run_would_do(hsi, guide):
    found = plan(hsi, guide)
    assert found.scale == 4
    assert found.target == hsi.grid.refine(4)
    assert found.guide_gsd_hsi_px == pytest.approx(0.25, abs=0.001)
    assert found.overlap == 1  # by its georeferencing; part of it turns out to be nodata
    facts = found.to_dict()
    assert facts["ratio"] == pytest.approx(4, abs=0.01)
    assert facts["product"]["size"] == "192 x 160 pixels"
    assert facts["product"]["CRS"] == "EPSG:32632"
    assert facts["reference"]["CRS"] == "EPSG:32633"
    assert facts["HSI"]["bands"] == "97, 94 of them good"
    assert facts["HSI"]["bad bands"] == "87-89"
    assert facts["HSI"]["wavelengths"] == "420-996 nm"
    json.dumps(facts)


def test_the_plan_counts_the_overlap(hsi, guide):
    away = replace(hsi.grid, transform=Affine.translation(96, 0) * hsi.grid.transform)  # half its width east
    assert 0.5 < plan(replace(hsi, grid=away), guide).overlap < 0.7


def test_a_scale_that_the_guide_cannot_support_is_warned_of(hsi, guide):
    with pytest.warns(HsiFuseWarning, match="--scale 8"):
        assert plan(hsi, guide, 8).target.shape == (320, 384)
    with warnings.catch_warnings():
        warnings.simplefilter("error", HsiFuseWarning)
        assert plan(hsi, guide, 3).scale == 3


@pytest.mark.parametrize("scale", [0, -4])
def test_a_scale_below_one_is_refused(hsi, guide, scale):
    with pytest.raises(GridError, match="at least 1"):
        plan(hsi, guide, scale)


def test_a_guide_that_is_not_finer_is_refused(hsi, guide):
    fine = Raster(
        hsi.values[:, :8, :8],
        hsi.valid[:8, :8],
        Grid(hsi.grid.crs, hsi.grid.transform * Affine.scale(0.2), 8, 8),
    )
    with pytest.raises(GridError, match="right order"):
        plan(fine, guide)


def test_a_guide_of_another_place_is_refused(hsi, guide):
    far = replace(hsi.grid, transform=Affine.translation(50_000, 0) * hsi.grid.transform)
    with pytest.raises(AlignmentError, match="does not overlap"):
        fuse(replace(hsi, grid=far), guide, load_preset("draft"))


def test_devices():
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(PresetError, match="--device cpu"):
            choose_device("cuda")


# --- the village -------------------------------------------------------------------------------------------


def test_the_product_is_nearer_the_truth_than_interpolation(village, truth, hsi):
    covered = (village.alignment.confidence > 0) & village.hsi.valid.repeat(4, 0).repeat(4, 1)
    true = truth["cube"][hsi.good_bands][:, covered]
    found = mean_psnr(village.rows(0, 160)[hsi.good_bands][:, covered], true)
    plain = mean_psnr(village.interpolation.rows(0, 160).numpy()[:, covered], true)
    assert found > plain + 3  # 9.9 dB was measured
    assert found > 32


def test_the_mapping_is_the_true_one(village, truth):
    column, row = np.meshgrid(np.linspace(0, 192, 13), np.linspace(0, 160, 11))
    wanted = through(Affine(*truth["fine_to_guide"]), column, row)
    found = through(village.alignment.hsi_to_guide, column, row)
    error = np.hypot(found[0] - wanted[0], found[1] - wanted[1])
    assert error.max() < TRUTH_MAPPING_PX
    # and it knows how good it is
    figures = village.alignment.found
    assert figures["rrmse_px"] < 0.1
    assert figures["standard_error_px"] < 0.1
    assert figures["rotation_deg"] == pytest.approx(0.3, abs=0.02)
    assert figures["scale_change"] == pytest.approx(1, abs=5e-4)
    assert figures["shift_m"] == pytest.approx(np.hypot(4.3, 2.9), abs=0.05)
    assert figures["before_rrmse_px"] == pytest.approx(figures["shift_m"], abs=0.1)  # fine pixels of 1 m
    assert 0.9 < figures["covered"] < 0.94


def test_the_sensors_are_the_true_ones(village, truth, hsi):
    sensor = village.problem.sensor
    offsets = np.arange(16) - 7.5
    true = [2.3548 * np.sqrt((truth["psf"].sum(axis) * offsets**2).sum()) for axis in (1, 0)]
    assert sensor.psf_fwhm == pytest.approx(true, rel=0.05)
    mixed = np.einsum("mn,nhw->mhw", truth["srf"], truth["cube"]) + truth["offset"][:, None, None]
    good = truth["cube"][hsi.good_bands].astype(np.float32)
    seen = mix_bands(torch.from_numpy(good), sensor.srf) + sensor.offset[:, None, None]
    left = (seen.numpy() - mixed).std((1, 2)) / mixed.std((1, 2))
    assert left.max() < 0.05


def test_idle_bands_come_back(village, hsi):
    idle = np.flatnonzero(~hsi.good_bands)
    assert len(idle) == 3
    rows = village.rows(0, 160)[idle]
    valid = hsi.valid.repeat(4, 0).repeat(4, 1)
    assert np.isfinite(rows[:, valid]).all()
    blocks = rows.reshape(3, 40, 4, 48, 4).mean((2, 4))
    whole = hsi.valid & np.isfinite(blocks).all(0)
    assert np.corrcoef(blocks[:, whole].ravel(), hsi.values[idle][:, whole].ravel())[0, 1] > 0.95


def test_an_empty_band_comes_back_empty(village, hsi):
    values = hsi.values.copy()
    values[86] = 0
    rows = replace(village, hsi=replace(hsi, values=values)).rows(4, 9)
    assert np.isnan(rows[86]).all()
    assert np.isfinite(rows[87]).any()


def test_there_are_no_data_where_the_hsi_has_none(village, hsi):
    rows = village.rows(0, 160)
    valid = hsi.valid.repeat(4, 0).repeat(4, 1)
    assert (~valid).sum() == 4 * 16
    assert np.isnan(rows[:, ~valid]).all()
    assert np.isfinite(rows[:, valid]).all()


def test_rows_do_not_depend_on_the_block(village):
    whole = village.rows(0, 160)
    for start, stop in ((0, 1), (37, 50), (43, 44), (155, 160)):
        part = village.rows(start, stop)
        assert part.shape == (97, stop - start, 192)
        assert np.allclose(part, whole[:, start:stop], atol=1e-5, equal_nan=True)


def test_the_assessment_is_of_this_run(village):
    figures = village.quality.figures
    assert [stage["name"] for stage in figures["stages"]] == ["map"]
    assert figures["integrity"]["bad_bands"] == [86, 87, 88]
    assert figures["integrity"]["not_finite"] == 0
    assert figures["registration"]["tie_points"] >= 6
    results = figures["synthesis"]["results"]
    assert results["product"]["psnr_db"] > results["interpolation"]["psnr_db"] + 1
    assert min(figures["spatial"]["product"]["cc_highpass"]) > 0.9
    assert figures["consistency"]["learned_psf"]["product"]["sam_deg"]["median"] < 0.8


def test_the_same_seed_writes_the_same_bytes(village, hsi, guide, tmp_path):
    again = fuse(hsi, guide, load_preset("draft"))
    for name, result in (("one", village), ("other", again)):
        save(result, tmp_path / f"{name}.tif")
    for ending in (".tif", "_rgb.tif", "_srf.csv", "_psf.csv", "_ties.geojson", "_displacement.tif"):
        one, other = ((tmp_path / f"{name}{ending}").read_bytes() for name in ("one", "other"))
        assert one == other, ending
    one, other = (json.loads((tmp_path / f"{name}_quality.json").read_text()) for name in ("one", "other"))
    for figures in (one, other):
        for of_the_process in ("seconds", "peak_memory_mb"):
            figures["provenance"].pop(of_the_process)
    assert one == other


# --- without georeferencing --------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path):
    """HSI, guide and truth of one footprint in pixel coordinates, and how the guide's content is off."""
    wide = scene(RATIO * ROWS + 2 * MARGIN, RATIO * COLUMNS + 2 * MARGIN)
    inner = wide[:, MARGIN:-MARGIN, MARGIN:-MARGIN].contiguous()
    pair = observed(truth=inner)
    off = Affine.translation(5.2, -3.1)
    clean = mix_bands(wide, pair.sensor.srf).double().numpy()
    counts = np.rint(20_000 * moved(clean, off)[:, MARGIN:-MARGIN, MARGIN:-MARGIN]).clip(1, 65535)
    path = tmp_path / "guide.tif"
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 4}
    with rasterio.open(path, "w", **profile, width=counts.shape[2], height=counts.shape[1]) as file:
        file.write(counts.astype(np.uint16))
    grid = Grid(None, Affine.identity(), COLUMNS, ROWS)
    valid = np.ones((ROWS, COLUMNS), bool)
    raster = Raster(pair.hsi.numpy(), valid, grid, wavelengths_nm=WAVELENGTHS)
    return raster, open_guide(path), pair.truth.numpy(), off


def test_a_pair_without_georeferencing_is_matched_from_edge_to_edge(bare):
    hsi, guide, truth, off = bare
    with pytest.warns(HsiFuseWarning, match="neither image has georeferencing"):
        result = fuse(hsi, guide, load_preset("draft"))
    assert not result.grid.georeferenced or result.grid.crs is None
    assert result.grid.shape == truth.shape[1:]
    assert through(result.alignment.hsi_to_guide, 80, 96) == pytest.approx(through(off, 80, 96), abs=0.1)
    assert "content_offset_east_m" not in result.alignment.found
    assert any("georeferencing" in text for text in result.quality.figures["warnings"])
    covered = result.alignment.confidence > 0
    found = mean_psnr(result.rows(0, truth.shape[1])[:, covered], truth[:, covered])
    plain = mean_psnr(result.interpolation.rows(0, truth.shape[1]).numpy()[:, covered], truth[:, covered])
    assert found > plain + 3


def test_an_empty_list_of_stages_is_interpolation(bare):
    hsi, guide, truth, _ = bare
    with pytest.warns(HsiFuseWarning):
        result = fuse(hsi, guide, load_preset("interpolation"))
    assert result.stages == ()
    assert result.estimate is result.interpolation
    assert result.rows(0, 3).shape == (BANDS, 3, truth.shape[2])


def test_progress_is_reported_in_order(bare):
    hsi, guide, _, _ = bare
    said = []
    with pytest.warns(HsiFuseWarning):
        fuse(hsi, guide, load_preset("draft"), on_step=lambda *report: said.append(report))
    assert list(dict.fromkeys(what for what, *_ in said)) == ["align", "map", "assess"]


# --- the airborne pair of two sensors ----------------------------------------------------------------------


@pytest.mark.data
def test_the_airborne_pair_of_two_sensors(tmp_path):
    folder = DATA / "dlr_hysu_hyspex_3k"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    with pytest.warns(HsiFuseWarning, match="micrometres"):
        hsi = read_hsi(folder / "DLR_HySU_HS_full.hdr")
    result = fuse(hsi, open_guide(folder / "DLR_HySU_3K.tiff"), load_preset("draft"), scale=4)
    found = result.alignment.found
    assert found["content_offset_east_m"] == pytest.approx(0.35, abs=0.15)
    assert found["content_offset_north_m"] == pytest.approx(1.05, abs=0.15)
    figures = result.quality.figures
    assert figures["consistency"]["learned_psf"]["product"]["sam_deg"]["median"] <= 0.8
    sharp, blurred = (figures["spatial"][name]["cc_highpass"] for name in ("product", "interpolation"))
    assert min(sharp) >= 0.9
    assert max(blurred) < 0.6
    assert figures["consistency"]["outside"] is not None
    save(result, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.crs.to_epsg() == 32632
        assert file.res == pytest.approx((0.175, 0.175))
        assert (file.count, file.dtypes[0]) == (135, "int16")
        assert file.bounds == pytest.approx(hsi.grid.bounds[:2] + hsi.grid.bounds[2:])
    again = read_hsi(tmp_path / "out.tif")
    assert again.wavelengths_nm == pytest.approx(hsi.wavelengths_nm, abs=0.01)
    assert 417 < again.wavelengths_nm[0] < 418
    assert 902 < again.wavelengths_nm[-1] < 903
