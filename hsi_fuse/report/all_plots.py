"""Which plots a report has, and of what."""

from __future__ import annotations

import numpy as np

from hsi_fuse.align import Alignment
from hsi_fuse.quality.assess import Quality
from hsi_fuse.report import plots
from hsi_fuse.report.pictures import Pictures
from hsi_fuse.report.words import figure_text

LARGEST_MAP = 512
"""Pixels along the longer side of a map that is drawn."""
MOST_ARROWS = 12
"""Along each side."""


def report_plots(quality: Quality, pictures: Pictures, alignment: Alignment | None) -> dict[str, plots.Plot]:
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
            panels.append((f"{name}: RMSE {figure_text(rmse)} px", ties[:, :2].T, ties[:, 2:].T))
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
        drawn["local"] = plots.arrows_plot([(f"RMS {figure_text(rms)} px", places, moves)], shape)
    return drawn


def _pixels(step: int) -> str:
    return "fine pixels" if step == 1 else f"{step} fine pixels"
