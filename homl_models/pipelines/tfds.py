"""Data sets of TensorFlow Datasets (https://www.tensorflow.org/datasets): labelled images and texts, pairs, texts.

They come from the folder TFDS_DATA_DIR (by default ~/tensorflow_datasets) or from the network, which prepares them
there; or from a folder that TFDS has prepared. `name` is a name, also with a configuration
(ted_hrlr_translate/pt_to_en), or such a folder, which holds dataset_info.json.
"""

import os
import warnings

import numpy as np

from homl_models.errors import UserError

INFO = "dataset_info.json"
BATCH = 1000
LABELS = {"neg": "negative", "pos": "positive"}  # as they are called here: names in imdb_reviews


def images(name):
    """Labelled images -> training split, test split, class names.

    A split is (images (n, h, w) or (n, h, w, 3), labels (n,)).
    """
    builder = find(name)
    keys = supervised_keys(builder, ("image", "label"))
    shape = builder.info.features[keys[0]].shape if keys[0] in builder.info.features else ()
    if len(shape) != 3 or None in shape or shape[-1] not in (1, 3):
        raise UserError(f"{name}: {keys[0]} has the shape {shape}, not that of images of one size")
    splits = [columns(builder, split, keys) for split in ("train", "test")]
    splits = [(x[..., 0] if x.shape[-1] == 1 else x, labels) for x, labels in splits]
    return *splits, class_names(builder, keys[1])


def labelled_texts(name, split):
    """Labelled texts -> texts and label names."""
    builder = find(name)
    keys = supervised_keys(builder, ("text", "label"))
    texts, labels = columns(builder, split, keys)
    names = [LABELS.get(label, label) for label in class_names(builder, keys[1])]
    texts = [text.replace("<br />", " ") for text in map(_decode, texts)]
    return texts, [names[i] if names else str(i) for i in labels]


def pairs(name, keys=()):
    """Pairs of sentences by split, {split: [(source, target), ...]}. keys: of source and target, by default TFDS's.

    Pairs with an empty side are left out, with a warning that counts them.
    """
    builder = find(name)
    keys = tuple(keys) or supervised_keys(builder, ("source", "target"))
    found = {}
    for split in builder.info.splits:
        both = list(zip(*(map(str.strip, map(_decode, column)) for column in columns(builder, split, keys))))
        found[split] = [pair for pair in both if all(pair)]
        if empty := len(both) - len(found[split]):
            warnings.warn(f"{name}, {split}: {empty} pairs of {len(both)} are empty and left out", stacklevel=2)
    return found


def text(name):
    """A text: those of all examples, of the splits train, validation and test."""
    builder = find(name)
    splits = [split for split in ("train", "validation", "test") if split in builder.info.splits]
    return "".join(_decode(one) for split in splits for one in columns(builder, split, ("text",))[0])


# Of any data set.


def find(name):
    """The builder of a data set that is prepared, by its name or its folder; `UserError` for one that is not."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError('TensorFlow Datasets is not installed: pip install "homl_models[tfds]"') from None
    if os.path.isfile(os.path.join(name, INFO)):
        return _tried(lambda: tfds.builder_from_directory(name), f"cannot read the data set in {name}")
    if os.path.isdir(name) or name.startswith((".", "/", "~")):
        raise UserError(f"{name} holds no data set that TFDS has prepared: give the folder of its {INFO}")
    cache = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    failed = f"{name} is not in {cache} (TFDS_DATA_DIR), and cannot be prepared from the network"
    builder = _tried(lambda: tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"), try_gcs=False), failed)
    if not os.path.isfile(os.path.join(builder.data_dir, INFO)):
        _tried(builder.download_and_prepare, failed)
    return builder


def _tried(function, failed):
    try:
        return function()
    except Exception as error:  # no network, no such data set, a damaged one
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{failed}: {reason}") from error


def supervised_keys(builder, usual):
    """Names of input and target: TFDS's own, or else the usual ones."""
    keys = builder.info.supervised_keys
    return tuple(keys[:2]) if keys and all(isinstance(key, str) for key in keys[:2]) else usual


def class_names(builder, key):
    """Names of the classes of a feature; () for numbers."""
    return tuple(getattr(builder.info.features[key], "names", None) or ())


def columns(builder, split, keys):
    """Columns of a split, an array (n, ...) for each key, in the order in which TFDS has stored the examples."""
    import tensorflow_datasets as tfds

    splits, features = builder.info.splits, builder.info.features
    if split not in splits:
        raise UserError(f"{builder.info.name} has no split {split!r}; it has {', '.join(splits)}")
    if unknown := [key for key in keys if key not in features]:
        raise UserError(f"{builder.info.name} has no {', '.join(unknown)}; its features are {', '.join(features)}")
    config = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)

    def read():
        data = builder.as_dataset(split=split, read_config=config, shuffle_files=False)
        data = data.map(lambda example: tuple(example[key] for key in keys)).batch(BATCH)
        return [np.concatenate(parts) for parts in zip(*data.as_numpy_iterator())]

    return _tried(read, f"{builder.data_dir} is damaged; remove it, and prepare it again") or [[] for _ in keys]


def _decode(text):
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
