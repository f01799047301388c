"""Layers of BERT (Devlin et al., 2018, https://arxiv.org/abs/1810.04805): embeddings, attention, block.

Each takes a `BertConfig`. Shapes: b batch, t tokens, s keys (tokens that are attended to), d hidden size, h heads,
e size of a head.

Beyond the paper: relative positions (Shaw et al., 2018, https://arxiv.org/abs/1803.02155, "relative_key"; Huang et
al., 2020, https://arxiv.org/abs/2009.13658, method 4, "relative_key_query").
"""

import math

import keras
from keras import ops

from homl_models.base import Layer
from homl_models.errors import UserError
from homl_models.layers.attention import MultiHeadAttention
from homl_models.layers.dropout import Dropout, rematerialized
from homl_models.layers.transformer_block import TransformerBlock


def embedding_table(layer):
    """The table (v, d) of a Keras `Embedding`, dequantized where it is quantized to 8 bits."""
    if layer.quantization_mode == "int8":
        return ops.cast(layer.embeddings, layer.compute_dtype) / ops.expand_dims(layer.embeddings_scale, -1)
    return layer.embeddings


@keras.saving.register_keras_serializable("homl_models")
class BertEmbeddings(Layer):
    """Ids (b, t), or embeddings (b, t, d), -> normalized sums of word, token type and position embeddings (b, t, d).

    There are position embeddings if positions are absolute, and those of token types if there are any. d is the
    configuration's `embedding_size`.
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config

        def table(count, name):
            size = config.embedding_size
            return keras.layers.Embedding(count, size, config.initializer, name=name, dtype=self.dtype_policy)

        absolute = config.position_embedding_type == "absolute"
        self.word = table(config.vocab_size, "word")
        self.position = table(config.max_position_embeddings, "position") if absolute else None
        self.token_type = table(config.type_vocab_size, "token_type") if config.type_vocab_size else None
        self.norm = _layer_norm(config, name="norm", dtype=self.dtype_policy)
        self.dropout_layer = Dropout(config.hidden_dropout_prob, dtype=self.dtype_policy)

    def build(self, input_shape=None):
        for table in (self.word, self.position, self.token_type):
            if table:
                table.build()
        self.norm.build((None, None, self.config.embedding_size))

    def call(self, ids=None, token_type_ids=None, position_ids=None, inputs_embeds=None, training=None):
        x = self.word(ids) if inputs_embeds is None else ops.cast(inputs_embeds, self.compute_dtype)
        if self.token_type is not None:
            none = token_type_ids is None  # all 0
            x = x + (
                ops.cast(embedding_table(self.token_type)[0], x.dtype) if none else self.token_type(token_type_ids)
            )
        if self.position is not None:
            length, longest = x.shape[1], self.config.max_position_embeddings
            if position_ids is None and length is not None and length > longest:
                raise UserError(f"a text has {length} tokens; this model takes {longest} at most")
            x = x + self.position(ops.arange(ops.shape(x)[1]) if position_ids is None else position_ids)
        return self.dropout_layer(self.norm(x), training=training)

    def embed_types(self, token_type_ids):
        """Embeddings of token types (b, t, d); of None, all 0, (d,)."""
        if token_type_ids is None:
            return ops.cast(embedding_table(self.token_type)[0], self.compute_dtype)
        return self.token_type(token_type_ids)


def _layer_norm(config, **kwargs):
    return keras.layers.LayerNormalization(epsilon=config.layer_norm_eps, **kwargs)


@keras.saving.register_keras_serializable("homl_models")
class RelativeAttention(MultiHeadAttention):
    """Multi-head attention with relative position embeddings.

    Args:
        position_embedding_type: "relative_key" adds q_i . a_ij to the scores, a_ij the embedding of the distance i - j;
            "relative_key_query" adds k_j . a_ij as well.
        max_distance: number of positions; distances are below it.
    """

    def __init__(self, dim, num_heads, position_embedding_type, max_distance, **kwargs):
        super().__init__(dim, num_heads, **kwargs)
        self.position_embedding_type, self.max_distance = position_embedding_type, max_distance

    def build(self, query_shape, memory_shape=None):
        super().build(query_shape, memory_shape)
        start = keras.initializers.TruncatedNormal(stddev=0.02)
        shape = (2 * self.max_distance - 1, self.size)
        self.distance_embedding = self.add_weight(shape=shape, initializer=start, name="distance_embedding")

    def scores(self, queries, keys, query_offset=0):
        """As in `MultiHeadAttention`; query_offset: (), or (b,) for rows with offsets of their own."""
        t, s = (x.shape[2] or ops.shape(x)[2] for x in (queries, keys))
        if isinstance(s, int) and s > self.max_distance:
            raise UserError(f"a text has {s} tokens; this model takes {self.max_distance} at most")
        offset = ops.cast(query_offset, "int32")[..., None, None]
        distances = offset + ops.arange(t)[:, None] - ops.arange(s)  # i - j
        a = ops.take(ops.cast(self.distance_embedding, queries.dtype), distances + self.max_distance - 1, axis=0)
        axes = "tse" if len(a.shape) == 3 else "btse"
        scores = super().scores(queries, keys) + ops.einsum(f"bhte,{axes}->bhts", queries, a)
        if self.position_embedding_type == "relative_key_query":
            scores = scores + ops.einsum(f"bhse,{axes}->bhts", keys * (1 / math.sqrt(self.size)), a)
        return scores


@keras.saving.register_keras_serializable("homl_models")
class BertBlock(TransformerBlock):
    """Encoder block: (b, t, d) -> (b, t, d), attention weights (b, h, t, s), and those of cross-attention, if any.

    Each sub-layer is followed by dropout, the residual and layer normalization.

    Args:
        config: a `BertConfig`.
        pruned_heads: heads that self-attention lacks.
    """

    def __init__(self, config, pruned_heads=(), **kwargs):
        super().__init__(**kwargs)
        self.config, self.pruned_heads = config, pruned_heads
        self.heads = [i for i in range(config.num_attention_heads) if i not in pruned_heads]
        self.attention = self._attention(len(self.heads), config.position_embedding_type, "attention")
        self.cross_attention = None
        if config.add_cross_attention:
            self.cross_attention = self._attention(config.num_attention_heads, "absolute", "cross")
        self.attentions = [layer for layer in (self.attention, self.cross_attention) if layer]
        for dense in (dense for attention in self.attentions for dense in attention.projections):
            dense.kernel_initializer = config.initializer
        self.add_sublayers(
            len(self.attentions) + 1,
            config.intermediate_size,
            config.hidden_size,
            config.activation,
            config.hidden_dropout_prob,
            config.layer_norm_eps,
            (config.initializer, config.initializer),
        )

    def _attention(self, num_heads, positions, name):
        config = self.config
        settings = {"dropout": config.attention_probs_dropout_prob, "head_dim": config.head_size}
        settings |= {"name": name, "dtype": self.dtype_policy}
        if positions == "absolute":
            return MultiHeadAttention(config.hidden_size, num_heads, **settings)
        return RelativeAttention(config.hidden_size, num_heads, positions, config.max_position_embeddings, **settings)

    def build(self, input_shape):
        for attention in self.attentions:
            attention.build((None, None, self.config.hidden_size))
        self.build_sublayers()

    def call(
        self,
        x,
        attention_mask=None,
        head_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        training=None,
    ):
        """The block on hidden states x (b, t, d).

        attention_mask, encoder_attention_mask: True for keys to attend to, of shapes that broadcast to (b, h, t, s).
        head_mask: (h,), factors of all heads, the pruned ones included. encoder_hidden_states: (b, s, d).
        """

        def block(x, *memory):
            memory = memory and self.cross_attention.keys_values(memory[0])
            own = self.attention.keys_values(x)
            outputs = self.attend(x, own, attention_mask, head_mask, memory, encoder_attention_mask, training)
            return outputs if memory else outputs[:2]

        if self.config.gradient_checkpointing and training:
            block = rematerialized(block, [*self.dropouts, *(attention.dropout_layer for attention in self.attentions)])
        return block(x) if encoder_hidden_states is None else block(x, encoder_hidden_states)

    def attend(self, x, keys_values, attention_mask, head_mask, memory, memory_mask, training=None, query_offset=0):
        """The block on given keys and values; `call` and decoding share it.

        keys_values: of all tokens that are attended to. query_offset: position of the first token of x.
        memory: keys and values of the `encoder_hidden_states`, if any.
        """

        own_mask = None if head_mask is None else ops.take(head_mask, self.heads, axis=0)
        all_weights = []

        def own_attention(x):
            y, weights = self.attention.attend(x, *keys_values, attention_mask, training, own_mask, query_offset)
            all_weights.append(weights)
            return y

        def cross_attention(x):
            y, weights = self.cross_attention.attend(x, *memory, memory_mask, training, head_mask)
            all_weights.append(weights)
            return y

        x = self.sublayer(0, x, own_attention, training)
        x = self.sublayer(1, x, cross_attention, training) if memory else x
        return self.sublayer(-1, x, self.feed_forward, training), all_weights[0], all_weights[1] if memory else None

    def feed_forward(self, x):
        """The feed-forward network, on chunks of `chunk_size_feed_forward` tokens where that is set."""
        size = self.config.chunk_size_feed_forward
        if not size:
            return super().feed_forward(x)
        rows, length, d = *ops.shape(x)[:2], self.config.hidden_size
        count = -(-length // size)
        x = ops.pad(x, [(0, 0), (0, count * size - length), (0, 0)])
        x = ops.transpose(ops.reshape(x, (rows, count, size, d)), (1, 0, 2, 3))
        x = ops.map(super().feed_forward, x)
        x = ops.reshape(ops.transpose(x, (1, 0, 2, 3)), (rows, count * size, d))
        return x[:, :length]
