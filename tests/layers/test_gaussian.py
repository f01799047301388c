"""Gaussian noise and the sampling of codings, against formulas in double precision and by statistical tests."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from keras import ops

from homl_models.errors import UserError
from homl_models.layers.dropout import random_bits
from homl_models.layers.gaussian import GaussianNoise, Sampling, kl_divergence, normal
from tests import checks

X = np.random.default_rng(0).normal(size=(50, 40, 30)).astype("float32")
MEAN, LOG_VAR = X[:, :10, 0], X[:, :10, 1]


def sample(shape=X.shape, seed=3, step=1):
    return np.float64(ops.convert_to_numpy(normal(shape, np.array([seed, step], "uint32"))))


def test_normal_numbers_are_those_of_box_and_muller():
    seed = np.array([11, 5], "uint32")
    u, v = np.float64(ops.convert_to_numpy(random_bits((30, 2, 40), seed)) >> 8).transpose(1, 0, 2) / 2**24
    checks.close(normal((30, 40), seed), np.sqrt(-2 * np.log(u + 2**-24)) * np.cos(2 * np.pi * v), 2e-6)


def test_a_row_of_a_seed_is_the_same_among_any_number_of_rows():
    seed = np.array([11, 5], "uint32")
    whole = ops.convert_to_numpy(normal((40, 3, 5), seed))
    checks.close(normal((7, 3, 5), seed), whole[:7], 1e-6)
    checks.close(normal((7, 3, 5), seed, row=20), whole[20:27], 1e-6)
    some = tf.function(lambda count, row: normal((count, 3, 5), seed, row=row))
    checks.close(some(tf.constant(4), tf.constant(36)), whole[36:], 1e-6)


def test_normal_numbers_are_normal():
    z = sample((400, 500))
    assert scipy.stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert np.abs(z).max() < 6
    assert np.abs(z).max() > 4
    assert abs(scipy.stats.kurtosis(z.ravel())) < 6 * np.sqrt(24 / z.size)


def test_normal_numbers_at_other_indices_steps_and_seeds_are_independent():
    z, n = sample(), X.size
    others = [np.roll(z, 1, axis) for axis in range(3)] + [sample(step=2), sample(seed=4), sample(seed=1, step=3)]
    for other in others:
        assert abs(np.corrcoef(z.ravel(), other.ravel())[0, 1]) < 4 / n**0.5
        assert abs(np.corrcoef(z.ravel() ** 2, other.ravel() ** 2)[0, 1]) < 4 / n**0.5
    np.testing.assert_array_equal(z, sample())


@pytest.mark.parametrize("stddev", [0.2, 15.0])
def test_noise_is_added_in_training_only(stddev):
    layer = GaussianNoise(stddev, seed=1)
    np.testing.assert_array_equal(layer(X), X)
    np.testing.assert_array_equal(layer(X, training=False), X)
    first, second = (ops.convert_to_numpy(layer(X, training=True)) - X for _ in range(2))
    for noise in (first, second):
        assert scipy.stats.kstest(np.float64(noise.ravel()) / stddev, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 4 / X.size**0.5


def test_stddev_0_adds_nothing_and_a_negative_one_is_refused():
    np.testing.assert_array_equal(GaussianNoise(0)(X, training=True), X)
    for bad in (-1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="stddev must be 0 or more"):
            GaussianNoise(bad)


def test_samples_are_mean_plus_noise_times_deviation():
    layer = Sampling(seed=5)
    state = layer.seed_generator.state.numpy().copy()
    coding = layer([MEAN, LOG_VAR])
    noise = np.float64(normal(MEAN.shape, state))
    checks.close(coding, np.float64(MEAN) + np.exp(np.float64(LOG_VAR) / 2) * noise)
    assert (ops.convert_to_numpy(layer([MEAN, LOG_VAR])) != ops.convert_to_numpy(coding)).all()
    np.testing.assert_array_equal(Sampling(seed=5)([MEAN, LOG_VAR]), coding)


def test_samples_have_the_mean_and_the_variance_given():
    mean, log_var = np.full((20_000, 3), [-1.0, 0, 4], "float32"), np.full((20_000, 3), [-4.0, 0, 2], "float32")
    coding = np.float64(Sampling(seed=0)([mean, log_var]))
    sigma = np.exp(log_var[0] / 2)
    assert (np.abs(coding.mean(0) - mean[0]) < 4 * sigma / 20_000**0.5).all()
    assert (np.abs(coding.std(0) / sigma - 1) < 4 / 40_000**0.5).all()


def test_the_gradient_goes_through_the_sample():
    """d coding / d mean = 1, d coding / d log_var = noise * sigma / 2."""
    layer, mean, log_var = Sampling(seed=2), tf.Variable(MEAN), tf.Variable(LOG_VAR)
    noise = np.float64(normal(MEAN.shape, layer.seed_generator.state.numpy()))
    with tf.GradientTape() as tape:
        coding = layer([mean.value(), log_var.value()])
    by_mean, by_log_var = tape.gradient(coding, [mean, log_var])
    checks.close(by_mean, np.ones(MEAN.shape))
    checks.close(by_log_var, noise * np.exp(np.float64(LOG_VAR) / 2) / 2)


def test_kl_divergence_is_the_closed_form_of_two_normals():
    mean, log_var = np.float64(MEAN), np.float64(LOG_VAR)
    exact = (np.exp(log_var) + mean**2 - 1 - log_var).sum(-1) / 2
    checks.close(kl_divergence(MEAN, LOG_VAR), exact)
    checks.close(kl_divergence(np.zeros((2, 3)), np.zeros((2, 3))), np.zeros(2))


def test_kl_divergence_is_its_monte_carlo_estimate():
    """The mean of log q(z) - log p(z) over 100,000 samples z of q, within four standard errors."""
    mean, sigma = np.float64(MEAN[0]), np.exp(np.float64(LOG_VAR[0]) / 2)
    z = mean + sigma * np.random.default_rng(0).normal(size=(100_000, len(mean)))
    gaps = (scipy.stats.norm.logpdf(z, mean, sigma) - scipy.stats.norm.logpdf(z)).sum(1)
    assert abs(gaps.mean() - float(kl_divergence(MEAN[0], LOG_VAR[0]))) < 4 * gaps.std() / len(gaps) ** 0.5


def test_the_gradient_of_kl_is_the_closed_form():
    mean, log_var = tf.Variable(MEAN), tf.Variable(LOG_VAR)
    with tf.GradientTape() as tape:
        kl = kl_divergence(mean.value(), log_var.value())
    by_mean, by_log_var = tape.gradient(kl, [mean, log_var])
    checks.close(by_mean, MEAN)
    checks.close(by_log_var, (np.exp(np.float64(LOG_VAR)) - 1) / 2)


def test_layers_keep_configuration_masks_and_half_precision():
    checks.config_round_trip(GaussianNoise, stddev=3.0, seed=4)
    checks.config_round_trip(Sampling, seed=4)
    for policy in checks.HALF:
        noisy = GaussianNoise(0.5, seed=1, dtype=policy)(X, training=True)
        assert keras.backend.standardize_dtype(noisy.dtype) == policy.removeprefix("mixed_")
        checks.close(ops.cast(noisy, "float32"), GaussianNoise(0.5, seed=1)(X, training=True), 0.05)


@pytest.mark.xla
def test_normal_numbers_are_the_same_by_xla():
    def sample(seed):
        return normal((8, 9), seed)

    seed = tf.constant([4, 4], tf.uint32)
    checks.close(tf.function(sample, jit_compile=True)(seed), sample(seed))
