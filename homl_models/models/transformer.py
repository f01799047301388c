"""Transformer (Vaswani et al., 2017, Attention Is All You Need, https://arxiv.org/abs/1706.03762).

Self-attention blocks encode the source; blocks of causal self-attention and of cross-attention
to the encoded source generate the target. Decoding caches the keys and values of the tokens so far,
so that each further token costs the same.
Recipes: `transformer_book`, `transformer`. Shapes: b batch, s source tokens, t target tokens,
r rows = b times the beam width, d dimension, v vocabulary, h heads.

Deviations from the paper: sources end with an end token; `pre_norm` and `positions="trained"` (the
book's first choice) are options, and `pre_norm` normalizes once more after the last block.
"""

import keras
from keras import ops

from homl_models.errors import UserError
from homl_models.layers.attention import DecoderBlock, EncoderBlock
from homl_models.layers.dropout import Dropout
from homl_models.layers.positional import LearnedPositionalEmbedding, PositionalEncoding
from homl_models.models.translator import Translator
from homl_models.tokenizers.base import PAD


@keras.saving.register_keras_serializable("homl_models")
class Transformer(Translator):
    """Transformer: ids ((b, s), (b, t)) -> logits (b, t, v); see `Translator`.

    Args:
        dim, num_heads, hidden_units, dropout, attention_dropout, pre_norm, activation, head_dim: of the
            blocks; see `layers.attention`. Dropout also applies to the sum of embeddings and positions.
        num_encoder_layers, num_decoder_layers: N.
        positions: "sinusoidal", or "trained" for at most `max_length` tokens.
        tie_weights: the output layer uses the target's embedding matrix (section 3.4).
        share_embeddings: source and target share an embedding matrix (they must have one vocabulary).
    """

    def __init__(
        self,
        source_vocabulary,
        target_vocabulary,
        tokenizer="words",
        dim=128,
        num_heads=8,
        hidden_units=128,
        num_encoder_layers=2,
        num_decoder_layers=2,
        dropout=0.1,
        attention_dropout=0.0,
        pre_norm=False,
        activation="relu",
        head_dim=None,
        positions="sinusoidal",
        max_length=None,
        tie_weights=True,
        share_embeddings=False,
        **kwargs,
    ):
        super().__init__(source_vocabulary, target_vocabulary, tokenizer, **kwargs)
        if positions not in ("sinusoidal", "trained"):
            raise UserError(f"positions must be sinusoidal or trained, not {positions!r}")
        if positions == "trained" and not max_length:
            raise UserError("trained positions need max_length, the largest number of tokens")
        if share_embeddings and tuple(source_vocabulary) != tuple(target_vocabulary):
            raise UserError("share_embeddings needs one vocabulary for source and target")
        self.dim, self.num_heads, self.hidden_units, self.head_dim = dim, num_heads, hidden_units, head_dim
        self.num_encoder_layers, self.num_decoder_layers = num_encoder_layers, num_decoder_layers
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.pre_norm, self.activation = pre_norm, activation
        self.positions, self.max_length = positions, max_length
        self.tie_weights, self.share_embeddings = tie_weights, share_embeddings
        dtype = self.dtype_policy

        def embedding(vocabulary, name):
            return keras.layers.ReversibleEmbedding(
                len(vocabulary),
                dim,
                tie_weights=tie_weights or name == "source",
                embeddings_initializer=keras.initializers.RandomNormal(stddev=dim**-0.5),
                reverse_dtype="float32",
                name=f"{name}_embedding",
                dtype=dtype,
            )

        def positional(name):
            return PositionalEncoding(dtype=dtype) if positions == "sinusoidal" else LearnedPositionalEmbedding(
                max_length, name=f"{name}_positions", dtype=dtype
            )  # fmt: skip

        self.target_embedding = embedding(target_vocabulary, "target")
        self.source_embedding = self.target_embedding if share_embeddings else embedding(source_vocabulary, "source")
        self.source_positions, self.target_positions = positional("source"), positional("target")
        block = {"dim": dim, "num_heads": num_heads, "hidden_units": hidden_units, "dropout": dropout, "dtype": dtype}
        block |= {"attention_dropout": attention_dropout, "pre_norm": pre_norm}
        block |= {"activation": activation, "head_dim": head_dim}
        self.encoder = [EncoderBlock(name=f"encoder_{i}", **block) for i in range(num_encoder_layers)]
        self.decoder = [DecoderBlock(name=f"decoder_{i}", **block) for i in range(num_decoder_layers)]
        self.dropouts = [Dropout(dropout, dtype=dtype) for _ in range(2)]
        self.norms = [keras.layers.LayerNormalization(epsilon=1e-5, dtype=dtype) for _ in range(2 * pre_norm)]

    def build(self, input_shape=None):
        for layer in {id(e): e for e in (self.target_embedding, self.source_embedding)}.values():
            layer.build((None, None))
        for layer in (self.source_positions, self.target_positions, *self.encoder, *self.decoder, *self.norms):
            layer.build((None, None, self.dim))
        self.built = True

    def call(self, inputs, training=None):
        source, target = inputs
        memory, mask = self.encode(source, training)
        x = self.embed(1, target, training)
        for block in self.decoder:
            x = block(x, memory, mask, training=training)
        return self.logits(x)

    def embed(self, side, ids, training=None, positions=None):
        """Embeddings times sqrt(d) plus positions: ids (b, t) of the source (side 0) or target (1) -> (b, t, d)."""
        embedding = (self.source_embedding, self.target_embedding)[side]
        add_positions = (self.source_positions, self.target_positions)[side]
        x = embedding(ids) * self.dim**0.5
        return self.dropouts[side](add_positions(x, positions=positions), training=training)

    def encode(self, source, training=None):
        """Encoder: ids (b, s) -> memory (b, s, d), mask (b, s)."""
        mask = ops.not_equal(source, PAD)
        x = self.embed(0, source, training)
        for block in self.encoder:
            x = block(x, mask=mask, training=training)
        return (self.norms[0](x) if self.pre_norm else x), mask

    def logits(self, x):
        """Output layer: (..., d) -> logits (..., v)."""
        return self.target_embedding(self.norms[1](x) if self.pre_norm else x, reverse=True)

    def start(self, source, length):
        memory, mask = self.encode(source, training=False)
        keys_values = [block.cross_attention.keys_values(memory) for block in self.decoder]
        rows = ops.shape(source)[0]
        caches = [block.empty_cache(rows, length) for block in self.decoder]
        return (keys_values, mask), (ops.zeros((rows,), "int32"), caches)

    def step(self, memory, ids, state):
        (keys_values, mask), (positions, caches), new_caches = memory, state, []
        x = self.embed(1, ids[:, None], False, positions[:, None])
        for block, cache, memory_keys_values in zip(self.decoder, caches, keys_values):
            x, _, cache = block.step(x, cache, ops.max(positions), memory_keys_values, mask)
            new_caches.append(cache)
        return self.logits(x[:, 0]), (positions + 1, new_caches)

    def alignment(self, source, target):
        """Cross-attention weights (b, t, s) of a target given its source: the mean over heads and decoder blocks.

        Args:
            source: (b, s).
            target: (b, t) from `START`, without `END`: row i is the step that predicts token i + 1.
        """
        memory, mask = self.encode(source, training=False)
        x, weights = self.embed(1, target), []
        for block in self.decoder:
            x, head_weights = block.call_with_weights(x, memory, mask)
            weights.append(ops.mean(head_weights, axis=1))
        return sum(weights) / len(weights)
