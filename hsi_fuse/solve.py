"""Solvers of the linear model: priors and the MAP estimate in a subspace.

All work on coefficients of a noise-whitened subspace, so HSI noise is white with unit variance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hsi_fuse.errors import SolveError
from hsi_fuse.physics import blur_down, mix_bands
from hsi_fuse.precondition import Preconditioner
from hsi_fuse.problem import Problem
from hsi_fuse.sensors.sense import supported
from hsi_fuse.subspace import Subspace, fill_nearest, upsample
from hsi_fuse.system import System, conjugate_gradients, degree


def bonds(guide: Tensor, weight: Tensor, edge: float, step: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How strongly neighbours hold together, 0 to 1: weak across the guide's edges.

    The rational form of Perona and Malik (PAMI 1990).

    Parameters
    ----------
    guide : Tensor (m, H, W)
        Standardised bands.
    weight : Tensor (H, W)
        Differences into pixels without weight count as none.
    edge : float
        Difference at which a bond is halved, in RMS differences of the scene.
    step : Tensor (), optional
        Their mean square; default: that of this guide.

    Returns
    -------
    down : Tensor (H - 1, W)
    across : Tensor (H, W - 1)
    """
    down, across, pairs = _steps(guide, weight)
    typical = (edge**2 * ((down.sum() + across.sum()) / pairs if step is None else step)).clamp_min(1e-12)
    return 1 / (1 + down / typical), 1 / (1 + across / typical)


def _steps(guide: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean squared steps of bands (m, H, W) down (H - 1, W) and across (H, W - 1), and how many there are."""
    there = weight > 0
    down = ((guide[:, 1:] - guide[:, :-1]) ** 2).mean(0) * (there[1:] & there[:-1])
    across = ((guide[:, :, 1:] - guide[:, :, :-1]) ** 2).mean(0) * (there[:, 1:] & there[:, :-1])
    pairs = (there[1:] & there[:-1]).sum() + (there[:, 1:] & there[:, :-1]).sum()
    return down, across, pairs.clamp_min(1)


LEAST_CURVATURE = 1e-7
"""Share of the guide's largest curvature below which one is rounding: m bands see m directions only."""

LOOSEST = 1e6
"""Largest variance of a guess's error, in the HSI's noise variances.

A guess that is a thousand deviations off holds nothing back beside the data. Let it be looser still, and
single precision no longer tells what the HSI leaves open from the rounding of what it ties down.
"""


@dataclass(frozen=True)
class Prior:
    """What is expected before the data are asked: coefficients, and how far they may be off.

    Attributes
    ----------
    mean : Tensor (k, H, W)
        A guess; interpolation where there is no guide.
    covariance : Tensor (k, k)
        Of the coefficients' deviation from the mean, seen at HSI resolution.
    correction : Tensor (k, H, W)
        What the HSI says of that deviation, interpolated: where solvers start.
    texture : Texture or None
        Of the scene's guide; None: of the guide at hand.
    """

    mean: Tensor
    covariance: Tensor
    correction: Tensor
    texture: Texture | None = None


@dataclass(frozen=True)
class Texture:
    """Level and liveliness of a guide: what its values and its steps between neighbours are measured by.

    Attributes
    ----------
    centre, spread : Tensor (m,)
        Of each band.
    step : Tensor ()
        Mean squared step between neighbours, of bands with unit spread.
    """

    centre: Tensor
    spread: Tensor
    step: Tensor

    @classmethod
    def of(cls, guide: Tensor, weight: Tensor) -> Texture:
        """Of a guide (m, H, W) where it has weight (H, W)."""
        inside = guide[:, weight > 0]
        if inside.shape[1] < 2:
            none = torch.zeros_like(guide[:, 0, 0])
            return cls(none, none + 1, none.sum())
        centre, spread = inside.mean(1), inside.std(1).clamp_min(1e-12)
        down, across, pairs = _steps(standardise(guide, weight), weight)
        return cls(centre, spread, (down.sum() + across.sum()) / pairs)

    def scaled(self, guide: Tensor) -> Tensor:
        """A guide (m, H, W) about its centre, in units of its spread."""
        return (guide - self.centre[:, None, None]) / self.spread[:, None, None]


def standardise(guide: Tensor, weight: Tensor) -> Tensor:
    """Bring each guide band (m, H, W) to zero mean and unit spread over the pixels with weight."""
    inside = guide[:, weight > 0]
    if inside.shape[1] < 2:
        return torch.zeros_like(guide)
    return (guide - inside.mean(1)[:, None, None]) / inside.std(1).clamp_min(1e-12)[:, None, None]


def anchor(problem: Problem, low: Tensor, detail: Tensor, elsewhere: Tensor | None = None) -> Prior:
    """Make a prior of guessed coefficients: the guess where the guide is, interpolation elsewhere.

    Both are blended over `feather.REACH_HSI_PX`, so that no seam shows where the guide ends. How far the
    guess is off is read from the HSI.

    Parameters
    ----------
    low : Tensor (k, h, w)
        The HSI's coefficients, holes filled.
    detail : Tensor (k, H, W)
        The guess; its values where the guide has no weight are not used.
    elsewhere : Tensor (k, H, W), optional
        In place of interpolation: an estimate that has become it already where the guide ends. Blended with
        interpolation once more, it would lose the guide's texture far inside the guide.
    """
    ratio, psf = problem.ratio, problem.sensor.psf
    plain = upsample(low, ratio) if elsewhere is None else elsewhere
    guess = plain + problem.fading * (detail - plain)
    error = low - blur_down(guess, psf, ratio)
    support = supported(problem.guide_weight, problem.hsi_weight, psf, ratio)
    if not bool(support.any()):
        support = problem.hsi_weight > 0
    return Prior(guess, _covariance(error[:, support]), upsample(error, ratio))


def _covariance(values: Tensor) -> Tensor:
    """Second moment (k, k) of residuals (k, N); unit HSI noise sets the floor, `LOOSEST` the ceiling."""
    k, count = values.shape
    eye = torch.eye(k, dtype=torch.float64, device=values.device)
    if count == 0:
        return eye.to(values)
    moment = values.double() @ values.double().T / count + 1e-3 * eye
    if bool(moment.isfinite().all()) and float(moment.trace()) > LOOSEST:
        variances, directions = torch.linalg.eigh(moment)
        moment = (directions * variances.clamp(max=LOOSEST)) @ directions.T
    return moment.to(values)


@dataclass(frozen=True)
class MapOptions:
    """How the MAP system is set up and solved.

    Attributes
    ----------
    smooth : float
        Weight of the prior on the correction's differences between neighbours.
    damp : float
        Weight of the prior on the correction's size.
    edge : float
        Step of the guide, in its RMS step between neighbours, across which the correction is held half as
        firmly. What the HSI adds to the guess then spreads within an object and not as a halo around it.
    barely : float
        Variance of a guess's error at the HSI's resolution up to which it is left: noise alone makes it 1.
    iterations : int
    tolerance : float
        Root mean square error, in posterior standard deviations, at which conjugate gradients stop.
    """

    smooth: float = 1.0
    damp: float = 0.05
    edge: float = 0.3
    barely: float = 1.5
    iterations: int = 300
    tolerance: float = 7e-3


def solve_map(problem: Problem, subspace: Subspace, prior: Prior, options: MapOptions) -> tuple[Tensor, int]:
    """Maximum a posteriori coefficients (k, H, W) under Gaussian noise and prior; also the iterations used.

    Minimises, over A (S the prior's covariance, P its mean, E and c the subspace's basis and mean, L the
    guide's edge-aware graph Laplacian)

        |D B A - low|^2 + |R (E A + c) + o - Y|^2 / guide_noise^2 + <A - P, S^-1 (damp + smooth L) (A - P)>

    each data term under its weight. A - P is sought in the directions that are `correctable`. An HSI
    coefficient's variance is its noise plus (position error x gradient)^2: where the scene is steep,
    half-known positions make the HSI's values half-known, and believing them would ring. Where there is no
    guide the solution is the prior's mean, interpolation: deconvolution without a guide would ring too.

    Raises
    ------
    SolveError
        The system cannot be solved: guess, HSI and guide contradict each other beyond all numbers.
    """
    ratio, psf, sensor = problem.ratio, problem.sensor.psf, problem.sensor
    low = subspace.project(fill_nearest(problem.hsi, problem.hsi_weight))
    mixing = sensor.srf @ subspace.basis  # (m, k)
    known = sensor.offset + sensor.srf @ subspace.mean
    whitened = (mixing / problem.guide_noise[:, None] ** 2).T  # (k, m)
    values, change, back = correctable(*diagonalised(prior.covariance, whitened @ mixing), options.barely)
    weight = problem.fading
    if prior.texture is None:
        guide, step = standardise(problem.guide, problem.guide_weight), None
    else:
        guide, step = prior.texture.scaled(problem.guide), prior.texture.step
    down, across = bonds(guide, problem.guide_weight, options.edge, step)
    trust = blur_down(weight[None], psf, ratio)[0] * hsi_trust(problem, low)  # (k, h, w)
    change, back = change.to(low), back.to(low)
    system = System(
        psf,
        ratio,
        trust,
        change,
        values.to(low),
        weight,
        options.damp + options.smooth * degree(down, across),
        options.smooth * down,
        options.smooth * across,
    )
    missing = problem.guide - known[:, None, None] - mix_bands(prior.mean, mixing)  # (m, H, W)
    right = (weight * missing).flatten(1).T @ (whitened.T @ change)  # (H W, r)
    missing = trust * (low - blur_down(prior.mean, psf, ratio))  # (k, h, w)
    system.blur.add_up(missing.flatten(1).T @ change, right)
    # the unknowns are the correction in the basis `change`, which makes all but the HSI's term pixelwise
    start = prior.correction.flatten(1).T @ back.T
    correction, steps = conjugate_gradients(
        system,
        right.sub_(system(start)),
        Preconditioner.of(system),
        options.iterations,
        options.tolerance,
    )
    found = torch.addmm(prior.mean.flatten(1), change, correction.add_(start).T)
    return found.view_as(prior.mean), steps


def diagonalised(covariance: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
    """The basis (k, k) that makes a covariance (k, k) the identity and a curvature (k, k) diagonal.

    Returns
    -------
    values : Tensor (k,), float64
        The curvature in that basis.
    basis : Tensor (k, k), float64

    Raises
    ------
    SolveError
        The covariance is not positive definite, or either is not finite.
    """
    try:
        root = torch.linalg.cholesky(covariance.double())
        values, vectors = torch.linalg.eigh(root.T @ curvature.double() @ root)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # torch does not list it
        off, held = (float(matrix.diagonal().max().sqrt()) for matrix in (covariance, curvature))
        raise SolveError(
            f"the system of guess, HSI and guide cannot be solved: the guess is off the HSI by {off:.3g} "
            f"times its noise, and the guide holds it to {held:.3g} times its own. Are the responses "
            "(--srf, --guide-sensor) and the PSF those of this pair? Let them be learned, or correct them"
        ) from error
    return values, root @ vectors


def correctable(values: Tensor, basis: Tensor, barely: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of `diagonalised` the directions in which there is something to correct.

    Those that the guide sees, and, of the others, those in which the guess is off by more than `barely`. The
    rest, most of a large subspace, cost time in proportion to their number, and what a solver makes of them
    is the HSI's noise. One is always left.

    Returns
    -------
    values : Tensor (r,)
        0 for what the guide does not see.
    basis : Tensor (k, r)
    inverse : Tensor (r, k)
        From coefficients to these directions: rows of the inverse of all k.
    """
    seen = values > LEAST_CURVATURE * values.max()
    unseen = basis[:, ~seen]
    missed, turn = torch.linalg.eigh(unseen.T @ unseen)
    kept = missed > barely
    if not bool(kept.any() | seen.any()):
        kept[-1] = True
    whole = torch.cat([unseen @ turn, basis[:, seen]], 1)
    values = torch.cat([torch.zeros_like(missed[kept]), values[seen]])
    kept = torch.cat([kept, torch.ones_like(seen[seen])])
    return values, whole[:, kept], torch.linalg.inv(whole)[kept]


def reconcile(problem: Problem, subspace: Subspace) -> Problem:
    """Take off the guide what the HSI contradicts at its own resolution.

    Where the blurred guide differs from the SRF-mixed HSI by more than noise (haze, another date, a camera's
    tone curve, a colour that the SRF does not explain), the difference is interpolated and subtracted, so
    that the guide gives the detail and the HSI the level. Differences within the noise are left: they are
    shrunk as Wiener does, b^3 / (b^2 + variance).

    What the subspace leaves out of the scene, as much as the HSI's noise in each band, the guide sees too: it
    is added to the guide's noise. A guide without noise would else be fitted by coefficients of any size.
    """
    psf, ratio, sensor = problem.sensor.psf, problem.ratio, problem.sensor
    support = supported(problem.guide_weight, problem.hsi_weight, psf, ratio)
    if not bool(support.any()):
        return problem
    low = subspace.project(problem.hsi)
    known = sensor.offset + sensor.srf @ subspace.mean
    expected = torch.tensordot(sensor.srf @ subspace.basis, low, dims=1) + known[:, None, None]  # (m, h, w)
    bias = blur_down(fill_nearest(problem.guide, problem.guide_weight), psf, ratio) - expected
    # what noise alone may make of it: the guide's, and the HSI's (white in the subspace) seen through the SRF
    noise = problem.guide_noise**2 + ((sensor.srf @ subspace.basis) ** 2).sum(1)  # (m,)
    bias = bias**3 / (bias**2 + noise[:, None, None])
    level = upsample(fill_nearest(bias, support.to(bias)), ratio)
    guide = torch.where(problem.guide_weight > 0, problem.guide - level, 0.0)
    left_out = (sensor.srf**2 @ problem.hsi_noise**2).sqrt()  # (m,)
    return replace(problem, guide=guide, guide_noise=torch.hypot(problem.guide_noise, left_out))


def hsi_trust(problem: Problem, low: Tensor) -> Tensor:
    """Inverse variance of each HSI coefficient in units of its noise: (k, h, w), 0 without data."""
    return problem.hsi_weight / (1 + (problem.position_error * steepness(low)) ** 2)


def steepness(image: Tensor) -> Tensor:
    """Gradient magnitude between neighbours, (c, h, w) -> (c, h, w)."""
    rows, columns = torch.gradient(image, dim=(1, 2)) if min(image.shape[1:]) > 1 else (image * 0, image * 0)
    return torch.hypot(rows, columns)
