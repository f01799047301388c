"""SRResNet (Ledig et al., 2017, Photo-realistic single image super-resolution using a generative adversarial network,
https://arxiv.org/abs/1609.04802, figure 4): the generator of SRGAN, residual blocks and pixel shuffles.

`MSRResNet` is its descendant in the package BasicSR, without batch normalization and with a bilinear skip connection.
Recipe: `srresnet_small`. Shapes: b batch, h height, w width, c channels, f filters.

Deviations: images in [0, 1] on both sides, where the paper has [-1, 1] for the output; without batch normalization the
convolutions of the residual blocks begin with a tenth of their size, as ESRGAN's do.
"""

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError
from homl_models.layers.pixels import pixel_shuffle, upsample_bilinear
from homl_models.layers.prelu import PReLU
from homl_models.models.super_resolution import SuperResolution


def conv(filters, size, name, gain=1.0, **kwargs):
    """A convolution with He's initialization times `gain`."""
    initializer = keras.initializers.VarianceScaling(2 * gain**2, "fan_in", "untruncated_normal")
    return keras.layers.Conv2D(filters, size, padding="same", kernel_initializer=initializer, name=name, **kwargs)


def factors(scale):
    """Factors of the pixel shuffles: 2 and 2 for a scale of 4."""
    found = {1: [], 2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}.get(scale)
    if found is None:
        raise UserError(f"scale must be 1, 2, 3, 4 or 8, not {scale}")
    return found


@keras.saving.register_keras_serializable("homl_models")
class SRResidualBlock(Layer):
    """Two 3x3 convolutions, added to their input: (b, h, w, f) -> (b, h, w, f).

    Args:
        filters: f.
        batch_norm: after each convolution (momentum 0.9, epsilon 1e-5).
        activation: "prelu" or "relu", after the first.
        gain: of the initialization of the convolutions.
    """

    def __init__(self, filters=64, batch_norm=True, activation="prelu", gain=1.0, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.batch_norm, self.activation, self.gain = filters, batch_norm, activation, gain
        dtype = self.dtype_policy
        self.convolutions = [conv(filters, 3, f"conv{i}", gain, dtype=dtype) for i in (1, 2)]
        self.norms = [
            keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"norm{i}", dtype=dtype)
            for i in (1, 2)
            if batch_norm
        ]
        self.act = (
            PReLU(name="act", dtype=dtype) if activation == "prelu" else keras.layers.ReLU(name="act", dtype=dtype)
        )

    def build(self, input_shape):
        for layer in (*self.convolutions, *self.norms, self.act):
            layer.build((None, None, None, self.filters))
        self.built = True

    def call(self, x, training=None):
        y = self.convolutions[0](x)
        y = self.norms[0](y, training=training) if self.norms else y
        y = self.convolutions[1](self.act(y))
        return x + (self.norms[1](y, training=training) if self.norms else y)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("homl_models")
class SRResNet(SuperResolution):
    """Images (b, h, w, c) in [0, 1] -> (b, scale * h, scale * w, c), near [0, 1].

    Args:
        scale: 1, 2, 3, 4 or 8. filters: f. num_blocks: residual blocks. channels: c.
        batch_norm: as in the paper. False: none.
    """

    def __init__(self, scale=4, filters=64, num_blocks=16, batch_norm=True, channels=3, **kwargs):
        super().__init__(scale=scale, channels=channels, **kwargs)
        self.filters, self.num_blocks, self.batch_norm = filters, num_blocks, batch_norm
        dtype, gain = self.dtype_policy, 1.0 if batch_norm else 0.1
        self.conv_first = conv(filters, 9, "conv_first", dtype=dtype)
        self.act_first = PReLU(name="act_first", dtype=dtype)
        self.body = [
            SRResidualBlock(filters, batch_norm, gain=gain, name=f"body_{i}", dtype=dtype) for i in range(num_blocks)
        ]
        self.conv_body = conv(filters, 3, "conv_body", gain, dtype=dtype)
        norm = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="norm_body", dtype=dtype)
        self.norm_body = norm if batch_norm else None
        self.factors = factors(scale)
        self.upconv = [conv(filters * r * r, 3, f"upconv{i}", dtype=dtype) for i, r in enumerate(self.factors, 1)]
        self.act_up = [PReLU(name=f"act_up{i}", dtype=dtype) for i in range(1, len(self.factors) + 1)]
        self.conv_last = conv(channels, 9, "conv_last", dtype=dtype)

    @property
    def receptive_field(self):
        """Pixels of the input on each side that an output pixel depends on."""
        return _reach(4, self.factors) + 4 + 2 * self.num_blocks + 1

    def build(self, input_shape=None):
        shape = (None, None, None, self.filters)
        self.conv_first.build((None, None, None, self.channels))
        norms = [self.norm_body] if self.batch_norm else []
        for layer in (self.act_first, *self.body, self.conv_body, *norms, *self.upconv, *self.act_up, self.conv_last):
            layer.build(shape)
        self.built = True

    def call(self, images, training=None):
        x0 = x = self.act_first(self.conv_first(images))
        for block in self.body:
            x = block(x, training=training)
        x = self.conv_body(x)
        x = x0 + (self.norm_body(x, training=training) if self.batch_norm else x)
        for layer, act, factor in zip(self.upconv, self.act_up, self.factors):
            x = act(pixel_shuffle(layer(x), factor))
        return self.conv_last(x)


@keras.saving.register_keras_serializable("homl_models")
class MSRResNet(SuperResolution):
    """SRResNet as BasicSR has it: no batch normalization, 3x3 convolutions alone, added to the bilinear enlargement.

    Images (b, h, w, c) in [0, 1] -> (b, scale * h, scale * w, c), near [0, 1].

    Args:
        scale: 1, 2, 3, 4 or 8. filters: f. num_blocks: residual blocks. channels: c.
    """

    def __init__(self, scale=4, filters=64, num_blocks=16, channels=3, **kwargs):
        super().__init__(scale=scale, channels=channels, **kwargs)
        self.filters, self.num_blocks, self.factors = filters, num_blocks, factors(scale)
        dtype = self.dtype_policy
        self.conv_first = conv(filters, 3, "conv_first", 0.1, dtype=dtype)
        self.body = [
            SRResidualBlock(filters, False, "relu", 0.1, name=f"body_{i}", dtype=dtype) for i in range(num_blocks)
        ]
        self.upconv = [conv(filters * r * r, 3, f"upconv{i}", 0.1, dtype=dtype) for i, r in enumerate(self.factors, 1)]
        self.conv_hr = conv(filters, 3, "conv_hr", 0.1, dtype=dtype)
        self.conv_last = conv(channels, 3, "conv_last", 0.1, dtype=dtype)

    @property
    def receptive_field(self):
        """Pixels of the input on each side that an output pixel depends on."""
        return _reach(2, self.factors) + 1 + 2 * self.num_blocks

    def build(self, input_shape=None):
        self.conv_first.build((None, None, None, self.channels))
        for layer in (*self.body, *self.upconv, self.conv_hr, self.conv_last):
            layer.build((None, None, None, self.filters))
        self.built = True

    def call(self, images, training=None):
        x = _lrelu(self.conv_first(images))
        for block in self.body:
            x = block(x, training=training)
        for layer, factor in zip(self.upconv, self.factors):
            x = _lrelu(pixel_shuffle(layer(x), factor))
        return self.conv_last(_lrelu(self.conv_hr(x))) + upsample_bilinear(images, self.scale)


def _lrelu(x):
    return ops.leaky_relu(x, 0.1)


def _reach(radius, factors):
    """Pixels before the pixel shuffles that `radius` pixels after them come from."""
    for factor in factors:
        radius = -(-radius // factor) + 1
    return radius
