"""The benchmark of scale: its scenes are what they say, and its figures see what they are for."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from synthetic import RATIO, WAVELENGTHS, scene

from benchmarks.mosaic import Mosaic, save_mosaic
from benchmarks.scale import borders_of, difference, floor_s, own_gib, seam_ratio
from hsi_fuse.physics import blur_down
from hsi_fuse.simulation.simulate import find_protocol


def mosaic(height: int, width: int) -> Mosaic:
    truth = scene(64, 72)
    return Mosaic(truth / truth.max(), WAVELENGTHS, height, width, 0)


def test_strips_of_a_mosaic_are_the_mosaic():
    made = mosaic(40, 30)
    whole = made.fine(-2 * RATIO, 42 * RATIO)
    low = blur_down(whole, find_protocol("x4-ms4").psf, RATIO)[:, 2:-2]
    strips = torch.cat([strip for _, strip, _ in made.observed()], 1)
    assert torch.allclose(strips, low, atol=1e-6)
    lit = made.fine(0, 64)[:, :, :72] / made.tile[:, :64, :72].clamp_min(1e-6)
    assert float(lit.max() - lit.min()) > 0.01  # no two tiles are the same


def test_a_mosaic_is_a_pair_of_files_and_its_floor_is_measured(tmp_path):
    hsi, guide = save_mosaic(mosaic(20, 24), tmp_path)
    with rasterio.open(hsi) as coarse, rasterio.open(guide) as fine:
        assert (coarse.count, coarse.height, coarse.width) == (len(WAVELENGTHS), 20, 24)
        assert (fine.height, fine.width) == (80, 96)
        assert coarse.bounds == fine.bounds
    assert min(floor_s((hsi, guide), guide, tmp_path / "copy.tif")) > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["guide.tif", "hsi.tif"]


def test_a_seam_is_seen(tmp_path):
    made = mosaic(60, 20)
    smooth = np.rint(10_000 * made.fine(0, 240).numpy()).astype(np.int16)
    broken = smooth.copy()
    broken[:, 100:] += 500
    profile = {"driver": "GTiff", "count": len(smooth), "height": 240, "width": 80, "dtype": "int16"}
    ratios = []
    for name, values in (("smooth", smooth), ("broken", broken)):
        with rasterio.open(tmp_path / name, "w", **profile) as file:
            file.write(values)
        ratios.append(seam_ratio(tmp_path / name, [100], made))
    assert ratios[0] == pytest.approx(1, abs=0.01)
    assert ratios[1] > 1.5
    assert 0 < difference(tmp_path / "broken", tmp_path / "smooth") < 1


def test_borders_lie_where_blocks_meet():
    assert borders_of(100, 100, 100, 4, 8.0) == []
    borders = borders_of(230, 1000, 1000, 4, 8.0)
    assert borders
    assert all(0 < row < 4000 and row % 4 == 0 for row in borders)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what is a process's own")
def test_memory_that_a_file_stands_behind_is_not_a_process_own(tmp_path):
    before = own_gib(os.getpid())
    values = np.memmap(tmp_path / "values", np.uint8, "w+", shape=64 << 20)
    values[:] = 1
    mapped = own_gib(os.getpid())
    # mapped anew: numpy might be given what this process has freed before
    kept = np.frombuffer(mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    kept[:] = 1
    assert mapped - before < 0.03
    assert own_gib(os.getpid()) - mapped > 0.05
    assert kept.all()
    assert own_gib(2**22 + 1) == 0  # no such process
