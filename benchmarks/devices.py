"""How long presets take on each device at hand, and whether they agree: `make gpu-check`.

The middle of a CAVE scene by protocol x4-rgb, its guide displaced by a smooth field of 1 px, so that `uafl`
and `ssc` have something to mend and all of them runs. For every preset and device: seconds, processor seconds
over two, peak memory (host or GPU), and PSNR / SAM against truth. The stages alone, sensors learned before.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import numpy as np
import torch

from benchmarks.refinement import quality
from benchmarks.runs import peak_mb, problem_of
from benchmarks.scenes import load
from hsi_fuse.nets.flow import warp
from hsi_fuse.preset import load_preset
from hsi_fuse.problem import Problem, on_device, silent
from hsi_fuse.simulation.displace import smooth_field
from hsi_fuse.simulation.simulate import ObservedPair, find_protocol, observe
from hsi_fuse.solving import run_stages
from hsi_fuse.subspace import interpolate

DISPLACED_PX = 1.0


def displaced(scene: str, size: int) -> tuple[ObservedPair, Problem]:
    """The pair, and the problem with a guide that does not quite fit."""
    truth, wavelengths_nm = load(scene)
    top, left = ((side - min(size, side)) // 2 for side in truth.shape[1:])
    part = truth[:, top : top + size, left : left + size].contiguous()
    pair = observe(part, wavelengths_nm, find_protocol("x4-rgb"))
    problem = problem_of(pair, "blind", 0, load_preset("fast"))
    height, width = problem.guide_weight.shape
    field = smooth_field(height, width, min(64, height / 3), np.random.default_rng(0))
    field *= DISPLACED_PX / np.sqrt((field**2).sum(0).mean())
    flow = torch.from_numpy(field).float()[None]
    return pair, replace(problem, guide=warp(problem.guide[None], flow, "bicubic")[0])


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each preset and device."""
    parser = argparse.ArgumentParser(prog="benchmarks.devices", description=__doc__)
    parser.add_argument("--scene", default="cave_balloons")
    parser.add_argument("--size", type=int, default=512, metavar="PX", help="fine pixels a side")
    parser.add_argument("--presets", default="draft,fast,balanced,best,ssc", metavar="A,B,...")
    options = parser.parse_args(arguments)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    pair, problem = displaced(options.scene, options.size)
    print(f"{options.scene}, {tuple(problem.guide_weight.shape)} pixels, {', '.join(devices)}")
    for name in options.presets.split(","):
        for device in devices:
            there = on_device(problem, torch.device(device))
            wall, spent = time.perf_counter(), time.process_time()
            found, results = run_stages(there, interpolate(there), load_preset(name), silent)
            found = on_device(found, torch.device("cpu"))  # and so waits for the GPU
            wall, spent = time.perf_counter() - wall, time.process_time() - spent
            memory = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else peak_mb()
            psnr, sam = quality(found, pair)
            kept = ", ".join(
                f"{stage} {'kept' if r.verdict.get('kept', True) else 'passed'}" for stage, r in results
            )
            print(
                f"{name:<10}{device:<6}{wall:7.1f} s{spent / 2:8.1f} s (processor / 2){memory:8.0f} MiB "
                f"{psnr:7.2f} dB / {sam:.3f}°  {kept}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
