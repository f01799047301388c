"""The classifier whose features judge pictures."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from homl_models.errors import UserError
from homl_models.models.feature_net import FeatureNet
from tests import checks

DATA = load_digits()
X, Y = np.float32(DATA.images[:40] / 16), DATA.target[:40]


def make(**more):
    keras.utils.set_random_seed(0)
    model = FeatureNet(**{"filters": (4, 6), "dim": 12, "image_shape": (8, 8), "dropout": 0.2} | more)
    model.build()
    for weight in model.trainable_weights:
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.05, seed=1))
    return model


def compiled(model):
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model


def test_it_is_keras_layers_put_together():
    layers = keras.layers
    reference = keras.Sequential([layers.Input((8, 8)), layers.Reshape((8, 8, 1))])
    for filters in (4, 6):
        for _ in range(2):
            reference.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        reference.add(layers.MaxPooling2D())
    reference.add(layers.Flatten())
    reference.add(layers.Dense(12, activation="relu"))
    features = keras.Model(reference.inputs, reference.outputs)
    reference.add(layers.Dense(10))
    model = make()
    reference.set_weights(model.get_weights())
    checks.close(model(X), reference(X))
    checks.close(model.features(X), features(X))
    found, p = model.judged(X)
    checks.close(found, features(X))
    checks.close(p, keras.ops.softmax(reference(X)))


def test_dropout_is_on_in_training_alone():
    model, plain = make(), make(dropout=0.0)
    plain.set_weights(model.get_weights())
    checks.close(model(X), plain(X, training=True))
    assert (np.array(model(X, training=True)) != np.array(model(X))).any()


def test_it_learns_a_batch():
    model = make(dropout=0.0)
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    checks.overfits(model, X, Y, steps=120, share=0.3)


def test_files_shapes_precision_and_endpoints(tmp_path):
    checks.config_round_trip(FeatureNet, num_classes=7, filters=(3,), dim=5, dropout=0.1, image_shape=(8, 8, 3))
    checks.keras_file_round_trip(compiled(make()), X, Y, tmp_path)
    model = make()
    checks.symbolic_agrees(model, X, unknown=(0,))
    checks.any_batch_and_length(model, X, unknown=(0,))
    checks.gradients_reach(model, model.trainable_weights, X)
    checks.mixed_precision(lambda dtype: make(dtype=dtype), X)
    checks.export_agrees(model, tmp_path / "saved", {"classify": [X], "features": [X]})


def test_pictures_that_are_too_small_are_refused():
    with pytest.raises(UserError, match="cannot be halved 4 times"):
        FeatureNet(filters=(1, 2, 3, 4), image_shape=(8, 8))
