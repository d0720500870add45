"""`hsi-fuse assess`, the gate, and the schema of quality.json."""

import json
from importlib import resources

import jsonschema
import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from hsi_fuse.cli.app import main
from hsi_fuse.errors import GridError, QualityError
from hsi_fuse.quality.product_files import open_product
from hsi_fuse.quality.verdict import gate
from hsi_fuse.read import read_hsi
from tests.conftest import write_pair

SCHEMA = json.loads(resources.files("hsi_fuse.quality").joinpath("quality.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("assess")


@pytest.fixture(scope="module")
def sample(home):
    """A pair and a product of it."""
    pair = write_pair(home / "in")
    fused = home / "fused.tif"
    given = [str(pair.hsi), str(pair.ref), "-o", str(fused), "--preset", "draft", "-q", "--fail-on", "red"]
    assert main(["run", *given]) == 0
    return pair.hsi, pair.ref, fused


def figures(path):
    found = json.loads(path.read_text("utf-8"))
    jsonschema.validate(found, SCHEMA, cls=jsonschema.Draft202012Validator)
    return found


def test_the_schema_is_one_and_a_run_keeps_to_it(sample, home):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    found = figures(home / "fused_quality.json")
    inputs = found["provenance"]["inputs"]
    assert [i["name"].rsplit("/", 1)[1] for i in inputs] == ["scene.hdr", "scene.img", "camera.tif"]
    assert all(len(i["sha256"]) == 64 for i in inputs)
    assert found["provenance"]["peak_memory_mb"] > 100
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found | {"verdict": {}}, SCHEMA)
    page = (home / "fused_report.html").read_text("utf-8")
    assert inputs[0]["sha256"] in page


def test_a_product_of_another_tool_is_assessed(sample, home, capsys):
    hsi, ref, fused = sample
    known = str(home / "fused_displacement.tif")  # spares the search
    given = [str(fused), str(hsi), str(ref), "-o", str(home / "again"), "--displacement", known]
    assert main(["assess", *given, "--truth", str(fused), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == [
        str(home / "again_report.html"),
        str(home / "again_quality.json"),
    ]
    found, before = figures(home / "again_quality.json"), figures(home / "fused_quality.json")
    assert not found["synthesis"]["assessable"]
    ours, theirs = (f["consistency"]["learned_psf"]["product"]["sam_deg"]["median"] for f in (found, before))
    assert ours == pytest.approx(theirs, rel=0.05)  # the file is in whole numbers
    assert found["truth"]["results"]["product"]["sam_deg"]["mean"] < 1e-3
    assert found["truth"]["results"]["interpolation"]["sam_deg"]["mean"] > 0.5
    page = (home / "again_report.html").read_text("utf-8")
    assert "Against the truth" in page
    again = ["assess", str(fused), str(hsi), str(ref), "-o", str(home / "again"), "-q"]
    assert main(again) == 7  # it exists


def test_the_gate_fails_after_all_is_written(sample, home, capsys):
    hsi, ref, fused = sample
    arguments = [
        "assess", str(fused), str(hsi), str(ref), "-o", str(home / "strict"),
        "--displacement", str(home / "fused_displacement.tif"), "-q",
        "--set", "assess.sam_green=0.0001", "--set", "assess.noise_factor=0",
    ]  # fmt: skip
    assert main([*arguments, "--fail-on", "amber"]) == 5
    assert "spectra is amber" in capsys.readouterr().err
    assert (home / "strict_report.html").exists()
    assert figures(home / "strict_quality.json")["verdict"]["light"] == "amber"


@pytest.mark.parametrize(
    ("light", "fail_on", "passes"),
    [("green", "amber", True), ("amber", "amber", False), ("amber", "red", True), ("red", "red", False),
     ("red", "amber", False), ("red", "never", True)],
)  # fmt: skip
def test_the_gate(light, fail_on, passes):
    entry = {"name": "spectra", "light": light, "value": 7.0, "unit": "°"}
    told = {"verdict": {"light": light, "lights": [entry]}}
    if passes:
        gate(told, fail_on)
    else:
        with pytest.raises(QualityError, match="spectra is"):
            gate(told, fail_on)


def rewritten(source, target, window, **more):
    with rasterio.open(source) as file:
        profile = file.profile | {
            "width": window.width, "height": window.height, "transform": file.window_transform(window)
        }  # fmt: skip
        values, scales = file.read(window=window), file.scales
    with rasterio.open(target, "w", **(profile | more)) as file:
        file.write(values[: file.count])
        file.scales = scales[: file.count]
    return target


def test_a_product_may_cover_a_part(sample, home):
    hsi = read_hsi(sample[0])
    whole = open_product(sample[2], hsi)
    ratio = whole.scale
    part = open_product(
        rewritten(sample[2], home / "part.tif", Window(2 * ratio + 1, 3 * ratio, 60, 50)), hsi
    )
    assert part.scale == ratio
    height, width = 50 // ratio, (60 - (ratio - 1)) // ratio
    assert part.cube.shape == (whole.cube.shape[0], height * ratio, width * ratio)
    assert part.hsi.grid == hsi.grid.window(3, 3, height, width)
    top = 3 * ratio
    wanted = whole.cube.rows(top, top + 5)[:, :, 3 * ratio : 3 * ratio + part.cube.shape[2]]
    assert np.array_equal(part.cube.rows(0, 5), wanted)


def test_products_that_do_not_fit_are_refused_in_words(sample, home):
    hsi = read_hsi(sample[0])
    with rasterio.open(sample[2]) as file:
        moved = file.transform * rasterio.Affine.translation(0.5, 0)
        finer = file.transform * rasterio.Affine.scale(0.83)
        everything = Window(0, 0, file.width, file.height)
    for name, changes, words in (
        ("moved", {"transform": moved}, "refined grid"),
        ("finer", {"transform": finer}, "whole number"),
        ("far", {"transform": rasterio.Affine.translation(1e6, 0) * moved}, "refined grid|same ground"),
        ("few", {"count": 5}, "bands"),
    ):
        with pytest.raises(GridError, match=words):
            open_product(rewritten(sample[2], home / f"{name}.tif", everything, **changes), hsi)
