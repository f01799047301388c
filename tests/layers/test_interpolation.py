"""Interpolation of positions: against scipy's splines, PyTorch, and hand-made grids."""

import numpy as np
import pytest
import scipy.interpolate
import scipy.optimize

from homl_models.layers.interpolation import (
    bicubic_matrix,
    bilinear_matrix,
    geometric_matrix,
    geometric_positions,
    resize_grid,
)
from tests import checks


@pytest.mark.parametrize(("old", "new"), [(14, 24), (14, 40), (8, 9), (4, 7)])
def test_the_geometric_spline_equals_the_authors_description(old, new):
    """Each head's table lies at distances 1 + q + q^2 + ... whose largest is the new grid's; a bicubic spline."""
    n, m, k = 2 * old - 1, 2 * new - 1, old - 1
    q = scipy.optimize.brentq(lambda q: (q**k - 1) / (q - 1) - (new - 1), 1 + 1e-9, 3)
    distances = [(q**i - 1) / (q - 1) for i in range(k + 1)]
    places = [-distance for distance in distances[:0:-1]] + distances
    table = np.random.default_rng(0).normal(size=(n, n, 3))
    wanted = np.arange(1 - new, new)
    found = resize_grid(np.float32(table), (m, m), geometric_matrix)
    for head in range(3):
        spline = scipy.interpolate.RectBivariateSpline(places, places, table[:, :, head], kx=3, ky=3, s=0)
        checks.close(found[..., head], np.float32(spline(wanted, wanted)), 1e-4)


def test_short_distances_keep_their_places_and_the_longest_stay_the_longest():
    places = geometric_positions(27, 47)
    np.testing.assert_allclose(places[[0, 12, 13, 14, -1]], [-23, -1, 0, 1, 23], atol=1e-6)
    steps = np.diff(places[13:])
    np.testing.assert_allclose(steps[1:] / steps[:-1], steps[1] / steps[0])
    weights = geometric_matrix(27, 47)
    np.testing.assert_allclose(weights[[22, 23, 24]], np.eye(27)[[12, 13, 14]], atol=1e-9)


def test_a_smaller_grid_is_cut_out_of_the_larger():
    np.testing.assert_allclose(geometric_matrix(9, 5), np.eye(9)[2:7], atol=1e-6)
    np.testing.assert_allclose(geometric_matrix(3, 7) @ [1, 2, 3], [1, 1, 1, 2, 3, 3, 3], atol=1e-6)
    np.testing.assert_allclose(geometric_matrix(1, 3), np.ones((3, 1)))


@pytest.mark.parity
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(9, 11), (3, 4), (6, 7), (13, 2)])
def test_a_grid_is_interpolated_as_by_pytorch(mode, shape):
    import torch

    grid = np.random.default_rng(0).normal(size=(6, 7, 2)).astype("float32")
    channels_first = torch.tensor(grid).permute(2, 0, 1)[None]
    wanted = torch.nn.functional.interpolate(channels_first, shape, mode=mode)[0].permute(1, 2, 0)
    found = resize_grid(grid, shape, {"bilinear": bilinear_matrix, "bicubic": bicubic_matrix}[mode])
    checks.close(found, wanted.numpy())


@pytest.mark.parametrize("matrix", [bilinear_matrix, bicubic_matrix])
def test_twice_the_size_of_a_ramp(matrix):
    """Half-way between centres, in the middle, a straight line stays one."""
    found = resize_grid(np.float32(np.arange(8)).reshape(8, 1, 1), (16, 1), matrix)
    np.testing.assert_allclose(
        np.ravel(found)[3:13], np.arange(1.25, 6.0, 0.5), atol=0.05 if matrix is bicubic_matrix else 1e-6
    )
    np.testing.assert_allclose(matrix(8, 11).sum(1), 1)
    np.testing.assert_allclose(matrix(5, 5), np.eye(5), atol=1e-12)
