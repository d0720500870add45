"""The benchmark of wrong guides: which pairs it makes, and that its summary tells what fails."""

from dataclasses import replace

import pytest
import torch
from synthetic import WAVELENGTHS, scene

from benchmarks import wrong_guides
from benchmarks.wrong_guides import HALVES, Verdict, jobs_of, judge, summary
from hsi_fuse.registration import register

RIGHT = Verdict("muufl", "muufl", "mild", 0, True, 0.99, 2.0, 0.5, 0.1)
WRONG = Verdict("muufl", "jasper", "mild", 0, False, 0.1, 0.3, 0.0)
HERE, THERE = ("here", 0, 0), ("there", 0, 0)


@pytest.fixture(autouse=True)
def places(monkeypatch):
    """Two synthetic scenes in place of the real ones; they are easy to tell apart."""
    monkeypatch.setattr(register, "CANDIDATES", 2)
    monkeypatch.setattr(wrong_guides, "SIDE", 76)
    monkeypatch.setattr(
        wrong_guides, "load", lambda name: (scene(seed=0 if name == "here" else 1), WAVELENGTHS)
    )
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    wrong_guides.seen.cache_clear()
    yield
    wrong_guides.seen.cache_clear()


def test_halves_share_no_scene():
    first, second = ({name for name, _, _ in half} for half in HALVES.values())
    assert not first & second
    assert all(len(half) >= 8 for half in HALVES.values())


def test_every_ordered_couple_is_a_wrong_pair_and_every_place_a_right_one():
    jobs = list(jobs_of(HALVES["first"], ["mild", "strong"], [3, 4]))
    places = HALVES["first"]
    wrong = {(job.hsi, job.guide) for job in jobs if job.hsi != job.guide}
    assert wrong == {(a, b) for a in places for b in places if a != b}
    right = [(job.hsi, job.variant, job.seed) for job in jobs if job.hsi == job.guide]
    assert len(set(right)) == len(right) == 4 * len(places)


def test_the_summary_counts_and_names_what_fails():
    lines = list(summary([WRONG, replace(WRONG, probability=0.6), RIGHT]))
    assert "2 of 2" in lines[0]
    assert "0.600" in lines[0]
    assert "1 of 1" in lines[1]
    assert len(lines) == 2
    lines = list(summary([replace(WRONG, accepted=True), replace(RIGHT, accepted=False), RIGHT]))
    assert "0 of 1" in lines[0]
    assert "1 of 2" in lines[1]
    assert [line.split()[0] for line in lines[2:]] == ["ACCEPTED", "REFUSED"]
    lost = list(summary([replace(RIGHT, error_px=50.0)]))
    assert lost[0].endswith("wrong place 1")


def test_the_verdict_tells_a_place_from_another():
    right, wrong = (judge(wrong_guides.Job(HERE, guide, "mild", 0)) for guide in (HERE, THERE))
    assert right.accepted
    assert right.error_px < 0.5
    assert not wrong.accepted
    assert not right.fails
    assert not wrong.fails
