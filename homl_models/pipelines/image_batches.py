"""Image batches: arrays in memory, gathered by index in a seeded order; float32 in [0, 1]."""

from homl_models.pipelines.random_access import RandomAccessDataset, permuted


def batches(images, batch_size, seed=None, targets=None, augment=None):
    """`RandomAccessDataset` of batches (images (b, ...), targets (b, ...)).

    images: (n, ...), bytes or floats in [0, 1]. targets: (n, ...); by default the images themselves.
    seed: shuffles without replacement, anew in each pass over the images; None keeps their order, and the last batch
        is smaller.
    augment: (images (b, ...), seed (2,)) -> images, a pure function in TensorFlow operations; applied where there is a
        seed. Images that are their own targets are augmented in both places.
    """
    import tensorflow as tf

    count = len(images)
    steps = max(1, count // batch_size) if seed is not None else -(-count // batch_size)
    images = tf.constant(images)
    targets = None if targets is None else tf.constant(targets)

    def gather(index, step):
        x = tf.gather(images, index)
        x = tf.cast(x, tf.float32) / 255 if x.dtype == tf.uint8 else x
        if augment is not None and seed is not None:
            x = augment(x, tf.stack([tf.cast(seed, tf.int64), step]))
        return x, x if targets is None else tf.gather(targets, index)

    def in_order(step):
        first = step % steps * batch_size
        return gather(tf.range(first, tf.minimum(first + batch_size, count)), step)

    def shuffled(step):
        example = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        return gather(permuted(example % count, count, seed, example // count, 0), step)

    return RandomAccessDataset(in_order if seed is None else shuffled, steps)
