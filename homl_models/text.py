"""Texts to ids and back, by a vocabulary of characters: in Python, and in a TensorFlow graph.

A vocabulary is a string of distinct characters; the id of a character is its place in it.
"""

import numpy as np

from homl_models.errors import UserError


def _code_points(text):
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int32)


def encode(text, vocabulary):
    """Text -> ids (t,) int32. Raises `UserError` at the first character that the vocabulary lacks."""
    known = _code_points(vocabulary)
    order = np.argsort(known)
    points = _code_points(text)
    ids = order[np.searchsorted(known, points, sorter=order).clip(max=len(known) - 1)].astype(np.int32)
    unknown = np.flatnonzero(known[ids] != points)
    if unknown.size:
        i = int(unknown[0])
        raise UserError(
            f"character {text[i]!r} (U+{points[i]:04X}, at position {i}) is not among the "
            f"{len(vocabulary)} the model knows: {''.join(sorted(vocabulary))!r}; replace or drop it"
        )
    return ids


def decode(ids, vocabulary):
    """Ids (t,) -> text; negative ids (padding) are dropped."""
    return "".join(vocabulary[i] for i in ids if i >= 0)


def pad(sequences, width):
    """Ids of several texts -> (b, width) int32 with zeros at the right, and lengths (b,) int32."""
    ids = np.zeros((len(sequences), width), np.int32)
    for row, sequence in zip(ids, sequences):
        row[: len(sequence)] = sequence
    return ids, np.array([len(s) for s in sequences], np.int32)


def replacement(vocabulary):
    """What stands for unknown characters in a SavedModel: the space, or else the first character."""
    return " " if " " in vocabulary else vocabulary[0]


def tf_encode(texts, vocabulary, lowercase=False):
    """Strings (b,) in a graph -> ids (b, t >= 1) with zeros at the right, and lengths (b,).

    An unknown character becomes `replacement(vocabulary)`.
    """
    import tensorflow as tf

    known = _code_points(vocabulary)
    order = np.argsort(known)
    if lowercase:
        texts = tf.strings.lower(texts, encoding="utf-8")
    points = tf.strings.unicode_decode(texts, "UTF-8")
    flat = points.flat_values
    place = tf.minimum(tf.searchsorted(known[order], flat), len(known) - 1)
    found = tf.gather(known[order], place) == flat
    ids = tf.where(found, tf.gather(order.astype(np.int32), place), vocabulary.index(replacement(vocabulary)))
    ids = points.with_flat_values(ids).to_tensor()
    ids = tf.pad(ids, [[0, 0], [0, tf.cast(tf.shape(ids)[1] == 0, tf.int32)]])  # a column even for empty texts
    return ids, tf.cast(points.row_lengths(), tf.int32)


def tf_decode(ids, vocabulary):
    """Ids (b, t) in a graph -> strings (b,); negative ids (padding) are dropped."""
    import tensorflow as tf

    characters = tf.gather(tf.constant(list(vocabulary)), tf.maximum(ids, 0))
    return tf.strings.reduce_join(tf.where(ids >= 0, characters, ""), axis=-1)
