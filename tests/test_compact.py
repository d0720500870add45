"""The compact product and `expand`: the run's own values come back, whole or in part; damage is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from synthetic import RATIO, WAVELENGTHS, pair_with_gaps

from hsi_fuse import fuse, load_preset, read_hsi
from hsi_fuse.cli import main
from hsi_fuse.errors import GridError, ReadError, WriteError
from hsi_fuse.pipeline import FusionResult
from hsi_fuse.problem import Estimate
from hsi_fuse.raster import Bands
from hsi_fuse.write import bands_as_rgb, bands_in_range, expand, open_compact, save

HEIGHT, WIDTH = 24 * RATIO, 28 * RATIO


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> FusionResult:
    """A small scene, fused: an empty pixel, two bad bands."""
    hsi, guide = pair_with_gaps(tmp_path_factory.mktemp("in"))
    preset = load_preset("cnmf", ["align.model=none", "align.local=false", "cnmf.updates=20"])
    return fuse(hsi, guide, preset)


@pytest.fixture(scope="module")
def folder(result: FusionResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's raster and its compact products, exact (sharp) and short (short)."""
    made = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hsi_fuse.write.learned._report", lambda *_: "<html></html>")
        save(result, made / "sharp.tif", products=["compact"])
        save(result, made / "short.tif", products=["compact"], compact_dtype="int16")
    return made


@pytest.fixture(scope="module")
def exact(folder: Path) -> Path:
    return folder / "sharp_compact.safetensors"


def stored(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


@pytest.mark.parametrize(("driver", "name"), [("GTiff", "o.tif"), ("COG", "o.tif"), ("ENVI", "o.img")])
def test_expand_writes_the_runs_own_raster(folder, exact, tmp_path, driver, name):
    summary = expand(open_compact(exact), tmp_path / name, driver=driver)
    np.testing.assert_array_equal(stored(summary.paths[0]), stored(folder / "sharp.tif"))
    run, again = read_hsi(folder / "sharp.tif"), read_hsi(summary.paths[-1])
    assert again.encoding == run.encoding
    assert again.grid == run.grid
    np.testing.assert_array_equal(again.good_bands, run.good_bands)
    np.testing.assert_allclose(again.wavelengths_nm, run.wavelengths_nm)
    np.testing.assert_allclose(again.fwhm_nm, run.fwhm_nm)
    assert again.tags["sensor type"] == "Test"


def test_the_whole_geotiff_is_the_same_file(folder, exact, tmp_path):
    expand(open_compact(exact), tmp_path / "again.tif")
    assert (tmp_path / "again.tif").read_bytes() == (folder / "sharp.tif").read_bytes()


@pytest.mark.parametrize(
    "window", [(0, 0, 1, 1), (7, 11, 50, 33), (WIDTH - 5, HEIGHT - 3, 5, 3), (19, 10, 8, 8)], ids=str
)
def test_a_window_is_cut_out_of_the_whole(folder, exact, tmp_path, window):
    left, top, columns, rows = window
    expand(open_compact(exact), tmp_path / "o.tif", window=window)
    whole = stored(folder / "sharp.tif")
    np.testing.assert_array_equal(
        stored(tmp_path / "o.tif"), whole[:, top : top + rows, left : left + columns]
    )
    with rasterio.open(tmp_path / "o.tif") as part, rasterio.open(folder / "sharp.tif") as file:
        assert part.xy(0, 0) == pytest.approx(file.xy(top, left), abs=1e-6)


def test_bands_come_in_the_order_given_with_their_metadata(folder, exact, tmp_path):
    expand(open_compact(exact), tmp_path / "o.tif", bands=[20, 0, 5])
    np.testing.assert_array_equal(stored(tmp_path / "o.tif"), stored(folder / "sharp.tif")[[20, 0, 5]])
    with rasterio.open(tmp_path / "o.tif") as file:
        assert [float(file.tags(i)["wavelength"]) for i in (1, 2, 3)] == pytest.approx(
            WAVELENGTHS[[20, 0, 5]]
        )
        assert [file.tags(i)["bbl"] for i in (1, 2, 3)] == ["1", "0", "1"]
        assert "default bands" not in file.tags()  # they were numbers of other bands


def test_bands_are_found_by_wavelength(exact):
    product = open_compact(exact)
    found = bands_in_range(product, 640, 680)
    assert found == np.flatnonzero((WAVELENGTHS >= 640) & (WAVELENGTHS <= 680)).tolist()
    red, green, blue = WAVELENGTHS[bands_as_rgb(product)]
    assert (abs(red - 640), abs(green - 550), abs(blue - 460)) < (11, 11, 11)
    with pytest.raises(ReadError, match="from 410 to 990 nm"):
        bands_in_range(product, 2000, 2100)
    with pytest.raises(ReadError, match="no wavelengths"):
        bands_in_range(replace(product, bands=replace(product.bands, wavelengths_nm=None)), 640, 680)


def test_what_does_not_lie_in_the_product_is_refused(exact, tmp_path):
    product = open_compact(exact)
    for window in ((0, 0, WIDTH + 1, 1), (-1, 0, 4, 4), (0, HEIGHT, 1, 1), (0, 0, 0, 1)):
        with pytest.raises(GridError, match=f"{WIDTH} x {HEIGHT}"):
            expand(product, tmp_path / "o.tif", window=window)
    with pytest.raises(ReadError, match="no band 31"):
        expand(product, tmp_path / "o.tif", bands=[30])
    (tmp_path / "o.tif").write_text("mine")
    with pytest.raises(WriteError, match="--overwrite"):
        expand(product, tmp_path / "o.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["o.tif"]


def test_int16_keeps_its_stated_bound_and_takes_half_the_space(result, folder, exact):
    short = open_compact(folder / "short_compact.safetensors")
    good = result.hsi.good_bands
    error = np.abs(short.rows(0, HEIGHT) - result.rows(0, HEIGHT))[good]
    worst, bound = np.nanmax(error, (1, 2)), short.error_bound.numpy()
    assert (worst <= bound).all()
    assert (worst > 0.02 * bound).all()  # and it is no idle statement
    assert bound.max() < 1e-3
    sizes = short.path.stat().st_size, exact.stat().st_size
    assert sizes[0] < 0.56 * sizes[1]
    assert open_compact(exact).error_bound.max() == 0


def test_coefficients_of_no_range_survive_int16(folder, result, tmp_path):
    flat = replace(result.estimate, coefficients=torch.full_like(result.estimate.coefficients, 0.25))
    from hsi_fuse.write.compact import encoded

    factors, _ = encoded(flat, "int16")
    scale, offset = factors["coefficient_scale"], factors["coefficient_offset"]
    back = factors["coefficients"].float() * scale[:, None, None] + offset[:, None, None]
    np.testing.assert_allclose(back.numpy(), 0.25, rtol=1e-6)


def test_rows_of_an_estimate_do_not_depend_on_the_block():
    draw = torch.Generator().manual_seed(0)
    basis, mean, a = (torch.randn(size, generator=draw) for size in ((97, 13), (97,), (13, 40, 61)))
    estimate = Estimate(basis, mean, a)
    whole = estimate.rows(0, 40)
    for start, stop in ((0, 1), (3, 20), (39, 40)):
        assert torch.equal(estimate.rows(start, stop), whole[:, start:stop])
    assert torch.allclose(whole, torch.tensordot(basis, a, dims=1) + mean[:, None, None], atol=1e-5)


def test_bands_are_taken_with_all_that_is_said_of_them():
    tags = {"gains": "{1, 2, 3}", "note": "a, b, c", "pair": "{1, 2}", "default bands": "{1, 2, 3}"}
    bands = Bands(3, np.array([1.0, 2, 3]), None, np.array([True, False, True]), ("a", "b", "c"), tags=tags)
    some = bands.take([2, 0])
    assert (some.bands, some.band_names, some.fwhm_nm) == (2, ("c", "a"), None)
    assert some.wavelengths_nm.tolist() == [3, 1]
    assert some.good_bands.tolist() == [True, True]
    assert some.tags == {"gains": "{ 3,1}", "note": "a, b, c", "pair": "{1, 2}"}


# --- the command -------------------------------------------------------------------------------------------


def test_the_command_makes_a_raster_of_a_part(folder, exact, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = stored(folder / "sharp.tif")
    assert main(["expand", str(exact), "--bands", "3,7-9", "--window", "4,8,16,12", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == ["sharp_expanded.tif"]
    np.testing.assert_array_equal(stored(Path("sharp_expanded.tif")), whole[[2, 6, 7, 8], 8:20, 4:20])
    assert main(["expand", str(exact), "--range-nm", "640-680", "-o", "red.img"]) == 0
    assert read_hsi("red.hdr").wavelengths_nm.tolist() == pytest.approx([650, 670])
    assert main(["expand", str(exact), "--rgb", "-f", "cog", "-o", "rgb.tif"]) == 0
    with rasterio.open("rgb.tif") as file:
        assert file.count == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--bands", "0"], 2, "1,5-10"),
        (["--bands", "5-3"], 2, "1,5-10"),
        (["--bands", "x"], 2, "1,5-10"),
        (["--bands", "31"], 3, "no band 31"),
        (["--range-nm", "680-640"], 2, "640-680"),
        (["--range-nm", "2000-2100"], 3, "410 to 990"),
        (["--window", "1,2,3"], 2, "COLUMN,ROW,WIDTH,HEIGHT"),
        (["--window", "0,0,999,1"], 3, "does not lie in"),
        (["--rgb", "--bands", "1"], 2, "one of"),
        (["-o", "no/such/folder/o.tif"], 7, "does not exist"),
    ],
)
def test_wrong_use_is_one_line(exact, tmp_path, monkeypatch, capsys, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    assert main(["expand", str(exact), *arguments]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


# --- damaged files -----------------------------------------------------------------------------------------


def parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "something"),
        ("schema", "2"),
        ("grid", "{}"),
        ("grid", "[1"),
        ("grid", '{"crs": 5, "transform": [1, 0, 0, 0, -1, 0], "width": 112, "height": 96}'),
        ("grid", '{"crs": null, "transform": [NaN, 0, 0, 0, -1, 0], "width": 112, "height": 96}'),
        ("grid", '{"crs": null, "transform": [1, 0, 0, 0, -1, 0], "width": 1e12, "height": 96}'),
        ("grid", '{"crs": null, "transform": [1, 0, 0, 0, -1, 0], "width": 112, "height": 48}'),
        ("ratio", "0"),
        ("ratio", "true"),
        ("ratio", "5"),
        ("encoding", '{"dtype": "object", "scale": 1, "offset": 0, "nodata": null}'),
        ("encoding", '{"dtype": "int16", "scale": Infinity, "offset": 0, "nodata": null}'),
        ("encoding", '{"dtype": "int16", "scale": "x", "offset": 0, "nodata": null}'),
        ("band_names", '["a"]'),
        ("tags", "[]"),
        ("provenance", "[" * 100_000),
    ],
)
def test_metadata_that_makes_no_sense_is_named(exact, tmp_path, name, value):
    tensors, said = parts(exact)
    save_file(tensors, tmp_path / "x", {**said, name: value})
    with pytest.raises(ReadError, match=f"{name}|compact product|band names|should be F32") as error:
        open_compact(tmp_path / "x")
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "name", ["basis", "mean", "coefficients", "good_bands", "valid", "idle", "error_bound"]
)
@pytest.mark.parametrize("damage", ["missing", "shape", "kind"])
def test_tensors_that_do_not_fit_are_named(exact, tmp_path, name, damage):
    tensors, said = parts(exact)
    if damage == "missing":
        del tensors[name]
    else:
        whole = tensors[name]
        tensors[name] = whole[..., 1:].contiguous() if damage == "shape" else whole.double()
    save_file(tensors, tmp_path / "x", said)
    with pytest.raises(ReadError, match=r"damaged"):
        open_compact(tmp_path / "x")


def test_no_damage_to_the_file_is_a_traceback(exact, tmp_path):
    """Cut off anywhere, or bytes of the header changed: an error of ours, or a product that can be read."""
    whole, draw = exact.read_bytes(), np.random.default_rng(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    path = tmp_path / "x"
    said = []
    for trial in range(300):
        spoiled = bytearray(whole)
        if trial % 3 == 0:
            del spoiled[int(draw.integers(0, len(whole))) :]
        else:
            for place in draw.integers(0, header, int(draw.integers(1, 6))):
                spoiled[place] = int(draw.integers(0, 256))
        path.write_bytes(spoiled)
        try:
            product = open_compact(path)
            assert product.rows(0, 1).shape == (product.bands.bands, 1, product.grid.width)
        except ReadError as error:
            said.append(str(error))
    assert all(str(path) in message for message in said)
    assert len(said) > 150


def test_what_is_no_compact_product_is_refused(folder, tmp_path):
    for path in (folder / "sharp.tif", folder / "sharp_srf.csv"):
        with pytest.raises(ReadError, match=path.name):
            open_compact(path)
    with pytest.raises(ReadError, match="does not exist"):
        open_compact(tmp_path / "nowhere")
    with pytest.raises(ReadError, match="not a file"):
        open_compact(tmp_path)
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ReadError, match="no compact product"):
        open_compact(tmp_path / "other.safetensors")
