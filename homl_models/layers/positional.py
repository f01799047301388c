"""Where a token stands: encodings that are added to embeddings.

Vaswani et al., 2017, Attention Is All You Need, section 3.5 (https://arxiv.org/abs/1706.03762).
Shapes: b batch, t time, d dimension.
"""

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError


def sinusoids(positions, dim, max_wavelength=10_000.0):
    """Positions (...) -> (..., dim): sin(p / max_wavelength^(2i/dim)) in place 2i, the cosine in place 2i + 1."""
    if dim % 2:
        raise UserError(f"sine and cosine come in pairs: the dimension must be even, not {dim}")
    rates = ops.power(ops.cast(max_wavelength, "float32"), -ops.arange(0, dim, 2, dtype="float32") / dim)
    angles = ops.cast(positions, "float32")[..., None] * rates
    pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)  # (..., dim / 2, 2)
    return ops.reshape(pairs, (*ops.shape(angles)[:-1], dim))


@keras.saving.register_keras_serializable("homl_models")
class PositionalEncoding(Layer):
    """Adds sines and cosines of the positions to (b, t, d), any t; d must be even.

    Called with `positions` (..., t), those are taken instead of 0, 1, 2, ...
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
    """Adds a trained vector for each position to (b, t, d), t at most `max_length`.

    Called with `positions` (..., t), those are taken instead of 0, 1, 2, ... Raises `UserError` where
    t is known and too large.
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
