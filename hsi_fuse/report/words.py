"""The report's words: names of figures, numbers for people, tables of what is nested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
"""How the page names the figures of `prepare.align`; others appear under their own names."""
GROUPS = {
    "Position": ("registration", "position", "place"),
    "Sensor model": ("response", "blur"),
    "Spectra": ("spectra", "radiometry", "bands"),
    "Detail": ("detail", "sharpness", "noise"),
    "Proof": ("synthesis",),
    "Integrity": ("integrity",),
}
"""The headings under which the page shows the lights."""


def grouped(lights: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The lights under the headings of `GROUPS`."""
    return [(name, [e for e in lights if e["name"] in members]) for name, members in GROUPS.items()]


def figure_text(value: Any, digits: int = 3) -> str:
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
        return ", ".join(figure_text(v, digits) for v in value)
    return str(value)


def middle(values: Sequence[float | None]) -> float | None:
    """The median of the sizes of what is there."""
    sizes = sorted(abs(v) for v in values if v is not None)
    return sizes[len(sizes) // 2] if sizes else None


def flat(
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
            rows += flat(value, f"{prefix}{key} › ")
        elif isinstance(value, list) and 0 < len(value) <= 12 and all(isinstance(v, Mapping) for v in value):
            for i, entry in enumerate(value):
                rows += flat(entry, f"{prefix}{key} › {entry.get('name', i + 1)} › ", without=("name",))
        elif isinstance(value, list) and (
            len(value) > 12 or any(isinstance(v, list | Mapping) for v in value)
        ):
            rows.append((name, f"{len(value)} entries (in quality.json)"))
        else:
            rows.append((name, figure_text(value, 4)))
    return rows


def band_names(bands: Sequence[int], wavelengths_nm: Sequence[float] | None) -> str:
    if wavelengths_nm is None:
        return "bands " + ", ".join(str(b + 1) for b in bands)
    return ", ".join(f"{wavelengths_nm[b]:.0f}" for b in bands) + " nm"
