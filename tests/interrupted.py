"""A run that ends at random moments; as a program it tries many and prints what went wrong as JSON.

`python tests/interrupted.py HSI REF FOLDER SAVES RUNS SEED` fuses a pair once (in few steps), then writes it
again and again in a child process: SAVES times killed, with too little room on the disk, and in a folder that
is or becomes read-only; RUNS whole runs of the command are killed too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

# a fork of a process that has threads may wait for ever for one that is not there
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np

LONGEST = 200
"""Seconds until a child that hangs is ended, which is then told as its exit status."""
NOBODY = 65534
Files = dict[str, str]


def files_in(folder: Path) -> Files:
    """Name -> digest of what has a final name; unfinished files end in .part or lie in folders that do."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.endswith(".part") for part in path.relative_to(folder).parts)
    }


def in_child(work: Callable[[], int], meanwhile: Callable[[int], None]) -> int:
    """Run `work` in a fork, `meanwhile` (given its id) here; its exit status, -9 where it was killed."""
    child = os.fork()
    if not child:
        code = 99
        signal.alarm(LONGEST)
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            code = work()
        finally:
            os._exit(code)
    meanwhile(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_after(seconds: float) -> Callable[[int], None]:
    """Wait, then SIGKILL."""

    def kill(child: int) -> None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    return kill


class Attempts:
    """One result, written over and over."""

    def __init__(self, hsi: Path, ref: Path, folder: Path, seed: int) -> None:
        from hsi_fuse import fuse, load_preset, open_guide, read_hsi

        self.hsi, self.ref, self.folder, self.rng = hsi, ref, folder, np.random.default_rng(seed)
        self.inputs = files_in(hsi.parent)
        preset = load_preset("draft")
        still = replace(preset.align, model="none", local=False, least_probability=0.0)
        quick = replace(preset, align=still, stages=())
        self.result = fuse(read_hsi(hsi), open_guide(ref), quick)
        self.wrong: list[str] = []
        self.new_folder()
        self.save()  # imports what saving imports: a child that is nobody may not read it
        began = time.monotonic()
        self.whole = self.files_of(self.new_folder(), lambda child: None)
        self.seconds = time.monotonic() - began

    def new_folder(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return self.folder

    def save(self, overwrite: bool = False) -> int:
        from hsi_fuse import save
        from hsi_fuse.errors import HsiFuseError

        try:
            save(self.result, self.folder / "o.tif", overwrite=overwrite)
        except HsiFuseError as error:
            return error.exit_code
        return 0

    def files_of(self, folder: Path, meanwhile: Callable[[int], None], code: int = 0) -> Files:
        found = in_child(self.save, meanwhile)
        assert found == code, found
        return files_in(folder)

    def check(self, what: str, status: int, allowed: tuple[int, ...]) -> None:
        """No file under a final name is partial, and where the product stands all stand."""
        found = files_in(self.folder)
        if status not in allowed:
            self.wrong.append(f"{what}: exit status {status}")
        partial = [name for name, digest in found.items() if self.whole.get(name) != digest]
        if partial:
            self.wrong.append(f"{what}: {partial} differ from a whole run's")
        if "o.tif" in found and found != self.whole:
            self.wrong.append(f"{what}: the product stands without {sorted(set(self.whole) - set(found))}")
        if status not in (0, -signal.SIGKILL) and list(self.folder.iterdir()):
            self.wrong.append(f"{what}: left {sorted(map(str, self.folder.iterdir()))}")
        if files_in(self.hsi.parent) != self.inputs:
            self.wrong.append(f"{what}: the inputs changed")

    def kill(self) -> None:
        """At a random moment of writing, more often near its end, where files get their names."""
        self.new_folder()
        moment = self.seconds * float(self.rng.beta(2, 1)) * 1.1
        status = in_child(self.save, killed_after(moment))
        self.check(f"killed after {moment:.3f} s", status, (0, -signal.SIGKILL))
        again = in_child(lambda: self.save(overwrite=True), lambda child: None)
        self.check("written again after that", again, (0,))  # what was left is not in the way

    def fill_disk(self) -> None:
        """A limit on the size of files, somewhere between nothing and the largest."""
        self.new_folder()
        room = int(float(self.rng.random()) ** 2 * 700_000)

        def work() -> int:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            return self.save()

        self.check(f"room for {room} bytes", in_child(work, lambda child: None), (0, 7))

    def lock(self) -> None:
        """The folder becomes read-only, from the start or at a random moment."""
        self.new_folder()
        self.folder.chmod(0o777)
        moment = self.seconds * float(self.rng.random()) * float(self.rng.random() < 0.8)

        def work() -> int:
            if os.getuid() == 0:  # for whom nothing is read-only
                os.setuid(NOBODY)
            if not moment:
                time.sleep(0.05)
            return self.save()

        def meanwhile(child: int) -> None:
            time.sleep(moment)
            self.folder.chmod(0o555)

        status = in_child(work, meanwhile)
        self.folder.chmod(0o777)
        left = [path for path in self.folder.iterdir() if path.name.endswith(".part")]
        for path in left:  # nobody can remove a file from a folder that was locked
            shutil.rmtree(path)
        self.check(f"read-only after {moment:.3f} s", status, (0, 7))

    def kill_run(self, seconds: float) -> None:
        """The whole command, at a random moment."""
        from hsi_fuse.cli import main

        self.new_folder()
        command = ["run", str(self.hsi), str(self.ref), "-o", str(self.folder / "o.tif"), "--preset", "draft"]
        status = in_child(lambda: main(command), killed_after(seconds))
        found = files_in(self.folder)
        if status != -signal.SIGKILL and status != 0:
            self.wrong.append(f"run killed after {seconds:.1f} s: exit status {status}")
        if status == -signal.SIGKILL and "o.tif" in found and set(self.whole) - set(found):
            self.wrong.append(f"run killed after {seconds:.1f} s: the product stands alone: {sorted(found)}")
        if files_in(self.hsi.parent) != self.inputs:
            self.wrong.append(f"run killed after {seconds:.1f} s: the inputs changed")


def _main(hsi: str, ref: str, folder: str, saves: int, runs: int, seed: int) -> None:
    warnings.simplefilter("ignore")
    attempts = Attempts(Path(hsi).resolve(), Path(ref).resolve(), Path(folder).resolve(), seed)
    for _ in range(saves):
        attempts.kill()
        attempts.fill_disk()
        attempts.lock()
    for _ in range(runs):
        attempts.kill_run(float(attempts.rng.random()) * 40)
    print(json.dumps({"wrong": attempts.wrong, "whole": sorted(attempts.whole), "seconds": attempts.seconds}))


if __name__ == "__main__":
    _main(*sys.argv[1:4], *map(int, sys.argv[4:]))
