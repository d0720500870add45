"""Trainings that are interrupted go on as if they had not been."""

import json

import numpy as np
import pytest
import torch
from synthetic import observed, problem_of, scene
from torch import nn

from hsi_fuse import checkpoints
from hsi_fuse.checkpoints import discard, keeping, key_of
from hsi_fuse.errors import HsiFuseWarning
from hsi_fuse.optimise import Schedule, Trained, train
from hsi_fuse.preset import load_preset
from hsi_fuse.problem import silent
from hsi_fuse.scene import Job, RunSettings, run_scene
from hsi_fuse.stages.map import Map
from hsi_fuse.stages.uafl import Uafl
from hsi_fuse.subspace import interpolate


class Killed(Exception):
    """The power goes."""


def trained(folder, dies_at=None, flat=None, patience=9, steps=30) -> tuple[bytes, Trained, float]:
    """A small training with both kinds of random numbers; the network, how it went, the number drawn next."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    draw, rng = torch.Generator().manual_seed(1), np.random.default_rng(2)
    taken = 0

    def loss() -> torch.Tensor:
        nonlocal taken
        taken += 1
        if taken == dies_at:
            raise Killed
        x = torch.randn(5, 3, generator=draw)
        noise = torch.from_numpy(rng.standard_normal((5, 1))).float()
        return ((network(x) - x.sum(1, keepdim=True) - 0.1 * noise) ** 2).mean()

    def score() -> float:
        return float(((network(torch.eye(3)) - 1) ** 2).mean().detach())

    groups: list[dict[str, object]] = [
        {"params": network[0].parameters(), "lr": 0.02},
        {"params": network[2].parameters(), "lr": 0.01},
    ]
    schedule = Schedule(steps, 4, patience, flat=flat)
    with keeping(folder, "key", every_s=0.0):
        how = train(network, groups, loss, score, schedule, silent, "test", draws=(draw, rng))
    weights = b"".join(p.detach().numpy().tobytes() for p in network.parameters())
    return weights, how, float(torch.rand((), generator=draw)) + rng.random()


@pytest.mark.parametrize("flat", [None, 0.2])
@pytest.mark.parametrize("dies_at", [2, 17, 30])
def test_a_resumed_training_gives_the_same_bytes(tmp_path, flat, dies_at):
    undisturbed = trained(None, flat=flat)
    with pytest.raises(Killed):
        trained(tmp_path, dies_at, flat)
    assert trained(tmp_path, flat=flat) == undisturbed


def test_a_finished_training_is_not_repeated_and_leaves_the_same_behind(tmp_path):
    first = trained(tmp_path)
    assert trained(tmp_path, dies_at=1) == first


def test_a_training_that_lost_patience_is_not_taken_up_again(tmp_path):
    first = trained(tmp_path, patience=1, steps=400)
    assert first[1].history[-1]["step"] < 400
    assert trained(tmp_path, dies_at=1, patience=1, steps=400) == first


def test_what_is_no_checkpoint_is_told_and_training_starts_anew(tmp_path):
    first = trained(tmp_path)
    (path,) = tmp_path.glob("*/*")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.warns(HsiFuseWarning, match="no checkpoint"):
        assert trained(tmp_path) == first


def test_without_a_place_to_write_training_goes_on(tmp_path):
    (tmp_path / "key").write_text("a file, where a folder should be")
    with pytest.warns(HsiFuseWarning, match="no checkpoint was written"):
        assert trained(tmp_path) == trained(None)


def test_other_inputs_or_settings_have_states_of_their_own():
    problem, other = (problem_of(observed(4), seed=seed) for seed in (0, 1))
    keys = {key_of(problem, {"steps": 3}), key_of(problem, {"steps": 4}), key_of(other, {"steps": 3})}
    assert len(keys) == 3
    assert key_of(problem, {"steps": 3}) in keys
    problem.guide[0, 5, 5] += 1e-6
    assert key_of(problem, {"steps": 3}) not in keys


def test_states_are_removed_and_nothing_else(tmp_path):
    trained(tmp_path / "states")
    (tmp_path / "states" / "mine.txt").write_text("")
    discard(tmp_path / "states")
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["mine.txt"]
    (tmp_path / "states" / "mine.txt").unlink()
    discard(tmp_path / "states")
    assert not (tmp_path / "states").exists()


def test_an_interrupted_run_goes_on_to_the_same_product_and_clears_up(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    quick = ["align.model=none", "align.local=false", "coupled.steps=12", "coupled.imitate=4"]
    settings = RunSettings(load_preset("fast", quick), threads=1)
    plain, output, states = (tmp_path / name for name in ("plain.tif", "other.tif", "states"))
    told = []

    def dies(what: str, step: int, total: int, score: float, loss: float = 0.0) -> None:
        told.append((what, step))
        if what == "coupled" and step == 6:
            raise Killed

    run_scene(Job(pair.hsi, pair.ref, plain, settings))
    job = Job(pair.hsi, pair.ref, output, settings, checkpoints=states)
    with pytest.raises(Killed):
        run_scene(job, dies)
    assert len(list(states.glob("*/*"))) == 2  # imitation, and what came after it
    assert not output.exists()
    told.clear()
    run_scene(job, lambda *report: told.append(report[:2]))
    assert ("coupled", 3) not in told  # where it was interrupted it goes on
    assert ("coupled", 9) in told
    assert output.read_bytes() == plain.read_bytes()
    assert not states.exists()


def test_a_stage_that_is_interrupted_half_way_gives_the_same_bytes(tmp_path):
    """Through everything that draws random numbers between and in a stage's trainings."""
    problem = problem_of(observed(4, truth=scene(64, 72)), seed=3)
    start = Map()(problem, interpolate(problem), silent).estimate
    stage = Uafl(steps=12, width=4, levels=2, groups=2, heads=2, crop_px=32, fits=0.0)
    told = 0

    def dies(what: str, step: int, total: int, score: float, loss: float = 0.0) -> None:
        nonlocal told
        told += 1
        if told == 3:
            raise Killed

    undisturbed = stage(problem, start, silent)
    with keeping(tmp_path, "key", every_s=0.0), pytest.raises(Killed):
        stage(problem, start, dies)
    with keeping(tmp_path, "key", every_s=0.0):
        resumed = stage(problem, start, silent)
    assert torch.equal(resumed.estimate.coefficients, undisturbed.estimate.coefficients)
    assert json.dumps(resumed.verdict) == json.dumps(undisturbed.verdict)
    assert list(resumed.history) == list(undisturbed.history)
