"""Pictures as training batches: where they come from, what is refused, and the order they come in."""

import gzip
import struct

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from homl_models.errors import UserError
from homl_models.pipelines import images
from tests import checks
from tests.conftest import DATA
from tests.pipelines.test_characters import NO_NETWORK

NUMBERED = np.arange(50, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 3), np.uint8)  # picture i is all i


def numbers(stream, first=0, last=None):
    """The numbers of the pictures of each batch, whose pixels and targets have to be right."""
    found = []
    for x, y in stream.dataset(first, last):
        assert x.dtype == tf.float32
        np.testing.assert_array_equal(x, y)
        assert (np.ptp(x, axis=(1, 2)) == 0).all()
        found.append(np.round(x.numpy()[:, 0, 0] * 255).astype(int).tolist())
    return found


def test_in_order_they_come_once_with_a_smaller_last_batch():
    stream = images.batches(NUMBERED, 8)
    assert stream.steps == 7
    assert numbers(stream) == [list(range(i, min(i + 8, 50))) for i in range(0, 50, 8)]


def test_shuffled_every_pass_is_a_new_permutation():
    stream = images.batches(NUMBERED, 10, seed=1)
    passes = [sum(numbers(stream, 5 * i, 5 * i + 5), []) for i in range(20)]
    assert all(sorted(p) == list(range(50)) for p in passes)
    assert len({tuple(p) for p in passes}) == 20
    assert passes != [sum(numbers(images.batches(NUMBERED, 10, seed=2), 5 * i, 5 * i + 5), []) for i in range(20)]
    neighbours = [scipy.stats.spearmanr(p[:-1], p[1:]).statistic for p in passes]
    assert abs(np.mean(neighbours)) < 0.15


def test_any_part_of_the_stream_is_what_the_whole_has_there():
    stream = images.batches(NUMBERED, 7, seed=3)
    assert stream.steps == 7
    whole = numbers(stream, 0, 30)
    assert numbers(stream, 11, 19) == whole[11:19]
    drawn = sum(whole, [])  # what an epoch leaves over comes first in the next
    assert all(sorted(drawn[i : i + 50]) == list(range(50)) for i in range(0, 200, 50))


def test_floats_stay_as_they_are_and_bytes_are_divided():
    floats = np.random.default_rng(0).uniform(size=(4, 3, 3, 2)).astype("float32")
    (x, y), = images.batches(floats, 4).dataset()  # fmt: skip
    np.testing.assert_array_equal(x, floats)
    (x, _), = images.batches(np.uint8(floats * 255), 4).dataset()  # fmt: skip
    checks.close(x, np.uint8(floats * 255) / 255)


def test_targets_belong_to_their_pictures():
    for x, y in images.batches(NUMBERED, 10, seed=1, targets=np.arange(50) * 3).dataset():
        np.testing.assert_array_equal(np.round(x[:, 0, 0] * 255 * 3), y)


def test_augmentation_depends_on_seed_and_step_alone_and_spares_validation():
    def shift(x, seed):
        return x + tf.random.stateless_uniform((), seed)

    def run(seed, first, last):
        stream = images.batches(np.zeros((20, 2, 2), np.float32), 5, seed, augment=shift)
        return [float(x[0, 0, 0]) for x, y in stream.dataset(first, last) if (x.numpy() == y.numpy()).all()]

    whole = run(1, 0, 12)
    assert len(set(whole)) == 12
    assert run(1, 5, 9) == whole[5:9]
    assert not set(run(2, 0, 12)) & set(whole)
    assert run(None, 0, 4) == [0.0] * 4


# Data sets.


def test_fashion_mnist_comes_in_the_parts_of_the_book(keras_home):
    folder = keras_home / "datasets" / "fashion-mnist"
    found = [[*x.shape, str(x.dtype), int(x.astype(int).sum()), y[:5].tolist()] for x, y in images.fashion_mnist()]
    train = images.read_idx(folder / "train-images-idx3-ubyte.gz")
    labels = images.read_idx(folder / "train-labels-idx1-ubyte.gz")
    assert [f[:4] for f in found] == [[n, 28, 28, "uint8"] for n in (55_000, 5_000, 10_000)]
    assert [f[4] for f in found[:2]] == [int(train[:55_000].astype(int).sum()), int(train[55_000:].astype(int).sum())]
    assert [f[5] for f in found[:2]] == [labels[:5].tolist(), labels[55_000:55_005].tolist()]


@pytest.mark.slow
def test_without_network_and_cache_it_says_what_to_do(tmp_path):
    script = """
import json
from homl_models.errors import UserError
from homl_models.pipelines import images
try:
    print(json.dumps(str(images.fashion_mnist())))
except UserError as error:
    print(json.dumps(str(error)))
"""
    message = checks.in_fresh_process(script, KERAS_HOME=str(tmp_path), **NO_NETWORK)
    assert "cannot fetch Fashion MNIST" in message
    assert "--data digits" in message


def test_what_cannot_be_fetched_is_said(monkeypatch):
    def load_data():
        raise OSError("no network")

    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", load_data)
    checks.fails("cannot fetch Fashion MNIST", images.fashion_mnist, "--data digits")


def test_mnist_from_its_files():
    if not (DATA / "mnist").is_dir():
        pytest.skip(f"needs {DATA / 'mnist'}")
    train, valid, test = images.mnist(DATA / "mnist")
    assert [len(part[0]) for part in (train, valid, test)] == [55_000, 5_000, 10_000]
    assert train[1][:5].tolist() == [5, 0, 4, 1, 9]
    assert test[1][:4].tolist() == [7, 2, 1, 0]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_are_read_and_broken_ones_named(pack, tmp_path):
    data = struct.pack(">HBBIII", 0, 8, 3, 50, 2, 3) + NUMBERED.tobytes()
    path = tmp_path / "images"
    path.write_bytes(pack(data))
    np.testing.assert_array_equal(images.read_idx(path), NUMBERED)
    for bad in (pack(data)[:-3], b"", pack(data[:3] + b"\x01" + data[4:]), b"\x1f\x8bnothing"):
        path.write_bytes(bad)
        with pytest.raises(UserError, match="images as an IDX file"):
            images.read_idx(path)
    with pytest.raises(UserError, match="has no file train-images"):
        images.mnist(tmp_path)


def test_digits_are_scikit_learns_each_in_one_part():
    parts = images.digits()
    assert [len(x) for x, _ in parts] == [1257, 180, 360]
    ours = {(x.tobytes(), int(y)) for part in parts for x, y in zip(*part)}
    data = load_digits()
    assert ours == {(np.float32(x / 16).tobytes(), int(y)) for x, y in zip(data.images, data.target)}
    assert all(set(labels) == set(range(10)) for _, labels in parts)


# Your own pictures.


@pytest.fixture
def folder(tmp_path):
    """12 pictures of two classes: 6x4, one 12x8, one grey, one with transparency."""
    rng = np.random.default_rng(0)
    for i in range(12):
        sub = tmp_path / ("cats" if i % 2 else "dogs")
        sub.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((12, 8)) if i == 3 else Image.fromarray(pixels)
        picture = picture.convert("L") if i == 4 else picture.convert("RGBA") if i == 5 else picture
        picture.save(sub / f"{i:02}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_of_pictures_with_classes(folder):
    pictures, labels = images.read_folder(folder, channels=3)
    assert pictures.shape == (12, 4, 6, 3)
    assert pictures.dtype == np.uint8
    assert labels.tolist() == [0] * 6 + [1] * 6
    np.testing.assert_array_equal(pictures[0], np.asarray(Image.open(folder / "cats" / "01.png")))
    grey, _ = images.read_folder(folder, (8, 8))
    assert grey.shape == (12, 8, 8)
    train, valid, test = images.read(folder, (8, 8))
    assert [len(x) for x, _ in (train, valid, test)] == [9, 1, 2]
    assert sorted(p.tobytes() for x, _ in (train, valid, test) for p in x) == sorted(p.tobytes() for p in grey)


def test_corrupt_pictures_are_named_counted_and_left_out(folder):
    (folder / "cats" / "01.png").write_bytes(b"not a png")
    whole = (folder / "dogs" / "00.png").read_bytes()
    (folder / "dogs" / "00.png").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"2 of 12 pictures cannot be read .*01\.png.*00\.png"):
        pictures, labels = images.read_folder(folder)
    assert len(pictures) == len(labels) == 10
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 12 pictures"):
        images.read_folder(folder)


def test_folders_without_enough_pictures_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no picture"):
        images.read_folder(tmp_path)
    Image.fromarray(NUMBERED[0]).save(tmp_path / "one.png")
    assert images.read_folder(tmp_path)[1].tolist() == [images.NO_LABEL]
    with pytest.raises(UserError, match="holds 1 pictures; at least 10"):
        images.read(tmp_path)


def test_arrays_are_read_from_numpy_files(tmp_path):
    np.save(tmp_path / "a.npy", NUMBERED[..., None])
    np.savez(tmp_path / "b.npz", images=NUMBERED, labels=np.arange(50))
    np.savez(tmp_path / "c.npz", NUMBERED / 255)
    for name, labels in (("a.npy", [images.NO_LABEL] * 50), ("b.npz", list(range(50)))):
        found = images.read_array(tmp_path / name)
        np.testing.assert_array_equal(found[0], NUMBERED)
        assert found[1].tolist() == labels
    checks.close(images.read_array(tmp_path / "c.npz")[0], NUMBERED / 255)
    assert [len(x) for x, _ in images.read(tmp_path / "a.npy")] == [40, 5, 5]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (NUMBERED / 10.0, "must lie in"),
        (np.full((3, 2, 2), np.nan), "must lie in"),
        (NUMBERED.astype(int), "bytes or floats, not int64"),
        (NUMBERED[0], r"must be \(n, h, w\)"),
        (NUMBERED[:0], r"must be \(n, h, w\)"),
        (np.zeros((3, 2, 2, 3), np.uint8), "not any size, 1 channel"),
        (np.array(["a", "b"], object), "cannot read"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array, message, tmp_path):
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(UserError, match=message):
        images.read_array(tmp_path / "bad.npy")


def test_files_that_are_no_arrays_are_refused(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04")
    for name in ("bad.npz", "missing.npy"):
        with pytest.raises(UserError, match=f"cannot read .*{name}"):
            images.read_array(tmp_path / name)
    np.savez(tmp_path / "two.npz", a=NUMBERED, b=NUMBERED)
    with pytest.raises(UserError, match="no array called images, but a, b"):
        images.read_array(tmp_path / "two.npz")
    np.save(tmp_path / "size.npy", NUMBERED)
    with pytest.raises(UserError, match="not 4x4, 1 channel"):
        images.read_array(tmp_path / "size.npy", (4, 4))
