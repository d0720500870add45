"""Do `uafl` and `ssc` improve on `coupled`? Simulated pairs, against truth.

Misregistered pairs are registered as `hsi-fuse run` does it, blind, but without the local displacement that
the alignment would find (`align.local` off): what is left is the stage's to mend. Registered pairs lie
as they are. `coupled` runs once for each pair, and every variant of the stage starts from its answer. Gains
are over `coupled`'s PSNR and SAM (degrees); processor seconds are the stage's own.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from affine import Affine

from benchmarks.matchers import claimed
from benchmarks.registration import protocol_for
from benchmarks.runs import problem_of
from benchmarks.scenes import NAMES, load
from hsi_fuse.errors import HsiFuseError
from hsi_fuse.grid import Grid
from hsi_fuse.physics import gaussian_psf
from hsi_fuse.preset import Preset, load_preset
from hsi_fuse.problem import Estimate, Problem, silent
from hsi_fuse.quality.metrics import psnr, sam_deg
from hsi_fuse.raster import Raster
from hsi_fuse.refinement.refining import Refining
from hsi_fuse.registration.joint import register_pair
from hsi_fuse.sensors.sense import Sensing
from hsi_fuse.simulation.simulate import PROTOCOLS, ObservedPair, observe
from hsi_fuse.stages.coupled import Coupled
from hsi_fuse.subspace import estimate_noise, interpolate

SCENES = ("pavia_centre", "muufl", "cave_balloons", "cave_oil_painting", "cave_superballs")
ABLATION: dict[str, dict[str, dict[str, Any]]] = {
    "uafl": {
        "bands, not abundances": {
            "reformulation": False,
            "aggregation": "still",
            "scaca": False,
            "scmf": False,
        },
        "none": {"aggregation": "still", "scaca": False, "scmf": False},
        "+ SCACA": {"aggregation": "still", "scmf": False},
        "+ SCACA, plain deformable": {"aggregation": "plain", "scmf": False},
        "+ SCACA, CFDA": {"scmf": False},
        "+ SCACA, CFDA, SCMF": {},
    },
    "ssc": {
        "one stage, 1 iteration": {"repair": False, "iterations": 1},
        "one stage, 3 iterations": {"repair": False, "iterations": 3},
        "two stages, 1 iteration": {"iterations": 1},
        "two stages, 3, no spectral": {"iterations": 3, "spectral": False},
        "two stages, 3 iterations": {"iterations": 3},
    },
}
"""By stage: what is switched off. That of `uafl` is its paper's table."""
X16 = {
    name: replace(PROTOCOLS[name.replace("x16", "x8")], name=name, ratio=16, psf=gaussian_psf(16, 16.0))
    for name in ("x16-rgb", "x16-rgb-mild", "x16-rgb-parallax")
}
"""As at x8, for the largest scenes."""


@dataclass(frozen=True)
class Score:
    """One variant on one pair."""

    scene: str
    protocol: str
    variant: str
    seed: int
    coupled_psnr_db: float
    coupled_sam_deg: float
    psnr_db: float
    sam_deg: float
    kept: bool
    flow_gain_db: float
    """On hidden HSI pixels, as the gate saw it."""
    cpu_s: float

    @property
    def gain_db(self) -> float:
        """Over `coupled`."""
        return self.psnr_db - self.coupled_psnr_db


def observed(scene: str, name: str, seed: int, crop_px: int) -> ObservedPair:
    """The middle of a scene, at most so many fine pixels a side, as a protocol sees it."""
    truth, wavelengths_nm = load(scene)
    spans = [slice((size - crop_px) // 2 if size > crop_px else 0, None) for size in truth.shape[1:]]
    part = truth[:, *spans][:, :crop_px, :crop_px].contiguous()
    return observe(part, wavelengths_nm, X16.get(name) or protocol_for(wavelengths_nm, name), seed)


def registered(pair: ObservedPair, seed: int, preset: Preset) -> Problem:
    """The pair as `prepare.align` would hand it to the stages."""
    ratio, (_, height, width) = pair.sensor.ratio, pair.guide.shape
    weight = torch.ones(pair.hsi.shape[1:])
    found = register_pair(
        pair.hsi,
        weight,
        Raster(pair.guide.numpy(), pair.guide_valid.numpy(), Grid(None, Affine.identity(), width, height)),
        claimed(pair),
        ratio,
        replace(preset.align, local=False),
        Sensing(preset.sense),
    )
    other = found.changed.repeat(ratio, 0).repeat(ratio, 1)
    guide_weight = torch.from_numpy(np.where(other, np.float32(0), found.guide_weight))
    deviation = found.evidence.deviation_hsi_px
    return Problem(
        pair.hsi,
        weight,
        torch.from_numpy(found.guide) * (guide_weight > 0),
        guide_weight,
        found.sensed.sensor,
        estimate_noise(pair.hsi, weight),
        found.sensed.guide_noise,
        seed,
        position_error=deviation if np.isfinite(deviation) else 0.0,
    )


def scores(
    scene: str, protocol: str, seed: int, crop_px: int, variants: dict[str, Refining], preset: Preset
) -> Iterator[Score]:
    """Every variant on one pair."""
    pair = observed(scene, protocol, seed, crop_px)
    if (X16 | PROTOCOLS)[protocol].misregistration is None:
        problem = problem_of(pair, "blind", seed, preset)
    else:
        problem = registered(pair, seed, preset)
    start = Coupled()(problem, interpolate(problem), silent).estimate
    before = quality(start, pair)
    for name, stage in variants.items():
        spent = time.process_time()
        result = stage(problem, start, silent)
        spent = time.process_time() - spent
        told = result.verdict
        gate = told.get("flow_gain_db")
        yield Score(
            *(scene, protocol, name, seed, *before, *quality(result.estimate, pair)),
            kept=bool(told["kept"]),
            flow_gain_db=gate if isinstance(gate, float) else float("nan"),
            cpu_s=spent,
        )


def quality(estimate: Estimate, pair: ObservedPair) -> tuple[float, float]:
    """PSNR and SAM, one HSI pixel at the edge left out."""
    cube, border = estimate.rows(0, estimate.shape[1]), pair.sensor.ratio
    return psnr(cube, pair.truth, border=border), sam_deg(cube, pair.truth, border=border).mean


def table(found: Sequence[Score]) -> str:
    """Markdown: a line for each variant and protocol, means over scenes and seeds, the worst pair last."""
    lines = [
        "| protocol | variant | pairs | kept | coupled dB / ° | gain dB | SAM ° | worst dB | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((s.protocol, s.variant) for s in found):
        group = [s for s in found if (s.protocol, s.variant) == key]

        def mean(name: str, group: Sequence[Score] = group) -> float:
            return float(np.mean([getattr(s, name) for s in group]))

        lines.append(
            f"| {key[0]} | {key[1]} | {len(group)} | {sum(s.kept for s in group)} "
            f"| {mean('coupled_psnr_db'):.2f} / {mean('coupled_sam_deg'):.2f} | {mean('gain_db'):+.2f} "
            f"| {mean('sam_deg') - mean('coupled_sam_deg'):+.3f} | {min(s.gain_db for s in group):+.2f} "
            f"| {mean('cpu_s'):.0f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each run, then the table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.refinement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listed: dict[str, Any] = {"type": lambda text: text.split(","), "metavar": "A,B,..."}
    parser.add_argument("--scenes", default=list(SCENES), **listed, help=", ".join(NAMES))
    parser.add_argument("--protocols", default=["x4-rgb-mild", "x4-rgb-parallax", "x4-rgb"], **listed)
    parser.add_argument("--seeds", default=["0"], **listed)
    parser.add_argument(
        "--presets", default=["balanced", "ssc"], **listed, help="whose `uafl` or `ssc` is measured"
    )
    parser.add_argument("--ablation", action="store_true", help="also with its parts switched off")
    parser.add_argument("--crop", type=int, default=512, metavar="PX", help="fine pixels a side, at most")
    parser.add_argument("-o", "--output", help="CSV file, one line for each run")
    options = parser.parse_args(arguments)
    for given, valid in ((options.scenes, NAMES), (options.protocols, PROTOCOLS | X16)):
        if unknown := set(given) - set(valid):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(valid)}")
    variants: dict[str, Refining] = {}
    for name in options.presets:
        try:
            preset = load_preset(name)
        except HsiFuseError as e:
            parser.error(str(e))
        stage = next((stage for _, stage in preset.stages if isinstance(stage, Refining)), None)
        if stage is None:
            parser.error(f"preset {name} has no stage {' or '.join(ABLATION)}")
        parts = ABLATION[stage.name] if options.ablation else {"": {}}
        variants |= {f"{name} {part}".strip(): replace(stage, **off) for part, off in parts.items()}
    torch.set_num_threads(1)
    found = []
    for protocol in options.protocols:
        for scene in options.scenes:
            for seed in map(int, options.seeds):
                for s in scores(scene, protocol, seed, options.crop, variants, preset):
                    found.append(s)
                    print(
                        f"{s.protocol:<16}{s.scene:<27}{s.variant:<27}{s.seed:<3}"
                        f"{s.coupled_psnr_db:7.2f} -> {s.psnr_db:6.2f} dB{s.coupled_sam_deg:8.3f} -> "
                        f"{s.sam_deg:6.3f}°  {'kept' if s.kept else 'passed through'}, hidden "
                        f"{s.flow_gain_db:+.2f} dB, {s.cpu_s:.0f} s",
                        flush=True,
                    )
    print(f"\n{table(found)}")
    if options.output:
        with open(options.output, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([f.name for f in fields(Score)])
            writer.writerows(astuple(s) for s in found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
