"""Texts as training batches for masked language models (Devlin et al., 2018, https://arxiv.org/abs/1810.04805).

Documents are encoded once, and cut into rows [CLS] A [SEP] B [SEP] or [CLS] text [SEP]. In every batch
some of the tokens are masked, others in each epoch (Liu et al., 2019, https://arxiv.org/abs/1907.11692, section
4.1), as a function of a seed and the step. Shapes: n rows, b batch, t tokens, k masked places.

Deviations from BERT's own data: the segments of a pair are whole sentences, where BERT lets the last one run over
and then cuts; a sentence longer than fits is cut into parts of like size, none of which is lost; each row may be one
of the shorter ones, not each document; and a random token is never a special one.
"""

import bisect
import dataclasses
import random

import numpy as np

from homl_models.errors import UserError
from homl_models.pipelines.random_access import (
    IGNORED,
    RandomAccessDataset,
    batch_indices,
    bucketed,
    length_buckets,
    num_batches,
)
from homl_models.tokenizers.wordpiece import WordPiece

CHUNK = 256  # sentences that are encoded together
ROUNDS = 4  # in which whole words are looked for that still fit


# Encoding.


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Documents as tokens, one after the other.

    ids, words: (tokens,) int32; pieces of a word share its number, special tokens in a text have -1.
    sentences: where in `ids` each begins, and the end; documents: the same in `sentences`.
    """

    ids: np.ndarray
    words: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray
    wordpiece: WordPiece


def encode(documents, wordpiece):
    """Documents, lists of sentences -> `Encoded`, without sentences and documents that have no token."""
    texts = [sentence for document in documents for sentence in document]
    lengths, ids = np.zeros(len(texts), np.int64), []
    order = np.argsort([len(text) for text in texts], kind="stable")  # those of like length leave little padding
    chunks = [order[first : first + CHUNK] for first in range(0, len(texts), CHUNK)]
    for chunk in chunks:
        found = wordpiece.encode([texts[i] for i in chunk])
        ids.append(found["input_ids"][:, 1:])
        lengths[chunk] = found["attention_mask"].sum(axis=1) - 2
    ends = np.cumsum(lengths)
    if not lengths.any():
        raise UserError("the documents hold no words; give some text")
    flat = np.empty(ends[-1], np.int32)
    for chunk, some in zip(chunks, ids):
        row, column = np.nonzero(np.arange(some.shape[1]) < lengths[chunk, None])
        flat[(ends - lengths)[chunk][row] + column] = some[row, column]
    splits = np.cumsum([0, *map(len, documents)])
    kept = np.concatenate([[0], np.cumsum(lengths > 0)])[splits]  # sentences before each document
    return Encoded(flat, _words(flat, wordpiece), np.unique([0, *ends]), np.unique(kept), wordpiece)


def _words(ids, wordpiece):
    begins = np.array([not token.startswith("##") for token in wordpiece.vocabulary])
    special = [wordpiece.pad, wordpiece.cls, wordpiece.sep, wordpiece.mask]
    return np.where(np.isin(ids, special), -1, np.cumsum(begins[ids], dtype=np.int32))


# Rows.


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """What a model is to read, without masks.

    input_ids: (n, t) int32, padded at the right. token_type_ids: (n, t) int8, 1 for B and the [SEP] after it.
    lengths: (n,) int32. words: (n, t) int32, a number for each word, -1 for special tokens and padding.
    next_sentence_label: (n,) int32, 0 if B follows A and 1 if it is from another document; None without pairs.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    lengths: np.ndarray
    words: np.ndarray
    next_sentence_label: np.ndarray | None
    wordpiece: WordPiece


def rows(encoded, max_length=128, pairs=True, across=False, short_rows=0.1, seed=0):
    """`Encoded` -> `Rows` of as many whole sentences as fit into `max_length` tokens with the special ones.

    pairs: [CLS] A [SEP] B [SEP], as a function of the seed. B follows A, or is with probability 0.5, and always
        where one sentence of a document is left, from another document; what has not been used goes on in the
        next row. short_rows: share of pairs for which a smaller length, of 2 tokens or more, is drawn.
    across: [CLS] text [SEP] may hold the end of a document and the begin of the next.
    Raises UserError where max_length is too small, or pairs are to be made of one document.
    """
    room = max_length - (3 if pairs else 2)
    if room < (2 if pairs else 1):
        raise UserError(f"rows of {max_length} tokens have no room for text; give a greater max_length")
    if pairs and len(encoded.documents) < 3:
        raise UserError("pairs need two documents at least; part them by empty lines, or use rows without pairs")
    borders, documents = _cut(encoded, room // 2 if pairs else room)
    if pairs:
        *found, labels = np.array(_paired(borders.tolist(), documents.tolist(), room, short_rows, seed), np.int32).T
    else:
        found, labels = _packed(borders, documents[-1:] if across else documents[1:], room), None
    return _laid(encoded, *(borders[part].astype(np.int32) for part in found), labels=labels)


def _cut(encoded, limit):
    """`sentences` and `documents` of parts of sentences with at most `limit` tokens each."""
    lengths = np.diff(encoded.sentences)
    parts = -(-lengths // limit)
    before = np.concatenate([[0], np.cumsum(parts)])
    sentence = np.repeat(np.arange(len(parts)), parts)
    part = np.arange(before[-1]) - before[sentence]
    starts = encoded.sentences[sentence] + part * lengths[sentence] // parts[sentence]
    return np.append(starts, encoded.sentences[-1]), before[encoded.documents]


def _packed(borders, ends, room):
    """First sentences of the rows, and the ones after their last; no B. ends: of the documents, in sentences."""
    last = np.searchsorted(borders, borders[:-1] + room, side="right") - 1
    last = np.minimum(last, ends[np.searchsorted(ends, np.arange(len(last)), side="right")]).tolist()
    begins, begin = [], 0
    while begin < len(last):
        begins.append(begin)
        begin = last[begin]
    return begins, [last[begin] for begin in begins]


def _paired(borders, documents, room, short_rows, seed):
    """[(first sentence of A, the one after its last, the same for B, label), ...]."""
    draw, found = random.Random(seed), []

    def size(first, last):
        return borders[last] - borders[first]

    def reach(first, tokens, end):
        return min(bisect.bisect_right(borders, borders[first] + tokens) - 1, end)

    for document, (a, end) in enumerate(zip(documents, documents[1:])):
        while a < end:
            target = draw.randint(2, room) if draw.random() < short_rows else room
            last = min(max(reach(a, target, end), a + 2), end)
            middle = draw.randrange(a + 1, last) if last > a + 1 else last
            if middle < last and draw.random() < 0.5:
                found.append((a, middle, middle, last, 0))
                a = last
                continue
            other = draw.randrange(len(documents) - 2)
            other += other >= document
            b = draw.randrange(documents[other], documents[other + 1])
            while size(a, middle) + size(b, b + 1) > room:  # A makes room for a sentence; two always fit
                middle -= 1
            found.append((a, middle, b, max(reach(b, target - size(a, middle), documents[other + 1]), b + 1), 1))
            a = middle
    return found


def _laid(encoded, a, a_end, b=0, b_end=-1, labels=None):
    """Where in the tokens A and B begin and end, each (n,) -> `Rows`."""
    first, second = (a_end - a + 2)[:, None], np.reshape(b_end - b + 1, (-1, 1))  # tokens of both, with special ones
    lengths = first + second
    column = np.arange(lengths.max(), dtype=np.int32)
    in_b, inside = (column >= first) & (column < lengths), column < lengths
    text = inside & (column > 0) & (column != first - 1) & (column != lengths - 1)
    source = np.where(in_b, np.reshape(b, (-1, 1)) - first, a[:, None] - 1) + column
    source[~text] = 0
    piece = encoded.wordpiece
    ids = np.where(text, encoded.ids[source], np.where(inside, piece.sep, piece.pad)).astype(np.int32)
    ids[:, 0] = piece.cls
    words = np.where(text, encoded.words[source], -1)
    return Rows(ids, in_b.astype(np.int8), lengths[:, 0], words, labels, piece)


# Batches.


def batches(rows, batch_size, seed, mask_share=0.15, whole_words=False, always_mask=False, buckets=1):
    """Batches ({input_ids, attention_mask, token_type_ids: (b, t), masked_positions: (b, k)},
    {labels: (b, k)}), all int32; with pairs the second has next_sentence_label (b,), too.

    Each row once an epoch, in an order of its own; the last batch of a length is filled up with empty rows, all of
    whose labels are -100. Of each row max(1, round(mask_share * its tokens without special ones)) are chosen, of which
    80 % become [MASK], 10 % another token and 10 % stay; k is the most of any row, `labels` are the tokens that were
    there, and -100 where a row has fewer. [UNK] is a word.
    whole_words: pieces of a word are chosen together, or not at all where all would be too many; those of a word that
        is longer than what may be chosen of its row count as words.
    always_mask: all become [MASK], as for ELECTRA.
    buckets: most lengths of batches; rows of like length share one.
    """
    import tensorflow as tf

    masking = _Masking(rows, mask_share, whole_words, always_mask)
    parts = _parts(rows.lengths, masking.budget, buckets)

    rows_and_empty = [np.append(part[0], len(rows.lengths)) for part in parts]

    def make_batch(i, epoch, number, step):
        index = batch_indices(i, epoch, number, len(parts[i][0]), batch_size, seed)
        index = tf.gather(rows_and_empty[i], index)
        return masking(index, *parts[i][1:], tf.stack([tf.cast(seed, tf.int64), step]))

    return bucketed(make_batch, [num_batches(len(part[0]), batch_size) for part in parts], seed)


def fixed(rows, batch_size, seed=0, mask_share=0.15, whole_words=False, always_mask=False, buckets=1):
    """`batches` for validation: each row once, masked alike in every epoch and for every batch size and `buckets`.

    The last batch of a length is filled up with empty rows, all of whose labels are -100.
    """
    import tensorflow as tf

    masking = _Masking(rows, mask_share, whole_words, always_mask)
    parts = _parts(rows.lengths, masking.budget, buckets)
    count, width = rows.input_ids.shape  # the row after the last one is empty
    with tf.device("CPU"):
        masked = masking(tf.range(count + 1), width, int(masking.budget.max()), tf.constant([seed, 0], tf.int64))
    rows_and_empty = [np.append(part[0], count) for part in parts]

    def make_batch(i, epoch, number, step):
        index = tf.gather(rows_and_empty[i], batch_indices(i, epoch, number, len(parts[i][0]), batch_size))
        return tuple(_cut_columns({name: tf.gather(x, index) for name, x in d.items()}, *parts[i][1:]) for d in masked)

    return bucketed(make_batch, [num_batches(len(part[0]), batch_size) for part in parts])


def electra(stream):
    """The same batches for `ElectraPretrainer`: `masked_labels` (b, k) are an input, targets are zeros (b,)."""
    import tensorflow as tf

    def batch(step):
        x, y = stream.batch(step)
        return x | {"masked_labels": y["labels"]}, tf.zeros_like(y["labels"][:, 0])

    return RandomAccessDataset(batch, stream.steps)


def _parts(lengths, budget, buckets):
    """[(rows of a bucket (m,), their greatest length, and the most masked places in one), ...]."""
    return [(index, length, int(budget[index].max())) for index, length in length_buckets(lengths, buckets)]


def _cut_columns(batch, width, places):
    """The dictionary, its matrices cut to columns that are needed."""
    names = {"masked_positions", "labels"}
    return {name: x if x.shape.rank == 1 else x[:, : places if name in names else width] for name, x in batch.items()}


class _Masking:
    """Rows, by index, with masks. budget: (n,), how many tokens of each are chosen."""

    def __init__(self, rows, share, whole_words, always_mask):
        import tensorflow as tf

        if not 0 < share <= 1:
            raise UserError(f"the share of masked tokens must be above 0 and at most 1, not {share}")
        maskable = rows.words >= 0
        count = maskable.sum(axis=1)
        self.budget = np.minimum(np.maximum(np.rint(share * count), 1), count).astype(np.int32)
        table = {"input_ids": rows.input_ids, "token_type_ids": rows.token_type_ids, "maskable": maskable}
        table |= {"lengths": rows.lengths, "budget": self.budget}
        if whole_words:
            table |= dict(zip(("first", "size"), _units(rows.words, self.budget)))
        if rows.next_sentence_label is not None:
            table["next_sentence_label"] = rows.next_sentence_label
        empty = dict.fromkeys(table, 0) | {"input_ids": rows.wordpiece.pad, "next_sentence_label": IGNORED}
        self.table = {
            name: tf.constant(np.pad(x, [(0, 1), (0, 0)][: x.ndim], constant_values=empty[name]))
            for name, x in table.items()
        }
        ordinary = {token: i for token, i in rows.wordpiece.ids.items() if token not in rows.wordpiece.special_names}
        self.ordinary = np.array(list(ordinary.values()), np.int32)
        self.mask, self.shares = rows.wordpiece.mask, (1.0, 0.0) if always_mask else (0.8, 0.1)

    def __call__(self, index, width, places, seed):
        """Numbers of rows (b,), t, k, seed (2,) -> the batch."""
        import tensorflow as tf

        row = _cut_columns({name: tf.gather(x, index) for name, x in self.table.items()}, width, places)
        count = index.shape[0]
        noise = tf.random.stateless_uniform((count, width + 2 * places), seed, alg="philox")
        score, kind, other = tf.split(noise, [width, places, places], axis=1)
        positions = _chosen(row, score)[:, :places]
        real = positions < width
        positions = tf.where(real, positions, 0)
        ids = row["input_ids"]
        labels = tf.gather(ids, positions, batch_dims=1)
        new = tf.where(real, self.replaced(labels, kind, other), labels)
        places_of_batch = tf.stack([tf.broadcast_to(tf.range(count)[:, None], positions.shape), positions], -1)
        x = {
            "input_ids": tf.tensor_scatter_nd_update(ids, places_of_batch, new),
            "attention_mask": tf.sequence_mask(row["lengths"], width, tf.int32),
            "token_type_ids": tf.cast(row["token_type_ids"], tf.int32),
            "masked_positions": positions,
        }
        y = {"labels": tf.where(real, labels, IGNORED)}
        return x, y | {name: row[name] for name in ("next_sentence_label",) if name in row}

    def replaced(self, tokens, kind, other):
        """Tokens -> what stands in their place, by noise of two kinds from [0, 1): all (b, k)."""
        import tensorflow as tf

        mask, another = self.shares
        drawn = tf.gather(self.ordinary, tf.cast(other * len(self.ordinary), tf.int32))
        return tf.where(kind < mask, self.mask, tf.where(kind < mask + another, drawn, tokens))


def _chosen(row, score):
    """Scores (b, t) -> columns of the tokens to mask, in ascending order, and t for all others: (b, t)."""
    import tensorflow as tf

    width, column = score.shape[1], tf.range(score.shape[1])
    whole, budget = "first" in row, row["budget"][:, None]
    if whole:
        first, size = (tf.cast(row[name], tf.int32) for name in ("first", "size"))
        score = tf.gather(score, first, batch_dims=1)  # one for all pieces, which so stay together in the order
    order = tf.argsort(tf.where(row["maskable"], score, 2.0), axis=1, stable=True)
    taken = column < budget
    if whole:
        follow = first + size - 1 - column  # pieces of the word after this one
        free, size, follow = (tf.gather(x, order, batch_dims=1) for x in (row["maskable"], size, follow))
        taken = _fitting(free, size, follow, budget)
    return tf.sort(tf.where(taken, order, width), axis=1)


def _fitting(free, size, follow, budget):
    """The words taken, one after the other, that is no larger than what those before it left of the budget.

    Tokens (b, t) in the order of their words: whether they may be taken, sizes of their words, and how many
    of the word follow. budget: (b, 1).
    """
    import tensorflow as tf

    taken = tf.zeros_like(free)
    for _ in range(ROUNDS):  # each goes to the first word that is too large, and leaves out all that are
        left = budget - tf.reduce_sum(tf.cast(taken, tf.int32), axis=1, keepdims=True)
        free &= ~taken & (size <= left)
        taken |= free & (tf.cumsum(tf.cast(free, tf.int32), axis=1) + follow <= left)
    return taken


def _units(words, budget):
    """For each token of the rows, the column where its word begins, and how many pieces the word has: (n, t) int16.

    A piece of a word with more than `budget` pieces is a word.
    """
    n, t = words.shape
    column, border = np.arange(t, dtype=np.int16), np.ones((n, t + 1), bool)
    border[:, 1:-1] = (words[:, 1:] != words[:, :-1]) | (words[:, 1:] < 0)
    first = np.maximum.accumulate(np.where(border[:, :-1], column, 0), axis=1)
    after = np.minimum.accumulate(np.where(border[:, 1:], column + 1, t)[:, ::-1], axis=1)[:, ::-1]
    size = (after - first).astype(np.int16)
    long = size > budget[:, None]
    return np.where(long, column, first), np.where(long, np.int16(1), size)
