"""The benchmark of `uafl` and `ssc` over `coupled`: its table, its variants, what it refuses."""

from dataclasses import replace

import pytest
from synthetic import observed, scene

from benchmarks.refinement import ABLATION, Score, main, registered, table
from hsi_fuse.preset import load_preset
from hsi_fuse.stages.table import STAGES


def score(scene: str, variant: str, gain: float, kept: bool) -> Score:
    return Score(scene, "x4-rgb-mild", variant, 0, 30.0, 4.0, 30.0 + gain, 3.5, kept, 1.0, 20.0)


def test_the_table_has_means_and_the_worst_pair():
    found = [score("a", "full", 1.0, True), score("b", "full", -0.2, False), score("a", "none", 0.0, False)]
    full, none = table(found).splitlines()[2:]
    assert full == "| x4-rgb-mild | full | 2 | 1 | 30.00 / 4.00 | +0.40 | -0.500 | -0.20 | 20 |"
    assert "| none | 1 | 0 |" in none


def test_a_pair_is_registered_as_a_run_does_it_without_a_local_field():
    pair = observed(3, truth=scene(64, 72))
    problem = registered(pair, 5, load_preset("draft"))
    assert problem.seed == 5
    assert problem.guide.shape == pair.guide.shape
    error = (problem.guide - pair.guide)[:, 4:-4, 4:-4].std() / pair.guide.std()
    assert float(error) < 0.1  # it lay where it should, and still does


@pytest.mark.parametrize("name", ABLATION)
def test_every_row_of_the_ablation_is_another_network(name):
    made = {replace(STAGES[name](), **off) for off in ABLATION[name].values()}
    assert len(made) == len(ABLATION[name])
    assert STAGES[name]() in made


@pytest.mark.parametrize(
    "arguments", [["--scenes", "atlantis"], ["--protocols", "x5"], ["--presets", "fast"], ["--presets", "no"]]
)
def test_what_does_not_exist_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    told = capsys.readouterr().err
    assert "unknown" in told or "has no stage uafl or ssc" in told
