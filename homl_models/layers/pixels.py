"""Pixels: to channels and back in PyTorch's order of channels, and enlarged by interpolation.

TensorFlow's `space_to_depth` and `depth_to_space` number the new channels (row, column, channel), PyTorch's
`pixel_unshuffle` and `pixel_shuffle` (channel, row, column); weights of the community expect the latter.
Shapes: b batch, h height, w width, c channels, r factor.
"""

import math

import numpy as np
from keras import ops

TAPS = np.arange(5) - 2  # pixels that an enlarged one is made of, at most, counted from its own


def pixel_unshuffle(x, factor):
    """(b, h, w, c) -> (b, h / r, w / r, c * r * r); h and w are multiples of r."""
    height, width, channels = ops.shape(x)[1], ops.shape(x)[2], x.shape[-1]
    x = ops.reshape(x, (-1, height // factor, factor, width // factor, factor, channels))
    x = ops.transpose(x, (0, 1, 3, 5, 2, 4))
    return ops.reshape(x, (-1, height // factor, width // factor, channels * factor * factor))


def pixel_shuffle(x, factor):
    """(b, h, w, c * r * r) -> (b, r * h, r * w, c) (Shi et al., 2016, https://arxiv.org/abs/1609.05158, equation 4)."""
    height, width, channels = ops.shape(x)[1], ops.shape(x)[2], x.shape[-1] // (factor * factor)
    x = ops.reshape(x, (-1, height, width, channels, factor, factor))
    x = ops.transpose(x, (0, 1, 4, 2, 5, 3))
    return ops.reshape(x, (-1, height * factor, width * factor, channels))


def upsample_nearest(x, factor=2):
    """(b, h, w, c) -> (b, r * h, r * w, c), each pixel repeated."""
    return ops.repeat(ops.repeat(x, factor, axis=1), factor, axis=2)


def upsample_bilinear(x, factor):
    """(b, h, w, c) -> (b, r * h, r * w, c), linear between the centers of pixels, the border repeated.

    As PyTorch's `interpolate(mode="bilinear", align_corners=False)`.
    """
    return _interpolate(x, factor, lambda d: np.maximum(1 - np.abs(d), 0))


def upsample_bicubic(x, factor):
    """(b, h, w, c) -> (b, r * h, r * w, c), the border repeated: MATLAB's `imresize` of floats, for a whole factor.

    The kernel is that of Keys (1981, https://doi.org/10.1109/TASSP.1981.1163711, equation 15), with a = -0.5.
    """
    return _interpolate(x, factor, _keys)


def reach_of_bicubic(radius, factor):
    """Pixels of an image on each side that one of its bicubic enlargement, and `radius` more around it, come from."""
    return radius if factor == 1 else 1 + math.ceil((radius - 0.5) / factor + 0.5)


def _keys(distance):
    d = np.abs(distance)
    return np.where(d < 1, (1.5 * d - 2.5) * d**2 + 1, np.where(d < 2, ((2.5 - 0.5 * d) * d - 4) * d + 2, 0))


def _interpolate(x, factor, kernel):
    """Rows, then columns: each of r pixels to come is a weighted sum of five of the smaller image."""
    if factor == 1:
        return x
    centers = (np.arange(factor) + 0.5) / factor - 0.5
    weights = ops.cast(kernel(centers - TAPS[:, None]), x.dtype)  # (5, r)
    for axis in (1, 2):
        x = _enlarge(x, factor, weights, axis)
    return x


def _enlarge(x, factor, weights, axis):
    shape = list(ops.shape(x))
    first, last = (x[:, :1], x[:, -1:]) if axis == 1 else (x[:, :, :1], x[:, :, -1:])
    padded = ops.concatenate([first, first, x, last, last], axis=axis)
    size = shape[axis]
    parts = [padded[:, i : i + size] if axis == 1 else padded[:, :, i : i + size] for i in range(len(TAPS))]
    x = ops.matmul(ops.stack(parts, axis=-1), weights)  # (b, h, w, c, r)
    x = ops.moveaxis(x, -1, axis + 1)
    return ops.reshape(x, (-1, *shape[1:axis], size * factor, *shape[axis + 1 :]))
