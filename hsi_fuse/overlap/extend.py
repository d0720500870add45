"""The fused product carried on over ground that the guide shows and the HSI does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from hsi_fuse.errors import SolveError
from hsi_fuse.overlap.colours import STRANGE, ColourModel, Pixels, learn, sharpened
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.sensors.sense import supported
from hsi_fuse.subspace import fill_nearest, upsample

BLOCK_PIXELS = 1 << 16
FOLDS = 4
LEAST_TAUGHT = 64
"""HSI pixels under the guide below which no spectra are inferred from its colours."""
SOLID = 0.99
"""Feather above which the product holds all of the guide's detail."""
FADE_HSI_PX = 3.0
"""How far what the model misses at the HSI's border is believed beyond it."""


class Kind(IntEnum):
    """What stands behind a pixel."""

    NOTHING = 0
    """No data."""
    FUSED = 1
    """HSI and guide."""
    INTERPOLATED = 2
    """The HSI alone."""
    INFERRED = 3
    """The guide alone: extrapolated."""
    REFUSED = 4
    """The guide shows a colour that was not seen with a spectrum: no data."""


@dataclass(frozen=True)
class Extension:
    """A product over a larger footprint.

    Attributes
    ----------
    estimate : Estimate
        On the footprint's grid (H, W), in the basis of the product that was carried on.
    kind : Tensor (H, W), uint8
        See `Kind`.
    covariance : Tensor (k, k)
        Of the error of inferred coefficients, from HSI pixels held out.
    doubt : Tensor (H, W)
        0 to 1: how far a colour lies from those that were taught.
    figures : mapping
        JSON-ready: shares of the kinds, and the held-out error beside that of a plane.
    """

    estimate: Estimate
    kind: Tensor
    covariance: Tensor
    doubt: Tensor
    figures: Mapping[str, object]

    def share(self, kind: Kind) -> float:
        """Share of the footprint's pixels that are of a kind."""
        return float((self.kind == kind).double().mean())

    @property
    def valid(self) -> Tensor:
        """Where there are values: (H, W), bool."""
        return (self.kind > Kind.NOTHING) & (self.kind < Kind.REFUSED)

    def sigma(self, start: int, stop: int) -> Tensor:
        """Standard deviation of inferred values, rows start..stop-1: (n, rows, W).

        The error of held-out HSI pixels, raised with the doubt. Not calibrated at fine pixels.
        """
        band = ((self.estimate.basis @ self.covariance) * self.estimate.basis).sum(1).clamp_min(0).sqrt()
        return band[:, None, None] / (1 - self.doubt[start:stop].clamp_max(STRANGE)).sqrt()


def extend(
    problem: Problem,
    product: Estimate,
    guide: Tensor,
    guide_weight: Tensor,
    origin: tuple[int, int],
    everywhere: bool,
) -> Extension:
    """Carry a product on over a footprint.

    A regression from colours to coefficients learns from fine pixels of the product that hold all of the
    guide's detail, and from the HSI's own spectra, sharpened and seen through the SRF. What it misses at the
    HSI's border is added beyond it and fades, so that no seam shows.

    Parameters
    ----------
    problem : Problem
    product : Estimate
        On the problem's grid.
    guide : Tensor (m, H, W), guide_weight : Tensor (H, W)
        The guide on the footprint's grid, seen as that of `problem`.
    origin : (int, int)
        Row and column, on the footprint's grid, of the problem's first fine pixel; may be negative.
    everywhere : bool
        Whether ground is wanted that only the HSI shows. Where it is not, the product need not fade to
        interpolation where the guide ends: there the model and the HSI take over.

    Raises
    ------
    SolveError
        Too little of the HSI lies under the guide.
    """
    ratio, psf = problem.ratio, problem.sensor.psf
    support = supported(problem.guide_weight, problem.hsi_weight, psf, ratio)
    if int(support.sum()) < LEAST_TAUGHT:
        raise SolveError(
            f"only {int(support.sum())} HSI pixels lie fully under the reference, inferring spectra outside "
            f"the HSI needs {LEAST_TAUGHT}: use --extent hsi"
        )
    low = coefficients_of(product, problem.hsi, problem.hsi_noise) * (problem.hsi_weight > 0)  # (k, h, w)
    soft = problem.fading
    known = (problem.hsi_weight > 0).repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)
    fold = strips(support)
    asked = Pixels(blur_down(problem.guide, psf, ratio)[:, support], low[:, support], fold[support])
    model, error = learn(_taught(problem, product, low, (soft > SOLID) & known, fold), asked, problem.seed)
    covariance = error @ error.T / error.shape[1]
    figures: dict[str, object] = {
        "held_out_pixels": error.shape[1],
        "over_linear_db": float(10 * torch.log10(_plane_errors(asked).square().sum() / error.square().sum())),
    }

    inside = product.coefficients
    if not everywhere:
        guess = predicted(model, problem.guide)
        missed = fill_nearest(low - blur_down(guess, psf, ratio), support.to(low))
        # the product fades over the feather; let it go before that
        weight = torch.where(problem.guide_weight > 0, (4 * soft - 3).clamp(0, 1), 1.0)
        inside = weight * inside + (1 - weight) * (guess + upsample(missed, ratio))
    shown = known & (problem.guide_weight > 0)
    rest = inside - predicted(model, problem.guide)
    canvas = _Canvas(guide_weight.shape, origin, problem.guide_weight.shape)
    coefficients, doubt = predicted(model, guide), doubts(model, guide)
    anywhere = canvas.paste(torch.zeros_like(guide_weight, dtype=torch.bool), shown)
    beyond = _faded(canvas.paste(torch.zeros_like(coefficients), rest), anywhere, ratio)
    coefficients = coefficients + beyond
    coefficients = canvas.paste(coefficients, inside, known)
    colour = guide_weight > 0
    kind = torch.where(colour, Kind.INFERRED, Kind.NOTHING).to(torch.uint8)
    kind[colour & (doubt > STRANGE)] = Kind.REFUSED
    own = torch.where(problem.guide_weight > 0, Kind.FUSED, Kind.INTERPOLATED).to(torch.uint8)
    kind = canvas.paste(kind, own, known)
    if not everywhere:
        kind[~colour] = Kind.NOTHING
    for each in Kind:
        figures[f"{each.name.lower()}_pct"] = 100 * float((kind == each).double().mean())
    estimate = Estimate(product.basis, product.mean, coefficients)
    return Extension(estimate, kind, covariance.to(low), doubt, figures)


def coefficients_of(estimate: Estimate, spectra: Tensor, noise: Tensor) -> Tensor:
    """Coefficients (k, ...) of spectra (n, ...) in an estimate's basis: least squares in noise units."""
    inverse = torch.linalg.pinv((estimate.basis / noise[:, None]).double())  # (k, n)
    away = (spectra.flatten(1) - estimate.mean[:, None]) / noise[:, None]
    return (inverse.to(away) @ away).reshape(-1, *spectra.shape[1:])


def predicted(model: ColourModel, guide: Tensor) -> Tensor:
    """What a model expects of an image (m, H, W): (k, H, W), in blocks of pixels."""
    parts = [model(part) for part in torch.split(guide.flatten(1), BLOCK_PIXELS, dim=1)]
    return torch.cat(parts, 1).reshape(-1, *guide.shape[1:])


def doubts(model: ColourModel, guide: Tensor) -> Tensor:
    """How far the colours of an image (m, H, W) lie from those that were taught: (H, W), 0 to 1."""
    parts = [model.doubt(part) for part in torch.split(guide.flatten(1), BLOCK_PIXELS, dim=1)]
    return torch.cat(parts).reshape(guide.shape[1:])


def _taught(problem: Problem, product: Estimate, low: Tensor, solid: Tensor, fold: Tensor) -> Pixels:
    """The HSI's own spectra, as they are and sharpened, and fine pixels of the product that are `solid`."""
    sensor, ratio, whole = problem.sensor, problem.ratio, problem.hsi_weight > 0
    mixing, level = sensor.srf @ product.basis, sensor.srf @ product.mean + sensor.offset
    pure = torch.cat([c[:, whole] for c in (low, sharpened(low, problem.hsi_weight))], 1)
    fine = fold.repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)
    return Pixels(
        torch.cat([mixing @ pure + level[:, None], problem.guide[:, solid]], 1),
        torch.cat([pure, product.coefficients[:, solid]], 1),
        torch.cat([fold[whole], fold[whole], fine[solid]]),
    )


def strips(support: Tensor) -> Tensor:
    """Strips of rows (h, w), numbered, that hold equally many pixels of the support (h, w), bool."""
    row = torch.arange(len(support), device=support.device)[:, None].expand(support.shape).contiguous()
    parts = torch.linspace(0, 1, FOLDS + 1, dtype=torch.float64, device=support.device)[1:-1]
    return torch.bucketize(row.double(), torch.quantile(row[support].double(), parts))


def _plane_errors(asked: Pixels) -> Tensor:
    """Errors (k, M) of the plane that fits the other parts best by least squares."""
    design, errors = torch.cat([asked.colours, torch.ones_like(asked.colours[:1])]).double(), []
    for part in sorted(set(asked.fold.tolist())):
        here = asked.fold == part
        wanted = asked.spectra.double()
        slopes = torch.linalg.lstsq(design[:, ~here].T, wanted[:, ~here].T).solution
        errors.append(slopes.T @ design[:, here] - wanted[:, here])
    return torch.cat(errors, 1)


class _Canvas:
    """Where the problem's fine grid lies on the footprint's."""

    def __init__(self, shape: torch.Size, origin: tuple[int, int], own: torch.Size) -> None:
        self.here: list[slice] = []
        self.there: list[slice] = []
        for size, start, length in zip(shape, origin, own, strict=True):
            first, last = max(start, 0), max(min(start + length, size), max(start, 0))
            self.here.append(slice(first, last))
            self.there.append(slice(first - start, last - start))

    def paste(self, image: Tensor, values: Tensor, where: Tensor | None = None) -> Tensor:
        """The image (..., H, W) of the footprint with values of the problem's grid on it, where wanted."""
        (rows, columns), (own_rows, own_columns) = self.here, self.there
        out, part = image.clone(), values[..., own_rows, own_columns]
        if where is not None:
            part = torch.where(where[own_rows, own_columns], part, out[..., rows, columns])
        out[..., rows, columns] = part
        return out


def _faded(rest: Tensor, known: Tensor, ratio: int) -> Tensor:
    """What was missed, (k, H, W), carried on from the nearest known pixels, smoothed and fading."""
    if not bool(known.any()):
        return torch.zeros_like(rest)
    away, (rows, columns) = ndimage.distance_transform_edt(~known.cpu().numpy(), return_indices=True)
    near = rest[:, torch.from_numpy(rows), torch.from_numpy(columns)]
    smooth = np.stack([ndimage.gaussian_filter(c, 0.5 * ratio, mode="nearest") for c in near.cpu().numpy()])
    fading = np.exp(-away / (FADE_HSI_PX * ratio))
    return torch.from_numpy((smooth * fading).astype(np.float32)).to(rest)
