"""Networks of a GAN (`gan.py`): dense (Goodfellow et al., 2014, https://arxiv.org/abs/1406.2661) or convolutional
(Radford et al., 2015, https://arxiv.org/abs/1511.06434).

Shapes: b batch, h height, w width, c channels, k coding (the latent). Images are normalized to [-1, 1].

Deviations: the discriminator is conditioned on classes by projection (Miyato & Koyama, 2018,
https://arxiv.org/abs/1802.05637).
"""

import math

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.layers.dropout import Dropout
from homl_models.layers.minibatch import MinibatchStddev


@keras.saving.register_keras_serializable("homl_models")
class Generator(Layer):
    """Codings (b, k), or (b, k + num_classes) with one-hot labels -> normalized images (b, h, w, c).

    Args:
        coding_size: k.
        image_shape: (h, w, c).
        hidden_units: of dense layers; without effect beside filters.
        filters: channels of the smallest feature maps, which a dense layer makes, and of the transposed convolutions
            (5x5, stride 2) but the last.
        num_classes: 0 for a generator without labels.
    """

    def __init__(
        self,
        coding_size=100,
        image_shape=(28, 28, 1),
        hidden_units=(100, 150),
        filters=(),
        num_classes=0,
        name="generator",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.coding_size, self.num_classes, self.image_shape = coding_size, num_classes, tuple(image_shape)
        self.hidden_units, self.filters = tuple(hidden_units), tuple(filters)
        height, width, channels = image_shape
        downscaling = 2 ** len(self.filters)
        dtype = self.dtype_policy
        self.inner = (-(-height // downscaling), -(-width // downscaling), self.filters[0]) if self.filters else None
        units = [math.prod(self.inner)] if self.filters else self.hidden_units
        settings = {} if self.filters else {"activation": "relu", "kernel_initializer": "he_normal"}
        self.dense = [keras.layers.Dense(n, dtype=dtype, **settings) for n in units]
        self.norms = [keras.layers.BatchNormalization(dtype=dtype) for _ in self.filters]
        self.transposed = [
            keras.layers.Conv2DTranspose(n, 5, strides=2, padding="same", activation="relu", dtype=dtype)
            for n in self.filters[1:]
        ]
        if self.filters:
            self.last = keras.layers.Conv2DTranspose(channels, 5, strides=2, padding="same", dtype=dtype)
        else:
            self.last = keras.layers.Dense(math.prod(image_shape), dtype=dtype)

    def build(self, input_shape):
        sizes = [input_shape[-1], *(layer.units for layer in self.dense)]
        for layer, n in zip(self.dense, sizes):
            layer.build((None, n))
        for norm, layer, n in zip(self.norms, [*self.transposed, None], self.filters):
            norm.build((None, None, None, n))
            if layer:
                layer.build((None, None, None, n))
        self.last.build((None, None, None, self.filters[-1]) if self.filters else (None, sizes[-1]))

    def call(self, codings, training=None):
        x = codings
        for layer in self.dense:
            x = layer(x)
        if self.filters:
            x = ops.reshape(x, (-1, *self.inner))
        for norm, layer in zip(self.norms, [*self.transposed, lambda x: x]):
            x = layer(norm(x, training=training))
        height, width, _ = self.image_shape
        x = self.last(x)[:, :height, :width] if self.filters else self.last(x)  # sizes that are no multiple of 2^n
        return ops.tanh(ops.reshape(ops.cast(x, "float32"), (-1, *self.image_shape)))


@keras.saving.register_keras_serializable("homl_models")
class Discriminator(Layer):
    """Normalized images (b, h, w, c), and labels (b,) if `num_classes` -> logits (b,) that they are real.

    Args:
        image_shape: (h, w, c).
        hidden_units: of dense layers; without effect beside filters.
        filters: of convolutions (5x5, stride 2).
        dropout: rate after each hidden layer.
        minibatch_stddev: append the standard deviation over the batch to the features; see `MinibatchStddev`.
        num_classes: 0 for a discriminator without labels.
    """

    def __init__(
        self,
        image_shape=(28, 28, 1),
        hidden_units=(150, 100),
        filters=(),
        dropout=0.4,
        minibatch_stddev=False,
        num_classes=0,
        name="discriminator",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.image_shape, self.hidden_units, self.filters = tuple(image_shape), tuple(hidden_units), tuple(filters)
        self.dropout, self.minibatch_stddev, self.num_classes = dropout, minibatch_stddev, num_classes
        dtype = self.dtype_policy
        if self.filters:
            self.hidden = [
                keras.layers.Conv2D(n, 5, strides=2, padding="same", activation="leaky_relu", dtype=dtype)
                for n in self.filters
            ]
        else:
            settings = {"activation": "relu", "kernel_initializer": "he_normal", "dtype": dtype}
            self.hidden = [keras.layers.Dense(n, **settings) for n in self.hidden_units]
        self.dropouts = [Dropout(dropout, dtype=dtype) for _ in self.hidden]
        self.stddev = MinibatchStddev(dtype=dtype) if minibatch_stddev else None
        self.last = keras.layers.Dense(1, dtype="float32")

    def build(self, input_shape=None):
        height, width, n = self.image_shape
        size = (height, width) if self.filters else ()
        n = n if self.filters else math.prod(self.image_shape)
        for layer in self.hidden:
            layer.build((None, *size, n))
            size, n = tuple(-(-side // 2) for side in size), layer.filters if self.filters else layer.units
        features = math.prod(size) * (n + bool(self.stddev))
        self.last.build((None, features))
        if self.num_classes:
            shape, initializer = (self.num_classes, features), keras.initializers.RandomNormal(stddev=features**-0.5)
            self.class_embedding = self.add_weight(shape=shape, initializer=initializer, name="class_embedding")

    def call(self, images, labels=None, training=None):
        x = images if self.filters else ops.reshape(images, (-1, math.prod(self.image_shape)))
        for layer, dropout in zip(self.hidden, self.dropouts):
            x = dropout(layer(x), training=training)
        x = self.stddev(x) if self.stddev else x
        x = ops.cast(ops.reshape(x, (-1, self.last.kernel.shape[0])), "float32")
        logits = self.last(x)[:, 0]
        if labels is None:
            return logits
        classes = ops.cast(ops.take(self.class_embedding, ops.cast(labels, "int32"), axis=0), "float32")
        return logits + ops.sum(classes * x, axis=-1)
