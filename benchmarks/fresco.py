"""Partial overlap, against truth: `python -m benchmarks.fresco --help`, `make benchmark-fresco`.

Rows of tables as docs/benchmarks.md has them: PSNR (dB) / SAM (deg) / SSIM within and outside of the overlap.
Part `unaligned`: the guide made hyperspectral without registration, on its own grid, by seed; responses
guessed, matched, and true. Part `aligned`: the product carried on over the guide's footprint, on the HSI's
fine grid, beside a linear regression of each band from what the HSI's sensor sees of the guide; the true
mapping is given, the sensors are learned. "As sampled": PSNR outside against the truth as the guide's pixels,
brought to that grid, show it at best, so that what resampling takes does not count. Part `sharp`: the HSI
where the guide does not reach, by `fresco`, by the registered product as it is, and by interpolation; g is
the distance of gradient magnitudes (`overlap.texture.gradient_distance`) in terms of interpolation's. Part
`shared`: one translator for all materials against one for each, without examples. No scene is square. Seconds
are of processor, over two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import cKDTree
from torch import Tensor

from benchmarks.registration import Found, resampled
from benchmarks.runs import problem_of
from benchmarks.scenes import load
from hsi_fuse.overlap.extend import extend
from hsi_fuse.overlap.populations import guess_responses
from hsi_fuse.overlap.texture import gradient_distance
from hsi_fuse.overlap.unregistered import unmix_unregistered
from hsi_fuse.physics import blur_down, gaussian_psf
from hsi_fuse.preset import load_preset
from hsi_fuse.problem import Estimate, NativeGuide, Problem, silent
from hsi_fuse.quality.metrics import psnr, sam_deg, ssim
from hsi_fuse.sensors.sense import supported
from hsi_fuse.simulation.simulate import (
    ObservedPair,
    Protocol,
    find_protocol,
    guide_truth,
    observe,
    window_of,
)
from hsi_fuse.solving import run_stages
from hsi_fuse.stages.fresco import Fresco
from hsi_fuse.subspace import fill_nearest, interpolate

CORES = 2
SCENES = ("muufl", "pavia_centre", "jasper", "hydice", "samson", "abu_urban_1", "sandiego")
PARTS = ("unaligned", "aligned", "sharp", "shared")
NARROWER = 0.94
"""Share of a square scene's columns that is kept."""
QUICK = 400
"""Steps of a translator in part `shared`."""


def scene_of(name: str) -> tuple[Tensor, NDArray[np.float64]]:
    """A scene that is not square, 0..1, and its wavelengths (nm)."""
    cube, wavelengths_nm = load(name)
    if cube.shape[1] == cube.shape[2]:
        cube = cube[:, :, : round(NARROWER * cube.shape[2])]
    cube = cube.float().clamp(min=0)
    return cube / cube.max(), wavelengths_nm


def row(scene: str, what: str, within: str = "", outside: str = "", note: str = "") -> str:
    """A line of the table."""
    return f"| {scene} | {what} | {within} | {outside} | {note} |"


def unaligned(scene: str, protocol: Protocol, seeds: int) -> Iterator[str]:
    """The guide's own product, by seed of the method."""
    truth, wavelengths_nm = scene_of(scene)
    pair = observe(truth, wavelengths_nm, protocol)
    there = guide_truth(truth, wavelengths_nm, protocol)
    weight = pair.guide_valid.float()
    ratio = pair.sensor.ratio
    guide = fill_nearest(pair.guide, weight)
    low, inside = NativeGuide(guide, weight).degraded(gaussian_psf(ratio, float(ratio)), ratio)
    flat = pair.hsi.flatten(1)
    guessed = guess_responses(flat, low[:, inside > 0], wavelengths_nm)
    blind = guess_responses(flat, low[:, inside > 0], None)
    for name, srf, count in (
        (guessed.kind, guessed.srf, seeds),
        (blind.kind, blind.srf, 1),
        ("true", pair.sensor.srf, 1),
    ):
        found, lines = [], []
        for seed in range(count):
            started = time.process_time()
            made = unmix_unregistered(pair.hsi, torch.ones(pair.hsi.shape[1:]), guide, weight, srf, seed=seed)
            cube = made.estimate.rows(0, guide.shape[1])
            seconds = (time.process_time() - started) / CORES
            found.append(psnr(cube, there.cube, pair.guide_valid))
            if not lines:
                within, outside = there.within, pair.guide_valid & ~there.within
                lines = [told(cube, there.cube, within), told(cube, there.cube, outside)]
                lines += [f"{seconds:.1f} s"]
        if count > 1:
            lines[2] += (
                f"; {count} seeds, all of the guide: worst {min(found):.2f} dB, "
                f"spread {max(found) - min(found):.2f} dB"
            )
        yield row(scene, f"M unaligned, responses {name}", *lines)


def aligned(scene: str, protocol: Protocol, preset: str) -> tuple[ObservedPair, Problem, Estimate, list[str]]:
    """The registered product within the overlap and carried on beyond it."""
    cube, wavelengths_nm = scene_of(scene)
    pair = observe(cube, wavelengths_nm, protocol)
    chosen = load_preset(preset)
    started = time.process_time()
    guide, weight = resampled(pair, Found(pair.fine_to_guide[0], pair.fine_to_guide[1]))
    placed = ObservedPair(
        **{
            **vars(pair),
            "guide": torch.from_numpy(guide).float(),
            "guide_valid": torch.from_numpy(weight).float(),
        }
    )
    problem = problem_of(placed, "blind", 0, chosen)
    product, _ = run_stages(problem, interpolate(problem), chosen, silent)
    seconds = (time.process_time() - started) / CORES
    top, left, height, width = window_of(protocol, cube.shape[1:])
    seen = guide_truth(cube, wavelengths_nm, protocol)
    places = Found(*beyond(seen.places, (top, left), cube.shape[1:]))
    wide, there = (torch.from_numpy(each).float() for each in resampled(pair, places))
    sampled, _ = resampled(ObservedPair(**{**vars(pair), "guide": seen.cube}), places)
    best = torch.from_numpy(sampled).float()
    started = time.process_time()
    carried = extend(problem, product, wide, there, (top, left), everywhere=False)
    more = (time.process_time() - started) / CORES
    own = torch.zeros_like(carried.valid)
    own[top : top + height, left : left + width] = True
    within, outside = carried.valid & own, carried.valid & ~own
    shown = problem.guide_weight > 0
    lines = [
        row(
            scene,
            what,
            told(image, cube, within),
            told(image, cube, outside),
            f"{psnr(image, best, outside):.2f} as sampled{note}",
        )
        for what, image, note in (
            (
                "M aligned",
                carried.estimate.rows(0, cube.shape[1]),
                f"; {more:.1f} s, refused {carried.figures['refused_pct']:.1f} %",
            ),
            ("linear regression", linear(problem, wide), ""),
        )
    ]
    lines += [
        row(scene, preset, told(product.rows(0, height), pair.truth, shown), note=f"{seconds:.1f} s"),
        row(scene, "interpolation", told(interpolate(problem).rows(0, height), pair.truth, shown)),
    ]
    return pair, problem, product, lines


def beyond(
    places: NDArray[np.float64], origin: tuple[int, int], shape: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the pixels of the whole cube lie in the guide: (columns, rows); off it where it shows them not.

    Parameters
    ----------
    places : ndarray (2, H, W)
        Where each of the guide's pixels lies on the fine grid.
    origin : (int, int)
        Row and column of the fine grid's first pixel in the cube.
    shape : sequence of int
        Of the cube.
    """
    rows, columns = np.mgrid[: places.shape[1], : places.shape[2]] + 0.5
    known = places.reshape(2, -1).T
    own = np.stack([columns.ravel(), rows.ravel()], 1)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    asked = np.stack([x.ravel() - origin[1], y.ravel() - origin[0]], 1)
    design, wanted = (np.hstack([each, np.ones((len(each), 1))]) for each in (known, asked))
    affine = np.linalg.lstsq(design, own, rcond=None)[0]
    local = own - design @ affine
    apart, nearest = cKDTree(known).query(asked)
    # off the guide, and where its outline is hollow, there is nothing to interpolate between
    rest = LinearNDInterpolator(known, local)(asked)
    rest = np.where((apart < 1)[:, None] & np.isfinite(rest), rest, local[nearest])
    there = (wanted @ affine + rest).reshape(*shape, 2)
    return there[..., 0], there[..., 1]


def linear(problem: Problem, guide: Tensor) -> Tensor:
    """Each HSI band regressed on the guide seen by the HSI's sensor, applied to a guide (m, H, W)."""
    support = supported(problem.guide_weight, problem.hsi_weight, problem.sensor.psf, problem.ratio)
    low = blur_down(problem.guide, problem.sensor.psf, problem.ratio)[:, support]
    design = torch.cat([low, torch.ones_like(low[:1])]).double()
    slopes = torch.linalg.lstsq(design.T, problem.hsi[:, support].double().T).solution.T
    return torch.tensordot(slopes, torch.cat([guide, torch.ones_like(guide[:1])]).double(), dims=1).float()


def sharp(scene: str, pair: ObservedPair, problem: Problem, product: Estimate) -> Iterator[str]:
    """The HSI where the guide does not reach."""
    started = time.process_time()
    result = Fresco()(problem, product, silent)
    seconds = (time.process_time() - started) / CORES
    shown, height = problem.guide_weight > 0, pair.truth.shape[1]
    before, plain = product.rows(0, height), interpolate(problem).rows(0, height)
    found = result.estimate.rows(0, height)
    first = gradient_distance(plain, pair.truth, ~shown)
    figures = {k: v for k, v in result.verdict.items() if isinstance(v, float)}
    said = ", ".join(f"{k} {v:.2f}" for k, v in figures.items())
    changed = float((found - before).abs()[:, shown].max())
    for what, cube, note in (
        ("H interpolation", plain, ""),
        ("H before", before, ""),
        (
            "H fresco",
            found,
            f"; kept {result.verdict['kept']} ({said}), changed within {changed:g}, {seconds:.0f} s",
        ),
    ):
        distance = gradient_distance(cube, pair.truth, ~shown)
        note = f"g {distance:.3f}, {distance / first:.2f} of interpolation's{note}"
        yield row(scene, what, told(cube, pair.truth, shown), told(cube, pair.truth, ~shown), note)


def shared(scene: str, pair: ObservedPair, problem: Problem, product: Estimate) -> Iterator[str]:
    """One translator for all materials, and one for each."""
    hidden, height = problem.guide_weight == 0, pair.truth.shape[1]
    plain = gradient_distance(interpolate(problem).rows(0, height), pair.truth, hidden)
    for what, one in (("one translator", True), ("a translator each", False)):
        result = Fresco(steps=QUICK, seeds=1, shared=one, examples=False)(problem, product, silent)
        cube = result.estimate.rows(0, height)
        ratio = gradient_distance(cube, pair.truth, hidden) / plain
        said = {k: round(v, 2) for k, v in result.verdict.items() if isinstance(v, float)}
        note = f"{ratio:.2f} of interpolation's g; kept {result.verdict['kept']}, held out {said}"
        yield row(scene, f"H, {what}, {QUICK} steps", "", told(cube, pair.truth, hidden), note)


def told(cube: Tensor, truth: Tensor, mask: Tensor) -> str:
    """PSNR / SAM / SSIM."""
    angle = sam_deg(cube, truth, mask).mean
    return f"{psnr(cube, truth, mask):.2f} / {angle:.2f} / {ssim(cube, truth, mask):.3f}"


def lines_of(scene: str, protocol: Protocol, given: argparse.Namespace) -> Iterator[str]:
    """What was asked for of a scene."""
    if "unaligned" in given.parts:
        yield from unaligned(scene, protocol, given.seeds)
    if given.parts == ["unaligned"]:
        return
    pair, problem, product, lines = aligned(scene, protocol, given.preset)
    if "aligned" in given.parts:
        yield from lines
    if "sharp" in given.parts:
        yield from sharp(scene, pair, problem, product)
    if "shared" in given.parts:
        yield from shared(scene, pair, problem, product)


def main(arguments: list[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fresco",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenes", nargs="+", default=list(SCENES))
    parser.add_argument("--protocol", default="fresco")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS[:3]))
    parser.add_argument("--preset", default="fast", help="of the registered product  [default: fast]")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    protocol = find_protocol(given.protocol)
    print(f"Protocol {protocol.name}, registered products by `{given.preset}`\n")
    print("| scene | | within the overlap | outside | |\n|---|---|---|---|---|", flush=True)
    for scene in given.scenes:
        for line in lines_of(scene, protocol, given):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
