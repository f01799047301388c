"""Pixels to channels and back, and interpolation: against formulas, `imresize` and PyTorch."""

import numpy as np
import pytest
import tensorflow as tf

from homl_models.layers import pixels
from homl_models.pipelines.resize import imresize
from tests import checks

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("factor", [2, 3])
def test_shuffling_numbers_channels_as_the_paper_has_it(factor):
    x = RNG.normal(size=(2, 3, 4, 2 * factor**2)).astype("float32")
    found = pixels.pixel_shuffle(x, factor).numpy()
    for row in range(3 * factor):
        for column in range(4 * factor):
            for c in range(2):  # equation 4, its channel slowest, as PyTorch has it
                k = c * factor**2 + factor * (row % factor) + column % factor
                assert (found[:, row, column, c] == x[:, row // factor, column // factor, k]).all()
    np.testing.assert_array_equal(pixels.pixel_unshuffle(found, factor), x)


def test_nearest_neighbours_are_repeated_pixels():
    x = RNG.normal(size=(2, 3, 4, 2)).astype("float32")
    np.testing.assert_array_equal(pixels.upsample_nearest(x, 3), np.kron(x, np.ones((1, 3, 3, 1))))


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(7, 5, 2), (1, 2, 1)])
def test_bicubic_enlargement_is_that_of_matlab(factor, shape):
    x = RNG.random(shape)
    found = pixels.upsample_bicubic(x[None].astype("float32"), factor)[0]
    np.testing.assert_allclose(found, imresize(x, factor), atol=1e-5)


def test_bicubic_enlargement_keeps_straight_lines_and_its_border():
    line = np.arange(10, dtype="float32").reshape(1, 10, 1, 1)
    found = pixels.upsample_bicubic(line, 2).numpy()[0, :, 0, 0]
    np.testing.assert_allclose(found[4:-4], np.arange(20)[4:-4] / 2 - 0.25, atol=1e-5)
    ones = np.ones((1, 3, 3, 1), "float32")
    np.testing.assert_allclose(pixels.upsample_bicubic(ones, 3), np.ones((1, 9, 9, 1)), atol=1e-6)


@pytest.mark.parametrize("upsample", [pixels.upsample_bicubic, pixels.upsample_bilinear])
def test_interpolation_takes_any_size_and_has_gradients(upsample):
    x = RNG.random((2, 5, 6, 3)).astype("float32")
    checks.any_batch_and_length(lambda x: upsample(x, 2), x, (0, 1, 2), jit_compile=False)
    with tf.GradientTape() as tape:
        given = tf.constant(x)
        tape.watch(given)
        total = tf.reduce_sum(upsample(given, 4))
    gradient = tape.gradient(total, given).numpy()
    assert gradient.sum() == pytest.approx(16 * x.size, rel=1e-5)  # each pixel enlarged is a mean


@pytest.mark.parity
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_pixels_are_those_of_pytorch(factor):
    import torch
    import torch.nn.functional as F

    x = RNG.random((2, 5, 7, 2 * factor**2)).astype("float32")
    given = torch.tensor(x.transpose(0, 3, 1, 2))
    for ours, theirs in (
        (pixels.pixel_shuffle(x, factor), F.pixel_shuffle(given, factor)),
        (pixels.upsample_nearest(x, factor), F.interpolate(given, scale_factor=factor)),
        (pixels.upsample_bilinear(x, factor), F.interpolate(given, scale_factor=factor, mode="bilinear")),
    ):
        np.testing.assert_allclose(ours, theirs.numpy().transpose(0, 2, 3, 1), atol=1e-6)
