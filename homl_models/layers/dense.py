"""Keras' dense layer, in a form that TensorFlow joins with what follows it."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable("homl_models")
class Dense(keras.layers.Dense):
    """As `keras.layers.Dense`; everything but the last axis is one, so that it is a product of two matrices.

    Where nothing is learnt, oneDNN then computes product, bias and activation in one operation.
    """

    def call(self, inputs, training=None):
        if len(inputs.shape) < 3:
            return super().call(inputs, training=training)
        flat = super().call(ops.reshape(inputs, (-1, inputs.shape[-1])), training=training)
        return ops.reshape(flat, (*ops.shape(inputs)[:-1], self.units))

    def quantize(self, mode=None, type_check=True, config=None):
        """Keras', which leaves subclasses out unless they ask to be taken."""
        return super().quantize(mode, type_check=False, config=config)


def gelu(x):
    """The exact GELU, x P(X < x) (Hendrycks & Gimpel, 2016, https://arxiv.org/abs/1606.08415)."""
    if keras.backend.standardize_dtype(x.dtype) != "float32":  # 1 + erf would lose what is left of it
        return ops.gelu(x, approximate=False)
    return 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))
