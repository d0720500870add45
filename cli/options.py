"""Arguments and options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hsi_fuse.threads import keep_memory, thread_environment

from .console import State

if TYPE_CHECKING:
    from hsi_fuse.read import Mask, Parts
    from hsi_fuse.scene import RunSettings

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


DRIVERS: dict[str, Literal["GTiff", "ENVI", "COG"]] = {"gtiff": "GTiff", "envi": "ENVI", "cog": "COG"}
SUFFIXES = {"gtiff": ".tif", "envi": ".img", "cog": ".tif"}
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
ENVI_SUFFIXES = (".hdr", ".img", ".dat", ".bsq", ".bil", ".bip", ".raw")


def _verbosity(step: int) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(context: click.Context, parameter: click.Parameter, given: bool) -> None:
        if given:
            context.ensure_object(State).verbosity = step

    return callback


def _creation_options(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise click.BadParameter(f"{key}{equals}{value} is not KEY=VALUE")
    return {key: value for key, _, value in pairs}


def _bounds(
    context: click.Context, parameter: click.Parameter, given: str | None
) -> tuple[float, float, float, float] | None:
    if given is None:
        return None
    try:
        west, south, east, north = (float(each) for each in given.split(","))
    except ValueError:
        raise click.BadParameter(f"{given!r} is not four numbers WEST,SOUTH,EAST,NORTH") from None
    return west, south, east, north


def _bytes(context: click.Context, parameter: click.Parameter, given: str) -> int:
    number, unit = given.upper().removesuffix("B").removesuffix("I"), 1
    if number[-1:] in UNITS:
        number, unit = number[:-1], UNITS[number[-1]]
    try:
        size = float(number) * unit
        if not 0 < size < float("inf"):
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{given!r} is not a size such as 6G or 900M") from None
    return int(size)


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

PRODUCTS = {
    "uncertainty": "a standard deviation for each value",
    "confidence": "how far the reference is believed, by pixel",
    "support": "which pixels and bands rest on inference",
    "endmembers": "spectra of the materials (CSV, ENVI spectral library)",
    "abundances": "their shares",
    "compact": "the product in factors, for `hsi-fuse expand`",
    "stac": "a STAC item",
}


def _products(context: click.Context, parameter: click.Parameter, given: str | None) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in (given or "").split(",") if name.strip()))
    if names == ("all",):
        return tuple(PRODUCTS)
    for name in names:
        if name not in PRODUCTS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(PRODUCTS)}, all")
    return names


pair = stacked(click.argument("hsi", type=PATH), click.argument("ref", type=PATH))

form = stacked(
    click.option(
        "-f",
        "--format",
        "form",
        type=click.Choice(list(DRIVERS), case_sensitive=False),
        help="[default: by the output's suffix, else gtiff]  A cog comes out pixel-interleaved.",
    ),
    click.option(
        "--co",
        "creation_options",
        multiple=True,
        metavar="K=V",
        callback=_creation_options,
        help="Creation option of the raster driver; repeatable. What is not asked for stays: a GeoTIFF "
        "has tiles, DEFLATE of level 1 with a predictor and, where it is large, overviews. Such as "
        "COMPRESS=ZSTD.",
    ),
)
raster = stacked(form, click.option("--overwrite", is_flag=True, help="Replace outputs that exist."))
products = stacked(
    click.option(
        "--products",
        metavar="NAME,...|all",
        callback=_products,
        help=f"Write too: {'; '.join(f'{name} ({what})' for name, what in PRODUCTS.items())}.",
    ),
    click.option(
        "--compact-dtype",
        type=click.Choice(["float32", "int16"]),
        default="float32",
        show_default=True,
        help="Coefficients of the compact product: exact, or half as large with an error that it states.",
    ),
)
fail_on = click.option(
    "--fail-on",
    type=click.Choice(["red", "amber", "never"]),
    default="never",
    show_default=True,
    help="Exit with 5 where the verdict is this bad or worse; everything is written before. The limits are "
    "settings of the preset: --set assess.sam_amber=4",
)
scale = click.option(
    "--scale",
    type=click.IntRange(min=1),
    metavar="N",
    help="Fine pixels per HSI pixel along one axis.  [default: ratio of the pixel sizes, rounded]",
)
preset = click.option(
    "--preset",
    default="balanced",
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
    "--hsi-sensor",
    "wavelengths",
    type=PATH,
    metavar="FILE|NAME",
    help="Text file with one wavelength for each HSI band, for files that carry none; or prisma, enmap, "
    "desis or emit, whose nominal ones ship.",
)
sensors = stacked(
    click.option(
        "--guide-sensor",
        metavar="NAME[:BAND,...]",
        help="Nominal responses of REF's bands as a prior, such as sentinel-2:B4,B3,B2; the pair has the "
        "last word. `hsi-fuse presets sensors` lists them.",
    ),
    click.option(
        "--srf",
        type=PATH,
        metavar="FILE",
        help="Responses of REF's bands, taken as they are: CSV with the columns band, wavelength_nm, "
        "response, or a run's own *_srf.csv. Gain and offset are learned all the same.",
    ),
    click.option(
        "--psf",
        metavar="FILE|FWHM",
        help="HSI's point spread function, taken as it is: CSV of a kernel in fine pixels, as a run's own "
        "*_psf.csv, or the full width at half maximum of a Gaussian in HSI pixels.",
    ),
)
parts = stacked(
    click.option(
        "--bbox",
        metavar="W,S,E,N",
        callback=_bounds,
        help="Only the part of HSI that covers this box, for a trial: in HSI's CRS; in columns and rows "
        "where it has no georeferencing.",
    ),
    click.option(
        "--hsi-mask",
        metavar="FILE[:VALUES]",
        help="Leave out pixels of HSI where this raster, on any grid, has one of the values (as 3,8-10), or, "
        "without values, is not 0.",
    ),
    click.option(
        "--guide-mask",
        metavar="FILE[:VALUES]",
        help="The same for REF; such as SCL_20m.jp2:3,8-10 for the clouds of Sentinel-2.",
    ),
)
extent = click.option(
    "--extent",
    type=click.Choice(["hsi", "guide", "union"]),
    default="hsi",
    show_default=True,
    help="Whose ground the product covers. Outside HSI, spectra are inferred from REF's colours; *_kind.tif "
    "tells where.",
)
unaligned = click.option(
    "--unaligned",
    is_flag=True,
    help="Register nothing, where a REF of the same ground is refused: HSI is sharpened by no more than its "
    "texture (preset fresco), and REF is made hyperspectral by its colours, as *_guide.tif.",
)
displacement = click.option(
    "--displacement",
    type=PATH,
    metavar="FILE",
    help="Follow this mapping instead of searching one: a *_displacement.tif of `run` or `align`, or any "
    "raster of two bands (metres to the east, to the north) that covers HSI.",
)
machine = stacked(
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Same seed, device, threads: same bytes."
    ),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]"),
)
max_memory = click.option(
    "--max-memory",
    metavar="SIZE",
    default="8G",
    show_default=True,
    callback=_bytes,
    help="Memory to use, such as 6G or 900M: large scenes are solved in overlapping blocks. The same bytes "
    "come out for the same SIZE.",
)
settings = stacked(
    form,
    products,
    extent,
    unaligned,
    click.option(
        "--nodata", type=float, help="Value that marks no data in the output.  [default: the HSI's]"
    ),
    scale,
    preset,
    overrides,
    wavelengths,
    sensors,
    machine,
    max_memory,
)
"""All of `scene.RunSettings`; `run_settings` makes it of them."""
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


def output_and_form(output: Path | None, form: str | None, otherwise: str) -> tuple[Path, str]:
    """Where a raster goes and how: what is not given follows from the other, or from a stem."""
    if form is None:
        form = "envi" if output is not None and output.suffix.lower() in ENVI_SUFFIXES else "gtiff"
    return output or Path(f"{otherwise}{SUFFIXES[form]}"), form


def taken(
    bbox: tuple[float, float, float, float] | None, hsi_mask: str | None, guide_mask: str | None
) -> Parts:
    """What the options `parts` say, as one object."""
    from hsi_fuse.read import Parts

    return Parts(bbox, mask(hsi_mask) if hsi_mask else None, mask(guide_mask) if guide_mask else None)


def mask(given: str) -> Mask:
    """The mask that an option FILE[:VALUES] names."""
    from hsi_fuse.read.mask import open_mask, parse_mask

    return open_mask(*parse_mask(given))


def limit_threads(threads: int | None) -> None:
    """Before torch, numpy and scipy are imported."""
    os.environ.update(thread_environment(threads))
    keep_memory()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def run_settings(
    form: str,
    preset: str,
    overrides: tuple[str, ...],
    creation_options: dict[str, str],
    srf: Path | None,
    guide_sensor: str | None,
    psf: str | None,
    **rest: Any,
) -> RunSettings:
    """What the options `settings` say, as one object. Imports torch, within the threads they allow."""
    limit_threads(rest["threads"])

    from hsi_fuse.preset import load_preset
    from hsi_fuse.scene import RunSettings
    from hsi_fuse.sensors.known import SensorWords

    return RunSettings(
        load_preset(preset, overrides),
        sensors=SensorWords(srf, guide_sensor, psf),
        driver=DRIVERS[form],
        creation_options=tuple(creation_options.items()),
        **rest,
    )
