"""Augmentation of images by Pillow, against formulas and TensorFlow's resizing."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from PIL import Image

from homl_models.errors import UserError
from homl_models.pipelines import image_augmentation
from homl_models.pipelines.image_augmentation import OPERATIONS, Augmentation, center_crops, jittered, random_crop

PLAIN = Augmentation(((24, 24), (12, 12)), flip=0.0, color_jitter=0.0)


def generator(seed=0):
    return np.random.default_rng(seed)


def noise(height=40, width=48, channels=3):
    return generator().integers(0, 256, (height, width, channels)[: 3 if channels > 1 else 2], np.uint8)


def ramp(height, width):
    """Red counts rows and green columns."""
    rows, columns = np.mgrid[:height, :width]
    return np.uint8(np.stack([rows, columns, np.zeros_like(rows)], axis=-1))


def test_area_aspect_ratio_and_place_of_crops():
    rng = generator()
    crops = np.array([random_crop(1000, 1000, (0.1, 0.5), (3 / 4, 4 / 3), rng) for _ in range(1500)])
    left, top, width, height = crops.T
    assert scipy.stats.kstest(width * height / 1e6, "uniform", (0.1, 0.4)).pvalue > 0.001
    aspect = np.log(width / height) / np.log(4 / 3)
    assert scipy.stats.kstest(aspect, "uniform", (-1, 2)).pvalue > 0.001
    for first, length in ((left, width), (top, height)):
        assert scipy.stats.kstest((first + 0.5) / (1001 - length), "uniform").pvalue > 0.001


def test_of_an_image_too_long_for_its_ratio_the_middle_is_taken():
    assert random_crop(300, 6, (1.0, 1.0), (3 / 4, 4 / 3), generator()) == (146, 0, 8, 6)
    assert random_crop(6, 300, (1.0, 1.0), (3 / 4, 4 / 3), generator()) == (0, 146, 6, 8)
    assert random_crop(1, 1, (0.08, 1.0), (3 / 4, 4 / 3), generator())[2:] == (1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_two_views_are_interpolated_as_tensorflow_does(channels):
    image = 64 + noise(channels=channels) // 2  # nothing is clipped between rows and columns
    left, top, width, height = random_crop(48, 40, PLAIN.scale, PLAIN.ratio, generator(5))
    crop = image[top : top + height, left : left + width].reshape(height, width, channels).astype(np.float32)
    views = PLAIN(image, generator(5))
    for view, size, method in zip(views, PLAIN.sizes, ("bicubic", "lanczos3")):
        expected = np.clip(tf.image.resize(crop, size, method, antialias=True), 0, 255)
        assert view.shape == (*size, *image.shape[2:])
        np.testing.assert_allclose(
            view.reshape(expected.shape), expected, atol=1.6
        )  # two roundings, of rows and columns


def test_half_of_the_crops_are_mirrored_in_both_views():
    augmentation, rng = dataclasses.replace(PLAIN, flip=0.5), generator()
    views = [augmentation(ramp(100, 100), rng) for _ in range(200)]
    signs = np.array([[np.sign(int(view[0, -1, 1]) - int(view[0, 0, 1])) for view in pair] for pair in views])
    assert (signs[:, 0] == signs[:, 1]).all()
    assert 70 < (signs[:, 0] < 0).sum() < 130


class Given:
    """A generator that gives these factors, in this order of operations."""

    def __init__(self, order, *factors):
        self.order, self.factors = order, iter(factors)

    def permutation(self, count):
        return self.order

    def uniform(self, low, high):
        assert (low, high) == (0.6, 1.4)
        return next(self.factors)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_colour_jitter(order):
    image = noise(8, 9)
    x, grey = np.float64(image), (0.299, 0.587, 0.114)
    for i, factor in zip(order, (1.3, 0.7, 1.2)):
        base = (0, np.round((x @ grey).mean()), (x @ grey)[..., None])[i]
        x = np.clip(base + factor * (x - base), 0, 255)
    found = np.asarray(jittered(Image.fromarray(image), 0.4, Given(order, 1.3, 0.7, 1.2)))
    np.testing.assert_allclose(found, x, atol=4)
    assert np.abs(found - x).mean() < 1.5  # levels are cut to whole numbers at each step


def test_grey_images_have_no_saturation():
    image = noise(8, 9, 1)
    found = jittered(Image.fromarray(image), 0.4, Given((2, 0, 1), 1.3, 1.0, 1.0))
    np.testing.assert_array_equal(found, image)


X = noise(10, 10)
EXPECTED = {
    ("posterize", 1.0): X & 0b11110000,
    ("solarize", 0.25): np.where(X < 192, X, 255 - X),
    ("brightness", -0.5): X * 0.55,
    ("translate_x", 2 / 4.5): np.concatenate([X[:, 2:], np.full((10, 2, 3), 128)], 1),
    ("translate_y", -2 / 4.5): np.concatenate([np.full((2, 10, 3), 128), X[:-2]], 0),
    ("rotate", 0.0): X,
    ("shear_x", 0.0): X,
    ("shear_y", 0.0): X,
    ("color", 0.0): X,
    ("contrast", 0.0): X,
    ("sharpness", 0.0): X,
    ("identity", 1.0): X,
    ("auto_contrast", 1.0): (X - X.min((0, 1))) * (255.0 / (X.max((0, 1)) - X.min((0, 1)))),
}


@pytest.mark.parametrize(("name", "magnitude"), EXPECTED)
def test_operations_of_rand_augment(name, magnitude):
    found = np.asarray(OPERATIONS[name](Image.fromarray(X), magnitude), np.float64)
    np.testing.assert_allclose(found, EXPECTED[name, magnitude], atol=1.01)


def test_shear_and_rotation_move_pixels_by_their_magnitude():
    image = np.zeros((41, 41), np.uint8)
    image[:, 20] = 255
    sheared = np.asarray(OPERATIONS["shear_x"](Image.fromarray(image), 1.0)).argmax(1)
    assert abs((sheared[30] - sheared[10]) / 20 + 0.3) < 0.06
    turned = np.asarray(OPERATIONS["rotate"](Image.fromarray(image), 1.0)).astype(float)
    turned[turned == image_augmentation.FILL] = 0
    slope = (turned[30].argmax() - turned[10].argmax()) / 20
    assert abs(abs(slope) - np.tan(np.pi / 6)) < 0.06
    equal = np.asarray(OPERATIONS["equalize"](Image.fromarray(np.uint8(np.arange(4900) % 70).reshape(70, 70)), 1.0))
    assert equal.min() == 0
    assert equal.max() == 255


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_takes_every_operation_in_both_directions(channels, monkeypatch):
    taken = []
    for name, operation in OPERATIONS.items():
        monkeypatch.setitem(
            OPERATIONS, name, lambda image, m, name=name, f=operation: (taken.append((name, m)), f(image, m))[1]
        )
    rng, image = generator(), Image.fromarray(noise(16, 16, channels))
    for _ in range(150):
        found = image_augmentation.rand_augment(image, 2, 9.0, rng)
        assert (found.size, found.mode) == (image.size, image.mode)
    assert len(taken) == 300
    assert set(taken) == {(name, sign * 0.9) for name in OPERATIONS for sign in (-1, 1)}


def test_only_the_first_view_is_rand_augmented():
    views = [dataclasses.replace(PLAIN, num_ops=n)(noise(), generator(3)) for n in (0, 2)]
    np.testing.assert_array_equal(views[0][1], views[1][1])
    assert (views[0][0] != views[1][0]).any()


def test_center_crops_of_images_of_any_size():
    images = [ramp(100, 200), ramp(200, 100), ramp(10, 10)]
    found = center_crops(images, (50, 50))
    assert found.shape == (3, 50, 50, 3)
    np.testing.assert_allclose(found[0, 0, [0, -1], 1], [50.5, 148.5], atol=1)  # the middle square of 100
    np.testing.assert_allclose(found[1, [0, -1], 0, 0], [50.5, 148.5], atol=1)
    np.testing.assert_allclose(center_crops(images[:1], (50, 50), 0.5)[0, 0, [0, -1], 1], [75, 124], atol=1.5)
    np.testing.assert_allclose(found[2, [0, -1], 25, 0], [0, 9], atol=1)
    wide = center_crops([ramp(100, 100)], (20, 40))
    np.testing.assert_allclose(wide[0, [0, -1], 0, 0], [27, 72], atol=1.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (0.0, 1.0)}, "scale of crops must be a range"),
        ({"scale": (0.5, 0.2)}, "scale of crops must be a range"),
        ({"color_jitter": 1.5}, "color_jitter must lie in"),
        ({"magnitude": 11}, "magnitude in"),
        ({"num_ops": -1}, "num_ops be 0 or more"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        Augmentation(**settings)
