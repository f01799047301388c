"""Augmentation of batches by Keras' own layers: MixUp, CutMix and random erasing, as functions of a seed.

Keras' layers keep the state of their random numbers, so that a resumed pipeline would go another way. But what is
random in them, `get_random_transformation`, takes a seed generator: `StepSeeds` counts within a step and keeps nothing
between steps. Labels are smoothed in `labelled_images.batches`, or by `keras.losses.CategoricalCrossentropy`: whether
before they are mixed or after makes no difference.

Shapes: b batch, h height, w width, c channels, k classes.

What Keras' layers do otherwise than the papers and the recipe of BEiT: MixUp and CutMix have a weight for each image
rather than for the batch, and CutMix' weight is the area of the box before it is cut to whole pixels; the sides of an
erased box are independent of one another, without bounds of the aspect ratio, and noise is clipped at the range.
"""

import functools

import keras

from homl_models.errors import UserError

ERASED = 0.02, 1 / 3  # smallest and largest fraction of the area


class StepSeeds(keras.random.SeedGenerator):
    """Seed generator of one use in one step of a pipeline: its i-th seed is a pure function of the key, the use and i.

    Args:
        key: (2,) int64 tensor, such as (seed, step).
        use: a whole number, another one for each use of the key.
    """

    def __init__(self, key, use):  # not Keras' own, which makes a variable: the state that must not be
        import tensorflow as tf

        self.key = tf.random.experimental.stateless_fold_in(tf.cast(key, tf.int64), tf.constant(use, tf.int64))
        self.count = 0

    def next(self, ordered=True):
        import tensorflow as tf

        self.count += 1
        return tf.random.experimental.stateless_fold_in(self.key, tf.constant(self.count, tf.int64))


class BatchAugmentation:
    """MixUp or CutMix, then random erasing: `augmentation(images, labels, key)` -> (images, labels).

    images: (b, h, w) or (b, h, w, c) float32 in [0, 1]. labels: (b, k) float32, one-hot. key: (2,) int64, of which the
    result is a pure function.

    Args:
        mixup: alpha of MixUp (Zhang et al., 2017, https://arxiv.org/abs/1710.09412), at most 1; 0: none. BEiT has 0.8.
        cutmix: alpha of CutMix (Yun et al., 2019, https://arxiv.org/abs/1905.04899), at most 1; 0: none. With both, a
            batch has one of them, each half the time. BEiT has 1.
        erasing: probability to fill a box with noise (Zhong et al., 2017, https://arxiv.org/abs/1708.04896). BEiT has
            0.25.
    """

    def __init__(self, mixup=0.0, cutmix=0.0, erasing=0.0):
        for name, value in (("mixup", mixup), ("cutmix", cutmix), ("erasing", erasing)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} must lie in [0, 1], not {value}")
        kwargs = {"dtype": "float32", "data_format": "channels_last"}
        self.mixers = [keras.layers.MixUp(mixup, **kwargs)] if mixup else []
        self.mixers += [keras.layers.CutMix((cutmix, cutmix), **kwargs)] if cutmix else []
        self.eraser = erasing and keras.layers.RandomErasing((erasing, erasing), ERASED, value_range=(0, 1), **kwargs)

    def __call__(self, images, labels, key):
        import tensorflow as tf

        x, y = images if images.shape.rank == 4 else images[..., None], labels
        if self.mixers:
            mixed = [functools.partial(transformed, layer, x, y, StepSeeds(key, 1)) for layer in self.mixers]
            chosen = tf.random.stateless_uniform((), StepSeeds(key, 0).next(), maxval=len(mixed), dtype=tf.int32)
            x, y = tf.switch_case(chosen, mixed)
        if self.eraser:
            x, y = transformed(self.eraser, x, y, StepSeeds(key, 2))
        return tf.reshape(x, tf.shape(images)), y


def transformed(layer, images, labels, seeds):
    """Images (b, h, w, c) and labels changed by one of Keras' layers, with the seeds of a `StepSeeds`.

    In TensorFlow operations, whatever Keras' backend.
    """
    layer.backend.set_backend("tensorflow")
    transformation = layer.get_random_transformation({"images": images}, training=True, seed=seeds)
    images = layer.transform_images(images, transformation, training=True)
    return images, layer.transform_labels(labels, transformation, training=True)
