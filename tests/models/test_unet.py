"""The U-Nets against PyTorch's layers, and against the book's network in Keras' layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import book_diffusion
from homl_models.errors import UserError
from homl_models.layers.positional import PositionalEncoding
from homl_models.models.unet import SeparableUNet, UNet
from tests import checks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 8, 8, 1)).astype("float32")
TIMESTEPS, LABELS = np.array([1, 40, 900]), np.array([0, 2, 3])
SMALL = {"filters": (8, 16), "num_heads": 2}
KINDS = {
    "patches": (UNet, SMALL),
    "pixels": (UNet, SMALL | {"patch": 1, "num_blocks": 2, "attention_levels": (0, 1), "num_classes": 3}),
    "separable": (SeparableUNet, {"filters": (4, 8, 8), "time_dim": 6, "num_classes": 3}),
}
EVERY = pytest.mark.parametrize("kind", KINDS)


def make(kind, shape=(None, 8, 8, 1), **more):
    keras.utils.set_random_seed(0)
    cls, settings = KINDS[kind]
    network = cls(**settings | more)
    network.build(shape)
    for i, weight in enumerate(network.trainable_weights):  # those that begin at zero, too
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.1, seed=i))
    return network


def inputs(network, x=X):
    return (x, TIMESTEPS[: len(x)], LABELS[: len(x)]) if network.num_classes else (x, TIMESTEPS[: len(x)])


@pytest.mark.parity
@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (8, 8, 1)),
        ({"patch": 1, "num_blocks": 2, "attention_levels": (0, 1), "num_classes": 3, "channels": 3}, (8, 12, 3)),
        ({"filters": (8, 16, 24), "attention_levels": ()}, (16, 8, 1)),
    ],
)
def test_unet_is_the_one_of_pytorchs_layers(settings, shape):
    import torch

    from benchmarks.torch_unet import UNet as TorchUNet

    network = make("patches", (None, *shape), **settings)
    names = {"num_classes": "classes", "num_heads": "heads"}
    theirs = TorchUNet(**{names.get(key, key): value for key, value in (SMALL | settings).items()})
    theirs.load_keras_weights(network)
    x = RNG.normal(size=(3, *shape)).astype("float32")
    given = (torch.tensor(TIMESTEPS), torch.tensor(LABELS) if network.num_classes else None)
    images = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = theirs(images, *given)
    expected.square().sum().backward()
    with tf.GradientTape() as tape:
        x = tf.constant(x)
        tape.watch(x)
        found = network(*inputs(network, x))
        loss = tf.reduce_sum(found**2)
    wanted = [expected.detach().numpy(), images.grad.numpy(), theirs.conv_in.weight.grad.numpy()]
    gradient, of_kernel = tape.gradient(loss, [x, network.conv_in.kernel.value])
    ours = [
        tf.transpose(found, (0, 3, 1, 2)),
        tf.transpose(gradient, (0, 3, 1, 2)),
        tf.transpose(of_kernel, (3, 2, 0, 1)),
    ]
    for a, b in zip(ours, wanted, strict=True):
        checks.close(a / np.abs(b).max(), b / np.abs(b).max(), 2e-5)


@pytest.mark.parametrize("training", [False, True])
def test_separable_is_the_books_network(training):
    book = book_diffusion.network(steps=1000, filters=(4, 8, 8, 16), time_dim=6)
    network = make("separable", (None, 28, 28, 1), filters=(4, 8, 8, 16), num_classes=0)

    def layers(kind):
        return [layer for layer in book.layers if type(layer).__name__ == kind]

    convolutions, shortcuts = layers("Conv2D"), [layer for layer in layers("Conv2D") if layer.kernel_size == (1, 1)]
    pairs = [
        *zip([network.conv_in, network.conv_out], [convolutions[0], convolutions[-1]], strict=True),
        *zip(network.shortcuts, shortcuts, strict=True),
        *zip(network.time_dense, layers("Dense"), strict=True),
        *zip([x for pair in network.down_convs for x in pair], layers("SeparableConv2D"), strict=True),
        *zip([x for pair in network.up_convs for x in pair], layers("Conv2DTranspose"), strict=True),
        *zip(
            [network.norm_in, *(x for pair in network.norms for x in pair)],
            layers("BatchNormalization"),
            strict=True,
        ),
    ]
    for ours, theirs in pairs:
        theirs.set_weights(ours.get_weights())
    assert sum(len(layer.weights) for layer, _ in pairs) == len(network.weights) == len(book.weights)
    x = RNG.normal(size=(3, 28, 28, 1)).astype("float32")
    checks.close(network(x, TIMESTEPS, training=training), book([x, TIMESTEPS], training=training), 1e-4)
    for ours, theirs in pairs:
        checks.close(ours.get_weights(), theirs.get_weights())  # the moving averages


@EVERY
def test_the_condition_is_the_positional_encoding_of_the_timestep(kind, monkeypatch):
    """Through the network: timesteps that only a row of `PositionalEncoding` tells apart."""
    network = make(kind)
    dim = network.filters[0] if isinstance(network, UNet) else network.time_dim
    encoding = PositionalEncoding()(np.zeros((1, 1000, dim), "float32"))
    calls = []
    dense = network.time_mlp[0] if isinstance(network, UNet) else network.time_dense[0]
    monkeypatch.setattr(dense, "call", lambda x, call=dense.call: calls.append(x) or call(x))
    network(X, TIMESTEPS, np.full(3, network.num_classes)) if network.num_classes else network(X, TIMESTEPS)
    wanted = np.array(encoding)[0, TIMESTEPS]
    if not isinstance(network, UNet):
        wanted = wanted + np.array(network.embedding.embeddings)[-1]
    checks.close(calls[0], wanted, 1e-4)


@EVERY
def test_outputs_depend_on_the_timestep_the_class_and_the_whole_image(kind):
    network = make(kind)
    before = np.array(network(*inputs(network)))
    for i in range(len(inputs(network))):
        changed = list(inputs(network))
        changed[i] = np.roll(changed[i], 1, axis=0)
        assert (np.abs(np.array(network(*changed)) - before).max((1, 2, 3)) > 1e-5).all()
    corner = X.copy()
    corner[:, 0, 0] += 1
    assert (np.array(network(corner, *inputs(network)[1:]))[:, -1, -1] != before[:, -1, -1]).any()


@EVERY
def test_files_precision_gradients_and_unknown_sizes(kind):
    cls, settings = KINDS[kind]
    checks.config_round_trip(cls, **settings)
    network = make(kind)
    checks.gradients_reach(lambda x: network(*x, training=True), network.trainable_weights, inputs(network))
    checks.any_batch_and_length(lambda x: network(*x), inputs(network), unknown=(0,))
    for policy, tolerance in checks.HALF.items():
        half, exact = make(kind, dtype=policy), np.array(network(*inputs(network)))
        half.set_weights(network.get_weights())
        found = half(*inputs(network))
        assert found.dtype == "float32"
        assert 0 < np.abs(np.array(found) - exact).max() < 2 * tolerance * np.abs(exact).max()


@pytest.mark.slow
@pytest.mark.xla
@EVERY
def test_any_batch_by_xla(kind):
    network = make(kind)
    checks.any_batch_and_length(lambda x: network(*x), inputs(network), unknown=(0,))


def test_a_new_unet_predicts_zero():
    network = UNet(**SMALL)
    assert not np.any(network(X, TIMESTEPS))


def test_dropout_is_active_in_training_only():
    network = make("patches", dropout=0.5)
    before = np.array(network(X, TIMESTEPS))
    checks.close(network(X, TIMESTEPS, training=False), before, 0)
    assert (np.array(network(X, TIMESTEPS, training=True)) != before).any()


@pytest.mark.parametrize("shape", [(5, 7), (10, 8), (1, 1)])
def test_images_of_any_size_are_padded(shape):
    """At the far edges with zeros: the output is that of the padded image, cut."""
    network = UNet(**SMALL)
    network.build((None, *shape, 1))
    for i, weight in enumerate(network.weights):
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.1, seed=i))
    x = np.random.default_rng(0).normal(size=(3, *shape, 1)).astype("float32")
    padded = np.pad(x, [(0, 0), *((0, -n % 4) for n in shape), (0, 0)])
    labels = np.zeros(3, "int32") if network.num_classes else None
    found, whole = (network(some, np.array([1, 5, 9]), labels) for some in (x, padded))
    assert found.shape == x.shape
    checks.close(found, np.array(whole)[:, : shape[0], : shape[1]])


def test_odd_filters_are_refused():
    with pytest.raises(UserError, match="multiples of 8, not 12"):
        UNet(filters=(12,))


@pytest.mark.parametrize("shape", [(5, 7), (28, 28), (8, 9)])
def test_separable_pads_images_of_any_size(shape):
    network = make("separable", (None, *shape, 1), num_classes=0)
    x = RNG.normal(size=(2, *shape, 1)).astype("float32")
    assert network(x, TIMESTEPS[:2]).shape == (2, *shape, 1)
