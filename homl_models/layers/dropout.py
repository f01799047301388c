"""`keras.layers.Dropout` with random numbers that cost next to nothing.

Under XLA on a CPU the numbers that Keras draws for a dropout take longer than the layers around it
(100 ns each; `benchmarks/dropout.py`). Ours are hashes of their place, keyed by the layer's seed and the
step, which XLA fuses into the multiplication: two rounds of the 32-bit finalizer "lowbias32" (Wellons,
2018, https://nullprogram.com/blog/2018/07/31/). Which units are dropped differs from Keras'; how many,
what is left, the configuration and the seed's state do not. Without XLA ours takes half as long again.
"""

import contextlib
import math

import keras
import numpy as np
from keras import ops

from homl_models import devices


def lowbias32(x):
    """A bijection of uint32 (any shape) in which every bit of the input changes every bit of the output."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = ops.bitwise_xor(x, ops.bitwise_right_shift(x, np.uint32(shift))) * np.uint32(factor)
    return ops.bitwise_xor(x, ops.bitwise_right_shift(x, np.uint32(15)))


def random_bits(shape, seed, row=None):
    """Independent uint32 of that shape, uniform, from `seed` (2,): what `SeedGenerator.next()` gives.

    row: the number of the first row, to get rows of a larger array; None for 0.
    Others on each device of several that train together.
    """
    key = ops.cast(seed, "uint32") + devices.replica_id() * np.uint32([0, 0x85EBCA6B])
    first, second = lowbias32(lowbias32(key[0]) + key[1]), lowbias32(lowbias32(key[1] + np.uint32(0x9E3779B9)) + key[0])
    place = ops.cast(ops.reshape(ops.arange(math.prod(shape)), shape), "uint32")
    if row is not None:
        place = place + ops.cast(row, "uint32") * ops.cast(math.prod(shape[1:]), "uint32")
    return lowbias32(ops.bitwise_xor(lowbias32(place + first), second))


@keras.saving.register_keras_serializable("homl_models")
class Dropout(keras.layers.Dropout):
    """(...) -> (...): in training a share `rate` of units is 0 and the rest grows by 1 / (1 - rate)."""

    fixed_seed = None  # taken instead of the generator's next, if there is one

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        if self.noise_shape is not None:
            return super().call(inputs, training=training)
        if self.rate == 1:
            return ops.zeros_like(inputs)
        seed = self.seed_generator.next() if self.fixed_seed is None else self.fixed_seed
        bits = random_bits(ops.shape(inputs), seed)
        kept = bits >= np.uint32(self.rate * 2**32)
        return ops.where(kept, inputs / (1 - self.rate), 0)


@contextlib.contextmanager
def _seeded(dropouts, seeds):
    for dropout, seed in zip(dropouts, seeds):
        dropout.fixed_seed = seed
    try:
        yield
    finally:
        for dropout in dropouts:
            dropout.fixed_seed = None


def rematerialized(function, dropouts):
    """`function` of tensors, computed again for its gradients instead of kept (Chen et al., 2016, arXiv:1604.06174).

    dropouts: the layers of dropout in it, which drop the same units both times.
    """
    active = [dropout for dropout in dropouts if dropout.rate]

    def again(seeds, *tensors):
        with _seeded(active, seeds):
            return function(*tensors)

    def once(*tensors):
        return keras.remat(again)([dropout.seed_generator.next() for dropout in active], *tensors)

    return once
