"""One scene in a process of its own: whatever becomes of it, it becomes of that scene alone.

Both sides are here. The child gets the job on its standard input, which the parent then keeps open: when it
closes, the parent has died or wants to stop, and the child unwinds as on Ctrl-C and leaves nothing behind.
What the child reports goes up its standard output, a line of JSON each; all else that it or a library says
goes to the scene's log.
"""

from __future__ import annotations

import base64
import faulthandler
import json
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, NoReturn

from hsi_fuse.errors import HsiFuseError, HsiFuseWarning
from hsi_fuse.progress import OnStep
from hsi_fuse.threads import keep_memory, thread_environment

if TYPE_CHECKING:
    from hsi_fuse.scene import Job

INTERRUPTED = 130
GRACE_S = 20.0
"""How long a child that shall stop may take to clean up."""
SECONDS_BETWEEN_STEPS = 0.5
KILOBYTE = 1 if sys.platform == "darwin" else 1024  # unit of ru_maxrss


@dataclass(frozen=True)
class Outcome:
    """What became of a scene.

    Attributes
    ----------
    exit_code : int
        As `hsi-fuse run` has them; negative: the signal that ended the process.
    message : str
        Of the error; empty where there is none.
    warnings : tuple of str
    seconds : float
        Wall time, starting the process included.
    peak_bytes : int or None
        Largest resident memory; None where the process could not say.
    host : str
        Machine that it ran on.
    """

    exit_code: int
    message: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_bytes: int | None = None
    host: str = ""


class Children:
    """The processes that one batch has started, to be stopped together.

    Parameters
    ----------
    inherited : tuple of int
        File descriptors that each of them keeps open: a lock.
    """

    def __init__(self, inherited: tuple[int, ...] = ()) -> None:
        self.inherited = inherited
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopping = False
        self._mutex = threading.Lock()

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process, unless they are being stopped."""
        with self._mutex:
            if self._stopping:
                raise KeyboardInterrupt
            child = subprocess.Popen(command, pass_fds=self.inherited, **options)
            self._running.add(child)
            return child

    def ended(self, child: subprocess.Popen[bytes]) -> None:
        """Forget one that is no more."""
        with self._mutex:
            self._running.discard(child)

    def resident_bytes(self) -> int:
        """What they hold in memory now; 0 where the system does not tell."""
        total = 0
        with self._mutex:
            numbers = [child.pid for child in self._running]
        for number in numbers:
            with suppress(OSError, ValueError, IndexError):
                pages = int(Path(f"/proc/{number}/statm").read_text().split()[1])
                total += pages * os.sysconf("SC_PAGE_SIZE")
        return total

    def stop(self) -> None:
        """End them all, kindly at first, and start no more."""
        with self._mutex:
            self._stopping = True
            children = list(self._running)
        for child in children:
            _close(child.stdin)
        deadline = time.monotonic() + GRACE_S + 5
        for child in children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()


def run_apart(
    job: Job, log: Path, on_step: OnStep | None = None, children: Children | None = None
) -> Outcome:
    """`run_scene` in a process of its own.

    Parameters
    ----------
    job : Job
    log : Path
        Of what the process says; replaced.
    on_step : callable, optional
        Progress.
    children : Children, optional
        Where to enlist the process.

    Raises
    ------
    KeyboardInterrupt
        The children are being stopped.
    """
    children = children or Children()
    started = time.monotonic()
    leftovers(job.output.parent)
    with log.open("wb") as file:
        child = children.start(
            [sys.executable, "-m", "hsi_fuse.apart"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            env={**os.environ, **thread_environment(job.settings.threads)},
            start_new_session=True,  # Ctrl-C is for the batch, which then stops its scenes itself
        )
    said: dict[str, Any] = {}
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        with suppress(BrokenPipeError):  # it ended at once: its exit code says so
            child.stdin.write(base64.b64encode(pickle.dumps(job)) + b"\n")
            child.stdin.flush()
        for line in child.stdout:
            report = json.loads(line)
            if "step" in report and on_step is not None:
                on_step(*report["step"])
            elif "exit_code" in report:
                said = report
        code = child.wait()
    finally:
        _close(child.stdin)
        child.wait()
        _close(child.stdout)
        children.ended(child)
    spent = round(time.monotonic() - started, 2)
    if code < 0 or not said:
        return Outcome(code or 1, _cause(code), seconds=spent, host=socket.gethostname())
    told = tuple(said["warnings"])
    return Outcome(said["exit_code"], said["message"], told, spent, said["peak_bytes"], socket.gethostname())


def leftovers(folder: Path) -> None:
    """Remove what a process that was killed had half written."""
    for part in folder.glob(".*.part"):
        shutil.rmtree(part, ignore_errors=True)
    for part in folder.glob("*.part"):
        part.unlink(missing_ok=True)


def _cause(code: int) -> str:
    """Why a process ended that could not say so itself."""
    if code >= 0:
        return f"its process ended with exit code {code} and no word; see its log"
    name = signal.Signals(-code).name
    if -code == signal.SIGKILL:
        return (
            f"its process was killed ({name}), as a system does that runs out of memory: "
            "fewer --jobs, or a machine with more memory"
        )
    return f"its process crashed ({name}); its log shows where"


def _close(pipe: IO[bytes] | None) -> None:
    with suppress(OSError):
        if pipe is not None:
            pipe.close()


# --- the child ---------------------------------------------------------------------------------------------


class _Reporter:
    """Tells the parent of steps, now and then, and the log of each new one."""

    def __init__(self, up: IO[str]) -> None:
        self._up, self._what, self._last = up, "", 0.0

    def tell(self, **report: Any) -> None:
        """Send one line to the parent."""
        with suppress(BrokenPipeError):
            print(json.dumps(report), file=self._up, flush=True)

    def __call__(self, what: str, step: int, total: int, score: float, loss: float = 0.0) -> None:
        """Tell of one step."""
        now = time.monotonic()
        if what == self._what and step < total and now - self._last < SECONDS_BETWEEN_STEPS:
            return
        if what != self._what or step == total:
            print(f"{time.strftime('%H:%M:%S')}  {what} {step}/{total}", file=sys.stderr, flush=True)
        self._what, self._last = what, now
        self.tell(step=(what, step, total, score, loss))


def main() -> NoReturn:
    """Run the job that stands on standard input, and end with its exit code."""
    keep_memory()
    up = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print belongs to the log
    faulthandler.enable()
    reporter, warned = _Reporter(up), []

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if str(message) not in warned and issubclass(category, HsiFuseWarning):
            warned.append(str(message))
            print(f"warning: {message}", file=sys.stderr, flush=True)

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    code, message = 0, ""
    try:
        with os.fdopen(0, "rb", buffering=0, closefd=False) as below:
            payload = below.readline()
        threading.Thread(target=_follow_parent, daemon=True).start()
        job = pickle.loads(base64.b64decode(payload))  # from our own parent alone

        from hsi_fuse.scene import run_scene

        warnings.simplefilter("always", HsiFuseWarning)
        warnings.showwarning = show
        run_scene(job, reporter)
    except HsiFuseError as error:
        code, message = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, message = INTERRUPTED, "interrupted"
    except MemoryError:
        code, message = 1, "it ran out of memory: fewer --jobs, or a machine with more memory"
        traceback.print_exc()
    except Exception as error:
        code, message = 1, f"internal: {type(error).__name__}: {error}"
        traceback.print_exc()
    if message:
        print(f"error: {message}", file=sys.stderr, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTE
    reporter.tell(exit_code=code, message=" ".join(message.split()), warnings=warned, peak_bytes=peak)
    sys.stderr.flush()
    # not by way of the interpreter's end: all is on the disk, and a library that crashes there would deny it
    os._exit(code)


def _follow_parent() -> None:
    """Wait until the parent lets go of standard input, and end then."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(INTERRUPTED)  # it is stuck in a long call of a library


if __name__ == "__main__":
    main()
