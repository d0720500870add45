"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .console import State

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _verbosity(step: int) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(context: click.Context, parameter: click.Parameter, given: bool) -> None:
        if given:
            context.ensure_object(State).verbosity = step

    return callback


def stacked(*decorators: Decorator) -> Decorator:
    """One decorator of several; the first stands on top, and so first in --help."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


PATH = click.Path(
    path_type=Path
)  # not `exists=True`: the reader knows better what is missing, and its exit code

pair = stacked(click.argument("hsi", type=PATH), click.argument("ref", type=PATH))

scale = click.option(
    "--scale",
    type=click.IntRange(min=1),
    metavar="N",
    help="Fine pixels per HSI pixel along one axis.  [default: ratio of the pixel sizes, rounded]",
)
preset = click.option(
    "--preset",
    default="fast",
    show_default=True,
    metavar="NAME|FILE",
    help="How much effort; see `hsi-fuse presets list`. A path to a TOML file gives one of your own.",
)
overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="STAGE.KEY=VALUE",
    help="Change one setting of the preset; repeatable. `hsi-fuse presets show NAME` lists them.",
)
wavelengths = click.option(
    "--wavelengths",
    type=PATH,
    metavar="FILE",
    help="Text file with one wavelength for each HSI band, for files that carry none.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, and only JSON, to stdout.")
loudness = stacked(
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_verbosity(-1),
        help="No progress and no summary; warnings and errors only.",
    ),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_verbosity(1),
        help="Tracebacks of errors, and the warnings of other libraries.",
    ),
)
