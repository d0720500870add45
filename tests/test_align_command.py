"""The registered reference and the mapping as files: what they mean, and that a run can follow them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from affine import Affine
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter

from hsi_fuse import cli, open_guide, read_hsi
from hsi_fuse.align import Alignment, start_mapping, to_guide
from hsi_fuse.errors import GridError, HsiFuseWarning, ReadError, WriteError
from hsi_fuse.grid import Grid
from hsi_fuse.gtiff import write_image
from hsi_fuse.planning import Plan
from hsi_fuse.raster import Raster
from hsi_fuse.registered import SIDE_PRODUCTS, RegisteredGuide, save_registered
from hsi_fuse.registration.follow import as_followed, follow
from hsi_fuse.registration.mapping_files import displacement_m, ground_of, tie_points_geojson, write_mapping

VILLAGE = Path(__file__).resolve().parents[1] / "sample_scenes" / "village"
FILES = [str(VILLAGE / "hsi.hdr"), str(VILLAGE / "guide.tif")]
SCALE = 4
UTM32, UTM33, DEGREES, FEET = (CRS.from_epsg(code) for code in (32632, 32633, 4326, 2263))
NORTH_UP = Affine(4, 0, 700_000, 0, -4, 5_400_000)
TURNED = Affine.translation(700_000, 5_400_000) * Affine.rotation(25) * Affine.scale(4, -4)
DEGREE = Affine(5e-5, 0, 11.7, 0, -4e-5, 48.7)


def grid_of(crs: CRS | None, transform: Affine, scale: int = 1) -> Grid:
    return Grid(crs, transform, 40, 30).refine(scale)


# (HSI, guide): the guide's pixels are a quarter of the HSI's
GRIDS = {
    "one system": (grid_of(UTM32, NORTH_UP), grid_of(UTM32, NORTH_UP, SCALE)),
    "turned": (grid_of(UTM32, TURNED), grid_of(UTM32, NORTH_UP, SCALE)),
    "two zones": (
        grid_of(UTM32, NORTH_UP),
        Grid(UTM33, Affine(1, 0, 259_500, 0, -1, 5_409_500), 400, 400),
    ),
    "degrees": (grid_of(DEGREES, DEGREE), grid_of(DEGREES, DEGREE, SCALE)),
    "degrees, guide in metres": (
        grid_of(DEGREES, DEGREE),
        Grid(UTM32, Affine(1, 0, 698_500, 0, -1, 5_398_500), 400, 400),
    ),
    "feet": (grid_of(FEET, NORTH_UP), grid_of(FEET, NORTH_UP, SCALE)),
    "no CRS": (grid_of(None, NORTH_UP), grid_of(None, NORTH_UP, SCALE)),
    "no georeferencing": (grid_of(None, Affine.identity()), Grid(None, Affine.identity(), 160, 120)),
}


def planned(hsi: Grid, guide: Grid) -> Plan:
    start, bend = start_mapping(hsi, guide)
    return Plan(SCALE, hsi.refine(SCALE), start, bend, 1.0, 0.25, 0, {})


def waves(shape: tuple[int, int], rms: float) -> np.ndarray:
    """A smooth random displacement on a lattice of HSI corners, guide pixels."""
    noise = np.random.default_rng(1).standard_normal((2, shape[0] + 1, shape[1] + 1))
    smooth = gaussian_filter(noise, (0, 5, 5))
    return (rms * smooth / smooth.std()).astype(np.float32)


NOWHERE = Affine.identity()
OFF = Affine.translation(2.3, -1.2) * Affine.rotation(3) * Affine.scale(1.01)


def aligned(plan: Plan, off: Affine = NOWHERE, local_px: float = 0.0) -> Alignment:
    """As if the search had found that content lies `off` (HSI pixels) from where georeferencing puts it."""
    height, width = plan.target.shape
    shape = (height // SCALE, width // SCALE)
    fine = Affine.scale(1 / SCALE)
    bend = None if plan.displacement is None and not local_px else waves(shape, local_px)
    ties = np.array([[20.0, 30.0, 0.25, -0.5], [100.0, 60.0, 0.0, 0.0]])
    return Alignment(
        plan.start * off * fine,
        bend,
        np.ones((height, width), np.float32),
        plan.start * fine,
        plan.displacement,
        ties + np.array([0, 0, 8, 4]),
        ties,
        0.1,
        {"rrmse_px": 0.1, "shift_px": [1, 2], "before_rrmse_px": 0.1},
    )


def error_px(one: Alignment, plan: Plan) -> float:
    """Largest distance between an alignment and a plan's mapping at product pixels, in product pixels."""
    height, width = plan.target.shape
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    wanted = to_guide(one.hsi_to_guide, one.displacement_px, (height, width), x, y)
    start = plan.start * Affine.scale(1 / SCALE)
    found = to_guide(start, plan.displacement, (height, width), x, y)
    return float(np.hypot(*(found - wanted)).max() / np.sqrt(abs(start.determinant)))


def image(grid: Grid) -> Raster:
    return Raster(np.ones((2, *grid.shape), np.float32), np.ones(grid.shape, bool), grid)


# --- the displacement file ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::hsi_fuse.errors.HsiFuseWarning")
@pytest.mark.parametrize("name", GRIDS)
def test_ground_shows_where_the_displacement_says(name):
    hsi, guide = GRIDS[name]
    alignment = aligned(planned(hsi, guide), OFF)
    east, north = displacement_m(alignment, hsi, SCALE)
    rows, columns = np.mgrid[:30, :40]
    x, y = hsi.transform * (columns + 0.5, rows + 0.5)
    across = {UTM32: 1.0, FEET: 1200 / 3937, None: 1.0, DEGREES: 111_320 * np.cos(np.radians(y))}[hsi.crs]
    down = 111_320 if hsi.crs == DEGREES else across
    x, y = x + east / across, y + north / down
    if hsi.crs is not None:
        x, y = (
            np.reshape(v, x.shape) for v in rasterio.warp.transform(hsi.crs, guide.crs, x.ravel(), y.ravel())
        )
    claimed = ~guide.transform * (x, y)
    if name == "no georeferencing":
        claimed = 4 * x, 4 * y
    wanted = to_guide(
        alignment.hsi_to_guide, alignment.displacement_px, (120, 160), 4 * columns + 2, 4 * rows + 2
    )
    assert np.hypot(*(np.stack(claimed) - wanted)).max() < 0.05
    assert np.hypot(east, north).max() > 1


def test_east_and_north_are_positive_to_the_east_and_north():
    hsi, guide = GRIDS["one system"]
    off = Affine.translation(2, -1)  # two HSI pixels of 4 m to the right, one up
    d = displacement_m(aligned(planned(hsi, guide), off), hsi, SCALE)
    assert d[0] == pytest.approx(8)
    assert d[1] == pytest.approx(4)


@pytest.mark.filterwarnings("ignore::hsi_fuse.errors.HsiFuseWarning")
@pytest.mark.parametrize("local_px", [0.0, 1.0])
@pytest.mark.parametrize("name", GRIDS)
def test_a_mapping_written_and_followed_is_the_same(name, local_px, tmp_path):
    hsi, guide = GRIDS[name]
    plan = planned(hsi, guide)
    alignment = aligned(plan, OFF, local_px)
    write_mapping(tmp_path / "a.tif", alignment, ground_of(hsi, hsi.crs), SCALE)
    given = follow(tmp_path / "a_displacement.tif", image(hsi), plan)
    assert error_px(alignment, given) < 0.05
    assert error_px(alignment, plan) > 5


def test_the_displacement_file_describes_itself(tmp_path):
    hsi, guide = GRIDS["one system"]
    write_mapping(tmp_path / "a.tif", aligned(planned(hsi, guide), OFF), hsi, SCALE)
    with rasterio.open(tmp_path / "a_displacement.tif") as file:
        assert file.dtypes == ("float32", "float32")
        assert file.descriptions == ("displacement to the east, m", "displacement to the north, m")
        assert (file.crs, file.transform, file.shape) == (hsi.crs, hsi.transform, hsi.shape)


@pytest.mark.parametrize("crs", [UTM32, UTM33])
def test_a_displacement_on_another_grid_means_the_same(tmp_path, crs):
    hsi, guide = GRIDS["one system"]
    plan = planned(hsi, guide)
    x, y = rasterio.warp.transform(UTM32, crs, [699_980.0], [5_400_060.0])
    grid = Grid(crs, Affine.translation(x[0], y[0]) * Affine.scale(7, -7), 40, 40)
    values = np.empty((2, 40, 40), np.float32)
    values[0], values[1] = 6, -5
    write_image(tmp_path / "d.tif", values, grid)
    given = follow(tmp_path / "d.tif", image(hsi), plan)
    moved = given.start * (20, 15)
    start = plan.start * (20, 15)
    turn = np.radians(4.43 if crs == UTM33 else 0)  # of the next zone's grid north
    wanted = Affine.rotation(-np.degrees(turn)) * (6, 5)
    assert np.subtract(moved, start) == pytest.approx(wanted, abs=0.05)


def east(grid: Grid, metres: float) -> Grid:
    return replace(grid, transform=Affine.translation(metres, 0) * grid.transform)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda v, g: (v[:1], g), ReadError, "1 bands"),
        (lambda v, g: (np.concatenate([v, v]), g), ReadError, "4 bands"),
        (lambda v, g: (v, east(g, 9000)), GridError, "does not overlap"),
        (lambda v, g: (v, east(g, 80)), GridError, "50.0 %"),
        (lambda v, g: (np.where(np.arange(40) == 7, np.nan, v), g), GridError, "30 of the HSI's 1200"),
    ],
)  # fmt: skip
def test_a_displacement_that_does_not_fit_is_refused_in_words(tmp_path, spoil, error, words):
    hsi, guide = GRIDS["one system"]
    values, grid = spoil(np.zeros((2, 30, 40), np.float32), hsi)
    write_image(tmp_path / "d.tif", values.astype(np.float32), grid)
    with pytest.raises(error, match=words):
        follow(tmp_path / "d.tif", image(hsi), planned(hsi, guide))


def test_holes_where_the_hsi_has_none_do_not_matter(tmp_path):
    hsi, guide = GRIDS["one system"]
    values = np.ones((2, 30, 40), np.float32)
    values[:, :, 30:] = np.nan
    write_image(tmp_path / "d.tif", values, hsi)
    scene = image(hsi)
    scene.valid[:, 30:] = False
    given = follow(tmp_path / "d.tif", scene, planned(hsi, guide))
    assert given.start * (0, 0) == pytest.approx((1, -1))


@pytest.mark.filterwarnings("ignore::hsi_fuse.errors.HsiFuseWarning")
@pytest.mark.parametrize("name", ["turned", "two zones"])
def test_what_was_followed_is_told_against_the_georeferencing(name):
    hsi, guide = GRIDS[name]
    plan = planned(hsi, guide)
    searched = aligned(plan, OFF, 1.0)
    followed = as_followed(
        replace(searched, start=searched.hsi_to_guide, start_displacement_px=None), plan, hsi, "d.tif"
    )
    assert followed.start == searched.start
    place = followed.ties_before[:, :2] + followed.ties_before[:, 2:]
    there = followed.ties_after[:, :2] + followed.ties_after[:, 2:]
    shape = plan.target.shape
    one = to_guide(followed.start, followed.start_displacement_px, shape, *place.T)
    other = to_guide(followed.hsi_to_guide, followed.displacement_px, shape, *there.T)
    assert one == pytest.approx(other, abs=1e-3)
    assert "shift_px" not in followed.found
    assert followed.found["displacement"] == "d.tif"
    length = np.hypot(*followed.ties_before[:, 2:].T)
    assert followed.found["before_rrmse_px"] == pytest.approx(np.sqrt((length**2).mean()))
    assert followed.found["rrmse_px"] == 0.1


# --- the tie points ----------------------------------------------------------------------------------------


def test_tie_points_are_lines_on_the_map():
    hsi, guide = GRIDS["two zones"]
    found = json.loads(tie_points_geojson(aligned(planned(hsi, guide)), hsi, SCALE))
    assert found.keys() == {"type", "features"}
    assert found["type"] == "FeatureCollection"
    feature = found["features"][0]
    (lon, lat), end = feature["geometry"]["coordinates"]
    x, y = rasterio.warp.transform(DEGREES, UTM32, [lon, end[0]], [lat, end[1]])
    assert (x[0], y[0]) == pytest.approx((700_020, 5_399_970), abs=1e-3)  # fine pixels of 1 m
    assert (x[1] - x[0], y[1] - y[0]) == pytest.approx((8.25, -3.5), abs=1e-3)
    assert feature["properties"] == {
        "column": 20,
        "row": 30,
        "before_px": pytest.approx(np.hypot(8.25, 3.5), abs=1e-4),
        "before_m": pytest.approx(np.hypot(8.25, 3.5), abs=1e-4),
        "before_east_m": 8.25,
        "before_north_m": -3.5,
        "after_px": pytest.approx(np.hypot(0.25, 0.5), abs=1e-4),
        "after_m": pytest.approx(np.hypot(0.25, 0.5), abs=1e-4),
        "after_east_m": 0.25,
        "after_north_m": 0.5,
    }


@pytest.mark.filterwarnings("ignore::hsi_fuse.errors.HsiFuseWarning")
def test_without_a_crs_tie_points_say_so():
    hsi, guide = GRIDS["no georeferencing"]
    alignment = aligned(planned(hsi, guide))
    found = json.loads(tie_points_geojson(alignment, hsi, SCALE))
    assert "no CRS" in found["coordinate_system"]
    assert found["features"][0]["geometry"]["coordinates"][0] == [5, 7.5]  # HSI pixels
    assert found["features"][0]["properties"]["after_m"] is None
    none = replace(alignment, ties_before=np.zeros((0, 4)), ties_after=np.zeros((0, 4)))
    assert json.loads(tie_points_geojson(none, hsi, SCALE))["features"] == []


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
