"""Data parallelism: the replica that runs, the number of replicas, and sums over all of them.

On TensorFlow each replica of a `MirroredStrategy` computes with its part of the batch, and Keras adds up the gradients.
On JAX there is one computation, of the whole batch: there, as on one device, nothing of this has an effect.
"""

import keras
import numpy as np
from keras import ops


def num_replicas():
    """Number of devices that share this training step."""
    return 1 if _context() is None else _context().num_replicas_in_sync


def replica_id():
    """Index of this device among them, uint32, from 0."""
    return np.uint32(0) if _context() is None else ops.cast(_context().replica_id_in_sync_group, "uint32")


def all_reduce_sum(x):
    """Sum over replicas of a tensor, or of each of a list of tensors; differentiable."""
    if _context() is None:
        return x
    import tensorflow as tf

    return _context().all_reduce(tf.distribute.ReduceOp.SUM, x)


def _context():
    """TensorFlow's replica context where there are several replicas, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None
