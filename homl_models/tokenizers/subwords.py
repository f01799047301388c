"""Subword tokenizer: lossless, with case, accents and punctuation.

A piece is a substring of the text, with the space before a word written as "▁" (as SentencePiece does, Kudo &
Richardson, 2018, https://arxiv.org/abs/1808.06226). Words are segmented by greedy longest match from the left
(WordPiece; Wu et al., 2016, https://arxiv.org/abs/1609.08144). The vocabulary is learned by byte-pair merging in the
library `tokenizers`. Shapes: b texts, n chunks.
"""

import collections

from homl_models.errors import UserError
from homl_models.tokenizers.base import SPECIAL, UNKNOWN, Tokenizer

SPACE = "▁"
CHUNK = rf"{SPACE}?[\p{{L}}\p{{M}}\p{{N}}]+|{SPACE}?[^{SPACE}\p{{L}}\p{{M}}\p{{N}}]|{SPACE}"
MAX_PIECE_LENGTH = 20  # characters


class Subwords(Tokenizer):
    """Subword tokenizer by greedy longest match; decoding is exact, except for runs of spaces."""

    def split(self, texts):
        import tensorflow as tf

        chunks = split_chunks(texts)
        unique, index = tf.unique(chunks.flat_values)
        pieces = tf.gather(self.longest_match(unique), index)  # (chunks, None)
        return chunks.with_flat_values(pieces).merge_dims(1, 2)

    def longest_match(self, chunks):
        """Greedy longest match: chunks (n,) -> pieces, ragged (n, None); an unknown character is a piece."""
        import tensorflow as tf

        sizes = tf.range(1, MAX_PIECE_LENGTH + 1)
        lengths = tf.strings.length(chunks, unit="UTF8_CHAR")

        def longest(start):
            """Length of the longest piece from position `start` (n,) -> (n,)."""
            size = tf.broadcast_to(sizes, [tf.size(start), MAX_PIECE_LENGTH])
            first = tf.broadcast_to(start[:, None], tf.shape(size))
            prefix = tf.strings.substr(tf.broadcast_to(chunks[:, None], tf.shape(size)), first, size, unit="UTF8_CHAR")
            known = (self.ids(prefix) != UNKNOWN) & (start[:, None] + sizes <= lengths[:, None])
            return tf.reduce_max(tf.where(known, sizes, 1), axis=1)

        def match(i, start, ends):
            unfinished = start < lengths
            start = tf.where(unfinished, start + longest(tf.where(unfinished, start, 0)), start)
            return i + 1, start, ends.write(i, start)

        steps = tf.reduce_max(tf.concat([lengths, [0]], 0))
        ends = tf.TensorArray(tf.int32, 0, dynamic_size=True, element_shape=[None])
        ends = ends.write(0, tf.zeros_like(lengths))
        _, _, ends = tf.while_loop(
            lambda i, start, ends: (i <= steps) & tf.reduce_any(start < lengths),
            match,
            (tf.constant(1), tf.zeros_like(lengths), ends),
        )
        ends = tf.transpose(ends.stack())  # (n, pieces + 1), the last one repeated
        begin, size = ends[:, :-1], ends[:, 1:] - ends[:, :-1]
        keep = size > 0
        text = tf.broadcast_to(chunks[:, None], tf.shape(size))
        flat = tf.strings.substr(text[keep], begin[keep], size[keep], unit="UTF8_CHAR")
        return tf.RaggedTensor.from_row_lengths(flat, tf.reduce_sum(tf.cast(keep, tf.int64), axis=1))

    def join(self, joined):
        import tensorflow as tf

        return tf.strings.strip(tf.strings.regex_replace(joined, SPACE, " "))


def split_chunks(texts):
    """Pre-tokenize: texts (b,) -> words and other single characters, each with "▁" for a space before it, ragged."""
    import tensorflow as tf

    texts = tf.strings.regex_replace(tf.strings.join([SPACE, texts]), rf"[\s\p{{Z}}{SPACE}]+", SPACE)
    texts = tf.strings.regex_replace(texts, f"{SPACE}$", "")
    return tf.strings.split(tf.strings.regex_replace(texts, f"({CHUNK})", "\\1\n"), "\n")[:, :-1]


def learn_subwords(texts, size):
    """Vocabulary of at most `size` pieces, learned by byte-pair merging of the chunks (Sennrich et al., 2015)."""
    import tokenizers

    counts = collections.Counter(split_chunks(texts).flat_values.numpy().tolist())
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL), show_progress=False, max_token_length=MAX_PIECE_LENGTH
    )
    learner.train_from_iterator((chunk.decode() for chunk in counts.elements()), trainer)
    pieces = learner.get_vocab()
    if len(pieces) > size - len(SPECIAL):  # BPE keeps every character
        raise UserError(
            f"the texts have {len(pieces)} different characters; a vocabulary of {size} has no room for them"
        )
    return (*SPECIAL, *sorted(pieces, key=pieces.get))
