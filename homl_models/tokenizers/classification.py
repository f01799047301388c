"""Tokenizers of classifiers: words, n-grams of words, or characters.

Ids are those of `keras.layers.TextVectorization`: 0 for padding, 1 for unknown tokens, then the tokens from the most
frequent to the least. HTML's line breaks are spaces. Shapes: b texts.
"""

import collections

import numpy as np

from homl_models.tokenizers import characters, words
from homl_models.tokenizers.base import UNKNOWN

SPECIAL = ("", "[UNK]")
CHUNK = 1024  # texts that are counted at a time
LINE_BREAK = r"(?i)<br\s*/?>"


class Words(words.Words):
    """Word tokenizer: lower-cased, without punctuation, split at spaces."""

    special = SPECIAL

    def split(self, texts):
        return split_words(texts)


class Characters(characters.Characters):
    """Character tokenizer: Unicode code points, unchanged."""

    special = SPECIAL


class Ngrams(words.Words):
    """The distinct n-grams of words of each text that the vocabulary has, in the order of their ids.

    Args:
        vocabulary: n-grams, their words joined by spaces.
        n: words of the longest.
    """

    special = SPECIAL

    def __init__(self, vocabulary, n=2):
        super().__init__(vocabulary)
        self.n = n

    def split(self, texts):
        return split_ngrams(texts, self.n)

    def encode(self, texts):
        import tensorflow as tf

        ids = super().encode(texts)
        keys = ids.value_rowids() * len(self.vocabulary) + tf.cast(ids.flat_values, tf.int64)
        keys = tf.sort(tf.unique(tf.boolean_mask(keys, ids.flat_values > UNKNOWN))[0])
        rows, ids_of_rows = keys // len(self.vocabulary), keys % len(self.vocabulary)
        return tf.RaggedTensor.from_value_rowids(tf.cast(ids_of_rows, tf.int32), rows, ids.nrows())


def split_words(texts):
    """Texts (b,) -> words, ragged (b, None); see `words.split_words`."""
    import tensorflow as tf

    return words.split_words(tf.strings.regex_replace(texts, LINE_BREAK, " "))


def split_ngrams(texts, n):
    """Texts (b,) -> their words, pairs of words, ... up to n words, ragged (b, None)."""
    import tensorflow as tf

    return tf.strings.ngrams(split_words(texts), tuple(range(1, n + 1)), separator=" ")


def split_characters(texts):
    """Texts (b,) -> characters, ragged (b, None)."""
    import tensorflow as tf

    return tf.strings.unicode_split(texts, "UTF-8")


def learn(texts, size, split=split_words, distinct=False, min_count=1):
    """Vocabulary of `SPECIAL` and the `size` - 2 most frequent tokens of the texts; ties in alphabetical order.

    Args:
        split: texts (b,) -> tokens, ragged (b, None).
        distinct: count the texts that have a token, not how often they do.
        min_count: of a token that is taken.
    """
    counts = collections.Counter()
    for tokens in _chunks(texts, split):
        counts.update(token for row in tokens for token in (set(row) if distinct else row))
    kept = [token for token, count in counts.items() if count >= min_count and token not in (b"", b"[UNK]")]
    kept.sort(key=lambda token: (-counts[token], token))
    return (*SPECIAL, *(token.decode() for token in kept[: size - len(SPECIAL)]))


def _chunks(texts, split):
    """Yield lists of the tokens of each text, some texts at a time."""
    import tensorflow as tf

    for i in range(0, len(texts), CHUNK):
        ragged = split(tf.constant(texts[i : i + CHUNK]))
        flat, ends = ragged.flat_values.numpy().tolist(), ragged.row_splits.numpy()
        yield [flat[first:last] for first, last in zip(ends, ends[1:])]


def encode(texts, tokenizer):
    """Texts -> ids of all texts in a row (m,) int32, and where each begins, and the last ends (n + 1,) int64."""
    import tensorflow as tf

    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for i in range(0, len(texts), CHUNK):
        ragged = tokenizer.encode(tf.constant(texts[i : i + CHUNK]))
        ids.append(ragged.flat_values.numpy())
        lengths.append(ragged.row_lengths().numpy())
    return np.concatenate(ids), np.cumsum(np.concatenate(lengths))
