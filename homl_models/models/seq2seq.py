"""Recurrent encoder-decoder for translation, with or without attention (chapter 16 of the book).

A recurrent encoder reads the source, and a recurrent decoder generates the target from the encoder's
final state (Sutskever et al., 2014, https://arxiv.org/abs/1409.3215); with attention every step of the
decoder attends to all outputs of the encoder, the memory. Recipes: `seq2seq`, `seq2seq_bidirectional`,
`seq2seq_attention`, `seq2seq_bahdanau`, `dates`. Shapes: b batch, s source tokens, t target tokens,
r rows = b times the beam width, u units, e embedding, v vocabulary.

Attentions:
    none
    dot, general, concat   Luong et al., 2015 (https://arxiv.org/abs/1508.04025): the decoder's output
                           queries the memory, and tanh(W [context; output]) goes to the output layer
    additive               Bahdanau et al., 2014 (https://arxiv.org/abs/1409.0473): the decoder's previous
                           state queries the memory, and the context is part of the cell's input
    book                   the book's shortcut: dot scores, and only the context goes to the output layer
Deviations: no input feeding (Luong) and no maxout readout (Bahdanau; tanh(W [context; output; input])
instead); sources end with an end token and are not reversed; each layer of the decoder starts from the
final state of the encoder's layer, without a projection; scheduled sampling runs without the decoder's dropout.
"""

import keras
from keras import ops

from homl_models import decoding, schedules
from homl_models.errors import UserError
from homl_models.layers import recurrent
from homl_models.layers.attention import Attention
from homl_models.layers.dropout import Dropout
from homl_models.layers.gaussian import uniform
from homl_models.models.translator import Translator
from homl_models.tokenizers.base import PAD

CELLS = {"lstm": recurrent.LSTM, "gru": recurrent.GRU}
ATTENTIONS = ("none", "dot", "general", "concat", "additive", "book")


@keras.saving.register_keras_serializable("homl_models")
class Seq2Seq(Translator):
    """Recurrent encoder-decoder: ids ((b, s), (b, t)) -> logits (b, t, v); see `Translator`.

    Args:
        embed_dim, units, num_layers, cell ("lstm" or "gru"): of encoder and decoder.
        bidirectional: a bidirectional encoder of units / 2 each way, outputs and states concatenated.
        attention: one of `ATTENTIONS`, explained above.
        dropout: rate on the embeddings and on the output of every recurrent layer.
        scheduled_sampling: "none" (teacher forcing), or the schedule, "linear", "exponential" or
            "inverse_sigmoid", by which the probability of teacher forcing falls over the training steps;
            otherwise the decoder's input is a token sampled from its own prediction (Bengio et al., 2015,
            https://arxiv.org/abs/1506.03099).
        sampling_k: k of that schedule; see `schedules.teacher_forcing_probability`.
    """

    def __init__(
        self,
        source_vocabulary,
        target_vocabulary,
        tokenizer="words",
        embed_dim=128,
        units=512,
        num_layers=1,
        cell="lstm",
        bidirectional=False,
        attention="none",
        dropout=0.0,
        scheduled_sampling="none",
        sampling_k=1.0,
        **kwargs,
    ):
        super().__init__(source_vocabulary, target_vocabulary, tokenizer, **kwargs)
        if cell not in CELLS:
            raise UserError(f"cell must be one of {', '.join(CELLS)}, not {cell!r}")
        if attention not in ATTENTIONS:
            raise UserError(f"attention must be one of {', '.join(ATTENTIONS)}, not {attention!r}")
        if bidirectional and units % 2:
            raise UserError(f"a bidirectional encoder halves the units, which must be even, not {units}")
        if scheduled_sampling != "none":
            schedules.check_teacher_forcing(scheduled_sampling, sampling_k)
        self.embed_dim, self.units, self.num_layers, self.cell = embed_dim, units, num_layers, cell
        self.bidirectional, self.attention, self.dropout = bidirectional, attention, dropout
        self.scheduled_sampling, self.sampling_k = scheduled_sampling, sampling_k
        dtype = self.dtype_policy
        settings = {"return_sequences": True, "return_state": True, "dtype": dtype}

        def encoder_layer():
            if bidirectional:
                return keras.layers.Bidirectional(CELLS[cell](units // 2, **settings), dtype=dtype)
            return CELLS[cell](units, **settings)

        self.source_embedding = keras.layers.Embedding(len(source_vocabulary), embed_dim, dtype=dtype)
        self.target_embedding = keras.layers.Embedding(len(target_vocabulary), embed_dim, dtype=dtype)
        self.encoder = [encoder_layer() for _ in range(num_layers)]
        self.decoder = [CELLS[cell](units, **settings) for _ in range(num_layers)]
        self.dropouts = [Dropout(dropout, dtype=dtype) for _ in range(2 * num_layers + 2)]
        if attention != "none":
            score = {"book": "dot", "additive": "concat"}.get(attention, attention)
            self.attention_layer = Attention(score, dtype=dtype)
        self.readout = None
        if attention not in ("none", "book"):
            self.readout = keras.layers.Dense(units, "tanh", name="readout", dtype=dtype)
        self.head = keras.layers.Dense(len(target_vocabulary), name="head", dtype="float32")
        self.seeds = keras.random.SeedGenerator()

    def build(self, input_shape=None):
        additive = self.attention == "additive"
        self.source_embedding.build((None, None))
        self.target_embedding.build((None, None))
        for i, (encoder, decoder) in enumerate(zip(self.encoder, self.decoder)):
            encoder.build((None, None, self.units if i else self.embed_dim))
            context = self.units if additive and not i else 0
            decoder.build((None, None, (self.units if i else self.embed_dim) + context))
        if self.attention != "none":
            self.attention_layer.build((None, None, self.units), (None, None, self.units))
        if self.readout:
            self.readout.build((None, None, 2 * self.units + (self.embed_dim if additive else 0)))
        self.head.build((None, None, self.units))
        if self.scheduled_sampling != "none":
            self.trained_steps = self.add_weight(
                shape=(), dtype="int32", initializer="zeros", trainable=False, name="trained_steps"
            )
        self.built = True

    def call(self, inputs, training=None):
        source, target = inputs
        memory, state = self.encode(source, training)
        if training and self.scheduled_sampling != "none":
            return self.scheduled_sampling_logits(memory, state, target)
        hidden, _ = self.decode(memory, state, target, training)
        return self.logits(hidden)

    def encode(self, source, training=None):
        """Encoder: ids (b, s) -> memory (outputs (b, s, u), attention keys, mask (b, s)), initial decoder state."""
        mask = ops.not_equal(source, PAD)
        x, state = self.dropouts[-1](self.source_embedding(source), training=training), []
        for layer, dropout in zip(self.encoder, self.dropouts):
            x, *final = layer(x, mask=mask, training=training)
            x = dropout(x, training=training)
            if self.bidirectional:
                half = len(final) // 2
                final = [ops.concatenate(both, axis=-1) for both in zip(final[:half], final[half:])]
            state.append(final)
        keys = x if self.attention == "none" else self.attention_layer.keys(x)
        return (x, keys, mask), state

    def decode(self, memory, state, target, training=None):
        """Decoder: memory, state, ids (b, t) -> input of the output layer (b, t, u), attention weights (b, t, s)."""
        embedded = self.dropouts[-2](self.target_embedding(target), training=training)
        if self.attention == "additive":
            return self.decode_additive(memory, state, embedded, training)
        x = embedded
        for i, (layer, initial_state) in enumerate(zip(self.decoder, state)):
            x, *_ = layer(x, initial_state=initial_state, training=training)
            x = self.dropouts[self.num_layers + i](x, training=training)
        return self.attend(memory, x)

    def decode_additive(self, memory, state, embedded, training=None):
        """`decode` of Bahdanau's attention, step by step: the query of a step is the state before it."""

        def cell_step(x, state):
            hidden, context, state = self.additive_step(memory, x, state)
            return ops.concatenate([hidden, context], axis=-1), state

        out = recurrent.scan(cell_step, embedded, state, self.dtype_policy)
        hidden, context = out[..., : self.units], out[..., self.units :]
        queries = ops.concatenate([state[-1][0][:, None], hidden[:, :-1]], axis=1)
        _, weights = self.attend_to(memory, queries)
        hidden = self.dropouts[-3](hidden, training=training)
        return self.readout(ops.concatenate([hidden, context, embedded], axis=-1)), weights

    def additive_step(self, memory, x, state):
        """One step of Bahdanau's decoder: inputs (r, e), state -> output (r, u), context (r, u), state."""
        context = self.grouped_context(memory, state[-1][0])
        x, state = self.cell_step(ops.concatenate([x, context], axis=-1), state)
        return x, context, state

    def cell_step(self, x, state):
        """One step of all recurrent layers of the decoder: inputs (r, ...), state -> output (r, u), state."""
        new_state = []
        for layer, layer_state in zip(self.decoder, state):
            x, layer_state = layer.cell(x, layer_state, training=False)
            new_state.append(list(layer_state))
        return x, new_state

    def attend_to(self, memory, query):
        """Attention: queries (b, t, u) -> contexts (b, t, u), weights (b, t, s)."""
        values, keys, mask = memory
        return self.attention_layer.attend(self.attention_layer.queries(query), keys, values, mask)

    def grouped_context(self, memory, query):
        """Attention of a beam: queries (r, u) of r = b * k rows, memory of b rows -> contexts (r, u)."""
        values, keys, mask = memory
        queries = ops.reshape(self.attention_layer.queries(query), (ops.shape(mask)[0], -1, self.units))  # (b, k, u)
        return ops.reshape(self.attention_layer.attend(queries, keys, values, mask)[0], (-1, self.units))

    def attend(self, memory, hidden):
        """Luong's attention: decoder outputs (b, t, u) -> input of the output layer (b, t, u), weights (b, t, s)."""
        if self.attention == "none":
            return hidden, None
        context, weights = self.attend_to(memory, hidden)
        if self.readout:
            context = self.readout(ops.concatenate([context, hidden], axis=-1))
        return context, weights

    def logits(self, hidden):
        """Output layer: (..., u) -> logits (..., v)."""
        return self.head(hidden)

    def scheduled_sampling_logits(self, memory, state, target):
        """Scheduled sampling: logits (b, t, v), each input the true token or one sampled from the logits before it."""
        shape = ops.shape(target)
        p = schedules.teacher_forcing_probability(self.scheduled_sampling, self.sampling_k, self.trained_steps)
        self.trained_steps.assign_add(1)
        use_target = ops.logical_or(
            uniform(shape, self.seeds.next()) < p, ops.arange(shape[1]) == 0
        )  # the first token is always `START`
        noise = uniform(shape, self.seeds.next())

        def sampling_step(i, carry):
            (logits, state), i = carry, i[0, 0]
            sampled = decoding.sample_token(ops.stop_gradient(logits), ops.take(noise, i, axis=1))
            ids = ops.where(ops.take(use_target, i, axis=1), ops.take(target, i, axis=1), sampled)
            logits, state = self.step(memory, ids, state)
            return logits, (ops.cast(logits, self.compute_dtype), state)

        steps = ops.broadcast_to(ops.arange(shape[1])[None, :, None], (*shape, 1))
        zeros = ops.zeros((shape[0], len(self.target_vocabulary)), self.compute_dtype)
        return recurrent.scan(sampling_step, steps, (zeros, state), self.dtype_policy)

    @property
    def has_attention(self):
        return self.attention != "none"

    def alignment(self, source, target):
        """Attention weights (b, t, s) of a target given its source.

        Args:
            source: (b, s).
            target: (b, t) from `START`, without `END`: row i is the step that predicts token i + 1.
        """
        memory, state = self.encode(source, training=False)
        return self.decode(memory, state, target, training=False)[1]

    def start(self, source, length):
        return self.encode(source, training=False)

    def step(self, memory, ids, state):
        x = self.target_embedding(ids)
        if self.attention == "additive":
            hidden, context, state = self.additive_step(memory, x, state)
            return self.logits(self.readout(ops.concatenate([hidden, context, x], axis=-1))), state
        x, state = self.cell_step(x, state)
        if self.attention != "none":
            context = self.grouped_context(memory, x)
            x = self.readout(ops.concatenate([context, x], axis=-1)) if self.readout else context
        return self.logits(x), state
