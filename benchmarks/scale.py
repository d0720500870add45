"""Time, memory and seams of runs on scenes of growing size: `python -m benchmarks.scale --help`.

Each scene is a mirrored real one with noise (`mosaic`) beside a misregistered guide of four bands at x4. The
floor is measured in the same run: both inputs read, and the product's own pixels written by rasterio (DEFLATE
level 6, predictor 2, two threads). Ratios are told by wall and by processor time: on a busy machine the
second says more. With `--whole` each scene is run in one block too, and the difference told.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from benchmarks.mosaic import Mosaic, save_mosaic
from hsi_fuse.blocks import Memory, layout

DEFLATE = {"compress": "deflate", "zlevel": 6, "predictor": 2, "num_threads": 2}
ROWS = 64
EVERY = 10
"""Of the bands in which steps are looked at, one in so many."""
NO_LIMIT_GIB = 1024.0
ASKED_EVERY_S = 0.1
WHOLE = (
    "import sys, hsi_fuse.blocks; hsi_fuse.blocks.BLOCK_PX = 1 << 30; "
    "from hsi_fuse.cli.app import main; sys.exit(main(sys.argv[1:]))"
)
"""The program with one block, however large: without a limit of memory it would still take several."""


@dataclass(frozen=True)
class Spent:
    """What a run took."""

    wall_s: float
    cpu_s: float
    peak_gib: float
    """Resident, mapped files included."""
    own_gib: float
    """Of that the process's own, which the system cannot take back, as often as it was asked."""


def run(
    hsi: Path, guide: Path, output: Path, preset: str, limit_gib: float, threads: int, whole: bool = False
) -> Spent:
    """One run in a process of its own, as a user starts it; or in one block."""
    program = ["-c", WHOLE] if whole else ["-m", "hsi_fuse.cli"]
    command = [sys.executable, *program, "run", str(hsi), str(guide), "-o", str(output)]
    command += ["--preset", preset, "--overwrite", "-q", "--threads", str(threads)]
    started = time.perf_counter()
    child = subprocess.Popen([*command, "--max-memory", f"{limit_gib}G"])
    own = 0.0
    while True:
        done, status, used = os.wait4(child.pid, os.WNOHANG)
        if done:
            break
        own = max(own, own_gib(child.pid))
        time.sleep(ASKED_EVERY_S)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    peak = used.ru_maxrss / 2**20
    return Spent(time.perf_counter() - started, used.ru_utime + used.ru_stime, peak, own)


def own_gib(process: int) -> float:
    """Memory of a process that no file stands behind; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 2**20


def now() -> NDArray[np.float64]:
    """Wall and processor seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def floor_s(inputs: tuple[Path, ...], product: Path, copy: Path) -> tuple[float, float, float]:
    """Wall and processor seconds to read the inputs and write the product's pixels; MB of values a second."""
    seconds, size = np.zeros(2), 0
    for path in inputs:
        started = now()
        with rasterio.open(path) as file:
            size += file.read().nbytes
        seconds += now() - started
    with rasterio.open(product) as file:
        profile = {**file.profile, **DEFLATE}
        with rasterio.open(copy, "w", **profile) as out:
            for window, strip in _strips(file, 256):
                started = now()
                out.write(strip, window=window)
                seconds, size = seconds + now() - started, size + strip.nbytes
            started = now()
        seconds += now() - started  # the last tiles are written when it closes
    copy.unlink()
    return float(seconds[0]), float(seconds[1]), float(size / 1e6 / seconds[0])


def seam_ratio(product: Path, borders: list[int], mosaic: Mosaic) -> float:
    """Mean step between the rows on either side of blocks' borders over that of all other rows.

    Divided by the same figure of the scene itself, which has edges of its own there. Of every `EVERY`th band.
    """
    some = replace(mosaic, tile=mosaic.tile[::EVERY])
    with rasterio.open(product) as file:
        bands = list(range(1, file.count + 1, EVERY))
        found = _border_ratio((strip for _, strip in _strips(file, ROWS, bands)), borders)
        tops = range(0, file.height, ROWS)
        truth = (some.fine(top, min(top + ROWS, file.height)).numpy() for top in tops)
        return found / _border_ratio(truth, borders)


def _border_ratio(strips: Iterable[NDArray[np.generic]], borders: list[int]) -> float:
    """Of an image that comes in strips of rows (n, rows, W)."""
    at_border, elsewhere, row = [], [], 0
    last: NDArray[np.float32] | None = None
    for strip in strips:
        values = strip.astype(np.float32)
        if last is not None:
            values = np.concatenate([last, values], 1)
        for step in np.abs(np.diff(values, axis=1)).mean((0, 2)):
            row += 1
            (at_border if row in borders else elsewhere).append(float(step))
        last = values[:, -1:]
    return float(np.mean(at_border) / np.mean(elsewhere))


def difference(product: Path, other: Path) -> float:
    """RMS difference of two products over the range of the second."""
    squares, count, low, high = 0.0, 0, np.inf, -np.inf
    with rasterio.open(product) as one, rasterio.open(other) as two:
        for (_, a), (_, b) in zip(_strips(one, ROWS), _strips(two, ROWS), strict=True):
            squares += float(((a.astype(np.float64) - b) ** 2).sum())
            count, low, high = count + a.size, min(low, b.min()), max(high, b.max())
    return float(np.sqrt(squares / count) / (high - low))


def _strips(
    file: rasterio.DatasetReader, rows: int, bands: list[int] | None = None
) -> Iterator[tuple[Window, NDArray[np.generic]]]:
    for top in range(0, file.height, rows):
        window = Window(0, top, file.width, min(rows, file.height - top))
        yield window, file.read(bands, window=window)


def borders_of(bands: int, height: int, width: int, ratio: int, limit_gib: float) -> list[int]:
    """Fine rows at which a block of the run ends and the next begins; none where it runs whole."""
    side = Memory(int(limit_gib * 2**30)).block_hsi_px((bands, height, width), ratio)
    if side is None:
        return []
    tops = sorted({block.own[0][0] for block in layout(height, width, side)})
    return [row * ratio for _, row in pairwise(tops)]


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--sizes", default="250x250", help="HSI pixels, HEIGHTxWIDTH,...")
    parser.add_argument("--bands", type=int, default=100)
    parser.add_argument("--scene", default="pavia_centre")
    parser.add_argument("--presets", default="draft,fast")
    parser.add_argument("--max-memory", type=float, default=8.0, metavar="GIB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--whole", action="store_true", help="run in one block too, and compare")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/scale"))
    options = parser.parse_args(arguments)
    print(
        "preset | HSI | wall s | cpu s | ns per fine pixel | peak GiB (its own) | floor s (MB/s) "
        "| wall / floor | cpu / floor | blocks' rows | seam | off whole"
    )
    for size in options.sizes.split(","):
        height, width = (int(side) for side in size.split("x"))
        folder = options.output / f"{size}x{options.bands}"
        mosaic = Mosaic.of(options.scene, height, width, options.bands)
        hsi, guide = save_mosaic(mosaic, folder)
        borders = borders_of(options.bands, height, width, mosaic.ratio, options.max_memory)
        for preset in options.presets.split(","):
            product, other = folder / f"{preset}.tif", folder / f"{preset}_whole.tif"
            spent = run(hsi, guide, product, preset, options.max_memory, options.threads)
            floor, floor_cpu, rate = floor_s((hsi, guide), product, folder / "floor.tif")
            seam = off = "-"
            if borders:
                seam = f"{seam_ratio(product, borders, mosaic):.4f}"
            if options.whole:
                run(hsi, guide, other, preset, NO_LIMIT_GIB, options.threads, whole=True)
                off = f"{difference(product, other):.2e}"
            if options.whole and borders:  # where all rows are alike, it is not 1 either
                seam += f", whole {seam_ratio(other, borders, mosaic):.4f}"
            each = 1e9 * spent.cpu_s / (height * width * mosaic.ratio**2)
            print(
                f"{preset} | {size} x {options.bands} | {spent.wall_s:.1f} | {spent.cpu_s:.1f} | {each:.0f} "
                f"| {spent.peak_gib:.2f} ({spent.own_gib:.2f}) | {floor:.2f} ({rate:.0f}) "
                f"| {spent.wall_s / floor:.1f} "
                f"| {spent.cpu_s / floor_cpu:.1f} "
                f"| {len(borders) + 1} | {seam} | {off}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
