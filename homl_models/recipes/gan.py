"""Recipes of generative adversarial networks (`models/gan.py`)."""

import dataclasses
import functools
import sys
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.generators import MIN_SAMPLES, GeneratorRecipe
from homl_models.recipes.images import GRID_COLUMNS
from homl_models.recipes.recipe import positive, rate
from homl_models.recipes.results import Result


@dataclasses.dataclass(frozen=True)
class GAN(GeneratorRecipe):
    """A generative adversarial network on Fashion MNIST.

    Without filters both networks are dense. Samples come from an exponential moving average of the generator's weights.
    After each epoch new images are compared with validation images (Fréchet distance, coverage; of other data than
    Fashion MNIST coverage alone), and the generator with the best Fréchet distance is kept.
    """

    kind: ClassVar[str] = "adversarial"
    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 2e-4
    """Learning rate of the generator."""
    discriminator_learning_rate: float = 2e-4
    """Learning rate of the discriminator."""
    beta_1: float = 0.5
    """Decay of Adam's first moments, of both optimizers."""
    monitor: str = "frechet_distance"
    num_evaluation_samples: int = 2000
    """Images sampled after each epoch for its metrics. 0: none."""
    coding_size: int = 100
    """Dimension of the codings (latents)."""
    generator_units: tuple[int, ...] = (100, 150)
    """Units of the generator's dense layers, if it has no filters."""
    discriminator_units: tuple[int, ...] = (150, 100)
    """Units of the discriminator's dense layers, if it has no filters."""
    generator_filters: tuple[int, ...] = ()
    """Channels of the generator's smallest feature maps, and filters of its transposed convolutions but the last."""
    discriminator_filters: tuple[int, ...] = ()
    """Filters of the discriminator's convolutions, of stride 2."""
    dropout: float = 0.4
    """Dropout rate after each hidden layer of the discriminator."""
    minibatch_stddev: bool = False
    """Give the discriminator the standard deviation over the batch as a feature."""
    loss: Literal["non_saturating", "hinge", "wasserstein"] = "non_saturating"
    """Loss of both networks."""
    label_smoothing: float = 0.0
    """The label of real images is 1 minus that."""
    gradient_penalty: float = 0.0
    """Weight of the penalty on the norm of the discriminator's gradient, (norm - 1)^2."""
    critic_steps: int = 1
    """Steps of the discriminator for each of the generator, each on its part of the batch."""
    replay_buffer_size: int = 0
    """Generated images kept for experience replay. 0: no replay."""
    ema: float = 0.999
    """Decay of the moving average of the generator's weights."""
    conditional: bool = False
    """Condition both networks on the class."""

    def __post_init__(self):
        super().__post_init__()
        positive(
            discriminator_learning_rate=self.discriminator_learning_rate,
            coding_size=self.coding_size,
            critic_steps=self.critic_steps,
        )
        rate(beta_1=self.beta_1, dropout=self.dropout, label_smoothing=self.label_smoothing, ema=self.ema)
        for name in ("generator_units", "discriminator_units", "generator_filters", "discriminator_filters"):
            for n in getattr(self, name):
                positive(**{name: n})
        if min(self.num_evaluation_samples, self.gradient_penalty, self.replay_buffer_size) < 0:
            raise UserError("--num-evaluation-samples, --gradient-penalty and --replay-buffer-size must be 0 or more")
        for network in ("generator", "discriminator"):
            name = f"{network}_units"
            if getattr(self, f"{network}_filters") and tuple(getattr(self, name)) != getattr(type(self), name):
                raise UserError(f"--{network}-units has no effect beside --{network}-filters; leave out one of them")
        if self.batch_size % self.critic_steps:
            raise UserError(f"--batch-size must be a multiple of --critic-steps, {self.critic_steps}")
        if 0 < self.replay_buffer_size < self.batch_size:
            raise UserError(f"--replay-buffer-size must be 0 or at least --batch-size, {self.batch_size}")
        if self.monitor == "frechet_distance" and not (self.num_evaluation_samples and self.feature_preset):
            needed = "Fashion MNIST with --num-evaluation-samples above 0"
            raise UserError(f"--monitor frechet_distance is for {needed}; here give --monitor ''")
        if 0 < self.num_evaluation_samples < MIN_SAMPLES:
            raise UserError(f"--num-evaluation-samples must be 0 or at least {MIN_SAMPLES}")

    @property
    def convolutional(self):
        return bool(self.generator_filters or self.discriminator_filters)

    def datasets(self):
        train = self.splits[0]
        if self.batch_size > len(train[0]):
            raise UserError(f"--batch-size must be at most {len(train[0])}, the training images")
        return self.batches(train, self.batch_size, self.seed), None

    def optimizer(self, steps):
        """Adam for each network, at a constant learning rate."""
        import keras

        from homl_models.optimizers import GANOptimizer

        def adam(learning_rate):
            adam = keras.optimizers.Adam(learning_rate, self.beta_1, self.beta_2)
            return keras.optimizers.LossScaleOptimizer(adam) if self.precision == "mixed_float16" else adam

        return GANOptimizer(adam(self.learning_rate), adam(self.discriminator_learning_rate))

    def compile_kwargs(self):
        return super().compile_kwargs() | {"auto_scale_loss": False}

    def model(self):
        from homl_models.models.gan import GAN

        fields = "loss", "label_smoothing", "gradient_penalty", "critic_steps", "replay_buffer_size", "ema", "seed"
        settings = {name: getattr(self, name) for name in fields}
        names = self.class_names if self.conditional else ()
        shared = {"image_shape": self.image_shape, "class_names": names, "dtype": self.precision}
        return self.compiled(GAN(*self.networks(), **settings, **shared))

    def networks(self):
        """A new generator and a new discriminator."""
        from homl_models.models.gan_networks import Discriminator, Generator

        shared = {"image_shape": (*self.image_shape, 1)[:3], "dtype": self.precision}
        shared["num_classes"] = self.num_classes if self.conditional else 0
        generator = Generator(
            self.coding_size, hidden_units=self.generator_units, filters=self.generator_filters, **shared
        )
        discriminator = Discriminator(
            hidden_units=self.discriminator_units,
            filters=self.discriminator_filters,
            dropout=self.dropout,
            minibatch_stddev=self.minibatch_stddev,
            **shared,
        )
        return generator, discriminator

    def loss_and_metrics(self, model, splits):
        return {}  # the loss of each network depends on the other

    # After each epoch.

    @functools.cached_property
    def epoch_evaluation(self):
        """`GeneratorEvaluation` against validation images; None where there are too few."""
        from homl_models import loading
        from homl_models.generator_evaluation import GeneratorEvaluation

        real = self.splits[1][0][: self.num_evaluation_samples]
        if len(real) < MIN_SAMPLES:
            return None
        return GeneratorEvaluation(real, loading.load(self.feature_preset) if self.feature_preset else None)

    def end_epoch(self, model, epoch, folder):
        """Write progress/epoch_NNNN.png, images of the same codings; evaluate samples; warn of mode collapse."""
        from homl_models.training import reports

        (folder / "progress").mkdir(exist_ok=True)
        samples = self.sample_images(model, 64)[0]
        rows = samples.reshape(8, 8, *samples.shape[1:])
        reports.image_grid(rows, folder / "progress" / f"epoch_{epoch:04d}.png", scale=1, gap=2)
        if not self.num_evaluation_samples or self.epoch_evaluation is None:
            return {}
        metrics = self.epoch_evaluation.monitor(self.sample_images(model, self.num_evaluation_samples)[0])
        if metrics.get("largest_class_fraction", 0) > 0.5:
            percent = 100 * metrics["largest_class_fraction"]
            print(f"\nepoch {epoch}: mode collapse: {percent:.0f} % of the images are of one class", file=sys.stderr)
        return metrics

    def sample_images(self, model, count, labels=None):
        import numpy as np

        if self.conditional and labels is None:
            labels = np.arange(count) % model.num_classes
        return model.sample(count, self.seed, labels), labels

    def show(self, model, folder):
        """Write samples.png, interpolation.png and training.gif; return a line on each."""
        from homl_models.training import reports

        reports.image_grid(self.sample_grid(model), folder / "samples.png")
        codings = model.codings(12, self.seed + 1)
        rows = [
            model.interpolate(codings[i : i + 2], GRID_COLUMNS, 0 if self.conditional else None)
            for i in range(0, 12, 2)
        ]
        reports.image_grid(rows, folder / "interpolation.png")
        animate(sorted(folder.glob("progress/*.png")), folder / "training.gif")
        lines = [
            "samples.png        new images" + (", " + self.sample_grid_legend(model) if self.conditional else ""),
            "interpolation.png  a row for each pair of codings, from one to the other",
            "training.gif       images of the same codings, epoch by epoch",
        ]
        return "\n".join(lines)


def animate(paths, path):
    """Write PNG files as the frames of a GIF, colour images with a palette each; nothing for no files."""
    from PIL import Image

    from homl_models.training import files

    frames = []
    for frame in paths:
        with Image.open(frame) as image:
            frames.append(image.convert("L") if image.mode == "L" else image.quantize())
    if frames:
        with files.atomic_write(path) as temporary:
            frames[0].save(temporary, format="GIF", save_all=True, append_images=frames[1:], duration=200, loop=0)


CONV = {"generator_filters": (128, 64), "discriminator_filters": (64, 128)}
TINY = {"data": "digits", "epochs": 2, "batch_size": 64, "num_images": 320, "steps_per_execution": 1, "monitor": ""}

RECIPES = {
    "gan": GAN(coding_size=30, dropout=0.0),
    "dcgan": GAN(**CONV),
    "dcgan_conditional": GAN(**CONV, conditional=True),
    "dcgan_replay": GAN(**CONV, replay_buffer_size=2048),
    "wgan_gp": GAN(
        **CONV, batch_size=160, learning_rate=1e-4, discriminator_learning_rate=1e-4, beta_1=0.0,
        loss="wasserstein", gradient_penalty=10.0, critic_steps=5, dropout=0.0,
    ),
    "dcgan_digits": GAN(**CONV, data="digits", epochs=200, monitor="", conditional=True),
    "dcgan_tiny": GAN(
        **TINY, coding_size=6, generator_filters=(8, 8), discriminator_filters=(8, 8), conditional=True,
        num_evaluation_samples=100, minibatch_stddev=True,
        critic_steps=2, gradient_penalty=1.0, replay_buffer_size=96, loss="hinge",
    ),
}  # fmt: skip

SUMMARIES = {
    "gan": "GAN of dense layers, chapter 17",
    "dcgan": "Deep convolutional GAN",
    "dcgan_conditional": "Deep convolutional GAN conditioned on the class",
    "dcgan_replay": "Deep convolutional GAN with experience replay",
    "wgan_gp": "Wasserstein GAN with gradient penalty",
    "dcgan_digits": "Deep convolutional GAN conditioned on the class, on scikit-learn's digits",
}

HOW = "By the preset `fashion_features`, 10,000 samples against 10,000 test images."
XEON, EPYC = "2 cores of an Intel Xeon, beside other work", "one core of an AMD EPYC"
RESULTS = [
    Result(
        "gan",
        machine=XEON,
        minutes=5.9,
        metrics={
            "frechet_distance": 94.7, "kid": 4.19, "precision": 0.889, "recall": 0.022, "density": 0.931,
            "coverage": 0.243, "inception_score": 5.31, "best_epoch": 40,
        },
        note=f"{HOW} 50 epochs. Trousers are almost never generated (0.5 %), shirts in a quarter of images.",
    ),
    Result(
        "dcgan",
        "dcgan --precision mixed_bfloat16",
        machine=XEON,
        minutes=76,
        metrics={
            "frechet_distance": 27.8, "kid": 1.08, "precision": 0.730, "recall": 0.676, "density": 0.491,
            "coverage": 0.490, "inception_score": 6.67, "best_epoch": 45,
        },
        note=f"{HOW} 50 epochs; an epoch alone takes 60 s. Every class has between 7.0 and 13.7 % of the images.",
    ),
    Result(
        "dcgan_conditional",
        "dcgan_conditional --epochs 20",
        machine="2 cores of an AMD EPYC, beside other work",
        minutes=145,
        metrics={
            "frechet_distance": 13.0, "kid": 0.72, "precision": 0.848, "recall": 0.598, "density": 0.788,
            "coverage": 0.713, "inception_score": 8.50, "label_agreement": 0.924, "best_epoch": 19,
        },
        note=f"""{HOW} An epoch alone takes 156 s. The features tell 93.4 % of the real test images right. Every class
has between 9.3 and 10.9 % of the images. The images show clothes of the class, a few with holes, bags and sandals most
often. It comes with the package, as the preset `dcgan_conditional`. Shorter codings give purer images that are more
alike: `model.decode_codings(0.8 * model.codings(n), labels)` has a label agreement of 94.5 %, Fréchet distance 26.9 and
recall 0.407; with 0.9: 93.8 %, 18.3 and 0.517.""",
    ),
    Result(
        "dcgan_replay",
        "dcgan_replay --epochs 10",
        machine=EPYC,
        minutes=61,
        metrics={
            "frechet_distance": 47.9, "kid": 2.09, "precision": 0.748, "recall": 0.346, "density": 0.498,
            "coverage": 0.315, "inception_score": 6.13,
        },
        note=f"""{HOW} An epoch takes 265 s. Every class has between 7.0 and 16.2 % of the images. They show clothes,
many with holes.""",
    ),
    Result(
        "wgan_gp",
        "wgan_gp --epochs 10",
        machine=EPYC,
        minutes=48,
        metrics={
            "frechet_distance": 80.3, "kid": 3.75, "precision": 0.645, "recall": 0.143, "density": 0.324,
            "coverage": 0.137, "inception_score": 5.28,
        },
        note=f"""{HOW} Every class has between 7.0 and 16.2 % of the images. They show the kind of clothes, blotted:
3,430 steps of the generator are few, and it was still getting better, by 5 % from epoch to epoch.""",
    ),
]  # fmt: skip
