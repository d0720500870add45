"""Spectral responses of guides: nominal ones from band edges, measured ones from a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.errors import ReadError

Edges = tuple[tuple[float, float], ...]

RGB: Edges = ((450, 520), (520, 600), (630, 690))
MS4: Edges = (*RGB, (760, 855))
PAN: Edges = ((450, 855),)
SHARP: Edges = ((452, 512), (533, 590), (636, 673))
ALI: Edges = (
    *((422.5, 462.5), (432.5, 550), (500, 630), (577.5, 750), (752.5, 837.5)),
    *((802.5, 935), (1130, 1345), (1470, 1820), (1980, 2530)),
)
"""The multispectral bands of EO-1's Advanced Land Imager: MS-1', 1, 2, 3, 4, 4', 5', 5, 7."""


@dataclass(frozen=True)
class ResponseTable:
    """Measured responses.

    Attributes
    ----------
    wavelengths_nm : tuple of float (p)
        Rising.
    responses : m tuples of float (p)
        One for each guide band, in any unit.
    """

    wavelengths_nm: tuple[float, ...]
    responses: tuple[tuple[float, ...], ...]

    def rows(self, wavelengths_nm: NDArray[np.float64]) -> Tensor:
        """As `srf_rows`: interpolated linearly, 0 outside the table."""
        known, wanted = self.wavelengths_nm, np.asarray(wavelengths_nm, float)
        response = np.stack([np.interp(wanted, known, r, left=0, right=0) for r in self.responses])
        seen = [np.flatnonzero(r)[[0, -1]] for r in self.responses]
        return _summing_to_one(response, [(known[a], known[b]) for a, b in seen], wanted)


NIKON_D700 = ResponseTable(
    tuple(range(400, 701, 10)),
    (
        (
            *(0.005, 0.007, 0.012, 0.015, 0.023, 0.025, 0.03, 0.026, 0.024, 0.019, 0.01, 0.004),
            *([0.0] * 19),
        ),
        (
            *([0.0] * 5),
            *(0.001, 0.002, 0.003, 0.005, 0.007, 0.012, 0.013, 0.015, 0.016, 0.017, 0.02, 0.013, 0.011),
            *(0.009, 0.005, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.002, 0.002, 0.003),
        ),
        (
            *([0.0] * 16),
            *(0.001, 0.003, 0.01, 0.012, 0.013, 0.022, 0.02, 0.02, 0.018, 0.017, 0.016, 0.016, 0.014),
            *(0.014, 0.013),
        ),
    ),
)
"""A camera's blue, green and red, as the CAVE experiments of the literature use them."""


def srf_rows(wavelengths_nm: NDArray[np.float64], edges_nm: Sequence[tuple[float, float]]) -> Tensor:
    """Nominal flat-topped responses: exp(-ln 2 |x|^6), x = 1 at a band's edges.

    Parameters
    ----------
    wavelengths_nm : ndarray (n,)
    edges_nm : (lower, upper) of each of m bands

    Returns
    -------
    Tensor (m, n), float32
        Rows sum to 1; responses under 1e-3 are dropped.

    Raises
    ------
    ReadError
        A guide band sees none of the wavelengths.
    """
    lower, upper = np.array(edges_nm, float).T[:, :, None]  # (m, 1) each
    x = (np.asarray(wavelengths_nm, float) - (lower + upper) / 2) / ((upper - lower) / 2)
    response = np.exp(-math.log(2) * np.minimum(np.abs(x), 10) ** 6)
    response[response < 1e-3] = 0
    return _summing_to_one(response, edges_nm, wavelengths_nm)


def _summing_to_one(
    response: NDArray[np.float64],
    edges_nm: Sequence[tuple[float, float]],
    wavelengths_nm: NDArray[np.float64],
) -> Tensor:
    total = response.sum(1, keepdims=True)
    if not total.all():
        missing = [f"{a:g}-{b:g}" for (a, b), t in zip(edges_nm, total[:, 0], strict=True) if t == 0]
        raise ReadError(
            f"no band of the cube lies within the guide band {', '.join(missing)} nm "
            f"(the cube: {np.min(wavelengths_nm):g}-{np.max(wavelengths_nm):g} nm)"
        )
    return torch.from_numpy((response / total).astype(np.float32))
