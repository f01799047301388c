"""Discriminators of super-resolution: VGG-style (SRGAN, ESRGAN) and a U-Net (Real-ESRGAN).

Shapes: b batch, h height, w width, c channels, f filters.
"""

import keras
from keras import ops

from homl_models.base import Model
from homl_models.errors import UserError
from homl_models.layers.spectral import SpectralNormConv2D

SLOPE = 0.2  # of leaky ReLUs
NUM_LEVELS = 5, 6  # of the VGG-style discriminator, up to 128 pixels and above


def lrelu(x):
    return ops.leaky_relu(x, SLOPE)


@keras.saving.register_keras_serializable("homl_models")
class VGGDiscriminator(Model):
    """VGG-style discriminator: images (b, n, n, c) in [0, 1] -> logits (b,) that they are real.

    Levels of two convolutions, the second of stride 2, with batch normalization, then two dense layers (Ledig et al.,
    2016, https://arxiv.org/abs/1609.04802, figure 4). As in the code of ESRGAN's authors the strided kernels are 4x4,
    the hidden dense layer has 100 units, and the last filters are 8 f from the fourth level on.

    Args:
        image_size: n, a multiple of 32; of 64 above 128. The paper crops 96, ESRGAN 128.
        filters: f, of the first level. channels: c.
    """

    def __init__(self, image_size=128, filters=64, channels=3, **kwargs):
        super().__init__(**kwargs)
        levels = NUM_LEVELS[image_size > 128]
        if image_size < 32 or image_size % 2**levels:
            raise UserError(f"image_size must be a multiple of {2**levels}, not {image_size}")
        self.image_size, self.filters, self.channels = image_size, filters, channels
        self.sizes = [filters * min(2**i, 8) for i in range(levels)]
        dtype = self.dtype_policy
        self.convolutions, self.norms = [], []
        for i, size in enumerate(self.sizes):
            for kernel, strides in ((3, 1), (4, 2)):
                first = not self.convolutions
                self.convolutions.append(
                    keras.layers.Conv2D(
                        size, kernel, strides, "same", use_bias=first, name=f"conv{i}_{strides - 1}", dtype=dtype
                    )
                )
                if not first:
                    self.norms.append(
                        keras.layers.BatchNormalization(
                            momentum=0.9, epsilon=1e-5, name=f"bn{i}_{strides - 1}", dtype=dtype
                        )
                    )
        self.hidden = keras.layers.Dense(100, name="hidden", dtype=dtype)
        self.logit = keras.layers.Dense(1, name="logit", dtype=dtype)

    def build(self, input_shape=None):
        channels = [self.channels, *(size for size in self.sizes for _ in range(2))]
        for layer, n in zip(self.convolutions, channels):
            layer.build((None, None, None, n))
        for layer, n in zip(self.norms, channels[2:]):
            layer.build((None, None, None, n))
        side = self.image_size // 2 ** len(self.sizes)
        self.hidden.build((None, side * side * self.sizes[-1]))
        self.logit.build((None, 100))
        self.built = True

    def compute_output_shape(self, input_shape):
        return (input_shape[0],)

    def call(self, images, training=None):
        x = lrelu(self.convolutions[0](images))
        for convolution, norm in zip(self.convolutions[1:], self.norms):
            x = lrelu(norm(convolution(x), training=training))
        x = lrelu(self.hidden(ops.reshape(x, (ops.shape(x)[0], -1))))
        return ops.cast(self.logit(x)[:, 0], "float32")


@keras.saving.register_keras_serializable("homl_models")
class UNetDiscriminator(Model):
    """U-Net with spectral normalization: images (b, h, w, c) -> logits (b, h, w) that each pixel is real.

    Three levels down by strided convolutions, three up by bilinear interpolation, the features of equal size added
    (Wang et al., 2021, https://arxiv.org/abs/2107.10833, section 4.2 and figure 6).

    Args:
        filters: f. channels: c. h and w are multiples of 8.
    """

    def __init__(self, filters=64, channels=3, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.channels = filters, channels
        dtype = self.dtype_policy
        self.first = keras.layers.Conv2D(filters, 3, padding="same", name="first", dtype=dtype)
        self.down = [self.normalized(filters * 2**i, 4, 2, f"down_{i}") for i in (1, 2, 3)]
        self.up = [self.normalized(filters * 2**i, 3, 1, f"up_{i}") for i in (2, 1, 0)]
        self.last = [self.normalized(filters, 3, 1, f"last_{i}") for i in (0, 1)]
        self.logit = keras.layers.Conv2D(1, 3, padding="same", name="logit", dtype=dtype)

    def normalized(self, filters, kernel, strides, name):
        return SpectralNormConv2D(filters, kernel, strides, "same", use_bias=False, name=name, dtype=self.dtype_policy)

    def build(self, input_shape=None):
        f = self.filters
        sizes = [self.channels, f, 2 * f, 4 * f, 8 * f, 4 * f, 2 * f, f, f, f]
        for layer, n in zip([self.first, *self.down, *self.up, *self.last, self.logit], sizes, strict=True):
            layer.build((None, None, None, n))
        self.built = True

    def compute_output_shape(self, input_shape):
        return input_shape[:3]

    def call(self, images, training=None):
        x = lrelu(self.first(images))
        skips = []
        for layer in self.down:
            skips.append(x)
            x = lrelu(layer(x, training=training))
        for layer, skip in zip(self.up, reversed(skips)):
            height, width = ops.shape(x)[1], ops.shape(x)[2]
            x = ops.image.resize(x, (2 * height, 2 * width), interpolation="bilinear")
            x = lrelu(layer(x, training=training)) + skip
        for layer in self.last:
            x = lrelu(layer(x, training=training))
        return ops.cast(self.logit(x)[..., 0], "float32")
