"""What models of pictures share: their shape, checks of what comes in, and working through many.

Shapes: b batch, n pictures, h height, w width, c channels.
"""

import functools
import math

import numpy as np
from keras import ops

from homl_models.base import Model, compiled
from homl_models.errors import UserError


class PictureModel(Model):
    """A model of pictures of one shape.

    image_shape: (h, w), or (h, w, c).
    """

    def __init__(self, image_shape=(28, 28), **kwargs):
        super().__init__(**kwargs)
        if len(image_shape) not in (2, 3) or min(image_shape) < 1:
            raise UserError(f"image_shape must be (height, width) or (height, width, channels), not {image_shape}")
        self.image_shape = tuple(image_shape)
        self.pixels = math.prod(self.image_shape)
        self.channels = self.image_shape[2] if len(self.image_shape) == 3 else 1

    def checked(self, images):
        """`images` as an array (n, ...) of floats, if they have this model's shape and lie in [0, 1]."""
        images = np.asarray(images)
        images = np.float32(images / 255) if images.dtype == np.uint8 else np.float32(images)
        if images.shape[1:] != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise UserError(f"images must have the shape (n, {wanted}), not {images.shape}; resize them")
        if images.size and not (images.min() >= 0 and images.max() <= 1):
            raise UserError(f"images must lie in [0, 1], not between {images.min():g} and {images.max():g}")
        return images

    @functools.cached_property
    def _compiled(self):
        return {}

    def run(self, name, array, batch_size=100):
        """The method `name` of this model, compiled, on an array of a row per picture, batch by batch -> floats.

        The last batch is filled up, so that there is one shape to compile.
        """
        if name not in self._compiled:
            self._compiled[name] = compiled(getattr(self, name))
        batches = [array[i : i + batch_size] for i in range(0, max(len(array), 1), batch_size)]
        batches[-1] = np.pad(batches[-1], [(0, batch_size - len(batches[-1]))] + [(0, 0)] * (np.ndim(array) - 1))
        parts = [self._compiled[name](ops.convert_to_tensor(batch)) for batch in batches]
        return np.concatenate([ops.convert_to_numpy(ops.cast(part, "float32")) for part in parts])[: len(array)]

    # In a graph.

    def spec(self, name):
        """The signature of an input of pictures (b, ...)."""
        import tensorflow as tf

        return tf.TensorSpec((None, *self.image_shape), tf.float32, name=name)

    def within(self, images):
        """`images`, refused where they leave [0, 1]."""
        import tensorflow as tf

        inside = tf.reduce_all((images >= 0) & (images <= 1))
        tf.debugging.Assert(inside, ["images must lie in [0, 1]; divide bytes by 255"])
        return images
