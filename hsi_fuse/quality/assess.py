"""Quality without truth: what the product, the input and the reference say about each other.

`Quality.figures` is JSON-ready; `quality.schema.json`, which ships with the package, tells every part and
unit of it. Null stands where a figure cannot be formed; lists hold one entry a band.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.physics import blur_down, gaussian_psf
from hsi_fuse.problem import Cube, Problem
from hsi_fuse.quality import checks, metrics
from hsi_fuse.quality.fullscale import full_scale
from hsi_fuse.quality.lights import AssessOptions
from hsi_fuse.quality.plain import plain
from hsi_fuse.quality.reduced import degrade
from hsi_fuse.quality.spatial import spatial as spatial_figures
from hsi_fuse.quality.synthesis import Solver, angle_figures, score, synthesise
from hsi_fuse.quality.uncertainty import Uncertainty
from hsi_fuse.quality.verdict import judge, own_warnings
from hsi_fuse.threads import hand_back_memory

__all__ = ["SCHEMA", "AssessOptions", "Quality", "Solver", "assess", "plain", "score"]

SCHEMA = 7
"""Version of `quality.schema.json`; it rises when a figure changes its name or meaning."""
COUNTED_ROWS = 128
"""Of the HSI, at least, where there are so many, on whose ground negative values are counted."""
COMPARED_STRIPS = 8
"""Of the HSI, as high as blocks of Q2n and evenly spread, on which degraded products are held against it
where it is higher than all of them: the rest of it would say the same."""
LEAST_SHOWN = 0.5
"""Of what evenly spread pixels would show of each place: where they show less, all rows are compared."""


@dataclass(frozen=True)
class Quality:
    """The assessment: `figures` JSON-ready, `maps` arrays by name.

    Maps: `sam_deg` (h, w), the consistency angle in degrees; `brightness` (h, w), the relative error of
    brightness of the degraded product; `guide` (H, W), the product seen through the responses minus the
    reference, mean over reference bands, each in its own standard deviation. NaN where there are no data.
    """

    figures: dict[str, Any]
    maps: dict[str, NDArray[np.float32]]


def assess(
    problem: Problem,
    estimate: Cube,
    interpolation: Cube,
    *,
    solvers: Mapping[str, Solver],
    registration: Mapping[str, Any] | None = None,
    wavelengths_nm: Sequence[float] | None = None,
    bad_bands: Sequence[int] = (),
    stages: Sequence[Mapping[str, Any]] = (),
    warnings: Sequence[str] = (),
    uncertainty: Uncertainty | None = None,
    truth: Tensor | None = None,
    options: AssessOptions | None = None,
) -> Quality:
    """Assess a product without knowing the truth.

    Parameters
    ----------
    problem : Problem
        What was solved.
    estimate : Cube
        The product; only blocks of its rows are ever formed.
    interpolation : Cube
        Plain interpolation of the HSI, the honest floor beside it.
    solvers : mapping
        The methods to repeat on the degraded pair by name: `product` (how `estimate` was made),
        `interpolation`, and classical ones such as `map`. Without `product` synthesis is not assessable.
    registration : mapping
        What the aligner measured on points held out of its fit.
    wavelengths_nm : sequence of float
        Of the good bands, in the problem's order.
    bad_bands : sequence of int
        Numbers (from 0, in the input file) of the bands that took no part.
    stages : sequence of mappings
        Verdicts of the stages, in order.
    warnings : sequence of str
        What went before; the assessment adds its own.
    uncertainty : Uncertainty
        Of the product; None where it could not be calibrated.
    truth : Tensor (n, H, W), optional
        The right answer, where the pair was simulated. It sets no light.
    """
    options = options or AssessOptions()
    methods = {"product": estimate, "interpolation": interpolation}
    consistency, low, angles = _consistency(problem, methods)
    brightness = torch.where(problem.hsi_weight > 0, checks.brightness_error(low, problem), math.nan)
    found_again = _checks(problem, estimate, low, brightness)
    del low  # of a big scene each part works on gigabytes of its own
    hand_back_memory()
    spatial, guide_error = spatial_figures(problem, methods)
    hand_back_memory()
    maps = {"sam_deg": angles, "brightness": brightness}
    if guide_error is not None:
        maps["guide"] = torch.where(problem.guide_weight > 0, guide_error, math.nan)
    figures: dict[str, Any] = {
        "schema": SCHEMA,
        "verdict": {},
        "scene": {
            "ratio": problem.ratio,
            "bands": problem.hsi.shape[0],
            "hsi_size": problem.hsi.shape[1:],
            "target_size": problem.guide.shape[1:],
            "wavelengths_nm": wavelengths_nm,
            "hsi_noise": problem.hsi_noise,
        },
        "sensor": {
            "srf": problem.sensor.srf,
            "offset": problem.sensor.offset,
            "psf": problem.sensor.psf,
            "psf_fwhm_px": problem.sensor.psf_fwhm,
            "found": problem.sensor.found,
        },
        "registration": registration or {},
        "checks": found_again,
        "consistency": consistency,
        "spatial": spatial,
        "full_scale": full_scale(problem, estimate, consistency["learned_psf"]["product"]["q2n"]),
        "synthesis": synthesise(problem, solvers, options),
        "uncertainty": _uncertainty(problem, uncertainty),
        "integrity": _integrity(problem, estimate, bad_bands),
        "truth": None if truth is None else _against(problem, methods, truth),
        "stages": list(stages),
        "warnings": list(warnings),
    }
    figures = plain(figures)
    figures["warnings"] += own_warnings(figures)
    figures["verdict"] = plain(judge(figures, options))
    return Quality(figures, {name: values.float().cpu().numpy() for name, values in maps.items()})


def _consistency(problem: Problem, methods: Mapping[str, Cube]) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Part A: every method degraded by the learned and by a nominal PSF against the HSI.

    Also the product, degraded by the learned PSF, (n, h, w), and its spectral angles, degrees (h, w). The
    figures of a high scene are of `COMPARED_STRIPS` of it, the same for all methods; the angles of all.
    """
    ratio, sensor = problem.ratio, problem.sensor
    measured = problem.hsi_weight > 0
    seen = blur_down(problem.guide_weight[None], sensor.psf, ratio)[0] > 0.5
    # a learned PSF can flatter itself; the nominal one is fixed before anything was seen
    nominal = gaussian_psf(ratio, float(ratio)).to(sensor.psf)
    places, parts = {"learned_psf": measured}, {"inside": measured & seen, "outside": measured & ~seen}
    if all(bool(part.any()) for part in parts.values()):
        places |= parts
    rows = _compared_rows(places.values())
    hsi = problem.hsi[:, rows]
    part: dict[str, Any] = {"noise_angle_deg": _noise_angle(problem, measured), "nominal_psf": {}}
    part |= {place: dict.fromkeys(methods) if place in places else None for place in ("learned_psf", *parts)}

    def compared(name: str, psf: Tensor, where: Mapping[str, Tensor]) -> Tensor:
        hand_back_memory()
        low = degrade(methods[name], psf, ratio)  # (n, h, w)
        masks = {place: mask[rows] for place, mask in where.items()}
        for place, figures in _fidelity(low[:, rows], hsi, problem, masks).items():
            part[place][name] = figures
        return low

    for name in methods:  # of degraded products one is kept, the last: of a big scene each takes a gigabyte
        compared(name, nominal, {"nominal_psf": measured})
        if name != "product":
            compared(name, sensor.psf, places)
    low = compared("product", sensor.psf, places)
    for place, mask in parts.items():  # all of it is one of them
        if part[place] is None and bool(mask.any()):
            part[place] = part["learned_psf"]
    return part, low, metrics.sam_deg(low, problem.hsi, measured).map


def _compared_rows(places: Iterable[Tensor]) -> slice | Tensor:
    """Rows of the HSI on which products are compared: all, where some would miss most of a place (h, w)."""
    places = list(places)
    height, kept = len(places[0]), COMPARED_STRIPS * metrics.BLOCK
    if height <= kept:
        return slice(None)
    first = torch.linspace(0, height - metrics.BLOCK, COMPARED_STRIPS).round().long()
    rows = (first[:, None] + torch.arange(metrics.BLOCK)).flatten()
    shown = [float(mask[rows].sum() / mask.sum().clamp_min(1)) for mask in places]
    return rows if min(shown) >= LEAST_SHOWN * kept / height else slice(None)


def _fidelity(
    low: Tensor, hsi: Tensor, problem: Problem, places: Mapping[str, Tensor]
) -> dict[str, dict[str, Any]]:
    """A degraded product against the HSI, the same rows of both, in each place: masks of these rows.

    The first place is all others together.
    """
    whole, *parts = places.values()
    angles = metrics.sam_deg(low, hsi, whole)
    apart = [metrics.moments(low, hsi, mask) for mask in parts or [whole]]
    all_moments = [metrics.Moments.joined(apart), *apart] if parts else apart
    found = {}
    for (place, mask), moments in zip(places.items(), all_moments, strict=True):
        missed = moments.missed(problem.hsi_noise)
        noise = problem.hsi_noise.double() ** 2 / metrics.positive(moments.var_truth)
        found[place] = {
            "pixels": moments.count,
            "psnr_db": moments.psnr,
            "sam_deg": angle_figures(angles.within(mask)),
            "ergas": moments.ergas(problem.ratio),
            "q2n": metrics.q2n(low, hsi, mask),
            "bands": {
                "rmse": moments.rmse,
                "bias": moments.bias,
                "relative_bias": moments.relative_bias,
                "cc": moments.correlation,
                "missed": missed,
                "stands_out": checks.standing_out(missed, noise),
            },
        }
    return found


def _noise_angle(problem: Problem, mask: Tensor) -> float:
    """Median angle between a measured spectrum and its noise-free self, degrees."""
    length = problem.hsi.norm(dim=0)[mask]
    if not length.numel():
        return math.nan
    return math.degrees(math.atan2(float(problem.hsi_noise.norm()), float(length.median())))


def _checks(problem: Problem, cube: Cube, low: Tensor, brightness: Tensor) -> dict[str, Any]:
    """What is found out again, see `checks`."""
    subspace = checks.scene_subspace(problem)
    error = brightness.float().cpu()
    return {
        "sensors": checks.check_sensors(problem, subspace),
        "product_shift_px": checks.check_position(problem, low, subspace),
        "contrast": checks.check_contrast(problem, low, subspace),
        "noise": checks.check_noise(problem, cube),
        "part_gain": checks.part_gain(error, checks.brightness(problem.hsi, problem).cpu()),
        "seam_ratio": checks.seam_ratio(error),
    }


def _against(problem: Problem, methods: Mapping[str, Cube], truth: Tensor) -> dict[str, Any]:
    """Product and interpolation against the truth of a simulated pair."""
    ratio = problem.ratio
    keep = (problem.hsi_weight > 0).repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)
    border = min(ratio, (min(keep.shape) - 1) // 2)
    results = {
        name: score(cube.rows(0, cube.shape[1]), truth, keep, border, ratio) for name, cube in methods.items()
    }
    return {"border": border, "results": results}


def _uncertainty(problem: Problem, uncertainty: Uncertainty | None) -> dict[str, Any]:
    """How far the product may be off, band by band."""
    if uncertainty is None:
        why = (
            "it was not asked for (--products uncertainty), the method gives one answer only, "
            "or too few input pixels under the reference can be hidden"
        )
        return {"assessable": False, "reason": why}
    measured, ratio = problem.hsi_weight > 0, problem.ratio
    fine = measured.repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)
    return uncertainty.figures(problem.mean_spectrum, fine)


def _integrity(problem: Problem, estimate: Cube, bad_bands: Sequence[int]) -> dict[str, Any]:
    """Part F: completeness and logical consistency of the product, on evenly spread rows of a large one."""
    ratio = problem.ratio
    coarse = problem.hsi_weight > 0
    valid = coarse.repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)  # (H, W)
    rows = coarse.any(1).nonzero()[:, 0]
    rows = rows[:: max(len(rows) // COUNTED_ROWS, 1)]
    ranges = [(ratio * row, ratio * (row + 1)) for row in rows.tolist()]
    negative = not_finite = counted = 0
    below = torch.zeros(len(problem.hsi), dtype=torch.float64, device=problem.device)  # what is negative
    level = torch.zeros_like(below)
    for (start, stop), block in zip(ranges, estimate.parts(ranges), strict=True):
        keep = valid[start:stop]
        inside = block.flatten(1) if bool(keep.all()) else block[:, keep]
        counted += inside.numel()
        total = inside.sum(1).double()  # torch's sums in float64 take thirty times as long
        level += total
        if not bool(total.isfinite().all()):
            not_finite += int((~inside.isfinite()).sum())
        if inside.numel() and not float(inside.min()) >= 0:
            negative += int((inside < 0).sum())
            below -= inside.clamp_max(0).sum(1).double()
    bare = (problem.guide_weight <= 0) & valid
    input_negative, input_below, input_level = (torch.zeros_like(below) for _ in range(3))
    for band, image in enumerate(problem.hsi):
        measured = image[rows][coarse[rows]].double()
        input_negative[band] = (measured < 0).double().mean()
        input_below[band], input_level[band] = -measured.clamp_max(0).sum(), measured.sum()
    return {
        "nodata_pct": 100 * float(1 - valid.double().mean()),
        "negative_pct": 100 * negative / counted if counted else None,
        "negative_input_pct": 100 * float(input_negative.mean()) if counted else None,
        "negative_weight_pct": _weight_pct(below, level),
        "negative_weight_input_pct": _weight_pct(input_below, input_level),
        "not_finite": not_finite,
        "bad_bands": list(bad_bands),
        "inferred_bands": int((~problem.sensor.seen).sum()),
        "without_guide_pct": 100 * float(bare.sum()) / max(1, int(valid.sum())),
    }


def _weight_pct(below: Tensor, level: Tensor) -> float:
    """How much brighter the bands would be without their negative values, mean over bands, percent."""
    return 100 * metrics.band_mean(below / metrics.positive(level + below))
