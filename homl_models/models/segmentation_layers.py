"""Layers of semantic segmentation on a vision Transformer: feature pyramid, UPerNet, FCN.

A plain vision Transformer has maps of one size only. Four of its blocks give a pyramid at 4, 2, 1 and 1/2 times the
patches' resolution (Bao et al., 2021, https://arxiv.org/abs/2106.08254, section 3.2), which UPerNet (Xiao et al., 2018,
https://arxiv.org/abs/1807.10221, section 3.1) fuses; during training an FCN (Long et al., 2014,
https://arxiv.org/abs/1411.4038) on one level has a loss of its own, as in PSPNet.
Sizes of maps are static; they are resized by a product of matrices for each axis.
Shapes: b batch, (h, w) rows and columns of a map, d hidden size, n labels.
"""

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError
from homl_models.layers.interpolation import adaptive_mean_matrix, bilinear_matrix, resize_maps

MOMENTUM, EPSILON = 0.9, 1e-5  # of batch normalization, PyTorch's defaults


def convolution(config, units, kernel_size, name, dtype, use_bias=True):
    """A new convolution of stride 1 whose maps keep their size."""
    settings = {"kernel_initializer": config.initializer, "use_bias": use_bias, "data_format": "channels_last"}
    return keras.layers.Conv2D(units, kernel_size, padding="same", name=name, dtype=dtype, **settings)


def batch_norm(dtype, epsilon=EPSILON):
    return keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=epsilon, axis=-1, name="norm", dtype=dtype)


def check_window(rows, columns):
    """`UserError` for images of too few patches, of which max-pooling leaves nothing."""
    if min(rows, columns) < 2:
        raise UserError(f"images have {rows}x{columns} patches; segmentation needs at least 2x2")


def upsampled(maps, shape):
    """Maps (b, h, w, d) by bilinear interpolation as (b, *shape, d)."""
    return resize_maps(maps, shape, bilinear_matrix)


@keras.saving.register_keras_serializable("homl_models")
class ConvNormRelu(Layer):
    """Convolution without bias, batch normalization, ReLU: (b, h, w, d) -> (b, h, w, units).

    Args:
        config: a `BeitConfig`, for the initializer.
        units: channels of the output.
        kernel_size: height and width of the kernel.
    """

    def __init__(self, config, units, kernel_size=1, **kwargs):
        super().__init__(**kwargs)
        self.config, self.units, self.kernel_size = config, units, kernel_size
        self.conv = convolution(config, units, kernel_size, "conv", self.dtype_policy, use_bias=False)
        self.norm = batch_norm(self.dtype_policy)

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.norm.build((None, None, None, self.units))

    def call(self, x, training=None):
        return ops.relu(self.norm(self.conv(x), training=training))


@keras.saving.register_keras_serializable("homl_models")
class FeaturePyramid(Layer):
    """Four maps (b, h, w, d) -> a tuple of them at 4, 2, 1 and 1/2 times their size.

    By two transposed convolutions with a normalization and a GELU between, by one, unchanged, and by max-pooling.

    Args:
        config: a `BeitConfig`.
        epsilon: of the normalization.
    """

    def __init__(self, config, epsilon=EPSILON, **kwargs):
        super().__init__(**kwargs)
        check_window(*config.window)
        self.config, self.epsilon = config, epsilon
        self.four_times = [self.doubling(f"four_times_{i}") for i in range(2)]
        self.norm = batch_norm(self.dtype_policy, epsilon)
        self.twice = self.doubling("twice")

    def doubling(self, name):
        """A new transposed convolution that doubles height and width."""
        settings = {"kernel_initializer": self.config.initializer, "data_format": "channels_last"}
        d = self.config.hidden_size
        return keras.layers.Conv2DTranspose(d, 2, strides=2, name=name, dtype=self.dtype_policy, **settings)

    def build(self, input_shape=None):
        for layer in (*self.four_times, self.norm, self.twice):
            layer.build((None, None, None, self.config.hidden_size))

    def call(self, maps, training=None):
        check_window(*maps[3].shape[1:3])
        first = ops.gelu(self.norm(self.four_times[0](maps[0]), training=training), approximate=False)
        half = ops.max_pool(maps[3], 2, 2, padding="valid", data_format="channels_last")
        return self.four_times[1](first), self.twice(maps[1]), maps[2], half


@keras.saving.register_keras_serializable("homl_models")
class UPerNet(Layer):
    """Head for a pyramid of four maps, the largest first (b, h, w, d), each half as large as the last -> (b, h, w, n).

    Means over 1x1, 2x2, ... bins of the smallest map tell each place of its surroundings (pyramid pooling); what comes
    of that is added to the next larger map, and so on; all levels together, at the size of the largest, give logits.

    Args:
        config: a `BeitConfig`; `pool_scales` are the numbers of bins of a side.
        num_labels: n.
    """

    def __init__(self, config, num_labels=2, **kwargs):
        super().__init__(**kwargs)
        self.config, self.num_labels = config, num_labels
        self.pooled_convs = [self.conv(1, f"pooled_{i}") for i in range(len(config.pool_scales))]
        self.bottleneck = self.conv(3, "bottleneck")
        self.lateral_convs = [self.conv(1, f"lateral_{i}") for i in range(3)]
        self.fpn_convs = [self.conv(3, f"fpn_{i}") for i in range(3)]
        self.fpn_bottleneck = self.conv(3, "fpn_bottleneck")
        self.classifier = convolution(config, num_labels, 1, "classifier", self.dtype_policy)

    def conv(self, kernel_size, name):
        return ConvNormRelu(self.config, self.config.hidden_size, kernel_size, name=name, dtype=self.dtype_policy)

    def build(self, input_shape=None):
        d, wide = self.config.hidden_size, 1 + len(self.pooled_convs)
        for layer in (*self.pooled_convs, *self.lateral_convs, *self.fpn_convs, self.classifier):
            layer.build((None, None, None, d))
        self.bottleneck.build((None, None, None, wide * d))
        self.fpn_bottleneck.build((None, None, None, 4 * d))

    def call(self, maps, training=None):
        levels = [conv(x, training=training) for conv, x in zip(self.lateral_convs, maps)]
        levels.append(self.pyramid_pooling(maps[-1], training))
        for i in reversed(range(3)):
            levels[i] = levels[i] + upsampled(levels[i + 1], levels[i].shape[1:3])
        levels = [*(conv(x, training=training) for conv, x in zip(self.fpn_convs, levels)), levels[-1]]
        together = ops.concatenate([upsampled(x, levels[0].shape[1:3]) for x in levels], axis=-1)
        return self.classifier(self.fpn_bottleneck(together, training=training))

    def pyramid_pooling(self, x, training=None):
        """A map (b, h, w, d) -> (b, h, w, d), with the means over bins of all sizes (Zhao et al., 2016)."""
        parts = [x]
        for scale, conv in zip(self.config.pool_scales, self.pooled_convs):
            means = resize_maps(x, (scale, scale), adaptive_mean_matrix)
            parts.append(upsampled(conv(means, training=training), x.shape[1:3]))
        return self.bottleneck(ops.concatenate(parts, axis=-1), training=training)


@keras.saving.register_keras_serializable("homl_models")
class FCN(Layer):
    """Fully convolutional head: a map (b, h, w, d) -> logits (b, h, w, n).

    Args:
        config: a `BeitConfig`, of which `auxiliary_channels`, `auxiliary_num_convs` and `auxiliary_concat_input` count.
        num_labels: n.
    """

    def __init__(self, config, num_labels=2, **kwargs):
        super().__init__(**kwargs)
        self.config, self.num_labels = config, num_labels
        self.convs = [self.conv(f"conv_{i}") for i in range(config.auxiliary_num_convs)]
        self.concat_conv = self.conv("concat") if config.auxiliary_concat_input else None
        self.classifier = convolution(config, num_labels, 1, "classifier", self.dtype_policy)

    def conv(self, name):
        return ConvNormRelu(self.config, self.config.auxiliary_channels, 3, name=name, dtype=self.dtype_policy)

    def build(self, input_shape=None):
        size, channels = self.config.hidden_size, self.config.auxiliary_channels
        width = size
        for layer in self.convs:
            layer.build((None, None, None, width))
            width = channels
        if self.concat_conv:
            self.concat_conv.build((None, None, None, size + width))
            width = channels
        self.classifier.build((None, None, None, width))

    def call(self, x, training=None):
        y = x
        for conv in self.convs:
            y = conv(y, training=training)
        if self.concat_conv:
            y = self.concat_conv(ops.concatenate([x, y], axis=-1), training=training)
        return self.classifier(y)
