"""The report in a real browser: it loads silently and offline, and what moves, moves."""

import os
from pathlib import Path

import pytest

from hsi_fuse.report.page import render
from hsi_fuse.report.pictures import take_pictures
from hsi_fuse.subspace import interpolate
from tests.browser import Page, browser, find_browser
from tests.test_report import WAVELENGTHS, alignment_of, quality, scene  # noqa: F401  # fixtures

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium: apt-get install chromium, or set HSI_FUSE_CHROMIUM"
)


@pytest.fixture(scope="module")
def file(scene, quality, tmp_path_factory) -> Path:  # noqa: F811
    pictures = take_pictures(*scene, interpolate(scene[0]), WAVELENGTHS, quality.maps["sam_deg"])
    path = tmp_path_factory.mktemp("page") / "report.html"
    text = render(quality, pictures, title="scene", alignment=alignment_of(), provenance={"seed": 0})
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(PROGRAM, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(tab, file) -> Page:
    tab.open(file)
    return tab


def centre(page: Page, share: float = 0.5) -> tuple[float, float]:
    """A place in the before-and-after picture, scrolled into view."""
    page.run("document.getElementById('compare').scrollIntoView({block: 'center'})")
    box = page.run("(r => [r.left, r.top, r.width, r.height])(compare.getBoundingClientRect())")
    return box[0] + share * box[2], box[1] + 0.4 * box[3]


def test_it_loads_without_errors_and_without_network(page):
    errors = [
        e
        for e in page.events
        if e["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    ]
    assert errors == []
    asked = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(url.startswith(("file:", "data:")) for url in asked)
    # every picture is a picture
    assert page.run("[...document.images].filter(i => !i.hidden && !i.naturalWidth).length") == 0


def test_the_slider_moves_the_picture(page):
    page.run("slide.value = 80; slide.dispatchEvent(new Event('input'))")
    assert page.run("compare.style.getPropertyValue('--at')") == "80%"
    x, y = centre(page, 0.3)
    page.mouse("mousePressed", x, y)
    page.mouse("mouseMoved", x - 30, y)
    page.mouse("mouseReleased", x - 30, y)
    width = page.run("compare.clientWidth")
    assert float(page.run("slide.value")) == pytest.approx(100 * (0.3 - 30 / width), abs=1.5)
    page.run("slide.focus()")
    before = float(page.run("slide.value"))
    page.key("ArrowRight", 39)
    assert float(page.run("slide.value")) == before + 1


def test_a_click_shows_the_spectrum_of_a_pixel_there(page):
    x, y = centre(page, 0.75)
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)
    said = page.run("picked.textContent")
    row, column = (int(word.split()[1]) for word in said.split(":")[0].lower().split(", "))
    assert abs(column - 0.75 * 128) <= 4  # a grid of 20 x 20 on 128 pixels
    assert abs(row - 0.4 * 128) <= 4
    assert page.run("spectrum.querySelectorAll('path').length") == 2
    assert f"Row {row}, column {column}" in page.run("spectrum.getAttribute('aria-label')")


def test_arrow_keys_walk_over_the_pixels(page):
    page.run("compare.focus()")
    before = page.run("picked.textContent")
    page.key("ArrowRight", 39)
    right = page.run("picked.textContent")
    page.key("ArrowDown", 40)
    down = page.run("picked.textContent")
    assert right.split(",")[0] == before.split(",")[0]  # the same row
    assert right != before
    assert down.split(", ")[1].split(":")[0] == right.split(", ")[1].split(":")[0]
    assert down != right


def test_another_choice_of_bands_shows_other_pictures(page):
    shown = "[...compare.querySelectorAll('img')].filter(i => !i.hidden).map(i => i.dataset.view).join()"
    assert page.run(shown) == "0,0"
    page.run("document.getElementById('alone').click()")
    assert page.run(shown) == "band,band"
    page.run("document.querySelectorAll('input[name=view]')[0].click()")
    assert page.run(shown) == "0,0"


def test_any_band_is_shown_alone(page):
    page.run("band.focus()")
    for number in (1, 2):
        page.key("ArrowRight", 39)
        assert page.run("alone.checked")
        assert page.run("bandname.textContent") == f"{WAVELENGTHS[number]:.0f} nm"
        shown = page.run("[...compare.querySelectorAll('img')].filter(i => !i.hidden).map(i => i.src)")
        kept = page.run(f"(d => [d.before[{number}], d.after[{number}]])(JSON.parse(everyband.textContent))")
        assert shown == kept
        assert kept[0] != kept[1]


def test_anchors_lead_somewhere_and_pictures_are_told(page):
    links = page.run("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
    assert len(links) >= 10
    for link in links:
        page.run(f"document.querySelector('nav a[href=\"{link}\"]').click()")
        top = page.run(f"document.querySelector('{link}').getBoundingClientRect().top")
        bottom = page.run("innerHeight + scrollY >= document.documentElement.scrollHeight - 2")
        assert abs(top) < 2 or bottom
    assert page.run("[...document.images].filter(i => !i.alt).length") == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_it_fits_both_themes_and_widths(tab, file, tmp_path, theme, width):
    tab.open(file, width, theme)
    assert tab.run("document.documentElement.scrollWidth") <= width  # nothing sticks out
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (theme == "light")
    folder = Path(os.environ.get("HSI_FUSE_SCREENSHOTS", tmp_path))
    tab.screenshot(folder / f"report_{theme}_{width}.png")
    assert (folder / f"report_{theme}_{width}.png").stat().st_size > 10_000
