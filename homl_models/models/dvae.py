"""Discrete variational autoencoder (Ramesh et al., 2021, Zero-shot text-to-image generation, https://arxiv.org/abs/2102.12092,
section 2.1 and appendix A): the visual tokenizer of DALL-E and of BEiT.

An encoder gives each place of a grid a categorical distribution over k codes, q(z | x); a decoder maps the codes back
to the image. Training relaxes the sample of z by Gumbel-softmax, whose temperature tau falls, and minimizes
-ln p(x | z) + beta KL(q(z | x) || uniform), with a weight beta that rises. The tokens of an image are its most probable
codes. Recipe: `dvae`. Shapes: b batch, n images, h height, w width, c channels, f stride (8), k codes; d = h w c.

Deviations from the paper: sizes, schedules and optimizer are those of the recipe, without an average of the weights;
as options batch normalization of the logits, straight-through samples, and the squared error as the likelihood, which
is a Gaussian of variance 1/2 up to a constant. In evaluation the reconstruction is that of the tokens, without noise.
"""

import math

import keras
import numpy as np
from keras import ops

from homl_models import losses
from homl_models.endpoints import Endpoint, Image, Input
from homl_models.errors import UserError
from homl_models.layers.gumbel import GumbelSoftmax, argmax, kl_to_uniform, one_hot_argmax
from homl_models.metrics import PSNR, CodebookUsage
from homl_models.models.image_model import ImageModel, checked_range

EPSILON = 0.1  # of `map_pixels`
LOGIT_SCALE = 4.0  # first standard deviation of normalized logits, above that of Gumbel noise (1.3)
LIKELIHOODS = "logit_laplace", "mse"
MAX_BATCH, MAX_LOGITS = 100, 2**25  # images in a batch of Python's methods, and their logits


def map_pixels(x):
    """Pixels in [0, 1] -> [0.1, 0.9], where the logit-Laplace density is bounded (equation 3)."""
    return (1 - 2 * EPSILON) * x + EPSILON


def unmap_pixels(x):
    """Inverse of `map_pixels`, clipped to [0, 1]."""
    return ops.clip((x - EPSILON) / (1 - 2 * EPSILON), 0, 1)


@keras.saving.register_keras_serializable("homl_models")
class DVAE(ImageModel):
    """Discrete variational autoencoder.

    Images (b, h, w, c), or (b, h, w) of one channel, in [0, 1], of any h and w that are multiples of f
    -> {"outputs": (b, h, w, 2 c or c), "logits": (b, h / f, w / f, k)}, float32.

    Args:
        encoder: mapped images -> logits of the codes, e.g. `dvae_networks.DalleEncoder`.
        decoder: one-hot codes (b, h / f, w / f, k) -> outputs: mu and ln b of the logit-Laplace distribution of mapped
            pixels, or pixels.
        temperature: tau, above 0, or a function of the training step, e.g. `schedules.Cosine(1, 1 / 16, 150_000)`.
        kl_weight: beta, 0 or more, or a function of the training step, e.g. `schedules.Cosine(0, 6.6, 5_000)`.
        likelihood: "logit_laplace", or "mse" for the squared error.
        normalize_logits: batch normalization of the logits, with one trained scale for all codes and no offset. No code
            is preferred at all places then, nor can its logits become small: without it the index collapses in the
            first steps, when one code everywhere is the safest choice in the noise.
        straight_through: decode one-hot samples in training, with the gradient of the relaxed ones.
        seed: of the Gumbel noise.
        image_shape: (h, w) or (h, w, c) of training; `UserError` unless h and w are multiples of f.
    """

    def __init__(
        self,
        encoder,
        decoder,
        temperature=1 / 16,
        kl_weight=0.0,
        likelihood="logit_laplace",
        normalize_logits=False,
        straight_through=False,
        seed=None,
        image_shape=(64, 64, 3),
        **kwargs,
    ):
        super().__init__(image_shape=image_shape, **kwargs)
        if likelihood not in LIKELIHOODS:
            raise UserError(f"likelihood must be logit_laplace or mse, not {likelihood!r}")
        self.encoder, self.decoder = encoder, decoder
        self.temperature, self.kl_weight, self.likelihood = temperature, kl_weight, likelihood
        self.normalize_logits, self.straight_through, self.seed = normalize_logits, straight_through, seed
        self.stride, self.vocab_size = encoder.stride, encoder.vocab_size
        outputs = self.channels * (2 if likelihood == "logit_laplace" else 1)
        if decoder.vocab_size != self.vocab_size or decoder.output_channels != outputs:
            wanted = f"vocab_size {self.vocab_size} and output_channels {outputs}"
            raise UserError(f"the decoder must have {wanted}, not {decoder.vocab_size} and {decoder.output_channels}")
        if any(side % self.stride for side in self.image_shape[:2]):
            raise UserError(f"height and width must be multiples of {self.stride}, not {self.image_shape[:2]}")
        if normalize_logits:
            self.logit_norm = keras.layers.BatchNormalization(
                momentum=0.95, center=False, scale=False, name="logit_norm", dtype="float32"
            )
            scale = keras.initializers.Constant(LOGIT_SCALE)
            self.logit_scale = self.add_weight(shape=(), dtype="float32", initializer=scale, name="logit_scale")
        self.relaxation = GumbelSoftmax(straight_through, seed, name="relaxation", dtype="float32")
        self.updates = self.add_weight(shape=(), dtype="float32", initializer="zeros", trainable=False, name="updates")
        self.trackers = [keras.metrics.Mean(name) for name in ("reconstruction", "kl")]
        self.psnr, self.codebook = PSNR(), CodebookUsage(self.vocab_size)

    @property
    def compute_dtype(self):
        return "float32"  # half precision is for the networks alone

    def build(self, input_shape=None):
        if not self.encoder.built:
            self.encoder.build((None, None, None, self.channels))
        if not self.decoder.built:
            self.decoder.build((None, None, None, self.vocab_size))
        if self.normalize_logits:
            self.logit_norm.build((None, None, None, self.vocab_size))
        self.built = True

    def schedule(self, name):
        """The temperature or the weight of the KL divergence at this step of the training, by its name."""
        value = getattr(self, name)
        return value(self.updates) if callable(value) else value

    # The two networks.

    def encode(self, images, training=None):
        """Images (b, h, w[, c]) in [0, 1] -> logits (b, h / f, w / f, k) of q(z | x)."""
        logits = self.encoder(map_pixels(self.with_channels(images)))
        if self.normalize_logits:
            logits = self.logit_scale * self.logit_norm(logits, training=training)
        return logits

    def with_channels(self, images):
        """Images (b, h, w[, c]) -> (b, h, w, c), float32."""
        x = ops.cast(images, "float32")
        return x if len(self.image_shape) == 3 else x[..., None]

    def token_ids(self, images):
        """Images (b, h, w[, c]) in [0, 1], multiples of f in size -> tokens (b, h / f, w / f), int32; in graphs too."""
        return argmax(self.encode(images))

    def pixels_of(self, outputs):
        """Outputs of the decoder (b, h, w, ...) -> images (b, h, w[, c]) in [0, 1], float32."""
        if self.likelihood == "logit_laplace":
            x = unmap_pixels(ops.sigmoid(outputs[..., : self.channels]))  # without regard to b
        else:
            x = ops.clip(outputs, 0, 1)
        return x if len(self.image_shape) == 3 else x[..., 0]

    def decode_ids(self, tokens):
        """Tokens (b, h / f, w / f) -> images (b, h, w[, c]) in [0, 1]; in a graph too."""
        return self.pixels_of(self.decoder(ops.one_hot(tokens, self.vocab_size, dtype="float32")))

    def compute_output_shape(self, input_shape):
        batch, height, width = input_shape[:3]
        small = (n and n // self.stride for n in (height, width))
        outputs = (batch, height, width, self.decoder.output_channels)
        return {"outputs": outputs, "logits": (batch, *small, self.vocab_size)}

    # Training.

    def call(self, images, training=None):
        logits = self.encode(images, training)
        codes = (
            self.relaxation(logits, temperature=self.schedule("temperature")) if training else one_hot_argmax(logits)
        )
        return {"outputs": self.decoder(codes), "logits": logits}

    def negative_log_likelihood(self, images, outputs):
        """-ln p(x | z) of each pixel and channel, (b, h, w, c), or its squared error; see `likelihood`."""
        x = self.with_channels(images)
        if self.likelihood == "mse":
            return ops.square(outputs - x)
        return losses.logit_laplace(map_pixels(x), *ops.split(outputs, 2, axis=-1))

    def loss_terms(self, images, y_pred):
        """-ln p(x | z) of a value and KL(q(z | x) || uniform) of a token, in nats, means over each image, (b,) both."""
        error = self.negative_log_likelihood(images, y_pred["outputs"])
        return ops.mean(error, axis=(1, 2, 3)), ops.mean(kl_to_uniform(y_pred["logits"]), axis=(1, 2))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        error, kl = self.loss_terms(y, y_pred)
        for tracker, value in zip(self.trackers, (error, kl)):
            tracker.update_state(value)
        self.psnr.update_state(self.with_channels(y), self.with_channels(self.pixels_of(y_pred["outputs"])))
        self.codebook.update_state(argmax(y_pred["logits"]))
        values_of_a_token = self.channels * self.stride**2  # 192 for colour, as in the paper
        loss = losses.mean(error + self.schedule("kl_weight") / values_of_a_token * kl)
        if training:
            self.updates.assign_add(1.0)
        return loss

    # Tokens, in Python.

    def checked_images(self, images):
        """`images` (n, h, w[, c]) as float32 in [0, 1], resized to multiples of f: the nearest, f at least.

        `UserError` for another number of channels, or values outside [0, 1].
        """
        images = np.asarray(images)
        channels = self.image_shape[2:]
        if images.ndim != 3 + len(channels) or images.shape[3:] != channels or 0 in images.shape[1:]:
            wanted = ", ".join(map(str, ("n", "height", "width", *channels)))
            raise UserError(f"images must have the shape ({wanted}), not {images.shape}")
        images = checked_range(images)
        size = [self.multiple(n) for n in images.shape[1:3]]
        if images.shape[1:3] == tuple(size):
            return images
        x = ops.image.resize(images.reshape(*images.shape[:3], self.channels), size)
        return ops.convert_to_numpy(x).reshape(len(images), *size, *channels)

    def multiple(self, side):
        """The multiple of f, f at least, that is nearest to a height or width."""
        return max(1, (side + self.stride // 2) // self.stride) * self.stride

    def batch_size(self, places):
        """Images of so many places that Python's methods take at a time."""
        return max(1, min(MAX_BATCH, MAX_LOGITS // (places * self.vocab_size)))

    def tokens(self, images):
        """Images (n, h, w[, c]) of bytes or in [0, 1] -> tokens (n, h / f, w / f), int32; see `checked_images`."""
        images = self.checked_images(images)
        places = math.prod(images.shape[1:3]) // self.stride**2
        return np.int32(self.predict_batched("token_ids", images, self.batch_size(places)))

    def decode(self, tokens):
        """Tokens (n, h / f, w / f) -> images (n, h, w[, c]) in [0, 1]; `UserError` for tokens that are no codes."""
        tokens = np.asarray(tokens)
        if tokens.ndim != 3 or 0 in tokens.shape[1:] or tokens.dtype.kind not in "iu":
            raise UserError(f"tokens must be whole numbers (n, height, width), not {tokens.dtype} {tokens.shape}")
        if tokens.size:
            self.check("decode", tokens=tokens)
        return self.predict_batched("decode_ids", np.int32(tokens), self.batch_size(math.prod(tokens.shape[1:])))

    def reconstruct(self, images):
        """Images (n, h, w[, c]) of bytes or in [0, 1] -> their reconstructions by tokens; see `checked_images`."""
        return self.decode(self.tokens(images))

    def endpoints(self):
        def fitted(images):
            import tensorflow as tf

            shape, f = tf.shape(images), self.stride
            size = tf.maximum(1, (shape[1:3] + f // 2) // f) * f
            x = tf.image.resize(tf.reshape(images, (-1, shape[1], shape[2], self.channels)), size)
            return tf.reshape(x, (-1, size[0], size[1], *self.image_shape[2:]))

        def tokens(images):
            """Tokens of images in [0, 1], one for 8x8 pixels; sizes that are no multiples of 8 are resized."""
            return {"tokens": self.token_ids(fitted(images))}

        def decode(tokens):
            """Images in [0, 1], decoded from tokens."""
            return {"images": self.decode_ids(tokens)}

        def reconstruct(images):
            """Images in [0, 1], decoded from their tokens; sizes that are no multiples of 8 are resized."""
            return {"images": self.decode_ids(self.token_ids(fitted(images)))}

        images = Image("images", (None, None, *self.image_shape[2:]))
        codes = Input("tokens", "int32", (None, None, None), None, 0, self.vocab_size - 1)
        return {
            "tokens": Endpoint(tokens, [images]),
            "decode": Endpoint(decode, [codes]),
            "reconstruct": Endpoint(reconstruct, [images]),
        }
