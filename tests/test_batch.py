"""Many scenes: what is run, what is not and why; with scenes that only pretend."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from acquisitions import SETTINGS, SITES

from hsi_fuse.batch import memory, plan_batch, run_batch, schedule
from hsi_fuse.batch.lock import locked
from hsi_fuse.batch.manifest import Manifest
from hsi_fuse.batch.plan import BatchPlan
from hsi_fuse.batch.schedule import BatchResult
from hsi_fuse.errors import ReadError, WriteError
from hsi_fuse.preset import load_preset
from hsi_fuse.sensors.known import SensorWords


@pytest.fixture
def plan(folder: Path, tmp_path: Path) -> Callable[..., BatchPlan]:
    return lambda settings=SETTINGS: plan_batch(folder, tmp_path / "out", settings)


def run(plan: BatchPlan, **how: Any) -> tuple[BatchResult, list[str]]:
    """The result, and what was told of scenes that were run again."""
    told: list[str] = []
    result = run_batch(plan, on_event=lambda e: told.append(f"{e.scene} {e.kind} {e.text}"), **how)
    return result, told


# --- what is run, and what is not --------------------------------------------------------------------------


def test_a_batch_leaves_products_a_manifest_a_table_and_a_page(plan, pretend, tmp_path):
    result, _ = run(plan())
    out = tmp_path / "out"
    assert [row.state for row in result.rows] == ["done"] * 3
    assert (out / "north_scene/north_scene.tif").exists()
    manifest = json.loads((out / "manifest.json").read_text())
    record = manifest["scenes"]["north_scene"]
    assert record["state"] == "done"
    assert {Path(path).name for path in record["inputs"]} == {"scene.hdr", "scene.img", "camera.tif"}
    assert all(
        len(facts["sha256"]) == 64 for facts in (*record["inputs"].values(), *record["outputs"].values())
    )
    assert manifest["settings"][record["settings"]]["preset"]["name"] == "interpolation"
    assert "torch" in manifest["versions"]
    with (out / "summary.csv").open() as file:
        assert [row["light"] for row in csv.DictReader(file)] == ["green"] * 3
    page = (out / "index.html").read_text()
    assert 'href="north_scene/north_scene_report.html"' in page
    assert "http" not in page.replace("http-equiv", "")


def test_what_is_done_and_unchanged_is_not_run_again(plan, pretend):
    run(plan())
    pretend.ran.clear()
    result, told = run(plan())
    assert pretend.ran == []
    assert len(result.rows) == 3
    assert told == [f"{site}_scene unchanged done before" for site in SITES]


def test_only_the_scene_whose_input_changed_is_run_again(plan, pretend, folder):
    run(plan())
    pretend.ran.clear()
    image = folder / "south/scene.img"
    content = bytearray(image.read_bytes())
    content[0] ^= 1
    image.write_bytes(content)
    os.utime(folder / "north/scene.img")  # touched, but the same
    _, told = run(plan())
    assert pretend.ran == ["south"]
    assert "south_scene batch to be run again: changed: scene.img" in told


def test_other_settings_run_all_again_and_say_which(plan, pretend):
    run(plan())
    pretend.ran.clear()
    preset = load_preset("interpolation", ["align.model=none", "align.local=false", "assess.tie_db=0.2"])
    _, told = run(plan(replace(SETTINGS, seed=1, preset=preset)))
    assert pretend.ran == list(SITES)
    assert (
        "north_scene batch to be run again: settings: preset.assess.tie_db 0.05 -> 0.2; seed 0 -> 1" in told
    )


def test_files_that_settings_name_count_by_their_content(plan, pretend, tmp_path):
    table = tmp_path / "srf.csv"
    table.write_text("wavelength_nm,red\n600,1\n")
    settings = replace(SETTINGS, wavelengths=table, sensors=SensorWords(srf=table))
    run(plan(settings))
    pretend.ran.clear()
    os.utime(table)
    run(plan(settings))
    assert pretend.ran == []
    table.write_text("wavelength_nm,red\n601,1\n")
    _, told = run(plan(settings))
    assert pretend.ran == list(SITES)
    assert "sensors.srf" in told[0]


def test_files_that_settings_name_are_found_from_any_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("bands.txt", "srf.csv", "psf.csv"):
        (tmp_path / name).touch()
    sensors = SensorWords(srf=Path("srf.csv"), psf="psf.csv")
    found = plan_batch(
        folder, "out", replace(SETTINGS, wavelengths=Path("bands.txt"), sensors=sensors)
    ).settings
    assert found.wavelengths == tmp_path / "bands.txt"
    assert found.sensors == SensorWords(srf=tmp_path / "srf.csv", psf=str(tmp_path / "psf.csv"))
    named = replace(SETTINGS, wavelengths=Path("prisma"), sensors=SensorWords(psf="1.2"))
    assert plan_batch(folder, "out", named).settings == named


def test_another_version_runs_all_again(plan, pretend, monkeypatch):
    run(plan())
    pretend.ran.clear()
    monkeypatch.setattr("hsi_fuse.batch.manifest.__version__", "9.9")
    _, told = run(plan())
    assert pretend.ran == list(SITES)
    assert any("-> 9.9" in line for line in told)


def test_an_output_that_is_gone_or_changed_is_made_again(plan, pretend, tmp_path):
    run(plan())
    pretend.ran.clear()
    (tmp_path / "out/north_scene/north_scene_rgb.tif").unlink()
    (tmp_path / "out/west_scene/west_scene.tif").write_text("not what it was")
    run(plan())
    assert pretend.ran == ["north", "west"]


def test_another_reference_runs_a_scene_again(plan, pretend, folder, tmp_path):
    run(plan())
    pretend.ran.clear()
    table = tmp_path / "pairs.csv"
    table.write_text("hsi,reference\nnorth/scene.hdr,south/camera.tif\n")
    result, told = run(plan_batch(folder, tmp_path / "out", SETTINGS, pairs=table))
    assert pretend.ran == ["north"]
    assert "another reference" in told[0]
    assert len(result.rows) == 1


def test_a_scene_that_fails_fails_alone_and_is_tried_again(plan, pretend, tmp_path):
    pretend.broken = {"south"}
    result, _ = run(plan())
    assert [(row.scene, row.state) for row in result.rows] == [
        ("south_scene", "failed"), ("north_scene", "done"), ("west_scene", "done"),
    ]  # fmt: skip
    assert (result.failed[0].exit_code, result.failed[0].text) == (4, "refused")
    assert result.failed[0].log == "south_scene/log.txt"
    pretend.ran, pretend.broken = [], set()
    result, told = run(plan())
    assert pretend.ran == ["south"]
    assert not result.failed
    assert "south_scene batch to be run again: failed before: refused" in told


def test_a_product_of_old_settings_does_not_outlive_a_failure(plan, pretend, tmp_path):
    run(plan())
    pretend.broken = {"west"}
    run(plan(replace(SETTINGS, seed=1)))
    assert [path.name for path in (tmp_path / "out/west_scene").iterdir()] == ["log.txt"]


def test_scenes_that_failed_before_come_last(plan, pretend, tmp_path):
    pretend.broken = {"north"}
    run(plan())
    (tmp_path / "out/west_scene/west_scene.tif").unlink()
    pretend.ran.clear()
    run(plan())
    assert pretend.ran == ["west", "north"]


def test_what_somebody_else_put_there_stays(plan, pretend, tmp_path):
    precious = tmp_path / "out/north_scene/north_scene_report.html"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    for _ in range(2):
        result, _ = run(plan())
        assert [(row.scene, row.exit_code) for row in result.failed] == [("north_scene", 7)]
        assert "not of this batch" in result.failed[0].text
        assert precious.read_text() == "precious"


def test_the_folders_may_be_called_by_other_names(pretend, folder, tmp_path, monkeypatch):
    run(plan_batch(folder, tmp_path / "out", SETTINGS))
    pretend.ran.clear()
    monkeypatch.chdir(folder / "north")
    run(plan_batch("..", "../../out", SETTINGS))
    assert pretend.ran == []


def test_an_unreadable_scene_fails_alone(plan, pretend, folder):
    (folder / "south/scene.img").write_bytes(b"cut off")
    result, _ = run(plan())
    assert pretend.ran == ["north", "west"]
    assert [row.exit_code for row in result.failed] == [3]
    assert "promises" in result.failed[0].text


# --- going on ----------------------------------------------------------------------------------------------


def test_a_batch_that_was_stopped_goes_on(plan, pretend):
    def stop_at_second(event: Any) -> None:
        if event.kind == "started" and event.scene.startswith("south"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(plan(), on_event=stop_at_second)
    assert pretend.ran == ["north"]
    result, _ = run(plan())
    assert pretend.ran == list(SITES)
    assert {row.state for row in result.rows} == {"done"}


def test_a_scene_that_was_complete_when_its_batch_died_is_not_run_again(plan, pretend, tmp_path):
    run(plan())
    manifest = Manifest.of(tmp_path / "out")
    record = manifest.records["north_scene"]
    manifest.record("north_scene", replace(record, state="started", outputs={}, figures={}))
    pretend.ran.clear()
    result, told = run(plan())
    assert pretend.ran == []
    assert told[0].startswith("north_scene done was complete")
    assert result.rows[0].light == "green"

    record = Manifest.of(tmp_path / "out").records["north_scene"]
    manifest.record("north_scene", replace(record, state="started", outputs={}))
    (tmp_path / "out/north_scene/north_scene.tif").unlink()
    run(plan())
    assert pretend.ran == ["north"]


def test_two_batches_do_not_share_a_folder(plan, pretend, tmp_path):
    run(plan())
    before = (tmp_path / "out/manifest.json").read_bytes()
    with locked(tmp_path / "out"), pytest.raises(WriteError, match="another batch works in"):
        run_batch(plan(replace(SETTINGS, seed=1)))
    assert (tmp_path / "out/manifest.json").read_bytes() == before
    assert len(pretend.ran) == 3


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": "of another kind"}', '{"format": "hsi-fuse batch 1"}']
)
def test_a_foreign_manifest_is_refused_and_kept(plan, pretend, tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text(text)
    with pytest.raises(ReadError, match=r"manifest\.json"):
        run_batch(plan())
    assert (tmp_path / "out/manifest.json").read_text() == text
    assert pretend.ran == []


# --- how many at a time ------------------------------------------------------------------------------------


def test_scenes_run_beside_each_other_where_memory_allows_it(plan, pretend, monkeypatch):
    pretend.seconds = 0.3
    monkeypatch.setattr(schedule, "available_bytes", lambda: 10**12)
    run(plan(), jobs=2)
    assert pretend.most_at_once == 2


def test_short_memory_makes_scenes_wait_but_run_all_the_same(plan, pretend, monkeypatch):
    pretend.seconds = 0.3
    monkeypatch.setattr(schedule, "available_bytes", lambda: 10**8)
    monkeypatch.setattr(schedule, "POLL_S", 0.05)
    result, told = run(plan(), jobs=3)
    assert pretend.most_at_once == 1
    assert {row.state for row in result.rows} == {"done"}
    assert any("waiting for memory" in line for line in told)


def test_a_scene_fits_where_those_that_run_leave_room_for_what_they_were_promised():
    assert memory.fits(4, promised=0, resident=0, available=4)
    assert not memory.fits(4, promised=6, resident=2, available=7)
    assert memory.fits(4, promised=6, resident=6, available=4)
    assert memory.fits(4, promised=6, resident=0, available=None)


def test_the_memory_that_is_there_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available_bytes() is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  8 kB\n")
    assert memory.available_bytes() == 8192
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 1500\n")
    assert memory.available_bytes() == 3500
