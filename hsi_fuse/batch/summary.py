"""What became of a batch, for people (a page) and for programs (a table): the most troubled scenes first."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from hsi_fuse.batch.manifest import NAME, Manifest
from hsi_fuse.batch.plan import BatchPlan, Task
from hsi_fuse.files import write_text
from hsi_fuse.report.templates import template
from hsi_fuse.write import REPORT

TROUBLE = ("failed", "not run", "unpaired", "red", "amber", "none", "green")
"""States, and of what is done the report's lights, from the gravest to the best."""


@dataclass(frozen=True)
class Row:
    """A scene in the overview; paths are relative to the output folder, empty where there is nothing.

    Attributes
    ----------
    scene : str
    state : "done", "failed", "not run" or "unpaired"
    light : str
        Of the report; empty without one.
    hsi, reference, why : str
    text : str
        The error, or the report's first sentence.
    registration_px, probability, sam_deg, gain_db : float or None
        RMSE of the tie points (fine pixels), probability that the reference shows this place, median spectral
        angle of consistency, gain over interpolation on the degraded pair.
    warnings : int
    seconds : float
    peak_gb : float or None
    exit_code : int
    starts : int
    product, report, log : str
    """

    scene: str
    state: Literal["done", "failed", "not run", "unpaired"]
    light: str = ""
    hsi: str = ""
    reference: str = ""
    why: str = ""
    text: str = ""
    registration_px: float | None = None
    probability: float | None = None
    sam_deg: float | None = None
    gain_db: float | None = None
    warnings: int = 0
    seconds: float = 0.0
    peak_gb: float | None = None
    exit_code: int = 0
    starts: int = 0
    product: str = ""
    report: str = ""
    log: str = ""

    @property
    def trouble(self) -> int:
        """Its place in `TROUBLE`."""
        return TROUBLE.index(self.light if self.state == "done" else self.state)


def rows_of(plan: BatchPlan, manifest: Manifest) -> tuple[Row, ...]:
    """A row for each scene of a plan, the most troubled first."""
    rows = [_row(task, manifest, plan.out) for task in plan.tasks]
    rows += [Row(p.hsi.path.name, "unpaired", hsi=str(p.hsi.path), text=p.why) for p in plan.unpaired]
    rows += [Row(path.name, "failed", hsi=str(path), text=why, exit_code=3) for path, why in plan.unreadable]
    return tuple(sorted(rows, key=lambda row: (row.trouble, row.scene)))


def figures_of(output: Path) -> dict[str, Any]:
    """The light and the figures of a product that an overview shows."""
    found = json.loads(output.with_name(f"{output.stem}_quality.json").read_text(encoding="utf-8"))
    synthesis = found["synthesis"]
    results = synthesis["results"] if synthesis["assessable"] else {}
    scores = [results.get(name, {}).get("psnr_db") for name in ("product", "interpolation")]
    return {
        "light": found["verdict"]["light"],
        "sentence": found["verdict"]["sentences"][0],
        "registration_px": found["registration"].get("rrmse_px"),
        "probability": found["registration"].get("probability"),
        "sam_deg": found["consistency"]["learned_psf"]["product"]["sam_deg"]["median"],
        "gain_db": None if None in scores else round(scores[0] - scores[1], 3),
    }


def write_summary(out: Path, rows: Sequence[Row], plan: BatchPlan) -> tuple[Path, ...]:
    """Write the page and the table.

    Returns
    -------
    tuple of Path
        The page, the table, the manifest.

    Raises
    ------
    WriteError
    """
    page, table = out / "index.html", out / "summary.csv"
    write_text(table, _table(rows), overwrite=True)
    write_text(page, _page(rows, plan), overwrite=True)
    return page, table, out / NAME


def in_words(rows: Sequence[Row]) -> str:
    """How many scenes are in which state."""
    counts = Counter(row.light if row.state == "done" else row.state for row in rows)
    return ", ".join(f"{counts[state]} {state}" for state in TROUBLE if counts[state]) or "no scene"


def _row(task: Task, manifest: Manifest, out: Path) -> Row:
    facts: dict[str, Any] = {
        "hsi": str(task.hsi.path),
        "reference": str(task.reference.path),
        "why": task.why,
    }
    record = manifest.records.get(task.name)
    if record is None or record.state == "started":
        return Row(task.name, "not run", **facts)
    output = task.job.output

    def link(path: Path) -> str:
        return Path(os.path.relpath(path, out)).as_posix() if path.exists() else ""

    figures = dict(record.figures) if record.state == "done" else {}
    sentence = figures.pop("sentence", "")
    return Row(
        task.name,
        record.state,
        **facts,
        **figures,
        text=record.message or sentence,
        warnings=len(record.warnings),
        seconds=record.seconds,
        peak_gb=None if record.peak_bytes is None else round(record.peak_bytes / 1e9, 3),
        exit_code=record.exit_code,
        starts=record.starts,
        product=link(output),
        report=link(output.with_name(f"{output.stem}{REPORT}")),
        log=link(task.log),
    )


def _table(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(row) for row in rows)
    return text.getvalue()


def _page(rows: Sequence[Row], plan: BatchPlan) -> str:
    page = template(
        "batch.html",
        link=quote,
        below=lambda path: str(path).removeprefix(f"{plan.folder}{os.sep}"),
        figure=lambda value: "–" if value is None else f"{value:.3g}",
    )
    return page.render(
        title=plan.folder.resolve().name,
        rows=rows,
        counts=in_words(rows),
        preset=plan.settings.preset.name,
        idle=[str(image.path) for image in plan.idle],
        left_out=plan.left_out,
    )
