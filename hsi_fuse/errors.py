"""What can go wrong, as a tree.

    HsiFuseError
    ├── ReadError        a file cannot be used as input
    ├── GridError        two grids do not meet, or a grid makes no sense
    ├── PresetError      unknown or invalid configuration
    ├── AlignmentError   the reference does not show this place
    │   └── RefusedError     as a search found; carries what it tried
    ├── BatchError       some scenes of a batch failed; the others are done
    ├── SolveError       the numerics failed (NaN, no convergence)
    ├── WriteError       an output cannot be written, or exists
    └── QualityError     a quality gate failed; everything is written

    HsiFuseWarning       usable, but something the analyst should know; repeated in the report

A message says what, where, the value found and what to do about it. The command line maps each
class to an exit code (`exit_code`) and prints the message as one line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsi_fuse.registration.refusal import Attempt


class HsiFuseError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


class ReadError(HsiFuseError):
    """A file cannot be used as input."""

    exit_code = 3


class GridError(HsiFuseError):
    """Two grids do not meet, or a grid makes no sense."""

    exit_code = 3


class PresetError(HsiFuseError):
    """Unknown or invalid configuration."""

    exit_code = 2


class AlignmentError(HsiFuseError):
    """The reference does not show this place."""

    exit_code = 4


class RefusedError(AlignmentError):
    """The reference was searched for the place of the HSI, and does not seem to show it.

    Attributes
    ----------
    attempt : refusal.Attempt
        What was tried.
    """

    def __init__(self, message: str, attempt: Attempt) -> None:
        super().__init__(message, attempt)
        self.attempt = attempt

    def __str__(self) -> str:
        return str(self.args[0])


class BatchError(HsiFuseError):
    """Some scenes of a batch failed; the others are done."""

    exit_code = 6


class SolveError(HsiFuseError):
    """The numerics failed."""

    exit_code = 1


class WriteError(HsiFuseError):
    """An output cannot be written, or exists already."""

    exit_code = 7


class QualityError(HsiFuseError):
    """A quality gate failed. What was asked for is written all the same."""

    exit_code = 5


class HsiFuseWarning(UserWarning):
    """Usable, but the analyst should know; the report repeats it."""
