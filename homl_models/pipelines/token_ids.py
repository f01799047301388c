"""Batches of token ids with a label for each text: of similar lengths, or shuffled and padded as the book does.

Shapes: n texts, m ids, b batch, t tokens.
"""

import numpy as np

from homl_models.pipelines.random_access import (
    IGNORED,
    RandomAccessDataset,
    batch_indices,
    bucketed,
    length_buckets,
    num_batches,
)

DISTINCT = 128  # lengths to choose the bounds of buckets from


def batches(ids, ends, labels, batch_size, seed=None, buckets=1):
    """Batches (ids (b, t), labels (b,)) of texts of similar length, each text once an epoch.

    The last batch of a length is filled up with empty texts whose label is ignored.

    Args:
        ids: (m,) int32, of all texts in a row.
        ends: (n + 1,), where each text begins and the last ends.
        labels: (n,).
        batch_size: b.
        seed: of a new order in each epoch; None keeps the order of the texts, within their bucket.
        buckets: most lengths of batches.
    """
    import tensorflow as tf

    parts = length_buckets(_rounded(np.diff(ends)), buckets)
    texts, labels = _tables(ids, ends, labels)
    rows = [tf.constant([*part, len(ends) - 1], tf.int64) for part, _ in parts]  # the last is the empty text

    def make_batch(i, epoch, number, step):
        index = batch_indices(i, epoch, number, len(parts[i][0]), batch_size, seed)
        return _batch(texts, labels, tf.gather(rows[i], index), parts[i][1])

    return bucketed(make_batch, [num_batches(len(part), batch_size) for part, _ in parts], seed)


def shuffled_batches(ids, ends, labels, batch_size, seed=None, buckets=1):
    """As `batches`, but of texts of any length, padded to the longest of them, which is rounded up.

    buckets: lengths to round up to, each 0.7 times the next.
    """
    import tensorflow as tf

    count, lengths = len(ends) - 1, np.append(np.diff(ends), 0)
    bounds = np.unique(np.ceil(max(1, lengths.max()) * 2.0 ** (-np.arange(buckets) / 2)).astype(np.int64))
    texts, labels = _tables(ids, ends, labels)
    steps = num_batches(count, batch_size)

    def batch(step):
        epoch = step // steps if seed is not None else tf.zeros_like(step)
        index = batch_indices(0, epoch, step % steps, count, batch_size, seed)
        bound = tf.searchsorted(bounds, tf.reduce_max(tf.gather(lengths, index))[None])[0]
        return tf.switch_case(bound, [lambda n=n: _batch(texts, labels, index, n) for n in bounds])

    return RandomAccessDataset(batch, steps)


def _rounded(lengths):
    """Lengths, 1 or more, rounded up so that few are distinct."""
    step = max(1, int(lengths.max(initial=1)) // DISTINCT)
    return np.maximum(-(-lengths // step) * step, 1)


def _tables(ids, ends, labels):
    """The texts, ragged (n + 1, None), and their labels, with an empty text that does not count at the end."""
    import tensorflow as tf

    texts = tf.RaggedTensor.from_row_splits(tf.constant(ids, tf.int32), np.append(ends, ends[-1]).astype(np.int64))
    return texts, tf.constant([*labels, IGNORED], tf.int32)


def _batch(texts, labels, rows, length):
    import tensorflow as tf

    batch = tf.gather(texts, rows).to_tensor(shape=(rows.shape[0], int(length)))
    return batch, tf.gather(labels, rows)
