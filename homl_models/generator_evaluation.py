"""Evaluation of image generators: metrics of generated images against real ones.

`GeneratorEvaluation` is what `evaluate` reports and what training monitors; the metrics themselves are in `metrics.py`.
Shapes: n images, d features.
"""

import numpy as np

from homl_models import metrics

MONITORED_NEIGHBOURS = 500  # images whose coverage is computed in `monitor`


class GeneratorEvaluation:
    """Metrics of generated images against real ones, by the features of a network or by pixels.

    Features are divided by their standard deviation among the real images; those that are constant there are left out.
    Distances shrink as the number of images grows: compare figures from the same numbers only.

    Args:
        real: real images (n, ...), bytes or floats in [0, 1]; more than 5, better 10,000.
        network: a `FeatureNet`; None to compare pixels, and then by precision, recall, density and coverage alone.
    """

    def __init__(self, real, network=None):
        self.network = network
        features, _ = self._extract(real)
        self._varying, self._scale = slice(None), 1.0
        if network:
            deviation = features.std(0)
            self._varying = deviation > 1e-6
            self._scale = deviation[self._varying]
        self.real = self._scaled(features)

    def __call__(self, images, labels=None):
        """All metrics of generated images (n, ...): {name: value}.

        With a network: `metrics.generation_metrics` and class_fraction_0, class_fraction_1, ... of the classes that it
        predicts. labels: (n,) of the classes that the images were generated for, if any; then also label_agreement, the
        fraction of images whose predicted class is that.
        """
        features, probabilities = self.features_and_probabilities(images)
        if probabilities is None:
            return metrics.prdc(self.real, features)
        found = metrics.generation_metrics(self.real, features, probabilities)
        if labels is not None:
            found["label_agreement"] = float(np.mean(probabilities.argmax(1) == labels))
        fractions = metrics.class_fractions(probabilities)
        return found | {f"class_fraction_{label}": float(fraction) for label, fraction in enumerate(fractions)}

    def baselines(self, training_images, noise):
        """Metrics of training images, NAME_floor, and of noise, NAME_noise, which no generator should pass."""
        found = {}
        for suffix, images in (("floor", training_images), ("noise", noise)):
            values = metrics.generation_metrics(self.real, *self.features_and_probabilities(images))
            found |= {f"{name}_{suffix}": value for name, value in values.items()}
        return found

    def monitor(self, images):
        """Metrics of generated images (n, ...) that are cheap enough for every epoch: {name: value}.

        Coverage, of the first 500 images; with a network also the Fréchet distance and the fractions of the largest and
        of the smallest predicted class.
        """
        features, probabilities = self.features_and_probabilities(images)
        near = metrics.prdc(self.real[:MONITORED_NEIGHBOURS], features[:MONITORED_NEIGHBOURS])
        if probabilities is None:
            return {"coverage": near["coverage"]}
        fractions = metrics.class_fractions(probabilities)
        return {
            "frechet_distance": metrics.frechet_distance(self.real, features),
            "coverage": near["coverage"],
            "largest_class_fraction": float(fractions.max()),
            "smallest_class_fraction": float(fractions.min()),
        }

    def features_and_probabilities(self, images):
        """Images (n, ...) -> scaled features (n, d) and p(class) (n, classes), which is None without a network."""
        features, probabilities = self._extract(images)
        return self._scaled(features), probabilities

    def _extract(self, images):
        if self.network:
            return self.network.features_and_probabilities(images.reshape(-1, *self.network.image_shape))
        pixels = images.reshape(len(images), -1)
        return np.float32(pixels / 255 if pixels.dtype == np.uint8 else pixels), None

    def _scaled(self, features):
        return features[:, self._varying] / self._scale
