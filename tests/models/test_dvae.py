"""The discrete VAE: its networks against convolutions in double precision, its loss, schedules, reports, tokens."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from homl_models import recipes
from homl_models.errors import UserError
from homl_models.metrics import CodebookUsage
from homl_models.models.dvae import DVAE, map_pixels, unmap_pixels
from homl_models.models.dvae_networks import ConvDecoder, ConvEncoder, DalleDecoder, DalleEncoder
from homl_models.recipes.dvae import collapsed
from homl_models.schedules import Cosine
from homl_models.training.saved_model import write_saved_model
from tests import checks, processes

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(3, 16, 24, 3)).astype("float32")
DIGITS = np.float32(load_digits().images / 16)
FORMS = {"small": (ConvEncoder, ConvDecoder, 8), "dalle": (DalleEncoder, DalleDecoder, 8)}
EVERY = pytest.mark.parametrize("form", FORMS)
SCHEDULES = {"temperature": Cosine(1.0, 1 / 16, 4), "kl_weight": Cosine(0.0, 6.6, 2)}


def networks(form="small", outputs=6, dtype="float32"):
    encoder, decoder, dim = FORMS[form]
    settings = {"vocab_size": 10, "dim": dim, "num_blocks": 2, "dtype": dtype}
    return encoder(**settings), decoder(outputs, **settings)


def make(form="small", outputs=6, dtype="float32", spread=0.05, **more):
    keras.utils.set_random_seed(0)
    model = DVAE(*networks(form, outputs, dtype), **{"image_shape": (16, 24, 3), "seed": 4, "dtype": dtype} | more)
    model.build()
    for i, weight in enumerate(model.trainable_weights):
        weight.assign(weight + keras.random.normal(weight.shape, stddev=spread, seed=i))  # biases too
    return model


# The networks.


class Reference:
    """The weights of a network, and the operations on them in double precision."""

    def __init__(self, network):
        paths = (w.path.split(f"{network.name}/", 1)[1] for w in network.weights)
        self.weights = {path: tf.constant(w.numpy(), tf.float64) for path, w in zip(paths, network.weights)}

    def conv(self, x, name, stride=1):
        y = tf.nn.conv2d(x, self.weights[f"{name}/kernel"], stride, "SAME")
        return y + self.weights[f"{name}/bias"]

    def transposed(self, x, name):
        kernel = self.weights[f"{name}/kernel"]
        shape = [x.shape[0], 2 * x.shape[1], 2 * x.shape[2], kernel.shape[2]]
        return tf.nn.conv2d_transpose(x, kernel, shape, 2, "SAME") + self.weights[f"{name}/bias"]

    def block(self, x, name, gain, count):
        y = x
        for i in range(1, count + 1):
            y = self.conv(tf.nn.relu(y), f"{name}/conv{i}")
        skip = self.conv(x, f"{name}/skip") if f"{name}/skip/kernel" in self.weights else x
        return skip + gain * y


def dalle_encoder(network, x):
    net = Reference(network)
    x = net.conv(x, "conv_in")
    for group in range(1, 5):
        x = tf.nn.max_pool2d(x, 2, 2, "VALID") if group > 1 else x
        for i in (1, 2):
            x = net.block(x, f"group{group}_block{i}", 1 / 64, 4)  # 8 blocks
    return net.conv(tf.nn.relu(x), "conv_out")


def dalle_decoder(network, x):
    net = Reference(network)
    x = net.conv(x, "conv_in")
    for group in range(1, 5):
        x = tf.repeat(tf.repeat(x, 2, 1), 2, 2) if group > 1 else x
        for i in (1, 2):
            x = net.block(x, f"group{group}_block{i}", 1 / 64, 4)
    return net.conv(tf.nn.relu(x), "conv_out")


def small_encoder(network, x):
    net, x = Reference(network), 2 * x - 1
    for i in (1, 2, 3):
        x = net.conv(tf.nn.relu(x) if i > 1 else x, f"conv{i}", 2)
    for i in (1, 2):
        x = net.block(x, f"block{i}", 1.0, 2)
    return net.conv(tf.nn.relu(x), "conv_out")


def small_decoder(network, x):
    net = Reference(network)
    x = net.conv(x, "conv_in")
    for i in (1, 2):
        x = net.block(x, f"block{i}", 1.0, 2)
    for i in (1, 2, 3):
        x = net.transposed(tf.nn.relu(x), f"transposed{i}")
    return net.conv(tf.nn.relu(x), "conv_out")


REFERENCES = {"small": (small_encoder, small_decoder), "dalle": (dalle_encoder, dalle_decoder)}


@EVERY
def test_the_networks_are_their_convolutions(form):
    model = make(form, spread=0.2)
    encoder, decoder = REFERENCES[form]
    logits = encoder(model.encoder, tf.constant(0.8 * np.float64(X) + 0.1))
    assert logits.shape == (3, 2, 3, 10)
    checks.close(model.encode(X), logits, 1e-4)
    codes = scipy.special.softmax(np.float64(logits), -1)
    checks.close(model.decoder(np.float32(codes)), decoder(model.decoder, tf.constant(codes)), 1e-4)


def parameters_of_dalle(widths, kernels, kernel_in, channels_in, channels_out):
    """Weights and biases, counted from the shapes of the convolutions of openai/DALL-E's encoder.py and decoder.py."""

    def conv(n, m, size):
        return n * m * size**2 + m

    first, *widths = widths
    total, n = conv(channels_in, first, kernel_in), first
    for m in widths:
        for i in range(2):
            hidden = m // 4
            sizes = [n if i == 0 else m, hidden, hidden, hidden, m]
            total += sum(conv(a, b, size) for a, b, size in zip(sizes, sizes[1:], kernels))
            total += conv(n, m, 1) if i == 0 and n != m else 0
        n = m
    return total + conv(n, channels_out, 1)


def test_dalles_networks_have_the_parameters_of_the_published_ones():
    """8192 codes, 256 channels: 53.8 and 43.8 million."""
    encoder, decoder, counts = DalleEncoder(), DalleDecoder(), []
    with keras.StatelessScope():  # where variables are not initialized
        for layer, channels in ((encoder, 3), (decoder, 8192)):
            layer.build((None, None, None, channels))
            counts.append(layer.count_params())
    of_encoder = parameters_of_dalle((256, 256, 512, 1024, 2048), (3, 3, 3, 1), 7, 3, 8192)
    of_decoder = parameters_of_dalle((128, 2048, 1024, 512, 256), (1, 3, 3, 3), 1, 8192, 6)
    assert counts == [of_encoder, of_decoder] == [53_786_240, 43_829_766]


# Pixels, loss and schedules.


def test_pixels_are_mapped_and_back():
    x = np.linspace(0, 1, 11)
    checks.close(map_pixels(x), 0.1 + 0.8 * x)
    checks.close(unmap_pixels(map_pixels(x)), x)
    checks.close(unmap_pixels(np.array([0.02, 0.97])), np.array([0.0, 1.0]))


def negative_log_likelihood(likelihood, x, outputs):
    """Mean over pixels and channels of each image, in double precision."""
    x, outputs = np.float64(x), np.float64(outputs)
    if likelihood == "mse":
        return ((x - outputs) ** 2).mean((1, 2, 3))
    x, (mu, ln_b) = 0.1 + 0.8 * x, np.split(outputs, 2, -1)
    y = scipy.special.logit(x)
    return -(scipy.stats.laplace.logpdf(y, mu, np.exp(ln_b)) - np.log(x * (1 - x))).mean((1, 2, 3))


def kl_of(logits):
    """Sum over the places of each image, in double precision."""
    q = scipy.special.softmax(np.float64(logits), -1)
    return (q * np.log(10 * q)).sum((1, 2, 3))


@pytest.mark.parametrize(("likelihood", "outputs"), [("logit_laplace", 6), ("mse", 3)])
def test_the_loss_is_the_papers(likelihood, outputs):
    """(-ln p(x | z) + beta KL) / d with the tokens' codes in evaluation; the reports beside it."""
    model = make(outputs=outputs, likelihood=likelihood, kl_weight=6.6, spread=0.2)
    model.compile("adam", run_eagerly=True)
    found = model.evaluate(X, X, batch_size=3, return_dict=True, verbose=0)
    logits = np.asarray(model.encode(X))
    y = np.asarray(model.decoder(np.eye(10, dtype="float32")[logits.argmax(-1)]))
    error, kl = negative_log_likelihood(likelihood, X, y), kl_of(logits)
    image = y if likelihood == "mse" else (scipy.special.expit(np.float64(y[..., :3])) - 0.1) / 0.8
    mse = ((X - np.clip(image, 0, 1)) ** 2).mean((1, 2, 3))
    p = np.bincount(logits.argmax(-1).ravel(), minlength=10) / 18
    expected = {
        "loss": (error + 6.6 * kl / (16 * 24 * 3)).mean(),
        "reconstruction": error.mean(),
        "kl": kl.mean() / 6,  # a token has it
        "psnr": (-10 * np.log10(mse)).mean(),
        "codebook_usage": (p > 0).mean(),
        "perplexity": np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()),
    }
    assert found == pytest.approx(expected, rel=1e-4)
    assert float(model.updates) == 0


@pytest.mark.parametrize("straight_through", [False, True])
def test_training_decodes_relaxed_samples_at_the_temperature_of_the_step(straight_through):
    model = make(**SCHEDULES, straight_through=straight_through, spread=0.2)
    for step, (temperature, weight) in {0: (1.0, 0.0), 1: (0.8627, 3.3), 2: (0.53125, 6.6), 9: (0.0625, 6.6)}.items():
        model.updates.assign(step)
        assert float(model.schedule("temperature")) == pytest.approx(temperature, abs=1e-4)
        assert float(model.schedule("kl_weight")) == pytest.approx(weight, rel=1e-5)
        state = model.relaxation.seed_generator.state.numpy()
        y_pred = model(X, training=True)
        model.relaxation.seed_generator.state.assign(state)
        codes = model.relaxation(model.encode(X), temperature=temperature)
        checks.close(y_pred["outputs"], model.decoder(codes), 1e-3)
        loss = model.compute_loss(X, X, y_pred, training=True)
        error = negative_log_likelihood("logit_laplace", X, y_pred["outputs"])
        assert float(loss) == pytest.approx((error + weight * kl_of(y_pred["logits"]) / 1152).mean(), rel=1e-4)
        assert float(model.updates) == step + 1


def test_numbers_stand_for_schedules():
    model = make(temperature=0.3, kl_weight=0.0)
    assert (model.schedule("temperature"), model.schedule("kl_weight")) == (0.3, 0.0)


@EVERY
def test_the_relaxation_lets_gradients_through(form):
    model = make(form, temperature=0.5, spread=0.2)
    checks.gradients_reach(lambda x: model(x, training=True)["outputs"], model.trainable_weights, X)


def test_normalized_logits_prefer_no_code():
    """The logits of each code have mean 0 and deviation 4 over the places of a batch in training."""
    model = make(normalize_logits=True, spread=0)
    model.encoder.conv_out.bias.assign(np.arange(10.0) * 5)
    logits = np.float64(model(X, training=True)["logits"])
    checks.close(logits.mean((0, 1, 2)), np.zeros(10), 1e-4)
    assert logits.std((0, 1, 2)) == pytest.approx(np.full(10, 4.0), rel=0.05)
    assert len(np.unique(make(spread=0).encode(X).numpy().argmax(-1))) < len(np.unique(logits.argmax(-1)))


def test_training_learns_tokens_that_tell_images_apart():
    encoder, decoder = ConvEncoder(16, 16, 1), ConvDecoder(1, 16, 16, 1)
    keras.utils.set_random_seed(0)
    model = DVAE(encoder, decoder, Cosine(1.0, 1 / 16, 150), 0.0, "mse", True, seed=1, image_shape=(8, 8))
    model.build()
    model.compile(keras.optimizers.Adam(5e-3), jit_compile=False, steps_per_execution=50)
    before = model.evaluate(DIGITS, DIGITS, batch_size=600, return_dict=True, verbose=0)
    data = tf.data.Dataset.from_tensors((DIGITS[:256], DIGITS[:256])).repeat(150)
    model.fit(data, shuffle=False, verbose=0)
    after = model.evaluate(DIGITS, DIGITS, batch_size=600, return_dict=True, verbose=0)
    assert after["reconstruction"] < 0.6 * before["reconstruction"]
    assert after["codebook_usage"] > 0.5
    assert after["perplexity"] > 6


# Reports.


def test_usage_and_perplexity_are_those_of_all_tokens():
    metric, tokens = CodebookUsage(7), RNG.choice([0, 1, 1, 1, 4], (5, 3, 4))
    tokens[0, 0, 0] = 6  # once
    for part in (tokens[:2], tokens[2:]):
        metric.update_state(part)
    p = np.bincount(tokens.ravel(), minlength=7) / tokens.size
    perplexity = np.exp(scipy.stats.entropy(p))
    found = {name: float(value) for name, value in metric.result().items()}
    assert found == pytest.approx({"codebook_usage": 4 / 7, "perplexity": perplexity}, rel=1e-5)
    metric.reset_state()
    assert float(metric.result()["codebook_usage"]) == 0
    assert type(metric).from_config(metric.get_config()).vocab_size == 7


@pytest.mark.parametrize(("usage", "perplexity", "vocab_size", "num_tokens", "wanted"), [
    (1 / 512, 1.0, 512, 20_000, True),
    (0.05, 20.0, 512, 20_000, True),
    (0.9, 3.0, 512, 20_000, True),
    (0.6, 110.0, 512, 20_000, False),
    (0.01, 60.0, 8192, 100, False),
    (0.125, 1.0, 8, 20_000, True),
    (0.5, 2.0, 8, 20_000, False),
])  # fmt: skip
def test_what_a_collapsed_index_is(usage, perplexity, vocab_size, num_tokens, wanted):
    assert collapsed(usage, perplexity, vocab_size, num_tokens) == wanted


def test_a_run_says_when_its_index_collapses(tmp_path):
    recipe = dataclasses.replace(recipes.get("dvae_tiny"), normalize_logits=False, verbose=0)
    model = recipe.model()
    model.encoder.conv_out.bias.assign(np.eye(16)[3] * 100)
    model.evaluate(recipe.datasets()[1].dataset(), verbose=0)
    for report in (lambda: recipe.end_epoch(model, 1, tmp_path), lambda: recipe.evaluate(model)):
        with pytest.warns(UserWarning, match="index collapse: less than 10% of the 16 codes are in use") as said:
            found = report()
        assert all("\n" not in str(one.message) for one in said)
    assert found["val_codebook_usage"] == found["test_codebook_usage"] == 1 / 16
    assert "1 of 16 codes are in use" in recipe.show(model, tmp_path)
    model.encoder.conv_out.kernel.assign(RNG.normal(0, 9, model.encoder.conv_out.kernel.shape))
    model.encoder.conv_out.bias.assign(np.zeros(16))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = recipe.evaluate(model)
        assert recipe.end_epoch(model, 1, tmp_path) == {"temperature": 1.0, "kl_weight": 0.0}
    assert found["val_codebook_usage"] > 0.2


@pytest.mark.parametrize(("settings", "message"), [
    ({"images": "somewhere"}, "--data digits is grey, of one size: it takes --size 0 --channels 1, and no --images"),
    ({"data": "images", "size": 20}, "--size must be a multiple of 8, not 20"),
    ({"vocab_size": 1}, "--vocab-size must be 2 or more"),
    ({"dim": 6}, "--dim must be a multiple of 4, not 6"),
    ({"annealing": 1.5}, "must lie in"),
    ({"kl_weight": -1.0}, "--kl-weight and --crop must be 0 or more"),
])  # fmt: skip
def test_bad_settings_of_the_recipe_are_refused(settings, message):
    checks.fails(message, lambda: dataclasses.replace(recipes.get("dvae_tiny"), **settings))


def test_the_recipe_asks_for_images():
    checks.fails("--images is needed: a folder of images", lambda: recipes.get("dvae").splits)


def test_images_of_ones_own_are_reported_in_colour(tmp_path):
    images = RNG.integers(0, 256, (12, 16, 8, 3), np.uint8)
    np.savez(tmp_path / "own.npz", images=images)
    settings = {"data": "images", "images": str(tmp_path / "own.npz"), "channels": 3, "num_images": 0, "verbose": 0}
    recipe = dataclasses.replace(recipes.get("dvae_tiny"), **settings, form="dalle", likelihood="mse")
    model = recipe.model()
    assert (model.image_shape, model.decoder.output_channels) == ((16, 8, 3), 3)
    assert "codes are in use for 1 validation images" in recipe.show(model, tmp_path)
    grid = np.asarray(Image.open(tmp_path / "reconstructions.png"))
    assert grid.shape == (3 * 32 + 2 * 4, 16, 3)
    original = np.uint8(recipe.splits[1][0][0]).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(grid[:32], original)
    tokens = grid[2 * 36 :].reshape(2, 16, 16, 3)
    assert (tokens == tokens[:, :1, :1]).all()  # one colour for each 8x8 pixels
    for batch, target in recipe.datasets()[0].dataset(0, 1):
        assert batch.shape == (64, 16, 8, 3)  # of 9 images, again and again
        np.testing.assert_array_equal(batch, target)


# Tokens, in Python and in a SavedModel.


def test_tokens_are_the_most_probable_codes_and_decode_shows_them():
    model = make(spread=0.2)
    tokens = model.tokens(X)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, np.asarray(model.encode(X)).argmax(-1))
    outputs = np.float64(model.decoder(np.eye(10, dtype="float32")[tokens]))
    images = np.clip((scipy.special.expit(outputs[..., :3]) - 0.1) / 0.8, 0, 1)
    checks.close(model.decode(tokens), images)
    checks.close(model.reconstruct(X), images)
    np.testing.assert_array_equal(model.tokens(np.uint8(np.round(X * 255))), model.tokens(np.round(X * 255) / 255))
    assert model.tokens(X[:0]).shape == (0, 2, 3)
    assert model.decode(tokens[:0]).shape == (0, 16, 24, 3)


@pytest.mark.parametrize(("size", "fitted"), [((16, 8), (16, 8)), ((21, 19), (24, 16)), ((3, 40), (8, 40))])
def test_images_of_any_size_are_resized_to_multiples_of_the_stride(size, fitted):
    model = make(spread=0.2)
    images = RNG.uniform(size=(2, *size, 3)).astype("float32")
    resized = tf.image.resize(images, fitted).numpy()
    tokens = model.tokens(images)
    assert tokens.shape == (2, fitted[0] // 8, fitted[1] // 8)
    np.testing.assert_array_equal(tokens, model.tokens(resized))
    assert model.reconstruct(images).shape == (2, *fitted, 3)
    np.testing.assert_array_equal(model.endpoints()["tokens"](tf.constant(images))["tokens"], tokens)


def test_what_is_no_image_and_no_token_is_refused():
    model = make()
    checks.fails(r"images must have the shape \(n, height, width, 3\)", lambda: model.tokens(X[..., 0]))
    checks.fails(r"images must lie in \[0, 1\], not between", lambda: model.tokens(X * 2))
    checks.fails("tokens must lie in 0 to 9, not 10", lambda: model.decode(np.full((1, 1, 1), 10)))
    checks.fails("tokens must be whole numbers", lambda: model.decode(np.zeros((1, 2, 2))))
    checks.fails("tokens must be whole numbers", lambda: model.decode(np.zeros((2, 2), int)))


def test_bad_settings_are_refused():
    checks.fails("likelihood must be logit_laplace or mse", lambda: make(likelihood="l1"))
    checks.fails("must have vocab_size 10 and output_channels 3, not 10 and 6", lambda: make(likelihood="mse"))
    checks.fails("height and width must be multiples of 8", lambda: make(image_shape=(28, 28, 3)))
    with pytest.raises(UserError, match="output_channels 2"):
        make(image_shape=(8, 8))


def test_files_hold_the_weights_and_the_step_of_the_schedules(tmp_path):
    model = make(**SCHEDULES, normalize_logits=True, spread=0.2)
    model.compile("adam", run_eagerly=True)
    checks.keras_file_round_trip(model, X, X, tmp_path)
    assert float(model.updates) == 2


@EVERY
def test_any_number_and_size_of_images(form):
    model = make(form, spread=0.2)
    flexible = tf.function(model.token_ids, input_signature=[tf.TensorSpec((None, None, None, 3))])
    for images in (X, X[:1, :8]):
        np.testing.assert_array_equal(flexible(images), model.token_ids(images))
    symbols = model(keras.Input((None, None, 3)))
    assert symbols["outputs"].shape == (None, None, None, 6)
    assert symbols["logits"].shape == (None, None, None, 10)


@EVERY
@pytest.mark.parametrize(("policy", "tolerance"), checks.HALF.items())
def test_half_precision_is_for_the_networks_alone(form, policy, tolerance):
    exact, half = make(form, spread=0.2), make(form, dtype=policy, spread=0.2)
    codes = scipy.special.softmax(RNG.normal(size=(2, 2, 3, 10)), -1).astype("float32")
    for function in (lambda model: model.encode(X), lambda model: model.decoder(codes)):
        expected, found = np.float64(function(exact)), function(half)
        assert found.dtype == "float32"
        assert 0 < np.abs(np.float64(found) - expected).max() < 2 * tolerance * np.abs(expected).max()
    assert {w.dtype for w in half.trainable_weights} == {"float32"}
    if form == "small":
        half.compile("adam", run_eagerly=True)
        assert np.isfinite(list(half.train_on_batch(X, X, return_dict=True).values())).all()


def test_the_configuration_is_the_arguments():
    encoder, decoder = networks()
    settings = {"encoder": encoder, "decoder": decoder, **SCHEDULES, "straight_through": True, "seed": 3}
    config = DVAE(**settings, image_shape=(8, 16, 3)).get_config()
    copy = DVAE.from_config(config)
    assert (copy.temperature.steps, copy.kl_weight.end, copy.image_shape, copy.seed) == (4, 6.6, (8, 16, 3), 3)
    assert copy.encoder.get_config() == encoder.get_config()
    assert copy.decoder.get_config() == decoder.get_config()


SERVE = """
import json, sys
import numpy as np, tensorflow as tf
model, arrays = tf.saved_model.load(sys.argv[1]), np.load(sys.argv[2])
tokens = model.tokens(tf.constant(arrays["images"]))["tokens"]
decoded, again = (f["images"].numpy() for f in (model.decode(tokens), model.reconstruct(arrays["images"])))
try:
    model.decode(tf.constant([[[10]]]))
except tf.errors.InvalidArgumentError as error:
    message = "tokens must lie in 0 to 9" in str(error)
print(json.dumps([tokens.numpy().tolist(), float(abs(decoded - again).max()), decoded.tolist(), message]))
"""


def test_a_process_without_keras_has_the_endpoints(tmp_path):
    model = make(spread=0.2)
    write_saved_model(model, tmp_path / "saved")
    np.savez(tmp_path / "x.npz", images=X[:1])
    tokens, apart, decoded, refused = processes.run(
        SERVE, tmp_path / "saved", tmp_path / "x.npz", process=processes.NO_KERAS
    )
    np.testing.assert_array_equal(tokens, model.tokens(X[:1]))
    assert apart == 0
    checks.close(np.array(decoded), model.decode(model.tokens(X[:1])), 1e-5)
    assert refused
