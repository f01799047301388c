"""Spectral normalization, against singular value decomposition and the gradient in the paper."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models.layers.spectral import SpectralNormConv2D
from tests import checks


def layer_and_matrix(**kwargs):
    keras.utils.set_random_seed(0)
    layer = SpectralNormConv2D(6, 3, padding="same", **kwargs)
    layer.build((None, None, None, 4))
    return layer, np.float64(layer.kernel.numpy()).reshape(-1, 6)


def converge(layer, images, steps=200):
    for _ in range(steps):
        layer(images, training=True)


def test_power_iteration_converges_to_the_largest_singular_value():
    layer, matrix = layer_and_matrix()
    images = np.random.default_rng(0).normal(size=(2, 5, 7, 4)).astype(np.float32)
    u, values, v = np.linalg.svd(matrix)
    converge(layer, images)
    assert float(layer.spectral_norm()) == pytest.approx(values[0], rel=1e-5)
    plain = keras.layers.Conv2D(6, 3, padding="same")
    plain.build((None, None, None, 4))
    plain.set_weights([layer.kernel.numpy() / values[0], layer.bias.numpy()])
    checks.close(layer(images), plain(images), 1e-5)


def test_only_calls_in_training_iterate():
    layer, _ = layer_and_matrix()
    before = layer.u.numpy()
    layer(np.zeros((1, 4, 4, 4), np.float32))
    np.testing.assert_array_equal(layer.u.numpy(), before)
    layer(np.zeros((1, 4, 4, 4), np.float32), training=True)
    assert (layer.u.numpy() != before).any()


def test_the_gradient_goes_through_the_norm():
    """Equation 12: with g the gradient by the normalized matrix W / s, (g - <g, W / s> u v^T) / s."""
    layer, matrix = layer_and_matrix(use_bias=False)
    converge(layer, np.zeros((1, 3, 3, 4), np.float32))
    u, values, vt = np.linalg.svd(matrix)
    g = np.random.default_rng(1).normal(size=matrix.shape)
    with tf.GradientTape() as tape:
        kernel = layer.kernel / layer.spectral_norm()
        loss = tf.reduce_sum(kernel * np.float32(g.reshape(kernel.shape)))
    found = tape.gradient(loss, layer.kernel.value).numpy().reshape(matrix.shape)
    expected = (g - (g * matrix).sum() / values[0] * np.outer(u[:, 0], vt[0])) / values[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
