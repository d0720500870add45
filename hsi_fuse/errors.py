"""What can go wrong, as a tree.

    HsiFuseError
    ├── ReadError        a file cannot be used as input
    ├── GridError        two grids do not meet, or a grid makes no sense
    ├── PresetError      unknown or invalid configuration
    ├── AlignmentError   the reference does not show this place
    ├── SolveError       the numerics failed (NaN, no convergence)
    └── WriteError       an output cannot be written, or exists

    HsiFuseWarning       usable, but something the analyst should know; repeated in the report

A message says what, where, the value found and what to do about it. The command line maps each
class to an exit code (`exit_code`) and prints the message as one line.
"""


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


class SolveError(HsiFuseError):
    """The numerics failed."""

    exit_code = 1


class WriteError(HsiFuseError):
    """An output cannot be written, or exists already."""

    exit_code = 7


class HsiFuseWarning(UserWarning):
    """Usable, but the analyst should know; the report repeats it."""
