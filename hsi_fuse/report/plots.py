"""The plots of the report as SVG data URIs, for light and for dark pages.

Colours are Okabe and Ito's, which the colour-blind tell apart; line styles repeat what colours say.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image as Pillow

from hsi_fuse.report.pictures import Image, Spectrum

INK, GRID = "#333333", "#dddddd"
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
PRODUCT, PLAIN = CYCLE[:2]
CYCLE_ON_DARK = ("#56b4e9", "#e69f00", "#2bd4a5", "#e5a3c8", "#f0e442", "#a5d8ff", "#ffffff")
ON_DARK = {INK: "#dddddd", GRID: "#444444", **dict(zip(CYCLE, CYCLE_ON_DARK, strict=True))}
"""What each colour becomes on a dark page."""
STYLES = ("-", "--", "-.", ":")
MAP_CELLS = 320
"""Of a map along its longer side: finer ones would not be seen, and eight of them fill a page."""

Plot = Mapping[str, str]  # {"uri": data URI, "width": pixels on the page}
Arrows = tuple[str, NDArray[Any], NDArray[Any]]  # name; places and moves (2, N), columns and rows


def drawn(draw: Callable[[Figure], None], width: float, height: float) -> Plot:
    """Draw once, as SVG whose colours follow the page's scheme; width and height in inches (100 page pixels).

    Letters are outlines: they look the same, and fit, whatever fonts there are.
    """
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    canvas = FigureCanvasSVG(figure)
    draw(figure)
    for axes in figure.axes:
        _paint(axes)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine("none")
    buffer = io.StringIO()
    # without a salt and with a date two runs would differ
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "hsi-fuse"}):
        # `savefig` would draw all of it once before, to lay it out
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return {"uri": _uri("svg+xml", _schemed(buffer.getvalue()).encode()), "width": f"{100 * width:.0f}"}


def _schemed(svg: str) -> str:
    """A drawing whose colours are variables, with another value where the page is dark."""
    names = {colour: f"--c{i}" for i, colour in enumerate(ON_DARK)}
    for colour, name in names.items():
        svg = svg.replace(colour, f"var({name})")
    light, dark = (
        ";".join(f"{name}:{values[colour]}" for colour, name in names.items())
        for values in ({colour: colour for colour in names}, ON_DARK)
    )
    style = f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return svg.replace("<defs>", f"<style>{style}</style><defs>", 1)


def picture_uri(image: Image, *, exact: bool = False, quality: int = 88, size: float = 1.0) -> str:
    """An (H, W, 3) picture, or a grey one (H, W), as data URI: JPEG, or PNG where pixels are looked at.

    `size`: of its sides, as a share; what is made smaller is averaged.
    """
    picture, buffer = Pillow.fromarray(np.ascontiguousarray(image)), io.BytesIO()
    if size < 1:
        sides = [max(1, round(size * side)) for side in picture.size]
        picture = picture.resize((sides[0], sides[1]), Pillow.Resampling.BOX)
    if exact:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=quality)
    return _uri("png" if exact else "jpeg", buffer.getvalue())


def spectra_plot(spectra: Sequence[Spectrum], wavelengths_nm: Sequence[float] | None) -> Plot:
    """One panel a pixel: interpolation dashed, product solid, two deviations around it where known."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(spectra), squeeze=False, sharey=True)[0]
        for axes, spectrum in zip(panels, spectra, strict=True):
            for values, name, colour, style in (
                (spectrum.before, "interpolation", PLAIN, "--"),
                (spectrum.after, "product", PRODUCT, "-"),
            ):
                axes.plot(*_by_wavelength(wavelengths_nm, values), style, color=colour, lw=1.3, label=name)
            if spectrum.sigma is not None:
                low, high = (spectrum.after + sign * 2 * spectrum.sigma for sign in (-1, 1))
                x, low = _by_wavelength(wavelengths_nm, low)
                band = axes.fill_between(x, low, _by_wavelength(wavelengths_nm, high)[1], lw=0, alpha=0.25)
                band.set_color(PRODUCT)
            axes.set_title(f"{spectrum.name}: row {spectrum.row}, column {spectrum.column}", fontsize=9)
            axes.set_xlabel(_axis_name(wavelengths_nm))
        panels[0].legend(fontsize=8, frameon=False, labelcolor=INK)
        panels[0].set_ylabel("value")

    return drawn(draw, 2.6 * max(len(spectra), 1), 2.5)


def srf_plot(
    srf: Sequence[Sequence[float]],
    wavelengths_nm: Sequence[float] | None,
    nominal: Sequence[Sequence[float]] = (),
) -> Plot:
    """The learned spectral responses, each divided by its peak; nominal ones, where known, thin."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for i, row in enumerate(np.asarray(srf, float)):
            x, y = _by_wavelength(wavelengths_nm, row / max(row.max(), 1e-30))
            colour, style = CYCLE[i % len(CYCLE)], STYLES[i // 2 % len(STYLES)]
            axes.plot(x, y, style, color=colour, lw=1.5, label=f"band {i + 1}")
            if i < len(nominal):
                known = np.asarray(nominal[i], float)
                x, y = _by_wavelength(wavelengths_nm, known / max(known.max(), 1e-30))
                axes.plot(x, y, color=colour, lw=0.6, alpha=0.7)
        shown = min(len(srf), 5)
        figure.legend(loc="outside upper center", fontsize=8, frameon=False, labelcolor=INK, ncols=shown)
        axes.set_xlabel(_axis_name(wavelengths_nm))
        axes.set_ylabel("response / peak")

    return drawn(draw, 5.2, 3.0)


def psf_plot(psf: Sequence[Sequence[float]], ratio: int) -> Plot:
    """The learned PSF with the outline of one HSI pixel."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        values = np.asarray(psf, float)
        reach = values.shape[0] / 2
        shown = axes.imshow(
            values, cmap="cividis", extent=(-reach, reach, reach, -reach), interpolation="none"
        )
        edge = np.array([-1, 1, 1, -1, -1]) * ratio / 2
        axes.plot(edge, np.roll(edge, 1)[[0, 1, 2, 3, 0]], color="white", lw=1.2, ls="--")
        axes.set_xlabel("fine pixels (dashed: one input pixel)")
        _colour_bar(figure, shown, axes, "weight")

    return drawn(draw, 3.6, 3.0)


def map_plot(
    values: NDArray[Any], label: str, top: float | None = None, pixels: str = "input pixels"
) -> Plot:
    """A map (h, w) from 0 to `top`, or to its own 98th percentile; nothing where it is NaN."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        found = values[np.isfinite(values)]
        high = top if top is not None else float(np.percentile(found, 98)) if found.size else 1.0
        shown = _image(axes, values, cmap="cividis", vmin=0, vmax=max(high, 1e-6))
        axes.set_xlabel(f"{pixels} (columns)")
        axes.set_ylabel("rows")
        _colour_bar(figure, shown, axes, label)

    rows, columns = values.shape
    return drawn(draw, 5.0, float(np.clip(5.0 * rows / columns, 2.0, 6.5)))


def error_plot(values: NDArray[Any], label: str, pixels: str) -> Plot:
    """A map (h, w) of errors of either sign, symmetric about 0; nothing where it is NaN."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        found = np.abs(values[np.isfinite(values)])
        high = max(float(np.percentile(found, 98)) if found.size else 1.0, 1e-6)
        shown = _image(axes, values, cmap="PuOr_r", vmin=-high, vmax=high)
        axes.set_xlabel(f"{pixels} (columns)")
        axes.set_ylabel("rows")
        _colour_bar(figure, shown, axes, label)

    rows, columns = values.shape
    return drawn(draw, 5.0, float(np.clip(5.0 * rows / columns, 2.0, 6.5)))


def histogram_plot(panels: Sequence[tuple[str, NDArray[Any]]]) -> Plot:
    """Histograms of maps side by side, up to their 0.5th and 99.5th percentile; the median is marked."""

    def draw(figure: Figure) -> None:
        for axes, (label, values) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            found = values[np.isfinite(values)]
            if found.size:
                low, high = np.percentile(found, (0.5, 99.5))
                span = (low, high) if high > low else (low - 0.5, low + 0.5)
                axes.hist(found, bins=60, range=span, color=PRODUCT)
                axes.axvline(float(np.median(found)), color=PLAIN, ls="--", lw=1.3)
            axes.set_xlabel(label)
            axes.set_yticks([])

    return drawn(draw, 3.4 * len(panels), 2.4)


def history_plot(history: Sequence[Mapping[str, float]]) -> Plot:
    """A training: what each check recorded, against the step, on a logarithmic scale where positive."""
    names = [name for name in history[0] if name != "step"]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for i, name in enumerate(names):
            steps = [entry["step"] for entry in history]
            values = [entry.get(name, np.nan) for entry in history]
            axes.plot(
                steps, values, STYLES[i % len(STYLES)], color=CYCLE[i % len(CYCLE)],
                lw=1.5, label=name.replace("_", " "),
            )  # fmt: skip
        if all(entry.get(name, 1) > 0 for entry in history for name in names):
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)

    return drawn(draw, 5.2, 2.8)


def arrows_plot(panels: Sequence[Arrows], shape: tuple[int, int]) -> Plot:
    """Moves at places of an image of (H, W) pixels: one or two panels, each with a scale of its own."""

    def draw(figure: Figure) -> None:
        row = figure.subplots(1, len(panels), squeeze=False)[0]
        colours = (PLAIN, PRODUCT)[-len(panels) :]
        for axes, colour, (name, places, moves) in zip(row, colours, panels, strict=True):
            unit = _round_length(float(np.quantile(np.hypot(*moves), 0.9)))
            scale = unit / (0.1 * max(shape))
            drawn = axes.quiver(
                *places, *moves, color=colour, angles="xy", scale_units="xy", scale=scale, width=0.006
            )
            axes.quiverkey(
                drawn, 0.88, 1.04, unit, f"{unit:g} px",
                labelpos="W", labelcolor=INK, fontproperties={"size": 8},
            )  # fmt: skip
            axes.set_xlim(0, shape[1])
            axes.set_ylim(shape[0], 0)
            axes.set_aspect("equal")
            axes.set_title(name, fontsize=9, loc="left", color=INK)
            axes.set_xlabel("fine pixels (columns)")
            axes.set_ylabel("rows")

    width = 4.0 * len(panels)
    return drawn(draw, width, float(np.clip(4.0 * shape[0] / shape[1], 2.0, 6.0)) + 0.5)


def outlines_plot(outlines: Sequence[tuple[str, NDArray[Any]]]) -> Plot:
    """Borders (2, n) on one map, each with its name and a mark at its middle: it may be small from afar."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for (name, border), colour, style in zip(outlines, CYCLE, STYLES, strict=False):
            axes.plot(*border, style, color=colour, lw=1.3)
            middle = (border.min(1) + border.max(1)) / 2
            axes.plot(*middle, "+", color=colour, ms=8, label=name)
        axes.set_aspect("equal", adjustable="datalim")
        axes.ticklabel_format(useOffset=False, style="plain")
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("x")
        axes.set_ylabel("y")
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)

    return drawn(draw, 5.2, 3.6)


def _round_length(length: float) -> float:
    """The nearest of 1, 2 or 5 times a power of ten."""
    steps = np.outer(10.0 ** np.arange(-4, 5), (1, 2, 5)).ravel()
    return float(steps[np.abs(np.log(steps / max(length, 1e-4))).argmin()])


def bands_plot(fidelity: Mapping[str, Mapping[str, Any]], wavelengths_nm: Sequence[float] | None) -> Plot:
    """Per-band RMSE, relative bias and correlation of both methods, degraded, against the input."""
    rows = (("rmse", "RMSE", 1.0), ("relative_bias", "bias / mean (%)", 100.0), ("cc", "correlation", 1.0))

    def draw(figure: Figure) -> None:
        for axes, (key, label, factor) in zip(figure.subplots(1, 3), rows, strict=True):
            for name, colour, style in (("interpolation", PLAIN, "--"), ("product", PRODUCT, "-")):
                values = np.array(fidelity[name]["bands"][key], float) * factor
                axes.plot(*_by_wavelength(wavelengths_nm, values), style, color=colour, lw=1.3, label=name)
            axes.set_title(label, fontsize=9)
            axes.set_xlabel(_axis_name(wavelengths_nm))
        figure.axes[0].legend(fontsize=8, frameon=False, labelcolor=INK)

    return drawn(draw, 10.0, 2.6)


def sigma_plot(sigma: Sequence[float], wavelengths_nm: Sequence[float] | None) -> Plot:
    """The product's mean standard deviation in each band."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(*_by_wavelength(wavelengths_nm, np.array(sigma, float)), color=PRODUCT, lw=1.3)
        axes.set_title("standard deviation", fontsize=9)
        axes.set_xlabel(_axis_name(wavelengths_nm))
        axes.set_ylim(bottom=0)

    return drawn(draw, 5.0, 2.6)


def _by_wavelength(
    wavelengths_nm: Sequence[float] | None, values: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Abscissa and values in order; a NaN breaks the line where bands are missing."""
    y = np.asarray(values, float)
    if wavelengths_nm is None:
        return np.arange(1, y.size + 1, dtype=float), y
    x = np.asarray(wavelengths_nm, float)
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    gaps = np.diff(x)
    if gaps.size:
        breaks = np.flatnonzero(gaps > 4 * np.median(gaps)) + 1
        x, y = np.insert(x, breaks, x[breaks - 1]), np.insert(y, breaks, np.nan)
    return x, y


def _axis_name(wavelengths_nm: Sequence[float] | None) -> str:
    return "band" if wavelengths_nm is None else "wavelength (nm)"


def _image(axes: Any, values: NDArray[Any], **how: Any) -> Any:
    """A map (h, w) in its own pixels; of a large one, means over square cells of those that have a value."""
    step = -(-max(values.shape) // MAP_CELLS)
    height, width = (-(-side // step) for side in values.shape)
    rim = [(0, size * step - side) for size, side in zip((height, width), values.shape, strict=True)]
    cells = np.pad(values.astype(float), rim, constant_values=np.nan)
    cells = cells.reshape(height, step, width, step).swapaxes(1, 2).reshape(height, width, -1)
    there = np.isfinite(cells)
    count = there.sum(-1)
    means = np.where(count > 0, np.where(there, cells, 0).sum(-1) / np.maximum(count, 1), np.nan)
    edges = (-0.5, width * step - 0.5, height * step - 0.5, -0.5)
    return axes.imshow(means, extent=edges, interpolation="none", **how)


def _colour_bar(figure: Figure, shown: Any, axes: Any, label: str) -> None:
    bar = figure.colorbar(shown, ax=axes, shrink=0.9)
    bar.set_label(label, color=INK, fontsize=8)


def _paint(axes: Any) -> None:
    """Bring axes to the page's colours."""
    axes.patch.set_facecolor("none")
    for item in (axes.title, axes.xaxis.label, axes.yaxis.label):
        item.set_color(INK)
    axes.xaxis.label.set_size(8)
    axes.yaxis.label.set_size(8)
    axes.tick_params(which="both", colors=INK, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom") or bool(axes.images))
    if not axes.images and axes.get_label() != "<colorbar>":
        axes.grid(color=GRID, lw=0.6)
        axes.set_axisbelow(True)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
