"""Group normalization against Keras' own layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models.layers.normalization import GroupNormalization
from tests import checks

X = np.random.default_rng(0).normal(2.0, 3.0, (3, 5, 4, 12)).astype("float32")


def both(dtype="float32", **settings):
    layers = [cls(dtype=dtype, **settings) for cls in (GroupNormalization, keras.layers.GroupNormalization)]
    for layer in layers:
        layer.build((None, None, None, 12))
        for i, weight in enumerate(layer.weights):
            weight.assign(weight + keras.random.normal(weight.shape, seed=i))
    return layers


@pytest.mark.parametrize(
    "settings",
    [{"groups": 4}, {"groups": 1}, {"groups": -1}, {"groups": 3, "scale": False}, {"groups": 3, "center": False},
     {"groups": 6, "epsilon": 0.5}],
)  # fmt: skip
def test_outputs_and_gradients_equal_keras(settings):
    found = []
    for layer in both(**settings):
        x = tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(y**3)
        found.append([y, *tape.gradient(loss, [x, *(w.value for w in layer.weights)])])
    checks.close(*found, 2e-4)


@pytest.mark.parametrize("mean", [0, 100, 3000])
def test_a_large_mean_costs_no_digits(mean):
    """Against double precision; maps of a group have means and spreads of their own."""
    rng = np.random.default_rng(1)
    x = rng.normal(mean, 1.0, (2, 9, 7, 12)) + rng.normal(0, 2, 12)
    x = np.float32(x * rng.uniform(0.9, 1.1, 12))
    layer = GroupNormalization(groups=4)
    parts = np.float64(x).reshape(2, 63, 4, 3)
    centred = parts - parts.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt(np.square(centred).mean((1, 3), keepdims=True) + layer.epsilon)
    checks.close(layer(x), expected.reshape(x.shape), 1e-5 + 2e-7 * mean)


def test_other_shapes_and_axes_are_left_to_keras():
    for x, settings in ((X[:, 0], {"groups": 4}), (X.transpose(0, 3, 1, 2), {"groups": 2, "axis": 1})):
        ours, theirs = (cls(**settings) for cls in (GroupNormalization, keras.layers.GroupNormalization))
        checks.close(ours(x), theirs(x))


def test_half_precision_is_as_exact_as_keras():
    exact = both(groups=4)[1](X)
    for policy in ("mixed_bfloat16", "mixed_float16"):
        ours, theirs = (np.abs(np.float64(layer(X)) - np.float64(exact)).max() for layer in both(policy, groups=4))
        assert ours <= 1.5 * theirs
        assert both(policy, groups=4)[0](X).dtype == policy.removeprefix("mixed_")


def test_files_and_unknown_sizes():
    layer = both(groups=4)[0]
    checks.any_batch_and_length(layer, X, unknown=(0, 1, 2))
    again = GroupNormalization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
