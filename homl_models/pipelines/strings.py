"""Batches of strings with labels, for models that take texts as they are; and a small module of TensorFlow Hub.

Shapes: n texts, b batch, d embedding.
"""

import numpy as np

from homl_models.pipelines.random_access import RandomAccessDataset, batch_indices, num_batches

NUM_HASHES, HASHED_DIM = 1000, 32


def batches(texts, labels, batch_size, seed=None):
    """`RandomAccessDataset` of (texts (b,), labels (b,) int32), each text once an epoch; the last batch is smaller.

    seed: of a new order in each epoch; None keeps the order.
    """
    import tensorflow as tf

    count = len(texts)
    steps = num_batches(count, batch_size)
    texts, labels = tf.constant(list(texts)), tf.constant(np.array(labels, np.int32))

    def batch(step):
        rows = batch_indices(0, step // steps, step % steps, count, batch_size, seed)
        rows = tf.boolean_mask(rows, rows < count)
        return tf.gather(texts, rows), tf.gather(labels, rows)

    return RandomAccessDataset(batch, steps)


def save_hashed_words(folder, seed=0):
    """Write an untrained module of texts (b,) -> vectors (b, d): the mean of the embeddings of hashed words."""
    import tensorflow as tf

    start = np.random.default_rng(seed).normal(0, 0.1, (NUM_HASHES, HASHED_DIM))
    table = tf.Variable(start, dtype=tf.float32, name="embeddings")

    def embed(texts):
        words = tf.strings.split(tf.strings.regex_replace(tf.strings.lower(texts, "utf-8"), "[^a-z0-9']+", " "))
        hashes = tf.strings.to_hash_bucket_fast(words.flat_values, NUM_HASHES)
        rows, size = words.value_rowids(), tf.shape(texts, tf.int64)[0]
        total = tf.math.unsorted_segment_sum(tf.gather(table, hashes), rows, size)
        return total / tf.maximum(tf.cast(words.row_lengths()[:, None], tf.float32), 1)

    module = tf.train.Checkpoint()
    module.__call__ = tf.function(embed, input_signature=[tf.TensorSpec([None], tf.string)])
    module.variables = module.trainable_variables = [table]
    tf.saved_model.save(module, str(folder))
