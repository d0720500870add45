"""Robust weights, and what errors say of a mapping."""

import numpy as np
import pytest
import torch

from hsi_fuse.registration.robust import information, robust_regression, student, unexplained


def test_robust_regression_finds_the_line_among_outliers():
    rng = np.random.default_rng(1)
    design = np.concatenate([np.ones((1, 600)), rng.standard_normal((2, 600))])
    truth = np.array([[1.0, 2.0, -3.0]])
    values = truth @ design + 0.01 * rng.standard_normal((1, 600))
    wrong = np.arange(0, 600, 10)
    values[:, wrong] += 5
    support = np.ones(600)
    support[300:] = 0
    values[:, 300:] = 77
    weight, residual, _ = robust_regression(values, design, support)
    assert (weight[wrong] == 0).all()
    assert (weight[300:] == 0).all()
    inside = np.setdiff1d(np.arange(300), wrong)
    assert weight[inside].mean() > 0.8
    assert residual[0, inside].std() == pytest.approx(0.01, rel=0.1)


def test_bright_samples_that_miss_in_proportion_count_and_others_still_do_not():
    rng = np.random.default_rng(4)
    design = np.stack([np.ones(600), rng.standard_normal(600)])
    design[1, :20] += 100  # bright, on a dull sea
    values = design[1:] + 0.01 * rng.standard_normal((1, 600))
    values[0, :10] += 5  # a twentieth
    values[0, 10:20] -= 100  # not there at all
    values[0, 20:30] += 5  # a change, where all is dull
    support = np.ones(600)
    plain, *_ = robust_regression(values, design, support)
    weight, *_ = robust_regression(values, design, support, in_proportion=0.003)
    assert (plain[:30] == 0).all()
    assert (weight[:10] > 0).all()
    assert weight[:10].max() < 0.01  # as 5 to the noise, squared
    assert (weight[10:30] == 0).all()
    assert (weight[30:] >= plain[30:] - 0.05).all()


def test_students_weights_fall_with_the_square_and_never_to_nothing():
    residual = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    residual[1, :50] = 30
    weight = student(residual)
    assert 0 < float(weight[:50].max()) < 0.01
    assert float(weight[50:].mean()) > 0.85
    assert float(weight.max()) <= 1.5


def test_information_is_that_of_the_errors_distribution():
    """Student's own errors: twice the scale says ln 2 less."""
    rng = np.random.default_rng(2)
    values = rng.standard_t(2, (3, 40000))
    support = np.ones(40000)
    assert information(values, values / 8, support) == pytest.approx(np.log(8), abs=1e-3)
    assert information(values, values, support) == pytest.approx(0, abs=1e-3)
    worse = information(values, rng.standard_t(2, (3, 40000)), support)
    assert worse == pytest.approx(0, abs=0.03)
    support[20000:] = 0
    values[:, 20000:] = 1e6  # what is not looked at says nothing
    assert information(values, values / 8, support) == pytest.approx(np.log(8), abs=1e-3)


def test_a_cloud_hides_less_than_a_wrong_place():
    """A tenth of gross outliers about a tight fit say more than no outliers about a loose one."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal((1, 5000))
    clouded = 0.05 * rng.standard_normal((1, 5000))
    clouded[:, :500] += 20
    loose = 0.6 * rng.standard_normal((1, 5000))
    everywhere = np.ones(5000)
    assert information(values, clouded, everywhere) > information(values, loose, everywhere) + 0.5
    assert unexplained(values, clouded, everywhere) > unexplained(values, loose, everywhere)


def test_the_share_left_counts_outliers_and_only_where_there_is_support():
    rng = np.random.default_rng(2)
    values, support = rng.standard_normal((2, 4000)), np.ones(4000)
    assert unexplained(values, 0.1 * values, support) == pytest.approx(0.01, rel=0.05)
    outliers = 0.1 * values
    outliers[:, :400] = values[:, :400]
    assert unexplained(values, outliers, support) > 0.03
    support[:400] = 0
    assert unexplained(values, outliers, support) == pytest.approx(0.01, rel=0.05)
    assert unexplained(values, 5 * values, support) == 1
