"""Where the pages' templates lie, and the rules by which all of them are filled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape


def template(name: str, **filters: Callable[..., Any]) -> Template:
    """A template that knows some filters: it escapes, and a name without a value is an error."""
    environment = Environment(
        loader=PackageLoader("hsi_fuse.report", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
