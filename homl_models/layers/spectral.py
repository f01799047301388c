"""Convolution with spectral normalization (Miyato et al., 2018, https://arxiv.org/abs/1802.05957).

`keras.layers.SpectralNormalization` overwrites the kernel with its normalized self at every step, so that no gradient
goes through the norm; here the kernel keeps its length and the gradient of equation 12 is taken, as in PyTorch. It may
go when Keras does the same. Shapes: o filters, k what a filter reads (height * width * channels).
"""

import keras
from keras import ops


def normalized(vector):
    return vector / (ops.sqrt(ops.sum(ops.square(vector))) + 1e-12)


@keras.saving.register_keras_serializable("homl_models")
class SpectralNormConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose kernel, as a matrix (k, o), is divided by its largest singular value.

    The singular value is estimated by one step of power iteration in each call with training=True (algorithm 1); the
    first singular vector of the outputs is kept as a weight, "u".
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.u = self.add_weight(
            shape=(self.filters,), initializer="random_normal", trainable=False, dtype="float32", name="u"
        )

    def spectral_norm(self, update=False):
        """Estimate of the largest singular value, differentiable by the kernel; `update`: after one more iteration."""
        matrix = ops.reshape(ops.cast(self.kernel, "float32"), (-1, self.filters))
        constant = ops.stop_gradient(matrix)
        u = normalized(self.u.value)
        v = normalized(ops.matmul(constant, u))
        if update:
            u = normalized(ops.matmul(v, constant))
            self.u.assign(u)
        return ops.sum(v * ops.matmul(matrix, u))

    def call(self, inputs, training=None):
        kernel = self.kernel / ops.cast(self.spectral_norm(bool(training)), self.compute_dtype)
        outputs = self.convolution_op(inputs, kernel)
        return outputs + self.bias if self.use_bias else outputs

    def save_own_variables(self, store):
        keras.layers.Layer.save_own_variables(self, store)  # `Conv2D` would leave out u

    def load_own_variables(self, store):
        keras.layers.Layer.load_own_variables(self, store)
