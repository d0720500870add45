"""Arrays in files without names: what a big scene needs for a while and memory does not hold."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scratch:
    """Values in a file that ends with them, mapped into memory.

    Attributes
    ----------
    values : ndarray
    pages : mmap
        The same as bytes.
    """

    values: NDArray[Any]
    pages: mmap.mmap

    @classmethod
    def zeros(cls, shape: Sequence[int], dtype: Any, folder: Path | None) -> Scratch:
        """Not of size 0. `folder`: None: the system's for temporary files.

        Raises
        ------
        OSError
            The disk has no room for all of it.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        # no name in the folder: whatever ends the process, nothing is left behind
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(size)
            # a disk that is full when a page is first written would end the process at once
            if hasattr(os, "posix_fallocate"):  # not on every system
                os.posix_fallocate(file.fileno(), 0, size)
            pages = mmap.mmap(file.fileno(), size)
        return cls(np.frombuffer(pages, dtype).reshape(shape), pages)

    def let_go(self) -> None:
        """Leave to the system's cache what was touched: it counts as the process's memory no longer."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on every system
            self.pages.madvise(mmap.MADV_DONTNEED)
