"""Generative adversarial networks (Goodfellow et al., 2014, https://arxiv.org/abs/1406.2661).

A generator makes images of random codings, a discriminator tells them from real ones, and each learns from the
other: a step of training is one or more of the discriminator, then one of the generator.
Recipes: `gan`, `dcgan` (Radford et al., 2015, https://arxiv.org/abs/1511.06434), `dcgan_conditional` (Mirza &
Osindero, 2014, https://arxiv.org/abs/1411.1784), `dcgan_replay`, `wgan_gp` (Gulrajani et al., 2017,
https://arxiv.org/abs/1704.00028). Shapes: b batch, n images, h height, w width, c channels, k coding.

The networks are in `gan_networks.py`.

Deviations: images are drawn by an average of the generator's weights; real and generated images go through the
discriminator in batches of their own.
"""

import keras
import numpy as np
from keras import ops

from homl_models import devices
from homl_models.endpoints import COUNT, SEED, Array, Endpoint, Int, asserted
from homl_models.errors import UserError
from homl_models.layers.gaussian import normal
from homl_models.models.gan_networks import Discriminator, Generator
from homl_models.models.image_model import NO_LABELS, EMAModel, checked_count_and_seed

FEW_CODINGS = "interpolation needs 2 codings or more"
OPPOSITE = -0.999  # cosine of codings that no arc can be drawn between

# Losses of the discriminator, of logits (b,) of real and of generated images and the share s of smoothing, and of
# the generator, of logits of generated images.
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

    If `num_classes`, inputs are (images, labels (b,)). Compile it with an `optimizers.GANOptimizer` and
    auto_scale_loss=False: in mixed_float16 each of its two optimizers scales its own loss.

    coding_size: k. generator_units, discriminator_units: dense layers of each; or, if there are any,
    generator_filters, discriminator_filters: its convolutions; see `Generator` and `Discriminator`.
    dropout, minibatch_stddev: see `Discriminator`.
    loss: "non_saturating" (Goodfellow et al., section 3), "hinge" (Lim & Ye, 2017, https://arxiv.org/abs/1705.02894)
        or "wasserstein" (Arjovsky et al., 2017, https://arxiv.org/abs/1701.07875), whose logits have no zero: what the
        metrics `real_accuracy` and `fake_accuracy` say of it means nothing.
    label_smoothing: real images count as real to 1 minus that (Salimans et al., 2016, section 3.4).
    gradient_penalty: weight of (|gradient of the logit by the image| - 1)^2, between real and generated images
        (Gulrajani et al., equation 3).
    critic_steps: steps of the discriminator before one of the generator, each on its part of the batch.
    replay: how many generated images are remembered; half of those that the discriminator sees come from there.
    ema: decay of the average of the generator's weights, which draws. seed: of the draws in training.
    """

    def __init__(
        self,
        coding_size=100,
        generator_units=(100, 150),
        discriminator_units=(150, 100),
        generator_filters=(),
        discriminator_filters=(),
        dropout=0.4,
        minibatch_stddev=False,
        loss="non_saturating",
        label_smoothing=0.0,
        gradient_penalty=0.0,
        critic_steps=1,
        replay=0,
        num_classes=0,
        ema=0.999,
        seed=None,
        **kwargs,
    ):
        super().__init__(ema=ema, seed=seed, **kwargs)
        if loss not in LOSSES:
            raise UserError(f"loss must be one of {', '.join(LOSSES)}, not {loss!r}")
        self.coding_size, self.dropout, self.minibatch_stddev = coding_size, dropout, minibatch_stddev
        self.generator_units, self.discriminator_units = tuple(generator_units), tuple(discriminator_units)
        self.generator_filters, self.discriminator_filters = tuple(generator_filters), tuple(discriminator_filters)
        self.logit_loss, self.label_smoothing, self.gradient_penalty = loss, label_smoothing, gradient_penalty
        self.critic_steps, self.replay, self.num_classes = critic_steps, replay, num_classes
        self.class_names = self.checked_class_names(self.class_names)
        settings = {"image_shape": self.normalized_shape, "dtype": self.dtype_policy}
        self.generator = Generator(
            hidden_units=generator_units, filters=generator_filters, name="generator", **settings
        )
        self.discriminator = Discriminator(
            hidden_units=discriminator_units,
            filters=discriminator_filters,
            dropout=dropout,
            minibatch_stddev=minibatch_stddev,
            num_classes=num_classes,
            name="discriminator",
            **settings,
        )
        self.ema_generator = self.ema_copy(self.generator)
        names = "discriminator_loss", "generator_loss", "real_accuracy", "fake_accuracy"
        self.trackers = {name: keras.metrics.Mean(name) for name in names}
        if replay:
            fixed = {"initializer": "zeros", "trainable": False}
            self.memory = self.add_weight(shape=(replay, *self.normalized_shape), name="memory", **fixed)
            self.memory_labels = self.add_weight(shape=(replay,), dtype="int32", name="memory_labels", **fixed)
            self.remembered = self.add_weight(shape=(), dtype="int32", name="remembered", **fixed)

    def get_config(self):
        return super().get_config() | {"loss": self.logit_loss}  # `loss` itself is Keras'

    def ema_and_network(self):
        return self.ema_generator, self.generator

    def build(self, input_shape=None):
        for network in (self.generator, self.ema_generator):
            network.build((None, self.coding_size + self.num_classes))
        self.ema_generator.trainable = False
        self.discriminator.build()
        self.built = True

    def compute_output_shape(self, input_shape):
        return ((input_shape[0] if self.num_classes else input_shape)[0],)

    def call(self, inputs, training=None):
        images, labels = inputs if self.num_classes else (inputs, None)
        return self.discriminator(self.normalize(images), labels, training=training)

    def with_labels(self, codings, labels=None):
        """Codings (b, k) and labels (b,) -> what the generator reads (b, k + num_classes)."""
        if not self.num_classes:
            return codings
        return ops.concatenate([codings, ops.one_hot(ops.cast(labels, "int32"), self.num_classes)], axis=-1)

    # Training.

    def get_compile_config(self):
        config = super().get_compile_config()
        return config and config | {"auto_scale_loss": False}  # which Keras does not save

    def train_step(self, *given):
        if keras.backend.backend() == "jax":
            return self._stateless_step(*given)
        return self._step(*given)

    def _stateless_step(self, state, data):
        """What Keras wants of a step on JAX: all state comes in and goes out."""
        kinds = self.trainable_variables, self.non_trainable_variables, self.optimizer.variables, self.metrics_variables
        pairs = [pair for kind, values in zip(kinds, state) for pair in zip(kind, values)]
        with keras.StatelessScope(state_mapping=pairs) as scope:
            logs = self._step(data)
        return logs, tuple([scope.get_current_value(variable) for variable in kind] for kind in kinds)

    def _step(self, data):
        inputs, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        images, labels = inputs if self.num_classes else (inputs, None)
        real = self.normalize(images)
        size = ops.shape(real)[0] // self.critic_steps
        for i in range(self.critic_steps):
            part = slice(i * size, (i + 1) * size)
            wanted = None if labels is None else labels[part]
            self.discriminator_step(real[part], wanted)
        self.generator_step(size, wanted)
        self.update_ema()
        self.optimizer.iterations.assign_add(1)
        return {name: tracker.result() for name, tracker in self.trackers.items()}

    def draw(self, count):
        """New codings (count, k) for training."""
        return normal((count, self.coding_size), self.seed_generator.next())

    def discriminator_step(self, real, labels=None):
        """One step of the discriminator on real maps (b, h, w, c) and as many generated ones."""
        count = ops.shape(real)[0]
        new = self.generator(self.with_labels(self.draw(count), labels), training=True)
        fake, fake_labels = self.replayed(new, labels) if self.replay else (new, labels)

        def loss():
            on_real = self.discriminator(real, labels, training=True)
            on_fake = self.discriminator(fake, fake_labels, training=True)
            value = LOSSES[self.logit_loss][0](on_real, on_fake, self.label_smoothing)
            if self.gradient_penalty:
                # With the new ones: those that are remembered may be of other classes than the real beside them.
                value = value + self.gradient_penalty * self.penalty(real, new, labels)
            return value, (on_real, on_fake)

        value, (on_real, on_fake) = self.descend(loss, self.discriminator, self.optimizer.discriminator)
        self.trackers["discriminator_loss"].update_state(value)
        self.trackers["real_accuracy"].update_state(ops.cast(on_real > 0, "float32"))
        self.trackers["fake_accuracy"].update_state(ops.cast(on_fake <= 0, "float32"))

    def generator_step(self, count, labels=None):
        """One step of the generator on `count` codings."""
        codings = self.with_labels(self.draw(count), labels)

        def loss():
            logits = self.discriminator(self.generator(codings, training=True), labels, training=True)
            return LOSSES[self.logit_loss][1](logits), ()

        value, _ = self.descend(loss, self.generator, self.optimizer.generator)
        self.trackers["generator_loss"].update_state(value)

    def penalty(self, real, fake, labels=None):
        """The gradient penalty between real and generated maps (b, h, w, c) of the same labels, a mean over them."""
        shares = ops.reshape(self.uniform(ops.shape(real)[0]), (-1, 1, 1, 1))
        between = shares * real + (1 - shares) * fake
        slopes = input_gradient(lambda maps: ops.sum(self.discriminator(maps, labels, training=True)), between)
        return ops.mean(ops.square(ops.sqrt(ops.sum(ops.square(slopes), axis=(1, 2, 3)) + 1e-12) - 1))

    def replayed(self, fake, labels=None):
        """Remember generated maps (b, h, w, c), and give the first half of them and as many remembered ones."""
        count = ops.shape(fake)[0]
        labels = ops.zeros((count,), "int32") if labels is None else ops.cast(labels, "int32")
        places = ((self.remembered + ops.arange(count)) % self.replay)[:, None]
        self.memory.assign(ops.scatter_update(ops.convert_to_tensor(self.memory), places, fake))
        self.memory_labels.assign(ops.scatter_update(ops.convert_to_tensor(self.memory_labels), places, labels))
        self.remembered.assign_add(count)
        half = count // 2
        known = ops.cast(ops.minimum(self.remembered, self.replay), "float32")
        picked = ops.cast(self.uniform(count - half) * known, "int32")
        fake = ops.concatenate([fake[:half], ops.take(self.memory, picked, axis=0)])
        if not self.num_classes:
            return fake, None
        return fake, ops.concatenate([labels[:half], ops.take(self.memory_labels, picked, axis=0)])

    def descend(self, function, network, optimizer):
        """A step of `optimizer` on the weights of `network`: () -> (loss, anything else) is computed once."""
        weights = network.trainable_variables
        factor = optimizer.scale_loss(ops.ones(()))
        if keras.backend.backend() == "jax":
            gradients, found = self._gradients_on_jax(function, weights, factor)
        else:
            import tensorflow as tf

            with tf.GradientTape() as tape:
                found = function()
                scaled = found[0] * factor / devices.num_replicas()
            gradients = tape.gradient(scaled, [weight.value for weight in weights])
        optimizer.apply(gradients, weights)
        return found

    def _gradients_on_jax(self, function, weights, factor):
        """The function's variables are those of this step: it runs in a scope of its own, on copies."""
        import jax

        chosen = {id(weight) for weight in weights}
        others = [variable for variable in self.variables if id(variable) not in chosen]
        before = [(variable, variable.value) for variable in others]

        def pure(values):
            with keras.StatelessScope(state_mapping=[*zip(weights, values), *before]) as scope:
                found = function()
            return found[0] * factor, (found, [scope.get_current_value(variable) for variable in others])

        gradients, (found, after) = jax.grad(pure, has_aux=True)([weight.value for weight in weights])
        for variable, value in zip(others, after):
            variable.assign(value)
        return gradients, found

    # Drawing.

    def shown(self, codings):
        """Codings (b, k + num_classes) -> images (b, ...) in [0, 1]."""
        return self.denormalize(self.ema_generator(codings, training=False))

    def codings(self, count=64, seed=0):
        """New codings (count, k), standard normal; the i-th of a seed is the same whatever their number."""
        count, seed = checked_count_and_seed(count, seed)
        return ops.convert_to_numpy(normal((count, self.coding_size), np.array([seed, 0], np.uint32)))

    def decode_codings(self, codings, labels=None):
        """Codings (n, k), and labels, taken in turn, if there are classes -> images (n, ...) in [0, 1].

        labels: a class, or a list of them; None for all classes in turn.
        """
        codings = np.asarray(codings, np.float32)
        if codings.ndim != 2 or codings.shape[1] != self.coding_size:
            raise UserError(f"codings must have the shape (n, {self.coding_size}), not {codings.shape}")
        labels = self.checked_labels(labels, len(codings))
        return self.predict_batched("shown", ops.convert_to_numpy(self.with_labels(codings, labels)))

    def checked_labels(self, labels, count):
        if labels is None and self.num_classes:
            labels = np.arange(self.num_classes)
        return super().checked_labels(labels, count)

    def sample(self, count=64, seed=0, labels=None):
        """New images (count, ...) in [0, 1]; labels: see `images`. `UserError` for labels out of range.

        Image i of a seed is the same whatever their number.
        """
        return self.decode_codings(self.codings(count, seed), labels)

    def interpolate(self, codings, steps=8, labels=None):
        """From each coding (n, k) to the next in equal steps: images ((n - 1) * steps, ...); labels: see `images`.

        `UserError` for fewer than two codings or steps.
        """
        self.check("interpolate", steps=steps)
        if len(codings) < 2:
            raise UserError(FEW_CODINGS)
        path = self.between(ops.convert_to_tensor(np.float32(codings)), ops.linspace(0.0, 1.0, steps))
        return self.decode_codings(ops.convert_to_numpy(path), labels)

    def between(self, codings, shares):
        """Codings (n, k), and shares (s,) of the way -> ((n - 1) * s, k), along the arc between them.

        Halfway between two normal codings on a line lie codings that are too short (White, 2016,
        https://arxiv.org/abs/1609.04468). Between opposite codings, as those of one number often are, there is no
        arc, and they go along the line.
        """
        lengths = ops.sqrt(ops.sum(ops.square(codings), axis=-1, keepdims=True))
        cosines = ops.sum((codings / lengths)[:-1] * (codings / lengths)[1:], axis=-1)
        angles = ops.maximum(ops.arccos(ops.clip(cosines, -1.0, 1.0)), 1e-3)[:, None, None]
        shares = ops.cast(shares, "float32")[None, :, None]
        first, last = ops.sin((1 - shares) * angles), ops.sin(shares * angles)
        arc = (first * codings[:-1, None] + last * codings[1:, None]) / ops.sin(angles)
        line = (1 - shares) * codings[:-1, None] + shares * codings[1:, None]
        path = ops.where(cosines[:, None, None] < OPPOSITE, line, arc)
        return ops.reshape(path, (-1, self.coding_size))

    def mean_codings(self, classify, count=1000, seed=0):
        """The mean coding of the images of each class, to add and subtract: (classes, k), and their numbers.

        classify: images (n, ...) -> p(class) (n, classes), e.g. of a `FeatureNet` net,
            `lambda x: net.features_and_probabilities(x)[1]`.
        """
        codings = self.codings(count, seed)
        found = np.asarray(classify(self.decode_codings(codings)))
        hits = np.eye(found.shape[1], dtype=np.float32)[found.argmax(1)]
        counts = hits.sum(0)
        return hits.T @ codings / np.maximum(counts, 1)[:, None], counts.astype(int)

    # In a graph.

    def turn(self, labels, count):
        """Labels (n,) in a graph, taken in turn -> (count,), -1 for all classes in turn; None without classes."""
        import tensorflow as tf

        if not self.num_classes:
            return None
        labels = asserted(tf.size(labels) > 0, NO_LABELS, labels)
        turn = tf.range(count)
        labels = tf.gather(labels, turn % tf.size(labels))
        return tf.where(labels < 0, turn % self.num_classes, labels)

    def endpoints(self):
        def drawn(codings, labels):
            return {"images": self.shown(self.with_labels(codings, self.turn(labels, ops.shape(codings)[0])))}

        def codings(count, seed):
            """New codings, to decode, interpolate or combine."""
            import tensorflow as tf

            return {"codings": normal((count, self.coding_size), tf.stack([seed, 0]))}

        def sample(count, seed, labels):
            """New images; the same seed gives the same. labels: classes, taken in turn, -1 for all of them."""
            return drawn(codings(count, seed)["codings"], labels)

        def decode(codings, labels):
            """The images that codings stand for."""
            return drawn(codings, labels)

        def interpolate(codings, steps, labels):
            """From each coding to the next, along the arc between them."""
            import tensorflow as tf

            codings = asserted(tf.shape(codings)[0] >= 2, FEW_CODINGS, codings)
            return drawn(self.between(codings, tf.linspace(0.0, 1.0, steps)), labels)

        def combine(codings, weights, labels):
            """The images of weighted sums of codings: a row of weights, such as 1, -1, 1, for each image."""
            import tensorflow as tf

            same = tf.shape(weights)[1] == tf.shape(codings)[0]
            weights = asserted(same, "a row of weights must have a number for each coding", weights)
            return drawn(weights @ codings, labels)

        rows = Array("codings", None, self.coding_size)
        labels = self.labels_input("-1 is for all in turn")
        return {
            "sample": Endpoint(sample, [COUNT, SEED, labels]),
            "codings": Endpoint(codings, [COUNT, SEED]),
            "decode": Endpoint(decode, [rows, labels]),
            "interpolate": Endpoint(interpolate, [rows, Int("steps", 2, default=8), labels]),
            "combine": Endpoint(combine, [rows, Array("weights", None, None), labels]),
        }


def input_gradient(function, x):
    """The gradient of a scalar function by its input, itself differentiable."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function)(x)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)
