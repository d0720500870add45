"""`hsi-fuse info`: what a run would do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from . import options


@click.command()
@options.pair
@options.scale
@options.wavelengths
@options.as_json
@options.loudness
def info(hsi: Path, ref: Path, scale: int | None, wavelengths: Path | None, as_json: bool) -> None:
    """Tell what `run HSI REF` would do: grids, overlap, bands, ratio, memory. Writes nothing."""
    from hsi_fuse.pipeline import plan
    from hsi_fuse.read import open_guide, read_hsi

    tell_plan(plan(read_hsi(hsi, wavelengths), open_guide(ref), scale), as_json)


def tell_plan(plan: Any, as_json: bool) -> None:
    """Print a plan as aligned lines or as JSON."""
    facts: Mapping[str, Any] = plan.to_dict()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for section, content in facts.items():
        if not isinstance(content, Mapping):
            click.echo(f"{section:<18}{content}")
            continue
        click.echo(section)
        for key, value in content.items():
            click.echo(f"  {key:<16}{value}")
