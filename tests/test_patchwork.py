"""Local fields of large images, patch by patch."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from affine import Affine
from synthetic import COLUMNS, MARGIN, PSF, RATIO, ROWS, START, unregistered

from hsi_fuse.errors import AlignmentError
from hsi_fuse.registration import patchwork
from hsi_fuse.registration.displacement import Displacement
from hsi_fuse.registration.fit import fit
from hsi_fuse.registration.patchwork import Patch, Patchwork, fit_fields
from hsi_fuse.registration.prior import AMPLITUDES, Expected
from hsi_fuse.registration.tiles import spread
from hsi_fuse.registration.warp import Observer

SHAPE = (ROWS, COLUMNS)
X, Y = np.arange(COLUMNS) + 0.5, np.arange(ROWS) + 0.5


@pytest.fixture
def small_patches(monkeypatch):
    """So that the small scene is a large one."""
    for name, value in (("LARGEST", 32), ("SIDE", 28), ("OVERLAP", 8)):
        monkeypatch.setattr(patchwork, name, value)


def waves(x, y):
    """A smooth field of 0.2 HSI pixels."""
    return 0.2 * RATIO * np.stack([np.sin(y / 33 + 1), np.cos(x / 29)])


def moved(shape, column):
    polynomial = np.zeros((2, 6))
    polynomial[0, 0] = column
    return Displacement(shape, polynomial)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize("side", [161, 250, 401, 1000])
def test_patches_cover_an_axis_and_overlap(side):
    parts = spread(side, 128, 24)
    assert parts[0].start == 0
    assert parts[-1].stop == side
    assert max(p.stop - p.start for p in parts) <= 128
    assert min(a.stop - b.start for a, b in pairwise(parts)) >= 23  # rounded


def test_one_patch_gives_way_to_the_next_over_their_overlap(small_patches):
    tiles = [(slice(0, ROWS), part) for part in spread(COLUMNS, 28, 8)]
    patches = [Patch(t, moved((ROWS, 28), i), np.full((9, 9), 0.1 * (i + 1))) for i, t in enumerate(tiles)]
    first, second = (part for _, part in tiles)
    work = Patchwork(SHAPE, tuple(patches))
    found = work(X, Y)[0]
    assert (found[:, : second.start] == 0).all()
    assert (found[:, first.stop :] == 1).all()
    assert (np.diff(found[0]) >= 0).all()
    assert found[0].max() - found[0].min() == 1
    assert np.diff(found[0]).max() < 0.3
    assert work(np.array([-9.0, COLUMNS + 9]), Y)[0, 0].tolist() == [0, 1]
    there = np.array([1.0, COLUMNS - 1.0, (second.start + first.stop) / 2])
    assert work.deviation(there, np.full(3, 5.0)) == pytest.approx([0.1, 0.2, 0.2])


def test_patches_find_the_field_that_the_whole_finds(small_patches):
    pair = unregistered(local=waves)
    observer = Observer(pair, PSF, RATIO)
    whole = fit(observer, pair.start, local=True)
    parts = fit_fields(observer, pair.start, "affine", 15)
    assert isinstance(parts.shift, Patchwork)
    assert len(parts.shift.patches) == 4
    assert rms(whole.shift(X, Y)) > 0.1
    assert rms(parts.shift(X, Y) - whole.shift(X, Y)) < 0.02
    places = np.array([5.0, 20.0, 35.0]), np.array([8.0, 24.0, 40.0])
    assert (parts.deviation(*places) > 0.5 * whole.deviation(*places)).all()
    assert parts.deviation(*places).max() < 0.1
    again = fit_fields(observer, pair.start, "affine", 1, parts.shift, Expected(parts.length))
    assert rms(again.shift(X, Y) - parts.shift(X, Y)) < 0.01


def test_patches_spread_over_a_large_image_stand_for_all(small_patches, monkeypatch):
    pair = unregistered(local=waves)
    observer = Observer(pair, PSF, RATIO)
    whole = fit_fields(observer, pair.start, "affine", 5)
    monkeypatch.setattr(patchwork, "SAMPLED", 1)
    some = fit_fields(observer, pair.start, "affine", 5, sampled=True)
    (patch,) = some.shift.patches
    assert patch.tile == whole.shift.patches[0].tile
    pixels = patchwork.sample_of(pair, pair.start).numpy()
    assert pixels[patch.tile].all()
    assert pixels.sum() == pixels[patch.tile].size < pixels.size
    down, across = patch.tile
    own = np.ix_([0, 1], np.arange(down.stop - 8), np.arange(across.stop - 8))
    assert rms((some.shift(X, Y) - whole.shift(X, Y))[own]) < 0.01
    assert (some.shift(X, Y)[:, ~pixels] == 0).all()
    assert some.deviation(X[-3:], Y[-3:]) == pytest.approx([patchwork.UNKNOWN] * 3)


def test_the_sample_lies_on_the_guide(small_patches, monkeypatch):
    pair = unregistered()
    weight = pair.guide_weight.clone()
    weight[:, : MARGIN + RATIO * 30] = 0  # the first columns of patches see nothing of it
    monkeypatch.setattr(patchwork, "SAMPLED", 1)
    pixels = patchwork.sample_of(replace(pair, guide_weight=weight), pair.start)
    assert not pixels[:, :8].any()
    assert pixels[:, -8:].any()


def test_of_a_sample_the_sample_is_the_same(monkeypatch):
    """Else a held-out pixel could be asked of a patch that was not fitted."""
    for name, value in (("LARGEST", 18), ("SIDE", 18), ("OVERLAP", 4), ("SAMPLED", 7)):
        monkeypatch.setattr(patchwork, name, value)
    pair = unregistered()
    pixels = patchwork.sample_of(pair, pair.start)
    assert 0 < int(pixels.sum()) < pixels.numel()
    limited = replace(pair, low_weight=pair.low_weight * pixels)
    assert torch.equal(patchwork.sample_of(limited, pair.start), pixels)


def test_the_other_patches_expect_what_those_found(small_patches, monkeypatch):
    told = []

    def remembered(*given, expected, settled):
        told.append(expected)
        return fit(*given, expected=expected, settled=settled)

    monkeypatch.setattr(patchwork, "fit", remembered)
    monkeypatch.setattr(patchwork, "SAMPLED", 1)
    pair = unregistered(local=waves)
    found = fit_fields(Observer(pair, PSF, RATIO), pair.start, "affine", 3)
    assert told[0] is None
    assert len(set(told[1:])) == 1
    assert (told[1].length, told[1].amplitude) != (0, 0)
    told.clear()
    fit_fields(Observer(pair, PSF, RATIO), pair.start, "affine", 3, expected=Expected(found.length, 0.1))
    assert None not in told


def test_an_expected_field_is_found_as_it_is_without(small_patches):
    pair = unregistered(local=waves)
    observer = Observer(pair, PSF, RATIO)
    plain = fit_fields(observer, pair.start, "affine", 15)
    told = fit_fields(observer, pair.start, "affine", 15, expected=Expected(plain.length, plain.amplitude))
    moved = told.shift(X, Y) - plain.shift(X, Y)
    assert np.sqrt((moved**2).mean()) < 0.01
    assert np.abs(plain.shift(X, Y)).max() > 0.1


@pytest.mark.parametrize(("amplitude", "nearest"), [(None, None), (0.1, 0.1), (0.075, 0.1), (5.0, 0.8)])
def test_an_expected_amplitude_is_one_of_those_tried(amplitude, nearest):
    likely = Expected(9.0, amplitude).likely
    assert (likely if likely is None else AMPLITUDES[likely]) == nearest


def test_a_small_image_is_one_patch():
    pair = unregistered()
    found = fit_fields(Observer(pair, PSF, RATIO), pair.start, "affine", 3)
    assert isinstance(found.shift, Displacement)


def test_a_patch_off_the_guide_stays_where_the_base_puts_it(small_patches):
    pair = unregistered()
    weight = pair.guide_weight.clone()
    weight[:, : MARGIN + RATIO * 30] = 0
    observer = Observer(replace(pair, guide_weight=weight), PSF, RATIO)
    found = fit_fields(observer, pair.start, "affine", 5)
    assert (found.shift(X[:8], Y) == 0).all()
    assert found.deviation(X[:3], Y[:3]).min() > 1
    with pytest.raises(AlignmentError, match="slid off"):
        fit_fields(Observer(replace(pair, guide_weight=0 * weight), PSF, RATIO), pair.start, "affine", 5)


def test_an_observer_of_a_part_sees_what_that_of_the_whole_sees():
    rng = np.random.default_rng(0)
    pair = replace(unregistered(), bend=rng.standard_normal((2, 3, 3)).astype(np.float32))
    keep = torch.from_numpy(rng.random(SHAPE) < 0.7)
    whole = Observer(pair, PSF, RATIO, keep)
    part = whole.part((slice(10, 40), slice(5, 33)))
    base = START * Affine.rotation(3)
    inside = (whole.rows > 10) & (whole.rows < 40) & (whole.columns > 5) & (whole.columns < 33)
    seen, wanted = part.see(base * Affine.translation(5, 10)), whole.see(base)
    assert np.array_equal(part.design, whole.design[:, inside])
    assert np.allclose(seen.values, wanted.values[:, inside], atol=2e-3)
    assert np.corrcoef(seen.values[0], wanted.values[0, inside])[0, 1] > 0.9999


def test_patches_are_the_same_on_two_threads(small_patches):
    pair = unregistered(local=waves)
    observer, before = Observer(pair, PSF, RATIO), torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found.append(fit_fields(observer, pair.start, "affine", 4).shift(X, Y))
        finally:
            torch.set_num_threads(before)
    assert np.array_equal(*found)
