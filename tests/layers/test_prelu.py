"""Parametric ReLU: Keras' layer, on any slope."""

import keras
import numpy as np

from homl_models.layers import PReLU
from tests import checks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4, 5)).astype("float32")


def make(dtype="float32"):
    layer = PReLU(dtype=dtype)
    layer.build(X.shape)
    layer.alpha.assign([-0.5, 0, 0.25, 1, 1.7])
    return layer


def test_it_is_kerass_layer():
    keras_layer = keras.layers.PReLU(shared_axes=[1, 2])
    keras_layer.build(X.shape)
    keras_layer.alpha.assign(make().alpha.numpy()[None, None])
    checks.close(make()(X), keras_layer(X))


def test_slopes_at_first():
    checks.close(PReLU(0.1)(X), np.where(X > 0, X, 0.1 * X))


def test_any_use():
    checks.config_round_trip(PReLU, slope=0.1)
    checks.symbolic_agrees(make(), X, (0, 1, 2))
    checks.any_batch_and_length(make(), X, (0, 1, 2), jit_compile=False)
    layer = make()
    checks.gradients_reach(layer, layer.weights, X)
    checks.mixed_precision(make, X)
