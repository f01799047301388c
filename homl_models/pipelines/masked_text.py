"""Masked training batches of texts (Devlin et al., 2018, https://arxiv.org/abs/1810.04805, section 3.1, task 1).

In every batch some of the tokens are masked, others in each epoch (dynamic masking, Liu et al., 2019,
https://arxiv.org/abs/1907.11692, section 4.1), as a function of a seed and the step. Names follow
google-research/bert, create_pretraining_data.py; instances are made in `pretraining_instances.py`.
Shapes: n instances, b batch, t tokens, k masked positions (max_predictions).

Deviation: a random token is never a special one.
"""

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

ROUNDS = 4  # in which whole words that still fit are looked for


def batches(instances, batch_size, seed, masked_lm_prob=0.15, whole_word_mask=False, always_mask=False, buckets=1):
    """Batches ({input_ids, attention_mask, token_type_ids: (b, t), masked_positions: (b, k)},
    {labels: (b, k)}), all int32; with pairs the second has next_sentence_label (b,), too.

    Each instance once an epoch, in a new order each time; the last batch of a length is filled up with empty rows,
    all of whose labels are -100. `labels` are the original tokens, and -100 where an instance has fewer than k.

    Args:
        instances: `pretraining_instances.Instances`.
        batch_size: b.
        seed: of order and masks.
        masked_lm_prob: fraction of the tokens, without special ones, that are predicted, at least one; of these 80 %
            become [MASK], 10 % a random token and 10 % stay. [UNK] is a token as others.
        whole_word_mask: pieces of a word are masked together, or not at all where all would be too many; of a word
            with more pieces than are predicted in its instance, each counts as a word.
        always_mask: all become [MASK], as for ELECTRA.
        buckets: most lengths of batches; instances of like length share one.
    """
    import tensorflow as tf

    masking = _Masking(instances, masked_lm_prob, whole_word_mask, always_mask)
    parts = _buckets(instances.lengths, masking.num_to_predict, buckets)
    rows_and_empty = [np.append(rows, len(instances.lengths)) for rows, _, _ in parts]

    def make_batch(i, epoch, number, step):
        rows, length, max_predictions = parts[i]
        index = batch_indices(i, epoch, number, len(rows), batch_size, seed)
        index = tf.gather(rows_and_empty[i], index)
        return masking(index, length, max_predictions, tf.stack([tf.cast(seed, tf.int64), step]))

    return bucketed(make_batch, [num_batches(len(rows), batch_size) for rows, _, _ in parts], seed)


def eval_batches(
    instances, batch_size, seed=0, masked_lm_prob=0.15, whole_word_mask=False, always_mask=False, buckets=1
):
    """`batches` for validation: each instance once, with masks that depend on the seed alone.

    They are the same in every epoch and for every `batch_size` and `buckets` (static masking). The last batch of a
    length is filled up with empty rows, all of whose labels are -100.
    """
    import tensorflow as tf

    masking = _Masking(instances, masked_lm_prob, whole_word_mask, always_mask)
    parts = _buckets(instances.lengths, masking.num_to_predict, buckets)
    count, width = instances.input_ids.shape  # the row after the last one is empty
    with tf.device("CPU"):
        most = int(masking.num_to_predict.max())
        masked = masking(tf.range(count + 1), width, most, tf.constant([seed, 0], tf.int64))
    rows_and_empty = [np.append(rows, count) for rows, _, _ in parts]

    def make_batch(i, epoch, number, step):
        rows, length, max_predictions = parts[i]
        index = tf.gather(rows_and_empty[i], batch_indices(i, epoch, number, len(rows), batch_size))
        return tuple(
            _cut({name: tf.gather(x, index) for name, x in d.items()}, length, max_predictions) for d in masked
        )

    return bucketed(make_batch, [num_batches(len(rows), batch_size) for rows, _, _ in parts])


def masked_lm_batches(dataset):
    """The same batches with `labels` (b, k) as the only targets, for a masked language model."""

    def batch(step):
        x, y = dataset.batch(step)
        return x, y["labels"]

    return RandomAccessDataset(batch, dataset.steps)


def electra_batches(dataset):
    """The same batches for `ElectraPretrainer`: `masked_labels` (b, k) are an input, targets are zeros (b,)."""
    import tensorflow as tf

    def batch(step):
        x, y = dataset.batch(step)
        return x | {"masked_labels": y["labels"]}, tf.zeros_like(y["labels"][:, 0])

    return RandomAccessDataset(batch, dataset.steps)


def _buckets(lengths, num_to_predict, buckets):
    """[(rows of a bucket (m,), their greatest length, and max_predictions, the most masked tokens of one), ...]."""
    return [(rows, length, int(num_to_predict[rows].max())) for rows, length in length_buckets(lengths, buckets)]


def _cut(batch, length, max_predictions):
    """The dictionary, its matrices cut to the columns that are needed."""
    predictions = {"masked_positions", "labels"}
    return {
        name: x if x.shape.rank == 1 else x[:, : max_predictions if name in predictions else length]
        for name, x in batch.items()
    }


# Masks.


class _Masking:
    """`create_masked_lm_predictions`: indices of instances -> a batch of them, masked.

    num_to_predict: (n,), masked tokens of each instance.
    """

    def __init__(self, instances, masked_lm_prob, whole_word_mask, always_mask):
        import tensorflow as tf

        if not 0 < masked_lm_prob <= 1:
            raise UserError(f"masked_lm_prob must be above 0 and at most 1, not {masked_lm_prob}")
        candidate = instances.word_ids >= 0
        count = candidate.sum(axis=1)
        self.num_to_predict = np.minimum(np.maximum(np.rint(masked_lm_prob * count), 1), count).astype(np.int32)
        table = {"input_ids": instances.input_ids, "token_type_ids": instances.token_type_ids, "candidate": candidate}
        table |= {"lengths": instances.lengths, "num_to_predict": self.num_to_predict}
        if whole_word_mask:
            table |= dict(zip(("word_start", "word_size"), _words(instances.word_ids, self.num_to_predict)))
        if instances.next_sentence_label is not None:
            table["next_sentence_label"] = instances.next_sentence_label
        wordpiece = instances.wordpiece
        empty = dict.fromkeys(table, 0) | {"input_ids": wordpiece.pad, "next_sentence_label": IGNORED}
        self.table = {
            name: tf.constant(np.pad(x, [(0, 1), (0, 0)][: x.ndim], constant_values=empty[name]))
            for name, x in table.items()
        }
        ordinary = [i for token, i in wordpiece.ids.items() if token not in wordpiece.special_names]
        self.ordinary = np.array(ordinary, np.int32)
        self.mask = wordpiece.mask
        self.mask_prob, self.random_prob = (1.0, 0.0) if always_mask else (0.8, 0.1)

    def __call__(self, index, length, max_predictions, seed):
        """Indices of instances (b,), t, k, seed (2,) -> the batch."""
        import tensorflow as tf

        row = _cut({name: tf.gather(x, index) for name, x in self.table.items()}, length, max_predictions)
        shape = index.shape[0], length + 2 * max_predictions
        noise = tf.random.stateless_uniform(shape, seed, alg="philox")
        score, kind, other = tf.split(noise, [length, max_predictions, max_predictions], axis=1)
        positions = _masked_lm_positions(row, score)[:, :max_predictions]
        real = positions < length
        positions = tf.where(real, positions, 0)
        labels = tf.gather(row["input_ids"], positions, batch_dims=1)
        masked_tokens = tf.where(real, self.masked_tokens(labels, kind, other), labels)
        x = {
            "input_ids": _scatter(row["input_ids"], positions, masked_tokens),
            "attention_mask": tf.sequence_mask(row["lengths"], length, tf.int32),
            "token_type_ids": tf.cast(row["token_type_ids"], tf.int32),
            "masked_positions": positions,
        }
        y = {"labels": tf.where(real, labels, IGNORED)}
        return x, y | {name: row[name] for name in ("next_sentence_label",) if name in row}

    def masked_tokens(self, tokens, kind, other):
        """Tokens (b, k) -> [MASK], a random token or the same, by two kinds of noise (b, k) from [0, 1)."""
        import tensorflow as tf

        random_tokens = tf.gather(self.ordinary, tf.cast(other * len(self.ordinary), tf.int32))
        changed = kind < self.mask_prob + self.random_prob
        return tf.where(kind < self.mask_prob, self.mask, tf.where(changed, random_tokens, tokens))


def _scatter(ids, positions, tokens):
    """Ids (b, t) with `tokens` (b, k) at `positions` (b, k)."""
    import tensorflow as tf

    rows = tf.broadcast_to(tf.range(ids.shape[0])[:, None], positions.shape)
    return tf.tensor_scatter_nd_update(ids, tf.stack([rows, positions], -1), tokens)


def _masked_lm_positions(row, score):
    """Columns of the tokens to predict, ascending, then t for all others: (b, t).

    Candidates are shuffled by their random `score` (b, t), and the first num_to_predict are taken; with whole words,
    all pieces of a word have one score, and a word that does not fit is passed over.
    """
    import tensorflow as tf

    length = score.shape[1]
    column, num_to_predict = tf.range(length), row["num_to_predict"][:, None]
    if "word_start" not in row:
        shuffled = tf.argsort(tf.where(row["candidate"], score, 2.0), axis=1, stable=True)
        taken = column < num_to_predict
    else:
        start, size = (tf.cast(row[name], tf.int32) for name in ("word_start", "word_size"))
        score = tf.gather(score, start, batch_dims=1)
        shuffled = tf.argsort(tf.where(row["candidate"], score, 2.0), axis=1, stable=True)
        pieces_after = start + size - 1 - column
        words = (tf.gather(x, shuffled, batch_dims=1) for x in (row["candidate"], size, pieces_after))
        taken = _whole_words(*words, num_to_predict)
    return tf.sort(tf.where(taken, shuffled, length), axis=1)


def _whole_words(candidate, size, pieces_after, num_to_predict):
    """Tokens that are taken (b, t): word after word, each that fits into what is left of num_to_predict (b, 1).

    Args:
        candidate: whether a token may be taken, (b, t) as the rest; pieces of a word are neighbours.
        size: pieces of its word.
        pieces_after: pieces of its word after this one.
        num_to_predict: tokens to take.
    """
    import tensorflow as tf

    taken = tf.zeros_like(candidate)
    for _ in range(ROUNDS):  # each goes up to the first word that does not fit, and drops all that do not
        left = num_to_predict - tf.reduce_sum(tf.cast(taken, tf.int32), axis=1, keepdims=True)
        candidate &= ~taken & (size <= left)
        taken |= candidate & (tf.cumsum(tf.cast(candidate, tf.int32), axis=1) + pieces_after <= left)
    return taken


def _words(word_ids, num_to_predict):
    """For each token of the instances, the column where its word begins, and the pieces of the word: (n, t) int16.

    A piece of a word with more than `num_to_predict` (n,) pieces is a word.
    """
    n, t = word_ids.shape
    column, border = np.arange(t, dtype=np.int16), np.ones((n, t + 1), bool)
    border[:, 1:-1] = (word_ids[:, 1:] != word_ids[:, :-1]) | (word_ids[:, 1:] < 0)
    start = np.maximum.accumulate(np.where(border[:, :-1], column, 0), axis=1)
    end = np.minimum.accumulate(np.where(border[:, 1:], column + 1, t)[:, ::-1], axis=1)[:, ::-1]
    size = (end - start).astype(np.int16)
    long = size > num_to_predict[:, None]
    return np.where(long, column, start), np.where(long, np.int16(1), size)
