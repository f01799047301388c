"""ESRGAN's generator (Wang et al., 2018, Enhanced super-resolution generative adversarial networks,
https://arxiv.org/abs/1809.00219): residual-in-residual dense blocks (RRDB), without batch normalization.

x_0 = F(image); the trunk adds what n blocks make of it; two nearest-neighbour upsamplings, each with a convolution, and
two more convolutions give the image of 4 times the size. For a scale of 2 or 1 the image is first unshuffled by 2 or 4
(Real-ESRGAN, Wang et al., 2021, https://arxiv.org/abs/2107.10833, section 4.1).
Recipes: `rrdb_small`, `esrgan_small`. Shapes: b batch, h height, w width, c channels, f filters.

Deviations: none known. The order of unshuffled channels is PyTorch's, as the weights of the community have it.
Dense blocks concatenate, as in the paper: sums of partial convolutions, measured instead, take longer.
"""

import math

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError
from homl_models.layers.pixels import pixel_unshuffle, upsample_nearest
from homl_models.models.super_resolution import SuperResolution

SLOPE = 0.2  # of leaky ReLUs
BETA = 0.2  # residual scaling, section 3.1


def conv(filters, name, scaled=False, **kwargs):
    """A 3x3 convolution; `scaled`: He's initialization times 0.1, which the paper has within blocks (section 3.1)."""
    variance = 0.02 if scaled else 1 / 3  # 1 / 3: PyTorch's default, uniform
    kind = "untruncated_normal" if scaled else "uniform"
    initializer = keras.initializers.VarianceScaling(variance, "fan_in", kind)
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
        self.convolutions = [conv(n, f"conv{i}", True, dtype=self.dtype_policy) for i, n in enumerate(sizes, 1)]

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
        scale: 4, 2, 1 or 8.
        filters: f. num_blocks: of the trunk; 23 in the paper. growth: filters within dense blocks.
        channels: c.
        unshuffle: factor by which the image is unshuffled first; by default 2 for a scale of 2, 4 for 1, and none for
            more. Networks of before Real-ESRGAN have 1 there, and fewer upsamplings.
    """

    def __init__(self, scale=4, filters=64, num_blocks=23, growth=32, channels=3, unshuffle=None, **kwargs):
        super().__init__(scale=scale, channels=channels, **kwargs)
        self.filters, self.num_blocks, self.growth, self.unshuffle = filters, num_blocks, growth, unshuffle
        self.factor = unshuffle or max(1, 4 // scale)
        if scale not in (1, 2, 4, 8) or self.factor not in (1, 2, 4):
            raise UserError(f"scale must be 1, 2, 4 or 8, not {scale}; unshuffle 1, 2 or 4, not {unshuffle}")
        num_upsamplings = (scale * self.factor).bit_length() - 1
        dtype = self.dtype_policy
        self.conv_first = conv(filters, "conv_first", dtype=dtype)
        self.body = [RRDB(filters, growth, name=f"body_{i}", dtype=dtype) for i in range(num_blocks)]
        self.conv_body = conv(filters, "conv_body", dtype=dtype)
        self.conv_up = [conv(filters, f"conv_up{i}", dtype=dtype) for i in range(1, num_upsamplings + 1)]
        self.conv_hr = conv(filters, "conv_hr", dtype=dtype)
        self.conv_last = conv(channels, "conv_last", dtype=dtype)

    @property
    def multiple(self):
        return self.factor

    @property
    def receptive_field(self):
        """Pixels of the input on each side that an output pixel depends on."""
        radius = 2  # of conv_last and conv_hr
        for _ in self.conv_up:
            radius = math.ceil((radius + 1) / 2)
        return self.factor * (radius + 2 + 15 * self.num_blocks)

    def build(self, input_shape=None):
        shape = (None, None, None, self.filters)
        self.conv_first.build((None, None, None, self.channels * self.factor**2))
        for layer in (*self.body, self.conv_body, *self.conv_up, self.conv_hr, self.conv_last):
            layer.build(shape)
        self.built = True

    def call(self, images, training=None):
        x = pixel_unshuffle(images, self.factor) if self.factor > 1 else images
        x0 = x = self.conv_first(x)
        for block in self.body:
            x = block(x)
        x = x0 + self.conv_body(x)
        for layer in self.conv_up:
            x = lrelu(layer(upsample_nearest(x)))
        return self.conv_last(lrelu(self.conv_hr(x)))
