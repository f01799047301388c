"""SRCNN (Dong et al., 2014, Image super-resolution using deep convolutional networks, https://arxiv.org/abs/1501.00092):
three convolutions that improve a bicubic enlargement.

Patches are extracted, mapped non-linearly, and put together again (equations 1 to 3). It works on luma: Y of BT.601 in
[0, 1]. Recipe: `srcnn`. Shapes: b batch, h height, w width, c channels.

Deviations: zeros around images, where the paper's convolutions lose the border; He's initialization instead of
N(0, 0.001), from which training takes a thousand times as long.
"""

import keras

from homl_models.errors import UserError
from homl_models.layers.pixels import reach_of_bicubic, upsample_bicubic
from homl_models.models.super_resolution import SuperResolution


@keras.saving.register_keras_serializable("homl_models")
class SRCNN(SuperResolution):
    """Images (b, h, w, c) in [0, 1] -> (b, scale * h, scale * w, c), near [0, 1].

    Args:
        scale: of the bicubic enlargement, a whole number. channels: c, 1 for luma.
        kernel_sizes: of the three convolutions, odd: (9, 1, 5), or the larger (9, 5, 5).
        filters: of the first two.
    """

    def __init__(self, scale=3, kernel_sizes=(9, 1, 5), filters=(64, 32), channels=1, **kwargs):
        super().__init__(scale=scale, channels=channels, **kwargs)
        self.kernel_sizes, self.filters = kernel_sizes, filters
        if len(kernel_sizes) != 3 or len(filters) != 2 or not all(n % 2 for n in kernel_sizes):
            raise UserError(f"three odd kernel_sizes and two filters are needed, not {kernel_sizes} and {filters}")
        self.convolutions = [
            keras.layers.Conv2D(
                n,
                size,
                padding="same",
                kernel_initializer="he_normal",
                activation=activation,
                name=f"conv{i}",
                dtype=self.dtype_policy,
            )
            for i, (n, size, activation) in enumerate(
                zip((*filters, channels), kernel_sizes, ("relu", "relu", None)), 1
            )
        ]

    @property
    def receptive_field(self):
        """Pixels of the input on each side that an output pixel depends on."""
        return reach_of_bicubic(sum(size // 2 for size in self.kernel_sizes), self.scale)

    def build(self, input_shape=None):
        for layer, n in zip(self.convolutions, (self.channels, *self.filters)):
            layer.build((None, None, None, n))
        self.built = True

    def call(self, images, training=None):
        x = upsample_bicubic(images, self.scale)
        for layer in self.convolutions:
            x = layer(x)
        return x
