"""The main job: fuse(hsi, guide, preset) -> FusionResult, and what a run would do."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray

from hsi_fuse.align import Alignment, resample, window_of
from hsi_fuse.assess import Quality, assess
from hsi_fuse.errors import HsiFuseWarning, PresetError, SolveError
from hsi_fuse.grid import Grid
from hsi_fuse.planning import Plan, plan
from hsi_fuse.preset import Preset
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult, silent
from hsi_fuse.raster import Raster
from hsi_fuse.read import Guide
from hsi_fuse.register import Pair, Registered, register
from hsi_fuse.sense import sense
from hsi_fuse.stages import STAGES
from hsi_fuse.subspace import estimate_noise, fill_nearest, fit_subspace, interpolate, upsample

REGISTER_DIMENSIONS = 10
SETTLED_HSI_PX = 0.02
ROUNDS = 3


@dataclass(frozen=True)
class FusionResult:
    """A fused scene, still in factors.

    Attributes
    ----------
    problem, estimate, interpolation
        What was solved, its answer, and plain interpolation of the HSI.
    alignment : Alignment
    registration : mapping
        Figures of the registration.
    stages : tuple of (str, StageResult)
    quality : Quality
    preset : Preset
    grid : Grid
        Of the product.
    hsi : Raster
        The input.
    provenance : mapping
        Everything needed to repeat the run, and its timings.
    """

    problem: Problem
    estimate: Estimate
    interpolation: Estimate
    alignment: Alignment
    stages: tuple[tuple[str, StageResult], ...]
    quality: Quality
    preset: Preset
    grid: Grid
    hsi: Raster
    provenance: Mapping[str, Any]

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows of the product with all of the input's bands, (band, rows, W); NaN where there are no data.

        Bands that took no part are interpolated from the input where it has values for them.
        """
        good = self.hsi.good_bands
        ratio = self.problem.ratio
        out = np.full((self.hsi.bands, stop - start, self.grid.width), np.nan, np.float32)
        out[good] = self.estimate.rows(start, stop).cpu().numpy()
        if not good.all():
            out[~good] = self._idle_bands(start, stop)
        first, last = start // ratio, -(-stop // ratio)
        valid = self.hsi.valid[first:last].repeat(ratio, 0).repeat(ratio, 1)
        out[:, ~valid[start - first * ratio : stop - first * ratio]] = np.nan
        return out

    def _idle_bands(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows of the bands that took no part, interpolated; NaN for empty ones."""
        idle = self.hsi.values[~self.hsi.good_bands]  # (b, h, w)
        ratio, height = self.problem.ratio, self.hsi.grid.height
        first, last = (
            max(start // ratio - 3, 0),
            min(-(-stop // ratio) + 3, height),
        )  # bicubic reaches 2 pixels
        fine = upsample(torch.from_numpy(np.ascontiguousarray(idle[:, first:last])), ratio).numpy()
        rows: NDArray[np.float32] = fine[:, start - first * ratio : stop - first * ratio]
        empty = ~idle.any((1, 2))
        rows[empty] = np.nan
        return rows


def fuse(
    hsi: Raster,
    guide: Guide,
    preset: Preset,
    *,
    scale: int | None = None,
    device: str = "auto",
    seed: int = 0,
    on_step: OnStep = silent,
) -> FusionResult:
    """Sharpen an HSI with an unregistered reference.

    Parameters
    ----------
    hsi : Raster
    guide : Guide
        Read through the window that matters.
    preset : Preset
    scale : int, optional
        Fine pixels per HSI pixel; default from the ground sampling distances.
    device : str
        "auto", "cpu" or "cuda".
    seed : int
        Same seed, device and number of threads: the same result.
    on_step : callable
        Progress.

    Raises
    ------
    GridError, AlignmentError, SolveError
    """
    clock = _Clock()
    where = choose_device(device)
    torch.manual_seed(seed)
    with _recorded() as warned:
        planned = plan(hsi, guide, scale)
        with clock("align"):
            problem, alignment = align(hsi, guide, planned, preset, seed, where, on_step)
        interpolation = interpolate(problem)
        with clock("stages"):
            estimate, results = run_stages(problem, interpolation, preset, on_step)
        with clock("assess"):
            on_step("assess", 0, 1, 0.0)
            quality = assess(
                problem,
                estimate,
                interpolation,
                solvers=_solvers(preset),
                registration=alignment.found,
                wavelengths_nm=None
                if hsi.wavelengths_nm is None
                else hsi.wavelengths_nm[hsi.good_bands].tolist(),
                bad_bands=np.flatnonzero(~hsi.good_bands).tolist(),
                stages=[{"name": name, **result.verdict} for name, result in results],
                warnings=warned,
                options=preset.assess,
            )
            on_step("assess", 1, 1, 0.0)
    provenance = {
        "seed": seed,
        "device": str(where),
        "threads": torch.get_num_threads(),
        "seconds": clock.seconds,
    }
    return FusionResult(
        problem, estimate, interpolation, alignment, results, quality, preset, planned.target, hsi, provenance
    )


def align(
    hsi: Raster, guide: Guide, planned: Plan, preset: Preset, seed: int, device: torch.device, on_step: OnStep
) -> tuple[Problem, Alignment]:
    """Rasters -> a registered Problem: mapping and sensors in turn, until neither moves.

    The first mapping assumes a PSF one HSI pixel wide; each later one uses the PSF just learned.
    """
    options, scale = preset.align, planned.scale
    top, left, height, width = window_of(hsi.grid, guide.grid, planned.start, options.search_hsi_px + 6)
    window = guide.read(top, left, height, width)
    to_window = Affine.translation(-left, -top)
    values = torch.from_numpy(np.ascontiguousarray(hsi.values[hsi.good_bands])).to(device)  # (n, h, w)
    weight = torch.from_numpy(hsi.valid).to(values)
    noise = estimate_noise(values, weight)
    subspace = fit_subspace(values, weight, noise, REGISTER_DIMENSIONS)
    native_weight = torch.from_numpy(window.valid).to(values)
    pair = Pair(
        subspace.project(fill_nearest(values, weight)),
        weight,
        fill_nearest(torch.from_numpy(window.values).to(device), native_weight),
        native_weight,
        to_window * planned.start,
    )
    before, fwhm = None, (1.0, 1.0)
    for turn in range(ROUNDS):
        on_step("align", turn, ROUNDS, 0.0)
        near = pair if before is None else replace(pair, start=before.hsi_to_guide)
        wide = options if before is None else replace(options, search_hsi_px=0)
        found = register(near, fwhm, wide)
        mapping = found.hsi_to_guide * Affine.scale(1 / scale)
        fine, fine_weight = resample(window, mapping, planned.displacement, planned.target.shape)
        image = torch.from_numpy(fine).to(device)
        image_weight = torch.from_numpy(fine_weight).to(device)
        sensed = sense(values, weight, image, image_weight, scale, preset.sense)
        rows, columns = sensed.sensor.psf_fwhm
        fwhm = (columns / scale, rows / scale)
        settled = before is not None and float(np.hypot(*found.shift_hsi_px)) < SETTLED_HSI_PX
        before = found if before is None else replace(found, before=before.before)
        if settled or options.model == "none":
            break
    on_step("align", ROUNDS, ROUNDS, 0.0)
    assert before is not None
    figures = _registration_figures(before, pair.start, hsi.grid, scale, float(image_weight.mean()))
    error = figures["rrmse_px"] if figures["rrmse_px"] is not None else figures["standard_error_px"]
    problem = Problem(
        values * (weight > 0),
        weight,
        image,
        image_weight,
        sensed.sensor,
        noise,
        sensed.guide_noise,
        seed,
        position_error=error / scale if np.isfinite(error) else 0.0,
    )
    native = Affine.translation(left, top) * mapping
    return problem, Alignment(native, planned.displacement, fine_weight, float(error), figures)


def _registration_figures(
    found: Registered, start: Affine, grid: Grid, scale: int, covered: float
) -> dict[str, Any]:
    """What the report says of the registration; pixels are the product's, metres on the ground."""
    height, width = grid.shape
    centre = (width / 2, height / 2)
    x, y = ~start * (found.hsi_to_guide * centre)
    shift = (x - centre[0], y - centre[1])
    linear = (~start * found.hsi_to_guide)[:6]
    metres = grid.gsd_m
    a, b, _, d, e, _ = grid.transform[:6]
    unit = metres / float(np.sqrt(abs(a * e - b * d)))
    found_at = {
        # HSI content is found at georeferenced place + shift in the guide: it lies that far the other
        # way itself
        "content_offset_east_m": unit * -(a * shift[0] + b * shift[1]),
        "content_offset_north_m": unit * -(d * shift[0] + e * shift[1]),
    }
    out: dict[str, Any] = {
        "shift_px": [scale * s for s in shift],
        "shift_m": float(metres * np.hypot(*shift)),
        **(found_at if grid.georeferenced else {}),
        "rotation_deg": float(np.degrees(np.arctan2(linear[3] - linear[1], linear[0] + linear[4]))),
        "scale_change": float(np.sqrt(abs(linear[0] * linear[4] - linear[1] * linear[3]))),
        "standard_error_px": scale * found.standard_error_hsi_px,
        "explained": found.explained,
        "covered": covered,
    }
    for name, points in (("", found.after), ("before_", found.before)):
        length = (points[:, 2:] ** 2).sum(1).sqrt() * scale
        some = len(points) > 0
        out |= {
            f"{name}tie_points": len(points),
            f"{name}rrmse_px": float((length**2).mean().sqrt()) if some else None,
            f"{name}rrmse_m": float((length**2).mean().sqrt()) * metres / scale if some else None,
            f"{name}ce90_px": float(torch.quantile(length, 0.9)) if some else None,
            f"{name}bias_px": (points[:, 2:].mean(0) * scale).tolist() if some else None,
        }
    return out


def run_stages(
    problem: Problem, interpolation: Estimate, preset: Preset, on_step: OnStep
) -> tuple[Estimate, tuple[tuple[str, StageResult], ...]]:
    """Run a preset's stages in order, each from the estimate before it."""
    estimate, results = interpolation, []
    for name, stage in preset.stages:
        result = stage(problem, estimate, on_step)
        if not bool(torch.isfinite(result.estimate.coefficients).all()):
            raise SolveError(f"stage {name} produced values that are not finite; please report this pair")
        estimate = result.estimate
        results.append((name, result))
    return estimate, tuple(results)


def _solvers(preset: Preset) -> dict[str, Any]:
    """The methods that the report repeats on the degraded pair."""
    solvers: dict[str, Any] = {
        "product": lambda p: run_stages(p, interpolate(p), preset, silent)[0],
        "interpolation": interpolate,
    }
    if [name for name, _ in preset.stages] != ["map"]:
        solvers["map"] = lambda p: STAGES["map"]()(p, interpolate(p), silent).estimate
    return solvers


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


class _Clock:
    """Seconds of the steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[what] = round(time.perf_counter() - started, 3)


@contextmanager
def _recorded() -> Iterator[list[str]]:
    """Collect the messages of our own warnings for the report, and let them pass on."""
    said: list[str] = []
    show = warnings.showwarning

    def record(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, HsiFuseWarning) and str(message) not in said:
            said.append(str(message))
        show(message, category, *rest, **more)

    warnings.showwarning = record
    try:
        yield said
    finally:
        warnings.showwarning = show


__all__ = ["FusionResult", "Plan", "align", "fuse", "plan", "run_stages"]
