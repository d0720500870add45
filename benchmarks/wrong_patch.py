"""What becomes of a cloud and of moved objects in the reference: `python -m benchmarks.wrong_patch`.

The reference of a misregistered pair gets an opaque cloud, and two pieces of it change places. The pair is
registered without a local field, then `coupled` runs, and the stage of a preset that mends. The picture has a
row for each place: truth, reference as registered (black where it was taken out), interpolation, `coupled`,
the preset. Printed is the PSNR at the place, over all bands.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.refinement import observed, registered
from benchmarks.scenes import load
from hsi_fuse.preset import load_preset
from hsi_fuse.problem import silent
from hsi_fuse.quality.metrics import psnr
from hsi_fuse.refinement.refining import Refining
from hsi_fuse.report.pictures import composite, rgb_bands, stretch_limits
from hsi_fuse.simulation.simulate import ObservedPair
from hsi_fuse.stages.coupled import Coupled
from hsi_fuse.subspace import interpolate

SIDE_PX, RIM_PX, ENLARGED = 24, 12, 3
PLACES = {
    "cloud": (0.3, 0.7),
    "moved object": (0.35, 0.3),
    "its former place": (0.7, 0.55),
    "elsewhere": (0.75, 0.8),
}
"""Middles, as shares of the sides (row, column)."""


def spoiled(pair: ObservedPair) -> ObservedPair:
    """The pair with a cloud, and with two pieces of its guide in each other's place."""
    guide = pair.guide.clone()
    height, width = guide.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    row, column = PLACES["cloud"]
    away = torch.hypot(y - row * height, x - column * width)
    cover = torch.sigmoid(SIDE_PX / 2 - away)
    guide = guide * (1 - cover) + 0.9 * guide.amax((1, 2), keepdim=True) * cover
    one, other = (window(guide.shape, PLACES[name], 0) for name in ("moved object", "its former place"))
    guide[:, *one], guide[:, *other] = guide[:, *other].clone(), guide[:, *one].clone()
    return replace(pair, guide=guide * pair.guide_valid)


def window(shape: torch.Size, place: tuple[float, float], rim: int) -> tuple[slice, slice]:
    """A square of fine pixels about a place."""
    half = SIDE_PX // 2 + rim
    middles = (round(share * size) for share, size in zip(place, shape[1:], strict=True))
    rows, columns = (slice(max(m - half, 0), m + half) for m in middles)
    return rows, columns


def main(arguments: list[str] | None = None) -> None:
    """Write the picture and print the figures."""
    parser = argparse.ArgumentParser(prog="benchmarks.wrong_patch", description=__doc__)
    parser.add_argument("--scene", default="cave_oil_painting")
    parser.add_argument("--protocol", default="x4-rgb-mild")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--crop", type=int, default=160, metavar="PX")
    parser.add_argument("-o", "--output", default="wrong_patch.png")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    preset = load_preset(options.preset)
    pair = spoiled(observed(options.scene, options.protocol, 0, options.crop))
    problem = registered(pair, 0, preset)
    interpolated = interpolate(problem)
    start = Coupled()(problem, interpolated, silent).estimate
    stage = next(stage for _, stage in preset.stages if isinstance(stage, Refining))
    result = stage(problem, start, silent)
    cubes = {"interpolation": interpolated, "coupled": start, options.preset: result.estimate}
    cubes = {name: e.rows(0, e.shape[1]) for name, e in cubes.items()}
    print(", ".join(f"{name}: {told}" for name, told in result.verdict.items()))
    for place, middle in PLACES.items():
        there = window(pair.truth.shape, middle, 0)
        lost = float((problem.guide_weight[there] == 0).float().mean())
        figures = ", ".join(f"{n} {psnr(c[:, *there], pair.truth[:, *there]):.2f}" for n, c in cubes.items())
        print(f"{place}: {figures} dB; {lost:.0%} of the reference taken out")
    bands = rgb_bands(len(pair.truth), load(options.scene)[1].tolist())
    shown = [pair.truth[list(bands)], problem.guide.flip(0), *(c[list(bands)] for c in cubes.values())]
    picture(shown, pair.truth.shape).save(options.output, optimize=True)


def picture(images: list[Tensor], shape: torch.Size) -> Image.Image:
    """Every place of every image (3, H, W); the guide has a stretch of its own."""
    everywhere = np.ones(shape[1:], bool)
    seen: list[NDArray[np.uint8]] = []
    limits = [stretch_limits(image.numpy(), everywhere) for image in images[:2]]
    for i, image in enumerate(images):
        seen.append(composite(image.numpy(), limits[i == 1], everywhere))
    gap = 2
    rows = []
    for middle in PLACES.values():
        there = window(shape, middle, RIM_PX)
        parts = [np.pad(image[there], ((0, gap), (0, gap), (0, 0)), constant_values=255) for image in seen]
        rows.append(np.concatenate(parts, 1))
    whole = np.concatenate(rows, 0)
    return Image.fromarray(whole).resize((whole.shape[1] * ENLARGED, whole.shape[0] * ENLARGED), 0)


if __name__ == "__main__":
    main()
