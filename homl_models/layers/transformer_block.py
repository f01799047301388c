"""The Transformer block: sub-layers with residual connections and layer normalization, first or last.

Vaswani et al., 2017 (https://arxiv.org/abs/1706.03762, section 3.1); Xiong et al., 2020
(https://arxiv.org/abs/2002.04745) for `pre_norm`; Touvron et al., 2021 (https://arxiv.org/abs/2103.17239, section 2.1)
for layer scale; Huang et al., 2016 (https://arxiv.org/abs/1603.09382) for stochastic depth.
Blocks of the translator, BERT, ELECTRA, BEiT and ViT derive from it. Shapes: b batch, t time, d dimension.
"""

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.layers.dense import Dense
from homl_models.layers.dropout import Dropout, DropPath


@keras.saving.register_keras_serializable("homl_models")
class LayerScale(Layer):
    """Learned factor of each feature: (..., d) -> (..., d).

    Args:
        initial_value: of all factors.
    """

    def __init__(self, initial_value=0.1, **kwargs):
        super().__init__(**kwargs)
        self.initial_value = initial_value

    def build(self, input_shape):
        start = keras.initializers.Constant(self.initial_value)
        self.gamma = self.add_weight(shape=(input_shape[-1],), initializer=start, name="gamma")

    def call(self, x):
        return x * ops.cast(self.gamma, x.dtype)


class TransformerBlock(Layer):
    """Base class of Transformer blocks, whose last sub-layer is a feed-forward network.

    A subclass creates its attention layers, calls `add_sublayers`, and `build_sublayers` in its `build`; in its `call`
    it gives each sub-layer's function to `sublayer`.
    """

    pre_norm = False  # normalize the input of a sub-layer instead of the sum after it

    def add_sublayers(
        self,
        count,
        hidden_units,
        dim,
        activation,
        dropout=0.0,
        epsilon=1e-5,
        kernel_initializers=("glorot_uniform", "glorot_uniform"),
        layer_scale=None,
        drop_path=0.0,
    ):
        """Create the layers of `count` sub-layers and of the feed-forward network.

        Args:
            count: number of sub-layers, the feed-forward network included.
            hidden_units: size of the hidden layer of the feed-forward network.
            dim: d.
            activation: of the hidden layer.
            dropout: rate on the output of every sub-layer.
            epsilon: of the layer normalizations.
            kernel_initializers: of the two dense layers of the feed-forward network.
            layer_scale: initial factor of the features of every sub-layer's output, see `LayerScale`; None for no such
                factors.
            drop_path: rate of examples for which a sub-layer is left out in training, see `DropPath`.
        """
        dtype, (first, second) = self.dtype_policy, kernel_initializers
        self.hidden = Dense(hidden_units, activation, kernel_initializer=first, name="hidden", dtype=dtype)
        self.output_dense = Dense(dim, kernel_initializer=second, name="output", dtype=dtype)
        self.norms = [
            keras.layers.LayerNormalization(epsilon=epsilon, name=f"norm_{i}", dtype=dtype) for i in range(count)
        ]
        self.dropouts = [Dropout(dropout, dtype=dtype) for _ in range(count)]
        scaled, dropped = count * (layer_scale is not None), count * (drop_path > 0)
        self.layer_scales = [LayerScale(layer_scale, name=f"layer_scale_{i}", dtype=dtype) for i in range(scaled)]
        self.drop_paths = [DropPath(drop_path, dtype=dtype) for _ in range(dropped)]

    def build_sublayers(self):
        """Build the layers of `add_sublayers`."""
        shape = None, None, self.output_dense.units
        for layer in (self.hidden, *self.norms, *self.layer_scales):
            layer.build(shape)
        self.output_dense.build((None, None, self.hidden.units))

    def sublayer(self, i, x, function, training):
        """Sub-layer i, a function of (b, t, d), with its residual connection: (b, t, d) -> (b, t, d).

        x + branch(function(x)), normalized before the function (`pre_norm`) or after the sum.
        """
        if self.pre_norm:
            return x + self.branch(i, function(self.norms[i](x)), training)
        return self.norms[i](x + self.branch(i, function(x), training))

    def branch(self, i, y, training):
        """Dropout, layer scale and stochastic depth of the output y of sub-layer i, each if there is any."""
        y = self.dropouts[i](y, training=training)
        y = self.layer_scales[i](y) if self.layer_scales else y
        return self.drop_paths[i](y, training=training) if self.drop_paths else y

    def feed_forward(self, x):
        """The feed-forward network: (b, t, d) -> (b, t, d)."""
        return self.output_dense(self.hidden(x))
