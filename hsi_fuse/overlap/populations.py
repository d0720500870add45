"""The guide's spectral responses where no pixel of it is registered: from what both images hold as a whole.

Two images of one area hold about the same materials in about the same shares, so a guide seen coarsely has
the distribution of the HSI seen through the right responses. With partial overlap "about" decides: responses
of a known kind are only chosen and scaled by it, and fitted freely (and less surely) where none is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.errors import ReadError
from hsi_fuse.sensors.srf import MS4, PAN, RGB, Edges, srf_rows

LAYOUTS: dict[int, tuple[Edges, ...]] = {
    1: (PAN,),
    3: (RGB, RGB[::-1]),
    4: (MS4, (*RGB[::-1], MS4[3])),
}
"""What guides of so many bands mostly are."""
SAME_UNITS = 1.5
"""Largest ratio of medians at which both images are taken to be in one unit."""
LEVELS = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
DIRECTIONS, STEPS, STARTS, CANDIDATES = 64, 300, 6, 12
CENTRES, WIDTHS = 41, (0.02, 0.05, 0.1)
WIDTH_LIMITS = (0.01, 0.2)
"""Of a response, as a share of the HSI's bands."""


@dataclass(frozen=True)
class Guessed:
    """Responses found without registration.

    Attributes
    ----------
    srf : Tensor (m, n)
        Carries the gain.
    kind : str
        "given", "named" by the guide's wavelengths, "usual" for so many bands, or "matched" freely.
    distance : float
        Mean difference of the quantiles of both populations, in standard deviations of the guide.
    """

    srf: Tensor
    kind: str
    distance: float


def guess_responses(
    spectra: Tensor,
    colours: Tensor,
    wavelengths_nm: NDArray[np.float64] | None,
    guide_nm: NDArray[np.float64] | None = None,
    guide_fwhm_nm: NDArray[np.float64] | None = None,
    given: Tensor | None = None,
) -> Guessed:
    """Responses (m, n) by which the HSI's pixels become a population like the guide's.

    Nominal ones where the wavelengths and widths of both images' bands are known; else those that guides of
    so many bands usually have, or that their wavelengths suggest, whichever fits better; else freely matched
    flat-topped ones. Nominal responses keep gain 1 where the medians say that both images are in one unit,
    and take the ratio of the medians where not.

    Parameters
    ----------
    spectra : Tensor (n, N)
        The HSI's valid pixels.
    colours : Tensor (m, M)
        The guide's valid pixels, blurred to about the HSI's resolution.
    wavelengths_nm : ndarray (n,) or None
    guide_nm, guide_fwhm_nm : ndarray (m,) or None
    given : Tensor (m, n) or None
        Responses that are known, in any unit.
    """
    x, y = spectra.double(), colours.double()
    scale = _Populations(x, y)
    found = []
    for kind, rows in _nominal(len(y), wavelengths_nm, guide_nm, guide_fwhm_nm, given):
        rows = rows.to(x) / rows.to(x).sum(1, keepdim=True).clamp_min(1e-30)
        ratio = y.median(1).values / (rows @ x).median(1).values.clamp_min(1e-30)
        if float(ratio.log().abs().max()) > np.log(SAME_UNITS):
            rows = rows * ratio.clamp_min(1e-6)[:, None]
        found.append(Guessed(rows.to(spectra), kind, float(scale.distance(rows))))
    if not found:
        free = _matched(x, scale)
        found = [replace(free, srf=free.srf.to(spectra))]
    return min(found, key=lambda each: each.distance)


def _nominal(
    bands: int,
    wavelengths_nm: NDArray[np.float64] | None,
    guide_nm: NDArray[np.float64] | None,
    guide_fwhm_nm: NDArray[np.float64] | None,
    given: Tensor | None,
) -> Iterator[tuple[str, Tensor]]:
    """Responses of a known kind, and which."""
    if given is not None:
        yield "given", given
    if given is not None or wavelengths_nm is None:
        return
    named = _named(wavelengths_nm, guide_nm, guide_fwhm_nm)
    kinds = [("named", named)] if named else []
    if guide_fwhm_nm is None:  # a name without a width may mean anything: the usual ones compete
        kinds += [("usual", edges) for edges in LAYOUTS.get(bands, ())]
    for kind, edges in kinds:
        with suppress(ReadError):  # the HSI does not see that far
            yield kind, srf_rows(wavelengths_nm, edges)


def _named(
    wavelengths_nm: NDArray[np.float64] | None,
    guide_nm: NDArray[np.float64] | None,
    guide_fwhm_nm: NDArray[np.float64] | None,
) -> Edges:
    """Edges of the guide's bands where it names them; a band without a width reaches halfway to the next."""
    if wavelengths_nm is None or guide_nm is None:
        return ()
    if guide_fwhm_nm is not None:
        return tuple(
            (c - w / 2, c + w / 2) for c, w in zip(guide_nm.tolist(), guide_fwhm_nm.tolist(), strict=True)
        )
    gaps = np.abs(guide_nm[:, None] - guide_nm) + np.diag(np.full(len(guide_nm), np.inf))
    reach = np.minimum(gaps.min(1), 100.0) / 2
    return tuple((c - r, c + r) for c, r in zip(guide_nm.tolist(), reach.tolist(), strict=True))


class _Populations:
    """Both populations along random directions of the guide's whitened colours."""

    def __init__(self, spectra: Tensor, colours: Tensor) -> None:
        self.spectra, self.colours = spectra, colours
        self.mean = colours.mean(1, keepdim=True)
        spread = torch.cov(colours).reshape(len(colours), -1)
        spread = spread + 1e-6 * spread.diagonal().mean() * torch.eye(len(colours), dtype=spread.dtype)
        draw = torch.Generator().manual_seed(0)
        lines = torch.randn(DIRECTIONS, len(colours), generator=draw, dtype=torch.float64)
        lines = lines / lines.norm(dim=1, keepdim=True)
        self.lines = lines.to(colours) @ torch.linalg.inv(torch.linalg.cholesky(spread))
        self.wanted = quantiles(self.lines @ (colours - self.mean))

    def distance(self, srf: Tensor) -> Tensor:
        """Mean distance of the quantiles: the sliced Wasserstein distance (Rabin et al., SSVM 2011)."""
        seen = quantiles(self.lines @ (srf @ self.spectra - self.mean))
        return (seen - self.wanted).abs().mean()


def quantiles(values: Tensor) -> Tensor:
    """The 1st to 99th percentile of each row: (d, N) -> (d, 99)."""
    return torch.quantile(values, LEVELS.to(values), dim=1).T


def _flat_topped(bands: int, centre: Tensor, width: Tensor, gain: Tensor) -> Tensor:
    """Responses (m, n); centre and width as shares of the bands, width and gain as logarithms."""
    at = torch.linspace(0, 1, bands, dtype=centre.dtype, device=centre.device)
    rows = torch.exp(-np.log(2) * ((at - centre[:, None]) / width.exp()[:, None]) ** 4)
    return gain.exp()[:, None] * rows / rows.sum(1, keepdim=True).clamp_min(1e-30)


@dataclass(frozen=True)
class _Start:
    centre: Tensor
    width: Tensor
    gain: Tensor


def _matched(spectra: Tensor, populations: _Populations) -> Guessed:
    """Flat-topped responses of free centre, width and gain that bring both populations closest."""
    found = []
    for start in _starts(spectra, populations.colours):
        free = [p.clone().requires_grad_() for p in (start.centre, start.width, start.gain)]
        optimiser = torch.optim.Adam(
            [{"params": [p], "lr": rate} for p, rate in zip(free, (0.01, 0.03, 0.01), strict=True)]
        )
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for _ in range(STEPS):
            optimiser.zero_grad()
            populations.distance(_flat_topped(len(spectra), *free)).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            falling.step()
            with torch.no_grad():
                free[1].clamp_(*np.log(WIDTH_LIMITS))
        srf = _flat_topped(len(spectra), *(p.detach() for p in free))
        found.append(Guessed(srf, "matched", float(populations.distance(srf))))
    return min(found, key=lambda each: each.distance)


def _starts(spectra: Tensor, colours: Tensor) -> Sequence[_Start]:
    """Responses whose bands have the guide's quantiles, up to a gain, and its correlations."""
    centres = torch.linspace(0, 1, CENTRES, dtype=spectra.dtype).repeat_interleave(len(WIDTHS))
    widths = torch.tensor(WIDTHS, dtype=spectra.dtype).log().repeat(CENTRES)
    tried = _flat_topped(len(spectra), centres, widths, torch.zeros_like(centres)) @ spectra  # (c, N)
    shapes, wanted = quantiles(tried), quantiles(colours)
    gains = (wanted @ shapes.T).clamp_min(1e-30) / shapes.square().sum(1)  # (m, c)
    off = (gains[:, :, None] * shapes - wanted[:, None]).square().mean(2) / colours.var(1)[:, None]
    best = off.argsort(1)[:, :CANDIDATES]
    chosen = torch.tensor(list(product(range(CANDIDATES), repeat=min(len(colours), 4))))
    bands = range(chosen.shape[1])  # of more than four, the others start at their own best
    picked = best[:, 0].repeat(len(chosen), 1)
    for band in bands:
        picked[:, band] = best[band][chosen[:, band]]
    apart, seen = (_fisher(torch.corrcoef(v)) for v in (tried, colours))
    score = sum(off[band][picked[:, band]] for band in bands)
    for i in bands:
        for j in range(i):
            score = score + 0.3 * (apart[picked[:, i], picked[:, j]] - seen[i, j]) ** 2
    kept: list[Tensor] = []
    for row in picked[torch.as_tensor(score).argsort()]:
        if all(float((centres[row] - centres[other]).abs().max()) > 0.06 for other in kept):
            kept.append(row)
        if len(kept) == STARTS:
            break
    own = torch.arange(len(colours))
    return [_Start(centres[row], widths[row], gains[own, row].log()) for row in kept]


def _fisher(correlation: Tensor) -> Tensor:
    """Correlations on the scale on which their errors are alike."""
    square = correlation.reshape(1, 1) if correlation.ndim == 0 else correlation  # of one band
    return torch.atanh(square.clamp(-0.9999, 0.9999))
