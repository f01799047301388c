"""Minibatch standard deviation against its definition in double precision."""

import numpy as np
import pytest

from homl_models.layers.minibatch import MinibatchStddev
from tests import checks

X = np.random.default_rng(0).normal(1.0, 2.0, (6, 3, 2, 4)).astype("float32")


@pytest.mark.parametrize("x", [X, X[:, 0, 0]])
def test_the_last_channel_is_the_mean_of_all_standard_deviations(x):
    y = np.array(MinibatchStddev()(x))
    checks.close(y[..., :-1], x, 0)
    checks.close(y[..., -1], np.full(x.shape[:-1], np.float64(x).std(0).mean()))


def test_equal_images_give_nothing_and_have_a_gradient():
    import tensorflow as tf

    x = tf.Variable(np.repeat(X[:1], 5, axis=0))
    with tf.GradientTape() as tape:
        y = MinibatchStddev()(x)
    assert np.array(y[..., -1]).max() < 1e-3
    assert np.isfinite(np.array(tape.gradient(y, x))).all()


def test_config_files_and_precision():
    layer = MinibatchStddev()
    checks.any_batch_and_length(layer, X, unknown=(0, 1, 2))
    for policy in checks.HALF:
        half = MinibatchStddev(dtype=policy)(X)
        assert half.dtype == policy.removeprefix("mixed_")
        checks.close(np.float32(half)[..., -1], np.array(layer(X))[..., -1], 1e-2)
    assert MinibatchStddev.from_config(layer.get_config()).get_config() == layer.get_config()
