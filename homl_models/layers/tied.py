"""Weight tying: a dense layer with the transposed kernel of another."""

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError


@keras.saving.register_keras_serializable("homl_models")
class DenseTranspose(Layer):
    """Transposed dense layer with tied weights: (..., units of `dense`) -> (..., inputs of `dense`).

    It has the transposed kernel of `dense` and a bias of its own. Keras has no such layer. Raises `UserError` if it is
    built before `dense`.

    Args:
        dense: a `keras.layers.Dense`. It stays shared through training, `.keras` files (of a model that holds both)
            and export.
        activation: as in `keras.layers.Dense`.
    """

    def __init__(self, dense, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        if not self.dense.built:
            raise UserError(f"DenseTranspose needs the layer that it transposes, {self.dense.name}, to be built first")
        self.bias = self.add_weight(name="bias", shape=(self.dense.kernel.shape[0],), initializer="zeros")

    def call(self, inputs):
        kernel = ops.cast(self.dense.kernel, inputs.dtype)
        return self.activation(ops.matmul(inputs, ops.transpose(kernel)) + ops.cast(self.bias, inputs.dtype))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.dense.kernel.shape[0])
