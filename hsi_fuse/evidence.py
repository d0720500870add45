"""Does this guide show this place? What speaks for it, and how probable it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Evidence:
    """What speaks for a mapping.

    Attributes
    ----------
    unexplained : float
        Share of the guide's variance that stays unexplained at pixels that took no part in the fit.
    information : float
        What the HSI says of the guide there, nats for each pixel and band (see `fit.information`).
    tied : float
        Share of blocks that find their own place near the mapping's.
    deviation_hsi_px : float
        Standard error of a place by the fit's covariance (RMS over the scene).
    """

    unexplained: float
    information: float
    tied: float
    deviation_hsi_px: float
