"""Does this guide show this place? What speaks for it, and how probable it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

LOGIT, LOGIT_PER_NAT, LOGIT_PER_LOG_TIED = 2.5, 1.9, 2.1
"""A logistic regression on right and wrong pairs of seven scenes (docs/lab-notes.md)."""
NEARLY_UNTIED, ENOUGH_TIED = 0.02, 0.3
"""Shares of tied blocks: added before the logarithm; beyond which more say nothing more."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for a mapping.

    Attributes
    ----------
    unexplained : float
        Share of the guide's variance that stays unexplained at pixels that took no part in the fit.
    information : float
        What the HSI says of the guide there, nats for each pixel and band (see `robust.information`).
    ties, blocks : int
        How many blocks find their own place near the mapping's, and of how many.
    deviation_hsi_px : float
        Standard error of a place by the fit's covariance (RMS over the scene); nan where nothing was fitted.
    """

    unexplained: float
    information: float
    ties: int
    blocks: int
    deviation_hsi_px: float

    @property
    def tied(self) -> float:
        """Share of blocks that find their own place near the mapping's."""
        return self.ties / max(self.blocks, 1)

    @property
    def probability(self) -> float:
        """How probable it is that the guide shows this place, 0 to 1; nan where nothing was fitted."""
        if math.isnan(self.deviation_hsi_px):
            return math.nan
        # less a standard deviation of the count: of many blocks one may tie anywhere by chance
        surely = (self.ties - math.sqrt(self.ties)) / max(self.blocks, 1)
        tied = math.log(min(surely, ENOUGH_TIED) + NEARLY_UNTIED)
        logit = LOGIT + LOGIT_PER_NAT * self.information + LOGIT_PER_LOG_TIED * tied
        return 0.5 * (1 + math.tanh(logit / 2))  # the logistic function, without overflow
