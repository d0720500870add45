"""How far a found mapping is from the true one, and whether its confidence knows where."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from benchmarks.matchers import Found
from hsi_fuse.physics import mix_bands
from hsi_fuse.simulation.displace import shown_at
from hsi_fuse.simulation.simulate import ObservedPair

Array = NDArray[np.float64]


def errors(pair: ObservedPair, found: Found) -> dict[str, float]:
    """RMS distances between found and true places, fine pixels, over the overlap.

    The overlap are the fine pixels whose true place lies on a valid guide pixel.

    Returns
    -------
    weighted_px : by `gradient_energy`: a flat area cannot be matched and does not matter
    unweighted_px
    clear_px : weighted, without what a cloud, a change or an object hides
    objects_px : median over the visible pixels of objects, where there are objects
    auc : of low confidence as a sign of occlusion, where there are objects and a confidence
    """
    distance = np.hypot(found.columns - pair.fine_to_guide[0], found.rows - pair.fine_to_guide[1])
    overlap, _ = shown_at(pair.guide_valid.numpy(), pair.fine_to_guide)
    hidden = pair.occluded | shown_at(pair.changed, pair.fine_to_guide)[0]
    energy = gradient_energy(pair)
    figures = {
        "weighted_px": _rms(distance, energy * overlap),
        "unweighted_px": _rms(distance, overlap.astype(float)),
        "clear_px": _rms(distance, energy * (overlap & ~hidden)),
    }
    if pair.objects.any():
        seen = overlap & ~pair.occluded & (pair.objects > 0)
        figures["objects_px"] = float(np.median(distance[seen]))
        if found.confidence is not None:
            figures["auc"] = auc(1 - found.confidence[overlap], pair.occluded[overlap])
    return figures


def gradient_energy(pair: ObservedPair) -> Array:
    """(H, W): squared gradient of the clean scene in the guide's bands, each over its variance, summed."""
    clean = mix_bands(pair.truth, pair.sensor.srf).double().numpy()
    slopes = np.stack(np.gradient(clean, axis=(1, 2)))  # (2, m, H, W)
    energy: Array = ((slopes**2).sum(0) / clean.var((1, 2))[:, None, None]).sum(0)
    smooth: Array = gaussian_filter(energy, 1.0)
    return smooth


def auc(score: Array, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive scores higher than a negative, ties counting half."""
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return math.nan
    ranks = rankdata(score)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def _rms(distance: Array, weight: Array) -> float:
    return float(np.sqrt((weight * distance**2).sum() / weight.sum()))
