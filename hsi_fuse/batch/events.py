"""What happens to the scenes of a batch, as it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """Something that happened to a scene.

    Attributes
    ----------
    scene : str
        Its name; empty where it concerns the batch.
    kind : str
        "unchanged", "started", "step", "done", "failed", "waiting" or "batch".
    text : str
        In words.
    at : datetime
    done, total : int
        Of the step.
    """

    scene: str
    kind: str
    text: str
    at: datetime
    done: int = 0
    total: int = 0

    def line(self) -> str:
        """As a line of a log."""
        return f"{self.at:%Y-%m-%d %H:%M:%S}  {self.kind:<9}  {self.scene}  {self.text}".rstrip()


OnEvent = Callable[[Event], None]


@contextmanager
def logged(path: Path, on_event: OnEvent) -> Iterator[Callable[..., None]]:
    """A function that tells of an event, and notes it in a log unless it is but a step."""
    with path.open("a", encoding="utf-8") as log:

        def tell(scene: str, kind: str, text: str, **more: int) -> None:
            event = Event(scene, kind, text, datetime.now(), **more)
            if kind != "step":
                with suppress(OSError):
                    print(event.line(), file=log, flush=True)
            on_event(event)

        yield tell
