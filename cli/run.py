"""`hsi-fuse run`: the whole job."""

from __future__ import annotations

from pathlib import Path

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
@options.raster
@options.products
@click.option("--nodata", type=float, help="Value that marks no data in the output.  [default: the HSI's]")
@options.scale
@options.preset
@options.overrides
@options.wavelengths
@options.displacement
@options.machine
@click.option("--dry-run", is_flag=True, help="Show what would be done, as `hsi-fuse info` does, and stop.")
@options.as_json
@options.loudness
@click.pass_obj
def run(
    state: State,
    hsi: Path,
    ref: Path,
    output: Path | None,
    form: str | None,
    creation_options: dict[str, str],
    overwrite: bool,
    products: tuple[str, ...],
    nodata: float | None,
    scale: int | None,
    preset: str,
    overrides: tuple[str, ...],
    wavelengths: Path | None,
    displacement: Path | None,
    device: str,
    seed: int,
    threads: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fuse the hyperspectral image HSI with the sharper reference REF.

    HSI is an ENVI file (header or data) or a GeoTIFF with wavelengths. REF is any raster of 1 to 13 bands
    that shows the same place in finer pixels; CRS, grid, radiometry and registration may differ.

    Beside the raster stand a report (HTML), its figures (JSON), and what was learned of the sensors (CSV) and
    of the geometry: tie points (GeoJSON) and the displacement of REF (GeoTIFF, metres), which --displacement
    takes again.

    A REF that does not seem to show the same place is refused; only a report of what was tried is left then.
    """
    output, form = options.output_and_form(output, form, f"{hsi.stem}_fused")
    options.limit_threads(threads)

    from hsi_fuse.pipeline import fuse, plan
    from hsi_fuse.preset import load_preset
    from hsi_fuse.products import check_outputs, endings_with, refusal_reported, save, stored_as
    from hsi_fuse.read import open_guide, read_hsi

    # nobody should wait for a fusion that cannot be kept
    check_outputs(output, options.DRIVERS[form], overwrite, endings_with(products))

    chosen = load_preset(preset, overrides)
    image, guide = read_hsi(hsi, wavelengths), open_guide(ref)
    stored_as(image.encoding, nodata)
    if dry_run:
        tell_plan(plan(image, guide, scale), as_json)
        return
    with progress(state) as on_step, refusal_reported(output, overwrite):
        result = fuse(
            image,
            guide,
            chosen,
            scale=scale,
            displacement=displacement,
            uncertainty="uncertainty" in products,
            device=device,
            seed=seed,
            on_step=on_step,
        )
        written = save(
            result,
            output,
            products=products,
            driver=options.DRIVERS[form],
            creation_options=creation_options,
            overwrite=overwrite,
            nodata=nodata,
            on_step=on_step,
        )
    tell_outputs(state, written, as_json)
