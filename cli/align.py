"""`hsi-fuse align`: the registered reference alone."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .console import State, progress, tell_outputs


@click.command(
    epilog="""\b
Examples:
  hsi-fuse align scene.hdr camera.tif
  hsi-fuse align scene.hdr camera.tif --scale 4 -o registered.tif --set align.model=projective
  hsi-fuse align scene.hdr camera.tif --displacement mine.tif

Exit codes: see `hsi-fuse --help`.
"""
)
@options.pair
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    help="Raster to write.  [default: <REF>_registered.tif in the current folder]",
)
@options.raster
@click.option("--nodata", type=float, help="Value that marks no data in the output.  [default: REF's]")
@options.scale
@options.preset
@options.overrides
@options.wavelengths
@options.sensors
@options.parts
@options.displacement
@options.machine
@options.as_json
@options.loudness
@click.pass_obj
def align(
    state: State,
    hsi: Path,
    ref: Path,
    output: Path | None,
    form: str | None,
    creation_options: dict[str, str],
    overwrite: bool,
    nodata: float | None,
    scale: int | None,
    preset: str,
    overrides: tuple[str, ...],
    wavelengths: Path | None,
    srf: Path | None,
    guide_sensor: str | None,
    psf: str | None,
    bbox: tuple[float, float, float, float] | None,
    hsi_mask: str | None,
    guide_mask: str | None,
    displacement: Path | None,
    device: str,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Register the reference REF to the hyperspectral image HSI, and fuse nothing.

    Out comes REF on the refined grid of HSI, resampled once, in its own type, scaling and bands; nodata where
    REF shows nothing. Of the preset only the settings `align` and `sense` count.

    Beside the raster stand tie points that took no part in the fit (*_ties.geojson), the displacement of REF
    against its georeferencing in metres to the east and to the north (*_displacement.tif), which
    --displacement takes again, and the figures of the registration (*_registration.json).

    A REF that does not seem to show the same place is refused; only a report of what was tried
    (*_report.html) is left then.
    """
    output, form = options.output_and_form(output, form, f"{ref.stem}_registered")
    options.limit_threads(threads)

    from hsi_fuse.inputs import Inputs
    from hsi_fuse.preset import load_preset
    from hsi_fuse.read.hsi import encoding_of
    from hsi_fuse.registered import SIDE_PRODUCTS, register_guide, save_registered
    from hsi_fuse.sensors.known import SensorWords
    from hsi_fuse.write import REPORT, check_outputs, refusal_reported, stored_as

    check_outputs(output, options.DRIVERS[form], overwrite, (*SIDE_PRODUCTS, REPORT))

    chosen = load_preset(preset, overrides)
    parts, sensors = options.taken(bbox, hsi_mask, guide_mask), SensorWords(srf, guide_sensor, psf)
    image, guide = parts.of(hsi, ref, wavelengths)
    stored_as(encoding_of(guide.source), nodata)
    with progress(state) as on_step, refusal_reported(output, overwrite):
        result = register_guide(
            image,
            guide,
            chosen,
            scale=scale,
            known=sensors.known(image, guide.bands),
            displacement=displacement,
            device=device,
            seed=seed,
            on_step=on_step,
        )
        written = save_registered(
            result,
            output,
            driver=options.DRIVERS[form],
            creation_options=creation_options,
            overwrite=overwrite,
            nodata=nodata,
            inputs=Inputs(hsi, ref, parts, sensors, wavelengths, displacement),
            on_step=on_step,
        )
    tell_outputs(state, written, as_json)
