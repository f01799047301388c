"""Autoencoders, against the book's networks of Keras' layers, PCA and greedy training by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from homl_models.errors import UserError
from homl_models.layers.dropout import Dropout
from homl_models.layers.gaussian import GaussianNoise
from homl_models.models.autoencoders import (
    ConvAutoencoder,
    GreedyAutoencoder,
    RecurrentAutoencoder,
    StackedAutoencoder,
)
from homl_models.regularizers import KLDivergenceRegularizer, L1ActivityRegularizer
from homl_models.training.stages import load_by_name
from tests import checks

DIGITS = np.float32(load_digits().images / 16)
X = DIGITS[:12]
SMALL = {"image_shape": (8, 8), "hidden_units": (20, 12), "coding_size": 6}
KINDS = {
    "stacked": lambda **more: StackedAutoencoder(**SMALL | more),
    "tied": lambda **more: StackedAutoencoder(**SMALL, tied=True, **more),
    "hashing": lambda **more: StackedAutoencoder(**SMALL, coding_activation="sigmoid", coding_noise=15.0, **more),
    "greedy": lambda **more: GreedyAutoencoder(**SMALL, **more),
    "conv": lambda **more: ConvAutoencoder((4, 8), 6, (8, 4), image_shape=(8, 8), **more),
    "recurrent": lambda **more: RecurrentAutoencoder(12, 6, image_shape=(8, 8), **more),
}
EVERY = pytest.mark.parametrize("kind", KINDS)


def make(kind, **more):
    keras.utils.set_random_seed(0)
    model = KINDS[kind](**more)
    model.build()
    for weight in model.trainable_weights:
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.05, seed=1))  # biases too
    return model


def compiled(model, optimizer="adam", eager=True):
    model.compile(optimizer, "mse", run_eagerly=eager)
    return model


def dense(x, layer, activation=None):
    kernel, bias = (np.float64(w) for w in layer.weights[:2])
    x = x @ kernel + bias
    return np.maximum(x, 0) if activation == "relu" else x


# Outputs.


def test_stacked_is_its_dense_layers():
    model = make("stacked")
    x = X.reshape(12, 64)
    for layer in model.encoder:
        x = dense(x, layer, "relu")
    checks.close(model.encode(X), x)
    for layer, activation in zip(model.decoder, ["relu", "relu", None]):
        x = dense(x, layer, activation)
    checks.close(model(X), x.reshape(12, 8, 8))
    assert [layer.units for layer in [*model.encoder, *model.decoder]] == [20, 12, 6, 12, 20, 64]


def test_tied_is_stacked_with_transposed_kernels_and_half_the_parameters():
    tied, stacked = make("tied"), make("stacked")
    for one, other in zip(stacked.encoder, tied.encoder):
        one.set_weights(other.get_weights())
    for one, other, mirrored in zip(stacked.decoder, tied.decoder, reversed(tied.encoder)):
        one.set_weights([mirrored.kernel.numpy().T, other.bias.numpy()])
    checks.close(tied(X), stacked(X))
    kernels = sum(w.numpy().size for w in tied.weights if len(w.shape) == 2)
    assert kernels * 2 == sum(w.numpy().size for w in stacked.weights if len(w.shape) == 2)
    assert len(tied.weights) == 3 + 6


def test_conv_is_the_books(tmp_path):
    """The book's network in Keras' layers, for images of 28x28, with the weights copied; gradients as well."""
    layers = keras.layers
    book = keras.Sequential([layers.Input((28, 28)), layers.Reshape([28, 28, 1])])
    for filters in (16, 32, 64):
        book.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        book.add(layers.MaxPool2D(pool_size=2))
    book.add(layers.Conv2D(30, 3, padding="same", activation="relu"))
    book.add(layers.GlobalAvgPool2D())
    book.add(layers.Dense(3 * 3 * 16))
    book.add(layers.Reshape((3, 3, 16)))
    book.add(layers.Conv2DTranspose(32, 3, strides=2, activation="relu"))
    book.add(layers.Conv2DTranspose(16, 3, strides=2, padding="same", activation="relu"))
    book.add(layers.Conv2DTranspose(1, 3, strides=2, padding="same"))
    book.add(layers.Reshape([28, 28]))
    ours = ConvAutoencoder()
    ours.build()
    ours.set_weights(book.get_weights())
    x = np.random.default_rng(0).uniform(size=(3, 28, 28)).astype("float32")
    checks.close(ours(x), book(x))
    gradients = []
    for model in (ours, book):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - x))
        gradients.append(tape.gradient(loss, [w.value for w in model.trainable_weights]))
    checks.close(*gradients)


def test_recurrent_is_the_books():
    layers = keras.layers
    book = keras.Sequential(
        [
            layers.Input((8, 8)),
            layers.LSTM(12, return_sequences=True),
            layers.LSTM(6),
            layers.RepeatVector(8),
            layers.LSTM(12, return_sequences=True),
            layers.Dense(8),
        ]
    )
    ours = make("recurrent")
    book.set_weights(ours.get_weights())
    checks.close(ours(X), book(X))


@pytest.mark.parametrize("shape", [(8, 8), (9, 12), (12, 10, 3), (28, 28), (7, 7, 1)])
def test_any_shape_of_images(shape):
    x = np.random.default_rng(0).uniform(size=(2, *shape)).astype("float32")
    for model in (
        StackedAutoencoder((5,), 3, image_shape=shape),
        ConvAutoencoder((4, 8), 3, (8, 4), image_shape=shape),
        RecurrentAutoencoder(5, 3, image_shape=shape),
    ):
        model.build()
        assert model.encode(x).shape == (2, 3)
        assert model(x).shape == x.shape


# Noise and sparsity.


@pytest.mark.parametrize("noise", [Dropout(0.5, seed=1), GaussianNoise(0.3, seed=1)])
def test_images_are_corrupted_in_training_only(noise):
    plain, model = make("stacked"), make("stacked", noise=type(noise).from_config(noise.get_config()))
    checks.close(model(X), plain(X))
    corrupted = noise(X, training=True)
    assert np.abs(corrupted - X).max() > 0.1
    checks.close(model(X, training=True), plain(corrupted))


@pytest.mark.parametrize("regularizer", [L1ActivityRegularizer(0.2), KLDivergenceRegularizer(0.2, 0.3)])
def test_the_regularizer_of_the_codings_is_added_to_the_loss(regularizer):
    sigmoid = {"coding_activation": "sigmoid"}
    plain, model = make("stacked", **sigmoid), make("stacked", **sigmoid, coding_regularizer=regularizer)
    codings = model.encode(X)
    mse = np.square(np.float64(plain(X)) - X).mean()
    loss = compiled(model).evaluate(X, X, verbose=0)
    assert loss == pytest.approx(mse + float(regularizer(codings)), rel=1e-5)
    before = model.encoder[-1].kernel.numpy()
    model.optimizer.learning_rate = 1e-2
    for _ in range(30):
        model.train_on_batch(X, X)
    assert float(regularizer(model.encode(X))) < 0.5 * float(regularizer(codings))
    assert (model.encoder[-1].kernel.numpy() != before).any()


def test_kl_holds_the_mean_activity_at_its_target():
    keras.utils.set_random_seed(1)
    settings = {"coding_activation": "sigmoid", "coding_regularizer": KLDivergenceRegularizer(5e-3, 0.1)}
    model = StackedAutoencoder((40,), 50, image_shape=(8, 8), **settings)
    model.build()
    model.compile(keras.optimizers.Adam(3e-3), "mse", steps_per_execution=50)
    model.fit(tf.data.Dataset.from_tensors((DIGITS, DIGITS)).repeat(600), shuffle=False, verbose=0)
    activity = model.codings(DIGITS).mean(0)
    assert abs(activity.mean() - 0.1) < 0.01
    assert np.abs(activity - 0.1).max() < 0.05
    assert np.square(model.reconstruct(DIGITS) - DIGITS).mean() < 0.02


def test_hashing_adds_noise_before_the_coding_in_training_only():
    model = make("hashing")
    quiet, loud = model.encode(X), model.encode(X, training=True)
    checks.close(quiet, make("hashing").encode(X))
    hidden = X.reshape(12, 64)
    for layer in model.encoder[:-1]:
        hidden = dense(hidden, layer, "relu")
    checks.close(quiet, 1 / (1 + np.exp(-dense(hidden, model.encoder[-1]))))
    assert np.abs(np.float64(loud) - np.float64(quiet)).max() > 0.3
    np.testing.assert_array_equal(model.hash(X), np.array(quiet) > 0.5)
    assert model.hash(X).dtype == bool


# Training.


def test_a_linear_autoencoder_finds_the_principal_components():
    """scikit-learn's PCA: the angles between the subspaces, and the error of the reconstruction."""
    keras.utils.set_random_seed(0)
    model = StackedAutoencoder((), 4, coding_activation=None, image_shape=(8, 8))
    model.build()
    steps = 4000
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, steps)),
        "mse", steps_per_execution=200,
    )  # fmt: skip
    model.fit(tf.data.Dataset.from_tensors((DIGITS, DIGITS)).repeat(steps), shuffle=False, verbose=0)
    flat = np.float64(DIGITS.reshape(-1, 64))
    pca = PCA(4).fit(flat)
    best = np.square(pca.inverse_transform(pca.transform(flat)) - flat).mean()
    ours = np.square(np.float64(model(DIGITS)).reshape(-1, 64) - flat).mean()
    assert best * (1 - 1e-6) < ours < best * (1 + 1e-4)
    directions = np.linalg.qr(np.float64(model.decoder[0].kernel).T)[0]
    cosines = np.linalg.svd(directions.T @ pca.components_.T, compute_uv=False)
    assert np.arccos(np.clip(cosines, -1, 1)).max() < 1e-3


def test_greedy_training_is_training_each_pair_of_layers_by_hand(tmp_path):
    """Each pair as a model of its own, in Keras' layers, on the outputs of the layers before it; then all together."""
    batches = np.split(DIGITS[:60], 6)
    start = make("stacked")
    layers = [keras.layers.Dense.from_config(layer.get_config()) for layer in [*start.encoder, *start.decoder]]
    for copy, layer in zip(layers, [*start.encoder, *start.decoder]):
        copy.build(layer.get_build_config()["input_shape"])
        copy.set_weights(layer.get_weights())

    def by_hand(pair, before):
        model = keras.Sequential(pair)
        model.compile(keras.optimizers.Adam(1e-2), "mse", run_eagerly=True)
        for batch in batches:
            h = batch.reshape(-1, 64)
            for layer in before:
                h = layer(h)
            model.train_on_batch(np.array(h), np.array(h))

    for i in range(3):
        by_hand([layers[i], layers[5 - i]], layers[:i])
    by_hand(layers, [])

    start.save_weights(tmp_path / "start.weights.h5")
    stages = [lambda i=i: make("greedy", layer=i) for i in range(3)]
    for i, stage in enumerate([*stages, lambda: make("stacked")]):
        model = compiled(stage(), keras.optimizers.Adam(1e-2))
        load_by_name(model, tmp_path / "start.weights.h5")
        pair = [*model.encoder, *model.decoder] if i == 3 else [model.encoder[i], model.decoder[-1 - i]]
        trained = {id(w) for layer in pair for w in layer.weights}
        before = {id(w): w.numpy() for w in model.weights}
        for batch in batches:
            model.train_on_batch(batch, batch)
        for w in model.weights:
            assert (w.numpy() != before[id(w)]).any() == (id(w) in trained)
        model.save_weights(tmp_path / "start.weights.h5")
    for layer, copy in zip([*model.encoder, *model.decoder], layers):
        checks.close(layer.weights, copy.weights)


def test_a_layer_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="layer must lie in 0 to 2, not 3"):
        make("greedy", layer=3)


def test_tied_weights_stay_tied_through_training_files_and_export(tmp_path):
    model = compiled(make("tied"))
    model.train_on_batch(X, X)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one.train_on_batch(X, X)
        x = X.reshape(12, 64)
        for layer in one.encoder:
            x = dense(x, layer, "relu")
        for layer, mirrored, activation in zip(one.decoder, reversed(one.encoder), ["relu", "relu", None]):
            x = x @ np.float64(mirrored.kernel).T + np.float64(layer.bias)
            x = np.maximum(x, 0) if activation else x
        checks.close(one(X), x.reshape(12, 8, 8))
    checks.close(loaded.weights, model.weights)
    assert len({id(w) for w in loaded.weights}) == 9


@EVERY
def test_a_batch_can_be_overfitted(kind):
    model = compiled(make(kind), keras.optimizers.Adam(1e-2), eager=False)
    if kind == "greedy":  # its loss is of one pair of layers
        model = compiled(make("stacked"), keras.optimizers.Adam(1e-2), eager=False)
    if kind == "hashing":
        model.noise_before_coding.stddev = 0.0
    checks.overfits(model, X, X, steps=150, share=0.5)


# Checks of every model.


@EVERY
def test_files_shapes_and_precision(kind, tmp_path):
    settings = {"image_shape": (8, 8), "noise": None, "coding_regularizer": None}
    checks.config_round_trip(type(make(kind)), **settings)
    checks.keras_file_round_trip(compiled(make(kind)), X, X, tmp_path)
    model = make(kind)
    checks.symbolic_agrees(model, X, unknown=(0,))
    checks.any_batch_and_length(model, X, unknown=(0,))
    checks.gradients_reach(model, model.trainable_weights, X)
    checks.mixed_precision(lambda dtype: make(kind, dtype=dtype), X)


@pytest.mark.xla
@pytest.mark.parametrize(
    "kind", ["stacked", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("conv", "recurrent"))]
)
def test_any_batch_by_xla(kind):
    checks.any_batch_and_length(make(kind), X, unknown=(0,))


def test_noise_and_regularizer_are_saved(tmp_path):
    model = compiled(make("stacked", noise=Dropout(0.3), coding_regularizer=KLDivergenceRegularizer(0.1, 0.2)))
    checks.keras_file_round_trip(model, X, X, tmp_path)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.noise.rate == 0.3
    assert loaded.coding_regularizer.get_config() == {"weight": 0.1, "target": 0.2}


@EVERY
def test_endpoints_are_the_methods(kind, tmp_path):
    model = make(kind)
    codings = model.codings(X)
    calls = {"reconstruct": [X], "encode": [X], "decode": [codings]}
    calls |= {"hash": [X]} if kind == "hashing" else {}
    assert set(calls) == set(model.endpoints())
    checks.export_agrees(model, tmp_path / "saved", calls)
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    for n in (1, 5):
        checks.close(saved.reconstruct(tf.constant(X[:n]))["images"], model.reconstruct(X[:n]))
        checks.close(saved.encode(tf.constant(X[:n]))["codings"], codings[:n])
    if kind == "hashing":
        np.testing.assert_array_equal(saved.hash(tf.constant(X))["bits"], model.hash(X))
    with pytest.raises(tf.errors.InvalidArgumentError, match="must lie in"):
        saved.encode(tf.constant(X * 255))


def test_reconstructions_of_bytes_and_of_many_images_stay_in_range():
    model = make("stacked")
    many = np.concatenate([DIGITS[:700]])
    checks.close(model.reconstruct(many), np.clip(np.float64(model(many)), 0, 1))
    checks.close(model.codings(np.uint8(X * 255)), model.codings(np.uint8(X * 255) / 255))
    assert model.reconstruct(X[:0]).shape == (0, 8, 8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 28, 28)), r"shape \(n, 8, 8\)"),
        (X * 2, "must lie in"),
        (X * np.nan, "must lie in"),
        (X[0], "shape"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, message):
    with pytest.raises(UserError, match=message):
        make("stacked").codings(images)


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="image_shape must be"):
        StackedAutoencoder(image_shape=(64,))
    with pytest.raises(UserError, match="cannot be halved 3 times"):
        ConvAutoencoder(image_shape=(7, 7))
    with pytest.raises(UserError, match="same length"):
        ConvAutoencoder((4, 8), 3, (8, 4, 2))
