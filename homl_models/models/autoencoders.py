"""Autoencoders (*Hands-On Machine Learning*, 3rd ed., chapter 17).

An encoder maps an image to its coding (the book's word for a latent vector), a decoder reconstructs the image from it.
The coding is useful if the network cannot simply copy: it is small, noisy or sparse, or weights are shared.
Recipes: `autoencoder_linear`, `autoencoder_stacked`, `autoencoder_tied`, `autoencoder_greedy`,
`autoencoder_conv`, `autoencoder_recurrent`, `autoencoder_denoising`, `autoencoder_sparse_l1`,
`autoencoder_sparse_kl`, `autoencoder_hashing`.
Shapes: b batch, h height, w width, c channels, k coding, d = h * w * c.

Deviations from the book: regularizers of codings are means over the batch. (Keras divides the book's by the batch size
once more, so that its weight of 5e-3 for the KL divergence has the effect of 1.6e-4; the recipe has 1e-3.) Noise comes
from `layers.dropout` and `layers.gaussian`, with the same distributions.
"""

import math

import keras
import numpy as np
from keras import ops

from homl_models import losses
from homl_models.endpoints import Array, Endpoint
from homl_models.errors import UserError
from homl_models.layers.gaussian import GaussianNoise
from homl_models.layers.recurrent import LSTM
from homl_models.layers.tied import DenseTranspose
from homl_models.models.image_model import ImageModel


class CodingModel(ImageModel):
    """Base class of models with codings: encode, decode and reconstruct, in Python and in a SavedModel.

    A subclass has `coding_size` k, `encode(images, training)` -> codings (b, k), `encoding_layers`, the layers of that,
    and `decode(codings, training)` -> images.
    """

    def codings(self, images):
        """Images (n, ...) of bytes or in [0, 1] -> codings (n, k)."""
        return self.predict_batched("encode", self.checked_images(images))

    def decode_codings(self, codings):
        """Codings (n, k) -> images (n, ...) in [0, 1]."""
        return self.predict_batched("decode_clipped", np.asarray(codings, np.float32))

    def reconstruct(self, images):
        """Images (n, ...) of bytes or in [0, 1] -> their reconstructions in [0, 1]."""
        return self.decode_codings(self.codings(images))

    def decode_clipped(self, codings):
        """Codings (b, k) -> images (b, ...), float32 clipped to [0, 1]."""
        return ops.clip(ops.cast(self.decode(codings, training=False), "float32"), 0, 1)

    def endpoints(self):
        def encode(images):
            """Codings of images in [0, 1]."""
            return {"codings": ops.cast(self.encode(images, training=False), "float32")}

        def decode(codings):
            """Images in [0, 1], decoded from codings."""
            return {"images": self.decode_clipped(codings)}

        def reconstruct(images):
            """Images in [0, 1], encoded and decoded."""
            return {"images": self.decode_clipped(self.encode(images, training=False))}

        images, codings = self.image_input("images"), Array("codings", None, self.coding_size)
        return {
            "reconstruct": Endpoint(reconstruct, [images]),
            "encode": Endpoint(encode, [images]),
            "decode": Endpoint(decode, [codings]),
        }


class Autoencoder(CodingModel):
    """Base class of autoencoders: images (b, *image_shape) in [0, 1] -> reconstructions of the same shape.

    Args:
        noise: a layer that corrupts the images in training, for a denoising autoencoder (Vincent et al., 2008,
            https://doi.org/10.1145/1390156.1390294); `layers.dropout.Dropout` or `layers.gaussian.GaussianNoise`.
        coding_regularizer: a function of the codings whose value is added to the loss; see `regularizers.py`.
        image_shape: (h, w) or (h, w, c).
    """

    def __init__(self, noise=None, coding_regularizer=None, **kwargs):
        super().__init__(**kwargs)
        self.noise, self.coding_regularizer = noise, coding_regularizer

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.image_shape)

    def call(self, images, training=None):
        if self.noise is not None:
            images = self.noise(images, training=training)
        codings = self.encode(images, training)
        if self.coding_regularizer is not None:
            self.add_loss(self.coding_regularizer(codings))
        return self.decode(codings, training)


@keras.saving.register_keras_serializable("homl_models")
class StackedAutoencoder(Autoencoder):
    """Stacked (deep) autoencoder of dense layers.

    Args:
        hidden_units: of the layers between image and coding; the decoder has them in reverse. Without any, and
            linear (`coding_activation` None), the best codings are the principal components.
        coding_size: k.
        activation: of hidden layers.
        coding_activation: of the coding layer.
        tied: whether decoder layers use the transposed kernels of the encoder's (`layers.tied.DenseTranspose`).
        coding_noise: standard deviation of Gaussian noise before the coding layer, in training. With a sigmoid and
            about 15 the codings become binary, to be robust to the noise; see `hash` (Salakhutdinov & Hinton, 2009,
            Semantic hashing, https://doi.org/10.1016/j.ijar.2008.11.006).
        kwargs: see `Autoencoder`.
    """

    def __init__(
        self,
        hidden_units=(100,),
        coding_size=30,
        activation="relu",
        coding_activation="relu",
        tied=False,
        coding_noise=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_units, self.coding_size = tuple(hidden_units), coding_size
        self.activation, self.coding_activation = activation, coding_activation
        self.tied, self.coding_noise = tied, coding_noise
        dtype = self.dtype_policy
        self.encoder = [keras.layers.Dense(units, activation, dtype=dtype) for units in self.hidden_units]
        self.encoder.append(keras.layers.Dense(coding_size, coding_activation, dtype=dtype))
        self.noise_before_coding = GaussianNoise(coding_noise, dtype=dtype)
        activations = [activation] * len(self.hidden_units) + [None]
        if tied:
            pairs = zip(reversed(self.encoder), activations)
            self.decoder = [DenseTranspose(dense, activation, dtype=dtype) for dense, activation in pairs]
        else:
            pairs = zip([*reversed(self.hidden_units), self.pixels], activations)
            self.decoder = [keras.layers.Dense(units, activation, dtype=dtype) for units, activation in pairs]

    def build(self, input_shape=None):
        sizes = [self.pixels, *self.hidden_units, self.coding_size]
        for layer, size in zip([*self.encoder, *self.decoder], sizes[:-1] + sizes[:0:-1]):
            layer.build((None, size))
        self.built = True

    @property
    def encoding_layers(self):
        return self.encoder

    def encode(self, images, training=None):
        """Images (b, ...) -> codings (b, k)."""
        x = ops.reshape(images, (-1, self.pixels))
        for layer in self.encoder[:-1]:
            x = layer(x)
        return self.encoder[-1](self.noise_before_coding(x, training=training))

    def decode(self, codings, training=None):
        """Codings (b, k) -> images (b, ...), near [0, 1]."""
        x = codings
        for layer in self.decoder:
            x = layer(x)
        return ops.reshape(x, (-1, *self.image_shape))

    def hash(self, images):
        """Semantic hashing: images (n, ...) -> bits (n, k), bool, codings above 0.5."""
        return self.codings(images) > 0.5

    def endpoints(self):
        def hash(images):
            """Hashes of images: bits, 1 where a unit of the coding is above 0.5."""
            return {"bits": ops.cast(self.encode(images, training=False) > 0.5, "int32")}

        more = {"hash": Endpoint(hash, [self.image_input("images")])} if self.coding_noise else {}
        return super().endpoints() | more


@keras.saving.register_keras_serializable("homl_models")
class GreedyAutoencoder(StackedAutoencoder):
    """One stage of greedy layer-wise training (Bengio et al., 2006, Greedy layer-wise training of deep networks).

    Layer i of the encoder and its counterpart in the decoder are trained as an autoencoder of their own, to reconstruct
    h_i, the output of encoder layer i - 1; the other layers are frozen. The stages are layers 0, 1, ..., and last a
    `StackedAutoencoder` that trains all layers together, each from the weights of the stage before.

    Args:
        layer: i, counted from the outermost; `UserError` for a layer that does not exist.
        kwargs: see `StackedAutoencoder`.
    """

    def __init__(self, layer=0, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= layer < len(self.encoder):
            raise UserError(f"layer must lie in 0 to {len(self.encoder) - 1}, not {layer}")
        self.layer = layer

    def build(self, input_shape=None):
        super().build(input_shape)
        for i, pair in enumerate(zip(self.encoder, reversed(self.decoder))):
            for layer in pair:
                layer.trainable = i == self.layer

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        h = ops.reshape(x, (-1, self.pixels))
        for layer in self.encoder[: self.layer]:
            h = layer(h)
        reconstructed = self.decoder[-1 - self.layer](self.encoder[self.layer](h))
        return losses.mean(ops.square(ops.cast(reconstructed, "float32") - ops.cast(h, "float32")))


@keras.saving.register_keras_serializable("homl_models")
class ConvAutoencoder(Autoencoder):
    """Convolutional autoencoder: convolutions and max pooling, global average pooling, transposed convolutions.

    Args:
        filters: of the encoder's convolutions (3x3), each followed by 2x2 max pooling.
        coding_size: k, the filters of one more convolution, before global average pooling.
        decoder_filters: channels of the decoder's first feature maps, and of all its transposed convolutions but the
            last. `UserError` unless they are as many as `filters`, or if the image is too small to be halved so often.
        activation: of all hidden layers.
        kwargs: see `Autoencoder`.
    """

    def __init__(self, filters=(16, 32, 64), coding_size=30, decoder_filters=(16, 32, 16), activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.filters, self.coding_size, self.activation = tuple(filters), coding_size, activation
        self.decoder_filters = tuple(decoder_filters)
        if len(self.filters) != len(self.decoder_filters):
            raise UserError("filters and decoder_filters must have the same length, one entry per pooling")
        sizes = [self.image_shape[:2]]
        for _ in self.filters:
            sizes.append(tuple(n // 2 for n in sizes[-1]))
        if min(sizes[-1]) < 1:
            raise UserError(f"images of {self.image_shape[:2]} cannot be halved {len(self.filters)} times")
        self.sizes, dtype = sizes[::-1], self.dtype_policy
        self.convolutions = [
            keras.layers.Conv2D(n, 3, padding="same", activation=activation, dtype=dtype)
            for n in (*self.filters, coding_size)
        ]
        self.pool = keras.layers.MaxPooling2D(2, dtype=dtype)
        self.dense = keras.layers.Dense(math.prod(self.sizes[0]) * self.decoder_filters[0], dtype=dtype)
        filters = [*self.decoder_filters[1:], self.channels]
        activations = [activation] * (len(filters) - 1) + [None]
        self.transposed = [
            keras.layers.Conv2DTranspose(n, 3, strides=2, activation=f, dtype=dtype)
            for n, f in zip(filters, activations)
        ]

    def build(self, input_shape=None):
        for layer, n in zip(self.convolutions, [self.channels, *self.filters]):
            layer.build((None, None, None, n))
        self.dense.build((None, self.coding_size))
        for layer, n in zip(self.transposed, self.decoder_filters):
            layer.build((None, None, None, n))
        self.built = True

    @property
    def encoding_layers(self):
        return self.convolutions

    def encode(self, images, training=None):
        """Images (b, ...) -> codings (b, k)."""
        x = ops.reshape(images, (-1, *self.image_shape[:2], self.channels))
        for layer in self.convolutions[:-1]:
            x = self.pool(layer(x))
        return ops.mean(self.convolutions[-1](x), axis=(1, 2))

    def decode(self, codings, training=None):
        """Codings (b, k) -> images (b, ...), near [0, 1]."""
        x = ops.reshape(self.dense(codings), (-1, *self.sizes[0], self.decoder_filters[0]))
        for layer, (height, width) in zip(self.transposed, self.sizes[1:]):
            x = layer(x)[:, :height, :width]  # 2n + 1 cropped to 2n equals padding "same"
        return ops.reshape(x, (-1, *self.image_shape))


@keras.saving.register_keras_serializable("homl_models")
class RecurrentAutoencoder(Autoencoder):
    """Recurrent autoencoder: LSTMs over the rows of an image; the coding is the encoder's last output.

    Args:
        units: of the first LSTM of the encoder and of the decoder's.
        coding_size: k, the units of the encoder's second LSTM.
        kwargs: see `Autoencoder`.
    """

    def __init__(self, units=100, coding_size=30, **kwargs):
        super().__init__(**kwargs)
        self.units, self.coding_size = units, coding_size
        dtype = self.dtype_policy
        self.encoder = [LSTM(units, return_sequences=True, dtype=dtype), LSTM(coding_size, dtype=dtype)]
        self.decoder = LSTM(units, return_sequences=True, dtype=dtype)
        self.output_dense = keras.layers.Dense(self.pixels // self.image_shape[0], dtype=dtype)

    def build(self, input_shape=None):
        for layer, size in zip(self.encoder, (self.pixels // self.image_shape[0], self.units)):
            layer.build((None, None, size))
        self.decoder.build((None, None, self.coding_size))
        self.output_dense.build((None, None, self.units))
        self.built = True

    @property
    def encoding_layers(self):
        return self.encoder

    def encode(self, images, training=None):
        """Images (b, h, ...) -> codings (b, k)."""
        x = ops.reshape(images, (-1, self.image_shape[0], self.pixels // self.image_shape[0]))  # (b, h, w * c)
        for layer in self.encoder:
            x = layer(x, training=training)
        return x

    def decode(self, codings, training=None):
        """Codings (b, k) -> images (b, ...), near [0, 1]."""
        x = ops.repeat(codings[:, None], self.image_shape[0], axis=1)  # (b, h, k)
        x = self.output_dense(self.decoder(x, training=training))
        return ops.reshape(x, (-1, *self.image_shape))
