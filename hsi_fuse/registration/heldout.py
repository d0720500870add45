"""What pixels that took no part in a fit say of a mapping: of its choice, its error, and of the place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from affine import Affine
from torch import Tensor

from hsi_fuse.registration.evidence import Evidence
from hsi_fuse.registration.fit import Mapped
from hsi_fuse.registration.patchwork import Patchwork
from hsi_fuse.registration.register import RegisterOptions
from hsi_fuse.registration.state import State, fit_mapping
from hsi_fuse.registration.ties import Prediction, checkerboard, predicted, tie_points
from hsi_fuse.registration.warp import Array, Observer, Pair

PIXELS_PER_DIMENSION = 4
"""Of those of a colour that lie under the guide."""
HALF_ITERATIONS = 6
CLEARLY_WORSE = 2.0
"""Standard errors."""
MOST_DEVIATIONS = 4000


@dataclass(frozen=True)
class Half:
    """A mapping of the pixels of one colour of a checkerboard.

    Attributes
    ----------
    unseen : Tensor (h, w)
        The others.
    pair : Pair
        With no more coefficients than either colour's pixels can tell apart.
    fitted : Mapped
    prediction : Prediction
        Of them.
    """

    unseen: Tensor
    pair: Pair
    fitted: Mapped
    prediction: Prediction


def halves_of(
    state: State, psf: Tensor, ratio: int, options: RegisterOptions, fitted: Mapped | None = None
) -> list[Half]:
    """Mappings of either colour; the one given instead where the options allow none but the start.

    Of a large image a sample of patches says enough (`patchwork.sample_of`).
    """
    state = state.sample
    out, colour = [], checkerboard(state.raw.shape, state.raw.low.device)
    looked = Observer(state.pair, psf, ratio)
    under = looked.see(state.base, state.shift).support
    first = colour.cpu().numpy()[looked.rows.astype(int), looked.columns.astype(int)]
    few = int(min(under[first].sum(), under[~first].sum())) // PIXELS_PER_DIMENSION
    pair = replace(looked.pair, low=looked.pair.low[: max(few, 1)])
    both = Observer(pair, psf, ratio, image=looked.image)
    for unseen in (colour, ~colour):
        others = Observer(pair, psf, ratio, ~unseen, image=looked.image)
        found = fitted
        if found is None or options.model != "none":
            found = fit_mapping(others, state, options.model, options.local, HALF_ITERATIONS, sampled=True)
        out.append(Half(unseen, pair, found, predicted(both, unseen, found)))
    return out


def asked_again(halves: Sequence[Half], state: State, psf: Tensor, ratio: int) -> list[Half]:
    """The same mappings, asked about the HSI pixels that a state leaves in, as far as they were fitted."""
    out = []
    for half in halves:
        weight = state.raw.low_weight
        if isinstance(half.fitted.shift, Patchwork):
            weight = weight * torch.from_numpy(half.fitted.shift.pixels).to(weight)
        pair = replace(half.pair, low_weight=weight)
        prediction = predicted(Observer(pair, psf, ratio), half.unseen, half.fitted)
        out.append(replace(half, pair=pair, prediction=prediction))
    return out


def information_of(halves: Sequence[Half]) -> float:
    """What both halves say of the pixels they have not seen, nats for each pixel and band."""
    return float(np.mean([half.prediction.information for half in halves]))


def clearly_worse(bent: list[Half], plain: list[Half]) -> bool:
    """Whether mappings with a local field say clearly less of pixels they have not seen than without.

    The evidence takes what no mapping explains for noise; where it is a change, or a camera's processing, a
    lively field can follow that instead.
    """
    errors = [np.stack([half.prediction.errors for half in halves]) for halves in (bent, plain)]
    more = errors[0] - errors[1]
    more = more[np.isfinite(more)]
    doubt = float(more.std() / np.sqrt(max(len(more), 1)))
    return len(more) > 0 and float(more.mean()) > CLEARLY_WORSE * doubt


def held_out(
    state: State, fitted: Mapped, psf: Tensor, ratio: int, options: RegisterOptions
) -> tuple[Array, Array, Evidence]:
    """What pixels that took no part say: tie points of the start and of the fit, evidence for the latter."""
    before, after, blocks, halves = [], [], 0, halves_of(state, psf, ratio, options, fitted)
    for half in halves:
        ties, of = tie_points(half.pair, half.fitted, psf, ratio, half.unseen, options.tie_block_hsi_px)
        after.append(ties)
        blocks += of
        before.append(_seen_from(state.raw.start, half.fitted, ties))
    told = [half.prediction for half in halves]
    evidence = Evidence(
        float(np.prod([p.left for p in told]) ** 0.5),
        float(np.mean([p.information for p in told])),
        sum(map(len, after)),
        blocks,
        _deviation(Observer(state.whole, psf, ratio), fitted, options),
    )
    return np.concatenate(before), np.concatenate(after), evidence


def _seen_from(start: Affine, fitted: Mapped, ties: Array) -> Array:
    """Tie points of a mapping as those of the start: the shift that the start would have needed."""
    places = ties[:, :2].T
    moves = [fitted.shift(places[0, i : i + 1], places[1, i : i + 1])[:, 0, 0] for i in range(len(ties))]
    there = places + np.array(moves).reshape(-1, 2).T + ties[:, 2:].T
    back = ~start * fitted.base
    a, b, c, d, e, f = back[:6]
    seen = np.stack([a * there[0] + b * there[1] + c, d * there[0] + e * there[1] + f])
    return np.concatenate([places, seen - places]).T


def _deviation(observer: Observer, fitted: Mapped, options: RegisterOptions) -> float:
    """RMS standard error of the places under the guide, HSI pixels."""
    if options.model == "none":
        return float("nan")
    under = observer.see(fitted.base, fitted.shift).support > 0
    thin = max(int(under.sum()) // MOST_DEVIATIONS, 1)
    spread = fitted.deviation(observer.columns[under][::thin], observer.rows[under][::thin])
    return float(np.sqrt((spread**2).mean())) if len(spread) else float("nan")
