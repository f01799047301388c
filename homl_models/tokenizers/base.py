"""Tokenizers of whole graphs: texts to token ids and back in TensorFlow operations alone.

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
    """Texts (b,) <-> ids of a vocabulary that begins with `SPECIAL`.

    vocabulary: strings, each once; the id of a token is its place.
    """

    def __init__(self, vocabulary):
        if tuple(vocabulary[: len(SPECIAL)]) != SPECIAL or len(set(vocabulary)) != len(vocabulary):
            raise UserError(f"a vocabulary begins with {SPECIAL} and holds each token once")
        self.vocabulary = tuple(vocabulary)

    @functools.cached_property
    def _hashes(self):
        """Sorted hashes of the vocabulary and the ids that they belong to."""
        import tensorflow as tf

        with tf.init_scope():
            hashes = _hash(tf.constant(self.vocabulary)).numpy()
        order = np.argsort(hashes)
        return hashes[order], order.astype(np.int32)

    def ids(self, tokens):
        """Strings of any shape -> their ids, `UNKNOWN` for those that are not in the vocabulary."""
        import tensorflow as tf

        hashes, order = self._hashes
        wanted = _hash(tokens)
        place = tf.minimum(tf.searchsorted(hashes, tf.reshape(wanted, [-1])), len(hashes) - 1)
        place = tf.reshape(place, tf.shape(wanted))
        return tf.where(tf.gather(hashes, place) == wanted, tf.gather(order, place), UNKNOWN)

    def encode(self, texts):
        """Texts (b,) -> ids, a ragged tensor (b, None), without `START` and `END`."""
        tokens = self.split(texts)
        return tokens.with_flat_values(self.ids(tokens.flat_values))

    def tokens(self, ids):
        """Ids of any shape -> the tokens as strings."""
        import tensorflow as tf

        return tf.gather(tf.constant(self.vocabulary), ids)

    def decode(self, ids):
        """Ids (b, t) -> texts (b,); what stands for nothing (padding, start, end) is left out."""
        import tensorflow as tf

        kept = tf.ragged.boolean_mask(ids, (ids > PAD) & (ids != START) & (ids != END))
        tokens = kept.with_flat_values(self.tokens(kept.flat_values))
        return self.join(tf.strings.reduce_join(tokens, axis=-1, separator=self.separator))

    separator = ""

    def split(self, texts):
        """Texts (b,) -> tokens as strings, ragged (b, None)."""
        raise NotImplementedError

    def join(self, joined):
        """Joined tokens (b,) -> texts (b,)."""
        return joined


def _hash(strings):
    import tensorflow as tf

    return tf.strings.to_hash_bucket_fast(strings, 2**62)


def is_blank(texts):
    """Whether texts (b,) are empty or hold nothing but spaces, of any kind that `str.isspace` knows."""
    import tensorflow as tf

    return tf.strings.regex_full_match(texts, r"[\s\v\x1c-\x1f\x{85}\p{Z}]*")
