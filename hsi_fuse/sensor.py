"""Sensor: how the two instruments see the scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.errors import SolveError

LEAST_RESPONSE = 0.05


@dataclass(frozen=True)
class Sensor:
    """Spectral and spatial response that tie HSI and guide together.

    Attributes
    ----------
    srf : Tensor (m, n)
        Guide band i = srf[i] @ spectrum + offset[i]. Non-negative; carries the radiometric gain (HSI units ->
        guide units).
    offset : Tensor (m,)
    psf : Tensor (p, p)
        Blur from the fine grid to the HSI, non-negative, sums to 1, centred; p and ratio of one parity.
    ratio : int
        Fine pixels per HSI pixel along one axis.
    found : mapping
        How each was found, and the figures of the fit; JSON-ready.
    """

    srf: Tensor
    offset: Tensor
    psf: Tensor
    ratio: int
    found: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ratio < 1:
            raise SolveError(f"sensor: the ratio must be at least 1, got {self.ratio}")
        if self.psf.ndim != 2 or self.psf.shape[0] != self.psf.shape[1]:
            raise SolveError(f"sensor: the PSF must be square, got {tuple(self.psf.shape)}")
        if (self.psf.shape[0] - self.ratio) % 2:
            raise SolveError(
                f"sensor: PSF size {self.psf.shape[0]} and ratio {self.ratio} must be of one parity"
            )
        if bool((self.psf < 0).any()) or abs(float(self.psf.sum()) - 1) > 1e-4:
            raise SolveError(
                f"sensor: the PSF must be non-negative and sum to 1, it sums to {float(self.psf.sum()):g}"
            )
        if bool((self.srf < 0).any()) or self.offset.shape != (self.srf.shape[0],):
            raise SolveError("sensor: the SRF must be non-negative, with one offset for each guide band")

    def with_bands(self, order: Sequence[int] | NDArray[np.intp]) -> Sensor:
        """The sensor for an HSI whose band i is this one's band `order[i]`: nominal responses move along."""
        order, found = np.asarray(order), dict(self.found)
        if "srf_nominal" in found:
            found["srf_nominal"] = np.asarray(found["srf_nominal"])[:, order].tolist()
        return replace(self, srf=self.srf[:, torch.from_numpy(order)], found=found)

    @property
    def seen(self) -> Tensor:
        """HSI bands (n,) to which a guide band responds with more than 5 % of its largest response."""
        return (self.srf > LEAST_RESPONSE * self.srf.amax(1, keepdim=True).clamp_min(1e-30)).any(0)

    @property
    def psf_fwhm(self) -> tuple[float, float]:
        """Full width at half maximum (rows, columns) in fine pixels, of a Gaussian of the PSF's variances."""
        size = self.psf.shape[0]
        offsets = torch.arange(size, dtype=self.psf.dtype, device=self.psf.device) - (size - 1) / 2
        row, column = self.psf.sum(1), self.psf.sum(0)
        return 2.3548 * float((row * offsets**2).sum()) ** 0.5, 2.3548 * float(
            (column * offsets**2).sum()
        ) ** 0.5
