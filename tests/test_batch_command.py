"""The batch command: what it tells, and batches in earnest that are terminated or killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

from acquisitions import SETTINGS, SITES

from hsi_fuse import cli
from hsi_fuse.batch.lock import locked
from hsi_fuse.batch.manifest import Manifest
from hsi_fuse.scene import Job, run_scene

QUICK = [
    "--preset",
    "interpolation",
    "--set",
    "align.model=none",
    "--set",
    "align.local=false",
    "--threads",
    "1",
]
BATCH = (sys.executable, "-m", "hsi_fuse.cli", "batch")


def test_the_command_tells_what_came_of_it_and_ends_with_6_where_some_failed(
    folder, pretend, tmp_path, capsys
):
    command = ["batch", str(folder), "-o", str(tmp_path / "out"), *QUICK]
    pretend.broken = {"south"}
    assert cli.main(command) == 6
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        str(tmp_path / "out" / f) for f in ("index.html", "summary.csv", "manifest.json")
    ]
    assert "failed     south_scene" in err
    assert "hsi-fuse: error: south_scene failed (in all: 1 failed, 2 green)" in err
    pretend.broken = set()
    assert cli.main(command) == 0


def test_a_dry_run_shows_pairs_and_writes_nothing(folder, pretend, tmp_path, capsys):
    command = ["batch", str(folder), "-o", str(tmp_path / "out"), "--dry-run", *QUICK]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "covers 100 %, named north" in shown
    assert "x4: 112 x 96 pixels" in shown
    assert cli.main([*command, "--json"]) == 0
    scene = json.loads(capsys.readouterr().out)["scenes"][0]
    assert (scene["scale"], scene["to_do"]) == (4, "new")
    assert not (tmp_path / "out").exists()
    assert pretend.ran == []


def test_wrong_usage_of_the_command(folder, pretend, tmp_path, capsys):
    out = ["-o", str(tmp_path / "out")]
    assert cli.main(["batch", str(folder)]) == 2
    assert cli.main(["batch", str(folder), *out, "--match", "("]) == 2
    assert cli.main(["batch", str(folder), *out, "--jobs", "0"]) == 2
    assert cli.main(["batch", str(tmp_path / "nowhere"), *out]) == 3
    assert cli.main(["batch", str(folder), *out, "--pairs", "nowhere.csv"]) == 3
    assert not (tmp_path / "out").exists()


# --- in earnest --------------------------------------------------------------------------------------------


def test_a_batch_that_is_terminated_stops_its_scenes_and_cleans_up(folder, tmp_path):
    out = tmp_path / "out"
    command = [*BATCH, str(folder), "-o", str(out), "--jobs", "2", *QUICK]
    batch = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    logs = [out / f"{site}_scene/log.txt" for site in SITES[:2]]
    while not all(log.exists() and "align" in log.read_text() for log in logs):
        assert batch.poll() is None
        time.sleep(0.05)
    batch.send_signal(signal.SIGTERM)
    _, err = batch.communicate(timeout=60)
    assert batch.returncode == 130, err
    assert "stopped with 3 scenes to go" in err
    assert {path.name for path in out.rglob("*_scene/*")} == {"log.txt"}
    with locked(out):  # no scene has it any more
        assert "interrupted" in logs[0].read_text()


def test_a_batch_killed_twice_goes_on_to_the_same_bytes(folder, tmp_path):
    """One of the scenes holds no data, and fails alone; the others are of one pair, and so alike."""
    empty = folder / "south/scene.img"
    empty.write_bytes(b"\xf1\xd8" * (empty.stat().st_size // 2))
    out = tmp_path / "out"
    command = [*BATCH, str(folder), "-o", str(out), *QUICK]

    def start_and_kill_after(text: str) -> None:
        batch = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert batch.stderr is not None
        for line in batch.stderr:
            if text in line:
                break
        batch.send_signal(signal.SIGKILL)
        batch.wait()

    start_and_kill_after("started    north")
    start_and_kill_after("started    west")
    stood = (out / "north_scene/north_scene.tif").stat()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    records = Manifest.of(out).records
    assert {name: r.state for name, r in records.items()} == {
        "north_scene": "done", "south_scene": "failed", "west_scene": "done",
    }  # fmt: skip
    assert records["south_scene"].exit_code == 3
    assert (out / "north_scene/north_scene.tif").stat().st_mtime_ns == stood.st_mtime_ns
    assert not list(out.rglob("*.part"))

    plain = tmp_path / "plain.tif"
    run_scene(Job(folder / "north/scene.hdr", folder / "north/camera.tif", plain, SETTINGS))
    for site in ("north", "west"):
        assert (out / f"{site}_scene/{site}_scene.tif").read_bytes() == plain.read_bytes()
