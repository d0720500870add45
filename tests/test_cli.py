"""The command line: exit codes, one-line errors, nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from hsi_fuse import cli, errors, write
from hsi_fuse.cli import options
from hsi_fuse.preset import describe, load_preset

main = cli.main
COMMAND = [sys.executable, "-m", "hsi_fuse.cli"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, to see what is left there."""
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs the command line, expects an error and returns its one line; `leaves`: a page."""

    def check(code: int, *arguments: object, leaves: str | None = None) -> str:
        before = sorted([*workplace.rglob("*"), *([workplace / leaves] if leaves else [])])
        assert main([str(each) for each in arguments]) == code
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("hsi-fuse: error:")]
        assert len(lines) == 1, err
        assert "Traceback" not in err
        assert out == ""
        assert sorted(workplace.rglob("*")) == before
        return lines[0]

    return check


# --- errors that come before any computing -----------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "align"])
def test_missing_files(refused, pair, command):
    assert "nowhere.hdr" in refused(3, command, "nowhere.hdr", pair.ref)
    assert "nowhere.tif" in refused(3, command, pair.hsi, "nowhere.tif")
    assert "nowhere.tif" in refused(3, command, pair.hsi, pair.ref, "--displacement", "nowhere.tif")


def test_header_without_data(refused, pair):
    pair.hsi.with_suffix(".img").unlink()
    assert "scene" in refused(3, "run", pair.hsi, pair.ref)


@pytest.mark.parametrize("scale", ["0", "-1", "2.5", "x"])
def test_impossible_scale(refused, scale):
    assert "--scale" in refused(2, "run", "a.hdr", "b.tif", "--scale", scale)


@pytest.mark.parametrize("size", ["lots", "0", "-1G"])
def test_a_memory_that_is_no_size(refused, size):
    said = refused(2, "run", "a.hdr", "b.tif", "--max-memory", size)
    assert "is not a size such as 6G" in said


def test_wrong_usage(refused):
    refused(2, "run", "a.hdr")
    refused(2, "fly")
    assert "KEY=VALUE" in refused(2, "run", "a.hdr", "b.tif", "--co", "x")


def test_an_unknown_product_lists_those_there_are(refused):
    line = refused(2, "run", "a.hdr", "b.tif", "--products", "uncertainty,beauty")
    assert "'beauty'" in line
    assert "uncertainty, confidence" in line


def test_the_products_that_can_be_asked_for_are_those_that_are_written():
    assert tuple(write.ON_REQUEST) == tuple(options.PRODUCTS)


def test_unknown_preset_lists_those_there_are(refused, pair):
    line = refused(2, "run", pair.hsi, pair.ref, "--preset", "drift")
    assert all(name in line for name in ("drift", "draft", "fast"))


@pytest.mark.parametrize("override", ["map.colour=1", "paint.x=1", "map", "map.=1"])
def test_bad_override(refused, pair, override):
    assert override.partition("=")[0].split(".")[-1] in refused(
        2, "run", pair.hsi, pair.ref, "--preset", "draft", "--set", override
    )


@pytest.mark.parametrize("nodata", ["nan", "70000", "0.5"])
def test_nodata_that_does_not_fit(refused, pair, nodata):
    line = refused(7, "run", pair.hsi, pair.ref, "--preset", "draft", "--nodata", nodata)
    assert "int16" in line


def test_a_failing_driver_names_the_output(refused, pair):
    line = refused(7, "run", pair.hsi, pair.ref, "--preset", "interpolation", "--co", "BLOCKXSIZE=7")
    assert "scene_fused.tif" in line
    assert ".part" not in line


def test_a_creation_option_that_gdal_ignores_is_told(pair, capsys):
    arguments = ["run", str(pair.hsi), str(pair.ref), "--preset", "interpolation", "--co", "COMPRESS=FOO"]
    assert main(arguments) == 0
    assert "COMPRESS=FOO value not recognised" in capsys.readouterr().err


def test_existing_output_is_refused_before_anything_is_read(refused, workplace):
    (workplace / "a_fused.tif").write_text("precious")
    assert "--overwrite" in refused(7, "run", "a.hdr", "b.tif")
    assert (workplace / "a_fused.tif").read_text() == "precious"


def test_existing_product_on_request_is_refused_too(refused, workplace):
    (workplace / "a_fused_uncertainty.tif").write_text("precious")
    assert "--overwrite" in refused(7, "run", "a.hdr", "b.tif", "--products", "all")


def test_existing_side_product_is_refused_too(refused, workplace):
    (workplace / "a_fused_report.html").write_text("precious")
    assert "--overwrite" in refused(7, "run", "a.hdr", "b.tif")


def test_align_refuses_what_exists_before_anything_is_read(refused, workplace):
    (workplace / "b_registered_displacement.tif").write_text("precious")
    assert "--overwrite" in refused(7, "align", "a.hdr", "b.tif")


def test_unwritable_output(refused, workplace):
    (workplace / "file").touch()
    refused(7, "run", "a.hdr", "b.tif", "-o", workplace / "file" / "out.tif")
    refused(7, "run", "a.hdr", "b.tif", "-o", workplace / "no" / "such" / "folder" / "out.tif")
    refused(7, "run", "a.hdr", "b.tif", "-o", workplace)


# --- the layer itself, with a pipeline that only pretends ---------------------------------------------------


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, pair: Any) -> Callable[..., list[str]]:
    """Put `fuse` in the pipeline's place; returns the arguments of a run that gets there."""

    def replace(fuse: Callable[..., Any]) -> list[str]:
        import hsi_fuse.scene

        monkeypatch.setattr(hsi_fuse.scene, "fuse", fuse)
        return ["run", str(pair.hsi), str(pair.ref), "--preset", "interpolation"]

    return replace


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.AlignmentError("another place"), 4),
        (errors.SolveError("NaN in step 3"), 1),
        (errors.WriteError("disk full"), 7),
        (errors.GridError("no overlap"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_has_its_code(refused, pretend, error, code):
    def fuse(*arguments: Any, **options: Any) -> None:
        raise error

    assert str(error) in refused(code, *pretend(fuse))


def test_a_message_of_several_lines_becomes_one(refused, pretend):
    def fuse(*arguments: Any, **options: Any) -> None:
        raise errors.SolveError("one\n  two")

    assert refused(1, *pretend(fuse)).endswith("one two")


def test_an_unexpected_error_shows_its_traceback_only_when_asked(refused, pretend, capsys):
    def fuse(*arguments: Any, **options: Any) -> None:
        raise KeyError("x")

    arguments = pretend(fuse)
    assert "-v" in refused(1, *arguments)
    assert main([*arguments, "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_warnings_and_progress_are_lines_on_stderr(pretend, capsys):
    def fuse(*arguments: Any, on_step: Callable[..., None], **options: Any) -> None:
        for step in range(1, 6):
            on_step("coupled", step, 5, 0.5 / step)
            warnings.warn("the guide is dim", errors.HsiFuseWarning, stacklevel=2)
            warnings.warn("not for analysts", DeprecationWarning, stacklevel=2)
        raise errors.SolveError("stop here")

    arguments = pretend(fuse)
    main(arguments)
    err = capsys.readouterr().err
    assert err.count("hsi-fuse: warning: the guide is dim") == 1
    assert "not for analysts" not in err
    assert "coupled 1/5" in err
    assert "coupled 3/5" not in err  # not a line for each step
    assert "coupled 5/5" in err
    main([*arguments, "-q"])
    assert "coupled" not in capsys.readouterr().err


# --- help and presets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["batch", "-h"], ["align", "-h"], ["info", "-h"], ["--version"]],
)
def test_help_never_imports_torch(arguments):
    script = (
        f"import sys; from hsi_fuse.cli import main; main({arguments!r}); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "hsi-fuse" in done.stdout


def test_help_names_the_exit_codes(capsys):
    assert main(["--help"]) == 0
    assert "130" in capsys.readouterr().out


def test_presets_list(capsys):
    assert main(["presets", "list"]) == 0
    assert "draft" in capsys.readouterr().out
    assert main(["presets", "list", "--json"]) == 0
    assert "fast" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["interpolation", "draft", "fast"])
def test_a_preset_shown_is_a_preset(name, capsys, workplace):
    assert main(["presets", "show", name]) == 0
    shown = capsys.readouterr().out
    assert tomllib.loads(shown)
    (workplace / f"{name}.toml").write_text(shown)
    assert describe(load_preset(f"{name}.toml")) == describe(load_preset(name))


# --- the whole program ------------------------------------------------------------------------------------


def test_run_writes_the_product_and_tells_where(pair, workplace, capsys):
    assert main(["run", str(pair.hsi), str(pair.ref), "--preset", "draft"]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert Path("scene_fused.tif") in written
    assert {each.resolve() for each in written} == set(workplace.iterdir())


def test_run_writes_what_is_asked_for_beside_the_product(pair, workplace):
    arguments = ["run", str(pair.hsi), str(pair.ref), "--preset", "draft", "--products", "all"]
    assert main(arguments) == 0
    with (
        rasterio.open(workplace / "scene_fused_uncertainty.tif") as file,
        rasterio.open("scene_fused.tif") as of,
    ):
        assert (file.count, file.shape, file.transform) == (of.count, of.shape, of.transform)


def test_json_is_all_that_stands_on_stdout(pair, capsys):
    assert main(["run", str(pair.hsi), str(pair.ref), "--preset", "interpolation", "--json"]) == 0
    assert "scene_fused.tif" in json.loads(capsys.readouterr().out)["outputs"]


@pytest.mark.parametrize("command", [["info"], ["run", "--dry-run"]])
def test_a_plan_writes_nothing(pair, workplace, capsys, command):
    assert main([*command, str(pair.hsi), str(pair.ref)]) == 0
    assert "4" in capsys.readouterr().out
    assert main([*command, str(pair.hsi), str(pair.ref), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["product"]["scale"] == 4
    assert not list(workplace.iterdir())


def test_no_overlap(refused, make_pair):
    far = make_pair(shift_m=(5000, 0))
    line = refused(4, "run", far.hsi, far.ref, "--preset", "draft", leaves="scene_fused_report.html")
    assert "overlap" in line


def test_all_nodata(refused, make_pair):
    empty = make_pair(spoil_hsi=lambda stored: stored.fill(-9999))
    refused(3, "run", empty.hsi, empty.ref, "--preset", "draft")


def test_guide_coarser_than_the_hsi(refused, make_pair):
    coarse = make_pair(guide_step=8)
    refused(3, "run", coarse.hsi, coarse.ref, "--preset", "draft")


def test_no_wavelengths_is_a_warning(make_pair, capsys):
    bare = make_pair(wavelengths=False)
    assert main(["run", str(bare.hsi), str(bare.ref), "--preset", "draft"]) == 0
    assert "hsi-fuse: warning:" in capsys.readouterr().err


def test_missing_values_inside_do_not_spread(make_pair, workplace):
    import rasterio

    def spoil(stored: np.ndarray) -> None:
        stored[:, 10:12, 12] = -9999

    holed = make_pair(spoil_hsi=spoil)
    assert main(["run", str(holed.hsi), str(holed.ref), "--preset", "draft"]) == 0
    with rasterio.open(workplace / "scene_fused.tif") as product:
        mask = product.read_masks(1) > 0
    assert not mask[42:46, 50].any()
    assert mask.mean() > 0.95


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_in_the_middle_leaves_nothing(pair, workplace, number):
    child = subprocess.Popen(
        [*COMMAND, "run", str(pair.hsi), str(pair.ref), "--preset", "draft", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a test runner in the background may ignore Ctrl-C, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stderr is not None
    first = child.stderr.readline()  # progress: the work is under way, and most of it still to come
    child.send_signal(number)
    _, rest = child.communicate(timeout=60)
    err = first + rest
    assert child.returncode == 130, err
    assert err.count("hsi-fuse: error: interrupted") == 1
    assert "Traceback" not in err
    assert not list(workplace.iterdir())
