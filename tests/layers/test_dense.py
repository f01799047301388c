"""The dense layer with fused products, and the exact GELU."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special
from tensorflow.python.eager import context  # the only way to inspect an optimized graph

from homl_models.layers.dense import Dense, gelu
from tests import checks

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6), (2, 3, 4, 6)])
@pytest.mark.parametrize("activation", [None, "relu", gelu])
def test_it_equals_keras_layer(shape, activation):
    x = RNG.normal(size=shape).astype("float32")
    ours, theirs = Dense(7, activation), keras.layers.Dense(7, activation)
    for layer in (ours, theirs):
        layer.build(shape)
    ours.set_weights([RNG.normal(size=(6, 7)), RNG.normal(size=7)])
    theirs.set_weights(ours.get_weights())
    found = []
    for layer in (ours, theirs):
        with tf.GradientTape() as tape:
            given = tf.Variable(x)
            y = layer(given)
            loss = tf.reduce_sum(tf.square(y))
        found.append((y, *tape.gradient(loss, [given, *layer.weights])))
    checks.close(*found, 2e-5)
    checks.any_batch_and_length(ours, x, range(len(shape) - 1))
    assert [w.path.split("/")[-1] for w in ours.weights] == ["kernel", "bias"]
    assert Dense.from_config(ours.get_config()).units == 7


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_gelu_is_x_times_the_normal_distribution(dtype):
    x = np.linspace(-9, 9, 2001).astype("float32")
    found = gelu(keras.ops.cast(x, dtype))
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    wanted = x * special.ndtr(np.float64(x))
    checks.close(keras.ops.cast(found, "float32"), wanted, 1e-6 if dtype == "float32" else 0.02)


def test_in_inference_product_bias_and_gelu_are_one_operation():
    """Where TensorFlow uses oneDNN, which it does by itself on some processors, and in all tests."""
    layer = Dense(8, gelu)
    layer.build((None, None, 4))
    graph = tf.function(layer.call, input_signature=[tf.TensorSpec((None, None, 4))], autograph=False)
    with context.collect_graphs(optimized=True) as graphs:
        graph(np.zeros((2, 3, 4), "float32"))
    fused = [node for graph in graphs for node in graph.node if "FusedMatMul" in node.op]
    assert [[name.decode() for name in node.attr["fused_ops"].list.s] for node in fused] == [["BiasAdd", "GeluExact"]]
