"""Minibatch standard deviation (Karras et al., 2017, https://arxiv.org/abs/1710.10196, section 3)."""

import keras
from keras import ops

from homl_models.base import Layer


@keras.saving.register_keras_serializable("homl_models")
class MinibatchStddev(Layer):
    """Minibatch standard deviation: (b, ..., n) -> (b, ..., n + 1).

    The standard deviation over the batch of each feature at each position, averaged over all of them, is appended as a
    constant feature. The batch is one group.
    """

    def call(self, x):
        wide = ops.cast(x, "float32")
        variance = ops.mean(ops.square(wide - ops.mean(wide, axis=0, keepdims=True)), axis=0)
        stddev = ops.mean(ops.sqrt(variance + 1e-8))
        return ops.concatenate([x, ops.ones_like(x[..., :1]) * ops.cast(stddev, x.dtype)], axis=-1)
