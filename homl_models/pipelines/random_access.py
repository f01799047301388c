"""Batches as a function of the step: what makes a run resumable at any step."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

IGNORED = -100  # label of what does not count


@dataclasses.dataclass(frozen=True)
class RandomAccessDataset:
    """An endless sequence of batches of which any part can be had.

    batch: step (int64 scalar tensor, counted from 0 over all epochs) -> batch, in TensorFlow
        operations; everything random in it depends on the step and a seed alone.
    steps: steps per epoch.
    """

    batch: Callable
    steps: int

    def dataset(self, first=0, last=None):
        """`tf.data.Dataset` of the batches of steps first <= step < last (default: the first epoch)."""
        import tensorflow as tf

        steps = tf.data.Dataset.range(first, self.steps if last is None else last)
        dataset = steps.map(self.batch, num_parallel_calls=2, deterministic=True).prefetch(2)
        options = tf.data.Options()
        options.autotune.enabled = False
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return dataset.with_options(options)


def permuted(index, count, *key):
    """Index () or (b,) int64 -> its places in the permutation of range(count) that three whole numbers name.

    key: numbers, or tensors () or (b,) where rows belong to different permutations.
    """
    import tensorflow as tf

    key = tf.stack([tf.broadcast_to(tf.cast(part, tf.int64), tf.shape(index)) for part in key], axis=-1)
    # 4 rounds, TensorFlow's default, leave neighbours together (correlation 0.4 among a million); 8 do not.
    return tf.raw_ops.RandomIndexShuffle(index=index, seed=key, max_index=count - 1, rounds=8)


def bucketed(make_batch, per_epoch, seed=None):
    """`RandomAccessDataset` of batches from buckets, each of which has a shape of its own.

    make_batch: (bucket, epoch, number of the batch among those of the bucket, step) -> the batch, see `batch_indices`.
    per_epoch: batches of each bucket. seed: draws an order of the batches for each epoch; None takes them one after the
    other, alike in every epoch.
    """
    import tensorflow as tf

    per_epoch = np.array(per_epoch, np.int64)
    firsts = np.concatenate([[0], np.cumsum(per_epoch)])
    steps = int(firsts[-1])

    def batch(step):
        epoch, slot = step // steps, step % steps
        if seed is None:
            epoch = tf.zeros_like(epoch)
        else:
            slot = permuted(slot, steps, seed, epoch, -1)
        if len(per_epoch) == 1:
            return make_batch(0, epoch, slot, step)
        chosen = tf.searchsorted(firsts, slot[None], side="right")[0] - 1
        number = slot - tf.gather(firsts, chosen)
        return tf.switch_case(chosen, [lambda i=i: make_batch(i, epoch, number, step) for i in range(len(per_epoch))])

    return RandomAccessDataset(batch, steps)


def batch_indices(i, epoch, number, count, batch_size, seed=None):
    """Which of the `count` rows of bucket i are in its batch `number` of an epoch, (b,) int64.

    Each row once an epoch; the last batch is filled up with row `count`, an empty one, which is not to count.
    seed: draws an order for each epoch; None takes them as they come.
    """
    import tensorflow as tf

    place = number * batch_size + tf.range(batch_size, dtype=tf.int64)
    row = place if seed is None else permuted(tf.minimum(place, count - 1), count, seed, i, epoch)
    return tf.where(place < count, row, count)


def num_batches(count, batch_size):
    """Batches that `count` rows take, the last one filled up."""
    return -(-count // batch_size)


def length_buckets(lengths, buckets):
    """Lengths (n,) -> [(rows of a bucket (m,), the length to pad to), ...], at most so many, for the least padding."""
    bounds = _bounds(np.bincount(lengths), buckets)
    places = np.searchsorted(bounds, lengths)
    return [(np.flatnonzero(places == i), int(bound)) for i, bound in enumerate(bounds)]


def _bounds(counts, num_buckets):
    """Counts of rows by length -> the lengths to pad to, ascending; the last is the largest."""
    present = np.flatnonzero(counts).tolist()
    below = np.cumsum(counts)

    @functools.cache
    def best(last, buckets):
        """Cost in tokens, and bounds, of all rows up to the length present[last]."""
        alone = below[present[last]] * present[last], (present[last],)
        if buckets == 1 or not last:
            return alone
        rest = ((best(i, buckets - 1), below[present[i]]) for i in range(last))
        split = (
            (cost + (below[present[last]] - rows) * present[last], (*lengths, present[last]))
            for (cost, lengths), rows in rest
        )
        return min(alone, *split)

    return best(len(present) - 1, num_buckets)[1]
