"""Labelled images for classifiers: training, validation and test split, few labels, and augmented batches.

A split is a pair (images (n, h, w) or (n, h, w, 3), labels (n,)). Shapes: n images, h height, w width, b batch,
k classes.
"""

import collections
from pathlib import Path

import numpy as np

from homl_models.errors import UserError
from homl_models.pipelines import image_batches
from homl_models.pipelines import images as image_arrays
from homl_models.pipelines.random_access import RandomAccessDataset

SPLIT_FOLDERS = {
    "train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # name of a folder: split  # fmt: skip
HELD_OUT = 10  # a tenth of the training images, where there is no split for validation

Splits = collections.namedtuple("Splits", ["train", "valid", "test", "classes"])  # three splits, names of the classes


def read_splits(path, size=None, channels=1, seed=0, labelled=True):
    """`Splits` of a folder of images, or of an .npy or .npz file.

    A folder of splits (train, and validation, test or both) has in each of them a subfolder for each class; an .npz
    file of splits has x_train, y_train, x_test and y_test. Classes of validation and test images are matched with the
    classes of the training images by name. A single split beside the training images is for the test, and of the
    training images a tenth, taken at random, for validation. Of all else 80, 10 and 10 % are taken at random.
    size, channels: see `images.read`. labelled: False where labels do not matter, and may be missing.
    `UserError` for images without a label, or of a class that is not among the training images.
    """
    parts = _read_folders(path, size, channels) or _read_arrays(path, size, channels)
    if not parts:
        data = image_arrays.read(path, size, channels)
        data = _labelled(data, path) if labelled else data
        return Splits(*image_arrays.split(data, seed, path), data.classes)
    train, others = parts.pop("train"), []
    for name in sorted(parts, reverse=True):  # valid before test
        data = _matched(parts[name], _labelled(train, path), f"{path} ({name})") if labelled else parts[name]
        others.append((data.images, data.labels))
    if len(others) == 1:
        return Splits(*_held_out(train, seed, path), *others, train.classes)
    return Splits((train.images, train.labels), *others, train.classes)


def _read_folders(path, size, channels):
    """{name of a split: `Images`} of a folder of splits, all of the size of the training images; {} for all else."""
    folders = {}
    for folder in sorted(Path(path).iterdir()) if Path(path).is_dir() else []:
        if folder.is_dir() and (name := SPLIT_FOLDERS.get(folder.name.lower())):
            folders[name] = folder
    if len(folders) < 2 or "train" not in folders:
        return {}
    train = image_arrays.read_folder(folders.pop("train"), size, channels)
    size = train.images.shape[1:3]
    others = {name: image_arrays.read_folder(folder, size, channels) for name, folder in folders.items()}
    return {"train": train, **others}


def _read_arrays(path, size, channels):
    """{name of a split: `Images`} of an .npz file of splits; {} for all else."""
    names = ("train", "test") if {"x_train", "x_test"} <= set(image_arrays.array_names(path)) else ()
    return {name: image_arrays.read_array(path, size, channels, f"x_{name}") for name in names}


def _matched(data, train, path):
    """`Images` with the labels of the training images' classes."""
    num_classes = len(train.classes) or int(train.labels.max()) + 1
    return image_arrays.match_labels(_labelled(data, path), train.classes, num_classes, path)


def _held_out(data, seed, path):
    """Two splits of `Images`: a tenth, taken at random, is the second."""
    count = len(data.images)
    if count < HELD_OUT:
        raise UserError(f"{path} has {count} images to train on; at least {HELD_OUT} are needed")
    order = np.random.default_rng(seed).permutation(count)
    valid = count // HELD_OUT
    return image_arrays.split_at(data.images[order], data.labels[order], count - valid, valid)[:2]


def _labelled(data, path):
    """`Images` unchanged; `UserError` where one has no label."""
    if missing := int((data.labels < 0).sum()):
        wanted = "give each class a folder of its own, or an .npz with `labels`"
        raise UserError(f"{missing} of {len(data.labels)} images in {path} have no label; {wanted}")
    return data


def few(images, labels, count, seed):
    """`count` of the images with their labels, at random, each class in proportion but with one at least.

    A pure function of the seed; fewer images than `count` are all taken.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    rank = np.zeros(len(images))  # of an image within its class, as a fraction of the class
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members)) / len(members)
    chosen = order[np.argsort(rank[order], kind="stable")][:count]
    return images[np.sort(chosen)], labels[np.sort(chosen)]


def one_hot(labels, num_classes):
    """Labels (n,) as (n, k) float32; `UserError` unless they are classes."""
    labels = np.asarray(labels)
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise UserError(f"labels must be 0 to {num_classes - 1}, not {labels.min()} to {labels.max()}")
    return np.eye(num_classes, dtype=np.float32)[labels]


def batches(images, labels, batch_size, num_classes, seed, augmentation, mix=None, label_smoothing=0.0):
    """`RandomAccessDataset` of batches (images (b, h, w[, c]), targets (b, k)) in random order, augmented.

    Images are float32 in [0, 1]; targets are one-hot, smoothed, and mixed of two classes.

    Args:
        images: as for `image_batches.augmented_views`.
        labels: (n,).
        augmentation: of single images, an `image_augmentation.Augmentation` of one size.
        mix: of batches, a `batch_augmentation.BatchAugmentation`; None: none.
        label_smoothing: probability that is spread over all classes.
    """
    import tensorflow as tf

    views = image_batches.augmented_views(images, batch_size, augmentation, seed)
    hot = one_hot(labels, num_classes)
    targets = tf.constant(hot + np.float32(label_smoothing) * (1 / np.float32(num_classes) - hot))

    def batch(step):
        (x,), indices = views.batch(step)
        y = tf.ensure_shape(tf.gather(targets, indices), (batch_size, num_classes))
        return mix(x, y, tf.stack([tf.cast(seed, tf.int64), step])) if mix else (x, y)

    return RandomAccessDataset(batch, views.steps)
