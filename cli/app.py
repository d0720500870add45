"""The command group, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

from hsi_fuse.errors import HsiFuseError

from .align import align
from .assess import assess
from .batch import batch
from .console import State, one_line, warnings_as_lines
from .expand import expand
from .info import info
from .presets import presets
from .run import run
from .simulate import simulate

INTERRUPTED = 130
EXIT_CODES = """\b
Exit codes:
  0    fine
  1    internal error, or the numerics failed
  2    wrong usage or preset
  3    an input cannot be used
  4    the reference does not fit the image: registration refused
  5    the quality gate (--fail-on) failed; everything is written
  6    some scenes of a batch failed
  7    the output cannot be written, or exists
  130  interrupted
"""


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"""\b
Examples:
  hsi-fuse info scene.hdr camera.tif
  hsi-fuse run scene.hdr camera.tif --scale 4 -o sharp.tif
  hsi-fuse batch acquisitions -o sharp --jobs 2
  hsi-fuse align scene.hdr camera.tif -o registered.tif
  hsi-fuse assess fused.tif scene.hdr camera.tif
  hsi-fuse expand sharp_compact.safetensors --rgb -o rgb.tif
  hsi-fuse simulate scene.hdr --protocol x4-rgb-mild -o pair
  hsi-fuse presets show balanced

{EXIT_CODES}""",
)
@click.version_option(package_name="hsi-fuse", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Sharpen a hyperspectral image with a high-resolution reference that need not be registered to it.

    Geometry, spectral responses and blur are learned from the two files alone. Out come a georeferenced
    high-resolution hyperspectral image and a report on its quality.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (run, batch, align, assess, info, expand, simulate, presets):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors are one line on stderr each."""
    state = State()
    try:
        with warnings_as_lines(state), _termination_as_interrupt():
            # click gives back the code of --help and --version, and None from the commands
            return cli.main(arguments, prog_name="hsi-fuse", standalone_mode=False, obj=state) or 0
    except HsiFuseError as e:
        return _fail(state, str(e), e.exit_code)
    except click.ClickException as e:
        return _fail(state, e.format_message(), e.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail(state, "interrupted; nothing was left behind", INTERRUPTED)
    except Exception as e:
        hint = "" if state.verbosity > 0 else " (run again with -v for the traceback)"
        return _fail(state, f"internal: {type(e).__name__}: {e}{hint}", 1)


def _fail(state: State, message: str, code: int) -> int:
    if state.verbosity > 0 and code != INTERRUPTED:
        traceback.print_exc()
    one_line("error", message)
    return code


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM unwinds as Ctrl-C does, so that half-written files are removed."""

    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: whoever embeds us handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
