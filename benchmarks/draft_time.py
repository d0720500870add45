"""What `draft` costs beyond the unavoidable: `python -m benchmarks.draft_time [--side 128] [--bands 200]`.

A registered pair (a mirrored scene, protocol x4-ms4) in memory: learning the sensors, stage `map` and writing
the product, over interpolating the HSI and writing that. Both write as many values, int16 in a GeoTIFF. One
after the other, `--runs` times; processor and wall seconds are medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rasterio.transform import from_origin

from benchmarks.mosaic import Mosaic
from benchmarks.runs import problem_of
from hsi_fuse.grid import Grid
from hsi_fuse.preset import load_preset
from hsi_fuse.problem import Estimate, silent
from hsi_fuse.raster import Bands, Encoding
from hsi_fuse.simulation.simulate import find_protocol, observe
from hsi_fuse.solving import run_stages
from hsi_fuse.subspace import interpolate
from hsi_fuse.write import write_cube

BAR = 3.0
STORED = Encoding("int16", scale=1e-4, nodata=-32768.0)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Processor and wall seconds."""
    processor, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - processor, time.perf_counter() - wall


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 1 where `draft` costs more than `BAR` times the floor, by processor time."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.draft_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--side", type=int, default=128, help="HSI pixels")
    parser.add_argument("--bands", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scene", default="jasper")
    options = parser.parse_args(arguments)
    mosaic = Mosaic.of(options.scene, options.side, options.side, options.bands)
    pair = observe(
        mosaic.fine(0, options.side * mosaic.ratio), mosaic.wavelengths_nm, find_protocol("x4-ms4"), 0
    )
    preset = load_preset("draft")
    known = problem_of(pair, "true", 0, preset)
    bands = Bands(options.bands, wavelengths_nm=mosaic.wavelengths_nm, encoding=STORED)
    grid = Grid(None, from_origin(0, 0, 1, 1), *pair.truth.shape[:0:-1])
    with tempfile.TemporaryDirectory() as folder:

        def write(estimate: Estimate) -> None:
            def rows(start: int, stop: int) -> np.ndarray:
                return estimate.rows(start, stop).numpy()

            write_cube(Path(folder) / "product.tif", rows, grid, bands, overwrite=True)

        def floor() -> None:
            write(interpolate(known))

        def draft() -> None:
            problem = problem_of(pair, "blind", 0, preset)
            write(run_stages(problem, interpolate(problem), preset, silent)[0])

        def solve() -> None:
            problem = problem_of(pair, "blind", 0, preset)
            run_stages(problem, interpolate(problem), preset, silent)

        times = {name: [] for name in ("floor", "draft", "solve")}
        for _ in range(options.runs):
            for name, work in (("floor", floor), ("draft", draft), ("solve", solve)):
                times[name].append(timed(work))
    middle = {
        name: tuple(statistics.median(run[i] for run in runs) for i in (0, 1)) for name, runs in times.items()
    }
    print("| | processor s | wall s |\n|---|---|---|")
    names = ("interpolate, write", "sense, map, write", "sense, map"), ("floor", "draft", "solve")
    for shown, name in zip(*names, strict=True):
        print(f"| {shown} | {middle[name][0]:.2f} | {middle[name][1]:.2f} |")
    ratios = [middle["draft"][i] / middle["floor"][i] for i in (0, 1)]
    print(f"| ratio | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    return int(ratios[0] > BAR)


if __name__ == "__main__":
    sys.exit(main())
