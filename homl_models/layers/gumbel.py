"""Gumbel-softmax (Jang et al., 2017, https://arxiv.org/abs/1611.01144; Maddison et al., 2017, https://arxiv.org/abs/1611.00712).

A categorical variable with logits l is the argmax of l + g, with Gumbel noise g; softmax((l + g) / tau) relaxes it to a
differentiable sample, which is one-hot as tau -> 0. Shapes: k categories.
"""

import math

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.layers.gaussian import uniform


def gumbel(shape, seed):
    """Independent standard Gumbel numbers of that shape, float32 in [-2.9, 17.4], from `seed` (2,).

    g = -ln(-ln(1 - u)) with u in [2^-25, 1), so that the upper tail, which decides the argmax, is the finer one.
    """
    u = ops.maximum(uniform(shape, seed), 2.0**-25)
    return -ops.log(-ops.log1p(-u))


def one_hot_argmax(logits):
    """Logits (..., k) -> float32 (..., k), 1 at the largest."""
    return ops.one_hot(argmax(logits), logits.shape[-1], dtype="float32")


def argmax(logits):
    """Logits (..., k) -> index of the largest (...), int32."""
    return ops.cast(ops.top_k(logits, 1)[1][..., 0], "int32")  # XLA computes argmax number by number


def kl_to_uniform(logits):
    """KL divergence of softmax(logits) (..., k) from the uniform distribution, in nats: (...), 0 to ln k."""
    log_q = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    return math.log(logits.shape[-1]) + ops.sum(ops.exp(log_q) * log_q, axis=-1)


@keras.saving.register_keras_serializable("homl_models")
class GumbelSoftmax(Layer):
    """Relaxed one-hot sample of a categorical distribution: logits (..., k) -> (..., k), float32, with sum 1.

    softmax((logits + g) / temperature) with new Gumbel noise g at each call (Jang et al., equation 2).

    Args:
        straight_through: return the one-hot argmax of the sample, with the gradient of the sample itself.
        seed: of the noise; the sequence of calls is then the same every time.
    """

    def __init__(self, straight_through=False, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.straight_through, self.seed = straight_through, seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, logits, temperature=1.0):
        logits = ops.cast(logits, "float32")
        noisy = logits + gumbel(ops.shape(logits), self.seed_generator.next())
        relaxed = ops.softmax(noisy / temperature, axis=-1)
        if not self.straight_through:
            return relaxed
        return relaxed + ops.stop_gradient(one_hot_argmax(noisy) - relaxed)
