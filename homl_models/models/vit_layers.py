"""Layers of vision Transformers: patch embedding, relative position bias, block.

Dosovitskiy et al., 2020 (https://arxiv.org/abs/2010.11929, section 3.1) and Bao et al., 2021
(https://arxiv.org/abs/2106.08254, section 2). Each takes a configuration of `vit_config.py`.
Shapes: b batch, (h, w) pixels, c channels, (rows, columns) of patches, n patches, t = n + 1 (or 2) tokens, the class
token first, d hidden size.
"""

import math

import keras
import numpy as np
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError
from homl_models.layers.attention import MultiHeadAttention
from homl_models.layers.dropout import Dropout, rematerialized
from homl_models.layers.interpolation import bicubic_matrix, bilinear_matrix, geometric_matrix, resize_grid
from homl_models.layers.transformer_block import TransformerBlock

MATRICES = {"geometric": geometric_matrix, "bilinear": bilinear_matrix}


@keras.saving.register_keras_serializable("homl_models")
class PatchEmbedding(Layer):
    """Normalized images (b, h, w, c) -> embeddings of their patches (b, n, d), row by row.

    It is the convolution whose stride is its size, as one product of matrices.
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config

    def build(self, input_shape=None):
        shape, d = (*self.config.patch_shape, self.config.num_channels), self.config.hidden_size
        self.kernel = self.add_weight(shape=(*shape, d), initializer=self.config.initializer, name="kernel")
        self.bias = self.add_weight(shape=(d,), initializer="zeros", name="bias")

    def call(self, images):
        (h, w), c = self.config.patch_shape, self.config.num_channels
        rows, columns = self.config.grid(*images.shape[1:3])
        x = ops.reshape(images, (-1, rows, h, columns, w, c))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, h * w * c))  # (b n, pixels of a patch)
        kernel, bias = (ops.cast(weight, x.dtype) for weight in (self.kernel, self.bias))
        x = ops.matmul(x, ops.reshape(kernel, (h * w * c, -1))) + bias
        return ops.reshape(x, (-1, rows * columns, self.config.hidden_size))


@keras.saving.register_keras_serializable("homl_models")
class ViTEmbeddings(Layer):
    """Images (b, h, w, c) in [0, 1] -> class tokens and patches, with positions (b, t, d).

    Pixels are normalized by the configuration's `image_mean` and `image_std`. bool_masked_pos: (b, n) or (b, rows,
    columns), True for patches that the mask token replaces. Positions are interpolated for images of other sizes.
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.patches = PatchEmbedding(config, name="patches", dtype=self.dtype_policy)
        self.dropout_layer = Dropout(config.hidden_dropout_prob, dtype=self.dtype_policy)
        self.mask_token = self.position_embeddings = None

    def build(self, input_shape=None):
        d = self.config.hidden_size
        self.patches.build()

        def embedding(name, count=1):
            return self.add_weight(shape=(1, count, d), initializer=self.config.initializer, name=name)

        self.class_tokens = [embedding(name) for name in self.config.class_tokens]
        if self.config.use_mask_token:
            self.mask_token = embedding("mask_token")
        if self.config.use_absolute_position_embeddings:
            self.position_embeddings = embedding(
                "position_embeddings", self.config.num_patches + len(self.class_tokens)
            )

    def call(self, images, bool_masked_pos=None, training=None):
        x = self.patches(self.normalize(images))
        if bool_masked_pos is not None:
            mask = self.checked_mask(bool_masked_pos, self.config.grid(*images.shape[1:3]))
            x = ops.where(mask[..., None], ops.cast(self.mask_token, x.dtype), x)
        tokens = [ops.broadcast_to(token, (ops.shape(x)[0], 1, x.shape[-1])) for token in self.class_tokens]
        x = ops.concatenate([*(ops.cast(token, x.dtype) for token in tokens), x], axis=1)
        if self.position_embeddings is not None:
            x = x + ops.cast(self.positions(self.config.grid(*images.shape[1:3])), x.dtype)
        return self.dropout_layer(x, training=training)

    def normalize(self, images):
        """Images in [0, 1], or bytes, -> (images - mean) / std."""
        if "int" in keras.backend.standardize_dtype(images.dtype):
            images = ops.cast(images, self.compute_dtype) / 255
        mean, std = (np.float32(getattr(self.config, name)) for name in ("image_mean", "image_std"))
        return (images - ops.cast(mean, images.dtype)) * ops.cast(1 / std, images.dtype)

    def checked_mask(self, mask, window):
        """A mask of (rows, columns) as booleans (b, n); `UserError` for other shapes, or without a mask token."""
        if self.mask_token is None:
            raise UserError("this model has no mask token; give its configuration use_mask_token=True")
        (rows, columns), n, shape = window, math.prod(window), tuple(mask.shape)
        if None not in shape[1:] and shape[1:] not in (window, (n,)):
            raise UserError(f"bool_masked_pos must have the shape (n, {rows}, {columns}) or (n, {n}), not {shape}")
        return ops.reshape(ops.cast(mask, "bool"), (-1, n))

    def positions(self, window):
        """Position embeddings (1, t, d) of images with (rows, columns) patches."""
        return self.interpolated(self.position_embeddings, self.config.window, window)

    def interpolated(self, embeddings, old, new):
        """Position embeddings (1, t, d) of a window of patches for a new one, by bicubic interpolation."""
        first, d = len(self.config.class_tokens), embeddings.shape[-1]
        if new == old:
            return embeddings
        grid = ops.reshape(ops.cast(embeddings[:, first:], "float32"), (*old, d))
        grid = ops.reshape(resize_grid(grid, new, bicubic_matrix), (1, math.prod(new), d))
        return ops.concatenate([ops.cast(embeddings[:, :first], "float32"), grid], axis=1)

    def resized(self, array):
        """Position embeddings of a file of square images of another size, as one for this model."""
        count = array.shape[1] - len(self.config.class_tokens)
        old = math.isqrt(max(count, 0))
        if old * old != count:
            return array
        return ops.convert_to_numpy(self.interpolated(array, (old, old), self.config.window))


def relative_position_index(rows, columns):
    """Entry of the table for each pair of tokens (t, t), [CLS] first.

    (2 rows - 1)(2 columns - 1) entries of the distances between patches, row-major, then those from [CLS] to patches,
    from patches to [CLS], and of [CLS] itself.
    """
    y, x = (axis.ravel() for axis in np.mgrid[:rows, :columns])
    dy, dx = (axis[:, None] - axis + size - 1 for axis, size in ((y, rows), (x, columns)))
    count = (2 * rows - 1) * (2 * columns - 1)
    index = np.full((rows * columns + 1,) * 2, count + 1, "int32")
    index[0], index[0, 0] = count, count + 2
    index[1:, 1:] = dy * (2 * columns - 1) + dx
    return index


class RelativePositionBias(Layer):
    """Relative position bias (heads, t, t) of attention scores (section 2.2; Raffel et al., 2019, section 2.1).

    `call(window)` -> that of images with (rows, columns) patches; the table is interpolated for other ones than the
    configuration's, by its `position_interpolation`.
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config

    def build(self, input_shape=None):
        rows, columns = self.config.window
        shape = (2 * rows - 1) * (2 * columns - 1) + 3, self.config.num_attention_heads
        self.table = self.add_weight(shape=shape, initializer="zeros", autocast=False, name="table")

    def call(self, window=None):
        window = window or self.config.window
        table, index = self.interpolated(self.table, self.config.window, window), relative_position_index(*window)
        pairs = ops.reshape(ops.take(table, index.ravel(), axis=0), (*index.shape, -1))  # (t, t, heads)
        return ops.transpose(pairs, (2, 0, 1))

    def interpolated(self, table, old, new):
        """The table of a window of patches for a new one."""
        if new == old:
            return table
        old, new = (tuple(2 * size - 1 for size in shape) for shape in (old, new))
        grid = resize_grid(ops.reshape(table[:-3], (*old, -1)), new, MATRICES[self.config.position_interpolation])
        return ops.concatenate([ops.reshape(grid, (math.prod(new), -1)), table[-3:]], axis=0)

    def resized(self, array):
        """The table of a file of square images of another size, as one for this model."""
        old = (math.isqrt(max(array.shape[0] - 3, 0)) + 1) // 2
        if (2 * old - 1) ** 2 != array.shape[0] - 3:
            return array
        return ops.convert_to_numpy(self.interpolated(array, (old, old), self.config.window))


@keras.saving.register_keras_serializable("homl_models")
class ViTBlock(TransformerBlock):
    """Transformer block with normalization first: (b, t, d) -> (b, t, d), attention weights (b, heads, t, t).

    Layer scale, stochastic depth and a table of relative positions are as the configuration says.

    Args:
        config: of `vit_config.py`.
        index: number of the block, from 0.
    """

    pre_norm = True

    def __init__(self, config, index=0, **kwargs):
        super().__init__(**kwargs)
        self.config, self.index = config, index
        dropout, dtype = config.attention_probs_dropout_prob, self.dtype_policy
        self.attention = MultiHeadAttention(
            config.hidden_size, config.num_attention_heads, dropout=dropout, name="attention", dtype=dtype
        )
        for dense, has_bias in zip(self.attention.projections, config.projection_biases):
            dense.kernel_initializer, dense.use_bias = config.initializer, has_bias
        self.attention.output_dense.kernel_initializer = config.output_initializer(index)
        self.relative_position_bias = None
        if config.use_relative_position_bias:
            self.relative_position_bias = RelativePositionBias(config, name="relative_position_bias", dtype=dtype)
        self.add_sublayers(
            2,
            config.intermediate_size,
            config.hidden_size,
            config.activation,
            config.hidden_dropout_prob,
            config.layer_norm_eps,
            (config.initializer, config.output_initializer(index)),
            config.layer_scale,
            config.drop_path(index),
        )

    def build(self, input_shape):
        self.attention.build((None, None, self.config.hidden_size))
        if self.relative_position_bias:
            self.relative_position_bias.build()
        self.build_sublayers()

    def call(self, x, bias=None, head_mask=None, window=None, training=None):
        """The block on hidden states x (b, t, d).

        bias: added to the attention scores, broadcasts to (b, heads, t, t). head_mask: (heads,), factors of the heads.
        window: (rows, columns) of patches; None for the configuration's.
        """

        def block(x, *bias):
            return self.attend(x, bias[0] if bias else None, head_mask, window, training)

        if self.config.gradient_checkpointing and training:
            block = rematerialized(block, [*self.dropouts, *self.drop_paths, self.attention.dropout_layer])
        return block(x) if bias is None else block(x, bias)

    def attend(self, x, bias, head_mask, window, training):
        """The two sub-layers -> hidden states, attention weights."""
        weights = None
        if self.relative_position_bias:
            own = self.relative_position_bias(window=window)
            bias = own if bias is None else bias + own

        def attention(x):
            nonlocal weights
            keys_values = self.attention.keys_values(x)
            y, weights = self.attention.attend(x, *keys_values, training=training, head_mask=head_mask, bias=bias)
            return y

        x = self.sublayer(0, x, attention, training)
        return self.sublayer(1, x, self.feed_forward, training), weights
