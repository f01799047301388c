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
