"""Checks that every layer and model has to pass, one call each.

`function` is a layer, a model or any function of its inputs: a NumPy array (b, t, ...)
or a nest of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops, tree

from homl_models import base
from homl_models.errors import UserError
from homl_models.training.saved_model import write_saved_model

ROOT = Path(__file__).parents[1]
HALF = {"mixed_float16": 5e-3, "mixed_bfloat16": 4e-2}  # policy: error allowed, as a share of the largest output


def arrays(nest):
    """The tensors of a nest as a list of NumPy arrays, floats in double precision."""
    flat = [ops.convert_to_numpy(x) if ops.is_tensor(x) else np.asarray(x) for x in tree.flatten(nest)]
    return [x.astype("float64") if x.dtype.name in ("float16", "bfloat16", "float32") else x for x in flat]


def close(actual, expected, tolerance=1e-5):
    """Two nests hold arrays of the same shapes and close values; strings and whole numbers have to be equal."""
    actual, expected = arrays(actual), arrays(expected)
    assert [x.shape for x in actual] == [x.shape for x in expected]
    for a, b in zip(actual, expected):
        if b.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(a, b)


def config_round_trip(cls, **settings):
    """`cls(**settings)` says its settings in its config, and comes back from it alone, as JSON, and nested."""
    thing = cls(**settings)
    config = thing.get_config()
    assert {name: config[name] for name in settings} == keras.saving.serialize_keras_object(settings)
    assert cls.from_config(config).get_config() == config
    copy = keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.saving.serialize_keras_object(thing))))
    assert type(copy) is cls
    assert copy.get_config() == config
    nested = keras.Sequential.from_config(keras.Sequential([thing]).get_config())
    assert type(nested.layers[0]) is cls
    assert nested.layers[0].get_config() == config


def keras_file_round_trip(model, x, y, folder):
    """A compiled model comes back from a `.keras` file in the middle of training, and goes on training alike."""
    model.train_on_batch(x, y)
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    assert type(loaded) is type(model)
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    close(loaded.weights, model.weights, 0)
    close(loaded(x), model(x))
    for ours, theirs in zip(_optimizers(loaded), _optimizers(model), strict=True):
        assert int(ours.iterations) == 1
        close(ours.variables, theirs.variables, 0)
    before = arrays(model.trainable_variables)
    for ours, theirs in zip(loaded.variables, model.variables, strict=True):
        ours.assign(theirs)  # the state of random generators too, which a `.keras` file does not hold
    for twin in (loaded, model):
        twin.train_on_batch(x, y)
    close(loaded.weights, model.weights)
    assert any((a != b).any() for a, b in zip(before, arrays(model.trainable_variables)))


def _optimizers(model):
    return getattr(model, "optimizers", [model.optimizer])


def symbolic_agrees(function, inputs, unknown=(0, 1)):
    """On `keras.Input`s with unknown axes (batch and length), shapes, dtypes and values are those of eager calls."""
    symbols = tree.map_structure(lambda x: keras.Input(batch_shape=_shape(x, unknown), dtype=x.dtype.name), inputs)
    outputs = function(symbols)
    for symbol, value in zip(tree.flatten(outputs), tree.flatten(function(inputs)), strict=True):
        assert len(symbol.shape) == len(value.shape)
        assert all(a in (None, b) for a, b in zip(symbol.shape, value.shape))
        assert symbol.dtype == keras.backend.standardize_dtype(value.dtype)
    model = keras.Model(symbols, outputs)
    for some in (inputs, _smaller(inputs, unknown)):
        close(model(some), function(some))


def any_batch_and_length(function, inputs, unknown=(0, 1), jit_compile=None):
    """One trace with unknown axes serves every size, with the values of eager calls.

    jit_compile: by XLA; by default in tests marked `xla`.
    """
    jit_compile = base.XLA if jit_compile is None else jit_compile
    signature = tree.map_structure(lambda x: tf.TensorSpec(_shape(x, unknown), x.dtype), inputs)
    traced = tf.function(function, input_signature=[signature], jit_compile=jit_compile)
    for some in (inputs, _smaller(inputs, unknown)):
        close(traced(some), function(some))


def _shape(x, unknown):
    return [None if axis in unknown else n for axis, n in enumerate(x.shape)]


def _smaller(inputs, unknown):
    cut = [slice(-1) if axis in unknown else slice(None) for axis in range(max(unknown) + 1)]
    return tree.map_structure(lambda x: x[tuple(cut[: x.ndim])], inputs)


def padding_does_not_matter(function, inputs, lengths):
    """Up to lengths[i], row i of `function(inputs, mask)` (b, t, ...) is what the row gives alone, without padding."""
    mask = np.arange(inputs.shape[1]) < np.array(lengths)[:, None]
    other = np.where(mask.reshape(*mask.shape, *[1] * (inputs.ndim - 2)), inputs, np.roll(inputs, 1, axis=0))
    assert (other != inputs).any()
    for padded in (inputs, other):
        outputs = function(padded, mask)
        for i, n in enumerate(lengths):
            close(outputs[i, :n], function(inputs[i : i + 1, :n], mask[i : i + 1, :n])[0])


def causal(function, inputs):
    """Outputs (b, t, ...) depend on the input of their own time and not on later ones."""
    (before,) = arrays(function(inputs))
    for t in range(inputs.shape[1]):
        changed = inputs.copy()
        changed[:, t] = np.roll(inputs[:, t], 1, axis=0)
        (after,) = arrays(function(changed))
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert (after[:, t] != before[:, t]).any()


def gradients_reach(function, weights, inputs):
    """A random sum of the outputs has a gradient at every weight: there, finite, and not all zero."""
    with tf.GradientTape() as tape:
        outputs = tree.flatten(function(inputs))
        loss = sum(ops.sum(y * keras.random.normal(y.shape, dtype=y.dtype, seed=i)) for i, y in enumerate(outputs))
    for weight, gradient in zip(weights, tape.gradient(loss, [w.value for w in weights]), strict=True):
        assert gradient is not None, weight.path
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(gradient).all(), weight.path
        assert gradient.any(), weight.path


def mixed_precision(make, inputs):
    """`make(dtype=policy)` computes in half precision, keeps float32 variables, and stays close to float32."""
    exact = make(dtype="float32")
    expected = arrays(exact(inputs))
    for policy, tolerance in HALF.items():
        half = make(dtype=policy)
        half(inputs)
        half.set_weights(exact.get_weights())
        assert half.compute_dtype == policy.removeprefix("mixed_")
        assert {v.dtype for v in half.variables if "float" in v.dtype} == {"float32"}
        for a, b in zip(arrays(half(inputs)), expected, strict=True):
            assert np.isfinite(a).all()
            assert 0 < np.abs(a - b).max() <= tolerance * np.abs(b).max(), policy


def overfits(model, x, y, steps=60, share=0.2):
    """Trained on one batch, a compiled model brings its loss below a share of what it was."""
    losses = []
    for _ in range(steps):
        model.reset_metrics()
        losses.append(model.train_on_batch(x, y, return_dict=True)["loss"])
    assert losses[-1] < share * losses[0]


def export_agrees(model, folder, calls):
    """Every endpoint of the SavedModel gives what the model's own function gives for calls[name], its arguments."""
    write_saved_model(model, folder)
    loaded = tf.saved_model.load(str(folder))
    for name, endpoint in model.endpoints().items():
        arguments = tensors(endpoint, calls[name])
        close(getattr(loaded, name)(*arguments), endpoint(*arguments))


def tensors(endpoint, values):
    """Values for the inputs of an endpoint, in their order, as tensors."""
    return [tf.constant(value, spec.dtype) for value, spec in zip(values, endpoint.signature, strict=True)]


def fails(what, function, *named):
    """`function` raises a `UserError` of one line that says `what` and names what is to be done."""
    with pytest.raises(UserError, match=what) as error:
        function()
    assert "\n" not in str(error.value)
    assert all(name in str(error.value) for name in named), error.value


def in_fresh_process(script, *arguments, **environment):
    """The last line, of JSON, that a Python script prints, run by itself from the root of the repository."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
