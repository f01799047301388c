"""Dropout: random bits against the hash in Python integers, statistics, gradients and seeds."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from keras import ops

from homl_models.layers.dropout import Dropout, random_bits, rematerialized
from tests import checks, processes

X = np.random.default_rng(0).normal(size=(40, 30, 50)).astype("float32")
SHAPE, N = X.shape, X.size


def mixed(x):
    """lowbias32 of a Python integer."""
    x = ((x ^ x >> 16) * 0x21F0AAAD) % 2**32
    x = ((x ^ x >> 15) * 0xD35A2D97) % 2**32
    return x ^ x >> 15


def bits(seed, step, shape=SHAPE):
    return ops.convert_to_numpy(random_bits(shape, np.array([seed, step], "uint32")))


def dropped(layer, x=X):
    return ops.convert_to_numpy(layer(x, training=True))


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (1, 0), (0, 1), (123456789, 4_000_000_000)])
def test_the_bits_equal_the_hash_in_python_integers(seed, step):
    first = mixed((mixed(seed) + step) % 2**32)
    second = mixed((mixed((step + 0x9E3779B9) % 2**32) + seed) % 2**32)
    expected = [mixed(mixed((i + first) % 2**32) ^ second) for i in range(24)]
    assert bits(seed, step, (2, 3, 4)).ravel().tolist() == expected


@pytest.mark.parametrize("shift", [0, 8, 16, 24])
def test_every_byte_is_uniform(shift):
    counts = np.bincount(bits(7, 3).ravel() >> shift & 255, minlength=256)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_bits_of_other_indices_steps_and_seeds_are_independent():
    """Also neighbours within a row and a column, and the same index in neighbouring steps and seeds."""
    one = (bits(5, 1) >> 31).astype(float)
    others = [np.roll(one, 1, axis) for axis in range(3)]
    others += [(bits(seed, step) >> 31).astype(float) for seed, step in ((5, 2), (6, 1), (1, 5), (6, 2), (5, 2**31))]
    for other in others:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / N**0.5


def test_all_bits_of_an_index_change_from_step_to_step():
    """The fraction of ones at each index and bit over 400 steps, against the binomial distribution."""
    all_bits = np.array([np.unpackbits(bits(9, step, (64,)).view(np.uint8)) for step in range(400)])
    assert np.abs(all_bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / 400**0.5


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_fraction_is_dropped_and_the_rest_scaled(rate):
    layer = Dropout(rate, seed=1)
    for _ in range(3):
        out = dropped(layer)
        fraction = (out == 0).mean()
        assert abs(fraction - rate) < 4 * (rate * (1 - rate) / N) ** 0.5
        np.testing.assert_allclose(out[out != 0], (X / (1 - rate))[out != 0], rtol=1e-6)


def test_nothing_is_dropped_outside_of_training_or_at_rate_0_and_all_at_rate_1():
    np.testing.assert_array_equal(Dropout(0.5)(X), X)
    np.testing.assert_array_equal(Dropout(0.5)(X, training=False), X)
    np.testing.assert_array_equal(dropped(Dropout(0.0)), X)
    np.testing.assert_array_equal(dropped(Dropout(1.0)), 0 * X)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.xla])])
def test_the_gradient_has_the_mask_of_the_values(compiled):
    layer, x = Dropout(0.3, seed=1), tf.constant(X)

    @tf.function(jit_compile=compiled)
    def both():
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = layer(x, training=True)
        return out, tape.gradient(out, x)

    out, gradient = (tensor.numpy() for tensor in both())
    np.testing.assert_allclose(gradient, np.where(out == 0, 0, np.float32(1 / 0.7)), rtol=1e-6)


def test_masks_depend_on_the_seed_and_resume_from_its_state():
    one, same, other = Dropout(0.5, seed=1), Dropout(0.5, seed=1), Dropout(0.5, seed=2)
    masks = [dropped(one) != 0 for _ in range(3)]
    assert [np.array_equal(a, b) for a, b in ((masks[0], masks[1]), (masks[1], masks[2]))] == [False, False]
    assert all(np.array_equal(mask, dropped(same) != 0) for mask in masks[:2])
    assert not np.array_equal(masks[0], dropped(other) != 0)
    other.seed_generator.state.assign(same.seed_generator.state)
    np.testing.assert_array_equal(dropped(other) != 0, masks[2])


def test_the_seed_advances_as_in_keras():
    ours, theirs = Dropout(0.5, seed=3), keras.layers.Dropout(0.5, seed=3)
    for _ in range(2):
        ours(X, training=True), theirs(X, training=True)
        np.testing.assert_array_equal(ours.seed_generator.state, theirs.seed_generator.state)


def test_a_noise_shape_drops_whole_rows():
    out = ops.convert_to_numpy(Dropout(0.5, noise_shape=(40, 1, 50), seed=1)(X, training=True))
    zero = out == 0
    assert (zero == zero[:, :1]).all()
    assert 0.4 < zero.mean() < 0.6


@pytest.mark.xla
def test_unknown_shapes_compiled_and_eager_drop_the_same():
    @tf.function(input_signature=[tf.TensorSpec([None, None, 50])], jit_compile=True)
    def compiled(x):
        return layer(x, training=True)

    layer = Dropout(0.5, seed=1)
    np.testing.assert_array_equal(compiled(X), dropped(Dropout(0.5, seed=1)))


@pytest.mark.parametrize("policy", checks.HALF)
def test_half_precision(policy):
    out = Dropout(0.5, seed=1, dtype=policy)(X, training=True)
    assert out.dtype == keras.DTypePolicy(policy).compute_dtype
    expected = dropped(Dropout(0.5, seed=1))
    np.testing.assert_allclose(np.array(out, "float32"), expected, rtol=0.01)


def test_an_error_in_a_rematerialized_function_leaves_no_fixed_seed():
    layer, calls = Dropout(0.5, seed=1), []

    def function(x):
        calls.append(layer.fixed_seed)
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        rematerialized(function, [layer])(ops.convert_to_tensor(X))
    assert calls[0] is not None
    assert layer.fixed_seed is None


def test_configuration_and_mask():
    checks.config_round_trip(Dropout, rate=0.25, seed=4)
    assert Dropout(0.5).supports_masking


@pytest.mark.xdist_group("jax")
def test_jax_draws_the_same_bits():
    script = """
import numpy as np
from homl_models.layers.dropout import random_bits
print(np.asarray(random_bits((3, 5), np.array([11, 12], "uint32"))).tolist())
"""
    assert processes.run(script, process=processes.JAX) == bits(11, 12, (3, 5)).tolist()
