"""Map-land's side of registration: the start, the one resampling, the residual error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from affine import Affine
from numpy.typing import NDArray


@dataclass(frozen=True)
class Alignment:
    """Where each target pixel lies in the guide.

    Attributes
    ----------
    hsi_to_guide : Affine
        (column, row) on the refined HSI grid -> (column, row) on the guide's full native grid, both corner-based
        (a pixel's centre is at +0.5).
    displacement_px : ndarray (2, H, W), float32, or None
        (column, row) added after `hsi_to_guide`, guide pixels; what an affine cannot express (map projections).
    confidence : ndarray (H, W), float32
        0 to 1.
    error_px : float
        Residual error in refined-HSI pixels (RMS over held-out tie points, or the fit's own standard error).
    found : mapping
        Figures of the search and the fit; JSON-ready.
    """

    hsi_to_guide: Affine
    displacement_px: NDArray[np.float32] | None
    confidence: NDArray[np.float32]
    error_px: float
    found: Mapping[str, object] = field(default_factory=dict)
