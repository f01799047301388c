"""The transposed dense layer with tied weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models.endpoints import Array, Endpoint
from homl_models.errors import UserError
from homl_models.layers.tied import DenseTranspose
from homl_models.training.saved_model import write_saved_model
from tests import checks

X = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")


def pair(activation=None):
    dense = keras.layers.Dense(3)
    dense.build((None, 7))
    back = DenseTranspose(dense, activation)
    back.build((None, 3))
    back.bias.assign(np.arange(7) / 7)
    return dense, back


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize(("activation", "function"), [(None, lambda x: x), ("relu", relu), ("tanh", np.tanh)])
def test_it_is_the_transposed_product_plus_its_own_bias(activation, function):
    dense, back = pair(activation)
    x = X[:, :3]
    checks.close(back(x), function(np.float64(x) @ np.float64(dense.kernel).T + np.arange(7) / 7))
    assert back.compute_output_shape((None, 4, 3)) == (None, 4, 7)
    assert [w.path for w in back.weights] == [back.bias.path, dense.kernel.path, dense.bias.path]


def test_gradients_of_both_layers_add_up_in_the_shared_kernel():
    """The kernel's gradient of |back(dense(x))|^2 is the sum of those that two kernels apart get."""
    dense, back = pair()
    twin = keras.layers.Dense(7)
    twin.build((None, 3))
    twin.set_weights([dense.kernel.numpy().T, back.bias.numpy()])

    def gradients(decode, *kernels):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(decode(dense(X))))
        return [g.numpy() for g in tape.gradient(loss, [k.value for k in kernels])]

    (shared,) = gradients(back, dense.kernel)
    first, second = gradients(twin, dense.kernel, twin.kernel)
    checks.close(shared, first + second.T)


def test_weights_stay_tied_in_files_training_and_saved_models(tmp_path):
    dense, back = pair()
    model = keras.Sequential([keras.Input((7,)), dense, back])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == 3
    checks.close(loaded(X), model(X))
    for one in (model, loaded):
        one.compile("sgd", "mse")
        before = one.layers[0].kernel.numpy()
        one.train_on_batch(X, X)
        kernel, bias, other = one.layers[0].kernel.numpy(), one.layers[0].bias.numpy(), one.layers[1].bias.numpy()
        assert (kernel != before).all()
        expected = (np.float64(X) @ kernel + bias) @ np.float64(kernel).T + other
        checks.close(one(X), expected)
    loaded.endpoints = lambda: {"run": Endpoint(lambda x: {"y": loaded(x)}, [Array("x", None, 7)])}
    write_saved_model(loaded, tmp_path / "saved")
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    checks.close(saved.run(tf.constant(X))["y"], loaded(X))


def test_the_other_layer_must_be_built():
    with pytest.raises(UserError, match="to be built first"):
        DenseTranspose(keras.layers.Dense(3)).build((None, 3))


def test_half_precision():
    def make(dtype):
        dense = keras.layers.Dense(3, dtype=dtype)
        dense.build((None, 7))
        back = DenseTranspose(dense, "relu", dtype=dtype)
        return keras.Sequential([keras.Input((7,)), dense, back])

    for policy, tolerance in checks.HALF.items():
        exact, half = make("float32"), make(policy)
        half.set_weights(exact.get_weights())
        assert keras.backend.standardize_dtype(half(X).dtype) == policy.removeprefix("mixed_")
        difference = np.abs(checks.arrays(half(X))[0] - checks.arrays(exact(X))[0]).max()
        assert 0 < difference < tolerance * np.abs(checks.arrays(exact(X))[0]).max()
