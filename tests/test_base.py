"""`base.Model`: what it saves is what it was constructed with, however it is nested."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models.base import Model
from homl_models.endpoints import Array, Endpoint
from homl_models.models.char_rnn import CharRNN
from homl_models.training.saved_model import write_saved_model


@keras.saving.register_keras_serializable("homl_models_tests")
class Scaled(Model):
    """A model of a model, a layer and plain values, all with defaults."""

    def __init__(self, inner=None, layer=None, scales=(1.0, 2.0), names=None, factor=3, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.layer, self.scales, self.names, self.factor = inner, layer, scales, names, factor

    def call(self, ids):
        return self.layer(self.inner(ids)) * self.scales[0] * self.factor


@keras.saving.register_keras_serializable("homl_models_tests")
class Shifted(Scaled):
    """Its own argument, and those of its parent through **kwargs."""

    def __init__(self, shift=0.0, **kwargs):
        super().__init__(**kwargs)
        self.shift = shift

    def call(self, ids):
        return super().call(ids) + self.shift


@pytest.fixture
def model():
    inner = CharRNN("abcd", units=5, embed_dim=3, tie_weights=True)
    arguments = {"inner": inner, "layer": keras.layers.Dense(2), "scales": (0.5, 4.0), "names": {"a": [1, 2]}}
    return Shifted(shift=7.0, factor=2, name="mine", **arguments)


def without_build(config):
    """A configuration without the shapes that nested layers were built with, which are no arguments."""
    if isinstance(config, dict):
        return {key: without_build(value) for key, value in config.items() if key != "build_config"}
    return config


def test_argument_names_include_those_of_parents():
    assert Shifted.argument_names() == ["shift", "inner", "layer", "scales", "names", "factor"]


def test_config_equals_the_constructor_arguments_not_the_defaults(model):
    again = Shifted.from_config(model.get_config())
    assert (again.shift, again.factor, again.scales, again.name) == (7.0, 2, (0.5, 4.0), "mine")
    assert again.names == {"a": (1, 2)}
    assert isinstance(again.inner, CharRNN)
    assert (again.inner.units, again.inner.tie_weights) == (5, True)
    assert again.layer.units == 2
    assert without_build(again.get_config()) == without_build(model.get_config())


def test_a_nested_model_survives_saving_with_its_outputs_and_optimizer(model, tmp_path):
    ids = np.array([[0, 1, 2], [3, 3, 1]])
    model.compile("adam", loss="mse")
    model.fit(ids, np.ones((2, 3, 2)), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is Shifted
    assert without_build(again.get_config()) == without_build(model.get_config())
    np.testing.assert_array_equal(again(ids), model(ids))
    assert len(again.optimizer.variables) == len(model.optimizer.variables) > 5
    for ours, theirs in zip(again.optimizer.variables, model.optimizer.variables):
        np.testing.assert_array_equal(ours, theirs)


def test_a_model_of_another_precision_keeps_it_when_loaded(tmp_path):
    model = CharRNN("abcd", units=5, dtype="mixed_bfloat16")
    ids = np.array([[0, 1, 2]])
    expected = model(ids)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.recurrent[0].compute_dtype == "bfloat16"
    np.testing.assert_array_equal(again(ids), expected)


@keras.saving.register_keras_serializable("homl_models_tests")
class Counted(Model):
    """A model that counts how often Python comes by its step and its endpoint, which is each time they are traced."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layer, self.steps, self.calls = keras.layers.Dense(1), 0, 0

    def call(self, x):
        return self.layer(x)

    def train_step(self, *given):
        self.steps += 1
        return super().train_step(*given)

    def endpoints(self):
        def twice(x):
            self.calls += 1
            return {"y": 2 * self(x)}

        return {"twice": Endpoint(twice, [Array("x", None, 3)])}


def test_a_step_and_an_endpoint_are_traced_once(tmp_path):
    model, x = Counted(), np.ones((4, 3), "float32")
    model(x)
    model.compile("adam", "mse")
    model.fit(x, x[:, :1], epochs=2, verbose=0)
    assert model.steps == 1
    assert int(model.optimizer.iterations) == 2
    write_saved_model(model, tmp_path / "saved")
    assert model.calls == 1
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.twice(x)["y"], 2 * model(x), rtol=1e-6)
    np.testing.assert_allclose(loaded.signatures["twice"](x=tf.constant(x))["y"], 2 * model(x), rtol=1e-6)
