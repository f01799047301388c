"""Texts to token ids and back: words, subwords or characters, in TensorFlow operations alone.

The same graph serves the pipelines, the Python API and the SavedModel, which needs no
custom operation and no lookup table: a vocabulary is a sorted constant of 62-bit hashes.
Subwords keep case, accents and punctuation and come back exactly: a piece is a substring
of the text, with the space before a word written as "▁" (as SentencePiece does, Kudo &
Richardson, 2018, https://arxiv.org/abs/1808.06226), and a word is cut from the left into
the longest pieces of the vocabulary (WordPiece; Wu et al., 2016,
https://arxiv.org/abs/1609.08144). The vocabulary is learned by the library `tokenizers`.
Shapes: b texts, t tokens.
"""

import collections
import functools

import numpy as np

from homl_models.errors import UserError
from homl_models.text import tf_lower

PAD, UNKNOWN, START, END = range(4)
SPECIAL = ("", "[UNK]", "[START]", "[END]")
SPACE = "▁"
CHUNK = rf"{SPACE}?[\p{{L}}\p{{M}}\p{{N}}]+|{SPACE}?[^{SPACE}\p{{L}}\p{{M}}\p{{N}}]|{SPACE}"
LONGEST = 20  # characters of a piece


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


class Words(Tokenizer):
    """The book's words: lower-cased, without punctuation and ¡¿, split at spaces."""

    separator = " "

    def split(self, texts):
        return split_words(texts)


class Characters(Tokenizer):
    """Unicode characters as they are."""

    def split(self, texts):
        import tensorflow as tf

        return tf.strings.unicode_split(texts, "UTF-8")


class Subwords(Tokenizer):
    """The longest pieces of a learned vocabulary; texts come back exactly, but for runs of spaces."""

    def split(self, texts):
        import tensorflow as tf

        chunks = split_chunks(texts)
        unique, where = tf.unique(chunks.flat_values)
        pieces = tf.gather(self.cut(unique), where)  # (chunks, None)
        return chunks.with_flat_values(pieces).merge_dims(1, 2)

    def cut(self, chunks):
        """Chunks (n,) -> their longest pieces from the left, ragged (n, None); an unknown character is a piece."""
        import tensorflow as tf

        sizes = tf.range(1, LONGEST + 1)
        lengths = tf.strings.length(chunks, unit="UTF8_CHAR")

        def longest(start):
            """Characters in the longest piece that begins at `start` (n,) -> (n,)."""
            size = tf.broadcast_to(sizes, [tf.size(start), LONGEST])
            first = tf.broadcast_to(start[:, None], tf.shape(size))
            heads = tf.strings.substr(tf.broadcast_to(chunks[:, None], tf.shape(size)), first, size, unit="UTF8_CHAR")
            known = (self.ids(heads) != UNKNOWN) & (start[:, None] + sizes <= lengths[:, None])
            return tf.reduce_max(tf.where(known, sizes, 1), axis=1)

        def one(i, start, ends):
            inside = start < lengths
            start = tf.where(inside, start + longest(tf.where(inside, start, 0)), start)
            return i + 1, start, ends.write(i, start)

        steps = tf.reduce_max(tf.concat([lengths, [0]], 0))
        ends = tf.TensorArray(tf.int32, 0, dynamic_size=True, element_shape=[None])
        ends = ends.write(0, tf.zeros_like(lengths))
        _, _, ends = tf.while_loop(
            lambda i, start, ends: (i <= steps) & tf.reduce_any(start < lengths),
            one,
            (tf.constant(1), tf.zeros_like(lengths), ends),
        )
        ends = tf.transpose(ends.stack())  # (n, cuts + 1), the last one repeated
        begin, size = ends[:, :-1], ends[:, 1:] - ends[:, :-1]
        keep = size > 0
        text = tf.broadcast_to(chunks[:, None], tf.shape(size))
        flat = tf.strings.substr(text[keep], begin[keep], size[keep], unit="UTF8_CHAR")
        return tf.RaggedTensor.from_row_lengths(flat, tf.reduce_sum(tf.cast(keep, tf.int64), axis=1))

    def join(self, joined):
        import tensorflow as tf

        return tf.strings.strip(tf.strings.regex_replace(joined, SPACE, " "))


TOKENIZERS = {"words": Words, "subwords": Subwords, "characters": Characters}


def _hash(strings):
    import tensorflow as tf

    return tf.strings.to_hash_bucket_fast(strings, 2**62)


def is_blank(texts):
    """Whether texts (b,) are empty or hold nothing but spaces, of any kind that `str.isspace` knows."""
    import tensorflow as tf

    return tf.strings.regex_full_match(texts, r"[\s\v\x1c-\x1f\x{85}\p{Z}]*")


def split_words(texts):
    """Texts (b,) -> the book's words, ragged (b, None)."""
    import tensorflow as tf

    texts = tf.strings.regex_replace(tf_lower(texts), r"""[!-/:-@\[-`{-~¡¿]""", "")
    return tf.strings.split(texts)


def split_chunks(texts):
    """Texts (b,) -> words and single other characters, each with the "▁" of the space before it, ragged (b, None)."""
    import tensorflow as tf

    texts = tf.strings.regex_replace(tf.strings.join([SPACE, texts]), rf"[\s\p{{Z}}{SPACE}]+", SPACE)
    texts = tf.strings.regex_replace(texts, f"{SPACE}$", "")
    return tf.strings.split(tf.strings.regex_replace(texts, f"({CHUNK})", "\\1\n"), "\n")[:, :-1]


# Learning a vocabulary.


def learn_words(texts, size):
    """The `size` - 4 most frequent words of the texts after `SPECIAL`; ties in order of the alphabet."""
    counts = collections.Counter(split_words(texts).flat_values.numpy().tolist())
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return (*SPECIAL, *(word.decode() for word in ordered[: size - len(SPECIAL)]))


def learn_characters(texts):
    """Every character of the texts after `SPECIAL`, in the order of their code points."""
    return (*SPECIAL, *sorted(set("".join(texts))))


def learn_subwords(texts, size):
    """A vocabulary of at most `size` pieces, learned by byte-pair merging of the chunks (Sennrich et al., 2015)."""
    import tokenizers

    counts = collections.Counter(split_chunks(texts).flat_values.numpy().tolist())
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL), show_progress=False, max_token_length=LONGEST
    )
    learner.train_from_iterator((chunk.decode() for chunk in counts.elements()), trainer)
    pieces = learner.get_vocab()
    if len(pieces) > size - len(SPECIAL):  # it keeps every character
        raise UserError(
            f"the texts have {len(pieces)} different characters; a vocabulary of {size} has no room for them"
        )
    return (*SPECIAL, *sorted(pieces, key=pieces.get))
