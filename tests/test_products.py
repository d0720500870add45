"""What stands on disk after a run: everything, or nothing."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.crs import CRS
from synthetic import RATIO, WAVELENGTHS, pair_with_gaps

from hsi_fuse import Inputs, fuse, load_preset, read_hsi
from hsi_fuse.errors import HsiFuseWarning, WriteError
from hsi_fuse.grid import Grid
from hsi_fuse.pipeline import FusionResult
from hsi_fuse.read import Parts, open_mask
from hsi_fuse.read.mask import parse_mask
from hsi_fuse.sensors.known import SensorWords
from hsi_fuse.write import SIDE_PRODUCTS, check_outputs, outputs, save

GRID = Grid(CRS.from_epsg(32632), Affine(4, 0, 700_000, 0, -4, 5_400_000), 28, 24)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> FusionResult:
    """A small scene, fused: 24 x 28 HSI pixels, one of them empty, two bad bands."""
    hsi, guide = pair_with_gaps(tmp_path_factory.mktemp("in"))
    return fuse(hsi, guide, load_preset("draft"), uncertainty=True)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def plain_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the figures of the report where a test is not about them."""
    monkeypatch.setattr("hsi_fuse.write.learned._report", lambda *_: "<html></html>")


def broken(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the product fail after its first rows."""
    good = FusionResult.rows

    def rows(self, start, stop):
        if start > 0:
            raise error
        return good(self, start, stop)

    monkeypatch.setattr(FusionResult, "rows", rows)
    monkeypatch.setattr("hsi_fuse.write.cube.CHUNK_BYTES", 1)  # a row at a time


@pytest.mark.usefixtures("plain_report")
@pytest.mark.parametrize("driver", ["GTiff", "COG"])
def test_the_list_of_outputs_is_what_is_written(result, tmp_path, driver):
    written = save(result, tmp_path / "sharp.tif", driver=driver)
    assert written == list(outputs(tmp_path / "sharp.tif", driver))
    assert written[0] == tmp_path / "sharp.tif"
    assert names(tmp_path) == {"sharp.tif", *("sharp" + ending for ending in SIDE_PRODUCTS)}


@pytest.mark.usefixtures("plain_report")
def test_the_provenance_tells_files_parts_and_what_was_known(result, tmp_path, pair):
    """Enough to repeat the run: the masks and what was known beforehand too, by their hashes."""
    mask, srf = tmp_path / "clouds.tif", tmp_path / "srf.csv"
    with rasterio.open(mask, "w", driver="GTiff", count=1, height=8, width=8, dtype="uint8") as file:
        file.write(np.zeros((1, 8, 8), np.uint8))
    srf.write_text("wavelength_nm,blue\n450,1\n")
    parts = Parts(
        (500_000.0, 5_299_920.0, 500_080.0, 5_300_000.0), guide_mask=open_mask(*parse_mask(f"{mask}:3,8-10"))
    )
    inputs = Inputs(pair.hsi, pair.ref, parts, SensorWords(srf, psf="1.2"), wavelengths=Path("prisma"))
    save(result, tmp_path / "sharp.tif", inputs=inputs)
    told = json.loads((tmp_path / "sharp_quality.json").read_text())["provenance"]
    files = (pair.hsi, pair.hsi.with_suffix(".img"), pair.ref, mask, srf)
    assert {each["name"]: each["sha256"] for each in told["inputs"]} == {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
    assert told["parts"] == {"bounds": list(parts.bounds), "hsi_mask": None, "guide_mask": f"{mask}:3,8-10"}
    assert told["known"] == {"srf": str(srf), "guide_sensor": None, "psf": "1.2", "wavelengths": "prisma"}


@pytest.mark.usefixtures("plain_report")
def test_the_quicklook_of_a_large_scene_is_made_in_strips(result, tmp_path, monkeypatch):
    """The same; its limits, where they are those of some rows, are nearly so."""

    def quicklook(name):
        save(result, tmp_path / f"{name}.tif")
        with rasterio.open(tmp_path / f"{name}_rgb.tif") as file:
            return file.read().astype(int)

    whole = quicklook("whole")
    monkeypatch.setattr("hsi_fuse.quality.cube.BLOCK_VALUES", 3 * 7 * whole.shape[2])
    assert np.array_equal(quicklook("strips"), whole)
    monkeypatch.setattr("hsi_fuse.write.learned.STRETCHED_PIXELS", whole[0].size // 3)
    few = quicklook("few")
    assert 0 < np.abs(few - whole).mean() < 3


@pytest.mark.usefixtures("plain_report")
def test_the_raster_holds_the_product(result, tmp_path):
    save(result, tmp_path / "sharp.tif")
    again = read_hsi(tmp_path / "sharp.tif")
    assert again.grid == GRID.refine(RATIO)
    assert again.wavelengths_nm == pytest.approx(WAVELENGTHS, abs=0.01)
    assert again.good_bands.tolist() == result.hsi.good_bands.tolist()
    wanted = result.rows(0, 96)
    valid = np.isfinite(wanted).all(0)
    assert np.array_equal(again.valid, valid)
    assert (~valid).sum() == RATIO**2
    assert np.abs(again.values - wanted)[:, valid].max() < 0.51e-4  # half a stored step


@pytest.mark.usefixtures("plain_report")
def test_envi_output_is_readable(result, tmp_path):
    written = save(result, tmp_path / "sharp.hdr", driver="ENVI")
    assert all(path.exists() for path in written)
    assert written == list(outputs(tmp_path / "sharp.hdr", "ENVI"))
    again = read_hsi(tmp_path / "sharp.hdr")
    assert again.grid.transform == GRID.refine(RATIO).transform
    assert again.grid.crs == GRID.crs
    assert again.encoding.dtype == "int16"
    assert again.wavelengths_nm == pytest.approx(WAVELENGTHS, abs=0.01)
    assert again.good_bands.tolist() == result.hsi.good_bands.tolist()
    wanted = result.rows(0, 96)
    valid = np.isfinite(wanted).all(0)
    assert np.array_equal(again.valid, valid)
    assert np.abs(again.values - wanted)[:, valid].max() < 0.51e-4


@pytest.mark.usefixtures("plain_report")
def test_uncertainty_is_written_on_request(result, tmp_path):
    written = save(result, tmp_path / "sharp.tif", products=["uncertainty"])
    assert tmp_path / "sharp_uncertainty.tif" in written
    assert names(tmp_path) == {path.name for path in written}
    with rasterio.open(tmp_path / "sharp_uncertainty.tif") as file:
        assert (file.count, file.dtypes[0], file.crs) == (30, "float32", GRID.crs)
        values = file.read()
    good = result.hsi.good_bands
    valid = np.isfinite(result.rows(0, 96)[good]).all(0)
    assert np.isnan(values[~good]).all()
    assert np.isnan(values[:, ~valid]).all()
    assert np.allclose(values[good][:, valid], result.uncertainty.rows(0, 96).numpy()[:, valid], rtol=1e-4)
    figures = json.loads((tmp_path / "sharp_quality.json").read_text())["uncertainty"]
    assert figures["assessable"]
    assert len(figures["sigma"]) == good.sum()


@pytest.mark.usefixtures("plain_report")
def test_without_uncertainty_none_is_written_and_it_is_said(result, tmp_path):
    figures = {**result.quality.figures, "uncertainty": {"assessable": False, "reason": "no spread"}}
    without = replace(result, uncertainty=None, quality=replace(result.quality, figures=figures))
    with pytest.warns(HsiFuseWarning, match="no spread"):
        save(without, tmp_path / "sharp.tif", products=["uncertainty"])
    assert names(tmp_path) == {"sharp.tif", *("sharp" + ending for ending in SIDE_PRODUCTS)}


@pytest.mark.usefixtures("plain_report")
def test_the_nodata_number_can_be_chosen(result, tmp_path):
    save(result, tmp_path / "sharp.tif", nodata=-1234)
    with rasterio.open(tmp_path / "sharp.tif") as file:
        assert file.nodata == -1234
        assert (file.read()[:, 12:16, 20:24] == -1234).all()


def test_side_products_say_what_was_learned(result, tmp_path):
    save(result, tmp_path / "sharp.tif")
    with open(tmp_path / "sharp_srf.csv", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["wavelength_nm", "guide_band_1", "guide_band_2", "guide_band_3", "guide_band_4"]
    table = np.array(lines, float)
    assert table[:, 0] == pytest.approx(WAVELENGTHS[1:-1], abs=0.01)
    assert pytest.approx(result.problem.sensor.srf.numpy(), rel=1e-4, abs=1e-9) == table[:, 1:].T
    psf = np.loadtxt(tmp_path / "sharp_psf.csv", delimiter=",")
    assert psf.sum() == pytest.approx(1, abs=1e-4)
    figures = json.loads((tmp_path / "sharp_quality.json").read_text())
    assert figures["provenance"]["preset"]["name"] == "draft"
    assert figures["provenance"]["seed"] == 0
    assert figures["integrity"]["clipped_values"] == 0
    assert "</html>" in (tmp_path / "sharp_report.html").read_text()
    with rasterio.open(tmp_path / "sharp_displacement.tif") as file:
        assert (file.count, file.dtypes[0], file.shape) == (2, "float32", GRID.shape)
        assert np.abs(file.read()).max() < 0.5  # m: the guide lies where it says
    ties = json.loads((tmp_path / "sharp_ties.geojson").read_text())["features"]
    assert len(ties) == figures["registration"]["tie_points"]
    with rasterio.open(tmp_path / "sharp_rgb.tif") as file:
        assert (file.count, file.dtypes[0], file.shape) == (3, "uint8", (96, 112))
        assert file.crs == GRID.crs


@pytest.mark.parametrize("driver", ["GTiff", "ENVI", "COG"])
@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_a_failure_half_way_leaves_nothing(result, tmp_path, monkeypatch, driver, error):
    broken(monkeypatch, error)
    with pytest.raises(type(error)):
        save(result, tmp_path / "sharp.tif", driver=driver)
    assert names(tmp_path) == set()


@pytest.mark.usefixtures("plain_report")
def test_a_failure_half_way_keeps_the_files_of_before(result, tmp_path, monkeypatch):
    save(result, tmp_path / "sharp.tif")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        save(result, tmp_path / "sharp.tif", overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_failure_of_the_report_leaves_no_raster(result, tmp_path, monkeypatch):
    def fail(*_args, **_more):
        raise RuntimeError("no report")

    monkeypatch.setattr("hsi_fuse.write.learned.render", fail)
    with pytest.raises(RuntimeError, match="no report"):
        save(result, tmp_path / "sharp.tif")
    assert names(tmp_path) == set()


@pytest.mark.usefixtures("plain_report")
def test_a_disk_that_fails_at_the_end_leaves_nothing(result, tmp_path, monkeypatch):
    move = os.replace

    def fail(source, target):
        if target == tmp_path / "sharp.tif":  # the product is placed last: its side products stand by then
            raise OSError(28, "No space left on device")
        return move(source, target)

    monkeypatch.setattr("hsi_fuse.files.os.replace", fail)
    with pytest.raises(WriteError, match="No space left"):
        save(result, tmp_path / "sharp.tif")
    assert names(tmp_path) == set()


@pytest.mark.usefixtures("plain_report")
@pytest.mark.parametrize("name", ["sharp.tif", "sharp_quality.json", "sharp_report.html"])
def test_existing_outputs_are_kept_unless_told_otherwise(result, tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(WriteError, match=name):
        check_outputs(tmp_path / "sharp.tif")
    with pytest.raises(WriteError, match=name):
        save(result, tmp_path / "sharp.tif")
    assert names(tmp_path) == {name}
    assert (tmp_path / name).read_text() == "precious"
    check_outputs(tmp_path / "sharp.tif", overwrite=True)
    save(result, tmp_path / "sharp.tif", overwrite=True)
    assert not (tmp_path / name).read_bytes().startswith(b"precious")


def test_a_missing_folder_is_refused(result, tmp_path):
    with pytest.raises(WriteError, match="nowhere"):
        save(result, tmp_path / "nowhere" / "sharp.tif")
    assert names(tmp_path) == set()


@pytest.mark.usefixtures("plain_report")
def test_progress_of_writing_ends_at_the_last_row(result, tmp_path):
    said = []
    save(result, tmp_path / "sharp.tif", on_step=lambda *report: said.append(report))
    assert said[-1][:3] == ("write", 96, 96)


@pytest.mark.usefixtures("plain_report")
def test_a_product_with_a_value_that_does_not_fit_is_counted(result, tmp_path):
    loud = replace(result.estimate, coefficients=result.estimate.coefficients.clone())
    loud.coefficients[:, 0, 0] = 1e4 * torch.sign(loud.basis.sum(0))
    save(replace(result, estimate=loud), tmp_path / "sharp.tif")
    figures = json.loads((tmp_path / "sharp_quality.json").read_text())
    assert figures["integrity"]["clipped_values"] > 0
