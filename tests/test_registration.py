"""The figures of a registration, and its response in words."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from hsi_fuse.grid import METRES_PER_DEGREE, Grid
from hsi_fuse.registration.evidence import Evidence
from hsi_fuse.registration.figures import registration_figures, response_in_words
from hsi_fuse.registration.response import Response

UTM, DEGREES, FEET = (CRS.from_epsg(code) for code in (32632, 4326, 2263))
SHIFT = Affine.translation(3, 2)  # HSI pixels, to the right and down
FOOT = 1200 / 3937


def figures(grid: Grid) -> dict:
    found = SimpleNamespace(
        hsi_to_guide=Affine.scale(4) * SHIFT,
        fitted=SimpleNamespace(left=0.1, amplitude=0.0, length=0.0),
        guide_weight=np.ones((4, 4)),
        before=np.zeros((0, 4)),
        after=np.zeros((0, 4)),
        evidence=Evidence(0.05, 2.0, 26, 32, 0.1),
        responses=[Response(0.1, -2.0, 2.2)],
    )
    return registration_figures(found, Affine.scale(4), grid, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("crs", "transform", "offset_m"),
    [
        (UTM, Affine(30, 0, 5e5, 0, -30, 5e6), (-90, 60)),
        (UTM, Affine(0, 30, 5e5, 30, 0, 5e6), (-60, -90)),
        (FEET, Affine(30, 0, 9e5, 0, -30, 2e5), (-90 * FOOT, 60 * FOOT)),
        (None, Affine(30, 0, 5e5, 0, -30, 5e6), (-90, 60)),
        # at 60 degrees north a degree to the east is half as long
        (
            DEGREES,
            Affine(1e-4, 0, 10, 0, -1e-4, 60.001),
            (-1.5e-4 * METRES_PER_DEGREE, 2e-4 * METRES_PER_DEGREE),
        ),
    ],
)
def test_the_offset_is_in_metres_on_the_ground(crs, transform, offset_m):
    told = figures(Grid(crs, transform, 20, 20))
    assert (told["content_offset_east_m"], told["content_offset_north_m"]) == pytest.approx(
        offset_m, rel=1e-4
    )
    assert told["shift_m"] == pytest.approx(np.hypot(*offset_m), rel=1e-4)
    assert told["shift_px"] == pytest.approx([12, 8])


def test_without_georeferencing_there_is_no_offset():
    told = figures(Grid(None, Affine.identity(), 20, 20))
    assert "content_offset_east_m" not in told
    assert told["shift_m"] == pytest.approx(np.hypot(3, 2))


def test_what_speaks_for_it_is_told():
    told = figures(Grid(UTM, Affine(30, 0, 5e5, 0, -30, 5e6), 20, 20))
    evidence = Evidence(0.05, 2.0, 26, 32, 0.1)
    for name in ("probability", "information", "tied", "unexplained"):
        assert told[name] == getattr(evidence, name)
    assert told["guide_response"] == [{"exponent": 2.2, "black": 0.1, "span": -2.0}]


def bands(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"exponent": exponent, "black": 0.0, "span": span} for exponent, span in pairs]


@pytest.mark.parametrize(
    ("response", "words"),
    [
        ([], "linear"),
        (bands((1.0, 2.0), (1.0, 0.1)), "linear"),
        (bands((2.2, 1.0), (2.2, 1.0), (2.2, 1.0), (2.2, -1.0)), "band 4 is inverted; gamma 2.2"),
        (bands((1.0, -1.0), (1.0, 1.0), (1.0, -9.0)), "bands 1, 3 are inverted"),
        (bands((0.4545, 1.0)), "gamma 0.45"),
    ],
)
def test_the_response_is_told_in_words(response, words):
    assert response_in_words(response) == words
