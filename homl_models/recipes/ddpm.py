"""Recipes of diffusion models (`models/ddpm.py`)."""

import dataclasses
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.generators import GeneratorRecipe
from homl_models.recipes.images import GRID_COLUMNS
from homl_models.recipes.recipe import positive, rate
from homl_models.recipes.results import Result

INPAINTED_FRACTION = 0.5  # of the height, in inpainting.png


@dataclasses.dataclass(frozen=True)
class DDPM(GeneratorRecipe):
    """Denoising diffusion model (DDPM) of images, by default a U-Net with attention that predicts velocities.

    Samples are made by DPM-Solver++; new images, sampling step by step and inpainting are shown after training.
    With --conditional labels are an input, and sampling uses classifier-free guidance.
    """

    kind: ClassVar[str] = "draws"
    convolutional: ClassVar[bool] = True
    epochs: int = 20
    batch_size: int = 128
    monitor: str = ""
    steps_per_execution: int = 10
    num_steps: int = 1000
    """T, the number of timesteps of the forward process."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """Noise schedule."""
    prediction: Literal["noise", "x0", "velocity"] = "velocity"
    """Prediction target of the network; velocity is a mixture of noise and image."""
    loss: Literal["mse", "mae", "huber"] = "mse"
    """Loss between prediction and target, of each pixel in [-1, 1]."""
    ema: float = 0.999
    """Decay of the exponential moving average of the weights, which validation and sampling use."""
    network: Literal["unet", "separable"] = "unet"
    """`unet`: residual blocks and attention; `separable`: the book's U-Net of separable convolutions."""
    filters: tuple[int, ...] = (64, 128)
    """Channels at each level of the U-Net, highest resolution first."""
    attention_levels: tuple[int, ...] = (1,)
    """Levels of `unet` with self-attention, counted from 0."""
    patch: int = 2
    """Patch size of `unet`, in pixels."""
    dropout: float = 0.0
    """Dropout rate in the residual blocks of `unet`."""
    conditional: bool = False
    """Condition on the classes of the images."""
    label_dropout: float = 0.1
    """With --conditional: probability that a label is dropped in training, for classifier-free guidance."""
    sampling_steps: int = 25
    """Sampling steps, for samples and for metrics."""
    guidance: float = 1.0
    """Scale of classifier-free guidance, for samples and for metrics; 1: as learned, more: more typical images."""

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
        """Writes samples.png, process.png and inpainting.png -> what they show, a line each."""
        from homl_models.training import reports

        reports.image_grid(self.sample_grid(model), folder / "samples.png")
        reports.image_grid(self.process_rows(model), folder / "process.png")
        reports.image_grid(self.inpainting_rows(model), folder / "inpainting.png")
        lines = [
            "samples.png     new images" + (", " + self.sample_grid_legend(model) if self.conditional else ""),
            "process.png     from top to bottom: the image predicted at some of the sampling steps",
            "inpainting.png  validation images, the same without their lower half, and three ways to complete them",
        ]
        return "\n".join(lines)

    def process_rows(self, model):
        """The predicted x0 at 8 of the sampling steps or all of them, and the samples: rows of images."""
        import numpy as np

        predicted, labels = [], np.arange(GRID_COLUMNS) % model.num_classes if self.conditional else None
        settings = (GRID_COLUMNS, self.seed, self.sampling_steps, labels, self.guidance)
        last = model.sample(*settings, callback=lambda step, images: predicted.append(images))
        shown = np.unique(np.linspace(0, len(predicted) - 1, 8).round().astype(int))
        return [*(predicted[i] for i in shown), last]

    def inpainting_rows(self, model):
        """Validation images, what is kept of them, and three ways to inpaint the rest: rows of images."""
        import numpy as np

        images = model.checked_images(self.splits[1][0][:GRID_COLUMNS])
        mask = np.ones(model.image_shape[:2])
        mask[round(len(mask) * (1 - INPAINTED_FRACTION)) :] = 0
        kept = np.where(mask.reshape(*mask.shape, *[1] * (images.ndim - 3)) > 0, images, 0.5)
        return [images, kept, *(model.inpaint(images, mask, seed) for seed in range(3))]


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

SUMMARIES = {
    "ddpm_book": "The book's diffusion model of Fashion MNIST: separable U-Net, 4,000 timesteps, noise prediction",
    "ddpm": "Diffusion model of Fashion MNIST: U-Net with attention, velocity prediction, EMA of the weights",
    "ddpm_conditional": "Class-conditional diffusion model of Fashion MNIST, sampled with classifier-free guidance",
    "ddpm_digits": "Class-conditional diffusion model of scikit-learn's digits, which needs no download",
}

PROTOCOL = (
    "Measured on 10,000 images sampled in 25 steps{}, against 10,000 of the test part, by the preset fashion_features."
)
RESULTS = [
    Result(
        "ddpm_conditional",
        "ddpm_conditional --precision mixed_bfloat16",
        machine="2 cores of an Intel Xeon (with AMX), beside other work",
        minutes=94,
        metrics={
            "epochs": 20,
            "val_loss": 0.1319,
            "frechet_distance": 9.0,
            "kid": 0.69,
            "precision": 0.894,
            "recall": 0.643,
            "density": 0.862,
            "coverage": 0.799,
            "inception_score": 9.03,
            "label_agreement": 0.955,
        },
        note=PROTOCOL.format(", a class each in turn, with guidance 1.5")
        + """ 95.5 % of them are classified as the class that they were sampled for. It is the preset of that name.
Without guidance: Fréchet distance 13.0, recall 0.680, 87.8 % of the class. Of 1,000 images (whose distances are
larger), by guidance: 1: 89.2 %, Fréchet distance 19.1; 1.5: 95.6 %, 13.9; 2: 98.2 %, 14.8; 3: 99.0 %, 21.6.""",
    ),
    Result(
        "ddpm",
        "ddpm --precision mixed_bfloat16",
        machine="2 cores of an Intel Xeon (with AMX), beside other work",
        minutes=137,
        metrics={
            "epochs": 20,
            "val_loss": 0.1467,
            "frechet_distance": 19.5,
            "kid": 1.40,
            "precision": 0.864,
            "recall": 0.696,
            "density": 0.743,
            "coverage": 0.684,
            "inception_score": 7.59,
        },
        note=PROTOCOL.format("") + " Every class has between 8.6 and 11.4 % of them.",
    ),
    Result(
        "ddpm_book",
        machine="one core of an AMD EPYC (AVX2), beside other work",
        minutes=92,
        metrics={
            "epochs": 20,
            "val_loss": 0.0390,
            "frechet_distance": 50.0,
            "kid": 2.15,
            "precision": 0.831,
            "recall": 0.442,
            "density": 0.664,
            "coverage": 0.366,
            "inception_score": 6.15,
        },
        reference={"val_loss": 0.0375, "epochs": 100, "seconds per epoch": "347 to 418"},
        note=PROTOCOL.format("")
        + """ The reference is the book's notebook. The images show clothes and shoes, many with holes or frayed.
A learning rate that stays leads to the same: epoch 9 of 20 has 0.0409 by it, 0.0408 by the cosine.""",
    ),
    Result(
        "ddpm_book",
        "ddpm_book --epochs 12",
        machine="2 cores of an AMD EPYC (AVX2)",
        minutes=36,
        metrics={"epochs": 12, "val_loss": 0.0403, "frechet_distance": 64.2},
    ),
]
