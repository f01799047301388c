"""Metrics of generated images, against closed forms, other packages, and a ladder of ever worse samples."""

import contextlib
import io

import numpy as np
import prdc
import pytest
import scipy.linalg
from sklearn.datasets import load_digits
from sklearn.metrics.pairwise import polynomial_kernel

import homl_models
from homl_models import metrics
from homl_models.pipelines import image_datasets
from tests import checks

RNG = np.random.default_rng(0)
DIGITS = load_digits().data / 16
REAL, FAKE = DIGITS[::2], np.clip(DIGITS[1::2] + RNG.normal(0, 0.1, (898, 64)), 0, 1)


def test_frechet_distance_is_that_of_the_paper():
    """By scipy's matrix square root."""
    projection = RNG.normal(size=(64, 20))  # some pixels are always 0: their covariance has no root
    real, fake = REAL @ projection, FAKE @ projection
    c1, c2 = np.cov(real.T), np.cov(fake.T)
    root = scipy.linalg.sqrtm(c1 @ c2).real
    expected = np.square(real.mean(0) - fake.mean(0)).sum() + np.trace(c1 + c2 - 2 * root)
    assert metrics.frechet_distance(real, fake) == pytest.approx(expected, rel=1e-6)
    assert metrics.frechet_distance(fake, real) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_normal_samples_is_the_closed_form():
    """Of axis-aligned normals: the sum of (m1 - m2)^2 + (s1 - s2)^2."""
    m1, m2, s1, s2 = RNG.normal(size=(2, 5)).tolist() + RNG.uniform(0.5, 2, (2, 5)).tolist()
    samples = [RNG.normal(m, s, (200_000, 5)) for m, s in ((m1, s1), (m2, s2))]
    expected = np.square(np.subtract(m1, m2)).sum() + np.square(np.subtract(s1, s2)).sum()
    assert metrics.frechet_distance(*samples) == pytest.approx(expected, rel=0.02)


def test_frechet_distance_of_the_same_is_zero_also_where_the_covariance_is_singular():
    few = REAL[:20]
    assert abs(metrics.frechet_distance(REAL, REAL)) < 1e-9
    assert abs(metrics.frechet_distance(few, few)) < 1e-9
    assert metrics.frechet_distance(few, few + 0.1) == pytest.approx(64 * 0.01, rel=1e-6)


def test_kid_is_the_unbiased_estimate():
    """By scikit-learn's kernel, with the diagonals left out; in blocks that do not divide the number."""

    def off_diagonal(x):
        k = polynomial_kernel(x, degree=3, gamma=1 / 64, coef0=1)
        return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))

    real, fake = DIGITS[:1200], np.concatenate([FAKE, FAKE[:400]])
    between = polynomial_kernel(real, fake, degree=3, gamma=1 / 64, coef0=1).mean()
    expected = off_diagonal(real) + off_diagonal(fake) - 2 * between
    assert metrics.kid(real, fake) == pytest.approx(expected, rel=1e-9)


def test_kid_of_one_distribution_is_zero_on_average():
    found = [metrics.kid(RNG.normal(size=(50, 4)), RNG.normal(size=(70, 4))) for _ in range(300)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 300**0.5
    assert min(found) < 0 < max(found)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_prdc_is_that_of_the_package_prdc(k):
    real, fake = DIGITS[:1100], FAKE
    with contextlib.redirect_stdout(io.StringIO()):
        expected = prdc.compute_prdc(real, fake, k)
    assert metrics.prdc(real, fake, k) == pytest.approx(expected, abs=1e-12)
    assert min(expected.values()) > 0.05


def test_prdc_of_the_same_images_and_of_distant_ones():
    same = metrics.prdc(REAL, REAL)
    assert same.pop("density") == pytest.approx(1, abs=0.25)
    assert same == {"precision": 1, "recall": 1, "coverage": 1}
    assert set(metrics.prdc(REAL, REAL + 10).values()) == {0.0}


def test_few_right_images_have_precision_without_coverage():
    few = np.repeat(REAL[:3], 200, axis=0) + RNG.normal(0, 1e-3, (600, 64))
    found = metrics.prdc(REAL, few)
    assert found["precision"] == 1
    assert found["coverage"] < 0.1
    assert found["recall"] < 0.1


def test_inception_score_and_class_fractions():
    sure = np.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3]]
    assert metrics.inception_score(sure) == pytest.approx(4)
    assert metrics.inception_score(np.full((9, 4), 0.25)) == pytest.approx(1)
    assert metrics.inception_score(sure[[0, 0, 0]]) == pytest.approx(1)
    p = RNG.dirichlet([1, 2, 3], 50)
    expected = np.exp(np.mean([scipy.stats.entropy(row, p.mean(0)) for row in p]))
    assert metrics.inception_score(p) == pytest.approx(expected)
    checks.close(metrics.class_fractions(sure[:6]), np.array([2, 2, 1, 1]) / 6)
    assert metrics.class_fractions(sure[:2]).sum() == 1


@pytest.mark.parametrize("metric", [metrics.frechet_distance, metrics.kid])
def test_a_ladder_of_noise_blur_and_missing_classes(metric):
    """Each step away from the real images is a larger distance; the other half of them is the smallest."""
    data = load_digits()
    real, other, labels = DIGITS[::2], DIGITS[1::2], data.target[1::2]

    def blurred(x, times):
        x = x.reshape(-1, 8, 8)
        for _ in range(times):
            for axis in (1, 2):
                x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
        return x.reshape(-1, 64)

    ladders = {
        "noise": [other + RNG.normal(0, s, other.shape) for s in (0, 0.2, 0.4, 0.8)],
        "blur": [blurred(other, n) for n in (0, 1, 2, 4)],
        "classes": [other[labels >= n] for n in (0, 2, 4, 6, 8)],
    }
    for name, ladder in ladders.items():
        found = [metric(real, x) for x in ladder]
        assert all(a < b for a, b in zip(found, found[1:])), (name, found)


@pytest.mark.parametrize(
    ("count", "noises", "first_classes"),
    [
        (250, (0, 0.1, 0.4), (0, 4, 8)),
        pytest.param(1000, (0, 0.05, 0.1, 0.2, 0.4), (0, 2, 4, 6, 8), marks=pytest.mark.slow),
    ],
    ids=["few", "many"],
)
@pytest.mark.usefixtures("keras_home")
def test_the_shipped_features_see_noise_blur_and_missing_classes(count, noises, first_classes):
    """The ladder on Fashion MNIST, by the network of the package; noise lies among no images."""
    (train, _), _, (test, labels) = image_datasets.fashion_mnist()
    net, rng = homl_models.load("fashion_features"), np.random.default_rng(0)
    test, labels = test[:count] / 255, labels[:count]
    real = net.features_and_probabilities(train[:count])[0]
    spread = real.std(0)
    alive = spread > 1e-6

    def features(x):
        return net.features_and_probabilities(x)[0][:, alive] / spread[alive]

    ladders = {
        "noise": [np.clip(test + rng.normal(0, s, test.shape), 0, 1) for s in noises],
        "classes": [test[labels >= n] for n in first_classes],
        "blur": [test],
    }
    for _ in noises[1:]:
        last = ladders["blur"][-1]
        for axis in (1, 2):
            last = (np.roll(last, 1, axis) + 2 * last + np.roll(last, -1, axis)) / 4
        ladders["blur"].append(last)
    real = real[:, alive] / spread[alive]
    for name, ladder in ladders.items():
        extracted = [features(x) for x in ladder]
        for metric in (metrics.frechet_distance, metrics.kid):
            found = [metric(real, x) for x in extracted]
            assert all(a < b for a, b in zip(found, found[1:])), (name, found)
    assert set(metrics.prdc(real, features(rng.uniform(size=test.shape))).values()) == {0.0}
