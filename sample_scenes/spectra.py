"""Reflectance spectra from a few formulas, shaped after what field spectrometers see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Spectrum = NDArray[np.float64]


def _step(wl: Spectrum, centre: float, width: float) -> Spectrum:
    """0 below, 1 above: a logistic edge."""
    return 1 / (1 + np.exp(-(wl - centre) / width))


def _bump(wl: Spectrum, centre: float, sigma: float) -> Spectrum:
    return np.exp(-0.5 * ((wl - centre) / sigma) ** 2)


def leaf(
    wl: Spectrum, chlorophyll: float, plateau: float, water: float = 0.1, edge: float = 712.0
) -> Spectrum:
    """A canopy: infrared plateau, dimmed by pigments (Beer-Lambert) and by water at 970 nm."""
    absorption = (
        1.35 * _step(-wl, -edge + 8, 9)  # everything left of the red edge
        + 1.2 * _bump(wl, 672, 24)  # chlorophyll a
        + 0.3 * _bump(wl, 625, 25)
        + 1.2 * _step(-wl, -514, 13)  # chlorophyll and carotenoids in the blue
    )
    slope = 1 + 0.06 * (wl - 800) / 200
    return plateau * slope * np.exp(-chlorophyll * absorption - water * _bump(wl, 972, 26))


def soil(wl: Spectrum, brightness: float, bend: float = 420.0, iron: float = 0.12) -> Spectrum:
    """A smooth convex rise with the weak iron bands at 480 and 880 nm."""
    rise = 1 - np.exp(-(wl - 330) / bend)
    return brightness * rise * (1 - iron * _bump(wl, 480, 35)) * (1 - iron / 2 * _bump(wl, 880, 60))


def library(wl: Spectrum) -> dict[str, Spectrum]:
    """The materials of the scene, each (n,) reflectance 0..1."""
    straw = 0.46 * (1 - np.exp(-(wl - 340) / 330)) * (1 - 0.12 * _bump(wl, 672, 20))
    return {
        "lawn": leaf(wl, 1.0, 0.46),
        "crop": leaf(wl, 1.25, 0.54, 0.14, 718),
        "tree": leaf(wl, 1.35, 0.40, 0.12, 715),
        "straw": straw,
        "soil": soil(wl, 0.36),
        "moist soil": soil(wl, 0.17, 480, 0.18) * (1 - 0.1 * _bump(wl, 972, 26)),
        "water": 0.012
        + 0.016 * _step(-wl, -700, 25)
        + 0.03 * _bump(wl, 545, 60) * (1 - 0.2 * _bump(wl, 672, 12)),
        "asphalt": 0.075 + 0.05 * (1 - np.exp(-(wl - 400) / 260)),
        "concrete": 0.16 + 0.16 * (1 - np.exp(-(wl - 400) / 170)),
        "red tile": 0.055
        + 0.25 * _step(wl, 588, 19) * (1 - 0.18 * _bump(wl, 870, 55))
        + 0.05 * _step(wl, 740, 25),
        "slate": 0.10 + 0.02 * _bump(wl, 470, 50) + 0.015 * (wl - 420) / 580,
        "blue metal": 0.07 + 0.27 * _bump(wl, 462, 42) + 0.3 * _step(wl, 775, 28) - 0.05 * _bump(wl, 620, 50),
        "white paint": 0.62 * (1 - np.exp(-(wl - 345) / 38)) * (1 - 0.04 * (wl - 420) / 580),
        "clay court": 0.10 + 0.2 * _step(wl, 572, 24) * (1 - 0.1 * _bump(wl, 860, 60)),
        "red paint": 0.05 + 0.5 * _step(wl, 602, 9),
    }


def sky_share(wl: Spectrum) -> Spectrum:
    """Share of the irradiance on open ground that comes from the sky: the colour of shadow."""
    return 0.13 * (wl / 550) ** -2.2
