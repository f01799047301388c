"""BERT (Devlin et al., 2018, https://arxiv.org/abs/1810.04805): what reads a text both ways at once.

Embeddings of words, positions and token types go through blocks of self-attention and a feed-forward network, each
sublayer followed by layer normalization; the first token stands for the text. As a decoder (`is_decoder`) it reads
from left to right, looks at another text if `add_cross_attention`, and keeps keys and values of what it has read.
The heads are in `bert_heads.py`, ELECTRA's in `electra.py`. Names are those of Hugging Face's configuration, whose
weights `checkpoints/huggingface.py` reads and writes.
Shapes: b batch, t tokens, s what is looked at, d hidden size, h heads, e size of a head.

Beyond the paper: relative positions (Shaw et al., 2018, https://arxiv.org/abs/1803.02155, "relative_key"; Huang et
al., 2020, https://arxiv.org/abs/2009.13658, method 4, "relative_key_query").
"""

import functools
import math

import keras
import numpy as np
from keras import ops

from homl_models.base import Layer, Model
from homl_models.errors import UserError
from homl_models.layers.attention import MultiHeadAttention
from homl_models.layers.dense import Dense, gelu
from homl_models.layers.dropout import Dropout, rematerialized

POSITIONS = "absolute", "relative_key", "relative_key_query"
ACTIVATIONS = {
    "gelu": gelu,
    "relu": ops.relu,
    "relu6": ops.relu6,
    "silu": ops.silu,
    "swish": ops.silu,
    "tanh": ops.tanh,
    "sigmoid": ops.sigmoid,
    "linear": lambda x: x,
    "mish": lambda x: x * ops.tanh(ops.softplus(x)),
    "quick_gelu": lambda x: x * ops.sigmoid(1.702 * x),
    "gelu_python": gelu,
}
for name in ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"):  # all the same
    ACTIVATIONS[name] = functools.partial(ops.gelu, approximate=True)
INPUTS = (
    "input_ids", "attention_mask", "token_type_ids", "position_ids", "head_mask", "inputs_embeds",
    "encoder_hidden_states", "encoder_attention_mask",
)  # fmt: skip


def embeddings_of(layer):
    """The table (v, d) of an Embedding layer, also of one that is quantized to 8 bits."""
    if layer.quantization_mode == "int8":
        return ops.cast(layer.embeddings, layer.compute_dtype) / ops.expand_dims(layer.embeddings_scale, -1)
    return layer.embeddings


def initializer(stddev):
    """That of all kernels and embeddings."""
    return keras.initializers.TruncatedNormal(stddev=stddev)


@keras.saving.register_keras_serializable("homl_models")
class Embeddings(Layer):
    """Ids (b, t), or embeddings (b, t, d), -> sums of word, token type and position embeddings (b, t, d), normalized.

    positions: whether there are position embeddings. The other arguments are those of `Bert`; `size` is d.
    """

    def __init__(
        self,
        vocab_size,
        size,
        max_position_embeddings=512,
        type_vocab_size=2,
        positions=True,
        layer_norm_eps=1e-12,
        dropout=0.1,
        initializer_range=0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size, self.size, self.max_position_embeddings = vocab_size, size, max_position_embeddings
        self.type_vocab_size, self.positions, self.layer_norm_eps = type_vocab_size, positions, layer_norm_eps
        self.dropout, self.initializer_range = dropout, initializer_range

        def table(count, name):
            start = initializer(initializer_range)
            return keras.layers.Embedding(count, size, start, name=name, dtype=self.dtype_policy)

        self.word = table(vocab_size, "word")
        self.position = table(max_position_embeddings, "position") if positions else None
        self.token_type = table(type_vocab_size, "token_type")
        self.norm = keras.layers.LayerNormalization(epsilon=layer_norm_eps, name="norm", dtype=self.dtype_policy)
        self.dropout_layer = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape=None):
        for table in (self.word, self.position, self.token_type):
            if table:
                table.build()
        self.norm.build((None, None, self.size))

    def call(self, ids=None, token_type_ids=None, position_ids=None, inputs_embeds=None, training=None):
        x = self.word(ids) if inputs_embeds is None else ops.cast(inputs_embeds, self.compute_dtype)
        if token_type_ids is None:  # all 0
            x = x + ops.cast(embeddings_of(self.token_type)[0], x.dtype)
        else:
            x = x + self.token_type(token_type_ids)
        if self.position is not None:
            length = x.shape[1]
            if position_ids is None and length is not None and length > self.max_position_embeddings:
                raise UserError(f"a text has {length} tokens; this model takes {self.max_position_embeddings} at most")
            x = x + self.position(ops.arange(ops.shape(x)[1]) if position_ids is None else position_ids)
        return self.dropout_layer(self.norm(x), training=training)


@keras.saving.register_keras_serializable("homl_models")
class RelativeAttention(MultiHeadAttention):
    """Attention whose scores also depend on how far query and key are apart: "relative_key" or "relative_key_query".

    max_distance: positions that there are; it knows distances below it.
    """

    def __init__(self, dim, num_heads, position_embedding_type, max_distance, **kwargs):
        super().__init__(dim, num_heads, **kwargs)
        self.position_embedding_type, self.max_distance = position_embedding_type, max_distance

    def build(self, query_shape, memory_shape=None):
        super().build(query_shape, memory_shape)
        shape = (2 * self.max_distance - 1, self.size)
        self.distances = self.add_weight(shape=shape, initializer=initializer(0.02), name="distances")

    def scores(self, queries, keys, query_offset=0):
        """As in `MultiHeadAttention`; query_offset: (), or (b,) for rows that begin at positions of their own."""
        t, s = (x.shape[2] or ops.shape(x)[2] for x in (queries, keys))
        if isinstance(s, int) and s > self.max_distance:
            raise UserError(f"a text has {s} tokens; this model takes {self.max_distance} at most")
        offset = ops.cast(query_offset, "int32")[..., None, None]
        apart = offset + ops.arange(t)[:, None] - ops.arange(s) + self.max_distance - 1
        known = ops.take(ops.cast(self.distances, queries.dtype), apart, axis=0)  # (t, s, e), or (b, t, s, e)
        places = "tse" if len(known.shape) == 3 else "btse"
        scores = super().scores(queries, keys) + ops.einsum(f"bhte,{places}->bhts", queries, known)
        if self.position_embedding_type == "relative_key_query":
            scores = scores + ops.einsum(f"bhse,{places}->bhts", keys * (1 / math.sqrt(self.size)), known)
        return scores


@keras.saving.register_keras_serializable("homl_models")
class Block(Layer):
    """(b, t, d) -> (b, t, d), the weights of the heads (b, h, t, s), and those over another text, if there is one.

    pruned_heads: of self-attention. The other arguments are those of `Bert`.
    """

    def __init__(
        self,
        hidden_size,
        num_attention_heads,
        intermediate_size,
        hidden_act="gelu",
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        layer_norm_eps=1e-12,
        initializer_range=0.02,
        position_embedding_type="absolute",
        max_position_embeddings=512,
        add_cross_attention=False,
        chunk_size_feed_forward=0,
        gradient_checkpointing=False,
        pruned_heads=(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_size, self.num_attention_heads, self.pruned_heads = hidden_size, num_attention_heads, pruned_heads
        self.intermediate_size, self.hidden_act = intermediate_size, hidden_act
        self.hidden_dropout_prob, self.attention_probs_dropout_prob = hidden_dropout_prob, attention_probs_dropout_prob
        self.layer_norm_eps, self.initializer_range = layer_norm_eps, initializer_range
        self.position_embedding_type, self.max_position_embeddings = position_embedding_type, max_position_embeddings
        self.add_cross_attention, self.chunk_size_feed_forward = add_cross_attention, chunk_size_feed_forward
        self.gradient_checkpointing = gradient_checkpointing
        self.heads = [i for i in range(num_attention_heads) if i not in pruned_heads]
        dtype, start = self.dtype_policy, initializer(initializer_range)
        settings = {"dropout": attention_probs_dropout_prob, "dtype": dtype}
        settings["head_dim"] = hidden_size // num_attention_heads
        relative = {"position_embedding_type": position_embedding_type, "max_distance": max_position_embeddings}
        kind, more = (
            (MultiHeadAttention, {}) if position_embedding_type == "absolute" else (RelativeAttention, relative)
        )
        self.attention = kind(hidden_size, len(self.heads), name="attention", **more, **settings)
        self.cross_attention = None
        if add_cross_attention:
            self.cross_attention = MultiHeadAttention(hidden_size, num_attention_heads, name="cross", **settings)
        self.attentions = [self.attention, self.cross_attention] if add_cross_attention else [self.attention]
        for dense in (dense for attention in self.attentions for dense in attention.projections):
            dense.kernel_initializer = start
        act = ACTIVATIONS[hidden_act]
        self.hidden = Dense(intermediate_size, act, kernel_initializer=start, name="hidden", dtype=dtype)
        self.output_dense = Dense(hidden_size, kernel_initializer=start, name="output", dtype=dtype)
        count = 3 if add_cross_attention else 2
        self.norms = [keras.layers.LayerNormalization(epsilon=layer_norm_eps, dtype=dtype) for _ in range(count)]
        self.dropouts = [Dropout(hidden_dropout_prob, dtype=dtype) for _ in range(count)]

    def build(self, input_shape):
        for layer in (*self.attentions, self.hidden, *self.norms):
            layer.build((None, None, self.hidden_size))
        self.output_dense.build((None, None, self.intermediate_size))

    def call(self, x, seen=None, head_factors=None, memory=None, memory_seen=None, training=None):
        """seen, memory_seen: True where there is something to look at, of shapes that broadcast to (b, h, t, s).

        head_factors: (h,), factors of the heads, of those that are pruned as well. memory: another text (b, s, d).
        """

        def block(x, *memory):
            keys_values = memory and self.cross_attention.keys_values(memory[0])
            own = self.attention.keys_values(x)
            found = self.run(x, own, seen, head_factors, keys_values, memory_seen, training)
            return found if memory else found[:2]

        if self.gradient_checkpointing and training:
            block = rematerialized(block, [*self.dropouts, *(attention.dropout_layer for attention in self.attentions)])
        return block(x) if memory is None else block(x, memory)

    def run(self, x, keys_values, seen, head_factors, memory, memory_seen, training=None, first=0):
        """What call does and decoding: keys_values are of all that may be looked at, x begins at place `first`.

        memory: keys and values of the other text, if there is one.
        """

        def add(i, x, y):
            return self.norms[i](x + self.dropouts[i](y, training=training))

        own = None if head_factors is None else ops.take(head_factors, self.heads, axis=0)
        y, weights = self.attention.attend(x, *keys_values, seen, training, own, first)
        x, cross = add(0, x, y), None
        if memory:
            y, cross = self.cross_attention.attend(x, *memory, memory_seen, training, head_factors)
            x = add(1, x, y)
        return add(-1, x, self.feed_forward(x)), weights, cross

    def feed_forward(self, x):
        """In chunks of so many tokens, one after the other, where that is asked for."""

        def function(x):
            return self.output_dense(self.hidden(x))

        size = self.chunk_size_feed_forward
        if not size:
            return function(x)
        rows, length, d = *ops.shape(x)[:2], self.hidden_size
        count = -(-length // size)
        x = ops.pad(x, [(0, 0), (0, count * size - length), (0, 0)])
        x = ops.transpose(ops.reshape(x, (rows, count, size, d)), (1, 0, 2, 3))
        x = ops.reshape(ops.transpose(ops.map(function, x), (1, 0, 2, 3)), (rows, count * size, d))
        return x[:, :length]


@keras.saving.register_keras_serializable("homl_models")
class Bert(Model):
    """Ids (b, t), or a dictionary of them and of what else there is, -> a dictionary, with

        last_hidden_state (b, t, d); pooler_output (b, d), if there is a pooler;
        hidden_states, attentions, cross_attentions: one of each block, and the embeddings first, if asked for.

    Inputs, all but the ids optional: input_ids (b, t) or inputs_embeds (b, t, embedding size), token_type_ids and
    position_ids (b, t), attention_mask (b, t) or (b, t, s), 1 for what may be looked at, head_mask (h,) or (layers, h),
    1 for heads that count; for `add_cross_attention` encoder_hidden_states (b, s, d), encoder_attention_mask (b, s).

    Arguments: those of Hugging Face's `BertConfig`. position_embedding_type: one of `POSITIONS`.
    embedding_size: of the embeddings, which are projected if it is not the hidden size (ELECTRA).
    chunk_size_feed_forward: tokens that go through the feed-forward network at a time, to save memory; 0 for all.
    gradient_checkpointing: compute what blocks find again for the gradients, to save memory.
    pruned_heads: {layer: heads that are no more}; see `pruned`.
    shared_embeddings: those of another model, instead of its own; a copy from the configuration has its own.
    """

    def __init__(
        self,
        vocab_size=30522,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        hidden_act="gelu",
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        max_position_embeddings=512,
        type_vocab_size=2,
        initializer_range=0.02,
        layer_norm_eps=1e-12,
        position_embedding_type="absolute",
        embedding_size=None,
        add_pooling_layer=True,
        is_decoder=False,
        add_cross_attention=False,
        chunk_size_feed_forward=0,
        gradient_checkpointing=False,
        pruned_heads=None,
        **kwargs,
    ):
        shared_embeddings = kwargs.pop("shared_embeddings", None)
        super().__init__(**kwargs)
        if hidden_size % num_attention_heads:
            raise UserError(f"{num_attention_heads} heads do not divide the hidden size {hidden_size}")
        for name, value, known in (
            ("hidden_act", hidden_act, ACTIVATIONS),
            ("position_embedding_type", position_embedding_type, POSITIONS),
        ):
            if value not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        if add_cross_attention and not is_decoder:
            raise UserError("add_cross_attention is for decoders: give is_decoder as well")
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.hidden_act, self.hidden_dropout_prob = hidden_act, hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.max_position_embeddings, self.type_vocab_size = max_position_embeddings, type_vocab_size
        self.initializer_range, self.layer_norm_eps = initializer_range, layer_norm_eps
        self.position_embedding_type, self.embedding_size = position_embedding_type, embedding_size
        self.add_pooling_layer, self.is_decoder = add_pooling_layer, is_decoder
        self.add_cross_attention, self.chunk_size_feed_forward = add_cross_attention, chunk_size_feed_forward
        self.gradient_checkpointing = gradient_checkpointing
        self.pruned_heads = self.checked_heads(pruned_heads or {})
        dtype, start = self.dtype_policy, initializer(initializer_range)
        self.embeddings = shared_embeddings or Embeddings(
            vocab_size, embedding_size or hidden_size, max_position_embeddings, type_vocab_size,
            position_embedding_type == "absolute", layer_norm_eps, hidden_dropout_prob, initializer_range,
            name="embeddings", dtype=dtype,
        )  # fmt: skip
        project = embedding_size not in (None, hidden_size)
        dense = functools.partial(keras.layers.Dense, hidden_size, kernel_initializer=start, dtype=dtype)
        self.project = dense(name="project") if project else None
        names = (
            "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "hidden_dropout_prob",
            "attention_probs_dropout_prob", "layer_norm_eps", "initializer_range", "position_embedding_type",
            "max_position_embeddings", "add_cross_attention", "chunk_size_feed_forward", "gradient_checkpointing",
        )  # fmt: skip
        settings = {name: getattr(self, name) for name in names}
        self.blocks = [
            Block(pruned_heads=self.pruned_heads.get(i, ()), name=f"block_{i}", dtype=dtype, **settings)
            for i in range(num_hidden_layers)
        ]
        self.pooler = dense(activation="tanh", name="pooler") if add_pooling_layer else None

    def checked_heads(self, heads):
        """{layer: heads} with whole numbers, in order; `UserError` for what is not there."""
        heads = {int(i): tuple(sorted({int(head) for head in some})) for i, some in heads.items()}
        for i, some in heads.items():
            if not 0 <= i < self.num_hidden_layers or not all(0 <= head < self.num_attention_heads for head in some):
                raise UserError(
                    f"heads to prune must lie in 0 to {self.num_attention_heads - 1} of layers 0 to "
                    f"{self.num_hidden_layers - 1}, not {list(some)} of {i}"
                )
            if len(some) == self.num_attention_heads:
                raise UserError(f"one head of layer {i} must stay")
        return {i: some for i, some in sorted(heads.items()) if some}

    def get_config(self):
        return super().get_config() | {"pruned_heads": {str(i): list(some) for i, some in self.pruned_heads.items()}}

    def build(self, input_shape=None):
        if not self.embeddings.built:  # they may be shared
            self.embeddings.build()
        if self.project:
            self.project.build((None, None, self.embedding_size))
        for block in self.blocks:
            block.build((None, None, self.hidden_size))
        if self.pooler:
            self.pooler.build((None, self.hidden_size))
        self.built = True

    def call(self, inputs, training=None, output_hidden_states=False, output_attentions=False):
        given = unpacked(inputs)
        memory = given["encoder_hidden_states"]
        if memory is not None and not self.add_cross_attention:
            raise UserError("encoder_hidden_states are for models with add_cross_attention")
        x = self.embed(given, training)
        mask = self.seen(given["attention_mask"], ops.shape(x)[1])
        memory_mask = given["encoder_attention_mask"]
        memory_mask = None if memory_mask is None else ops.cast(memory_mask, "bool")[:, None, None]
        head_mask = given["head_mask"]
        states, attentions, crosses = [x], [], []
        for i, block in enumerate(self.blocks):
            heads = head_mask if head_mask is None or len(head_mask.shape) == 1 else head_mask[i]
            x, weights, *cross = block(x, mask, heads, memory, memory_mask, training=training)
            states.append(x)
            attentions.append(weights)
            crosses.extend(cross)
        found = {"last_hidden_state": x}
        if self.pooler:
            found["pooler_output"] = self.pooler(x[:, 0])
        if output_hidden_states:
            found["hidden_states"] = tuple(states)
        if output_attentions:
            found["attentions"] = tuple(attentions)
            if memory is not None:
                found["cross_attentions"] = tuple(crosses)
        return found

    def embed(self, given, training=None):
        """What goes into the first block (b, t, d)."""
        names = "input_ids", "token_type_ids", "position_ids", "inputs_embeds"
        x = self.embeddings(*(given[name] for name in names), training=training)
        return self.project(x) if self.project else x

    def seen(self, attention_mask, length):
        """Which places each token looks at, (b or 1, 1, t or 1, s), or None for all."""
        mask = None
        if attention_mask is not None:
            mask = ops.cast(attention_mask, "bool")
            mask = mask[:, None, None] if len(mask.shape) == 2 else mask[:, None]
        if self.is_decoder:
            order = ops.arange(length)
            before = (order[:, None] >= order)[None, None]
            mask = before if mask is None else ops.logical_and(mask, before)
        return mask


def pruned(model, heads):
    """A model like `model`, a `Bert` or a head around one, without some heads of self-attention.

    heads: {layer: heads}, counted as in the model that had all of them. What is left keeps its weights.
    """
    old = getattr(model, "backbone", model)
    both = {i: {*old.pruned_heads.get(i, ()), *heads.get(i, ())} for i in {*old.pruned_heads, *heads}}
    config = model.get_config()
    inner = config if old is model else config["backbone"]["config"]
    inner["pruned_heads"] = {str(i): list(some) for i, some in both.items()}
    new = type(model).from_config(config)
    new.build()
    for weight, whole in zip(new.weights, model.weights, strict=True):
        if weight.shape == whole.shape:
            weight.assign(whole)
    size = old.hidden_size // old.num_attention_heads
    for block, before in zip(getattr(new, "backbone", new).blocks, old.blocks):
        kept = [before.heads.index(head) for head in block.heads]
        units = np.concatenate([np.arange(size) + size * head for head in kept])
        for weight, whole in zip(block.attention.weights, before.attention.weights, strict=True):
            for axis, (n, m) in enumerate(zip(weight.shape, whole.shape)):
                if n != m:
                    weight.assign(np.take(ops.convert_to_numpy(whole), units, axis=axis))
    return new


def unpacked(inputs):
    """Ids, or a dictionary of inputs -> a dictionary with all `INPUTS`, None for those that are not there."""
    given = inputs if isinstance(inputs, dict) else {"input_ids": inputs}
    unknown = set(given) - set(INPUTS)
    if unknown:
        raise UserError(f"there are no inputs {', '.join(sorted(unknown))}; there are {', '.join(INPUTS)}")
    given = dict.fromkeys(INPUTS) | given
    if (given["input_ids"] is None) == (given["inputs_embeds"] is None):
        raise UserError("give either input_ids or inputs_embeds")
    return given
