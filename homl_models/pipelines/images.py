"""Images of people, read from folders and NumPy files into memory.

An array of images is (n, h, w) for grey or (n, h, w, 3) for colour, of bytes or of floats in [0, 1].
"""

import collections
import dataclasses
import os
import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np

from homl_models.errors import UserError
from homl_models.pipelines.image_files import error_message, open_image

NO_LABEL = -1
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}  # names that are no classes
JUNK = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN"}  # folders that operating systems make
UNSUPPORTED = {
    ".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg", ".svgz", ".exr", ".hdr", ".dcm",
    ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
}  # suffixes of images that Pillow does not read  # fmt: skip
MAX_CLASSES = 2**16


@dataclasses.dataclass(frozen=True)
class Images:
    """Images with labels.

    Args:
        images: (n, h, w) or (n, h, w, 3).
        labels: (n,) int32, `NO_LABEL` for none.
        classes: names of the classes, if they have any; label i belongs to classes[i].
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...] = ()


def read(path, size=None, channels=1):
    """`Images` of a folder or of an .npy or .npz file; see `read_folder` and `read_array`."""
    return (read_folder if Path(path).is_dir() else read_array)(path, size, channels)


def split(data, seed=0, path="the data"):
    """Random split of `Images` into three (images, labels) of 80, 10 and 10 %; `UserError` for fewer than 10 images."""
    count = len(data.images)
    if count < 10:
        raise UserError(f"{path} has {count} images; at least 10 are needed")
    order = np.random.default_rng(seed).permutation(count)
    return split_at(data.images[order], data.labels[order], count * 8 // 10, count // 10)


def split_at(images, labels, train, valid, test=None):
    """The first `train` (images, labels), the next `valid` ones, and `test`, by default the rest."""
    slices = slice(0, train), slice(train, train + valid), slice(train + valid, None)
    splits = tuple((images[each], labels[each]) for each in slices)
    return splits if test is None else (*splits[:2], tuple(test))


def match_labels(data, class_names, num_classes, path=""):
    """`Images` relabelled with the class indices of a model, by the names of the classes.

    class_names: of the model; () if it has none. Then, and where none of its own names are numbers, names that are
    whole numbers are class indices. `UserError` for classes that the model does not have.
    """
    index, labels = {name: i for i, name in enumerate(class_names)}, data.labels
    if data.classes:
        numeric = all(name.isdecimal() and int(name) < num_classes for name in data.classes)
        if numeric and not any(map(str.isdecimal, class_names)):
            index |= {name: int(name) for name in data.classes}
        elif not class_names and len(data.classes) == num_classes:
            index = {name: i for i, name in enumerate(data.classes)}
        unknown = [name for name in data.classes if name not in index]
        if unknown:
            known = ", ".join(class_names) or f"{num_classes} without names: call folders by their numbers"
            raise UserError(f"{path} has classes that the model does not know: {', '.join(unknown)}; it has {known}")
        labels = np.array([index[data.classes[i]] if i >= 0 else NO_LABEL for i in labels], np.int32)
    if labels.max() >= num_classes:
        raise UserError(f"{path} has labels up to {labels.max()}; the model's classes are 0 to {num_classes - 1}")
    return Images(data.images, labels, data.classes)


# Folders.


def read_folder(folder, size=None, channels=1):
    """`Images` of all image files below a folder, in the order of their paths, as bytes.

    size: (h, w) to resize to, after a center crop to that aspect ratio; None: the size of the first.
    The class of an image is the subfolder of `folder` that it lies in, at any depth. Files are recognized by their
    content, links are followed, hidden files are skipped. Images that cannot be read are counted and named in a
    warning, as are images that are resized. `UserError` if no image is left, or if the subfolders are splits.
    """
    images, names, unreadable, num_resized = _open_all(folder, size, channels)
    if not images:
        refuse_empty(folder, unreadable)
    classes = tuple(sorted({name for name in names if name}, key=_natural))
    _refuse_splits(folder, classes)
    warn_of_unreadable(unreadable, len(images))
    _warn_of_empty_classes(folder, classes)
    if num_resized and not size:
        height, width = images[0].shape[:2]
        message = f"{num_resized} of {len(images)} images are not {width}x{height} as the first"
        warnings.warn(f"{message}: they are cropped and resized; --size sets another size", stacklevel=2)
    labels = [classes.index(name) if name else NO_LABEL for name in names]
    return Images(np.stack(images), np.array(labels, np.int32), classes)


def _open_all(folder, size, channels):
    """Arrays of the images below a folder, of one size; names of their classes; (path, error) of unreadable ones.

    The last result is the number of images that were resized.
    """
    from PIL import ImageOps

    images, names, unreadable, num_resized = [], [], [], 0
    for path, image in open_folder(folder, channels, unreadable):
        size = size or (image.height, image.width)
        num_resized += (image.height, image.width) != tuple(size)
        images.append(np.asarray(ImageOps.fit(image, (size[1], size[0]))))
        names.append(_class_of(path, folder))
    return images, names, unreadable, num_resized


def open_folder(folder, channels, unreadable):
    """Each (path, `PIL.Image`) of the images below a folder; see `open_image`.

    unreadable: a list to which (path, error) of those that cannot be read are appended.
    """
    for path in list_files(folder):
        try:
            yield path, open_image(path, channels)
        except UserError as error:
            if _looks_like_an_image(path, error.__cause__):
                unreadable.append((path, error_message(error.__cause__)))


def list_files(folder, parents=()):
    """Paths of all files below a folder, sorted, and of broken links; circular links are not followed."""
    real = os.path.realpath(folder)
    if any(parent == real or parent.startswith(real + os.sep) for parent in parents):
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # a folder without permission is reported as a file that cannot be opened
        entries = []
        yield Path(folder)
    for entry in entries:
        if entry.name.startswith(".") or entry.name in JUNK:
            continue
        if entry.is_dir():
            yield from list_files(entry.path, (*parents, real))
        elif entry.is_file() or entry.is_symlink():
            yield Path(entry.path)


def _looks_like_an_image(path, error):
    """Whether an unreadable file is worth a warning: it has an image's suffix, or Pillow recognized its format."""
    from PIL import Image, UnidentifiedImageError

    if not isinstance(error, UnidentifiedImageError):
        return True
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    return path.suffix.lower() in known | UNSUPPORTED


def _listed(unreadable):
    return "; ".join(f"{path} ({message})" for path, message in unreadable)


def refuse_empty(folder, unreadable):
    """Raise `UserError` for a folder without any image that can be read."""
    if unreadable:
        raise UserError(
            f"none of the {len(unreadable)} images in {folder} can be read, the first: {_listed(unreadable[:1])}"
        )
    raise UserError(f"{folder} holds no image that could be read (PNG, JPEG, ...); give a folder with some")


def warn_of_unreadable(unreadable, num_read):
    """Warn of images that were skipped: how many, of which suffixes, and the first of them by name."""
    if not unreadable:
        return
    suffixes = collections.Counter(path.suffix.lower() or "no suffix" for path, _ in unreadable)
    suffixes = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.items())
    first = _listed(unreadable[:5]) + ("; ..." if len(unreadable) > 5 else "")
    count = f"{len(unreadable)} of {num_read + len(unreadable)}"
    warnings.warn(f"{count} images cannot be read and are left out ({suffixes}): {first}", stacklevel=3)


def _warn_of_empty_classes(folder, classes):
    """Warn of subfolders without images, where others are classes."""
    empty = sorted({_class_name(path.name) for path in _subfolders(folder)} - set(classes)) if classes else ()
    if empty:
        warnings.warn(f"{folder} has subfolders without images, which are no classes: {', '.join(empty)}", stacklevel=3)


def _refuse_splits(folder, classes):
    """Raise `UserError` if the subfolders are splits (train, val, ...), in which the classes are to be looked for."""
    splits = [name for name in classes if name.lower() in SPLITS]
    if splits and (len(splits) > 1 or len(classes) == 1):
        names = ", ".join(splits)
        raise UserError(f"{folder} has subfolders {names}, which are no classes; give one, {Path(folder) / splits[0]}")


def _subfolders(folder):
    return [p for p in Path(folder).iterdir() if p.is_dir() and not p.name.startswith(".") and p.name not in JUNK]


def _class_of(path, folder):
    """The name of the subfolder that an image lies in; "" for none."""
    parts = path.relative_to(folder).parts
    return _class_name(parts[0]) if len(parts) > 1 else ""


def _class_name(name):
    """The name of a folder as NFC-normalized text, with U+FFFD for bytes that are not UTF-8."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


def _natural(name):
    """Key of natural sorting: text as text, the numbers in it as numbers."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


# NumPy files.


def read_array(path, size=None, channels=1, name="images"):
    """`Images` of an .npy file, or of an .npz file with `images` (or one array of images) and, if any, `labels`.

    Labels are whole numbers from 0, (n,) or (n, 1), or names of classes. `UserError` for other shapes or labels.
    name: of the array of images; the labels of x_train are y_train.
    """
    try:
        images, labels = _load_arrays(path, name)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise UserError(f"cannot read {path} as an .npy or .npz file of images ({error_message(error)})") from error
    images = check_images(images, path)
    expected = f"(n, {size[0]}, {size[1]}" if size else "(n, h, w"
    expected += f", {channels})" if channels > 1 else ")"
    message = f"{path} has images of shape {images.shape}, not {expected}"
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        raise UserError(f"{message}: its channels come first; save images.transpose(0, 2, 3, 1)")
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    found = images.shape[3] if images.ndim == 4 else 1
    if found != channels:
        raise UserError(f"{message}" + (f"; give --channels {found}" if found in (1, 3) else ""))
    if size and tuple(size) != images.shape[1:3]:
        raise UserError(f"{message}; only the images of a folder are resized")
    return Images(images, *_check_labels(labels, len(images), path))


def array_names(path):
    """Names of the arrays in an .npz file; none for all else."""
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return tuple(loaded.files)
    except Exception:  # whatever anything else makes the readers raise; `read_array` says what it is
        return ()


def _load_arrays(path, name):
    """The arrays of images, and of labels or None, of a NumPy file."""
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        return loaded, None
    with loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    if name not in arrays:
        candidates = [name for name, array in arrays.items() if array.ndim in (3, 4) or len(arrays) == 1]
        if len(candidates) != 1:
            found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "nothing"
            raise UserError(f"{path} has {found}: save the array to use as `images`, and its classes as `labels`")
        name = candidates[0]
    usual = ["labels", "label", re.sub("^[xX]", "y", name), "y", "targets", "target"]
    return arrays[name], next((arrays[key] for key in usual if key in arrays and key != name), None)


def check_images(images, name="images"):
    """An array (n, h, w) or (n, h, w, c) of bytes or float32; `UserError` unless it is of bytes or in [0, 1]."""
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


def _check_labels(labels, count, path):
    """Labels as (count,) int32, and names of classes; `UserError` unless each image has a class."""
    if labels is None:
        return np.full(count, NO_LABEL, np.int32), ()
    if labels.shape not in ((count,), (count, 1)):
        hint = "; of one-hot labels give labels.argmax(1)" if labels.ndim == 2 and len(labels) == count else ""
        raise UserError(f"{path} has labels of shape {labels.shape}, not ({count},), one for each image{hint}")
    labels = labels.reshape(count)
    if labels.dtype.kind in "US":
        names = np.char.decode(labels, "utf-8", "replace") if labels.dtype.kind == "S" else labels
        names = [unicodedata.normalize("NFC", name) for name in names.tolist()]
        classes = tuple(sorted(set(names), key=_natural))
        return np.array([classes.index(name) for name in names], np.int32), classes
    whole = labels.astype(np.float64) if labels.dtype.kind in "buif" else np.full(count, np.nan)
    if not np.all(np.isfinite(whole) & (whole == np.floor(whole))):
        raise UserError(f"{path} has labels that are neither whole numbers nor names: {labels.dtype}")
    if whole.min() < 0 or whole.max() >= MAX_CLASSES:
        raise UserError(f"{path} has labels from {labels.min()} to {labels.max()}; classes are counted from 0")
    return labels.astype(np.int32), ()
