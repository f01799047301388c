"""Characters: texts to ids and back, in Python and in a TensorFlow graph.

For character RNNs a vocabulary is a string of distinct characters; the id of a character is its place in it. For
translation, `Characters` is a tokenizer beside words and subwords.
"""

import numpy as np

from homl_models.errors import UserError
from homl_models.tokenizers.base import SPECIAL, Tokenizer

DOTTED = "İÌÍĨĮ"


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


def tf_lower(texts):
    """Strings of any shape in a graph -> the same in small letters, in every locale.

    `tf.strings.lower` follows the locale of the process: I and İ in Turkish and Azeri, I, J and those with accents in
    Lithuanian. These are small before it sees them. It knows the letters of Unicode 13 (TensorFlow 2.21); 40 of
    Unicode 14 (Vithkuqi, Glagolitic and Latin Extended-D) stay as they are, where `str.lower` has small ones.
    """
    import tensorflow as tf

    texts = tf.strings.lower(texts)  # of ASCII, byte by byte
    for letter in DOTTED:
        texts = tf.strings.regex_replace(texts, letter, letter.lower())
    return tf.strings.lower(texts, encoding="utf-8")


def tf_encode(texts, vocabulary, lowercase=False):
    """Strings (b,) in a graph -> ids (b, t >= 1) with zeros at the right, and lengths (b,).

    An unknown character becomes `replacement(vocabulary)`.
    """
    import tensorflow as tf

    ids, _ = _tf_ids(texts, vocabulary, lowercase)
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    ids = ids.to_tensor()
    return tf.pad(ids, [[0, 0], [0, tf.cast(tf.shape(ids)[1] == 0, tf.int32)]]), lengths  # a column even for none


def tf_is_known(texts, vocabulary, lowercase=False):
    """Strings (b,) in a graph -> whether the vocabulary has all of their characters."""
    import tensorflow as tf

    return tf.reduce_all(_tf_ids(texts, vocabulary, lowercase)[1])


def _tf_ids(texts, vocabulary, lowercase):
    """Ids, ragged (b, None), and for each in turn whether its character is in the vocabulary."""
    import tensorflow as tf

    known = _code_points(vocabulary)
    order = np.argsort(known)
    points = tf.strings.unicode_decode(tf_lower(texts) if lowercase else texts, "UTF-8")
    flat = points.flat_values
    place = tf.minimum(tf.searchsorted(known[order], flat), len(known) - 1)
    found = tf.gather(known[order], place) == flat
    ids = tf.where(found, tf.gather(order.astype(np.int32), place), vocabulary.index(replacement(vocabulary)))
    return points.with_flat_values(ids), found


def tf_occurrences(texts):
    """Strings (b,) in a graph -> how many of those before each are the same, (b,)."""
    import tensorflow as tf

    _, group = tf.unique(texts)
    order = tf.argsort(group, stable=True)
    ordered = tf.gather(group, order)
    before = tf.range(tf.size(group)) - tf.searchsorted(ordered, ordered)
    return tf.scatter_nd(order[:, None], before, tf.shape(group))


def tf_decode(ids, vocabulary):
    """Ids (b, t) in a graph -> strings (b,); negative ids (padding) are dropped."""
    import tensorflow as tf

    characters = tf.gather(tf.constant(list(vocabulary)), tf.maximum(ids, 0))
    return tf.strings.reduce_join(tf.where(ids >= 0, characters, ""), axis=-1)


class Characters(Tokenizer):
    """Unicode characters as they are."""

    def split(self, texts):
        import tensorflow as tf

        return tf.strings.unicode_split(texts, "UTF-8")


def learn_characters(texts):
    """Every character of the texts after `SPECIAL`, in the order of their code points."""
    return (*SPECIAL, *sorted(set("".join(texts))))
