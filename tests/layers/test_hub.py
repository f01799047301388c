"""`HubLayer` on modules that are made here, of texts and of images; against `tensorflow_hub` where it is installed."""

import hashlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models.errors import UserError
from homl_models.layers.hub import HubLayer, resolve
from tests.checks import close
from tests.layers import hub_modules

TEXTS = ["good film", "bad bad", "no"]
IMAGES = np.random.default_rng(0).random((2, 5, 4, 3), "float32")


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """{name: folder of the module}"""
    folder = tmp_path_factory.mktemp("modules")
    made = {"text": hub_modules.save_text, "image": hub_modules.save_image, "reusable": hub_modules.save_reusable}
    return {name: save(folder / name) for name, save in made.items()}


def fitted(layer, x, y, steps=1):
    """A model of the layer alone after steps of stochastic gradient descent, at the rate of 1."""
    dtype = "string" if x.dtype == tf.string else "float32"
    model = keras.Sequential([keras.Input(x.shape[1:], dtype=dtype), layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(x, y, batch_size=len(y), epochs=steps, verbose=0)
    return model


def test_texts_and_images_are_computed_as_by_the_module(modules):
    text, image = HubLayer(modules["text"]), HubLayer(modules["image"])
    close(text(tf.constant(TEXTS)), hub_modules.embed(TEXTS))
    close(image(IMAGES), IMAGES.mean(axis=(1, 2)) @ hub_modules.KERNEL)
    symbolic = text(keras.Input((), dtype="string")), image(keras.Input((None, None, 3)))
    assert [x.shape for x in symbolic] == [(None, 2), (None, 4)]


def test_variables_of_a_plain_module_train_as_they_say_and_only_when_asked(modules):
    images, targets = IMAGES, np.zeros((2, 4), "float32")
    means = images.mean(axis=(1, 2))
    expected = hub_modules.KERNEL - means.T @ (means @ hub_modules.KERNEL) * 2 / targets.size
    layer = HubLayer(modules["image"], trainable=True)
    fitted(layer, images, targets)
    close(layer.trainable_variables, [expected])
    frozen = HubLayer(modules["image"])
    assert not frozen.trainable_variables
    assert [tuple(x.shape) for x in frozen.non_trainable_variables] == [(3, 4)]
    text = HubLayer(modules["text"], trainable=True)
    assert [tuple(x.shape) for x in text.trainable_variables] == [(4, 2)]
    assert [tuple(x.shape) for x in text.non_trainable_variables] == [()]
    fitted(text, tf.constant(["good"]), np.zeros((1, 2), "float32"))
    close(text.trainable_variables, [hub_modules.VECTORS * [[0], [1], [1], [1]]])


def test_a_reusable_module_is_told_of_training_and_gives_its_regularization(modules):
    x = np.ones((1, 2), "float32")
    trained, frozen = HubLayer(modules["reusable"], trainable=True), HubLayer(modules["reusable"])
    close([trained(x), trained(x, training=True), frozen(x, training=True)], [3 * x, 6 * x, 3 * x])
    close(HubLayer(modules["reusable"], arguments={"factor": 10.0})(x), 30 * x)
    assert [float(loss) for loss in trained.losses] == [4.5]
    assert not frozen.losses
    assert (len(trained.trainable_variables), len(trained.non_trainable_variables)) == (1, 1)
    fitted(trained, x, 5 * x)  # d/dw of (2 w - 5)^2 + w^2 / 2 is 4 (2 w - 5) + w
    close(trained.trainable_variables, [3.0 - (4 * 1 + 3)])


def test_signatures_and_outputs_are_chosen_by_name(modules):
    texts, vectors = tf.constant(TEXTS), hub_modules.embed(TEXTS)
    several = HubLayer(modules["text"], signature="serving_default")(texts)
    close(several, {"vectors": vectors, "lengths": np.array([9, 7, 2])})
    close(HubLayer(modules["text"], signature="serving_default", output_key="vectors")({"texts": texts}), vectors)
    close(HubLayer(modules["text"], signature="vectors")(texts), vectors)  # the only output
    with pytest.raises(UserError, match="no signature 'x'; it has serving_default, vectors"):
        HubLayer(modules["text"], signature="x")
    with pytest.raises(UserError, match="no output 'x'; it has"):
        HubLayer(modules["text"], signature="serving_default", output_key="x")(texts)
    with pytest.raises(UserError, match="a single output"):
        HubLayer(modules["text"], output_key="x")(texts)


def test_a_keras_file_keeps_handle_and_weights(modules, tmp_path):
    inputs = keras.Input((None, None, 3))
    layer = HubLayer(modules["image"], trainable=True, name="module")
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    layer.trained[0].assign(2 * hub_modules.KERNEL)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.get_layer("module").get_config() == layer.get_config()
    close(again.get_layer("module").trained, [2 * hub_modules.KERNEL])
    close(again(IMAGES), model(IMAGES))


def test_half_precision_stays_outside_the_module(modules):
    layer = HubLayer(modules["image"], dtype="mixed_bfloat16")
    output = layer(keras.ops.cast(IMAGES, "bfloat16"))
    assert (output.dtype, layer.variables[0].dtype) == (tf.bfloat16, "float32")


def test_folders_that_are_no_module_are_refused_in_one_line(modules, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"\xff no protocol buffer")
    signatures = tf.Module()
    function = tf.function(lambda x: {"y": x + 1}, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(signatures, str(tmp_path / "signatures"), {"add": function})
    for folder, message in {
        tmp_path / "none": "there is no folder",
        tmp_path / "empty": "is not a SavedModel: it has no saved_model.pb$",
        tmp_path / "broken": "not a SavedModel that can be loaded",
        tmp_path / "signatures": "has no call of its own; give a signature: add",
        modules["text"].removesuffix("/text"): "there is one in .*/image",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            HubLayer(str(folder))
        assert "\n" not in str(caught.value)


URL = "https://tfhub.dev/nobody/module/1"


def test_a_url_is_looked_up_in_the_cache(modules, tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    folder = tmp_path / hashlib.sha1(URL.encode()).hexdigest()  # where tensorflow_hub puts it
    hub_modules.save_image(folder)
    assert resolve(URL) == str(folder)
    close(HubLayer(URL)(IMAGES), IMAGES.mean(axis=(1, 2)) @ hub_modules.KERNEL)
    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)
    with pytest.raises(UserError, match=r"2 is not in the cache of modules, .*homl_models\[tf-hub\]"):
        HubLayer(URL[:-1] + "2")


@pytest.mark.parity
def test_tensorflow_hub_has_the_same_cache_and_says_why_it_cannot_fetch(tmp_path, monkeypatch):
    hub = pytest.importorskip("tensorflow_hub")
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    hub_modules.save_image(tmp_path / hashlib.sha1(URL.encode()).hexdigest())
    assert hub.resolve(URL) == resolve(URL)
    with pytest.raises(UserError, match="is not in the cache of modules, .*and cannot be fetched: ") as caught:
        HubLayer("https://localhost:9/module")
    assert "\n" not in str(caught.value)


@pytest.mark.parity
def test_outputs_and_weights_are_those_of_the_layer_for_keras_2(modules):
    hub = pytest.importorskip("tensorflow_hub")
    for name, x in (("text", tf.constant(TEXTS)), ("image", IMAGES), ("reusable", np.ones((2, 2), "float32"))):
        theirs, ours = (layer(modules[name], trainable=True) for layer in (hub.KerasLayer, HubLayer))
        close(ours(x, training=True), theirs(x, training=True))
        close(ours(x), hub.load(modules[name])(x))
        close(ours.losses, theirs.losses)
    close(ours.trainable_variables, [x.numpy() for x in theirs.trainable_variables])
