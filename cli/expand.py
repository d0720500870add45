"""`hsi-fuse expand`: a raster of a compact product."""

from __future__ import annotations

import re
from pathlib import Path

import click

from . import options
from .console import State, progress, tell_outputs

ENDING = "_compact"


def _bands(context: click.Context, parameter: click.Parameter, given: str | None) -> list[int] | None:
    """Band numbers from 1, as "1,5-10" -> from 0."""
    if given is None:
        return None
    chosen: list[int] = []
    for part in given.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*", part)
        if match is None or int(match[1]) < 1 or int(match[2] or match[1]) < int(match[1]):
            raise click.BadParameter(
                f"{part!r} is no band number from 1 on and no range of them, as in 1,5-10"
            )
        chosen += range(int(match[1]) - 1, int(match[2] or match[1]))
    return chosen


def _range_nm(
    context: click.Context, parameter: click.Parameter, given: str | None
) -> tuple[float, float] | None:
    if given is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*-\s*(\d+(?:\.\d*)?)\s*", given)
    if match is None or float(match[1]) > float(match[2]):
        raise click.BadParameter(f"{given!r} is no range of nanometres, as in 640-680")
    return float(match[1]), float(match[2])


def _window(
    context: click.Context, parameter: click.Parameter, given: str | None
) -> tuple[int, int, int, int] | None:
    if given is None:
        return None
    match = re.fullmatch(r"\s*" + r"\s*,\s*".join([r"(\d{1,9})"] * 4) + r"\s*", given)
    if match is None:
        raise click.BadParameter(f"{given!r} is not COLUMN,ROW,WIDTH,HEIGHT in pixels, as in 0,0,512,512")
    left, top, width, height = map(int, match.groups())
    return left, top, width, height


@click.command(
    epilog="""\b
Examples:
  hsi-fuse expand sharp_compact.safetensors -o sharp.tif
  hsi-fuse expand sharp_compact.safetensors --range-nm 640-680 -o red.tif
  hsi-fuse expand sharp_compact.safetensors --window 0,0,512,512 -f envi -o corner.img
  hsi-fuse expand sharp_compact.safetensors --rgb -f cog -o rgb.tif

Exit codes: see `hsi-fuse --help`.
"""
)
@click.argument("product", type=options.PATH)
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    help="Raster to write.  [default: <PRODUCT>_expanded.tif in the current folder]",
)
@click.option(
    "--bands", callback=_bands, metavar="N,N-N,...", help="Only these bands, numbered from 1, in this order."
)
@click.option(
    "--range-nm",
    callback=_range_nm,
    metavar="FROM-TO",
    help="Only bands whose wavelengths lie in this range, nanometres.",
)
@click.option("--rgb", is_flag=True, help="Only a red, a green and a blue band.")
@click.option(
    "--window",
    callback=_window,
    metavar="COLUMN,ROW,WIDTH,HEIGHT",
    help="Only these pixels of the product, as gdal_translate's -srcwin counts them.",
)
@options.raster
@options.as_json
@options.loudness
@click.pass_obj
def expand(
    state: State,
    product: Path,
    output: Path | None,
    bands: list[int] | None,
    range_nm: tuple[float, float] | None,
    rgb: bool,
    window: tuple[int, int, int, int] | None,
    form: str | None,
    creation_options: dict[str, str],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make a raster of the compact product PRODUCT (`run --products compact`), or of a part of it.

    Values, type, scaling and nodata are those of the run's own raster. The product is
    never whole in memory.
    """
    if sum(choice is not None for choice in (bands, range_nm, rgb or None)) > 1:
        raise click.UsageError("give one of --bands, --range-nm and --rgb")
    output, form = options.output_and_form(output, form, f"{product.stem.removesuffix(ENDING)}_expanded")
    options.limit_threads(None)

    from hsi_fuse.write import bands_as_rgb, bands_in_range, open_compact
    from hsi_fuse.write import expand as expanded

    compact = open_compact(product)
    if range_nm is not None:
        bands = bands_in_range(compact, *range_nm)
    elif rgb:
        bands = bands_as_rgb(compact)
    with progress(state) as on_step:
        summary = expanded(
            compact,
            output,
            bands=bands,
            window=window,
            driver=options.DRIVERS[form],
            creation_options=creation_options,
            overwrite=overwrite,
            on_step=on_step,
        )
    tell_outputs(state, summary.paths, as_json)
