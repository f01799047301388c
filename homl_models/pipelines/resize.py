"""MATLAB's `imresize`: bicubic interpolation that widens its kernel when it makes an image smaller.

Low-resolution images of the literature on super-resolution are made by it; other libraries interpolate without
antialiasing, or with another kernel, and differ by decibels.
"""

import functools

import numpy as np


def cubic(x):
    """Kernel of Keys (1981, Cubic convolution interpolation for digital image processing, equation 4) with a = -0.5."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@functools.lru_cache(maxsize=256)
def resize_matrix(size, new_size, scale):
    """Weights (new_size, size), float64: row i interpolates pixel i of the new axis.

    Beyond the border its outermost pixel is repeated (newer versions of MATLAB mirror the image there instead); each
    row sums to 1.
    """
    stretch = min(scale, 1.0)  # of the kernel, against aliasing
    width = 4 / stretch
    centers = (np.arange(new_size) + 0.5) / scale - 0.5
    taps = np.floor(centers - width / 2).astype(int)[:, None] + np.arange(int(np.ceil(width)) + 2)
    weights = cubic(stretch * (centers[:, None] - taps))
    weights /= weights.sum(1, keepdims=True)
    taps = np.clip(taps, 0, size - 1)
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (np.arange(new_size)[:, None], taps), weights)
    matrix.setflags(write=False)
    return matrix


def imresize(image, scale):
    """An image (h, w) or (h, w, c), bytes or floats, of `scale` times the size, rounded up; of the same type.

    As in MATLAB bytes are rounded after the rows and after the columns.
    """
    height, width = image.shape[:2]
    rows, columns = (resize_matrix(n, int(np.ceil(n * scale)), float(scale)) for n in (height, width))

    def rounded(x):
        return np.floor(np.clip(x, 0, 255) + 0.5) if image.dtype == np.uint8 else x

    x = rounded(np.tensordot(rows, np.float64(image), axes=1))
    x = rounded(np.moveaxis(np.tensordot(columns, x, axes=(1, 1)), 0, 1))
    return x.astype(image.dtype)
