"""Tie points: residual shifts of blocks whose pixels took no part in the fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from affine import Affine
from synthetic import COLUMNS, MARGIN, PSF, RATIO, ROWS, START, cut, unregistered

from hsi_fuse.errors import AlignmentError
from hsi_fuse.registration import register
from hsi_fuse.registration.displacement import Displacement
from hsi_fuse.registration.fit import Fitted, fit
from hsi_fuse.registration.register import RegisterOptions, locate
from hsi_fuse.registration.ties import CHECK_HSI_PX, block_side, checkerboard, predicted, tie_points
from hsi_fuse.registration.warp import Observer, Pair

SHAPE, BLOCK = (ROWS, COLUMNS), 8
BLOCKS = (ROWS // BLOCK) * (COLUMNS // BLOCK)
CHECK = checkerboard(SHAPE, torch.device("cpu"))


def waves(x, y):
    """A smooth field of 0.15 HSI pixels."""
    return 0.15 * RATIO * np.stack([np.sin(y / 40 + 1), np.cos(x / 40)])


def fitted(pair: Pair, base: Affine = START, model: str = "affine") -> Fitted:
    return fit(Observer(pair, PSF, RATIO, ~CHECK), base, model)


def off_by(found: Fitted, columns: float, rows: float) -> Fitted:
    """A mapping that lies so many HSI pixels off."""
    polynomial = found.shift.polynomial.copy()
    polynomial[:, 0] += columns, rows
    return replace(found, shift=Displacement(SHAPE, polynomial))


def ties_of(pair: Pair, found: Fitted, keep: torch.Tensor = CHECK, block: int = BLOCK) -> np.ndarray:
    return tie_points(pair, found, PSF, RATIO, keep, block)[0]


def left(pair: Pair, found: Fitted) -> float:
    return predicted(Observer(pair, PSF, RATIO), CHECK, found).left


@pytest.fixture(scope="module")
def pair() -> Pair:
    return unregistered()


@pytest.fixture(scope="module")
def found(pair) -> Fitted:
    return fitted(pair)


# --- tie points --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 3, 4, 9])
@pytest.mark.parametrize("shift", [(0, 0), (0.3, -0.2), (-0.5, 0.4)])
def test_a_known_residual_shift_is_recovered(bands, shift):
    pair = unregistered(guide_bands=bands)
    ties = ties_of(pair, off_by(fitted(pair), *(-s for s in shift)))
    assert len(ties) > 0.8 * BLOCKS
    assert np.abs(ties[:, 2:] - shift).max() < 0.05


def test_a_tie_point_lies_in_the_middle_of_its_block(pair, found):
    ties = ties_of(pair, found)
    assert len(ties) == BLOCKS
    rows, columns = np.mgrid[: ROWS // BLOCK, : COLUMNS // BLOCK] * BLOCK + BLOCK / 2
    assert np.allclose(ties[:, :2], np.stack([columns.ravel(), rows.ravel()], 1), atol=0.1)


def test_a_local_displacement_shows_block_by_block():
    pair = unregistered(local=waves)
    ties = ties_of(pair, fitted(pair, model="translation"))
    places = np.stack(START * tuple(ties[:, :2].T))
    wanted = waves(*places).T / RATIO
    wanted -= wanted.mean(0)
    shown = ties[:, 2:] - ties[:, 2:].mean(0)
    assert len(ties) > 0.8 * BLOCKS
    assert np.abs(wanted).max() > 0.1
    assert np.sqrt(((shown - wanted) ** 2).mean()) < 0.02


def test_haze_over_blocks_moves_nothing(pair):
    """It changes a block's own mean, of which the whole scene's linear map knows nothing."""
    noise = torch.randn(pair.low.shape, generator=torch.Generator().manual_seed(0))
    clear = replace(pair, low=pair.low + 5 * noise)
    rows, columns = (torch.arange(side) - MARGIN for side in pair.guide.shape[1:])
    haze = 1 - 2 * ((rows[:, None] // (RATIO * BLOCK) + columns // (RATIO * BLOCK)) % 2)  # in every block
    hazy = replace(clear, guide=clear.guide + 0.25 * clear.guide.std((1, 2), keepdim=True) * haze)
    plain, ties = (ties_of(p, fitted(clear)) for p in (clear, hazy))
    assert len(plain) > 0.8 * BLOCKS
    assert len(ties) > 0.8 * BLOCKS
    errors = [np.sqrt((t[:, 2:] ** 2).mean()) for t in (plain, ties)]
    assert errors[1] < 2 * errors[0]


def test_flat_blocks_give_none():
    pair, half = unregistered(), COLUMNS // 2
    low, guide = pair.low.clone(), pair.guide.clone()
    generator = torch.Generator().manual_seed(0)
    low[:, :, :half] = torch.randn(low[:, :, :half].shape, generator=generator)
    side = guide[:, :, : MARGIN + RATIO * half]
    guide[:, :, : MARGIN + RATIO * half] = side.mean() * (
        1 + 0.005 * torch.randn(side.shape, generator=generator)
    )
    flat = replace(pair, low=low, guide=guide)
    ties = ties_of(flat, fitted(flat), block=5)
    assert len(ties) > 10
    assert (ties[:, 0] > half - 5).all()


@pytest.mark.parametrize(("hidden", "columns"), [(3 * BLOCK, 2), (3 * BLOCK + BLOCK - 3, 1)])
def test_blocks_with_no_or_little_guide_give_none(pair, found, hidden, columns):
    weight = pair.guide_weight.clone()
    weight[:, : MARGIN + hidden * RATIO] = 0
    ties = ties_of(replace(pair, guide_weight=weight), found)
    assert len(ties) == columns * ROWS // BLOCK
    assert (ties[:, 0] > COLUMNS - columns * BLOCK).all()
    assert len(ties_of(replace(pair, guide_weight=torch.zeros_like(weight)), found)) == 0


@pytest.mark.parametrize("keep", [CHECK, ~CHECK])
def test_only_the_pixels_that_are_kept_take_part(pair, found, keep):
    spoilt = replace(pair, low=torch.where(keep, pair.low, 1e3))
    ties = ties_of(spoilt, found, keep)
    assert np.array_equal(ties, ties_of(pair, found, keep))
    assert len(ties) == BLOCKS


def test_a_mapping_that_is_far_off_gives_none_or_few(pair, found):
    assert len(ties_of(pair, off_by(found, 2.5, -2))) < 0.1 * BLOCKS


# --- what a linear map predicts ----------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 3, 4, 9])
def test_the_right_place_predicts_pixels_it_has_not_seen(bands):
    pair = unregistered(guide_bands=bands)
    found = fitted(pair)
    assert left(pair, found) < 0.005
    errors = [left(pair, off_by(found, off, 0)) for off in (0.1, 0.3, 1.0)]
    assert left(pair, found) < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("place", [1, 2])
def test_another_place_gives_itself_away(place, monkeypatch):
    """However well a mapping was fitted to it."""
    monkeypatch.setattr(register, "CANDIDATES", 2)
    wrong = cut(unregistered(place=place, guide_bands=1), 20, 16)
    check = checkerboard(wrong.shape, torch.device("cpu"))
    try:
        base = locate(wrong, RegisterOptions(search_hsi_px=4, search_deg=2), True)[0]
        found = fit(Observer(wrong, PSF, RATIO, ~check), base, "affine")
    except AlignmentError:
        return
    ties, blocks = tie_points(wrong, found, PSF, RATIO, check, BLOCK)
    rest = predicted(Observer(wrong, PSF, RATIO), check, found)
    assert rest.left > 0.5
    assert len(ties) < 4
    assert len(ties) < 0.3 * blocks


def test_too_few_pixels_predict_nothing(pair, found):
    few = torch.zeros(SHAPE, dtype=torch.bool)
    few[:3, :3] = True
    observer = Observer(pair, PSF, RATIO)
    assert predicted(observer, few, found).left == 1
    assert predicted(observer, ~few, found).left == 1


# --- the checkerboard --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(48, 40), (7, 13), (5, 5)])
def test_the_checkerboard_parts_the_pixels_in_halves(shape):
    board = checkerboard(shape, torch.device("cpu"))
    assert board.shape == shape
    assert board.dtype == torch.bool
    assert 0.4 < board.float().mean() < 0.65
    step = CHECK_HSI_PX
    assert torch.equal(board[step:], ~board[:-step])
    assert torch.equal(board[:, step:], ~board[:, :-step])
    assert board[:step, :step].all()


@pytest.mark.parametrize(
    ("shape", "wanted", "side"),
    [((400, 300), 16, 16), ((48, 40), 16, 10), ((48, 40), 8, 8), ((12, 90), 16, 5)],
)
def test_small_scenes_have_smaller_blocks(shape, wanted, side):
    assert block_side(shape, wanted) == side
