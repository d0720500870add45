"""Stage `map`: subspace MAP estimate with a regression prior. The quick answer, and every network's floor."""

from __future__ import annotations

from dataclasses import dataclass

from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult
from hsi_fuse.solve import MapOptions, reconcile, regression_prior, solve_map
from hsi_fuse.subspace import problem_subspace


@dataclass(frozen=True)
class Map(MapOptions):
    """Quadratic regression guide -> coefficients as prior, solved with the data terms by CG.

    In the family of Wei, Dobigeon and Tourneret (FUSE, TIP 2015): the same Gaussian model in a
    subspace. Deviations:
    the prior mean is regressed from the guide instead of interpolated, the prior acts on the correction's
    gradient, and weights exclude what has no data, so the system is solved by conjugate gradients.

    Attributes
    ----------
    dimensions : int
        Most dimensions the subspace may have.
    """

    dimensions: int = 24

    def __call__(self, problem: Problem, start: Estimate, on_step: OnStep) -> StageResult:
        """Solve `problem`; `start` is not used, the problem is convex."""
        subspace = problem_subspace(problem, self.dimensions)
        on_step("map", 0, 2, 0.0)
        problem = reconcile(problem, subspace)
        prior = regression_prior(problem, subspace)
        on_step("map", 1, 2, 0.0)
        coefficients, steps = solve_map(problem, subspace, prior, self)
        on_step("map", 2, 2, 0.0)
        estimate = Estimate(subspace.basis, subspace.mean, coefficients)
        return StageResult(estimate, {"kept": True, "dimensions": subspace.size, "cg_iterations": steps})
