"""Recipes of autoencoders (`models/autoencoders.py`) and of the variational one (`models/vae.py`)."""

import dataclasses
import functools
from typing import Literal

from homl_models.errors import UserError
from homl_models.recipes.images import GRID_COLUMNS, GeneratorRecipe, ImageRecipe
from homl_models.recipes.recipe import positive, rate


def unused(recipe, name, needed, idle):
    """Refuse a setting that was changed where it is `idle`: without what is `needed`."""
    usual = getattr(type(recipe), name)
    if idle and getattr(recipe, name) != usual:
        raise UserError(f"--{name.replace('_', '-')} has no effect without {needed}; leave it at {usual}")


@dataclasses.dataclass(frozen=True)
class Coding(ImageRecipe):
    """What all of them share: how codings and reconstructions are shown."""

    learning_rate: float = 2e-3
    map_size: int = 2000
    """Validation images whose codings are laid out by t-SNE in codings.png. 0: none."""
    beta_2 = 0.99  # 0.999 remembers too long for a few thousand steps: denoising ends at 0.0168 instead of 0.0159

    def __post_init__(self):
        super().__post_init__()
        if self.map_size < 0:
            raise UserError("--map-size must be 0 or more")

    def compile_kwargs(self):
        import keras

        return {"loss": "mse", "metrics": [keras.metrics.MeanSquaredError("mse")]} | super().compile_kwargs()

    def show(self, model, folder):
        """reconstructions.png and codings.png, and what they show."""
        from homl_models.training import reports

        images = model.checked_images(self.splits[1][0][:GRID_COLUMNS])
        reports.image_grid([images, model.reconstruct(images)], folder / "reconstructions.png")
        lines = ["reconstructions.png  validation images above what their codings decode to"]
        if self.map_size:
            images, labels = (x[: self.map_size] for x in self.splits[1])
            images = model.checked_images(images)
            how = reports.coding_map(model.codings(images), labels, images, folder / "codings.png", self.seed)
            lines.append(f"codings.png          codings of validation images in two dimensions, {how}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Autoencoder(Coding):
    """Those that reconstruct an image from its coding."""

    coding_size: int = 30
    """Numbers in a coding."""
    noise: Literal["none", "dropout", "gaussian"] = "none"
    """What spoils the images in training."""
    noise_amount: float = 0.5
    """Share of pixels that `dropout` blanks, or standard deviation of `gaussian` noise."""

    def __post_init__(self):
        super().__post_init__()
        positive(coding_size=self.coding_size)
        if self.noise == "dropout":
            rate(noise_amount=self.noise_amount)
        if self.noise_amount < 0:
            raise UserError("--noise-amount must be 0 or more")
        unused(self, "noise_amount", "--noise dropout or gaussian", self.noise == "none")

    def settings(self):
        """Arguments that all models take."""
        from homl_models.layers.dropout import Dropout
        from homl_models.layers.gaussian import GaussianNoise

        noise = {"none": None, "dropout": Dropout, "gaussian": GaussianNoise}[self.noise]
        settings = {"image_shape": self.image_shape, "coding_size": self.coding_size, "dtype": self.precision}
        return settings | {"noise": noise and noise(self.noise_amount, name="noise", dtype=self.precision)}

    def extra_metrics(self, model, images):
        import numpy as np

        return {"mean_activity": float(np.mean(model.codings(images)))}

    def show(self, model, folder):
        """As all do; excitement.png, and spoiled images if the model was trained on them."""
        import numpy as np

        from homl_models.training import reports

        text = super().show(model, folder)
        images = model.checked_images(self.splits[1][0])
        codings = model.codings(images)
        most = np.argsort(-codings[:, :GRID_COLUMNS], axis=0, kind="stable")[:GRID_COLUMNS].T
        reports.image_grid([images[row] for row in most], folder / "excitement.png")
        text += "\nexcitement.png       a row for each of the first units of the coding: what excites it most"
        if model.noise is not None:
            spoiled = np.asarray(model.noise(images[:GRID_COLUMNS], training=True))
            rows = [images[:GRID_COLUMNS], spoiled, model.decode_codings(model.predict_batched("encode", spoiled))]
            reports.image_grid(rows, folder / "denoised.png")
            text += "\ndenoised.png         images, the same spoiled, and what the model makes of those"
        return text


@dataclasses.dataclass(frozen=True)
class Stacked(_Autoencoder):
    """The book's autoencoder of dense layers (784, 100, 30, 100, 784) on Fashion MNIST.

    Measured: `python -m homl_models.train RECIPE`, 2 cores of an Intel Xeon; validation loss, beside the book's.
        autoencoder_linear      10 epochs, 0.4 minutes   0.0157
        autoencoder_stacked     20 epochs, 1.1 minutes   0.0129   0.0132
        autoencoder_tied        10 epochs, 0.6 minutes   0.0129   0.0133
        autoencoder_denoising   10 epochs, 0.6 minutes   0.0159   0.0166
        autoencoder_sparse_l1   10 epochs, 0.7 minutes   0.0109   0.0111   mean activity 0.026
        autoencoder_sparse_kl   10 epochs, 0.8 minutes   0.0086   0.0099   mean activity 0.101, the target 0.1
        autoencoder_hashing     10 epochs, 0.6 minutes   0.0308   0.0345
    """

    kind = "fit"
    hidden_units: tuple[int, ...] = (100,)
    """Units of the layers between image and coding."""
    activation: Literal["relu", "elu", "gelu", "silu", "tanh"] = "relu"
    """Of hidden layers."""
    coding_activation: Literal["relu", "sigmoid", "tanh", "linear"] = "relu"
    """Of the coding; `linear` for none."""
    tied: bool = False
    """Use the encoder's kernels in the decoder, transposed."""
    coding_noise: float = 0.0
    """Standard deviation of Gaussian noise before the coding layer, which makes sigmoid codings binary."""
    sparsity: Literal["none", "l1", "kl"] = "none"
    """Regularize the codings: their sum, or the divergence of each unit's mean activity from --sparsity-target."""
    sparsity_weight: float = 1e-4
    """Weight of the regularization."""
    sparsity_target: float = 0.1
    """Mean activity that `kl` aims at, in (0, 1)."""

    def __post_init__(self):
        super().__post_init__()
        for units in self.hidden_units:
            positive(hidden_units=units)
        if self.coding_noise < 0 or self.sparsity_weight < 0:
            raise UserError("--coding-noise and --sparsity-weight must be 0 or more")
        if not 0 < self.sparsity_target < 1:
            raise UserError(f"--sparsity-target must lie in (0, 1), not {self.sparsity_target}")
        unused(self, "sparsity_weight", "--sparsity l1 or kl", self.sparsity == "none")
        unused(self, "sparsity_target", "--sparsity kl", self.sparsity != "kl")

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
    """The stacked autoencoder trained one layer at a time, for an equal part of the epochs each, then as a whole.

    Measured: `python -m homl_models.train autoencoder_greedy`, 2 cores of an Intel Xeon, 30 epochs, 2.4 minutes beside
    other work; validation loss 0.0124, the book's 0.0133.
    """

    kind = "stages"

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
    """The book's convolutional autoencoder on Fashion MNIST.

    Measured: `python -m homl_models.train autoencoder_conv`, 2 cores of an Intel Xeon, 10 epochs, 4.4 minutes;
    validation loss 0.0113, the book's 0.0121.
    """

    kind = "fit"
    filters: tuple[int, ...] = (16, 32, 64)
    """Filters of the encoder's convolutions, each of which halves the image."""
    decoder_filters: tuple[int, ...] = (16, 32, 16)
    """Filters that the decoder starts with, and of its convolutions but the last."""
    convolutional = True

    def model(self):
        from homl_models.models.autoencoders import ConvAutoencoder

        filters = {"filters": tuple(self.filters), "decoder_filters": tuple(self.decoder_filters)}
        return self.compiled(ConvAutoencoder(**self.settings(), **filters))


@dataclasses.dataclass(frozen=True)
class Recurrent(_Autoencoder):
    """The book's recurrent autoencoder: LSTMs (100, 30, 100) over the rows of Fashion MNIST.

    Measured: `python -m homl_models.train autoencoder_recurrent`, 2 cores of an Intel Xeon, 10 epochs, 6.9 minutes
    beside other work; validation loss 0.0098, the book's 0.0104.
    """

    kind = "fit"
    units: int = 100
    """Units of the outer LSTMs."""

    def model(self):
        from homl_models.models.autoencoders import RecurrentAutoencoder

        return self.compiled(RecurrentAutoencoder(units=self.units, **self.settings()))


@dataclasses.dataclass(frozen=True)
class VAE(GeneratorRecipe, Coding):
    """The book's variational autoencoder (dense 150, 100, coding 10) on Fashion MNIST.

    Measured: `python -m homl_models.train RECIPE`, 2 cores of an Intel Xeon, 25 epochs; validation loss (the book's
    0.0311), ELBO of test images in nats (of a density with variance 1/2), and 10,000 drawn images against
    10,000 of the test part, by the preset fashion_features.
                                                 Fréchet   kernel  precision  recall  density  coverage  score
        vae       0.9 minutes  0.0306   -472.6   212.3     15.72   0.177      0.006   0.062    0.036     5.74
        vae_conv  9.6 minutes  0.0293   -471.6   193.6     14.12   0.222      0.011   0.092    0.077     6.11
        training images                          0.7      0.00   0.923      0.923   1.007    0.966     9.04
        noise                                    656.3    140.61   0.000      0.000   0.000    0.000     1.36
    (vae_conv beside other work.)
    """

    kind = "draws"
    epochs: int = 25
    batch_size: int = 128
    coding_size: int = 10
    """Numbers in a coding."""
    hidden_units: tuple[int, ...] = (150, 100)
    """Units of the encoder's dense layers; the decoder has them in reverse."""
    filters: tuple[int, ...] = ()
    """Filters of convolutions before them, each of which halves the image. Empty: none."""
    activation: Literal["relu", "elu", "gelu", "silu", "tanh"] = "relu"
    """Of hidden layers."""
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """`gaussian` for squared errors, `bernoulli` for cross-entropy."""
    beta: float = 1.0
    """Weight of the KL divergence in the loss; 1 for the evidence lower bound."""

    def __post_init__(self):
        super().__post_init__()
        positive(coding_size=self.coding_size)
        for units in self.hidden_units:
            positive(hidden_units=units)
        for filters in self.filters:
            positive(filters=filters)
        if self.beta < 0:
            raise UserError("--beta must be 0 or more")

    @property
    def convolutional(self):
        return bool(self.filters)

    def compile_kwargs(self):
        return ImageRecipe.compile_kwargs(self)  # the loss is the model's own

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
        """As all do; samples.png and interpolation.png."""
        import numpy as np

        from homl_models.training import reports

        text = super().show(model, folder)
        samples = model.sample(64, self.seed)
        reports.image_grid(samples.reshape(8, 8, *samples.shape[1:]), folder / "samples.png")
        first = [images[: 2 * 6] for images, _ in self.splits[1:]]  # of 10 images validation has one
        images = model.checked_images(np.concatenate(first)[: 2 * 6])
        rows = [model.interpolate(images[i : i + 2], GRID_COLUMNS) for i in range(0, len(images) - 1, 2)]
        reports.image_grid(rows, folder / "interpolation.png")
        text += "\nsamples.png          new images, from codings drawn at random"
        return text + "\ninterpolation.png    from a validation image to another, in equal steps between codings"


SPARSE = {"coding_size": 300, "coding_activation": "sigmoid"}
DIGITS = {"data": "digits", "epochs": 50}
TINY = {"data": "digits", "epochs": 2, "batch_size": 64, "num_images": 320, "steps_per_execution": 1, "map_size": 0}

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
    "vae": VAE(),
    "vae_conv": VAE(filters=(32, 64), hidden_units=(128,)),
    "vae_digits": VAE(**DIGITS | {"epochs": 100, "batch_size": 32}, beta=0.1),
    "autoencoder_tiny": Stacked(**TINY, hidden_units=(20,), coding_size=8, tied=True, noise="gaussian", sparsity="l1"),
    "autoencoder_greedy_tiny": Greedy(**TINY | {"epochs": 3}, hidden_units=(20,), coding_size=8, coding_noise=1.0),
    "autoencoder_conv_tiny": Conv(**TINY, filters=(4, 8), decoder_filters=(8, 4), coding_size=6, noise="dropout"),
    "autoencoder_recurrent_tiny": Recurrent(**TINY, units=12, coding_size=6),
    "vae_tiny": VAE(**TINY | {"map_size": 60}, filters=(4,), hidden_units=(20,), coding_size=4),
}
