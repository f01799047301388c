"""Gaussian noise: a regularizing layer, and the reparameterized sampling of codings (latents).

Random numbers come from the counter-based hash of `layers/dropout.py`, which XLA fuses into what uses them: on a CPU
`keras.random` takes longer than the dense layers around it. Shapes: b batch, c coding.
"""

import math

import keras
import numpy as np
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError
from homl_models.layers.dropout import random_bits


def uniform(shape, seed, row=None):
    """Independent uniform float32 numbers of that shape in [0, 1), from `seed` (2,), see `dropout.random_bits`.

    They are multiples of 2^-24. row: index of the first row, see there.
    """
    bits = random_bits(shape, seed, row)
    return ops.cast(ops.bitwise_right_shift(bits, np.uint32(8)), "float32") * 2.0**-24


def normal(shape, seed, dtype="float32", row=None):
    """Independent standard normal numbers of that shape, from `seed` (2,); their absolute value is at most 5.8.

    Box-Muller transform (1958): sqrt(-2 ln u) cos(2 pi v) with u in (0, 1] and v in [0, 1), multiples of 2^-24.
    Row i of a seed is the same for any number of rows. row: index of the first row, to get rows of a larger array;
    None for 0.
    """
    u, v = ops.unstack(uniform((shape[0], 2, *shape[1:]), seed, row), axis=1)
    return ops.cast(ops.sqrt(-2 * ops.log(u + 2.0**-24)) * ops.cos(2 * math.pi * v), dtype)


@keras.saving.register_keras_serializable("homl_models")
class GaussianNoise(Layer):
    """Additive Gaussian noise, active in training only: (...) -> (...).

    Replaces `keras.layers.GaussianNoise`, which refuses a `stddev` above 1 and whose random numbers are slow under XLA
    on a CPU (see `layers/dropout.py`). It may be removed when Keras has neither limit.

    Args:
        stddev: standard deviation of the noise, 0 or more; `UserError` for another.
        seed: of the noise; the sequence of calls is then the same every time.
    """

    def __init__(self, stddev, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= stddev < math.inf:
            raise UserError(f"stddev must be 0 or more, not {stddev}")
        self.stddev, self.seed = stddev, seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, inputs, training=False):
        if not training or not self.stddev:
            return inputs
        return inputs + self.stddev * normal(ops.shape(inputs), self.seed_generator.next(), inputs.dtype)


@keras.saving.register_keras_serializable("homl_models")
class Sampling(Layer):
    """Reparameterization trick (Kingma & Welling, 2013): mean and log-variance, (b, c) each -> codings (b, c).

    A sample of N(mean, exp(log_var)), mean + exp(log_var / 2) * noise. Keras has no layer for it.

    Args:
        seed: of the noise; the sequence of calls is then the same every time.
    """

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, inputs):
        mean, log_var = inputs
        noise = normal(ops.shape(mean), self.seed_generator.next(), mean.dtype)
        return mean + ops.exp(log_var / 2) * noise

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def kl_divergence(mean, log_var):
    """KL divergence of N(mean, exp(log_var)) from N(0, I) in nats: (..., c) twice -> (...) (equation 17-4)."""
    return -0.5 * ops.sum(1 + log_var - ops.exp(log_var) - ops.square(mean), axis=-1)
