"""The main job: fuse(hsi, guide, preset) -> FusionResult, and what a run would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hsi_fuse.align import Alignment
from hsi_fuse.blocks import Memory
from hsi_fuse.checkpoints import keeping, key_of
from hsi_fuse.errors import PresetError, SolveError
from hsi_fuse.frame import Frame
from hsi_fuse.grid import Grid
from hsi_fuse.interpolation import Interpolation
from hsi_fuse.materials import Materials, materials_of
from hsi_fuse.overlap.extent import EXTENTS, Extended, Rows, carry_on
from hsi_fuse.overlap.unaligned import GuideProduct, problem_unaligned
from hsi_fuse.overlap.unregistered import unmix_problem
from hsi_fuse.planning import Plan, plan
from hsi_fuse.prepare import align_or_follow, choose_device
from hsi_fuse.preset import Preset, describe, load_preset
from hsi_fuse.problem import Cube, Estimate, OnStep, Problem, StageResult, silent
from hsi_fuse.quality.assess import Quality, assess, plain
from hsi_fuse.quality.uncertainty import Uncertainty, calibrate
from hsi_fuse.raster import Raster
from hsi_fuse.read import Guide
from hsi_fuse.record import Clock, provenance_of, recorded
from hsi_fuse.registration.detectors import align_detectors
from hsi_fuse.sensors.known import KnownSensor
from hsi_fuse.solving import as_left, in_blocks, run_stages, solvers_of, within_memory
from hsi_fuse.subspace import interpolate


@dataclass(frozen=True)
class FusionResult:
    """A fused scene, still in factors.

    Attributes
    ----------
    problem, estimate, interpolation
        What was solved, as the stages left it (`solving.as_left`), its answer, and plain interpolation of the
        HSI.
    alignment : Alignment
    registration : mapping
        Figures of the registration.
    stages : tuple of (str, StageResult)
    quality : Quality
    uncertainty : Uncertainty or None
        Standard deviations; None where not asked for or not calibrated.
    preset : Preset
    grid : Grid
        Of the product.
    hsi : Raster
        The input.
    provenance : mapping
        Everything needed to repeat the run, and its timings.
    extended : Extended or None
        The product over another footprint than the HSI's.
    over_guide : GuideProduct or None
        The guide made hyperspectral on its own grid, of a pair that was not registered.
    """

    problem: Problem
    estimate: Estimate
    interpolation: Cube
    alignment: Alignment
    stages: tuple[tuple[str, StageResult], ...]
    quality: Quality
    uncertainty: Uncertainty | None
    preset: Preset
    grid: Grid
    hsi: Raster
    provenance: Mapping[str, Any]
    extended: Extended | None = None
    over_guide: GuideProduct | None = None

    @property
    def product(self) -> Rows:
        """What is asked for: over the HSI's footprint, or carried on over another."""
        return self if self.extended is None else self.extended

    @cached_property
    def frame(self) -> Frame:
        """Where the estimate stands among the input's bands and pixels."""
        return Frame.of(self.hsi, self.problem.ratio)

    @cached_property
    def materials(self) -> Materials:
        """What the product over the HSI's footprint is made of; worked out when it is first asked for.

        Raises
        ------
        SolveError
            Too few pixels for the number of endmembers that the preset asks for.
        """
        valid = torch.from_numpy(self.frame.valid_rows(0, self.grid.height)).to(self.problem.device)
        problem = self.problem
        return materials_of(self.estimate, valid, problem.hsi_noise, self.preset.materials, problem.seed)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows of the product with all of the input's bands, (band, rows, W); NaN where there are no data.

        Bands that took no part are interpolated from the input where it has values for them.
        """
        return self.frame.filled(self.estimate.rows(start, stop), start)

    def sigma_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """The same rows of the product's standard deviation; NaN for bands that took no part too.

        Raises
        ------
        SolveError
            It could not be calibrated.
        """
        if self.uncertainty is None:
            raise SolveError(f"no uncertainty: {self.quality.figures['uncertainty']['reason']}")
        return self.frame.placed(self.uncertainty.rows(start, stop), start)


def fuse(
    hsi: Raster,
    guide: Guide,
    preset: Preset | str | Path = "balanced",
    *,
    scale: int | None = None,
    known: KnownSensor | None = None,
    displacement: str | Path | None = None,
    extent: str = "hsi",
    unaligned: bool = False,
    uncertainty: bool = False,
    device: str = "auto",
    seed: int = 0,
    memory: Memory | None = None,
    checkpoints: Path | None = None,
    on_step: OnStep = silent,
) -> FusionResult:
    """Sharpen an HSI with an unregistered reference.

    Parameters
    ----------
    hsi : Raster
    guide : Guide
        Read through the window that matters.
    preset : Preset, or the name or path of one
    scale : int, optional
        Fine pixels per HSI pixel; default from the ground sampling distances.
    known : KnownSensor, optional
        What of the sensors need not be learned (`known.SensorWords.known`).
    displacement : path, optional
        A displacement file (see `mapping_files`) to follow instead of searching the mapping.
    extent : "hsi", "guide" or "union"
        Whose footprint the product has: see `extend.extend`.
    unaligned : bool
        Register nothing: the HSI is sharpened without the guide's places, and the guide made hyperspectral on
        its own grid (`FusionResult.over_guide`).
    uncertainty : bool
        Whether to calibrate standard deviations too; costs about as much as the stages.
    device : str
        "auto", "cpu" or "cuda".
    seed : int
        Same seed, device and number of threads: the same result.
    memory : Memory, optional
        What the run may use, and where factors go that do not fit. A scene that is larger is solved in
        overlapping blocks; which, depends on this and on the scene alone.
    checkpoints : Path, optional
        Folder in which the stages' trainings keep their states, and from whose states they go on when the
        same call was interrupted before.
    on_step : callable
        Progress.

    Raises
    ------
    GridError, AlignmentError, PresetError, SolveError
    RefusedError
        See `prepare.align`.
    ReadError
        Of the displacement file.
    PresetError
        Unknown device or extent.
    """
    if extent not in EXTENTS:
        raise PresetError(f"unknown extent {extent!r}; choose from {', '.join(EXTENTS)}")
    if unaligned and (extent != "hsi" or displacement is not None):
        raise PresetError(
            "unaligned: either footprint has a product of its own and no mapping is used; give neither an "
            "extent nor a displacement with it"
        )
    clock = Clock()
    where = choose_device(device)
    preset = preset if isinstance(preset, Preset) else load_preset(preset)
    with recorded() as warned:
        planned = plan(hsi, guide, scale, known)
        with clock("align"):
            hsi, apart = align_detectors(hsi)
            if unaligned:
                problem, alignment, guide_grid = problem_unaligned(hsi, guide, planned, seed, where)
            else:
                problem, alignment = align_or_follow(
                    hsi, guide, planned, preset, displacement, seed, where, on_step
                )
            if apart is not None:
                alignment = replace(alignment, found={**alignment.found, **apart.figures()})
        memory = memory or Memory()
        preset = within_memory(problem, preset, memory)
        start = None if in_blocks(problem, preset, memory) else interpolate(problem)
        interpolation: Cube = Interpolation.of(problem) if start is None else start
        key = key_of(problem, describe(preset)["stages"], memory.limit) if checkpoints else ""
        with clock("stages"), keeping(checkpoints, key):
            estimate, results = run_stages(problem, start, preset, on_step, memory)
        problem = as_left(problem, *(result for _, result in results))
        over_guide = _over_guide(problem, results, guide_grid, hsi, on_step) if unaligned else None
        carried = None
        if extent != "hsi":
            with clock("extent"):
                carried = carry_on(extent, planned.target, problem, estimate, alignment, guide)
        solvers = solvers_of(preset)
        with clock("uncertainty"):
            spread = calibrate(problem, estimate, solvers["product"]) if uncertainty else None
        with clock("assess"):
            on_step("assess", 0, 1, 0.0)
            quality = assess(
                problem,
                estimate,
                interpolation,
                solvers=solvers,
                registration=alignment.found,
                wavelengths_nm=None
                if hsi.wavelengths_nm is None
                else hsi.wavelengths_nm[hsi.good_bands].tolist(),
                bad_bands=np.flatnonzero(~hsi.good_bands).tolist(),
                stages=[{"name": n, **r.verdict, "history": list(r.history)} for n, r in results],
                warnings=warned,
                uncertainty=spread,
                options=preset.assess,
            )
            on_step("assess", 1, 1, 0.0)
    provenance = {
        **provenance_of(preset, displacement, seed, where, clock),
        "scale": planned.scale,
        "extent": extent,
        "unaligned": unaligned,
        "max_memory": memory.limit,
    }
    result = FusionResult(
        problem,
        estimate,
        interpolation,
        alignment,
        results,
        quality,
        spread,
        preset,
        planned.target,
        hsi,
        provenance,
        over_guide=over_guide,
    )
    if over_guide is not None:
        figures = plain({"refused_pct": 100 * over_guide.refused, **over_guide.unmixed.figures})
        return replace(result, quality=replace(quality, figures={**quality.figures, "guide": figures}))
    if carried is None:
        return result
    footprint, extension = carried
    figures = {**quality.figures, "extent": plain({"of": extent, **extension.figures})}
    return replace(
        result,
        quality=replace(quality, figures=figures),
        extended=Extended(result, extension, footprint, hsi),
    )


def _over_guide(
    problem: Problem,
    results: Sequence[tuple[str, StageResult]],
    grid: Grid,
    hsi: Raster,
    on_step: OnStep,
) -> GuideProduct:
    """The native guide's product, of a stage that unmixed it or unmixed here."""
    assert problem.native is not None
    found = [result.unmixed for _, result in results if result.unmixed is not None]
    unmixed = found[-1] if found else unmix_problem(problem, on_step=on_step)
    product = GuideProduct.of(unmixed, (problem.native.weight > 0).cpu().numpy(), grid, hsi)
    product.warn()
    return product


__all__ = ["FusionResult", "Plan", "fuse", "plan"]
