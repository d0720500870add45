"""Runs that end badly: killed, out of room, locked out. Spawned here, and looked at from outside.

`python tests/interrupted.py FOLDER SAVES RUNS SEED` makes a tiny pair in FOLDER, writes its product SAVES
times with too little room, as often into a folder that becomes read-only, kills the last writing, and then
RUNS runs of the command. What comes of each goes to stderr, all of it and what went wrong to stdout, as JSON.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Timer

import numpy as np
from conftest import write_pair

PRODUCT = "o.tif"
LONGEST = 600
"""Seconds after which a process counts as hanging."""
NOBODY = 65534
CUT_OFF = "cut off"
Files = dict[str, str]
# the same numbers whoever runs beside us
ENVIRONMENT = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")}


def files_in(folder: Path) -> Files:
    """Name -> digest of all that has a final name: neither the name nor a folder above ends in .part."""
    return {
        str(path.relative_to(folder)): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.endswith(".part") for part in path.relative_to(folder).parts)
    }


def _digest(path: Path) -> str:
    """Of what does not differ from run to run: reports tell seconds."""
    content = path.read_bytes()
    if path.suffix == ".html":
        return "whole" if content.rstrip().endswith(b"</html>") else CUT_OFF
    if path.name.endswith("_quality.json"):
        try:
            return "whole" if json.loads(content)["provenance"] else CUT_OFF
        except ValueError:
            return CUT_OFF
    return hashlib.sha256(content).hexdigest()


@dataclass
class Findings:
    """What came of the attempts.

    Attributes
    ----------
    whole : dict
        The files of one that nothing disturbed.
    ends : Counter
        "what: exit status" -> how often.
    wrong : list of str
    """

    whole: Files = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def look(self, folder: Path, what: str, status: int, allowed: tuple[int, ...], when: str = "") -> None:
        """No final name holds less than a whole file, and where the product stands all stand."""
        found = files_in(folder)
        self.ends[f"{what}: {status}"] += 1
        faults = [] if status in allowed else [f"exit status {status}"]
        faults += [f"{name} is not as it should be" for name in found if found[name] != self.whole.get(name)]
        if (PRODUCT in found or status == 0) and set(found) != set(self.whole):
            faults.append(f"without {sorted(set(self.whole) - set(found))}")
        if status > 0 and found:
            faults.append(f"failed, and left {sorted(found)}")
        self.wrong += [f"{what} {when}: {fault}" for fault in faults]
        print(what, when, status, sorted(found), *faults, file=sys.stderr, flush=True)


def saves(pair: tuple[Path, Path], home: Path, count: int, seed: int, told: Findings) -> None:
    """One process that writes a product again and again, until it is killed while it writes."""
    arguments = [__file__, "write", *map(str, (*pair, home, count, seed))]
    rng = np.random.default_rng(seed)
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as child:
        assert child.stdout is not None
        seconds = 0.0
        for line in child.stdout:
            entry = json.loads(line)
            folder = home / entry["folder"]
            if entry["what"] == "undisturbed":
                told.whole, seconds = files_in(folder), entry["seconds"]
            if entry["what"] == "the last":
                _wait_for_writing(child, folder)
                moment = _kill(child, seconds * float(rng.random()))
                told.look(folder, "killed while writing", child.returncode, (0, -9), f"after {moment:.3f} s")
            else:
                allowed = {"undisturbed": (0,), "too little room": (7,), "read-only": (0, 7)}[entry["what"]]
                told.look(folder, entry["what"], entry["status"], allowed, entry["when"])
        child.wait(LONGEST)
    assert "killed while writing" in str(told.ends), f"the writing process died: {child.returncode}"


def runs(pair: tuple[Path, Path], home: Path, count: int, seed: int, told: Findings) -> None:
    """The command, undisturbed and then killed: by turns before it writes, and while it writes."""
    rng = np.random.default_rng(seed)
    folder = home / "run"
    folder.mkdir()
    began = time.monotonic()
    with _run(pair, folder) as child:
        _wait_for_writing(child, folder)
        until_writing = time.monotonic() - began
        status = child.wait(LONGEST)
    writing = time.monotonic() - began - until_writing
    told.whole = files_in(folder)
    told.look(folder, "run", status, (0,))
    for turn in range(count):
        folder = home / f"run {turn}"
        folder.mkdir()
        with _run(pair, folder) as child:
            late = bool(turn % 2)
            if late:
                _wait_for_writing(child, folder)
            moment = _kill(child, float(rng.random()) * (writing if late else until_writing))
        what = "run killed while writing" if late else "run killed"
        told.look(folder, what, child.returncode, (0, -9), f"after {moment:.3f} s")
        if turn == count - 1:
            with _run(pair, folder) as child:  # what was left is not in the way
                told.look(folder, "run again after that", child.wait(LONGEST), (0,))


def _run(pair: tuple[Path, Path], folder: Path) -> subprocess.Popen[bytes]:
    command = ["-m", "hsi_fuse.cli", "run", *map(str, pair), "-o", str(folder / PRODUCT), "--overwrite"]
    options = ["--preset", "draft", "--threads", "1", "-q"]
    return subprocess.Popen([sys.executable, *command, *options], env=ENVIRONMENT)


def _wait_for_writing(child: subprocess.Popen[str] | subprocess.Popen[bytes], folder: Path) -> None:
    """Until the folder appears in which a product is made."""
    while child.poll() is None and not any(folder.glob(".*.part")):
        time.sleep(0.005)


def _kill(child: subprocess.Popen[str] | subprocess.Popen[bytes], seconds: float) -> float:
    """Wait, then SIGKILL; the moment, for the messages."""
    time.sleep(seconds)
    child.kill()
    child.wait()
    return seconds


def write(hsi: Path, ref: Path, home: Path, count: int, seed: int) -> None:
    """In a process of its own: fuse a pair in few steps, write it, tell of each time by a line of JSON."""
    from hsi_fuse import fuse, load_preset, open_guide, read_hsi, save
    from hsi_fuse.errors import HsiFuseError

    faulthandler.dump_traceback_later(LONGEST, exit=True)
    warnings.simplefilter("ignore")
    rng, preset = np.random.default_rng(seed), load_preset("draft")
    still = replace(preset.align, model="none", local=False, least_probability=0.0)
    result = fuse(read_hsi(hsi), open_guide(ref), replace(preset, align=still, stages=()))

    def tell(what: str, number: int = 0, when: str = "") -> None:
        folder = home / f"{what} {number}"
        folder.mkdir()
        began, status = time.monotonic(), 0
        with _read_only_after(folder, float(when)) if what == "read-only" else _room(what, when):
            try:
                save(result, folder / PRODUCT)
            except HsiFuseError as error:
                status = error.exit_code
        entry = {"what": what, "folder": folder.name, "status": status, "when": when}
        print(json.dumps({**entry, "seconds": time.monotonic() - began}), flush=True)

    tell("undisturbed")
    began = time.monotonic()
    tell("undisturbed", 1)  # the first time imports what it needs, which takes longer
    seconds = time.monotonic() - began
    largest = max(path.stat().st_size for path in (home / "undisturbed 0").iterdir())
    for number in range(count):
        tell("too little room", number, str(int(rng.random() * largest)))
        tell("read-only", number, str(seconds * float(rng.random()) if number else 0.0))
    (home / "last").mkdir()
    print(json.dumps({"what": "the last", "folder": "last"}), flush=True)
    save(result, home / "last" / PRODUCT)


@contextmanager
def _room(what: str, size: str) -> Iterator[None]:
    """A limit on the size of files, bytes; python turns the signal of it into an OSError."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if what == "too little room":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def _read_only_after(folder: Path, seconds: float) -> Iterator[None]:
    """Nothing is read-only for root, who is nobody meanwhile."""
    root = os.geteuid() == 0
    if root:
        os.chown(folder, NOBODY, -1)
        os.seteuid(NOBODY)
    lock = Timer(seconds, folder.chmod, [0o555])
    if seconds:
        lock.start()
    else:
        folder.chmod(0o555)
    yield
    lock.cancel()
    if root:
        os.seteuid(0)
    folder.chmod(0o755)


def new_home(folder: Path) -> tuple[tuple[Path, Path], Path]:
    """A pair, and a folder for what is made of it, that others may enter too."""
    folder.mkdir(exist_ok=True)
    pair = write_pair(folder / "in")
    home = folder / "out"
    home.mkdir()
    for each in (folder, folder / "in", home):
        each.chmod(0o755)
    return (pair.hsi, pair.ref), home


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(*map(Path, sys.argv[2:5]), *map(int, sys.argv[5:]))
    else:
        FOLDER, (SAVES, RUNS, SEED) = Path(sys.argv[1]).resolve(), map(int, sys.argv[2:])
        PAIR, HOME = new_home(FOLDER)
        INPUTS, WRITTEN, RUN = files_in(FOLDER / "in"), Findings(), Findings()
        saves(PAIR, HOME, SAVES, SEED, WRITTEN)
        runs(PAIR, HOME, RUNS, SEED, RUN)
        SUMMARY = {"ends": WRITTEN.ends + RUN.ends, "wrong": WRITTEN.wrong + RUN.wrong}
        print(json.dumps({**SUMMARY, "inputs kept": files_in(FOLDER / "in") == INPUTS}, indent=1))
