"""Mapping and sensors in turn, until neither moves: what `align` does for one pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from torch import Tensor

from hsi_fuse.align import covered, resample
from hsi_fuse.errors import AlignmentError
from hsi_fuse.raster import Raster
from hsi_fuse.registration.confidence import AREAS, PIXELS, Misfit, rejected
from hsi_fuse.registration.displacement import Displacement
from hsi_fuse.registration.evidence import Evidence
from hsi_fuse.registration.fit import Mapped, fit
from hsi_fuse.registration.heldout import (
    Half,
    asked_again,
    clearly_worse,
    halves_of,
    held_out,
    information_of,
)
from hsi_fuse.registration.register import RegisterOptions, locate
from hsi_fuse.registration.response import Response
from hsi_fuse.registration.state import State
from hsi_fuse.registration.tiles import Tile, finer
from hsi_fuse.registration.warp import Array, Observer, Pair, on_lattice
from hsi_fuse.sensors.sense import Sensed, Sensing, sense, windows_of
from hsi_fuse.subspace import fill_nearest, learn_subspace

DIMENSIONS = 10
PIXELS_PER_DIMENSION = 16
"""Of the HSI while the mapping is sought."""
TURNS = 3
SETTLED_HSI_PX = 0.02
HOPELESS = 0.5
"""Nats for each pixel and band; a place that is right and clear says four times as much."""
AS_MUCH = 0.01
"""Share of what the best place says by which another may say less: mostly they are one, and the first is the
search's."""
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
    changed : ndarray (h, w), bool
        Areas where it does: clouds, changes; not pixels and edges that merely fit badly.
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
    changed: NDArray[np.bool_]
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
    subspace = learn_subspace(values, weight, DIMENSIONS)
    valid = torch.from_numpy(window.valid).to(values)
    native = fill_nearest(torch.from_numpy(window.values).to(values.device), valid)
    pair = Pair(
        subspace.project(fill_nearest(values, weight)), weight, native, valid, start.mapping, start.bend
    )
    psf = sensing.first_psf(ratio).to(values)
    still = Displacement.none(pair.shape)
    responses = [Response(0.0, 1.0)] * len(native)
    state = State(pair, pair.start, still, responses, values.cpu().numpy(), weight)
    best: _Turn | None = None
    last: _Turn | None = None
    says = most = 0.0
    hopeless = False
    for turn in range(TURNS):
        on_turn(turn, TURNS)
        if options.model == "none":
            found = fit(Observer(pair, psf, ratio), pair.start, "translation", iterations=1)
            fitted: Mapped = replace(found, shift=still)
        else:
            if last is None:
                bases = locate(_simplified(pair), options, start.georeferenced)
                state, plain = _begun([replace(state, base=b) for b in bases], psf, ratio, options)
                # of another place there is nothing to refine
                hopeless = options.local and information_of(plain) < HOPELESS
                options = replace(options, local=options.local and not hopeless)
            begun, halves = state, plain
            state, fitted = state.fitted(psf, ratio, options, options.local)
            fields = last is None and options.local
            if fields or state.bent:
                halves = halves_of(state, psf, ratio, options)
            if fields and clearly_worse(halves, plain):
                options, halves = replace(options, local=False), plain
                state, fitted = begun.fitted(psf, ratio, options, local=False)
            state = state.without_changes(fitted, psf, ratio)
            if state.bent:
                says = information_of(asked_again(halves, state, psf, ratio))
        moved = np.inf if last is None else _largest_move(last.fitted, fitted)
        last = _sensed(state, fitted, values, window, start.bend, ratio, sensing)
        psf = last.psf
        # curve, PSF and what is left out can lead each other astray, of which unseen pixels tell
        if best is None or not state.bent or says > most:
            best, most = last, says
        if hopeless or (turn and moved < SETTLED_HSI_PX):
            break
    on_turn(TURNS, TURNS)
    assert best is not None
    misfit = Misfit.of(Observer(best.state.whole, best.psf, ratio, thin=False), best.fitted)
    told = held_out(best.state, best.fitted, best.psf, ratio, options)
    guide, guide_weight = _on_target(window, best.mapping, best.bend, best.state, ratio)
    return Registered(
        best.mapping,
        best.bend,
        best.fitted,
        best.sensed,
        guide,
        guide_weight,
        misfit.confidence(PIXELS),
        rejected(misfit.confidence(AREAS)),
        *told,
        best.state.responses,
    )


@dataclass(frozen=True)
class _Turn:
    """What a turn ends with; the attributes are those of `Registered`."""

    state: State
    fitted: Mapped
    mapping: Affine
    bend: NDArray[np.float32] | None
    sensed: Sensed

    @property
    def psf(self) -> Tensor:
        """Learned after the mapping."""
        return self.sensed.sensor.psf


def _sensed(
    state: State,
    fitted: Mapped,
    values: Tensor,
    window: Raster,
    bend: NDArray[np.float32] | None,
    ratio: int,
    sensing: Sensing,
) -> _Turn:
    """The sensors under a mapping, of that part of the pair which tells them."""
    mapping, total = _whole(fitted, bend)
    weight = state.raw.low_weight
    under = torch.from_numpy(covered(window.valid, mapping, total, state.raw.shape)).to(weight.device)
    own, part = windows_of(under & (weight > 0), sensing.options)
    looked = torch.zeros_like(weight)
    looked[own] = weight[own]
    guide, there = (
        torch.from_numpy(each).to(values)
        for each in _on_target(window, mapping, total, state, ratio, finer(part, ratio))
    )
    sensed = sense(values[:, part[0], part[1]], looked[part], guide, there, ratio, sensing)
    return _Turn(state, fitted, mapping, total, sensed)


def _on_target(
    window: Raster,
    mapping: Affine,
    bend: NDArray[np.float32] | None,
    state: State,
    ratio: int,
    part: Tile | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The guide, made linear, on the target grid or on a part of it; its weight."""
    if state.bent:
        bands = [r(b) for r, b in zip(state.responses, window.values, strict=True)]
        window = replace(window, values=np.stack(bands))
    height, width = state.raw.shape
    return resample(window, mapping * Affine.scale(1 / ratio), bend, (height * ratio, width * ratio), part)


def _simplified(pair: Pair) -> Pair:
    """The pair with as few coefficients as its pixels can tell apart while the mapping is still wrong."""
    few = max(int((pair.low_weight > 0).sum()) // PIXELS_PER_DIMENSION, 4)
    return replace(pair, low=pair.low[:few])


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
    states: Sequence[State], psf: Tensor, ratio: int, options: RegisterOptions
) -> tuple[State, list[Half]]:
    """Of states at several places the one that says most of pixels it has not seen; no local field yet."""
    stiff = replace(options, local=False)
    begun: list[tuple[State, list[Half]]] = []
    for i, state in enumerate(states):
        try:
            anew = replace(state, bright=True)
            state, near = state.fitted(psf, ratio, stiff, local=False)
            if state.bent:  # measured, not understood: here bright pixels help a polynomial, elsewhere not
                state, near = anew.fitted(psf, ratio, stiff, local=False)
            state = state.without_changes(near, psf, ratio)
            if state.bent:  # a cloud bends the curve, and a bent curve explains the cloud's rim
                state, near = state.fitted(psf, ratio, stiff, local=False)
                state = state.without_changes(near, psf, ratio, rim=True)
            still = Displacement.none(state.raw.shape)
            state = replace(state, base=state.base * state.shift.affine, shift=still)
            begun.append((state, halves_of(state, psf, ratio, stiff)))
        except AlignmentError:
            if not begun and i == len(states) - 1:
                raise
    says = [information_of(halves) for _, halves in begun]
    return begun[next(i for i, said in enumerate(says) if said >= max(says) - AS_MUCH * abs(max(says)))]
