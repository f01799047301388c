"""Pairs of low- and high-resolution images, and random crops of them.

The low resolution is MATLAB's bicubic interpolation of whole images, is read from a folder, or is made of each crop by
a degradation. Shapes: b batch, h height, w width, c channels, p patch, s scale; low (b, p, p, c), high
(b, s * p, s * p, c), float32 in [0, 1]. One channel is the luma Y of BT.601 in [16, 235] / 255, or of a grey image its
levels.
"""

import dataclasses
import os
import re
import warnings
from pathlib import Path

import numpy as np

from homl_models.errors import UserError
from homl_models.image_quality import luma
from homl_models.pipelines.image_files import is_grey
from homl_models.pipelines.image_store import ImageStore, stored
from homl_models.pipelines.images import list_files, open_folder, warn_of_unreadable
from homl_models.pipelines.random_access import RandomAccessDataset
from homl_models.pipelines.resize import imresize

NAMES_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of images: high[i] (h, w, c) belongs to low[i] (h // s, w // s, c), both of bytes.

    The rows and columns of high[i] beyond a multiple of s have no counterpart.
    """

    low: ImageStore
    high: ImageStore
    scale: int

    def __len__(self):
        return len(self.low)

    def __getitem__(self, i):
        """(low, high) of pair i, high cropped to s times the size of low."""
        low = self.low[i]
        height, width = (self.scale * n for n in low.shape[:2])
        return low, self.high[i][:height, :width]

    def subset(self, indices):
        """The pairs of these indices, in this order."""
        return dataclasses.replace(self, low=self.low.reordered(indices), high=self.high.reordered(indices))

    @property
    def channels(self):
        return self.high.shapes[0][2]

    @property
    def digest(self):
        return f"{self.scale} {self.low.digest} {self.high.digest}"


def read_pairs(folders, scale, channels=3, low_folders=()):
    """`Pairs` of all images below one folder or several.

    scale: s, a whole number. channels: 1 or 3.
    low_folders: of the images of low resolution, as many as `folders` and with the same names, to which x and the scale
        may be appended (a.png and ax4.png); () to make them by `imresize`.
    Images that cannot be read are left out with a warning, as are those of less than s pixels. `UserError` if none is
    left, or if images of low resolution are missing or of another size.
    """
    folders, low_folders = _as_tuple(folders), _as_tuple(low_folders)
    if low_folders and len(low_folders) != len(folders):
        raise UserError(
            f"there are {len(folders)} folders of images and {len(low_folders)} of low resolution: pair them"
        )
    high = _read(folders, channels, scale)
    if low_folders:
        return _matched(_read(low_folders, channels, 1), high, scale, folders, low_folders)

    def shrunk(notes):
        for name, image in zip(high.names, high):
            height, width = (n - n % scale for n in image.shape[:2])
            yield name, imresize(image[:height, :width], 1 / scale)

    return Pairs(stored(("imresize", 1, high.digest, scale), shrunk), high, scale)


def crops(pairs, batch_size, patch, steps, seed, degrade=None, sharpen=None):
    """`RandomAccessDataset` of batches (low, high) of random crops, flipped and turned at random.

    An image is taken with a probability proportional to its area. Those with less than `patch` pixels of low resolution
    on a side are left out with a warning; `UserError` if that is all.
    patch: p. steps: of an epoch.
    degrade: (image (s * p, s * p, c) float32 in [0, 1], generator) -> image of low resolution (p, p, c); by default it
        is cropped from the low image.
    sharpen: image -> image; then `degrade` is given the sharpened image, and a batch is (low, (high, sharpened)).
    """
    import tensorflow as tf

    indices = _large_enough(pairs, patch)
    areas = np.cumsum([np.prod(pairs.low.shapes[i][:2]) for i in indices])

    def example(generator):
        i = indices[np.searchsorted(areas, generator.integers(areas[-1]), side="right")]
        low, high = random_crop(*pairs[i], patch, generator)
        sharp = sharpen(np.float32(high) / 255) if sharpen else np.float32(high) / 255 if degrade else None
        low = np.float32(degrade(sharp, generator)) if degrade else low
        return (low, high, sharp) if sharpen else (low, high)

    def make_batch(step):
        generator = np.random.default_rng((seed, int(step)))
        return [np.stack(part) for part in zip(*(example(generator) for _ in range(batch_size)))]

    low_type = tf.float32 if degrade else tf.uint8
    types = [low_type, tf.uint8, tf.float32] if sharpen else [low_type, tf.uint8]
    sizes = patch, patch * pairs.scale, patch * pairs.scale

    def batch(step):
        parts = tf.numpy_function(make_batch, [step], types)
        low, *high = (_floats(x, (batch_size, n, n, pairs.channels)) for x, n in zip(parts, sizes))
        return low, tuple(high) if sharpen else high[0]

    return RandomAccessDataset(batch, steps)


def random_crop(low, high, patch, generator):
    """Random place of a pair (h, w, c), (s * h, s * w, c) -> (p, p, c), (s * p, s * p, c), both turned alike."""
    scale = len(high) // len(low)
    row, column = (generator.integers(n - patch + 1) for n in low.shape[:2])
    turn = generator.integers(8)
    crops = (
        image[k * row : k * (row + patch), k * column : k * (column + patch)] for image, k in ((low, 1), (high, scale))
    )
    return tuple(symmetric(crop, turn) for crop in crops)


def whole_images(pairs):
    """`RandomAccessDataset` of the pairs in their order, (low (1, h, w, c), high (1, s * h, s * w, c)) each."""
    import tensorflow as tf

    def batch(step):
        parts = tf.numpy_function(lambda i: pairs[int(i) % len(pairs)], [step], [tf.uint8, tf.uint8])
        return tuple(_floats(x, (None, None, pairs.channels))[None] for x in parts)

    return RandomAccessDataset(batch, len(pairs))


def symmetric(image, turn):
    """Symmetry 0 to 7 of the square: an image (h, w, c), turned by 90 degrees `turn` times, from 4 on also mirrored."""
    image = np.rot90(image, turn % 4)
    return image[:, ::-1] if turn >= 4 else image


def to_channels(image, path, channels):
    """A `PIL.Image` in RGB, read from `path` -> (h, w, c) bytes: RGB, or Y of BT.601; of a grey file its levels."""
    image = np.asarray(image)
    if channels == 3:
        return image
    return image[..., :1] if is_grey(path) else np.uint8(np.round(luma(image)))[..., None]


def pair_name(path, scale=0):
    """The path of an image without its suffix, by which pairs are matched; of low resolution also without x and s."""
    name = re.sub(r"\.[^./]*$", "", os.fspath(path))
    return name.removesuffix(f"x{scale}") if scale else name


def _floats(x, shape):
    """Bytes or floats of that shape -> floats in [0, 1]."""
    import tensorflow as tf

    x = tf.ensure_shape(x, shape)
    return tf.cast(x, tf.float32) / 255 if x.dtype == tf.uint8 else x


def _large_enough(pairs, patch):
    """Indices of the pairs that hold a crop; a warning counts the others."""
    large = [i for i, shape in enumerate(pairs.low.shapes) if min(shape[:2]) >= patch]
    small = [_path(pairs.high.names[i]) for i in sorted(set(range(len(pairs))) - set(large))]
    message = f"{len(small)} of {len(pairs)} images are smaller than a crop of {pairs.scale * patch} pixels"
    if not large:
        raise UserError(f"{message}; give larger images or a smaller patch")
    if small:
        warnings.warn(f"{message} and are left out: {_shown(small)}", stacklevel=3)
    return np.array(large)


def _as_tuple(folders):
    return (folders,) if isinstance(folders, (str, os.PathLike)) else tuple(folders)


def _shown(names):
    names = list(map(str, names))
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def _path(name):
    """The path below its folder of an image that is named NUMBER OF THE FOLDER/PATH."""
    return name.partition("/")[2]


def _read(folders, channels, smallest):
    """The `ImageStore` of all images below some folders, but for those with less than `smallest` pixels on a side."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"cannot read {folder}: there is no such folder; give a folder of images")
    paths = [path for folder in folders for path in list_files(folder)]
    states = [(path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None for path in paths]
    key = ("read", 1, channels, smallest, list(zip(map(str, map(os.path.abspath, paths)), states)))

    def read(notes):
        unreadable, small = [], []
        for number, folder in enumerate(folders):
            for path, image in open_folder(folder, 3, unreadable):
                if min(image.size) < smallest:
                    small.append(str(path))
                    continue
                yield f"{number}/{path.relative_to(folder)}", to_channels(image, path, channels)
        notes["unreadable"] = [(str(path), message) for path, message in unreadable]
        notes["small"] = small

    images = stored(key, read)
    unreadable = [(Path(path), message) for path, message in images.notes["unreadable"]]
    where = _shown(folders)
    if not images.shapes:
        count = len(unreadable) + len(images.notes["small"])
        found = (
            f"{count} images in {where} cannot be used: too small, or not readable"
            if count
            else f"{where} holds no image"
        )
        raise UserError(f"{found}; give a folder with images (PNG, JPEG, ...)")
    warn_of_unreadable(unreadable, len(images))
    if small := images.notes["small"]:
        warnings.warn(
            f"{len(small)} images have less than {smallest} pixels and are left out: {_shown(small)}", stacklevel=4
        )
    return images


def _matched(low, high, scale, folders, low_folders):
    """`Pairs` of the images of the same names; `UserError` unless each has its low resolution, of the right size."""

    index = {pair_name(name, scale): i for i, name in enumerate(low.names)}
    where = f"{_shown(low_folders)} (of low resolution) and {_shown(folders)}"
    missing = [name for name in high.names if pair_name(name) not in index]
    if missing or len(low) != len(high):
        found = f"{len(low)} and {len(high)} images" + (
            f"; without a partner: {_shown(map(_path, missing))}" if missing else ""
        )
        raise UserError(f"the images of {where} do not match by their names: {found}")
    order = [index[pair_name(name)] for name in high.names]
    for i, shape, name in zip(order, high.shapes, high.names):
        wanted = shape[0] // scale, shape[1] // scale
        if low.shapes[i][:2] != wanted:
            sizes = f"{low.shapes[i][1]}x{low.shapes[i][0]}, not {wanted[1]}x{wanted[0]}"
            raise UserError(
                f"the images of {where} do not match: {_path(name)} of low resolution is {sizes}, 1/{scale} of it"
            )
    return Pairs(low.reordered(order), high, scale)
