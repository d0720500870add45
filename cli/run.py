"""`hsi-fuse run`: the whole job."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import click

from . import options
from .console import State, progress
from .info import tell_plan

DRIVERS: dict[str, Literal["GTiff", "ENVI", "COG"]] = {"gtiff": "GTiff", "envi": "ENVI", "cog": "COG"}
SUFFIXES = {"gtiff": ".tif", "envi": ".img", "cog": ".tif"}
ENVI_SUFFIXES = (".hdr", ".img", ".dat", ".bsq", ".bil", ".bip", ".raw")


def _creation_options(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise click.BadParameter(f"{key}{equals}{value} is not KEY=VALUE")
    return {key: value for key, _, value in pairs}


@click.command(
    epilog="""\b
Examples:
  hsi-fuse run scene.hdr camera.tif
  hsi-fuse run scene.hdr camera.tif --scale 4 --preset draft -o sharp.tif --overwrite
  hsi-fuse run scene.tif camera.tif -f envi -o sharp.img --set coupled.steps=1000
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
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(list(DRIVERS), case_sensitive=False),
    help="[default: by the output's suffix, else gtiff]  A cog comes out pixel-interleaved.",
)
@click.option(
    "--co",
    "creation_options",
    multiple=True,
    metavar="K=V",
    callback=_creation_options,
    help="Creation option of the raster driver; repeatable.",
)
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--nodata", type=float, help="Value that marks no data in the output.  [default: the HSI's]")
@options.scale
@options.preset
@options.overrides
@options.wavelengths
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Same seed, device, threads: same bytes."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]")
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
    nodata: float | None,
    scale: int | None,
    preset: str,
    overrides: tuple[str, ...],
    wavelengths: Path | None,
    device: str,
    seed: int,
    threads: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fuse the hyperspectral image HSI with the sharper reference REF.

    HSI is an ENVI file (header or data) or a GeoTIFF with wavelengths. REF is any raster of 1 to 13 bands
    that shows the same place in finer pixels; CRS, grid, radiometry and registration may differ.

    Beside the raster stand a report (HTML), its figures (JSON) and what was learned of the sensors (CSV).
    """
    if form is None:
        form = "envi" if output is not None and output.suffix.lower() in ENVI_SUFFIXES else "gtiff"
    output = output or Path(f"{hsi.stem}_fused{SUFFIXES[form]}")
    _limit_threads(threads)

    from hsi_fuse.pipeline import fuse, plan
    from hsi_fuse.preset import load_preset
    from hsi_fuse.products import check_outputs, save, stored_as
    from hsi_fuse.read import open_guide, read_hsi

    check_outputs(output, DRIVERS[form], overwrite)  # nobody should wait for a fusion that cannot be kept

    chosen = load_preset(preset, overrides)
    image, guide = read_hsi(hsi, wavelengths), open_guide(ref)
    stored_as(image, nodata)
    if dry_run:
        tell_plan(plan(image, guide, scale), as_json)
        return
    with progress(state) as on_step:
        result = fuse(image, guide, chosen, scale=scale, device=device, seed=seed, on_step=on_step)
        written = save(
            result,
            output,
            driver=DRIVERS[form],
            creation_options=creation_options,
            overwrite=overwrite,
            nodata=nodata,
            on_step=on_step,
        )
    if as_json:
        click.echo(
            json.dumps({"outputs": [str(path) for path in written], "warnings": state.warned}, indent=2)
        )
    elif state.verbosity >= 0:
        for path in written:
            click.echo(path)


def _limit_threads(threads: int | None) -> None:
    # threads that spin while they wait slow each other down many times on a busy workstation
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if threads is None:
        return
    # numpy's and scipy's BLAS read these when they load, which has not happened yet
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)
