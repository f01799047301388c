"""Gumbel noise and the Gumbel-softmax relaxation, against formulas in double precision and by statistical tests."""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from keras import ops

from homl_models.layers.dropout import random_bits
from homl_models.layers.gumbel import GumbelSoftmax, argmax, gumbel, kl_to_uniform
from tests import checks

LOGITS = np.random.default_rng(0).normal(0, 2, (3, 4, 5, 6)).astype("float32")
SEED = np.array([11, 5], "uint32")


def relaxed(logits, noise, temperature):
    """Jang et al. (2017), equation 2, in double precision."""
    return scipy.special.softmax((np.float64(logits) + noise) / temperature, axis=-1)


def noise_of(layer, shape):
    """The noise that the layer takes next, in double precision."""
    return np.float64(gumbel(shape, layer.seed_generator.state.numpy().copy()))


def test_gumbel_numbers_have_their_formula_and_distribution():
    u = np.float64(ops.convert_to_numpy(random_bits((400, 500), SEED)) >> 8) / 2**24
    g = np.float64(gumbel((400, 500), SEED))
    checks.close(g, -np.log(-np.log1p(-np.maximum(u, 2**-25))), 2e-6)
    assert scipy.stats.kstest(g.ravel(), "gumbel_r").pvalue > 1e-3
    assert g.max() > 10  # the upper tail is there


def test_extreme_bits_give_finite_noise(monkeypatch):
    for u, bound in ((0.0, 17.4), (1 - 2.0**-24, -2.9)):
        monkeypatch.setattr("homl_models.layers.gumbel.uniform", lambda shape, seed, u=u: np.full(shape, u, "float32"))
        assert float(gumbel((1,), SEED)[0]) == pytest.approx(bound, abs=0.1)


@pytest.mark.parametrize("straight_through", [False, True])
def test_the_largest_of_a_sample_is_distributed_as_the_softmax(straight_through):
    """Chi-square of 20,000 samples, at any temperature."""
    logits, count = np.array([2.0, -1.0, 0.0, 0.5, -2.0, 1.5], "float32"), 20_000
    layer = GumbelSoftmax(straight_through, seed=3)
    found = np.asarray(layer(np.tile(logits, (count, 1)), temperature=0.3)).argmax(-1)
    expected = count * scipy.special.softmax(np.float64(logits))
    assert scipy.stats.chisquare(np.bincount(found, minlength=6), expected).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 1 / 16])
def test_samples_are_the_softmax_of_noisy_logits(temperature):
    layer = GumbelSoftmax(seed=4)
    noise = noise_of(layer, LOGITS.shape)
    checks.close(layer(LOGITS, temperature=temperature), relaxed(LOGITS, noise, temperature), 2e-5)
    hard = GumbelSoftmax(straight_through=True, seed=4)
    checks.close(hard(LOGITS, temperature=temperature), np.eye(6)[(LOGITS + noise).argmax(-1)], 1e-6)
    assert (np.asarray(layer(LOGITS)) != np.asarray(layer(LOGITS))).any()
    np.testing.assert_array_equal(GumbelSoftmax(seed=4)(LOGITS), GumbelSoftmax(seed=4)(LOGITS))


def test_at_a_low_temperature_samples_are_one_hot():
    found = np.asarray(GumbelSoftmax(seed=1)(LOGITS, temperature=1e-3))
    assert np.mean(found.max(-1) > 0.999) > 0.95
    checks.close(found.sum(-1), np.ones(LOGITS.shape[:-1]))


@pytest.mark.parametrize("straight_through", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_the_gradient_is_that_of_the_relaxation(temperature, straight_through):
    """Central differences in double precision."""
    layer, weights = GumbelSoftmax(straight_through, seed=2), np.random.default_rng(1).normal(size=6)
    logits = tf.Variable(LOGITS[0, 0])
    noise = noise_of(layer, logits.shape)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(logits.value(), temperature=temperature) * np.float32(weights))
    expected = np.zeros(logits.shape)
    for place in np.ndindex(*logits.shape):
        step = np.zeros(logits.shape)
        step[place] = 1e-5
        up, down = ((relaxed(LOGITS[0, 0] + sign * step, noise, temperature) * weights).sum() for sign in (1, -1))
        expected[place] = (up - down) / 2e-5
    checks.close(tape.gradient(total, logits), expected, 1e-4)


def test_kl_to_the_uniform_distribution_is_the_closed_form():
    q = scipy.special.softmax(np.float64(LOGITS), axis=-1)
    checks.close(kl_to_uniform(LOGITS), (q * np.log(q * 6)).sum(-1), 1e-5)
    ends = np.array([[0.0] * 6, [200.0, 0, 0, 0, 0, 0]], "float32")
    checks.close(kl_to_uniform(ends), np.array([0, np.log(6)]), 1e-6)


def test_half_precision_is_sampled_in_single():
    found = GumbelSoftmax(seed=4, dtype="mixed_float16")(ops.cast(LOGITS, "float16"), temperature=1 / 16)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_array_equal(argmax(ops.cast(LOGITS, "float16")), LOGITS.astype("float16").argmax(-1))
