"""Upscaling in tiles: the whole image's result, whatever the tiles, the channels and the type of the image."""

import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from homl_models.models.rrdb import RRDBNet
from homl_models.models.srvgg import SRVGGNetCompact
from homl_models.models.upscaling import Upscaling, resize_bands
from homl_models.pipelines.resize import imresize
from tests import checks
from tests.conftest import ROOT


def network(**settings):
    """A tiny network of receptive field 3 whose output does not leave [0, 1]."""
    keras.utils.set_random_seed(1)
    model = SRVGGNetCompact(**{"scale": 2, "filters": 6, "num_convs": 1} | settings)
    model.build()
    model.convolutions[-1].kernel.assign(0.2 * model.convolutions[-1].kernel)
    return model


@pytest.fixture(scope="module")
def model():
    return network()


def image(*shape, dtype="float32", seed=0):
    values = np.random.default_rng(seed).uniform(0.25, 0.75, shape)
    return values.astype(dtype) if dtype.startswith("float") else np.rint(values * np.iinfo(dtype).max).astype(dtype)


def upscale(model, images, **settings):
    return model.upscale(images, progress=False, **settings)


def whole(model, pixels):
    """The network's output for an image (h, w, c), by Keras' layers."""
    return np.asarray(model(pixels[None]))[0]


@pytest.mark.parametrize(("tile", "overlap"), [(0, None), (256, None), (16, 6), (16, 7), (20, 13), (41, 6), (16, None)])
@pytest.mark.parametrize("size", [(40, 57), (41, 9)])
def test_tiles_that_overlap_by_the_receptive_field_give_the_whole_image(model, size, tile, overlap):
    pixels = image(*size, 3)
    assert model.receptive_field == 3
    found = upscale(model, pixels, tile=tile, overlap=overlap)
    if (tile, overlap) == (16, None):  # 4: a quarter of the tile
        assert 0 < np.abs(found - whole(model, pixels)).max() < 0.05
    else:
        np.testing.assert_allclose(found, whole(model, pixels), atol=1e-6)


@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_begin_at_multiples_of_what_is_unshuffled(scale):
    keras.utils.set_random_seed(0)
    model = RRDBNet(scale=scale, filters=4, num_blocks=0, growth=2)
    model.build()
    pixels = 0.5 * image(90, 70, 3)
    padded = np.pad(pixels, [(0, -90 % model.multiple), (0, -70 % model.multiple), (0, 0)], mode="reflect")
    expected = np.clip(whole(model, padded)[: 90 * scale, : 70 * scale], 0, 1)
    assert model.multiple == 4 // scale
    field = -(-model.receptive_field // model.multiple) * model.multiple
    for overlap in (2 * field, 2 * field - 1):
        found = upscale(model, pixels, tile=64, overlap=overlap)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(np.asarray(model.enlarge(pixels[None]))[0], expected, atol=1e-6)


@pytest.mark.parametrize(("overlap", "edge"), [(0, 0), (4, 0), (6, 3), (8, 3), (10, 3)])
def test_neighbours_fade_into_each_other_where_both_see_the_receptive_field(overlap, edge):
    """Tiles of 0 and of 1: a ramp in the middle of what they share, or all over it if that is too little."""
    model, values = network(), iter([0.0, 1.0])
    model.enlarge_array = lambda tile: np.full((1, 2 * tile.shape[1], 2 * tile.shape[2], 3), next(values))
    row = upscale(model, image(8, 32 - overlap, 3), tile=16, overlap=overlap)[0, :, 0]
    ramp = (np.arange(width := 2 * (overlap - 2 * edge)) + 0.5) / max(width, 1)
    alone = 2 * (16 - overlap + edge)
    np.testing.assert_allclose(row, [*[0] * alone, *ramp, *[1] * alone], atol=1e-6)


KINDS = [(), (1,), (2,), (3,), (4,)]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float16"])
@pytest.mark.parametrize("channels", KINDS, ids=str)
def test_every_kind_of_image_comes_back_as_its_kind(model, channels, dtype):
    pixels = image(11, 14, *channels, dtype=dtype)
    found = upscale(model, pixels)
    assert (found.shape, found.dtype) == ((22, 28, *channels), pixels.dtype)
    levels = 1 if pixels.dtype.kind == "f" else np.iinfo(dtype).max
    exact = np.float32(pixels).reshape(11, 14, -1) / levels
    colours = exact[..., :3] if exact.shape[-1] > 2 else exact[..., :1].repeat(3, -1)
    expected = whole(model, colours)
    expected = expected if exact.shape[-1] > 2 else expected.mean(-1, keepdims=True)
    if exact.shape[-1] in (2, 4):  # alpha, through the same network
        alpha = whole(model, exact[..., -1:].repeat(3, -1)).mean(-1, keepdims=True)
        expected = np.concatenate([expected, alpha], axis=-1)
    tolerance = 1e-3 if dtype == "float16" else 1e-6 if dtype == "float32" else 0.501
    np.testing.assert_allclose(np.float32(found).reshape(expected.shape), expected * levels, atol=tolerance)


def test_alpha_of_one_value_stays_it(model):
    pixels = image(9, 9, 4, dtype="uint8")
    pixels[..., 3] = 255
    assert (upscale(model, pixels)[..., 3] == 255).all()


def test_luma_networks_enlarge_luma_and_leave_chroma_to_bicubic_interpolation():
    model, pixels = network(channels=1), image(12, 15, 3)
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112], [112, -93.786, -18.214]]) / 255  # BT.601
    ycbcr = pixels @ matrix.T + np.array([16, 128, 128]) / 255
    luma = whole(model, np.float32(ycbcr[..., :1]))
    enlarged = np.concatenate([luma, imresize(ycbcr[..., 1:], 2)], axis=-1)
    expected = (enlarged - np.array([16, 128, 128]) / 255) @ np.linalg.inv(matrix).T
    np.testing.assert_allclose(upscale(model, pixels), np.clip(expected, 0, 1), atol=1e-5)
    np.testing.assert_allclose(upscale(model, pixels[..., 0]), whole(model, pixels[..., :1])[..., 0], atol=1e-6)


def test_images_of_pillow_and_lists_of_any_sizes(model):
    photo = Image.fromarray(image(10, 7, 3, dtype="uint8"))
    palette = photo.quantize(8)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    photo.info["exif"], photo._exif = exif.tobytes(), None
    results = upscale(model, [photo, palette, image(3, 5)])
    assert [results[0].size, results[0].mode] == [(20, 14), "RGB"]
    assert [results[1].size, results[1].mode] == [(14, 20), "RGB"]
    assert results[2].shape == (6, 10)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1), (2, 1, 3), (1, 30, 4)])
@pytest.mark.parametrize("scale", [1, 4])
def test_the_smallest_images(shape, scale):
    model = RRDBNet(scale=scale, filters=2, num_blocks=0, growth=2)
    model.build()
    assert upscale(model, image(*shape, dtype="uint8")).shape == (scale * shape[0], scale * shape[1], *shape[2:])
    assert np.asarray(model.enlarge(image(1, *shape[:2], 3))).shape == (1, scale * shape[0], scale * shape[1], 3)


@pytest.mark.parametrize("size", [(100, 31), (23, 140), (7, 9), (90, 60)])
def test_bands_are_resized_as_by_pillows_lanczos_filter(size):
    pixels = image(60, 90, 2)
    reference = [np.asarray(Image.fromarray(pixels[..., i]).resize(size[::-1], Image.LANCZOS)) for i in range(2)]
    for rows in (1, 7, 60):
        bands = (pixels[i : i + rows] for i in range(0, 60, rows))
        found = np.concatenate(list(resize_bands(bands, (60, 90), size)))
        np.testing.assert_allclose(found, np.clip(np.stack(reference, -1), 0, 1), atol=2e-6)


@pytest.mark.parametrize("outscale", [0.01, 0.5, 1.7, 2, 3])
def test_outscale_gives_any_size(model, outscale):
    pixels = image(30, 21, 3)
    found = upscale(model, pixels, tile=16, overlap=6, outscale=outscale)
    assert found.shape == (max(1, round(30 * outscale)), max(1, round(21 * outscale)), 3)
    full = whole(model, pixels)
    size = found.shape[1::-1]
    expected = [np.asarray(Image.fromarray(full[..., i]).resize(size, Image.LANCZOS)) for i in range(3)]
    np.testing.assert_allclose(found, np.clip(np.stack(expected, -1), 0, 1), atol=1e-5)


def test_bands_come_as_soon_as_their_tiles_are_there_and_one_graph_serves_all_sizes(model):
    seen, enlarge = [], model.enlarge_array
    model.enlarge_array = lambda tile: seen.append(tile.shape) or enlarge(tile)
    try:
        bands = Upscaling(model, image(90, 20, 3), tile=32, overlap=8).bands(progress=False)
        next(bands)
        assert len(seen) == 1
        assert sum(map(len, bands)) < 2 * 90
        assert len(set(seen)) == 1
        for size in (5, 9, 33):
            upscale(model, image(size, size + 1, 3))
    finally:
        del model.enlarge_array
    assert model.compiled_enlarge[3].experimental_get_tracing_count() == 1


@pytest.mark.parametrize("policy", checks.HALF)
def test_half_precision_is_close_and_never_black(model, policy):
    pixels = image(30, 20, 3)
    found = upscale(model.with_precision(policy), pixels, tile=16, overlap=6)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - whole(model, pixels)).max() < 0.01


def test_values_that_are_not_finite_are_an_error_and_no_image():
    model = network()
    model.convolutions[0].kernel.assign(1e4 * model.convolutions[0].kernel)
    model.convolutions[1].kernel.assign(1e4 * model.convolutions[1].kernel)
    upscale(model, image(5, 5, 3))
    half = model.with_precision("mixed_float16")
    checks.fails("not finite in float16; compute in float32", lambda: upscale(half, image(5, 5, 3)))
    model.convolutions[0].kernel.assign(np.nan * model.convolutions[0].kernel)
    checks.fails("not finite in float32; its weights are damaged", lambda: upscale(model, image(5, 5, 3)))


REFUSED = [
    (image(4, 4, 3), {"tile": -1}, "tile must be a whole number of pixels"),
    (image(4, 4, 3), {"tile": 2.5}, "tile must be a whole number of pixels"),
    (image(4, 4, 3), {"overlap": -1}, "overlap must be a whole number of pixels"),
    (image(4, 4, 3), {"tile": 16, "overlap": 16}, "overlap must be below the tile's 16 pixels, not 16"),
    (image(4, 4, 3), {"outscale": 0}, "outscale must be a number above 0"),
    (image(4, 4, 3), {"outscale": float("nan")}, "outscale must be a number above 0"),
    (image(4, 4, 5), {}, "an image must be (height, width)"),
    (image(1, 4, 4, 3), {}, "an image must be (height, width)"),
    (image(0, 4, 3), {}, "has no pixels"),
    (np.zeros((4, 4), int), {}, "must be of uint8, uint16, or floats"),
    (255 * image(4, 4, 3), {}, "must lie in [0, 1]"),
    (np.full((4, 4), np.nan), {}, "must lie in [0, 1]"),
]


@pytest.mark.parametrize(("pixels", "settings", "message"), REFUSED)
def test_what_cannot_work_is_one_line(model, pixels, settings, message):
    checks.fails(re.escape(message), lambda: upscale(model, pixels, **settings))


def test_a_tile_suits_the_unshuffling():
    model = RRDBNet(scale=1, filters=2, num_blocks=0, growth=2)
    checks.fails("tile must be a multiple of 4", lambda: upscale(model, image(4, 4, 3), tile=30))


def test_the_endpoint_enlarges_images_of_any_size(model, tmp_path):
    checks.export_agrees(model, tmp_path / "saved", {"upscale": [image(2, 7, 9, 3)]})


LARGE = """
import json, sys
from pathlib import Path
import numpy as np
from homl_models.models.srvgg import SRVGGNetCompact
from homl_models.models.upscaling import Upscaling
from homl_models.pipelines.image_writers import write_image
from tests.budget import gigabytes
model = SRVGGNetCompact(scale=4, filters=8, num_convs=1)
model.build()
height, width = int(sys.argv[2]), 4000
image = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), np.uint8).repeat(10, 0).repeat(10, 1)
work = Upscaling(model, image)
write_image(Path(sys.argv[1]), "PNG", work.bands(progress=False), work.shape, image.dtype)
print(json.dumps([gigabytes("VmHWM"), *work.shape]))
"""


@pytest.mark.slow
def test_an_image_of_12_megapixels_becomes_one_of_192_within_4_gb(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    peaks = {}
    for height in (1000, 3000):
        command = [sys.executable, "-c", LARGE, str(tmp_path / "large.png"), str(height)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        peaks[height], *shape = json.loads(done.stdout.splitlines()[-1])
        assert shape == [4 * height, 16000, 3]
    with open(tmp_path / "large.png", "rb") as file, Image.open(file) as found:
        assert found.size == (16000, 12000)
    assert peaks[3000] < 4
    assert peaks[3000] < peaks[1000] + 0.2  # not with the height
