"""A pair that nobody can register: what of it can still be used, and the guide's own product."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray

from hsi_fuse.align import Alignment, resample
from hsi_fuse.errors import AlignmentError, GridError, HsiFuseWarning
from hsi_fuse.grid import Grid
from hsi_fuse.overlap.colours import STRANGE
from hsi_fuse.overlap.extent import MOST_PIXELS
from hsi_fuse.overlap.populations import guess_responses
from hsi_fuse.overlap.unregistered import Unmixed
from hsi_fuse.physics import gaussian_psf
from hsi_fuse.planning import Plan
from hsi_fuse.problem import Estimate, NativeGuide, Problem
from hsi_fuse.raster import Raster
from hsi_fuse.read import Guide
from hsi_fuse.sensor import Sensor
from hsi_fuse.subspace import estimate_noise, fill_nearest

ALIKE_DEG = 1.0
"""Angle of two endmembers' colours below which the guide cannot tell them apart."""
SAME_SIZE = 0.02
LEAST_PIXELS = 64


@dataclass(frozen=True)
class GuideProduct:
    """The guide made hyperspectral on its own grid.

    Attributes
    ----------
    estimate : Estimate
    valid : ndarray (H, W), bool
        Where the guide has data and shows colours that were seen with a spectrum.
    refused : float
        Share of its valid pixels whose colours were not.
    grid : Grid
        The guide's, in pixels of the product's size.
    hsi : Raster
        The input; its bad bands stay empty.
    unmixed : Unmixed
        Where it comes from.
    """

    estimate: Estimate
    valid: NDArray[np.bool_]
    refused: float
    grid: Grid
    hsi: Raster
    unmixed: Unmixed

    @classmethod
    def of(cls, unmixed: Unmixed, weight: NDArray[np.bool_], grid: Grid, hsi: Raster) -> GuideProduct:
        """From an unmixed pair; `weight` (H, W): where the guide has data."""
        strange = unmixed.doubt.cpu().numpy() > STRANGE
        refused = float((strange & weight).sum() / max(weight.sum(), 1))
        return cls(unmixed.estimate, weight & ~strange, refused, grid, hsi, unmixed)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows with all of the HSI's bands, (band, rows, W); NaN where there are no data."""
        out = np.full((self.hsi.bands, stop - start, self.grid.width), np.nan, np.float32)
        out[self.hsi.good_bands] = self.estimate.rows(start, stop).cpu().numpy()
        out[:, ~self.valid[start:stop]] = np.nan
        return out

    def warn(self) -> None:
        """Say what may be wrong with it."""
        if self.refused:
            share = f"{self.refused:.2%}"
            _warn(f"{share} of the reference shows colours never seen with a spectrum: left empty there")
        angle = self.unmixed.figures["least_angle_deg"]
        if isinstance(angle, float) and angle < ALIKE_DEG:
            _warn(
                f"to the reference two materials of the scene look alike ({angle:.1f}° apart): which of them "
                "it shows is a guess there"
            )


def problem_unaligned(
    hsi: Raster, guide: Guide, planned: Plan, seed: int, device: torch.device
) -> tuple[Problem, Alignment, Grid]:
    """A problem whose guide has no place on the HSI's grid, but stands by as `Problem.native`.

    Returns
    -------
    Problem
    Alignment
        The start's, with no confidence anywhere.
    Grid
        Of the native guide, in fine pixels.

    Raises
    ------
    AlignmentError
        The guide is smaller than a few HSI pixels.
    GridError
        It is larger than memory.

    Warns
    -----
    HsiFuseWarning
        That nothing is registered, and how responses and PSF were guessed.
    """
    image, grid = _fine_guide(guide, planned)
    ratio = planned.scale
    values = torch.from_numpy(np.ascontiguousarray(hsi.values[hsi.good_bands])).to(device)
    weight = torch.from_numpy(hsi.valid).to(values)
    native = NativeGuide(torch.from_numpy(image.values).to(values), torch.from_numpy(image.valid).to(values))
    kernel = planned.known.kernel(ratio)
    psf = (gaussian_psf(ratio, float(ratio)) if kernel is None else kernel).to(values)
    seen, inside = native.degraded(psf, ratio)
    if int((inside > 0).sum()) < LEAST_PIXELS:
        raise AlignmentError(
            f"the reference covers {int((inside > 0).sum())} HSI pixels; --unaligned needs {LEAST_PIXELS}"
        )
    axis = None if hsi.wavelengths_nm is None else hsi.wavelengths_nm[hsi.good_bands]
    guessed = guess_responses(
        values[:, weight > 0],
        seen[:, inside > 0],
        axis,
        image.wavelengths_nm,
        image.fwhm_nm,
        planned.known.srf,
    )
    how = {
        "given": "as given",
        "named": "taken from the wavelengths that it names",
        "usual": f"those usual for {guide.bands} bands",
        "matched": "matched to what both images hold, which is uncertain",
    }
    _warn(
        "--unaligned: nothing is registered. The product of the HSI holds no detail of the reference's "
        "places, at most its texture; the reference's spectra rest on colours alone. Its responses are "
        f"{how[guessed.kind]}"
        + ("" if kernel is not None else "; the HSI's PSF is taken to be as wide as its pixel")
    )
    found = {
        "psf": "assumed" if kernel is None else "given",
        "srf": guessed.kind,
        "population_distance": guessed.distance,
    }
    offset = values.new_zeros(guide.bands)
    sensor = Sensor(guessed.srf.to(values), offset, psf, ratio, found)
    blank = values.new_zeros(guide.bands, *planned.target.shape)
    deviation = native.values[:, native.weight > 0].std(1)
    problem = Problem(
        values * (weight > 0),
        weight,
        blank,
        blank[0],
        sensor,
        estimate_noise(values, weight),
        0.01 * deviation.clamp_min(1e-12),
        seed,
        native=native,
    )
    nothing = np.zeros((0, 4))
    start = planned.start * Affine.scale(1 / ratio)
    confidence = np.zeros(planned.target.shape, np.float32)
    alignment = Alignment(
        *(start, planned.displacement, confidence, start, planned.displacement, nothing, nothing),
        error_px=float("nan"),
        found={"unaligned": True, "probability": None},
    )
    return problem, alignment, grid


def _fine_guide(guide: Guide, planned: Plan) -> tuple[Raster, Grid]:
    """The whole guide in pixels of the product's size, along its own axes."""
    step = float(np.sqrt(abs(planned.start.determinant))) / planned.scale  # guide pixels per fine pixel
    shape = int(guide.grid.height / step), int(guide.grid.width / step)
    if guide.grid.height * guide.grid.width > MOST_PIXELS:
        raise GridError(
            f"--unaligned reads all of the reference, {guide.grid.width} x {guide.grid.height} pixels, more "
            f"than {MOST_PIXELS:.2g}: cut it to the ground that is wanted"
        )
    image = guide.read(0, 0, guide.grid.height, guide.grid.width)
    if abs(step - 1) < SAME_SIZE:
        holes = torch.from_numpy(image.valid)
        filled = fill_nearest(torch.from_numpy(image.values), holes.float()).numpy()
        return replace(image, values=filled), guide.grid
    values, weight = resample(image, Affine.scale(step), None, shape)
    grid = Grid(guide.grid.crs, guide.grid.transform * Affine.scale(step), shape[1], shape[0])
    return replace(image, values=values, valid=weight > 0, grid=grid), grid


def _warn(text: str) -> None:
    warnings.warn(text, HsiFuseWarning, stacklevel=3)
