"""How much memory there is for another scene. It decides when a scene starts, never how it is computed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Memory that could be had now, within what a container allows; None where the system does not tell."""
    free: list[int] = []
    with suppress(OSError, ValueError, StopIteration):
        line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable"))
        free.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limit = int((CGROUP / "memory.max").read_text())
        free.append(limit - int((CGROUP / "memory.current").read_text()) + _cache_bytes())
    return min(free) if free else None


def fits(wanted: int, promised: int, resident: int, available: int | None) -> bool:
    """Whether a scene may start beside others.

    Parameters
    ----------
    wanted : int
        Peak of the scene, bytes.
    promised : int
        Sum of the peaks of the scenes that run.
    resident : int
        What these hold already, of what they were promised.
    available : int or None
        What could be had now; None: unknown, and no reason to wait.
    """
    return available is None or wanted + max(promised - resident, 0) <= available


def _cache_bytes() -> int:
    """Pages of files in the container's account, which the system gives back when it must."""
    for line in (CGROUP / "memory.stat").read_text().splitlines():
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0
