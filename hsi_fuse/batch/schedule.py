"""Runs the scenes of a plan: some at a time, each in its own process, and goes on where it was stopped."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from hsi_fuse import __version__
from hsi_fuse.apart import Children, Outcome, run_apart
from hsi_fuse.batch.events import OnEvent, logged
from hsi_fuse.batch.lock import locked
from hsi_fuse.batch.manifest import Manifest, Record, settings_of, stamp
from hsi_fuse.batch.memory import available_bytes, fits
from hsi_fuse.batch.plan import BatchPlan, Task
from hsi_fuse.batch.summary import Row, figures_of, rows_of, write_summary
from hsi_fuse.errors import HsiFuseError, PresetError, WriteError
from hsi_fuse.write import ON_REQUEST, endings_with, outputs

POLL_S = 1.0
"""How often the free memory is looked at while a scene waits for it."""
CONNECT_S = 20
"""How long a scheduler may take to answer."""
RETRIES = 3
"""How often a cluster gives a scene to another worker."""


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch.

    Attributes
    ----------
    rows : tuple of Row
        A row for each scene, the most troubled first.
    files : tuple of Path
        The overview page, the table and the manifest.
    """

    rows: tuple[Row, ...]
    files: tuple[Path, ...]

    @property
    def failed(self) -> tuple[Row, ...]:
        """The scenes that failed."""
        return tuple(row for row in self.rows if row.state == "failed")


def run_batch(
    plan: BatchPlan, *, jobs: int = 1, dask: str | None = None, on_event: OnEvent = lambda event: None
) -> BatchResult:
    """Run what has to be run of a plan.

    Parameters
    ----------
    plan : BatchPlan
    jobs : int
        Scenes at a time; fewer where memory is short. On a cluster: 0 gives it all of them.
    dask : str, optional
        Address of a Dask scheduler whose workers run the scenes; they must see the same files.
    on_event : callable
        Progress; may be called from several threads.

    Raises
    ------
    WriteError
        The output folder cannot be written, or another batch works in it.
    ReadError
        Its manifest is of something else.
    PresetError
        The cluster cannot be reached.
    KeyboardInterrupt
        As it came; all scenes have been stopped then, and the next call goes on.
    """
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot make the folder {plan.out}: {error.strerror}") from error
    with locked(plan.out) as lock, logged(plan.out / "batch.log", on_event) as tell:
        run = _Run(plan, Manifest.of(plan.out), Children((lock,)), tell)
        try:
            with _workers(jobs, dask, run.children) as executor:
                run.all(executor, jobs, dask is not None)
        finally:
            rows = rows_of(plan, run.manifest)
            files = write_summary(plan.out, rows, plan)
    return BatchResult(rows, files)


class _Run:
    """One call of `run_batch`."""

    def __init__(
        self, plan: BatchPlan, manifest: Manifest, children: Children, tell: Callable[..., None]
    ) -> None:
        self.plan, self.manifest, self.children, self.tell = plan, manifest, children, tell
        self.settings = manifest.keep_settings(settings_of(plan.settings))

    def all(self, executor: Executor, jobs: int, cluster: bool) -> None:
        """Run the scenes that need it."""
        waiting = deque(sorted(self._to_do(), key=self._failed_before))
        running: dict[Future[Outcome], Task] = {}
        threads = self.plan.settings.threads
        if threads is None and not cluster and jobs > 1:
            threads = max(1, (os.cpu_count() or 1) // jobs)
        told = ""
        try:
            while waiting or running:
                while waiting and (not jobs or len(running) < jobs):
                    if not (cluster or self._fits(waiting[0], running.values())):
                        if told != waiting[0].name:
                            told = waiting[0].name
                            self.tell(told, "waiting", f"for memory ({_gb(waiting[0].memory_bytes)})")
                        break
                    task = waiting.popleft()
                    running[self._start(executor, task, threads, cluster)] = task
                finished, _ = wait(running, POLL_S if told else None, FIRST_COMPLETED)
                for future in finished:
                    self._finish(running.pop(future), threads, _outcome(future))
        except BaseException:
            self.children.stop()
            for future in running:
                future.cancel()
            executor.shutdown(wait=False)
            left = len(waiting) + len(running)
            self.tell("", "batch", f"stopped with {left} scenes to go; the same command goes on")
            raise

    def _to_do(self) -> Iterator[Task]:
        """Scenes that have to be run; tells of those that have not."""
        for name, why in self.plan.reasons(self.manifest).items():
            task = next(each for each in self.plan.tasks if each.name == name)
            record = self.manifest.records.get(name)
            if why is None:
                self.tell(name, "unchanged", "done before")
            elif record is not None and why == "cut short before" and self._complete(task):
                self._note_done(task, record, "was complete when the batch was stopped")
            else:
                if why != "new":
                    self.tell(name, "batch", f"to be run again: {why}")
                yield task

    def _failed_before(self, task: Task) -> bool:
        """These come last: they will most likely fail again, and the others should not wait for that."""
        record = self.manifest.records.get(task.name)
        return record is not None and record.state == "failed"

    def _complete(self, task: Task) -> bool:
        """Whether a scene that was started has all its outputs: the product takes its place last."""
        return all(path.exists() for path in _outputs(task))

    def _fits(self, task: Task, running: Any) -> bool:
        promised = sum(other.memory_bytes for other in running)
        return not running or fits(
            task.memory_bytes, promised, self.children.resident_bytes(), available_bytes()
        )

    def _start(self, executor: Executor, task: Task, threads: int | None, cluster: bool) -> Future[Outcome]:
        before = self.manifest.records.get(task.name)
        starts = before.starts if before else 0
        record = Record(str(task.hsi.path), str(task.reference.path), task.why, "started", {}, self.settings)
        try:
            if not starts and (foreign := _outputs(task, standing=True)):
                raise WriteError(
                    f"{foreign[0]} exists and is not of this batch; move it away, or choose another -o"
                )
            inputs = {str(path): stamp(path) for path in task.files}
            task.job.output.parent.mkdir(exist_ok=True)
            # first away with what stood there: what stands there later is of these inputs and settings
            for path in (*_outputs(task, standing=True), *_recorded(before, self.plan.out)):
                path.unlink(missing_ok=True)
        except (HsiFuseError, OSError) as error:
            self.manifest.records[task.name] = replace(record, state="failed", starts=starts)
            failed: Future[Outcome] = Future()
            failed.set_result(Outcome(getattr(error, "exit_code", WriteError.exit_code), str(error)))
            return failed
        self.manifest.record(task.name, replace(record, inputs=inputs, starts=starts + 1))
        self.tell(task.name, "started", f"{task.hsi.path.name} with {task.reference.path.name}: {task.why}")
        job = replace(task.job, settings=replace(task.job.settings, threads=threads))
        if cluster:
            return executor.submit(run_apart, job, task.log)
        on_step = partial(self._step, task.name)
        return executor.submit(run_apart, job, task.log, on_step, self.children)

    def _step(self, name: str, what: str, done: int, total: int, score: float, loss: float) -> None:
        self.tell(name, "step", what, done=done, total=total)

    def _finish(self, task: Task, threads: int | None, outcome: Outcome) -> None:
        record = replace(
            self.manifest.records[task.name],
            exit_code=outcome.exit_code,
            message=outcome.message,
            warnings=outcome.warnings,
            seconds=outcome.seconds,
            peak_bytes=outcome.peak_bytes,
            host=outcome.host,
            threads=threads,
        )
        if outcome.exit_code == 0:
            self._note_done(task, record, f"in {outcome.seconds:.0f} s")
            return
        self.manifest.record(task.name, replace(record, state="failed"))
        self.tell(task.name, "failed", f"exit code {outcome.exit_code}: {outcome.message}")

    def _note_done(self, task: Task, record: Record, text: str) -> None:
        written = {str(p.relative_to(self.plan.out)): stamp(p) for p in _outputs(task)}
        figures = figures_of(task.job.output)
        self.manifest.record(
            task.name, replace(record, state="done", outputs=written, figures=figures, version=__version__)
        )
        self.tell(task.name, "done", f"{text}, {figures['light']}")


def _outputs(task: Task, standing: bool = False) -> list[Path]:
    """The files of a scene; or whichever stand there of all that it could ever have."""
    how = task.job.settings
    certain = outputs(task.job.output, how.driver)
    asked = outputs(
        task.job.output, how.driver, endings_with(tuple(ON_REQUEST) if standing else how.products)
    )
    # a product on request may have been left out
    return [
        path
        for path in dict.fromkeys((*certain, *asked))
        if path.exists() or (not standing and path in certain)
    ]


def _recorded(record: Record | None, out: Path) -> list[Path]:
    return [] if record is None else [out / path for path in record.outputs]


def _outcome(future: Future[Outcome]) -> Outcome:
    """What a future holds, a lost worker included."""
    try:
        return future.result()
    except CancelledError:
        return Outcome(1, "the cluster gave it up")
    except Exception as error:
        return Outcome(1, f"{type(error).__name__}: {error}")


@contextmanager
def _workers(jobs: int, dask: str | None, children: Children) -> Iterator[Executor]:
    """Who runs the scenes: threads that wait for processes, or the workers of a cluster."""
    if dask is None:
        with ThreadPoolExecutor(max(jobs, 1)) as threads:
            yield threads
        return
    try:
        distributed: Any = import_module("distributed")
    except ImportError as error:
        raise PresetError("--dask needs the package distributed: pip install 'hsi-fuse[dask]'") from error
    try:
        client = distributed.Client(dask, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise PresetError(f"--dask {dask}: no scheduler answers there: {error}") from error
    with client, client.get_executor(pure=False, retries=RETRIES) as executor:
        yield executor


def _gb(size: int) -> str:
    return f"about {size / 1e9:.1f} GB"
