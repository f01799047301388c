"""Recipes of image classifiers (`models/feature_net.py`): features for evaluation, and learning from few labels."""

import dataclasses
import functools
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes import autoencoders, vae
from homl_models.recipes.images import GRID_COLUMNS, ImageRecipe
from homl_models.recipes.recipe import positive, rate
from homl_models.recipes.results import Result


@dataclasses.dataclass(frozen=True)
class _Classifier(ImageRecipe):
    """Base class: labels as targets, cross-entropy, accuracy by class."""

    def targets(self, split):
        return split[1]

    def compile_kwargs(self):
        import keras

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": ["accuracy"]} | super().compile_kwargs()

    def show(self, model, folder):
        """Write mistakes.png; return the accuracy on the test images of each class."""
        import numpy as np

        from homl_models.training import reports

        images, labels = self.splits[2]
        predicted = model.features_and_probabilities(images)[1].argmax(1)
        lines = []
        for label in np.unique(labels):
            accuracy = np.mean(predicted[labels == label] == label)
            name = model.class_names[label] if model.class_names else str(label)
            lines.append(f"{name:12} {100 * accuracy:5.1f} %")
        wrong = model.checked_images(images[predicted != labels][: GRID_COLUMNS**2])
        if len(wrong):
            rows = [wrong[i : i + GRID_COLUMNS] for i in range(0, len(wrong), GRID_COLUMNS)]
            reports.image_grid(rows, folder / "mistakes.png")
            lines.append("mistakes.png  misclassified test images")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Features(_Classifier):
    """A convolutional classifier of Fashion MNIST, whose features compare generated with real images.

    `evaluate` of generators takes its run, or the preset fashion_features.
    """

    kind: ClassVar[str] = "fit"
    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 2e-3
    monitor: str = "val_accuracy"
    monitor_mode: Literal["min", "max"] = "max"
    filters: tuple[int, ...] = (32, 64)
    """Filters of the pairs of convolutions, each followed by 2x2 pooling."""
    dim: int = 128
    """Number of features."""
    dropout: float = 0.3
    """Dropout rate after each pair and on the features."""
    convolutional: ClassVar[bool] = True

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

    --encoder is the run of an autoencoder that was trained without labels, or a recipe's name to train from scratch.
    """

    kind: ClassVar[str] = "fit"
    epochs: int = 100
    monitor: str = ""
    num_labels: int = 500
    """Labelled training images, at most, chosen at random by --seed."""
    encoder: str = "autoencoder_conv"
    """The run of an autoencoder, for pretrained weights; or the name of its recipe, for new ones."""
    frozen: bool = False
    """Do not train the encoder, only the classification layer."""
    dropout: float = 0.3
    """Dropout rate on the codings."""
    steps_per_execution: int = 1

    def __post_init__(self):
        super().__post_init__()
        positive(num_labels=self.num_labels)
        rate(dropout=self.dropout)

    @functools.cached_property
    def splits(self):
        """Training, validation and test split; --num-labels of the training images."""
        import numpy as np

        train, valid, test = super().splits
        chosen = np.random.default_rng(self.seed).permutation(len(train[0]))[: self.num_labels]
        return tuple(x[chosen] for x in train), valid, test

    def model(self):
        from homl_models.models.feature_net import EncoderClassifier

        model = EncoderClassifier(
            self.autoencoder(),
            self.frozen,
            num_classes=self.num_classes,
            class_names=self.class_names,
            dropout=self.dropout,
            image_shape=self.image_shape,
            dtype=self.precision,
        )
        return self.compiled(model)

    def autoencoder(self):
        """The autoencoder whose encoder is used, new or trained."""
        from homl_models import loading
        from homl_models.models.autoencoders import CodingModel

        recipes = autoencoders.RECIPES | vae.RECIPES
        if self.encoder in recipes:
            data = {name: getattr(self, name) for name in ("data", "source", "images", "size", "channels", "precision")}
            return dataclasses.replace(recipes[self.encoder], **data).model()
        if isinstance(model := loading.load(self.encoder), CodingModel):
            return model
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

SUMMARIES = {
    "fashion_features": "Convolutional classifier; its features compare generated with real images",
    "fashion_few_labels": "Classifier of 500 labelled images on the encoder of an autoencoder",
}

FEW = {"machine": "2 cores of an Intel Xeon", "minutes": 1}
SEEDS = "Mean and spread of the test accuracy over `--seed` 0 to 4, which also choose the labelled images; 500 labels."
RESULTS = [
    Result(
        "fashion_features",
        machine="2 cores of an Intel Xeon, beside other work",
        minutes=16.5,
        metrics={"test_accuracy": 0.9338, "val_accuracy": 0.94},
        note="""12 epochs. By `python -m homl_models.pack runs/fashion_features fashion_features` it became the preset,
whose weights.npz (0.9 MB) has the sha256 3cd33a27ca543759f1fcaf84b7b9920b14c167e2482a8514916855f98ffdd3b9.""",
    ),
    Result("fashion_few_labels", metrics={"test_accuracy": "77.3 % +- 0.7"}, note=SEEDS, **FEW),
    Result(
        "fashion_few_labels",
        "fashion_few_labels --encoder runs/autoencoder_conv",
        metrics={"test_accuracy": "80.8 % +- 0.7"},
        note=SEEDS,
        **FEW,
    ),
    Result(
        "fashion_few_labels",
        "fashion_few_labels --encoder runs/autoencoder_conv --frozen --learning-rate 0.01 --dropout 0",
        metrics={"test_accuracy": "78.8 % +- 0.3"},
        note=SEEDS,
        **FEW,
    ),
]
