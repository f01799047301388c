"""Several devices that train one model: which of them this is, and sums over all of them.

On TensorFlow each device of a `MirroredStrategy` computes with its part of the batch, and Keras adds up their
gradients. On JAX there is one computation, of the whole batch: there, as on one device, all of this changes nothing.
"""

import keras
import numpy as np
from keras import ops


def num_replicas():
    """How many devices take this step together."""
    return 1 if _context() is None else _context().num_replicas_in_sync


def replica_id():
    """Which of them this is, uint32, from 0."""
    return np.uint32(0) if _context() is None else ops.cast(_context().replica_id_in_sync_group, "uint32")


def all_reduce_sum(x):
    """The sum over devices of a tensor, or of each of a list of them; its gradient reaches all of them."""
    if _context() is None:
        return x
    import tensorflow as tf

    return _context().all_reduce(tf.distribute.ReduceOp.SUM, x)


def _context():
    """TensorFlow's replica context, where there are several replicas; else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None
