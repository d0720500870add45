"""A preset's stages one after another: what each leaves to the next and to the report."""

from dataclasses import dataclass, replace

import pytest
import torch
from synthetic import observed, problem_of, scene

from hsi_fuse.blocks import Memory
from hsi_fuse.errors import HsiFuseWarning
from hsi_fuse.preset import Preset, load_preset
from hsi_fuse.problem import StageResult, silent
from hsi_fuse.solving import as_left, run_stages, within_memory
from hsi_fuse.subspace import interpolate


@dataclass(frozen=True)
class Finds:
    """A stage that finds the guide two pixels further right, and another sensor."""

    def __call__(self, problem, start, on_step):
        flow = torch.zeros(2, *problem.guide_weight.shape)
        flow[0] = 2
        return StageResult(start, flow=flow, sensor=replace(problem.sensor, offset=problem.sensor.offset + 1))


@pytest.fixture(scope="module")
def problem():
    return problem_of(observed(4, truth=scene(48, 56)))


def test_later_stages_and_the_report_see_the_guide_where_it_was_found(problem):
    seen = []

    @dataclass(frozen=True)
    class Looks:
        def __call__(self, problem, start, on_step):
            seen.append(problem)
            return StageResult(start)

    preset = Preset("test", stages=(("finds", Finds()), ("looks", Looks())))
    _, results = run_stages(problem, interpolate(problem), preset, silent)
    left = as_left(problem, *(result for _, result in results))
    assert torch.equal(left.guide, seen[0].guide)
    assert torch.equal(left.sensor.offset, problem.sensor.offset + 1)
    assert torch.allclose(left.guide[:, 8:40, 8:40], problem.guide[:, 8:40, 10:42], atol=1e-5)


def test_stages_that_find_nothing_leave_the_problem_as_it_was(problem):
    _, results = run_stages(problem, interpolate(problem), load_preset("draft"), silent)
    assert as_left(problem, *(result for _, result in results)) is problem


def test_a_scene_that_is_too_large_as_a_whole_goes_without_what_mends(problem, monkeypatch):
    balanced, draft = load_preset("balanced"), load_preset("draft")
    assert within_memory(problem, balanced, Memory()) is balanced
    monkeypatch.setattr(Memory, "holds", lambda self, shape, ratio: False)
    with pytest.warns(HsiFuseWarning, match="stage uafl is left out"):
        rest = within_memory(problem, balanced, Memory())
    assert [name for name, _ in rest.stages] == ["coupled"]
    assert within_memory(problem, draft, Memory()) is draft
