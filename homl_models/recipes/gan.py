"""Recipes of generative adversarial networks (`models/gan.py`)."""

import dataclasses
import functools
import sys
from typing import Literal

from homl_models.errors import UserError
from homl_models.recipes.images import GRID_COLUMNS, MIN_SAMPLES, GeneratorRecipe, ImageRecipe, by_pixels, in_units_of
from homl_models.recipes.recipe import positive, rate

NEIGHBOURS = 500  # images whose coverage is measured after each epoch


@dataclasses.dataclass(frozen=True)
class GAN(GeneratorRecipe, ImageRecipe):
    """A generative adversarial network on Fashion MNIST.

    Measured on 2 cores of an Intel Xeon beside other work, by the preset fashion_features, 10,000 drawn images
    against 10,000 of the test part:
    `python -m homl_models.train gan` (dense), 50 epochs, 5.9 minutes: Fréchet distance 94.7, kernel distance 4.19,
    precision 0.889, recall 0.022, density 0.931, coverage 0.243, classifier score 5.31; the generator of epoch 40 was
    the best. Trousers are almost never drawn (0.5 %), shirts in a quarter of images.
    `python -m homl_models.train dcgan --precision mixed_bfloat16`, 50 epochs, 76 minutes (an epoch alone takes 60 s):
    Fréchet distance 27.8, kernel distance 1.08, precision 0.730, recall 0.676, density 0.491, coverage 0.490,
    classifier score 6.67, every class between 7.0 and 13.7 %; the generator of epoch 45 was the best.
    `python -m homl_models.train dcgan_conditional --epochs 20` on 2 cores of an AMD EPYC, 145 minutes beside other work
    (an epoch alone takes 156 s): Fréchet distance 13.0, kernel distance 0.72, precision 0.848, recall 0.598, density
    0.788, coverage 0.713, classifier score 8.50; 92.4 % of the images are of the class asked for (the features tell
    93.4 % of the real test images right), every class has between 9.3 and 10.9 %; the generator of epoch 19 was the
    best. The images show clothes of the class, a few with holes, bags and sandals most often. It comes with the
    package, as the preset dcgan_conditional. Shorter codings give purer images that are more alike:
    `model.decode_codings(0.8 * model.codings(n), labels)` 94.5 % and Fréchet distance 26.9, recall 0.407; with 0.9
    93.8 % and 18.3, 0.517.
    `python -m homl_models.train dcgan_replay --epochs 10` on one core of that EPYC (an epoch takes 265 s there),
    61 minutes: Fréchet distance 47.9, kernel distance 2.09, precision 0.748, recall 0.346, density 0.498, coverage
    0.315, classifier score 6.13, every class between 7.0 and 16.2 %. The images show clothes, many with holes.
    `python -m homl_models.train wgan_gp --epochs 10`, the same core, 48 minutes: Fréchet distance 80.3, kernel distance
    3.75, precision 0.645, recall 0.143, density 0.324, coverage 0.137, classifier score 5.28, every class between 7.0
    and 16.2 %. The images show the kind of clothes, blotted: 3,430 steps of the generator are few, and it was
    still getting better, by 5 % from epoch to epoch.
    """

    kind = "adversarial"
    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 2e-4
    """Learning rate of the generator."""
    discriminator_learning_rate: float = 2e-4
    """Learning rate of the discriminator."""
    beta_1: float = 0.5
    """Decay of Adam's mean of the gradients, of both."""
    monitor: str = "frechet_distance"
    num_evaluation_samples: int = 2000
    """ImageRecipe drawn after each epoch to be judged. 0: none."""
    coding_size: int = 100
    """Numbers in a coding."""
    generator_units: tuple[int, ...] = (100, 150)
    """Dense layers of the generator, if it has no filters."""
    discriminator_units: tuple[int, ...] = (150, 100)
    """Dense layers of the discriminator, if it has no filters."""
    generator_filters: tuple[int, ...] = ()
    """Filters that the generator starts with, and of its transposed convolutions but the last."""
    discriminator_filters: tuple[int, ...] = ()
    """Filters of the discriminator's convolutions, each of which halves the image."""
    dropout: float = 0.4
    """Dropout rate after each hidden layer of the discriminator."""
    minibatch_stddev: bool = False
    """Show the discriminator how much the images of a batch differ."""
    loss: Literal["non_saturating", "hinge", "wasserstein"] = "non_saturating"
    """What the two compete for."""
    label_smoothing: float = 0.0
    """Real images count as real to 1 minus that."""
    gradient_penalty: float = 0.0
    """Weight of the penalty on gradients of the discriminator that are not of length 1."""
    critic_steps: int = 1
    """Steps of the discriminator before each of the generator, which share the batch."""
    replay: int = 0
    """Generated images that are remembered, to be shown to the discriminator again."""
    ema: float = 0.999
    """Decay of the average of the generator's weights that draws images."""
    conditional: bool = False
    """Learn the classes of the images, to draw those of a class."""

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
        if min(self.num_evaluation_samples, self.gradient_penalty, self.replay) < 0:
            raise UserError("--num-evaluation-samples, --gradient-penalty and --replay must be 0 or more")
        for network in ("generator", "discriminator"):
            name = f"{network}_units"
            if getattr(self, f"{network}_filters") and tuple(getattr(self, name)) != getattr(type(self), name):
                raise UserError(f"--{network}-units has no effect beside --{network}-filters; leave out one of them")
        if self.batch_size % self.critic_steps:
            raise UserError(f"--batch-size must be a multiple of --critic-steps, {self.critic_steps}")
        if 0 < self.replay < self.batch_size:
            raise UserError(f"--replay must be 0 or at least --batch-size, {self.batch_size}")
        if self.monitor == "frechet_distance" and not (self.num_evaluation_samples and self.features):
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
        """Adam for each of the two."""
        import keras

        from homl_models.optimizers import GANOptimizer

        def adam(learning_rate):
            adam = keras.optimizers.Adam(learning_rate, self.beta_1, self.beta_2)
            return keras.optimizers.LossScaleOptimizer(adam) if self.precision == "mixed_float16" else adam

        return GANOptimizer(adam(self.learning_rate), adam(self.discriminator_learning_rate))

    def compile_kwargs(self):
        return super().compile_kwargs() | {"auto_scale_loss": False}

    def model(self):
        from homl_models.models import gan

        names = (
            "coding_size", "generator_units", "discriminator_units", "generator_filters", "discriminator_filters",
            "dropout", "minibatch_stddev", "loss", "label_smoothing", "gradient_penalty", "critic_steps", "replay",
            "ema", "seed", "image_shape",
        )  # fmt: skip
        settings = {name: getattr(self, name) for name in names} | {"dtype": self.precision}
        if self.conditional:
            settings |= {"num_classes": self.num_classes, "class_names": self.class_names}
        return self.compiled(gan.GAN(**settings))

    def loss_and_metrics(self, model, parts):
        return {}  # what either of the two achieves depends on the other

    # After each epoch.

    @functools.cached_property
    def judge_of_epochs(self):
        """Images (n, ...) -> metrics of them against validation images."""
        from homl_models import loading, metrics

        images = self.splits[1][0][: self.num_evaluation_samples]
        if len(images) < MIN_SAMPLES:
            return lambda fake: {}  # too few to say anything
        if not self.features:
            real = images[:NEIGHBOURS] / (255 if images.dtype == "uint8" else 1)
            return lambda fake: {"coverage": by_pixels(real, fake[:NEIGHBOURS])["coverage"]}
        net = loading.load(self.features)
        real = net.features_and_probabilities(images.reshape(-1, *net.image_shape))[0]
        scaled = in_units_of(real)

        def judge(fake):
            described, probabilities = net.features_and_probabilities(fake.reshape(-1, *net.image_shape))
            near = metrics.prdc(scaled(real[:NEIGHBOURS]), scaled(described[:NEIGHBOURS]))
            shares = metrics.class_fractions(probabilities)
            return {
                "frechet_distance": metrics.frechet_distance(scaled(real), scaled(described)),
                "coverage": near["coverage"],
                "largest_class": float(shares.max()),
                "smallest_class": float(shares.min()),
            }

        return judge

    def end_epoch(self, model, epoch, folder):
        """progress/epoch_NNNN.png, always of the same codings; how good images are, and a word if all are alike."""
        from homl_models.training import reports

        (folder / "progress").mkdir(exist_ok=True)
        samples = self.sample_images(model, 64)[0]
        rows = samples.reshape(8, 8, *samples.shape[1:])
        reports.image_grid(rows, folder / "progress" / f"epoch_{epoch:04d}.png", scale=1, gap=2)
        if not self.num_evaluation_samples:
            return {}
        found = self.judge_of_epochs(self.sample_images(model, self.num_evaluation_samples)[0])
        if found.get("largest_class", 0) > 0.5:
            share = 100 * found["largest_class"]
            print(f"\nepoch {epoch}: mode collapse: {share:.0f} % of the images are of one class", file=sys.stderr)
        return found

    def sample_images(self, model, count, labels=None):
        import numpy as np

        if self.conditional and labels is None:
            labels = np.arange(count) % model.num_classes
        return model.sample(count, self.seed, labels), labels

    def show(self, model, folder):
        """samples.png, interpolation.png, training.gif, and what they show."""
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
            "interpolation.png  from a coding to another, in each row",
            "training.gif       images of the same codings, epoch by epoch",
        ]
        return "\n".join(lines)


def animate(paths, path):
    """PNG files one after the other as a GIF, those in colour each with a palette of its own; nothing for none."""
    from PIL import Image

    from homl_models.training import files

    frames = []
    for one in paths:
        with Image.open(one) as image:
            frames.append(image.convert("L") if image.mode == "L" else image.quantize())
    if frames:
        with files.atomic_write(path) as aside:
            frames[0].save(aside, format="GIF", save_all=True, append_images=frames[1:], duration=200, loop=0)


CONV = {"generator_filters": (128, 64), "discriminator_filters": (64, 128)}
TINY = {"data": "digits", "epochs": 2, "batch_size": 64, "num_images": 320, "steps_per_execution": 1, "monitor": ""}

RECIPES = {
    "gan": GAN(coding_size=30, dropout=0.0),
    "dcgan": GAN(**CONV),
    "dcgan_conditional": GAN(**CONV, conditional=True),
    "dcgan_replay": GAN(**CONV, replay=2048),
    "wgan_gp": GAN(
        **CONV, batch_size=160, learning_rate=1e-4, discriminator_learning_rate=1e-4, beta_1=0.0,
        loss="wasserstein", gradient_penalty=10.0, critic_steps=5, dropout=0.0,
    ),
    "dcgan_digits": GAN(**CONV, data="digits", epochs=200, monitor="", conditional=True),
    "dcgan_tiny": GAN(
        **TINY, coding_size=6, generator_filters=(8, 8), discriminator_filters=(8, 8), conditional=True,
        num_evaluation_samples=100, minibatch_stddev=True,
        critic_steps=2, gradient_penalty=1.0, replay=96, loss="hinge",
    ),
}  # fmt: skip
