"""Positional encodings, which are added to token embeddings.

Vaswani et al., 2017, Attention Is All You Need, section 3.5 (https://arxiv.org/abs/1706.03762).
Shapes: b batch, t time, d dimension.
"""

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError


def sinusoids(positions, dim, max_wavelength=10_000.0):
    """Sinusoidal encoding of positions (...) -> (..., dim).

    PE(pos, 2i) = sin(pos / max_wavelength^(2i / dim)), and the cosine at 2i + 1. `UserError` for an odd dim.
    """
    if dim % 2:
        raise UserError(f"sine and cosine come in pairs: the dimension must be even, not {dim}")
    rates = ops.power(ops.cast(max_wavelength, "float32"), -ops.arange(0, dim, 2, dtype="float32") / dim)
    angles = ops.cast(positions, "float32")[..., None] * rates
    pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)  # (..., dim / 2, 2)
    return ops.reshape(pairs, (*ops.shape(angles)[:-1], dim))


@keras.saving.register_keras_serializable("homl_models")
class PositionalEncoding(Layer):
    """Sinusoidal positional encoding, added to (b, t, d), any t.

    Positions are 0, 1, 2, ..., or `positions` (..., t) of the call. Raises `UserError` for an odd d.

    Args:
        max_wavelength: the longest wavelength, in positions, divided by 2 pi; the paper's 10,000.
    """

    def __init__(self, max_wavelength=10_000.0, **kwargs):
        super().__init__(**kwargs)
        self.max_wavelength = max_wavelength

    def build(self, input_shape):
        if input_shape[-1] % 2:
            raise UserError(f"sine and cosine come in pairs: the dimension must be even, not {input_shape[-1]}")

    def call(self, x, positions=None):
        positions = ops.arange(ops.shape(x)[1]) if positions is None else positions
        return x + ops.cast(sinusoids(positions, x.shape[-1], self.max_wavelength), x.dtype)


@keras.saving.register_keras_serializable("homl_models")
class LearnedPositionalEmbedding(Layer):
    """Learned positional embedding, added to (b, t, d), t at most `max_length`.

    Positions are 0, 1, 2, ..., or `positions` (..., t) of the call. Raises `UserError` where t is static and too large.

    Args:
        max_length: number of positions.
    """

    def __init__(self, max_length, **kwargs):
        super().__init__(**kwargs)
        self.max_length = max_length

    def build(self, input_shape):
        self.embeddings = self.add_weight(
            shape=(self.max_length, input_shape[-1]), initializer=keras.initializers.RandomNormal(stddev=0.02)
        )

    def call(self, x, positions=None):
        if positions is None:
            if x.shape[1] is not None and x.shape[1] > self.max_length:
                raise UserError(f"{x.shape[1]} positions are more than the {self.max_length} that were trained")
            positions = ops.arange(ops.shape(x)[1])
        return x + ops.take(ops.cast(self.embeddings, x.dtype), positions, axis=0)
