"""Images as training batches: opened from people's files, held in memory, gathered by index in a seeded order.

An array of images is (n, h, w) for grey or (n, h, w, c), of bytes or of floats in [0, 1];
batches are float32 in [0, 1].
"""

import collections
import dataclasses
import gzip
import os
import re
import struct
import unicodedata
import warnings
import zlib
from pathlib import Path

import numpy as np

from homl_models.errors import UserError
from homl_models.pipelines.image_files import open_image, reason
from homl_models.pipelines.random_access import RandomAccessDataset, permuted

NO_LABEL = -1
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}  # names that are no classes
JUNK = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN"}  # folders that systems make
FOREIGN = {
    ".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg", ".svgz", ".exr", ".hdr", ".dcm",
    ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
}  # suffixes of images that Pillow does not read  # fmt: skip
MOST_CLASSES = 2**16


@dataclasses.dataclass(frozen=True)
class Images:
    """Images (n, h, w) or (n, h, w, 3), labels (n,) int32 with -1 for none, and the names of the classes, if any."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...] = ()


# Data sets.


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
    for images, labels in pair:
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise UserError(
                f"{folder} has images of shape {images.shape} with labels of {labels.shape}; fetch it again"
            )
    if len(pair[0][0]) != 60_000:
        raise UserError(f"{folder} has {len(pair[0][0])} images to train on, not MNIST's 60,000; fetch it again")
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


# Your own images.


def read(path, size=None, channels=1):
    """`Images` of a folder or of an .npy or .npz file; see `read_folder` and `read_array`."""
    return (read_folder if Path(path).is_dir() else read_array)(path, size, channels)


def split(data, seed=0, path="the data"):
    """`Images` in three parts (images, labels) of 80, 10 and 10 %, in a seeded order; at least 10 are needed."""
    count = len(data.images)
    if count < 10:
        raise UserError(f"{path} has {count} images; at least 10 are needed")
    order = np.random.default_rng(seed).permutation(count)
    return _parts(data.images[order], data.labels[order], count * 8 // 10, count // 10)


def _parts(images, labels, train, valid, test=None):
    ends = slice(0, train), slice(train, train + valid), slice(train + valid, None)
    parts = tuple((images[part], labels[part]) for part in ends)
    return parts if test is None else (*parts[:2], tuple(test))


def read_folder(folder, size=None, channels=1):
    """`Images` of all files below a folder that are images, in the order of their paths, as bytes.

    size: (h, w) to bring them to (the middle is cut to that shape first); None: that of the first.
    The class of an image is the subfolder of `folder` that it lies in, at any depth. Files are told by what they hold,
    links are followed, names that begin with a dot are passed over. Images that cannot be read are counted and named
    in a warning, as are sizes that are changed. `UserError` if no image is left, or if the subfolders are splits.
    """
    from PIL import ImageOps

    images, names, left_out, resized, given = [], [], [], 0, size
    for path in _files(folder):
        try:
            image = open_image(path, channels)
        except UserError as error:
            if _looks_like_an_image(path, error.__cause__):
                left_out.append((path, reason(error.__cause__)))
            continue
        size = size or (image.height, image.width)
        resized += (image.height, image.width) != tuple(size)
        images.append(np.asarray(ImageOps.fit(image, (size[1], size[0]))))
        names.append(_class_of(path, folder))
    total = len(images) + len(left_out)
    if not total:
        raise UserError(f"{folder} holds no image that could be read (PNG, JPEG, ...); give a folder with some")
    if not images:
        raise UserError(f"none of the {total} images in {folder} can be read, the first: {_named(left_out[:1])}")
    classes = tuple(sorted({name for name in names if name}, key=_by_number))
    _refuse_splits(folder, classes)
    if left_out:
        kinds = collections.Counter(path.suffix.lower() or "no suffix" for path, _ in left_out)
        kinds = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        named = _named(left_out[:5]) + ("; ..." if len(left_out) > 5 else "")
        told = f"{len(left_out)} of {total} images cannot be read and are left out ({kinds}): {named}"
        warnings.warn(told, stacklevel=2)
    if empty := sorted({_class_name(path.name) for path in _subfolders(folder)} - set(classes)) if classes else ():
        warnings.warn(f"{folder} has subfolders without images, which are no classes: {', '.join(empty)}", stacklevel=2)
    if resized and not given:
        told = f"{resized} of {len(images)} images are not {size[1]}x{size[0]} as the first: they are cut and resized"
        warnings.warn(f"{told}; --size sets another size", stacklevel=2)
    labels = [classes.index(name) if name else NO_LABEL for name in names]
    return Images(np.stack(images), np.array(labels, np.int32), classes)


def _files(folder, above=()):
    """Paths of all files below a folder, sorted, and of links to nothing; a circle of links is not gone round."""
    real = os.path.realpath(folder)
    if any(one == real or one.startswith(real + os.sep) for one in above):
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # a folder that must not be read is named as what cannot be opened
        entries = []
        yield Path(folder)
    for entry in entries:
        if entry.name.startswith(".") or entry.name in JUNK:
            continue
        if entry.is_dir():
            yield from _files(entry.path, (*above, real))
        elif entry.is_file() or entry.is_symlink():
            yield Path(entry.path)


def _subfolders(folder):
    return [p for p in Path(folder).iterdir() if p.is_dir() and not p.name.startswith(".") and p.name not in JUNK]


def _looks_like_an_image(path, error):
    """Whether a file that cannot be read would be missed: by its suffix, or since Pillow knows what it begins with."""
    from PIL import Image, UnidentifiedImageError

    if not isinstance(error, UnidentifiedImageError):
        return True
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    return path.suffix.lower() in known | FOREIGN


def _named(left_out):
    return "; ".join(f"{path} ({reason})" for path, reason in left_out)


def _class_of(path, folder):
    """The name of the subfolder that an image lies in; "" for none."""
    parts = path.relative_to(folder).parts
    return _class_name(parts[0]) if len(parts) > 1 else ""


def _class_name(name):
    """The name of a folder as text to compare and save: in one form of Unicode, with U+FFFD for what is no text."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


def _by_number(name):
    """A key that sorts names as text, but the numbers in them as numbers."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def _refuse_splits(folder, classes):
    """`UserError` if the subfolders are called train, val or the like, below which the classes should be looked for."""
    splits = [name for name in classes if name.lower() in SPLITS]
    if splits and (len(splits) > 1 or len(classes) == 1):
        named = ", ".join(splits)
        raise UserError(f"{folder} has subfolders {named}, which are no classes; give one, {Path(folder) / splits[0]}")


def read_array(path, size=None, channels=1):
    """`Images` of an .npy file, or of an .npz file with `images` (or one array of images) and, if any, `labels`.

    Labels are whole numbers from 0, (n,) or (n, 1), or names of classes. `UserError` for other shapes or labels.
    """
    try:
        images, labels = _arrays(path)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise UserError(f"cannot read {path} as an .npy or .npz file of images ({reason(error)})") from error
    images = checked(images, path)
    wanted = f"(n, {size[0]}, {size[1]}" if size else "(n, h, w"
    wanted += f", {channels})" if channels > 1 else ")"
    told = f"{path} has images of shape {images.shape}, not {wanted}"
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        raise UserError(f"{told}: its channels stand first; save images.transpose(0, 2, 3, 1)")
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    have = images.shape[3] if images.ndim == 4 else 1
    if have != channels:
        raise UserError(f"{told}" + (f"; give --channels {have}" if have in (1, 3) else ""))
    if size and tuple(size) != images.shape[1:3]:
        raise UserError(f"{told}; only the images of a folder are resized")
    return Images(images, *_labels(labels, len(images), path))


def _arrays(path):
    """The array of images, and that of labels or None, of a NumPy file."""
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        return loaded, None
    with loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    name = "images"
    if name not in arrays:
        found = [name for name, array in arrays.items() if array.ndim in (3, 4) or len(arrays) == 1]
        if len(found) != 1:
            have = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "nothing"
            raise UserError(f"{path} has {have}: save the array to use as `images`, and its classes as `labels`")
        name = found[0]
    usual = ["labels", "label", re.sub("^[xX]", "y", name), "y", "targets", "target"]
    return arrays[name], next((arrays[key] for key in usual if key in arrays and key != name), None)


def _labels(labels, count, path):
    """Labels as (count,) int32 and names of classes; `UserError` unless each image has a class."""
    if labels is None:
        return np.full(count, NO_LABEL, np.int32), ()
    if labels.shape not in ((count,), (count, 1)):
        hint = "; of one-hot labels give labels.argmax(1)" if labels.ndim == 2 and len(labels) == count else ""
        raise UserError(f"{path} has labels of shape {labels.shape}, not ({count},), one for each image{hint}")
    labels = labels.reshape(count)
    if labels.dtype.kind in "US":
        names = np.char.decode(labels, "utf-8", "replace") if labels.dtype.kind == "S" else labels
        names = [unicodedata.normalize("NFC", name) for name in names.tolist()]
        classes = tuple(sorted(set(names), key=_by_number))
        return np.array([classes.index(name) for name in names], np.int32), classes
    whole = labels.astype(np.float64) if labels.dtype.kind in "buif" else np.full(count, np.nan)
    if not np.all(np.isfinite(whole) & (whole == np.floor(whole))):
        raise UserError(f"{path} has labels that are neither whole numbers nor names: {labels.dtype}")
    if whole.min() < 0 or whole.max() >= MOST_CLASSES:
        raise UserError(f"{path} has labels from {labels.min()} to {labels.max()}; they must count classes from 0")
    return labels.astype(np.int32), ()


def matched(data, class_names, num_classes, path=""):
    """`Images` whose labels count the classes of a model, found by their names.

    class_names: of the model; () if it has none. Then, and where none of its own are numbers, names that are whole
    numbers are the numbers of classes. `UserError` for classes that the model does not have.
    """
    places, labels = {name: i for i, name in enumerate(class_names)}, data.labels
    if data.classes:
        by_number = all(name.isdecimal() and int(name) < num_classes for name in data.classes)
        if by_number and not any(map(str.isdecimal, class_names)):
            places |= {name: int(name) for name in data.classes}
        elif not class_names and len(data.classes) == num_classes:
            places = {name: i for i, name in enumerate(data.classes)}
        unknown = [name for name in data.classes if name not in places]
        if unknown:
            known = ", ".join(class_names) or f"{num_classes} without names: call folders by their numbers"
            raise UserError(f"{path} has classes that the model does not know: {', '.join(unknown)}; it has {known}")
        labels = np.array([places[data.classes[i]] if i >= 0 else NO_LABEL for i in labels], np.int32)
    if labels.max() >= num_classes:
        raise UserError(f"{path} has labels up to {labels.max()}; those of the model go from 0 to {num_classes - 1}")
    return Images(data.images, labels, data.classes)


def checked(images, name="images"):
    """`images` if they are an array of images of bytes or of floats in [0, 1]; else `UserError`."""
    images = np.asarray(images)
    if images.ndim not in (3, 4) or not images.size:
        raise UserError(f"{name} must be (n, h, w) or (n, h, w, c), not {images.shape}")
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise UserError(f"{name} must be bytes or floats, not {images.dtype}; give images.astype('uint8')")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise UserError(f"{name} must lie in [0, 1], not between {low:g} and {high:g}; divide them, e.g. by 255")
    return np.float32(images)


# Batches.


def batches(images, batch_size, seed=None, targets=None, augment=None):
    """Batches (images, targets) as a `RandomAccessDataset`; without `targets` (n, ...) an image is its own.

    seed: draws without replacement in an order of its own for each pass; None takes all as they come,
        and the last batch is smaller.
    augment: (images (b, ...), seed (2,)) -> images, in TensorFlow operations that depend on nothing else;
        of training batches only. Where an image is its own target, that is the augmented one.
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

    return RandomAccessDataset(ordered if seed is None else shuffled, steps)
