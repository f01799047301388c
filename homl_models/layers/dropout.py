"""Dropout by counter-based random bits, a replacement of `keras.layers.Dropout`, and stochastic depth.

Under XLA on a CPU the random numbers of Keras' dropout take longer than the layers around it, 100 ns each. These bits
are a hash of an element's index, keyed by the layer's seed and the step, which XLA fuses into the multiplication: two
rounds of the 32-bit finalizer "lowbias32" (Wellons, 2018, https://nullprogram.com/blog/2018/07/31/).
"""

import contextlib
import math

import keras
import numpy as np
from keras import ops

from homl_models import devices


def lowbias32(x):
    """Integer hash: a bijection of uint32 (any shape) in which every input bit changes every output bit."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = ops.bitwise_xor(x, ops.bitwise_right_shift(x, np.uint32(shift))) * np.uint32(factor)
    return ops.bitwise_xor(x, ops.bitwise_right_shift(x, np.uint32(15)))


def random_bits(shape, seed, row=None):
    """Independent uniform uint32 of that shape, from `seed` (2,), as `SeedGenerator.next()` returns it.

    row: index of the first row, to get rows of a larger array; None for 0.
    Replicas that train together get different bits.
    """
    key = ops.cast(seed, "uint32") + devices.replica_id() * np.uint32([0, 0x85EBCA6B])
    first, second = lowbias32(lowbias32(key[0]) + key[1]), lowbias32(lowbias32(key[1] + np.uint32(0x9E3779B9)) + key[0])
    index = ops.cast(ops.reshape(ops.arange(math.prod(shape)), shape), "uint32")
    if row is not None:
        index = index + ops.cast(row, "uint32") * ops.cast(math.prod(shape[1:]), "uint32")
    return lowbias32(ops.bitwise_xor(lowbias32(index + first), second))


@keras.saving.register_keras_serializable("homl_models")
class Dropout(keras.layers.Dropout):
    """Inverted dropout: in training a fraction `rate` of units (...) is 0 and the rest is scaled by 1 / (1 - rate).

    Replaces `keras.layers.Dropout`, with its arguments, configuration and seed state, for its speed: under XLA on a CPU
    a dropout and its gradient take 2.7 ms where Keras' take 64 (`benchmarks/dropout.py`); without XLA half as long
    again as Keras'. Other units are dropped for the same seed. It may be removed when Keras' random numbers are fused
    by XLA on a CPU.

    Args:
        rate, noise_shape, seed: as of `keras.layers.Dropout`, whose own code serves a `noise_shape`.
    """

    fixed_seed = None  # (2,), used instead of the seed generator's next if it is set

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        if self.noise_shape is not None:
            return super().call(inputs, training=training)
        if self.rate == 1:
            return ops.zeros_like(inputs)
        seed = self.seed_generator.next() if self.fixed_seed is None else self.fixed_seed
        bits = random_bits(self.units_shape(inputs), seed)
        kept = bits >= np.uint32(self.rate * 2**32)
        return ops.where(kept, inputs / (1 - self.rate), 0)

    def units_shape(self, inputs):
        """Shape of what is dropped independently of each other; it broadcasts to the inputs'."""
        return ops.shape(inputs)


@keras.saving.register_keras_serializable("homl_models")
class DropPath(Dropout):
    """Stochastic depth (Huang et al., 2016, https://arxiv.org/abs/1603.09382), for the output of a residual branch.

    In training a fraction `rate` of examples (b, ...) is 0 and the rest is scaled by 1 / (1 - rate).

    Args:
        rate, seed: as of `keras.layers.Dropout`.
    """

    def units_shape(self, inputs):
        return (ops.shape(inputs)[0], *(1,) * (len(inputs.shape) - 1))


@contextlib.contextmanager
def _seeded(dropouts, seeds):
    """Context in which each of the dropout layers uses its seed of `seeds`."""
    for dropout, seed in zip(dropouts, seeds):
        dropout.fixed_seed = seed
    try:
        yield
    finally:
        for dropout in dropouts:
            dropout.fixed_seed = None


def rematerialized(function, dropouts):
    """Rematerialization (gradient checkpointing; Chen et al., 2016, https://arxiv.org/abs/1604.06174).

    Returns `function` of tensors with its activations computed again in the backward pass instead of stored.
    dropouts: the dropout layers in it, which drop the same units both times, as `keras.remat` alone would not.
    """
    active = [dropout for dropout in dropouts if dropout.rate]

    def with_seeds(seeds, *tensors):
        with _seeded(active, seeds):
            return function(*tensors)

    def call(*tensors):
        return keras.remat(with_seeds)([dropout.seed_generator.next() for dropout in active], *tensors)

    return call
