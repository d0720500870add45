"""What a report costs: `python -m benchmarks.report_cost --help`.

`share`: processor seconds of the assessment and of the page within whole runs of a preset, on a target of
512 x 512 pixels: a misregistered mosaic (`benchmarks.mosaic`, x4, four reference bands).
`product`: `hsi-fuse assess` of products of growing size, in a process of its own: processor seconds and peak
memory beside the size of the cube. The product is the mosaic itself, written in strips as `hsi-fuse run`
writes (int16, tiles, DEFLATE); it is deleted afterwards.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

from benchmarks.mosaic import MOST, Mosaic, save_mosaic

STRIP_ROWS = 256
PARTS = (
    *(("assessment", "hsi_fuse.pipeline", "assess"),),
    *(("pictures", "hsi_fuse.write.learned", "take_pictures"), ("page", "hsi_fuse.write.learned", "render")),
)


def save_product(mosaic: Mosaic, hsi: Path, output: Path) -> None:
    """The fine cube itself, stored as the HSI is."""
    with rasterio.open(hsi) as file:
        tags = [file.tags(band) for band in file.indexes]
        crs, grid = file.crs, file.transform
    scale = mosaic.ratio
    height, width = mosaic.height * scale, mosaic.width * scale
    profile = {"driver": "GTiff", "dtype": "int16", "count": len(mosaic.tile), "crs": crs, "nodata": -9999}
    size = {"height": height, "width": width, "transform": grid * Affine.scale(1 / scale)}
    tiles = {"tiled": True, "blockxsize": STRIP_ROWS, "blockysize": STRIP_ROWS, "interleave": "band"}
    packed = {"compress": "deflate", "zlevel": 1, "predictor": 2, "bigtiff": "yes"}
    with rasterio.open(output, "w", **profile, **size, **tiles, **packed) as file:
        for band, tag in enumerate(tags, 1):
            file.update_tags(band, **tag)
        for top in range(0, height, STRIP_ROWS):
            rows = mosaic.fine(top, min(top + STRIP_ROWS, height))
            values = (MOST * rows).round_().numpy().astype(np.int16)
            file.write(values, window=Window(0, top, width, values.shape[1]))


def product(sizes: str, bands: int, scene: str, folder: Path) -> None:
    """A line for each size."""
    print("product | cube GiB (float32) | cpu s | wall s | peak GiB")
    for size in sizes.split(","):
        height, width = (int(side) for side in size.split("x"))
        here = folder / f"{size}x{bands}"
        mosaic = Mosaic.of(scene, height, width, bands)
        hsi, guide = save_mosaic(mosaic, here)
        fused = here / "fused.tif"
        save_product(mosaic, hsi, fused)
        command = [sys.executable, "-m", "hsi_fuse.cli", "assess", str(fused), str(hsi), str(guide)]
        started = time.perf_counter()
        child = subprocess.Popen([*command, "-o", str(here / "assessed"), "--overwrite", "-q"])
        _, status, used = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        scale = mosaic.ratio
        print(
            f"{height * scale} x {width * scale} x {bands} "
            f"| {4 * bands * height * width * scale**2 / 2**30:.2f} | {used.ru_utime + used.ru_stime:.1f} "
            f"| {time.perf_counter() - started:.1f} | {used.ru_maxrss / 2**20:.2f}",
            flush=True,
        )
        fused.unlink()


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Processor seconds of the report's parts, added up."""
    from importlib import import_module

    kept: list[tuple[Any, str, Callable[..., Any]]] = []

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **given: Any) -> Any:
            started = time.process_time()
            try:
                return call(*args, **given)
            finally:
                spent[name] = spent.get(name, 0.0) + time.process_time() - started

        return run

    for name, where, what in PARTS:
        module = import_module(where)
        kept.append((module, what, getattr(module, what)))
        setattr(module, what, wrapped(name, getattr(module, what)))
    try:
        yield
    finally:
        for module, what, call in kept:
            setattr(module, what, call)


def share(presets: str, bands: int, scene: str, folder: Path) -> None:
    """A line for each preset."""
    from hsi_fuse.cli.app import main as command

    mosaic = Mosaic.of(scene, 128, 128, bands)
    hsi, guide = save_mosaic(mosaic, folder / f"128x128x{bands}")
    print("preset | whole cpu s | " + " | ".join(name for name, _, _ in PARTS) + " | share %")
    for preset in presets.split(","):
        spent: dict[str, float] = {}
        given = ["run", hsi, guide, "--preset", preset, "-o", folder / f"{preset}.tif", "--overwrite", "-q"]
        started = time.process_time()
        with timed(spent):
            code = command([str(word) for word in given])
        whole = time.process_time() - started
        if code:
            raise SystemExit(f"{preset} ended with {code}")
        parts = " | ".join(f"{spent[name]:.2f}" for name, _, _ in PARTS)
        print(f"{preset} | {whole:.1f} | {parts} | {100 * sum(spent.values()) / whole:.1f}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("share", "product"))
    parser.add_argument("--sizes", default="250x250,1000x1000", help="HSI pixels, HEIGHTxWIDTH,...")
    parser.add_argument("--bands", type=int, default=230)
    parser.add_argument("--scene", default="pavia_centre")
    parser.add_argument("--presets", default="fast")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/report_cost"))
    options = parser.parse_args(arguments)
    if options.what == "product":
        product(options.sizes, options.bands, options.scene, options.output)
        shutil.rmtree(options.output)
    else:
        share(options.presets, options.bands, options.scene, options.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
