"""Perceptual features: against the same layers in float64, on real weights; against Keras' VGG19."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from homl_models.models.perceptual import FeatureExtractor
from tests import checks

HED = "checkpoints/vgg16_hed/vgg16_hed_conv1_1_to_conv4_3_f16.npz"
SQUEEZENET = "checkpoints/squeezenet/squeezenet1_0_deepcompression.npz"


@pytest.fixture(scope="module")
def images(shared_data):
    """Two of Set14, 46x53, in [0, 1]."""
    paths = [shared_data / "sr" / "Set14" / f"{name}.png" for name in ("zebra", "pepper")]
    return np.stack([np.float32(Image.open(path).convert("RGB"))[100:146, 100:153] / 255 for path in paths])


@pytest.fixture(scope="module")
def vgg(shared_data):
    return FeatureExtractor(shared_data / HED, ("conv1_2", "conv4_3", "conv3_1"))


def convolve(x, kernel, bias, strides=1, padding=0):
    """In float64, (b, h, w, c) and (h, w, in, out)."""
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    windows = sliding_window_view(x, kernel.shape[:2], axis=(1, 2))[:, ::strides, ::strides]
    return np.tensordot(windows, np.float64(kernel).transpose(2, 0, 1, 3), axes=3) + bias


def pool(x, size):
    """Maxima of windows at every other pixel, also of those that end beyond the edge, if they are 3 wide."""
    _, height, width, _ = x.shape
    counts = [int(np.ceil((n - size) / 2)) + 1 if size == 3 else n // 2 for n in (height, width)]
    rows = [
        [x[:, 2 * i : 2 * i + size, 2 * j : 2 * j + size].max((1, 2)) for j in range(counts[1])]
        for i in range(counts[0])
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def preprocessed(images, means):
    return 255 * np.float64(images)[..., ::-1] - np.array(means)


def vgg_reference(path, images):
    weights, x, found = np.load(path), preprocessed(images, (104.007, 116.669, 122.679)), {}
    for block, size in enumerate((2, 2, 3, 3), 1):
        for i in range(1, size + 1):
            name = f"conv{block}_{i}"
            found[name] = convolve(x, weights[f"{name}.kernel"], weights[f"{name}.bias"], padding=1)
            x = np.maximum(found[name], 0)
        x = pool(x, 2)
    return found


def squeezenet_reference(path, images):
    weights, x, found = np.load(path), preprocessed(images, (104, 117, 123)), {}

    def layer(name, x, **settings):
        return convolve(x, weights[f"{name}.weight"].transpose(2, 3, 1, 0), weights[f"{name}.bias"], **settings)

    found["conv1"] = layer("conv1", x, strides=2)
    x = pool(np.maximum(found["conv1"], 0), 3)
    for i in range(2, 10):
        squeezed = np.maximum(layer(f"fire{i}/conv1x1_1", x), 0)
        parts = [layer(f"fire{i}/conv1x1_2", squeezed), layer(f"fire{i}/conv3x3_2", squeezed, padding=1)]
        found[f"fire{i}"] = np.concatenate(parts, axis=-1)
        x = np.maximum(found[f"fire{i}"], 0)
        x = pool(x, 3) if i in (4, 8) else x
    found["conv_final"] = layer("conv_final", x, padding=1)
    return found


def close_to(found, expected):
    for ours, theirs in zip(checks.arrays(found), expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


def test_vgg_equals_its_layers_in_float64(vgg, images, shared_data):
    reference = vgg_reference(shared_data / HED, images)
    close_to(vgg(images), [reference[name] for name in ("conv1_2", "conv4_3", "conv3_1")])
    deepest = FeatureExtractor(shared_data / HED, activated=True)
    assert deepest.layers == ("conv4_3",)
    close_to([deepest(images)], [np.maximum(reference["conv4_3"], 0)])


def test_squeezenet_equals_its_layers_in_float64(images, shared_data):
    reference = squeezenet_reference(shared_data / SQUEEZENET, images)
    names = ["conv1", "fire2", "fire4", "fire9", "conv_final"]
    close_to(FeatureExtractor(shared_data / SQUEEZENET, names)(images), [reference[name] for name in names])
    assert FeatureExtractor(shared_data / SQUEEZENET).layers == ("fire9",)


def test_vgg19_is_that_of_keras(images, monkeypatch):
    """With random weights in place of ImageNet's: names, order, preprocessing."""
    made = []

    def without_weights(include_top, weights):
        assert (include_top, weights) == (False, "imagenet")
        made.append(original(include_top=False, weights=None))
        return made[0]

    original = keras.applications.VGG19
    monkeypatch.setattr(keras.applications, "VGG19", without_weights)
    features = FeatureExtractor("vgg19", ("conv1_1", "conv5_4"))
    for layer in (made[0].get_layer("block1_conv1"), made[0].get_layer("block5_conv4")):
        layer.activation = keras.activations.linear
    outputs = [made[0].get_layer(name).output for name in ("block1_conv1", "block5_conv4")]
    assert [layer.name for layer in made[0].layers if "conv" in layer.name][-1] == "block5_conv4"
    before = [keras.Model(made[0].inputs, output) for output in outputs]
    x = keras.applications.vgg19.preprocess_input(255 * images)
    first = before[0](x)
    made[0].get_layer("block1_conv1").activation = keras.activations.relu
    close_to(features(images), checks.arrays([first, before[1](x)]))
    assert FeatureExtractor("vgg19").layers == ("conv5_4",)


def test_grey_images_are_taken_as_rgb(vgg, images):
    grey = images[..., :1]
    checks.close(vgg(grey), vgg(np.repeat(grey, 3, axis=-1)), 0)


def test_distance_is_that_of_unit_features(vgg, images, shared_data):
    noisy = np.clip(images + np.random.default_rng(0).normal(size=images.shape) * [[[[0.02]]], [[[0.1]]]], 0, 1)
    noisy = np.float32(noisy)
    expected = 0
    for x, y in zip(checks.arrays(vgg(images)), checks.arrays(vgg(noisy))):
        x, y = (part / np.linalg.norm(part, axis=-1, keepdims=True) for part in (x, y))
        expected = expected + (2 - 2 * (x * y).sum(-1)).mean((1, 2))
    distance = checks.arrays(vgg.distance(images, noisy))[0]
    np.testing.assert_allclose(distance, expected, rtol=1e-3)
    assert 0 < distance[0] < distance[1]
    assert not checks.arrays(vgg.distance(images, images))[0].any()
    black = tf.zeros((1, 16, 16, 3))
    with tf.GradientTape() as tape:
        tape.watch(black)
        distance = FeatureExtractor(shared_data / HED, ("conv4_3",), activated=True).distance(black, black)
    assert np.isfinite(tape.gradient(distance, black)).all()


def test_half_precision_of_the_surroundings_does_not_matter(vgg, images):
    class Loss(keras.layers.Layer):
        def call(self, images):
            return vgg(images)

    half = Loss(dtype="mixed_float16")(images.astype("float16"))
    assert {x.dtype for x in half} == {tf.float32}
    close_to(half, checks.arrays(vgg(images.astype("float16").astype("float32"))))


def test_gradients_reach_the_images_and_one_trace_serves_every_size(vgg, images):
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = sum(tf.reduce_mean(tf.abs(part)) for part in vgg(x))
        return tape.gradient(loss, x)

    x = tf.constant(images)
    assert (np.abs(gradient(x)) > 0).mean() > 0.99
    checks.any_batch_and_length(vgg, images, (0, 1, 2))


def test_a_model_saves_nothing_of_its_features(vgg):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.features = vgg
    assert len(model.weights) == 2


def test_without_weights_the_error_says_how_to_get_them(tmp_path, monkeypatch):
    def unreachable(**_):
        raise OSError("no network")

    monkeypatch.setattr(keras.applications, "VGG19", unreachable)
    for source in ("vgg19", str(tmp_path / "none.h5"), str(tmp_path / "none.npz")):
        checks.fails(
            "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", lambda s=source: FeatureExtractor(s), "KERAS_HOME"
        )
    (tmp_path / "bad.h5").write_bytes(b"no weights")
    (tmp_path / "bad.npz").write_bytes(b"no weights")
    checks.fails("does not hold VGG19", lambda: FeatureExtractor(str(tmp_path / "bad.h5")))
    checks.fails("cannot read .*bad.npz", lambda: FeatureExtractor(tmp_path / "bad.npz"))


def test_files_of_other_networks_and_unknown_layers(tmp_path, shared_data):
    np.savez(tmp_path / "other.npz", **{"body.0.weight": np.zeros((4, 3, 3, 3))})
    checks.fails("neither a VGG .* nor SqueezeNet", lambda: FeatureExtractor(tmp_path / "other.npz"), "body.0.kernel")
    np.savez(tmp_path / "lacks.npz", **{"conv1_1.kernel": np.zeros((3, 3, 3, 4))})
    checks.fails("lacks conv1_1", lambda: FeatureExtractor(tmp_path / "lacks.npz"))
    checks.fails("no layers conv5_4; it has conv1_1", lambda: FeatureExtractor(shared_data / HED, ("conv5_4",)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "label"), [("zebra", 340), ("monarch", 323), ("pepper", 945)])
def test_squeezenet_recognizes_what_is_on_a_photograph(name, label, shared_data):
    image = Image.open(shared_data / "sr" / "Set14" / f"{name}.png").convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.resize((227, 227), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    features = FeatureExtractor(shared_data / SQUEEZENET, ("conv_final",), activated=True)
    (scores,) = checks.arrays([features(np.float32(image)[None] / 255)])
    assert scores.mean((1, 2)).argmax() == label


def test_each_resolution_has_its_last_layer(shared_data):
    path = shared_data / "checkpoints" / "squeezenet" / "squeezenet1_0_deepcompression.npz"
    assert FeatureExtractor(path, "each").layers == ("conv1", "fire4", "fire8", "fire9")
    path = shared_data / "checkpoints" / "vgg16_hed" / "vgg16_hed_conv1_1_to_conv4_3_f16.npz"
    assert FeatureExtractor(path, "each").layers == ("conv1_2", "conv2_2", "conv3_3", "conv4_3")
