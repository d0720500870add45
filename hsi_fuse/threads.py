"""How many threads numerical libraries may use: they ask the environment, once, when they load."""

from __future__ import annotations

import os

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def thread_environment(threads: int | None) -> dict[str, str]:
    """Environment variables for a process that has not loaded numpy, scipy or torch yet; None: no limit."""
    # threads that spin while they wait slow each other down many times on a busy workstation
    waiting = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}
    return waiting if threads is None else waiting | dict.fromkeys(VARIABLES, str(threads))
