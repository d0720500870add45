"""Cubic B-splines on a lattice, and the Gaussian process whose modes they carry."""

import numpy as np
import pytest

from hsi_fuse.registration.field import Splines

SHAPES = [(48, 40), (20, 90), (5, 5)]
SPLINES = Splines.over((48, 40), 4.0)


def some_coefficients(splines, fields=2, seed=0):
    return np.random.default_rng(seed).standard_normal((fields, splines.size))


def covariance(splines, length):
    """Of all the nodes' coefficients, node (i, j) at i * columns + j."""
    across, down = (
        np.exp(-(((nodes[:, None] - nodes) / length) ** 2))
        for nodes in (splines.along_columns, splines.along_rows)
    )
    return np.kron(down, across)


def dense(modes):
    """As a matrix (size, q)."""
    return modes.coefficients(np.eye(modes.count))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spacing", [2.0, 4.0, 300.0])
def test_nodes_cover_the_image_evenly(shape, spacing):
    splines = Splines.over(shape, spacing)
    for nodes, side in ((splines.along_columns, shape[1]), (splines.along_rows, shape[0])):
        assert nodes[1] == pytest.approx(0, abs=1e-12)
        assert nodes[-2] == pytest.approx(side)
        assert np.diff(nodes) == pytest.approx(np.diff(nodes)[0])
        assert np.diff(nodes)[0] <= spacing + 1e-12
    assert splines.size == len(splines.along_columns) * len(splines.along_rows)
    assert splines.spacing == max(np.diff(splines.along_columns)[0], np.diff(splines.along_rows)[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_splines_add_up_to_one_everywhere(shape):
    splines, rng = Splines.over(shape, 4.0), np.random.default_rng(0)
    columns, rows = rng.uniform(-10, shape[1] + 10, 300), rng.uniform(-10, shape[0] + 10, 300)
    assert np.allclose(splines.at(columns, rows).sum(1), 1)
    assert (splines.at(columns, rows).data >= 0).all()
    assert np.diff(splines.at(columns, rows).indptr).max() <= 16


@pytest.mark.parametrize("shape", SHAPES)
def test_scattered_places_and_the_grid_agree(shape):
    splines, rng = Splines.over(shape, 4.0), np.random.default_rng(1)
    columns, rows = np.sort(rng.uniform(-3, shape[1] + 3, 17)), np.sort(rng.uniform(-3, shape[0] + 3, 23))
    coefficients = some_coefficients(splines)
    x, y = np.meshgrid(columns, rows)
    scattered = splines.at(x.ravel(), y.ravel()) @ coefficients.T
    assert np.allclose(splines.on_grid(coefficients, columns, rows), scattered.T.reshape(2, 23, 17))


def test_a_plane_of_coefficients_is_a_plane():
    y, x = np.meshgrid(SPLINES.along_rows, SPLINES.along_columns, indexing="ij")
    columns, rows = np.linspace(0, 40, 33), np.linspace(0, 48, 21)
    found = SPLINES.on_grid((3 + 2 * x - y).reshape(1, -1), columns, rows)[0]
    assert np.allclose(found, 3 + 2 * columns - rows[:, None])


def test_the_field_is_smooth_and_stays_what_it_is_beyond_the_image():
    fine = np.linspace(5, 35, 3001)
    line = SPLINES.on_grid(some_coefficients(SPLINES, 1), fine, np.array([20.3]))[0, 0]
    step = fine[1] - fine[0]
    slope, bend = np.diff(line) / step, np.diff(line, 2) / step**2
    assert np.abs(np.diff(slope)).max() < 0.02  # two continuous derivatives: no jump from step to step
    assert np.abs(np.diff(bend)).max() < 0.02 * np.ptp(bend)
    edges = SPLINES.on_grid(
        some_coefficients(SPLINES), np.array([-7.0, 0, 40, 55]), np.array([-4.0, 0, 48, 99])
    )
    assert np.allclose(edges[:, [0, 3]], edges[:, [1, 2]])
    assert np.allclose(edges[:, :, [0, 3]], edges[:, :, [1, 2]])


@pytest.mark.parametrize("length", [6.0, 13.0, 45.0])
def test_the_modes_carry_the_covariance(length):
    modes, wanted = dense(SPLINES.modes(length)), covariance(SPLINES, length)
    assert modes.shape[0] == SPLINES.size
    assert np.abs(modes @ modes.T - wanted).max() < 0.05
    assert np.trace(modes @ modes.T) == pytest.approx(SPLINES.size, rel=0.02)


def test_a_longer_field_has_fewer_modes():
    counts = [SPLINES.modes(length).count for length in (6.0, 9.0, 20.0, 70.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 20 < counts[0] <= SPLINES.size


def test_the_field_is_as_strong_and_as_long_as_its_prior_says():
    length, rng = 9.0, np.random.default_rng(2)
    modes = dense(SPLINES.modes(length))
    draws = (modes @ rng.standard_normal((modes.shape[1], 4000))).T
    places = np.array([20.0, 20 + length])
    at = SPLINES.on_grid(draws, places, np.array([24.0]))[:, 0]  # (4000, 2)
    # splines smooth a little between nodes this far apart
    assert at.std(0) == pytest.approx([0.9, 0.9], abs=0.06)
    assert np.corrcoef(at.T)[0, 1] == pytest.approx(np.exp(-1), abs=0.1)


@pytest.mark.parametrize("length", [6.0, 20.0])
def test_modes_and_their_transpose_agree(length):
    modes, rng = Splines.over((30, 50), 4.0).modes(length), np.random.default_rng(2)
    free, nodes = rng.standard_normal((modes.count, 3)), rng.standard_normal((len(dense(modes)), 2))
    there, back = modes.coefficients(free), modes.transposed(nodes)
    assert np.allclose(nodes.T @ there, back.T @ free)
    assert np.allclose(there, dense(modes) @ free)
