"""A semantic segmentation task made of real images: cut-outs, such as emoji or digits, pasted on photographs.

A batch is (images (b, h, w, 3) float32 in [0, 1], masks (b, h, w) int32): of each pixel the class, 0 for the
background, or `IGNORED` along the borders of the cut-outs, as in Pascal VOC. Both are functions of (seed, step).
Shapes: b batch, h height, w width, n images.
"""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from homl_models.errors import UserError
from homl_models.pipelines import tables
from homl_models.pipelines.image_batches import check_channels, to_bytes, to_floats
from homl_models.pipelines.image_files import open_image
from homl_models.pipelines.images import (
    Images,
    list_files,
    open_folder,
    read_folder,
    refuse_empty,
    warn_of_unreadable,
)
from homl_models.pipelines.random_access import RandomAccessDataset

IGNORED = 255  # class of pixels without weight in losses and metrics
BACKGROUND = "background"
OPAQUE = 128  # alpha from which on a pixel belongs to a cut-out


@dataclasses.dataclass(frozen=True)
class Pasting:
    """Random cut-outs on a random crop of a photograph.

    `pasting(photograph, cutouts, generator)` is (image (h, w, 3) bytes, mask (h, w) uint8), a pure function of the
    images and the state of the `np.random.Generator`.

    Args:
        size: (h, w).
        objects: smallest and largest number of cut-outs; later ones hide those before.
        scale: smallest and largest height of a cut-out, as a fraction of the smaller side of `size`.
        border: pixels on either side of the border between two classes that are `IGNORED`.
    """

    size: tuple[int, int] = (64, 64)
    objects: tuple[int, int] = (1, 4)
    scale: tuple[float, float] = (0.25, 0.6)
    border: int = 1

    def __post_init__(self):
        if min(self.size) < 1 or not 0 <= self.objects[0] <= self.objects[1] or self.border < 0:
            raise UserError("size, objects and border of pasted cut-outs must be 0 or more, ranges in order")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"the scale of pasted cut-outs must be a range above 0, not {self.scale}")

    def __call__(self, photograph, cutouts, generator):
        canvas = random_crop(photograph, self.size, generator)
        mask = np.zeros(self.size, np.uint8)
        for _ in range(generator.integers(self.objects[0], self.objects[1], endpoint=True)):
            i = generator.integers(len(cutouts.images))
            self._paste(canvas, mask, cutouts.images[i], 1 + cutouts.labels[i], generator)
        return np.asarray(canvas), with_borders(mask, self.border)

    def _paste(self, canvas, mask, cutout, label, generator):
        """Paste one cut-out (h, w, 4) onto the `PIL.Image` and into the mask, in place."""
        height = max(1, round(generator.uniform(*self.scale) * min(self.size)))
        width = max(1, round(height * cutout.shape[1] / cutout.shape[0]))
        cutout = Image.fromarray(cutout).resize((width, height), Image.Resampling.BICUBIC)
        top, left = (_offset(n, m, generator) for n, m in zip(self.size, (height, width)))
        canvas.paste(cutout, (left, top), cutout)
        alpha = Image.new("L", (self.size[1], self.size[0]))
        alpha.paste(cutout.getchannel("A"), (left, top))
        mask[np.asarray(alpha) >= OPAQUE] = label


def _offset(size, length, generator):
    """Position of something of a length on an axis of a size, within it or, if it is longer, beyond both its ends."""
    return int(generator.integers(min(size - length, 0), max(size - length, 0), endpoint=True))


def random_crop(photograph, size, generator):
    """A random crop of a photograph (height, width) or (height, width, 3), as a `PIL.Image` in RGB of `size` (h, w).

    A photograph that is smaller is enlarged to hold it.
    """
    photograph = to_bytes(photograph)
    photograph = photograph[..., 0] if photograph.shape[2:] == (1,) else photograph
    image = Image.fromarray(photograph).convert("RGB")
    enlarge = max(size[0] / image.height, size[1] / image.width, 1)
    if enlarge > 1:
        width, height = (max(n, round(enlarge * m)) for n, m in zip((size[1], size[0]), image.size))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (int(generator.integers(m - n + 1)) for n, m in zip((size[1], size[0]), image.size))
    return image.crop((left, top, left + size[1], top + size[0]))


def with_borders(mask, width):
    """A mask (h, w) uint8 in which pixels within `width` of another class are `IGNORED`; none for 0."""
    edge, padded = np.zeros(mask.shape, bool), np.pad(mask, width, "edge")
    h, w = mask.shape
    for i in range(2 * width + 1):
        for j in range(2 * width + 1):
            edge |= padded[i : i + h, j : j + w] != mask
    return np.where(edge, np.uint8(IGNORED), mask)


def batches(photographs, cutouts, batch_size, pasting, steps, seed):
    """`RandomAccessDataset` of batches (images (b, h, w, 3) float32 in [0, 1], masks (b, h, w) int32).

    Args:
        photographs: sequence of (height, width) or (height, width, 3), of any sizes; of bytes or of floats in [0, 1].
        cutouts: `Images` (n, height, width, 4) with labels; class i of theirs is i + 1 in a mask, see `class_names`.
        pasting: a `Pasting`.
        steps: of an epoch.
    """
    import tensorflow as tf

    check_channels(photographs)
    check_cutouts(cutouts)

    def make_batch(step):
        generator = np.random.default_rng((seed, int(step)))
        rows = (
            pasting(photographs[generator.integers(len(photographs))], cutouts, generator) for _ in range(batch_size)
        )
        return [np.stack(part) for part in zip(*rows)]

    def batch(step):
        images, masks = tf.numpy_function(make_batch, [step], [tf.uint8, tf.uint8])
        images = tf.ensure_shape(images, (batch_size, *pasting.size, 3))
        return to_floats(images), tf.cast(tf.ensure_shape(masks, (batch_size, *pasting.size)), tf.int32)

    return RandomAccessDataset(batch, steps)


def class_names(cutouts):
    """Names of the classes of a mask: the background, then those of the cut-outs."""
    count = len(cutouts.classes) or int(cutouts.labels.max()) + 1
    return (BACKGROUND, *(cutouts.classes or map(str, range(count))))


# Photographs.


def read_photographs(folder):
    """Photographs of a folder, a list of arrays (height, width, 3) of bytes, of any sizes.

    Those that cannot be read are left out with a warning; `UserError` if none is left.
    """
    if not Path(folder).is_dir():
        raise UserError(f"cannot read {folder}: there is no such folder; give a folder of photographs")
    unreadable = []
    found = [np.asarray(image) for _, image in open_folder(folder, 3, unreadable)]
    if not found:
        refuse_empty(folder, unreadable)
    warn_of_unreadable(unreadable, len(found))
    return found


def split_photographs(photographs, seed=0):
    """Lists of photographs for training, validation and test: 80, 10 and 10 % of them, at random.

    Of fewer than 10 each is cut: the left 60 % of each, the next 20 % and the rest.
    """
    count = len(photographs)
    if count < 10:
        cuts = [[len(x[0]) * i // 5 for i in (0, 3, 4, 5)] for x in photographs]
        return [[x[:, cut[i] : cut[i + 1]] for x, cut in zip(photographs, cuts)] for i in range(3)]
    order, ends = np.random.default_rng(seed).permutation(count), [0, count * 8 // 10, count * 9 // 10, count]
    return [[photographs[i] for i in order[low:high]] for low, high in zip(ends, ends[1:])]


# Cut-outs.


def read_cutouts(folder, size=None, column="category", classes=()):
    """Cut-outs of a folder of images with transparency: `Images` (n, h, w, 4) of bytes, with classes.

    The class of a cut-out is the subfolder that it lies in; or else, in a folder that has a table captions.csv and its
    files in images/, what the table says in `column`.
    size: (h, w) to resize to; default: the size of the first. classes: those to take, in their order; default: all.
    `UserError` for a folder without classes, or for images without transparency.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"cannot read {folder}: there is no such folder; give a folder of cut-outs")
    table = folder / "captions.csv"
    data = _read_table(folder, table, size, column, classes) if table.is_file() else read_folder(folder, size, 4)
    return check_cutouts(_of_classes(data, classes or data.classes, folder), folder)


def _read_table(folder, table, size, column, classes):
    """Cut-outs of the files to which a table gives a class, of `classes` alone unless there are none."""
    class_of = dict(zip(*tables.read(table, ["file", column])))
    known, images, labels = tuple(sorted(set(class_of.values()))), [], []
    for path in list_files(folder / "images"):
        if class_of.get(path.name) in (classes or known):
            image = open_image(path, channels=4)
            size = size or (image.height, image.width)
            images.append(np.asarray(ImageOps.fit(image, (size[1], size[0]))))
            labels.append(known.index(class_of[path.name]))
    return Images(np.array(images), np.array(labels, np.int32), known)


def _of_classes(data, classes, path):
    """The `Images` of these classes, numbered in their order; `UserError` for a class without images."""
    if not classes:
        return data
    names = np.array([*data.classes, ""], object)[data.labels]
    if missing := [name for name in classes if name not in names]:
        known = ", ".join(data.classes) or "no classes"
        raise UserError(f"{path} has no images of {', '.join(missing)}; it has {known}")
    chosen = np.isin(data.labels, [data.classes.index(name) for name in classes])
    labels = [classes.index(name) for name in names[chosen]]
    return Images(data.images[chosen], np.array(labels, np.int32), tuple(classes))


def digit_cutouts(digits, labels, seed=0):
    """Cut-outs of grey digits (n, h, w), bright on dark, each in a colour of its own.

    `Images` (n, h, w, 4) of bytes.
    """
    alpha = to_bytes(np.asarray(digits))
    colors = np.random.default_rng(seed).integers(256, size=(len(alpha), 1, 1, 3), dtype=np.uint8)
    images = np.concatenate([np.broadcast_to(colors, (*alpha.shape, 3)), alpha[..., None]], axis=-1)
    classes = tuple(map(str, range(int(np.max(labels)) + 1)))
    return check_cutouts(Images(images, np.asarray(labels, np.int32), classes), "the digits")


def check_cutouts(data, path="the cut-outs"):
    """`Images` unchanged; `UserError` unless they have transparency and classes that a mask of bytes can hold."""
    if data.images.ndim != 4 or data.images.shape[-1] != 4 or data.images.dtype != np.uint8:
        raise UserError(f"{path} must be bytes (n, h, w, 4) with transparency, not {data.images.shape}")
    if (data.images[..., 3] >= OPAQUE).all():
        raise UserError(f"{path} have no transparency: give PNG files whose background is transparent")
    if data.labels.min() < 0:
        raise UserError(f"{path} have no classes; give each class a folder of its own")
    if data.labels.max() + 1 >= IGNORED:
        raise UserError(
            f"{path} have {data.labels.max() + 1} classes; a mask holds {IGNORED - 1} beside the background"
        )
    return data
