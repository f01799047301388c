"""Recipes of autoencoders (`models/autoencoders.py`)."""

import dataclasses
import functools
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.images import GRID_COLUMNS, ImageRecipe
from homl_models.recipes.recipe import positive, rate
from homl_models.recipes.results import Result


def refuse_unused(recipe, name, needed, idle):
    """`UserError` for a setting that was changed where it is `idle`, without effect for lack of `needed`."""
    default = getattr(type(recipe), name)
    if idle and getattr(recipe, name) != default:
        raise UserError(f"--{name.replace('_', '-')} has no effect without {needed}; leave it at {default}")


def show_codings(recipe, model, folder):
    """Write reconstructions.png and codings.png (t-SNE of `recipe.tsne_images` validation images) -> lines on them."""
    from homl_models.training import reports

    images = model.checked_images(recipe.splits[1][0][:GRID_COLUMNS])
    reports.image_grid([images, model.reconstruct(images)], folder / "reconstructions.png")
    lines = ["reconstructions.png  validation images above their reconstructions"]
    if recipe.tsne_images:
        images, labels = (x[: recipe.tsne_images] for x in recipe.splits[1])
        images = model.checked_images(images)
        method = reports.coding_map(model.codings(images), labels, images, folder / "codings.png", recipe.seed)
        lines.append(f"codings.png          codings of validation images in two dimensions, {method}")
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Autoencoder(ImageRecipe):
    """A recipe of an autoencoder: mean squared error of the reconstructions."""

    learning_rate: float = 2e-3
    beta_2: ClassVar[float] = 0.99  # the average of 0.999 is too long for a few thousand steps
    tsne_images: int = 2000
    """Validation images whose codings are shown in two dimensions, by t-SNE, in codings.png. 0: none."""
    coding_size: int = 30
    """Numbers in a coding."""
    noise: Literal["none", "dropout", "gaussian"] = "none"
    """Corruption of the images in training."""
    noise_amount: float = 0.5
    """Fraction of pixels that `dropout` sets to 0, or standard deviation of `gaussian` noise."""

    def __post_init__(self):
        super().__post_init__()
        positive(coding_size=self.coding_size)
        if self.tsne_images < 0:
            raise UserError("--tsne-images must be 0 or more")
        if self.noise == "dropout":
            rate(noise_amount=self.noise_amount)
        if self.noise_amount < 0:
            raise UserError("--noise-amount must be 0 or more")
        refuse_unused(self, "noise_amount", "--noise dropout or gaussian", self.noise == "none")

    def settings(self):
        """Constructor arguments of the model."""
        from homl_models.layers.dropout import Dropout
        from homl_models.layers.gaussian import GaussianNoise

        noise = {"none": None, "dropout": Dropout, "gaussian": GaussianNoise}[self.noise]
        settings = {"image_shape": self.image_shape, "coding_size": self.coding_size, "dtype": self.precision}
        return settings | {"noise": noise and noise(self.noise_amount, name="noise", dtype=self.precision)}

    def compile_kwargs(self):
        import keras

        return {"loss": "mse", "metrics": [keras.metrics.MeanSquaredError("mse")]} | super().compile_kwargs()

    def extra_metrics(self, model, images):
        import numpy as np

        return {"mean_activity": float(np.mean(model.codings(images)))}

    def show(self, model, folder):
        """reconstructions.png, codings.png, max_activations.png, and denoised.png for a denoising autoencoder."""
        text = show_codings(self, model, folder) + self._show_max_activations(model, folder)
        return text if model.noise is None else text + self._show_denoised(model, folder)

    def _show_max_activations(self, model, folder):
        import numpy as np

        from homl_models.training import reports

        images = model.checked_images(self.splits[1][0])
        codings = model.codings(images)[:, :GRID_COLUMNS]
        top = np.argsort(-codings, axis=0, kind="stable")[:GRID_COLUMNS].T
        reports.image_grid([images[row] for row in top], folder / "max_activations.png")
        return "\nmax_activations.png  a row for each of the first units of the coding: its maximally activating images"

    def _show_denoised(self, model, folder):
        import numpy as np

        from homl_models.training import reports

        images = model.checked_images(self.splits[1][0][:GRID_COLUMNS])
        corrupted = np.asarray(model.noise(images, training=True))
        denoised = model.decode_codings(model.predict_batched("encode", corrupted))
        reports.image_grid([images, corrupted, denoised], folder / "denoised.png")
        return "\ndenoised.png         images, corrupted images, and their reconstructions"


@dataclasses.dataclass(frozen=True)
class Stacked(_Autoencoder):
    """Stacked autoencoder of dense layers, the book's (784, 100, 30, 100, 784), on Fashion MNIST.

    Linear, tied, denoising, sparse and hashing autoencoders are settings of it.
    """

    kind: ClassVar[str] = "fit"
    hidden_units: tuple[int, ...] = (100,)
    """Units of the layers between image and coding."""
    activation: Literal["relu", "elu", "gelu", "silu", "tanh"] = "relu"
    """Activation function of hidden layers."""
    coding_activation: Literal["relu", "sigmoid", "tanh", "linear"] = "relu"
    """Activation function of the coding layer."""
    tied: bool = False
    """Use the encoder's transposed kernels in the decoder."""
    coding_noise: float = 0.0
    """Standard deviation of Gaussian noise before the coding layer, which makes sigmoid codings binary."""
    sparsity: Literal["none", "l1", "kl"] = "none"
    """Sparsity regularizer of the codings: L1, or the KL divergence of mean activities from --sparsity-target."""
    sparsity_weight: float = 1e-4
    """Weight of the sparsity regularizer."""
    sparsity_target: float = 0.1
    """Target of a unit's mean activity for `kl`, in (0, 1)."""

    def __post_init__(self):
        super().__post_init__()
        for units in self.hidden_units:
            positive(hidden_units=units)
        if self.coding_noise < 0 or self.sparsity_weight < 0:
            raise UserError("--coding-noise and --sparsity-weight must be 0 or more")
        if not 0 < self.sparsity_target < 1:
            raise UserError(f"--sparsity-target must lie in (0, 1), not {self.sparsity_target}")
        refuse_unused(self, "sparsity_weight", "--sparsity l1 or kl", self.sparsity == "none")
        refuse_unused(self, "sparsity_target", "--sparsity kl", self.sparsity != "kl")

    def settings(self):
        from homl_models import regularizers

        regularizer = {
            "none": None,
            "l1": regularizers.L1ActivityRegularizer(self.sparsity_weight),
            "kl": regularizers.KLDivergenceRegularizer(self.sparsity_weight, self.sparsity_target),
        }[self.sparsity]
        settings = {"hidden_units": tuple(self.hidden_units), "activation": self.activation, "tied": self.tied}
        settings |= {"coding_activation": self.coding_activation, "coding_noise": self.coding_noise}
        return super().settings() | settings | {"coding_regularizer": regularizer}

    def model(self):
        from homl_models.models.autoencoders import StackedAutoencoder

        return self.compiled(StackedAutoencoder(**self.settings()))


@dataclasses.dataclass(frozen=True)
class Greedy(Stacked):
    """Stacked autoencoder trained greedily: one layer after the other, then all together, for equally many epochs."""

    kind: ClassVar[str] = "stages"

    def __post_init__(self):
        super().__post_init__()
        if self.epochs % self.num_stages:
            raise UserError(f"--epochs must be a multiple of {self.num_stages}, the stages; not {self.epochs}")

    @property
    def num_stages(self):
        return len(self.hidden_units) + 2

    def stages(self):
        def greedy(layer):
            from homl_models.models.autoencoders import GreedyAutoencoder

            return self.compiled(GreedyAutoencoder(layer, **self.settings()))

        epochs = self.epochs // self.num_stages
        layers = [
            self.stage(f"layer_{i}", epochs=epochs, model=functools.partial(greedy, i))
            for i in range(self.num_stages - 1)
        ]
        return [*layers, self.stage("all", epochs=epochs)]

    def optimizer(self, steps):
        return super().optimizer(steps // self.num_stages)


@dataclasses.dataclass(frozen=True)
class Conv(_Autoencoder):
    """The book's convolutional autoencoder on Fashion MNIST."""

    kind: ClassVar[str] = "fit"
    filters: tuple[int, ...] = (16, 32, 64)
    """Filters of the encoder's convolutions, each followed by 2x2 max pooling."""
    decoder_filters: tuple[int, ...] = (16, 32, 16)
    """Channels of the decoder's first feature maps, and filters of its transposed convolutions but the last."""
    convolutional: ClassVar[bool] = True

    def model(self):
        from homl_models.models.autoencoders import ConvAutoencoder

        filters = {"filters": tuple(self.filters), "decoder_filters": tuple(self.decoder_filters)}
        return self.compiled(ConvAutoencoder(**self.settings(), **filters))


@dataclasses.dataclass(frozen=True)
class Recurrent(_Autoencoder):
    """The book's recurrent autoencoder: LSTMs (100, 30, 100) over the rows of Fashion MNIST's images."""

    kind: ClassVar[str] = "fit"
    units: int = 100
    """Units of the first LSTM of the encoder and of the decoder's."""

    def model(self):
        from homl_models.models.autoencoders import RecurrentAutoencoder

        return self.compiled(RecurrentAutoencoder(units=self.units, **self.settings()))


SPARSE = {"coding_size": 300, "coding_activation": "sigmoid"}
DIGITS = {"data": "digits", "epochs": 50}
TINY = {"data": "digits", "epochs": 2, "batch_size": 64, "num_images": 320, "steps_per_execution": 1, "tsne_images": 0}

RECIPES = {
    "autoencoder_linear": Stacked(hidden_units=(), coding_activation="linear"),
    "autoencoder_stacked": Stacked(epochs=20),
    "autoencoder_tied": Stacked(tied=True),
    "autoencoder_greedy": Greedy(epochs=30),
    "autoencoder_conv": Conv(),
    "autoencoder_recurrent": Recurrent(),
    "autoencoder_denoising": Stacked(noise="dropout"),
    "autoencoder_sparse_l1": Stacked(**SPARSE, sparsity="l1"),
    "autoencoder_sparse_kl": Stacked(**SPARSE, sparsity="kl", sparsity_weight=1e-3),
    "autoencoder_hashing": Stacked(learning_rate=4e-3, coding_size=16, coding_activation="sigmoid", coding_noise=15.0),
    "autoencoder_digits": Stacked(**DIGITS),
    "autoencoder_tiny": Stacked(**TINY, hidden_units=(20,), coding_size=8, tied=True, noise="gaussian", sparsity="l1"),
    "autoencoder_greedy_tiny": Greedy(**TINY | {"epochs": 3}, hidden_units=(20,), coding_size=8, coding_noise=1.0),
    "autoencoder_conv_tiny": Conv(**TINY, filters=(4, 8), decoder_filters=(8, 4), coding_size=6, noise="dropout"),
    "autoencoder_recurrent_tiny": Recurrent(**TINY, units=12, coding_size=6),
}

SUMMARIES = {
    "autoencoder_linear": "Linear autoencoder: principal components",
    "autoencoder_stacked": "Stacked autoencoder of dense layers",
    "autoencoder_tied": "Stacked autoencoder with tied weights",
    "autoencoder_greedy": "Stacked autoencoder, trained greedily layer by layer",
    "autoencoder_conv": "Convolutional autoencoder",
    "autoencoder_recurrent": "Recurrent autoencoder: LSTMs over the rows of an image",
    "autoencoder_denoising": "Denoising autoencoder: half of the pixels dropped out",
    "autoencoder_sparse_l1": "Sparse autoencoder with L1 regularization",
    "autoencoder_sparse_kl": "Sparse autoencoder with KL divergence from a target activity",
    "autoencoder_hashing": "Semantic hashing: codings of 16 bits",
    "autoencoder_digits": "Stacked autoencoder of scikit-learn's digits, without network",
}

BUSY = "2 cores of an Intel Xeon, beside other work"
RESULTS = [
    Result("autoencoder_linear", minutes=0.4, metrics={"epochs": 10, "val_loss": 0.0157}),
    Result(
        "autoencoder_stacked",
        minutes=1.1,
        metrics={"epochs": 20, "val_loss": 0.0129},
        reference={"val_loss": 0.0132},
    ),
    Result(
        "autoencoder_tied",
        minutes=0.6,
        metrics={"epochs": 10, "val_loss": 0.0129},
        reference={"val_loss": 0.0133},
    ),
    Result(
        "autoencoder_greedy",
        machine=BUSY,
        minutes=2.4,
        metrics={"epochs": 30, "val_loss": 0.0124},
        reference={"val_loss": 0.0133},
    ),
    Result(
        "autoencoder_conv",
        minutes=4.4,
        metrics={"epochs": 10, "val_loss": 0.0113},
        reference={"val_loss": 0.0121},
    ),
    Result(
        "autoencoder_recurrent",
        machine=BUSY,
        minutes=6.9,
        metrics={"epochs": 10, "val_loss": 0.0098},
        reference={"val_loss": 0.0104},
    ),
    Result(
        "autoencoder_denoising",
        minutes=0.6,
        metrics={"epochs": 10, "val_loss": 0.0159},
        reference={"val_loss": 0.0166},
        note="With 0.999 instead of 0.99 for Adam's `beta_2` it ends at 0.0168.",
    ),
    Result(
        "autoencoder_sparse_l1",
        minutes=0.7,
        metrics={"epochs": 10, "val_loss": 0.0109, "val_mean_activity": 0.026},
        reference={"val_loss": 0.0111},
    ),
    Result(
        "autoencoder_sparse_kl",
        minutes=0.8,
        metrics={"epochs": 10, "val_loss": 0.0086, "val_mean_activity": 0.101},
        reference={"val_loss": 0.0099, "target of the activity": 0.1},
    ),
    Result(
        "autoencoder_hashing",
        minutes=0.6,
        metrics={"epochs": 10, "val_loss": 0.0308},
        reference={"val_loss": 0.0345},
    ),
]
