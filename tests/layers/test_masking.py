"""Convolution that knows masks, and pooling by attention; by definition in double precision."""

import keras
import numpy as np
import pytest

from homl_models.layers.masking import AttentionPooling, MaskedConv1D
from tests import checks

X = np.random.default_rng(0).normal(size=(3, 7, 4)).astype("float32")


@pytest.mark.parametrize("k", [2, 3])
def test_windows_are_projected_and_masked_where_all_their_steps_are(k):
    layer = MaskedConv1D(5, k, activation=None)
    lengths = [7, 3, 1]
    mask = np.arange(7) < np.array(lengths)[:, None]
    outputs, windows = layer(X, mask=mask), layer.compute_mask(X, mask)
    kernel, bias = (np.float64(w) for w in layer.dense.get_weights())
    for i, n in enumerate(lengths):
        count = -(-n // k)
        padded = np.zeros((count * k, 4))
        padded[:n] = X[i, :n]
        expected = padded.reshape(count, -1) @ kernel + bias
        checks.close(outputs[i, :count], np.float32(expected))
        assert np.array(windows)[i].tolist() == [True] * count + [False] * (-(-7 // k) - count)
    assert layer.compute_mask(X, None) is None


def test_kernel_of_convolution_is_that_of_keras_without_masks():
    layer = MaskedConv1D(5, 2, activation=None)
    layer(X[:, :6])
    reference = keras.layers.Conv1D(5, 2, strides=2)
    reference.build((None, 6, 4))
    kernel, bias = layer.dense.get_weights()
    reference.set_weights([kernel.reshape(2, 4, 5), bias])
    checks.close(layer(X[:, :6]), reference(X[:, :6]))


def test_layers_take_any_length_and_masks_end_with_pooling():
    for layer in (MaskedConv1D(5, 3), AttentionPooling(3)):
        layer(X)
        checks.any_batch_and_length(layer, X)
    assert layer.compute_mask(X, np.ones((3, 7), bool)) is None
