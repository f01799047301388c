"""What a batch has in common (Karras et al., 2017, Progressive growing of GANs, section 3)."""

import keras
from keras import ops

from homl_models.base import Layer


@keras.saving.register_keras_serializable("homl_models")
class MinibatchStddev(Layer):
    """(b, ..., n) -> (b, ..., n + 1): how much the batch differs, everywhere the same number, in the last place.

    The standard deviation over the batch of every place and feature, and of those the mean; the batch is one group.
    """

    def call(self, x):
        wide = ops.cast(x, "float32")
        variance = ops.mean(ops.square(wide - ops.mean(wide, axis=0, keepdims=True)), axis=0)
        number = ops.mean(ops.sqrt(variance + 1e-8))
        return ops.concatenate([x, ops.ones_like(x[..., :1]) * ops.cast(number, x.dtype)], axis=-1)
