"""Quality without truth: what the product, the input and the reference say about each other.

`Quality.figures` is JSON-ready (null where a figure cannot be formed; lists hold one entry a band):

    schema         1
    verdict        light green|amber|red; sentences [3];
                   lights [{name, what, unit, light, value, green, amber}]
    scene          ratio, bands, hsi_size, target_size [rows, columns], wavelengths_nm or null, hsi_noise
    sensor         srf [guide band][band], offset, psf [row][column], psf_fwhm_px [rows, columns], found {}
    registration   what the aligner measured, passed through: rrmse_px or error_px sets the light, or
                   probability (that the reference shows this place; null where nothing was searched).
                   It rests on information (nats for each pixel and band) and tied (share of blocks that
                   find their own place), and unexplained is a share of the reference's variance: all of
                   pixels held out of the fit. guide_response [{exponent, black, span}]: a guide band is
                   linear as |span| x^exponent, x = (value - black) / span; span < 0: inverted
    consistency    (A, Wald's first property) noise_angle_deg: the median angle that noise alone makes;
                   learned_psf, nominal_psf, inside, outside the reference's footprint:
                   {product: Fidelity, interpolation: Fidelity} or null where there are no such pixels
    spatial        (B) assessable; sigma_px, pixels, product and interpolation:
                   {r2, rmse, cc_highpass}, or reason
    synthesis      (C, Wald's second and third) assessable; factor, size, border, baseline_wins,
                   results {name: Score or {failed}}, or reason
    uncertainty    assessable; sigma (mean over the scene, HSI units) [], share (their mean, of the
                   mean value), gain, hidden_pixels, within_two_sigma (share of hidden values), or reason
    integrity      (F) nodata_pct, negative_pct, negative_input_pct, not_finite, bad_bands [], inferred_bands
                   (how many the reference does not see), without_guide_pct
    stages         what each stage reported, passed through
    warnings       [text]

    Fidelity       pixels, psnr_db, sam_deg {mean, median, p95}, ergas, q2n,
                   bands {rmse, bias, relative_bias, cc}
    Score          psnr_db, psnr_global_db, ssim, sam_deg {mean, median, p95}, ergas, uiqi, q2n

`Quality.maps`: sam_deg (h, w), the consistency angle in degrees, NaN without data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse import metrics
from hsi_fuse.errors import HsiFuseError
from hsi_fuse.physics import blur_down, gaussian_psf, mix_bands
from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.reduced import degrade, reduce_problem, reduction_factor
from hsi_fuse.uncertainty import Uncertainty
from hsi_fuse.verdict import AssessOptions, baseline_wins, judge, own_warnings

__all__ = ["AssessOptions", "Quality", "Solver", "assess", "plain"]

Solver = Callable[[Problem], Estimate]


@dataclass(frozen=True)
class Quality:
    """The assessment: `figures` JSON-ready, `maps` arrays (h, w) by name."""

    figures: dict[str, Any]
    maps: dict[str, NDArray[np.float32]]


def assess(
    problem: Problem,
    estimate: Estimate,
    interpolation: Estimate,
    *,
    solvers: Mapping[str, Solver],
    registration: Mapping[str, Any] | None = None,
    wavelengths_nm: Sequence[float] | None = None,
    bad_bands: Sequence[int] = (),
    stages: Sequence[Mapping[str, Any]] = (),
    warnings: Sequence[str] = (),
    uncertainty: Uncertainty | None = None,
    options: AssessOptions | None = None,
) -> Quality:
    """Assess a product without knowing the truth.

    Parameters
    ----------
    problem : Problem
        What was solved.
    estimate : Estimate
        The product.
    interpolation : Estimate
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
    """
    options = options or AssessOptions()
    methods = {"product": estimate, "interpolation": interpolation}
    consistency, sam_map = _consistency(problem, methods)
    figures: dict[str, Any] = {
        "schema": 1,
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
        "consistency": consistency,
        "spatial": _spatial(problem, methods),
        "synthesis": _synthesis(problem, solvers, options),
        "uncertainty": _uncertainty(problem, uncertainty),
        "integrity": _integrity(problem, estimate, bad_bands, options),
        "stages": list(stages),
        "warnings": list(warnings),
    }
    figures = plain(figures)
    figures["warnings"] += own_warnings(figures)
    figures["verdict"] = plain(judge(figures, options))
    return Quality(figures, {"sam_deg": sam_map})


def plain(value: Any) -> Any:
    """The same in JSON's types: tensors as lists, six significant digits, null for what is not finite."""
    if isinstance(value, Tensor):
        return plain(value.detach().cpu().tolist())
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Sequence | set | frozenset):
        return [plain(v) for v in value]
    return str(value)


def _consistency(
    problem: Problem, methods: Mapping[str, Estimate]
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Part A: every method degraded by the learned and by a nominal PSF against the HSI."""
    ratio, sensor = problem.ratio, problem.sensor
    measured = problem.hsi_weight > 0
    seen = blur_down(problem.guide_weight[None], sensor.psf, ratio)[0] > 0.5
    # a learned PSF can flatter itself; the nominal one is fixed before anything was seen
    nominal = gaussian_psf(ratio, float(ratio)).to(sensor.psf)
    part: dict[str, Any] = {"noise_angle_deg": _noise_angle(problem, measured)}
    for name in ("learned_psf", "nominal_psf", "inside", "outside"):
        part[name] = {}
    sam_map = np.full(problem.hsi_weight.shape, np.nan, np.float32)
    for name, estimate in methods.items():
        low = degrade(estimate, sensor.psf, ratio)  # (n, h, w)
        part["learned_psf"][name], angles = _fidelity(low, problem, measured)
        if name == "product":
            sam_map = angles.map.float().cpu().numpy()
        for place, mask in (("inside", measured & seen), ("outside", measured & ~seen)):
            part[place][name], _ = _fidelity(low, problem, mask)
        part["nominal_psf"][name], _ = _fidelity(degrade(estimate, nominal, ratio), problem, measured)
    for place in ("inside", "outside"):
        if not part[place]["product"]["pixels"]:
            part[place] = None
    return part, sam_map


def _fidelity(low: Tensor, problem: Problem, mask: Tensor) -> tuple[dict[str, Any], metrics.Angles]:
    """A degraded product against the HSI."""
    moments = metrics.moments(low, problem.hsi, mask)
    angles = metrics.sam_deg(low, problem.hsi, mask)
    figures = {
        "pixels": moments.count,
        "psnr_db": moments.psnr,
        "sam_deg": _angles(angles),
        "ergas": moments.ergas(problem.ratio),
        "q2n": metrics.q2n(low, problem.hsi, mask),
        "bands": {
            "rmse": moments.rmse,
            "bias": moments.bias,
            "relative_bias": moments.relative_bias,
            "cc": moments.correlation,
        },
    }
    return figures, angles


def _angles(angles: metrics.Angles) -> dict[str, float]:
    return {"mean": angles.mean, "median": angles.median, "p95": angles.p95}


def _noise_angle(problem: Problem, mask: Tensor) -> float:
    """Median angle between a measured spectrum and its noise-free self, degrees."""
    length = problem.hsi.norm(dim=0)[mask]
    if not length.numel():
        return math.nan
    return math.degrees(math.atan2(float(problem.hsi_noise.norm()), float(length.median())))


def _spatial(problem: Problem, methods: Mapping[str, Estimate]) -> dict[str, Any]:
    """Part B: every method seen through the SRF against the guide."""
    mask = problem.guide_weight > 0
    if not bool(mask.any()):
        return {"assessable": False, "reason": "the reference covers no pixel"}
    sigma = problem.ratio / 2  # passes what is finer than about an HSI pixel
    part: dict[str, Any] = {"assessable": True, "sigma_px": sigma, "pixels": int(mask.sum())}
    sensor = problem.sensor
    for name, estimate in methods.items():
        level = sensor.srf @ estimate.mean + sensor.offset
        basis = sensor.srf @ estimate.basis  # R (basis A + mean) = (R basis) A + R mean: m bands, not n
        seen = mix_bands(estimate.coefficients, basis) + level[:, None, None]  # (m, H, W)
        moments = metrics.moments(seen, problem.guide, mask)
        detail = metrics.high_pass_correlation(seen, problem.guide, sigma, mask)
        part[name] = {"r2": moments.r2, "rmse": moments.rmse, "cc_highpass": detail}
    return part


def _synthesis(problem: Problem, solvers: Mapping[str, Solver], options: AssessOptions) -> dict[str, Any]:
    """Part C: every solver on the degraded pair against the HSI that was measured."""
    factor = reduction_factor(problem, options.smallest)
    if "product" not in solvers:
        return {"assessable": False, "reason": "the method that made the product is not at hand"}
    if factor is None:
        height, width = problem.hsi_weight.shape
        why = f"{height} x {width} input pixels are too few to degrade to {options.smallest} a side"
        return {"assessable": False, "reason": "the ratio is 1" if problem.ratio == 1 else why}
    pair = reduce_problem(problem, factor)
    if not bool((pair.problem.hsi_weight > 0).any()):
        return {"assessable": False, "reason": "no degraded input pixel has data"}
    # mirrored edges are guesses: drop them, unless that leaves too little
    border = max(0, min(factor, (min(pair.mask.shape) - options.smallest) // 2))
    results: dict[str, dict[str, Any]] = {}
    for name, solve in solvers.items():
        try:
            found = solve(pair.problem)
        except HsiFuseError as error:
            results[name] = {"failed": str(error)}
            continue
        results[name] = plain(_score(found.rows(0, found.shape[1]), pair.truth, pair.mask, border, factor))
    if "failed" in results["product"]:
        reason = f"the method failed on the degraded pair ({results['product']['failed']})"
        return {"assessable": False, "reason": reason}
    return {
        "assessable": True,
        "factor": factor,
        "size": pair.truth.shape[1:],
        "border": border,
        "baseline_wins": baseline_wins(results, options),
        "results": results,
    }


def _score(found: Tensor, truth: Tensor, mask: Tensor, border: int, ratio: int) -> dict[str, Any]:
    """A solution against a known answer."""
    moments = metrics.moments(found, truth, mask, border)
    return {
        "psnr_db": moments.psnr,
        "psnr_global_db": moments.psnr_global,
        "ssim": metrics.ssim(found, truth, mask, border),
        "sam_deg": _angles(metrics.sam_deg(found, truth, mask, border)),
        "ergas": moments.ergas(ratio),
        "uiqi": metrics.uiqi(found, truth, mask, border),
        "q2n": metrics.q2n(found, truth, mask, border),
    }


def _uncertainty(problem: Problem, uncertainty: Uncertainty | None) -> dict[str, Any]:
    """How far the product may be off, band by band."""
    if uncertainty is None:
        why = (
            "it was not asked for (--products uncertainty), the method gives one answer only, "
            "or too few input pixels under the reference can be hidden"
        )
        return {"assessable": False, "reason": why}
    measured, ratio = problem.hsi_weight > 0, problem.ratio
    level = problem.hsi[:, measured].mean(1)
    return uncertainty.figures(level, measured.repeat_interleave(ratio, 0).repeat_interleave(ratio, 1))


def _integrity(
    problem: Problem, estimate: Estimate, bad_bands: Sequence[int], options: AssessOptions
) -> dict[str, Any]:
    """Part F: completeness and logical consistency of the product, block by block."""
    ratio = problem.ratio
    coarse = problem.hsi_weight > 0
    valid = coarse.repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)  # (H, W)
    bands, height, width = estimate.shape
    step = max(1, options.block_values // (bands * width))
    negative = not_finite = 0
    for start in range(0, height, step):
        block = estimate.rows(start, min(start + step, height))
        keep = valid[start : start + step]
        negative += int(((block < 0) & keep).sum())
        not_finite += int((~block.isfinite() & keep).sum())
    values = bands * int(valid.sum())
    bare = (problem.guide_weight <= 0) & valid
    return {
        "nodata_pct": 100 * float(1 - valid.double().mean()),
        "negative_pct": 100 * negative / values if values else None,
        "negative_input_pct": 100 * float((problem.hsi[:, coarse] < 0).double().mean()) if values else None,
        "not_finite": not_finite,
        "bad_bands": list(bad_bands),
        "inferred_bands": int((~problem.sensor.seen).sum()),
        "without_guide_pct": 100 * float(bare.sum()) / max(1, int(valid.sum())),
    }
