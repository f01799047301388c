"""Recipes of the variational autoencoder (`models/vae.py`)."""

import dataclasses
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.autoencoders import BUSY, DIGITS, TINY, show_codings
from homl_models.recipes.generators import GeneratorRecipe
from homl_models.recipes.images import GRID_COLUMNS
from homl_models.recipes.recipe import positive
from homl_models.recipes.results import Result


@dataclasses.dataclass(frozen=True)
class VAE(GeneratorRecipe):
    """Variational autoencoder on Fashion MNIST: the book's dense layers (150, 100, coding 10), or convolutions."""

    kind: ClassVar[str] = "draws"
    epochs: int = 25
    batch_size: int = 128
    learning_rate: float = 2e-3
    beta_2: ClassVar[float] = 0.99  # as in `recipes.autoencoders`
    tsne_images: int = 2000
    """Validation images whose codings are shown in two dimensions, by t-SNE, in codings.png. 0: none."""
    coding_size: int = 10
    """Numbers in a coding."""
    hidden_units: tuple[int, ...] = (150, 100)
    """Units of the encoder's dense layers; the decoder has them in reverse."""
    filters: tuple[int, ...] = ()
    """Filters of stride-2 convolutions before the dense layers. Empty: none."""
    activation: Literal["relu", "elu", "gelu", "silu", "tanh"] = "relu"
    """Activation function of hidden layers."""
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """Likelihood of the pixels: `gaussian` for squared errors, `bernoulli` for cross-entropy."""
    beta: float = 1.0
    """Weight of the KL divergence in the loss; 1 for the evidence lower bound (ELBO)."""

    def __post_init__(self):
        super().__post_init__()
        positive(coding_size=self.coding_size)
        if self.tsne_images < 0:
            raise UserError("--tsne-images must be 0 or more")
        for units in self.hidden_units:
            positive(hidden_units=units)
        for filters in self.filters:
            positive(filters=filters)
        if self.beta < 0:
            raise UserError("--beta must be 0 or more")

    @property
    def convolutional(self):
        return bool(self.filters)

    def model(self):
        from homl_models.models.vae import VAE

        model = VAE(
            self.coding_size,
            tuple(self.hidden_units),
            tuple(self.filters),
            self.activation,
            self.likelihood,
            self.beta,
            seed=self.seed,
            image_shape=self.image_shape,
            dtype=self.precision,
        )
        return self.compiled(model)

    def extra_metrics(self, model, images):
        return {"elbo": float(model.predict_batched("elbo", model.checked_images(images)).mean())}

    def reset_sampling_seed(self, model):
        model.sampling.seed_generator.state.assign([self.seed, 0])

    def show(self, model, folder):
        """reconstructions.png, codings.png, samples.png and interpolation.png."""
        import numpy as np

        from homl_models.training import reports

        text = show_codings(self, model, folder)
        reports.image_grid(self.sample_grid(model), folder / "samples.png")
        first = [images[: 2 * 6] for images, _ in self.splits[1:]]  # with few images validation has only one
        images = model.checked_images(np.concatenate(first)[: 2 * 6])
        rows = [model.interpolate(images[i : i + 2], GRID_COLUMNS) for i in range(0, len(images) - 1, 2)]
        reports.image_grid(rows, folder / "interpolation.png")
        text += "\nsamples.png          new images, decoded from codings sampled from the prior"
        return text + "\ninterpolation.png    linear interpolation between the codings of two validation images"


RECIPES = {
    "vae": VAE(),
    "vae_conv": VAE(filters=(32, 64), hidden_units=(128,)),
    "vae_digits": VAE(**DIGITS | {"epochs": 100, "batch_size": 32}, beta=0.1),
    "vae_tiny": VAE(**TINY | {"tsne_images": 60}, filters=(4,), hidden_units=(20,), coding_size=4),
}

SUMMARIES = {
    "vae": "Variational autoencoder of dense layers",
    "vae_conv": "Convolutional variational autoencoder",
    "vae_digits": "Variational autoencoder of scikit-learn's digits, without network",
}

RESULTS = [
    Result(
        "vae",
        minutes=0.9,
        metrics={
            "epochs": 25,
            "val_loss": 0.0306,
            "test_elbo": -472.6,
            "frechet_distance": 212.3,
            "kid": 15.72,
            "precision": 0.177,
            "recall": 0.006,
            "density": 0.062,
            "coverage": 0.036,
            "inception_score": 5.74,
        },
        reference={"val_loss": 0.0311},
        note=(
            "The ELBO is in nats, of a density with variance 1/2. 10,000 samples are compared with the 10,000 test "
            "images by the preset `fashion_features`. 10,000 training images have Fréchet distance 0.7, KID 0.00, "
            "precision 0.923, recall 0.923, density 1.007, coverage 0.966, inception score 9.04; 10,000 images of "
            "noise 656.3, 140.61, 0.000, 0.000, 0.000, 0.000, 1.36."
        ),
    ),
    Result(
        "vae_conv",
        machine=BUSY,
        minutes=9.6,
        metrics={
            "epochs": 25,
            "val_loss": 0.0293,
            "test_elbo": -471.6,
            "frechet_distance": 193.6,
            "kid": 14.12,
            "precision": 0.222,
            "recall": 0.011,
            "density": 0.092,
            "coverage": 0.077,
            "inception_score": 6.11,
        },
        reference={"val_loss": 0.0311},
    ),
]
