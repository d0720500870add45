"""Many machines: the same scenes on a Dask cluster, of which a worker is lost."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hsi_fuse.batch import plan_batch, run_batch
from hsi_fuse.batch.manifest import Manifest
from hsi_fuse.errors import PresetError
from hsi_fuse.preset import load_preset
from hsi_fuse.scene import Job, RunSettings, run_scene

distributed: Any = pytest.importorskip("distributed", reason="needs the extra [dask]")

SETTINGS = RunSettings(load_preset("interpolation", ["align.model=none", "align.local=false"]), threads=1)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two workers in processes of their own."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as workers:
        yield workers


def test_a_cluster_that_loses_a_worker_makes_the_same_bytes(cluster, pair, tmp_path):
    folder, out = tmp_path / "sites", tmp_path / "out"
    for number in (1, 2):
        (folder / f"site{number}").mkdir(parents=True)
        for file in (pair.hsi, pair.hsi.with_suffix(".img"), pair.ref):
            shutil.copy(file, folder / f"site{number}")
    lost = threading.Event()

    def lose_a_worker() -> None:
        log = out / "site1_scene/log.txt"
        while not (log.exists() and "align" in log.read_text()):
            time.sleep(0.05)
        os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
        lost.set()

    threading.Thread(target=lose_a_worker, daemon=True).start()
    result = run_batch(plan_batch(folder, out, SETTINGS), jobs=0, dask=cluster.scheduler_address)
    assert lost.is_set()
    assert [row.state for row in result.rows] == ["done", "done"]
    assert {record.state for record in Manifest.of(out).records.values()} == {"done"}

    plain = tmp_path / "plain.tif"
    run_scene(Job(folder / "site1/scene.hdr", folder / "site1/camera.tif", plain, SETTINGS))
    for number in (1, 2):
        product = out / f"site{number}_scene/site{number}_scene.tif"
        assert product.read_bytes() == plain.read_bytes()


def test_a_scheduler_that_does_not_answer_is_named(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("hsi_fuse.batch.schedule.CONNECT_S", 0.5)
    plan = plan_batch(pair.hsi.parent, tmp_path / "out", SETTINGS)
    with pytest.raises(PresetError, match=r"127\.0\.0\.1:9"):
        run_batch(plan, jobs=0, dask="tcp://127.0.0.1:9")
