"""VNIR and SWIR of one image can lie apart by part of a pixel: find it from the image itself, and undo it.

Two detectors behind one slit see the same ground through different optics. What the VNIR bands say of the
SWIR bands, as everywhere in registration by the best linear map, is best where they lie on each other.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

from hsi_fuse.align import fill_holes
from hsi_fuse.errors import AlignmentError, HsiFuseWarning
from hsi_fuse.raster import Raster
from hsi_fuse.registration.fit import fit
from hsi_fuse.registration.warp import Observer, Pair
from hsi_fuse.subspace import fill_nearest, learn_subspace

BOUNDARY_NM = 1000.0
"""Silicon ends here."""
LEAST_BANDS = 8
VNIR_DIMENSIONS, SWIR_DIMENSIONS = 10, 3
LEAST_SHIFT_PX = 0.15
"""Below, resampling costs more than it mends."""
CERTAIN = 5.0
"""Standard errors."""


@dataclass(frozen=True)
class DetectorShift:
    """Where the SWIR bands show what the VNIR bands show at a pixel.

    Attributes
    ----------
    columns, rows : float
        Further to the right, and further down, HSI pixels.
    deviation : float
        Standard error (root of both axes' variances), HSI pixels.
    corrected : bool
    """

    columns: float
    rows: float
    deviation: float
    corrected: bool

    def figures(self) -> dict[str, Any]:
        """What the report says, JSON-ready."""
        return {
            "swir_shift_hsi_px": [self.columns, self.rows],
            "swir_shift_deviation_hsi_px": self.deviation,
            "swir_shift_corrected": self.corrected,
        }


def align_detectors(hsi: Raster) -> tuple[Raster, DetectorShift | None]:
    """The image with SWIR bands moved onto the VNIR bands, where they clearly lie apart.

    Parameters
    ----------
    hsi : Raster (n, h, w)

    Returns
    -------
    Raster
        The same where there is nothing to mend. Moved bands are resampled by cubic splines.
    DetectorShift or None
        None without wavelengths, without enough bands on both detectors, or where the fit fails.
    """
    if hsi.wavelengths_nm is None:
        return hsi, None
    swir = np.asarray(hsi.wavelengths_nm) > BOUNDARY_NM
    if min((swir & hsi.good_bands).sum(), (~swir & hsi.good_bands).sum()) < LEAST_BANDS:
        return hsi, None
    found = _shift(hsi, swir)
    if found is None:
        return hsi, None
    columns, rows, deviation = found
    length = float(np.hypot(columns, rows))
    if length < max(LEAST_SHIFT_PX, CERTAIN * deviation):
        return hsi, DetectorShift(columns, rows, deviation, False)
    warnings.warn(
        f"the bands beyond {BOUNDARY_NM:g} nm lie {columns:+.2f} columns, {rows:+.2f} rows off the others: "
        "they were moved onto them (cubic splines)",
        HsiFuseWarning,
        stacklevel=2,
    )
    values = hsi.values.copy()
    values[swir] = _moved(hsi.values[swir], hsi.valid, (rows, columns))
    return replace(hsi, values=values), DetectorShift(columns, rows, deviation, True)


def _shift(hsi: Raster, swir: NDArray[np.bool_]) -> tuple[float, float, float] | None:
    """Columns, rows and their standard error."""
    weight = torch.from_numpy(hsi.valid).float()

    def coefficients(bands: NDArray[np.bool_], dimensions: int) -> torch.Tensor:
        values = torch.from_numpy(np.ascontiguousarray(hsi.values[bands & hsi.good_bands])).float()
        subspace = learn_subspace(values, weight, dimensions)
        return subspace.project(fill_nearest(values, weight))

    pair = Pair(
        coefficients(~swir, VNIR_DIMENSIONS),
        weight,
        coefficients(swir, SWIR_DIMENSIONS),
        weight,
        Affine.identity(),
    )
    try:
        fitted = fit(Observer(pair, torch.ones(1, 1), 1), pair.start, "translation")
    except AlignmentError:
        return None
    height, width = pair.shape
    columns, rows = fitted.shift(np.array([width / 2]), np.array([height / 2]))[:, 0, 0]
    deviation = fitted.deviation(np.array([width / 2]), np.array([height / 2]))[0]
    return float(columns), float(rows), float(deviation)


def _moved(
    values: NDArray[np.float32], valid: NDArray[np.bool_], shift: tuple[float, float]
) -> NDArray[np.float32]:
    """Bands seen `shift` (rows, columns) further on."""
    filled = fill_holes(values, ~valid)
    bands = [ndimage.shift(band, (-shift[0], -shift[1]), order=3, mode="nearest") for band in filled]
    return np.where(valid, np.stack(bands), values).astype(np.float32)
