"""`hsi-fuse batch`: a folder of scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options
from .console import State, scene_table, tell_outputs

if TYPE_CHECKING:
    from hsi_fuse.batch.manifest import Manifest
    from hsi_fuse.batch.plan import BatchPlan


@click.command(
    epilog="""\b
Examples:
  hsi-fuse batch acquisitions -o sharp --dry-run
  hsi-fuse batch acquisitions -o sharp --preset draft --jobs 2 --threads 1
  hsi-fuse batch acquisitions -o sharp --pairs pairs.csv
  hsi-fuse batch acquisitions -o sharp --match 'site(\\d+)'
  hsi-fuse batch /data/acquisitions -o /data/sharp --dask tcp://scheduler:8786

\b
The same command again goes on where it was stopped, and tries again what failed. What is done is done again
only where an input, the settings, the version or an output has changed.

Exit codes: see `hsi-fuse --help`; 6 where some scenes failed.
"""
)
@click.argument("folder", type=options.PATH)
@click.option(
    "-o", "--output", type=options.PATH, required=True, metavar="FOLDER", help="Made unless it is there."
)
@click.option(
    "--pairs",
    type=options.PATH,
    metavar="FILE",
    help="CSV with the columns hsi and reference: these pairs and no others. Paths count from FOLDER.",
)
@click.option(
    "--match",
    metavar="REGEX",
    help="What its group finds in the names, folders included, must be the same for both of a pair.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Scenes at a time; fewer while memory is short. They share the CPU threads, unless --threads says "
    "how many each has.  [default: 1; with --dask: all]",
)
@click.option(
    "--dask", metavar="ADDRESS", help="Run the scenes on this Dask cluster, whose workers see the same files."
)
@click.option(
    "--dry-run", is_flag=True, help="Show the pairs, why they belong together and what is to do, and stop."
)
@options.settings
@options.as_json
@options.loudness
@click.pass_obj
def batch(
    state: State,
    /,
    folder: Path,
    output: Path,
    pairs: Path | None,
    match: str | None,
    jobs: int | None,
    dask: str | None,
    dry_run: bool,
    as_json: bool,
    form: str | None,
    **given: Any,
) -> None:
    """Fuse every hyperspectral image in FOLDER with its reference.

    Images of more than 13 bands are hyperspectral, the others references. Each gets the reference that covers
    it best, was taken nearest in time (where the files tell) and is named most alike. --dry-run explains it.

    Each scene has a process and a folder of its own; one that fails is noted and passed over. Beside
    them stand index.html (their reports, the most troubled first), summary.csv, manifest.json and batch.log.
    """
    settings = options.run_settings(form or "gtiff", **given)

    from hsi_fuse.batch import plan_batch, run_batch
    from hsi_fuse.batch.manifest import Manifest
    from hsi_fuse.batch.summary import in_words
    from hsi_fuse.errors import BatchError

    plan = plan_batch(folder, output, settings, pairs=pairs, match=match)
    if dry_run:
        _tell_plan(plan, Manifest.of(output), as_json)
        return
    with scene_table(state, len(plan.tasks)) as on_event:
        result = run_batch(plan, jobs=jobs or (0 if dask else 1), dask=dask, on_event=on_event)
    tell_outputs(state, result.files, as_json)
    if result.failed:
        names = ", ".join(row.scene for row in result.failed[:5]) + (
            ", ..." if len(result.failed) > 5 else ""
        )
        raise BatchError(f"{names} failed (in all: {in_words(result.rows)}); look at {result.files[0]}")


def _tell_plan(plan: BatchPlan, manifest: Manifest, as_json: bool) -> None:
    facts = plan.to_dict(manifest)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for scene in facts["scenes"]:
        bands, height, width = scene["product"]
        click.echo(scene["name"])
        click.echo(f"  HSI          {scene['hsi']}")
        click.echo(f"  reference    {scene['reference']}")
        click.echo(f"  why          {scene['why']}")
        for other in scene["alternatives"][:3]:
            click.echo(f"  or           {other}")
        size = (
            f"{width} x {height} pixels, {bands} bands, about {scene['memory_bytes'] / 1e9:.1f} GB of memory"
        )
        click.echo(f"  plan         x{scene['scale']}: {size}")
        click.echo(f"  to do        {scene['to_do'] or 'nothing, it is done and unchanged'}")
    for entry in facts["without_reference"]:
        click.echo(f"no reference   {entry['hsi']}: {entry['why']}")
    for path in facts["without_hsi"]:
        click.echo(f"no HSI         {path}")
    for entry in facts["unreadable"]:
        click.echo(f"unreadable     {entry['file']}: {entry['why']}")
    for entry in facts["left_out"]:
        click.echo(f"passed over    {entry['file']}: {entry['why']}")
