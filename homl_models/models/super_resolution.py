"""Super-resolution: the base of models that enlarge images.

A subclass maps images (b, h, w, c) in [0, 1] to (b, s * h, s * w, c). Shapes: b batch, h height, w width, c channels,
s scale.
"""

from keras import ops

from homl_models.base import Model


class SuperResolution(Model):
    """Base class of networks that enlarge images.

    A subclass has `call`, `build()`, and the property `receptive_field`: the pixels of the input on each side that an
    output pixel depends on.

    Args:
        scale: s. channels: c, 1 for luma or grey, 3 for RGB.
    """

    multiple = 1
    """Height and width that `call` takes are multiples of it."""

    def __init__(self, scale=4, channels=3, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.channels = scale, channels

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *(n and self.scale * n for n in input_shape[1:3]), self.channels)

    def enlarge(self, images):
        """Images (b, h, w, c) in [0, 1], of any size -> (b, s * h, s * w, c) in [0, 1], float32."""
        height, width = ops.shape(images)[1], ops.shape(images)[2]
        if self.multiple > 1:
            edges = [(0, 0), (0, -height % self.multiple), (0, -width % self.multiple), (0, 0)]
            images = ops.pad(images, edges, mode="reflect")
        images = ops.cast(self(images, training=False), "float32")
        return ops.clip(images[:, : self.scale * height, : self.scale * width], 0, 1)
