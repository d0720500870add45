"""Scores -> markdown and a picture, and into a document between markers."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.runs import Score

CLASSICAL = ("gsa", "cnmf", "hysure", "sylvester")
FIGURES = {
    "psnr_db": ("PSNR dB", 2),
    "psnr_global_db": ("global PSNR dB", 2),
    "sam_deg": ("SAM °", 2),
    "ergas": ("ERGAS", 2),
    "ssim": ("SSIM", 4),
    "uiqi": ("UIQI", 4),
    "q2n": ("Q2n", 4),
    "wall_s": ("wall s", 1),
    "cpu_s": ("CPU s", 1),
    "peak_mb": ("peak MB", 0),
}
"""The columns: heading and digits."""
MISSING = "–"


@dataclass(frozen=True)
class Quality:
    """PSNR (dB) and SAM (degrees) of a method on a scene, means over seeds."""

    psnr_db: float
    sam_deg: float

    @property
    def finite(self) -> bool:
        """False where the method failed with every seed, or was not run."""
        return math.isfinite(self.psnr_db) and math.isfinite(self.sam_deg)


NOTHING = Quality(math.nan, math.nan)


def by_method(scores: Iterable[Score]) -> str:
    """One line for each protocol, method and sensor: means over the runs that did not fail."""
    heads = ["protocol", "method", "sensor", "runs", *(head for head, _ in FIGURES.values())]
    lines = []
    for (protocol, method, sensor), group in _grouped(scores, ("protocol", "method", "sensor")).items():
        kept = [s for s in group if not s.failure]
        cells = [protocol, method, sensor, str(len(kept))]
        for name, (_, digits) in FIGURES.items():
            cells.append(f"{np.mean([getattr(s, name) for s in kept]):.{digits}f}" if kept else MISSING)
        lines.append(cells)
    return _table(heads, lines)


def against_classical(scores: Sequence[Score]) -> str:
    """A table for each protocol: what the project's presets gain over the best classical method.

    That is, scene by scene, the classical method of the highest PSNR among those given the true sensor (means
    over seeds); the presets are blind.
    """
    parts = []
    for (protocol,), group in _grouped(scores, ("protocol",)).items():
        found = _qualities(group)
        scenes, ours = (
            _distinct(group, "scene"),
            [m for m in _distinct(group, "method") if m not in CLASSICAL],
        )
        best = {scene: _best(found, scene) for scene in scenes}
        lines = [
            [
                scene,
                f"{best[scene][0]} {_spell(best[scene][1])}".strip(),
                *(_compared([found.get((scene, m), NOTHING)], [best[scene][1]]) for m in ours),
            ]
            for scene in scenes
        ]
        known = [q for _, q in best.values()]
        lines.append(
            ["**mean**", _spell(_mean(known))]
            + [_compared([found.get((scene, m), NOTHING) for scene in scenes], known) for m in ours]
        )
        heads = (m if m == "interpolation" else f"{m}, blind" for m in ours)
        table = _table(["scene", "best classical, true sensor", *heads], lines)
        parts.append(f"### {protocol}\n\n{table}")
    return "\n\n".join(parts)


def failures(scores: Iterable[Score]) -> str:
    """A list of what failed and why, runs that failed alike on one line."""
    failed = _grouped([s for s in scores if s.failure], ("protocol", "scene", "failure"))
    return "\n".join(
        f"- {protocol}, {scene}: {why} ({', '.join(f'{s.method} {s.sensor} {s.seed}' for s in group)})"
        for (protocol, scene, why), group in failed.items()
    )


def _qualities(scores: Iterable[Score]) -> dict[tuple[str, str], Quality]:
    """By scene and method: classical ones with the true sensor, the others without it."""
    compared = [s for s in scores if not s.failure and s.sensor in _told(s.method)]
    return {
        (scene, method): Quality(
            *(float(np.mean([getattr(s, n) for s in g])) for n in ("psnr_db", "sam_deg"))
        )
        for (scene, method), g in _grouped(compared, ("scene", "method")).items()
    }


def _told(method: str) -> tuple[str, ...]:
    """What a method that is compared may be told of the sensors."""
    return ("true",) if method in CLASSICAL else ("blind", "none")


def _best(found: dict[tuple[str, str], Quality], scene: str) -> tuple[str, Quality]:
    ran = [(m, found[scene, m]) for m in CLASSICAL if (scene, m) in found]
    return max(ran, key=lambda each: each[1].psnr_db, default=("", NOTHING))


def _compared(found: Sequence[Quality], best: Sequence[Quality]) -> str:
    """PSNR / SAM, and the mean difference in dB and the mean SAM ratio over the scenes that have both."""
    both = [(f, b) for f, b in zip(found, best, strict=True) if f.finite and b.finite]
    if not both:
        return _spell(_mean(found))
    gain = np.mean([f.psnr_db - b.psnr_db for f, b in both])
    ratio = np.mean([f.sam_deg / b.sam_deg for f, b in both])
    return f"{_spell(_mean([f for f, _ in both]))} ({gain:+.2f} dB, ×{ratio:.2f})"


def _mean(qualities: Iterable[Quality]) -> Quality:
    kept = [q for q in qualities if q.finite]
    if not kept:
        return NOTHING
    return Quality(float(np.mean([q.psnr_db for q in kept])), float(np.mean([q.sam_deg for q in kept])))


def _spell(quality: Quality) -> str:
    return f"{quality.psnr_db:.2f} / {quality.sam_deg:.2f}" if quality.finite else MISSING


def _grouped(scores: Iterable[Score], by: Sequence[str]) -> dict[tuple[str, ...], list[Score]]:
    groups: dict[tuple[str, ...], list[Score]] = defaultdict(list)
    for s in scores:
        groups[tuple(getattr(s, name) for name in by)].append(s)
    return groups


def _distinct(scores: Iterable[Score], name: str) -> list[str]:
    return list(dict.fromkeys(getattr(s, name) for s in scores))


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(heads)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *lines))


# --- the picture -------------------------------------------------------------------------------------------


def draw(scores: Sequence[Score], path: Path) -> None:
    """PSNR over interpolation, one panel for each protocol: a dot a scene, a bar their mean (PNG)."""
    panels = _grouped([s for s in scores if not s.failure], ("protocol",))
    columns = min(3, max(len(panels), 1))
    rows = -(-max(len(panels), 1) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, ((protocol,), group) in zip(
        figure.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=False
    ):
        floor = {
            scene: np.mean([s.psnr_db for s in g])
            for (scene, method), g in _grouped(group, ("scene", "method")).items()
            if method == "interpolation"
        }
        bars = _grouped([s for s in group if s.method != "interpolation"], ("method", "sensor"))
        for place, ((method, sensor), each) in enumerate(bars.items()):
            scenes = _grouped(each, ("scene",)).items()
            gains = [np.mean([s.psnr_db for s in g]) - floor.get(scene, 0.0) for (scene,), g in scenes]
            colour = "#999999" if method in CLASSICAL else "#0072B2"
            filled = colour if sensor == "blind" else "white"
            axes.scatter([place] * len(gains), gains, s=24, color=filled, edgecolors=colour, zorder=2)
            axes.hlines(np.mean(gains), place - 0.35, place + 0.35, color=colour, lw=2)
        labels = [f"{method}, {sensor}" for method, sensor in bars]
        axes.set_xticks(
            range(len(labels)), labels, fontsize=8, rotation=60, ha="right", rotation_mode="anchor"
        )
        axes.set_title(protocol, fontsize=10)
        axes.set_ylabel("PSNR over interpolation (dB)" if floor else "PSNR (dB)", fontsize=8)
        axes.grid(axis="y", color="#dddddd", lw=0.6)
    for axes in figure.axes[len(panels) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


# --- where it was made, and the document -------------------------------------------------------------------


def machine() -> str:
    """Processor, cores, system and the versions that figures depend on."""
    name = platform.processor() or platform.machine()
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M)
        name = found[1] if found else name
    except OSError:  # only Linux tells it there
        pass
    return (
        f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def commit() -> str:
    """The commit of the working tree, "-dirty" where it has changes."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def has_place(document: Path, name: str) -> bool:
    """Whether a document has both markers of a table."""
    text = document.read_text("utf-8") if document.is_file() else ""
    return _place(name).search(text) is not None


def put(document: Path, name: str, text: str) -> None:
    """Replace what a document holds between `<!-- table:NAME -->` and `<!-- /table:NAME -->`."""
    old = document.read_text("utf-8")
    new = _place(name).sub(lambda found: f"{found[1]}\n{text.strip()}\n{found[2]}", old)
    document.write_text(new, "utf-8")


def _place(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- table:{re.escape(name)} -->).*?(<!-- /table:{re.escape(name)} -->)", re.S)
