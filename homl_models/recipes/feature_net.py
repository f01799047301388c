"""Recipes of the classifier whose features judge generated pictures (`models/feature_net.py`)."""

import dataclasses

from homl_models.recipes.pictures import SHOWN, Pictures
from homl_models.recipes.recipe import positive, rate

FASHION = "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"


@dataclasses.dataclass(frozen=True)
class Features(Pictures):
    """A convolutional classifier of Fashion MNIST, whose features measure how good generated pictures are."""

    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 2e-3
    filters: tuple[int, ...] = (32, 64)
    """Filters of the pairs of convolutions, each of which halves the picture."""
    dim: int = 128
    """Number of features."""
    dropout: float = 0.3
    """Dropout rate after each pair and on the features."""

    def __post_init__(self):
        super().__post_init__()
        positive(dim=self.dim)
        rate(dropout=self.dropout)

    def targets(self, part):
        return part[1]

    def objective(self):
        import keras

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": ["accuracy"]} | super().objective()

    def model(self):
        from homl_models.models.feature_net import FeatureNet

        classes = int(self.parts[0][1].max()) + 1
        model = FeatureNet(
            classes,
            tuple(self.filters),
            self.dim,
            self.dropout,
            image_shape=self.image_shape,
            dtype=self.precision,
        )
        return self.compiled(model)

    def show(self, model, folder):
        """mistakes.png, and how much of each class of the test part is recognized."""
        import numpy as np

        from homl_models import reports

        images, labels = self.parts[2]
        found = model.judged(images)[1].argmax(1)
        rows = []
        for label in np.unique(labels):
            share = np.mean(found[labels == label] == label)
            name = FASHION[label] if self.data == "fashion_mnist" and not self.images else str(label)
            rows.append(f"{name:12} {100 * share:5.1f} %")
        wrong = model.checked(images[found != labels][: SHOWN * SHOWN])
        if len(wrong):
            reports.picture([wrong[i : i + SHOWN] for i in range(0, len(wrong), SHOWN)], folder / "mistakes.png")
            rows.append("mistakes.png  test pictures that are taken for something else")
        return "\n".join(rows)


RECIPES = {
    "fashion_features": Features(monitor="val_accuracy", monitor_mode="max"),
    "features_tiny": Features(
        data="digits", epochs=2, num_images=320, steps_per_execution=1, filters=(4, 8), dim=16, dropout=0.1
    ),
}
