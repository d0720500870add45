"""CUCaNet with each of its parts left out, on registered pairs: `python -m benchmarks.cucanet_ablation`.

For every scene, protocol and variant: PSNR / SAM of the network's own cube, and of what the data make of it,
and what the sensors that were learned miss of held-out HSI pixels (C Y - R X, per mille of the brightest
value). The sensors are learned blind. `--cold`: everything starts from nothing, as in the paper: Kaiming's
weights, a flat PSF of one HSI pixel and responses flat over their support; else decoders start at the HSI's
vertices and the sensors at `sense`'s.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks.runs import Job, pair_of, problem_of
from hsi_fuse.nets.coupled_training import CoupledTraining
from hsi_fuse.preset import load_preset
from hsi_fuse.problem import silent
from hsi_fuse.quality.metrics import psnr, sam_deg
from hsi_fuse.stages.cucanet import Cucanet

VARIANTS: dict[str, dict[str, Any]] = {
    "all": {},
    "no clamp": {"clamp": False},
    "no SSC": {"learned_sensors": False},
    "no loop": {"consistency": False},
    "CA of image": {"attention_reach": 0},
    "no CA": {"cross_attention": False},
    "none": {"clamp": False, "learned_sensors": False, "cross_attention": False},
}
"""What is switched off, or otherwise. SSC: the sensors learn nothing; loop: they do, but without C Y = R X.
CA of image: the spectral attention has one factor a channel for all of the image, as in the paper."""

SENSORS_COME = 6.0
"""How far the paper's schedule lets PSF and SRF come: 1e-3 in 2000 steps, then falling to 0 in 8000."""
MEAN_RATE = 0.5
"""Of a rise and a cosine, as a share of the largest."""

HEAD = (
    f"{'scene':<14}{'protocol':<10}{'seed':>4}  {'variant':<12}{'network dB / deg':>18}{'solved':>16}"
    "  sensors  CPU s"
)


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(prog="benchmarks.cucanet_ablation", description=__doc__)
    parser.add_argument("--scenes", default="muufl,pavia_centre", metavar="A,B,...")
    parser.add_argument("--protocols", default="x4-sharp", metavar="A,B,...")
    parser.add_argument("--seeds", default="0", metavar="0,1,...")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--variants", default=",".join(VARIANTS), metavar="A,B,...")
    parser.add_argument("--cold", action="store_true", help="from nothing, as the paper")
    options = parser.parse_args(arguments)
    variants = options.variants.split(",")
    if unknown := set(variants) - set(VARIANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(VARIANTS)}")
    start: dict[str, Any] = {}
    if options.cold:
        rate = SENSORS_COME / (MEAN_RATE * options.steps)
        start = {"warm": False, "disjoint": True, "sensor_rate": rate}
    torch.set_num_threads(1)
    print(HEAD)
    for scene in options.scenes.split(","):
        for protocol in options.protocols.split(","):
            for seed in map(int, options.seeds.split(",")):
                job = Job(scene, protocol, "cucanet", "blind", seed)
                pair, preset = pair_of(job), load_preset("cucanet")
                problem = problem_of(pair, "blind", seed, preset)
                where: dict[str, Any] = {"mask": (pair.truth > 0).any(0), "border": problem.ratio}
                for name in variants:
                    started = time.process_time()
                    stage = replace(Cucanet(steps=options.steps, **start), **VARIANTS[name])
                    training = CoupledTraining.of(problem, stage)
                    assert training is not None
                    result = stage.finish(training, training.run(silent))
                    spent = time.process_time() - started
                    cubes = (e.rows(0, e.shape[1]) for e in (training.unmixed(), result.estimate))
                    figures = [
                        f"{psnr(c, pair.truth, **where):.2f} / {sam_deg(c, pair.truth, **where).mean:.2f}"
                        for c in cubes
                    ]
                    line = f"{scene:<14}{protocol:<10}{seed:>4}  {name:<12}{figures[0]:>18}{figures[1]:>16}"
                    sensors = 1e3 * result.verdict["held_out_sensor_error"]
                    print(f"{line}{sensors:9.2f}{spent:7.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
