"""Why a reference is refused, in words, figures and pictures of what was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray

from hsi_fuse.align import resample, to_guide
from hsi_fuse.errors import AlignmentError, RefusedError
from hsi_fuse.grid import Grid
from hsi_fuse.physics import blur_down, mix_bands
from hsi_fuse.planning import Plan
from hsi_fuse.quality.assess import plain
from hsi_fuse.raster import Raster
from hsi_fuse.read import Guide
from hsi_fuse.registration.figures import registration_figures
from hsi_fuse.registration.joint import Registered
from hsi_fuse.registration.register import RegisterOptions
from hsi_fuse.registration.search import Range
from hsi_fuse.report.pictures import Image, composite, rgb_bands, stretch_limits
from hsi_fuse.sensors.sense import supported

LONGEST = 640
"""Largest side of a picture, pixels."""


@dataclass(frozen=True)
class Attempt:
    """What a registration tried before its guide was refused.

    Attributes
    ----------
    seen : ndarray (y, x, 3), uint8
        The HSI as the guide's bands would see it; by wavelengths where no mapping was found.
    guide : ndarray (y, x, 3), uint8, or None
        The guide where the best mapping puts it, or the search's start where none was found. None where the
        two lie apart.
    residual : ndarray (h, w) or None
        What the HSI leaves unexplained of the guide, standard deviations of the guide; NaN where it shows
        nothing. None where no mapping was found.
    figures : mapping
        Of the registration as far as it came, and of what was searched; JSON-ready.
    outlines : sequence of (name, ndarray (2, n))
        Where the two lie apart: their borders, x and y in the guide's CRS.
    """

    seen: Image
    guide: Image | None
    residual: NDArray[np.float32] | None
    figures: Mapping[str, Any]
    outlines: Sequence[tuple[str, NDArray[np.float64]]] = ()


@dataclass(frozen=True)
class Sought:
    """A pair, and how one was sought in the other: what every refusal tells of.

    Attributes
    ----------
    hsi : Raster
    guide : Guide
    planned : Plan
    options : RegisterOptions
    """

    hsi: Raster
    guide: Guide
    planned: Plan
    options: RegisterOptions

    @property
    def searched(self) -> Range:
        """The whole range, as the search had it."""
        return self.options.range(self.hsi.grid.georeferenced and self.guide.grid.georeferenced)


def improbable(sought: Sought, found: Registered, start: Affine, mirrored: bool = False) -> RefusedError:
    """The error for a mapping that was found but is too improbable.

    Parameters
    ----------
    sought : Sought
    found : Registered
    start : Affine
        HSI pixel -> guide pixel as `found` counts them, by the georeferencing.
    mirrored : bool
        Whether the flipped guide shows the place.
    """
    hsi, guide, options = sought.hsi, sought.guide, sought.options
    figures = registration_figures(found, start, hsi.grid, sought.planned.scale)
    searched = sought.searched
    x, y = figures["shift_px"]
    message = (
        f"{guide.path} does not seem to show the place of the HSI: the best match {_spelt(searched)} lies "
        f"{x:.1f} columns and {y:.1f} rows (fine pixels) and {figures['rotation_deg']:.1f}° from the start, "
        f"and its probability is {found.evidence.probability:.2g} (at least {options.least_probability:g} is "
        f"asked for); {_advice(searched)}; --set align.least_probability=0 insists"
    )
    if mirrored:
        message = _flip(guide)
    sensor = found.sensed.sensor
    values = torch.from_numpy(hsi.values[hsi.good_bands]).to(sensor.srf)
    seen = mix_bands(values, sensor.srf) + sensor.offset[:, None, None]  # (m, h, w)
    fine, fine_weight = (torch.from_numpy(each).to(sensor.psf) for each in (found.guide, found.guide_weight))
    weight = torch.from_numpy(hsi.valid).to(sensor.psf)
    inside = supported(fine_weight, weight, sensor.psf, sensor.ratio)
    low = blur_down(fine, sensor.psf, sensor.ratio)
    spread = low[:, inside].std(1).clamp_min(1e-30)[:, None, None]
    residual = (((low - seen) / spread) ** 2).mean(0).sqrt()
    bands = _shown(len(found.guide), None)
    attempt = Attempt(
        _picture(seen.cpu().numpy()[bands], hsi.valid),
        _picture(found.guide[bands], found.guide_weight > 0),
        torch.where(inside, residual, torch.nan).cpu().numpy(),
        plain(figures | {"searched": asdict(searched)}),
    )
    return RefusedError(message, attempt)


def not_found(
    sought: Sought, error: AlignmentError, window: Raster, start: Affine, mirrored: bool = False
) -> RefusedError:
    """The error for a search that came to nothing.

    Parameters
    ----------
    sought : Sought
    error : AlignmentError
        What ended it.
    window : Raster
        The guide's pixels that were searched.
    start : Affine
        HSI pixel -> pixel of the window, by the georeferencing.
    mirrored : bool
        Whether the flipped guide shows the place.
    """
    hsi, guide, planned, searched = sought.hsi, sought.guide, sought.planned, sought.searched
    message = (
        f"{guide.path} does not seem to show the place of the HSI: {error} ({_spelt(searched)}); "
        f"{_advice(searched)}"
    )
    if mirrored:
        message = _flip(guide)
    step = _step(planned.target.shape)
    shape = (planned.target.height // step, planned.target.width // step)
    placed, weight = resample(window, start * Affine.scale(step / planned.scale), planned.displacement, shape)
    attempt = Attempt(
        _in_colours(hsi),
        _picture(placed[_shown(len(placed), window.wavelengths_nm)], weight > 0),
        None,
        plain({"probability": None, "searched": asdict(searched)}),
    )
    return RefusedError(message, attempt)


def out_of_reach(sought: Sought, error: AlignmentError) -> RefusedError:
    """The error for a guide that lies elsewhere by its georeferencing, as far as was to be searched.

    Parameters
    ----------
    sought : Sought
    error : AlignmentError
        What tells it.
    """
    hsi, guide, planned = sought.hsi, sought.guide, sought.planned
    ours = to_guide(planned.start, planned.displacement, hsi.grid.shape, *_border(hsi.grid))
    outlines = [
        (name, np.stack(guide.grid.transform * tuple(border)))
        for name, border in (("the HSI", ours), ("the reference", np.stack(_border(guide.grid))))
    ]
    figures = plain({"probability": None, "searched": asdict(sought.searched)})
    return RefusedError(str(error), Attempt(_in_colours(hsi), None, None, figures, outlines))


def _border(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns and rows of a grid's corners, the first once more at the end."""
    x, y = np.array([0.0, 1, 1, 0, 0]), np.array([0.0, 0, 1, 1, 0])
    return x * grid.width, y * grid.height


def _in_colours(hsi: Raster) -> Image:
    """The HSI by its own bands."""
    wavelengths = None if hsi.wavelengths_nm is None else hsi.wavelengths_nm[hsi.good_bands].tolist()
    values = hsi.values[hsi.good_bands]
    return _picture(values[list(rgb_bands(len(values), wavelengths))], hsi.valid)


def _flip(guide: Guide) -> str:
    return f"{guide.path} shows the place of the HSI, but mirrored: flip it from left to right and run again"


def _spelt(searched: Range) -> str:
    if searched.shift_hsi_px is None:
        return f"at any place and rotation with an overlap of at least {100 * searched.least_overlap:.0f} %"
    return f"within {searched.shift_hsi_px:g} HSI pixels and {searched.degrees:g}° of the georeferencing"


def _advice(searched: Range) -> str:
    wider = "widen align.search_hsi_px"
    if searched.shift_hsi_px is None:
        wider = "widen align.free_scale or lower align.free_overlap"
    return f"check that both show one place, and their dates, or {wider}"


def _shown(count: int, wavelengths_nm: NDArray[np.float64] | None) -> list[int]:
    """The guide's bands as red, green and blue: by wavelength, else the first three as they come."""
    if count < 3:
        return [0, 0, 0]
    return [0, 1, 2] if wavelengths_nm is None else list(rgb_bands(count, wavelengths_nm.tolist()))


def _step(shape: tuple[int, int]) -> int:
    return max(1, -(-max(shape) // LONGEST))


def _picture(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> Image:
    """Three bands (3, H, W), each in its own stretch; thinned out where large."""
    step = _step(valid.shape)
    values, valid = values[:, ::step, ::step], valid[::step, ::step]
    return composite(values, stretch_limits(values, valid), valid)
