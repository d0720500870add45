"""`hsi-fuse simulate`: a folder with a pair as `observe` gives it, and what is true of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from click.testing import CliRunner
from synthetic import WAVELENGTHS, scene

from hsi_fuse import cli
from hsi_fuse.cli.simulate import simulate
from hsi_fuse.errors import HsiFuseWarning
from hsi_fuse.grid import Grid
from hsi_fuse.raster import Raster
from hsi_fuse.read import open_guide, read_hsi
from hsi_fuse.simulation.simulate import DISPLACED, PROTOCOLS, VARIANTS, observe
from hsi_fuse.simulation.simulated import FILES, largest_rectangle, simulate_pair
from hsi_fuse.write import write_cube

UTM32 = rasterio.CRS.from_epsg(32632)
GRID = Grid(UTM32, Affine.translation(500_000, 5_300_000) * Affine.scale(2, -2), 112, 96)
PEAK = 0.8
main = cli.main


def truth(**changed: object) -> Raster:
    """A scene of 96 x 112 pixels of 2 m; one band of its thirty flagged bad."""
    values = PEAK * (scene(96, 112) / scene(96, 112).max()).numpy()
    good = np.arange(len(values)) != 7
    plain = Raster(values, np.ones((96, 112), bool), GRID, WAVELENGTHS, good_bands=good)
    return replace(plain, **changed)


def stored(folder: Path, image: Raster | None = None) -> Path:
    """The truth as a file."""
    image = truth() if image is None else image
    path = folder / "scene.img"

    def rows(start: int, stop: int) -> np.ndarray:
        return np.where(image.valid[start:stop], image.values[:, start:stop], np.float32(np.nan))

    write_cube(path, rows, image.grid, image, driver="ENVI", overwrite=True)
    return path


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return stored(tmp_path)


@pytest.fixture
def refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs `simulate`, expects an exit code, one line, and nothing left behind."""

    def check(code: int, *arguments: object) -> str:
        before = sorted(workplace.rglob("*"))
        assert main(["simulate", *map(str, arguments)]) == code
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("hsi-fuse: error:")]
        assert len(lines) == 1, err
        assert out == ""
        assert sorted(workplace.rglob("*")) == before
        return lines[0]

    return check


# --- what is written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["x4-ms4", "x4-rgb-strong", "x4-sharp-parallax", "x4-rgb-contrast"])
def test_the_pair_read_back_is_what_observe_gave(source, workplace, protocol):
    assert main(["simulate", str(source), "--protocol", protocol, "--seed", "5", "-o", "pair"]) == 0
    assert sorted(path.name for path in (workplace / "pair").iterdir()) == sorted(FILES)
    good = truth().good_bands
    made = observe(torch.from_numpy(truth().values[good]), WAVELENGTHS[good], PROTOCOLS[protocol], 5)
    hsi, opened = read_hsi("pair/hsi.hdr"), open_guide("pair/reference.tif")
    guide = opened.read(0, 0, opened.grid.height, opened.grid.width)
    assert np.array_equal(hsi.values, made.hsi.numpy())
    assert hsi.wavelengths_nm == pytest.approx(WAVELENGTHS[good])
    assert np.array_equal(guide.values, made.guide.numpy())
    assert np.array_equal(guide.valid, made.guide_valid.numpy())
    told = json.loads(Path("pair/truth.json").read_text())
    assert np.array_equal(np.array(told["srf"], np.float32), made.sensor.srf.numpy())
    assert np.array_equal(np.array(told["psf"], np.float32), made.sensor.psf.numpy())
    mapping = np.stack([told["fine_to_reference"][axis] for axis in ("columns", "rows")])
    assert np.abs(mapping - made.fine_to_guide).max() <= 0.5e-6
    for name in ("objects", "occluded", "changed"):
        values, lengths = np.array(told[name]).T
        mask = np.repeat(values, lengths).reshape(made.objects.shape)
        assert np.array_equal(mask, getattr(made, name))


def test_the_json_says_which_part_of_the_truth_was_observed(source):
    assert main(["simulate", str(source), "--protocol", "x4-ms4-mild", "-o", "pair"]) == 0
    told = json.loads(Path("pair/truth.json").read_text())
    assert told["truth"]["peak"] == pytest.approx(PEAK)
    assert told["truth"]["good_bands"] == [b for b in range(30) if b != 7]
    window = told["truth"]["window"]
    rows = slice(window["row"], window["row"] + window["height"])
    columns = slice(window["column"], window["column"] + window["width"])
    seen = truth().values[told["truth"]["good_bands"], rows, columns] / told["truth"]["peak"]
    good = truth().good_bands
    made = observe(torch.from_numpy(truth().values[good]), WAVELENGTHS[good], PROTOCOLS["x4-ms4-mild"])
    assert seen == pytest.approx(made.truth.numpy(), abs=1e-6)
    assert told["snr_db"] == {"hsi": 35, "reference": 40}
    assert main(["simulate", str(source), "--protocol", "x4-sharp", "-o", "sharp"]) == 0
    assert json.loads(Path("sharp/truth.json").read_text())["snr_db"] == {"hsi": None, "reference": None}


def test_both_images_lie_where_the_truth_does():
    made = simulate_pair(truth(), PROTOCOLS["x4-ms4-mild"])
    window = made.truth["window"]
    corner = GRID.transform * (window["column"], window["row"])
    for grid, size in ((made.hsi.grid, 8), (made.guide, 2)):
        assert grid.crs == UTM32
        assert grid.transform * (0, 0) == pytest.approx(corner)
        assert grid.gsd == pytest.approx((size, size))
    assert made.hsi.grid.bounds == pytest.approx(made.guide.bounds)


def test_a_wrong_claim_and_a_missing_one_are_written_so():
    off = simulate_pair(truth(), PROTOCOLS["x4-ms4-off10"])
    columns, rows = off.pair.claimed_shift_px
    assert np.hypot(columns, rows) == pytest.approx(40)
    # the place of a fine pixel, by the reference's own georeferencing, is in this pixel of the reference
    place = off.fine.transform * (30.5, 20.5)
    assert ~off.guide.transform * place == pytest.approx((30.5 + columns, 20.5 + rows))
    lost = simulate_pair(truth(), PROTOCOLS["x4-ms4-rotated85"])
    assert not lost.guide.georeferenced
    assert lost.hsi.grid.georeferenced


def test_a_truth_without_georeferencing_gives_a_pair_without():
    bare = truth(grid=Grid(None, Affine.identity(), 112, 96))
    made = simulate_pair(bare, PROTOCOLS["x4-ms4-mild"])
    assert not made.hsi.grid.georeferenced
    assert not made.guide.georeferenced
    with pytest.warns(HsiFuseWarning, match="no georeferencing"):
        simulate_pair(bare, PROTOCOLS["x4-ms4-off10"])


def test_pixels_without_values_are_left_out():
    valid = np.ones((96, 112), bool)
    valid[:30, :50] = False
    with pytest.warns(HsiFuseWarning, match="66 x 112 of its 96 x 112"):
        made = simulate_pair(truth(valid=valid), PROTOCOLS["x4-ms4"])
    assert made.truth["window"] == {"row": 30, "column": 0, "height": 64, "width": 112}
    assert made.fine.transform == GRID.window(30, 0, 1, 1).transform


def test_the_largest_rectangle_is_found():
    rng = np.random.default_rng(0)
    for _ in range(20):
        valid = rng.random((7, 9)) < 0.8
        rows, columns = largest_rectangle(valid)
        assert valid[rows, columns].all()
        sizes = [
            (b - t) * (r - le)
            for t in range(7)
            for b in range(t + 1, 8)
            for le in range(9)
            for r in range(le + 1, 10)
            if valid[t:b, le:r].all()
        ]
        assert valid[rows, columns].size == max(sizes)


def test_run_takes_the_pair(source, workplace, capsys):
    assert main(["simulate", str(source), "--protocol", "x4-ms4-mild", "-o", "pair", "--json"]) == 0
    outputs = json.loads(capsys.readouterr().out)["outputs"]
    assert outputs == [f"pair/{name}" for name in FILES]
    arguments = ["run", "pair/hsi.hdr", "pair/reference.tif", "--preset", "draft", "-o", "sharp.tif", "-q"]
    assert main(arguments) == 0
    told = json.loads(Path("pair/truth.json").read_text())
    window = told["truth"]["window"]
    with rasterio.open("sharp.tif") as file:
        assert file.shape == (window["height"], window["width"])
        product = file.read()
    part = np.s_[
        window["row"] : window["row"] + window["height"],
        window["column"] : window["column"] + window["width"],
    ]
    wanted = truth().values[told["truth"]["good_bands"]][:, *part] / told["truth"]["peak"]
    blurred = read_hsi("pair/hsi.hdr").values.repeat(4, 1).repeat(4, 2)
    inside = np.s_[:, 8:-8, 8:-8]
    assert np.std((product - wanted)[inside]) < 0.4 * np.std((blurred - wanted)[inside])


def test_the_same_seed_writes_the_same_bytes(source):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        arguments = ["simulate", str(source), "--protocol", "x4-rgb-mild", "--seed", str(seed), "-o", folder]
        assert main(arguments) == 0
    for name in FILES:
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()
    assert Path("a/hsi.img").read_bytes() != Path("c/hsi.img").read_bytes()


def test_without_a_folder_it_is_named_after_truth_and_protocol(source, workplace):
    assert main(["simulate", str(source)]) == 0
    assert (workplace / "scene_x4-ms4" / "truth.json").is_file()


# --- errors ------------------------------------------------------------------------------------------------


def test_an_unknown_protocol_is_wrong_usage(refused, source):
    line = refused(2, source, "--protocol", "x5", "-o", "pair")
    assert "x4-ms4" in line
    refused(2, source, "--seed", "-1")
    refused(2)


def test_a_truth_that_cannot_be_used(refused, tmp_path):
    assert "nowhere.hdr" in refused(3, "nowhere.hdr")
    short = stored(tmp_path, truth(wavelengths_nm=np.linspace(400, 700, 30)))
    assert "760-855" in refused(3, short, "-o", "pair")
    assert "--wavelengths" in refused(3, stored(tmp_path, truth(wavelengths_nm=None)), "-o", "pair")


def test_a_truth_smaller_than_a_pixel_is_unusable(refused, tmp_path):
    small = truth()
    small = replace(
        small, values=small.values[:, :6, :3].copy(), valid=small.valid[:6, :3], grid=GRID.window(0, 0, 6, 3)
    )
    assert "too small" in refused(3, stored(tmp_path, small), "-o", "pair")


def test_what_exists_is_kept_without_overwrite(refused, source, workplace):
    folder = workplace / "pair"
    folder.mkdir()
    (folder / "truth.json").write_text("precious")
    assert "--overwrite" in refused(7, "nowhere.hdr", "-o", folder)  # before anything is read
    assert (folder / "truth.json").read_text() == "precious"
    assert main(["simulate", str(source), "-o", str(folder), "--overwrite"]) == 0
    assert json.loads((folder / "truth.json").read_text())["protocol"] == "x4-ms4"


def test_a_folder_that_cannot_be_made(refused, source, workplace):
    assert "does not exist" in refused(7, source, "-o", "a/b")
    (workplace / "file").write_text("")
    assert "is a file" in refused(7, source, "-o", "file")


def test_what_fails_on_the_way_leaves_no_folder(refused, source, monkeypatch):
    def full(*given: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hsi_fuse.simulation.simulated.write_image", full)
    assert "No space left" in refused(7, source, "-o", "pair")


def test_termination_leaves_no_folder(source, workplace):
    code = (
        "import os, signal, sys\n"
        "import hsi_fuse.simulation.simulated as s\n"
        "s.write_image = lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM)\n"
        "from hsi_fuse.cli import main\n"
        f"sys.exit(main(['simulate', {str(source)!r}, '-o', 'pair']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert signal.SIGTERM.name not in done.stderr
    assert list(workplace.iterdir()) == []


def test_help_names_every_protocol():
    text = CliRunner().invoke(simulate, ["--help"]).output
    for name in (*DISPLACED, "cave-x32", "x3-ali", "x4-ms4-psf0.3"):
        assert name in text
    assert all(f"-{variant}" in text for variant in VARIANTS)
    for name, protocol in PROTOCOLS.items():
        if "psf" in name and protocol.misregistration is None:
            assert f"-{name.rpartition('-')[2]}" in text
