"""Image data sets: Fashion MNIST, MNIST's files and scikit-learn's digits."""

import gzip
import struct

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from homl_models.errors import UserError
from homl_models.pipelines import image_datasets
from tests import checks
from tests.conftest import DATA
from tests.pipelines.test_text_windows import NO_NETWORK

NUMBERED = np.arange(50, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 3), np.uint8)  # image i is all i


def test_fashion_mnist_has_the_splits_of_the_book(keras_home):
    folder = keras_home / "datasets" / "fashion-mnist"
    splits = image_datasets.fashion_mnist()
    found = [[*x.shape, str(x.dtype), int(x.astype(int).sum()), y[:5].tolist()] for x, y in splits]
    train = image_datasets.read_idx(folder / "train-images-idx3-ubyte.gz")
    labels = image_datasets.read_idx(folder / "train-labels-idx1-ubyte.gz")
    assert [f[:4] for f in found] == [[n, 28, 28, "uint8"] for n in (55_000, 5_000, 10_000)]
    assert [f[4] for f in found[:2]] == [int(train[:55_000].astype(int).sum()), int(train[55_000:].astype(int).sum())]
    assert [f[5] for f in found[:2]] == [labels[:5].tolist(), labels[55_000:55_005].tolist()]


@pytest.mark.slow
def test_without_network_and_cache_it_says_what_to_do(tmp_path):
    script = """
import json
from homl_models.errors import UserError
from homl_models.pipelines import image_datasets
try:
    print(json.dumps(str(image_datasets.fashion_mnist())))
except UserError as error:
    print(json.dumps(str(error)))
"""
    message = checks.in_fresh_process(script, KERAS_HOME=str(tmp_path), **NO_NETWORK)
    assert "cannot fetch Fashion MNIST" in message
    assert "--data digits" in message


def test_a_failed_download_names_the_way_out(monkeypatch):
    def load_data():
        raise OSError("no network")

    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", load_data)
    checks.fails("cannot fetch Fashion MNIST", image_datasets.fashion_mnist, "--data digits")


def test_mnist_is_read_from_its_files():
    if not (DATA / "mnist").is_dir():
        pytest.skip(f"needs {DATA / 'mnist'}")
    train, valid, test = image_datasets.mnist(DATA / "mnist")
    assert [len(split[0]) for split in (train, valid, test)] == [55_000, 5_000, 10_000]
    assert train[1][:5].tolist() == [5, 0, 4, 1, 9]
    assert test[1][:4].tolist() == [7, 2, 1, 0]


def test_files_of_mnist_that_do_not_belong_together_are_refused(tmp_path):
    def write(name, shape):
        data = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes(int(np.prod(shape)))
        (tmp_path / name).write_bytes(data)

    for part in ("train", "t10k"):
        write(f"{part}-images-idx3-ubyte", (40, 2, 2))
        write(f"{part}-labels-idx1-ubyte", (40,))
    checks.fails("has 40 images to train on, not MNIST's 60,000", lambda: image_datasets.mnist(tmp_path), str(tmp_path))
    write("t10k-labels-idx1-ubyte", (39,))
    checks.fails(r"shape \(40, 2, 2\) with labels of \(39,\)", lambda: image_datasets.mnist(tmp_path), str(tmp_path))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_are_read_and_damaged_ones_named(pack, tmp_path):
    data = struct.pack(">HBBIII", 0, 8, 3, 50, 2, 3) + NUMBERED.tobytes()
    path = tmp_path / "images"
    path.write_bytes(pack(data))
    np.testing.assert_array_equal(image_datasets.read_idx(path), NUMBERED)
    for bad in (pack(data)[:-3], b"", pack(data[:3] + b"\x01" + data[4:]), b"\x1f\x8bnothing"):
        path.write_bytes(bad)
        with pytest.raises(UserError, match="images as an IDX file"):
            image_datasets.read_idx(path)
    with pytest.raises(UserError, match="has no file train-images"):
        image_datasets.mnist(tmp_path)


def test_digits_are_scikit_learns_each_in_one_split():
    splits = image_datasets.digits()
    assert [len(x) for x, _ in splits] == [1257, 180, 360]
    ours = {(x.tobytes(), int(y)) for split in splits for x, y in zip(*split)}
    data = load_digits()
    assert ours == {(np.float32(x / 16).tobytes(), int(y)) for x, y in zip(data.images, data.target)}
    assert all(set(labels) == set(range(10)) for _, labels in splits)
