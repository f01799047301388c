"""U-Nets: the networks of a diffusion model (`models/ddpm.py`), called at every sampling step.

`UNet` (Ho et al., 2020, https://arxiv.org/abs/2006.11239, appendix B; after Ronneberger et al., 2015): residual blocks
conditioned on the timestep, downsampling and upsampling with skip connections, and attention at the lower resolutions.
`SeparableUNet`: the book's small one, of separable convolutions and batch normalization.
Shapes: b batch, h height, w width, c channels of images, n channels of feature maps, d condition.

Deviations from Ho et al.: images are cut into patches first and put together last (patchify), which saves the highest
resolution; one residual block on the way down and one up, not two and three.
"""

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError
from homl_models.layers.attention import MultiHeadAttention
from homl_models.layers.dropout import Dropout
from homl_models.layers.normalization import GroupNormalization
from homl_models.layers.positional import sinusoids

GROUPS = 8  # of channels, for group normalization


@keras.saving.register_keras_serializable("homl_models")
class ResidualBlock(Layer):
    """Residual block: feature maps (b, h, w, n) and a condition (b, d) -> (b, h, w, filters).

    Args:
        filters: channels of its output, a multiple of 8.
        dropout: rate before the second convolution.
    """

    def __init__(self, filters, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.dropout = filters, dropout
        dtype = self.dtype_policy
        self.norms = [GroupNormalization(GROUPS, dtype=dtype) for _ in range(2)]
        self.conv_1 = keras.layers.Conv2D(filters, 3, padding="same", dtype=dtype)
        self.conv_2 = keras.layers.Conv2D(filters, 3, padding="same", kernel_initializer="zeros", dtype=dtype)
        self.condition_dense = keras.layers.Dense(filters, dtype=dtype)
        self.dropout_layer = Dropout(dropout, dtype=dtype)
        self.shortcut = keras.layers.Conv2D(filters, 1, dtype=dtype)

    def build(self, maps_shape, condition_shape):
        self.norms[0].build(maps_shape)
        self.conv_1.build(maps_shape)
        self.condition_dense.build(condition_shape)
        inner = (*maps_shape[:-1], self.filters)
        self.norms[1].build(inner)
        self.conv_2.build(inner)
        if maps_shape[-1] != self.filters:
            self.shortcut.build(maps_shape)

    def call(self, maps, condition, training=None):
        x = self.conv_1(ops.silu(self.norms[0](maps)))
        x = x + self.condition_dense(condition)[:, None, None]
        x = self.conv_2(self.dropout_layer(ops.silu(self.norms[1](x)), training=training))
        return x + (maps if maps.shape[-1] == self.filters else self.shortcut(maps))


@keras.saving.register_keras_serializable("homl_models")
class AttentionBlock(Layer):
    """Self-attention over the positions of feature maps, with a residual connection: (b, h, w, n) -> (b, h, w, n).

    Args:
        num_heads: of the attention; it divides n.
    """

    def __init__(self, num_heads=4, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def build(self, maps_shape):
        self.norm = GroupNormalization(GROUPS, dtype=self.dtype_policy)
        self.norm.build(maps_shape)
        self.attention = MultiHeadAttention(maps_shape[-1], self.num_heads, dtype=self.dtype_policy)
        self.attention.build((None, None, maps_shape[-1]))

    def call(self, maps):
        height, width, n = maps.shape[1:]
        x = ops.reshape(self.norm(maps), (-1, height * width, n))
        return maps + ops.reshape(self.attention(x), (-1, height, width, n))


class Network(Layer):
    """Base class of the networks of a diffusion model.

    Noisy images (b, h, w, c), timesteps (b,) and, if `num_classes`, labels (b,) in 0 to num_classes, where num_classes
    is no class -> prediction (b, h, w, c) float32.

    Args:
        channels: c.
        num_classes: of the labels; 0 for a network that takes none.
    """

    def __init__(self, channels=1, num_classes=0, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.num_classes = channels, num_classes


@keras.saving.register_keras_serializable("homl_models")
class UNet(Network):
    """U-Net of residual blocks, a `Network`. Images of any size: they are padded at the bottom and the right.

    Args:
        filters: channels at each level, highest resolution first, multiples of 8; each level but the first has half
            the resolution of the one before.
        num_blocks: residual blocks of a level on the way down, and on the way up.
        attention_levels: levels with attention after each residual block.
        num_heads: of that attention.
        patch: side of the patches that the image is cut into, in pixels, 1 or more.
        dropout: rate in the residual blocks.
    """

    def __init__(
        self,
        filters=(64, 128),
        num_blocks=1,
        attention_levels=(1,),
        num_heads=4,
        patch=2,
        dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if any(n % GROUPS for n in filters):
            raise UserError(f"filters must be multiples of {GROUPS}, not {', '.join(map(str, filters))}")
        self.filters, self.num_blocks, self.attention_levels = tuple(filters), num_blocks, tuple(attention_levels)
        self.num_heads, self.patch, self.dropout = num_heads, patch, dropout
        dtype, levels, n = self.dtype_policy, range(len(filters)), filters[0]

        def block(level):
            """A residual block, and attention where this level has it."""
            attention = AttentionBlock(num_heads, dtype=dtype) if level in attention_levels else None
            return [layer for layer in (ResidualBlock(filters[level], dropout, dtype=dtype), attention) if layer]

        def conv(n, size=3, **settings):
            return keras.layers.Conv2D(n, size, padding="same", dtype=dtype, **settings)

        self.time_mlp = [keras.layers.Dense(4 * n, "silu", dtype=dtype), keras.layers.Dense(4 * n, dtype=dtype)]
        self.embedding = keras.layers.Embedding(self.num_classes + 1, 4 * n, dtype=dtype) if self.num_classes else None
        self.conv_in = conv(n, max(3, 2 * patch), strides=patch)  # patchify
        self.down_blocks = [[block(i) for _ in range(num_blocks)] for i in levels]
        self.downsample = [conv(filters[i], strides=2) for i in levels[1:]]
        self.mid_block = block(len(filters) - 1) + [ResidualBlock(filters[-1], dropout, dtype=dtype)]
        self.up_blocks = [[block(i) for _ in range(num_blocks)] for i in levels]
        self.upsample = [conv(filters[i]) for i in levels[:-1]]
        self.norm_out = GroupNormalization(GROUPS, dtype="float32")
        self.conv_out = keras.layers.Conv2D(
            patch**2 * self.channels, 3, padding="same", kernel_initializer="zeros", dtype="float32"
        )

    @property
    def size_multiple(self):
        """Heights and widths are padded to multiples of this."""
        return self.patch * 2 ** (len(self.filters) - 1)

    def build(self, input_shape):
        n = self.filters[0]
        self.time_mlp[0].build((None, n))
        self.time_mlp[1].build((None, 4 * n))
        if self.embedding:
            self.embedding.build()
        self.conv_in.build(input_shape)
        padded = [-(-size // self.size_multiple) * self.size_multiple for size in input_shape[1:3]]
        sizes = [tuple(size // (self.patch * 2**i) for size in padded) for i in range(len(self.filters))]
        n = self._build_blocks(sizes, n)
        self.norm_out.build((None, *sizes[0], n))
        self.conv_out.build((None, *sizes[0], n))

    def _build_blocks(self, sizes, n):
        """Blocks between `conv_in`, with n channels, and `norm_out`, for the height and width of each level."""
        skips = []
        for i, filters in enumerate(self.filters):
            if i:
                self.downsample[i - 1].build((None, *sizes[i - 1], n))
                n = filters
            for block in self.down_blocks[i]:
                n = self._build_block(block, (None, *sizes[i], n))
                skips.append(n)
        n = self._build_block(self.mid_block, (None, *sizes[-1], n))
        for i in reversed(range(len(self.filters))):
            for block in self.up_blocks[i]:
                n = self._build_block(block, (None, *sizes[i], n + skips.pop()))
            if i:
                self.upsample[i - 1].build((None, *sizes[i - 1], n))
                n = self.filters[i - 1]
        return n

    def _build_block(self, block, shape):
        """Layers of a block, for inputs of that shape -> channels of its output."""
        for layer in block:
            if isinstance(layer, ResidualBlock):
                layer.build(shape, (None, 4 * self.filters[0]))
                shape = (*shape[:-1], layer.filters)
            else:
                layer.build(shape)
        return shape[-1]

    def condition(self, timesteps, labels=None):
        """Timesteps (b,) and labels (b,) -> condition (b, d)."""
        x = ops.cast(sinusoids(timesteps, self.filters[0]), self.compute_dtype)
        x = self.time_mlp[1](self.time_mlp[0](x))
        return ops.silu(x if self.embedding is None else x + self.embedding(labels))

    def call(self, images, timesteps, labels=None, training=None):
        condition = self.condition(timesteps, labels)

        def run(block, x):
            for layer in block:
                x = layer(x, condition, training=training) if isinstance(layer, ResidualBlock) else layer(x)
            return x

        height, width = images.shape[1:3]
        padding = [(0, -size % self.size_multiple) for size in (height, width)]
        x = ops.pad(images, [(0, 0), *padding, (0, 0)]) if any(map(any, padding)) else images
        x, skip_connections = self.conv_in(x), []
        for i in range(len(self.filters)):
            x = self.downsample[i - 1](x) if i else x
            for block in self.down_blocks[i]:
                x = run(block, x)
                skip_connections.append(x)
        x = run(self.mid_block, x)
        for i in reversed(range(len(self.filters))):
            for block in self.up_blocks[i]:
                x = run(block, ops.concatenate([x, skip_connections.pop()], axis=-1))
            x = self.upsample[i - 1](nearest_upsampling(x)) if i else x
        x = self.unpatchify(self.conv_out(ops.silu(self.norm_out(ops.cast(x, "float32")))))
        return x[:, :height, :width] if any(map(any, padding)) else x

    def unpatchify(self, x):
        """(b, h / p, w / p, p * p * c) -> (b, h, w, c)"""
        height, width, p = x.shape[1], x.shape[2], self.patch
        x = ops.transpose(ops.reshape(x, (-1, height, width, p, p, self.channels)), (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, height * p, width * p, self.channels))


def nearest_upsampling(x):
    """Nearest-neighbour upsampling: (b, h, w, n) -> (b, 2 h, 2 w, n)."""
    return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)


@keras.saving.register_keras_serializable("homl_models")
class SeparableUNet(Network):
    """The book's U-Net, of separable convolutions, a `Network`. Images of any size: they are padded.

    Args:
        filters: of the first convolution and of each level on the way down; in reverse, but the last, on the way up.
        time_dim: d.
    """

    def __init__(self, filters=(16, 32, 64, 128), time_dim=64, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.time_dim = tuple(filters), time_dim
        dtype, up_filters = self.dtype_policy, tuple(filters[-2::-1])

        def pair(kind, n):
            return [kind(n, 3, padding="same", dtype=dtype) for _ in range(2)]

        def norms():
            return [keras.layers.BatchNormalization(dtype=dtype) for _ in range(2)]

        self.embedding = keras.layers.Embedding(self.num_classes + 1, time_dim) if self.num_classes else None
        self.conv_in = keras.layers.Conv2D(filters[0], 3, dtype=dtype)
        self.norm_in = keras.layers.BatchNormalization(dtype=dtype)
        self.time_dense = [keras.layers.Dense(n, dtype=dtype) for n in (*filters, *up_filters)]
        self.down_convs = [pair(keras.layers.SeparableConv2D, n) for n in filters[1:]]
        self.up_convs = [pair(keras.layers.Conv2DTranspose, n) for n in up_filters]
        self.norms = [norms() for _ in (*filters[1:], *up_filters)]
        self.pool = keras.layers.MaxPooling2D(3, strides=2, padding="same", dtype=dtype)
        self.shortcuts = [keras.layers.Conv2D(n, 1, dtype=dtype) for n in filters[1:]]
        self.shortcuts += [keras.layers.Conv2D(n, 1, dtype=dtype) for n in up_filters]
        self.conv_out = keras.layers.Conv2D(self.channels, 3, padding="same", dtype="float32")

    @property
    def size_multiple(self):
        """Heights and widths are padded to multiples of this."""
        return 2 ** (len(self.filters) - 1)

    def build(self, input_shape):
        self.conv_in.build(input_shape)
        self.norm_in.build((None, None, None, self.filters[0]))
        if self.embedding:
            self.embedding.build()
        for dense in self.time_dense:
            dense.build((None, self.time_dim))
        n, num_levels = self.filters[0], len(self.down_convs)
        for i, convs in enumerate(self.down_convs + self.up_convs):
            self.shortcuts[i].build((None, None, None, n))
            for conv, norm in zip(convs, self.norms[i]):
                conv.build((None, None, None, n))
                norm.build((None, None, None, conv.filters))
                n = conv.filters
            if i >= num_levels:
                n += self.down_convs[2 * num_levels - 1 - i][0].filters  # skip connection
        self.conv_out.build((None, None, None, n))

    def condition(self, timesteps, labels=None):
        """Timesteps (b,) and labels (b,) -> condition (b, d)."""
        condition = ops.cast(sinusoids(timesteps, self.time_dim), self.compute_dtype)
        if self.embedding is None:
            return condition
        return condition + ops.cast(self.embedding(labels), self.compute_dtype)

    def padding(self, size):
        """Pixels to add before and after a height or width.

        2 at least and as many as downsampling takes, half on each side, and 1 for the first convolution.
        """
        added = -(-(size + 4) // self.size_multiple) * self.size_multiple - size
        return added // 2 + 1, added - added // 2 + 1

    def call(self, images, timesteps, labels=None, training=None):
        condition = self.condition(timesteps, labels)

        def add_condition(x, i):
            return x + self.time_dense[i](condition)[:, None, None]

        def run(convs, x, i):
            for conv, norm in zip(convs, self.norms[i]):
                x = norm(conv(ops.relu(x)), training=training)
            return x

        height, width = images.shape[1:3]
        padding = [self.padding(height), self.padding(width)]
        x = self.conv_in(ops.pad(images, [(0, 0), *padding, (0, 0)]))
        x, skip_connections = add_condition(ops.relu(self.norm_in(x, training=training)), 0), []
        for i, convs in enumerate(self.down_convs):
            before, x = x, run(convs, x, i)
            skip_connections.append(x)
            # every second pixel: with strides of 2 oneDNN's gradient of a 1x1 convolution writes beyond its memory
            x = add_condition(self.pool(x) + self.shortcuts[i](before[:, ::2, ::2]), i + 1)
        for i, convs in enumerate(self.up_convs, len(self.down_convs)):
            x = add_condition(run(convs, x, i) + self.shortcuts[i](x), i + 1)
            x = nearest_upsampling(x)  # the book upsamples before the sums
            x = ops.concatenate([x, skip_connections.pop()], axis=-1)
        x = self.conv_out(ops.cast(x, "float32"))
        top, left = padding[0][0] - 1, padding[1][0] - 1
        return x[:, top : top + height, left : left + width]
