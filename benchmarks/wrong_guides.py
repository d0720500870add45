"""Is every wrong guide refused and no right one? `python -m benchmarks.wrong_guides --help`.

Places of one size, each seen by both instruments (`x4-ms4-mild`). Wrong pairs: the HSI of each with the guide
of every other, as if written with one grid and CRS; other crops of one scene and scenes of one sensor are
among them. Right pairs: the HSI of each with its own guide, in every variant asked for. Both go through the
verdict of `hsi-fuse run`: refused where the search finds nothing or the probability is below
`align.least_probability`.

The constants of `hsi_fuse.registration.evidence` were set before these halves were drawn: on pairs of
thirteen scenes whose names were not all written down, the threshold with the cross-pairs of the registration
benchmark's eight scenes seen. None of the eight is in the second half; others of the thirteen may be. The
CAVE scenes end at 700 nm and have four visible bands.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

from benchmarks.mapping_errors import errors
from benchmarks.matchers import as_found, refused, registered
from benchmarks.registration import CORES, LOST_HSI_PX, mapped, protocol_for
from benchmarks.scenes import load
from hsi_fuse.errors import AlignmentError
from hsi_fuse.simulation.simulate import VARIANTS, ObservedPair, observe

SIDE = 95
"""Of a place, fine pixels: the smallest scene's."""
Place = tuple[str, int, int]
"""Scene, first row, first column."""
FIRST = ("muufl", "pavia_centre", "samson", "jasper", "abu_urban_1", "abu_beach_1")
SECOND = (
    *("abu_airport_2", "abu_urban_3", "abu_urban_5", "abu_beach_3"),
    *("sandiego", "indian_pines"),
)
HALVES: dict[str, tuple[Place, ...]] = {
    "first": (
        *((name, 0, 0) for name in FIRST),
        *(("cave_balloons", 16, 272), ("cave_oil_painting", 144, 144), ("cave_oil_painting", 272, 272)),
    ),
    "second": (
        *((name, 0, 0) for name in SECOND),
        *(("cave_superballs", 144, 144), ("cave_superballs", 272, 400)),
        ("cave_chart_and_stuffed_toy", 16, 144),
    ),
}
RIGHT = ("mild", "strong", "rotated85", "off10", "contrast")


@dataclass(frozen=True)
class Verdict:
    """What became of one pair.

    Attributes
    ----------
    hsi, guide : str
        Their places; one for a right pair.
    variant : str
    seed : int
    accepted : bool
    probability, information, tied : float
        NaN where the search found nothing.
    error_px : float
        Weighted error of a right pair's mapping, fine pixels.
    """

    hsi: str
    guide: str
    variant: str
    seed: int
    accepted: bool
    probability: float = math.nan
    information: float = math.nan
    tied: float = math.nan
    error_px: float = math.nan

    @property
    def right(self) -> bool:
        """Whether both show one place."""
        return self.hsi == self.guide

    @property
    def fails(self) -> bool:
        """A wrong pair that is fused, a right one that is not."""
        return self.accepted != self.right


@dataclass(frozen=True)
class Job:
    """An HSI's place, a guide's, and how the guide is displaced."""

    hsi: Place
    guide: Place
    variant: str
    seed: int


def judge(job: Job) -> Verdict:
    """Register one pair and ask for the verdict."""
    pair = seen(job.hsi, job.variant, job.seed)
    if job.guide != job.hsi:
        other = seen(job.guide, job.variant, job.seed)
        pair = replace(pair, guide=other.guide, guide_valid=other.guide_valid)
    verdict = Verdict(told(job.hsi), told(job.guide), job.variant, job.seed, accepted=False)
    try:
        found = registered(pair)
    except AlignmentError:
        return verdict
    evidence = found.evidence
    error = errors(pair, as_found(found, pair))["weighted_px"] if verdict.right else math.nan
    return replace(
        verdict,
        accepted=not refused(found),
        probability=evidence.probability,
        information=evidence.information,
        tied=evidence.tied,
        error_px=error,
    )


@cache
def seen(place: Place, variant: str, seed: int) -> ObservedPair:
    """A place as both instruments see it."""
    name, top, left = place
    truth, wavelengths_nm = load(name)
    crop = truth[:, top : top + SIDE, left : left + SIDE]
    return observe(crop, wavelengths_nm, protocol_for(wavelengths_nm, f"x4-ms4-{variant}"), seed)


def told(place: Place) -> str:
    """A place in a word."""
    name, top, left = place
    return f"{name}@{top},{left}" if top or left else name


def jobs_of(places: Sequence[Place], variants: Iterable[str], seeds: Iterable[int]) -> Iterator[Job]:
    """The wrong pairs of every ordered couple, then the right ones; wrong ones by the first seed only."""
    seeds = list(seeds)
    for hsi in places:
        yield from (Job(hsi, guide, "mild", seeds[0]) for guide in places if guide != hsi)
    for variant in variants:
        yield from (Job(place, place, variant, seed) for place in places for seed in seeds)


def summary(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Lines: of the wrong pairs, of the right ones by variant, and of each pair that failed."""
    wrong = [v for v in verdicts if not v.right]
    if wrong:
        highest = max((v.probability for v in wrong if not math.isnan(v.probability)), default=math.nan)
        count = sum(not v.accepted for v in wrong)
        yield f"wrong        refused  {count:>3} of {len(wrong):<4} highest probability {highest:.3f}"
    for variant in dict.fromkeys(v.variant for v in verdicts if v.right):
        right = [v for v in verdicts if v.right and v.variant == variant]
        lowest = min(0.0 if math.isnan(v.probability) else v.probability for v in right)
        count = sum(v.accepted for v in right)
        lost = sum(v.accepted and v.error_px > 4 * LOST_HSI_PX for v in right)
        yield (
            f"{variant:<12} accepted {count:>3} of {len(right):<4} lowest probability  {lowest:.3f}"
            f"  accepted at a wrong place {lost}"
        )
    for v in verdicts:
        if v.fails:
            yield f"  {'REFUSED' if v.right else 'ACCEPTED'} {spelt(v)}"


def spelt(v: Verdict) -> str:
    """One pair in a line."""
    figures = f"probability {v.probability:.3f}  information {v.information:.2f}  tied {v.tied:.2f}"
    error = "" if math.isnan(v.error_px) else f"  error {v.error_px:.2f} px"
    return f"{v.variant:<11} {v.seed}  {v.hsi} | {v.guide}  {figures}{error}"


def main(arguments: list[str] | None = None) -> int:
    """Print the verdicts' summary; 1 where one fails."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.wrong_guides",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listed: dict[str, Any] = {"type": lambda text: text.split(",")}
    parser.add_argument("--half", choices=list(HALVES), default="second", help="of the places")
    parser.add_argument(
        "--variants", default=list(RIGHT), **listed, help=f"of right pairs: {', '.join(VARIANTS)}"
    )
    parser.add_argument("--seeds", default=["0"], **listed)
    parser.add_argument("--workers", type=int, default=CORES, help="processes of one thread each")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each pair")
    parser.add_argument("-o", "--output", help="CSV file, one line for each pair")
    options = parser.parse_args(arguments)
    if unknown := set(options.variants) - set(VARIANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(VARIANTS)}")
    jobs = list(jobs_of(HALVES[options.half], options.variants, map(int, options.seeds)))
    verdicts = []
    for verdict in mapped(judge, jobs, options.workers):
        verdicts.append(verdict)
        if options.verbose:
            print(spelt(verdict), flush=True)
    for line in summary(verdicts):
        print(line)
    if options.output:
        with open(options.output, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Verdict)])
            writer.writeheader()
            writer.writerows(map(asdict, verdicts))
    return int(any(v.fails for v in verdicts))


if __name__ == "__main__":
    sys.exit(main())
