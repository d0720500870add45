"""`hsi-fuse assess`: judge a product of any tool."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .console import State, progress, tell_outputs


@click.command(
    epilog="""\b
Examples:
  hsi-fuse assess fused.tif scene.hdr camera.tif
  hsi-fuse assess fused.tif scene.hdr camera.tif -o checked --fail-on amber
  hsi-fuse assess fused.tif pair/hsi.hdr pair/reference.tif --truth truth.hdr

Exit codes: see `hsi-fuse --help`.
"""
)
@click.argument("fused", type=options.PATH)
@options.pair
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    metavar="NAME",
    help="Stem of the files to write.  [default: <FUSED>_assessed in the current folder]",
)
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option(
    "--truth",
    type=options.PATH,
    metavar="FILE",
    help="The right answer on FUSED's grid, where the pair was simulated; it sets no light.",
)
@options.fail_on
@options.preset
@options.overrides
@options.wavelengths
@options.displacement
@options.machine
@options.as_json
@options.loudness
@click.pass_obj
def assess(
    state: State,
    fused: Path,
    hsi: Path,
    ref: Path,
    output: Path | None,
    overwrite: bool,
    truth: Path | None,
    fail_on: str,
    preset: str,
    overrides: tuple[str, ...],
    wavelengths: Path | None,
    displacement: Path | None,
    device: str,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Judge FUSED, which some tool made of the hyperspectral image HSI and the reference REF.

    FUSED must lie on HSI's grid, refined by a whole number; it may cover a part of it. REF is registered and
    the sensors are learned again, from the files alone. Out come a report (NAME_report.html) and its figures
    (NAME_quality.json). Of the preset only the settings `align`, `sense` and `assess` count.

    How FUSED was made is not known, so that synthesis at reduced resolution cannot be assessed.
    """
    output = output or Path(f"{fused.stem}_assessed")
    options.limit_threads(threads)

    from hsi_fuse.judged import check_reports, judge_product, save_judged
    from hsi_fuse.preset import load_preset
    from hsi_fuse.quality.verdict import gate
    from hsi_fuse.read import open_guide, read_hsi
    from hsi_fuse.write import refusal_reported

    check_reports(output, overwrite)
    chosen = load_preset(preset, overrides)
    image, guide = read_hsi(hsi, wavelengths), open_guide(ref)
    with progress(state) as on_step, refusal_reported(output.with_name(output.name + ".tif"), overwrite):
        judged = judge_product(
            fused,
            image,
            guide,
            chosen,
            truth=truth,
            displacement=displacement,
            device=device,
            seed=seed,
            on_step=on_step,
        )
        inputs = {"product": fused, "hsi": hsi, "reference": ref} | (
            {} if truth is None else {"truth": truth}
        )
        written = save_judged(judged, output, inputs=inputs, overwrite=overwrite)
    tell_outputs(state, written, as_json)
    gate(judged.quality.figures, fail_on)
