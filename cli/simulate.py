"""`hsi-fuse simulate`: a pair whose truth is known."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .console import State, tell_outputs


@click.command(
    epilog="""\b
Protocols:
  x4-ms4, x8-ms4   four bands, ratio 4 or 8, noise
  x4-rgb, x8-rgb, x16-rgb
                   three bands
  x4-pan           one band
  x4-sharp         three bands, a PSF narrower than a pixel, no noise
  x4-ms4-psf0.3, -psf0.6, -psf1, -psf1.5, -psf2
                   x4-ms4 with a PSF of that width (FWHM, HSI pixels)
  cave-x32         ratio 32, a Nikon D700, no noise
  x3-ali           ratio 3, the nine bands of EO-1's ALI, no noise

\b
The first seven also with a reference that is not registered, as x4-ms4-mild:
  -mild, -strong, -rotated85, -rotated180, -rotated263, -off10, -contrast, -parallax

\b
Examples:
  hsi-fuse simulate scene.hdr -o pair
  hsi-fuse simulate scene.tif --protocol x4-rgb-mild --seed 3 -o pair
  hsi-fuse run pair/hsi.hdr pair/reference.tif

Exit codes: see `hsi-fuse --help`.
"""
)
@click.argument("truth", type=options.PATH)
@click.option(
    "--protocol", default="x4-ms4", show_default=True, metavar="NAME", help="How TRUTH is observed."
)
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    metavar="FOLDER",
    help="Made unless it is there.  [default: <TRUTH>_<PROTOCOL> in the current folder]",
)
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@options.wavelengths
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the noise and of whatever else the protocol draws.",
)
@options.as_json
@options.loudness
@click.pass_obj
def simulate(
    state: State,
    truth: Path,
    protocol: str,
    output: Path | None,
    overwrite: bool,
    wavelengths: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Observe TRUTH, a hyperspectral image, by two simulated instruments.

    FOLDER gets hsi.img with its header (TRUTH blurred, coarser, noisy), reference.tif (few bands, fine), and
    truth.json with what no program should be told: sensor responses, PSF, noise, which part of TRUTH was
    observed, and where each of its pixels shows in the reference. Values are in units of TRUTH's largest one.
    """
    options.limit_threads(None)

    from hsi_fuse.read import read_hsi
    from hsi_fuse.simulation.simulate import find_protocol
    from hsi_fuse.simulation.simulated import check_folder, save_pair, simulate_pair

    chosen = find_protocol(protocol)
    folder = output or Path(f"{truth.stem}_{protocol}")
    check_folder(folder, overwrite)
    pair = simulate_pair(read_hsi(truth, wavelengths), chosen, seed)
    tell_outputs(state, save_pair(pair, folder, overwrite=overwrite), as_json)
