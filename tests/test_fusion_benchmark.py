"""The fusion benchmark: its tables mean what they say, and one bad run spoils no other."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import observed

from benchmarks import fusion, tables
from benchmarks.fusion import SUITES, jobs_of, recorded
from benchmarks.runs import Job, Score, peak_mb, problem_of, scores_of, with_measured
from benchmarks.scenes import NAMES, load, measured_guide
from hsi_fuse.preset import load_preset
from hsi_fuse.simulation.simulate import PROTOCOLS, observe

GONE = Job("nowhere", "x4-ms4", "interpolation", "none", 0)
GONE_SCORE = Score("nowhere", "x4-ms4", "interpolation", "none", 0, failure="lost")


def run(scene_name: str, method: str, sensor: str, psnr_db: float, sam_deg: float, seed: int = 0) -> Score:
    return Score(scene_name, "x4-ms4", method, sensor, seed, psnr_db=psnr_db, sam_deg=sam_deg)


SCORES = [
    run("a", "interpolation", "none", 25.0, 4.0),
    run("a", "gsa", "true", 40.0, 2.0),
    run("a", "cnmf", "true", 41.0, 2.0),
    run("a", "hysure", "blind", 50.0, 1.0),
    run("a", "fast", "blind", 42.0, 1.0, seed=0),
    run("a", "fast", "blind", 44.0, 2.0, seed=1),
    run("a", "fast", "given", 55.0, 0.5),
    run("a", "fast", "true", 60.0, 0.1),
    run("b", "interpolation", "none", 20.0, 6.0),
    run("b", "gsa", "true", 36.0, 3.0),
    run("b", "cnmf", "true", 35.0, 2.5),
    run("b", "fast", "blind", 35.0, 3.6),
]


def cells(table: str, first: str) -> list[str]:
    """The cells of the row that starts with `first`."""
    (line,) = [each for each in table.splitlines() if each.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("| ").split("|")]


# --- the tables --------------------------------------------------------------------------------------------


def test_each_scene_has_its_own_best_classical_method_with_the_true_sensor():
    table = tables.against_classical(SCORES)
    assert cells(table, "a")[1] == "cnmf 41.00 / 2.00"
    assert cells(table, "b")[1] == "gsa 36.00 / 3.00"
    assert cells(table, "scene")[2:] == ["interpolation", "fast, blind"]


def test_presets_are_blind_and_averaged_over_seeds_before_they_are_compared():
    table = tables.against_classical(SCORES)
    assert cells(table, "a")[3] == "43.00 / 1.50 (+2.00 dB, ×0.75)"
    assert cells(table, "b")[2] == "20.00 / 6.00 (-16.00 dB, ×2.00)"
    assert cells(table, "**mean**")[1:] == [
        "38.50 / 2.50",
        "22.50 / 5.00 (-16.00 dB, ×2.00)",
        "39.00 / 2.55 (+0.50 dB, ×0.97)",
    ]


def test_a_scene_without_a_rival_counts_in_no_difference():
    alone = [*SCORES, run("c", "fast", "blind", 90.0, 0.5)]
    table = tables.against_classical(alone)
    assert cells(table, "c")[1:] == ["–", "–", "90.00 / 0.50"]
    assert cells(table, "**mean**") == cells(tables.against_classical(SCORES), "**mean**")


def test_a_failed_run_is_listed_and_counts_nowhere():
    failed = [*SCORES, replace(GONE_SCORE, scene="a", method="cnmf", sensor="true", seed=1)]
    assert tables.against_classical(failed) == tables.against_classical(SCORES)
    assert tables.failures(failed) == "- x4-ms4, a: lost (cnmf true 1)"
    assert cells(tables.by_method(failed), "x4-ms4 | cnmf | true")[3:5] == ["2", "38.00"]


def test_a_table_replaces_only_its_own_place(tmp_path):
    document = tmp_path / "doc.md"
    text = "before\n<!-- table:a -->\nold\n<!-- /table:a -->\n<!-- table:b --><!-- /table:b -->\nafter\n"
    document.write_text(text)
    assert tables.has_place(document, "a")
    assert not tables.has_place(document, "c")
    tables.put(document, "b", r"new \1")
    assert document.read_text() == text.replace(
        "<!-- table:b --><!-- /table:b -->", "<!-- table:b -->\nnew \\1\n<!-- /table:b -->"
    )
    tables.put(document, "b", "newer")
    assert "new \\1" not in document.read_text()
    assert "old" in document.read_text()


def test_the_picture_is_one_even_where_runs_failed(tmp_path):
    tables.draw([*SCORES, GONE_SCORE], tmp_path / "gains.png")
    assert len(np.unique(np.asarray(Image.open(tmp_path / "gains.png")))) > 20


def test_the_csv_keeps_each_run_as_soon_as_it_is_there(tmp_path):
    def lines() -> list[dict[str, str]]:
        with open(tmp_path / "runs.csv", newline="") as file:
            return list(csv.DictReader(file))

    runs = recorded([*SCORES, GONE_SCORE], tmp_path / "runs.csv")
    for count, each in enumerate(runs, 1):
        assert lines()[-1]["method"] == each.method
        assert len(lines()) == count
    assert float(lines()[1]["psnr_db"]) == 40.0
    assert math.isnan(float(lines()[-1]["psnr_db"]))
    assert lines()[-1]["failure"] == "lost"


# --- what is run -------------------------------------------------------------------------------------------


def test_protocols_that_are_made_for_certain_scenes_run_on_no_others():
    def scenes(protocol: str, given: list[str], named: bool) -> set[str]:
        return {j.scene for j in jobs_of([protocol], given, ["draft"], ["blind"], [0], named)}

    assert scenes("x4-ms4", ["muufl", "cave_balloons"], True) == {"muufl", "cave_balloons"}
    assert scenes("cave-x32", ["muufl", "cave_balloons"], True) == {"cave_balloons"}
    assert scenes("cave-x32", ["muufl"], False) == {name for name in NAMES if name.startswith("cave")}
    assert scenes("x3-ali", ["muufl"], False) == {"paris"}
    assert scenes("x3-ali", ["muufl"], True) == set()


def test_interpolation_runs_once_and_others_with_each_sensor():
    jobs = jobs_of(["x4-ms4"], ["muufl"], ["interpolation", "fast"], ["blind", "true"], [0, 1], True)
    told = [(j.method, j.sensor, j.seed) for j in jobs]
    assert told == [
        *(("interpolation", "none", seed) for seed in (0, 1)),
        *(("fast", sensor, seed) for sensor in ("blind", "true") for seed in (0, 1)),
    ]


def test_suites_name_what_exists_and_the_full_one_has_every_registered_protocol():
    registered = {name for name, p in PROTOCOLS.items() if p.misregistration is None}
    assert set(SUITES["full"].protocols) == registered
    for suite in SUITES.values():
        assert set(suite.protocols) <= registered
        assert set(suite.scenes) <= set(NAMES)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--protocols", "x4-ms4-mild"],
        ["--scenes", "atlantis"],
        ["--methods", "magic"],
        ["--sensor", "both"],
        ["--protocols", "x3-ali", "--scenes", "muufl"],
        ["--docs", "nowhere.md"],
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(arguments, monkeypatch):
    monkeypatch.setattr(fusion, "scores_of", lambda *given: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as refused:
        fusion.main(arguments)
    assert refused.value.code == 2


# --- runs --------------------------------------------------------------------------------------------------


def test_peak_memory_grows_with_what_is_held():
    before = peak_mb()
    held = np.ones(int(before * 2**20 / 8) + 2**23)  # more than ever before, by 64 MiB
    assert peak_mb() > before + 50
    del held


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_that_dies_is_one_failed_run(capfd):
    (found,) = scores_of([GONE], workers=1, threads=1)
    assert "ended with code 1" in found.failure
    assert math.isnan(found.psnr_db)
    assert "nowhere" in capfd.readouterr().err


def test_a_measured_guide_brings_its_gain_and_offset():
    pair = observed()
    gain, offset = torch.tensor([2.0, 0.5, 3.0, 1.0]), torch.tensor([0.1, -0.2, 0.0, 5.0])
    guide = pair.guide * gain[:, None, None] + offset[:, None, None]
    made = with_measured(replace(pair, guide=torch.zeros_like(guide)), guide, 7 * pair.sensor.srf)
    assert torch.equal(made.guide, guide)
    assert made.sensor.offset.numpy() == pytest.approx(offset.numpy(), abs=2e-3)
    assert made.sensor.srf.sum(1).numpy() == pytest.approx(gain.numpy(), rel=5e-3)
    assert made.guide_noise.numpy() == pytest.approx((gain * pair.guide_noise).numpy(), rel=0.05)


def test_what_a_method_is_told_of_the_sensors():
    pair, preset = observed(4), load_preset("draft")
    true, given, blind = (problem_of(pair, told, 0, preset) for told in ("true", "given", "blind"))
    assert torch.equal(true.sensor.srf, pair.sensor.srf)
    assert torch.equal(true.guide_noise, pair.guide_noise)
    assert torch.equal(given.sensor.psf, pair.sensor.psf)
    assert given.sensor.srf.numpy() == pytest.approx(pair.sensor.srf.numpy(), rel=0.02, abs=1e-4)
    assert not torch.equal(given.guide_noise, pair.guide_noise)
    assert not torch.equal(blind.sensor.psf, pair.sensor.psf)


@pytest.mark.data
def test_paris_has_a_real_guide():
    truth, wavelengths_nm = load("paris")
    measured = measured_guide("paris")
    assert measured is not None
    guide, srf = measured
    assert truth.shape == (128, 72, 72)
    assert guide.shape == (9, 72, 72)
    assert srf.shape == (9, 128)
    centres = (srf.numpy() * wavelengths_nm).sum(1) / srf.numpy().sum(1)
    assert (np.diff(centres) > 0).all()
    # the two instruments see the same place
    pair = with_measured(observe(truth, wavelengths_nm, PROTOCOLS["x3-ali"]), guide, srf)
    assert float((pair.guide_noise / pair.guide.flatten(1).std(1)).max()) < 0.7
    assert measured_guide("muufl") is None


@pytest.mark.data
def test_a_run_from_the_command_to_the_document(tmp_path, capsys):
    document = tmp_path / "doc.md"
    document.write_text("<!-- table:tiny --><!-- /table:tiny -->\n")
    arguments = ["--scenes", "samson", "--protocols", "x4-ms4", "--methods", "interpolation,draft,gsa"]
    arguments += ["--seeds", "1", "--workers", "1", "-o", str(tmp_path / "out")]
    assert fusion.main([*arguments, "--docs", str(document), "--table", "tiny"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"runs.csv", "tables.md", "gains.png"}
    text = document.read_text()
    assert f"python -m benchmarks.fusion {' '.join(arguments)}" in text
    assert "dB, ×" in cells(text, "samson")[3]
    with open(tmp_path / "out" / "runs.csv", newline="") as file:
        runs = {(r["method"], r["sensor"]): r for r in csv.DictReader(file)}
    assert len(runs) == 5
    assert all(0 < float(r["cpu_s"]) < 60 and 100 < float(r["peak_mb"]) < 4000 for r in runs.values())
    draft, floor = runs["draft", "blind"], runs["interpolation", "none"]
    assert float(draft["psnr_db"]) > float(floor["psnr_db"]) + 10
    assert float(draft["psnr_global_db"]) > float(draft["psnr_db"])
    assert all(float(draft[n]) < float(floor[n]) for n in ("sam_deg", "ergas"))
    assert all(1 > float(draft[n]) > float(floor[n]) for n in ("ssim", "uiqi", "q2n"))
    assert "samson" in capsys.readouterr().out
