"""Fusion of registered simulated pairs, against truth: `python -m benchmarks.fusion --help`.

Every protocol, scene, method, sensor and seed that is asked for, each run in a process of its own; a suite
says what is run unless named. Methods are presets. Blind: SRF, PSF and the guide's noise are learned from the
pair. Given: gain, offset and noise are. True: nothing is. docs/benchmarks.md has protocols and tables.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.runs import Job, Score, problem_of, scores_of
from benchmarks.scenes import NAMES
from hsi_fuse.errors import HsiFuseError
from hsi_fuse.preset import load_preset
from hsi_fuse.simulation.simulate import PROTOCOLS

__all__ = ["main", "problem_of"]

CORES = 2
REGISTERED = tuple(name for name, p in PROTOCOLS.items() if p.misregistration is None)
METHODS = ("interpolation", "draft", "fast", *tables.CLASSICAL)
SENSORS = ("blind", "given", "true")
SCENES = ("muufl", "pavia_centre", "jasper", "samson", "hydice", "enmap")
OWN_SCENES = {"cave-x32": tuple(n for n in NAMES if n.startswith("cave_")), "x3-ali": ("paris",)}
"""Protocols that are made for certain scenes, and run on no others."""


@dataclass(frozen=True)
class Suite:
    """What is run unless named."""

    protocols: tuple[str, ...]
    scenes: tuple[str, ...]
    seeds: tuple[int, ...]


SUITES = {
    "subset": Suite(("x4-ms4", "x8-ms4", "x4-rgb", "x4-pan", "x4-sharp", "x3-ali"), SCENES, (0,)),
    "full": Suite(REGISTERED, (*SCENES, "abu_urban_1", "abu_beach_1"), (0, 1, 2)),
}


def jobs_of(
    protocols: Sequence[str],
    scenes: Sequence[str],
    methods: Sequence[str],
    sensors: Sequence[str],
    seeds: Sequence[int],
    named: bool,
) -> list[Job]:
    """Everything to run; `named`: the scenes were named, and are not the suite's."""
    return [
        Job(scene, protocol, method, sensor, seed)
        for protocol in protocols
        for scene in _scenes_for(protocol, scenes, named)
        for method in methods
        for sensor in (sensors if method != "interpolation" else ["none"])  # it uses no sensor
        for seed in seeds
    ]


def _scenes_for(protocol: str, scenes: Sequence[str], named: bool) -> Sequence[str]:
    own = OWN_SCENES.get(protocol)
    if own is None:
        return scenes
    return [s for s in scenes if s in own] if named else own


def main(arguments: list[str] | None = None) -> int:
    """Print the runs, then the tables in markdown. 1 where a run failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser, options = _parsed(arguments)
    suite = SUITES[options.suite]
    protocols = options.protocols or suite.protocols
    jobs = jobs_of(
        protocols,
        options.scenes or suite.scenes,
        options.methods,
        options.sensor,
        options.seeds or suite.seeds,
        bool(options.scenes),
    )
    if not jobs:
        parser.error("none of these protocols is made for any of these scenes")
    for left_out in set(protocols) - {job.protocol for job in jobs}:
        print(f"{left_out} is left out: it runs on {', '.join(OWN_SCENES[left_out])} only", file=sys.stderr)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the processes
    started, commit, scores = time.perf_counter(), tables.commit(), []
    runs = scores_of(jobs, options.workers, options.threads)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        runs = recorded(runs, options.output / "runs.csv")
    print(HEAD)
    for s in runs:
        scores.append(s)
        print(_line(s), flush=True)
    minutes = (time.perf_counter() - started) / 60
    told = (
        f"`{' '.join(['python -m benchmarks.fusion', *arguments])}`\n\nCommit {commit}; "
        f"{tables.machine()}; processes at a time: {options.workers}, threads of each: "
        f"{options.threads}; "
        f"{len(scores)} runs in {minutes:.1f} minutes."
    )
    parts = [told, tables.against_classical(scores), "### all methods", tables.by_method(scores)]
    if failed := tables.failures(scores):
        parts += ["### failed", failed]
    text = "\n\n".join(parts)
    print(f"\n{text}")
    if options.output:
        (options.output / "tables.md").write_text(text + "\n", "utf-8")
        tables.draw(scores, options.output / "gains.png")
    if options.docs:
        tables.put(options.docs, options.table or options.suite, text)
    return 1 if failed else 0


def _parsed(arguments: list[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="benchmarks.fusion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listed: dict[str, Any] = {"type": lambda text: text.split(","), "metavar": "A,B,..."}
    parser.add_argument("--suite", default="subset", choices=list(SUITES))
    parser.add_argument("--protocols", **listed, help=", ".join(REGISTERED))
    parser.add_argument("--scenes", **listed, help=", ".join(NAMES))
    parser.add_argument("--methods", default=list(METHODS), **listed, help="presets, or paths to TOML files")
    told = "blind, given (the true SRF and PSF), true (the guide's noise too)  [default: blind,true]"
    parser.add_argument("--sensor", default=["blind", "true"], **listed, help=told)
    parser.add_argument("--seeds", type=lambda text: [int(t) for t in text.split(",")], metavar="0,1,...")
    parser.add_argument("--workers", type=int, default=CORES, metavar="N", help="processes at a time")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each process")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="for runs.csv, tables.md and gains.png"
    )
    parser.add_argument(
        "--docs", type=Path, metavar="FILE", help="document whose table is to be replaced by this one"
    )
    parser.add_argument("--table", metavar="NAME", help="which of its tables  [default: the suite's name]")
    options = parser.parse_args(arguments)
    for given, valid in (
        (options.scenes or (), NAMES),
        (options.protocols or (), REGISTERED),
        (options.sensor, SENSORS),
    ):
        if unknown := set(given) - set(valid):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(valid)}")
    for method in options.methods:
        try:
            load_preset(method)
        except HsiFuseError as e:
            parser.error(str(e))
    name = options.table or options.suite
    if options.docs and not tables.has_place(options.docs, name):
        parser.error(f"{options.docs} has no place for a table: <!-- table:{name} --> <!-- /table:{name} -->")
    return parser, options


HEAD = (
    f"{'scene':<26}{'protocol':<15}{'method':<14}{'sensor':<7}{'seed':>4}  PSNR dB  SAM deg   ERGAS    wall s"
    "   CPU s  peak MB"
)


def _line(s: Score) -> str:
    start = f"{s.scene:<26}{s.protocol:<15}{s.method:<14}{s.sensor:<7}{s.seed:>4}"
    if s.failure:
        return f"{start}  {s.failure}"
    return (
        f"{start}{s.psnr_db:9.2f}{s.sam_deg:9.2f}{s.ergas:8.2f}{s.wall_s:10.2f}{s.cpu_s:8.2f}{s.peak_mb:9.0f}"
    )


def recorded(scores: Iterable[Score], path: Path) -> Iterator[Score]:
    """Pass scores on, each as a line of a CSV as soon as it is there: an interrupted suite keeps its runs."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([f.name for f in fields(Score)])
        for s in scores:
            writer.writerow(astuple(s))
            file.flush()
            yield s


if __name__ == "__main__":
    sys.exit(main())
