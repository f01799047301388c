"""Layers that make or change masks: convolution over windows of steps, and pooling by attention.

Shapes: b batch, t steps, d dimension, k steps of a window, w windows, u units.
"""

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.layers.attention import softmax


@keras.saving.register_keras_serializable("homl_models")
class MaskedConv1D(Layer):
    """Convolution over windows that do not overlap: (b, t, d) -> (b, w, filters), w = t / k rounded up.

    `keras.layers.Conv1D` drops masks. This layer takes masked steps for zeros, so that padding changes no output, and
    its `compute_mask` masks the windows in which all steps are masked.

    Args:
        filters: units of the output.
        kernel_size: k.
        activation: a name, or None.
    """

    def __init__(self, filters, kernel_size=2, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.activation = filters, kernel_size, activation

    def build(self, input_shape):
        self.dense = keras.layers.Dense(self.filters, activation=self.activation, dtype=self.dtype_policy)
        self.dense.build((None, None, self.kernel_size * input_shape[-1]))

    def compute_output_shape(self, input_shape):
        batch, steps, _ = input_shape
        return batch, steps and -(-steps // self.kernel_size), self.filters

    def call(self, x, mask=None):
        if mask is not None:
            x = ops.where(mask[..., None], x, ops.zeros_like(x))
        k, (b, t) = self.kernel_size, ops.shape(x)[:2]
        windows = (t + k - 1) // k
        x = ops.pad(x, [[0, 0], [0, k - 1], [0, 0]])[:, : windows * k]
        return self.dense(ops.reshape(x, (b, windows, k * x.shape[-1])))

    def compute_mask(self, inputs, previous_mask=None):
        if previous_mask is None:
            return None
        real = ops.pad(ops.cast(previous_mask, "float32"), [[0, 0], [0, self.kernel_size - 1]])
        return ops.max_pool(real[..., None], self.kernel_size, self.kernel_size)[..., 0] > 0


@keras.saving.register_keras_serializable("homl_models")
class AttentionPooling(Layer):
    """Mean of all steps, weighted by attention (Yang et al., 2016, Hierarchical Attention Networks, equations 5 to 7):
    (b, t, d) -> (b, d).

    u_t = tanh(W x_t + b), alpha = softmax(u_t . v), s = sum of alpha_t x_t; 0 for masked steps.

    Args:
        units: of u.
    """

    def __init__(self, units=64, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.dense = keras.layers.Dense(self.units, activation="tanh", dtype=self.dtype_policy)
        self.dense.build(input_shape)
        self.context = self.add_weight(shape=(self.units, 1), name="context")

    def weights_of_steps(self, x, mask=None):
        """Steps (b, t, d) -> alpha (b, t), float32."""
        return softmax(ops.matmul(self.dense(x), ops.cast(self.context, self.compute_dtype))[..., 0], mask)

    def call(self, x, mask=None):
        alpha = ops.cast(self.weights_of_steps(x, mask), x.dtype)
        return ops.matmul(alpha[:, None], x)[:, 0]

    def compute_output_shape(self, input_shape):
        return input_shape[0], input_shape[-1]

    def compute_mask(self, inputs, previous_mask=None):
        return None
