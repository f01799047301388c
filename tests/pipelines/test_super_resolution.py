"""Pairs of low and high resolution, and crops of them: of images that say where a pixel comes from."""

import os

import numpy as np
import pytest
from PIL import Image

from homl_models.pipelines import image_store, super_resolution
from homl_models.pipelines.super_resolution import crops, read_pairs, symmetric, whole_images
from tests import checks


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras" / "homl_models"


def ramp(height, width, blue=0):
    """Red counts rows and green columns."""
    rows, columns = np.mgrid[:height, :width]
    return np.uint8(np.stack([rows, columns, np.full_like(rows, blue)], axis=-1))


def save(folder, **images):
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def rows_of(dataset, first=0, last=1):
    return [tuple(x.numpy() for x in pair) for pair in dataset.dataset(first, last)]


def test_low_resolution_is_of_the_same_place_turned_alike(tmp_path):
    folder = save(tmp_path / "images", a=ramp(80, 120, 10), b=ramp(100, 64, 20))
    ((low, high),) = rows_of(crops(read_pairs(folder, 2), 64, 8, 1, seed=3))
    assert low.shape == (64, 8, 8, 3)
    assert high.shape == (64, 16, 16, 3)
    assert low.dtype == high.dtype == np.float32
    assert set(np.round(255 * high[..., 2]).ravel()) == {10, 20}
    means = high.reshape(64, 8, 2, 8, 2, 3).mean((2, 4))  # of a ramp bicubic interpolation is the mean, but at borders
    np.testing.assert_allclose(low[:, 2:-2, 2:-2], means[:, 2:-2, 2:-2], atol=1.01 / 255)
    steps = (
        np.round(255 * (high[:, 1, 1, :2] - high[:, 0, 0, :2])),
        np.round(255 * (high[:, 0, 1, :2] - high[:, 0, 0, :2])),
    )
    assert len({(*a, *b) for a, b in zip(*map(np.int32, steps))}) == 8


def test_every_place_is_taken_and_images_by_their_area(tmp_path):
    folder = save(tmp_path / "images", large=ramp(60, 60, 1), small=ramp(30, 30, 2))
    high = np.concatenate([high for _, high in rows_of(crops(read_pairs(folder, 2), 200, 10, 5, seed=0), 0, 5)])
    blue = np.round(255 * high[:, 0, 0, 2])
    assert abs((blue == 2).mean() - 900 / 4500) < 4 * np.sqrt(0.2 * 0.8 / 1000)
    for size, number in ((60, 1), (30, 2)):
        tops = np.round(255 * high[blue == number].min((1, 2)))
        assert set(tops[:, 0]) == set(tops[:, 1]) == set(range(0, size - 19, 2))


def test_a_batch_is_a_function_of_seed_and_step(tmp_path):
    pairs = read_pairs(save(tmp_path / "images", a=ramp(80, 120)), 4)
    dataset = crops(pairs, 4, 8, 3, seed=1)
    assert dataset.steps == 3
    batches = rows_of(dataset, 0, 6)
    for step in (0, 4):
        checks.close(rows_of(crops(pairs, 4, 8, 3, seed=1), step, step + 1)[0], batches[step], 0)
    assert len({high.tobytes() for _, high in batches}) == 6
    assert (rows_of(crops(pairs, 4, 8, 3, seed=2))[0][1] != batches[0][1]).any()


def test_degraded_and_sharpened_crops(tmp_path):
    pairs = read_pairs(save(tmp_path / "images", a=ramp(80, 120)), 4)

    def degrade(image, generator):
        return image[::4, ::4] * generator.uniform()

    plain = rows_of(crops(pairs, 4, 8, 3, seed=1), 1, 2)[0]
    low, high = rows_of(crops(pairs, 4, 8, 3, 1, degrade), 1, 2)[0]
    assert low.shape == plain[0].shape
    assert (low <= high[:, ::4, ::4]).all()
    batches = list(crops(pairs, 4, 8, 3, 1, degrade, lambda image: image / 2).dataset(1, 2))
    low_of_sharp, (high, sharp) = batches[0]
    checks.close(low_of_sharp[0], low[0] / 2)
    checks.close(sharp, high / 2)
    assert sharp.shape == high.shape == (4, 32, 32, 3)


def test_the_eight_symmetries_of_the_square():
    image = np.arange(9).reshape(3, 3, 1)
    found = [symmetric(image, turn)[..., 0] for turn in range(8)]
    assert len({x.tobytes() for x in map(np.ascontiguousarray, found)}) == 8
    assert {x[0, 0] for x in found} == {0, 2, 6, 8}
    assert all(x[1, 1] == 4 for x in found)


def test_files_of_every_kind(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rgb, grey = ramp(20, 24, 200), ramp(20, 24)[..., 0] + np.uint8(100)
    Image.fromarray(rgb).save(folder / "0.png")
    Image.fromarray(grey).save(folder / "1.tiff")
    Image.fromarray(np.uint16(grey) * 257).save(folder / "2.png")
    Image.fromarray(rgb).save(folder / "3.webp", lossless=True)
    Image.fromarray(rgb).quantize(256).save(folder / "4.png")
    Image.fromarray(np.dstack([rgb, np.full_like(grey, 255)])).save(folder / "5.png")
    Image.fromarray(rgb).save(folder / "6.jpg", quality=100, subsampling=0)
    Image.fromarray(rgb).save(folder / ".hidden.png")
    (folder / "readme.txt").write_text("not an image")
    (folder / "7.png").write_bytes((folder / "0.png").read_bytes()[:60])
    Image.fromarray(rgb[:3, :3]).save(folder / "8.png")
    for _ in range(2):  # the second time from the cache
        with (
            pytest.warns(UserWarning, match="1 of 8 images cannot be read .*7.png"),
            pytest.warns(UserWarning, match="1 images have less than 4 pixels .*8.png"),
        ):
            pairs = read_pairs(folder, 4)
        assert len(pairs) == 7
        for i in (0, 3, 5):
            np.testing.assert_array_equal(pairs.high[i], rgb)
        for i in (1, 2):
            np.testing.assert_array_equal(pairs.high[i], np.dstack([grey] * 3))
        for i in (4, 6):
            assert np.abs(np.int32(pairs.high[i]) - rgb).mean() < 8
        assert pairs.low.shapes == ((5, 6, 3),) * 7


def test_luma_is_that_of_matlab_and_grey_stays_as_it_is(tmp_path):
    color = pytest.importorskip("skimage.color")
    colours = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    pairs = read_pairs(save(tmp_path / "images", a=colours, b=ramp(16, 20)[..., 0]), 2, channels=1)
    np.testing.assert_array_equal(pairs.high[0][..., 0], np.round(color.rgb2ycbcr(colours)[..., 0]))
    np.testing.assert_array_equal(pairs.high[1], ramp(16, 20)[..., :1])
    assert rows_of(crops(pairs, 2, 4, 1, 0))[0][1].shape == (2, 8, 8, 1)


def test_several_folders_and_whole_images(tmp_path):
    folders = [save(tmp_path / "one", a=ramp(21, 18, 1)), save(tmp_path / "two", a=ramp(16, 32, 2))]
    pairs = read_pairs(folders, 4)
    (low, high), (other, _) = rows_of(whole_images(pairs), 0, 2)
    assert low.shape == (1, 5, 4, 3)
    assert other.shape == (1, 4, 8, 3)
    np.testing.assert_array_equal(np.round(255 * high[0]), ramp(20, 16, 1))


def test_folders_of_low_resolution_are_matched_by_name(tmp_path):
    high = save(tmp_path / "high", a=ramp(16, 16, 1), a1=ramp(21, 18, 2), b=ramp(16, 32, 3))
    low = save(tmp_path / "low", ax4=ramp(4, 4, 1), a1x4=ramp(5, 4, 2), b=ramp(4, 8, 3))
    pairs = read_pairs(high, 4, low_folders=low)
    for i in range(3):
        assert pairs.low[i][0, 0, 2] == pairs.high[i][0, 0, 2] == i + 1
        assert pairs[i][1].shape[0] == 4 * pairs[i][0].shape[0]
    save(low, ax4=ramp(5, 4))
    checks.fails("a.png of low resolution is 4x5, not 4x4", lambda: read_pairs(high, 4, low_folders=low), str(low))
    os.remove(low / "ax4.png")
    checks.fails("without a partner: a.png", lambda: read_pairs(high, 4, low_folders=low), "2 and 3 images")
    checks.fails("pair them", lambda: read_pairs([high, high], 4, low_folders=low))


@pytest.mark.parametrize("scale", [2, 4])
def test_made_low_resolution_equals_that_of_matlab(scale, shared_data):
    sr = shared_data / "sr"
    made, given = read_pairs(sr / "Set5", scale), read_pairs(sr / "Set5", scale, low_folders=sr / f"Set5_LRbicx{scale}")
    assert made.low.shapes == given.low.shapes
    np.testing.assert_array_equal(made.low.pixels, given.low.pixels)


def test_images_smaller_than_a_crop(tmp_path):
    pairs = read_pairs(save(tmp_path / "images", a=ramp(80, 80), b=ramp(31, 80), c=ramp(80, 20)), 2)
    with pytest.warns(
        UserWarning, match="2 of 3 images are smaller than a crop of 32 pixels and are left out: b.png, c.png"
    ):
        crops(pairs, 4, 16, 1, 0)
    checks.fails("3 of 3 images are smaller than a crop of 82 pixels", lambda: crops(pairs, 4, 41, 1, 0), "patch")


def test_folders_without_images(tmp_path):
    checks.fails("there is no such folder", lambda: read_pairs(tmp_path / "none", 4), "none")
    (tmp_path / "empty").mkdir()
    checks.fails("holds no image", lambda: read_pairs(tmp_path / "empty", 4), "empty")
    (tmp_path / "empty" / "a.png").write_bytes(b"")
    checks.fails("1 images in .* cannot be used", lambda: read_pairs(tmp_path / "empty", 4))


def test_the_cache_is_made_once_for_each_state_of_the_files(tmp_path, cache, monkeypatch):
    folder = save(tmp_path / "images", a=ramp(16, 16, 1))
    first = read_pairs(folder, 2)
    with monkeypatch.context() as patch:
        patch.setattr(super_resolution, "open_folder", None)
        again = read_pairs(folder, 2)
    assert again.digest == first.digest
    assert isinstance(again.high.pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        again.high[0][:] = 0
    save(folder, a=ramp(16, 16, 2))
    os.utime(folder / "a.png", ns=(1, 1))
    assert read_pairs(folder, 2).high[0][0, 0, 2] == 2
    assert read_pairs(folder, 2).digest != first.digest
    assert not list(cache.glob(".aside*"))


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    folder = save(tmp_path / "images", a=ramp(16, 16))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    checks.fails("cannot write", lambda: read_pairs(folder, 2), "KERAS_HOME")


def test_a_cache_that_fails_leaves_nothing(cache):
    def read(notes):
        yield "a", ramp(4, 4)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        image_store.stored(("key",), read)
    assert not list(cache.iterdir())
