"""Pictures as training batches: arrays in memory, gathered by index in a seeded order.

An array of pictures is (n, h, w) for grey or (n, h, w, c), of bytes or of floats in [0, 1];
batches are float32 in [0, 1].
"""

import gzip
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from homl_models.errors import UserError
from homl_models.pipelines.stream import Stream, permuted

SUFFIXES = ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"
NO_LABEL = -1


def fashion_mnist():
    """Fashion MNIST in the book's parts (55,000, 5,000 and 10,000 of 28x28), from Keras' cache or the network."""
    import keras

    try:
        (images, labels), test = keras.datasets.fashion_mnist.load_data()
    except Exception as error:
        raise UserError(
            "cannot fetch Fashion MNIST and it is not cached in datasets/fashion-mnist of KERAS_HOME: go online once, "
            "pass --images PATH, or train a recipe on --data digits, which need no network"
        ) from error
    return _parts(images, labels, 55_000, 5_000, test)


def mnist(folder):
    """MNIST in the same parts, from its four IDX files in `folder`, packed (.gz) or not."""
    pair = [tuple(read_idx(_idx_file(folder, name, kind)) for kind in ("images-idx3", "labels-idx1"))
            for name in ("train", "t10k")]  # fmt: skip
    return _parts(*pair[0], 55_000, 5_000, pair[1])


def _idx_file(folder, name, kind):
    for path in (Path(folder) / f"{name}-{kind}-ubyte{suffix}" for suffix in ("", ".gz")):
        if path.is_file():
            return path
    raise UserError(f"{folder} has no file {name}-{kind}-ubyte (or .gz); give the folder of the four files of MNIST")


def read_idx(path):
    """An array of bytes from a file in the IDX format of MNIST, packed by gzip or not."""
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
    """scikit-learn's 1,797 digits (8x8, comes with it): 1,257 for training, 180 for validation, 360 for the test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.images))
    images, labels = np.float32(data.images / 16)[order], np.uint8(data.target)[order]
    return _parts(images, labels, 1257, 180)


def read(path, size=None, channels=1, seed=0):
    """Your own pictures in three parts (80, 10 and 10 %, in a seeded order): a folder, or an .npy or .npz file."""
    images, labels = (read_folder if Path(path).is_dir() else read_array)(path, size, channels)
    if len(images) < 10:
        raise UserError(f"{path} holds {len(images)} pictures; at least 10 are needed")
    order = np.random.default_rng(seed).permutation(len(images))
    return _parts(images[order], labels[order], len(images) * 8 // 10, len(images) // 10)


def _parts(images, labels, train, valid, test=None):
    ends = slice(0, train), slice(train, train + valid), slice(train + valid, None)
    parts = tuple((images[part], labels[part]) for part in ends)
    return parts if test is None else (*parts[:2], tuple(test))


def read_folder(folder, size=None, channels=1):
    """All pictures below a folder, by path: bytes (n, h, w) or (n, h, w, 3), and labels (n,).

    size: (h, w) to bring them to (the middle is cut to that shape first); None: that of the first.
    Labels count the subfolders, if there are several, by name. What is no picture is named in a warning
    and left out; `UserError` if nothing is left.
    """
    from PIL import Image, ImageOps

    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"{folder} holds no picture ({', '.join(SUFFIXES)}); give a folder with some")
    images, kept, broken = [], [], []
    for path in files:
        try:
            with Image.open(path) as picture:
                size = size or (picture.height, picture.width)
                picture = ImageOps.fit(picture.convert("L" if channels == 1 else "RGB"), (size[1], size[0]))
        except (OSError, SyntaxError, ValueError) as error:
            broken.append(f"{path} ({error})")
            continue
        images.append(np.asarray(picture))
        kept.append(path.parent)
    if not images:
        raise UserError(f"none of the {len(broken)} pictures in {folder} can be read, the first: {broken[0]}")
    if broken:
        named = "; ".join(broken[:3]) + ("; ..." if len(broken) > 3 else "")
        warnings.warn(f"{len(broken)} of {len(files)} pictures cannot be read and are left out: {named}", stacklevel=2)
    classes = sorted(set(kept))
    labels = [classes.index(parent) if len(classes) > 1 else NO_LABEL for parent in kept]
    return np.stack(images), np.array(labels, np.int32)


def read_array(path, size=None, channels=1):
    """Pictures of an .npy file, or of an .npz file's `images` (and its `labels`) or only array; see `read_folder`."""
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"images": loaded}
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path} as an .npy or .npz file of pictures ({error})") from error
    if "images" not in arrays and len(arrays) == 1:
        arrays = {"images": next(iter(arrays.values()))}
    if "images" not in arrays:
        raise UserError(f"{path} has no array called images, but {', '.join(arrays) or 'none'}")
    images = checked(arrays["images"], path)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if (channels == 1) != (images.ndim == 3) or (size and tuple(size) != images.shape[1:3]):
        wanted = f"{'x'.join(map(str, size)) if size else 'any size'}, {channels} channel(s)"
        raise UserError(f"{path} holds pictures of shape {images.shape[1:]}, not {wanted}")
    return images, np.array(arrays.get("labels", np.full(len(images), NO_LABEL)), np.int32)


def checked(images, name="images"):
    """`images` if they are an array of pictures of bytes or of floats in [0, 1]; else `UserError`."""
    images = np.asarray(images)
    if images.ndim not in (3, 4) or not len(images):
        raise UserError(f"{name} must be (n, h, w) or (n, h, w, c), not {images.shape}")
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise UserError(f"{name} must be bytes or floats, not {images.dtype}")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise UserError(f"{name} must lie in [0, 1], not between {low:g} and {high:g}; divide them, e.g. by 255")
    return np.float32(images)


def batches(images, batch_size, seed=None, targets=None, augment=None):
    """Batches (pictures, targets) as a `Stream`; without `targets` (n, ...) a picture is its own.

    seed: draws without replacement in an order of its own for each pass; None takes all as they come,
        and the last batch is smaller.
    augment: (pictures (b, ...), seed (2,)) -> pictures, in TensorFlow operations that depend on nothing else;
        of training batches only. Where a picture is its own target, that is the augmented one.
    """
    import tensorflow as tf

    count = len(images)
    steps = max(1, count // batch_size) if seed is not None else -(-count // batch_size)
    pixels = tf.constant(images)
    goals = None if targets is None else tf.constant(targets)

    def pair(index, step):
        x = tf.gather(pixels, index)
        x = tf.cast(x, tf.float32) / 255 if x.dtype == tf.uint8 else x
        if augment is not None and seed is not None:
            x = augment(x, tf.stack([tf.cast(seed, tf.int64), step]))
        return x, x if goals is None else tf.gather(goals, index)

    def ordered(step):
        first = step % steps * batch_size
        return pair(tf.range(first, tf.minimum(first + batch_size, count)), step)

    def shuffled(step):
        example = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        return pair(permuted(example % count, count, seed, example // count, 0), step)

    return Stream(ordered if seed is None else shuffled, steps)
