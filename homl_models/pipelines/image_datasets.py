"""Image data sets: Fashion MNIST, MNIST and scikit-learn's digits, each split into training, validation and test.

A split is a pair (images (n, h, w), labels (n,)), of bytes or of floats in [0, 1].
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from homl_models.errors import UserError
from homl_models.pipelines.images import split_at


def fashion_mnist():
    """Fashion MNIST in the book's splits (55,000, 5,000 and 10,000 of 28x28), from Keras' cache or the network.

    `UserError` if it is neither cached nor reachable.
    """
    import keras

    try:
        (images, labels), test = keras.datasets.fashion_mnist.load_data()
    except Exception as error:
        raise UserError(
            "cannot fetch Fashion MNIST and it is not cached in datasets/fashion-mnist of KERAS_HOME: go online once, "
            "pass --images PATH, or train a recipe on --data digits, which need no network"
        ) from error
    return split_at(images, labels, 55_000, 5_000, test)


def mnist(folder):
    """MNIST in splits of the same sizes, from its four IDX files in `folder`, gzipped or not."""
    train, test = [
        tuple(read_idx(_idx_file(folder, name, kind)) for kind in ("images-idx3", "labels-idx1"))
        for name in ("train", "t10k")
    ]
    for images, labels in (train, test):
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise UserError(
                f"{folder} has images of shape {images.shape} with labels of {labels.shape}; fetch it again"
            )
    if len(train[0]) != 60_000:
        raise UserError(f"{folder} has {len(train[0])} images to train on, not MNIST's 60,000; fetch it again")
    return split_at(*train, 55_000, 5_000, test)


def _idx_file(folder, name, kind):
    """The path of one of MNIST's files, gzipped or not; `UserError` if there is neither."""
    for path in (Path(folder) / f"{name}-{kind}-ubyte{suffix}" for suffix in ("", ".gz")):
        if path.is_file():
            return path
    raise UserError(f"{folder} has no file {name}-{kind}-ubyte (or .gz); give the folder of the four files of MNIST")


def read_idx(path):
    """An array of bytes from a file in the IDX format of MNIST, gzipped or not; `UserError` if it is damaged."""
    try:
        data = Path(path).read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        zero, kind, rank = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
        if zero or kind != 8:
            raise ValueError("it is no array of bytes")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UserError(f"cannot read {path} as an IDX file ({error}); fetch it again") from error


def digits(seed=0):
    """scikit-learn's 1,797 digits (8x8, bundled with it), in splits of 1,257, 180 and 360, in a seeded order."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.images))
    images, labels = np.float32(data.images / 16)[order], np.uint8(data.target)[order]
    return split_at(images, labels, 1257, 180)
