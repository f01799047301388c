"""Gaussian noise: added to inputs, and as the draw of a coding from its distribution.

The numbers come from the hashes of `layers/dropout.py`, which XLA fuses into what uses them: on a CPU
Keras' own take longer than the dense layers around them. Shapes: b batch, c coding.
"""

import math

import keras
import numpy as np
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError
from homl_models.layers.dropout import random_bits


def uniform(shape, seed, row=None):
    """Independent numbers of that shape in [0, 1), multiples of 2^-24, from `seed` (2,); row: see `random_bits`."""
    bits = random_bits(shape, seed, row)
    return ops.cast(ops.bitwise_right_shift(bits, np.uint32(8)), "float32") * 2.0**-24


def normal(shape, seed, dtype="float32", row=None):
    """Independent standard normal numbers of that shape from `seed` (2,); at most 5.8 in size.

    Row i of a seed is the same in an array of any number of rows. row: the number of the first row; None for 0.
    Box and Muller, 1958: sqrt(-2 ln u) cos(2 pi v) with u in (0, 1] and v in [0, 1), multiples of 2^-24.
    """
    u, v = ops.unstack(uniform((shape[0], 2, *shape[1:]), seed, row), axis=1)
    return ops.cast(ops.sqrt(-2 * ops.log(u + 2.0**-24)) * ops.cos(2 * math.pi * v), dtype)


@keras.saving.register_keras_serializable("homl_models")
class GaussianNoise(Layer):
    """(...) -> (...): in training adds noise of standard deviation `stddev`, 0 or more (Keras' allows 1 at most)."""

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
    """Mean and log-variance, (b, c) each -> codings (b, c), mean + exp(log_var / 2) * noise (Kingma & Welling, 2013).

    seed: makes the sequence of draws the same every time.
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
    """KL(N(mean, exp(log_var)) || N(0, 1)) in nats, summed over the coding: (..., c) twice -> (...) (equation 17-4)."""
    return -0.5 * ops.sum(1 + log_var - ops.exp(log_var) - ops.square(mean), axis=-1)
