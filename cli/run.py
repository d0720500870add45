"""`hsi-fuse run`: the whole job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options
from .console import State, progress, tell_outputs
from .info import tell_plan


@click.command(
    epilog="""\b
Examples:
  hsi-fuse run scene.hdr camera.tif
  hsi-fuse run scene.hdr camera.tif --scale 4 --preset draft -o sharp.tif --overwrite
  hsi-fuse run scene.tif camera.tif -f envi -o sharp.img --set coupled.steps=1000
  hsi-fuse run scene.hdr camera.tif --displacement camera_registered_displacement.tif
  hsi-fuse run scene.hdr camera.tif --extent guide -o all_of_the_camera.tif
  hsi-fuse run scene.hdr camera.tif --dry-run

Exit codes: see `hsi-fuse --help`.
"""
)
@options.pair
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    help="Raster to write.  [default: <HSI>_fused.tif in the current folder]",
)
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@options.settings
@options.parts
@options.displacement
@options.fail_on
@click.option(
    "--checkpoints",
    type=options.PATH,
    metavar="DIR",
    help="Keep the states of training in this folder, which no other run uses, once a minute; the same "
    "command goes on from them when it was interrupted, to the same bytes. They are removed in the end.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, as `hsi-fuse info` does, and stop.")
@options.as_json
@options.loudness
@click.pass_obj
def run(
    state: State,
    /,
    hsi: Path,
    ref: Path,
    output: Path | None,
    form: str | None,
    overwrite: bool,
    bbox: tuple[float, float, float, float] | None,
    hsi_mask: str | None,
    guide_mask: str | None,
    displacement: Path | None,
    fail_on: str,
    checkpoints: Path | None,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Fuse the hyperspectral image HSI with the sharper reference REF.

    HSI is an ENVI file (header or data), a GeoTIFF with wavelengths, or a PRISMA, EMIT, EnMAP or DESIS
    product. REF shows the same place in finer pixels: any raster of 1 to 13 bands, a folder of single-band
    files, or a Sentinel-2 SAFE folder; CRS, grid, radiometry and registration may differ.

    Beside the raster stand a report (HTML), its figures (JSON), and what was learned of the sensors (CSV) and
    of the geometry: tie points (GeoJSON) and the displacement of REF (GeoTIFF, metres), which --displacement
    takes again.

    A REF that does not seem to show the same place is refused; only a report of what was tried is left then.
    """
    output, form = options.output_and_form(output, form, f"{hsi.stem}_fused")
    settings = options.run_settings(form, **given)

    from hsi_fuse.scene import Job, plan_scene, run_scene
    from hsi_fuse.write import gate_written

    taken = options.taken(bbox, hsi_mask, guide_mask)
    job = Job(hsi, ref, output, settings, displacement, overwrite, taken, checkpoints)
    if dry_run:
        tell_plan(plan_scene(job), as_json)
        return
    with progress(state) as on_step:
        written = run_scene(job, on_step)
    tell_outputs(state, written, as_json)
    gate_written(output, fail_on)
