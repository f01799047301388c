"""`GeneratorEvaluation`: by the features of a network, by pixels, with labels, for every epoch."""

import numpy as np
import prdc
import pytest
from sklearn.datasets import load_digits

from homl_models import metrics
from homl_models.generator_evaluation import GeneratorEvaluation

DATA = load_digits()
DIGITS, LABELS = np.float32(DATA.images / 16), DATA.target
REAL, FAKE = DIGITS[:300], np.clip(DIGITS[300:700] + 0.05, 0, 1)


class Network:
    """Features in units of their own, the last of them constant; the class is the label of the nearest digit."""

    image_shape = (8, 8)

    def features_and_probabilities(self, images):
        flat = images.reshape(len(images), 64)
        nearest = np.square(flat[:, None] - DIGITS.reshape(1, -1, 64)).sum(-1).argmin(1)
        features = np.stack([flat.sum(1), 100 * flat[:, 20], flat[:, 30], np.ones(len(flat))], axis=1)
        return np.float32(features), np.eye(10)[LABELS[nearest]]


@pytest.fixture(scope="module")
def evaluation():
    return GeneratorEvaluation(REAL, Network())


def scaled(images):
    features = np.float64(Network().features_and_probabilities(images)[0])[:, :3]
    return features / np.float64(Network().features_and_probabilities(REAL)[0])[:, :3].std(0)


def test_features_are_scaled_by_the_real_images_and_constant_ones_left_out(evaluation):
    probabilities = Network().features_and_probabilities(FAKE)[1]
    expected = metrics.generation_metrics(scaled(REAL), scaled(FAKE), probabilities)
    found = evaluation(FAKE)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    fractions = np.bincount(probabilities.argmax(1), minlength=10) / len(FAKE)
    assert [found[f"class_fraction_{label}"] for label in range(10)] == pytest.approx(fractions)
    assert "label_agreement" not in found


def test_labels_agree_with_the_predicted_classes(evaluation):
    """A quarter of the labels is wrong."""
    labels = Network().features_and_probabilities(FAKE)[1].argmax(1)
    labels[::4] = (labels[::4] + 1) % 10
    assert evaluation(FAKE, labels)["label_agreement"] == 0.75


def test_baselines_lie_on_both_sides(evaluation):
    noise = np.random.default_rng(0).uniform(size=REAL.shape)
    baselines = evaluation.baselines(DIGITS[700:1000], noise)
    found = evaluation(FAKE)["frechet_distance"]
    assert baselines["frechet_distance_floor"] < found < baselines["frechet_distance_noise"]
    assert len(baselines) == 2 * len(metrics.generation_metrics(scaled(REAL), scaled(REAL), np.eye(10)))


def test_every_epoch_has_the_same_distance_and_the_extreme_classes(evaluation):
    found, whole = evaluation.monitor(FAKE), evaluation(FAKE)
    fractions = [whole[f"class_fraction_{label}"] for label in range(10)]
    assert found == {
        "frechet_distance": whole["frechet_distance"],
        "coverage": whole["coverage"],
        "largest_class_fraction": max(fractions),
        "smallest_class_fraction": min(fractions),
    }


@pytest.mark.parametrize("scale", [1, 255])
def test_without_a_network_pixels_are_compared_unscaled(scale):
    """Of bytes as of floats in [0, 1]."""
    real = REAL if scale == 1 else np.uint8(np.round(REAL * 255))
    flat = [np.float64(np.float32(x / y)).reshape(len(x), 64) for x, y in ((real, scale), (FAKE, 1))]
    expected = prdc.compute_prdc(*flat, nearest_k=5)
    found = GeneratorEvaluation(real)
    assert found(FAKE) == pytest.approx(expected)
    assert found.monitor(FAKE) == {"coverage": pytest.approx(expected["coverage"])}
