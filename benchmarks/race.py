"""Time of `fast` to pass CUCaNet's published figure, over CUCaNet's own time: `python -m benchmarks.race`.

On CAVE's chart_and_stuffed_toy at x32. The preset `cucanet-paper` is timed for a few of its 10000 epochs, one
after the other with `fast` and on as many threads, and never run to its end: that takes days.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from dataclasses import replace

import torch

from benchmarks.runs import Job, pair_of, problem_of, score
from hsi_fuse.preset import load_preset
from hsi_fuse.subspace import interpolate

SCENE, PROTOCOL = "cave_chart_and_stuffed_toy", "cave-x32"
PUBLISHED_DB, EPOCHS = 36.7, 10_000
BAR = 1 / 100
TIMED = 2
"""Epochs between two checks of a run that is stopped after the second."""


class Enough(Exception):
    """The epochs that were to be timed are over."""


def seconds_per_epoch() -> tuple[float, float]:
    """Wall and processor seconds of an epoch of `cucanet-paper`, its first `TIMED` epochs left out."""
    preset = load_preset("cucanet-paper")
    ((_, stage),) = preset.stages
    assert stage.steps == EPOCHS
    problem = problem_of(pair_of(Job(SCENE, PROTOCOL, "cucanet-paper", "true", 0)), "true", 0, preset)
    marks: list[tuple[float, float]] = []

    def on_step(what: str, step: int, total: int, held_out: float, loss: float = 0.0) -> None:
        marks.append((time.perf_counter(), time.process_time()))
        if len(marks) == 2:
            raise Enough

    with contextlib.suppress(Enough):  # fifty checks in a run
        replace(stage, steps=50 * TIMED)(problem, interpolate(problem), on_step)
    (wall, cpu), (later, more) = marks
    return (later - wall) / TIMED, (more - cpu) / TIMED


def main(arguments: list[str] | None = None) -> int:
    """Print both times; 1 where `fast` misses the figure or takes too long."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args(arguments).threads)
    fast = score(Job(SCENE, PROTOCOL, "fast", "blind", 0))
    wall, cpu = seconds_per_epoch()
    print("| | dB | wall s | processor s |\n|---|---|---|---|")
    print(f"| fast, blind | {fast.psnr_db:.2f} | {fast.wall_s:.1f} | {fast.cpu_s:.1f} |")
    print(f"| cucanet-paper, an epoch | | {wall:.1f} | {cpu:.1f} |")
    ratios = fast.wall_s / (EPOCHS * wall), fast.cpu_s / (EPOCHS * cpu)
    print(f"| fast over {EPOCHS} epochs | | 1/{1 / ratios[0]:.0f} | 1/{1 / ratios[1]:.0f} |")
    return int(not (fast.psnr_db >= PUBLISHED_DB and max(ratios) <= BAR))


if __name__ == "__main__":
    sys.exit(main())
