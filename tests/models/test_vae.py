"""The variational autoencoder: loss and ELBO against double precision and statistics, sampling, endpoints."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from keras import ops
from sklearn.datasets import load_digits

from homl_models.errors import UserError
from homl_models.models.vae import VAE
from tests import checks

DIGITS = np.float32(load_digits().images / 16)
X = DIGITS[:12]
KINDS = {"dense": {}, "bernoulli": {"likelihood": "bernoulli"}, "conv": {"filters": (4, 6)}}
EVERY = pytest.mark.parametrize("kind", KINDS)


def make(kind="dense", **more):
    keras.utils.set_random_seed(0)
    model = VAE(**{"coding_size": 3, "hidden_units": (20, 10), "image_shape": (8, 8), "seed": 4} | KINDS[kind] | more)
    model.build()
    for weight in model.trainable_weights:
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.05, seed=1))  # biases too
    return model


def doubles(y_pred):
    return {name: np.float64(value) for name, value in y_pred.items()}


def loss_terms(kind, x, y):
    """Squared error or cross-entropy, and KL, of each image, from the model's outputs, in double precision."""
    outputs = y["outputs"]
    if kind == "bernoulli":
        p = 1 / (1 + np.exp(-outputs))
        error = -(x * np.log(p) + (1 - x) * np.log(1 - p))
    else:
        error = (outputs - x) ** 2
    kl = (np.exp(y["log_var"]) + y["mean"] ** 2 - 1 - y["log_var"]).sum(-1) / 2
    return error.sum((1, 2)), kl


@EVERY
@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_the_loss_is_the_books(kind, beta):
    """Mean squared error (or cross-entropy) of a pixel plus beta * KL / pixels; both are reported."""
    model = make(kind, beta=beta)
    state = model.sampling.seed_generator.state.numpy()
    error, kl = loss_terms(kind, np.float64(X), doubles(model(X)))
    model.sampling.seed_generator.state.assign(state)
    model.compile("adam", run_eagerly=True)
    found = model.evaluate(X, X, batch_size=12, return_dict=True, verbose=0)
    assert found["loss"] == pytest.approx((error.mean() + beta * kl.mean()) / 64, rel=1e-5)
    assert found["reconstruction"] == pytest.approx(error.mean() / 64, rel=1e-5)
    assert found["kl"] == pytest.approx(kl.mean(), rel=1e-5)


@EVERY
def test_the_elbo_is_the_log_likelihood_minus_kl_in_nats(kind):
    """log p(x | z) by scipy's densities: a normal of variance 1/2, or Bernoulli."""
    model = make(kind)
    y_pred = model(X)
    y, x = doubles(y_pred), np.float64(X)
    if kind == "bernoulli":
        log_p = -loss_terms(kind, x, y)[0]
    else:
        log_p = scipy.stats.norm.logpdf(x, y["outputs"], 0.5**0.5).sum((1, 2))
    checks.close(model.elbo_of_outputs(X, y_pred), log_p - loss_terms(kind, x, y)[1], 2e-5)


def test_the_elbo_lies_below_the_log_likelihood_estimated_by_importance_sampling():
    """Codings z from q: the mean of log (p(x, z) / q(z)) is the ELBO, the log of the mean p(x, z) / q(z) is more."""
    model, x = make("bernoulli"), X[:1]
    mean, log_var = (np.float64(part[0]) for part in model.posterior(x))
    sigma = np.exp(log_var / 2)
    z = mean + sigma * np.random.default_rng(0).normal(size=(20_000, 3))
    logits = np.float64(model.decoder_outputs(np.float32(z)))
    ratios = (x * logits - np.logaddexp(0, logits)).sum((1, 2))
    ratios += (scipy.stats.norm.logpdf(z) - scipy.stats.norm.logpdf(z, mean, sigma)).sum(1)
    many = np.repeat(x, 200, axis=0)
    elbos = np.float64(model.elbo_of_outputs(many, model(many)))
    assert np.mean(elbos) == pytest.approx(ratios.mean(), abs=4 * np.std(elbos) / 200**0.5 + 0.05)
    assert ratios.mean() < np.log(np.exp(ratios - ratios.max()).mean()) + ratios.max()


@EVERY
def test_outputs_come_from_the_sampled_coding(kind):
    model = make(kind)
    state = model.sampling.seed_generator.state.numpy()
    y = model(X)
    model.sampling.seed_generator.state.assign(state)
    coding = model.sampling([y["mean"], y["log_var"]])
    checks.close(model.decoder_outputs(coding), y["outputs"])
    checks.close(model.encode(X), y["mean"])
    pixels = np.float64(model.decoder_outputs(coding))
    pixels = 1 / (1 + np.exp(-pixels)) if kind == "bernoulli" else pixels
    checks.close(model.decode(coding), pixels)
    assert (np.float64(model(X)["outputs"]) != np.float64(y["outputs"])).any()


def test_conv_is_keras_layers_put_together():
    model = make("conv")
    layers = keras.layers
    encoder = keras.Sequential([layers.Input((8, 8)), layers.Reshape((8, 8, 1))])
    for filters in (4, 6):
        encoder.add(layers.Conv2D(filters, 4, strides=2, padding="same", activation="relu"))
    encoder.add(layers.Flatten())
    for units in (20, 10):
        encoder.add(layers.Dense(units, activation="relu"))
    encoder.add(layers.Dense(3))
    decoder = keras.Sequential([layers.Input((3,))])
    for units in (10, 20, 2 * 2 * 6):
        decoder.add(layers.Dense(units, activation="relu"))
    decoder.add(layers.Reshape((2, 2, 6)))
    decoder.add(layers.Conv2DTranspose(4, 4, strides=2, padding="same", activation="relu"))
    decoder.add(layers.Conv2DTranspose(1, 4, strides=2, padding="same"))
    decoder.add(layers.Reshape((8, 8)))
    weights = [w for part in (model.convolutions, model.encoder) for layer in part for w in layer.get_weights()]
    encoder.set_weights(weights + model.mean.get_weights())
    parts = (model.decoder, [model.to_maps], model.transposed)
    decoder.set_weights([w for part in parts for layer in part for w in layer.get_weights()])
    checks.close(model.encode(X), encoder(X))
    checks.close(model.decode(encoder(X)), decoder(encoder(X)))


# Sampling.


def test_samples_are_decoded_from_standard_normal_codings_of_a_seed():
    model = make()
    codings = ops.convert_to_numpy(model.sample_prior(5_000, np.array([1, 0], "uint32")))
    assert scipy.stats.kstest(codings.ravel(), "norm").pvalue > 1e-3
    checks.close(model.sample(7, seed=1), model.decode_codings(model.sample_prior(7, np.array([1, 0], "uint32"))))
    np.testing.assert_array_equal(model.sample(7, seed=1), model.sample(7, seed=1))
    assert (model.sample(7, seed=1) != model.sample(7, seed=2)).any()
    assert model.sample(0).shape == (0, 8, 8)


def test_image_i_of_a_seed_is_the_same_for_any_count_and_bad_counts_are_refused():
    model = make()
    many = model.sample(120, seed=3)
    for count in (1, 8, 101):
        checks.close(model.sample(count, seed=3), many[:count], 1e-6)
    assert model.sample(0).shape == (0, 8, 8)
    checks.fails(r"seed must lie in 0 to 2\^31 - 1, not -1", lambda: model.sample(3, seed=-1))
    checks.fails("count must be 0 or more, not -3", lambda: model.sample(-3))
    sample = model.endpoints()["sample"]
    for count, seed, message in ((2, -1, "seed must lie in"), (-2, 1, "count must be")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            sample(tf.constant(count), tf.constant(seed))


def test_convolutions_make_images_of_any_size():
    model = make("conv", image_shape=(7, 5, 3))
    assert model.sample(3).shape == (3, 7, 5, 3)
    assert model.reconstruct(np.zeros((2, 7, 5, 3))).shape == (2, 7, 5, 3)


def test_interpolation_takes_equal_steps_between_codings():
    model = make()
    ends = model.codings(X[:3])
    path = model.interpolate(X[:3], 5)
    assert len(path) == 10
    checks.close(path[[0, 4, 5, 9]], model.reconstruct(X[[0, 1, 1, 2]]))
    checks.close(path[2], model.decode_codings(ends[:2].mean(0, keepdims=True))[0])
    checks.close(path[8], model.decode_codings(0.25 * ends[1:2] + 0.75 * ends[2:])[0])
    with pytest.raises(UserError, match="2 images or more"):
        model.interpolate(X[:1])


def test_two_models_with_a_seed_train_alike():
    weights = []
    for _ in range(2):
        model = make()
        model.compile("adam", jit_compile=False)
        for _ in range(3):
            model.train_on_batch(X, X)
        weights.append(model.get_weights())
    checks.close(*weights, 0)


@pytest.mark.parametrize("kind", ["dense", "bernoulli", pytest.param("conv", marks=pytest.mark.slow)])
def test_training_raises_the_elbo(kind):
    model = make(kind)
    model.compile(keras.optimizers.Adam(3e-3), steps_per_execution=50)
    before = float(np.mean(model.predict_batched("elbo", DIGITS)))
    model.fit(tf.data.Dataset.from_tensors((DIGITS[:600], DIGITS[:600])).repeat(150), shuffle=False, verbose=0)
    assert float(np.mean(model.predict_batched("elbo", DIGITS))) > before + 5


# Checks of every model.


@EVERY
def test_files_shapes_and_precision(kind, tmp_path):
    checks.config_round_trip(VAE, **KINDS[kind], coding_size=3, hidden_units=(20, 10), beta=2.0, image_shape=(8, 8))
    model = make(kind)
    model.compile("adam", run_eagerly=True)
    model.train_on_batch(X, X)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    checks.close(loaded.weights, model.weights, 0)
    checks.close(loaded.encode(X), model.encode(X))
    checks.any_batch_and_length(model.encode, X, unknown=(0,))
    checks.gradients_reach(model, model.trainable_weights, X)
    exact = make(kind)
    for policy, tolerance in checks.HALF.items():
        half = make(kind, dtype=policy)
        half.set_weights(exact.get_weights())
        half.sampling.seed_generator.state.assign(exact.sampling.seed_generator.state)
        error = np.abs(np.float64(half.encode(X)) - np.float64(exact.encode(X))).max()
        assert 0 < error < 2 * tolerance * np.abs(np.float64(exact.encode(X))).max()
        half.compile("adam", run_eagerly=True)
        assert np.isfinite(half.train_on_batch(X, X)).all()
        assert {w.dtype for w in half.trainable_weights} == {"float32"}


@pytest.mark.xla
@pytest.mark.parametrize("kind", ["dense", pytest.param("conv", marks=pytest.mark.slow)])
def test_any_batch_by_xla(kind):
    checks.any_batch_and_length(make(kind).encode, X, unknown=(0,))


@EVERY
def test_endpoints_are_the_methods(kind, tmp_path):
    model = make(kind)
    codings = model.codings(X)
    calls = {"sample": [6, 2], "reconstruct": [X], "encode": [X], "decode": [codings], "interpolate": [X[:3], 5]}
    assert set(calls) == set(model.endpoints())
    checks.export_agrees(model, tmp_path / "saved", calls)
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    checks.close(saved.sample(tf.constant(6), tf.constant(2))["images"], model.sample(6, 2))
    checks.close(saved.interpolate(tf.constant(X[:3]), tf.constant(5))["images"], model.interpolate(X[:3], 5))
    checks.close(saved.reconstruct(tf.constant(X[:5]))["images"], model.reconstruct(X[:5]))


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="likelihood must be"):
        VAE(likelihood="poisson")
