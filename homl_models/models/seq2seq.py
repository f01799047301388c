"""Recurrent encoder-decoder for translation, with or without attention (chapter 16 of the book).

A recurrent network reads the source (Sutskever et al., 2014, https://arxiv.org/abs/1409.3215), another
starts from its final state and writes the target; attention lets every step of the second look back at
all that the first has read. Recipes: `seq2seq`, `seq2seq_bidirectional`, `seq2seq_attention`,
`seq2seq_bahdanau`, `dates`. Shapes: b batch, s source tokens, t target tokens, r rows = b times the
beam, u units, e embedding, m memory = u, v vocabulary.

Attentions:
    none
    dot, general, concat   Luong et al., 2015 (https://arxiv.org/abs/1508.04025): the decoder's output
                           queries the memory, and tanh(W [context; output]) goes to the output layer
    additive               Bahdanau et al., 2014 (https://arxiv.org/abs/1409.0473): the decoder's previous
                           state queries the memory, and the context is part of the cell's input
    book                   the book's shortcut: dot scores, the context alone goes to the output layer
Deviations: no input feeding (Luong) and no maxout readout (Bahdanau; tanh(W [context; output; input])
instead); sources end with an end token and are not reversed; each layer of the decoder starts from the
final state of the encoder's layer, without a projection; scheduled sampling leaves out the decoder's dropout.
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
    """Ids ((b, s), (b, t)) -> logits (b, t, v); see `Translator`.

    embed_dim, units, num_layers, cell ("lstm" or "gru"): of encoder and decoder.
    bidirectional: the encoder reads both ways with units / 2 each, outputs and states concatenated.
    attention: one of `ATTENTIONS`, explained above.
    dropout: rate on the embeddings and on the output of every recurrent layer.
    scheduled_sampling: "none" (teacher forcing), or how the probability of feeding the true token falls
        over the training steps: "linear", "exponential", "inverse_sigmoid"; else the decoder is fed a
        token drawn from its own prediction (Bengio et al., 2015, https://arxiv.org/abs/1506.03099).
    sampling_k: k of that schedule; see `schedules.teacher_share`.
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
            schedules.check_teacher_share(scheduled_sampling, sampling_k)
        self.embed_dim, self.units, self.num_layers, self.cell = embed_dim, units, num_layers, cell
        self.bidirectional, self.attention, self.dropout = bidirectional, attention, dropout
        self.scheduled_sampling, self.sampling_k = scheduled_sampling, sampling_k
        dtype = self.dtype_policy
        settings = {"return_sequences": True, "return_state": True, "dtype": dtype}

        def reader():
            if bidirectional:
                return keras.layers.Bidirectional(CELLS[cell](units // 2, **settings), dtype=dtype)
            return CELLS[cell](units, **settings)

        self.source_embedding = keras.layers.Embedding(len(source_vocabulary), embed_dim, dtype=dtype)
        self.target_embedding = keras.layers.Embedding(len(target_vocabulary), embed_dim, dtype=dtype)
        self.encoder = [reader() for _ in range(num_layers)]
        self.decoder = [CELLS[cell](units, **settings) for _ in range(num_layers)]
        self.dropouts = [Dropout(dropout, dtype=dtype) for _ in range(2 * num_layers + 2)]
        if attention != "none":
            score = {"book": "dot", "additive": "concat"}.get(attention, attention)
            self.look = Attention(score, dtype=dtype)
        self.readout = None
        if attention not in ("none", "book"):
            self.readout = keras.layers.Dense(units, "tanh", name="readout", dtype=dtype)
        self.head = keras.layers.Dense(len(target_vocabulary), name="head", dtype="float32")
        self.seeds = keras.random.SeedGenerator()

    def build(self, input_shape=None):
        additive = self.attention == "additive"
        self.source_embedding.build((None, None))
        self.target_embedding.build((None, None))
        for i, (reader, writer) in enumerate(zip(self.encoder, self.decoder)):
            reader.build((None, None, self.units if i else self.embed_dim))
            context = self.units if additive and not i else 0
            writer.build((None, None, (self.units if i else self.embed_dim) + context))
        if self.attention != "none":
            self.look.build((None, None, self.units), (None, None, self.units))
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
            return self.sampled_logits(memory, state, target)
        hidden, _ = self.decode(memory, state, target, training)
        return self.logits(hidden)

    def encode(self, source, training=None):
        """Ids (b, s) -> memory (outputs (b, s, u), attention keys, mask (b, s)) and the decoder's first state."""
        mask = ops.not_equal(source, PAD)
        x, state = self.dropouts[-1](self.source_embedding(source), training=training), []
        for layer, dropout in zip(self.encoder, self.dropouts):
            x, *ended = layer(x, mask=mask, training=training)
            x = dropout(x, training=training)
            if self.bidirectional:
                half = len(ended) // 2
                ended = [ops.concatenate(both, axis=-1) for both in zip(ended[:half], ended[half:])]
            state.append(ended)
        keys = x if self.attention == "none" else self.look.keys(x)
        return (x, keys, mask), state

    def decode(self, memory, state, target, training=None):
        """A memory, a state and ids (b, t) -> what goes to the output layer (b, t, u), attention weights (b, t, s)."""
        embedded = self.dropouts[-2](self.target_embedding(target), training=training)
        if self.attention == "additive":
            return self.decode_additive(memory, state, embedded, training)
        x = embedded
        for i, (layer, before) in enumerate(zip(self.decoder, state)):
            x, *_ = layer(x, initial_state=before, training=training)
            x = self.dropouts[self.num_layers + i](x, training=training)
        return self.attend(memory, x)

    def decode_additive(self, memory, state, embedded, training=None):
        """One time step after the other, since each looks at the memory from where the one before has left it."""

        def one(x, state):
            hidden, context, state = self.additive_step(memory, x, state)
            return ops.concatenate([hidden, context], axis=-1), state

        out = recurrent.run(one, embedded, state, self.dtype_policy)
        hidden, context = out[..., : self.units], out[..., self.units :]
        queries = ops.concatenate([state[-1][0][:, None], hidden[:, :-1]], axis=1)
        _, weights = self.attend_to(memory, queries)
        hidden = self.dropouts[-3](hidden, training=training)
        return self.readout(ops.concatenate([hidden, context, embedded], axis=-1)), weights

    def additive_step(self, memory, x, state):
        """Inputs (r, e), the state -> output (r, u), context (r, u), state."""
        context = self.grouped_context(memory, state[-1][0])
        x, after = ops.concatenate([x, context], axis=-1), []
        for layer, before in zip(self.decoder, state):
            x, ended = layer.cell(x, before, training=False)
            after.append(list(ended))
        return x, context, after

    def attend_to(self, memory, query):
        """Queries (b, t, u) -> contexts (b, t, u), weights (b, t, s)."""
        values, keys, mask = memory
        return self.look.attend(self.look.queries(query), keys, values, mask)

    def grouped_context(self, memory, query):
        """Queries (r, u) of r = b * k rows over a memory of b rows -> contexts (r, u)."""
        values, keys, mask = memory
        queries = ops.reshape(self.look.queries(query), (ops.shape(mask)[0], -1, self.units))  # (b, k, u)
        return ops.reshape(self.look.attend(queries, keys, values, mask)[0], (-1, self.units))

    def attend(self, memory, hidden):
        """Outputs (b, t, u) of the decoder -> what goes to the output layer (b, t, u), weights (b, t, s)."""
        if self.attention == "none":
            return hidden, None
        context, weights = self.attend_to(memory, hidden)
        if self.readout:
            context = self.readout(ops.concatenate([context, hidden], axis=-1))
        return context, weights

    def logits(self, hidden):
        return self.head(hidden)

    def sampled_logits(self, memory, state, target):
        """Logits (b, t, v) of a decoder that is fed, at each step, the true token or one that it has drawn itself."""
        shape = ops.shape(target)
        share = schedules.teacher_share(self.scheduled_sampling, self.sampling_k, self.trained_steps)
        self.trained_steps.assign_add(1)
        true = ops.logical_or(
            uniform(shape, self.seeds.next()) < share, ops.arange(shape[1]) == 0
        )  # the first token is always `START`
        noise = uniform(shape, self.seeds.next())

        def one(i, carry):
            (logits, state), i = carry, i[0, 0]
            drawn = decoding.choose(ops.stop_gradient(logits), ops.take(noise, i, axis=1))
            ids = ops.where(ops.take(true, i, axis=1), ops.take(target, i, axis=1), drawn)
            logits, state = self.step(memory, ids, state)
            return logits, (ops.cast(logits, self.compute_dtype), state)

        places = ops.broadcast_to(ops.arange(shape[1])[None, :, None], (*shape, 1))
        zeros = ops.zeros((shape[0], len(self.target_vocabulary)), self.compute_dtype)
        return recurrent.run(one, places, (zeros, state), self.dtype_policy)

    @property
    def aligns(self):
        return self.attention != "none"

    def alignment(self, source, target):
        """How targets look at sources: weights (b, t, s).

        source (b, s); target (b, t) from `START`, without `END`: row i is the step that writes token i + 1.
        """
        memory, state = self.encode(source, training=False)
        return self.decode(memory, state, target, training=False)[1]

    def start(self, source, length):
        return self.encode(source, training=False)

    def step(self, memory, ids, state):
        x = self.target_embedding(ids)
        if self.attention == "additive":
            hidden, context, after = self.additive_step(memory, x, state)
            return self.logits(self.readout(ops.concatenate([hidden, context, x], axis=-1))), after
        after = []
        for layer, before in zip(self.decoder, state):
            x, ended = layer.cell(x, before, training=False)
            after.append(list(ended))
        if self.attention != "none":
            context = self.grouped_context(memory, x)
            x = self.readout(ops.concatenate([context, x], axis=-1)) if self.readout else context
        return self.logits(x), after
