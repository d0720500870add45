"""Many machines: the same scenes on a Dask cluster, of which a worker is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hsi_fuse.batch import plan_batch, run_batch
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
    out = tmp_path / "out"
    log = out / "scene/log.txt"
    lost = threading.Event()

    def lose_the_worker_that_runs_it() -> None:
        while not (log.exists() and "align" in log.read_text()):
            time.sleep(0.05)
        busy = [address for address, worker in cluster.scheduler.workers.items() if worker.processing]
        (nanny,) = (each for each in cluster.workers.values() if each.worker_address == busy[0])
        os.kill(nanny.pid, signal.SIGKILL)
        lost.set()

    threading.Thread(target=lose_the_worker_that_runs_it, daemon=True).start()
    result = run_batch(plan_batch(pair.hsi.parent, out, SETTINGS), jobs=0, dask=cluster.scheduler_address)
    assert lost.is_set()
    assert [row.state for row in result.rows] == ["done"]
    assert not list(out.rglob("*.part"))

    plain = tmp_path / "plain.tif"
    run_scene(Job(pair.hsi, pair.ref, plain, SETTINGS))
    assert (out / "scene/scene.tif").read_bytes() == plain.read_bytes()


def test_a_scheduler_that_does_not_answer_is_named(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("hsi_fuse.batch.schedule.CONNECT_S", 0.5)
    plan = plan_batch(pair.hsi.parent, tmp_path / "out", SETTINGS)
    with pytest.raises(PresetError, match=r"127\.0\.0\.1:9"):
        run_batch(plan, jobs=0, dask="tcp://127.0.0.1:9")
