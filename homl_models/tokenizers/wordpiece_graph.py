"""BERT's WordPiece in a TensorFlow graph, equal to `wordpiece.WordPiece` token by token and offset by offset.

The cleaning is a look-up in the Unicode table of `basic_tokenizer.py`; `tensorflow_text.FastWordpieceTokenizer` cuts
words into pieces. `tensorflow_text.FastBertTokenizer`, which does both, cannot take its place: in a comparison with
`tokenizers` on 1,285 texts of every Unicode block it gave other ids for 205 and other offsets for 105 more, and other
ids for 6 of 300 film reviews (it makes ß "ss" and drops ´, keeps control characters and private use as [UNK], knows
newer Unicode). It has no special tokens within a text, nor settings for accents alone and for Chinese characters.
Shapes: b texts, t tokens, n characters of a batch.
"""

import functools
import itertools
import re

import numpy as np

from homl_models.errors import UserError
from homl_models.tokenizers.basic_tokenizer import CLOSE, OPEN, PAGE, PRIVATE, REMOVED, SPACE, unicode_table
from homl_models.tokenizers.wordpiece_rows import (
    ADDED,
    PADDING,
    added_tokens,
    check_room,
    check_windows,
    named,
    owned_tokens,
    truncated_lengths,
)

INNER = "pucsm"  # of each special token, the letter between its ends while a text is cut, as often as keeps its length


def tensorflow_text():
    """The package of that name; `UserError` where it is not installed."""
    try:
        import tensorflow_text
    except ImportError:
        raise UserError('tensorflow-text is not installed: pip install "homl_models[text]"') from None
    return tensorflow_text


class GraphWordPiece:
    """String tensors (b,) <-> ids: `WordPiece.tf_encode`, `tf_windows` and `tf_decode`.

    Args:
        tokenizer: the `wordpiece.WordPiece` to be equal to.
        settings: (lowercase, strip_accents, tokenize_chinese_chars), of `basic_tokenizer.unicode_table`.
        max_word_length: characters; a longer word is [UNK].
        clean_up: strings that lose the spaces around them in a decoded text.
    """

    def __init__(self, tokenizer, settings, max_word_length, clean_up):
        self.tokenizer, self.settings = tokenizer, settings
        self.max_word_length, self.clean_up = max_word_length, clean_up

    def encode(self, texts, pairs, max_length, offsets):
        import tensorflow as tf

        segments = [self.tokens(part, kind) for kind, part in enumerate([texts] if pairs is None else [texts, pairs])]
        check_room(max_length, len(segments))
        if max_length is not None:
            lengths = [tokens.row_lengths() for tokens in segments]
            limits = truncated_lengths(tf, lengths, max_length - 1 - len(segments))
            segments = [_first(tokens, limit) for tokens, limit in zip(segments, limits)]
        return named(self.packed(segments), offsets)

    def windows(self, texts, pairs, max_length, doc_stride):
        import tensorflow as tf

        check_windows(max_length)
        text, pair = self.tokens(texts, 0), self.tokens(pairs, 1)
        sizes = tf.minimum(text.row_lengths(), max(1, max_length // 2 - 2))
        room = max_length - 3 - sizes  # for tokens of the pair, (b,)
        spans, _, sample = _windows(pair, room, tf.maximum(room - doc_stride, 1))
        columns = self.packed([tf.gather(_first(text, sizes), sample), spans])
        return named(columns, True) | {"overflow_to_sample_mapping": sample}

    def text_windows(self, texts, max_length, doc_stride):
        import tensorflow as tf

        check_windows(max_length, 1)
        tokens, room = self.tokens(texts, 0), max_length - 2
        step = max(1, room - doc_stride)
        rows = tf.ones_like(tokens.row_lengths())
        spans, number, sample = _windows(tokens, room * rows, step * rows)
        columns = self.packed([spans])
        last = tf.math.unsorted_segment_max(number, sample, tf.size(rows))
        ends = number == 0, number == tf.gather(last, sample)
        sizes, places = tf.cast(spans.row_lengths(), tf.int32), tf.range(tf.shape(columns)[1]) - 1
        owned = owned_tokens(tf, *ends, sizes, places, room - step)
        more = {"is_owned": tf.cast(owned, tf.int32), "overflow_to_sample_mapping": sample}
        return named(columns, True) | more

    def packed(self, segments):
        """Ragged tokens (b, None, 6) of each segment -> (b, t, 6), with special tokens and padding."""
        import tensorflow as tf

        shape = [segments[0].nrows(), 1, 1]
        special = added_tokens(self.tokenizer.cls, self.tokenizer.sep, len(segments))
        added = [tf.tile([[[token, kind, *ADDED]]], shape) for token, kind in special]
        columns = tf.concat([added[0], *itertools.chain(*zip(segments, added[1:]))], axis=1)
        return columns.to_tensor(tf.constant([self.tokenizer.pad, *PADDING]))

    def decode(self, ids, skip_special):
        import tensorflow as tf

        first, later, special, is_id = self._strings
        ids = tf.ragged.boolean_mask(ids, tf.gather(is_id & ~special if skip_special else is_id, ids))
        strings = tf.concat([tf.gather(first, ids[:, :1]), tf.gather(later, ids[:, 1:])], axis=1)
        texts = tf.strings.reduce_join(strings, axis=-1)
        for end in self.clean_up:
            texts = tf.strings.regex_replace(texts, re.escape(end), end.strip())
        return texts

    @property
    def _is_id(self):
        """Whether an index of the vocabulary is the id of its token (v,): not where the token comes again later."""
        ids = self.tokenizer.ids
        return np.array([ids.get(token) == i for i, token in enumerate(self.tokenizer.vocabulary)])

    @functools.cached_property
    def _strings(self):
        """Each token as a text begins with it, as a text continues; whether it is special; `_is_id`."""
        vocabulary, join = self.tokenizer.vocabulary, self.tokenizer.join
        first = np.array([join([token]) for token in vocabulary], object)
        later = np.array([join(["", token]) for token in vocabulary], object)
        return first, later, np.isin(np.array(vocabulary), self.tokenizer.special_names), self._is_id

    # Texts -> tokens.

    def tokens(self, texts, kind):
        """Texts (b,) -> ragged (b, None, 6), the columns of `wordpiece_rows`. kind: the token type."""
        import tensorflow as tf

        characters, source, row = self._clean(texts)
        inside = characters != SPACE
        goes_on = tf.concat([[False], inside[:-1] & (row[:-1] == row[1:])], 0)[: tf.size(row)]
        begins = tf.boolean_mask(inside & ~goes_on, inside)
        characters, source, row = (tf.boolean_mask(x, inside) for x in (characters, source, row))
        word = tf.cumsum(tf.cast(begins, tf.int32)) - 1
        ids, end, size = self._cut(tf.RaggedTensor.from_value_rowids(characters, word))
        start = end - size
        batch = tf.shape(texts, tf.int64)[0]
        words = tf.RaggedTensor.from_value_rowids(tf.boolean_mask(word, begins), tf.boolean_mask(row, begins), batch)
        row = tf.gather(row, start)
        word_ids = tf.gather(word, start) - tf.cast(tf.gather(words.row_starts(), row), tf.int32)
        columns = [ids, tf.fill(tf.shape(ids), kind), tf.ones_like(ids)]
        columns += [tf.gather(source, start), tf.gather(source, end - 1) + 1, word_ids]
        return tf.RaggedTensor.from_value_rowids(tf.stack(columns, axis=1), row, batch)

    def _cut(self, words):
        """Words as code points (words, None) -> ids of their pieces, ends in all the characters, sizes: (tokens,)."""
        import tensorflow as tf

        cutter, sizes = self._cutter
        lengths = tf.cast(words.row_lengths(), tf.int32)
        words = tf.strings.unicode_encode(words, "UTF-8")
        pieces = cutter.tokenize(tf.where(lengths > self.max_word_length, self._placeholder(1), words))
        ids = pieces.flat_values
        unknown = ids == self.tokenizer.unknown
        size = tf.where(unknown, tf.gather(lengths, pieces.value_rowids()), tf.gather(sizes, ids))
        return ids, tf.cumsum(size), size

    @functools.cached_property
    def _cutter(self):
        """`FastWordpieceTokenizer` of the vocabulary, and the number of characters that each token covers (v,)."""
        import tensorflow as tf

        special = {name: self._placeholder(i) for i, name in enumerate(self.tokenizer.special_names)}
        tokens = [
            special.get(token, token) if is_id else f"{PRIVATE}{i}"  # which is in no text
            for i, (token, is_id) in enumerate(zip(self.tokenizer.vocabulary, self._is_id))
        ]
        sizes = np.array([len(token.removeprefix("##")) for token in tokens], np.int32)
        with tf.init_scope():
            settings = {"unknown_token": self._placeholder(1), "max_bytes_per_word": 4 * self.max_word_length}
            settings |= {"token_out_type": tf.int32, "no_pretokenization": True}
            return tensorflow_text().FastWordpieceTokenizer(tokens, **settings), sizes

    def _placeholder(self, i):
        """Special token i while a text is cut: a word that the cleaning keeps whole, of as many characters."""
        return f"{OPEN}{INNER[i] * (len(self.tokenizer.special_names[i]) - 2)}{CLOSE}"

    def _clean(self, texts):
        """Texts (b,) -> code points with `SPACE` between words, the character each comes from, its text: (n,) each."""
        import tensorflow as tf

        page, table = unicode_table(*self.settings)
        texts = tf.strings.regex_replace(texts, f"[{OPEN}{CLOSE}]", PRIVATE)
        for i, token in enumerate(self.tokenizer.special_names if self.tokenizer.special_tokens else ()):
            texts = tf.strings.regex_replace(texts, re.escape(token), self._placeholder(i))
        texts = tf.strings.unicode_decode(texts, "UTF-8")  # (b, None)
        row, source, codes = texts.value_rowids(), tf.ragged.range(texts.row_lengths()).flat_values, texts.flat_values
        found = tf.gather_nd(table, tf.stack([tf.gather(page, codes // PAGE), codes % PAGE], axis=1))  # (n, 2, 3)
        characters, order = found[:, 0], found[:, 1]
        characters = tf.where(characters < REMOVED, characters + codes[:, None], characters)
        move = tf.reduce_any(order > 0)
        characters, owner = tf.cond(move, lambda: _reordered(characters, order, row), lambda: _kept(characters))
        return characters, tf.gather(tf.cast(source, tf.int32), owner), tf.gather(row, owner)


def _windows(tokens, room, step):
    """Ragged (b, None, 6) -> windows of at most `room` (b,) tokens, `step` (b,) apart, their numbers and texts (w,)."""
    import tensorflow as tf

    counts = 1 + tf.maximum(tokens.row_lengths() - room + step - 1, 0) // step
    sample = tf.repeat(tf.range(tf.size(counts)), counts)
    number = tf.ragged.range(counts).flat_values
    first = number * tf.gather(step, sample)
    last = tf.minimum(first + tf.gather(room, sample), tf.gather(tokens.row_lengths(), sample))
    start = tf.gather(tokens.row_starts(), sample)
    index = tf.ragged.range(start + first, start + last)
    spans = tf.RaggedTensor.from_row_lengths(tf.gather(tokens.values, index.flat_values), index.row_lengths())
    return spans, number, sample


def _first(tokens, limits):
    """Ragged (b, None, 6) -> the first `limits` (b,) tokens of each row."""
    import tensorflow as tf

    return tf.ragged.boolean_mask(tokens, tf.ragged.range(tokens.row_lengths()) < limits[:, None])


def _kept(characters):
    """Characters (n, 3) without those that are removed (m,), and the index of their source (m,)."""
    import tensorflow as tf

    place = tf.where(characters != REMOVED)
    return tf.gather_nd(characters, place), place[:, 0]


def _reordered(characters, order, row):
    """`_kept` after canonical ordering: marks sorted by combining class, as in NFD (Unicode, annex 15).

    As in the library, the source of a character is found by counting, so a mark that moves takes another's place.
    """
    import tensorflow as tf

    place = tf.where(order >= 0)
    characters, order, owner = tf.gather_nd(characters, place), tf.gather_nd(order, place), place[:, 0]
    run = tf.cumsum(tf.cast(order == 0, tf.int64)) + tf.gather(row, owner)
    moved = tf.argsort(run * PAGE + tf.cast(order, tf.int64), stable=True)
    first = place[:, 1] == 0
    count = tf.cumsum(tf.cast(tf.gather(first, moved), tf.int64)) - 1
    characters, owner = tf.gather(characters, moved), tf.gather(tf.boolean_mask(owner, first), count)
    kept = characters != REMOVED
    return tf.boolean_mask(characters, kept), tf.boolean_mask(owner, kept)
