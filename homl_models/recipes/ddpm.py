"""Recipes of diffusion models (`models/ddpm.py`)."""

import dataclasses
from typing import Literal

from homl_models.errors import UserError
from homl_models.recipes.images import GRID_COLUMNS, GeneratorRecipe, ImageRecipe
from homl_models.recipes.recipe import positive, rate

HOLE = 0.5  # share of the height that is painted anew in inpainting.png


@dataclasses.dataclass(frozen=True)
class DDPM(GeneratorRecipe, ImageRecipe):
    """A diffusion model of Fashion MNIST: a U-Net with attention that predicts velocities.

    Measured: `python -m homl_models.train ddpm_conditional --precision mixed_bfloat16`, 2 cores of an Intel Xeon (with
    AMX), 20 epochs, 94 minutes beside other work; validation loss 0.1319. 10,000 images, a class each in turn,
    drawn in 25 steps with guidance 1.5, against 10,000 of the test part, by the preset fashion_features: Fréchet
    distance 9.0, kernel distance 0.69, precision 0.894, recall 0.643, density 0.862, coverage 0.799, classifier score
    9.03; 95.5 % of them are taken for the class that they were drawn for. It is the preset of that name.
    Without guidance: Fréchet distance 13.0, recall 0.680, 87.8 % of the class. Of 1,000 images (whose distances are
    larger), by guidance: 1: 89.2 %, Fréchet distance 19.1; 1.5: 95.6 %, 13.9; 2: 98.2 %, 14.8; 3: 99.0 %, 21.6.
    `python -m homl_models.train ddpm --precision mixed_bfloat16`, the same machine, 20 epochs, 137 minutes beside other
    work; validation loss 0.1467. 10,000 images in 25 steps: Fréchet distance 19.5, kernel distance 1.40, precision
    0.864, recall 0.696, density 0.743, coverage 0.684, classifier score 7.59, every class between 8.6 and 11.4 %.
    `python -m homl_models.train ddpm_book`, one core of an AMD EPYC (AVX2), 20 epochs, 92 minutes beside other work (12
    epochs on both cores took 36): validation loss 0.0390, the book 0.0375 after 100 epochs of 347 to 418 s. 10,000
    images in 25 steps: Fréchet distance 50.0, kernel distance 2.15, precision 0.831, recall 0.442, density 0.664,
    coverage 0.366, classifier score 6.15. The images show clothes and shoes, many with holes or frayed.
    After 12 epochs of 12: 0.0403 and Fréchet distance 64.2. A learning rate that stays leads to the same: epoch 9 of 20
    has 0.0409 by it, 0.0408 by the cosine.
    """

    kind = "draws"
    epochs: int = 20
    batch_size: int = 128
    monitor: str = ""
    steps_per_execution: int = 10
    num_steps: int = 1000
    """T, the steps from an image to noise."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How much noise each step adds."""
    prediction: Literal["noise", "x0", "velocity"] = "velocity"
    """What the network predicts."""
    loss: Literal["mse", "mae", "huber"] = "mse"
    """Of each pixel, in [-1, 1]."""
    ema: float = 0.999
    """Decay of the average of the weights that draws images."""
    network: Literal["unet", "separable"] = "unet"
    """`unet`: residual blocks and attention; `separable`: the book's, of separable convolutions."""
    filters: tuple[int, ...] = (64, 128)
    """Filters of the levels, the largest maps first."""
    attention_levels: tuple[int, ...] = (1,)
    """Levels with attention, counted from 0; of `unet`."""
    patch: int = 2
    """Side of the squares of pixels that `unet` takes together."""
    dropout: float = 0.0
    """Dropout rate in `unet`."""
    conditional: bool = False
    """Learn the classes of the images, to draw those of a class."""
    label_dropout: float = 0.1
    """With --conditional: share of labels left out in training, for images without a class and for guidance."""
    sampling_steps: int = 25
    """Steps in which images are drawn for samples and measures."""
    guidance: float = 1.0
    """How strongly the class counts in those; 1 as learned."""
    convolutional = True

    def __post_init__(self):
        super().__post_init__()
        positive(num_steps=self.num_steps, patch=self.patch, sampling_steps=self.sampling_steps)
        rate(ema=self.ema, dropout=self.dropout, label_dropout=self.label_dropout)
        for filters in self.filters:
            positive(filters=filters)
        if self.sampling_steps > self.num_steps:
            raise UserError(
                f"--sampling-steps must be at most --num-steps, {self.num_steps}, not {self.sampling_steps}"
            )
        if not all(0 <= level < len(self.filters) for level in self.attention_levels):
            raise UserError(f"--attention-levels must lie in 0 to {len(self.filters) - 1}")
        if self.network == "separable" and (self.attention_levels or self.dropout or self.patch != 1):
            raise UserError("--network separable has no --attention-levels, --dropout or --patch: give none, 0 and 1")
        if self.guidance != 1 and not self.conditional:
            raise UserError("--guidance needs --conditional")
        if self.label_dropout != type(self).label_dropout and not self.conditional:
            raise UserError("--label-dropout needs --conditional")

    def model(self):
        from homl_models.models import ddpm, unet

        channels = self.image_shape[2] if len(self.image_shape) == 3 else 1
        settings = {"channels": channels, "num_classes": self.num_classes if self.conditional else 0}
        settings |= {"filters": tuple(self.filters), "dtype": self.precision, "name": "network"}
        if self.network == "unet":
            more = {"attention_levels": tuple(self.attention_levels), "patch": self.patch, "dropout": self.dropout}
            network = unet.UNet(**settings, **more)
        else:
            network = unet.SeparableUNet(**settings)
        model = ddpm.DDPM(
            network,
            self.num_steps,
            self.schedule,
            self.prediction,
            self.loss,
            self.ema,
            self.label_dropout,
            self.seed,
            image_shape=self.image_shape,
            class_names=self.class_names if self.conditional else (),
            dtype=self.precision,
        )
        return self.compiled(model)

    def reset_sampling_seed(self, model):
        model.seed_generator.state.assign([self.seed, 0])

    def sample_images(self, model, count, labels=None):
        import numpy as np

        if not self.conditional:
            return model.sample(count, self.seed, self.sampling_steps), None
        labels = np.arange(count) % model.num_classes if labels is None else labels
        return model.sample(count, self.seed, self.sampling_steps, labels, self.guidance), labels

    def show(self, model, folder):
        """samples.png, process.png, inpainting.png, and what they show."""
        import numpy as np

        from homl_models.training import reports

        reports.image_grid(self.sample_grid(model), folder / "samples.png")

        seen, labels = [], np.arange(GRID_COLUMNS) % model.num_classes if self.conditional else None
        last = model.sample(
            GRID_COLUMNS,
            self.seed,
            self.sampling_steps,
            labels,
            self.guidance,
            callback=lambda step, images: seen.append(images),
        )
        shown = np.unique(np.linspace(0, len(seen) - 1, 8).round().astype(int))
        reports.image_grid([*(seen[i] for i in shown), last], folder / "process.png")

        images = model.checked_images(self.splits[1][0][:GRID_COLUMNS])
        mask = np.ones(model.image_shape[:2])
        height, width = mask.shape
        mask[round(height * (1 - HOLE)) :] = 0
        cut = np.where(mask.reshape(*mask.shape, *[1] * (images.ndim - 3)) > 0, images, 0.5)
        painted = [model.inpaint(images, mask, seed) for seed in range(3)]
        reports.image_grid([images, cut, *painted], folder / "inpainting.png")
        lines = [
            "samples.png     new images" + (", " + self.sample_grid_legend(model) if self.conditional else ""),
            "process.png     from top to bottom: what the network sees in the noise, step by step",
            "inpainting.png  validation images, the same without their lower half, and three ways to complete them",
        ]
        return "\n".join(lines)


RECIPES = {
    "ddpm_book": DDPM(
        network="separable",
        filters=(16, 32, 64, 128),
        attention_levels=(),
        patch=1,
        num_steps=4000,
        prediction="noise",
        loss="huber",
        batch_size=32,
        learning_rate=2e-3,
    ),
    "ddpm": DDPM(),
    "ddpm_conditional": DDPM(conditional=True, guidance=1.5),
    "ddpm_digits": DDPM(data="digits", epochs=200, batch_size=64, filters=(32, 64), patch=1, conditional=True),
    "ddpm_tiny": DDPM(
        data="digits",
        epochs=2,
        batch_size=64,
        num_images=320,
        steps_per_execution=1,
        num_steps=20,
        filters=(8,),
        attention_levels=(0,),
        dropout=0.1,
        conditional=True,
        sampling_steps=4,
    ),
}
