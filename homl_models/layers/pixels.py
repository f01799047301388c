"""Pixels to channels and back, in PyTorch's order of channels.

TensorFlow's `space_to_depth` and `depth_to_space` number the new channels (row, column, channel), PyTorch's
`pixel_unshuffle` and `pixel_shuffle` (channel, row, column); weights of the community expect the latter.
Shapes: b batch, h height, w width, c channels, r factor.
"""

from keras import ops


def pixel_unshuffle(x, factor):
    """(b, h, w, c) -> (b, h / r, w / r, c * r * r)."""
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
