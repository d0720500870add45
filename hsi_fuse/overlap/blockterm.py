"""Coupled block-term unmixing: two images of one scene's materials that nobody has registered.

Both images are made of the same materials, X = C S_H and Y = R C S_M, each abundance map a matrix of low
rank. No pixel of one needs a partner in the other. What a guide of few bands leaves open about a pixel is
settled by what spectra are expected of its colours, by low rank and by few edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from hsi_fuse.errors import SolveError

MOST_GROWTH = 1e-12
"""What rounding may add to the objective in a step, relative."""


@dataclass(frozen=True)
class BlockTermOptions:
    """Weights of the objective. Data are in units of the HSI's peak, so that weights carry over.

    Attributes
    ----------
    low_rank : float
        Weight of the Schatten-p power of every abundance map.
    schatten : float
        p of it, 0 < p <= 1.
    rank_floor : float
        tau: squared singular values far below it count as none.
    edges : float
        Weight of the differences between neighbours in the guide's abundance maps.
    edge_power : float
        q of it, 0 < q <= 1.
    edge_floor : float
        epsilon: squared differences far below it count as none.
    sum_to_one : float
    energy : float
        Weight of the endmembers' energy.
    anchor : float
        Weight of the distance between the guide's spectra and those of `BlockTerms.expected`.
    iterations : int
    tolerance : float
        Relative decrease of the objective in an iteration at which it stops.
    """

    low_rank: float = 5e-3
    schatten: float = 0.5
    rank_floor: float = 1.0
    edges: float = 1e-4
    edge_power: float = 0.5
    edge_floor: float = 1e-3
    sum_to_one: float = 1e-3
    energy: float = 0.1
    anchor: float = 0.01
    iterations: int = 80
    tolerance: float = 1e-5


@dataclass(frozen=True)
class BlockTerms:
    """What is observed.

    Attributes
    ----------
    hsi : Tensor (n, h, w)
        X.
    hsi_weight : Tensor (h, w)
        0 or 1.
    guide : Tensor (m, H, W)
        Y, without offset, on a grid of its own.
    guide_weight : Tensor (H, W)
        0 or 1.
    srf : Tensor (m, n)
        R.
    expected : Tensor (n, H, W)
        What the guide's spectra are expected to be.
    """

    hsi: Tensor
    hsi_weight: Tensor
    guide: Tensor
    guide_weight: Tensor
    srf: Tensor
    expected: Tensor


@dataclass(frozen=True)
class Factors:
    """The unknowns, all non-negative.

    Attributes
    ----------
    spectra : Tensor (n, K)
        C, the endmembers.
    coarse : Tensor (K, h, w)
        S_H, abundances in the HSI.
    fine : Tensor (K, H, W)
        S_M, abundances in the guide.
    """

    spectra: Tensor
    coarse: Tensor
    fine: Tensor


def objective(at: Factors, seen: BlockTerms, options: BlockTermOptions) -> Tensor:
    """What is minimised (Song, Shrestha and Fu 2026, eq. 8, as METHODS section 2 states it).

    1/2 |X - C S_H|^2 + 1/2 |Y - R C S_M|^2 + anchor / 2 |C S_M - expected|^2
    + low_rank sum_k [phi(S_M,k) + phi(S_H,k)] + edges sum_k psi(S_M,k)
    + sum_to_one / 2 (|1'S_M - 1|^2 + |1'S_H - 1|^2) + energy / 2 |C|^2

    with phi(S) = tr (S S' + tau I)^(p/2), a power of the matrix on the map's shorter side, and psi(S) the
    sum of (d^2 + epsilon)^(q/2) over the differences d between neighbours, along rows and columns. Sums run
    over pixels with weight. Deviation: the anchor, without which many mixtures explain a colour and the start
    decides.
    """
    o = options
    low = _mix(at.spectra, at.coarse)
    high = _mix(at.spectra, at.fine)
    value = 0.5 * (seen.hsi_weight * (seen.hsi - low) ** 2).sum()
    value = value + 0.5 * (seen.guide_weight * (seen.guide - _mix(seen.srf, high)) ** 2).sum()
    value = value + 0.5 * o.anchor * (seen.guide_weight * (high - seen.expected) ** 2).sum()
    for maps, weight in ((at.coarse, seen.hsi_weight), (at.fine, seen.guide_weight)):
        value = value + o.low_rank * _schatten(maps, o)
        value = value + 0.5 * o.sum_to_one * (weight * (maps.sum(0) - 1) ** 2).sum()
    for d in (at.fine.diff(dim=1), at.fine.diff(dim=2)):
        value = value + o.edges * ((d**2 + o.edge_floor) ** (o.edge_power / 2)).sum()
    return value + 0.5 * o.energy * (at.spectra**2).sum()


def gradient(at: Factors, seen: BlockTerms, options: BlockTermOptions, block: str) -> tuple[Tensor, float]:
    """The objective's gradient along one of the factors, and a Lipschitz constant of it."""
    if block == "spectra":
        return _along_spectra(at, seen, options)
    return _along_coarse(at, seen, options) if block == "coarse" else _along_fine(at, seen, options)


def unmix(
    start: Factors,
    seen: BlockTerms,
    options: BlockTermOptions,
    on_step: Callable[[int, int, float], None] = lambda step, steps, value: None,
) -> tuple[Factors, tuple[float, ...]]:
    """Minimise by projected gradient steps of length 1 / L, factor after factor.

    Each step starts from the factor extrapolated along its last move (Nesterov); where that would raise the
    objective it starts from the factor itself, from which a step of 1 / L cannot.

    Returns
    -------
    Factors
    tuple of float
        The objective at the start and after every iteration; it never rises.

    Raises
    ------
    SolveError
        The data or the start hold values that are not finite.
    """
    at, before, momentum = start, start, 1.0
    values = [float(objective(at, seen, options))]
    if values[0] != values[0] or values[0] == float("inf"):
        raise SolveError("block-term unmixing: the images or their start hold values that are not finite")
    for step in range(1, options.iterations + 1):
        faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        pull = (momentum - 1) / faster
        last, value = at, values[-1]
        for block in (field.name for field in fields(Factors)):
            here: Tensor = getattr(at, block)
            ahead = here + pull * (here - getattr(before, block))
            trial = _stepped(replace(at, **{block: ahead}), seen, options, block)
            risen = float(objective(trial, seen, options))
            if risen > value:
                trial = _stepped(at, seen, options, block)
                risen = float(objective(trial, seen, options))
                faster = 1.0
                if risen > value * (1 + MOST_GROWTH):  # rounding alone
                    trial, risen = at, value
            at, value = trial, min(risen, value)
        before, momentum = last, faster
        values.append(value)
        on_step(step, options.iterations, value)
        if values[-2] - value <= options.tolerance * abs(value):
            break
    return at, tuple(values)


def _stepped(at: Factors, seen: BlockTerms, options: BlockTermOptions, block: str) -> Factors:
    slope, steepest = gradient(at, seen, options, block)
    return replace(at, **{block: (getattr(at, block) - slope / steepest).clamp_min(0)})


def _along_spectra(at: Factors, seen: BlockTerms, options: BlockTermOptions) -> tuple[Tensor, float]:
    low = seen.hsi_weight * (_mix(at.spectra, at.coarse) - seen.hsi)
    high = _mix(at.spectra, at.fine)
    guide = seen.guide_weight * (_mix(seen.srf, high) - seen.guide)
    away = seen.guide_weight * (high - seen.expected)
    slope = _outer(low, at.coarse) + options.energy * at.spectra
    slope = slope + _outer(_mix(seen.srf.T, guide) + options.anchor * away, at.fine)
    coarse, fine = (
        _largest(_outer(w * maps, maps))
        for w, maps in ((seen.hsi_weight, at.coarse), (seen.guide_weight, at.fine))
    )
    return slope, coarse + (_largest(seen.srf @ seen.srf.T) + options.anchor) * fine + options.energy


def _along_coarse(at: Factors, seen: BlockTerms, options: BlockTermOptions) -> tuple[Tensor, float]:
    away = seen.hsi_weight * (_mix(at.spectra, at.coarse) - seen.hsi)
    slope, steepest = _common(at.coarse, seen.hsi_weight, options)
    return _mix(at.spectra.T, away) + slope, _largest(at.spectra.T @ at.spectra) + steepest


def _along_fine(at: Factors, seen: BlockTerms, options: BlockTermOptions) -> tuple[Tensor, float]:
    o, mixed = options, seen.srf @ at.spectra  # (m, K)
    guide = seen.guide_weight * (_mix(mixed, at.fine) - seen.guide)
    away = seen.guide_weight * (_mix(at.spectra, at.fine) - seen.expected)
    slope, steepest = _common(at.fine, seen.guide_weight, options)
    slope = slope + _mix(mixed.T, guide) + o.anchor * _mix(at.spectra.T, away)
    for axis in (1, 2):
        d = at.fine.diff(dim=axis)
        pull = o.edges * o.edge_power * (d**2 + o.edge_floor) ** (o.edge_power / 2 - 1) * d
        length = at.fine.shape[axis]
        slope.narrow(axis, 1, length - 1).add_(pull)
        slope.narrow(axis, 0, length - 1).sub_(pull)
    # eight: the largest eigenvalue of the grid's Laplacian
    rough = 8 * o.edges * o.edge_power * o.edge_floor ** (o.edge_power / 2 - 1)
    return slope, _largest(mixed.T @ mixed + o.anchor * at.spectra.T @ at.spectra) + steepest + rough


def _common(maps: Tensor, weight: Tensor, options: BlockTermOptions) -> tuple[Tensor, float]:
    """Gradient and Lipschitz constant of low rank and sum-to-one."""
    o = options
    slope = o.sum_to_one * (weight * (maps.sum(0) - 1)).expand_as(maps)
    values, vectors = torch.linalg.eigh(_square(maps).double())  # (K, r), (K, r, r)
    power = (values.clamp_min(0) + o.rank_floor) ** (o.schatten / 2 - 1)
    flat = ((vectors * power[:, None, :]) @ vectors.mT).to(maps)  # (S S' + tau I)^(p/2 - 1)
    ranked = flat @ maps if maps.shape[1] <= maps.shape[2] else maps @ flat
    # the slope of s (s^2 + tau)^(p/2 - 1) is largest at s = 0
    steepest = o.low_rank * o.schatten * o.rank_floor ** (o.schatten / 2 - 1)
    return slope + o.low_rank * o.schatten * ranked, steepest + o.sum_to_one * len(maps)


def _schatten(maps: Tensor, options: BlockTermOptions) -> Tensor:
    """tr (S S' + tau I)^(p/2) of each of the maps (K, H, W), on the shorter side, summed."""
    values = torch.linalg.eigvalsh(_square(maps).double()).clamp_min(0)  # in single it may not converge
    return ((values + options.rank_floor) ** (options.schatten / 2)).sum().to(maps)


def _square(maps: Tensor) -> Tensor:
    """S S' or S' S of each map, whichever is smaller: they have the same eigenvalues but for zeros."""
    return maps @ maps.mT if maps.shape[1] <= maps.shape[2] else maps.mT @ maps


def _mix(matrix: Tensor, maps: Tensor) -> Tensor:
    """(b, K), (K, H, W) -> (b, H, W)."""
    return torch.tensordot(matrix, maps, dims=1)


def _outer(image: Tensor, maps: Tensor) -> Tensor:
    """(b, H, W), (K, H, W) -> (b, K)."""
    return image.flatten(1) @ maps.flatten(1).T


def _largest(matrix: Tensor) -> float:
    """The largest eigenvalue of a symmetric matrix."""
    return float(torch.linalg.eigvalsh(matrix.double())[-1])
