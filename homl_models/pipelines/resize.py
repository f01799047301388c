"""MATLAB's `imresize`: bicubic interpolation that widens its kernel when it makes an image smaller.

Low-resolution images of the literature on super-resolution are made by it; other libraries interpolate without
antialiasing, or with another kernel, and differ by decibels.
"""

import functools

import numpy as np


def cubic(x, a=-0.5):
    """Kernel of Keys (1981, Cubic convolution interpolation for digital image processing, section II)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@functools.lru_cache(maxsize=256)
def interpolation(size, new_size, scale):
    """Pixels (new_size, taps) of an axis that a pixel of the new axis is made of, and their weights, float64.

    Beyond the border its outermost pixel is repeated (newer versions of MATLAB mirror the image there instead); the
    weights of a pixel sum to 1.
    """
    stretch = min(scale, 1.0)  # of the kernel, against aliasing
    width = 4 / stretch
    centers = (np.arange(new_size) + 0.5) / scale - 0.5
    taps = np.floor(centers - width / 2).astype(int)[:, None] + np.arange(int(np.ceil(width)) + 2)
    weights = cubic(stretch * (centers[:, None] - taps))
    weights /= weights.sum(1, keepdims=True)
    taps = np.clip(taps, 0, size - 1)
    for array in (taps, weights):
        array.setflags(write=False)
    return taps, weights


def resize_matrix(size, new_size, scale):
    """`interpolation` as a matrix (new_size, size), float64."""
    taps, weights = interpolation(size, new_size, scale)
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (np.arange(new_size)[:, None], taps), weights)
    return matrix


def imresize(image, scale):
    """An image (h, w) or (h, w, c), bytes or floats, of `scale` times the size, rounded up; of the same type.

    As in MATLAB bytes are rounded after the rows and after the columns.
    """
    x = np.float64(image)
    for _ in (0, 1):
        size = x.shape[0]
        taps, weights = interpolation(size, int(np.ceil(size * scale)), float(scale))
        weights = weights.reshape(*weights.shape, *[1] * (x.ndim - 1))
        x = sum(weights[:, k] * x[taps[:, k]] for k in range(taps.shape[1]))  # products of matrices fight over cores
        if image.dtype == np.uint8:
            x = np.floor(np.clip(x, 0, 255) + 0.5)
        x = np.swapaxes(x, 0, 1)
    return x.astype(image.dtype)
