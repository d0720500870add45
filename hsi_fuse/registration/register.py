"""Find where the HSI's pixels lie in the guide: search, then refinement from coarse to fine.

Coordinates: HSI pixels and guide pixels, (column, row), corner-based (a pixel's centre is at +0.5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from affine import Affine

from hsi_fuse.errors import AlignmentError
from hsi_fuse.physics import gaussian_psf
from hsi_fuse.registration.evidence import Evidence
from hsi_fuse.registration.fit import Fitted, fit
from hsi_fuse.registration.prior import POLYNOMIALS
from hsi_fuse.registration.robust import information, robust_regression, student
from hsi_fuse.registration.search import Range, search
from hsi_fuse.registration.warp import Observer, Pair

CANDIDATES = 8
POOLED_SIDE = 40
"""Candidates are compared on an HSI pooled to at most so many pixels a side."""
TRIAL_RATIO = 4
WELL_SAID = 1.5
"""A score that leaves no doubt, nats: that of Gaussian errors of a twentieth of the variance."""
CURVED, LEAST_KEPT = 2, 4
"""Leading coefficients whose products stand for a bent response; coefficients that stay beside them."""
CLEARLY_MORE = 0.1
"""Nats that a place must say more by a curve than another that straight lines prefer."""
NEARLY, MOST_PLACES = 0.2, 5
"""Nats that a place may say less than the best and yet be right; places that are looked at more closely."""
PROMISING = 0.5
"""A best place that says less, nats, is hardly one; there is no choice to be made."""
ONE_PLACE = 1.0
"""(Pooled) HSI pixels at the corners."""
CLIP = 4.0
"""Robust standard deviations from a band's median to what is unusual."""
CLIPPED_BY = 1 << 22
"""Guide pixels that tell both."""
BLURS = (2.0, 1.0)
"""FWHM of the blur, (pooled) HSI pixels: while the mapping may be a pixel off, and then.

At the wider blur a wrong place can explain as much as the right one; at the narrower it cannot."""
MODELS = tuple(POLYNOMIALS)


@dataclass(frozen=True)
class RegisterOptions:
    """How the mapping is searched.

    Attributes
    ----------
    search_hsi_px : float
        Largest shift tried to each side of the place that the georeferencing claims, HSI pixels.
    search_deg, search_scale : float
        Largest rotation to each side, and magnification either way, tried about the georeferencing.
    free_scale : float
        Largest magnification either way that is tried where there is no georeferencing; rotation and shift
        are then free.
    free_overlap, least_overlap : float
        Fraction of the HSI's valid pixels that must lie under the guide, without and with georeferencing.
    model : str
        "affine", "projective", "similarity", "translation", or "none" (trust the start).
    local : bool
        Whether a smooth local displacement may follow, where the data ask for it.
    least_probability : float
        Of the guide showing this place (see `Evidence.probability`); below, it is refused. 0 insists.
    iterations : int
        Gauss-Newton steps for each level.
    tie_block_hsi_px : int
        Side of the blocks whose own shift is the tie point.
    """

    search_hsi_px: float = 12.0
    search_deg: float = 10.0
    search_scale: float = 1.05
    free_scale: float = 2.0
    free_overlap: float = 0.4
    least_overlap: float = 0.05
    model: str = "affine"
    local: bool = True
    least_probability: float = 0.7
    iterations: int = 20
    tie_block_hsi_px: int = 16

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise AlignmentError(f"align.model is {self.model!r}: choose one of {', '.join(MODELS)}")

    def refuses(self, evidence: Evidence) -> bool:
        """Whether a guide of such evidence is too improbable; never where nothing was fitted."""
        return evidence.probability < self.least_probability

    def reach_hsi_px(self, shape: tuple[int, int]) -> float:
        """How far beyond an HSI of (h, w) pixels the guide may be looked at, HSI pixels."""
        turn = float(np.sin(np.radians(min(self.search_deg, 90)))) + self.search_scale - 1
        return self.search_hsi_px + 6 + turn * max(shape) / 2

    def range(self, georeferenced: bool) -> Range:
        """What the search covers."""
        shift = self.search_hsi_px if georeferenced else None
        overlap = self.least_overlap if georeferenced else self.free_overlap
        if self.model == "translation":
            return Range(shift, 0.0, 1.0, overlap)
        if georeferenced:
            return Range(shift, self.search_deg, self.search_scale, overlap)
        return Range(shift, 180.0, self.free_scale, overlap)


def locate(pair: Pair, options: RegisterOptions, georeferenced: bool) -> list[Affine]:
    """The affines that may put the HSI where it lies in the guide, to a fraction of an HSI pixel; best first.

    The search's best candidates are each refined on the pooled pair; the one that says most of the guide over
    the largest overlap wins and is refined from coarse to fine. Where even that leaves much unexplained,
    clouds or a bent response may hide the right place: candidates are sought also with the guide's unusual
    values clipped, and by a curve in the HSI's leading coefficients; others that say nearly as much may be
    right too, and so may the georeferencing, which comes last then.

    Raises
    ------
    AlignmentError
        No overlap within the range.
    """
    factor = max(-(-max(pair.shape) // POOLED_SIDE), 1)
    trials, most = _all_trials(pair, factor, options, georeferenced)
    if not trials:
        raise AlignmentError("too little of the HSI lies under the reference to align them")
    apart = _apart(trials, pair.shape, factor)
    if most == 1 or apart[0].score <= PROMISING:
        return [_refined_to_full(pair, apart[0].mapping, factor, options.model)]
    close = [t for t in apart[:most] if t.score > apart[0].score - NEARLY]
    claimed = _Trial(-np.inf, pair.start * Affine.scale(factor))
    if georeferenced:
        close = _apart([*close, claimed], pair.shape, factor)
    return [_refined_to_full(pair, t.mapping, factor, options.model) for t in close]


def _all_trials(
    pair: Pair, factor: int, options: RegisterOptions, georeferenced: bool
) -> tuple[list[_Trial], int]:
    """Of the pair and, where that leaves a doubt, clipped and curved too; how many places may be right."""
    trials = _trials(pair, pair, factor, options, georeferenced)
    if max((t.score for t in trials), default=0.0) >= WELL_SAID:
        return trials, 1
    clipped = _clipped(pair)
    trials += _trials(clipped, pair, factor, options, georeferenced)
    # a bent response, or an inverted one, is no straight line of what the HSI sees
    curved = _curved(pair)
    judge = _observer(curved.pooled(factor), BLURS[-1])
    trials = [_judged(judge, t.mapping) for t in _apart(trials, pair.shape, factor)]
    for other in (curved, replace(curved, guide=clipped.guide)):
        bent = _trials(other, curved, factor, options, georeferenced)
        trials += [replace(t, score=t.score - CLEARLY_MORE) for t in bent]
    return trials, MOST_PLACES


def _refined_to_full(pair: Pair, mapping: Affine, factor: int, model: str) -> Affine:
    """From the pair pooled by a factor, halved again and again, to the pair itself."""
    base = mapping * Affine.scale(1 / factor)
    while factor > 1:
        factor = -(-factor // 2)
        base = _refined_at(pair.pooled(factor), base * Affine.scale(factor), model) * Affine.scale(1 / factor)
    return base


def _refined_at(pair: Pair, base: Affine, model: str) -> Affine:
    """One step of it; what it looks at, a blurred guide, is gone before the next."""
    return _as_affine(fit(_observer(pair, BLURS[1]), base, model, iterations=8, weigh=student))


@dataclass(frozen=True)
class _Trial:
    """A candidate after its own refinement.

    Attributes
    ----------
    score : float
        What it says of the guide, nats for each (pooled) pixel and band of the HSI.
    mapping : Affine
        Pooled HSI pixel -> guide pixel.
    """

    score: float
    mapping: Affine


def _trials(
    pair: Pair, judged: Pair, factor: int, options: RegisterOptions, georeferenced: bool
) -> list[_Trial]:
    """The search's candidates, each refined on the pooled pair and at last on the one that judges."""
    coarse, out = pair.pooled(factor), []
    judge = _observer(judged.pooled(factor), BLURS[-1])
    levels = [_observer(coarse, fwhm) for fwhm in BLURS]
    for candidate in search(pair, options.range(georeferenced), CANDIDATES):
        try:
            out.append(_refined(levels, judge, candidate.mapping * Affine.scale(factor), options.model))
        except AlignmentError:
            continue
    return out


def _apart(trials: list[_Trial], shape: tuple[int, int], factor: int) -> list[_Trial]:
    """The best of each place, best first; two are one where they lie within `ONE_PLACE`."""
    height, width = (side / factor for side in shape)
    corners = [(x, y) for x in (0.0, width) for y in (0.0, height)]
    kept: list[_Trial] = []
    for trial in sorted(trials, key=lambda t: -t.score):
        step = ~trial.mapping
        moves = ([np.subtract(step * (k.mapping * c), c) for c in corners] for k in kept)
        if all(float(np.hypot(*np.transpose(m)).max()) > ONE_PLACE for m in moves):
            kept.append(trial)
    return kept


def _curved(pair: Pair) -> Pair:
    """The pair with products of its leading coefficients in place of its last ones."""
    leading = pair.low[:CURVED]
    leading = leading / (leading * pair.low_weight).abs().amax((1, 2), keepdim=True).clamp_min(1e-30)
    first, second = torch.triu_indices(len(leading), len(leading))
    kept = max(len(pair.low) - len(first), LEAST_KEPT)
    return replace(pair, low=torch.cat([pair.low[:kept], leading[first] * leading[second]]))


def _clipped(pair: Pair) -> Pair:
    """The pair with each guide band's values clipped to what is usual there."""
    thin = slice(None, None, max(pair.guide_weight.numel() // CLIPPED_BY, 1))
    valid = pair.guide_weight.flatten()[thin] > 0
    guide = pair.guide.clone()
    for band in guide:
        usual = band.flatten()[thin][valid]
        centre = usual.median()
        reach = CLIP * 1.4826 * (usual - centre).abs().median()
        if reach > 0:
            band.clamp_(centre - reach, centre + reach)
    return replace(pair, guide=guide)


def _observer(pair: Pair, fwhm_px: float) -> Observer:
    return Observer(pair, gaussian_psf(TRIAL_RATIO, fwhm_px * TRIAL_RATIO), TRIAL_RATIO)


def _as_affine(fitted: Fitted) -> Affine:
    return fitted.base * fitted.shift.affine


def _refined(levels: list[Observer], judge: Observer, base: Affine, model: str) -> _Trial:
    """A trial mapping, refined by itself; the freest model only where it says more."""
    stiff = "translation" if model == "translation" else "similarity"
    for observer in levels:
        base = _step(observer, base, stiff)
    near, free = (_judged(judge, _step(judge, base, m)) for m in (stiff, model))
    return max(near, free, key=lambda t: t.score)


def _step(observer: Observer, base: Affine, model: str) -> Affine:
    return _as_affine(fit(observer, base, model, iterations=10, weigh=student))


def _judged(judge: Observer, mapping: Affine) -> _Trial:
    seen = judge.see(mapping)
    _, residual, _ = robust_regression(seen.values, judge.design, seen.support, student)
    count = max(float(seen.support.sum()), 1.0)
    freedom = max(count - len(judge.design), 1.0) / count
    says = information(seen.values, residual, seen.support) + 0.5 * float(np.log(freedom))
    return _Trial(says * count / len(judge.rows), mapping)
