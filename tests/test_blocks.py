"""Big scenes: what is solved block by block is what is solved as a whole."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from synthetic import RATIO, observed, problem_of, scene

from hsi_fuse import blocks
from hsi_fuse.blocks import Memory, by_blocks, held_bytes, layout, peak_bytes, sample
from hsi_fuse.cli import main
from hsi_fuse.errors import HsiFuseWarning, PresetError, WriteError
from hsi_fuse.preset import load_preset
from hsi_fuse.problem import Problem, silent, window
from hsi_fuse.quality.synthesis import middle
from hsi_fuse.solving import in_blocks, run_stages
from hsi_fuse.stages.coupled import Coupled
from hsi_fuse.stages.map import Map
from hsi_fuse.subspace import interpolate, problem_subspace

SIDE = 22
WIDE = Memory(64 << 30)


@pytest.fixture(scope="module")
def problem() -> Problem:
    """44 x 40 HSI pixels: four blocks of 22 x 20, which see 27 x 25 each."""
    return problem_of(observed(truth=scene(176, 160)))


@pytest.fixture(scope="module")
def whole(problem):
    return Map()(problem, interpolate(problem), silent).estimate


@pytest.fixture(scope="module")
def parted(problem):
    return by_blocks(Map(), problem, SIDE, WIDE, silent)


def test_blocks_give_what_the_whole_gives(whole, parted):
    a, b = (e.rows(0, e.shape[1]) for e in (whole, parted.estimate))
    assert parted.verdict["blocks"] == 4
    assert float((a - b).square().mean().sqrt()) < 1e-3 * float(a.max() - a.min())
    difference = (whole.spread - parted.estimate.spread).square().mean().sqrt()
    assert float(difference) < 0.1 * float(whole.spread.square().mean().sqrt())


def test_no_seam_shows(whole, parted):
    """Steps across the blocks' borders are as large as the same steps of the whole."""
    a, b = (e.rows(0, e.shape[1]) for e in (whole, parted.estimate))
    for axis, border in ((1, 22 * RATIO), (2, 20 * RATIO)):
        steps = [c.diff(dim=axis).narrow(axis, border - 2, 3).abs().mean() for c in (a, b)]
        assert float(steps[1] / steps[0]) == pytest.approx(1, abs=0.02)


def test_the_guide_fades_in_blocks_as_it_does_in_the_scene(problem):
    """Its end lies beyond what the left blocks see, and yet it fades where they begin to see it."""
    weight = problem.guide_weight.clone()
    weight[:, 26 * RATIO :] = 0
    partly = replace(problem, guide=problem.guide * weight, guide_weight=weight)
    left, *others = layout(44, 40, SIDE)
    assert left.seen[1] == (0, 25)
    assert float(left.of(partly).fading.min()) < 0.5
    for block in (left, *others):
        fine = tuple(slice(first * RATIO, last * RATIO) for first, last in block.seen)
        assert torch.equal(block.of(partly).fading, partly.fading[fine])


def test_the_same_bytes_every_time(problem):
    part = window(problem, (0, 20), (0, 20))
    one, again = (by_blocks(Map(), part, 12, WIDE, silent).estimate for _ in range(2))
    assert torch.equal(one.coefficients, again.coefficients)


def test_blocks_side_by_side_give_what_one_after_the_other_gives(problem, monkeypatch):
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found.append(by_blocks(Map(), problem, SIDE, WIDE, silent).estimate)
        finally:
            torch.set_num_threads(before)
    one, two = (e.rows(0, e.shape[1]) for e in found)
    assert float((one - two).abs().max()) < 1e-4 * float(one.max() - one.min())


def test_as_many_blocks_at_a_time_as_memory_allows():
    prisma = (230, 1000, 1000)
    side = Memory(8 << 30).block_hsi_px(prisma, 4)
    counts = [Memory(gib << 30).side_by_side(prisma, 4, side) for gib in (2, 4, 8, 16)]
    assert counts[0] == 1
    assert counts == sorted(counts)
    assert counts[2] >= 2
    block = 4 * blocks.FLOATS_PER_FINE_PIXEL * blocks.BLOCK_PX**2
    for threads, count in ((1, 1), (2, 2), (100, counts[2])):
        assert peak_bytes(prisma, 4, threads, 8 << 30) == held_bytes(prisma, 4) + count * block
    assert peak_bytes(prisma, 4, 100, 8 << 30) <= 8 << 30


def test_factors_live_in_a_file_that_nobody_sees(tmp_path):
    kept = Memory(1 << 20, tmp_path).factors(3, 200, 200)
    kept.values.add_(1)
    kept.let_go()
    assert float(kept.values.sum()) == 120_000
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_the_factors_is_a_write_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hsi_fuse.scratch.os.posix_fallocate", full, raising=False)
    with pytest.raises(WriteError, match=r"no room in .* for 2\.1 GiB"):
        Memory(1 << 30, tmp_path).factors(9, 8000, 8000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("height", "width"), [(7, 100), (64, 65), (33, 32)])
def test_blocks_weigh_one_everywhere(height, width):
    total = Memory().factors(2, height * RATIO, width * RATIO)
    for block in layout(height, width, 32):
        (top, bottom), (left, right) = block.seen
        part = torch.ones(2, (bottom - top) * RATIO, (right - left) * RATIO)
        blocks._add(total, part, block, RATIO)
    assert torch.allclose(total.values, torch.ones_like(total.values), atol=1e-6)


def test_a_scene_without_data_in_one_block_is_solved_in_the_others(problem):
    gone = problem.hsi_weight.clone()
    gone[:, 18:] = 0
    holed = replace(problem, hsi_weight=gone, hsi=problem.hsi * (gone > 0))
    found = by_blocks(Map(), window(holed, (0, 12), (0, 40)), 12, WIDE, silent)
    assert bool(torch.isfinite(found.estimate.coefficients).all())
    assert float(found.estimate.coefficients[:, :, -4:].abs().max()) == 0


def test_the_sample_is_the_scene_where_it_is_small_and_tiles_of_it_where_not(problem, monkeypatch):
    assert sample(problem) is problem
    monkeypatch.setattr(blocks, "SAMPLE_TILES", 2)
    monkeypatch.setattr(blocks, "SAMPLE_TILE_HSI_PX", 8)
    tiles = sample(problem)
    there = tiles.hsi_weight > 0
    assert int(there.sum()) == 4 * 8 * 8
    first = window(problem, (7, 15), (6, 14))
    assert torch.equal(tiles.hsi[:, :8, :8], first.hsi)
    assert torch.equal(tiles.guide[:, : 8 * RATIO, : 8 * RATIO], first.guide)
    subspace = problem_subspace(problem, 24)
    part = Map().learn(tiles, subspace, silent)(first)
    assert part.estimate.shape == (30, 32, 32)


def test_the_sample_of_a_flight_line_has_tiles_all_along_it(problem, monkeypatch):
    monkeypatch.setattr(blocks, "SAMPLE_TILES", 2)
    monkeypatch.setattr(blocks, "SAMPLE_TILE_HSI_PX", 8)
    line = sample(window(problem, (0, 44), (0, 9)))
    assert int((line.hsi_weight > 0).sum()) == 4 * 8 * 8


def test_the_layout_follows_from_scene_and_memory_alone():
    assert Memory().block_hsi_px((100, 120, 130), 4) is None
    prisma = (230, 1000, 1000)
    sides = [Memory(gib << 30).block_hsi_px(prisma, 4) for gib in (3, 4, 8, 16)]
    assert sides == sorted(sides)
    assert sides[0] < sides[1] < sides[2] == sides[3]  # larger blocks would cost memory for nothing
    assert sides[0] >= blocks.SMALLEST_HSI_PX
    with pytest.raises(PresetError, match="--max-memory 2G is too little"):
        Memory(2 << 30).block_hsi_px(prisma, 4)


def test_a_flight_line_of_a_thousand_by_four_thousand_fits_six_gigabytes():
    memory, line = Memory(6 << 30), (100, 4000, 1000)
    side = memory.block_hsi_px(line, 4)
    assert side >= 190
    assert memory.side_by_side(line, 4, side) == 2
    assert peak_bytes(line, 4, 2, 6 << 30) <= 6 << 30


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what of a file is in memory")
def test_after_each_look_the_factors_count_as_memory_no_longer(problem, parted):
    """Neither those of the product nor of what is mixed of it."""
    estimate = parted.estimate

    def held() -> int:
        """KiB of the mapped file."""
        start = f"{estimate.coefficients.untyped_storage().data_ptr():x}-"
        lines = iter(Path("/proc/self/smaps").read_text().splitlines())
        next(line for line in lines if line.startswith(start))
        return int(next(line for line in lines if line.startswith("Rss:")).split()[1])

    assert torch.isfinite(estimate.coefficients).all()
    assert held() > 100
    for look in (
        lambda: estimate.rows(3, 50),
        lambda: estimate.mixed(problem.sensor.srf).rows(3, 50),
        lambda: estimate.degraded(problem.sensor.psf, RATIO),
        lambda: estimate.averaged(2),
    ):
        before = estimate.coefficients.clone()
        look()
        assert held() == 0
        assert torch.equal(estimate.coefficients, before)


def test_the_middle_of_a_scene_stands_for_it(problem):
    part = middle(problem, 40)
    assert part.hsi_weight.shape == (40, 40)
    assert torch.equal(part.hsi, problem.hsi[:, 2:42])
    assert torch.equal(part.guide, problem.guide[:, 2 * RATIO : 42 * RATIO])


def test_a_trained_stage_trains_once_and_is_applied_to_blocks(problem):
    stage = Coupled(steps=60, imitate=60)
    whole = stage(problem, interpolate(problem), silent)
    parted = by_blocks(stage, problem, SIDE, WIDE, silent)
    a, b = (r.estimate.rows(0, r.estimate.shape[1]) for r in (whole, parted))
    assert float((a - b).square().mean().sqrt()) < 1e-3 * float(a.max() - a.min())
    assert parted.verdict["best_step"] == whole.verdict["best_step"]


def test_a_preset_runs_in_blocks_where_its_stages_can_and_whole_where_not(problem, monkeypatch):
    monkeypatch.setattr(Memory, "block_hsi_px", lambda self, shape, ratio: SIDE)
    part = window(problem, (0, 40), (0, 20))
    monkeypatch.setattr("hsi_fuse.solving.is_small", lambda height, width, ratio: False)
    monkeypatch.setattr(Memory, "holds", lambda self, shape, ratio: False)
    draft, classical = load_preset("draft"), load_preset("gsa")
    assert in_blocks(part, draft, WIDE)
    estimate, ((name, result),) = run_stages(part, None, draft, silent, WIDE)
    assert (name, result.verdict["blocks"]) == ("map", 2)
    assert estimate is result.estimate
    with pytest.warns(HsiFuseWarning, match="gsa cannot work in blocks"):
        assert not in_blocks(part, classical, WIDE)


def test_a_stage_that_needs_the_whole_follows_the_blocks_where_memory_holds_it(problem, monkeypatch):
    monkeypatch.setattr(Memory, "block_hsi_px", lambda self, shape, ratio: SIDE)
    monkeypatch.setattr("hsi_fuse.solving.is_small", lambda height, width, ratio: False)
    part = window(problem, (0, 40), (0, 20))
    draft, classical = load_preset("draft"), load_preset("gsa")
    both = replace(draft, stages=(*draft.stages, *classical.stages))
    assert in_blocks(part, both, WIDE)
    _, results = run_stages(part, None, both, silent, WIDE)
    assert [result.verdict.get("blocks") for _, result in results] == [2, None]
    assert not in_blocks(part, classical, WIDE)


def test_the_command_line_runs_a_larger_scene_in_blocks(pair, tmp_path, monkeypatch):
    """The same pair with a sample smaller than the scene, and as a whole."""

    def fused(name):
        product = tmp_path / f"{name}.tif"
        arguments = ["run", str(pair.hsi), str(pair.ref), "-o", str(product), "--preset", "draft", "-q"]
        assert main([*arguments, "--max-memory", "6G"]) == 0
        with rasterio.open(product) as file:
            return file.read().astype(float), json.loads((tmp_path / f"{name}_quality.json").read_text())

    whole, of_whole = fused("whole")
    monkeypatch.setattr(blocks, "SAMPLE_TILES", 3)
    monkeypatch.setattr(blocks, "SAMPLE_TILE_HSI_PX", 8)
    monkeypatch.setattr(blocks, "SAMPLE_PX", 24 * RATIO)
    monkeypatch.setattr(blocks, "BLOCK_PX", (16 + 2 * blocks.HALO_HSI_PX) * RATIO)
    monkeypatch.setattr(blocks, "SMALLEST_HSI_PX", 12)
    parted, of_parted = fused("parted")
    assert "blocks" not in of_whole["stages"][0]
    assert of_parted["stages"][0]["blocks"] == 4
    assert of_parted["provenance"]["max_memory"] == 6 << 30
    assert np.sqrt(np.mean((parted - whole) ** 2)) < 5e-3 * np.ptp(whole)  # a sample of a small scene is poor
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
