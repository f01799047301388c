"""Base class of tokenizers in TensorFlow operations: texts to token ids and back.

The same graph serves the pipelines, the Python API and the SavedModel, which needs no custom operation and no lookup
table: a vocabulary is a sorted constant of 62-bit hashes.
Shapes: b texts, t tokens.
"""

import functools

import numpy as np

from homl_models.errors import UserError

PAD, UNKNOWN, START, END = range(4)
SPECIAL = ("", "[UNK]", "[START]", "[END]")


class Tokenizer:
    """Tokenizer: texts (b,) <-> ids of a vocabulary that begins with `special`, by default `SPECIAL`.

    Args:
        vocabulary: distinct strings; the id of a token is its position.
    """

    special = SPECIAL

    def __init__(self, vocabulary):
        if tuple(vocabulary[: len(self.special)]) != self.special or len(set(vocabulary)) != len(vocabulary):
            raise UserError(f"a vocabulary begins with {self.special} and holds each token once")
        self.vocabulary = tuple(vocabulary)

    @functools.cached_property
    def _hashes(self):
        """Sorted hashes of the vocabulary, and their token ids."""
        import tensorflow as tf

        with tf.init_scope():
            hashes = _hash(tf.constant(self.vocabulary)).numpy()
        order = np.argsort(hashes)
        return hashes[order], order.astype(np.int32)

    def ids(self, tokens):
        """Look up tokens: strings of any shape -> ids, `UNKNOWN` for strings that are not in the vocabulary."""
        import tensorflow as tf

        hashes, ids = self._hashes
        query = _hash(tokens)
        index = tf.minimum(tf.searchsorted(hashes, tf.reshape(query, [-1])), len(hashes) - 1)
        index = tf.reshape(index, tf.shape(query))
        return tf.where(tf.gather(hashes, index) == query, tf.gather(ids, index), UNKNOWN)

    def encode(self, texts):
        """Tokenize: texts (b,) -> ids, a ragged tensor (b, None), without `START` and `END`."""
        tokens = self.split(texts)
        return tokens.with_flat_values(self.ids(tokens.flat_values))

    def tokens(self, ids):
        """Ids of any shape -> tokens as strings."""
        import tensorflow as tf

        return tf.gather(tf.constant(self.vocabulary), ids)

    def decode(self, ids):
        """Detokenize: ids (b, t) -> texts (b,), without padding, start and end."""
        import tensorflow as tf

        kept = tf.ragged.boolean_mask(ids, (ids > PAD) & (ids != START) & (ids != END))
        tokens = kept.with_flat_values(self.tokens(kept.flat_values))
        return self.join(tf.strings.reduce_join(tokens, axis=-1, separator=self.separator))

    separator = ""

    def split(self, texts):
        """Split texts (b,) into tokens: strings, ragged (b, None)."""
        raise NotImplementedError

    def join(self, joined):
        """Postprocess joined tokens (b,) -> texts (b,)."""
        return joined


def _hash(strings):
    import tensorflow as tf

    return tf.strings.to_hash_bucket_fast(strings, 2**62)


def is_blank(texts):
    """Whether texts (b,) are empty or only whitespace, as `str.isspace` has it."""
    import tensorflow as tf

    return tf.strings.regex_full_match(texts, r"[\s\v\x1c-\x1f\x{85}\p{Z}]*")
