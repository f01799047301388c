"""Interpolation of grids of learned positions, and of feature maps, to other sizes, as a matrix for each axis.

Interpolation is linear in the values, so an axis of n values is brought to m by a matrix (m, n), and a grid by two.
Shapes: n values of the old axis, m of the new one.
"""

import numpy as np
from keras import ops

RATIOS = 1.0, 4.0  # bounds of the ratio of the geometric progression; the authors' are 1.01 and 1.5


def resize_grid(grid, shape, matrix):
    """A grid (rows, columns, d), of float32, interpolated to (*shape, d); `matrix`: function of an axis' sizes n and m.

    It is differentiable in the grid, whose sizes are static.
    """
    for axis, size in enumerate(shape):
        if grid.shape[axis] != size:
            grid = ops.moveaxis(
                ops.tensordot(np.float32(matrix(grid.shape[axis], size)), grid, axes=(1, axis)), 0, axis
            )
    return grid


def resize_maps(maps, shape, matrix):
    """Feature maps (b, rows, columns, d) interpolated to (b, *shape, d); `matrix`: as for `resize_grid`.

    Sizes are static. It is a product of matrices on every backend, with and without XLA, which has no gradient of
    TensorFlow's bilinear interpolation.
    """
    (rows, columns, d), (new_rows, new_columns) = maps.shape[1:], shape
    if rows != new_rows:
        by_rows = ops.reshape(maps, (-1, rows, columns * d))
        by_rows = ops.matmul(ops.cast(np.float32(matrix(rows, new_rows)), maps.dtype), by_rows)
        maps = ops.reshape(by_rows, (-1, new_rows, columns, d))
    if columns != new_columns:
        maps = ops.matmul(ops.cast(np.float32(matrix(columns, new_columns)), maps.dtype), maps)
    return maps


def adaptive_mean_matrix(n, m):
    """Means over m bins, from floor(i n / m) to ceil((i + 1) n / m): (m, n), as adaptive pooling of PyTorch has it."""
    low, high = np.arange(m) * n // m, -(-(np.arange(m) + 1) * n // m)
    inside = (np.arange(n) >= low[:, None]) & (np.arange(n) < high[:, None])
    return inside / inside.sum(1, keepdims=True)


def bilinear_matrix(n, m):
    """Linear interpolation between pixel centres, the border repeated: (m, n), as `interpolate` of PyTorch has it."""
    centres = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(n)))


def bicubic_matrix(n, m, a=-0.75):
    """Cubic convolution (Keys, 1981, equation 4, with PyTorch's a) between pixel centres: (m, n), the border repeated.

    The kernel is not widened where the axis gets smaller.
    """
    centres = (np.arange(m) + 0.5) * n / m - 0.5
    taps = np.floor(centres).astype(int)[:, None] + np.arange(-1, 3)
    x = np.abs(centres[:, None] - taps)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    matrix = np.zeros((m, n))
    np.add.at(matrix, (np.arange(m)[:, None], np.clip(taps, 0, n - 1)), np.where(x <= 1, near, far))
    return matrix


def geometric_positions(n, m):
    """Places (n,) of n = 2k + 1 relative distances, -k to k, among m of a larger grid, by BEiT's authors.

    Distance j is put at 1 + q + ... + q^(j - 1), with the q that puts k at the end of the new grid, so that short
    distances keep their places. Where no q in `RATIOS` does, the nearest one; so a smaller grid is cut out of the old.
    """
    low, high = RATIOS
    while high - low > 1e-9:
        q = (low + high) / 2
        low, high = (low, q) if np.sum(q ** np.arange(n // 2)) > m // 2 else (q, high)
    distances = np.cumsum(low ** np.arange(n // 2))
    return np.concatenate([-distances[::-1], [0], distances])


def geometric_matrix(n, m):
    """Cubic spline through `geometric_positions` at the distances of the new grid: (m, n), n and m odd.

    The spline is not-a-knot, as in `scipy.interpolate`; beyond the last distance its value is kept.
    """
    from scipy.interpolate import make_interp_spline

    places, distances = geometric_positions(n, m), np.arange(m) - m // 2
    spline = make_interp_spline(places, np.eye(n), k=min(3, n - 1))
    return spline(np.clip(distances, places[0], places[-1]))
