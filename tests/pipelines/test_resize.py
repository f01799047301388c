"""MATLAB's imresize, against images that MATLAB made, closed forms and SciPy."""

import numpy as np
import pytest
from PIL import Image
from scipy import signal

from homl_models.pipelines.resize import cubic, imresize, resize_matrix


@pytest.mark.parametrize(("name", "scale"), [("Set5", 2), ("Set5", 3), ("Set5", 4), ("Set14", 4)])
def test_images_are_those_that_matlab_made(name, scale, shared_data):
    """Bit for bit, the border included."""
    folder = shared_data / "sr"
    for path in sorted((folder / f"{name}_LRbicx{scale}").glob("*.png")):
        low, high = np.array(Image.open(path)), np.array(Image.open(folder / name / path.name))
        height, width = low.shape[:2]
        made = imresize(high[: height * scale, : width * scale], 1 / scale)
        made, low = np.broadcast_arrays(made if made.ndim == low.ndim else made[..., None], low)
        np.testing.assert_array_equal(made, low, err_msg=path.name)


def test_the_kernel_interpolates_and_sums_to_one():
    assert cubic(np.array([0.0, 1.0, -1.0, 2.0, 3.0])).tolist() == [1, 0, 0, 0, 0]
    x = np.linspace(0, 1, 11)
    np.testing.assert_allclose(sum(cubic(x + i) for i in range(-2, 3)), 1, atol=1e-12)
    np.testing.assert_allclose(sum((x + i) * cubic(x + i) for i in range(-2, 3)), 0, atol=1e-12)  # straight lines stay


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0])
def test_constants_stay_and_straight_lines_within_the_border(scale):
    matrix = resize_matrix(40, int(np.ceil(40 * scale)), scale)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    wanted = (np.arange(len(matrix)) + 0.5) / scale - 0.5
    reach = int(np.ceil(2 / min(scale, 1))) + 1
    inside = (wanted > reach) & (wanted < 39 - reach)
    ripple = 0.05 if scale < 1 else 1e-9  # a stretched kernel at whole pixels is not exact
    np.testing.assert_allclose((matrix @ np.arange(40))[inside], wanted[inside], atol=ripple)


def test_by_a_half_it_is_a_convolution_with_the_stretched_kernel():
    image = np.random.default_rng(0).uniform(size=(20, 24))
    taps = cubic((np.arange(8) - 3.5) / 2) / 2
    taps /= taps.sum()
    full = signal.convolve2d(np.pad(image, 8, mode="edge"), np.outer(taps, taps), mode="same")
    made = imresize(image, 0.5)
    np.testing.assert_allclose(made, full[8:-8, 8:-8][1::2, 1::2], atol=1e-9)


def test_types_and_sizes():
    assert imresize(np.zeros((5, 7, 3), np.uint8), 0.5).shape == (3, 4, 3)
    assert imresize(np.full((5, 7), 255, np.uint8), 2).dtype == np.uint8
    assert imresize(np.full((5, 7), 255, np.uint8), 2).min() == 255
    assert imresize(np.zeros((5, 7), np.float32), 3).dtype == np.float32
