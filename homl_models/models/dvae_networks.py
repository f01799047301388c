"""Networks of the discrete VAE (`dvae.py`): DALL-E's, and a small form after the VQ-VAE's.

DALL-E's are residual networks of bottleneck blocks (Ramesh et al., 2021, https://arxiv.org/abs/2102.12092, appendix A):
four groups of blocks, with max pooling between those of the encoder and nearest-neighbour upsampling between those of
the decoder. The small form has three strided convolutions, as the VQ-VAE (van den Oord et al., 2017,
https://arxiv.org/abs/1711.00937, section 4.1) has two. What touches the relaxation is a 1x1 convolution in single
precision. Shapes: b batch, h height, w width, c channels, k codes; images shrink by the factor f = 8.
"""

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.layers.pixels import upsample_nearest

GROUPS = 4  # of DALL-E's networks
HE = 2.0  # gain of He's initialization, which keeps the variance behind a ReLU


def conv(filters, size, name, gain=1.0, **kwargs):
    """A convolution whose initial kernel is normal, with standard deviation (gain / fan_in)^0.5."""
    initializer = keras.initializers.VarianceScaling(gain, "fan_in", "untruncated_normal")
    return keras.layers.Conv2D(filters, size, padding="same", kernel_initializer=initializer, name=name, **kwargs)


def after_relu(layers, x):
    """x through the layers, with a ReLU before each."""
    for layer in layers:
        x = layer(ops.relu(x))
    return x


@keras.saving.register_keras_serializable("homl_models")
class BottleneckBlock(Layer):
    """Residual block, skip(x) + gain * conv(relu(... conv(relu(x)))): (b, h, w, any) -> (b, h, w, filters).

    The skip connection is a 1x1 convolution where the number of channels changes.

    Args:
        filters: of the last convolution.
        hidden_filters: of the others.
        kernel_sizes: of the convolutions, one after the other.
        gain: 1 / n^2 in a network of n such blocks.
        init_gain: of the initial kernels, see `conv`.
    """

    def __init__(self, filters, hidden_filters, kernel_sizes=(3, 3, 3, 1), gain=1.0, init_gain=1.0, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.hidden_filters = filters, hidden_filters
        self.kernel_sizes, self.gain, self.init_gain = tuple(kernel_sizes), gain, init_gain
        widths = [hidden_filters] * (len(self.kernel_sizes) - 1) + [filters]
        self.convolutions = [
            conv(n, size, f"conv{i}", init_gain, dtype=self.dtype_policy)
            for i, (n, size) in enumerate(zip(widths, self.kernel_sizes), 1)
        ]

    def build(self, input_shape):
        channels = input_shape[-1]
        self.skip = None
        if channels != self.filters:
            self.skip = conv(self.filters, 1, "skip", dtype=self.dtype_policy)
            self.skip.build((None, None, None, channels))
        for layer in self.convolutions:
            layer.build((None, None, None, channels))
            channels = layer.filters
        self.built = True

    def call(self, x):
        return (x if self.skip is None else self.skip(x)) + self.gain * after_relu(self.convolutions, x)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)


class DalleNetwork(Layer):
    """Base class of DALL-E's networks: a convolution, four groups of blocks, and a 1x1 convolution.

    Args:
        vocab_size: k.
        dim: channels of the largest feature maps; the smallest have eight times as many.
        num_blocks: of each group.
    """

    stride = 2 ** (GROUPS - 1)  # f

    def __init__(self, vocab_size=8192, dim=256, num_blocks=2, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.dim, self.num_blocks = vocab_size, dim, num_blocks

    def groups(self, factors, kernel_sizes):
        """A list of blocks for each of `factors`, which multiply `dim`."""
        gain = 1 / (GROUPS * self.num_blocks) ** 2
        return [
            [
                BottleneckBlock(
                    n * self.dim,
                    n * self.dim // 4,
                    kernel_sizes,
                    gain,
                    name=f"group{group}_block{i}",
                    dtype=self.dtype_policy,
                )
                for i in range(1, self.num_blocks + 1)
            ]
            for group, n in enumerate(factors, 1)
        ]

    def build_layers(self, channels, *layers):
        """Build layers that follow one another, the first of them on that many channels."""
        for layer in layers:
            layer.build((None, None, None, channels))
            channels = layer.filters
        self.built = True


@keras.saving.register_keras_serializable("homl_models")
class DalleEncoder(DalleNetwork):
    """DALL-E's encoder: mapped images (b, h, w, c) -> logits (b, h / 8, w / 8, k), float32.

    A 7x7 convolution, then groups of `dim`, 2 `dim`, 4 `dim` and 8 `dim` channels. Args: see `DalleNetwork`.
    """

    def __init__(self, vocab_size=8192, dim=256, num_blocks=2, name="encoder", **kwargs):
        super().__init__(vocab_size, dim, num_blocks, name=name, **kwargs)
        self.conv_in = conv(dim, 7, "conv_in", dtype=self.dtype_policy)
        self.blocks = self.groups((1, 2, 4, 8), (3, 3, 3, 1))
        self.conv_out = conv(vocab_size, 1, "conv_out", dtype="float32")

    def build(self, input_shape):
        self.build_layers(input_shape[-1], self.conv_in, *sum(self.blocks, []), self.conv_out)

    def call(self, images):
        x = self.conv_in(images)
        for i, group in enumerate(self.blocks):
            x = ops.max_pool(x, 2) if i else x
            for block in group:
                x = block(x)
        return self.conv_out(ops.cast(ops.relu(x), "float32"))


@keras.saving.register_keras_serializable("homl_models")
class DalleDecoder(DalleNetwork):
    """DALL-E's decoder: codes (b, h, w, k), one-hot or relaxed -> (b, 8 h, 8 w, output_channels), float32.

    A 1x1 convolution to half of `dim`, whose kernel is the codebook, then the encoder's groups in reverse.

    Args:
        output_channels: 2 c for the logit-Laplace distribution, c for the squared error.
        vocab_size, dim, num_blocks: see `DalleNetwork`.
    """

    def __init__(self, output_channels=6, vocab_size=8192, dim=256, num_blocks=2, name="decoder", **kwargs):
        super().__init__(vocab_size, dim, num_blocks, name=name, autocast=False, **kwargs)  # relaxed codes stay float32
        self.output_channels = output_channels
        self.conv_in = conv(dim // 2, 1, "conv_in", dtype="float32")
        self.blocks = self.groups((8, 4, 2, 1), (1, 3, 3, 3))
        self.conv_out = conv(output_channels, 1, "conv_out", dtype=self.dtype_policy)

    def build(self, input_shape=None):
        self.build_layers(self.vocab_size, self.conv_in, *sum(self.blocks, []), self.conv_out)

    def call(self, codes):
        x = ops.cast(self.conv_in(codes), self.compute_dtype)
        for i, group in enumerate(self.blocks):
            x = upsample_nearest(x) if i else x
            for block in group:
                x = block(x)
        return ops.cast(self.conv_out(ops.relu(x)), "float32")


class ConvNetwork(Layer):
    """Base class of the small networks: three convolutions of stride 2, and residual blocks at the smallest size.

    Kernels have He's initialization.

    Args:
        vocab_size: k.
        dim: channels of the smallest feature maps; the others have a half and a quarter.
        num_blocks: residual blocks, a 3x3 convolution to a quarter of `dim` and a 1x1 convolution.
    """

    stride = 8  # f

    def __init__(self, vocab_size=512, dim=128, num_blocks=2, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.dim, self.num_blocks = vocab_size, dim, num_blocks
        self.blocks = [
            BottleneckBlock(dim, dim // 4, (3, 1), init_gain=HE, name=f"block{i}", dtype=self.dtype_policy)
            for i in range(1, num_blocks + 1)
        ]

    build_layers = DalleNetwork.build_layers


@keras.saving.register_keras_serializable("homl_models")
class ConvEncoder(ConvNetwork):
    """The small encoder: mapped images (b, h, w, c) -> logits (b, h / 8, w / 8, k), float32.

    Args: see `ConvNetwork`.
    """

    def __init__(self, vocab_size=512, dim=128, num_blocks=2, name="encoder", **kwargs):
        super().__init__(vocab_size, dim, num_blocks, name=name, **kwargs)
        self.convolutions = [
            conv(n, 4, f"conv{i}", HE, strides=2, dtype=self.dtype_policy)
            for i, n in enumerate((dim // 4, dim // 2, dim), 1)
        ]
        self.conv_out = conv(vocab_size, 1, "conv_out", HE, dtype="float32")

    def build(self, input_shape):
        self.build_layers(input_shape[-1], *self.convolutions, *self.blocks, self.conv_out)

    def call(self, images):
        x = after_relu(self.convolutions[1:], self.convolutions[0](2 * images - 1))
        for block in self.blocks:
            x = block(x)
        return self.conv_out(ops.cast(ops.relu(x), "float32"))


@keras.saving.register_keras_serializable("homl_models")
class ConvDecoder(ConvNetwork):
    """The small decoder: codes (b, h, w, k), one-hot or relaxed -> (b, 8 h, 8 w, output_channels), float32.

    A 1x1 convolution, whose kernel is the codebook, the blocks, three transposed convolutions, a 1x1 convolution.

    Args:
        output_channels: 2 c for the logit-Laplace distribution, c for the squared error.
        vocab_size, dim, num_blocks: see `ConvNetwork`.
    """

    def __init__(self, output_channels=6, vocab_size=512, dim=128, num_blocks=2, name="decoder", **kwargs):
        super().__init__(vocab_size, dim, num_blocks, name=name, autocast=False, **kwargs)  # relaxed codes stay float32
        self.output_channels = output_channels
        self.conv_in = conv(dim, 1, "conv_in", dtype="float32")
        self.transposed = [
            keras.layers.Conv2DTranspose(n, 4, 2, padding="same", name=f"transposed{i}", dtype=self.dtype_policy)
            for i, n in enumerate((dim // 2, dim // 4, dim // 4), 1)
        ]
        self.conv_out = conv(output_channels, 1, "conv_out", dtype=self.dtype_policy)

    def build(self, input_shape=None):
        self.build_layers(self.vocab_size, self.conv_in, *self.blocks, *self.transposed, self.conv_out)

    def call(self, codes):
        x = ops.cast(self.conv_in(codes), self.compute_dtype)
        for block in self.blocks:
            x = block(x)
        return ops.cast(after_relu([*self.transposed, self.conv_out], x), "float32")
