"""The registered reference as a file, and the commands: that a run can follow what `align` found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from affine import Affine
from mappings import GRIDS, SCALE, aligned, planned

from hsi_fuse import cli, open_guide, read_hsi
from hsi_fuse.errors import HsiFuseWarning, WriteError
from hsi_fuse.registered import SIDE_PRODUCTS, RegisteredGuide, save_registered

VILLAGE = Path(__file__).resolve().parents[1] / "sample_scenes" / "village"
FILES = [str(VILLAGE / "hsi.hdr"), str(VILLAGE / "guide.tif")]

# --- the registered reference ------------------------------------------------------------------------------


@pytest.fixture
def make_registered(tmp_path):
    """A function: stored guide values (band, 120, 160) and profile -> a registered guide, 10 pixels off."""

    def make(stored: np.ndarray, **profile: object) -> RegisteredGuide:
        hsi, guide = GRIDS["one system"]
        path = tmp_path / "in.tif"
        size = {"width": 160, "height": 120, "count": len(stored), "dtype": stored.dtype}
        with rasterio.open(
            path, "w", driver="GTiff", crs=guide.crs, transform=guide.transform, **size, **profile
        ) as file:
            file.write(stored)
            file.scales, file.offsets = (0.5,) * len(stored), (3.0,) * len(stored)
            file.descriptions = [f"colour {i}" for i in range(len(stored))]
        plan = planned(hsi, guide)
        off = Affine.translation(10 / SCALE, 0)
        return RegisteredGuide(
            open_guide(path), aligned(plan, off), plan.target, hsi, SCALE, ("careful",), {}
        )

    return make


def test_the_registered_reference_is_the_guide_moved(make_registered, tmp_path):
    stored = np.random.default_rng(0).integers(1, 60_000, (3, 120, 160), dtype=np.uint16)
    registered = make_registered(stored, nodata=0)
    (tmp_path / "out").mkdir()
    written = save_registered(registered, tmp_path / "out" / "r.tif")
    assert {path.name for path in written} == {"r.tif", *("r" + ending for ending in SIDE_PRODUCTS)}
    assert set(written) == set((tmp_path / "out").iterdir())
    with rasterio.open(written[0]) as file:
        assert (file.dtypes[0], file.nodata, file.shape) == ("uint16", 0, (120, 160))
        assert (file.scales, file.offsets) == ((0.5,) * 3, (3.0,) * 3)
        assert file.descriptions == ("colour 0", "colour 1", "colour 2")
        assert (file.crs, file.transform) == (registered.grid.crs, registered.grid.transform)
        found = file.read()
    assert np.array_equal(found[:, :, :150], stored[:, :, 10:])
    assert not found[:, :, 150:].any()
    figures = json.loads((tmp_path / "out" / "r_registration.json").read_text())
    assert figures["registration"]["rrmse_px"] == 0.1
    assert figures["integrity"] == {"nodata_fraction": 1200 / 19200, "clipped_values": 0}
    assert figures["warnings"] == ["careful"]


def test_a_type_without_room_for_nodata_gets_a_number_and_a_warning(make_registered, tmp_path):
    registered = make_registered(np.full((3, 120, 160), 200, np.uint8))
    with pytest.warns(HsiFuseWarning, match="stored as 255"):
        save_registered(registered, tmp_path / "r.tif")
    with rasterio.open(tmp_path / "r.tif") as file:
        assert file.nodata == 255
        assert (file.read()[:, :, 149:151] == [200, 255]).all()
    assert "255" in (tmp_path / "r_registration.json").read_text()
    with pytest.raises(WriteError, match="uint8"):
        save_registered(registered, tmp_path / "s.tif", nodata=256)


@pytest.mark.parametrize("name", ["r.tif", "r_ties.geojson", "r_displacement.tif", "r_registration.json"])
def test_what_exists_is_kept_and_a_failure_leaves_nothing(make_registered, tmp_path, monkeypatch, name):
    registered = make_registered(np.full((1, 120, 160), 200, np.uint8), nodata=0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("precious")
    with pytest.raises(WriteError, match=name):
        save_registered(registered, tmp_path / "out" / "r.tif")
    monkeypatch.setattr("hsi_fuse.registration.mapping_files.tie_points_geojson", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_registered(registered, tmp_path / "out" / "r.tif", overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text() == "precious"


# --- the commands ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where the village's guide was registered."""
    folder = tmp_path_factory.mktemp("village")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["align", *FILES, "-q", "--set", "align.search_hsi_px=3"]) == 0
    return folder


def test_align_writes_the_reference_where_the_truth_is(village):
    hsi, truth = read_hsi(VILLAGE / "hsi.hdr"), np.load(VILLAGE / "truth.npz")
    endings = ("", "_ties.geojson", "_displacement.tif", "_registration.json")
    names = {f"guide_registered{ending}" for ending in endings[1:]} | {"guide_registered.tif"}
    assert {path.name for path in village.iterdir()} == names
    with rasterio.open(village / "guide_registered.tif") as file:
        assert (file.transform, file.shape) == (hsi.grid.refine(4).transform, (160, 192))
        assert file.descriptions == ("red", "green", "blue", "nir")
        found, covered = file.read(), file.read_masks(1) > 0
    abundance = truth["abundance"] / float(truth["abundance_scale"])
    true = np.einsum("mn,nk,khw->mhw", truth["srf"], truth["endmembers"], abundance)
    for band, wanted in zip(found, true, strict=True):
        assert np.corrcoef(band[covered], wanted[covered])[0, 1] > 0.97
    assert 0.9 < covered.mean() < 0.94
    ties = json.loads((village / "guide_registered_ties.geojson").read_text())["features"]
    figures = json.loads((village / "guide_registered_registration.json").read_text())["registration"]
    assert figures["probability"] > 0.99
    assert figures["information"] > 1.5
    assert figures["tied"] > 0.5
    assert figures["unexplained"] < 0.1
    assert len(figures["guide_response"]) == 4
    assert figures["guide_response"][0].keys() == {"exponent", "black", "span"}
    before, after = (np.array([t["properties"][f"{when}_m"] for t in ties]) for when in ("before", "after"))
    assert before == pytest.approx(5.2, abs=1)
    assert np.median(after) < 0.1


@pytest.mark.parametrize("command", [["align"], ["run", "--preset", "interpolation"]])
def test_what_align_found_can_be_followed(village, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    given = village / "guide_registered_displacement.tif"
    assert cli.main([*command, *FILES, "--displacement", str(given), "-o", "again.tif"]) == 0
    with rasterio.open(given) as one, rasterio.open("again_displacement.tif") as other:
        assert np.abs(one.read() - other.read()).max() < 0.05  # fine pixels of 1 m
    if command == ["align"]:
        with rasterio.open(village / "guide_registered.tif") as one, rasterio.open("again.tif") as other:
            assert np.abs(one.read() - other.read().astype(float)).mean() < 0.002 * one.read().max()
        figures = json.loads(Path("again_registration.json").read_text())["registration"]
    else:
        figures = json.loads(Path("again_quality.json").read_text())["registration"]
    assert figures["displacement"] == str(given)
    assert figures.get("probability") is None  # of a mapping that was given
    assert figures["before_rrmse_px"] == pytest.approx(5.2, abs=0.1)
    assert figures["rrmse_px"] < 0.1


def test_a_report_that_a_refusal_may_need_is_kept(make_registered, tmp_path):
    registered = make_registered(np.full((1, 120, 160), 200, np.uint8), nodata=0)
    (tmp_path / "r_report.html").write_text("of a refusal before")
    with pytest.raises(WriteError, match=r"r_report\.html exists"):
        save_registered(registered, tmp_path / "r.tif")
    save_registered(registered, tmp_path / "r.tif", overwrite=True)
    assert not (tmp_path / "r_report.html").exists()  # it is registered now


def test_a_displacement_of_three_bands_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["align", *FILES, "--displacement", FILES[1]]) == 3
    assert "has 4 bands" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
