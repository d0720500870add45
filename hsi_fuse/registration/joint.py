"""Mapping and sensors in turn, until neither moves: what `align` does for one pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.align import resample
from hsi_fuse.errors import AlignmentError
from hsi_fuse.raster import Raster
from hsi_fuse.registration.confidence import confidence_map, rejected
from hsi_fuse.registration.displacement import Displacement, Move
from hsi_fuse.registration.evidence import Evidence
from hsi_fuse.registration.fit import Mapped, fit
from hsi_fuse.registration.patchwork import fit_fields
from hsi_fuse.registration.register import RegisterOptions, locate
from hsi_fuse.registration.response import Response, fit_responses, linearised
from hsi_fuse.registration.ties import Prediction, checkerboard, predicted, tie_points
from hsi_fuse.registration.warp import Array, Observer, Pair, on_lattice
from hsi_fuse.sensors.sense import Sensed, Sensing, sense
from hsi_fuse.subspace import estimate_noise, fill_nearest, fit_subspace

DIMENSIONS = 10
PIXELS_PER_DIMENSION, HALF_PIXELS_PER_DIMENSION = 16, 4
"""Of the HSI while the mapping is sought, and of those of its halves that lie under the guide."""
TURNS = 3
CURVE_ROUNDS = 4
HALF_ITERATIONS = 6
SETTLED_HSI_PX = 0.02
HOPELESS = 0.5
"""Nats for each pixel and band; a place that is right and clear says four times as much."""
CLEARLY_WORSE = 2.0
"""Standard errors."""
MOST_DEVIATIONS = 4000
MOST_CHANGED = 0.4
"""Share of the HSI; where more would go, it is the mapping that is wrong."""
MOST_NODES = 1024
"""Largest side of the lattice that carries a displacement."""


@dataclass(frozen=True)
class Start:
    """Where the georeferencing puts the HSI in the guide.

    Attributes
    ----------
    mapping : Affine
        HSI pixel -> guide pixel.
    bend : ndarray (2, p, q) or None
        Added after it, guide pixels, on a lattice from corner to corner of the HSI.
    georeferenced : bool
        Whether that is more than a guess.
    """

    mapping: Affine
    bend: NDArray[np.float32] | None = None
    georeferenced: bool = True


@dataclass(frozen=True)
class Registered:
    """A registered and sensed pair.

    Attributes
    ----------
    hsi_to_guide : Affine
        HSI pixel -> guide pixel, corner-based.
    bend : ndarray (2, p, q) or None
        Added after it, guide pixels, on a lattice from corner to corner of the HSI.
    fitted : Mapped
        The same mapping with its covariance.
    sensed : Sensed
    guide : ndarray (m, H, W), guide_weight : ndarray (H, W)
        The guide resampled to the target grid.
    confidence : ndarray (h, w)
        0 to 1; low where the guide shows something else than the HSI.
    before, after : ndarray (p, 4)
        Tie points: column, row, residual shift in columns and rows, HSI pixels; of the start, and of
        mappings fitted without the tie point's own pixels. The same points: near a start that is far off no
        block finds its place.
    evidence : Evidence
        What pixels that took no part in the fit of the mapping say; responses and changes were found on all.
    responses : sequence of Response
        What made each guide band linear.
    """

    hsi_to_guide: Affine
    bend: NDArray[np.float32] | None
    fitted: Mapped
    sensed: Sensed
    guide: NDArray[np.float32]
    guide_weight: NDArray[np.float32]
    confidence: Array
    before: Array
    after: Array
    evidence: Evidence
    responses: Sequence[Response]


def register_pair(
    values: Tensor,
    weight: Tensor,
    window: Raster,
    start: Start,
    ratio: int,
    options: RegisterOptions,
    sensing: Sensing,
    on_turn: Callable[[int, int], None] = lambda turn, turns: None,
) -> Registered:
    """Register an HSI (n, h, w) and a guide, and learn both sensors.

    Parameters
    ----------
    values : Tensor (n, h, w)
    weight : Tensor (h, w)
    window : Raster
        The guide's pixels.
    start : Start
        In the window.
    ratio : int
        Fine pixels for each HSI pixel.
    options : RegisterOptions
    sensing : Sensing
    on_turn : callable
        Progress.

    Raises
    ------
    AlignmentError
    """
    noise = estimate_noise(values, weight)
    subspace = fit_subspace(values, weight, noise, DIMENSIONS)
    valid = torch.from_numpy(window.valid).to(values)
    native = fill_nearest(torch.from_numpy(window.values).to(values.device), valid)
    pair = Pair(
        subspace.project(fill_nearest(values, weight)), weight, native, valid, start.mapping, start.bend
    )
    shape = (pair.shape[0] * ratio, pair.shape[1] * ratio)
    psf = sensing.first_psf(ratio).to(values)
    still = Displacement.none(pair.shape)
    responses = [Response(0.0, 1.0)] * len(native)
    state = _State(pair, pair.start, still, responses, values.cpu().numpy(), weight)
    fitted: Mapped | None = None
    hopeless = False
    for turn in range(TURNS):
        on_turn(turn, TURNS)
        last = fitted
        if options.model == "none":
            found = fit(Observer(pair, psf, ratio), pair.start, "translation", iterations=1)
            fitted = replace(found, shift=still)
        else:
            if last is None:
                bases = locate(_simplified(pair), options, start.georeferenced)
                state, plain = _begun([replace(state, base=b) for b in bases], psf, ratio, options)
                # of another place there is nothing to refine
                hopeless = options.local and _information(plain) < HOPELESS
                options = replace(options, local=options.local and not hopeless)
            begun = state
            state, fitted = state.fitted(psf, ratio, options, options.local)
            if last is None and options.local and _worse(_halves(state, psf, ratio, options), plain):
                options = replace(options, local=False)
                state, fitted = begun.fitted(psf, ratio, options, local=False)
            state = state.without_changes(fitted, psf, ratio)
        moved = np.inf if last is None else _largest_move(last, fitted)
        mapping, total = _whole(fitted, start.bend)
        straight = replace(
            window, values=np.stack([r(b) for r, b in zip(state.responses, window.values, strict=True)])
        )
        fine, fine_weight = resample(straight, mapping * Affine.scale(1 / ratio), total, shape)
        sensed = sense(
            values,
            state.raw.low_weight,
            torch.from_numpy(fine).to(values),
            torch.from_numpy(fine_weight).to(values),
            ratio,
            sensing,
        )
        psf = sensed.sensor.psf
        if hopeless or (turn and moved < SETTLED_HSI_PX):
            break
    on_turn(TURNS, TURNS)
    assert fitted is not None
    whole = state.whole
    return Registered(
        mapping,
        total,
        fitted,
        sensed,
        fine,
        fine_weight,
        confidence_map(Observer(whole, psf, ratio, thin=False), fitted),
        *_held_out(state, fitted, psf, ratio, options),
        state.responses,
    )


@dataclass(frozen=True)
class _State:
    """What is known on the way: mapping and responses of a pair.

    Attributes
    ----------
    raw : Pair
        Without what shows something else.
    base, shift
        The mapping.
    responses : sequence of Response
    spectra : ndarray (n, h, w)
        The HSI.
    weight : Tensor (h, w)
        All of its valid pixels.
    length : float
        Of the local field, HSI pixels; 0 as long as there is none.
    """

    raw: Pair
    base: Affine
    shift: Move
    responses: Sequence[Response]
    spectra: NDArray[np.float32]
    weight: Tensor
    length: float = 0.0

    @property
    def pair(self) -> Pair:
        """The pair with a linear guide."""
        return linearised(self.raw, self.responses)

    @property
    def whole(self) -> Pair:
        """The same with all of its pixels."""
        return replace(self.pair, low_weight=self.weight)

    def without_changes(self, fitted: Mapped, psf: Tensor, ratio: int) -> _State:
        """Without the areas that show something else under a mapping: robust weights spare a cloud's rim."""
        other = rejected(confidence_map(Observer(self.whole, psf, ratio, thin=False), fitted))
        if other.mean() > MOST_CHANGED:
            return replace(self, raw=replace(self.raw, low_weight=self.weight))
        keep = torch.from_numpy(np.logical_not(other)).to(self.weight)
        return replace(self, raw=replace(self.raw, low_weight=self.weight * keep))

    def fitted(self, psf: Tensor, ratio: int, options: RegisterOptions, local: bool) -> tuple[_State, Mapped]:
        """Mapping and responses in turn, until the responses stay what they are."""
        state, observer = self, Observer(self.raw, psf, ratio)
        for _ in range(CURVE_ROUNDS):
            looked = Observer(state.pair, psf, ratio)
            found = _fit(looked, state, options.model, local, options.iterations)
            responses = fit_responses(self.raw, found.base, found.shift, observer, self.spectra)
            same = all(map(Response.close_to, responses, state.responses))
            state = replace(state, shift=found.shift, length=found.length, responses=responses)
            if same:
                break
        return state, found


def _fit(observer: Observer, state: _State, model: str, local: bool, iterations: int) -> Mapped:
    if local:
        return fit_fields(observer, state.base, model, iterations, state.shift, state.length)
    return fit(observer, state.base, model, iterations=iterations, start=state.shift)


def _simplified(pair: Pair) -> Pair:
    """The pair with as few coefficients as its pixels can tell apart while the mapping is still wrong."""
    few = max(int((pair.low_weight > 0).sum()) // PIXELS_PER_DIMENSION, 4)
    return replace(pair, low=pair.low[:few])


def _deviation(observer: Observer, fitted: Mapped, options: RegisterOptions) -> float:
    """RMS standard error of the places under the guide, HSI pixels."""
    if options.model == "none":
        return float("nan")
    under = observer.see(fitted.base, fitted.shift).support > 0
    thin = max(int(under.sum()) // MOST_DEVIATIONS, 1)
    spread = fitted.deviation(observer.columns[under][::thin], observer.rows[under][::thin])
    return float(np.sqrt((spread**2).mean())) if len(spread) else float("nan")


def _lattice(shape: tuple[int, int]) -> tuple[Array, Array]:
    """Columns and rows of a lattice from corner to corner."""
    rows, columns = (np.linspace(0, side, min(side, MOST_NODES) + 1) for side in shape)
    return columns, rows


def _largest_move(a: Mapped, b: Mapped) -> float:
    """Between two mappings with one base, HSI pixels (the 95th percentile of the lattice)."""
    columns, rows = _lattice(a.shift.shape)
    if a.base != b.base:
        return np.inf
    return float(np.percentile(np.hypot(*(a.shift(columns, rows) - b.shift(columns, rows))), 95))


def _whole(fitted: Mapped, bend: NDArray[np.float32] | None) -> tuple[Affine, NDArray[np.float32] | None]:
    """The mapping as an affine and a displacement on a lattice, guide pixels."""
    mapping = fitted.base * fitted.shift.affine
    columns, rows = _lattice(fitted.shift.shape)
    x, y = np.meshgrid(columns, rows)
    a, b, _, d, e, _ = fitted.base[:6]
    first = np.stack(fitted.shift.affine * (x, y)) - np.stack([x, y])  # type: ignore[operator]
    rest = fitted.shift(columns, rows) - first  # HSI pixels
    moved = np.stack([a * rest[0] + b * rest[1], d * rest[0] + e * rest[1]])
    if bend is not None:
        moved = moved + on_lattice(bend, columns, rows, fitted.shift.shape)
    if np.abs(moved).max() < 1e-6:
        return mapping, None
    return mapping, moved.astype(np.float32)


def _begun(
    states: Sequence[_State], psf: Tensor, ratio: int, options: RegisterOptions
) -> tuple[_State, list[_Half]]:
    """Of states at several places the one that says most of pixels it has not seen; no local field yet."""
    stiff = replace(options, local=False)
    begun: list[tuple[_State, list[_Half]]] = []
    for i, state in enumerate(states):
        try:
            state, near = state.fitted(psf, ratio, stiff, local=False)
            state = state.without_changes(near, psf, ratio)
            still = Displacement.none(state.raw.shape)
            state = replace(state, base=state.base * state.shift.affine, shift=still)
            begun.append((state, _halves(state, psf, ratio, stiff)))
        except AlignmentError:
            if not begun and i == len(states) - 1:
                raise
    return max(begun, key=lambda one: _information(one[1]))


def _information(halves: Sequence[_Half]) -> float:
    return float(np.mean([half.prediction.information for half in halves]))


@dataclass(frozen=True)
class _Half:
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


def _halves(
    state: _State, psf: Tensor, ratio: int, options: RegisterOptions, fitted: Mapped | None = None
) -> list[_Half]:
    """Mappings of either colour; the one given instead where the options allow none but the start."""
    out, colour = [], checkerboard(state.raw.shape, state.raw.low.device)
    looked = Observer(state.pair, psf, ratio)
    under = looked.see(state.base, state.shift).support
    first = colour.cpu().numpy()[looked.rows.astype(int), looked.columns.astype(int)]
    few = int(min(under[first].sum(), under[~first].sum())) // HALF_PIXELS_PER_DIMENSION
    pair = replace(looked.pair, low=looked.pair.low[: max(few, 1)])
    both = Observer(pair, psf, ratio, image=looked.image)
    for unseen in (colour, ~colour):
        others = Observer(pair, psf, ratio, ~unseen, image=looked.image)
        found = fitted
        if found is None or options.model != "none":
            found = _fit(others, state, options.model, options.local, HALF_ITERATIONS)
        out.append(_Half(unseen, pair, found, predicted(both, unseen, found)))
    return out


def _worse(bent: list[_Half], plain: list[_Half]) -> bool:
    """Whether mappings with a local field say clearly less of pixels they have not seen than without.

    The evidence takes what no mapping explains for noise; where it is a change, or a camera's processing, a
    lively field can follow that instead.
    """
    errors = [np.stack([half.prediction.errors for half in halves]) for halves in (bent, plain)]
    more = errors[0] - errors[1]
    more = more[np.isfinite(more)]
    doubt = float(more.std() / np.sqrt(max(len(more), 1)))
    return len(more) > 0 and float(more.mean()) > CLEARLY_WORSE * doubt


def _held_out(
    state: _State, fitted: Mapped, psf: Tensor, ratio: int, options: RegisterOptions
) -> tuple[Array, Array, Evidence]:
    """What pixels that took no part say: tie points of the start and of the fit, evidence for the latter."""
    before, after, shares, halves = [], [], [], _halves(state, psf, ratio, options, fitted)
    for half in halves:
        ties, share = tie_points(half.pair, half.fitted, psf, ratio, half.unseen, options.tie_block_hsi_px)
        after.append(ties)
        shares.append(share)
        before.append(_seen_from(state.raw.start, half.fitted, ties))
    told = [half.prediction for half in halves]
    evidence = Evidence(
        float(np.prod([p.left for p in told]) ** 0.5),
        float(np.mean([p.information for p in told])),
        float(np.mean(shares)),
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
