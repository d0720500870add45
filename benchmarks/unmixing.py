"""Abundances of fused scenes against published references: `python -m benchmarks.unmixing [--preset fast]`.

Samson and Jasper Ridge come with reference abundances. Each is degraded by a protocol, fused blind, and the
product unmixed into as many endmembers as the reference has. Beside it: vertex component analysis and fully
constrained least squares on the *truth* cube, for five seeds, since VCA draws at random. RMSE over all
endmembers and pixels, endmembers matched to the references one to one. Last column: the product unmixed
into as many endmembers as it takes, RMS of what they leave of it over the HSI's noise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmarks.runs import Job, pair_of, problem_of
from benchmarks.scenes import ALIASES, ROOT
from hsi_fuse.materials import MaterialOptions, materials_of
from hsi_fuse.preset import load_preset
from hsi_fuse.problem import silent
from hsi_fuse.solving import run_stages
from hsi_fuse.subspace import interpolate
from hsi_fuse.vca import vertices

SCENES = ("samson", "jasper")
PROTOCOLS = ("x4-ms4", "x4-rgb")
SEEDS = range(5)
TOLERATED = 1.1


def reference(scene: str) -> Tensor:
    """Published abundances (K, H, W)."""
    name = ALIASES.get(scene, scene)
    with np.load(ROOT / name / f"{name}.npz") as stored:
        return torch.from_numpy(stored["abundance"]).permute(2, 0, 1)


def rmse(found: Tensor, wanted: Tensor) -> float:
    """Of abundances (K, N) in the order that fits best."""
    squares = (found[:, None] - wanted[None]).square().mean(2).numpy()  # (K, K)
    return float(np.sqrt(squares[linear_sum_assignment(squares)].mean()))


def fully_constrained(corners: Tensor, pixels: Tensor, steps: int = 400) -> Tensor:
    """Abundances (K, N), not negative, summing to one, of pixels (n, N): accelerated projected gradient."""
    gram, target = corners.T @ corners, corners.T @ pixels
    step = 1 / float(torch.linalg.eigvalsh(gram)[-1])
    shares = ahead = torch.full_like(target, 1 / len(target))
    momentum = 1.0
    for _ in range(steps):
        before, shares = shares, _on_simplex(ahead - step * (gram @ ahead - target))
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = shares + (momentum - 1) / following * (shares - before)
        momentum = following
    return shares


def _on_simplex(values: Tensor) -> Tensor:
    """The nearest points of the simplex (Held, Wolfe and Crowder, 1974), by columns."""
    falling = values.sort(0, descending=True).values
    excess = falling.cumsum(0) - 1
    count = torch.arange(1, len(values) + 1, dtype=values.dtype)[:, None]
    last = ((falling * count > excess).sum(0) - 1)[None]
    return (values - excess.gather(0, last) / (last + 1)).clamp_min(0)


def main(arguments: list[str] | None = None) -> int:
    """Print the table in markdown; 1 where a product's abundances are off by more than `TOLERATED` bars."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.unmixing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="fast")
    options = parser.parse_args(arguments)
    preset = load_preset(options.preset)
    missed = 0
    print(
        "| scene | protocol | VCA + FCLS on the truth: median (five seeds) | product | its misfit, noise |"
        "\n|---|---|---|---|---|"
    )
    for scene in SCENES:
        for protocol in PROTOCOLS:
            pair = pair_of(Job(scene, protocol, options.preset, "blind", 0))
            problem = problem_of(pair, "blind", 0, preset)
            estimate = run_stages(problem, interpolate(problem), preset, silent)[0]
            height, width = estimate.shape[1:]
            wanted = reference(scene)[:, :height, :width].flatten(1)
            everywhere = torch.ones(height, width, dtype=torch.bool)
            counted = MaterialOptions(endmembers=len(wanted))
            found = materials_of(estimate, everywhere, problem.hsi_noise, counted)
            free = materials_of(estimate, everywhere, problem.hsi_noise, replace(counted, endmembers=0))
            ours = rmse(found.rows(0, height)[0].flatten(1).double(), wanted)
            truth = pair.truth.flatten(1).double()
            bars = sorted(
                rmse(fully_constrained(truth[:, vertices(truth, len(wanted), seed)], truth), wanted)
                for seed in SEEDS
            )
            bar = statistics.median(bars)
            missed += ours > TOLERATED * bar
            print(
                f"| {scene} | {protocol} | {bar:.3f} ({', '.join(f'{b:.3f}' for b in bars)}) | {ours:.3f} | "
                f"{free.misfit:.2f} with {free.endmembers.shape[1]} endmembers |",
                flush=True,
            )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
