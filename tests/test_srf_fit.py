"""Responses by regression: what they may look like, and how well they must fit."""

import numpy as np
import pytest
import torch

from hsi_fuse.sensors.known import KnownSensor
from hsi_fuse.sensors.srf_fit import SrfPrior, fit_srf, freest_srf
from hsi_fuse.subspace import learn_subspace

BANDS, SIDE, FOLDS = 31, 40, 5
STRIP = SIDE // FOLDS


def scene(bright=1.0, gain=1.0, grey=0.0):
    """Subspace, coefficients, reference band (1, N), fold, response; light and gain are the first fold's."""
    draw = np.random.default_rng(0)
    wavelength = np.linspace(0, 1, BANDS)[:, None, None]
    fine, broad = draw.uniform(0, 1, (2, 3, SIDE, SIDE))
    cube = sum(
        broad[i] * np.exp(-(((wavelength - (i + 0.5) / 3) / 0.2) ** 2))
        + 0.05 * fine[i] * np.exp(-(((wavelength - (i + 0.2) / 3) / 0.05) ** 2))
        for i in range(3)
    )
    flat = draw.uniform(0, 1, (SIDE, SIDE)) < grey
    cube = np.where(flat, broad[0] * (1 + 0.2 * wavelength), cube)
    cube[:, :STRIP] *= bright
    cube += 1e-3 * draw.standard_normal(cube.shape)
    hsi = torch.from_numpy(cube.astype(np.float32))
    subspace = learn_subspace(hsi, torch.ones(SIDE, SIDE), 20)
    response = np.zeros(BANDS)
    response[12:18] = 1 / 6
    seen = np.tensordot(response, cube, 1)
    seen[:STRIP] *= gain
    seen += 1e-3 * draw.standard_normal(seen.shape)
    low = subspace.project(hsi).flatten(1).double().numpy()
    return subspace, low, seen.reshape(1, -1), np.repeat(np.arange(FOLDS), SIDE * STRIP), response


def left_by(subspace, low, seen, srf, offset):
    spectra = subspace.basis.double().numpy() @ low + subspace.mean.double().numpy()[:, None]
    return float((seen - srf @ spectra - offset[:, None]).std())


def test_the_freest_response_is_non_negative_and_leaves_the_noise():
    subspace, low, seen, *_ = scene()
    srf, offset = freest_srf(subspace, low, seen, np.ones(seen.shape[1]))
    assert (srf >= 0).all()
    assert left_by(subspace, low, seen, srf, offset) == pytest.approx(1e-3, rel=0.2)


def test_the_freest_response_asks_pixels_without_weight_for_nothing():
    subspace, low, seen, fold, _ = scene(gain=3.0)
    srf, offset = freest_srf(subspace, low, seen, (fold > 0).astype(float))
    kept = fold > 0
    assert left_by(subspace, low[:, kept], seen[:, kept], srf, offset) == pytest.approx(1e-3, rel=0.2)


def test_few_coloured_pixels_are_no_outliers():
    """Only they show where the response is; a smooth response would have them dropped."""
    subspace, low, seen, fold, _ = scene(grey=0.95)
    srf, offset, *_ = fit_srf(subspace, low, seen, fold, SrfPrior.of(KnownSensor(), 1, BANDS))
    assert left_by(subspace, low, seen, srf, offset) < 2e-3  # the noise is 1e-3


def test_one_bright_fold_does_not_outvote_the_others():
    """What a bright strip of another gain asks for is smoothness that all other strips speak against."""
    subspace, low, seen, fold, response = scene(bright=5.0, gain=1.01)
    srf, *_ = fit_srf(subspace, low, seen, fold, SrfPrior.of(KnownSensor(), 1, BANDS))
    others = fold > 0
    scale = (srf[0] @ response) / (response @ response)
    spectra = subspace.basis.double().numpy() @ low[:, others]
    wrong = ((srf[0] - scale * response) @ spectra).std() / (scale * response @ spectra).std()
    assert wrong < 0.02
