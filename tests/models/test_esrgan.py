"""SRGAN and ESRGAN: losses against their equations, the two steps, the discriminators, interpolation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models.errors import UserError
from homl_models.models import esrgan
from homl_models.models.esrgan import ESRGAN, interpolate
from homl_models.models.rrdb import RRDBNet
from homl_models.models.sr_discriminators import UNetDiscriminator, VGGDiscriminator
from homl_models.optimizers import GANOptimizer
from homl_models.training.saved_model import write_saved_model
from tests import checks

RNG = np.random.default_rng(0)
X_R, X_F = RNG.normal(size=(2, 5))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_relativistic_losses_are_equations_1_and_2():
    d_rf, d_fr = sigmoid(X_R - X_F.mean()), sigmoid(X_F - X_R.mean())
    discriminator = -np.log(d_rf).mean() - np.log(1 - d_fr).mean()
    generator = -np.log(1 - d_rf).mean() - np.log(d_fr).mean()
    d, g = esrgan.ADVERSARIAL["relativistic"]
    checks.close(d(X_R, X_F) * 2, discriminator)
    checks.close(g(X_R, X_F) * 2, generator)


def test_vanilla_losses_are_the_cross_entropies():
    d, g = esrgan.ADVERSARIAL["vanilla"]
    checks.close(d(X_R, X_F), -np.log(sigmoid(X_R)).mean() - np.log(1 - sigmoid(X_F)).mean())
    checks.close(g(X_R, X_F), -np.log(sigmoid(X_F)).mean())


def test_perceptual_losses():
    a, b = RNG.normal(size=(2, 1, 3, 3, 2))
    checks.close(esrgan.PERCEPTUAL["l1"](a, b), np.abs(a - b).mean())
    checks.close(esrgan.PERCEPTUAL["srgan"](a, b), ((a / 12.75 - b / 12.75) ** 2).mean())
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    checks.close(esrgan.PERCEPTUAL["lpips"](a, b), (2 - 2 * cosines).mean(), 1e-5)


def test_perceptual_losses_of_several_layers_are_added():
    model = small()
    one = model.losses_of(LOW, LOW[::-1])["perceptual_loss"]
    model.features = lambda images: [features(images), features(images)]
    checks.close(model.losses_of(LOW, LOW[::-1])["perceptual_loss"], 2 * one)


def features(images):
    """Finite differences: a network that needs no weights."""
    return images[:, 1:] - images[:, :-1]


def small(discriminator=None, run_eagerly=False, **kwargs):
    keras.utils.set_random_seed(1)
    generator = RRDBNet(4, 4, 1, 4, name="generator")
    model = ESRGAN(generator, discriminator or UNetDiscriminator(4), **kwargs)
    model.build()
    model.begin(generator.get_weights())
    optimizer = GANOptimizer(keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0))
    model.compile(optimizer, features, auto_scale_loss=False, run_eagerly=run_eagerly)
    return model


LOW, HIGH = RNG.uniform(size=(2, 8, 8, 3)).astype(np.float32), RNG.uniform(size=(2, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("discriminator", [UNetDiscriminator(4), VGGDiscriminator(32, 4)])
def test_a_step_moves_each_network_by_the_gradient_of_its_own_loss(discriminator):
    """With SGD of learning rate 1 a weight moves by its gradient; here those are taken by another way."""
    model = small(discriminator)
    before = model.get_weights()
    g, d = model.generator, model.discriminator
    with tf.GradientTape() as tape:
        fake = g(LOW)
        x_r, x_f = tf.stop_gradient(d(HIGH, training=True)), d(fake, training=True)
        adversarial = -tf.math.log(1 - tf.sigmoid(x_r - tf.reduce_mean(x_f)))
        adversarial = tf.reduce_mean(adversarial) - tf.reduce_mean(tf.math.log(tf.sigmoid(x_f - tf.reduce_mean(x_r))))
        pixels = tf.reduce_mean(tf.abs(fake - HIGH))
        perceptual = tf.reduce_mean(tf.abs(features(fake) - features(HIGH)))
        loss = perceptual + 5e-3 * adversarial / 2 + 1e-2 * pixels
    wanted_g = tape.gradient(loss, [w.value for w in g.trainable_variables])
    with tf.GradientTape() as tape:
        x_r, x_f = d(HIGH, training=True), d(tf.stop_gradient(fake), training=True)
        real, generated = tf.sigmoid(x_r - tf.reduce_mean(x_f)), tf.sigmoid(x_f - tf.reduce_mean(x_r))
        loss_d = -tf.reduce_mean(tf.math.log(real)) / 2 - tf.reduce_mean(tf.math.log(1 - generated)) / 2
    wanted_d = tape.gradient(loss_d, [w.value for w in d.trainable_variables])
    model.set_weights(before)
    old = [[np.array(w) for w in network.trainable_variables] for network in (g, d)]
    found = model.fit(LOW, HIGH, batch_size=2, verbose=0).history
    for network, olds, wanted in ((g, old[0], wanted_g), (d, old[1], wanted_d)):
        moved = [was - np.array(w) for was, w in zip(olds, network.trainable_variables)]
        checks.close(moved, [np.array(x) for x in wanted], 2e-4)
        assert all(x.any() for x in moved if x.ndim > 1)
    checks.close(found["pixel_loss"][0], pixels)
    checks.close(found["perceptual_loss"][0], perceptual)
    checks.close(found["generator_loss"][0], adversarial / 2)
    checks.close(found["discriminator_loss"][0], loss_d)


def test_a_target_of_its_own_is_for_the_pixels_and_the_features():
    """With a weight of 0 for the adversarial loss the real images do not matter to the generator."""
    moved = []
    for high, target in ((HIGH, HIGH), (1 - HIGH, HIGH)):
        model = small(adversarial_weight=0.0, run_eagerly=True)
        model.fit(tf.data.Dataset.from_tensors((LOW, (high, target))), verbose=0)
        moved.append(model.generator.get_weights())
    checks.close(*moved, 1e-6)
    model = small(adversarial_weight=0.0, run_eagerly=True)
    model.fit(LOW, HIGH, batch_size=2, verbose=0)
    checks.close(model.generator.get_weights(), moved[0], 1e-6)


def test_evaluation_has_the_losses_that_need_no_discriminator():
    model = small()
    found = model.evaluate(LOW, HIGH, batch_size=2, verbose=0, return_dict=True)
    assert set(found) == {"pixel_loss", "perceptual_loss"}
    checks.close(found["pixel_loss"], np.abs(np.array(model(LOW)) - HIGH).mean())


def test_a_file_has_both_generators_and_no_features(tmp_path):
    model = small()
    model.fit(LOW, HIGH, batch_size=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    checks.close(loaded.weights, model.weights, 0)
    checks.close(loaded(LOW), model(LOW))
    checks.close(loaded.interpolated(0)(LOW), model.psnr_generator(LOW), 0)
    assert (loaded.interpolated(0)(LOW).numpy() != model(LOW).numpy()).any()


def test_interpolation_is_linear_in_every_weight():
    a, b = RRDBNet(4, 4, 1, 4), RRDBNet(4, 4, 1, 4)
    for network in (a, b):
        network.build()
        network.set_weights([RNG.normal(size=w.shape) for w in network.weights])
    for alpha in (0, 0.25, 1):
        found = interpolate(a, b, alpha).get_weights()
        checks.close(found, [(1 - alpha) * x + alpha * y for x, y in zip(a.get_weights(), b.get_weights())], 1e-6)
    with pytest.raises(UserError, match="same shapes"):
        interpolate(a, RRDBNet(4, 4, 2, 4), 0.5)


def test_the_endpoint_and_upscale_interpolate(tmp_path):
    model = small()
    model.fit(LOW, HIGH, batch_size=2, verbose=0)
    write_saved_model(model, tmp_path / "saved")
    saved = tf.saved_model.load(tmp_path / "saved")
    for alpha in (0.0, 0.3, 1.0):
        expected = np.clip(model.interpolated(alpha)(LOW), 0, 1)
        checks.close(saved.upscale(tf.constant(LOW), tf.constant(alpha))["images"], expected)
        checks.close(model.upscale(LOW[0], alpha=alpha), expected[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"adversarial": "hinge"}, "relativistic, vanilla"),
        ({"perceptual": "l2"}, "l1, srgan"),
        ({"generator": RRDBNet(4, 4, 1, 4, name="rrdb")}, 'the name "generator"'),
    ],
)
def test_bad_arguments_are_one_line(wrong, message):
    good = {"generator": RRDBNet(4, 4, 1, 4, name="generator"), "discriminator": UNetDiscriminator(4)}
    with pytest.raises(UserError, match=message):
        ESRGAN(**good | wrong)


def test_the_perceptual_loss_needs_features():
    model = ESRGAN(RRDBNet(4, 4, 1, 4, name="generator"), UNetDiscriminator(4))
    model.build()
    model.compile(GANOptimizer(keras.optimizers.SGD(), keras.optimizers.SGD()), auto_scale_loss=False)
    with pytest.raises(UserError, match="needs features"):
        model.fit(LOW, HIGH, batch_size=2, verbose=0)
    with pytest.raises(UserError, match="alpha must lie"):
        model.interpolated(1.5)
