"""Is the verdict right? `python -m benchmarks.sabotage [-h]`.

Good runs and spoilt ones: every sabotage must turn a light, no good run may. A pair is simulated and solved
blind as in `benchmarks.runs`.

What is spoilt in the problem (`IN_PROBLEM`) is judged twice: by an assessment that believes it, as within a
run, and by one with the right problem, as `hsi-fuse assess` judges a product of another tool (`..., judged
afresh`: there a product may be nearly as good as one made rightly, so that a miss is told apart). What is
spoilt in the product (`IN_PRODUCT`) is the same for both.
The limits of `AssessOptions` were fixed on `CHOSEN_ON` and three real pairs (`benchmarks.real_pairs`);
`READ_FIRST` and `READ_ON` are the scenes to report. Beside each line stands what the sabotage cost: the PSNR
of the good run minus its own. Where that is nothing, nothing was spoilt: a panchromatic reference as wide as
the spectrum hardly changes when its response is moved.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.runs import Job, pair_of, problem_of
from benchmarks.scenes import load
from hsi_fuse.errors import HsiFuseError
from hsi_fuse.physics import gaussian_psf
from hsi_fuse.preset import load_preset
from hsi_fuse.problem import Cube, Estimate, Problem, silent
from hsi_fuse.quality.assess import Quality, Solver, assess
from hsi_fuse.quality.cube import StreamedCube
from hsi_fuse.quality.metrics import psnr
from hsi_fuse.simulation.simulate import ObservedPair, find_protocol, observe
from hsi_fuse.solving import run_stages
from hsi_fuse.subspace import interpolate

CHOSEN_ON = (
    *("muufl", "jasper", "abu_urban_1", "hydice", "abu_beach_1", "abu_airport_3"),
    *("pavia_centre", "samson", "sandiego", "abu_airport_2", "enmap", "indian_pines"),
)
CROP_PX = 160
"""Side of a part of a scene; NAME+ROW+COLUMN is where it starts."""
CAVE = ("cave_balloons", "cave_chart_and_stuffed_toy", "cave_oil_painting", "cave_superballs")
READ_FIRST = (
    *("abu_airport_4", "abu_beach_2", "abu_beach_3", "abu_urban_3", "abu_urban_5"),
    *(f"{scene}+{corner}" for scene in CAVE for corner in ("176+80", "176+272", "8+176")),
)
"""Misses among these changed what `bands` and `sharpness` measure and the limits of `response` and
`bands`; for these lights they choose too. For `response` and the parts of `radiometry` all were in sight,
`READ_ON` too, with further crops: docs/benchmarks.md has those that were not."""
READ_ON = tuple(f"{scene}+{corner}" for scene in CAVE for corner in ("344+176", "8+344", "344+8"))
AFRESH = ", judged afresh"
PROTOCOLS = ("x4-ms4", "x4-rgb")


# --- what is spoilt in the problem: solved with it --------------------------------------------------------


def wrong_srf(problem: Problem) -> Problem:
    """Each response moved by a tenth of the bands, gain and offset fitted again."""
    move = max(2, problem.hsi.shape[0] // 10)
    srf = torch.zeros_like(problem.sensor.srf)
    srf[:, move:] = problem.sensor.srf[:, :-move]
    spectra = problem.hsi[:, problem.hsi_weight > 0]
    ours, right = srf @ spectra, problem.sensor.srf @ spectra + problem.sensor.offset[:, None]
    mean, goal = ours.mean(1, keepdim=True), right.mean(1, keepdim=True)
    slope = ((ours - mean) * (right - goal)).sum(1) / ((ours - mean) ** 2).sum(1).clamp_min(1e-30)
    gain = slope.clamp_min(0)
    offset = goal[:, 0] - gain * mean[:, 0]
    return replace(problem, sensor=replace(problem.sensor, srf=gain[:, None] * srf, offset=offset))


def wrong_psf(problem: Problem) -> Problem:
    """A PSF of half the width."""
    narrow = gaussian_psf(problem.ratio, *(0.5 * f for f in problem.sensor.psf_fwhm)).to(problem.sensor.psf)
    return replace(problem, sensor=replace(problem.sensor, psf=narrow))


def wide_psf(problem: Problem) -> Problem:
    """A PSF of 1.8 times the width."""
    wide = gaussian_psf(problem.ratio, *(1.8 * f for f in problem.sensor.psf_fwhm)).to(problem.sensor.psf)
    return replace(problem, sensor=replace(problem.sensor, psf=wide))


def shifted(problem: Problem) -> Problem:
    """The reference moved by 2 pixels (1.4 both ways would be less clear on a grid)."""
    moved = problem.guide.roll(2, 2)
    moved[:, :, :2] = problem.guide[:, :, :1]
    return replace(problem, guide=moved)


def elsewhere(problem: Problem) -> Problem:
    """The reference of another place: its own turned upside down."""
    return replace(problem, guide=problem.guide.flip(1, 2))


# --- what is spoilt in the product ------------------------------------------------------------------------


def scaled(problem: Problem, cube: Cube) -> Cube:
    """All values times 1.1."""
    return StreamedCube.of(cube.shape, lambda a, b: 1.1 * cube.rows(a, b))


def seamed(problem: Problem, cube: Cube) -> Cube:
    """A gain 3 % higher from a column in the middle on."""

    def rows(start: int, stop: int) -> Tensor:
        block = cube.rows(start, stop).clone()
        block[:, :, block.shape[2] // 2 + 1 :] *= 1.03
        return block

    return StreamedCube.of(cube.shape, rows)


def noisy(problem: Problem, cube: Cube) -> Cube:
    """White noise, twice that of the input."""

    def rows(start: int, stop: int) -> Tensor:
        lines = []
        for row in range(start, stop):  # the same row comes out the same in any block
            draw = torch.Generator().manual_seed(row)
            lines.append(torch.randn(cube.shape[0], cube.shape[2], generator=draw))
        return cube.rows(start, stop) + 2 * problem.hsi_noise[:, None, None] * torch.stack(lines, 1)

    return StreamedCube.of(cube.shape, rows)


def swapped(problem: Problem, cube: Cube) -> Cube:
    """Two bands, a third of the spectrum apart, in each other's place."""
    order = torch.arange(cube.shape[0])
    a, b = len(order) // 3, 2 * len(order) // 3
    order[a], order[b] = b, a
    return StreamedCube.of(cube.shape, lambda start, stop: cube.rows(start, stop)[order])


def sharpened(problem: Problem, cube: Cube) -> Cube:
    """Unsharp masking: half of what is finer than an input pixel once more."""
    whole = cube.rows(0, cube.shape[1])
    size = 2 * problem.ratio + 1
    soft = F.avg_pool2d(F.pad(whole[None], (problem.ratio,) * 4, mode="replicate"), size, stride=1)[0]
    made = whole + 0.5 * (whole - soft)
    return StreamedCube.of(cube.shape, lambda start, stop: made[:, start:stop])


def moved(problem: Problem, cube: Cube) -> Cube:
    """The product itself 2 pixels beside its place."""
    return StreamedCube.of(cube.shape, lambda start, stop: cube.rows(start, stop).roll(2, 2))


IN_PROBLEM: dict[str, Callable[[Problem], Problem]] = {
    "wrong SRF": wrong_srf,
    "narrow PSF": wrong_psf,
    "wide PSF": wide_psf,
    "reference 2 px off": shifted,
    "wrong place": elsewhere,
}
IN_PRODUCT: dict[str, Callable[[Problem, Cube], Cube]] = {
    "times 1.1": scaled,
    "seam": seamed,
    "noise": noisy,
    "bands swapped": swapped,
    "sharpened": sharpened,
    "product 2 px off": moved,
}


@dataclass(frozen=True)
class Judged:
    """One run, its lights by name: (colour, figure), and the PSNR lost against the good run."""

    scene: str
    protocol: str
    what: str
    lights: dict[str, tuple[str, float | None]]
    lost_db: float = math.nan

    @property
    def turned(self) -> list[str]:
        """The lights that are amber or red."""
        return [name for name, (colour, _) in self.lights.items() if colour in ("amber", "red")]


def observed(scene: str, protocol: str) -> ObservedPair:
    """A scene, or the part of it that its name tells, as the protocol observes it."""
    name, *corner = scene.split("+")
    if not corner:
        return pair_of(Job(scene, protocol, "", "blind", 0))
    truth, wavelengths_nm = load(name)
    row, column = (slice(int(start), int(start) + CROP_PX) for start in corner)
    return observe(truth[:, row, column], wavelengths_nm, find_protocol(protocol))


def judged_runs(scene: str, protocol: str, method: str = "draft") -> Iterator[Judged]:
    """The good run of a pair, then every sabotage."""
    preset = load_preset(method)
    pair = observed(scene, protocol)
    problem = problem_of(pair, "blind", 0, preset)

    def psnr_of(cube: Cube) -> float:
        return psnr(cube.rows(0, cube.shape[1]), pair.truth, border=pair.sensor.ratio)

    def solve(each: Problem) -> Estimate:
        return run_stages(each, interpolate(each), preset, silent)[0]

    solvers: dict[str, Solver] = {"product": solve, "interpolation": interpolate}
    good = solve(problem)
    best = psnr_of(good)

    def judge(what: str, problem: Problem, cube: Cube, solvers: dict[str, Solver]) -> Judged:
        quality: Quality = assess(
            problem, cube, interpolate(problem), solvers=solvers, registration={"rrmse_px": 0.1}
        )
        lights = {e["name"]: (e["light"], e["value"]) for e in quality.figures["verdict"]["lights"]}
        return Judged(scene, protocol, what, lights, best - psnr_of(cube))

    yield judge("good", problem, good, solvers)
    for what, spoil in IN_PROBLEM.items():
        bad = spoil(problem)
        try:
            estimate = solve(bad)
        except (HsiFuseError, RuntimeError) as error:  # nobody is misled by a run that ends in an error
            yield Judged(scene, protocol, f"{what}: {type(error).__name__}", {"failed": ("red", None)})
            continue
        yield judge(what, bad, estimate, solvers)
        yield judge(what + AFRESH, problem, estimate, {})
    for what, change in IN_PRODUCT.items():
        yield judge(what, problem, change(problem, good), {})


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each run; the exit code counts the wrong ones."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sabotage", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--scenes", nargs="+", default=[*READ_FIRST, *READ_ON], metavar="SCENE")
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), metavar="PROTOCOL")
    parser.add_argument("--method", default="draft", metavar="PRESET")
    parser.add_argument("-o", "--output", help="CSV of all figures")
    given = parser.parse_args(arguments)
    table, wrong, missed = [], 0, 0
    for scene in given.scenes:
        for protocol in given.protocols:
            try:
                runs = list(judged_runs(scene, protocol, given.method))
            except HsiFuseError as error:  # the protocol asks for wavelengths that the scene does not have
                print(f"       {scene:18} {protocol:8} not observed: {error}", flush=True)
                continue
            for run in runs:
                failed = bool(run.turned) == (run.what == "good")
                other = run.what.endswith(AFRESH)
                wrong += failed and not other
                missed += failed and other
                named = [f"{name} {run.lights[name][1]}" for name in run.turned]
                told = f"{scene:18} {protocol:8} {run.what:34} {-run.lost_db:+7.2f} dB  {', '.join(named)}"
                print("      " if not failed else "missed" if other else "WRONG ", told, flush=True)
                table.append(run)
    if given.output:
        names = list(table[0].lights)
        with open(given.output, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["scene", "protocol", "what", "lost_db", *names])
            writer.writerows(
                [r.scene, r.protocol, r.what, r.lost_db, *(r.lights.get(n, ("", None))[1] for n in names)]
                for r in table
            )
    print(f"{wrong} of {len(table)} wrong; {missed} bad products missed that were judged afresh")
    return min(wrong, 125)


if __name__ == "__main__":
    sys.exit(main())
