"""A preset's stages on a problem: one after another, whole or in blocks."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from hsi_fuse.blocks import Divisible, Memory, by_blocks, is_small
from hsi_fuse.errors import HsiFuseWarning, SolveError
from hsi_fuse.preset import Preset
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult, silent
from hsi_fuse.refinement.realign import realigned
from hsi_fuse.refinement.refining import Refining
from hsi_fuse.stages.table import STAGES
from hsi_fuse.subspace import interpolate


def within_memory(problem: Problem, preset: Preset, memory: Memory) -> Preset:
    """The preset without stages that mend, which need the scene as a whole, where that is too large."""
    rest = [(name, stage) for name, stage in preset.stages if not isinstance(stage, Refining)]
    if len(rest) == len(preset.stages) or memory.holds(problem.hsi.shape, problem.ratio):
        return preset
    left_out = ", ".join(name for name, stage in preset.stages if isinstance(stage, Refining))
    warnings.warn(
        f"stage {left_out} is left out: it needs the scene as a whole, for which the "
        f"{memory.limit / 2**30:.3g} GiB of --max-memory may not suffice",
        HsiFuseWarning,
        stacklevel=2,
    )
    return replace(preset, stages=tuple(rest))


def in_blocks(problem: Problem, preset: Preset, memory: Memory) -> bool:
    """Whether the scene is solved in blocks: it is no small one, and its stages can be divided.

    Stages after the first may need it as a whole where memory holds that.
    """
    whole = [name for name, stage in preset.stages if not isinstance(stage, Divisible)]
    h, w = problem.hsi_weight.shape
    if is_small(h, w, problem.ratio):
        return False
    if memory.holds(problem.hsi.shape, problem.ratio):
        return bool(preset.stages) and isinstance(preset.stages[0][1], Divisible)
    if preset.stages and not whole:
        return True
    warnings.warn(
        f"{h} x {w} pixels may need more than the {memory.limit / 2**30:.3g} GiB of --max-memory: "
        f"{'stage ' + whole[0] if whole else 'interpolation'} cannot work in blocks",
        HsiFuseWarning,
        stacklevel=2,
    )
    return False


def run_stages(
    problem: Problem,
    start: Estimate | None,
    preset: Preset,
    on_step: OnStep,
    memory: Memory | None = None,
) -> tuple[Estimate, tuple[tuple[str, StageResult], ...]]:
    """Run a preset's stages in order, each from the estimate before it and with the sensor last learned.

    Without a `start` they run in the blocks that `memory` asks for.
    """
    memory = memory or Memory()
    side = memory.block_hsi_px(problem.hsi.shape, problem.ratio) if start is None else None
    estimate = start
    results: list[tuple[str, StageResult]] = []
    for name, stage in preset.stages:
        if side is not None and isinstance(stage, Divisible):
            result = by_blocks(stage, problem, side, memory, on_step)
        else:
            assert estimate is not None
            result = stage(problem, estimate, on_step)
        if not result.estimate.finite:
            raise SolveError(f"stage {name} produced values that are not finite; please report this pair")
        estimate = result.estimate
        problem = as_left(problem, result)
        results.append((name, result))
    assert estimate is not None
    return estimate, tuple(results)


def as_left(problem: Problem, *results: StageResult) -> Problem:
    """A problem as stages left it: with the sensor that they learned, and the guide where they found it."""
    for result in results:
        if result.sensor is not None:
            problem = replace(problem, sensor=result.sensor)
        if result.flow is not None:
            problem = realigned(problem, result.flow)
    return problem


def solvers_of(preset: Preset) -> dict[str, Any]:
    """The methods that the report repeats on the degraded pair."""
    floors: list[tuple[Problem, Estimate]] = []  # what the product came by need not be made again

    def product(problem: Problem) -> Estimate:
        estimate, results = run_stages(problem, interpolate(problem), preset, silent)
        floors[:] = [(problem, result.floor) for _, result in results if result.floor is not None]
        return estimate

    def by_map(problem: Problem) -> Estimate:
        known = [floor for solved, floor in floors if solved is problem]
        return known[0] if known else STAGES["map"]()(problem, interpolate(problem), silent).estimate

    solvers: dict[str, Any] = {"product": product, "interpolation": interpolate}
    if [name for name, _ in preset.stages] != ["map"]:
        solvers["map"] = by_map
    return solvers
