"""Denoising diffusion probabilistic models (Ho et al., 2020, DDPM, https://arxiv.org/abs/2006.11239).

A network learns to predict the noise in images at every timestep of a process that turns them into noise in T steps;
sampling reverses the process from noise, step by step (`diffusion.py` has the schedules and samplers, `unet.py` the
networks). With classes, labels are dropped at random in training, so that one network learns the conditional and the
unconditional distribution and sampling may extrapolate from one to the other: classifier-free guidance (Ho & Salimans,
2022, https://arxiv.org/abs/2207.12598).
Recipes: `ddpm_book`, `ddpm`, `ddpm_conditional`. Shapes: b batch, n images, h height, w width, c channels.

Deviations from the paper: the timesteps of a batch are stratified over 1 to T (Kingma et al., 2021, appendix I.1,
https://arxiv.org/abs/2107.00630), each by itself uniform; the EMA of the weights has a smaller decay at first; velocity
or x0 may be predicted instead of the noise.
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
BATCH = 100  # images that are sampled together
MASKS = "masks must be 1 where the image is kept and 0 elsewhere"
STEPS, INPAINTING_STEPS = 25, 100  # sampling steps by default, or T where that is less


@keras.saving.register_keras_serializable("homl_models")
class DDPM(EMAModel):
    """Denoising diffusion model: images (b, *image_shape) in [0, 1] -> {"outputs", "target"}, (b, h, w, c) each.

    Both are of timesteps sampled at random. If `network.num_classes`, inputs are (images, labels (b,)).

    Args:
        network: a `UNet`, a `SeparableUNet` or another `unet.Network`.
        num_steps: T.
        schedule: "cosine" or "linear".
        prediction: what the network predicts, "noise", "x0" or "velocity".
        loss: "mse", "mae" or "huber", of each pixel in [-1, 1].
        ema: decay of the EMA of the weights, which validation and sampling use.
        label_dropout: probability that a label is dropped in training.
        seed: of timesteps, noise and label dropout in training.
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
        self.noise_schedule = diffusion.Schedule(diffusion.SCHEDULES[schedule](num_steps))
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

    def sample_timesteps(self, count):
        """Stratified timesteps (count,): the i-th is uniform in the i-th of `count` equal intervals of 1 to T."""
        fractions = (ops.cast(ops.arange(count), "float32") + self.uniform(count)) / ops.cast(count, "float32")
        return ops.minimum(ops.cast(fractions * self.num_steps, "int32") + 1, self.num_steps)

    def call(self, inputs, training=None):
        images, labels = inputs if self.num_classes else (inputs, None)
        x0 = self.normalize(images)
        count = ops.shape(x0)[0]
        t, noise = self.sample_timesteps(count), normal(ops.shape(x0), self.seed_generator.next())
        if labels is not None and training:
            labels = ops.where(self.uniform(count) < self.label_dropout, self.num_classes, ops.cast(labels, "int32"))
        if training:
            self.update_ema()
        network = self.network if training else self.ema_network
        outputs = network(self.noise_schedule.q_sample(x0, t, noise), t, labels, training=training)
        return {"outputs": outputs, "target": self.noise_schedule.target(self.prediction, x0, t, noise)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return losses.mean(LOSSES[self.pixel_loss](y_pred["outputs"] - y_pred["target"]))

    # The EMA network at a step of a sampler.

    @functools.cached_property
    def predict_ema(self):
        """The EMA network's prediction, compiled; a graph contains it once however often it is called."""
        inputs = [((None, *self.normalized_shape), "float32"), ((None,), "int32"), ((None,), "int32")]
        call = functools.partial(self.ema_network, training=False)
        return compiled(call, "auto", inputs if self.num_classes else inputs[:2])

    def x0_predictor(self, labels=None, guidance=None):
        """`predict_x0` of `diffusion.sample_loop`: (x (b, h, w, c), t (b,)) -> x0 (b, h, w, c).

        labels (b,), num_classes for none, and guidance: see `diffusion.guided_prediction`.
        """

        def predict_x0(x, t):
            return self.noise_schedule.predict_x0(self.prediction, self.predict_guided(x, t, labels, guidance), x, t)

        return predict_x0

    def predict_guided(self, x, t, labels=None, guidance=None):
        """The EMA network's prediction (b, h, w, c), with guidance where there are classes."""
        if not self.num_classes:
            return self.predict_ema(x, t)
        return diffusion.guided_prediction(self.predict_ema, x, t, labels, self.num_classes, guidance)

    # Sampling.

    def sample(self, count=64, seed=0, steps=None, labels=None, guidance=1.0, **options):
        """New images (count, ...) in [0, 1]; image i of a seed is the same, up to rounding, for any count.

        Args:
            steps: calls of the network, at most T; by default 25.
            labels: the class of all images, or classes to take in turn.
            guidance: 1 as learned, more for more typical images of the class, 0 for those of any.
            options: `method`, `eta`, `variance`, `spacing`: see `sampler_tables`; `clip`: whether the predicted x0 is
                clipped to [-1, 1]; `callback`: called after each step with its number and the predicted x0, as images.
                The book's sampling is `steps=model.num_steps, method="ancestral", variance="beta", clip=False`.

        `UserError` for more than T steps, labels out of range, or labels and guidance without classes.
        """
        return self.sample_loop(count, seed, steps, labels, guidance, **options)

    def inpaint(self, images, masks, seed=0, steps=None, labels=None, guidance=1.0, method="ancestral", **options):
        """Inpainting: images (n, ...) with new content where masks (n, h, w) or (h, w) are 0; see `sample`.

        By default in 100 steps.
        """
        images, masks = self.checked_images(images), np.asarray(masks)
        if masks.shape not in (self.image_shape[:2], (len(images), *self.image_shape[:2])):
            size = "x".join(map(str, self.image_shape[:2]))
            raise UserError(f"masks must be {size}, one or as many as images, not {masks.shape}")
        if not ((masks == 0) | (masks == 1)).all():
            raise UserError(MASKS)
        masks = np.broadcast_to(np.float32(masks), (len(images), *self.image_shape[:2]))[..., None]
        options |= {"method": method, "images": images, "masks": masks}
        return self.sample_loop(len(images), seed, steps, labels, guidance, **options)

    def image_to_image(self, images, strength=0.5, seed=0, steps=None, labels=None, guidance=1.0, **options):
        """SDEdit (Meng et al., 2021, https://arxiv.org/abs/2108.01073): variations of images (n, ...); see `sample`.

        strength: of the noise added first, that of timestep strength * T, in (0, 1]; 1 keeps nothing of the images.
        At most strength * T steps are taken.
        """
        images = self.checked_images(images)
        self.check("image_to_image", strength=strength)
        start = max(1, round(strength * self.num_steps))
        if steps is not None and steps <= self.num_steps:
            steps = min(steps, start)
        return self.sample_loop(len(images), seed, steps, labels, guidance, start=start, images=images, **options)

    def sample_loop(
        self, count, seed, steps, labels, guidance, start=None, images=None, masks=None, clip=True, callback=None, **how
    ):
        """Sampling loop of `sample`, `inpaint` and `image_to_image`, in batches of `BATCH` images.

        start: timestep whose noise is added to `images` to start from; None to start from noise alone, at T.
        how: settings of `sampler_tables`.
        """
        count, seed = checked_count_and_seed(count, seed)
        if steps is None:
            steps = min(STEPS if masks is None else INPAINTING_STEPS, start or self.num_steps)
        tables = self.sampler_tables(steps, start, **how)
        labels = self.sampling_labels(labels, guidance, count)
        samples, size = [], max(1, min(BATCH, count))
        for row in range(0, count, size):
            arrays = (labels, images, masks)
            y, x0, mask = (None if array is None else _pad_rows(array[row : row + size], size) for array in arrays)
            x = self.initial_latents(size, seed, tables[0][0], x0 if start else None, row)
            known = None if mask is None else self.normalize(x0)
            settings = (*tables, np.uint32(seed), np.uint32(row), y, np.float32(guidance), known, mask, clip)
            samples.append(self.sample_batch(x, count - row, steps, settings, callback))
        return np.concatenate(samples) if samples else np.zeros((0, *self.image_shape), np.float32)

    def sample_batch(self, x, count, steps, settings, callback=None):
        """Latents (b, h, w, c) -> the first `count` images: all steps in one call, or one by one for a `callback`."""
        x0, stride = ops.zeros_like(x), 1 if callback else steps
        for first in range(0, steps, stride):
            x, x0 = self.compiled_steps(x, x0, np.array([first, first + stride], np.int32), *settings)
            if callback:
                callback(first + 1, ops.convert_to_numpy(self.denormalize(x0))[:count])
        return ops.convert_to_numpy(self.denormalize(x))[:count]

    def sampler_tables(self, steps, start=None, method="dpm_solver", eta=0.0, variance="posterior", spacing="even"):
        """Timesteps and coefficients of a sampler, padded to one shape for any number of steps, as one is compiled.

        method, eta, variance: see `diffusion.step_coefficients`. spacing: see `diffusion.timesteps`.
        """
        timesteps = diffusion.timesteps(self.num_steps, steps, spacing, start)
        coefficients = diffusion.step_coefficients(self.noise_schedule, timesteps, method, eta, variance)
        padding = [(0, self.num_steps - steps)]
        return np.pad(timesteps, padding), np.pad(np.float32(coefficients), [*padding, (0, 0)])

    def sampling_labels(self, labels, guidance, count):
        """Labels (count,) int32, num_classes for none, or None without classes; `UserError` for bad ones."""
        if guidance != 1 and (labels is None or not self.num_classes):
            needs = "labels, to go towards" if self.num_classes else "a model that was trained with classes"
            raise UserError(f"guidance needs {needs}")
        labels = self.checked_labels(labels, count)
        if labels is None and self.num_classes:
            return np.full(count, self.num_classes, np.int32)
        return labels

    def initial_latents(self, count, seed, start, images=None, row=None):
        """Initial latents (count, h, w, c): noise, or images (count, ...) with the noise of timestep `start`.

        row: see `diffusion.sample_loop`.
        """
        key = ops.stack([ops.cast(seed, "uint32"), np.uint32(2**32 - 1)])
        noise = normal((count, *self.normalized_shape), key, row=row)
        if images is None:
            return noise
        t = ops.broadcast_to(ops.cast(start, "int32"), (count,))
        return self.noise_schedule.q_sample(self.normalize(images), t, noise)

    @functools.cached_property
    def compiled_steps(self):
        return compiled(self.sampling_steps, jit_compile="auto")

    def sampling_steps(
        self, x, x0_before, step_range, timesteps, coefficients, seed, row, labels, guidance, known, mask, clip
    ):
        """A range of the steps of a sampler: x (b, h, w, c) -> x and the predicted x0; see `diffusion.sample_loop`."""
        predict_x0, step_range = self.x0_predictor(labels, guidance), (step_range[0], step_range[1])
        masking = known, mask, self.noise_schedule
        return diffusion.sample_loop(
            predict_x0, x, timesteps, coefficients, seed, *masking, clip, x0_before, step_range, row
        )

    # Denoising.

    def denoise(self, images, noise=0.1):
        """Images (n, ...) with Gaussian noise of that standard deviation -> denoised images (n, ...) in [0, 1].

        One call of the network: the posterior mean given the noisy image, not a sample.
        """
        images = np.float32(images)
        if images.shape[1:] != self.image_shape:
            raise UserError(f"images must have the shape (n, {', '.join(map(str, self.image_shape))})")
        self.check("denoise", noise=noise)
        stddevs = np.full(len(images), noise, np.float32)
        batches = [slice(i, i + BATCH) for i in range(0, max(len(images), 1), BATCH)]
        return np.concatenate([ops.convert_to_numpy(self.denoise_batch(images[b], stddevs[b])) for b in batches])

    def denoise_batch(self, images, noise):
        """Noisy images (b, ...) and standard deviations (b,) of their noise -> denoised images in [0, 1]."""
        t = self.noise_schedule.timestep_of_noise(2 * ops.cast(noise, "float32"))  # 2, as x0 lies in [-1, 1]
        x = self.noise_schedule.q_sample(self.normalize(images), t, ops.zeros((1, *self.normalized_shape)))
        labels = ops.full_like(t, self.num_classes) if self.num_classes else None
        return self.denormalize(self.x0_predictor(labels, 1.0)(x, t))

    # In a graph.

    def labels_in_graph(self, labels, guidance, count):
        """Labels (n,), taken in turn, -1 for none -> (count,), num_classes for none."""
        import tensorflow as tf

        if not self.num_classes:
            return asserted(guidance == 1, "guidance needs a model that was trained with classes", labels)
        labels = asserted(tf.size(labels) > 0, NO_LABELS, labels)
        labels = asserted((guidance == 1) | tf.reduce_all(labels >= 0), "guidance needs labels, to go towards", labels)
        labels = tf.gather(labels, tf.range(count) % tf.size(labels))
        return tf.where(labels < 0, self.num_classes, labels)

    def sample_in_graph(self, x, start, steps, seed, labels, guidance, method="dpm_solver", known=None, mask=None):
        """Images sampled from latents x (b, h, w, c) of timestep `start`, in a number of steps that is a tensor."""
        labels, schedule = self.labels_in_graph(labels, guidance, ops.shape(x)[0]), self.noise_schedule
        timesteps = diffusion.timesteps(self.num_steps, steps, "even", start, ops)
        coefficients = diffusion.step_coefficients(schedule, timesteps, method, xp=ops)
        predict_x0 = self.x0_predictor(labels, guidance)
        x, _ = diffusion.sample_loop(predict_x0, x, timesteps, coefficients, seed, known, mask, schedule)
        return {"images": self.denormalize(x)}

    def endpoints(self):
        def sample(count, seed, steps, labels, guidance):
            """New images; labels: classes, taken in turn, -1 for any; guidance: 1 as learned, more for more typical."""
            x = self.initial_latents(count, seed, 0)
            return self.sample_in_graph(x, self.num_steps, steps, seed, labels, guidance)

        def inpaint(images, masks, seed, steps, labels, guidance):
            """Images in [0, 1] with new content where masks are 0."""
            import tensorflow as tf

            as_many = tf.shape(masks)[0] == tf.shape(images)[0]
            masks = asserted(as_many, "there must be as many masks as images", masks)
            masks = asserted(tf.reduce_all((masks == 0) | (masks == 1)), MASKS, masks)
            known, x = self.normalize(images), self.initial_latents(tf.shape(images)[0], seed, 0)
            settings = (steps, seed, labels, guidance, "ancestral")
            return self.sample_in_graph(x, self.num_steps, *settings, known, masks[..., None])

        def image_to_image(images, strength, seed, steps, labels, guidance):
            """Variations of images in [0, 1] (SDEdit); strength: share of noise, 1 forgets them, 0.1 keeps most."""
            import tensorflow as tf

            start = tf.maximum(tf.cast(tf.round(strength * self.num_steps), tf.int32), 1)
            x = self.initial_latents(tf.shape(images)[0], seed, start, images)
            return self.sample_in_graph(x, start, tf.minimum(steps, start), seed, labels, guidance)

        def denoise(images, noise):
            """Images with Gaussian noise of that standard deviation, denoised: the posterior mean, not a sample."""
            import tensorflow as tf

            return {"images": self.denoise_batch(images, tf.repeat(noise, tf.shape(images)[0]))}

        def sampling_inputs(steps):
            steps = Int("steps", 1, self.num_steps, default=min(steps, self.num_steps))
            return [SEED, steps, self.labels_input("-1 is for none"), Float("guidance", default=1.0)]

        images, masks = self.image_input("images"), Array("masks", None, *self.image_shape[:2])
        strength = Float("strength", 0, 1, default=0.5, exclusive=True)
        noisy = dataclasses.replace(images, low=None, hint="")
        return {
            "sample": Endpoint(sample, [COUNT, *sampling_inputs(STEPS)]),
            "inpaint": Endpoint(inpaint, [images, masks, *sampling_inputs(INPAINTING_STEPS)]),
            "image_to_image": Endpoint(image_to_image, [images, strength, *sampling_inputs(STEPS)]),
            "denoise": Endpoint(denoise, [noisy, Float("noise", 0, default=0.1)]),
        }


def _pad_rows(array, count):
    """Rows (n, ...), the last repeated until there are `count`."""
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)])
