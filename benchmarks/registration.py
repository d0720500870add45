"""Registration of simulated pairs, against the true mapping: `python -m benchmarks.registration --help`.

Errors are those of `benchmarks.mapping_errors`, fine pixels, median / worst over scenes and seeds: weighted
by the scene's local gradient energy, unweighted, and (clear) weighted without what a cloud, a change or an
object hides in the guide. A run fails where the method refuses the pair or its weighted error exceeds 3 HSI
pixels; in medians and worsts a failure counts as an infinite error. Seconds: of processor, over two cores.

The CAVE scenes end at 700 nm: there `ms4` means four bands of 60 nm from 420 to 690 nm.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from time import process_time
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, map_coordinates

from benchmarks.fusion import problem_of
from benchmarks.mapping_errors import errors
from benchmarks.matchers import METHODS, Found
from benchmarks.mosaic import mirrored
from benchmarks.scenes import NAMES, load
from hsi_fuse.errors import HsiFuseError
from hsi_fuse.preset import Preset, load_preset
from hsi_fuse.problem import silent
from hsi_fuse.quality.metrics import psnr
from hsi_fuse.simulation.displace import shown_at
from hsi_fuse.simulation.simulate import MS4, PROTOCOLS, VARIANTS, Edges, ObservedPair, Protocol, observe
from hsi_fuse.solving import run_stages
from hsi_fuse.subspace import fill_nearest, interpolate

CORES = 2
SCENES = (
    *("muufl", "pavia_centre", "samson", "jasper", "abu_urban_1", "abu_beach_1"),
    *("cave_balloons", "cave_oil_painting"),
)
BASES = ("x4-rgb", "x4-ms4", "x8-rgb", "x8-ms4")
VISIBLE_MS4: Edges = ((420, 480), (490, 550), (560, 620), (630, 690))
LOST_HSI_PX = 3.0
FUSED = ("mild", "strong")
WORST_LOSS_DB = {"mild": (1.5, 0.7), "strong": (2.5, 1.2)}
"""Mean PSNR that fusion may lose to the found mapping: must, aim."""
LEAST_AUC = 0.8
OBJECTS_PX = 0.5

T, R = TypeVar("T"), TypeVar("R")
Bar = tuple[float, float]
_MILD: tuple[Bar, Bar] = (0.2, 0.5), (0.10, 0.25)
_HARD: tuple[Bar, Bar] = (0.3, 0.8), (0.15, 0.4)
BARS: dict[str, tuple[Bar, Bar]] = {
    "mild": _MILD,
    "strong": _HARD,
    "rotated85": _HARD,
    "rotated180": _HARD,
    "rotated263": _HARD,
    "off10": _MILD,
    "contrast": ((0.3, 0.6), (0.2, 0.4)),
}
"""Must and aim at x4, each the (median, worst) weighted error in fine pixels; at x8 twice that."""


@dataclass(frozen=True)
class Score:
    """One run. Errors in fine pixels: NaN where they have no meaning, infinite where the pair was refused."""

    scene: str
    protocol: str
    variant: str
    seed: int
    method: str
    weighted_px: float
    unweighted_px: float
    clear_px: float
    objects_px: float
    """Median over the visible pixels of objects."""
    auc: float
    """Of low confidence as a sign of occlusion."""
    loss_db: float
    """PSNR of the pair fused with the true mapping over that with the found one."""
    probability: float
    """Of the guide showing the place; a pair that the verdict refuses is a failure."""
    cpu_s: float
    failure: str


@dataclass(frozen=True)
class Job:
    """What to run, in words: it travels to a worker. `side`: as in `--side`."""

    scene: str
    protocol: str
    variant: str
    seed: int
    methods: tuple[str, ...]
    fuse: str | None
    side: int | None = None


def protocol_for(wavelengths_nm: NDArray[np.float64], name: str) -> Protocol:
    """The protocol, with four visible bands where the scene has no near infrared."""
    protocol = PROTOCOLS[name]
    if protocol.guide_edges_nm == MS4 and wavelengths_nm.max() < MS4[-1][0]:
        return replace(protocol, guide_edges_nm=VISIBLE_MS4)
    return protocol


def run(job: Job) -> list[Score]:
    """Simulate one pair and register it by every method."""
    truth, wavelengths_nm = load(job.scene)
    if job.side:
        rows, columns = (torch.from_numpy(mirrored(np.arange(job.side), n)) for n in truth.shape[1:])
        truth = truth[:, rows][:, :, columns]
    protocol = protocol_for(wavelengths_nm, f"{job.protocol}-{job.variant}")
    pair = observe(truth, wavelengths_nm, protocol, job.seed)
    best = math.nan
    if job.fuse and job.variant in FUSED:
        true = Found(pair.fine_to_guide[0], pair.fine_to_guide[1])
        best = fused_psnr(pair, true, load_preset(job.fuse), job.seed)
    scores = []
    for method in job.methods:
        started = process_time()
        try:
            found, failure = METHODS[method](pair), ""
        except HsiFuseError as e:
            found, failure = None, f"{type(e).__name__}: {e}"
        seconds = (process_time() - started) / CORES
        figures = dict.fromkeys(("weighted_px", "unweighted_px", "clear_px"), math.inf)
        figures |= dict.fromkeys(("objects_px", "auc", "loss_db", "probability"), math.nan)
        if found is not None:
            figures |= errors(pair, found) | {"probability": found.probability}
            if not figures["weighted_px"] <= LOST_HSI_PX * protocol.ratio:
                failure = f"lost: {figures['weighted_px']:.1f} px"
        if found is not None and not failure and job.fuse and job.variant in FUSED:
            figures["loss_db"] = best - fused_psnr(pair, found, load_preset(job.fuse), job.seed)
        named: dict[str, Any] = {**figures, "cpu_s": seconds, "failure": failure}
        scores.append(Score(job.scene, job.protocol, job.variant, job.seed, method, **named))
    return scores


def fused_psnr(pair: ObservedPair, found: Found, preset: Preset, seed: int) -> float:
    """PSNR of the pair fused blind, its guide resampled by a mapping; NaN where that is refused."""
    guide, weight = resampled(pair, found)
    aligned = replace(
        pair, guide=torch.from_numpy(guide).float(), guide_valid=torch.from_numpy(weight).float()
    )
    try:
        problem = problem_of(aligned, "blind", seed, preset)
        problem = replace(problem, position_error=found.error_px / pair.sensor.ratio)
        estimate, _ = run_stages(problem, interpolate(problem), preset, silent)
    except HsiFuseError:
        return math.nan
    return psnr(estimate.rows(0, estimate.shape[1]), pair.truth, border=pair.sensor.ratio)


def resampled(pair: ObservedPair, found: Found) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The guide on the fine grid by cubic splines (m, H, W), and its weight (H, W)."""
    valid = pair.guide_valid.numpy()
    solid = binary_erosion(valid, np.ones((3, 3)), border_value=1)  # what the spline mostly rests on
    filled = fill_nearest(pair.guide, pair.guide_valid.float()).double().numpy()
    places = np.stack([found.columns, found.rows])
    shown, _ = shown_at(solid, places)
    guide = np.stack([map_coordinates(b, places[::-1] - 0.5, order=3, mode="mirror") for b in filled])
    return guide * shown, shown.astype(float)


# --- the table ---------------------------------------------------------------------------------------------

HEAD = (
    f"{'protocol':<9}{'variant':<12}{'method':<8}{'weighted px':>16}{'unweighted':>16}{'clear':>16}"
    f"{'failed':>8}{'cpu s':>7}  {'must':<18}{'aim':<18}"
)


def line(scores: list[Score]) -> str:
    """One line of the table: all scenes and seeds of a protocol, variant and method."""
    first = scores[0]
    failed = sum(bool(s.failure) for s in scores)
    cells = [f"{first.protocol:<9}{first.variant:<12}{first.method:<8}"]
    for name in ("weighted_px", "unweighted_px", "clear_px"):
        median, worst = median_worst(scores, name)
        cells.append(f"{median:7.3f} / {worst:6.3f}")
    cells += [f"{failed:>4}/{len(scores):<3}", f"{np.mean([s.cpu_s for s in scores]):7.2f}  "]
    cells += [f"{verdict:<18}" for verdict in verdicts(scores)]
    return "".join(cells).rstrip()


def median_worst(scores: Iterable[Score], name: str) -> Bar:
    """Median and worst of an error; a failed run's is infinite."""
    values = [math.inf if s.failure else getattr(s, name) for s in scores]
    ordered = sorted(values)  # infinities do not survive the arithmetic of np.median
    middle = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return middle[0] if middle[0] == middle[1] else sum(middle) / 2, ordered[-1]


def verdicts(scores: list[Score]) -> Iterator[str]:
    """The two bars, must and aim, each with whether it holds."""
    variant, factor = scores[0].variant, PROTOCOLS[scores[0].protocol].ratio / 4
    if variant in BARS:
        median, worst = median_worst(scores, "weighted_px")
        for bar in BARS[variant]:
            most, at_worst = (factor * each for each in bar)
            yield f"{most:.2f}/{at_worst:.2f} {_held(median <= most and worst <= at_worst)}"
        return
    separated = float(np.median([0.0 if s.failure else s.auc for s in scores]))  # NaN: no confidence
    yield f"AUC {separated:.2f} {_held(separated >= LEAST_AUC)}"
    on_objects, _ = median_worst(scores, "objects_px")
    yield f"objects {on_objects:.2f} {_held(on_objects <= factor * OBJECTS_PX)}"


def _held(holds: bool) -> str:
    return "holds" if holds else "MISSED"


def losses(scores: list[Score], preset: str) -> str:
    """Mean PSNR lost to the found mapping, of the runs where both were fused."""
    first, lost = scores[0], [s.loss_db for s in scores if not math.isnan(s.loss_db)]
    mean = float(np.mean(lost)) if lost else math.nan
    held = ", ".join(f"{bar:g} {_held(mean <= bar)}" for bar in WORST_LOSS_DB[first.variant])
    left_out = f"; {len(scores) - len(lost)} failures left out" if len(lost) < len(scores) else ""
    return (
        f"{first.protocol:<9}{first.variant:<12}{first.method:<8}{preset} loses {mean:6.2f} dB"
        f" (worst {max(lost, default=math.nan):.2f}); bars {held}{left_out}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the table and, with -o, write the runs as CSV."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.registration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listed: dict[str, Any] = {"type": lambda text: text.split(",")}
    parser.add_argument("--scenes", default=list(SCENES), **listed)
    parser.add_argument("--protocols", default=["x4-ms4", "x4-rgb"], **listed, help=", ".join(BASES))
    parser.add_argument("--variants", default=list(VARIANTS), **listed, help=", ".join(VARIANTS))
    parser.add_argument("--methods", default=list(METHODS), **listed, help=", ".join(METHODS))
    parser.add_argument("--seeds", default=["0", "1", "2"], **listed)
    parser.add_argument("--fuse", metavar="PRESET", help=f"also fuse {' and '.join(FUSED)}, and compare")
    parser.add_argument(
        "--side", type=int, metavar="PX", help="mirror the scenes to so many fine pixels a side"
    )
    parser.add_argument("--workers", type=int, default=CORES, help="processes of one thread each")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each run")
    parser.add_argument("-o", "--output", help="CSV file, one line for each run")
    options = parser.parse_args(arguments)
    for given, valid in (
        (options.scenes, NAMES),
        (options.protocols, BASES),
        (options.variants, tuple(VARIANTS)),
        (options.methods, tuple(METHODS)),
    ):
        if unknown := set(given) - set(valid):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(valid)}")
    jobs = [
        Job(scene, protocol, variant, int(seed), tuple(options.methods), options.fuse, options.side)
        for protocol in options.protocols
        for variant in options.variants
        for scene in options.scenes
        for seed in options.seeds
    ]
    groups: dict[tuple[str, str, str], list[Score]] = defaultdict(list)
    for score in (s for scores in mapped(run, jobs, options.workers) for s in scores):
        groups[score.protocol, score.variant, score.method].append(score)
        if options.verbose:
            print(_told(score), flush=True)
    print(HEAD)
    for scores in groups.values():
        print(line(scores))
    if options.fuse:
        print()
        for (_, variant, _), scores in groups.items():
            if variant in FUSED:
                print(losses(scores, options.fuse))
    if options.output:
        with open(options.output, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            names = [f.name for f in fields(Score)]
            writer.writerow(names)
            writer.writerows([getattr(s, n) for n in names] for scores in groups.values() for s in scores)
    return 0


def mapped(work: Callable[[T], R], jobs: Sequence[T], workers: int) -> Iterator[R]:
    """What becomes of all jobs, in their order."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    if workers == 1:
        torch.set_num_threads(1)
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(work, jobs)


def _told(s: Score) -> str:
    name = f"{s.protocol:<9}{s.variant:<12}{s.method:<8}{s.scene:<19}{s.seed:<3}"
    figures = {"": s.weighted_px, "unweighted": s.unweighted_px, "clear": s.clear_px, "objects": s.objects_px}
    figures |= {"AUC": s.auc, "loss dB": s.loss_db, "p": s.probability, "cpu s": s.cpu_s}
    told = "  ".join(f"{k} {v:.3f}".strip() for k, v in figures.items() if not math.isnan(v))
    return f"{name}{told}  {s.failure}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
