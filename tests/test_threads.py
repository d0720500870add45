"""Threads: small pieces of work side by side, numpy's and scipy's small matrices on one."""

import threading
import time

import pytest
import torch

from hsi_fuse.threads import (
    at_once,
    hand_back_memory,
    in_turn,
    keep_memory,
    one_thread,
    thread_environment,
)


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_work_at_once_keeps_its_order_and_leaves_the_threads_as_they_were(threads):
    meet = threading.Barrier(threads, timeout=20)  # broken, if fewer than that work at a time

    def work(item):
        meet.wait()
        return item, torch.get_num_threads()

    assert at_once(work, range(2 * threads)) == [(item, 1) for item in range(2 * threads)]
    assert torch.get_num_threads() == threads


def test_one_thread_for_a_while_whatever_happens(threads):
    @one_thread()
    def broken():
        raise ValueError(f"with {torch.get_num_threads()}")

    with pytest.raises(ValueError, match="with 1"):
        broken()
    assert torch.get_num_threads() == threads


def test_few_at_a_time_share_the_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert list(in_turn(lambda item: torch.get_num_threads(), range(3), most=2)) == [2, 2, 2]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_what_goes_wrong_is_told_and_the_threads_are_as_they_were(threads):
    with pytest.raises(ZeroDivisionError):
        at_once(lambda item: 1 / item, [2, 1, 0])
    assert torch.get_num_threads() == threads


def test_when_one_fails_the_others_do_not_go_on():
    before, turns = torch.get_num_threads(), []

    def work(item):
        if item:
            raise ValueError(item)
        for turn in range(3000):
            turns.append(turn)
            time.sleep(0.01)

    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="1"):
            list(in_turn(work, [1, 0, 0]))
    finally:
        torch.set_num_threads(before)
    assert len(turns) < 1000


def test_numpy_has_one_thread_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert thread_environment(4)["OPENBLAS_NUM_THREADS"] == "1"
    assert thread_environment(4)["OMP_NUM_THREADS"] == "4"
    assert "OMP_NUM_THREADS" not in thread_environment(None)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert thread_environment(None)["OPENBLAS_NUM_THREADS"] == "3"


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_keeping_memory_harms_no_system(monkeypatch, platform):
    monkeypatch.setattr("sys.platform", platform)
    keep_memory()
    hand_back_memory()
    assert float(torch.ones(1 << 20).sum()) == 1 << 20
