"""Generative adversarial networks (Goodfellow et al., 2014, https://arxiv.org/abs/1406.2661).

A generator maps random codings to images, a discriminator tells them from real images, and each is trained against the
other: a training step is one or more steps of the discriminator, then one of the generator.
Recipes: `gan`, `dcgan` (Radford et al., 2015, https://arxiv.org/abs/1511.06434), `dcgan_conditional` (Mirza &
Osindero, 2014, https://arxiv.org/abs/1411.1784), `dcgan_replay`, `wgan_gp` (Gulrajani et al., 2017,
https://arxiv.org/abs/1704.00028). Shapes: b batch, n images, h height, w width, c channels, k coding (the latent).

The networks are in `gan_networks.py`, gradients in `gan_gradients.py`, experience replay in `replay_buffer.py`.

Deviations: samples come from an exponential moving average of the generator's weights; real and generated images go
through the discriminator in batches of their own.
"""

import keras
import numpy as np
from keras import ops

from homl_models.endpoints import COUNT, SEED, Array, Endpoint, Int, asserted
from homl_models.errors import UserError
from homl_models.layers.gaussian import normal
from homl_models.models.gan_gradients import gradient_step, input_gradient, stateless_step
from homl_models.models.image_model import NO_LABELS, EMAModel, checked_count_and_seed
from homl_models.models.replay_buffer import ReplayBuffer

FEW_CODINGS = "interpolation needs 2 codings or more"
OPPOSITE = -0.999  # cosine of two codings below which they are interpolated along a line

# Loss of the discriminator, of logits (b,) of real and of generated images and the label smoothing s; loss of the
# generator, of logits of generated images.
LOSSES = {
    "non_saturating": (
        lambda real, fake, s: ops.mean(ops.softplus(-real) + s * real) + ops.mean(ops.softplus(fake)),
        lambda fake: ops.mean(ops.softplus(-fake)),
    ),
    "hinge": (
        lambda real, fake, s: ops.mean(ops.relu(1 - s - real)) + ops.mean(ops.relu(1 + fake)),
        lambda fake: -ops.mean(fake),
    ),
    "wasserstein": (
        lambda real, fake, s: ops.mean(fake) - (1 - s) * ops.mean(real),
        lambda fake: -ops.mean(fake),
    ),
}


@keras.saving.register_keras_serializable("homl_models")
class GAN(EMAModel):
    """Images (b, *image_shape) in [0, 1] -> logits (b,) that they are real; trained by `fit` on images alone.

    With classes, inputs are (images, labels (b,)). Compile it with an `optimizers.GANOptimizer` and
    auto_scale_loss=False: in mixed_float16 each of its two optimizers scales its own loss.

    Args:
        generator: a `Generator`, named "generator", by which the optimizer knows its weights.
        discriminator: a `Discriminator` for images of the same shape, and as many classes.
        loss: "non_saturating" (Goodfellow et al., section 3), "hinge" (Lim & Ye, 2017,
            https://arxiv.org/abs/1705.02894) or "wasserstein" (Arjovsky et al., 2017,
            https://arxiv.org/abs/1701.07875), whose logits have no zero: `real_accuracy` and `fake_accuracy` mean
            nothing then.
        label_smoothing: the label of real images is 1 minus that (Salimans et al., 2016, section 3.4).
        gradient_penalty: weight of the penalty (Gulrajani et al., equation 3); see `penalty`.
        critic_steps: steps of the discriminator before one of the generator, each on its part of the batch.
        replay_buffer_size: number of images in the replay buffer, from which half of the generated images of the
            discriminator's batches come. 0: no replay.
        ema: decay of the moving average of the generator's weights.
        seed: of the random numbers in training.
        class_names: in the order of the labels, or () for none.
    """

    def __init__(
        self,
        generator,
        discriminator,
        loss="non_saturating",
        label_smoothing=0.0,
        gradient_penalty=0.0,
        critic_steps=1,
        replay_buffer_size=0,
        ema=0.999,
        seed=None,
        **kwargs,
    ):
        super().__init__(ema=ema, seed=seed, **kwargs)
        if loss not in LOSSES:
            raise UserError(f"loss must be one of {', '.join(LOSSES)}, not {loss!r}")
        self.check_networks(generator, discriminator)
        self.generator, self.discriminator = generator, discriminator
        self.logit_loss, self.label_smoothing, self.gradient_penalty = loss, label_smoothing, gradient_penalty
        self.critic_steps, self.replay_buffer_size = critic_steps, replay_buffer_size
        self.coding_size, self.num_classes = generator.coding_size, generator.num_classes
        self.class_names = self.checked_class_names(self.class_names)
        self.ema_generator = self.ema_copy(generator)
        names = "discriminator_loss", "generator_loss", "real_accuracy", "fake_accuracy"
        self.trackers = {name: keras.metrics.Mean(name) for name in names}
        if replay_buffer_size:
            self.replay_buffer = ReplayBuffer(replay_buffer_size, self.normalized_shape, dtype="float32")

    def check_networks(self, generator, discriminator):
        """`UserError` for networks that do not belong together."""
        if generator.name != "generator":
            raise UserError(f'the generator must have the name "generator", not "{generator.name}"')
        for network in (generator, discriminator):
            if network.image_shape != self.normalized_shape:
                raise UserError(
                    f"the {network.name} is for images of {network.image_shape}, not {self.normalized_shape}"
                )
        if generator.num_classes != discriminator.num_classes:
            counts = f"{generator.num_classes} classes and the discriminator {discriminator.num_classes}"
            raise UserError(f"the generator has {counts}")

    def get_config(self):
        return super().get_config() | {"loss": self.logit_loss}  # `loss` itself is Keras'

    def ema_and_network(self):
        return self.ema_generator, self.generator

    def build(self, input_shape=None):
        for network in (self.generator, self.ema_generator):
            if not network.built:
                network.build((None, self.coding_size + self.num_classes))
        self.ema_generator.trainable = False
        if not self.discriminator.built:
            self.discriminator.build()
        self.built = True

    def compute_output_shape(self, input_shape):
        return ((input_shape[0] if self.num_classes else input_shape)[0],)

    def call(self, inputs, training=None):
        images, labels = inputs if self.num_classes else (inputs, None)
        return self.discriminator(self.normalize(images), labels, training=training)

    def with_labels(self, codings, labels=None):
        """Codings (b, k) and labels (b,) -> the generator's input (b, k + num_classes), with one-hot labels."""
        if not self.num_classes:
            return codings
        return ops.concatenate([codings, ops.one_hot(ops.cast(labels, "int32"), self.num_classes)], axis=-1)

    # Training.

    def get_compile_config(self):
        config = super().get_compile_config()
        return config and config | {"auto_scale_loss": False}  # which Keras does not save

    def train_step(self, *args):
        """Keras calls it with (data), on JAX with (state, data)."""
        if keras.backend.backend() == "jax":
            return stateless_step(self, self._step, *args)
        return self._step(*args)

    def _step(self, data):
        inputs, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        images, labels = inputs if self.num_classes else (inputs, None)
        real = self.normalize(images)
        size = ops.shape(real)[0] // self.critic_steps
        for i in range(self.critic_steps):
            part = slice(i * size, (i + 1) * size)
            part_labels = None if labels is None else labels[part]
            self.discriminator_step(real[part], part_labels)
        self.generator_step(size, part_labels)
        self.update_ema()
        self.optimizer.iterations.assign_add(1)
        return {name: tracker.result() for name, tracker in self.trackers.items()}

    def random_codings(self, count):
        """New codings (count, k) for training, standard normal."""
        return normal((count, self.coding_size), self.seed_generator.next())

    def discriminator_step(self, real, labels=None):
        """One step of the discriminator on real images (b, h, w, c), normalized, and as many generated ones."""
        count = ops.shape(real)[0]
        new = self.generator(self.with_labels(self.random_codings(count), labels), training=True)
        fake, fake_labels = self.replay(new, labels) if self.replay_buffer_size else (new, labels)

        def loss():
            real_logits = self.discriminator(real, labels, training=True)
            fake_logits = self.discriminator(fake, fake_labels, training=True)
            value = LOSSES[self.logit_loss][0](real_logits, fake_logits, self.label_smoothing)
            if self.gradient_penalty:
                # With the new ones: replayed images may be of other classes than the real beside them.
                value = value + self.gradient_penalty * self.penalty(real, new, labels)
            return value, (real_logits, fake_logits)

        value, (real_logits, fake_logits) = self.apply_gradient_step(
            loss, self.discriminator, self.optimizer.discriminator
        )
        self.trackers["discriminator_loss"].update_state(value)
        self.trackers["real_accuracy"].update_state(ops.cast(real_logits > 0, "float32"))
        self.trackers["fake_accuracy"].update_state(ops.cast(fake_logits <= 0, "float32"))

    def generator_step(self, count, labels=None):
        """One step of the generator on `count` codings."""
        codings = self.with_labels(self.random_codings(count), labels)

        def loss():
            logits = self.discriminator(self.generator(codings, training=True), labels, training=True)
            return LOSSES[self.logit_loss][1](logits), ()

        value, _ = self.apply_gradient_step(loss, self.generator, self.optimizer.generator)
        self.trackers["generator_loss"].update_state(value)

    def penalty(self, real, fake, labels=None):
        """Gradient penalty: the mean of (|gradient of D at x_hat| - 1)^2 (Gulrajani et al., equation 3).

        x_hat lies between a real and a generated image (b, h, w, c) of the same label, at a random place.
        """
        epsilon = ops.reshape(self.uniform(ops.shape(real)[0]), (-1, 1, 1, 1))
        x_hat = epsilon * real + (1 - epsilon) * fake
        gradient = input_gradient(lambda x: ops.sum(self.discriminator(x, labels, training=True)), x_hat)
        norm = ops.sqrt(ops.sum(ops.square(gradient), axis=(1, 2, 3)) + 1e-12)
        return ops.mean(ops.square(norm - 1))

    def replay(self, fake, labels=None):
        """Store generated images (b, h, w, c); half of them and as many from the replay buffer, and their labels."""
        count = ops.shape(fake)[0]
        stored_labels = ops.zeros((count,), "int32") if labels is None else ops.cast(labels, "int32")
        fake, fake_labels = self.replay_buffer(fake, stored_labels, self.uniform(count - count // 2))
        return fake, fake_labels if self.num_classes else None

    def apply_gradient_step(self, function, network, optimizer):
        """A step of `optimizer` on the weights of `network`. `function`: () -> (loss, anything else), called once."""
        return gradient_step(function, network.trainable_variables, self.variables, optimizer)

    # Sampling.

    def generate(self, codings):
        """Codings (b, k + num_classes) -> images (b, ...) in [0, 1], by the averaged weights."""
        return self.denormalize(self.ema_generator(codings, training=False))

    def codings(self, count=64, seed=0):
        """New codings (count, k), standard normal; the i-th of a seed is the same whatever their number."""
        count, seed = checked_count_and_seed(count, seed)
        return ops.convert_to_numpy(normal((count, self.coding_size), np.array([seed, 0], np.uint32)))

    def decode_codings(self, codings, labels=None):
        """Codings (n, k), and labels, repeated in turn, if there are classes -> images (n, ...) in [0, 1].

        labels: a class, or a list of them; None for all classes in turn.
        """
        codings = np.asarray(codings, np.float32)
        if codings.ndim != 2 or codings.shape[1] != self.coding_size:
            raise UserError(f"codings must have the shape (n, {self.coding_size}), not {codings.shape}")
        labels = self.checked_labels(labels, len(codings))
        return self.predict_batched("generate", ops.convert_to_numpy(self.with_labels(codings, labels)))

    def checked_labels(self, labels, count):
        if labels is None and self.num_classes:
            labels = np.arange(self.num_classes)
        return super().checked_labels(labels, count)

    def sample(self, count=64, seed=0, labels=None):
        """New images (count, ...) in [0, 1]; labels: see `decode_codings`. `UserError` for labels out of range.

        Image i of a seed is the same whatever their number.
        """
        return self.decode_codings(self.codings(count, seed), labels)

    def interpolate(self, codings, steps=8, labels=None):
        """From each coding (n, k) to the next in equal steps -> images ((n - 1) * steps, ...).

        labels: see `decode_codings`. `UserError` for fewer than two codings or steps.
        """
        self.check("interpolate", steps=steps)
        if len(codings) < 2:
            raise UserError(FEW_CODINGS)
        path = self.slerp(ops.convert_to_tensor(np.float32(codings)), ops.linspace(0.0, 1.0, steps))
        return self.decode_codings(ops.convert_to_numpy(path), labels)

    def slerp(self, codings, fractions):
        """Spherical linear interpolation (White, 2016, https://arxiv.org/abs/1609.04468, section 2.1).

        Codings (n, k), and fractions (s,) of the way from each to the next -> ((n - 1) * s, k). Halfway between two
        normal codings on a line lie codings that are too short. Between opposite codings, as two codings of one number
        often are, there is no arc: they are interpolated along the line.
        """
        lengths = ops.sqrt(ops.sum(ops.square(codings), axis=-1, keepdims=True))
        cosines = ops.sum((codings / lengths)[:-1] * (codings / lengths)[1:], axis=-1)
        angles = ops.maximum(ops.arccos(ops.clip(cosines, -1.0, 1.0)), 1e-3)[:, None, None]
        fractions = ops.cast(fractions, "float32")[None, :, None]
        first, last = ops.sin((1 - fractions) * angles), ops.sin(fractions * angles)
        arc = (first * codings[:-1, None] + last * codings[1:, None]) / ops.sin(angles)
        line = (1 - fractions) * codings[:-1, None] + fractions * codings[1:, None]
        path = ops.where(cosines[:, None, None] < OPPOSITE, line, arc)
        return ops.reshape(path, (-1, self.coding_size))

    def mean_codings(self, classify, count=1000, seed=0):
        """The mean coding of the images of each class (classes, k), for arithmetic, and how many (classes,) there were.

        classify: images (n, ...) -> p(class) (n, classes), e.g. of a `FeatureNet` net,
            `lambda x: net.features_and_probabilities(x)[1]`.
        """
        codings = self.codings(count, seed)
        probabilities = np.asarray(classify(self.decode_codings(codings)))
        one_hot = np.eye(probabilities.shape[1], dtype=np.float32)[probabilities.argmax(1)]
        counts = one_hot.sum(0)
        return one_hot.T @ codings / np.maximum(counts, 1)[:, None], counts.astype(int)

    # Endpoints.

    def repeat_labels(self, labels, count):
        """Labels (n,) repeated in turn -> (count,), where -1 becomes all classes in turn; None without classes."""
        import tensorflow as tf

        if not self.num_classes:
            return None
        labels = asserted(tf.size(labels) > 0, NO_LABELS, labels)
        index = tf.range(count)
        labels = tf.gather(labels, index % tf.size(labels))
        return tf.where(labels < 0, index % self.num_classes, labels)

    def endpoints(self):
        def images_of(codings, labels):
            return {
                "images": self.generate(self.with_labels(codings, self.repeat_labels(labels, ops.shape(codings)[0])))
            }

        def codings(count, seed):
            """New codings, to decode, interpolate or combine."""
            import tensorflow as tf

            return {"codings": normal((count, self.coding_size), tf.stack([seed, 0]))}

        def sample(count, seed, labels):
            """New images, the same for the same seed. labels: classes, repeated in turn; -1 for all of them."""
            return images_of(codings(count, seed)["codings"], labels)

        def decode(codings, labels):
            """The images of codings."""
            return images_of(codings, labels)

        def interpolate(codings, steps, labels):
            """From each coding to the next, along the arc between them."""
            import tensorflow as tf

            codings = asserted(tf.shape(codings)[0] >= 2, FEW_CODINGS, codings)
            return images_of(self.slerp(codings, tf.linspace(0.0, 1.0, steps)), labels)

        def combine(codings, weights, labels):
            """The images of weighted sums of codings, a row of weights, such as 1, -1, 1, for each image."""
            import tensorflow as tf

            same = tf.shape(weights)[1] == tf.shape(codings)[0]
            weights = asserted(same, "a row of weights must have a number for each coding", weights)
            return images_of(weights @ codings, labels)

        rows = Array("codings", None, self.coding_size)
        labels = self.labels_input("-1 is for all in turn")
        return {
            "sample": Endpoint(sample, [COUNT, SEED, labels]),
            "codings": Endpoint(codings, [COUNT, SEED]),
            "decode": Endpoint(decode, [rows, labels]),
            "interpolate": Endpoint(interpolate, [rows, Int("steps", 2, default=8), labels]),
            "combine": Endpoint(combine, [rows, Array("weights", None, None), labels]),
        }
