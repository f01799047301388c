"""Image classifiers: `FeatureNet`, and `EncoderClassifier` on an autoencoder's encoder."""

import dataclasses

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import homl_models
from homl_models.errors import UserError
from homl_models.models.autoencoders import ConvAutoencoder, RecurrentAutoencoder, StackedAutoencoder
from homl_models.models.feature_net import EncoderClassifier, FeatureNet
from homl_models.models.vae import VAE
from homl_models.recipes import get
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


def compiled(model, learning_rate=1e-3, eager=True):
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=eager,
    )
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
    for layer, other in zip([x for x in reference.layers if x.weights], [*model.convolutions, model.dense, model.head]):
        layer.set_weights(other.get_weights())
    checks.close(model(X), reference(X))
    checks.close(model.features(X), features(X))
    maps = keras.Model(reference.inputs, [reference.layers[i].output for i in (2, 5)])(X[..., None])
    found, p = model.features_and_probabilities(X)
    checks.close(found[:, :10], np.concatenate([np.float64(m).mean((1, 2)) for m in maps], axis=1))
    found = found[:, 10:]
    checks.close(found, features(X))
    checks.close(p, keras.ops.softmax(reference(X)))


def test_names_of_classes_are_saved_and_documented(tmp_path):
    names = tuple("abcdefghij")
    model = make(class_names=names)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").class_names == names
    assert "The classes: a, b, c" in model.endpoints()["classify"].doc
    checks.fails("there must be 10 class_names or none, not 2", lambda: make(class_names=("a", "b")))


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


@pytest.mark.xla
def test_any_batch_by_xla():
    checks.any_batch_and_length(make(), X, unknown=(0,))


def test_images_that_are_too_small_are_refused():
    with pytest.raises(UserError, match="cannot be halved 4 times"):
        FeatureNet(filters=(1, 2, 3, 4), image_shape=(8, 8))


# On the encoder of an autoencoder.

CODERS = {
    "stacked": lambda: StackedAutoencoder((20,), 6, image_shape=(8, 8)),
    "conv": lambda: ConvAutoencoder((4,), 6, (3,), image_shape=(8, 8)),
    "recurrent": lambda: RecurrentAutoencoder(9, 6, image_shape=(8, 8)),
    "vae": lambda: VAE(6, (20,), (3,), image_shape=(8, 8)),
}


def on_coder(kind="stacked", frozen=False, **more):
    keras.utils.set_random_seed(0)
    model = EncoderClassifier(CODERS[kind](), frozen, image_shape=(8, 8), **more)
    model.build()
    return model


@pytest.mark.parametrize("kind", CODERS)
@pytest.mark.parametrize("frozen", [False, True])
def test_classes_are_read_off_the_codings_and_only_the_encoder_is_trained_unless_frozen(kind, frozen):
    model = on_coder(kind, frozen)
    codings = np.float64(model.autoencoder.encode(X))
    checks.close(model.features(X), codings)
    logits = codings @ np.float64(model.head.kernel) + np.float64(model.head.bias)
    checks.close(model(X), logits)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    checks.close(model.features_and_probabilities(X)[1], p)
    before = {weight.path: weight.numpy() for weight in model.weights}
    compiled(model).train_on_batch(X, Y)
    moved = {
        path for path, value in before.items() if (value != {w.path: w for w in model.weights}[path].numpy()).any()
    }
    encoder = {weight.path for layer in model.autoencoder.encoding_layers for weight in layer.weights}
    head = {weight.path for weight in model.head.weights}
    assert head <= moved <= head | encoder
    kernels = {path for path in encoder if "kernel" in path}
    assert moved & kernels == (set() if frozen else kernels)
    if not frozen:
        checks.overfits(compiled(on_coder(kind), 0.03, eager=False), X, Y, steps=100, share=0.6)


@pytest.mark.parametrize("frozen", [False, True])
def test_an_encoder_classifier_is_saved_with_its_encoder(frozen, tmp_path):
    checks.keras_file_round_trip(compiled(on_coder(frozen=frozen, dropout=0.1)), X, Y, tmp_path)
    model = on_coder(frozen=frozen)
    checks.symbolic_agrees(model, X, unknown=(0,))
    checks.any_batch_and_length(model, X, unknown=(0,))
    checks.export_agrees(model, tmp_path / "saved", {"classify": [X], "features": [X]})


def test_an_encoder_of_other_images_is_refused():
    with pytest.raises(UserError, match="the encoder is for images of"):
        EncoderClassifier(StackedAutoencoder((20,), 6, image_shape=(28, 28)), image_shape=(8, 8))


def test_few_labels_start_from_the_weights_of_a_run_or_from_none(trained):
    recipe, folder = get("few_labels_tiny"), trained("autoencoder_tiny")
    trained = homl_models.load(str(folder)).codings(X)
    reused = dataclasses.replace(recipe, encoder=str(folder)).model()
    checks.close(reused.features(X), trained)
    assert np.abs(recipe.model().features(X) - trained).max() > 0.01
    encoder = dataclasses.replace(recipe, encoder="vae_tiny").model().autoencoder
    assert encoder.coding_size == get("vae_tiny").coding_size
    labels = recipe.splits[0][1]
    assert len(labels) == recipe.num_labels
    assert (dataclasses.replace(recipe, seed=1).splits[0][1] != labels).any()
    for bad, message in (("fashion_features", "is no autoencoder"), ("nothing", "neither a run folder")):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(recipe, encoder=bad).model()


def test_images_without_labels_are_refused(tmp_path):
    np.save(tmp_path / "images.npy", X)
    recipe = dataclasses.replace(get("features_tiny"), images=str(tmp_path / "images.npy"))
    with pytest.raises(UserError, match="40 of 40 images have no label"):
        recipe.model()


@pytest.mark.parametrize("name", ["autoencoder_tiny", "vae_tiny"])
def test_the_encoder_may_be_named_by_any_recipe_with_codings(name):
    coder = dataclasses.replace(get("few_labels_tiny"), encoder=name).autoencoder()
    assert coder.coding_size == get(name).coding_size
