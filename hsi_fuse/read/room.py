"""Whether an image fits into memory, asked before it is read: headers can promise anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hsi_fuse.errors import ReadError

GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def check_room(needed: float, what: str, remedy: str) -> None:
    """Refuse what this process cannot hold.

    Parameters
    ----------
    needed : float
        Bytes.
    what, remedy : str
        What needs them, and what can be done.

    Raises
    ------
    ReadError
    """
    limits = list(_limits())
    if limits and needed > min(limits):
        raise ReadError(
            f"{what} needs {needed / 1e9:,.1f} GB of memory, but there are {min(limits) / 1e9:,.1f} GB; "
            f"{remedy}"
        )


def _limits() -> Iterator[float]:
    """What the machine, the container and the shell allow, bytes, as far as they can be asked."""
    with suppress(AttributeError, OSError, ValueError):  # Windows does not say
        yield float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # no container, or "max"
        yield float(GROUP_LIMIT.read_text())
    try:
        import resource
    except ImportError:
        return
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft != resource.RLIM_INFINITY:
        yield float(soft)
