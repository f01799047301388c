"""ESRGAN's generator (Wang et al., 2018, Enhanced super-resolution generative adversarial networks,
https://arxiv.org/abs/1809.00219): residual-in-residual dense blocks (RRDB), without batch normalization.

x_0 = F(image); the trunk adds what n blocks make of it; two nearest-neighbour upsamplings, each with a convolution, and
two more convolutions give the image of 4 times the size. For a scale of 2 or 1 the image is first unshuffled by 2 or 4
(Real-ESRGAN, Wang et al., 2021, https://arxiv.org/abs/2107.10833, section 4.1).
Recipes: `rrdb_small`, `esrgan_small`. Shapes: b batch, h height, w width, c channels, f filters.

Deviations: none known; the order of unshuffled channels is PyTorch's, as the weights of the community have it.
"""

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError
from homl_models.layers.pixels import pixel_unshuffle, upsample_nearest
from homl_models.models.super_resolution import SuperResolution

SLOPE = 0.2  # of leaky ReLUs
BETA = 0.2  # residual scaling, section 3.1


def conv(filters, name, scaled=True, **kwargs):
    """A 3x3 convolution; `scaled`: He's initialization times 0.1, as the paper has it within blocks."""
    initializer = keras.initializers.VarianceScaling(0.02, "fan_in", "untruncated_normal") if scaled else "he_uniform"
    return keras.layers.Conv2D(filters, 3, padding="same", kernel_initializer=initializer, name=name, **kwargs)


def lrelu(x):
    return ops.leaky_relu(x, SLOPE)


@keras.saving.register_keras_serializable("homl_models")
class ResidualDenseBlock(Layer):
    """Five convolutions, each of which reads what all before it gave: (b, h, w, f) -> (b, h, w, f).

    Args:
        filters: f. growth: filters of the first four.
    """

    def __init__(self, filters=64, growth=32, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.growth = filters, growth
        sizes = [growth] * 4 + [filters]
        self.convolutions = [conv(n, f"conv{i}", dtype=self.dtype_policy) for i, n in enumerate(sizes, 1)]

    def build(self, input_shape):
        for i, layer in enumerate(self.convolutions):
            layer.build((None, None, None, self.filters + i * self.growth))
        self.built = True

    def call(self, x):
        known = [x]
        for layer in self.convolutions[:-1]:
            known.append(lrelu(layer(ops.concatenate(known, axis=-1))))
        return x + BETA * self.convolutions[-1](ops.concatenate(known, axis=-1))

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("homl_models")
class RRDB(Layer):
    """Residual-in-residual dense block: three dense blocks with a residual of their own (figure 4)."""

    def __init__(self, filters=64, growth=32, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.growth = filters, growth
        self.blocks = [ResidualDenseBlock(filters, growth, name=f"rdb{i}", dtype=self.dtype_policy) for i in (1, 2, 3)]

    def build(self, input_shape):
        for block in self.blocks:
            block.build(input_shape)
        self.built = True

    def call(self, x):
        y = x
        for block in self.blocks:
            y = block(y)
        return x + BETA * y

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("homl_models")
class RRDBNet(SuperResolution):
    """Images (b, h, w, c) in [0, 1] -> (b, scale * h, scale * w, c), near [0, 1].

    Args:
        scale: 4, 2 or 1.
        filters: f. num_blocks: of the trunk; 23 in the paper. growth: filters within dense blocks.
        channels: c.
    """

    def __init__(self, scale=4, filters=64, num_blocks=23, growth=32, channels=3, **kwargs):
        super().__init__(scale=scale, channels=channels, **kwargs)
        if scale not in (1, 2, 4):
            raise UserError(f"scale must be 1, 2 or 4, not {scale}")
        self.filters, self.num_blocks, self.growth = filters, num_blocks, growth
        self.factor = 4 // scale  # of the unshuffling
        dtype = self.dtype_policy
        self.conv_first = conv(filters, "conv_first", False, dtype=dtype)
        self.body = [RRDB(filters, growth, name=f"body_{i}", dtype=dtype) for i in range(num_blocks)]
        self.conv_body = conv(filters, "conv_body", False, dtype=dtype)
        self.conv_up1 = conv(filters, "conv_up1", False, dtype=dtype)
        self.conv_up2 = conv(filters, "conv_up2", False, dtype=dtype)
        self.conv_hr = conv(filters, "conv_hr", False, dtype=dtype)
        self.conv_last = conv(channels, "conv_last", False, dtype=dtype)

    @property
    def multiple(self):
        return self.factor

    @property
    def receptive_field(self):
        """Pixels of the input on each side that an output pixel depends on."""
        return self.factor * (1 + 15 * self.num_blocks + 1 + 4)

    def build(self, input_shape=None):
        shape = (None, None, None, self.filters)
        self.conv_first.build((None, None, None, self.channels * self.factor**2))
        for layer in (*self.body, self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr, self.conv_last):
            layer.build(shape)
        self.built = True

    def call(self, images, training=None):
        x = pixel_unshuffle(images, self.factor) if self.factor > 1 else images
        x0 = self.conv_first(x)
        x = x0
        for block in self.body:
            x = block(x)
        x = x0 + self.conv_body(x)
        x = lrelu(self.conv_up1(upsample_nearest(x)))
        x = lrelu(self.conv_up2(upsample_nearest(x)))
        return self.conv_last(lrelu(self.conv_hr(x)))
