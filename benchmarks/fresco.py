"""Partial overlap, against truth: `python -m benchmarks.fresco --help`.

Part `unaligned`: the guide made hyperspectral without registration, on its own grid, by seed; responses
guessed, matched, and true. Part `aligned`: the product carried on over the guide's footprint, on the HSI's
fine grid, beside a linear regression of each band from what the HSI's sensor sees of the guide; the true
mapping is given, the sensors are learned. Part `sharp`: the HSI where the guide does not reach, by `fresco`
and by interpolation; g is the distance of gradient magnitudes (`stages.fresco.gradient_distance`). Figures:
PSNR (dB) / SAM (deg) / SSIM, within and outside of the overlap. Seconds are of processor, over two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.registration import Found, resampled
from benchmarks.runs import problem_of
from benchmarks.scenes import load
from hsi_fuse.overlap.extend import extend
from hsi_fuse.overlap.populations import guess_responses
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
from hsi_fuse.stages.fresco import Fresco, gradient_distance
from hsi_fuse.subspace import fill_nearest, interpolate

CORES = 2
SCENES = ("muufl", "pavia_centre", "jasper", "hydice", "samson", "abu_urban_1", "sandiego")
PARTS = ("unaligned", "aligned", "sharp")


def unaligned(scene: str, protocol: Protocol, seeds: int) -> Iterator[str]:
    """The guide's own product, by seed of the method."""
    truth, wavelengths_nm = load(scene)
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
        found = []
        for seed in range(count):
            started = time.process_time()
            made = unmix_unregistered(pair.hsi, torch.ones(pair.hsi.shape[1:]), guide, weight, srf, seed=seed)
            cube = made.estimate.rows(0, guide.shape[1])
            seconds = (time.process_time() - started) / CORES
            found.append(psnr(cube, there.cube, pair.guide_valid))
            within, outside = there.within, pair.guide_valid & ~there.within
            if seed == 0:
                yield (
                    f"M unaligned, {name:8} within {told(cube, there.cube, within)}  outside "
                    f"{told(cube, there.cube, outside)}  {seconds:5.1f} s"
                )
        if count > 1:
            yield (
                f"M unaligned, {name:8} {count} seeds, all of the guide: worst {min(found):.2f} dB, "
                f"spread {max(found) - min(found):.2f} dB"
            )


def aligned(scene: str, protocol: Protocol, preset: str) -> tuple[ObservedPair, Problem, Estimate, list[str]]:
    """The registered product within the overlap and carried on beyond it."""
    truth, wavelengths_nm = load(scene)
    pair = observe(truth, wavelengths_nm, protocol)
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
    top, left, height, width = window_of(protocol, truth.shape[1:])
    cube = truth.float().clamp(min=0)
    cube = cube / cube.max()
    places = beyond(pair, (top, left), (cube.shape[1], cube.shape[2]))
    wide, there = (torch.from_numpy(each).float() for each in resampled(pair, Found(*places)))
    started = time.process_time()
    carried = extend(problem, product, wide, there, (top, left), everywhere=False)
    more = (time.process_time() - started) / CORES
    own = torch.zeros_like(carried.valid)
    own[top : top + height, left : left + width] = True
    found, straight = carried.estimate.rows(0, cube.shape[1]), linear(problem, wide)
    lines = [
        f"M aligned             within {told(found, cube, carried.valid & own)}  outside "
        f"{told(found, cube, carried.valid & ~own)}  {more:5.1f} s"
        f"  refused {carried.figures['refused_pct']:.1f} %",
        f"  linear regression   within {told(straight, cube, carried.valid & own)}  outside "
        f"{told(straight, cube, carried.valid & ~own)}",
        f"  {preset:18}  within {told(product.rows(0, height), pair.truth, problem.guide_weight > 0)}"
        f"{'':41}{seconds:5.1f} s",
        f"  interpolation       within "
        f"{told(interpolate(problem).rows(0, height), pair.truth, problem.guide_weight > 0)}",
    ]
    return pair, problem, product, lines


def beyond(
    pair: ObservedPair, origin: tuple[int, int], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of the whole cube lie in the guide, by the affine that carries on the true mapping.

    Exact where the protocol displaces nothing locally.
    """
    height, width = pair.truth.shape[1:]
    y, x = np.mgrid[:height, :width] + 0.5
    design = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], 1)
    affine = np.linalg.lstsq(design, pair.fine_to_guide.reshape(2, -1).T, rcond=None)[0]
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    places = np.stack([x - origin[1], y - origin[0], np.ones_like(x)], -1) @ affine
    return places[..., 0], places[..., 1]


def linear(problem: Problem, guide: Tensor) -> Tensor:
    """Each HSI band regressed on the guide seen by the HSI's sensor, applied to a guide (m, H, W)."""
    support = supported(problem.guide_weight, problem.hsi_weight, problem.sensor.psf, problem.ratio)
    low = blur_down(problem.guide, problem.sensor.psf, problem.ratio)[:, support]
    design = torch.cat([low, torch.ones_like(low[:1])]).double()
    slopes = torch.linalg.lstsq(design.T, problem.hsi[:, support].double().T).solution.T
    return torch.tensordot(slopes, torch.cat([guide, torch.ones_like(guide[:1])]).double(), dims=1).float()


def sharp(pair: ObservedPair, problem: Problem, product: Estimate) -> Iterator[str]:
    """The HSI where the guide does not reach."""
    started = time.process_time()
    result = Fresco()(problem, product, silent)
    seconds = (time.process_time() - started) / CORES
    there, height = problem.guide_weight == 0, pair.truth.shape[1]
    plain = interpolate(problem)
    for name, estimate in (("interpolation", plain), ("before", product), ("fresco", result.estimate)):
        cube = estimate.rows(0, height)
        told_of = f"H {name:15} outside {told(cube, pair.truth, there)}"
        distance = gradient_distance(cube, pair.truth, there)
        changed = float((cube - product.rows(0, height)).abs()[:, ~there].max())
        yield f"{told_of}  g {distance:.3f}" + (
            f"  {seconds:5.1f} s  kept {result.verdict['kept']}  changed inside {changed:g}"
            if name == "fresco"
            else ""
        )


def told(cube: Tensor, truth: Tensor, mask: Tensor) -> str:
    """PSNR / SAM / SSIM."""
    angle = sam_deg(cube, truth, mask).mean
    return f"{psnr(cube, truth, mask):6.2f} / {angle:5.2f} / {ssim(cube, truth, mask):.3f}"


def main(arguments: list[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fresco",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenes", nargs="+", default=list(SCENES))
    parser.add_argument("--protocol", default="fresco")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--preset", default="fast", help="of the registered product  [default: fast]")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    protocol = find_protocol(given.protocol)
    for scene in given.scenes:
        print(scene, flush=True)
        if "unaligned" in given.parts:
            for line in unaligned(scene, protocol, given.seeds):
                print(" ", line, flush=True)
        if {"aligned", "sharp"} & set(given.parts):
            pair, problem, product, lines = aligned(scene, protocol, given.preset)
            for line in lines if "aligned" in given.parts else []:
                print(" ", line, flush=True)
            for line in sharp(pair, problem, product) if "sharp" in given.parts else []:
                print(" ", line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
