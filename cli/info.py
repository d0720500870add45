"""`hsi-fuse info`: what a run would do, or what one file holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from . import options


@click.command(
    epilog="""\b
Examples:
  hsi-fuse info scene.hdr
  hsi-fuse info scene.hdr camera.tif --json
"""
)
@click.argument("hsi", type=options.PATH)
@click.argument("ref", type=options.PATH, required=False)
@options.scale
@options.wavelengths
@options.parts
@options.as_json
@options.loudness
def info(
    hsi: Path,
    ref: Path | None,
    scale: int | None,
    wavelengths: Path | None,
    bbox: tuple[float, float, float, float] | None,
    hsi_mask: str | None,
    guide_mask: str | None,
    as_json: bool,
) -> None:
    """Tell what `run HSI REF` would do: grids, overlap, bands, ratio, memory. Writes nothing.

    Without REF: what the one file holds, and how it is understood.
    """
    if ref is None:
        from hsi_fuse.planning import inspect

        tell(inspect(hsi, wavelengths, options.taken(bbox, hsi_mask, guide_mask)), as_json)
        return

    from hsi_fuse.pipeline import plan

    image, guide = options.taken(bbox, hsi_mask, guide_mask).of(hsi, ref, wavelengths)
    tell_plan(plan(image, guide, scale), as_json)


def tell_plan(plan: Any, as_json: bool) -> None:
    """Print a plan as aligned lines or as JSON."""
    tell(plan.to_dict(), as_json)


def tell(facts: Mapping[str, Any], as_json: bool) -> None:
    """Print facts as aligned lines or as JSON."""
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
