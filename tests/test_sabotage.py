"""Every sabotage of the benchmark turns its light, a good run none; a small scene, the quickest method."""

import pytest

from benchmarks import sabotage
from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.quality.assess import assess
from hsi_fuse.subspace import interpolate
from tests.assessed import GOOD_REGISTRATION, make_scene, regression


def colours(problem: Problem, cube) -> dict[str, str]:
    quality = assess(problem, cube, interpolate(problem), solvers={}, registration=GOOD_REGISTRATION)
    return {e["name"]: e["light"] for e in quality.figures["verdict"]["lights"]}


@pytest.fixture(scope="module")
def scene() -> tuple[Problem, Estimate]:
    problem, _ = make_scene()
    return problem, regression(problem)


def test_the_good_run_turns_none(scene):
    assert set(colours(*scene).values()) <= {"green", "none"}


@pytest.mark.parametrize(
    ("what", "light"),
    [("wrong SRF", "response"), ("narrow PSF", "blur"), ("wide PSF", "blur"),
     ("reference 2 px off", "position"), ("wrong place", "place")],
)  # fmt: skip
def test_what_is_spoilt_in_the_problem(scene, what, light):
    spoilt = sabotage.IN_PROBLEM[what](scene[0])
    assert colours(spoilt, regression(spoilt))[light] in ("amber", "red")


@pytest.mark.parametrize(
    ("what", "light"),
    [("times 1.1", "radiometry"), ("seam", "radiometry"), ("noise", "noise"), ("bands swapped", "bands"),
     ("sharpened", "sharpness"), ("product 2 px off", "position")],
)  # fmt: skip
def test_what_is_spoilt_in_the_product(scene, what, light):
    spoilt = sabotage.IN_PRODUCT[what](*scene)
    assert colours(scene[0], spoilt)[light] in ("amber", "red")


def test_all_of_the_benchmark_is_tried_here():
    tried = {
        mark.args[1][i][0]
        for test in (test_what_is_spoilt_in_the_problem, test_what_is_spoilt_in_the_product)
        for mark in test.pytestmark
        for i in range(len(mark.args[1]))
    }
    assert tried == {*sabotage.IN_PROBLEM, *sabotage.IN_PRODUCT}
    assert not {*sabotage.CHOSEN_ON} & {*sabotage.READ_FIRST, *sabotage.READ_ON}
