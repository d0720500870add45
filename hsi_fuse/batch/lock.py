"""One batch at a time in an output folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from hsi_fuse.errors import WriteError

PATIENCE_S = 60.0
"""How long the scenes of a batch that died may take to notice it."""


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold a folder for this process, and for the processes that inherit the file descriptor it yields.

    The lock is the kernel's, on the open file: it ends with the last process that holds it, however that
    ends, so that none is ever stale, and the scenes of a batch that was killed keep it until they are gone.

    Raises
    ------
    WriteError
        Another batch holds the folder, or it cannot be written.
    """
    path = folder / "batch.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise WriteError(f"cannot write into {folder}: {error.strerror}") from error
    try:
        started = time.monotonic()
        while not _taken(descriptor):
            holder = _holder(descriptor)
            # its batch is dead: its scenes end by themselves, and a moment later the lock is free
            if not _died(holder) or time.monotonic() - started > PATIENCE_S:
                raise WriteError(
                    f"another batch works in {folder}: process {holder.get('process', '?')} on "
                    f"{holder.get('host', 'an unknown host')}, since {holder.get('since', '?')}; "
                    "wait for it, stop it, or choose another -o"
                )
            time.sleep(0.1)
        facts = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(facts).encode(), 0)
        yield descriptor
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> dict[str, object]:
    try:
        found = json.loads(os.pread(descriptor, 1000, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _died(holder: dict[str, object]) -> bool:
    """Whether the batch that wrote the lock is known to be no more."""
    process = holder.get("process")
    if holder.get("host") != socket.gethostname() or not isinstance(process, int):
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
