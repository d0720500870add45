"""The report page: offline, escaped, complete, reproducible, and its numbers are those of the JSON."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from affine import Affine
from matplotlib.figure import Figure
from PIL import Image

from hsi_fuse.align import Alignment
from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.quality.assess import Quality, assess
from hsi_fuse.quality.cube import StreamedCube
from hsi_fuse.report import plots
from hsi_fuse.report.page import render
from hsi_fuse.report.pictures import composite, rgb_bands, stretch_limits, take_pictures, view, views_of
from hsi_fuse.subspace import interpolate
from tests.assessed import BANDS, GOOD_REGISTRATION, WAVELENGTHS, make_scene, regression


def blended(problem: Problem) -> Estimate:
    """Regression where the guide is, interpolation elsewhere."""
    inside, outside = regression(problem), interpolate(problem)
    weight = (problem.guide_weight > 0).float()
    parts = [inside.coefficients * weight, outside.coefficients * (1 - weight), weight[None]]
    basis = torch.cat([inside.basis, outside.basis, (inside.mean - outside.mean)[:, None]], 1)
    return Estimate(basis, outside.mean, torch.cat(parts))


def alignment_of(ties: int = 20, local: bool = True) -> Alignment:
    """A registration of the scene: tie points, a local displacement beside the start's."""
    rng = np.random.default_rng(0)
    start = np.full((2, 5, 5), 1.5, np.float32)
    bend = start + np.float32(0.5) * rng.standard_normal((2, 5, 5)).astype(np.float32) if local else start
    after = rng.uniform(0, 128, (ties, 4)) * (1, 1, 0.001, 0.001)
    return Alignment(
        Affine.scale(2), bend, np.ones((128, 128), np.float32), Affine.scale(2), start,
        after + np.array([0, 0, 5, -3]), after, 0.1,
    )  # fmt: skip


NASTY = '<script>alert("x")</script> & co'


@pytest.fixture(scope="module")
def scene() -> tuple[Problem, Estimate]:
    problem, _ = make_scene(size=128)
    weight = problem.guide_weight.clone()
    weight[:, 104:] = 0
    problem = replace(problem, guide=problem.guide * weight, guide_weight=weight)
    return problem, blended(problem)


@pytest.fixture(scope="module")
def quality(scene) -> Quality:
    return assess(
        *scene,
        interpolate(scene[0]),
        solvers={"product": blended, "interpolation": interpolate, "map": regression},
        registration=GOOD_REGISTRATION | {"shift_m": [1.0, -2.5], "model": {"kind": "affine"}},
        wavelengths_nm=WAVELENGTHS,
        stages=[{"name": "map", "kept": True, "gain_db": 3.2}, {"name": "uafl", "kept": False}],
        warnings=[NASTY],
    )


@pytest.fixture(scope="module")
def page(scene, quality) -> str:
    pictures = take_pictures(*scene, interpolate(scene[0]), WAVELENGTHS, quality.maps["sam_deg"])
    return render(quality, pictures, title=NASTY, provenance={"preset": NASTY, "seed": 0})


class Outline(HTMLParser):
    """Tags, identifiers, anchors and pictures of a page; raises where tags are not closed in order."""

    VOID = ("meta", "img", "input", "br", "source", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open, self.ids, self.anchors, self.images, self.links = [], set(), set(), [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids.add(attributes.get("id"))
        if tag == "img":
            self.images.append(attributes)
        self.links += [attributes[k] for k in ("src", "srcset", "href") if k in attributes]
        if attributes.get("href", "").startswith("#"):
            self.anchors.add(attributes["href"][1:])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def outline(page) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert not parser.open
    return parser


def test_the_page_is_one_offline_file(page, outline):
    assert len(page) < 5e6
    assert all(link.startswith(("data:image/", "#")) for link in outline.links)
    assert "http://" not in page
    assert "https://" not in page
    assert outline.anchors <= outline.ids
    assert all(image["alt"] for image in outline.images)


def test_strings_of_others_are_escaped(page):
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert") >= 4  # title twice, warning, provenance


def test_numbers_are_those_of_the_json(page, quality):
    figures = quality.figures
    for value in (
        figures["synthesis"]["results"]["product"]["psnr_db"],
        figures["synthesis"]["results"]["interpolation"]["psnr_db"],
        figures["consistency"]["learned_psf"]["product"]["q2n"],
    ):
        assert f">{value:.4g}<" in page
    text = page.replace("&#39;", "'")
    assert all(sentence in text for sentence in figures["verdict"]["sentences"])
    assert "passed through, it did not win" in page


def test_the_same_input_makes_the_same_page(scene, quality, page):
    pictures = take_pictures(*scene, interpolate(scene[0]), WAVELENGTHS, quality.maps["sam_deg"])
    assert render(quality, pictures, title=NASTY, provenance={"preset": NASTY, "seed": 0}) == page


def section(page: str, name: str) -> str:
    return page.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def test_the_registration_is_shown(scene, quality):
    pictures = take_pictures(*scene, interpolate(scene[0]), WAVELENGTHS, quality.maps["sam_deg"])
    found = {
        "probability": 0.987,
        "guide_response": [{"exponent": 2.2, "black": 0.0, "span": span} for span in (1.0, -1.0)],
        "rrmse_px": 0.1,
    }
    told = replace(quality, figures=quality.figures | {"registration": found})

    def shown(alignment: Alignment) -> str:
        page = render(told, pictures, title="x", alignment=alignment)
        Outline().feed(page)
        return section(page, "registration")

    whole = shown(alignment_of())
    assert "Response of the reference: band 2 is inverted; gamma 2.2." in whole
    assert ">0.987<" in whole
    assert whole.count('class="plot"') == 3
    assert "exponent" not in whole  # in words, and in quality.json
    # nothing is drawn of what there is not
    assert shown(alignment_of(ties=0)).count('class="plot"') == 2
    assert shown(alignment_of(local=False)).count('class="plot"') == 2


def test_the_local_part_is_told_without_the_starts():
    local = alignment_of().local_px
    assert local.shape == (2, 5, 5)
    assert 0.15 < local.std() < 0.35  # half as large in product pixels as in those of the guide
    assert abs(local.mean()) < 0.2
    assert alignment_of(local=False).local_px is None
    assert replace(alignment_of(), displacement_px=None).local_px is None


def test_a_scene_with_nothing_to_say_still_has_a_page(scene):
    problem, _ = make_scene(size=32)
    bare = replace(problem, guide=0 * problem.guide, guide_weight=0 * problem.guide_weight)
    plain = interpolate(bare)
    quality = assess(bare, plain, plain, solvers={})
    page = render(quality, take_pictures(bare, plain, plain), title="bare")
    assert len(re.findall("Not assessable", page)) == 4
    assert "how well the reference is registered is not known" in page


def test_composite_is_a_shared_stretch():
    values = np.linspace(0, 1, 300, dtype=np.float32).reshape(3, 10, 10)
    valid = np.ones((10, 10), bool)
    valid[0, 0] = False
    limits = stretch_limits(values, valid)
    image = composite(values, limits, valid)
    assert image.shape == (10, 10, 3)
    assert image.dtype == np.uint8
    assert (image[0, 0] == 128).all()
    assert image[9, 9].min() == 255
    assert np.allclose(limits[0], np.percentile(values[0][valid], (2, 98)))
    assert composite(2 * values, limits, valid)[5, 5].min() == 255
    flat = composite(np.zeros_like(values), stretch_limits(np.zeros_like(values), valid), valid)
    assert flat[5, 5].max() == 0


def test_rgb_bands():
    assert rgb_bands(BANDS, list(range(400, 800, 20))) == (12, 7, 3)  # 550 lies between two: the first
    assert rgb_bands(13) == (10, 6, 2)
    shortwave = rgb_bands(7, [2400, 2300, 2200, 2100, 2000, 1900, 1800])
    assert shortwave == (1, 3, 5)  # the longest as red, also where bands come in reverse order


@pytest.mark.parametrize("streamed", [False, True])
def test_view_averages_blocks(streamed):
    torch.manual_seed(0)
    estimate = Estimate(torch.randn(5, 2), torch.randn(5), torch.randn(2, 9, 7))
    cube = estimate.rows(0, 9)
    shown = StreamedCube.of(estimate.shape, estimate.rows) if streamed else estimate
    wanted = cube[:, :8, :6].reshape(5, 4, 2, 3, 2).mean((2, 4))
    assert np.allclose(view(shown, (4, 0), 2), wanted[[4, 0]], atol=1e-6)
    assert np.allclose(view(shown, None, 2), wanted, atol=1e-6)
    assert np.allclose(view(shown, (4, 0)), cube[[4, 0]], atol=1e-6)


def test_pictures_show_the_right_places(scene):
    problem, product = scene
    sam = np.zeros((32, 32), np.float32)
    sam[5, 6] = 9
    pictures = take_pictures(problem, product, interpolate(problem), WAVELENGTHS, sam, zoom_size=32)
    assert pictures.size == (128, 128)
    assert len(pictures.spectra) == 4
    for spectrum in pictures.spectra:
        cube = product.rows(spectrum.row, spectrum.row + 1)[:, 0, spectrum.column]
        assert np.allclose(spectrum.after, cube)
        assert problem.guide_weight[spectrum.row, spectrum.column] > 0
    worst = next(zoom for zoom in pictures.zooms if zoom.name == "spectra agree least")
    assert worst.row <= 5 * 4 + 2 < worst.row + 32
    assert worst.column <= 6 * 4 + 2 < worst.column + 32
    assert any("edge" in zoom.name for zoom in pictures.zooms)
    small = take_pictures(problem, product, interpolate(problem), WAVELENGTHS, sam, longest=50)
    assert small.views[0].before.shape == (42, 42, 3)
    confidence = np.ones((128, 128), np.float32)
    confidence[80:110, 20:50] = 0.1
    doubted = take_pictures(problem, product, interpolate(problem), confidence=confidence, zoom_size=32)
    least = next(zoom for zoom in doubted.zooms if "least believed" in zoom.name)
    assert abs(least.row - 79) <= 8
    assert abs(least.column - 19) <= 8


def test_pixels_to_pick_are_a_grid_of_the_product(scene):
    problem, product = scene
    weight = problem.hsi_weight.clone()
    weight[:8] = 0
    holed = replace(problem, hsi=problem.hsi * weight, hsi_weight=weight)
    sigma = SimpleNamespace(rows=lambda start, stop: 0.1 * product.rows(start, stop))
    grid = take_pictures(holed, product, interpolate(holed), WAVELENGTHS, uncertainty=sigma).grid
    assert 200 < len(grid.rows) <= 400
    assert grid.rows.min() >= 32  # none where there are no data
    for i in (0, len(grid.rows) // 2, -1):
        row, column = int(grid.rows[i]), int(grid.columns[i])
        assert np.allclose(grid.after[i], product.rows(row, row + 1)[:, 0, column])
    assert np.allclose(grid.sigma, 0.1 * grid.after)


def test_views_are_those_the_sensor_has():
    assert [name for name, _ in views_of(BANDS, list(range(400, 800, 20)))] == ["RGB"]
    assert [name for name, _ in views_of(211, np.linspace(400, 2500, 211))] == ["RGB", "SWIR"]
    assert [name for name, _ in views_of(9)] == ["RGB"]


def test_every_band_has_a_picture_in_a_stretch_of_its_own(scene, monkeypatch):
    problem, product = scene
    monkeypatch.setattr("hsi_fuse.report.pictures.BAND_PIXELS", product.shape[0] * 64 * 64)
    shown = take_pictures(problem, product, interpolate(problem), WAVELENGTHS).every_band
    assert shown.after.shape == shown.before.shape == (product.shape[0], 64, 64)
    for band in (0, product.shape[0] - 1):
        cells = product.rows(0, 128)[band].reshape(64, 2, 64, 2).mean((1, 3)).numpy()
        low, high = np.percentile(cells, (2, 98))
        expected = 255 * np.clip((cells - low) / (high - low), 0, 1)
        assert np.abs(shown.after[band] - expected).max() <= 0.51


def test_single_bands_go_by_wavelength(scene, quality):
    problem, product = scene
    pictures = take_pictures(problem, product, interpolate(problem), WAVELENGTHS)
    told = quality.figures["scene"] | {"wavelengths_nm": WAVELENGTHS[::-1]}
    backwards = replace(quality, figures=quality.figures | {"scene": told})
    text = render(backwards, pictures, title="backwards")
    told = json.loads(re.search('id="everyband">(.*?)</script>', text).group(1))
    assert told["names"] == [f"{nm:.0f} nm" for nm in sorted(WAVELENGTHS)]
    assert told["after"][0] == plots.picture_uri(pictures.every_band.after[-1])


def test_pictures_give_way_where_a_page_grows_too_large(scene, quality, page, monkeypatch):
    pictures = take_pictures(*scene, interpolate(scene[0]), WAVELENGTHS, quality.maps["sam_deg"])
    told = {"title": NASTY, "provenance": {"preset": NASTY, "seed": 0}}
    monkeypatch.setattr("hsi_fuse.report.page.LARGEST_PAGE", 0)
    small = render(quality, pictures, **told)
    assert len(small) < len(page) - 40_000


def test_a_picture_made_smaller_is_averaged():
    grey = np.zeros((40, 60), np.uint8)
    grey[:, ::2] = 200
    data = base64.b64decode(plots.picture_uri(grey, exact=True, size=0.5).partition(",")[2])
    small = np.asarray(Image.open(io.BytesIO(data)))
    assert small.shape == (20, 30)
    assert np.abs(small.astype(int) - 100).max() <= 1


def test_a_plot_is_drawn_once_and_every_colour_of_it_has_one_for_dark_pages():
    history = [{"step": step, "loss": 0.5 / step, "held_out": 0.4 / step} for step in (1, 2)]
    svg = base64.b64decode(plots.history_plot(history)["uri"].partition(",")[2]).decode()
    assert svg.count("prefers-color-scheme:dark") == 1
    painted = re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)
    assert len(painted) > 20
    assert {colour for colour in painted if not colour.startswith("var(--c")} <= {"none"}


def test_maps_of_large_scenes_stay_small_and_keep_their_means_and_pixels():
    noise = np.random.default_rng(0).random((901, 640)).astype(np.float32)
    noise[:300, :300] = np.nan
    small = plots.map_plot(noise[300:600, 300:600], "°")
    assert len(plots.map_plot(noise, "°")["uri"]) < 2 * len(small["uri"])
    axes = Figure().subplots()
    shown = plots._image(axes, noise)
    cells = shown.get_array()
    assert cells.shape == (301, 214)
    assert axes.get_xlim() == (-0.5, 641.5)
    assert np.isnan(cells.filled(np.nan)[:100, :100]).all()
    assert cells[150, 150] == pytest.approx(noise[450:453, 450:453].mean())
