"""SRGAN and ESRGAN: adversarial training of networks that enlarge images.

SRGAN (Ledig et al., 2016, https://arxiv.org/abs/1609.04802), ESRGAN (Wang et al., 2018,
https://arxiv.org/abs/1809.00219). A network that was trained for a small error of the pixels gives smooth images; the
generator goes on from its weights, for features of a classifier that agree (the perceptual loss), and against a
discriminator. The relativistic one tells not whether an image is real, but whether it is more realistic than the mean
of the others. Networks: `rrdb.py`, `srresnet.py`, `sr_discriminators.py`; features: `perceptual.py`.
Recipes: `esrgan_small`. Shapes: b batch, h height, w width, c channels, s scale.

Deviations from ESRGAN: the adversarial losses are the mean of their two halves, as in the code of the authors, of which
the weight 5e-3 is; the averages of the relativistic losses are over each device's part of the batch.
"""

import functools

import keras
from keras import ops

from homl_models.endpoints import Endpoint, Float, Image
from homl_models.errors import UserError
from homl_models.models.gan_gradients import gradient_step, stateless_step
from homl_models.models.perceptual import unit
from homl_models.models.super_resolution import SuperResolution

VGG_SCALE = 12.75  # by which SRGAN divides features of VGG, section 3.2


def real(logits):
    """Cross-entropy of logits that should say "real", a mean."""
    return ops.mean(ops.softplus(-logits))


def fake(logits):
    """Cross-entropy of logits that should say "generated", a mean."""
    return ops.mean(ops.softplus(logits))


def relativistic_discriminator_loss(x_r, x_f):
    """Logits (b, ...) of real and of generated images -> ESRGAN's equation 1, over 2.

    D_Ra(x_r, x_f) = sigmoid(C(x_r) - E[C(x_f)]).
    """
    return (real(x_r - ops.mean(x_f)) + fake(x_f - ops.mean(x_r))) / 2


def relativistic_generator_loss(x_r, x_f):
    """Equation 2, over 2: the same with the labels exchanged."""
    return (fake(x_r - ops.mean(x_f)) + real(x_f - ops.mean(x_r))) / 2


# Loss of the discriminator and of the generator, of logits of real and of generated images.
ADVERSARIAL = {
    "relativistic": (relativistic_discriminator_loss, relativistic_generator_loss),
    "vanilla": (lambda x_r, x_f: real(x_r) + fake(x_f), lambda x_r, x_f: real(x_f)),
}
# Distance of the features of two images, (b, h, w, c) each.
PERCEPTUAL = {
    "l1": lambda a, b: ops.mean(ops.abs(a - b)),
    "srgan": lambda a, b: ops.mean(ops.square((a - b) / VGG_SCALE)),
    "lpips": lambda a, b: ops.mean(ops.sum(ops.square(unit(a) - unit(b)), axis=-1)),
}
LOSSES = "pixel_loss", "perceptual_loss", "generator_loss", "discriminator_loss", "real_accuracy", "fake_accuracy"


@keras.saving.register_keras_serializable("homl_models")
class ESRGAN(SuperResolution):
    """Images (b, h, w, c) in [0, 1] -> (b, s * h, s * w, c); trained by `fit` on batches (low, high).

    Or on (low, (high, target)): then the pixel and the perceptual loss compare with the target, a sharpened image, the
    discriminator with high (Real-ESRGAN, Wang et al., 2021, https://arxiv.org/abs/2107.10833, section 3.4).
    Compile it with an `optimizers.GANOptimizer`, the `features`, and auto_scale_loss=False.

    Args:
        generator: a `SuperResolution` network, named "generator", by which the optimizer knows its weights.
        discriminator: images (b, s * h, s * w, c) -> logits (b,) or (b, s * h, s * w).
        adversarial: "relativistic" (ESRGAN) or "vanilla" (SRGAN).
        adversarial_weight: lambda of equation 3. perceptual_weight: 1 in both papers.
        perceptual: "l1" (ESRGAN); "srgan", the mean squared error of features divided by 12.75; or "lpips", the squared
            distance of features of length 1 at each position, LPIPS without its learned weights (Zhang et al., 2018,
            https://arxiv.org/abs/1801.03924, equation 1). Of several layers the distances are added.
        pixel_weight: eta of equation 3, of the mean absolute error; 0 in SRGAN.
    """

    def __init__(
        self,
        generator,
        discriminator,
        adversarial="relativistic",
        adversarial_weight=5e-3,
        perceptual="l1",
        perceptual_weight=1.0,
        pixel_weight=1e-2,
        **kwargs,
    ):
        super().__init__(**kwargs | {"scale": generator.scale, "channels": generator.channels})
        if adversarial not in ADVERSARIAL:
            raise UserError(f"adversarial must be one of {', '.join(ADVERSARIAL)}, not {adversarial!r}")
        if perceptual not in PERCEPTUAL:
            raise UserError(f"perceptual must be one of {', '.join(PERCEPTUAL)}, not {perceptual!r}")
        if generator.name != "generator":
            raise UserError(f'the generator must have the name "generator", not "{generator.name}"')
        self.generator, self.discriminator = generator, discriminator
        self.adversarial, self.adversarial_weight = adversarial, adversarial_weight
        self.perceptual, self.perceptual_weight, self.pixel_weight = perceptual, perceptual_weight, pixel_weight
        self.psnr_generator = generator.from_config(generator.get_config() | {"name": "psnr_generator"})
        self.features = None
        self.trackers = {name: keras.metrics.Mean(name) for name in LOSSES}

    @property
    def receptive_field(self):
        return self.generator.receptive_field

    @property
    def multiple(self):
        return self.generator.multiple

    def build(self, input_shape=None):
        for network in (self.generator, self.psnr_generator, self.discriminator):
            if not network.built:
                network.build()
        self.psnr_generator.trainable = False
        self.built = True

    def begin(self, psnr_weights):
        """Start from the weights of a generator that was trained for a small error of the pixels (a list)."""
        for network in (self.generator, self.psnr_generator):
            network.set_weights(psnr_weights)

    def call(self, images, training=None):
        return self.generator(images, training=training)

    def packed_weights(self):
        """Both generators: enough to enlarge images and to interpolate."""
        return [*self.generator.weights, *self.psnr_generator.weights]

    # Training.

    def compile(self, optimizer, features=None, **kwargs):
        """`features`: images (b, h, w, c) in [0, 1] -> features (b, h', w', c'), or a list of them, such as
        `perceptual.FeatureExtractor`.

        They are no part of the model: neither checkpoints nor .keras files hold them.
        """
        self.features = features and functools.partial(features)  # not a layer of this model
        super().compile(optimizer, **kwargs)

    def get_compile_config(self):
        config = super().get_compile_config()
        return config and config | {"auto_scale_loss": False}  # which Keras does not save

    def compile_from_config(self, config):
        """As Keras', which leaves out models with a `compile` of their own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def train_step(self, *args):
        """Keras calls it with (data), on JAX with (state, data)."""
        if keras.backend.backend() == "jax":
            return stateless_step(self, self._step, *args)
        return self._step(*args)

    def _step(self, data):
        if self.perceptual_weight and not self.features:
            raise UserError("the perceptual loss needs features: compile(..., features=...), or perceptual_weight=0")
        low, high, target = unpacked(data)
        generated = self.generator_step(low, high, target)
        self.discriminator_step(ops.stop_gradient(generated), high)
        self.optimizer.iterations.assign_add(1)
        return self.results()

    def generator_step(self, low, high, target):
        """One step of the generator -> its images before it."""

        def loss():
            generated = ops.cast(self.generator(low, training=True), "float32")
            losses = self.losses_of(generated, target)
            x_r = ops.stop_gradient(self.discriminator(high, training=True))
            losses["generator_loss"] = ADVERSARIAL[self.adversarial][1](
                x_r, self.discriminator(generated, training=True)
            )
            return self.total_loss(losses), (generated, losses)

        weights = self.generator.trainable_variables
        _, (generated, losses) = gradient_step(loss, weights, self.variables, self.optimizer.generator)
        self.update(losses)
        return generated

    def discriminator_step(self, generated, high):
        """One step of the discriminator, on images that it is not differentiated by."""

        def loss():
            x_r, x_f = (self.discriminator(images, training=True) for images in (high, generated))
            return ADVERSARIAL[self.adversarial][0](x_r, x_f), (x_r, x_f)

        weights = self.discriminator.trainable_variables
        value, (x_r, x_f) = gradient_step(loss, weights, self.variables, self.optimizer.discriminator)
        middle_r, middle_f = (ops.mean(x_f), ops.mean(x_r)) if self.adversarial == "relativistic" else (0.0, 0.0)
        accuracies = ops.mean(ops.cast(x_r > middle_r, "float32")), ops.mean(ops.cast(x_f <= middle_f, "float32"))
        self.update({"discriminator_loss": value, "real_accuracy": accuracies[0], "fake_accuracy": accuracies[1]})

    def losses_of(self, generated, target):
        """Losses that need no discriminator: {"pixel_loss", "perceptual_loss"}."""
        losses = {"pixel_loss": ops.mean(ops.abs(generated - target))}
        if self.features:
            maps = zip(*(listed(self.features(images)) for images in (generated, target)))
            losses["perceptual_loss"] = sum(PERCEPTUAL[self.perceptual](a, b) for a, b in maps)
        return losses

    def total_loss(self, losses):
        """Equation 3: L_percep + lambda L_G^Ra + eta L_1."""
        perceptual = self.perceptual_weight * losses["perceptual_loss"] if self.features else 0.0
        adversarial = self.adversarial_weight * losses["generator_loss"]
        return perceptual + adversarial + self.pixel_weight * losses["pixel_loss"]

    def test_step(self, *args):
        """The pixel loss and the perceptual loss of a batch; arguments as of `train_step`."""
        if keras.backend.backend() == "jax":
            return stateless_step(self, self._test_step, *args)
        return self._test_step(*args)

    def _test_step(self, data):
        low, _, target = unpacked(data)
        self.update(self.losses_of(ops.cast(self(low, training=False), "float32"), target))
        return {name: value for name, value in self.results().items() if name in ("pixel_loss", "perceptual_loss")}

    def update(self, values):
        for name, value in values.items():
            self.trackers[name].update_state(value)

    def results(self):
        """Means of the metrics so far."""
        names = [name for name in LOSSES if self.features or name != "perceptual_loss"]
        return {name: self.trackers[name].result() for name in names}

    # Network interpolation.

    def interpolated(self, alpha):
        """A generator between the one before the adversarial training (alpha 0) and the one after it (1)."""
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha must lie in [0, 1], not {alpha}")
        return interpolate(self.psnr_generator, self.generator, alpha)

    def upscale(self, images, alpha=1.0, **settings):
        """Enlarge an image, or a list, by `interpolated(alpha)`; see `SuperResolution.upscale`."""
        return self.interpolated(alpha).upscale(images, **settings)

    def enlarge_interpolated(self, images, alpha):
        """`enlarge` by the network with interpolated weights, also in a graph; alpha: a scalar."""
        pairs = zip(self.generator.weights, self.psnr_generator.weights)
        between = [(gan, (1 - alpha) * psnr.value + alpha * gan.value) for gan, psnr in pairs]
        with keras.StatelessScope(state_mapping=between):
            return self.generator.enlarge(images)

    def endpoints(self):
        def upscale(images, alpha):
            """Images in [0, 1], of any one size, enlarged as a whole; alpha 0: the network of the smallest error."""
            return {"images": self.enlarge_interpolated(images, alpha)}

        shape = (None, None, self.channels)
        return {"upscale": Endpoint(upscale, [Image("images", shape), Float("alpha", 0, 1, default=1.0)])}


def listed(features):
    """Features of one layer or of several, as a list."""
    return features if isinstance(features, list) else [features]


def unpacked(data):
    """A batch as (low, high, target)."""
    low, high, _ = keras.utils.unpack_x_y_sample_weight(data)
    return (low, *high) if isinstance(high, (tuple, list)) else (low, high, high)


def interpolate(psnr, gan, alpha):
    """Network interpolation: a new network with the weights (1 - alpha) * psnr + alpha * gan (equation 4).

    `UserError` for networks whose weights differ in number or shape.
    """
    if [tuple(w.shape) for w in psnr.weights] != [tuple(w.shape) for w in gan.weights]:
        raise UserError("networks can be interpolated whose weights have the same shapes")
    new = gan.from_config(gan.get_config())
    new.build()
    pairs = zip(psnr.get_weights(), gan.get_weights())
    new.set_weights([(1 - alpha) * a + alpha * b for a, b in pairs])
    return new
