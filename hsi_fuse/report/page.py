"""The quality report: one HTML file that opens offline and shows the numbers of `assess`, none of its own."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_fuse.align import Alignment
from hsi_fuse.quality.assess import Quality, plain
from hsi_fuse.registration.figures import response_in_words
from hsi_fuse.registration.refusal import Attempt
from hsi_fuse.report import plots
from hsi_fuse.report.all_plots import report_plots
from hsi_fuse.report.pictures import Pictures, composite, take_pictures
from hsi_fuse.report.templates import template
from hsi_fuse.report.words import METHODS, REGISTRATION, band_names, figure_text, flat, grouped, middle

__all__ = ["Pictures", "composite", "is_refusal", "render", "render_refusal", "take_pictures"]

REFUSED, HEAD = b"hsi-fuse refusal</title>", 4096
"""What the title of a refusal's page ends with, within so many bytes."""
LARGEST_PAGE = 4_800_000
"""Characters."""
HARDER = ((88, 1, 1), (75, 1, 1), (60, 1, 1), (60, 1, 0.7), (60, 0.7, 0.6), (60, 0.5, 0.5), (40, 0.25, 0.25))
"""JPEG quality, size of the views and of single bands, tried in turn until a page is no larger than that."""


def render(
    quality: Quality,
    pictures: Pictures,
    *,
    title: str,
    provenance: Mapping[str, Any] | None = None,
    alignment: Alignment | None = None,
) -> str:
    """The report as HTML text.

    Nothing in it depends on the clock: what should be dated goes into `provenance`.

    Parameters
    ----------
    quality : Quality
        From `assess`.
    pictures : Pictures
        From `take_pictures`.
    title : str
        Usually the names of the two inputs.
    provenance : mapping
        Inputs, preset, versions, seed, times: shown as a table, nested mappings flattened.
    alignment : Alignment
        For the pictures of the registration.
    """
    figures = quality.figures
    wavelengths = figures["scene"]["wavelengths_nm"]
    page = template("report.html", figure=figure_text, middle=middle)
    told = {
        "title": title,
        "q": figures,
        "groups": grouped(figures["verdict"]["lights"]),
        "methods": METHODS,
        "zooms": _zooms(pictures),
        "marks": _marks(pictures),
        "plots": report_plots(quality, pictures, alignment),
        "pixels": _packed(pictures, wavelengths),
        "registration": flat(figures["registration"], without=("guide_response",), labels=REGISTRATION),
        "response": response_in_words(figures["registration"].get("guide_response", [])),
        "stages": [_stage(i, stage) for i, stage in enumerate(figures["stages"])],
        "provenance": flat(plain(provenance or {})),
    }
    for jpeg, large, small in HARDER:
        views = _views(pictures, wavelengths, jpeg, large)
        every_band = _every_band(pictures, wavelengths, jpeg, small)
        text = page.render(**told, views=views, every_band=every_band)
        if len(text) < LARGEST_PAGE:
            break
    return text


def _views(
    pictures: Pictures, wavelengths_nm: Sequence[float] | None, quality: int, size: float
) -> list[dict[str, Any]]:
    return [
        {
            "name": v.name,
            "bands": band_names(v.bands, wavelengths_nm),
            "before": plots.picture_uri(v.before, quality=quality, size=size),
            "after": plots.picture_uri(v.after, quality=quality, size=size),
            "width": v.before.shape[1],
        }
        for v in pictures.views
    ]


def _every_band(
    pictures: Pictures, wavelengths_nm: Sequence[float] | None, quality: int, size: float
) -> dict[str, Any]:
    """Names and pictures of the single bands, by wavelength."""
    shown = pictures.every_band
    axis = np.arange(len(shown.after)) if wavelengths_nm is None else np.asarray(wavelengths_nm)
    order = np.argsort(axis, kind="stable")

    def pictured(images: NDArray[np.uint8]) -> list[str]:
        return [plots.picture_uri(images[b], quality=quality, size=size) for b in order]

    names = [f"band {b + 1}" if wavelengths_nm is None else f"{axis[b]:.0f} nm" for b in order]
    return {"names": names, "before": pictured(shown.before), "after": pictured(shown.after)}


def _zooms(pictures: Pictures) -> list[dict[str, Any]]:
    height, width = pictures.size
    return [
        {
            "name": zoom.name,
            "row": zoom.row,
            "column": zoom.column,
            "size": zoom.size,
            "box": _percent(zoom.column / width, zoom.row / height, zoom.size / width, zoom.size / height),
            "images": [
                (label, plots.picture_uri(image, exact=True))
                for label, image in (
                    ("interpolation", zoom.before),
                    ("product", zoom.after),
                    ("reference", zoom.reference),
                )
            ],
        }
        for zoom in pictures.zooms
    ]


def _marks(pictures: Pictures) -> list[dict[str, Any]]:
    height, width = pictures.size
    return [
        {"name": s.name, "at": _percent((s.column + 0.5) / width, (s.row + 0.5) / height)}
        for s in pictures.spectra
    ]


def _stage(number: int, stage: Mapping[str, Any]) -> dict[str, Any]:
    history = stage.get("history") or []
    return {
        "name": stage.get("name", number + 1),
        "kept": stage.get("kept"),
        "rows": flat(stage, without=("name", "kept", "history")),
        "training": plots.history_plot(history) if len(history) > 1 else None,
    }


def _packed(pictures: Pictures, wavelengths_nm: Sequence[float] | None) -> dict[str, Any]:
    """The spectra that can be picked, for the page's script: little-endian uint16 from `low` to `high`."""
    grid, (height, width) = pictures.grid, pictures.size
    bands = grid.after.shape[1]
    axis = np.arange(1, bands + 1, dtype=float) if wavelengths_nm is None else np.asarray(wavelengths_nm)
    order = np.argsort(axis, kind="stable")
    spectra = [s for s in (grid.before, grid.after, grid.sigma) if s is not None and s.size]
    low, high = (
        min((float(s.min()) for s in spectra), default=0.0),
        max((float(s.max()) for s in spectra), default=1.0),
    )
    low = min(low, 0.0)
    scale = 65535 / max(high - low, 1e-30)

    def pack(values: NDArray[np.float32] | None) -> str | None:
        if values is None:
            return None
        stored = np.rint((values.astype(float) - low) * scale).clip(0, 65535).astype("<u2")
        return base64.b64encode(stored.tobytes()).decode("ascii")

    gaps = np.diff(axis[order])
    return plain(
        {
            "x": [round(float(v), 2) for v in axis],
            "order": order,
            "gap": 4 * float(np.median(gaps)) if gaps.size else 0.0,
            "axis": "band" if wavelengths_nm is None else "wavelength (nm)",
            "rows": grid.rows,
            "columns": grid.columns,
            "height": height,
            "width": width,
            "low": low,
            "high": max(high, low + 1e-30),
            "before": pack(grid.before),
            "after": pack(grid.after),
            "sigma": pack(grid.sigma),
        }
    )


def render_refusal(attempt: Attempt, message: str, *, title: str) -> str:
    """The page of a refused reference as HTML text.

    Parameters
    ----------
    attempt : Attempt
    message : str
        Of the error.
    title : str
        The name of the output that does not exist now.
    """
    page = template("refusal.html", figure=figure_text, middle=middle)
    figures = attempt.figures
    residual = attempt.residual
    return page.render(
        title=title,
        message=message,
        seen=plots.picture_uri(attempt.seen, exact=True),
        guide=None if attempt.guide is None else plots.picture_uri(attempt.guide),
        outlines=plots.outlines_plot(attempt.outlines) if attempt.outlines else None,
        residual=None if residual is None else plots.map_plot(residual, "standard deviations", 1.5),
        figures=flat(figures, without=("guide_response",), labels=REGISTRATION),
    )


def is_refusal(path: Path) -> bool:
    """Whether a file is a page of `render_refusal`: nothing that anyone would miss."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return REFUSED in file.read(HEAD)


def _percent(*shares: float) -> list[str]:
    return [f"{100 * share:.3f}%" for share in shares]
