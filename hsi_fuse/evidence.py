"""Does this guide show this place? What speaks for it, and how probable it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

LOGIT = -7.2
"""Log-odds at no information and nothing tied.

The constants are a logistic regression on right and wrong pairs of seven scenes (docs/lab-notes.md)."""
LOGIT_PER_NAT = 3.75
LOGIT_OF_TIES = 3.3
ENOUGH_TIED = 0.3
"""Beyond this share, more ties say nothing more: flat blocks have none anywhere."""


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
        Standard error of a place by the fit's covariance (RMS over the scene); nan where nothing was fitted.
    """

    unexplained: float
    information: float
    tied: float
    deviation_hsi_px: float

    @property
    def probability(self) -> float:
        """How probable it is that the guide shows this place, 0 to 1; nan where nothing was fitted."""
        if math.isnan(self.deviation_hsi_px):
            return math.nan
        ties = min(self.tied, ENOUGH_TIED) / ENOUGH_TIED
        logit = LOGIT + LOGIT_PER_NAT * self.information + LOGIT_OF_TIES * ties
        return 0.5 * (1 + math.tanh(logit / 2))  # the logistic function, without overflow
