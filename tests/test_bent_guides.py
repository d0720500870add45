"""Pairs whose guide is no straight line of what the HSI sees: curve, changes and mapping together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from registering import SHEARED, SMALL, bytes_of, disagreement, registered
from synthetic import PSF, RATIO, astray, cut, hsi_of, unregistered

from hsi_fuse.registration import joint, state
from hsi_fuse.registration.confidence import CLUSTER_OF_BENT
from hsi_fuse.registration.displacement import Displacement
from hsi_fuse.registration.fit import fit
from hsi_fuse.registration.response import Response
from hsi_fuse.registration.warp import Observer, Pair

pytestmark = pytest.mark.usefixtures("easily_found")


@pytest.fixture(scope="module")
def bent() -> Pair:
    """With a camera's gamma."""
    plain = cut(unregistered(SHEARED, guide_bands=3), *SMALL)
    return replace(plain, guide=plain.guide.clamp_min(0) ** 0.45)


def test_a_bent_response_is_undone(bent):
    found = registered(bent)
    assert astray(bent, found.fitted.base, found.fitted.shift, SHEARED).max() < 0.05
    assert all(response.exponent > 1.2 for response in found.responses)
    assert disagreement(bent, found) < 0.003
    assert found.evidence.unexplained < 0.02


def test_of_a_bent_guides_turns_that_is_kept_which_says_most_of_unseen_pixels(monkeypatch, bent):
    """Curve, PSF and what is left out can lead each other astray."""

    def kept(turns: int, best: int) -> list[bytes]:
        now = [0]
        monkeypatch.setattr(joint, "TURNS", turns)
        monkeypatch.setattr(joint, "information_of", lambda halves: 2.0 if now[-1] == best else 1.0)
        return bytes_of(registered(bent, lambda turn, turns: now.append(turn)))

    first = kept(1, 0)
    assert kept(2, 0) == first
    assert kept(2, 1) != first


@pytest.mark.parametrize(("exponent", "out"), [(1.0, 0), (2.2, CLUSTER_OF_BENT**2)])
def test_of_a_bent_guide_small_changes_are_left_out_too(monkeypatch, bent, exponent, out):
    """A curve follows them, a straight line cannot."""
    confidence = np.ones(SMALL)
    confidence[10 : 10 + CLUSTER_OF_BENT, 7 : 7 + CLUSTER_OF_BENT] = 0.1
    monkeypatch.setattr(state, "confidence_map", lambda observer, fitted: confidence)
    still, weight = Displacement.none(SMALL), bent.low_weight
    known = state.State(bent, bent.start, still, [Response(0, 1, exponent)] * 3, hsi_of(bent).numpy(), weight)
    fitted = fit(Observer(bent, PSF, RATIO), bent.start, "translation", iterations=1)
    left = known.without_changes(fitted, PSF, RATIO).raw.low_weight
    assert float((weight - left).sum()) == out
    assert bool((left <= weight).all())
