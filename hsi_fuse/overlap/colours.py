"""What spectra go with a colour: a regression from the guide's bands to the HSI's, and where to trust it.

A guide of few bands does not determine a spectrum, but a scene holds few materials: pixels whose spectrum and
colour are both known teach what to expect elsewhere. A plane carries on beyond the colours that were seen; a
Gaussian process carries what is not linear, and knows how far a colour lies from all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 2.0
"""Length of the process's correlation, in standard deviations of the colours."""
NOISES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Variance of what a colour does not say, in units of what the process may explain: to choose from."""
DOUBT_NOISE = 0.1
TREND_RIDGE = 1e-4
NODES, TAUGHT = 512, 16384
"""Most colours that span the process, and most pixels that it learns from."""
STRANGE = 0.5
"""Doubt above which a colour counts as outside of what was seen."""
SHARPER = 1.0


@dataclass(frozen=True)
class ColourModel:
    """A plane and a Gaussian process from colours (m bands) to spectra or coefficients of them (k).

    The process has zero mean about the plane and the covariance exp(-d^2 / (2 REACH^2)) at the distance d
    of two colours, whitened by the covariance of those that were taught (Rasmussen and Williams 2006, section
    2.7; the subset of regressors of section 8.3.1 where there are more pixels than `NODES`).

    Attributes
    ----------
    centre : Tensor (m,)
    whiten : Tensor (m, m)
        Colour less centre -> unit covariance.
    plane : Tensor (k, m)
    level : Tensor (k,)
    nodes : Tensor (p, m)
        Whitened colours.
    weights : Tensor (p, k)
    factor : Tensor (p, p)
        Cholesky factor of the nodes' covariance with noise.
    """

    centre: Tensor
    whiten: Tensor
    plane: Tensor
    level: Tensor
    nodes: Tensor
    weights: Tensor
    factor: Tensor

    @classmethod
    def of(cls, colours: Tensor, spectra: Tensor, noise: float = NOISES[0], seed: int = 0) -> ColourModel:
        """Learn from pixels: colours (m, N), spectra (k, N); `noise` as in `NOISES`."""
        return cls.of_each(colours, spectra, (noise,), seed)[0]

    @classmethod
    def of_each(
        cls, colours: Tensor, spectra: Tensor, noises: Sequence[float], seed: int = 0
    ) -> list[ColourModel]:
        """The same by several noises, of which only the last solve knows."""
        draw = torch.Generator().manual_seed(seed)
        some = torch.randperm(colours.shape[1], generator=draw)[:TAUGHT].to(colours.device)
        colours, spectra = colours[:, some].double(), spectra[:, some].double()
        centre, level = colours.mean(1), spectra.mean(1)
        away, wanted = colours - centre[:, None], spectra - level[:, None]
        covariance = away @ away.T / away.shape[1]
        covariance = covariance + TREND_RIDGE * covariance.diagonal().diag().clamp_min(1e-30)
        plane = torch.linalg.solve(covariance, away @ wanted.T / away.shape[1]).T
        whiten = torch.linalg.inv(torch.linalg.cholesky(covariance))
        places = (whiten @ away).T  # (N, m)
        nodes = _spread(places, NODES)
        across, among = _covariance(nodes, places), _covariance(nodes, nodes)
        eye = torch.eye(len(nodes), dtype=among.dtype, device=among.device)
        rest = (wanted - plane @ away).T
        gram, right, floor = across @ across.T, across @ rest, among + 1e-8 * eye
        factor = torch.linalg.cholesky(among + DOUBT_NOISE * eye)
        found = (torch.linalg.solve(gram + noise * floor, right) for noise in noises)
        return [cls(centre, whiten, plane, level, nodes, weights, factor) for weights in found]

    def __call__(self, colours: Tensor) -> Tensor:
        """Spectra (k, N) expected of colours (m, N)."""
        away = colours.double() - self.centre[:, None]
        near = _covariance((self.whiten @ away).T, self.nodes)  # (N, p)
        return (self.level[:, None] + self.plane @ away + (near @ self.weights).T).to(colours.dtype)

    def doubt(self, colours: Tensor) -> Tensor:
        """Share of the process's variance that the nodes leave open at colours (m, N): (N,), 0 to 1."""
        away = colours.double() - self.centre[:, None]
        near = _covariance(self.nodes, (self.whiten @ away).T)  # (p, N)
        known = torch.linalg.solve_triangular(self.factor, near, upper=False).square().sum(0)
        return (1 - known).clamp(0, 1).to(colours.dtype)


@dataclass(frozen=True)
class Pixels:
    """Pixels whose colour and spectrum are known.

    Attributes
    ----------
    colours : Tensor (m, N)
    spectra : Tensor (k, N)
    fold : Tensor (N,), int
        Part of the scene that a pixel lies in, from 0 on.
    """

    colours: Tensor
    spectra: Tensor
    fold: Tensor


def learn(taught: Pixels, asked: Pixels, seed: int = 0) -> tuple[ColourModel, Tensor]:
    """The model whose noise predicts each part of the scene best from the others.

    Returns
    -------
    ColourModel
        Of all that is taught.
    Tensor (k, M), float64
        Errors of the pixels asked, each by a model that was taught nothing of its part.
    """
    errors: list[list[Tensor]] = [[] for _ in NOISES]
    for part in sorted(set(asked.fold.tolist())):
        here, others = asked.fold == part, taught.fold != part
        models = ColourModel.of_each(taught.colours[:, others], taught.spectra[:, others], NOISES, seed)
        for each, model in zip(errors, models, strict=True):
            each.append((model(asked.colours[:, here]) - asked.spectra[:, here]).double())
    left, noise = min(
        zip((torch.cat(each, 1) for each in errors), NOISES, strict=True),
        key=lambda each: float(each[0].square().mean()),
    )
    return ColourModel.of(taught.colours, taught.spectra, noise, seed), left


def sharpened(image: Tensor, weight: Tensor) -> Tensor:
    """An image (c, h, w) with each pixel pushed away from the mean of its surroundings.

    What the PSF mixed into an HSI pixel comes from around it, so purer spectra lie in that direction, on the
    line of linear mixing: a stand-in for the spectra of fine pixels, which reach beyond those of the HSI.
    """
    both = torch.cat([image * weight, weight[None]])[None]
    near = F.avg_pool2d(F.pad(both, [1, 1, 1, 1], mode="replicate"), 3, stride=1)[0]
    return image + SHARPER * weight * (image - near[:-1] / near[-1:].clamp_min(1e-6))


def _covariance(one: Tensor, other: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(one, other).square() / (2 * REACH**2))


def _spread(places: Tensor, most: int) -> Tensor:
    """At most so many of the places (N, m), each the farthest from those before it."""
    if len(places) <= most:
        return places
    chosen = [0]
    distance = (places - places[0]).square().sum(1)
    for _ in range(most - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (places - places[chosen[-1]]).square().sum(1))
    return places[chosen]
