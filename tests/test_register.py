"""The place of the HSI in the guide, found to a fraction of a pixel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from affine import Affine
from synthetic import COLUMNS, MARGIN, PSF, RATIO, ROWS, astray, cut, unregistered

from hsi_fuse.errors import AlignmentError
from hsi_fuse.registration import register
from hsi_fuse.registration.fit import fit
from hsi_fuse.registration.register import MODELS, RegisterOptions, locate
from hsi_fuse.registration.search import Range
from hsi_fuse.registration.warp import Observer, Pair

CENTRE = (RATIO * COLUMNS / 2 + MARGIN, RATIO * ROWS / 2 + MARGIN)
TO_CENTRE = Affine.translation(*CENTRE)
SHIFT = Affine.translation(4.3 * RATIO, -5.6 * RATIO)
TURNED = SHIFT * TO_CENTRE * Affine.rotation(4) * Affine.scale(1.02) * ~TO_CENTRE
SHEARED = TURNED * TO_CENTRE * Affine(1.01, 0.006, 0, -0.002, 0.995, 0) * ~TO_CENTRE
SMALL = (20, 16)


def located(pair: Pair, georeferenced: bool = True, **options: object) -> Affine:
    return locate(pair, RegisterOptions(**options), georeferenced)[0]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return cut(unregistered(SHEARED, guide_bands=3), *SMALL)


@pytest.fixture
def quick(monkeypatch) -> None:
    """Where one of the search's first two is the place."""
    monkeypatch.setattr(register, "CANDIDATES", 2)


# --- what is found -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bands", "shape", "candidates"),
    [(1, (20, 16), 8), (3, (16, 36), 3), (4, (ROWS, COLUMNS), 3), (9, (16, 20), 3)],
)
def test_the_place_is_found_to_a_fraction_of_a_pixel(monkeypatch, bands, shape, candidates):
    monkeypatch.setattr(register, "CANDIDATES", candidates)
    pair = cut(unregistered(SHEARED, guide_bands=bands), *shape)
    assert astray(pair, located(pair), where=SHEARED).max() < 0.03


@pytest.mark.parametrize(("model", "where"), [("translation", SHIFT), ("similarity", TURNED)])
def test_a_stiff_model_finds_what_it_can_and_stays_stiff(quick, model, where):
    pair = cut(unregistered(where, guide_bands=1), *SMALL)
    found = located(pair, model=model, search_deg=0 if model == "translation" else 10, search_scale=1)
    a, b, _, d, e, _ = (~pair.start * found)[:6]
    assert (a, b) == pytest.approx((e, -d))
    if model == "translation":
        assert (a, b) == pytest.approx((1, 0), abs=0.002)
    assert astray(pair, found, where=where).max() < 0.03


@pytest.mark.parametrize(("degrees", "scale"), [(150, 0.52), (-70, 1.9)])
def test_any_rotation_and_scale_is_found_without_georeferencing(quick, degrees, scale):
    """The start is turned, of another scale and a few pixels off; the guide lies where it should."""
    pair = cut(unregistered(guide_bands=1), 30, 24, beyond_hsi_px=3)
    to_centre = Affine.translation(12, 15)
    wrong = to_centre * Affine.rotation(-degrees) * Affine.scale(1 / scale) * Affine.translation(-15, -13)
    found = located(replace(pair, start=pair.start * wrong), georeferenced=False)
    assert astray(pair, found).max() < 0.03


def test_a_bend_of_the_start_is_taken_into_account(quick, pair):
    """The georeferencing says where a map projection bends to; what is found comes on top of that."""
    nodes = np.linspace(-3, 3, 5)
    bend = np.stack(np.broadcast_arrays(nodes[:, None] ** 2 / 3, nodes)).astype(np.float32)  # guide pixels

    def local(x, y):
        columns, rows = ~pair.start * (x, y)
        u, v = 6 * columns / SMALL[1] - 3, 6 * rows / SMALL[0] - 3
        return np.stack([np.interp(v, nodes, nodes**2 / 3), np.clip(u, -3, 3)])

    carried = cut(unregistered(SHIFT, local, guide_bands=3), *SMALL)
    found = located(replace(carried, bend=bend))
    assert astray(carried, found, where=SHIFT).max() < 0.05
    assert astray(carried, located(carried), where=SHIFT).max() > 0.3


# --- what does not matter ----------------------------------------------------------------------------------


def inverted(pair: Pair) -> Pair:
    gain, offset = torch.tensor([[-700.0, 1, -0.1], [500, 0, 2]])[..., None, None]
    return replace(pair, guide=gain * pair.guide + offset)


def bent(pair: Pair) -> Pair:
    return replace(pair, guide=pair.guide.clamp_min(0) ** 0.45)


def clouded(pair: Pair) -> Pair:
    guide = pair.guide.clone()
    guide[:, 80:105, 110:135] = 2 * guide.max()
    return replace(pair, guide=guide)


def holed(pair: Pair) -> Pair:
    """No data at a corner and in the middle of the guide, and in the HSI."""
    weight, low_weight = pair.guide_weight.clone(), pair.low_weight.clone()
    weight[90:110, 100:130] = 0
    weight[140:] = 0
    low_weight[2:6, 9:13] = 0
    guide = torch.where(weight > 0, pair.guide, pair.guide.mean())
    return replace(pair, guide=guide, guide_weight=weight, low_weight=low_weight)


@pytest.mark.parametrize("spoil", [inverted, bent, clouded, holed])
def test_the_place_is_found_in_spite_of(quick, pair, spoil):
    assert astray(pair, located(spoil(pair)), where=SHEARED).max() < 0.3


def test_of_a_bent_guide_a_curve_says_more_at_the_right_place():
    pair = cut(unregistered(guide_bands=3), *SMALL)
    crooked = replace(pair, guide=torch.cat([pair.guide[:2] ** 0.3, -(pair.guide[2:] ** 0.3)]))

    def says(of: Pair, by: Pair) -> float:
        return register._judged(register._observer(replace(by, guide=of.guide), 1.0), pair.start).score

    straight, curved = (says(crooked, by) for by in (pair, register._curved(pair)))
    assert curved > straight + register.CLEARLY_MORE
    straight, curved = (says(pair, by) for by in (pair, register._curved(pair)))
    assert curved < straight + register.CLEARLY_MORE


@pytest.mark.parametrize(("doubt", "georeferenced", "there"), [(1, 1, True), (1, 0, False), (0, 1, False)])
def test_in_doubt_the_georeferencing_is_a_place_too(monkeypatch, quick, pair, doubt, georeferenced, there):
    monkeypatch.setattr(register, "WELL_SAID", np.inf if doubt else 0.0)
    monkeypatch.setattr(register, "PROMISING", -np.inf)
    places = locate(pair, RegisterOptions(free_scale=1.05), bool(georeferenced))
    assert (places[-1] == pair.start) == there
    assert places[0] != pair.start


def test_values_without_weight_change_nothing(quick, pair):
    weight = pair.low_weight.clone()
    weight[3:8, 4:9] = 0
    noise = 1e3 * torch.randn(pair.low.shape, generator=torch.Generator().manual_seed(0))
    found, wanted = (
        located(replace(pair, low=torch.where(weight > 0, pair.low, there), low_weight=weight))
        for there in (noise, torch.zeros_like(noise))
    )
    assert found == wanted


def test_the_same_pair_gives_the_same_place(quick, pair):
    assert located(pair) == located(replace(pair, guide=pair.guide.clone()))


# --- what is not found -------------------------------------------------------------------------------------


def test_a_reflection_is_not_matched(quick):
    """A mirrored image looks alike; no mapping that is searched makes it fit."""
    pair = cut(unregistered(guide_bands=1), *SMALL, beyond_hsi_px=4)
    mirrored = replace(pair, guide=pair.guide.flip(2))
    found = located(mirrored)
    assert found.determinant > 0
    assert fit(Observer(mirrored, PSF, RATIO), found, "affine").left > 0.4
    assert fit(Observer(pair, PSF, RATIO), located(pair), "affine").left < 0.01


def test_beyond_the_reach_nothing_is_found(quick):
    pair = cut(unregistered(Affine.translation(9 * RATIO, 0), guide_bands=3), *SMALL)
    found = located(pair, search_hsi_px=3)
    assert np.hypot(*(np.array(~pair.start * found * (8, 10)) - (8, 10))) < 6
    assert astray(pair, found, where=Affine.translation(9 * RATIO, 0)).max() > 2


@pytest.mark.parametrize("georeferenced", [True, False])
def test_a_guide_without_data_is_refused(pair, georeferenced):
    with pytest.raises(AlignmentError, match="no valid pixel"):
        located(replace(pair, guide_weight=torch.zeros_like(pair.guide_weight)), georeferenced)


def test_a_guide_of_elsewhere_is_refused(pair):
    with pytest.raises(AlignmentError, match="does not overlap"):
        located(replace(pair, start=Affine.translation(0, 10_000) * pair.start))


# --- the options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(60, 60), (1000, 1000), (300, 1000)])
@pytest.mark.parametrize(
    ("shift", "degrees", "scale"), [(12, 10, 1.05), (0, 30, 1.1), (3, 0, 1.3), (12, 180, 1)]
)
def test_the_reach_holds_whatever_is_searched(shape, shift, degrees, scale):
    options = RegisterOptions(search_hsi_px=shift, search_deg=degrees, search_scale=scale)
    reach = options.reach_hsi_px(shape)
    height, width = shape
    centre = Affine.translation(width / 2, height / 2)
    for turn in np.linspace(-degrees, degrees, 25):
        mapping = (
            Affine.translation(shift, -shift) * centre * Affine.rotation(turn) * Affine.scale(scale) * ~centre
        )
        places = np.array([mapping * c for c in ((0, 0), (width, 0), (0, height), (width, height))])
        assert (places > -reach).all()
        assert (places < np.array([width, height]) + reach).all()


def test_more_is_reached_where_more_is_searched():
    plain = RegisterOptions().reach_hsi_px((100, 80))
    assert plain >= RegisterOptions().search_hsi_px
    for more in ({"search_hsi_px": 20}, {"search_deg": 20}, {"search_scale": 1.2}):
        assert RegisterOptions(**more).reach_hsi_px((100, 80)) > plain
    assert RegisterOptions().reach_hsi_px((100, 800)) > plain


def test_without_georeferencing_everything_is_searched():
    options = RegisterOptions(
        search_hsi_px=7, search_deg=3, search_scale=1.2, least_overlap=0.3, free_overlap=0.6
    )
    assert options.range(True) == Range(7, 3, 1.2, 0.3)
    assert options.range(False) == Range(None, 180, 2, 0.6)


def test_an_unknown_model_is_an_error_that_names_the_known_ones():
    with pytest.raises(AlignmentError) as caught:
        RegisterOptions(model="banana")
    assert all(name in str(caught.value) for name in ("banana", *MODELS))
