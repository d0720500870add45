"""Putting files in place: all of an output, or none of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rasterio._err import CPLE_BaseError  # rasterio lets some of GDAL's errors through as they are
from rasterio.errors import RasterioError

from hsi_fuse.errors import WriteError


def check_output(path: str | Path, overwrite: bool) -> None:
    """Fail before the work is done rather than after it.

    Raises
    ------
    WriteError
        If `path` exists and may not be overwritten, is a folder, or its folder is missing or unwritable.
    """
    path = Path(path)
    if path.is_dir():
        raise WriteError(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise WriteError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise WriteError(f"cannot write {path}: no permission to write in {path.parent}")
    if path.exists() and not overwrite:
        raise WriteError(f"{path} exists; use --overwrite to replace it, or another name")


@contextmanager
def atomic_files(*finals: Path) -> Iterator[tuple[Path, ...]]:
    """Write several files that belong together; they get their names only when all are complete.

    Each file is replaced atomically, in the order given; so name last what makes a reader look at the
    rest (a header). Nothing is left behind on any exception, an interrupt included.

    Yields
    ------
    tuple of Path
        Where to write: `<name>.part` in the same folder, for each of `finals`.

    Raises
    ------
    WriteError
        If the body, the disk or the renaming fails; names the (first) final path.
    """
    parts = tuple(final.with_name(final.name + ".part") for final in finals)
    try:
        for part in parts:  # found after a crash; a driver may refuse or reuse it
            part.unlink(missing_ok=True)
        yield parts
        for part in parts:
            _sync(part)
        for part, final in zip(parts, finals, strict=True):
            os.replace(part, final)
        _sync(finals[0].parent)
    except (OSError, RasterioError, CPLE_BaseError) as error:
        raise WriteError(
            f"cannot write {finals[0]}: {error}. Is there space on the disk, and may you write there?"
        ) from error
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """`atomic_files` for a single file: yields where to write."""
    with atomic_files(Path(path)) as (part,):
        yield part


@contextmanager
def staged(*finals: Path) -> Iterator[Path]:
    """A folder beside the outputs whose files take their final names only if all went well."""
    home = finals[0].parent
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{finals[0].stem}.", suffix=".part", dir=home))
    except OSError as error:
        raise WriteError(f"cannot write into {home}: {error.strerror}") from error
    placed: list[Path] = []
    try:
        yield folder
        for final in reversed(finals):  # the product last: where it stands, everything stands
            new = not final.exists()
            os.replace(folder / final.name, final)
            if new:
                placed.append(final)
    except BaseException as error:
        for path in placed:
            with suppress(OSError):  # the folder may have become read-only
                path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WriteError(f"cannot write {finals[0]}: {error.strerror or error}") from error
        if isinstance(error, WriteError):  # it names the file in the folder, which nobody asked for
            raise WriteError(str(error).replace(str(folder), str(home))) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: str | Path, text: str, overwrite: bool = False) -> None:
    """Write UTF-8 text with "\\n" line ends, atomically.

    Raises
    ------
    WriteError
    """
    check_output(path, overwrite)
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def _sync(path: Path) -> None:
    """Onto the disk, so that a power cut leaves the old or the new file, never an empty one."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():  # Windows cannot open folders
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
