"""Dense layer whose bias and activation TensorFlow fuses into the matrix product, and GELU."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable("homl_models")
class Dense(keras.layers.Dense):
    """Dense layer: (..., n) -> (..., units), as one product of two matrices.

    Replaces `keras.layers.Dense`, with its arguments, weights and outputs: all axes but the last are flattened. In
    inference TensorFlow then computes product, bias and activation in one oneDNN operation, which it does for
    products of matrices only. Part of what makes BERT-base read 1.16 times as fast as with Keras' layers
    (`benchmarks/bert.py`). It may be removed when Keras flattens, or TensorFlow fuses batched products.
    """

    def call(self, inputs, training=None):
        if len(inputs.shape) < 3:
            return super().call(inputs, training=training)
        flat = super().call(ops.reshape(inputs, (-1, inputs.shape[-1])), training=training)
        return ops.reshape(flat, (*ops.shape(inputs)[:-1], self.units))

    def quantize(self, mode=None, type_check=True, config=None):
        """As in Keras, whose check of the type refuses subclasses unless they turn it off."""
        return super().quantize(mode, type_check=False, config=config)


def gelu(x):
    """Exact GELU, x P(X < x) for a standard normal X (Hendrycks & Gimpel, 2016, https://arxiv.org/abs/1606.08415)."""
    if keras.backend.standardize_dtype(x.dtype) != "float32":  # in half precision 1 + erf cancels
        return ops.gelu(x, approximate=False)
    return 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))
