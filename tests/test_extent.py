"""Products over more ground than the HSI's, on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import MARGIN, RATIO, Pair
from rasterio.crs import CRS

from hsi_fuse import fuse, load_preset, open_guide, read_hsi, save
from hsi_fuse.align import Alignment
from hsi_fuse.errors import GridError, HsiFuseWarning, PresetError
from hsi_fuse.grid import Grid
from hsi_fuse.overlap.extend import Kind
from hsi_fuse.overlap.extent import Footprint, seen_over
from hsi_fuse.registration.response import Response

FINE = Grid(CRS.from_epsg(32632), Affine(1, 0, 500_000, 0, -1, 5_300_000), 40, 24)


def aligned(
    mapping: Affine, bend: np.ndarray | None = None, responses: tuple[Response, ...] = ()
) -> Alignment:
    nothing = np.zeros((0, 4))
    confidence = np.ones(FINE.shape, np.float32)
    return Alignment(mapping, bend, confidence, mapping, None, nothing, nothing, 0.1, responses=responses)


def written(path: Path, values: np.ndarray) -> Path:
    """A guide of one band."""
    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "width": values.shape[1]}
    with rasterio.open(path, "w", **profile, height=values.shape[0], transform=Affine.scale(2)) as file:
        file.write(values.astype(np.float32), 1)
    return path


@pytest.mark.parametrize("extent", ["guide", "union"])
def test_a_footprint_holds_whole_hsi_pixels_and_all_of_what_is_asked_for(extent: str) -> None:
    guide = Grid(None, Affine.scale(2), 30, 20)
    # the guide lies turned by 90 degrees, reaching 6 rows above the HSI and not to its right end
    mapping = Affine.translation(0, 20) * Affine.rotation(-90) * Affine.translation(-3, 6)
    found = Footprint.of(extent, aligned(mapping), FINE, guide, RATIO)
    assert (
        found.grid.width % RATIO
        == found.grid.height % RATIO
        == found.row % RATIO
        == found.column % RATIO
        == 0
    )
    at = found.grid.transform * (found.column, found.row)
    assert at == pytest.approx(FINE.transform * (0, 0))
    corners = [~mapping * corner for corner in ((0, 0), (30, 0), (0, 20), (30, 20))]
    corners += [(0, 0), (40, 24)] if extent == "union" else []
    x, y = np.transpose([(c + found.column, r + found.row) for c, r in corners])
    assert x.min() >= 0
    assert y.min() >= 0
    assert x.max() <= found.grid.width < x.max() + RATIO
    assert y.max() <= found.grid.height < y.max() + RATIO


def test_a_footprint_too_large_to_hold_is_refused() -> None:
    huge = Grid(None, Affine.scale(2), 30_000, 30_000)
    with pytest.raises(GridError, match="cut the reference"):
        Footprint.of("guide", aligned(Affine.identity()), FINE, huge, RATIO)


def test_beyond_the_hsi_the_guide_is_seen_as_within(tmp_path: Path) -> None:
    """One mapping, with its slope carried on, and one response."""
    columns = np.tile(np.arange(50.0) + 0.5, (40, 1))
    guide = open_guide(written(tmp_path / "guide.tif", 3 - columns**2 / 100))
    mapping = Affine.translation(8, 8)
    bend = np.zeros((2, 13, 21), np.float32)
    bend[0] = np.linspace(-0.5, 0.5, 21)  # guide pixels, over 40 columns
    root = Response(black=3.0, span=-36.0, exponent=0.5)  # 36 ((3 - v) / 36)^0.5 = 0.6 times the column
    alignment = aligned(mapping, bend, (root,))
    footprint = Footprint(FINE.window(-4, -8, 32, 56), 4, 8)
    values, weight = seen_over(footprint, alignment, FINE, guide)
    place = np.arange(-8, 48) + 0.5
    wanted = place + 8 + np.interp(place, [-10, 50], [-0.75, 0.75])
    inner = slice(4, 46)
    assert weight[:, inner].all()
    assert np.abs(values[0, 16, inner] / 0.6 - wanted[inner]).max() < 0.05
    assert not weight[:, 51:].any()  # off the guide


@pytest.fixture
def plain_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hsi_fuse.write.learned._report", lambda *_: "<html></html>")


def test_the_guides_footprint_is_written_with_the_kind_of_every_pixel(
    pair: Pair, tmp_path: Path, plain_report: None
) -> None:
    hsi, guide = read_hsi(pair.hsi), open_guide(pair.ref)
    with pytest.warns(HsiFuseWarning, match="inferred from the reference's colours"):
        result = fuse(hsi, guide, load_preset("draft"), extent="guide", uncertainty=True)
    inside = result.rows(0, result.grid.height)
    files = save(result, tmp_path / "all.tif", products=["uncertainty"])
    assert tmp_path / "all_kind.tif" in files
    with rasterio.open(tmp_path / "all.tif") as file:
        product, nodata, transform = file.read(), file.nodata, file.transform
    with rasterio.open(tmp_path / "all_kind.tif") as file:
        kind = file.read(1)
        assert file.transform == transform
        assert "3 inferred" in file.descriptions[0]
    with rasterio.open(tmp_path / "all_rgb.tif") as file:
        assert file.shape == kind.shape
    fine = result.grid
    column, row = (round(v) for v in ~transform * (fine.transform * (0, 0)))
    assert (column, row) == (MARGIN, MARGIN) or min(column, row) >= MARGIN  # whole HSI pixels around it
    own = (slice(row, row + fine.height), slice(column, column + fine.width))
    assert (kind[own] == Kind.FUSED).mean() > 0.99
    step = hsi.encoding.scale
    assert np.abs(product[(slice(None), *own)] * step - inside)[:, kind[own] == Kind.FUSED].max() < step
    outside = np.ones(kind.shape, bool)
    outside[own] = False
    assert (kind[outside] == Kind.INFERRED).mean() > 0.7
    assert (product[:, kind == Kind.INFERRED] != nodata).all()
    with rasterio.open(tmp_path / "all_uncertainty.tif") as file:
        sigma = file.read()
        assert (sigma[:, kind == Kind.INFERRED] > 0).all()  # extrapolated, and how surely
    assert np.median(sigma[:, kind == Kind.INFERRED]) > np.median(sigma[:, kind == Kind.FUSED])
    assert (product[:, (kind == Kind.NOTHING) | (kind == Kind.REFUSED)] == nodata).all()
    figures = json.loads((tmp_path / "all_quality.json").read_text())
    assert figures["extent"]["of"] == "guide"
    assert figures["extent"]["inferred_pct"] == pytest.approx(100 * (kind == Kind.INFERRED).mean(), abs=0.01)
    assert any("--extent guide" in text for text in figures["warnings"])


def test_an_unknown_extent_is_an_error(pair: Pair) -> None:
    with pytest.raises(PresetError, match="hsi, guide, union"):
        fuse(read_hsi(pair.hsi), open_guide(pair.ref), load_preset("draft"), extent="moon")
