"""Writers of images that come band by band."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from homl_models.pipelines.image_writers import FORMATS, check_format, lost, write_image
from tests import checks

SHAPES = [(150, 37), (150, 37, 1), (150, 37, 2), (70, 37, 3), (1, 1, 4), (150, 37, 4)]


def pixels(shape, dtype, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def written(path, array, rows=40, profile=None):
    bands = [array[i : i + rows] for i in range(0, len(array), rows)]
    write_image(path, check_format(path), bands, array.shape, array.dtype, profile)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_png_of_bands_is_read_by_others_as_it_was(shape, dtype, tmp_path):
    for i, array in enumerate((pixels(shape, dtype), np.zeros(shape, dtype), pixels(shape, dtype) // 9 * 9)):
        content = written(tmp_path / f"{i}.png", array).read_bytes()
        np.testing.assert_array_equal(tf.io.decode_png(content, dtype=dtype), array.reshape(*array.shape[:2], -1))
        with Image.open(tmp_path / f"{i}.png") as image:  # checks what libpng of TensorFlow lets pass
            image.verify()


def test_a_png_is_compressed_and_keeps_its_profile(tmp_path):
    smooth = np.uint8(np.add.outer(np.arange(300), np.arange(300)) % 256)
    path = written(tmp_path / "x.png", smooth, profile=b"of grey")
    assert path.stat().st_size < smooth.size / 50
    with Image.open(path) as image:
        assert image.info["icc_profile"] == b"of grey"


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,)], ids=str)
def test_every_format_takes_every_image_and_says_what_it_loses(suffix, dtype, channels, tmp_path):
    array = np.broadcast_to(pixels(channels, dtype, 5), (20, 30, *channels)).copy()
    path = written(tmp_path / f"x{suffix}", array)
    losses = lost(FORMATS[suffix], array.shape, array.dtype)
    grey, alpha = channels in ((), (1,)), channels in ((2,), (4,))
    deep = suffix == ".png" or (suffix in (".tif", ".tiff") and grey)
    assert ("8 of 16 bits" in losses) == (dtype == "uint16" and not deep)
    assert ("transparency" in losses) == (alpha and suffix in (".jpg", ".jpeg", ".bmp"))
    if suffix == ".png":
        return
    levels = np.float64(array).reshape(20, 30, -1) / np.iinfo(dtype).max
    if "transparency" in losses:
        levels = levels[..., :-1] * levels[..., -1:] + 1 - levels[..., -1:]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[levels.shape[-1]]
    with Image.open(path) as image:
        found = np.asarray(image if image.mode == "I;16" else image.convert(mode))
    white = np.iinfo(found.dtype).max
    np.testing.assert_allclose(found.reshape(20, 30, -1) / white, levels, atol=3 / 255)


def test_what_cannot_be_written_is_refused():
    checks.fails("images cannot be written to x.gif", lambda: check_format(Path("x.gif")), ".png")
    checks.fails("cannot write x.webp: 16384x5 pixels", lambda: check_format(Path("x.webp"), (5, 16384, 3)), ".png")
    checks.fails("cannot write x.jpg", lambda: check_format(Path("x.jpg"), (70000, 2)))
    check_format(Path("x.png"), (70000, 70000))
