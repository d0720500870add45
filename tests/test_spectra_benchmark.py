"""The benchmarks of spectra and abundances: their own measures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.spectra import TARGETS, angles, field_spectra, inside
from benchmarks.unmixing import fully_constrained, rmse


def test_a_polygon_holds_the_pixels_whose_centres_are_in_it():
    square = np.array([[1.0, 2.0], [4.0, 2.0], [4.0, 4.0], [1.0, 4.0]])
    found = inside(square, (6, 7))
    assert found.sum() == 6
    assert found[2:4, 1:4].all()


def test_a_polygon_between_pixels_takes_the_nearest():
    tiny = np.array([[2.6, 1.6], [2.9, 1.6], [2.9, 1.9], [2.6, 1.9]])
    found = inside(tiny, (4, 4))
    assert found.sum() == 1
    assert found[1, 2]


def test_angles_ignore_brightness_and_tell_noise_from_bias():
    spectrum = np.array([1.0, 2.0, 3.0])
    cube = np.stack([spectrum * 2, spectrum * 0.5], 1)[:, None]
    assert angles(cube, np.ones((1, 2), bool), spectrum) == pytest.approx((0, 0), abs=1e-5)
    off = np.array([0.3, 0.0, -0.1])  # at right angles to the spectrum
    cube = np.stack([spectrum + off, spectrum - off], 1)[:, None]
    of_mean, each = angles(cube, np.ones((1, 2), bool), spectrum)
    assert of_mean == pytest.approx(0, abs=1e-5)
    assert each == pytest.approx(np.rad2deg(np.arctan(np.sqrt(0.1 / 14))))


def test_fully_constrained_abundances_are_the_true_ones_inside_the_simplex():
    rng = np.random.default_rng(1)
    corners = torch.from_numpy(rng.random((20, 4)))
    shares = torch.from_numpy(rng.dirichlet(np.ones(4), 50).T)
    found = fully_constrained(corners, corners @ shares, 4000)
    assert torch.allclose(found, shares, atol=1e-3)
    outside = fully_constrained(corners, corners @ (shares * 3 - 0.5), 4000)
    assert float(outside.min()) >= 0
    assert torch.allclose(outside.sum(0), torch.ones(50, dtype=torch.float64))


def test_abundances_are_compared_in_the_order_that_fits():
    wanted = torch.rand(3, 40, dtype=torch.float64)
    assert rmse(wanted[[2, 0, 1]], wanted) == 0
    assert rmse(wanted[[2, 0, 1]] + 0.1, wanted) == pytest.approx(0.1)


@pytest.mark.data
def test_every_target_has_a_field_spectrum():
    known = field_spectra()
    targets = json.loads(TARGETS.read_text("utf-8"))["targets"]
    assert {target["material"] for target in targets} < set(known)
    assert {target["size_m"] for target in targets} == {3, 1, 0.5}
