"""Attention of recurrent encoder-decoders, multi-head attention, and the Transformer's encoder and decoder blocks.

Luong et al., 2015 (https://arxiv.org/abs/1508.04025) for dot, general and concat (equation 16-1 of
the book); Vaswani et al., 2017 (https://arxiv.org/abs/1706.03762) for the rest; Xiong et al., 2020
(https://arxiv.org/abs/2002.04745) for `pre_norm`. Decoding one token at a time has methods of its own
(`keys_values`, `attend`, `step`), which `call` uses too, so that both compute the same.
Shapes: b batch, r rows = b times the beam, t queries, s keys, h heads, e size of a head, d dimension.
`memory` is the encoder's output, as in PyTorch's layers. Masks are True where attention is allowed.
"""

import math

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError
from homl_models.layers.dense import Dense
from homl_models.layers.dropout import Dropout
from homl_models.layers.transformer_block import TransformerBlock

MASK_VALUE = -1e9  # score of masked keys; finite, so that a row without any key gives no NaN


def softmax(scores, mask):
    """Masked softmax: scores (..., s) -> float32 weights (..., s), 0 where the mask (broadcast to them) is False."""
    scores = ops.cast(scores, "float32")
    return ops.softmax(scores if mask is None else ops.where(mask, scores, MASK_VALUE), axis=-1)


@keras.saving.register_keras_serializable("homl_models")
class Attention(Layer):
    """Attention of a recurrent decoder: queries (b, t, u), memory (b, s, m) -> contexts (b, t, m), weights (b, t, s).

    Replaces `keras.layers.Attention` and `AdditiveAttention`, which have no general score and no projections of query
    and key, and cannot keep the projected keys of a memory from step to step. It may be removed when Keras has both.

    Args:
        score: "dot" (q . k, so u = m), "general" (q . W k) or "concat" (v . tanh(W [q; k]); with the previous
            state of a decoder as query this is the additive attention of Bahdanau et al., 2014).
        units: size of the hidden layer of "concat".
    """

    def __init__(self, score="dot", units=None, **kwargs):
        super().__init__(**kwargs)
        if score not in ("dot", "general", "concat"):
            raise UserError(f"score must be dot, general or concat, not {score!r}")
        self.score, self.units = score, units

    def build(self, query_shape, memory_shape=None):
        u, m = query_shape[-1], memory_shape[-1]
        if self.score == "dot" and u != m:
            raise UserError(f"dot attention needs queries and memory of one size, not {u} and {m}; take general")
        if self.score == "general":
            self.key_dense = keras.layers.Dense(u, use_bias=False, name="key", dtype=self.dtype_policy)
            self.key_dense.build(memory_shape)
        if self.score == "concat":
            units = self.units or u
            self.key_dense = keras.layers.Dense(units, use_bias=False, name="key", dtype=self.dtype_policy)
            self.key_dense.build(memory_shape)
            self.query_dense = keras.layers.Dense(units, use_bias=False, name="query", dtype=self.dtype_policy)
            self.query_dense.build(query_shape)
            self.v = self.add_weight(shape=(units,), initializer="glorot_uniform", name="v")

    def keys(self, memory):
        """Keys of a memory (b, s, m): projected, (b, s, u), or with "dot" the memory itself."""
        return memory if self.score == "dot" else self.key_dense(memory)

    def queries(self, query):
        """Queries (..., u), with "concat" projected to (..., units)."""
        return self.query_dense(query) if self.score == "concat" else query

    def attend(self, queries, keys, memory, mask=None):
        """`queries` (b, t, u) and `keys` (b, s, u) -> contexts (b, t, m), weights (b, t, s); mask (b, s)."""
        if self.score == "concat":
            hidden = ops.tanh(queries[:, :, None] + keys[:, None])  # (b, t, s, units)
            scores = ops.sum(hidden * ops.cast(self.v, hidden.dtype), axis=-1)
        else:
            scores = ops.matmul(queries, ops.swapaxes(keys, 1, 2))
        weights = softmax(scores, None if mask is None else mask[:, None])
        return ops.matmul(ops.cast(weights, memory.dtype), memory), weights

    def call(self, query, memory, memory_mask=None):
        return self.attend(self.queries(query), self.keys(memory), memory, memory_mask)

    def compute_mask(self, *args, **kwargs):
        return None


@keras.saving.register_keras_serializable("homl_models")
class MultiHeadAttention(Layer):
    """Multi-head scaled dot-product attention (section 3.2.2): queries (b, t, d), memory (b, s, d) -> (b, t, d).

    Replaces `keras.layers.MultiHeadAttention`, which has no key/value cache for decoding token by token, no hook for
    relative positions and no head mask, and drops out by Keras' generator (see `layers.dropout`). BERT-base built on it
    reads 1.16 times as fast on a CPU as keras-hub's, which is built on Keras' (`benchmarks/bert.py`). It may be removed
    when Keras' layer takes cached keys and values, and a function or bias for the scores, at this speed.

    Args:
        dim: d, of queries, memory and output.
        num_heads: h.
        head_dim: e, the size of a head; by default dim / num_heads.
        dropout: rate on the attention weights.
        use_bias: whether the four projections have biases.
    """

    def __init__(self, dim, num_heads, head_dim=None, dropout=0.0, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        if head_dim is None and dim % num_heads:
            raise UserError(f"{num_heads} heads do not divide the dimension {dim}; choose others, or head_dim")
        self.dim, self.num_heads, self.head_dim = dim, num_heads, head_dim
        self.dropout, self.use_bias = dropout, use_bias
        self.size = head_dim or dim // num_heads
        settings = {"use_bias": use_bias, "dtype": self.dtype_policy}
        self.query_dense = Dense(num_heads * self.size, name="query", **settings)
        self.key_dense = Dense(num_heads * self.size, name="key", **settings)
        self.value_dense = Dense(num_heads * self.size, name="value", **settings)
        self.output_dense = Dense(dim, name="output", **settings)
        self.dropout_layer = Dropout(dropout, dtype=self.dtype_policy)

    @property
    def projections(self):
        """The four dense layers, in the order query, key, value, output."""
        return [self.query_dense, self.key_dense, self.value_dense, self.output_dense]

    def build(self, query_shape, memory_shape=None):
        memory_dim = (memory_shape or query_shape)[-1]
        self.query_dense.build((None, query_shape[-1]))
        self.key_dense.build((None, memory_dim))
        self.value_dense.build((None, memory_dim))
        self.output_dense.build((None, self.num_heads * self.size))

    def heads(self, x):
        """(b, t, h * e) -> (b, h, t, e)"""
        return ops.transpose(ops.reshape(x, (*ops.shape(x)[:2], self.num_heads, self.size)), (0, 2, 1, 3))

    def keys_values(self, memory):
        """Memory (b, s, d) -> keys and values, each (b, h, s, e)."""
        return self.heads(self.key_dense(memory)), self.heads(self.value_dense(memory))

    def scores(self, queries, keys, query_offset=0):
        """Scaled queries (b, h, t, e), keys (b, h, s, e) -> (b, h, t, s); query_offset: position of the first query.

        Attention without relative positions ignores the offset; subclasses use it.
        """
        return ops.matmul(queries, ops.swapaxes(keys, 2, 3))

    def attend(self, query, keys, values, mask=None, training=None, head_mask=None, query_offset=0, bias=None):
        """Queries (b, t, d) -> (b, t, d), weights (b, h, t, s); the mask broadcasts to the weights' shape.

        head_mask: (h,), factors of the attention weights of each head. query_offset: see `scores`.
        bias: added to the scores, such as one of relative positions; broadcasts to (b, h, t, s).
        """
        queries = self.heads(self.query_dense(query) * (1 / math.sqrt(self.size)))
        scores = self.scores(queries, keys, query_offset)
        if bias is not None:
            scores = ops.cast(scores, "float32") + ops.cast(bias, "float32")
        weights = softmax(scores, mask)
        if head_mask is not None:
            weights = weights * ops.cast(head_mask, "float32")[:, None, None]
        dropped = self.dropout_layer(ops.cast(weights, values.dtype), training=training)
        mixed = ops.transpose(ops.matmul(dropped, values), (0, 2, 1, 3))  # (b, t, h, e)
        mixed = ops.reshape(mixed, (*ops.shape(mixed)[:2], self.num_heads * self.size))
        return self.output_dense(mixed), weights

    def call(self, query, memory=None, attention_mask=None, training=None):
        """attention_mask: broadcasts to (b, h, t, s)."""
        keys, values = self.keys_values(query if memory is None else memory)
        return self.attend(query, keys, values, attention_mask, training)[0]


class _Block(TransformerBlock):
    """Block of the translator: see `TransformerBlock`.

    A subclass names its attention layers in `attentions`. Arguments: see `DecoderBlock`.
    """

    attentions = ()

    def __init__(
        self,
        dim,
        num_heads,
        hidden_units,
        dropout=0.1,
        attention_dropout=0.0,
        pre_norm=False,
        activation="relu",
        head_dim=None,
        epsilon=1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.dim, self.num_heads, self.hidden_units, self.head_dim = dim, num_heads, hidden_units, head_dim
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.pre_norm, self.activation, self.epsilon = pre_norm, activation, epsilon
        for name in self.attentions:
            layer = MultiHeadAttention(dim, num_heads, head_dim, attention_dropout, name=name, dtype=self.dtype_policy)
            setattr(self, name, layer)
        self.add_sublayers(len(self.attentions) + 1, hidden_units, dim, activation, dropout, epsilon)

    def build(self, input_shape, *others):
        for name in self.attentions:
            getattr(self, name).build((None, None, self.dim))
        self.build_sublayers()


@keras.saving.register_keras_serializable("homl_models")
class EncoderBlock(_Block):
    """Transformer encoder block, self-attention and a feed-forward network: (b, s, d), mask (b, s) -> (b, s, d).

    Keras has none; keras-hub's `TransformerEncoder` is built on the layers that ours replace (`MultiHeadAttention`,
    `Dense`, `Dropout`), and may take its place when those go.

    Args: as of `DecoderBlock`.
    """

    attentions = ("self_attention",)

    def call(self, x, mask=None, training=None):
        attention_mask = None if mask is None else mask[:, None, None]

        def attention(x):
            return self.self_attention(x, attention_mask=attention_mask, training=training)

        x = self.sublayer(0, x, attention, training)
        return self.sublayer(1, x, self.feed_forward, training)


@keras.saving.register_keras_serializable("homl_models")
class DecoderBlock(_Block):
    """Transformer decoder block, causal self-attention, cross-attention and a feed-forward network.

    (b, t, d) and a memory (b, s, d) -> (b, t, d). Keras has none; keras-hub's `TransformerDecoder` is built on the
    layers that ours replace, and may take its place when those go and its cache serves several beams of one memory.

    Args:
        dim: d, of inputs and outputs.
        num_heads: of every attention layer. head_dim: see `MultiHeadAttention`.
        hidden_units: size of the hidden layer of the feed-forward network.
        dropout: rate on the output of every sub-layer (section 5.4).
        attention_dropout: rate on the attention weights.
        pre_norm: normalize the input of a sub-layer instead of the sum after it.
        activation: of the hidden layer.
        epsilon: of the layer normalizations.
    """

    attentions = ("self_attention", "cross_attention")

    def call(self, x, memory, memory_mask=None, x_mask=None, training=None):
        """x_mask (b, t), memory_mask (b, s). Without `x_mask`, padding at the right is attended to by padding only."""
        return self.call_with_weights(x, memory, memory_mask, x_mask, training)[0]

    def call_with_weights(self, x, memory, memory_mask=None, x_mask=None, training=None):
        """As `call` -> outputs (b, t, d), cross-attention weights (b, h, t, s)."""
        positions = ops.arange(ops.shape(x)[1])
        attention_mask = (positions[:, None] >= positions)[None, None]  # causal
        if x_mask is not None:
            attention_mask = ops.logical_and(attention_mask, x_mask[:, None, None])

        def attention(x):
            return self.self_attention(x, attention_mask=attention_mask, training=training)

        x = self.sublayer(0, x, attention, training)
        x, weights = self.cross_attend(x, self.cross_attention.keys_values(memory), memory_mask, training)
        return self.sublayer(2, x, self.feed_forward, training), weights

    def cross_attend(self, x, keys_values, memory_mask, training=None):
        """The cross-attention sub-layer: (b, t, d) -> (b, t, d), weights (b, h, t, s)."""
        weights = None
        attention_mask = None if memory_mask is None else memory_mask[:, None, None]

        def attention(x):
            nonlocal weights
            out, weights = self.cross_attention.attend(x, *keys_values, attention_mask, training)
            return out

        return self.sublayer(1, x, attention, training), weights

    def empty_cache(self, rows, length):
        """Key and value cache of self-attention for up to `length` tokens: zeros, two of (r, h, length, e)."""
        shape = (rows, self.self_attention.num_heads, length, self.self_attention.size)
        return [ops.zeros(shape, self.compute_dtype), ops.zeros(shape, self.compute_dtype)]

    def step(self, x, cache, position, keys_values, memory_mask):
        """One decoding step: x (r, 1, d) at `position` (scalar), the cache -> x, cross-attention weights, the cache.

        keys_values of a memory of b rows serve r = b * k rows, the k of one memory side by side.
        """
        positions = ops.arange(ops.shape(cache[0])[2])
        current, attention_mask = (positions == position)[:, None], positions <= position
        updated = []

        def attention(x):
            for old, new in zip(cache, self.self_attention.keys_values(x)):
                updated.append(ops.where(current, new, old))
            return self.self_attention.attend(x, *updated, attention_mask)[0]

        x = self.sublayer(0, x, attention, False)
        grouped = ops.reshape(x, (ops.shape(memory_mask)[0], -1, self.dim))  # (b, k, d)
        grouped, weights = self.cross_attend(grouped, keys_values, memory_mask, False)
        x = ops.reshape(grouped, (-1, 1, self.dim))
        return self.sublayer(2, x, self.feed_forward, False), weights, updated
