"""Regularizers of codings, against the closed forms in double precision."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from homl_models.regularizers import KLDivergenceRegularizer, L1ActivityRegularizer
from tests import checks

CODINGS = np.random.default_rng(0).uniform(size=(9, 5)).astype("float32")
BOTH = pytest.mark.parametrize("regularizer", [L1ActivityRegularizer(0.3), KLDivergenceRegularizer(0.2, 0.1)])


def divergence(codings, target):
    q = np.float64(codings).mean(0)
    return (target * np.log(target / q) + (1 - target) * np.log((1 - target) / (1 - q))).sum()


@pytest.mark.parametrize("target", [0.05, 0.1, 0.5])
def test_kl_is_equation_17_2_summed_over_the_units(target):
    checks.close(KLDivergenceRegularizer(0.2, target)(CODINGS), 0.2 * divergence(CODINGS, target))
    checks.close(KLDivergenceRegularizer(3.0, target)(np.full((4, 2), target, "float32")), 0.0)


def test_l1_is_the_sum_of_mean_absolute_values():
    signed = CODINGS - 0.5
    checks.close(L1ActivityRegularizer(0.3)(signed), 0.3 * np.abs(np.float64(signed)).mean(0).sum())


@BOTH
def test_the_batch_size_does_not_matter(regularizer):
    checks.close(regularizer(np.repeat(CODINGS, 3, axis=0)), regularizer(CODINGS))


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_activities_of_0_and_1_give_finite_losses_and_gradients(value, dtype):
    codings = tf.Variable(tf.fill((4, 3), tf.cast(value, dtype)))
    with tf.GradientTape() as tape:
        loss = KLDivergenceRegularizer(1.0, 0.1)(codings.value())
    assert 1 < float(loss) < 100
    gradient = ops.convert_to_numpy(ops.cast(tf.convert_to_tensor(tape.gradient(loss, codings)), "float32"))
    assert np.isfinite(gradient).all()


def test_the_gradient_pulls_every_unit_to_the_target():
    codings = tf.Variable(CODINGS)
    with tf.GradientTape() as tape:
        loss = KLDivergenceRegularizer(2.0, 0.3)(codings.value())
    q = np.float64(CODINGS).mean(0)
    checks.close(tape.gradient(loss, codings), np.tile(2.0 / 9 * ((1 - 0.3) / (1 - q) - 0.3 / q), (9, 1)))


@BOTH
def test_config_round_trip(regularizer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(regularizer)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(regularizer)
    assert again.get_config() == regularizer.get_config()


def test_a_target_of_0_or_1_is_refused():
    for target in (0, 1, -0.1):
        with pytest.raises(ValueError, match="must lie in"):
            KLDivergenceRegularizer(1.0, target)
