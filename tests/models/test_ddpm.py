"""The diffusion model: its loss, EMA, guidance and sampling against formulas, its endpoints."""

import dataclasses
import functools
import json

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from sklearn.datasets import load_digits

from homl_models import diffusion, recipes
from homl_models.errors import UserError
from homl_models.layers.gaussian import normal
from homl_models.models import ddpm
from homl_models.models.ddpm import DDPM
from homl_models.models.unet import Network, SeparableUNet, UNet
from homl_models.training.saved_model import write_saved_model
from tests import checks

DIGITS = np.float32(load_digits().images / 16)
X, LABELS = DIGITS[:12], np.arange(12) % 3
KINDS = {
    "unet": lambda dtype: UNet((8,), attention_levels=(), num_classes=3, dtype=dtype, name="network"),
    "separable": lambda dtype: SeparableUNet((4, 8), time_dim=6, dtype=dtype, name="network"),
}
EVERY = pytest.mark.parametrize("kind", KINDS)


def make(kind="unet", dtype="float32", **more):
    keras.utils.set_random_seed(0)
    model = DDPM(KINDS[kind](dtype), **{"num_steps": 50, "image_shape": (8, 8), "seed": 4} | more, dtype=dtype)
    model.build()
    for network in (model.network, model.ema_network):
        for i, weight in enumerate(network.trainable_weights or network.weights):
            if "moving" not in weight.path:
                weight.assign(weight + keras.random.normal(weight.shape, stddev=0.1, seed=i))
    return model


@functools.cache
def unchanged():
    """A model for tests that leave it as it is."""
    return make()


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setattr(ddpm, "compiled", lambda function, *args, **kwargs: function)


def inputs(model, x=X):
    return (x, LABELS[: len(x)]) if model.num_classes else x


@keras.saving.register_keras_serializable("tests")
class Optimal(Network):
    """Optimal prediction for pixels of N(0.4 + 0.1 * label, 0.2^2) in [-1, 1], 0.1 for no label."""

    def __init__(self, prediction="noise", num_steps=50, num_classes=3, **kwargs):
        super().__init__(num_classes=num_classes, **kwargs)
        self.prediction, self.num_steps = prediction, num_steps
        self.noise_schedule = diffusion.Schedule(diffusion.cosine_betas(num_steps))

    def build(self, shape):
        self.mean = self.add_weight(shape=(4,), initializer=keras.initializers.Constant([0.4, 0.5, 0.6, 0.1]))

    def call(self, x, timesteps, labels=None, training=None):
        signal, noise = (
            tf.gather(np.float32(table), timesteps)[:, None, None, None]
            for table in (self.noise_schedule.sqrt_alpha_bar, self.noise_schedule.sqrt_one_minus_alpha_bar)
        )
        mean = tf.gather(self.mean.value, labels)[:, None, None, None]
        x0 = mean + signal * 0.04 * (x - signal * mean) / (signal**2 * 0.04 + noise**2)
        e = (x - signal * x0) / noise
        return {"noise": e, "x0": x0, "velocity": signal * e - noise * x0}[self.prediction]


def optimal(prediction="noise", **more):
    """A model whose network is `Optimal`, which costs next to nothing."""
    settings = {"num_steps": 50, "image_shape": (4, 5)} | more
    model = DDPM(Optimal(prediction, name="network"), prediction=prediction, **settings)
    model.build()
    return model


# Training.


@pytest.mark.parametrize("prediction", ["noise", "x0", "velocity"])
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_the_loss_is_that_of_keras_between_outputs_and_target(prediction, loss):
    model, calls = optimal(prediction, loss=loss, image_shape=(8, 8)), []
    model.network.call = lambda x, t, labels=None, training=None: calls.append((x, t)) or tf.tanh(x) * 2
    y_pred = model(inputs(model), training=True)
    x_t, t = (np.float64(part) for part in calls[0])
    x0 = 2 * np.float64(X)[..., None] - 1
    signal, noise = (
        table[t.astype(int)][:, None, None, None]
        for table in (model.noise_schedule.sqrt_alpha_bar, model.noise_schedule.sqrt_one_minus_alpha_bar)
    )
    e = (x_t - signal * x0) / noise
    target = {"noise": e, "x0": x0, "velocity": signal * e - noise * x0}[prediction]
    tolerance = 1e-4 / noise.min()
    checks.close(y_pred["target"], target, tolerance)
    function = {
        "mse": keras.losses.MeanSquaredError(),
        "mae": keras.losses.MeanAbsoluteError(),
        "huber": keras.losses.Huber(),
    }[loss]
    checks.close(model.compute_loss(y_pred=y_pred), function(y_pred["target"], y_pred["outputs"]), 1e-6)


def test_timesteps_are_uniform_and_stratified_over_the_batch():
    model = optimal(num_steps=20)
    sample = tf.function(model.sample_timesteps)
    timesteps = np.stack([np.array(sample(40)) for _ in range(100)])
    assert timesteps.min() == 1
    assert timesteps.max() == 20
    for i in range(40):
        assert set(timesteps[:, i]) == {i // 2 + 1}  # two images to a timestep
    odd = np.concatenate([np.array(sample(7)) for _ in range(1000)])
    assert scipy.stats.chisquare(np.bincount(odd, minlength=21)[1:]).pvalue > 1e-3


def test_noise_is_normal_and_new_for_every_step():
    model = optimal(num_steps=1, schedule="linear", image_shape=(8, 8))
    sample = tf.function(lambda: model(inputs(model), training=True)["target"])
    samples = [sample().numpy() for _ in range(20)]
    assert scipy.stats.kstest(np.concatenate(samples).ravel(), "norm").pvalue > 1e-3
    assert len({noise.tobytes() for noise in samples}) == 20


def test_labels_are_dropped_at_their_rate_in_training_only():
    model, calls = optimal(label_dropout=0.3, image_shape=(8, 8)), []
    model.network.call = lambda x, t, labels=None, training=None: calls.append(labels) or x
    model.ema_network.call = model.network.call
    for _ in range(10):
        model((np.repeat(X, 50, 0), np.repeat(LABELS, 50)), training=True)
    found, wanted = np.array(calls), np.tile(np.repeat(LABELS, 50), (10, 1))
    assert abs((found == 3).mean() - 0.3) < 4 * (0.3 * 0.7 / found.size) ** 0.5
    assert ((found == wanted) | (found == 3)).all()
    model(inputs(model), training=False)
    np.testing.assert_array_equal(calls[-1], LABELS)


def test_the_ema_of_the_weights_is_its_recurrence():
    model = optimal(ema=0.5, image_shape=(8, 8))
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    expected = [np.zeros(w.shape) for w in model.network.weights]
    for n in range(20):
        weights = [np.float64(w) for w in model.network.weights]
        decay = min(n / (n + 9), 0.5)
        expected = [decay * mean + (1 - decay) * w for mean, w in zip(expected, weights)]
        model.train_on_batch(inputs(model))
    checks.close(model.ema_network.weights, expected, 1e-5)
    assert any((np.array(a) != np.array(w)).any() for a, w in zip(model.ema_network.weights, model.network.weights))


def test_validation_uses_the_ema_and_training_the_network():
    model = optimal(image_shape=(8, 8))
    for network, value in ((model.network, 1.0), (model.ema_network, 2.0)):
        network.call = lambda x, t, labels=None, training=None, value=value: tf.fill(tf.shape(x), value)
    assert (np.array(model(inputs(model), training=True)["outputs"]) == 1).all()
    assert (np.array(model(inputs(model), training=False)["outputs"]) == 2).all()


@pytest.mark.parametrize("kind", [pytest.param("unet", marks=pytest.mark.slow), "separable"])
def test_training_lowers_the_loss(kind):
    model = make(kind)
    model.compile(keras.optimizers.Adam(3e-3), jit_compile=False)
    data = tf.data.Dataset.from_tensors((inputs(model),)).repeat(100)
    model.update_ema()
    before = model.evaluate(data.take(20), verbose=0)
    model.fit(data, shuffle=False, verbose=0)
    assert model.evaluate(data.take(20), verbose=0) < 0.6 * before


# Sampling.


@pytest.mark.parametrize("prediction", ["noise", "x0", "velocity"])
@pytest.mark.parametrize("method", ["ancestral", "ddim", "dpm_solver"])
def test_images_of_a_known_network_have_the_moments_of_its_data(prediction, method):
    """With guidance 1 those of the class; the network's prediction is optimal for N(0.5, 0.2^2) in [-1, 1]."""
    model = optimal(prediction)
    images = 2 * model.sample(300, seed=3, steps=50, labels=1, method=method) - 1
    assert images.mean() == pytest.approx(0.5, abs=0.02)
    assert images.std() == pytest.approx(0.2, abs=0.03)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("clip", [False, True])
def test_ancestral_sampling_with_variance_beta_is_the_books_loop(clip):
    """Equation 17-8 in double precision, a step for each of the T timesteps, with the same noise; see `ddpm_book`."""
    model = optimal("noise", num_steps=30)
    beta = model.noise_schedule.beta
    x = np.float64(model.initial_latents(4, 7, 30))
    for i, t in enumerate(range(30, 0, -1)):
        eps = np.float64(model.ema_network(np.float32(x), np.full(4, t), np.full(4, 3)))
        alpha, alpha_bar = 1 - beta[t], np.prod(1 - beta[: t + 1])
        if clip:  # to predicted images, as most implementations do
            x0 = np.clip((x - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5, -1, 1)
            eps = (x - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
        z = np.float64(normal(x.shape, np.array([7, 2 * i], "uint32"))) if t > 1 else 0
        x = (x - beta[t] / (1 - alpha_bar) ** 0.5 * eps) / alpha**0.5 + beta[t] ** 0.5 * z
    expected = np.clip((x[..., 0] + 1) / 2, 0, 1)
    found = model.sample(4, 7, steps=30, method="ancestral", variance="beta", clip=clip)
    checks.close(found, expected, 1e-4)
    assert np.abs(model.sample(4, 7, steps=30, method="ancestral", clip=clip) - expected).max() > 1e-3


def test_guidance_extrapolates_from_unconditional_to_conditional():
    """Of the prediction: 0 none, 1 the class, 2 as far again; in images: means 0.1, 0.6 and beyond 1.0 (clipped)."""
    model = optimal()
    x, t = np.random.default_rng(0).normal(size=(4, 4, 5, 1)).astype("float32"), np.array([3, 10, 20, 50], "int32")
    labels, none = np.full(4, 2, "int32"), np.full(4, 3, "int32")
    without, within = (np.float64(model.ema_network(x, t, which)) for which in (none, labels))
    for guidance in (0.0, 0.5, 1.0, 2.0, 7.5):
        found = model.predict_guided(x, t, labels, np.float32(guidance))
        checks.close(found, without + guidance * (within - without), 2e-5)
    means = [2 * model.sample(100, labels=2, guidance=g).mean() - 1 for g in (0.0, 1.0, 2.0)]
    assert means[:2] == [pytest.approx(0.1, abs=0.03), pytest.approx(0.6, abs=0.03)]
    assert means[2] > 0.8
    np.testing.assert_array_equal(model.sample(8), model.sample(8, labels=None))
    checks.close(model.sample(8, labels=1, guidance=0.0), model.sample(8), 1e-5)


def test_labels_are_taken_in_turn():
    model = optimal()
    images = 2 * model.sample(60, labels=[0, 2], steps=10) - 1
    assert images[::2].mean() == pytest.approx(0.4, abs=0.05)
    assert images[1::2].mean() == pytest.approx(0.6, abs=0.05)


@EVERY
@pytest.mark.usefixtures("eager")
def test_a_seed_gives_the_same_samples_and_batches_differ(kind):
    model = make(kind)
    images = model.sample(210, seed=1, steps=3)
    assert images.shape == (210, 8, 8)
    assert 0 <= images.min() <= images.max() <= 1
    np.testing.assert_array_equal(images, model.sample(210, seed=1, steps=3))
    assert len({image.tobytes() for image in images}) == 210
    assert (images[:50] != model.sample(50, seed=2, steps=3)).any()
    assert model.sample(0).shape == (0, 8, 8)


@pytest.mark.parametrize("method", ["ancestral", "dpm_solver"])
def test_an_image_of_a_seed_is_the_same_among_any_number(method):
    model = optimal(num_steps=20)
    labels = np.arange(120) % 3
    many = model.sample(120, seed=1, steps=6, labels=labels, method=method)
    for count in (1, 8, 101):
        checks.close(model.sample(count, seed=1, steps=6, labels=labels[:count], method=method), many[:count], 1e-5)
    again = model.image_to_image(many, 0.5, seed=2, steps=3, labels=labels, method=method)
    checks.close(model.image_to_image(many[:5], 0.5, seed=2, steps=3, labels=labels, method=method), again[:5], 1e-5)
    mask = np.zeros((4, 5))
    painted = model.inpaint(many, mask, seed=2, steps=3, labels=labels)
    checks.close(model.inpaint(many[:5], mask, seed=2, steps=3, labels=labels), painted[:5], 1e-5)


def test_the_saved_model_samples_the_same_as_python(tmp_path):
    model = optimal(num_steps=20)
    write_saved_model(model, tmp_path / "saved")
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    for count in (1, 120):
        found = saved.sample(*map(tf.constant, (count, 1, 6, [0, 2], 1.0)))["images"]
        checks.close(found, model.sample(count, 1, 6, [0, 2]), 1e-5)
    for count, seed, message in ((2, -1, "seed must lie in"), (-1, 1, "count must be 0 or more")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            saved.sample(*map(tf.constant, (count, seed, 6, [-1], 1.0)))


@pytest.mark.usefixtures("eager")
def test_the_callback_gets_every_step_and_changes_nothing():
    model, calls = make(), []
    with_callback = model.sample(5, steps=7, callback=lambda step, images: calls.append((step, images)))
    np.testing.assert_array_equal(with_callback, model.sample(5, steps=7))
    assert [step for step, _ in calls] == list(range(1, 8))
    checks.close(calls[-1][1], with_callback)  # the last step ends in the predicted x0
    assert all(images.shape == (5, 8, 8) for _, images in calls)


@pytest.mark.usefixtures("eager")
def test_inpainting_keeps_what_is_masked_and_samples_the_rest():
    model = make()
    mask = np.zeros((8, 8))
    mask[:, :4] = 1
    painted = model.inpaint(X[:3], mask, steps=4)
    checks.close(painted[:, :, :4], X[:3, :, :4], 1e-6)
    assert (np.abs(painted[:, :, 4:] - X[:3, :, 4:]).max((1, 2)) > 0.1).all()
    each = model.inpaint(X[:3], np.stack([mask, 1 - mask, np.ones((8, 8))]), steps=4)
    checks.close(each[1, :, 4:], X[1, :, 4:], 1e-6)
    checks.close(each[2], X[2], 1e-6)
    checks.close(model.inpaint(np.uint8(X[:3] * 16) * 15, mask, steps=2).shape, (3, 8, 8))


def test_image_to_image_keeps_the_more_the_less_noise_it_starts_with():
    model = optimal("x0")
    images = np.random.default_rng(1).uniform(size=(90, 4, 5)).astype("float32")

    def kept(strength):
        again = model.image_to_image(images, strength, labels=1, method="ddim", steps=50)
        return np.corrcoef(again.ravel(), images.ravel())[0, 1]

    assert kept(0.02) > 0.95 > kept(0.5) > 0.1
    assert abs(kept(1.0)) < 0.1


@pytest.mark.parametrize("noise", [0.02, 0.3, 2.0])
def test_denoising_is_the_posterior_mean(noise):
    """Of N(0.1, 0.2^2) in [-1, 1], for images without a class: between the noisy pixel and the mean."""
    model = optimal("velocity", schedule="cosine")
    noisy = np.random.default_rng(2).normal(0.5, 0.5, (5, 4, 5)).astype("float32")
    schedule = model.noise_schedule
    ratios = (
        schedule.sqrt_one_minus_alpha_bar[1:] / schedule.sqrt_alpha_bar[1:] / 2
    )  # the next one with more noise is used
    near = ratios[np.searchsorted(ratios, noise)]
    assert near < 1.5 * noise
    share = 0.1**2 / (0.1**2 + near**2)
    checks.close(model.denoise(noisy, noise), np.clip(0.55 + share * (noisy - 0.55), 0, 1), 2e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m: m.sample(2, labels=3), "labels must lie in 0 to 2, not 3 to 3"),
        (lambda m: m.sample(2, labels=[-1, 1]), "labels must lie in 0 to 2"),
        (lambda m: m.sample(2, labels=1.5), "labels must be whole numbers"),
        (lambda m: m.sample(2, labels=[]), "labels must be whole numbers"),
        (lambda m: m.sample(2, steps=51), "steps must lie in 1 to 50, not 51"),
        (lambda m: m.image_to_image(X[:1], steps=51), "steps must lie in 1 to 25, not 51"),
        (lambda m: m.image_to_image(X[:1], 0.0), r"strength must lie in \(0, 1\]"),
        (lambda m: m.inpaint(X[:1], np.ones((8, 8)), steps=51), "steps must lie in 1 to 50, not 51"),
        (lambda m: m.sample(2, steps=0), "steps must lie in 1 to 50, not 0"),
        (lambda m: m.sample(2, guidance=2.0), "guidance needs labels"),
        (lambda m: m.sample(2, seed=-1), "seed must lie in"),
        (lambda m: m.sample(-2), "count must be 0 or more, not -2"),
        (lambda m: make(class_names=("a", "b")), "there must be 3 class_names or none, not 2"),
        (lambda m: m.denoise(X[:1], -0.1), "noise must be 0 or more"),
        (lambda m: m.sample(2, method="euler"), "method must be one of ancestral, ddim, dpm_solver"),
        (lambda m: m.sample(2, method="ancestral", variance="small"), "variance must be one of posterior, beta"),
        (lambda m: m.inpaint(X[:2], np.ones((8, 7))), r"masks must be 8x8, one or as many as images, not \(8, 7\)"),
        (lambda m: m.inpaint(X[:2], np.full((8, 8), 0.5)), "masks must be 1 where the image is kept"),
        (lambda m: m.inpaint(X[:2, :7], np.ones((8, 8))), r"images must have the shape \(n, 8, 8\)"),
        (lambda m: m.denoise(X[:2, :7]), r"images must have the shape \(n, 8, 8\)"),
        (lambda m: make("separable").sample(2, labels=1), "trained without classes"),
        (lambda m: make("separable").sample(2, guidance=2.0), "guidance needs a model that was trained with classes"),
        (lambda m: make(loss="l3"), "loss must be one of mse, mae, huber"),
        (lambda m: make(schedule="square"), "schedule must be one of cosine, linear"),
        (lambda m: make(prediction="score"), "prediction must be one of noise, x0, velocity"),
        (lambda m: make(image_shape=(8, 8, 3)), "the network is for 1 channels, the images have 3"),
    ],
)
def test_bad_input_is_one_line(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong(unchanged())


def test_by_default_there_are_at_most_as_many_steps_as_timesteps():
    model, calls = optimal(), []
    short = DDPM(Optimal(num_steps=7, name="network"), 7, prediction="noise", image_shape=(4, 5))
    short.build()
    for one, wanted in ((model, 25), (short, 7)):
        one.sample(2, callback=lambda step, images: calls.append(step))
        assert calls[-1] == wanted
    short.inpaint(short.sample(2), np.ones((4, 5)), callback=lambda step, images: calls.append(step))
    assert calls[-1] == 7
    short.image_to_image(short.sample(2), 0.5, callback=lambda step, images: calls.append(step))
    assert calls[-1] == 4


# Recipes.


def test_the_books_recipe_has_the_books_network_and_schedule():
    recipe = dataclasses.replace(recipes.get("ddpm_book"), data="digits", filters=(4, 8))
    model = recipe.model()
    assert type(model.network) is SeparableUNet
    assert (model.num_steps, model.prediction, model.pixel_loss) == (4000, "noise", "huber")
    batch = next(iter(recipe.datasets()[0].dataset(0, 1)))
    assert model(batch[0], training=True)["outputs"].shape == (recipe.batch_size, 8, 8, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampling_steps": 30}, "--sampling-steps must be at most --num-steps, 20, not 30"),
        ({"attention_levels": (1,)}, "--attention-levels must lie in 0 to 0"),
        ({"conditional": False, "guidance": 2.0}, "--guidance needs --conditional"),
        ({"conditional": False, "label_dropout": 0.5}, "--label-dropout needs --conditional"),
        ({"ema": 1.0}, "--ema must lie in"),
        ({"network": "separable"}, "--network separable has no --attention-levels"),
        ({"filters": (8, 0)}, "--filters must be above 0"),
    ],
)
def test_bad_flags_are_one_line(wrong, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(recipes.get("ddpm_tiny"), **wrong)


# What every model has to pass.


@EVERY
@pytest.mark.usefixtures("eager")
def test_files_and_precision(kind, tmp_path):
    names = {"class_names": ("a", "b", "c")} if kind == "unet" else {}
    model = make(kind, loss="huber", label_dropout=0.2, **names)
    model.compile("adam", run_eagerly=True)
    model.train_on_batch(inputs(model))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    assert loaded.class_names == names.get("class_names", ())
    checks.close(loaded.weights, model.weights, 0)
    checks.close(loaded.sample(3, steps=3), model.sample(3, steps=3), 1e-6)
    assert len(model.trainable_weights) == len(model.network.trainable_weights)
    for policy in checks.HALF:
        half = make(kind, policy)
        half.set_weights(model.get_weights())
        error = np.abs(half.sample(3, steps=3) - model.sample(3, steps=3)).max()
        assert 0 < error < 0.2
        half.compile("adam", run_eagerly=True)
        assert np.isfinite(half.train_on_batch(inputs(half))).all()
        assert {w.dtype for w in half.weights} == {"float32"}


@EVERY
def test_endpoints_are_the_methods(kind, tmp_path, monkeypatch):
    model = make(kind)
    assert model.predict_ema  # the network, traced once for all that follows, which runs eagerly
    monkeypatch.setattr(ddpm, "compiled", lambda function, *args, **kwargs: function)
    masks = np.zeros((3, 8, 8), "float32")
    masks[:, 4:] = 1
    given = [[1, 2], 2.0] if model.num_classes else [[-1], 1.0]
    calls = {
        "sample": [6, 2, 5, *given],
        "inpaint": [X[:3], masks, 2, 5, *given],
        "image_to_image": [X[:3], 0.6, 2, 5, *given],
        "denoise": [X[:3], 0.2],
    }
    assert set(calls) == set(model.endpoints())
    write_saved_model(model, tmp_path / "saved")
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    more = {"labels": [1, 2], "guidance": 2.0} if model.num_classes else {}
    for name, images in {
        "sample": model.sample(6, 2, 5, **more),
        "inpaint": model.inpaint(X[:3], masks, 2, 5, **more),
        "image_to_image": model.image_to_image(X[:3], 0.6, 2, 5, **more),
        "denoise": model.denoise(X[:3], 0.2),
    }.items():
        endpoint = model.endpoints()[name]
        arguments = checks.tensors(endpoint, calls[name])
        found = getattr(saved, name)(*arguments)
        checks.close(found, endpoint(*arguments))
        checks.close(found["images"], images, 1e-3)
    for name, arguments, message in (
        ("sample", [2, 0, 51, [-1], 1.0], "steps must lie in 1 to 50"),
        ("sample", [2, 0, 5, [7], 1.0], "labels must lie in -1 to 2" if model.num_classes else "without classes"),
        ("inpaint", [X[:3], masks[:2], 0, 5, [-1], 1.0], "as many masks as images"),
        ("image_to_image", [X[:3], 1.5, 0, 5, [-1], 1.0], "strength must lie in"),
        (
            "sample",
            [2, 0, 5, [-1], 3.0],
            "guidance needs (labels|a model that was trained with classes)",
        ),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            getattr(saved, name)(*checks.tensors(model.endpoints()[name], arguments))
