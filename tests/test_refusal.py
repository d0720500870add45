"""A reference of another place is refused, and a page says what was tried."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from synthetic import RATIO, WAVELENGTHS, cut, hsi_of, unregistered
from test_report import Outline

from hsi_fuse import cli, load_preset, open_guide, plan, prepare, read_hsi
from hsi_fuse.errors import AlignmentError, RefusedError
from hsi_fuse.prepare import align
from hsi_fuse.problem import silent
from hsi_fuse.registration import register
from hsi_fuse.registration.evidence import Evidence
from hsi_fuse.registration.joint import Registered, register_pair
from hsi_fuse.registration.refusal import LONGEST, Attempt, _advice, _spelt
from hsi_fuse.registration.register import RegisterOptions
from hsi_fuse.registration.warp import Pair
from hsi_fuse.report.page import render_refusal

SIZE = (24, 20)
QUICK = ("align.local=false", "align.search_hsi_px=3", "align.search_deg=2")
WORLD = Affine.translation(500_000, 5_300_000) * Affine.scale(1, -1)  # guide pixels of 1 m


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """These pairs are easy to find, or not to be found; and no search is made twice."""
    made: dict[object, Registered] = {}

    def remembered(*arguments: Any) -> Registered:
        options = replace(arguments[5], least_probability=0)
        key = arguments[2].values.tobytes(), options
        made[key] = made.get(key) or register_pair(*arguments)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(register, "CANDIDATES", 2)
        patch.setattr(prepare, "register_pair", remembered)
        yield


def write(path: Path, values: np.ndarray, transform: Affine | None) -> None:
    shape = dict(zip(("count", "height", "width"), values.shape, strict=True))
    where = {} if transform is None else {"crs": "EPSG:32632", "transform": transform}
    with rasterio.open(path, "w", driver="GTiff", dtype="float32", **where, **shape) as file:
        file.write(values)


def written(folder: Path, pair: Pair) -> list[str]:
    """The files of a pair, as arguments of a command."""
    write(folder / "scene.tif", hsi_of(pair).numpy(), WORLD * pair.start)
    write(folder / "camera.tif", pair.guide.numpy(), WORLD)
    (folder / "nm.txt").write_text("\n".join(["wavelength_nm", *map(str, WAVELENGTHS)]))
    return [
        str(folder / "scene.tif"), str(folder / "camera.tif"), "--wavelengths", str(folder / "nm.txt"),
        "--scale", str(RATIO), "-q", *(word for each in QUICK for word in ("--set", each)),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A reference that shows another place."""
    return written(tmp_path_factory.mktemp("wrong"), cut(unregistered(place=1), *SIZE, 8))


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return written(tmp_path_factory.mktemp("right"), cut(unregistered(Affine.translation(5, -3)), *SIZE, 8))


@pytest.fixture(autouse=True)
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def aligned(files: list[str], *overrides: str):
    hsi, guide = read_hsi(files[0], files[3]), open_guide(files[1])
    preset = load_preset("interpolation", (*QUICK, *overrides))
    return align(hsi, guide, plan(hsi, guide, RATIO), preset, 0, torch.device("cpu"), silent)


@pytest.fixture(scope="module")
def refused(wrong: list[str]) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        aligned(wrong)
    return caught.value


# --- the probability ---------------------------------------------------------------------------------------


def test_the_probability_rises_with_what_speaks_for_the_place():
    right, wrong = Evidence(0.05, 1.5, 22, 32, 0.05), Evidence(0.7, 0.5, 0, 32, 0.4)
    assert right.probability > 0.9
    assert wrong.probability < 0.1
    assert Evidence(0.05, 1.2, 22, 32, 0.05).probability < right.probability
    assert Evidence(0.05, 1.5, 6, 32, 0.05).probability < right.probability
    for extreme in (Evidence(0, 1e4, 32, 32, 0), Evidence(1, -1e4, 0, 32, math.inf)):
        assert 0 <= extreme.probability <= 1


def test_one_tied_block_says_no_more_than_none():
    by_ties = [Evidence(0.2, 2.7, ties, 32, 0.1).probability for ties in range(33)]
    assert by_ties[1] == by_ties[0] < 0.7
    assert by_ties == sorted(by_ties)
    assert by_ties[16] > 0.98


def test_a_mirrored_reference_is_refused_by_that_name(tmp_path, monkeypatch):
    monkeypatch.setattr(register, "CANDIDATES", 6)
    pair = unregistered()
    files = written(tmp_path, pair)
    write(tmp_path / "scene.tif", hsi_of(pair).numpy(), None)
    write(tmp_path / "camera.tif", pair.guide.numpy()[:, :, ::-1], None)
    with pytest.raises(RefusedError, match="but mirrored: flip it"):
        aligned(files, "align.free_scale=1.05")


def test_without_a_fit_there_is_no_verdict(wrong):
    assert math.isnan(Evidence(0.5, 0.1, 0, 0, math.nan).probability)
    _, alignment = aligned(wrong, "align.model=none")
    assert math.isnan(alignment.found["probability"])


# --- what is refused ---------------------------------------------------------------------------------------


def test_another_place_is_refused_in_words_and_pictures(refused, wrong):
    message, attempt = str(refused), refused.attempt
    assert refused.exit_code == 4
    assert wrong[1] in message
    assert "\n" not in message
    for word in ("within 3 HSI pixels", "probability", "align.search_hsi_px", "align.least_probability=0"):
        assert word in message
    assert attempt.figures["probability"] < 0.1
    assert attempt.figures["information"] < 0.6
    assert attempt.figures["searched"]["shift_hsi_px"] == 3
    assert attempt.seen.shape == (*SIZE, 3)
    assert attempt.guide.shape == (SIZE[0] * RATIO, SIZE[1] * RATIO, 3)
    assert attempt.seen.std() > 10
    assert attempt.residual.shape == SIZE
    assert np.nanmedian(attempt.residual) > 0.4


def test_the_right_place_is_accepted(right):
    problem, alignment = aligned(right)
    assert alignment.found["probability"] > 0.99
    assert problem.guide_weight.mean() > 0.9


def test_a_search_that_ends_in_nothing_is_refused_too(right, monkeypatch):
    def search(*arguments: object) -> None:
        raise AlignmentError("too little overlap")

    monkeypatch.setattr(prepare, "register_pair", search)
    with pytest.raises(RefusedError, match=r"too little overlap.*align\.search_hsi_px") as caught:
        aligned(right)
    attempt = caught.value.attempt
    assert "least_probability" not in str(caught.value)
    assert attempt.residual is None
    assert attempt.guide.shape == (SIZE[0] * RATIO, SIZE[1] * RATIO, 3)
    assert attempt.guide.std() > 10
    page = render_refusal(attempt, str(caught.value), title="x.tif")
    check_page(page, pictures=2)
    assert "where the search started" in page
    with pytest.raises(AlignmentError) as plain:  # a mapping that was given is not judged
        aligned(right, "align.model=none")
    assert not isinstance(plain.value, RefusedError)


def test_what_to_widen_depends_on_the_search():
    near, anywhere = (RegisterOptions().range(known) for known in (True, False))
    assert "align.search_hsi_px" in _advice(near)
    assert "align.free_overlap" in _advice(anywhere)
    assert "within 12 HSI pixels" in _spelt(near)
    assert "at any place" in _spelt(anywhere)


def test_the_error_survives_another_process(refused):
    again = pickle.loads(pickle.dumps(refused))
    assert str(again) == str(refused)
    assert np.array_equal(again.attempt.guide, refused.attempt.guide)


# --- the page ----------------------------------------------------------------------------------------------


def check_page(page: str, pictures: int) -> Outline:
    """It is well-formed, offline and small."""
    outline = Outline()
    outline.feed(page)
    assert not outline.open
    assert len(outline.images) == pictures
    assert all(image["alt"] for image in outline.images)
    assert all(link.startswith("data:image/") for link in outline.links)
    assert "http" not in page.replace("http-equiv", "")
    assert len(page) < 1e6
    return outline


def test_the_page_shows_what_was_tried(refused):
    page = render_refusal(refused.attempt, str(refused), title='<script>"x"</script>')
    outline = check_page(page, pictures=3)
    assert {"tried", "figures"} <= outline.ids
    assert "<script>&#34;" not in page
    for name in ("probability", "information", "unexplained"):
        assert f">{refused.attempt.figures[name]:.4g}<" in page
    assert "searched › degrees" in page
    assert "prefers-color-scheme: dark" in page
    assert page == render_refusal(refused.attempt, str(refused), title='<script>"x"</script>')


def test_large_scenes_make_small_pictures():
    picture = np.zeros((LONGEST, LONGEST, 3), np.uint8)
    attempt = Attempt(picture, picture, np.zeros((2000, 2000), np.float32), {"probability": 0.1})
    assert len(render_refusal(attempt, "no", title="x")) < 1e6


# --- the commands ------------------------------------------------------------------------------------------


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs a command which is refused, and returns its one line."""

    def run(*arguments: str) -> str:
        assert cli.main(list(arguments)) == 4
        said = capsys.readouterr()
        assert said.out == ""
        lines = said.err.splitlines()
        assert len(lines) == 1, said.err
        return lines[0]

    return run


COMMANDS = [["run", "--preset", "interpolation"], ["align"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_refusal_leaves_its_report_and_nothing_else(command, wrong, out, failing):
    line = failing(*command, *wrong, "-o", "sharp.tif", "--json")
    assert line.endswith("what was tried: sharp_report.html")
    assert [path.name for path in out.iterdir()] == ["sharp_report.html"]
    page = (out / "sharp_report.html").read_text(encoding="utf-8")
    check_page(page, pictures=3)
    assert "camera.tif" in page
    assert "Reference refused" in page


@pytest.mark.parametrize("command", COMMANDS)
def test_a_report_that_exists_is_kept_without_overwrite(command, wrong, out, failing, capsys):
    (out / "sharp_report.html").write_text("precious")
    assert cli.main([*command, *wrong, "-o", "sharp.tif"]) == 7
    assert "sharp_report.html exists" in capsys.readouterr().err
    assert (out / "sharp_report.html").read_text() == "precious"
    failing(*command, *wrong, "-o", "sharp.tif", "--overwrite")
    assert "Reference refused" in (out / "sharp_report.html").read_text(encoding="utf-8")
    assert len(list(out.iterdir())) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_a_refusal_is_in_nobodys_way(command, wrong, right, out, failing):
    for _ in range(2):
        failing(*command, *wrong, "-o", "sharp.tif")
    assert cli.main([*command, *right, "-o", "sharp.tif"]) == 0
    page = out / "sharp_report.html"
    assert not page.exists() or "Reference refused" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_images_that_lie_apart_are_drawn_on_a_map(command, right, out, failing, tmp_path):
    with rasterio.open(right[1]) as file:
        write(tmp_path / "far.tif", file.read(), Affine.translation(30_000, 0) * file.transform)
    line = failing(*command, right[0], "far.tif", *right[2:], "-o", "sharp.tif")
    assert "does not overlap" in line
    assert line.endswith("what was tried: sharp_report.html")
    page = (out / "sharp_report.html").read_text(encoding="utf-8")
    check_page(page, pictures=2)
    assert "the two lie apart" in page


def test_borders_are_in_the_references_crs(right, tmp_path):
    with rasterio.open(right[1]) as file:
        write(tmp_path / "far.tif", file.read(), Affine.translation(30_000, 0) * file.transform)
        wanted = np.array(file.bounds).reshape(2, 2).T + np.array([[30_000], [0]])
    with pytest.raises(RefusedError) as caught:
        aligned([right[0], str(tmp_path / "far.tif"), *right[2:]])
    outlines = dict(caught.value.attempt.outlines)
    border = outlines["the reference"]
    assert np.stack([border.min(1), border.max(1)], 1) == pytest.approx(wanted)
    with rasterio.open(right[0]) as file:
        wanted = np.array(file.bounds).reshape(2, 2).T
    border = outlines["the HSI"]
    assert np.stack([border.min(1), border.max(1)], 1) == pytest.approx(wanted)


@pytest.mark.parametrize("command", COMMANDS)
def test_one_can_insist(command, wrong, out, capsys):
    (out / "sharp_report.html").write_text("of a refusal before")
    insisting = ["--set", "align.least_probability=0", "--overwrite", "-o", "sharp.tif"]
    assert cli.main([*command, *wrong, *insisting]) == 0
    assert (out / "sharp.tif").exists()
    if command == ["align"]:
        assert not (out / "sharp_report.html").exists()
    else:
        page = (out / "sharp_report.html").read_text(encoding="utf-8")
        assert "the reference may show another place" in page
        assert "Reference refused" not in page
