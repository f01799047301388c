"""Recipe of image classification with BEiT (`models/beit.py`), from pre-training or from scratch."""

import dataclasses
import functools
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.beit import TINY, ImageTransformer, with_channels, without_grey_channel
from homl_models.recipes.images import GRID_COLUMNS
from homl_models.recipes.recipe import rate
from homl_models.recipes.results import Result
from homl_models.recipes.vision_transformer import FineTunedTransformer


@dataclasses.dataclass(frozen=True)
class BeitClassify(FineTunedTransformer, ImageTransformer):
    """BEiT as a classifier of images, whose classes are folders; their names are kept in the model.

    --start is a run of `beit_pretrain`, or a Hugging Face folder of BEiT.
    """

    kind: ClassVar[str] = "layerwise"
    epochs: int = 60
    learning_rate: float = 1e-3
    monitor: str = "val_accuracy"
    monitor_mode: Literal["min", "max"] = "max"
    num_labels: int = 0
    """Labelled training images, at most, chosen at random by --seed, of each class in proportion. 0: all."""
    num_ops: int = 2
    """Operations of RandAugment on each image; with them there is no --color-jitter."""
    magnitude: float = 9.0
    """Their magnitude, 0 to 10."""
    mixup: float = 0.8
    """Alpha of MixUp; 0: none."""
    cutmix: float = 1.0
    """Alpha of CutMix; 0: none. With both, a batch has one of them."""
    erasing: float = 0.25
    """Probability to fill a box of an image with noise."""
    label_smoothing: float = 0.1
    """Probability that is spread over all classes."""

    def __post_init__(self):
        super().__post_init__()
        rate(label_smoothing=self.label_smoothing)
        if self.num_labels < 0:
            raise UserError("--num-labels must be 0 or more")

    # Data.

    @functools.cached_property
    def splits(self):
        """Training split as it is, or --num-labels of it; validation and test split at the size of the model."""
        from homl_models.pipelines import labelled_images

        train, valid, test = super().splits
        if self.num_labels:
            train = labelled_images.few(*train, self.num_labels, self.seed)
        return train, self.fitted(valid), self.fitted(test)

    def fitted(self, split):
        """A split (images, labels) at the size of the model."""
        from homl_models.pipelines.image_augmentation import center_crops
        from homl_models.pipelines.image_batches import to_bytes

        grey = self.channels == 1
        images = [to_bytes(image[..., 0] if grey else image) for image in split[0]]
        return with_channels(center_crops(images, (self.size, self.size))), split[1]

    def targets(self, split):
        return split[1]

    def datasets(self):
        from homl_models.pipelines import labelled_images
        from homl_models.pipelines.batch_augmentation import BatchAugmentation

        colors = {"num_ops": self.num_ops, "magnitude": self.magnitude}
        colors["color_jitter"] = 0.0 if self.num_ops else self.color_jitter
        train = labelled_images.batches(
            *self.splits[0],
            self.batch_size,
            self.num_classes,
            self.seed,
            self.augmentation(**colors),
            BatchAugmentation(self.mixup, self.cutmix, self.erasing),
            self.label_smoothing,
        )
        return train, super().datasets()[1]

    def model(self):
        from homl_models.models.beit import BeitForImageClassification

        names = {"num_labels": self.num_classes, "labels": self.class_names}
        return self.compiled(self.head(BeitForImageClassification, names))

    # Evaluation.

    def evaluation_splits(self, model, images):
        from homl_models.pipelines import images as pipeline

        if not images:
            return {"val_": self.splits[1], "test_": self.splits[2]}
        data = pipeline.read(images, None if images.endswith(".npz") else (self.size, self.size), self.channels)
        data = pipeline.match_labels(data, model.labels, model.num_labels, images)
        return {"": self.fitted((with_channels(data.images), data.labels))}

    def show(self, model, folder):
        """Write mistakes.png; return the accuracy on the test images of each class."""
        import numpy as np

        from homl_models.training import reports

        images, labels = self.splits[2]
        predicted = model.classify(images)[1].argmax(1)
        lines = [
            f"{model.label_names[label]:12} {100 * np.mean(predicted[labels == label] == label):5.1f} %"
            for label in np.unique(labels)
        ]
        if len(wrong := images[predicted != labels][: GRID_COLUMNS**2] / 255):
            rows = [wrong[i : i + GRID_COLUMNS] for i in range(0, len(wrong), GRID_COLUMNS)]
            reports.image_grid(without_grey_channel(rows), folder / "mistakes.png")
            lines.append("mistakes.png  misclassified test images")
        return "\n".join(lines)


RECIPES = {
    "beit_classify": BeitClassify(),
    "beit_classify_tiny": BeitClassify(**TINY, num_images=64, num_labels=48),
}
SUMMARIES = {"beit_classify": "BEiT as a classifier of images, from pre-training or from scratch"}
CLOTHES = "--images clothing128 --stored-size 128"
RESULTS = [
    Result(
        "beit_classify",
        f"beit_classify {CLOTHES} --start runs/beit_pretrain --epochs 10",
        "1 core of an Intel Xeon, beside other work",
        10,
        {"test_accuracy": 0.373},
        {"test_accuracy of the most frequent class": 0.238, "test_accuracy from scratch": 0.348},
        """2,762 photographs for training, 306 for validation, 341 for the test. Seeds 0 to 3: 39.3, 35.2, 38.1, 36.7 %;
the first without layer decay (`--layer-decay 1`) 37.0. From scratch, after six times as many epochs (the next row):
35.8, 33.7, 37.0, 32.8 with the same seeds, so that pre-training is ahead in each pair, by 2.5 points on average. With
the 100 epochs of pre-training it had more steps altogether; from scratch with as many steps was not measured. Both are
far from done: under MixUp, CutMix and RandAugment the training accuracy is 34 to 36 %.""",
    ),
    Result(
        "beit_classify",
        f"beit_classify {CLOTHES} --layer-decay 1",
        "one NVIDIA H200 on JAX, with 13 other trainings on its 16 cores",
        6.4,
        {"test_accuracy": 0.348},
        {"test_accuracy of the most frequent class": 0.238},
        "From scratch, 60 epochs, seeds 0 to 4: 35.8, 33.7, 37.0, 32.8, 34.6 %.",
    ),
]
