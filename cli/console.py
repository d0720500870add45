"""What a person sees of a command: its results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import click

from hsi_fuse.errors import HsiFuseWarning
from hsi_fuse.progress import OnStep, silent

SECONDS_BETWEEN_LINES = 10.0


@dataclass
class State:
    """What one invocation shares between its command and `main`."""

    verbosity: int = 0
    warned: list[str] = field(default_factory=list)


def one_line(kind: str, message: str) -> None:
    """Write `hsi-fuse: error: ...`, whatever line breaks the message holds."""
    print(f"hsi-fuse: {kind}: {' '.join(message.split())}", file=sys.stderr, flush=True)


def tell_outputs(state: State, written: Sequence[Path], as_json: bool) -> None:
    """Print the files that a command wrote: on stdout, a line each or as JSON."""
    if as_json:
        facts = {"outputs": [str(path) for path in written], "warnings": state.warned}
        click.echo(json.dumps(facts, indent=2))
    elif state.verbosity >= 0:
        for path in written:
            click.echo(path)


@contextmanager
def warnings_as_lines(state: State) -> Iterator[None]:
    """Show each HsiFuseWarning once, as one line; those of other libraries only with -v."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = str(message)
        ours = issubclass(category, HsiFuseWarning)
        if text not in state.warned and (ours or state.verbosity > 0):
            state.warned.append(text)
            one_line("warning", text if ours else f"{category.__name__}: {text}")

    before = sys.unraisablehook
    with warnings.catch_warnings():
        warnings.simplefilter("always", HsiFuseWarning)
        warnings.showwarning = show
        if state.verbosity <= 0:  # such as a message of GDAL that is no text: what failed is told anyhow
            sys.unraisablehook = lambda unraisable: None
        try:
            yield
        finally:
            sys.unraisablehook = before


@contextmanager
def progress(state: State) -> Iterator[OnStep]:
    """A callback that shows progress: bars with an ETA on a terminal, else plain lines; nothing with -q."""
    if state.verbosity < 0:
        yield silent
    elif sys.stderr.isatty():
        with _bars() as on_step:
            yield on_step
    else:
        yield Lines()


@contextmanager
def _bars() -> Iterator[OnStep]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[score]:>9}", markup=False),
        TextColumn("{task.fields[loss]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def on_step(what: str, step: int, total: int, score: float, loss: float = 0.0) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, score="", loss="")
            bars.update(
                tasks[what], completed=step, total=total, score=_spell(score), loss=_spell(loss, "loss ")
            )

        yield on_step


class Lines:
    """Progress as plain lines: when a step starts, when it ends, and now and then between."""

    def __init__(self) -> None:
        self.started = self.last = self.since = time.monotonic()
        self.what = ""

    def __call__(self, what: str, step: int, total: int, score: float, loss: float = 0.0) -> None:
        """Tell of one step."""
        now = time.monotonic()
        if what == self.what and step < total and now - self.last < SECONDS_BETWEEN_LINES:
            return
        if what != self.what:
            self.since = self.last  # when the step before it was told of: it began about then
        self.what, self.last = what, now
        left = (now - self.since) / step * (total - step) if step else 0.0
        parts = (
            f"{what} {step}/{total}",
            _spell(score),
            _spell(loss, "loss "),
            f"{left:.0f} s left" if loss else "",
        )
        print(f"{now - self.started:7.1f} s  {'  '.join(filter(None, parts))}", file=sys.stderr, flush=True)


def _spell(number: float, what: str = "") -> str:
    return f"{what}{number:.4g}" if number else ""  # steps that have no score or loss say 0


@contextmanager
def scene_table(state: State, total: int) -> Iterator[Callable[[Any], None]]:
    """A callback for the events of a batch: a live table on a terminal, else a line each; nothing with -q."""
    if state.verbosity < 0:
        yield lambda event: None
    elif sys.stderr.isatty():
        with _table(total) as on_event:
            yield on_event
    else:

        def tell(event: Any) -> None:
            if event.kind != "step":
                print(event.line(), file=sys.stderr, flush=True)

        yield tell


@contextmanager
def _table(total: int) -> Iterator[Callable[[Any], None]]:
    """What ended scrolls by; below it stands what runs."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True)
    colours = {"failed": "red", "done": "green", "waiting": "yellow"}
    running: dict[str, tuple[float, Any]] = {}
    ended = 0

    def picture() -> Group:
        table = Table(box=None, pad_edge=False)
        for heading in ("scene", "step", "", "seconds"):
            table.add_column(heading)
        for name, (since, event) in list(running.items()):
            bar = ProgressBar(total=max(event.total, 1), completed=event.done, width=24)
            step = event.text if event.kind == "step" else "starting"
            table.add_row(Text(name), Text(step), bar, f"{time.monotonic() - since:.0f}")
        return Group(table, Text(f"{ended} of {total} scenes"))

    with Live(get_renderable=picture, console=console, refresh_per_second=4, transient=True) as live:

        def on_event(event: Any) -> None:
            nonlocal ended
            if event.kind in ("started", "step"):
                since = running.get(event.scene, (time.monotonic(), None))[0]
                running[event.scene] = since, event
                return
            running.pop(event.scene, None)
            ended += event.kind in ("done", "failed", "unchanged")
            live.console.print(Text(event.line(), style=colours.get(event.kind, "")))

        yield on_event
