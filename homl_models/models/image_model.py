"""Base classes of image models: `ImageModel`, and `EMAModel` for those that sample.

Shapes: b batch, n images, h height, w width, c channels.
"""

import functools
import math

import keras
import numpy as np
from keras import ops

from homl_models.base import Model, compiled
from homl_models.endpoints import COUNT, SEED, Image, Ints
from homl_models.errors import UserError
from homl_models.layers.dropout import random_bits

NO_LABELS = "labels must be one or more"


class ImageModel(Model):
    """Base class of models of images of one shape.

    Args:
        image_shape: (h, w), or (h, w, c).
    """

    def __init__(self, image_shape=(28, 28), **kwargs):
        super().__init__(**kwargs)
        if len(image_shape) not in (2, 3) or min(image_shape) < 1:
            raise UserError(f"image_shape must be (height, width) or (height, width, channels), not {image_shape}")
        self.image_shape = tuple(image_shape)
        self.pixels = math.prod(self.image_shape)
        self.channels = self.image_shape[2] if len(self.image_shape) == 3 else 1

    def checked_class_names(self, class_names):
        """`class_names` as a tuple, () for none; `UserError` unless there are `num_classes` of them."""
        if class_names and len(class_names) != self.num_classes:
            raise UserError(f"there must be {self.num_classes} class_names or none, not {len(class_names)}")
        return tuple(class_names)

    def checked_images(self, images):
        """`images` (n, *image_shape) as float32 in [0, 1], bytes divided by 255.

        `UserError` for another shape or values outside [0, 1].
        """
        images = np.asarray(images)
        if images.shape[1:] != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise UserError(f"images must have the shape (n, {wanted}), not {images.shape}; resize them")
        return checked_range(images)

    @functools.cached_property
    def _compiled(self):
        return {}

    def predict_batched(self, name, array, batch_size=100):
        """The output, as float32, of the method `name`, compiled, for an array with a row for each image.

        It is called batch by batch; the last batch is padded, so that one shape is compiled.
        """
        if name not in self._compiled:
            self._compiled[name] = compiled(getattr(self, name))
        batches = [array[i : i + batch_size] for i in range(0, max(len(array), 1), batch_size)]
        batches[-1] = np.pad(batches[-1], [(0, batch_size - len(batches[-1]))] + [(0, 0)] * (np.ndim(array) - 1))
        outputs = [self._compiled[name](ops.convert_to_tensor(batch)) for batch in batches]
        return np.concatenate([ops.convert_to_numpy(ops.cast(x, "float32")) for x in outputs])[: len(array)]

    def image_input(self, name):
        """The input of an endpoint for images (b, *image_shape) in [0, 1]."""
        return Image(name, self.image_shape)


class EMAModel(ImageModel):
    """Base class of models that sample images, by a network with an exponential moving average (EMA) of weights.

    Networks work on normalized images (b, h, w, c) in [-1, 1]. A subclass defines `ema_and_network`, and, if it is
    conditioned on classes, sets `num_classes` and checks `class_names`. A preset holds the averaged weights alone.

    Args:
        ema: decay of the moving average.
        seed: of the random numbers in training.
        class_names: in the order of the labels, or () for none.
    """

    num_classes = 0

    def __init__(self, ema=0.999, seed=None, class_names=(), **kwargs):
        super().__init__(**kwargs)
        self.ema, self.seed, self.class_names = ema, seed, class_names
        self.normalized_shape = (*self.image_shape[:2], self.channels)
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.updates = self.add_weight(shape=(), dtype="float32", initializer="zeros", trainable=False, name="updates")

    @property
    def compute_dtype(self):
        return "float32"  # half precision is for the networks alone

    def normalize(self, images):
        """Images (b, ...) in [0, 1] -> normalized images (b, h, w, c) in [-1, 1]."""
        return ops.reshape(2 * ops.cast(images, "float32") - 1, (-1, *self.normalized_shape))

    def denormalize(self, x):
        """Normalized images (b, h, w, c) in [-1, 1] -> images (b, ...) in [0, 1], clipped."""
        return ops.reshape(ops.clip((x + 1) / 2, 0, 1), (-1, *self.image_shape))

    def uniform(self, count):
        """Uniform random numbers (count,) in [0, 1), new ones at each call."""
        bits = ops.bitwise_right_shift(random_bits((count,), self.seed_generator.next()), np.uint32(8))
        return ops.cast(bits, "float32") * 2.0**-24

    def ema_copy(self, network):
        """A network like it, for the average of its weights; set `trainable` to False after it is built."""
        return type(network).from_config(network.get_config() | {"name": "ema"})

    def ema_and_network(self):
        """The network with averaged weights, and the network that is trained."""
        raise NotImplementedError

    def update_ema(self):
        """A step of the moving average, with the decay min(n / (n + 9), ema) after n steps."""
        decay = ops.minimum(self.updates / (self.updates + 9), self.ema)
        ema, network = self.ema_and_network()
        for mean, weight in zip(ema.weights, network.weights):
            mean.assign(mean + (1 - decay) * (weight - mean))
        self.updates.assign_add(1.0)

    def packed_weights(self):
        return self.ema_and_network()[0].weights

    def unpacked(self):
        ema, network = self.ema_and_network()
        network.set_weights(ema.get_weights())

    def labels_input(self, hint):
        """The input of an endpoint for labels (n,), -1 for none."""
        hint = hint if self.num_classes else "this model was trained without classes"
        return Ints("labels", -1, self.num_classes - 1, default=(-1,), hint=hint)

    def checked_labels(self, labels, count):
        """`labels`, one for all or (n,) repeated in turn, as int32 (count,); None for None.

        `UserError` for labels that are no classes of the model, or for a model without classes.
        """
        if labels is None:
            return None
        if not self.num_classes:
            raise UserError("this model was trained without classes: it takes no labels")
        labels = np.atleast_1d(np.asarray(labels))
        if labels.dtype.kind not in "iu" or labels.ndim != 1 or not len(labels):
            raise UserError("labels must be whole numbers: one, or a list")
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise UserError(f"labels must lie in 0 to {self.num_classes - 1}, not {labels.min()} to {labels.max()}")
        return np.resize(labels, count).astype(np.int32)


def checked_range(images):
    """An array of images as float32 in [0, 1], bytes divided by 255; `UserError` for values outside [0, 1]."""
    images = np.float32(images / 255) if images.dtype == np.uint8 else np.float32(images)
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise UserError(f"images must lie in [0, 1], not between {images.min():g} and {images.max():g}")
    return images


def checked_count_and_seed(count, seed):
    """(count, seed) unchanged; `UserError` unless 0 <= count and 0 <= seed < 2^31."""
    COUNT.check(count)
    SEED.check(seed)
    return count, seed
