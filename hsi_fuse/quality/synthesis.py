"""Part C of the assessment: every method repeated on the degraded pair, whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from hsi_fuse.errors import HsiFuseError
from hsi_fuse.problem import Estimate, Problem, window
from hsi_fuse.quality import metrics
from hsi_fuse.quality.lights import AssessOptions
from hsi_fuse.quality.plain import plain
from hsi_fuse.quality.reduced import reduce_problem, reduction_factor
from hsi_fuse.quality.verdict import baseline_wins

Solver = Callable[[Problem], Estimate]
MOST_HSI_PX = 192
"""Side of the middle of a scene that is degraded; of a larger one the rest would say the same."""


def synthesise(problem: Problem, solvers: Mapping[str, Solver], options: AssessOptions) -> dict[str, Any]:
    """Part C: every solver on the degraded pair against the HSI that was measured."""
    problem = middle(problem, MOST_HSI_PX)
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
        results[name] = plain(score(found.rows(0, found.shape[1]), pair.truth, pair.mask, border, factor))
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


def middle(problem: Problem, most: int) -> Problem:
    """The middle of a scene, at most so many HSI pixels a side."""
    sides = [(size, min(size, most)) for size in problem.hsi_weight.shape]
    return window(problem, *(((size - kept) // 2, (size + kept) // 2) for size, kept in sides))


def score(found: Tensor, truth: Tensor, mask: Tensor, border: int, ratio: int) -> dict[str, Any]:
    """A solution (n, H, W) against a known answer: the indices of the report."""
    moments = metrics.moments(found, truth, mask, border)
    return {
        "psnr_db": moments.psnr,
        "psnr_global_db": moments.psnr_global,
        "ssim": metrics.ssim(found, truth, mask, border),
        "sam_deg": angle_figures(metrics.sam_deg(found, truth, mask, border)),
        "ergas": moments.ergas(ratio),
        "uiqi": metrics.uiqi(found, truth, mask, border),
        "q2n": metrics.q2n(found, truth, mask, border),
    }


def angle_figures(angles: metrics.Angles) -> dict[str, float]:
    return {"mean": angles.mean, "median": angles.median, "p95": angles.p95}
