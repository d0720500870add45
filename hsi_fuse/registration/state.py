"""What is known of a pair while it is registered: its mapping, the guide's responses, what to leave out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from torch import Tensor

from hsi_fuse.registration.confidence import CLUSTER, CLUSTER_OF_BENT, confidence_map, rejected
from hsi_fuse.registration.displacement import Move
from hsi_fuse.registration.fit import Mapped, fit
from hsi_fuse.registration.patchwork import fit_fields, sample_of
from hsi_fuse.registration.prior import Expected
from hsi_fuse.registration.register import RegisterOptions
from hsi_fuse.registration.response import Response, fit_responses, linearised
from hsi_fuse.registration.warp import Observer, Pair

CURVE_ROUNDS = 4
MOST_CHANGED = 0.4
"""Share of the HSI; where more would go, it is the mapping that is wrong."""


@dataclass(frozen=True)
class State:
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
    field : Expected or None
        What the local field is like; None as long as there is none.
    bright : bool
        Whether bright pixels that misfit in proportion to their contrast count for a polynomial (`fit.fit`).
    """

    raw: Pair
    base: Affine
    shift: Move
    responses: Sequence[Response]
    spectra: NDArray[np.float32]
    weight: Tensor
    field: Expected | None = None
    bright: bool = False

    @property
    def pair(self) -> Pair:
        """The pair with a linear guide."""
        return linearised(self.raw, self.responses)

    @property
    def whole(self) -> Pair:
        """The same with all of its pixels."""
        return replace(self.pair, low_weight=self.weight)

    @property
    def bent(self) -> bool:
        """Whether the guide is not linear in what the HSI sees."""
        return not all(response.linear for response in self.responses)

    @property
    def sample(self) -> State:
        """The same of a sample of its pixels, where they are many."""
        some = sample_of(self.raw, self.base).to(self.weight)
        return replace(
            self, raw=replace(self.raw, low_weight=self.raw.low_weight * some), weight=self.weight * some
        )

    def without_changes(self, fitted: Mapped, psf: Tensor, ratio: int, rim: bool = False) -> State:
        """Without the areas that show something else under a mapping: robust weights spare a cloud's rim.

        `rim`: and without the pixels around them.
        """
        confidence = confidence_map(Observer(self.whole, psf, ratio, thin=False), fitted)
        other = rejected(confidence, CLUSTER_OF_BENT if self.bent else CLUSTER)
        if rim:
            other = binary_dilation(other, np.ones((3, 3)))
        if other.mean() > MOST_CHANGED:
            return replace(self, raw=replace(self.raw, low_weight=self.weight))
        keep = torch.from_numpy(np.logical_not(other)).to(self.weight)
        return replace(self, raw=replace(self.raw, low_weight=self.weight * keep))

    def fitted(self, psf: Tensor, ratio: int, options: RegisterOptions, local: bool) -> tuple[State, Mapped]:
        """Mapping and responses in turn, until the responses stay what they are."""
        state, observer = self, Observer(self.raw, psf, ratio)
        for _ in range(CURVE_ROUNDS):
            looked = Observer(state.pair, psf, ratio)
            found = fit_mapping(looked, state, options.model, local, options.iterations)
            responses = fit_responses(self.raw, found.base, found.shift, observer, self.spectra)
            same = all(map(Response.close_to, responses, state.responses))
            field = Expected(found.length, found.amplitude) if found.length else None
            state = replace(state, shift=found.shift, field=field, responses=responses)
            if same:
                break
        return state, found


def fit_mapping(
    observer: Observer, state: State, model: str, local: bool, iterations: int, sampled: bool = False
) -> Mapped:
    """The mapping from a state on, of the pixels that an observer looks at; `sampled`: see `fit_fields`."""
    if local:
        return fit_fields(observer, state.base, model, iterations, state.shift, state.field, sampled)
    return fit(observer, state.base, model, iterations=iterations, start=state.shift, bright=state.bright)
