"""Word tokenizer as in the book: lower-cased, without punctuation and ¡¿, split at spaces."""

import collections

from homl_models.tokenizers.base import SPECIAL, Tokenizer
from homl_models.tokenizers.characters import tf_lower


class Words(Tokenizer):
    """Word tokenizer; see `split_words`."""

    separator = " "

    def split(self, texts):
        return split_words(texts)


def split_words(texts):
    """Standardize and split texts (b,) -> words, ragged (b, None)."""
    import tensorflow as tf

    texts = tf.strings.regex_replace(tf_lower(texts), r"""[!-/:-@\[-`{-~¡¿]""", "")
    return tf.strings.split(texts)


def learn_words(texts, size):
    """Vocabulary of the `size` - 4 most frequent words of the texts after `SPECIAL`; ties in alphabetical order."""
    counts = collections.Counter(split_words(texts).flat_values.numpy().tolist())
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return (*SPECIAL, *(word.decode() for word in ordered[: size - len(SPECIAL)]))
