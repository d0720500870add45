"""What can be asked for beside the raster: each file opens by itself and says what the run found."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import spectral.io.envi
from rasterio.warp import transform
from synthetic import RATIO, WAVELENGTHS, pair_with_gaps

from hsi_fuse import fuse, load_preset
from hsi_fuse.errors import HsiFuseWarning, WriteError
from hsi_fuse.materials import MaterialOptions
from hsi_fuse.pipeline import FusionResult
from hsi_fuse.write import ENDINGS, ON_REQUEST, save
from hsi_fuse.write.layers import FADING, NO_DATA, NO_GUIDE, SEEN
from hsi_fuse.write.stac import EXTENSIONS, footprint_of
from hsi_fuse.write.table import PRODUCTS

GOOD = slice(1, 29)
EMPTY = (slice(3 * RATIO, 4 * RATIO), slice(5 * RATIO, 6 * RATIO))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> FusionResult:
    """A small scene, fused by a method that unmixes, its last eight rows of HSI pixels without a guide."""
    hsi, guide = pair_with_gaps(tmp_path_factory.mktemp("in"))
    preset = load_preset("cnmf", ["align.model=none", "align.local=false", "cnmf.updates=20"])
    made = fuse(hsi, guide, preset)
    bare = made.problem.guide_weight.clone()
    bare[-8 * RATIO :] = 0
    return replace(made, problem=replace(made.problem, guide_weight=bare))


@pytest.fixture(scope="module")
def folder(result: FusionResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that can be asked for but the uncertainty, of which this method has none."""
    made = tmp_path_factory.mktemp("out")
    names = [name for name in ON_REQUEST if name != "uncertainty"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hsi_fuse.write.learned._report", lambda *_: "<html></html>")
        written = save(result, made / "sharp.tif", products=names)
    assert {path.name for path in made.iterdir()} == {path.name for path in written}
    return made


def test_confidence_opens_by_itself(result, folder):
    with rasterio.open(folder / "sharp_confidence.tif") as file:
        assert (file.count, file.dtypes[0], file.crs) == (1, "float32", result.grid.crs)
        assert file.transform == result.grid.transform
        values = file.read(1)
    assert np.isnan(values[EMPTY]).all()
    assert np.isnan(values).sum() == RATIO**2
    assert np.nanmin(values) >= 0
    assert np.nanmax(values) <= 1
    known = ~np.isnan(values)
    np.testing.assert_array_equal(values[known], result.alignment.confidence[known])


def test_support_of_pixels_follows_the_reference(folder):
    with rasterio.open(folder / "sharp_support.tif") as file:
        assert (file.count, file.dtypes[0], file.nodata) == (1, "uint8", NO_DATA)
        assert file.colormap(1)[SEEN][3] == 255
        assert file.tags()["CLASS_1"].startswith("no reference")
        classes = file.read(1)
    assert (classes[EMPTY] == NO_DATA).all()
    assert (classes == NO_DATA).sum() == RATIO**2
    assert (classes[-8 * RATIO :] == NO_GUIDE).all()
    assert (classes[: 8 * RATIO][classes[: 8 * RATIO] != NO_DATA] == SEEN).all()
    column = classes[:, 60]
    assert (np.diff(column.astype(int)) <= 0).all()  # seen, then fading, then none
    assert FADING in column


def test_support_of_bands_follows_the_reference(result, folder):
    with open(folder / "sharp_support.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["band"]) for line in lines] == list(range(1, 31))
    assert [float(line["wavelength_nm"]) for line in lines] == pytest.approx(WAVELENGTHS, abs=0.01)
    assert lines[0]["support"] == lines[29]["support"] == "interpolated"
    said = {float(line["wavelength_nm"]): line["support"] for line in lines}
    assert all(kind == "seen" for nm, kind in said.items() if 450 < nm < 690 or 780 < nm < 840)
    assert all(kind == "inferred" for nm, kind in said.items() if 900 < nm < 980)
    shares = np.array([float(line["explained"]) for line in lines[GOOD]])
    assert 0.5 < shares.min() <= shares.max() <= 1
    seen = np.array([line["support"] == "seen" for line in lines[GOOD]])
    assert shares[seen].mean() > 0.95
    assert (~seen).sum() == int((~result.problem.sensor.seen).sum()) > 0


def test_endmembers_open_as_a_table_and_as_a_spectral_library(result, folder):
    spectra = result.materials.endmembers.numpy()  # (n, K)
    with open(folder / "sharp_endmembers.csv", newline="") as file:
        header, *lines = csv.reader(file)
    assert header[:2] == ["wavelength_nm", "endmember 1"]
    table = np.array(lines, float)
    np.testing.assert_allclose(table[:, 0], WAVELENGTHS[GOOD], atol=0.01)
    np.testing.assert_allclose(table[:, 1:], spectra, rtol=1e-5, atol=1e-12)
    library = spectral.io.envi.open(str(folder / "sharp_endmembers.hdr"))
    assert isinstance(library, spectral.io.envi.SpectralLibrary)
    np.testing.assert_allclose(library.spectra.T, spectra, rtol=1e-6)
    np.testing.assert_allclose(library.bands.centers, WAVELENGTHS[GOOD])
    np.testing.assert_allclose(library.bands.bandwidths, 8.5)
    assert library.names == header[1:]


def test_abundances_and_endmembers_make_the_product_within_the_noise(result, folder):
    spectra = result.materials.endmembers.numpy()
    with rasterio.open(folder / "sharp_abundances.tif") as file:
        assert (file.count, file.dtypes[0], file.crs) == (spectra.shape[1] + 1, "float32", result.grid.crs)
        assert (file.descriptions[0], file.descriptions[-1]) == ("endmember 1", "illumination")
        *shares, light = file.read()
    assert np.isnan(light[EMPTY]).all()
    there = np.isfinite(light)
    mixed = light[there] * (spectra @ np.array(shares)[:, there])
    error = mixed - result.rows(0, result.grid.height)[GOOD][:, there]
    misfit = np.sqrt(np.mean((error / result.problem.hsi_noise.numpy()[:, None]) ** 2))
    assert misfit < 1
    assert misfit == pytest.approx(result.materials.misfit, rel=0.1)  # that one is of a sample


@pytest.mark.usefixtures("plain_report")
@pytest.mark.parametrize("name", ["endmembers", "abundances"])
def test_more_endmembers_than_the_product_holds_are_refused_in_words(result, tmp_path, name):
    greedy = replace(result, preset=replace(result.preset, materials=MaterialOptions(endmembers=500)))
    with pytest.warns(HsiFuseWarning, match=f"no {name} written: 500 endmembers: .* at most"):
        written = save(greedy, tmp_path / "sharp.tif", products=[name])
    assert not any(name in path.name for path in written)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written}


def test_no_two_products_share_a_name_or_a_file():
    names = [product.name for product in PRODUCTS]
    assert len(set(names)) == len(names)
    assert len(set(ENDINGS)) == len(ENDINGS)
    assert all(len(product.media_type) == len(product.endings) for product in PRODUCTS)


def test_an_unknown_product_is_refused(result, tmp_path):
    with pytest.raises(WriteError, match="'beauty'; there are uncertainty, confidence"):
        save(result, tmp_path / "sharp.tif", products=["beauty"])
    assert not list(tmp_path.iterdir())


@pytest.fixture
def plain_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the figures of the report where a test is not about them."""
    monkeypatch.setattr("hsi_fuse.write.learned._report", lambda *_: "<html></html>")


# --- other software ----------------------------------------------------------------------------------------


def test_gdal_finds_wavelengths_scale_and_nodata_of_the_product(folder):
    with rasterio.open(folder / "sharp.tif") as file:
        assert (file.nodata, set(file.scales), set(file.offsets)) == (-9999, {1e-4}, {0.0})
        for band in (1, 17, 30):
            tags, imagery = file.tags(band), file.tags(band, ns="IMAGERY")
            assert float(tags["wavelength"]) == pytest.approx(WAVELENGTHS[band - 1])
            assert (tags["wavelength_units"], float(tags["fwhm"])) == ("Nanometers", 8.5)
            assert float(imagery["CENTRAL_WAVELENGTH_UM"]) == pytest.approx(WAVELENGTHS[band - 1] / 1e3)
            assert float(imagery["FWHM_UM"]) == pytest.approx(0.0085)
            assert tags["bbl"] == str(int(band == 17))


@pytest.mark.usefixtures("plain_report")
def test_spectral_opens_the_envi_product_with_the_same_scale(result, tmp_path):
    save(result, tmp_path / "sharp.img", driver="ENVI")
    image = spectral.io.envi.open(str(tmp_path / "sharp.hdr"), str(tmp_path / "sharp.img"))
    np.testing.assert_allclose(image.bands.centers, WAVELENGTHS)
    assert image.metadata["sensor type"] == "Test"
    assert image.metadata["default bands"] == ["9", "5", "2"]
    values = np.asarray(image.load()).transpose(2, 0, 1)[GOOD]  # spectral divides by the factor
    wanted = result.rows(0, result.grid.height)[GOOD]
    there = np.isfinite(wanted)
    assert np.abs(values - wanted)[there].max() < 0.51e-4


@pytest.mark.usefixtures("plain_report")
def test_a_cog_is_laid_out_as_one(result, tmp_path):
    save(result, tmp_path / "sharp.tif", driver="COG")
    with rasterio.open(tmp_path / "sharp.tif") as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.tags(17, ns="IMAGERY")["FWHM_UM"] == "0.0085"


# --- the STAC item -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def item(folder: Path) -> dict:
    return json.loads((folder / "sharp_stac.json").read_text())


def test_the_item_has_what_stac_requires(item):
    assert (item["type"], item["stac_version"], item["id"]) == ("Feature", "1.1.0", "sharp")
    assert {"geometry", "bbox", "properties", "links", "assets"} <= set(item)
    assert isinstance(item["links"], list)
    assert item["properties"]["datetime"] == "2022-07-24T10:45:26Z"
    assert item["stac_extensions"] == list(EXTENSIONS)
    ring = np.array(item["geometry"]["coordinates"][0])
    assert (ring[0] == ring[-1]).all()
    x, y = ring.T
    assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0  # anticlockwise: RFC 7946
    assert item["bbox"] == [*ring.min(0), *ring.max(0)]


def test_every_link_of_the_item_leads_to_a_file(item, folder):
    hrefs = [asset["href"] for asset in item["assets"].values()]
    assert all(re.fullmatch(r"\./sharp[\w.]*", href) and (folder / href).is_file() for href in hrefs)
    there = {path.name for path in folder.iterdir()} - {"sharp_stac.json"}
    assert {href.removeprefix("./") for href in hrefs} == there
    assert all("/" in asset["type"] and asset["roles"] for asset in item["assets"].values())


def test_the_item_follows_its_extensions(item, result):
    fields, asset = item["properties"], item["assets"]["product"]
    # projection v2: code is "authority:number" or null; transform 6 or 9 numbers; shape rows first
    assert fields["proj:code"] == "EPSG:32632"
    assert fields["proj:shape"] == list(result.grid.shape)
    assert fields["proj:transform"] == list(result.grid.transform[:6])
    assert fields["proj:bbox"] == list(result.grid.bounds)
    # processing v1.2: software maps names to versions; the time is RFC 3339
    assert fields["processing:software"]["hsi-fuse"]
    assert datetime.fromisoformat(fields["processing:datetime"]).tzinfo is not None
    # raster v2: sampling is area or point; data type, nodata and bands are STAC 1.1's own
    assert asset["raster:sampling"] == "area"
    assert asset["raster:scale"] == 1e-4
    assert (asset["data_type"], asset["nodata"]) == ("int16", -9999)
    assert asset["raster:spatial_resolution"] == pytest.approx(1, rel=1e-3)
    # eo v2: in micrometres, within bands
    centres = [band["eo:center_wavelength"] for band in asset["bands"]]
    np.testing.assert_allclose(centres, WAVELENGTHS / 1e3, rtol=1e-6)
    assert {band["eo:full_width_half_max"] for band in asset["bands"]} == {0.0085}
    named = [band for band in asset["bands"] if "eo:common_name" in band]
    common = {band["eo:common_name"]: band["eo:center_wavelength"] for band in named}
    assert common == pytest.approx({"blue": 0.49, "green": 0.555, "red": 0.65}, abs=0.012)
    # nothing of an extension that is not declared
    prefixes = {key.split(":")[0] for key in [*fields, *asset, *asset["bands"][0]] if ":" in key}
    assert prefixes <= {"eo", "proj", "raster", "processing"}


def test_the_footprint_is_that_of_the_hsi(item, result):
    corners = result.hsi.grid.transform * (0, 0), result.hsi.grid.transform * (28, 24)
    x, y = transform(result.grid.crs, "EPSG:4326", *zip(*corners, strict=True))
    ring = np.array(item["geometry"]["coordinates"][0])
    for corner in zip(x, y, strict=True):
        assert np.abs(ring - corner).max(1).min() < 1e-7  # degrees: a centimetre


@pytest.mark.usefixtures("plain_report")
def test_without_wavelengths_the_item_declares_no_eo_extension(result, tmp_path):
    plain = replace(result, hsi=replace(result.hsi, wavelengths_nm=None, fwhm_nm=None))
    save(plain, tmp_path / "sharp.tif", products=["stac"])
    text = (tmp_path / "sharp_stac.json").read_text()
    assert "eo:" not in text
    assert json.loads(text)["stac_extensions"] == list(EXTENSIONS[1:])


def test_without_georeferencing_the_item_has_no_place(result):
    assert footprint_of(replace(result.grid, crs=None)) == (None, None)


@pytest.mark.usefixtures("plain_report")
def test_without_acquisition_time_the_item_has_that_of_processing_and_it_is_said(result, tmp_path):
    timeless = replace(result, hsi=replace(result.hsi, tags={}))
    with pytest.warns(HsiFuseWarning, match="no acquisition time"):
        save(timeless, tmp_path / "sharp.tif", products=["stac"])
    fields = json.loads((tmp_path / "sharp_stac.json").read_text())["properties"]
    assert fields["datetime"] == fields["processing:datetime"]
