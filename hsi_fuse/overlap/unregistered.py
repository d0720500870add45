"""The guide made hyperspectral on its own grid, without registration: colours, then block terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hsi_fuse.overlap.blockterm import BlockTermOptions, BlockTerms, Factors, unmix
from hsi_fuse.overlap.colours import ColourModel, Pixels, learn, sharpened
from hsi_fuse.overlap.extend import doubts, predicted, strips
from hsi_fuse.problem import Estimate, NativeGuide, OnStep, Problem, silent
from hsi_fuse.subspace import fill_nearest, learn_subspace
from hsi_fuse.vca import vertices

LARGEST = 24
"""Most dimensions of the scene's subspace."""
WARM_UP = 20
"""Iterations after which the starts are compared."""


@dataclass(frozen=True)
class UnmixOptions:
    """How an unregistered guide is unmixed.

    Attributes
    ----------
    endmembers : int
    starts : int
        Sets of vertices to begin with; the one of least objective goes on.
    weights : tuple of float
        What the weights of low rank, edges and sum-to-one are multiplied with: that is taken which leaves the
        least of both images unexplained, as the paper chooses.
    share : float
        Weight of the mixture in the product; the rest is what colours alone tell. Either errs elsewhere.
    terms : BlockTermOptions
    """

    endmembers: int = 12
    starts: int = 3
    weights: tuple[float, ...] = (0.1, 1.0, 10.0)
    share: float = 0.5
    terms: BlockTermOptions = field(default_factory=BlockTermOptions)


@dataclass(frozen=True)
class Unmixed:
    """An unregistered pair in materials.

    Attributes
    ----------
    estimate : Estimate
        The guide made hyperspectral, on its own grid.
    doubt : Tensor (H, W)
        How far a pixel's colour lies from those of the HSI, 0 to 1: see `colours.STRANGE`.
    spectra : Tensor (n, K)
        Endmembers.
    coarse : Tensor (K, h, w), fine : Tensor (K, H, W)
        Abundances in the HSI and in the guide.
    figures : mapping
        JSON-ready.
    history : tuple of float
        The objective.
    """

    estimate: Estimate
    doubt: Tensor
    spectra: Tensor
    coarse: Tensor
    fine: Tensor
    figures: Mapping[str, object]
    history: tuple[float, ...]


def unmix_unregistered(
    hsi: Tensor,
    hsi_weight: Tensor,
    guide: Tensor,
    guide_weight: Tensor,
    srf: Tensor,
    options: UnmixOptions | None = None,
    seed: int = 0,
    on_step: Callable[[int, int, float], None] = lambda step, steps, value: None,
) -> Unmixed:
    """Unmix an HSI (n, h, w) and a guide (m, H, W) that share materials and need share no pixel.

    A regression from colours to spectra is learned from the HSI's own spectra, as they are and sharpened,
    seen through the SRF. What it expects of the guide anchors the block-term unmixing, whose endmembers start
    at vertices of the HSI. Both answers are averaged.

    Parameters
    ----------
    guide
        Without offset, in the units of srf @ hsi.
    srf : Tensor (m, n)
    """
    options = options or UnmixOptions()
    subspace = learn_subspace(hsi, hsi_weight, LARGEST)
    low = subspace.project(fill_nearest(hsi, hsi_weight))  # (k, h, w)
    model, error = _colours(low, hsi_weight, srf @ subspace.basis, srf @ subspace.mean, seed)
    guess = predicted(model, guide)
    there = (guide_weight > 0).to(hsi)
    expected = torch.tensordot(subspace.basis, guess, dims=1) + subspace.mean[:, None, None]

    peak = hsi[:, hsi_weight > 0].max().clamp_min(1e-30)
    valid, gain = (hsi_weight > 0).to(hsi), srf.sum(1).clamp_min(1e-30)
    seen = BlockTerms(
        hsi * valid / peak,
        valid,
        guide
        * there
        / (peak * gain[:, None, None]),  # in the HSI's units, so that neither outweighs the other
        there,
        srf / gain[:, None],
        expected.clamp_min(0) * there / peak,
    )
    pure = (
        torch.tensordot(subspace.basis, sharpened(low, valid), dims=1) + subspace.mean[:, None, None]
    ) / peak
    starts = []
    for start in range(options.starts):
        corners = vertices(pure[:, valid > 0], options.endmembers, seed + start)
        starts.append(_begin(pure[:, valid > 0][:, corners].clamp_min(1e-4), seen))
    warm_up = min(WARM_UP, options.terms.iterations)
    weight, terms = _weighted(starts[0], seen, options, warm_up)
    begun = [unmix(each, seen, replace(terms, iterations=warm_up)) for each in starts]
    factors, values = min(begun, key=lambda each: each[1][-1])
    left = replace(terms, iterations=max(terms.iterations - warm_up, 0))
    factors, more = unmix(factors, seen, left, on_step)

    ends = subspace.project(peak * factors.spectra)  # (k, K)
    zero = subspace.project(torch.zeros_like(peak * factors.spectra[:, :1]))
    mixed = torch.tensordot(ends - zero, factors.fine, dims=1) + zero[:, :, None]
    coefficients = options.share * mixed + (1 - options.share) * guess
    angle = least_angle_deg(srf @ factors.spectra)
    figures: dict[str, object] = {
        "endmembers": factors.spectra.shape[1],
        "objective": (*values, *more[1:])[-1],
        "weights": weight,
        "start_objectives": [each[1][-1] for each in begun],
        "least_angle_deg": angle,
        "held_out_error": float(error.square().mean().sqrt()),
    }
    return Unmixed(
        Estimate(subspace.basis, subspace.mean, coefficients),
        doubts(model, guide),
        peak * factors.spectra,
        factors.coarse,
        factors.fine,
        figures,
        (*values, *more[1:]),
    )


def unmix_problem(problem: Problem, options: UnmixOptions | None = None, on_step: OnStep = silent) -> Unmixed:
    """`unmix_unregistered` of a problem: its native guide, or the registered one where it has none."""
    native = problem.native or NativeGuide(problem.guide, problem.guide_weight)
    return unmix_unregistered(
        problem.hsi,
        problem.hsi_weight,
        native.values - problem.sensor.offset[:, None, None],
        native.weight,
        problem.sensor.srf,
        options,
        problem.seed,
        lambda step, steps, value: on_step("unmix", step, steps, value),
    )


def _colours(
    low: Tensor, weight: Tensor, mixing: Tensor, level: Tensor, seed: int
) -> tuple[ColourModel, Tensor]:
    """The regression from colours to coefficients, and its errors (k, N) at HSI pixels held out."""
    whole = weight > 0
    fold = strips(whole)[whole]
    plain, pure = low[:, whole], sharpened(low, weight)[:, whole]
    both = torch.cat([plain, pure], 1)
    taught = Pixels(mixing @ both + level[:, None], both, torch.cat([fold, fold]))
    asked = Pixels(mixing @ pure + level[:, None], pure, fold)
    return learn(taught, asked, seed)


def _weighted(
    start: Factors, seen: BlockTerms, options: UnmixOptions, iterations: int
) -> tuple[float, BlockTermOptions]:
    """The factor and the weights that leave the least of both images unexplained after some iterations."""
    tried = []
    for factor in options.weights:
        own = options.terms
        terms = replace(
            own,
            low_rank=factor * own.low_rank,
            edges=factor * own.edges,
            sum_to_one=factor * own.sum_to_one,
        )
        found, _ = unmix(start, seen, replace(terms, iterations=iterations)) if iterations else (start, ())
        hsi = torch.tensordot(found.spectra, found.coarse, dims=1) - seen.hsi
        guide = torch.tensordot(seen.srf @ found.spectra, found.fine, dims=1) - seen.guide
        missed = [
            float((weight * off).square().mean() / (weight * image).square().mean().clamp_min(1e-30))
            for weight, off, image in (
                (seen.hsi_weight, hsi, seen.hsi),
                (seen.guide_weight, guide, seen.guide),
            )
        ]
        tried.append((missed[0] * missed[1], factor, terms))  # the sum of both in dB
    _, factor, terms = min(tried, key=lambda each: each[0])
    return factor, terms


def _begin(spectra: Tensor, seen: BlockTerms) -> Factors:
    """Abundances of given endmembers in both images: non-negative least squares."""
    fine = _abundances(spectra, seen.expected.flatten(1)).reshape(-1, *seen.guide_weight.shape)
    coarse = _abundances(spectra, seen.hsi.flatten(1)).reshape(-1, *seen.hsi_weight.shape)
    return Factors(spectra, coarse * seen.hsi_weight, fine * seen.guide_weight)


def _abundances(spectra: Tensor, wanted: Tensor, sum_to_one: float = 1e-2, steps: int = 200) -> Tensor:
    """Non-negative least squares by accelerated projected gradients, softly summing to one: (K, N)."""
    gram = spectra.T @ spectra + sum_to_one
    right = spectra.T @ wanted + sum_to_one
    length = 1 / torch.linalg.eigvalsh(gram)[-1]
    found = ahead = torch.full_like(right, 1 / len(right))
    momentum = 1.0
    for _ in range(steps):
        following = (ahead - length * (gram @ ahead - right)).clamp_min(0)
        faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = following + (momentum - 1) / faster * (following - found)
        found, momentum = following, faster
    return found


def least_angle_deg(colours: Tensor) -> float:
    """The smallest angle between the colours (m, K) of two endmembers, degrees."""
    unit = colours.double() / colours.double().norm(dim=0).clamp_min(1e-30)
    cosine = (unit.T @ unit - 2 * torch.eye(unit.shape[1], dtype=unit.dtype, device=unit.device)).max()
    return float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))))
