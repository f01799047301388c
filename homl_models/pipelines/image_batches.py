"""Image batches: arrays in memory, gathered by index in a seeded order; float32 in [0, 1]."""

import numpy as np

from homl_models.errors import UserError
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
        x = to_floats(x)
        if augment is not None and seed is not None:
            x = augment(x, tf.stack([tf.cast(seed, tf.int64), step]))
        return x, x if targets is None else tf.gather(targets, index)

    def in_order(step):
        first = step % steps * batch_size
        return gather(tf.range(first, tf.minimum(first + batch_size, count)), step)

    def shuffled(step):
        return gather(shuffled_indices(step, batch_size, count, seed), step)

    return RandomAccessDataset(in_order if seed is None else shuffled, steps)


def crop_and_flip(images, seed, margin):
    """Random crops of images (b, h, w, ...) reflected at their borders, each mirrored with probability 1/2.

    A crop has the size of the image, moved by a whole number of pixels, `margin` at most, in each direction.
    seed: (2,); a pure function of it, in TensorFlow operations.
    """
    import tensorflow as tf

    images = tf.convert_to_tensor(images)
    count, height, width = (tf.shape(images)[i] for i in range(3))
    rest = [(0, 0)] * (images.shape.rank - 3)
    padded = tf.pad(images, [(0, 0), (margin, margin), (margin, margin), *rest], "REFLECT")
    seeds = tf.random.experimental.stateless_split(seed, 2)
    moves = tf.random.stateless_uniform((2, count, 1), seeds[0], 0, 2 * margin + 1, tf.int32)
    mirrored = tf.random.stateless_uniform((count, 1), seeds[1]) < 0.5
    rows, columns = (
        moves[0] + tf.range(height),
        moves[1] + tf.where(mirrored, width - 1 - tf.range(width), tf.range(width)),
    )
    return tf.gather(tf.gather(padded, rows, batch_dims=1), columns, axis=2, batch_dims=1)


def augmented_views(images, batch_size, augmentation, seed):
    """`RandomAccessDataset` of batches (views, indices (b,)) in random order, a view float32 (b, h, w[, c]) in [0, 1].

    images: sequence of (h, w), (h, w, 1) or (h, w, 3), of any sizes; bytes, or floats in [0, 1], which become bytes.
    augmentation: (image (h, w) or (h, w, 3), `np.random.Generator`) -> tuple of images, such as an
        `image_augmentation.Augmentation`, whose `sizes` are those of the views.
    `UserError` for images of other channels.
    """
    import tensorflow as tf

    count, channels = len(images), check_channels(images)

    def augmented(i, generator):
        image = to_bytes(images[i])
        return augmentation(image[..., 0] if channels == (1,) else image, generator)

    def make_batch(indices, step):
        generator = np.random.default_rng((seed, int(step)))
        return [np.stack(view) for view in zip(*(augmented(i, generator) for i in indices))]

    def batch(step):
        indices = shuffled_indices(step, batch_size, count, seed)
        views = tf.nest.flatten(tf.numpy_function(make_batch, [indices, step], [tf.uint8] * len(augmentation.sizes)))
        shapes = [(batch_size, *size, *channels) for size in augmentation.sizes]
        return tuple(to_floats(tf.reshape(view, shape)) for view, shape in zip(views, shapes)), indices

    return RandomAccessDataset(batch, max(1, count // batch_size))


def shuffled_indices(step, batch_size, count, seed):
    """Indices (b,) int64 of a step, of a shuffled order without replacement, anew in each pass over `count` images."""
    import tensorflow as tf

    example = step * batch_size + tf.range(batch_size, dtype=tf.int64)
    return permuted(example % count, count, seed, example // count, 0)


def check_channels(images):
    """Shape of the channels of a sequence of images, () or (1,) for grey, or (3,); `UserError` for others."""
    shapes = {image.shape[2:] for image in images}
    if shapes not in ({()}, {(1,)}, {(3,)}):
        found = " and ".join(str(shape[0]) if shape else "1" for shape in sorted(shapes))
        raise UserError(f"images must all have 1 channel or all 3; these have {found or 'no'} channels")
    return shapes.pop()


def to_bytes(image):
    """An image of bytes, or of floats in [0, 1], as bytes."""
    return image if image.dtype == np.uint8 else np.uint8(np.round(255 * image))


def to_floats(x):
    """A tensor of bytes, or of floats in [0, 1], as float32 in [0, 1]."""
    import tensorflow as tf

    return tf.cast(x, tf.float32) / 255 if x.dtype == tf.uint8 else x
