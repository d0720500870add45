"""The quality report: one HTML file that opens offline and shows the numbers of `assess`, none of its own."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from numpy.typing import NDArray

from hsi_fuse import plots
from hsi_fuse.align import Alignment
from hsi_fuse.assess import Quality, plain
from hsi_fuse.pictures import Pictures, composite, take_pictures
from hsi_fuse.refusal import Attempt
from hsi_fuse.registration import response_in_words

__all__ = ["Pictures", "composite", "render", "render_refusal", "take_pictures"]

METHODS = {
    "product": "This product",
    "interpolation": "Interpolation (bicubic)",
    "map": "Linear fusion (MAP)",
}


REGISTRATION = {
    "displacement": "not searched: taken from",
    "probability": "probability that the reference shows this place",
    "information": "what the input says of the reference, nats for each pixel and band",
    "tied": "share of blocks that find their own place",
    "unexplained": "share of the reference's variance left unexplained at pixels held out of the fit",
    "shift_px": "found at (columns, rows) from the start, fine pixels",
    "shift_m": "the same, m",
    "content_offset_east_m": "the input's content lies east of the reference's by, m",
    "content_offset_north_m": "the input's content lies north of the reference's by, m",
    "rotation_deg": "rotation, °",
    "scale_change": "change of scale, factor",
    "standard_error_px": "standard error of the fit, fine pixels",
    "standard_error_m": "the same, m",
    "local_amplitude_px": "size of the local part, fine pixels",
    "local_length_px": "length over which it varies, fine pixels",
    "explained": "share of the reference's variance that the input explains",
    "covered": "share of the product that the reference covers",
    "tie_points": "tie points held out of the fit",
    "rrmse_px": "their RMSE, fine pixels",
    "rrmse_m": "their RMSE, m",
    "ce90_px": "90 % of them lie within, fine pixels",
    "bias_px": "their mean (columns, rows), fine pixels",
    "swir_shift_hsi_px": "input: SWIR bands off the VNIR bands by (columns, rows), its pixels",
    "swir_shift_deviation_hsi_px": "their standard error",
    "swir_shift_corrected": "moved onto them",
    "before_tie_points": "before: tie points",
    "before_rrmse_px": "before: their RMSE, fine pixels",
    "before_rrmse_m": "before: their RMSE, m",
    "before_ce90_px": "before: 90 % of them lie within, fine pixels",
    "before_bias_px": "before: their mean (columns, rows), fine pixels",
}
"""How the page names the figures of `pipeline.align`; others appear under their own names."""
GROUPS = {
    "Position": ("registration", "position", "place"),
    "Sensor model": ("response", "blur"),
    "Spectra": ("spectra", "radiometry", "bands"),
    "Detail": ("detail", "sharpness", "noise"),
    "Proof": ("synthesis",),
    "Integrity": ("seams", "integrity"),
}
"""The headings under which the page shows the lights."""
LARGEST_PAGE = 4_800_000
LARGEST_MAP = 512
"""Pixels along the longer side of a map that is drawn."""
MOST_ARROWS = 12
"""Along each side."""


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
    page = _environment().get_template("report.html")
    told = {
        "title": title,
        "q": figures,
        "groups": _grouped(figures["verdict"]["lights"]),
        "methods": METHODS,
        "zooms": _zooms(pictures),
        "marks": _marks(pictures),
        "plots": _drawn(quality, pictures, alignment),
        "pixels": _packed(pictures, wavelengths),
        "registration": _flat(figures["registration"], without=("guide_response",), labels=REGISTRATION),
        "response": response_in_words(figures["registration"].get("guide_response", [])),
        "stages": [_stage(i, stage) for i, stage in enumerate(figures["stages"])],
        "provenance": _flat(plain(provenance or {})),
    }
    for quality_of_jpeg in (88, 75, 60, 40):
        text = page.render(**told, views=_views(pictures, wavelengths, quality_of_jpeg))
        if len(text) < LARGEST_PAGE:
            break
    return text


def _drawn(quality: Quality, pictures: Pictures, alignment: Alignment | None) -> dict[str, plots.Plot]:
    """The plots by name."""
    figures, maps = quality.figures, quality.maps
    wavelengths = figures["scene"]["wavelengths_nm"]
    consistency = figures["consistency"]
    drawn = {
        "srf": plots.srf_plot(
            figures["sensor"]["srf"], wavelengths, figures["sensor"]["found"].get("srf_nominal") or ()
        ),
        "psf": plots.psf_plot(figures["sensor"]["psf"], figures["scene"]["ratio"]),
        "sam": plots.map_plot(quality.maps["sam_deg"], "degrees"),
        "bands": plots.bands_plot(consistency["learned_psf"], wavelengths),
    }
    if figures["uncertainty"]["assessable"]:
        drawn["sigma"] = plots.sigma_plot(figures["uncertainty"]["sigma"], wavelengths)
    if alignment is not None:
        drawn |= _registration_plots(alignment)
    if pictures.spectra:
        drawn["spectra"] = plots.spectra_plot(pictures.spectra, wavelengths)
    step = max(1, -(-max(pictures.size) // LARGEST_MAP))
    panels = [("spectral angle, °", maps["sam_deg"]), ("error of brightness, %", 100 * maps["brightness"])]
    drawn["brightness"] = plots.error_plot(100 * maps["brightness"], "% of the level", "input pixels")
    if "guide" in maps:
        drawn["guide"] = plots.error_plot(
            maps["guide"][::step, ::step], "standard deviations of the reference", _pixels(step)
        )
        panels.append(("product - reference, deviations", maps["guide"]))
    drawn["histograms"] = plots.histogram_plot(panels)
    return drawn


def _grouped(lights: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The lights under the headings of `GROUPS`."""
    return [(name, [e for e in lights if e["name"] in members]) for name, members in GROUPS.items()]


def _views(pictures: Pictures, wavelengths_nm: Sequence[float] | None, quality: int) -> list[dict[str, Any]]:
    return [
        {
            "name": v.name,
            "bands": _band_names(v.bands, wavelengths_nm),
            "before": plots.picture_uri(v.before, quality=quality),
            "after": plots.picture_uri(v.after, quality=quality),
            "width": v.before.shape[1],
        }
        for v in pictures.views
    ]


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
        "rows": _flat(stage, without=("name", "kept", "history")),
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
    page = _environment().get_template("refusal.html")
    figures = attempt.figures
    residual = attempt.residual
    return page.render(
        title=title,
        message=message,
        seen=plots.picture_uri(attempt.seen, exact=True),
        guide=plots.picture_uri(attempt.guide),
        residual=None if residual is None else plots.map_plot(residual, "standard deviations", 1.5),
        figures=_flat(figures, without=("guide_response",), labels=REGISTRATION),
    )


def _registration_plots(alignment: Alignment) -> dict[str, plots.Plot]:
    """Tie points before and after, confidence, and the local part of the displacement where there is one."""
    shape = alignment.confidence.shape
    step = max(1, -(-max(shape) // LARGEST_MAP))
    small = alignment.confidence[::step, ::step]
    drawn = {"confidence": plots.map_plot(small, "confidence", 1.0, _pixels(step))}
    panels = []
    for name, ties in (("before", alignment.ties_before), ("after", alignment.ties_after)):
        if len(ties):
            rmse = float(np.sqrt((ties[:, 2:] ** 2).sum(1).mean()))
            panels.append((f"{name}: RMSE {_figure(rmse)} px", ties[:, :2].T, ties[:, 2:].T))
    if panels:
        drawn["ties"] = plots.arrows_plot(panels, shape)
    local = alignment.local_px
    if local is not None:
        rows, columns = (np.linspace(0, n - 1, min(n, MOST_ARROWS)).astype(int) for n in local.shape[1:])
        x, y = (
            at / (n - 1) * side
            for at, n, side in zip((columns, rows), local.shape[:0:-1], shape[::-1], strict=True)
        )
        places = np.stack([each.ravel() for each in np.meshgrid(x, y)])
        moves = local[:, rows[:, None], columns].reshape(2, -1)
        rms = float(np.sqrt((local**2).sum(0).mean()))
        drawn["local"] = plots.arrows_plot([(f"RMS {_figure(rms)} px", places, moves)], shape)
    return drawn


def _pixels(step: int) -> str:
    return "fine pixels" if step == 1 else f"{step} fine pixels"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hsi_fuse", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _figure
    environment.filters["middle"] = _middle
    return environment


def _figure(value: Any, digits: int = 3) -> str:
    """A number for people: three significant digits, a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        text = f"{value:.{digits}g}"
        return f"{value:.0f}" if "e+" in text and abs(value) < 1e9 else text
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_figure(v, digits) for v in value)
    return str(value)


def _middle(values: Sequence[float | None]) -> float | None:
    """The median of the sizes of what is there."""
    sizes = sorted(abs(v) for v in values if v is not None)
    return sizes[len(sizes) // 2] if sizes else None


def _flat(
    mapping: Mapping[str, Any],
    prefix: str = "",
    without: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
) -> list[tuple[str, str]]:
    """Rows (name, text) of a nested mapping; long lists are told by their length."""
    rows = []
    for key, value in mapping.items():
        if key in without:
            continue
        name = (labels or {}).get(key, f"{prefix}{key}".replace("_", " "))
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key} › ")
        elif isinstance(value, list) and 0 < len(value) <= 12 and all(isinstance(v, Mapping) for v in value):
            for i, entry in enumerate(value):
                rows += _flat(entry, f"{prefix}{key} › {entry.get('name', i + 1)} › ", without=("name",))
        elif isinstance(value, list) and (
            len(value) > 12 or any(isinstance(v, list | Mapping) for v in value)
        ):
            rows.append((name, f"{len(value)} entries (in quality.json)"))
        else:
            rows.append((name, _figure(value, 4)))
    return rows


def _band_names(bands: Sequence[int], wavelengths_nm: Sequence[float] | None) -> str:
    if wavelengths_nm is None:
        return "bands " + ", ".join(str(b + 1) for b in bands)
    return ", ".join(f"{wavelengths_nm[b]:.0f}" for b in bands) + " nm"


def _percent(*shares: float) -> list[str]:
    return [f"{100 * share:.3f}%" for share in shares]
