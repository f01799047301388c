"""U-Nets that see through noise: what a diffusion model (`models/ddpm.py`) asks at every step.

`UNet` (Ho et al., 2020, https://arxiv.org/abs/2006.11239, appendix B; after Ronneberger et al., 2015): residual blocks
on ever smaller maps and back, each told the time, with links across; attention on the smaller ones.
`SeparableUNet`: the book's small one, of separable convolutions and batch normalization.
Shapes: b batch, h height, w width, c channels, d condition.

Deviations from Ho et al.: images go in and out in patches, which leaves the largest maps out; one residual block on
the way down and one up, not two and three.
"""

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError
from homl_models.layers.attention import MultiHeadAttention
from homl_models.layers.dropout import Dropout
from homl_models.layers.normalization import GroupNormalization
from homl_models.layers.positional import sinusoids

GROUPS = 8  # of maps that are normalized together


@keras.saving.register_keras_serializable("homl_models")
class ResidualBlock(Layer):
    """Maps (b, h, w, n) and a condition (b, d) -> maps (b, h, w, filters)."""

    def __init__(self, filters, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.dropout = filters, dropout
        dtype = self.dtype_policy
        self.norms = [GroupNormalization(GROUPS, dtype=dtype) for _ in range(2)]
        self.first = keras.layers.Conv2D(filters, 3, padding="same", dtype=dtype)
        self.last = keras.layers.Conv2D(filters, 3, padding="same", kernel_initializer="zeros", dtype=dtype)
        self.condition = keras.layers.Dense(filters, dtype=dtype)
        self.dropout_layer = Dropout(dropout, dtype=dtype)
        self.shortcut = keras.layers.Conv2D(filters, 1, dtype=dtype)

    def build(self, maps_shape, condition_shape):
        self.norms[0].build(maps_shape)
        self.first.build(maps_shape)
        self.condition.build(condition_shape)
        inner = (*maps_shape[:-1], self.filters)
        self.norms[1].build(inner)
        self.last.build(inner)
        if maps_shape[-1] != self.filters:
            self.shortcut.build(maps_shape)

    def call(self, maps, condition, training=None):
        x = self.first(ops.silu(self.norms[0](maps)))
        x = x + self.condition(condition)[:, None, None]
        x = self.last(self.dropout_layer(ops.silu(self.norms[1](x)), training=training))
        return x + (maps if maps.shape[-1] == self.filters else self.shortcut(maps))


@keras.saving.register_keras_serializable("homl_models")
class AttentionBlock(Layer):
    """Maps (b, h, w, n) -> (b, h, w, n): every place looks at every other, with `num_heads` heads."""

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
        places = ops.reshape(self.norm(maps), (-1, height * width, n))
        return maps + ops.reshape(self.attention(places), (-1, height, width, n))


class Network(Layer):
    """What both have: a condition made of the time, and of the class of the image if there are classes.

    Noisy images (b, h, w, c), times (b,), and, if `num_classes`, labels (b,) in 0 to num_classes, where num_classes
    stands for none -> (b, h, w, c) float32.
    """

    def __init__(self, channels=1, num_classes=0, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.num_classes = channels, num_classes


@keras.saving.register_keras_serializable("homl_models")
class UNet(Network):
    """The U-Net of residual blocks; see `Network` and the module. Images of any size: they are padded at the far edges.

    filters: of each level, the largest maps first, multiples of 8; every level but the first halves them.
    num_blocks: residual blocks of a level on the way down, and on the way up.
    attention_levels: which levels have attention after each block; num_heads: its heads.
    patch: height and width of the squares of pixels that are taken together, 1 or more.
    dropout: rate within the blocks.
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

        self.dense = [keras.layers.Dense(4 * n, "silu", dtype=dtype), keras.layers.Dense(4 * n, dtype=dtype)]
        self.embedding = keras.layers.Embedding(self.num_classes + 1, 4 * n, dtype=dtype) if self.num_classes else None
        self.enter = conv(n, max(3, 2 * patch), strides=patch)
        self.down = [[block(i) for _ in range(num_blocks)] for i in levels]
        self.halve = [conv(filters[i], strides=2) for i in levels[1:]]
        self.middle = block(len(filters) - 1) + [ResidualBlock(filters[-1], dropout, dtype=dtype)]
        self.up = [[block(i) for _ in range(num_blocks)] for i in levels]
        self.double = [conv(filters[i]) for i in levels[:-1]]
        self.norm = GroupNormalization(GROUPS, dtype="float32")
        self.leave = keras.layers.Conv2D(
            patch**2 * self.channels, 3, padding="same", kernel_initializer="zeros", dtype="float32"
        )

    def build(self, input_shape):
        multiple = self.multiple
        padded = [-(-n // multiple) * multiple for n in input_shape[1:3]]
        sizes = [tuple(n // (self.patch * 2**i) for n in padded) for i in range(len(self.filters))]
        n = self.filters[0]
        self.dense[0].build((None, n))
        self.dense[1].build((None, 4 * n))
        if self.embedding:
            self.embedding.build()
        self.enter.build(input_shape)

        def build(block, level, before):
            for layer in block:
                if isinstance(layer, ResidualBlock):
                    layer.build((None, *sizes[level], before), (None, 4 * n))
                else:
                    layer.build((None, *sizes[level], self.filters[level]))
                before = self.filters[level]

        skips, before = [], n
        for i, filters in enumerate(self.filters):
            if i:
                self.halve[i - 1].build((None, *sizes[i - 1], before))
                before = filters
            for block in self.down[i]:
                build(block, i, before)
                before = filters
                skips.append(before)
        build(self.middle, len(self.filters) - 1, before)
        for i, filters in reversed(list(enumerate(self.filters))):
            for block in self.up[i]:
                build(block, i, before + skips.pop())
                before = filters
            if i:
                self.double[i - 1].build((None, *sizes[i - 1], before))
                before = self.filters[i - 1]
        self.norm.build((None, *sizes[0], before))
        self.leave.build((None, *sizes[0], before))

    @property
    def multiple(self):
        return self.patch * 2 ** (len(self.filters) - 1)

    def condition(self, times, labels=None):
        """Times (b,) and labels (b,) -> (b, d)."""
        x = ops.cast(sinusoids(times, self.filters[0]), self.compute_dtype)
        x = self.dense[1](self.dense[0](x))
        return ops.silu(x if self.embedding is None else x + self.embedding(labels))

    def call(self, images, times, labels=None, training=None):
        condition = self.condition(times, labels)

        def through(block, x):
            for layer in block:
                x = layer(x, condition, training=training) if isinstance(layer, ResidualBlock) else layer(x)
            return x

        height, width = images.shape[1:3]
        edges = [(0, -n % self.multiple) for n in (height, width)]
        x = ops.pad(images, [(0, 0), *edges, (0, 0)]) if any(map(any, edges)) else images
        x, skips = self.enter(x), []
        for i in range(len(self.filters)):
            x = self.halve[i - 1](x) if i else x
            for block in self.down[i]:
                x = through(block, x)
                skips.append(x)
        x = through(self.middle, x)
        for i in reversed(range(len(self.filters))):
            for block in self.up[i]:
                x = through(block, ops.concatenate([x, skips.pop()], axis=-1))
            x = self.double[i - 1](doubled(x)) if i else x
        x = self.unpatched(self.leave(ops.silu(self.norm(ops.cast(x, "float32")))))
        return x[:, :height, :width] if any(map(any, edges)) else x

    def unpatched(self, x):
        """(b, h / p, w / p, p * p * c) -> (b, h, w, c)"""
        height, width, p = x.shape[1], x.shape[2], self.patch
        x = ops.transpose(ops.reshape(x, (-1, height, width, p, p, self.channels)), (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, height * p, width * p, self.channels))


def doubled(x):
    """Maps (b, h, w, n) -> (b, 2 h, 2 w, n), every place four times."""
    return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)


@keras.saving.register_keras_serializable("homl_models")
class SeparableUNet(Network):
    """The book's network; see `Network` and the module. ImageRecipe of any size: they are padded.

    filters: before, and of, the levels on the way down; the way up has them in reverse, but the last.
    time_dim: d.
    """

    def __init__(self, filters=(16, 32, 64, 128), time_dim=64, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.time_dim = tuple(filters), time_dim
        dtype, ups = self.dtype_policy, tuple(filters[-2::-1])

        def pair(kind, n, names):
            return [kind(n, 3, padding="same", dtype=dtype) for _ in names]

        def norms():
            return [keras.layers.BatchNormalization(dtype=dtype) for _ in range(2)]

        self.embedding = keras.layers.Embedding(self.num_classes + 1, time_dim) if self.num_classes else None
        self.enter = keras.layers.Conv2D(filters[0], 3, dtype=dtype)
        self.enter_norm = keras.layers.BatchNormalization(dtype=dtype)
        self.times = [keras.layers.Dense(n, dtype=dtype) for n in (*filters, *ups)]
        self.down = [pair(keras.layers.SeparableConv2D, n, "ab") for n in filters[1:]]
        self.up = [pair(keras.layers.Conv2DTranspose, n, "ab") for n in ups]
        self.norms = [norms() for _ in (*filters[1:], *ups)]
        self.pool = keras.layers.MaxPooling2D(3, strides=2, padding="same", dtype=dtype)
        self.links = [keras.layers.Conv2D(n, 1, dtype=dtype) for n in filters[1:]]
        self.links += [keras.layers.Conv2D(n, 1, dtype=dtype) for n in ups]
        self.leave = keras.layers.Conv2D(self.channels, 3, padding="same", dtype="float32")

    @property
    def multiple(self):
        return 2 ** (len(self.filters) - 1)

    def build(self, input_shape):
        self.enter.build(input_shape)
        self.enter_norm.build((None, None, None, self.filters[0]))
        if self.embedding:
            self.embedding.build()
        for dense in self.times:
            dense.build((None, self.time_dim))
        before, count = self.filters[0], len(self.down)
        for i, layers in enumerate(self.down + self.up):
            filters = layers[0].filters
            self.links[i].build((None, None, None, before))
            for layer, norm in zip(layers, self.norms[i]):
                layer.build((None, None, None, before))
                norm.build((None, None, None, filters))
                before = filters
            if i >= count:
                before += self.down[2 * count - 1 - i][0].filters
        self.leave.build((None, None, None, before))

    def call(self, images, times, labels=None, training=None):
        condition = ops.cast(sinusoids(times, self.time_dim), self.compute_dtype)
        if self.embedding is not None:
            condition = condition + ops.cast(self.embedding(labels), self.compute_dtype)
        height, width = images.shape[1:3]
        # 2 pixels around the image at least, and as many as it takes to halve it, and 1 for the first convolution
        padding = [(-(-(n + 4) // self.multiple) * self.multiple - n) for n in (height, width)]
        edges = [(n // 2 + 1, n - n // 2 + 1) for n in padding]

        def timed(x, i):
            return x + self.times[i](condition)[:, None, None]

        def twice(x, i, layers):
            for layer, norm in zip(layers, self.norms[i]):
                x = norm(layer(ops.relu(x)), training=training)
            return x

        x = self.enter(ops.pad(images, [(0, 0), *edges, (0, 0)]))
        x, across = timed(ops.relu(self.enter_norm(x, training=training)), 0), []
        for i, layers in enumerate(self.down):
            before, x = x, twice(x, i, layers)
            across.append(x)
            # every second pixel: with strides of 2 oneDNN's gradient of a 1x1 convolution writes beyond its memory
            x = timed(self.pool(x) + self.links[i](before[:, ::2, ::2]), i + 1)
        for i, layers in enumerate(self.up, len(self.down)):
            x = doubled(timed(twice(x, i, layers) + self.links[i](x), i + 1))  # the book doubles before the sums
            x = ops.concatenate([x, across.pop()], axis=-1)
        x = self.leave(ops.cast(x, "float32"))
        top, left = edges[0][0] - 1, edges[1][0] - 1
        return x[:, top : top + height, left : left + width]
