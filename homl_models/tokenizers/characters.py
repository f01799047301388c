"""Character tokenizers, in Python and in a TensorFlow graph.

For character RNNs a vocabulary is a string of distinct characters; the id of a character is its position in it. For
translation `Characters` is a tokenizer like words and subwords.
"""

import numpy as np

from homl_models.errors import UserError
from homl_models.tokenizers.base import SPECIAL, Tokenizer

DOTTED_CAPITALS = "İÌÍĨĮ"


def _code_points(text):
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int32)


def encode(text, vocabulary):
    """Text -> ids (t,) int32. `UserError` for the first character that is not in the vocabulary."""
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
    """Ids (t,) -> text; negative ids (padding) are skipped."""
    return "".join(vocabulary[i] for i in ids if i >= 0)


def pad(sequences, width):
    """Pad ids of several texts -> (b, width) int32 with zeros at the right, and lengths (b,) int32."""
    ids = np.zeros((len(sequences), width), np.int32)
    for row, sequence in zip(ids, sequences):
        row[: len(sequence)] = sequence
    return ids, np.array([len(s) for s in sequences], np.int32)


def replacement(vocabulary):
    """Replacement of unknown characters in a SavedModel: the space, or the first character of the vocabulary."""
    return " " if " " in vocabulary else vocabulary[0]


def tf_lower(texts):
    """Locale-independent lower-casing of strings of any shape in a graph.

    `tf.strings.lower` depends on the locale of the process: I and İ in Turkish and Azeri, I, J and their accented
    forms in Lithuanian. These are lower-cased first. It has the letters of Unicode 13 (TensorFlow 2.21); 40 letters
    of Unicode 14 (Vithkuqi, Glagolitic and Latin Extended-D), which `str.lower` changes, stay as they are.
    """
    import tensorflow as tf

    texts = tf.strings.lower(texts)  # of ASCII, byte by byte
    for letter in DOTTED_CAPITALS:
        texts = tf.strings.regex_replace(texts, letter, letter.lower())
    return tf.strings.lower(texts, encoding="utf-8")


def tf_encode(texts, vocabulary, lowercase=False):
    """`encode` in a graph: strings (b,) -> ids (b, t >= 1) with zeros at the right, and lengths (b,).

    An unknown character becomes `replacement(vocabulary)`.
    """
    import tensorflow as tf

    ids, _ = _tf_ids(texts, vocabulary, lowercase)
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    ids = ids.to_tensor()
    return tf.pad(ids, [[0, 0], [0, tf.cast(tf.shape(ids)[1] == 0, tf.int32)]]), lengths  # at least one column


def tf_is_known(texts, vocabulary, lowercase=False):
    """Whether the vocabulary has all characters of strings (b,), in a graph."""
    import tensorflow as tf

    return tf.reduce_all(_tf_ids(texts, vocabulary, lowercase)[1])


def _tf_ids(texts, vocabulary, lowercase):
    """Ids, ragged (b, None), and for each of their flat values whether the character is in the vocabulary."""
    import tensorflow as tf

    known = _code_points(vocabulary)
    order = np.argsort(known)
    points = tf.strings.unicode_decode(tf_lower(texts) if lowercase else texts, "UTF-8")
    flat = points.flat_values
    index = tf.minimum(tf.searchsorted(known[order], flat), len(known) - 1)
    is_known = tf.gather(known[order], index) == flat
    ids = tf.where(is_known, tf.gather(order.astype(np.int32), index), vocabulary.index(replacement(vocabulary)))
    return points.with_flat_values(ids), is_known


def tf_occurrences(texts):
    """Number of earlier equal strings of each string (b,), in a graph."""
    import tensorflow as tf

    _, group = tf.unique(texts)
    order = tf.argsort(group, stable=True)
    ordered = tf.gather(group, order)
    earlier = tf.range(tf.size(group)) - tf.searchsorted(ordered, ordered)
    return tf.scatter_nd(order[:, None], earlier, tf.shape(group))


def tf_decode(ids, vocabulary):
    """`decode` in a graph: ids (b, t) -> strings (b,); negative ids (padding) are skipped."""
    import tensorflow as tf

    characters = tf.gather(tf.constant(list(vocabulary)), tf.maximum(ids, 0))
    return tf.strings.reduce_join(tf.where(ids >= 0, characters, ""), axis=-1)


class Characters(Tokenizer):
    """Character tokenizer: Unicode code points, unchanged."""

    def split(self, texts):
        import tensorflow as tf

        return tf.strings.unicode_split(texts, "UTF-8")


def learn_characters(texts):
    """Vocabulary of all characters of the texts after `SPECIAL`, in the order of their code points."""
    return (*SPECIAL, *sorted(set("".join(texts))))
