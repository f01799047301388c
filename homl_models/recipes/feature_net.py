"""Recipes of classifiers with features (`models/feature_net.py`): to judge generated images, to need few labels."""

import dataclasses
import functools
from typing import Literal

from homl_models.errors import UserError
from homl_models.recipes import autoencoders, vae
from homl_models.recipes.images import GRID_COLUMNS, ImageRecipe
from homl_models.recipes.recipe import positive, rate


@dataclasses.dataclass(frozen=True)
class _Classifier(ImageRecipe):
    """What both share: labels as targets, and how mistakes are shown."""

    def targets(self, part):
        return part[1]

    def compile_kwargs(self):
        import keras

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": ["accuracy"]} | super().compile_kwargs()

    def show(self, model, folder):
        """mistakes.png, and how much of each class of the test part is recognized."""
        import numpy as np

        from homl_models.training import reports

        images, labels = self.splits[2]
        found = model.features_and_probabilities(images)[1].argmax(1)
        rows = []
        for label in np.unique(labels):
            share = np.mean(found[labels == label] == label)
            name = model.class_names[label] if model.class_names else str(label)
            rows.append(f"{name:12} {100 * share:5.1f} %")
        wrong = model.checked_images(images[found != labels][: GRID_COLUMNS * GRID_COLUMNS])
        if len(wrong):
            reports.image_grid(
                [wrong[i : i + GRID_COLUMNS] for i in range(0, len(wrong), GRID_COLUMNS)], folder / "mistakes.png"
            )
            rows.append("mistakes.png  test images that are taken for something else")
        return "\n".join(rows)


@dataclasses.dataclass(frozen=True)
class Features(_Classifier):
    """A convolutional classifier of Fashion MNIST, whose features measure how good generated images are.

    Measured: `python -m homl_models.train fashion_features`, 2 cores of an Intel Xeon, 12 epochs, 16.5 minutes beside
    other work; test accuracy 93.38 %, validation accuracy 94.00 %. By `python -m homl_models.pack runs/fashion_features
    fashion_features` it became the preset, whose weights.npz (0.9 MB) has the sha256
    3cd33a27ca543759f1fcaf84b7b9920b14c167e2482a8514916855f98ffdd3b9.
    """

    kind = "fit"
    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 2e-3
    monitor: str = "val_accuracy"
    monitor_mode: Literal["min", "max"] = "max"
    filters: tuple[int, ...] = (32, 64)
    """Filters of the pairs of convolutions, each of which halves the image."""
    dim: int = 128
    """Number of features."""
    dropout: float = 0.3
    """Dropout rate after each pair and on the features."""
    convolutional = True

    def __post_init__(self):
        super().__post_init__()
        positive(dim=self.dim)
        for filters in self.filters:
            positive(filters=filters)
        rate(dropout=self.dropout)

    def model(self):
        from homl_models.models.feature_net import FeatureNet

        model = FeatureNet(
            tuple(self.filters),
            self.dim,
            self.dropout,
            num_classes=self.num_classes,
            class_names=self.class_names,
            image_shape=self.image_shape,
            dtype=self.precision,
        )
        return self.compiled(model)


@dataclasses.dataclass(frozen=True)
class FewLabels(_Classifier):
    """A classifier of few labelled images, on the encoder of an autoencoder (exercise 10 of chapter 17).

    Measured: 500 labels, 2 cores of an Intel Xeon, about a minute each; mean and spread of the test accuracy
    over `--seed` 0 to 4, which also draw the labelled images.
        `train fashion_few_labels`                                                   77.3 % +- 0.7
        `--encoder runs/autoencoder_conv`                                            80.8 % +- 0.7
        `--encoder runs/autoencoder_conv --frozen --learning-rate 0.01 --dropout 0`  78.8 % +- 0.3
    """

    kind = "fit"
    epochs: int = 100
    monitor: str = ""
    num_labels: int = 500
    """Labelled images to train on, at most, drawn by --seed."""
    encoder: str = "autoencoder_conv"
    """An autoencoder's run, for what it has learnt without labels; or a recipe's name, to start from nothing."""
    frozen: bool = False
    """Leave the encoder as it is and train only the layer of classes."""
    dropout: float = 0.3
    """Dropout rate on the codings."""
    steps_per_execution: int = 1

    def __post_init__(self):
        super().__post_init__()
        positive(num_labels=self.num_labels)
        rate(dropout=self.dropout)

    @functools.cached_property
    def splits(self):
        """As of all, the training part with as many labels as wanted."""
        import numpy as np

        train, valid, test = super().splits
        chosen = np.random.default_rng(self.seed).permutation(len(train[0]))[: self.num_labels]
        return tuple(x[chosen] for x in train), valid, test

    def model(self):
        from homl_models.models.feature_net import EncoderClassifier

        model = EncoderClassifier(
            self.coder(),
            self.frozen,
            num_classes=self.num_classes,
            class_names=self.class_names,
            dropout=self.dropout,
            image_shape=self.image_shape,
            dtype=self.precision,
        )
        return self.compiled(model)

    def coder(self):
        """The autoencoder whose encoder is to be used, new or trained."""
        from homl_models import loading
        from homl_models.models.autoencoders import CodingModel

        recipes = autoencoders.RECIPES | vae.RECIPES
        if self.encoder in recipes:
            data = {name: getattr(self, name) for name in ("data", "images", "size", "channels", "precision")}
            return dataclasses.replace(recipes[self.encoder], **data).model()
        if isinstance(coder := loading.load(self.encoder), CodingModel):
            return coder
        raise UserError(f"{self.encoder} is no autoencoder; name a recipe of one, or the folder of its run")


RECIPES = {
    "fashion_features": Features(),
    "fashion_few_labels": FewLabels(),
    "features_tiny": Features(
        data="digits", epochs=2, num_images=320, steps_per_execution=1, filters=(4, 8), dim=16, dropout=0.1
    ),
    "few_labels_tiny": FewLabels(
        data="digits", epochs=2, learning_rate=0.01, num_labels=320, encoder="autoencoder_tiny"
    ),
}
