"""Recipes of models that sample images: conditioning on classes, evaluation of samples, grids of them."""

import dataclasses
import math
from typing import ClassVar

from homl_models.errors import UserError
from homl_models.recipes.images import GRID_COLUMNS, MAX_CLASSES_SHOWN, ImageRecipe, listed

MIN_SAMPLES = 100  # images, real and generated, that metrics are computed of


@dataclasses.dataclass(frozen=True)
class GeneratorRecipe(ImageRecipe):
    """A recipe of a model with `sample(count, seed)`."""

    conditional: ClassVar[bool] = False  # whether the model is trained on pairs (images, labels)

    def batches(self, split, batch_size, seed=None):
        from homl_models.pipelines.random_access import RandomAccessDataset

        pairs = super().batches(split, batch_size, seed)
        return RandomAccessDataset(lambda step: (pairs.batch(step),), pairs.steps) if self.conditional else pairs

    def targets(self, split):
        return split[1] if self.conditional else None

    # Sampling.

    def sample_images(self, model, count, labels=None):
        """New images (count, ...), and the labels (count,) that they were sampled for, or None.

        labels: of a conditional model; by default all classes in turn.
        """
        return model.sample(count, self.seed), None

    def sample_grid(self, model):
        """New images (rows, columns, ...): a class in each column, 20 at most; 8 by 8 without classes."""
        import numpy as np

        if not self.conditional:
            images = self.sample_images(model, 64)[0]
            return images.reshape(8, 8, *images.shape[1:])
        classes = min(model.num_classes, MAX_CLASSES_SHOWN)
        images = self.sample_images(model, GRID_COLUMNS * classes, np.tile(np.arange(classes), GRID_COLUMNS))[0]
        return images.reshape(GRID_COLUMNS, classes, *images.shape[1:])

    def sample_grid_legend(self, model):
        """The classes of the columns of `sample_grid`, in words."""
        return "a class in each column: " + listed(model.class_names or tuple(map(str, range(model.num_classes))))

    # Evaluation.

    @property
    def feature_preset(self):
        """The preset whose features compare samples with real images, or ""."""
        book = self.data == "fashion_mnist" and not self.images and not self.source.startswith("tfds:")
        return "fashion_features" if book else ""

    def reset_sampling_seed(self, model):
        """Reset the model's random numbers, so that every evaluation has the same."""

    def evaluate(self, model, images="", features="", count=10_000):
        """Loss and metrics on validation and test images, or on `images`, a folder or file of yours.

        Then metrics of new images against `count` of the test images (or of `images`), chosen at random by the run's
        seed. They are compared by the network `features`, a run or preset of a feature network; by default the preset
        fashion_features for models of Fashion MNIST. Without one they are compared by their pixels: precision, recall,
        density and coverage. Random numbers are the same every time.
        """
        self.reset_sampling_seed(model)
        splits = self.evaluation_splits(model, images)
        metrics = self.loss_and_metrics(model, splits)
        real = self.evaluation_subset(list(splits.values())[-1][0], count)
        return metrics | self.sample_metrics(model, real, features or self.feature_preset)

    def evaluation_subset(self, images, count):
        """`count` of the images (n, ...), in their order, chosen at random by the seed; all where there are no more."""
        import numpy as np

        if count < 0:
            raise UserError(f"--count must be 0 or more, not {count}")
        if count >= len(images):
            return images
        return images[np.sort(np.random.default_rng(self.seed).permutation(len(images))[:count])]

    def sample_metrics(self, model, real, features=""):
        """`GeneratorEvaluation` of as many samples as there are real images; its baselines, if by a network.

        {} for fewer than 100 real images without a network.
        """
        import numpy as np

        from homl_models.generator_evaluation import GeneratorEvaluation

        network, count = features and load_feature_network(features, model.image_shape), len(real)
        if count < MIN_SAMPLES and not network:
            return {}
        if count < MIN_SAMPLES:
            raise UserError(f"{count} images are too few to measure generation by; give {MIN_SAMPLES} at least")
        evaluation = GeneratorEvaluation(real, network or None)
        metrics = evaluation(*self.sample_images(model, count))
        if not network:
            return metrics
        rng, train = np.random.default_rng(self.seed), self.splits[0][0]
        train = train[rng.choice(len(train), count, replace=count > len(train))]
        return metrics | evaluation.baselines(train, rng.uniform(size=real.shape))


def load_feature_network(run_or_preset, image_shape):
    """A `FeatureNet` for images of as many pixels; `UserError` for anything else."""
    from homl_models import loading
    from homl_models.models.feature_net import FeatureNet

    network = loading.load(run_or_preset)
    if not isinstance(network, FeatureNet):
        raise UserError(f"{run_or_preset} is no run of a feature network, as fashion_features trains one")
    if math.prod(network.image_shape) != math.prod(image_shape):
        raise UserError(f"{run_or_preset} is for images of {network.image_shape}, the model samples {image_shape}")
    return network
