"""Two rasters -> one problem: where map-land hands over to tensor-land.

The device is chosen, the pair registered and refused where it has to be, the guide resampled once.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.align import Alignment, window_of
from hsi_fuse.errors import AlignmentError, PresetError
from hsi_fuse.planning import Plan
from hsi_fuse.preset import Preset
from hsi_fuse.problem import OnStep, Problem
from hsi_fuse.raster import Raster
from hsi_fuse.read import Guide
from hsi_fuse.registration.confidence import refined
from hsi_fuse.registration.figures import registration_figures
from hsi_fuse.registration.follow import as_followed, follow
from hsi_fuse.registration.joint import Registered, Start, register_pair
from hsi_fuse.registration.refusal import Sought, improbable, not_found, out_of_reach
from hsi_fuse.registration.register import RegisterOptions
from hsi_fuse.sensors.known import warn_of_contradiction
from hsi_fuse.sensors.sense import Sensing
from hsi_fuse.subspace import estimate_noise


def choose_device(name: str) -> torch.device:
    """ "auto" takes a GPU where there is one.

    Raises
    ------
    PresetError
        "cuda" is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise PresetError(
            "--device cuda: this machine or this build of PyTorch has no CUDA device; use --device cpu"
        )
    return torch.device(name)


def align_or_follow(
    hsi: Raster,
    guide: Guide,
    planned: Plan,
    preset: Preset,
    displacement: str | Path | None,
    seed: int,
    device: torch.device,
    on_step: OnStep,
) -> tuple[Problem, Alignment]:
    """`align`; or, without search and fit, the mapping of a displacement file."""
    if displacement is None:
        return align(hsi, guide, planned, preset, seed, device, on_step)
    given = follow(displacement, hsi, planned)
    still = replace(preset, align=replace(preset.align, model="none", local=False))
    problem, alignment = align(hsi, guide, given, still, seed, device, on_step)
    return problem, as_followed(alignment, planned, hsi.grid, displacement)


def align(
    hsi: Raster, guide: Guide, planned: Plan, preset: Preset, seed: int, device: torch.device, on_step: OnStep
) -> tuple[Problem, Alignment]:
    """Rasters -> a registered Problem.

    Raises
    ------
    RefusedError
        The guide does not seem to show the place, unless a mapping was given.
    AlignmentError
    """
    scale = planned.scale
    # a copy only where there must be one: of a big scene each takes a gigabyte
    good = hsi.values if hsi.good_bands.all() else hsi.values[hsi.good_bands]
    values = torch.from_numpy(np.ascontiguousarray(good)).to(device)  # (n, h, w)
    weight = torch.from_numpy(hsi.valid).to(values)
    found, start, (top, left) = _registered(hsi, guide, planned, preset, values, weight, on_step)
    warn_of_contradiction(found.sensed.sensor)
    # what shows something else than the HSI is no guide; mere edges that fit badly stay one
    other = found.changed.repeat(scale, 0).repeat(scale, 1)
    usable = np.where(other, np.float32(0), found.guide_weight)
    image_weight, image = (torch.from_numpy(each).to(device) for each in (usable, found.guide))
    figures = registration_figures(found, start, hsi.grid, scale)
    error = figures["rrmse_px"] if figures["rrmse_px"] is not None else figures["standard_error_px"]
    deviation = found.evidence.deviation_hsi_px
    problem = Problem(
        values if bool((weight > 0).all()) else values * (weight > 0),
        weight,
        image.mul_(image_weight > 0),
        image_weight,
        found.sensed.sensor,
        estimate_noise(values, weight),
        found.sensed.guide_noise,
        seed,
        position_error=deviation if np.isfinite(deviation) else 0.0,
    )
    native = Affine.translation(left, top) * found.hsi_to_guide * Affine.scale(1 / scale)
    alignment = Alignment(
        native,
        found.bend,
        found.guide_weight * refined(found.confidence, scale),
        planned.start * Affine.scale(1 / scale),
        planned.displacement,
        found.before * scale,
        found.after * scale,
        float(error),
        figures,
        tuple(found.responses),
    )
    return problem, alignment


def _registered(
    hsi: Raster,
    guide: Guide,
    planned: Plan,
    preset: Preset,
    values: Tensor,
    weight: Tensor,
    on_step: OnStep,
) -> tuple[Registered, Affine, tuple[int, int]]:
    """The pair, its start in the window of the guide that was read, and that window's first row and column.

    The window itself, of a big scene a gigabyte, is gone after it.
    """
    options, scale = preset.align, planned.scale
    sought = Sought(hsi, guide, planned, options)
    georeferenced = hsi.grid.georeferenced and guide.grid.georeferenced
    margin = options.reach_hsi_px(hsi.grid.shape) if georeferenced else float(max(hsi.grid.shape))
    try:
        top, left, height, width = window_of(hsi.grid, guide.grid, planned.start, margin)
    except AlignmentError as failure:
        raise out_of_reach(sought, failure) from failure
    window = guide.read(top, left, height, width)
    start = Affine.translation(-left, -top) * planned.start
    rising = _rising(hsi)  # an SRF is smooth over wavelengths, not over the order of bands in the file
    known = planned.known
    if known.srf is not None:
        known = replace(known, srf=known.srf[:, rising])

    def register(image: Raster, how: RegisterOptions) -> Registered:
        found = register_pair(
            values[rising] if (np.diff(rising) < 0).any() else values,
            weight,
            image,
            Start(start, planned.displacement, georeferenced),
            scale,
            how,
            Sensing(preset.sense, known),
            lambda turn, turns: on_step("align", turn, turns, 0.0),
        )
        sensor = found.sensed.sensor.with_bands(np.argsort(rising))
        return replace(found, sensed=replace(found.sensed, sensor=sensor))

    def mirrored() -> bool:
        """Whether the guide shows the place when it is flipped; only asked where it may lie anyhow."""
        flipped = replace(window, values=window.values[..., ::-1].copy(), valid=window.valid[:, ::-1].copy())
        try:
            found = register(flipped, replace(options, local=False))
        except AlignmentError:
            return False
        return not options.refuses(found.evidence)

    try:
        found = register(window, options)
    except AlignmentError as failure:
        if options.model == "none":
            raise
        flip = not georeferenced and mirrored()
        raise not_found(sought, failure, window, start, flip) from failure
    if options.refuses(found.evidence):
        raise improbable(sought, found, start, not georeferenced and mirrored())
    return found, start, (top, left)


def _rising(hsi: Raster) -> NDArray[np.intp]:
    """The good bands in the order of their wavelengths: indices among them."""
    count = int(hsi.good_bands.sum())
    if hsi.wavelengths_nm is None:
        return np.arange(count)
    return np.argsort(hsi.wavelengths_nm[hsi.good_bands], kind="stable")
