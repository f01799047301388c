"""Variational autoencoder (Kingma & Welling, 2013, Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114).

An encoder maps an image x to a Gaussian q(z | x) over codings z (latents), a decoder maps a coding sampled from it to
p(x | z). The loss is the negative evidence lower bound (equation 3): -E[log p(x | z)] + KL(q(z | x) || p(z)), with a
standard normal prior p(z). A coding sampled from the prior decodes to a new image.
Recipes: `vae`, `vae_conv`. Shapes: b batch, k coding, d pixels times channels.

Deviations from the paper: the book's dense layers of 150 and 100 ReLUs; a convolutional version; `beta`
(Higgins et al., 2017). The loss is divided by d, as the book's is: nats per pixel for a Bernoulli likelihood,
and mean squared error + KL / d for a Gaussian one (of variance 1/2, up to a constant).
"""

import math

import keras
import numpy as np
from keras import ops

from homl_models import losses
from homl_models.endpoints import COUNT, SEED, Endpoint, Int, asserted
from homl_models.errors import UserError
from homl_models.layers.gaussian import Sampling, kl_divergence, normal
from homl_models.models.autoencoders import CodingModel
from homl_models.models.image_model import checked_count_and_seed

FEW_IMAGES = "interpolation needs 2 images or more"


@keras.saving.register_keras_serializable("homl_models")
class VAE(CodingModel):
    """Variational autoencoder.

    Images (b, *image_shape) in [0, 1] -> {"outputs": (b, *image_shape), "mean": (b, k), "log_var": (b, k)}.

    Args:
        coding_size: k.
        hidden_units: dense layers of the encoder; the decoder has them in reverse.
        filters: convolutions (4x4, stride 2) before the dense layers, and transposed ones after; () for none.
        activation: of all hidden layers.
        likelihood: p(x | z): "gaussian", outputs are pixels and the loss is the squared error; or "bernoulli", outputs
            are logits of pixels and the loss is the cross-entropy.
        beta: weight of the KL divergence in the loss; 1 for the ELBO.
        seed: of the codings sampled in training.
        image_shape: (h, w) or (h, w, c).
    """

    def __init__(
        self,
        coding_size=10,
        hidden_units=(150, 100),
        filters=(),
        activation="relu",
        likelihood="gaussian",
        beta=1.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if likelihood not in ("gaussian", "bernoulli"):
            raise UserError(f"likelihood must be gaussian or bernoulli, not {likelihood!r}")
        self.coding_size, self.hidden_units, self.filters = coding_size, tuple(hidden_units), tuple(filters)
        self.activation, self.likelihood, self.beta, self.seed = activation, likelihood, beta, seed
        height, width = self.image_shape[:2]
        stride = 2 ** len(self.filters)
        channels = self.filters[-1] if self.filters else self.channels
        self.maps_shape = (-(-height // stride), -(-width // stride), channels)  # of the last feature maps
        dtype = self.dtype_policy

        def dense(units):
            return [keras.layers.Dense(n, activation, dtype=dtype) for n in units]

        self.convolutions = [
            keras.layers.Conv2D(n, 4, strides=2, padding="same", activation=activation, dtype=dtype)
            for n in self.filters
        ]
        self.encoder = dense(self.hidden_units)
        self.mean = keras.layers.Dense(coding_size, name="mean", dtype=dtype)
        self.log_var = keras.layers.Dense(coding_size, name="log_var", dtype="float32")
        self.sampling = Sampling(seed, dtype="float32")
        self.decoder = dense(reversed(self.hidden_units))
        self.to_maps = keras.layers.Dense(math.prod(self.maps_shape), activation if filters else None, dtype=dtype)
        channels = [*self.filters[-2::-1], self.channels] if self.filters else []
        activations = [activation] * (len(channels) - 1) + [None]
        self.transposed = [
            keras.layers.Conv2DTranspose(n, 4, strides=2, padding="same", activation=f, dtype=dtype)
            for n, f in zip(channels, activations)
        ]
        self.trackers = [keras.metrics.Mean(name) for name in ("reconstruction", "kl")]

    def build(self, input_shape=None):
        for layer, n in zip(self.convolutions, [self.channels, *self.filters]):
            layer.build((None, None, None, n))
        sizes = [math.prod(self.maps_shape), *self.hidden_units]
        for layer, n in zip(self.encoder, sizes):
            layer.build((None, n))
        for layer in (self.mean, self.log_var):
            layer.build((None, sizes[-1]))
        sizes = [self.coding_size, *reversed(self.hidden_units)]
        for layer, n in zip([*self.decoder, self.to_maps], sizes):
            layer.build((None, n))
        for layer, n in zip(self.transposed, reversed(self.filters)):
            layer.build((None, None, None, n))
        self.built = True

    @property
    def encoding_layers(self):
        return [*self.convolutions, *self.encoder, self.mean]

    def posterior(self, images):
        """Images (b, ...) -> mean and log-variance of q(z | x), (b, k) each."""
        x = ops.reshape(images, (-1, *self.image_shape[:2], self.channels))
        for layer in self.convolutions:
            x = layer(x)
        x = ops.reshape(x, (-1, math.prod(self.maps_shape)))
        for layer in self.encoder:
            x = layer(x)
        return self.mean(x), self.log_var(x)

    def encode(self, images, training=None):
        """Images (b, ...) -> the mean of q(z | x) (b, k)."""
        return self.posterior(images)[0]

    def decoder_outputs(self, codings):
        """Codings (b, k) -> parameters (b, ...) of p(x | z): pixels or their logits; see `likelihood`."""
        x = codings
        for layer in (*self.decoder, self.to_maps):
            x = layer(x)
        x = ops.reshape(x, (-1, *self.maps_shape))
        for layer in self.transposed:
            x = layer(x)
        x = x[:, : self.image_shape[0], : self.image_shape[1]]  # cropped: strides round odd sizes up
        return ops.cast(ops.reshape(x, (-1, *self.image_shape)), "float32")

    def decode(self, codings, training=None):
        """Codings (b, k) -> images (b, ...), near [0, 1]."""
        outputs = self.decoder_outputs(codings)
        return ops.sigmoid(outputs) if self.likelihood == "bernoulli" else outputs

    def compute_output_shape(self, input_shape):
        coding = (input_shape[0], self.coding_size)
        return {"outputs": (input_shape[0], *self.image_shape), "mean": coding, "log_var": coding}

    def call(self, images, training=None):
        mean, log_var = self.posterior(images)
        outputs = self.decoder_outputs(self.sampling([mean, log_var]))
        return {"outputs": outputs, "mean": mean, "log_var": log_var}

    def loss_terms(self, images, y_pred):
        """Images, outputs of `call` -> reconstruction error (see `likelihood`) and KL divergence in nats, (b,) each."""
        images, outputs = (ops.reshape(x, (-1, self.pixels)) for x in (images, y_pred["outputs"]))
        if self.likelihood == "gaussian":
            error = ops.square(outputs - images)
        else:
            error = ops.softplus(outputs) - images * outputs
        mean, log_var = (ops.cast(y_pred[name], "float32") for name in ("mean", "log_var"))
        return ops.sum(error, axis=-1), kl_divergence(mean, log_var)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        error, kl = self.loss_terms(y, y_pred)
        for tracker, value in zip(self.trackers, (error / self.pixels, kl)):
            tracker.update_state(value)
        return losses.mean(error + self.beta * kl) / self.pixels

    def elbo_of_outputs(self, images, y_pred):
        """Evidence lower bound of log p(x) of each image (b,), in nats; of a density for a Gaussian likelihood."""
        error, kl = self.loss_terms(images, y_pred)
        constant = self.pixels / 2 * math.log(math.pi) if self.likelihood == "gaussian" else 0.0
        return -(error + constant) - kl

    def elbo(self, images):
        """Images (b, ...) -> evidence lower bounds (b,), each estimated with one sampled coding."""
        return self.elbo_of_outputs(images, self(images, training=False))

    def sample_prior(self, count, seed):
        """Codings (count, k) sampled from the standard normal prior with `seed` (2,)."""
        return normal((count, self.coding_size), seed)

    def sample(self, count=64, seed=0):
        """New images (count, ...) in [0, 1]; image i of a seed is the same whatever their number.

        `UserError` for a count or a seed below 0.
        """
        count, seed = checked_count_and_seed(count, seed)
        return self.decode_codings(ops.convert_to_numpy(self.sample_prior(count, np.array([seed, 0], np.uint32))))

    def interpolate(self, images, steps=8):
        """Linear interpolation between codings of each image (n, ...) and the next: ((n - 1) * steps, ...) in [0, 1].

        `UserError` for fewer than two images.
        """
        images = self.checked_images(images)
        self.check("interpolate", steps=steps)
        if len(images) < 2:
            raise UserError(FEW_IMAGES)
        path = self.interpolate_codings(self.codings(images), ops.linspace(0.0, 1.0, steps))
        return self.decode_codings(ops.convert_to_numpy(path))

    def interpolate_codings(self, codings, t):
        """Codings (n, k), t (s,) in [0, 1] -> (1 - t) z_i + t z_(i + 1), ((n - 1) * s, k)."""
        t = ops.cast(t, codings.dtype)[:, None]
        return ops.reshape((1 - t) * codings[:-1, None] + t * codings[1:, None], (-1, self.coding_size))

    def endpoints(self):
        def sample(count, seed):
            """New images; the same for the same seed."""
            import tensorflow as tf

            return {"images": self.decode_clipped(self.sample_prior(count, tf.stack([seed, 0])))}

        def interpolate(images, steps):
            """Images decoded from equal steps between the codings of each image and the next."""
            import tensorflow as tf

            images = asserted(tf.shape(images)[0] >= 2, FEW_IMAGES, images)
            codings = self.encode(images, training=False)
            return {"images": self.decode_clipped(self.interpolate_codings(codings, tf.linspace(0.0, 1.0, steps)))}

        return {
            "sample": Endpoint(sample, [COUNT, SEED]),
            **super().endpoints(),
            "interpolate": Endpoint(interpolate, [self.image_input("images"), Int("steps", 2, default=8)]),
        }
