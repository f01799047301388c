"""Denoising diffusion (Ho et al., 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239).

A network learns what noise hides at every time t of a process that turns images into noise in T steps; drawing is
that process backwards, from noise, a step at a time (`diffusion.py` has the schedules and samplers, `unet.py` the
networks). With classes, labels are left out now and then in training, so that one network knows the images of a
class and those of all, and the difference can be exaggerated: classifier-free guidance (Ho & Salimans, 2022,
https://arxiv.org/abs/2207.12598).
Recipes: `ddpm_book`, `ddpm`, `ddpm_conditional`. Shapes: b batch, n images, h height, w width, c channels.

Deviations from the paper: the times of a batch are spread evenly over 1 to T (Kingma et al., 2021, appendix I.1,
https://arxiv.org/abs/2107.00630), each by itself uniform; the average of the weights follows faster at first;
velocity or x0 may be predicted instead of the noise.
"""

import dataclasses
import functools

import keras
import numpy as np
from keras import ops

from homl_models import diffusion, losses
from homl_models.base import compiled
from homl_models.endpoints import COUNT, SEED, Array, Endpoint, Float, Int, asserted
from homl_models.errors import UserError
from homl_models.layers.gaussian import normal
from homl_models.models.image_model import NO_LABELS, EMAModel, checked_count_and_seed

PREDICTIONS = "noise", "x0", "velocity"
LOSSES = {
    "mse": ops.square,
    "mae": ops.abs,
    "huber": lambda e: ops.where(ops.abs(e) < 1, ops.square(e) / 2, ops.abs(e) - 0.5),
}
BATCH = 100  # images that are drawn together
MASKS = "masks must be 1 where the image is to stay and 0 elsewhere"
STEPS, INPAINTING_STEPS = 25, 100  # that are taken unless told, if T is not below them


@keras.saving.register_keras_serializable("homl_models")
class DDPM(EMAModel):
    """Images (b, *image_shape) in [0, 1] -> {"outputs", "target"}, (b, h, w, c) each, at times drawn at random.

    If `network.num_classes`, inputs are (images, labels (b,)).

    network: what predicts; a `UNet` or a `SeparableUNet`, or another layer of that kind (`unet.Network`).
    num_steps: T. schedule: "cosine" or "linear". prediction: what the network is to predict, "noise", "x0" or
    "velocity". loss: "mse", "mae" or "huber", of each pixel in [-1, 1].
    ema: decay of the average of the weights, which validation and drawing use.
    label_dropout: share of labels that are left out in training.
    seed: of the draws in training.
    """

    def __init__(
        self,
        network,
        num_steps=1000,
        schedule="cosine",
        prediction="velocity",
        loss="mse",
        ema=0.999,
        label_dropout=0.1,
        seed=None,
        **kwargs,
    ):
        super().__init__(ema=ema, seed=seed, **kwargs)
        for name, value, known in (
            ("schedule", schedule, diffusion.SCHEDULES),
            ("prediction", prediction, PREDICTIONS),
            ("loss", loss, LOSSES),
        ):
            if value not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        if network.channels != self.channels:
            raise UserError(f"the network is for {network.channels} channels, the images have {self.channels}")
        self.network, self.num_steps, self.schedule, self.prediction = network, num_steps, schedule, prediction
        self.pixel_loss, self.label_dropout, self.num_classes = loss, label_dropout, network.num_classes
        self.class_names = self.checked_class_names(self.class_names)
        self.tables = diffusion.Schedule(diffusion.SCHEDULES[schedule](num_steps))
        self.ema_network = self.ema_copy(network)

    def get_config(self):
        return super().get_config() | {"loss": self.pixel_loss}  # `loss` itself is Keras'

    def ema_and_network(self):
        return self.ema_network, self.network

    def build(self, input_shape=None):
        for network in (self.network, self.ema_network):
            if not network.built:
                network.build((None, *self.normalized_shape))
        self.ema_network.trainable = False
        self.built = True

    def compute_output_shape(self, input_shape):
        batch = (input_shape[0] if self.num_classes else input_shape)[0]
        return dict.fromkeys(("outputs", "target"), (batch, *self.normalized_shape))

    # Training.

    def draw_times(self, count):
        """Times (count,), the i-th in the i-th of `count` equal parts of 1 to T."""
        shares = (ops.cast(ops.arange(count), "float32") + self.uniform(count)) / ops.cast(count, "float32")
        return ops.minimum(ops.cast(shares * self.num_steps, "int32") + 1, self.num_steps)

    def call(self, inputs, training=None):
        images, labels = inputs if self.num_classes else (inputs, None)
        x0 = self.normalize(images)
        count = ops.shape(x0)[0]
        times, noise = self.draw_times(count), normal(ops.shape(x0), self.seed_generator.next())
        if labels is not None and training:
            labels = ops.where(self.uniform(count) < self.label_dropout, self.num_classes, ops.cast(labels, "int32"))
        if training:
            self.update_ema()
        network = self.network if training else self.ema_network
        outputs = network(self.tables.q_sample(x0, times, noise), times, labels, training=training)
        return {"outputs": outputs, "target": self.tables.target(self.prediction, x0, times, noise)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return losses.mean(LOSSES[self.pixel_loss](y_pred["outputs"] - y_pred["target"]))

    # Drawing.

    def predicted(self, x, times, labels=None, guidance=None):
        """Maps (b, h, w, c) at times (b,) -> what the average network predicts, (b, h, w, c).

        labels: (b,), num_classes for none. guidance: how far to go from what it predicts without the class (0) to
        what it predicts with it (1), and beyond.
        """
        if not self.num_classes:
            return self.see(x, times)
        none = ops.full_like(times, self.num_classes)

        def given():
            return self.see(x, times, labels)

        def guided():
            twice = [ops.concatenate([part, part]) for part in (x, times)]
            without, with_label = ops.split(self.see(*twice, ops.concatenate([none, labels])), 2)
            return without + guidance * (with_label - without)

        return ops.cond(ops.equal(guidance, 1.0), given, guided)

    @functools.cached_property
    def see(self):
        """What the average network predicts; in a graph it stands once, whoever asks."""
        inputs = [((None, *self.normalized_shape), "float32"), ((None,), "int32"), ((None,), "int32")]
        call = functools.partial(self.ema_network, training=False)
        return compiled(call, "auto", inputs if self.num_classes else inputs[:2])

    def denoiser(self, labels=None, guidance=None):
        """What `diffusion.walk` asks: (x (b, h, w, c), times (b,)) -> the x0 that the network sees; see `predicted`."""

        def denoise(x, times):
            return self.tables.predict_x0(self.prediction, self.predicted(x, times, labels, guidance), x, times)

        return denoise

    def advance(self, x, before, part, times, table, seed, row, labels, guidance, known, mask):
        """A part of the steps of a sampler on maps x (b, h, w, c) -> maps, and the x0 that the last step saw."""
        denoise, part = self.denoiser(labels, guidance), (part[0], part[1])
        return diffusion.walk(denoise, x, times, table, seed, known, mask, self.tables, True, before, part, row)

    def walked(
        self,
        count,
        seed,
        steps,
        labels,
        guidance,
        method="dpm_solver",
        eta=0.0,
        spacing="even",
        callback=None,
        first=None,
        images=None,
        masks=None,
    ):
        """What `sample`, `inpaint` and `vary` have in common, batch by batch: from noise, or from images at `first`."""
        count, seed = checked_count_and_seed(count, seed)
        if steps is None:
            steps = min(STEPS if masks is None else INPAINTING_STEPS, first or self.num_steps)
        times = diffusion.times(self.num_steps, steps, spacing, first)
        table = diffusion.sampler(self.tables, times, method, eta)
        rows = [(0, self.num_steps - steps)]  # as many as can be, so that there is one shape to compile
        times, table = np.pad(times, rows), np.pad(np.float32(table), [*rows, (0, 0)])
        if guidance != 1 and (labels is None or not self.num_classes):
            needs = "labels, to go towards" if self.num_classes else "a model that was trained with classes"
            raise UserError(f"guidance needs {needs}")
        labels = self.checked_labels(labels, count)
        if labels is None and self.num_classes:
            labels = np.full(count, self.num_classes, np.int32)
        if "advance" not in self._compiled:
            self._compiled["advance"] = compiled(self.advance, jit_compile="auto")
        drawn, size = [], max(1, min(BATCH, count))
        for i in range(0, count, size):
            here = slice(i, i + size)
            filled = [None if x is None else _filled(x[here], size) for x in (labels, images, masks)]
            x = self.begin(size, seed, times[0], filled[1] if first else None, i)
            known, mask = (None, None) if masks is None else (self.normalize(filled[1]), filled[2])
            before, stride = ops.zeros_like(x), 1 if callback else steps
            for done in range(0, steps, stride):
                part = np.array([done, done + stride], np.int32)
                settings = (times, table, np.uint32(seed), np.uint32(i), filled[0], np.float32(guidance), known, mask)
                x, before = self._compiled["advance"](x, before, part, *settings)
                if callback:
                    callback(done + 1, ops.convert_to_numpy(self.denormalize(before))[: count - i])
            drawn.append(ops.convert_to_numpy(self.denormalize(x)))
        return np.concatenate(drawn)[:count] if drawn else np.zeros((0, *self.image_shape), np.float32)

    def begin(self, count, seed, first, images=None, row=None):
        """Where drawing begins: noise (count, h, w, c), or images (count, ...) with the noise of time `first`.

        row: see `diffusion.walk`.
        """
        key = ops.stack([ops.cast(seed, "uint32"), np.uint32(2**32 - 1)])
        noise = normal((count, *self.normalized_shape), key, row=row)
        if images is None:
            return noise
        return self.tables.q_sample(self.normalize(images), ops.broadcast_to(ops.cast(first, "int32"), (count,)), noise)

    def sample(self, count=64, seed=0, steps=None, labels=None, guidance=1.0, **how):
        """New images (count, ...) in [0, 1]; image i of a seed is the same, up to rounding, whatever their number.

        steps: calls of the network, at most T; by default 25. labels: the class of all, or classes to take in turn.
        guidance: 1 as learned, more for more typical images of the class, 0 for those of any.
        how: `method` and `eta`, see `diffusion.sampler`; `spacing`, see `diffusion.times`; `callback`, which is called
        after each step with its number and the images (b, ...) that the network sees by then.
        `UserError` for more than T steps, labels out of range, or labels and guidance without classes.
        """
        return self.walked(count, seed, steps, labels, guidance, **how)

    def inpaint(self, images, masks, seed=0, steps=None, labels=None, guidance=1.0, method="ancestral", **how):
        """Images (n, ...) with new content where masks (n, h, w) or (h, w) are 0; see `sample`.

        By default in 100 steps.
        """
        images, masks = self.checked_images(images), np.asarray(masks)
        if masks.shape not in (self.image_shape[:2], (len(images), *self.image_shape[:2])):
            size = "x".join(map(str, self.image_shape[:2]))
            raise UserError(f"masks must be {size}, one or as many as images, not {masks.shape}")
        if not ((masks == 0) | (masks == 1)).all():
            raise UserError(MASKS)
        masks = np.broadcast_to(np.float32(masks), (len(images), *self.image_shape[:2]))[..., None]
        settings = (steps, labels, guidance, method)
        return self.walked(len(images), seed, *settings, images=images, masks=masks, **how)

    def vary(self, images, strength=0.5, seed=0, steps=None, labels=None, guidance=1.0, **how):
        """Images (n, ...) again, from the noise of time `strength` * T on: 1 forgets them; see `sample`.

        At most strength * T steps are taken. (Meng et al., 2021, SDEdit, https://arxiv.org/abs/2108.01073.)
        """
        images = self.checked_images(images)
        self.check("vary", strength=strength)
        first = max(1, round(strength * self.num_steps))
        if steps is not None and steps <= self.num_steps:
            steps = min(steps, first)
        return self.walked(len(images), seed, steps, labels, guidance, first=first, images=images, **how)

    def denoise(self, images, noise=0.1):
        """Images (n, ...) with Gaussian noise of that standard deviation -> what they show: (n, ...) in [0, 1].

        One call of the network: the mean of all images that may lie below the noise, not one of them.
        """
        images = np.float32(images)
        if images.shape[1:] != self.image_shape:
            raise UserError(f"images must have the shape (n, {', '.join(map(str, self.image_shape))})")
        self.check("denoise", noise=noise)
        noises = np.full(len(images), noise, np.float32)
        batches = [slice(i, i + BATCH) for i in range(0, max(len(images), 1), BATCH)]
        return np.concatenate([ops.convert_to_numpy(self.denoised(images[b], noises[b])) for b in batches])

    def denoised(self, images, noise):
        """Images (b, ...) and the standard deviations (b,) of their noise -> what they show, in [0, 1]."""
        ratios = ops.cast(self.tables.noise[1:] / self.tables.signal[1:], "float32")  # rising, in units of [-1, 1]
        times = ops.searchsorted(ratios, 2 * ops.cast(noise, "float32")) + 1
        times = ops.minimum(ops.cast(times, "int32"), self.num_steps)
        x = self.tables.q_sample(self.normalize(images), times, ops.zeros((1, *self.normalized_shape)))
        labels = ops.full_like(times, self.num_classes) if self.num_classes else None
        return self.denormalize(self.denoiser(labels, 1.0)(x, times))

    # In a graph.

    def turn(self, labels, guidance, count):
        """Labels (n,) in a graph, taken in turn -> (count,), num_classes for none."""
        import tensorflow as tf

        if not self.num_classes:
            return asserted(guidance == 1, "guidance needs a model that was trained with classes", labels)
        labels = asserted(tf.size(labels) > 0, NO_LABELS, labels)
        labels = asserted((guidance == 1) | tf.reduce_all(labels >= 0), "guidance needs labels, to go towards", labels)
        labels = tf.gather(labels, tf.range(count) % tf.size(labels))
        return tf.where(labels < 0, self.num_classes, labels)

    def drawn(self, x, first, steps, seed, labels, guidance, method="dpm_solver", known=None, mask=None):
        """Images from maps x at time `first`, in a graph."""
        labels = self.turn(labels, guidance, ops.shape(x)[0])
        times = diffusion.times(self.num_steps, steps, "even", first, ops)
        table = diffusion.sampler(self.tables, times, method, xp=ops)
        denoise = self.denoiser(labels, guidance)
        return {"images": self.denormalize(diffusion.walk(denoise, x, times, table, seed, known, mask, self.tables)[0])}

    def endpoints(self):
        def sample(count, seed, steps, labels, guidance):
            """New images; labels: classes, taken in turn, -1 for any; guidance: 1 as learned, more for more typical."""
            return self.drawn(self.begin(count, seed, 0), self.num_steps, steps, seed, labels, guidance)

        def inpaint(images, masks, seed, steps, labels, guidance):
            """Images in [0, 1] with new content where masks are 0."""
            import tensorflow as tf

            as_many = tf.shape(masks)[0] == tf.shape(images)[0]
            masks = asserted(as_many, "there must be as many masks as images", masks)
            masks = asserted(tf.reduce_all((masks == 0) | (masks == 1)), MASKS, masks)
            known, noise = self.normalize(images), self.begin(tf.shape(images)[0], seed, 0)
            settings = (steps, seed, labels, guidance, "ancestral")
            return self.drawn(noise, self.num_steps, *settings, known, masks[..., None])

        def vary(images, strength, seed, steps, labels, guidance):
            """Images in [0, 1] again, from that share of all noise on: 1 forgets them, 0.1 keeps most."""
            import tensorflow as tf

            first = tf.maximum(tf.cast(tf.round(strength * self.num_steps), tf.int32), 1)
            start = self.begin(tf.shape(images)[0], seed, first, images)
            return self.drawn(start, first, tf.minimum(steps, first), seed, labels, guidance)

        def denoise(images, noise):
            """What images show below Gaussian noise of that standard deviation: the mean of all that they may."""
            import tensorflow as tf

            return {"images": self.denoised(images, tf.repeat(noise, tf.shape(images)[0]))}

        def which(steps):
            steps = Int("steps", 1, self.num_steps, default=min(steps, self.num_steps))
            return [SEED, steps, self.labels_input("-1 is for none"), Float("guidance", default=1.0)]

        images, masks = self.image_input("images"), Array("masks", None, *self.image_shape[:2])
        strength = Float("strength", 0, 1, default=0.5, exclusive=True)
        noisy = dataclasses.replace(images, low=None, hint="")
        return {
            "sample": Endpoint(sample, [COUNT, *which(STEPS)]),
            "inpaint": Endpoint(inpaint, [images, masks, *which(INPAINTING_STEPS)]),
            "vary": Endpoint(vary, [images, strength, *which(STEPS)]),
            "denoise": Endpoint(denoise, [noisy, Float("noise", 0, default=0.1)]),
        }


def _filled(rows, count):
    """Rows (n, ...), the last repeated until there are `count`."""
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])
