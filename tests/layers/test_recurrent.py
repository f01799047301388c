"""Our GRU and LSTM against Keras', and against the equations in double precision."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from homl_models.layers import recurrent
from tests import checks, processes

PAIRS = {"gru": (recurrent.GRU, keras.layers.GRU), "lstm": (recurrent.LSTM, keras.layers.LSTM)}
B, T, N, U = 3, 7, 4, 5
PADDED = np.arange(T) < np.array([[7], [3], [5]])
HOLES = np.array([[1, 0, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 1, 1, 0]], bool)
LATE = np.array([[0, 0, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]], bool)
MASKS = {"no mask": None, "padded": PADDED, "holes": HOLES}
KINDS = pytest.mark.parametrize("kind", PAIRS)


def twins(kind, **settings):
    """Our layer and Keras', with the same random weights, biases included."""
    settings = {"return_sequences": True, "return_state": True, "seed": 1, **settings}
    ours, theirs = (layer(U, **settings) for layer in PAIRS[kind])
    for layer in (ours, theirs):
        layer.build((None, None, N))
    rng = np.random.default_rng(1)
    theirs.set_weights([rng.normal(0, 0.5, w.shape) for w in theirs.weights])
    ours.set_weights(theirs.get_weights())
    return ours, theirs


def data(kind, seed=0):
    """Inputs (b, t, n), and a first state (b, u) for each of the layer's."""
    rng = np.random.default_rng(seed)
    states = [rng.normal(size=(B, U)).astype("float32") for _ in range(2 if kind == "lstm" else 1)]
    return rng.normal(size=(B, T, N)).astype("float32"), states


def results(layer, x, states, mask=None, mode="eager"):
    """Outputs and last states, and the gradients of a sum of them at inputs, first states and weights."""

    def everything(x, states, mask):
        with tf.GradientTape() as tape:
            tape.watch([x, states])
            out = layer(x, initial_state=states, mask=mask, training=True)
            loss = sum(tf.reduce_sum(y * waves(y)) for y in tf.nest.flatten(out))
        return out, tape.gradient(loss, [x, states, [w.value for w in layer.trainable_variables]])

    if mode != "eager":
        signature = None
        if mode == "unknown":
            spec = [tf.TensorSpec((None, U))] * len(states)
            signature = [tf.TensorSpec((None, None, N)), spec, tf.TensorSpec((None, None), tf.bool)]
        everything = tf.function(everything, jit_compile=mode in ("xla", "unknown"), input_signature=signature)
    mask = None if mask is None else tf.constant(mask)
    return everything(tf.constant(x), [tf.constant(s) for s in states], mask)


def waves(y):
    """Coefficients of the shape of `y`, all different."""
    return tf.cos(tf.cast(tf.reshape(tf.range(tf.size(y)), tf.shape(y)), y.dtype))


@KINDS
@pytest.mark.parametrize(
    ("mode", "mask"),
    [
        *itertools.product(("eager", "graph"), ("no mask", "holes")),
        pytest.param("unknown", "holes", marks=pytest.mark.xla),
        *(pytest.param("xla", mask, marks=[pytest.mark.xla, pytest.mark.slow]) for mask in ("no mask", "holes")),
    ],
)
def test_outputs_states_and_gradients_equal_keras(kind, mask, mode):
    ours, theirs = twins(kind)
    checks.close(results(ours, *data(kind), MASKS[mask], mode), results(theirs, *data(kind), MASKS[mask]))


@KINDS
@pytest.mark.parametrize("settings", [{"return_sequences": False}, {"go_backwards": True}, {"unroll": True}], ids=str)
def test_every_return_option_equals_keras(kind, settings):
    ours, theirs = twins(kind, **settings)
    mask = HOLES[:, ::-1] if "go_backwards" in settings else HOLES  # what comes first is not masked
    checks.close(results(ours, *data(kind), mask), results(theirs, *data(kind), mask))


OTHER_SETTINGS = [
    {"dropout": 0.5},
    {"recurrent_dropout": 0.5},
    {"dropout": 0.5, "recurrent_dropout": 0.5},
    {"activation": "relu"},
    {"recurrent_activation": "hard_sigmoid"},
    {"use_bias": False},
]


@pytest.mark.parametrize(
    ("kind", "settings"), [*itertools.product(PAIRS, OTHER_SETTINGS), ("gru", {"reset_after": False})], ids=str
)
def test_every_other_setting_equals_keras(kind, settings):
    ours, theirs = twins(kind, **settings)
    checks.close(results(ours, *data(kind), PADDED), results(theirs, *data(kind), PADDED))


@KINDS
def test_until_the_first_unmasked_step_the_output_is_the_initial_state(kind):
    ours, theirs = twins(kind)
    x, states = data(kind)
    outputs, *last = ours(x, initial_state=states, mask=LATE)
    expected, *expected_last = theirs(x, initial_state=states, mask=LATE)
    started = LATE.cumsum(axis=1)[..., None] > 0
    checks.close(last, expected_last)
    checks.close(outputs, np.where(started, expected, states[0][:, None]))
    checks.close(ours(x, mask=LATE), theirs(x, mask=LATE))  # from zero there is no difference


@KINDS
def test_zero_output_for_mask_equals_keras(kind):
    for settings in ({"return_sequences": True}, {"return_sequences": False}):
        ours, theirs = twins(kind, zero_output_for_mask=True, **settings)
        checks.close(results(ours, *data(kind), HOLES), results(theirs, *data(kind), HOLES))


@KINDS
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("sequences", [True, False])
def test_inside_bidirectional_equals_keras(kind, mask, sequences):
    x, _ = data(kind)
    ours, theirs = (keras.layers.Bidirectional(layer(U, return_sequences=sequences)) for layer in PAIRS[kind])
    theirs(x)
    rng = np.random.default_rng(2)
    theirs.set_weights([rng.normal(size=w.shape) for w in theirs.weights])
    ours(x)
    ours.set_weights(theirs.get_weights())
    assert type(ours.forward_layer) is type(ours.backward_layer) is PAIRS[kind][0]
    checks.close(ours(x, mask=MASKS[mask]), theirs(x, mask=MASKS[mask]))


@KINDS
def test_a_stateful_layer_starts_from_the_final_state_of_the_last_call(kind):
    x, _ = data(kind)
    (ours, whole), (theirs, _) = twins(kind), twins(kind)
    ours = PAIRS[kind][0](U, stateful=True, return_sequences=True)
    ours.build((B, None, N))
    ours.set_weights(theirs.get_weights())
    for _ in range(2):
        parts = [ours(x[:, :4]), ours(x[:, 4:])]
        checks.close(ops.concatenate(parts, axis=1), whole(x)[0])
        ours.reset_state()


@KINDS
def test_the_cell_step_by_step_equals_the_layer(kind):
    layer, _ = twins(kind)
    x, states = data(kind)
    outputs, *last = layer(x, initial_state=states)
    for t in range(T):
        output, states = layer.cell(x[:, t], states)
        checks.close(output, outputs[:, t])
    checks.close(states, last)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru_equations(x, h, kernel, recurrent_kernel, bias, mask):
    """Cho et al. (2014) in the form of cuDNN, in double precision: outputs and the last state."""
    outputs = []
    for t in range(x.shape[1]):
        a, b = x[:, t] @ kernel + bias[0], h @ recurrent_kernel + bias[1]
        (az, ar, an), (bz, br, bn) = np.split(a, 3, axis=1), np.split(b, 3, axis=1)
        z, n = sigmoid(az + bz), np.tanh(an + sigmoid(ar + br) * bn)
        h = np.where(mask[:, t, None], z * h + (1 - z) * n, h)
        outputs.append(h)
    return np.stack(outputs, axis=1), h


def lstm_equations(x, h, c, kernel, recurrent_kernel, bias, mask):
    """Hochreiter & Schmidhuber (1997) with a forget gate, in double precision: outputs and the last states."""
    outputs = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent_kernel + bias, 4, axis=1)
        new = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        c = np.where(mask[:, t, None], new, c)
        h = np.where(mask[:, t, None], sigmoid(o) * np.tanh(new), h)
        outputs.append(h)
    return np.stack(outputs, axis=1), h, c


@KINDS
@pytest.mark.parametrize("mask", ["holes", "late"])
def test_outputs_and_gradients_obey_the_equations(kind, mask):
    mask = {"holes": HOLES, "late": LATE}[mask]
    layer, _ = twins(kind)
    x, states = data(kind)
    equations = {"gru": gru_equations, "lstm": lstm_equations}[kind]
    points = [np.float64(a) for a in (x, *states, *layer.get_weights())]

    def loss():
        return sum((y * np.cos(np.arange(y.size)).reshape(y.shape)).sum() for y in equations(*points, mask))

    out, gradients = results(layer, x, states, mask)
    checks.close(out, equations(*points, mask))
    for point, gradient in zip(points, checks.arrays(gradients), strict=True):
        numeric = np.zeros_like(point)
        for i in np.ndindex(point.shape):
            value, ends = point[i], []
            for step in (1e-5, -1e-5):
                point[i] = value + step
                ends.append(loss())
            point[i] = value
            numeric[i] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5)


@KINDS
def test_config_round_trip(kind):
    settings = {"units": 3, "dropout": 0.1, "return_sequences": True, "go_backwards": True, "activation": "tanh"}
    checks.config_round_trip(PAIRS[kind][0], **settings)


@KINDS
def test_keras_file_round_trip(kind, tmp_path):
    model = keras.Sequential([keras.Input((None, N)), PAIRS[kind][0](U, dropout=0.2), keras.layers.Dense(1)])
    model.compile("adam", "mse", run_eagerly=True)
    checks.keras_file_round_trip(model, data(kind)[0], np.ones((B, 1), "float32"), tmp_path)


@KINDS
def test_unknown_batch_and_length(kind):
    layer, _ = twins(kind)
    checks.symbolic_agrees(layer, data(kind)[0])
    checks.any_batch_and_length(layer, data(kind)[0])


@KINDS
def test_padding_does_not_matter_and_the_layer_is_causal(kind):
    layer, _ = twins(kind)
    checks.padding_does_not_matter(lambda x, mask: layer(x, mask=mask)[0], data(kind)[0], [7, 3, 5])
    checks.causal(lambda x: layer(x)[0], data(kind)[0])


@KINDS
def test_gradients_reach_every_weight(kind):
    layer, _ = twins(kind)
    checks.gradients_reach(layer, layer.trainable_variables, data(kind)[0])


@KINDS
def test_mixed_precision(kind):
    checks.mixed_precision(lambda dtype: PAIRS[kind][0](U, return_sequences=True, dtype=dtype), data(kind)[0])


@KINDS
def test_one_batch_overfits(kind):
    x, states = data(kind)
    model = keras.Sequential([PAIRS[kind][0](16), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.03), "mse", jit_compile=False)
    checks.overfits(model, x, states[0][:, :1])


@pytest.mark.xdist_group("jax")
@pytest.mark.parametrize("name", ["GRU", pytest.param("LSTM", marks=pytest.mark.slow)])
def test_gradients_on_jax_equal_keras(name):
    script = """
import json, sys
import jax, keras
import numpy as np
from homl_models.layers import recurrent

assert keras.backend.backend() == "jax"
rng = np.random.default_rng(0)
x = rng.normal(size=(3, 7, 4)).astype("float32")
mask = np.arange(7) < np.array([[7], [3], [5]])

def gradients_of(layer):
    layer.build((None, None, 4))
    weights = [jax.numpy.array(np.random.default_rng(1).normal(0, 0.5, w.shape), "float32") for w in layer.weights]

    def loss(weights, x):
        out, _ = layer.stateless_call(weights, [v.value for v in layer.non_trainable_variables], x, mask=mask)
        return sum((y * jax.numpy.sin(jax.numpy.arange(y.size)).reshape(y.shape)).sum() for y in out)

    return jax.tree_util.tree_leaves(jax.jit(jax.grad(loss, (0, 1)))(weights, x))

theirs, ours = (
    gradients_of(getattr(module, sys.argv[1])(5, return_sequences=True, return_state=True))
    for module in (keras.layers, recurrent)
)
print(json.dumps([float(abs(a - b).max() / abs(a).max()) for a, b in zip(theirs, ours)]))
"""
    found = processes.run(script, name, process=processes.JAX)
    assert len(found) == 4
    assert max(found) < 1e-5
