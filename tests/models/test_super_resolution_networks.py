"""The networks for super-resolution: their sizes, what an output pixel depends on, precision, files, backends."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models import models
from homl_models.models.srresnet import SRResidualBlock
from tests import checks

RNG = np.random.default_rng(0)
NETWORKS = {
    "rrdb": ("RRDBNet", {"filters": 4, "num_blocks": 1, "growth": 2}),
    "rrdb x2": ("RRDBNet", {"scale": 2, "filters": 4, "num_blocks": 1, "growth": 2}),
    "rrdb x1": ("RRDBNet", {"scale": 1, "filters": 4, "num_blocks": 1, "growth": 2, "channels": 1}),
    "rrdb x8": ("RRDBNet", {"scale": 8, "filters": 4, "num_blocks": 1, "growth": 2}),
    "old rrdb x2": ("RRDBNet", {"scale": 2, "filters": 4, "num_blocks": 1, "growth": 2, "unshuffle": 1}),
    "srvgg": ("SRVGGNetCompact", {"filters": 4, "num_convs": 2}),
    "srvgg x3": ("SRVGGNetCompact", {"scale": 3, "filters": 4, "num_convs": 1, "channels": 1}),
    "srresnet": ("SRResNet", {"filters": 4, "num_blocks": 1}),
    "srresnet x3": ("SRResNet", {"scale": 3, "filters": 4, "num_blocks": 2, "batch_norm": False, "channels": 1}),
    "msrresnet": ("MSRResNet", {"filters": 4, "num_blocks": 1}),
    "msrresnet x3": ("MSRResNet", {"scale": 3, "filters": 4, "num_blocks": 1}),
    "srcnn": ("SRCNN", {"filters": (4, 3)}),
    "srcnn x4": ("SRCNN", {"scale": 4, "kernel_sizes": (9, 5, 5), "filters": (4, 3)}),
    "vdsr": ("VDSR", {"filters": 4, "num_convs": 4}),
    "vdsr x3": ("VDSR", {"scale": 3, "filters": 4, "num_convs": 3, "use_bias": True, "channels": 3}),
    "dncnn": ("DnCNN", {"filters": 4, "num_convs": 4}),
}
EVERY = pytest.mark.parametrize("kind", NETWORKS)
ONE_OF_EACH = pytest.mark.parametrize("kind", ["rrdb x2", "srvgg", "srresnet", "msrresnet", "srcnn", "vdsr", "dncnn"])


def make(kind, dtype="float32"):
    name, settings = NETWORKS[kind]
    model = getattr(models, name)(**settings, dtype=dtype)
    model.build()
    return model


@functools.cache
def unchanged(kind):
    """A model for tests that leave it as it is, with weights that let everything through."""
    model, draw = make(kind), np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(draw.uniform(0.2, 1, weight.shape) / np.sqrt(np.prod(weight.shape[:-1]) or 1))
    return model


def images(model, height=8, width=12, count=2):
    return RNG.random((count, height, width, model.channels)).astype("float32")


@EVERY
def test_an_output_pixel_depends_on_its_receptive_field(kind):
    model = unchanged(kind)
    reach = model.receptive_field
    middle = -(-(reach + 1) // model.multiple) * model.multiple
    height = 2 * middle + model.multiple
    x = tf.constant(images(model, height, 4 * model.multiple, 1) + 0.5)
    far = 0
    for row in range(middle, middle + model.multiple):
        rows = slice(model.scale * row, model.scale * (row + 1))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=False)[0, rows, 2 * model.scale]
            total = tf.reduce_sum(y * tf.random.stateless_uniform(y.shape, (0, 1)))
        (seen,) = np.nonzero(np.abs(tape.gradient(total, x).numpy()).sum((0, 2, 3)))
        far = max(far, np.abs(seen - row).max())
    assert far == reach


@ONE_OF_EACH
def test_any_batch_and_size(kind):
    model = unchanged(kind)
    function = functools.partial(model, training=False)
    traced = tf.function(function, input_signature=[tf.TensorSpec((None, None, None, model.channels))], autograph=False)
    for count, height, width in ((2, 6, 8), (1, 2, 4)):
        x = images(model, height, width, count)
        y = traced(tf.constant(x)).numpy()
        checks.close(y, function(x))
        assert y.shape == (count, model.scale * height, model.scale * width, model.channels)
    symbol = keras.Input((None, None, model.channels))
    assert model(symbol).shape == (None, None, None, model.channels)
    assert model.compute_output_shape(x.shape) == y.shape


@ONE_OF_EACH
def test_half_precision_is_close(kind):
    x = images(unchanged(kind), 4, 4)
    checks.mixed_precision(functools.partial(make, kind), x)


@EVERY
def test_configuration(kind):
    name, settings = NETWORKS[kind]
    checks.config_round_trip(getattr(models, name), **settings)


@ONE_OF_EACH
def test_a_file_of_keras_comes_back(kind, tmp_path):
    model = unchanged(kind)
    model.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    assert loaded.get_config() == model.get_config()
    x = images(model, 4, 4)
    checks.close(loaded(x, training=False), model(x, training=False), 0)


@ONE_OF_EACH
def test_every_weight_learns(kind):
    model = make(kind)
    checks.gradients_reach(functools.partial(model, training=True), model.trainable_weights, images(model, 4, 4))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_residual_block(batch_norm):
    block = SRResidualBlock(4, batch_norm)
    x = RNG.normal(size=(2, 5, 6, 4)).astype("float32")
    y = block(x, training=False)
    assert y.shape == x.shape
    for layer in block.convolutions:
        layer.kernel.assign(tf.zeros_like(layer.kernel))
    checks.close(block(x, training=False), x)


def test_initial_weights_of_dense_blocks_are_a_tenth_of_hes():
    model = models.RRDBNet(num_blocks=1)
    model.build()
    kernel = model.body[0].blocks[0].convolutions[2].kernel.numpy()
    assert kernel.std() == pytest.approx(0.1 * np.sqrt(2 / (9 * 128)), rel=0.02)


def test_what_a_user_may_get_wrong():
    checks.fails("scale must be 1, 2, 4 or 8, not 3", lambda: models.RRDBNet(scale=3))
    checks.fails("scale must be 1, 2, 3, 4 or 8, not 5", lambda: models.SRResNet(scale=5))
    checks.fails("three odd kernel_sizes", lambda: models.SRCNN(kernel_sizes=(9, 2, 5)))


SCRIPT = """
import json, sys
import numpy as np
from tests.models.test_super_resolution_networks import NETWORKS
from homl_models import models
found = {}
for kind, (name, settings) in NETWORKS.items():
    model = getattr(models, name)(**settings)
    model.build()
    draw = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(draw.uniform(0.2, 1, weight.shape) / np.sqrt(np.prod(weight.shape[:-1]) or 1))
    x = np.linspace(0, 1, 16 * model.channels, dtype="float32").reshape(1, 4, 4, model.channels)
    found[kind] = np.asarray(model(x, training=False)).tolist()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_jax_gives_the_same():
    found = checks.in_fresh_process(SCRIPT, KERAS_BACKEND="jax")
    for kind in NETWORKS:
        model = unchanged(kind)
        x = np.linspace(0, 1, 16 * model.channels, dtype="float32").reshape(1, 4, 4, model.channels)
        checks.close(np.array(found[kind], "float32"), model(x, training=False), 1e-4)
