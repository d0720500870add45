"""A batch that is killed again and again: is every scene done exactly once, and are its bytes the same?

`python -m benchmarks.batch -o out/batch`. Small scenes are cut from the village that ships, and two of them
spoilt: one is cut off, one holds no data. The batch runs once undisturbed. Then it is begun anew, killed
(SIGKILL, the batch alone and not its scenes) at random moments and started again, and at last left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.warp
import rasterio.windows
from rasterio.windows import Window

ROOT = Path(__file__).parents[1]
VILLAGE = ROOT / "sample_scenes/village"
SIDE, BEYOND = 20, 24
"""HSI pixels of a scene along each side; metres that its reference reaches beyond it."""
BAND_STEP = 4
CUT_OFF, EMPTY = "scene_00", "scene_01"
SETTINGS = ("--preset", "draft", "--set", "align.model=none", "--set", "align.local=false", "--threads", "1")


def make_scenes(folder: Path, count: int) -> None:
    """Cut the scenes, and spoil two."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with rasterio.open(VILLAGE / "hsi.img") as hsi, rasterio.open(VILLAGE / "guide.tif") as guide:
        bands = list(range(1, hsi.count + 1, BAND_STEP))
        wavelengths = [hsi.tags(band)["wavelength"] for band in bands]
        for number in range(count):
            name = f"scene_{number:02d}"
            top, left = int(rng.integers(0, hsi.height - SIDE)), int(rng.integers(0, hsi.width - SIDE))
            window = Window(left, top, SIDE, SIDE)
            values = hsi.read(bands, window=window)
            if name == EMPTY:
                values[:] = -9999
            profile = {"driver": "GTiff", "dtype": "int16", "count": len(bands), "nodata": -9999}
            place = {"crs": hsi.crs, "transform": hsi.window_transform(window), "height": SIDE, "width": SIDE}
            with rasterio.open(folder / f"{name}_hsi.tif", "w", **profile, **place) as file:
                file.write(values)
                for band, wavelength in enumerate(wavelengths, 1):
                    file.update_tags(band, wavelength=wavelength, wavelength_units="nm")
            if name == CUT_OFF:
                whole = (folder / f"{name}_hsi.tif").read_bytes()
                (folder / f"{name}_hsi.tif").write_bytes(whole[: len(whole) // 3])
            box = rasterio.windows.bounds(window, hsi.transform)
            box = rasterio.warp.transform_bounds(hsi.crs, guide.crs, *box)
            wider = (box[0] - BEYOND, box[1] - BEYOND, box[2] + BEYOND, box[3] + BEYOND)
            part = rasterio.windows.from_bounds(*wider, guide.transform).round_offsets().round_lengths()
            part = part.intersection(Window(0, 0, guide.width, guide.height))
            profile = {"driver": "GTiff", "dtype": "uint8", "count": guide.count, "nodata": 0}
            place = {
                "crs": guide.crs,
                "transform": guide.window_transform(part),
                "height": int(part.height),
                "width": int(part.width),
            }
            with rasterio.open(folder / f"{name}_rgb.tif", "w", **profile, **place) as file:
                file.write(guide.read(window=part))


def start(scenes: Path, out: Path, jobs: int) -> subprocess.Popen[bytes]:
    """Start the batch, as a user would."""
    command = [sys.executable, "-m", "hsi_fuse.cli", "batch", str(scenes), "-o", str(out), *SETTINGS]
    with out.with_suffix(".txt").open("ab") as said:
        return subprocess.Popen([*command, "--jobs", str(jobs)], stdout=said, stderr=said)


def products(out: Path) -> dict[str, tuple[int, int]]:
    """What identifies each product that stands: a file made anew is another."""
    found = {}
    for folder in out.iterdir():
        product = folder / f"{folder.name}.tif"
        if product.exists():
            facts = product.stat()
            found[folder.name] = (facts.st_ino, facts.st_mtime_ns)
    return found


def without_cost(path: Path) -> bytes:
    """A file's content but for what its making took, seconds and memory."""
    if path.name.endswith("_quality.json"):
        figures = json.loads(path.read_text())
        del figures["provenance"]["seconds"], figures["provenance"]["peak_memory_mb"]
        return json.dumps(figures).encode()
    if path.name.endswith("_report.html"):
        return re.sub(rb'<tr><th scope="row">(seconds|peak memory) .*?</tr>', b"", path.read_bytes())
    return path.read_bytes()


def compare(plain: Path, disturbed: Path) -> tuple[int, list[str]]:
    """Number of files compared, and those that differ or are in one folder only; logs tell of times."""
    files = [
        {p.relative_to(out) for p in out.glob("*/*") if p.is_file() and p.name != "log.txt"}
        for out in (plain, disturbed)
    ]
    same = files[0] & files[1]
    other = [f for f in same if without_cost(plain / f) != without_cost(disturbed / f)]
    return len(same), sorted(map(str, [*other, *(files[0] ^ files[1])]))


def undisturbed(out: Path, count: int, jobs: int) -> dict[str, Any]:
    """Make the scenes and run them once; the figures, which are kept beside them."""
    shutil.rmtree(out, ignore_errors=True)
    make_scenes(out / "scenes", count)
    began = time.monotonic()
    code = start(out / "scenes", out / "plain", jobs).wait()
    seconds = round(time.monotonic() - began)
    figures = {"scenes": count, "jobs": jobs, "undisturbed_exit": code, "undisturbed_s": seconds}
    (out / "plain.json").write_text(json.dumps(figures) + "\n")
    return figures


def disturbed(out: Path, kills: int, seed: int) -> dict[str, Any]:
    """Begin anew, kill and start again; the figures."""
    scenes, plain, disturbed = out / "scenes", out / "plain", out / "disturbed"
    shutil.rmtree(disturbed, ignore_errors=True)
    figures: dict[str, Any] = json.loads((out / "plain.json").read_text())
    count, jobs = figures["scenes"], figures["jobs"]
    # late enough that now and then a scene is done between two kills
    latest = 4 * figures["undisturbed_s"] / count
    draw = random.Random(seed)
    seen: dict[str, tuple[int, int]] = {}
    again: list[str] = []
    moments, left = [], []
    for _ in range(kills):
        batch = start(scenes, disturbed, jobs)
        moment = draw.uniform(0.5, latest)
        try:
            batch.wait(moment)
        except subprocess.TimeoutExpired:
            os.kill(batch.pid, signal.SIGKILL)
            batch.wait()
            moments.append(round(moment, 1))
        stand = products(disturbed) if disturbed.exists() else {}
        again += [name for name, facts in seen.items() if stand.get(name) != facts]
        seen = stand
        left.append(count - len(stand))
    figures["last_exit"] = start(scenes, disturbed, jobs).wait()
    final = products(disturbed)
    again += [name for name, facts in seen.items() if final.get(name) != facts]

    manifest = json.loads((disturbed / "manifest.json").read_text())["scenes"]
    lines = Counter(
        line.split()[3] for line in (disturbed / "batch.log").read_text().splitlines() if " done  " in line
    )
    compared, different = compare(plain, disturbed)
    return figures | {
        "kills": len(moments),
        "killed_after_s": moments,
        "scenes_left_after_each": left,
        "states": dict(Counter(record["state"] for record in manifest.values())),
        "starts": sum(record["starts"] for record in manifest.values() if record["state"] == "done"),
        "told_done_once": sum(times == 1 for times in lines.values()),
        "told_done_more_often": [name for name, times in lines.items() if times > 1],
        "products_made_again": again,
        "files_compared": compared,
        "files_that_differ": different,
        "left_behind": [str(p) for p in disturbed.rglob("*.part")],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/batch"))
    parser.add_argument("--scenes", type=int, default=30, help="how many, the two spoilt ones among them")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="keep the undisturbed run that is there")
    given = parser.parse_args()
    if not given.again:
        undisturbed(given.output, given.scenes, given.jobs)
    figures = disturbed(given.output, given.kills, given.seed)
    (given.output / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
