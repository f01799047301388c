"""Batches as a function of the step: what makes a run resumable at any step."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Stream:
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
