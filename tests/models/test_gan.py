"""Adversarial networks: losses against closed forms, training steps, experience replay, sampling and endpoints."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from keras import ops
from sklearn.datasets import load_digits

from homl_models import recipes
from homl_models.errors import UserError
from homl_models.models.gan import GAN, LOSSES
from homl_models.models.gan_gradients import input_gradient
from homl_models.models.gan_networks import Discriminator, Generator
from homl_models.optimizers import GANOptimizer
from homl_models.training.saved_model import write_saved_model
from tests import checks

DIGITS = np.float32(load_digits().images / 16)
X, LABELS = DIGITS[:12], np.arange(12) % 3
KINDS = {
    "dense": ({"hidden_units": (10, 12)}, {"hidden_units": (12, 10)}),
    "conv": ({"filters": (8, 6)}, {"filters": (6, 8)}),
    "conditional": (
        {"filters": (8, 6), "num_classes": 3}, {"filters": (6, 8), "num_classes": 3, "minibatch_stddev": True}
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize("kind", KINDS)


def networks(kind="dense", image_shape=(8, 8), dtype="float32", **discriminator):
    shared = {"image_shape": (*image_shape, 1)[:3], "dtype": dtype}
    of_generator, of_discriminator = KINDS[kind]
    return (
        Generator(5, **shared | of_generator),
        Discriminator(**shared | {"dropout": 0.0} | of_discriminator | discriminator),
    )


def make(kind="dense", compiled=True, traced=False, image_shape=(8, 8), dtype="float32", discriminator=None, **more):
    keras.utils.set_random_seed(0)
    both = networks(kind, image_shape, dtype, **discriminator or {})
    model = GAN(*both, **{"image_shape": image_shape, "dtype": dtype, "seed": 4} | more)
    model.build()
    for i, weight in enumerate([*model.trainable_weights, *model.ema_generator.weights]):
        if "moving" not in weight.path:
            weight.assign(weight + keras.random.normal(weight.shape, stddev=0.1, seed=i))
    if compiled:
        optimizer = GANOptimizer(keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.2))
        model.compile(optimizer, run_eagerly=not traced, jit_compile=False, auto_scale_loss=False)
        model.optimizer.build(model.trainable_variables)
    return model


def inputs(model, x=X):
    return (x, LABELS[: len(x)]) if model.num_classes else x


def labels_of(model, count=12):
    return np.arange(count) % 3 if model.num_classes else None


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Losses.


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_are_those_of_the_papers(smoothing):
    real, fake = np.random.default_rng(0).normal(size=(2, 7)) * 3
    keep = 1 - smoothing
    expected = {
        "non_saturating": (
            -(keep * np.log(sigmoid(real)) + smoothing * np.log(sigmoid(-real))).mean() - np.log(sigmoid(-fake)).mean(),
            -np.log(sigmoid(fake)).mean(),
        ),
        "hinge": (np.maximum(0, keep - real).mean() + np.maximum(0, 1 + fake).mean(), -fake.mean()),
        "wasserstein": (fake.mean() - keep * real.mean(), -fake.mean()),
    }
    assert set(expected) == set(LOSSES)
    for name, (of_discriminator, of_generator) in expected.items():
        checks.close(LOSSES[name][0](np.float32(real), np.float32(fake), smoothing), of_discriminator)
        checks.close(LOSSES[name][1](np.float32(fake)), of_generator)


def test_the_smoothed_loss_is_keras_crossentropy():
    real, fake = np.random.default_rng(0).normal(size=(2, 7, 1)).astype("float32")
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    expected = loss(np.full((7, 1), 0.9), real) + loss(np.zeros((7, 1)), fake)
    checks.close(LOSSES["non_saturating"][0](real, fake, 0.1), expected)


def test_the_penalty_of_a_linear_discriminator_is_known():
    """Its gradient is the kernel everywhere: (|kernel| - 1)^2."""
    model = make("dense", discriminator={"hidden_units": ()})
    kernel = np.float64(model.discriminator.last.kernel)
    maps = [model.normalize(x) for x in (X[:6], X[6:])]
    checks.close(model.penalty(*maps), (np.sqrt((kernel**2).sum()) - 1) ** 2)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_the_penalty_is_of_gradients_between_real_and_generated_images(kind, monkeypatch):
    """Each image's gradient by the Jacobian of all logits, at given places."""
    model = make(kind)
    shares = np.linspace(0, 1, 4, dtype="float32")
    monkeypatch.setattr(model, "uniform", lambda count: ops.convert_to_tensor(shares[:count]))
    real, fake = model.normalize(X[:4]), model.normalize(X[4:8])
    with tf.GradientTape(persistent=True) as tape:
        between = shares[:, None, None, None] * real + (1 - shares)[:, None, None, None] * fake
        tape.watch(between)
        logits = model.discriminator(between)
    slopes = np.float64(tape.jacobian(logits, between, experimental_use_pfor=False)).reshape(4, 4, 64)
    lengths = [np.sqrt((slopes[i, i] ** 2).sum()) for i in range(4)]
    checks.close(model.penalty(real, fake), np.mean([(length - 1) ** 2 for length in lengths]))


def test_the_input_gradient_can_be_differentiated():
    x = tf.constant([1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        slope = input_gradient(lambda x: tf.reduce_sum(x**3), x)
    checks.close(slope, np.array([3.0, 12.0]))
    checks.close(tape.gradient(slope, x), np.array([6.0, 12.0]))


# Training steps.


def copies(network):
    return [np.array(w) for w in network.trainable_weights]


@EVERY
def test_each_phase_moves_its_own_network_by_the_gradient_of_its_loss_alone(kind, monkeypatch):
    model, labels = make(kind, label_smoothing=0.1), labels_of(make(kind, compiled=False))
    codings = np.random.default_rng(0).normal(size=(12, 5)).astype("float32")
    monkeypatch.setattr(model, "random_codings", lambda count: ops.convert_to_tensor(codings))
    generator, discriminator, real = model.generator, model.discriminator, model.normalize(X)
    read = model.with_labels(codings, labels)

    def gradients(network, loss):
        with tf.GradientTape() as tape:
            value = loss()
        return [tf.convert_to_tensor(g) for g in tape.gradient(value, [w.value for w in network.trainable_weights])]

    fake = generator(read, training=True)
    wanted = gradients(
        discriminator,
        lambda: LOSSES["non_saturating"][0](discriminator(real, labels), discriminator(fake, labels), 0.1),
    )
    before = copies(generator), copies(discriminator)
    model.discriminator_step(real, labels)
    checks.close(copies(generator), before[0], 0)
    checks.close(copies(discriminator), [w - 0.2 * np.array(g) for w, g in zip(before[1], wanted)], 1e-6)
    assert all((a != b).any() for a, b in zip(copies(discriminator), before[1]))

    wanted = gradients(
        generator,
        lambda: LOSSES["non_saturating"][1](discriminator(generator(read, training=True), labels)),
    )
    before = copies(generator), copies(discriminator)
    model.generator_step(12, labels)
    checks.close(copies(discriminator), before[1], 0)
    checks.close(copies(generator), [w - 0.1 * np.array(g) for w, g in zip(before[0], wanted)], 1e-6)


@EVERY
def test_a_step_of_fit_is_both_phases_and_the_ema(kind):
    """`train_on_batch` against the phases called one by one, with the same random numbers."""
    settings = {"critic_steps": 3, "gradient_penalty": 1.0}
    one, two = make(kind, traced=kind != "conv", **settings), make(kind, **settings)
    for model in (one, two):
        model.ema_generator.set_weights(model.generator.get_weights())
    one.train_on_batch(inputs(one))
    real, labels = two.normalize(X), labels_of(two)
    for i in range(3):
        part = slice(4 * i, 4 * i + 4)
        two.discriminator_step(real[part], None if labels is None else labels[part])
    two.generator_step(4, None if labels is None else labels[8:])
    two.update_ema()
    checks.close(one.weights, two.weights, 1e-5)
    checks.close(one.ema_generator.weights, one.generator.weights, 1e-6)  # the first takes all
    assert int(one.optimizer.iterations) == 1
    assert int(one.optimizer.generator.iterations) == 1
    assert int(one.optimizer.discriminator.iterations) == 3


def test_the_metrics_are_losses_and_accuracies():
    model = make()
    on_real, on_fake = np.array([1.0, -2, 3, 4, 0, 6]), np.array([-1.0, -2, 3, -4, -5, 6])
    logits = iter([on_real, on_fake, on_fake])
    model.discriminator.call = lambda images, labels=None, training=None: (
        tf.constant(next(logits), "float32")
        + 0 * tf.reduce_sum(images)
        + 0 * tf.reduce_sum(model.discriminator.last.kernel)
    )
    model._step((X[:6],))
    found = {name: float(tracker.result()) for name, tracker in model.trackers.items()}
    assert found["real_accuracy"] == pytest.approx(4 / 6)
    assert found["fake_accuracy"] == pytest.approx(4 / 6)
    of_discriminator, of_generator = LOSSES["non_saturating"]
    assert found["discriminator_loss"] == pytest.approx(
        float(of_discriminator(np.float32(on_real), np.float32(on_fake), 0))
    )
    assert found["generator_loss"] == pytest.approx(float(of_generator(np.float32(on_fake))))


# Experience replay.


@pytest.mark.parametrize("kind", ["dense", "conditional"])
def test_the_replay_buffer_holds_exactly_the_last_generated_images(kind):
    model, seen, classes = make(kind, replay_buffer_size=10), [], []
    for i in range(7):
        count = 4 if i % 2 else 3
        fake = np.random.default_rng(i).normal(size=(count, 8, 8, 1)).astype("float32")
        labels = np.full(count, i % 3) if model.num_classes else None
        given, given_labels = model.replay(fake, labels)
        seen, classes = [*seen, *fake], [*classes, *([i % 3] * count)]
        known = {image.tobytes(): label for image, label in zip(seen[-10:], classes[-10:])}
        held = [np.array(image).tobytes() for image in np.array(model.replay_buffer.images)][: len(seen)]
        assert sorted(held) == sorted(known)
        checks.close(given[: count // 2], fake[: count // 2], 0)
        assert all(np.array(image).tobytes() in known for image in given)
        if model.num_classes:
            assert [known[np.array(image).tobytes()] for image in given] == list(np.array(given_labels))
            assert list(np.array(model.replay_buffer.labels)[: len(held)]) == [known[image] for image in held]
        assert given.shape == fake.shape


def test_the_penalty_lies_between_images_of_one_class(monkeypatch):
    """With experience replay too: each is generated as the class of the real image beside it."""
    model = make("conditional", replay_buffer_size=24, gradient_penalty=1.0)
    asked, seen = {}, []
    generator, penalty = model.generator.call, model.penalty

    def generate(codings, training=None):
        maps = generator(codings, training)
        asked.update(zip((m.tobytes() for m in np.array(maps)), np.array(codings)[:, 5:].argmax(1)))
        return maps

    model.generator.call = generate
    monkeypatch.setattr(model, "penalty", lambda *given: seen.append(given) or penalty(*given))
    for labels in (LABELS, LABELS[::-1], np.roll(LABELS, 1)):
        model.discriminator_step(model.normalize(X), labels)
        _, fake, with_labels = seen[-1]
        assert [asked[m.tobytes()] for m in np.array(fake)] == list(labels) == list(with_labels)


def test_replayed_images_are_chosen_evenly():
    model = make(replay_buffer_size=10)
    model.replay(np.arange(10, dtype="float32").reshape(10, 1, 1, 1) * np.ones((1, 8, 8, 1), "float32"))
    model.replay_buffer.images.assign(np.arange(10).reshape(10, 1, 1, 1) * np.ones((10, 8, 8, 1)))
    hits = np.zeros(10)
    for _ in range(200):
        given, _ = model.replay(np.array(model.replay_buffer.images))
        hits += np.bincount(np.array(given)[5:, 0, 0, 0].astype(int), minlength=10)
        model.replay_buffer.images.assign(np.arange(10).reshape(10, 1, 1, 1) * np.ones((10, 8, 8, 1)))
    assert scipy.stats.chisquare(hits).pvalue > 1e-3


def test_the_discriminator_is_trained_on_replayed_images(monkeypatch):
    model, seen = make(replay_buffer_size=20), []
    call = model.discriminator.call
    model.discriminator.call = lambda images, labels=None, training=None: (
        seen.append(np.array(images)) or call(images, labels, training)
    )
    for _ in range(2):
        model.discriminator_step(model.normalize(X))
    memory = {np.array(image).tobytes() for image in np.array(model.replay_buffer.images)}
    assert all(image.tobytes() in memory for image in seen[3][6:])


# Networks.


def test_conv_is_the_books_dcgan():
    model = make("conv", compiled=False, discriminator={"dropout": 0.4})
    layers = keras.layers
    generator = keras.Sequential(
        [layers.Input((5,)), layers.Dense(2 * 2 * 8), layers.Reshape((2, 2, 8)), layers.BatchNormalization(),
         layers.Conv2DTranspose(6, 5, strides=2, padding="same", activation="relu"), layers.BatchNormalization(),
         layers.Conv2DTranspose(1, 5, strides=2, padding="same", activation="tanh")]
    )  # fmt: skip
    leaky = {"strides": 2, "padding": "same", "activation": keras.layers.LeakyReLU(negative_slope=0.2)}
    discriminator = keras.Sequential(
        [layers.Input((8, 8, 1)), layers.Conv2D(6, 5, **leaky), layers.Dropout(0.4), layers.Conv2D(8, 5, **leaky),
         layers.Dropout(0.4), layers.Flatten(), layers.Dense(1)]
    )  # fmt: skip
    ours = model.generator
    parts = [ours.dense[0], ours.norms[0], ours.transposed[0], ours.norms[1], ours.last]
    generator.set_weights([w for part in parts for w in part.get_weights()])
    discriminator.set_weights(
        [w for part in (*model.discriminator.hidden, model.discriminator.last) for w in part.get_weights()]
    )
    codings = np.random.default_rng(0).normal(size=(7, 5)).astype("float32")
    for training in (False, True):
        checks.close(ours(codings, training=training), generator(codings, training=training))
    checks.close(model(X), discriminator(model.normalize(X))[:, 0])
    assert (np.array(model(X, training=True)) != np.array(model(X))).any()


def test_convolutions_make_images_of_any_size():
    model = make("conv", image_shape=(7, 5, 3))
    assert model.sample(3).shape == (3, 7, 5, 3)
    assert model(np.zeros((2, 7, 5, 3))).shape == (2,)
    model.train_on_batch(np.zeros((4, 7, 5, 3), np.float32))


def test_dense_is_the_books_gan():
    model = make("dense", compiled=False)
    relu = {"activation": "relu"}
    layers = keras.layers
    generator = keras.Sequential(
        [layers.Input((5,)), layers.Dense(10, **relu), layers.Dense(12, **relu), layers.Dense(64, "tanh")]
    )
    discriminator = keras.Sequential(
        [layers.Input((8, 8, 1)), layers.Flatten(), layers.Dense(12, **relu), layers.Dense(10, **relu), layers.Dense(1)]
    )
    for ours, theirs in ((model.generator, generator), (model.discriminator, discriminator)):
        theirs.set_weights(ours.get_weights())
    codings = np.random.default_rng(0).normal(size=(7, 5)).astype("float32")
    checks.close(ops.reshape(model.generator(codings), (7, 64)), generator(codings))
    checks.close(model(X), discriminator(model.normalize(X))[:, 0])


def test_the_discriminator_is_conditioned_by_projection():
    """logit(x, label) = logit(x) + row of the label . features (Miyato & Koyama, 2018, equation 3)."""
    model = make("conditional", compiled=False)
    seen = []
    last = model.discriminator.last
    last.call = lambda x, call=last.call: seen.append(np.float64(x)) or call(x)
    with_label = np.float64(model((X, LABELS)))
    without = np.float64(model.discriminator(model.normalize(X)))
    rows = np.float64(model.discriminator.class_embedding)[LABELS]
    checks.close(with_label, without + (rows * seen[0]).sum(1), 1e-4)
    images = [model.generator(model.with_labels(model.codings(4), np.full(4, label))) for label in (0, 2)]
    assert (np.array(images[0]) != np.array(images[1])).any()


# Drawing.


@EVERY
def test_images_are_the_averages_and_come_from_a_seed(kind):
    model = make(kind)
    codings = model.codings(120, seed=3)
    assert scipy.stats.kstest(codings.ravel(), "norm").pvalue > 1e-3
    labels = np.arange(120) % 3 if model.num_classes else None
    maps = model.ema_generator(model.with_labels(codings, labels), training=False)
    checks.close(model.sample(120, seed=3), (np.array(maps)[..., 0] + 1) / 2)
    np.testing.assert_array_equal(model.sample(9, seed=1), model.sample(9, seed=1))
    assert (model.sample(9, seed=1) != model.sample(9, seed=2)).any()
    assert model.sample(0).shape == (0, 8, 8)
    if model.num_classes:
        maps = model.ema_generator(model.with_labels(codings, np.full(120, 2)), training=False)
        checks.close(model.sample(120, 3, labels=2), (np.array(maps)[..., 0] + 1) / 2)


def test_interpolation_keeps_to_the_arc_between_codings():
    model = make()
    codings = model.codings(3)
    path = np.float64(model.slerp(ops.convert_to_tensor(codings), np.linspace(0, 1, 5, dtype="float32"))).reshape(
        2, 5, 5
    )
    checks.close(path[:, [0, -1]], np.stack([codings[:2], codings[1:]], axis=1), 1e-4)
    units = [codings[i] / np.linalg.norm(codings[i]) for i in range(2)]
    angle = np.arccos(np.float64(units[0] @ units[1]))
    half = (codings[0] + codings[1]) * np.sin(angle / 2) / np.sin(angle)
    checks.close(path[0, 2], half, 1e-4)
    checks.close(model.interpolate(codings, 5)[7], model.decode_codings(path[1, 2:3])[0], 1e-4)
    same = np.repeat(codings[:1], 2, axis=0)
    checks.close(
        model.slerp(ops.convert_to_tensor(same), np.float32([0, 0.5, 1])), np.repeat(same[:1], 3, axis=0), 1e-3
    )


def test_interpolation_between_opposite_codings_goes_along_the_line():
    """Codings of one number lie on one line through 0."""
    model = make()
    codings = np.zeros((3, 5), np.float32)
    codings[:, 0] = 2.0, -1.0, 3.0
    path = np.array(model.slerp(ops.convert_to_tensor(codings), np.linspace(0, 1, 4, dtype="float32")))
    checks.close(path[:, 0], np.array([2, 1, 0, -1, -1, 1 / 3, 5 / 3, 3.0]), 1e-4)
    assert not path[:, 1:].any()


@EVERY
def test_an_image_of_a_seed_is_the_same_among_any_number(kind):
    model = make(kind)
    many = model.sample(120, seed=3)
    for count in (1, 8, 101):
        checks.close(model.sample(count, seed=3), many[:count], 1e-6)


def test_mean_codings_are_those_of_each_class():
    model = make()

    def classify(images):
        bright = images.mean((1, 2)) > np.median(images.mean((1, 2)))
        return np.stack([bright, ~bright], axis=1).astype(float)

    means, counts = model.mean_codings(classify, 50, seed=2)
    codings = model.codings(50, 2)
    found = classify(model.decode_codings(codings)).argmax(1)
    checks.close(means, np.stack([codings[found == label].mean(0) for label in (0, 1)]))
    assert list(counts) == [25, 25]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: make("conditional").sample(2, labels=3), "labels must lie in 0 to 2, not 3 to 3"),
        (lambda: make().sample(2, labels=1), "trained without classes"),
        (lambda: make().sample(2, seed=-1), "seed must lie in"),
        (lambda: make().sample(-2), "count must be 0 or more, not -2"),
        (lambda: make("conditional", class_names=("a", "b")), "there must be 3 class_names or none, not 2"),
        (lambda: make().decode_codings(np.zeros((2, 4))), r"codings must have the shape \(n, 5\), not \(2, 4\)"),
        (lambda: make().interpolate(np.zeros((1, 5))), "needs 2 codings or more"),
        (lambda: make(loss="l2"), "loss must be one of non_saturating, hinge, wasserstein"),
        (lambda: GAN(Generator(5, name="g"), Discriminator()), 'the generator must have the name "generator", not "g"'),
        (lambda: GAN(*networks(), image_shape=(8, 9)), r"the generator is for images of \(8, 8, 1\), not"),
        (lambda: GAN(*networks(), image_shape=(8, 8, 3)), r"for images of \(8, 8, 1\), not \(8, 8, 3\)"),
        (lambda: make("dense", discriminator={"num_classes": 3}), "has 0 classes and the discriminator 3"),
    ],
)
def test_bad_input_is_one_line(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"monitor": "frechet_distance"}, "--monitor frechet_distance is for Fashion MNIST"),
        ({"critic_steps": 3}, "--batch-size must be a multiple of --critic-steps, 3"),
        ({"replay_buffer_size": 10}, "--replay-buffer-size must be 0 or at least --batch-size, 64"),
        ({"num_evaluation_samples": 50}, "--num-evaluation-samples must be 0 or at least 100"),
        ({"gradient_penalty": -1.0}, "must be 0 or more"),
        ({"discriminator_learning_rate": 0.0}, "--discriminator-learning-rate must be above 0"),
        ({"generator_filters": (8, -8)}, "--generator-filters must be above 0"),
        ({"generator_units": (50,)}, "--generator-units has no effect beside --generator-filters"),
        ({"discriminator_units": (50,)}, "--discriminator-units has no effect beside --discriminator-filters"),
        ({"label_smoothing": 1.0}, "--label-smoothing must lie in"),
    ],
)
def test_bad_flags_are_one_line(wrong, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(recipes.get("dcgan_tiny"), **wrong)


# What every model has to pass.


@EVERY
def test_files_and_precision(kind, tmp_path):
    model = make(kind, replay_buffer_size=20, loss="hinge")
    model.train_on_batch(inputs(model))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    checks.close(loaded.weights, model.weights, 0)
    checks.close(loaded.optimizer.variables, model.optimizer.variables, 0)
    checks.close(loaded.sample(3), model.sample(3), 1e-6)
    for one in (model, loaded):
        one.seed_generator.state.assign([1, 0])
        one.train_on_batch(inputs(one))
    checks.close(loaded.weights, model.weights, 1e-6)
    for policy in checks.HALF:
        half = make(kind, dtype=policy, replay_buffer_size=20, loss="hinge")
        half.set_weights(model.get_weights())
        assert 0 < np.abs(half.sample(3) - model.sample(3)).max() < 0.1
        half.train_on_batch(inputs(half))
        assert all(np.isfinite(np.array(w)).all() for w in half.weights)
        assert {w.dtype for w in half.trainable_weights} == {"float32"}


@pytest.mark.parametrize("kind", ["dense", pytest.param("conv", marks=pytest.mark.slow), "conditional"])
def test_endpoints_are_the_methods(kind, tmp_path):
    model = make(kind)
    codings, weights = model.codings(4), [[1.0, -1, 1, 0], [0, 0, 0.5, 0.5]]
    given = [1, 2] if model.num_classes else [-1]
    calls = {
        "sample": [6, 2, given],
        "codings": [6, 2],
        "decode": [codings, given],
        "interpolate": [codings, 5, given],
        "combine": [codings, weights, given],
    }
    assert set(calls) == set(model.endpoints())
    write_saved_model(model, tmp_path / "saved")
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    labels = given if model.num_classes else None
    for name, expected in {
        "sample": {"images": model.sample(6, 2, labels)},
        "codings": {"codings": model.codings(6, 2)},
        "decode": {"images": model.decode_codings(codings, labels)},
        "interpolate": {"images": model.interpolate(codings, 5, labels)},
        "combine": {"images": model.decode_codings(np.float32(weights) @ codings, labels)},
    }.items():
        endpoint = model.endpoints()[name]
        arguments = checks.tensors(endpoint, calls[name])
        found = getattr(saved, name)(*arguments)
        checks.close(found, endpoint(*arguments))
        checks.close(found, expected, 1e-4)
    checks.close(saved.sample(tf.constant(6), tf.constant(2), tf.constant([-1]))["images"], model.sample(6, 2), 1e-5)
    for name, arguments, message in (
        ("sample", [2, 0, [7]], "labels must lie in -1 to 2" if model.num_classes else "without classes"),
        ("interpolate", [codings[:1], 5, [-1]], "needs 2 codings or more"),
        ("combine", [codings, [[1.0, 2.0]], [-1]], "a number for each coding"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            getattr(saved, name)(*checks.tensors(model.endpoints()[name], arguments))
