"""Cross-entropy with label smoothing, and the logit-Laplace density, against formulas, Keras, scipy and PyTorch."""

import keras
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import tensorflow as tf
from keras import ops

from homl_models.losses import SmoothedCrossentropy, logit_laplace
from tests import checks

B, T, V = 3, 4, 7
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (B, T, V)).astype("float32")
TARGETS = RNG.integers(0, V, (B, T)).astype("int32")


def formula(logits, targets, smoothing):
    """-sum q log p in double precision, with the smoothed distribution q written out."""
    logits = logits.astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    q = (1 - smoothing) * np.eye(V)[targets] + smoothing / V
    return -(q * log_p).sum(-1)


def value_and_gradient(loss, jit_compile=False):
    @tf.function(jit_compile=jit_compile)
    def both(targets, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(targets, logits)
        return value, tape.gradient(value, logits)

    return both(tf.constant(TARGETS), tf.constant(LOGITS))


@pytest.mark.parametrize("smoothing", [0, 0.1, 0.5, 1.0])
def test_the_loss_equals_its_formula(smoothing):
    expected = formula(LOGITS, TARGETS, smoothing)
    checks.close(SmoothedCrossentropy(smoothing, reduction="none")(TARGETS, LOGITS), expected)
    checks.close(SmoothedCrossentropy(smoothing)(TARGETS, LOGITS), expected.mean())


def test_without_smoothing_value_and_gradient_equal_keras():
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    checks.close(value_and_gradient(SmoothedCrossentropy(0.0)), value_and_gradient(keras_loss), 1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_value_and_gradient_equal_torch(smoothing):
    import torch

    logits = torch.tensor(LOGITS.reshape(-1, V), requires_grad=True)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, torch.tensor(TARGETS.reshape(-1)).long())
    loss.backward()
    expected = loss.detach().numpy(), logits.grad.numpy().reshape(B, T, V)
    for jit_compile in (False, True):
        checks.close(value_and_gradient(SmoothedCrossentropy(smoothing), jit_compile), expected, 1e-6)


def test_masked_positions_do_not_count():
    ids = np.array([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 0, 0]])
    embedding = keras.layers.Embedding(V, V, mask_zero=True, embeddings_initializer="random_normal")
    logits = embedding(ids)  # carries its mask
    values = formula(ops.convert_to_numpy(logits), TARGETS, 0.1)
    checks.close(SmoothedCrossentropy(0.1)(TARGETS, logits), values[ids > 0].mean())
    other = np.where(ids > 0, TARGETS, (TARGETS + 1) % V)
    assert (other != TARGETS).any()
    checks.close(SmoothedCrossentropy(0.1)(other, logits), values[ids > 0].mean())


def test_a_model_learns_from_unmasked_positions_only():
    embedding = keras.layers.Embedding(V, V, mask_zero=True)
    model = keras.Sequential([embedding])
    model.compile("sgd", SmoothedCrossentropy(0.1), jit_compile=True)
    ids = np.array([[1, 2, 0, 0]])
    expected = formula(ops.convert_to_numpy(model(ids)), TARGETS[:1], 0.1)[:, :2].mean()
    assert model.train_on_batch(ids, TARGETS[:1], return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)


def test_sample_weights_are_applied():
    weights = RNG.random((B, T)).astype("float32")
    expected = formula(LOGITS, TARGETS, 0.1) * weights
    checks.close(SmoothedCrossentropy(0.1, reduction="none")(TARGETS, LOGITS, weights), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_logits_of_half_precision_are_summed_in_single(dtype):
    logits = ops.cast(np.concatenate([30 * LOGITS, np.full((B, T, 4096), 12.0, "float32")], axis=-1), dtype)
    exact = ops.convert_to_numpy(ops.cast(logits, "float32")).astype("float64")
    norm = exact.max() + np.log(np.exp(exact - exact.max()).sum(-1))
    wanted = np.take_along_axis(exact, TARGETS[..., None], -1)[..., 0]
    loss = SmoothedCrossentropy(0.1, reduction="none")(TARGETS, logits)
    checks.close(loss, 0.9 * (norm - wanted) + 0.1 * (norm - exact.mean(-1)), 1e-5)


def test_huge_logits_give_a_finite_loss_and_gradient():
    logits = tf.constant([[1e9, 0.0, -1e9]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = SmoothedCrossentropy(0.1)([1], logits)
    assert float(loss) == pytest.approx(1e9)
    checks.close(tape.gradient(loss, logits), np.array([[1 - 0.1 / 3, -0.9 - 0.1 / 3, -0.1 / 3]]))


def test_config_round_trip():
    config = keras.losses.serialize(SmoothedCrossentropy(0.25, reduction="sum", name="mine"))
    copy = keras.losses.deserialize(config)
    assert type(copy) is SmoothedCrossentropy
    assert (copy.smoothing, copy.reduction, copy.name) == (0.25, "sum", "mine")
    checks.close(copy(TARGETS, LOGITS), formula(LOGITS, TARGETS, 0.25).sum())


PARAMETERS = [(0.0, 0.0), (-1.5, -0.5), (2.0, -1.5), (0.3, -0.2)]  # mu and ln b


@pytest.mark.parametrize(("mu", "ln_b"), PARAMETERS)
def test_the_logit_laplace_density_integrates_to_one(mu, ln_b):
    def density(x):
        return float(np.exp(-np.float64(logit_laplace(np.float32(x), np.float32(mu), np.float32(ln_b)))))

    mode = float(scipy.special.expit(mu))
    total = sum(scipy.integrate.quad(density, *part, epsabs=1e-4, epsrel=1e-4)[0] for part in ((0, mode), (mode, 1)))
    assert total == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("mu", "ln_b"), PARAMETERS)
def test_the_logit_laplace_density_is_that_of_a_squashed_laplace_variable(mu, ln_b):
    """With y = logit(x): f(x) = Laplace(y) dy/dx, and dy/dx = 1 / (x (1 - x))."""
    x = np.linspace(0.1, 0.9, 17)
    expected = -scipy.stats.laplace.logpdf(scipy.special.logit(x), mu, np.exp(ln_b)) + np.log(x * (1 - x))
    checks.close(logit_laplace(np.float32(x), np.float32(mu), np.float32(ln_b)), expected, 1e-5)
