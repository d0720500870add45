"""Coverage of the uncertainty: `python -m benchmarks.uncertainty [-h]`.

Each pair is simulated and fused as in `benchmarks.runs`, its uncertainty calibrated without truth, and the
errors against truth compared with it, all pixels and bands pooled. Two presets have one: `draft` (stage
`map`) and `fast` (stage `coupled`).
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor

from benchmarks.fusion import SCENES
from benchmarks.runs import Job, pair_of, problem_of
from hsi_fuse.preset import load_preset
from hsi_fuse.problem import Estimate, Problem, silent
from hsi_fuse.quality.uncertainty import calibrate
from hsi_fuse.solving import run_stages
from hsi_fuse.subspace import interpolate

PROTOCOLS = ("x4-ms4", "x8-ms4", "x4-rgb")
WITHIN_ONE, WITHIN_TWO, SPARSIFIED = (0.60, 0.76), (0.90, 0.98), 0.30
"""What is asked of each pair: shares of errors, and the gain of `sparsification_gain`."""


@dataclass(frozen=True)
class Coverage:
    """One pair's line.

    `within_*` are shares of errors, `sparsified` is `sparsification_gain`, `by_band` the same of one
    deviation for each band (its true RMS error), `share` the mean deviation over the RMS error.
    """

    scene: str
    protocol: str
    method: str
    within_one: float
    within_two: float
    sparsified: float
    by_band: float
    share: float
    hidden: int
    wall_s: float

    @property
    def passed(self) -> bool:
        """Whether all that is asked for holds."""
        return (
            WITHIN_ONE[0] <= self.within_one <= WITHIN_ONE[1]
            and WITHIN_TWO[0] <= self.within_two <= WITHIN_TWO[1]
            and self.sparsified >= SPARSIFIED
        )


def sparsification_gain(error: Tensor, sigma: Tensor) -> float:
    """How much smaller the area under the sparsification curve is than one constant deviation's: 0 to 1.

    The curve is the RMSE of what remains when the values that are held most uncertain are left out one after
    another (Ilg et al., ECCV 2018). One constant says nothing about their order, and its curve is flat.
    """
    squares = error.flatten()[sigma.flatten().argsort()].double().square()
    remaining = (squares.cumsum(0) / torch.arange(1, len(squares) + 1, dtype=torch.float64)).sqrt()
    return 1 - float(remaining.mean() / remaining[-1])


def coverage(job: Job) -> Coverage:
    """Fuse a pair and compare its errors with its uncertainty; a border of one ratio is left out."""
    pair, preset = pair_of(job), load_preset(job.method)
    problem = problem_of(pair, job.sensor, job.seed, preset)

    def solver(each: Problem) -> Estimate:
        return run_stages(each, interpolate(each), preset, silent)[0]

    estimate = solver(problem)
    began = time.perf_counter()
    uncertainty = calibrate(problem, estimate, solver)
    spent = time.perf_counter() - began
    if uncertainty is None:
        raise SystemExit(f"{job.scene} {job.protocol} {job.method}: no uncertainty could be calibrated")
    border, height = problem.ratio, estimate.shape[1]
    inner = (slice(None), slice(border, -border), slice(border, -border))
    error = (estimate.rows(0, height) - pair.truth)[inner].abs()
    sigma = uncertainty.rows(0, height)[inner]
    rms = error.square().mean((1, 2), keepdim=True).sqrt()
    return Coverage(
        *(job.scene, job.protocol, job.method),
        within_one=float((error < sigma).float().mean()),
        within_two=float((error < 2 * sigma).float().mean()),
        sparsified=sparsification_gain(error, sigma),
        by_band=sparsification_gain(error, rms.expand_as(error)),
        share=float(sigma.mean() / error.square().mean().sqrt()),
        hidden=uncertainty.hidden,
        wall_s=spent,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a CSV; 1 if some pair misses what is asked."""
    parser = argparse.ArgumentParser(prog="benchmarks.uncertainty", description=__doc__)
    for name, values in (("protocols", PROTOCOLS), ("scenes", SCENES), ("methods", ("draft", "fast"))):
        parser.add_argument(f"--{name}", type=lambda text: text.split(","), default=values, metavar="A,B,...")
    options = parser.parse_args(arguments)
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow([*(field.name for field in fields(Coverage)), "passed"])
    missed = 0
    for method in options.methods:
        for protocol in options.protocols:
            for scene in options.scenes:
                found = coverage(Job(scene, protocol, method, "blind", 0))
                missed += not found.passed
                shown = [f"{v:.3f}" if isinstance(v, float) else v for v in astuple(found)]
                out.writerow([*shown, "yes" if found.passed else "no"])
                sys.stdout.flush()
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
