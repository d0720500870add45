"""Fusion of registered simulated pairs, against truth: `python -m benchmarks.fusion --help`.

A method is a preset's list of stages. Blind: SRF, PSF and the guide's noise are learned from the pair. True:
they are given. The noise of the HSI is estimated in both.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from benchmarks.scenes import NAMES, load
from hsi_fuse.errors import HsiFuseError
from hsi_fuse.metrics import ergas, psnr, sam_deg
from hsi_fuse.preset import Preset, load_preset
from hsi_fuse.problem import Problem, silent
from hsi_fuse.sense import sense
from hsi_fuse.simulate import PROTOCOLS, ObservedPair, observe
from hsi_fuse.subspace import estimate_noise, interpolate

CORES = 2


@dataclass(frozen=True)
class Score:
    """One line of the table."""

    scene: str
    protocol: str
    sensor: str
    method: str
    seed: int
    psnr_db: float
    sam_deg: float
    ergas: float
    wall_s: float
    cpu_s: float
    """Processor seconds over `CORES`: what an idle machine of two cores would need."""


def problem_of(pair: ObservedPair, sensor: str, seed: int, preset: Preset) -> Problem:
    """What a method may see of a registered pair: all weights 1; the sensor learned if "blind", else true."""
    hsi_weight, guide_weight = torch.ones(pair.hsi.shape[1:]), pair.guide_valid.float()
    model, guide_noise = pair.sensor, _at_least(pair.guide_noise, pair.guide)
    if sensor == "blind":
        ratio = pair.sensor.ratio
        sensed = sense(pair.hsi, hsi_weight, pair.guide, guide_weight, ratio, preset.sense)
        model, guide_noise = sensed.sensor, _at_least(sensed.guide_noise, pair.guide)
    noise = estimate_noise(pair.hsi, hsi_weight)
    return Problem(pair.hsi, hsi_weight, pair.guide, guide_weight, model, noise, guide_noise, seed)


def _at_least(noise: Tensor, image: Tensor) -> Tensor:
    """A protocol without noise still leaves the solver a positive deviation."""
    return torch.maximum(noise, 1e-4 * image.flatten(1).std(1))


def score(scene: str, protocol: str, sensor: str, method: str, seed: int) -> Score:
    """Simulate, run and compare with truth; time is that of learning the sensors and of the stages."""
    truth, wavelengths_nm = load(scene)
    pair = observe(truth, wavelengths_nm, PROTOCOLS[protocol], seed)
    preset = load_preset(method)
    wall, cpu = time.perf_counter(), time.process_time()
    problem = problem_of(pair, sensor, seed, preset)
    estimate = interpolate(problem)
    for _, stage in preset.stages:
        estimate = stage(problem, estimate, silent).estimate
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    made, border = estimate.rows(0, estimate.shape[1]), pair.sensor.ratio
    return Score(
        *(scene, protocol, sensor, method, seed),
        psnr_db=psnr(made, pair.truth, border=border),
        sam_deg=sam_deg(made, pair.truth, border=border).mean,
        ergas=ergas(made, pair.truth, pair.sensor.ratio, border=border),
        wall_s=wall,
        cpu_s=cpu / CORES,
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the table and, with -o, write it as CSV. 1 where a run failed."""
    parser = argparse.ArgumentParser(prog="benchmarks.fusion", description=__doc__)
    listed: dict[str, Any] = {"type": lambda text: text.split(",")}
    parser.add_argument(
        "--scenes", default=["muufl", "pavia_centre", "jasper", "samson", "hydice", "enmap"], **listed
    )
    parser.add_argument("--protocols", default=["x4-ms4"], **listed)
    parser.add_argument("--methods", default=["interpolation", "draft", "fast"], **listed, help="presets")
    parser.add_argument("--sensor", default=["blind", "true"], **listed, help="blind, true or both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("-o", "--output", help="CSV file")
    options = parser.parse_args(arguments)
    registered = [name for name, p in PROTOCOLS.items() if p.misregistration is None]
    for given, valid in (
        (options.scenes, NAMES),
        (options.protocols, registered),
        (options.sensor, ("blind", "true")),
    ):
        if unknown := set(given) - set(valid):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(valid)}")
    torch.set_num_threads(options.threads)

    jobs = [
        (scene, protocol, sensor, method, options.seed)
        for scene in options.scenes
        for protocol in options.protocols
        for method in options.methods
        for sensor in (options.sensor if method != "interpolation" else ["none"])  # it uses no sensor
    ]
    scores, failed = [], 0
    print(
        f"{'scene':<26}{'protocol':<10}{'sensor':<7}{'method':<14}  PSNR dB  SAM deg   ERGAS    wall s  cpu s"
    )
    for job in jobs:
        try:
            scores.append(s := score(*job))
        except HsiFuseError as e:
            failed += 1
            print(
                f"{job[0]:<26}{job[1]:<10}{job[2]:<7}{job[3]:<14}  {type(e).__name__}: {e}", file=sys.stderr
            )
            continue
        print(
            f"{s.scene:<26}{s.protocol:<10}{s.sensor:<7}{s.method:<14}{s.psnr_db:9.2f}{s.sam_deg:9.2f}"
            f"{s.ergas:8.2f}{s.wall_s:10.2f}{s.cpu_s:7.2f}",
            flush=True,
        )
    if options.output:
        with open(options.output, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([f.name for f in fields(Score)])
            writer.writerows([getattr(s, f.name) for f in fields(Score)] for s in scores)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
