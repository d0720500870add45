"""How many threads work at a time, and on what."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "20000"}
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
"""Of glibc's malloc.h."""
KEPT_BYTES = 1 << 30
"""More than the arrays that come and go in a block's solution take."""


def thread_environment(threads: int | None) -> dict[str, str]:
    """Environment variables for a process that has not loaded numpy, scipy or torch yet; None: no limit.

    These libraries ask the environment once, when they load. numpy and scipy (OpenBLAS) are given matrices of
    a few hundred rows, on which a second thread costs what it helps: they have one, torch (MKL) has all.
    """
    # threads that spin while they wait slow each other down many times on a busy workstation; some ten
    # microseconds are less than it takes to wake one
    waiting = {name: os.environ.get(name, value) for name, value in WAITING.items()}
    small = {"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")}
    limit = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return waiting | small | limit


def keep_memory() -> None:
    """Let the process keep what it frees, up to `KEPT_BYTES`, instead of handing it back each time.

    glibc maps each large array anew, and the system clears its pages one by one when they are first written:
    a tenth of a run's time, and more where threads wait for each other there. Other systems: nothing.
    """
    for option, value in (
        (M_ARENA_MAX, 1),  # the heaps of other threads are too small for such arrays
        (M_MMAP_THRESHOLD, KEPT_BYTES),
        (M_TRIM_THRESHOLD, KEPT_BYTES),
        (M_TOP_PAD, 64 << 20),
    ):
        _glibc("mallopt", option, value)


def hand_back_memory() -> None:
    """Hand back what was kept, where what comes next needs less of it."""
    _glibc("malloc_trim", 0)


def _glibc(name: str, *values: int) -> None:
    """Call a function of glibc, where that is the system's library."""
    found = getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
    if found is not None:
        found(*values)


@contextmanager
def one_thread() -> Iterator[None]:
    """For many small operations one after the other: a second thread costs more than it helps.

    Not in a piece of `in_turn`'s work: threads that begin meanwhile may begin with one.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def at_once(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The work on each item, in their order: as many at a time as torch has threads, each with one of them.

    For pieces of work whose own parts are too small to be divided; a single one has all threads.
    """
    items = list(items)
    return list(in_turn(work, items, max(len(items), 1)))


def in_turn(
    work: Callable[[Item], Result], items: Iterable[Item], most: int | None = None
) -> Iterator[Result]:
    """The same one after the other, and never more than `most` of them begun and not taken yet.

    Fewer than there are threads share them evenly.
    """
    import torch

    threads = torch.get_num_threads()
    workers = threads if most is None else min(threads, most)
    if workers <= 1:
        yield from map(work, items)
        return
    working: set[int] = set()

    def watched(item: Item) -> Result:
        working.add(threading.get_ident())
        try:
            return work(item)
        finally:
            working.discard(threading.get_ident())

    each = threads // workers
    torch.set_num_threads(each)  # what a thread begins with, unless it says so itself, hangs on all others
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,)) as pool:
            begun: deque[Future[Result]] = deque()
            try:
                for item in items:
                    if len(begun) == workers:
                        yield begun.popleft().result()
                    begun.append(pool.submit(watched, item))
                while begun:
                    yield begun.popleft().result()
            except BaseException:  # else an interrupted run would go on until its blocks are done
                pool.shutdown(wait=False, cancel_futures=True)
                for thread in list(working):
                    _stop(thread)
                raise
    finally:
        torch.set_num_threads(threads)


def _stop(thread: int) -> None:
    """Let a thread be interrupted after the operation it is in."""
    interrupt = ctypes.py_object(KeyboardInterrupt)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), interrupt)
