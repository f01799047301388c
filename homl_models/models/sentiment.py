"""Recurrent classifier of texts (chapter 16 of the book): sentiment of film reviews, or strings of a grammar.

Words are embedded, a recurrent network reads them, and its last state, or a mean of all states by attention, gives the
logit. Texts have different lengths, so that a batch is padded; `masking` says how the network learns what is padding:

    none           not at all: the last state has forgotten the text behind hundreds of steps of padding
    mask_zero      `Embedding(mask_zero=True)` makes the mask, Keras hands it from layer to layer
    by_hand        ids != 0, given to each recurrent layer as its argument `mask`
    ragged         steps below the length of the row: what a ragged tensor is, its values and its row lengths
    masking_layer  embeddings of padding are set to 0, and `keras.layers.Masking` masks vectors that are all 0
    own_layer      a layer of ours that halves the number of steps, `MaskedConv1D`, and the mask with its `compute_mask`

All but the first and the last compute the same function.
Recipes: `sentiment`, `sentiment_unmasked`, `sentiment_by_hand`, `sentiment_ragged`, `sentiment_masking_layer`,
`sentiment_own_layer`, `sentiment_attention`, `reber_classifier`.
Shapes: b batch, t tokens, d embedding, u units, n labels.

Deviations from the book: logits instead of probabilities, n of them for n > 2 labels; Adam instead of Nadam; texts come
as ids, in batches of similar lengths. Keras 3 takes no ragged inputs, so that `ragged` is padded. Embeddings of a small
vocabulary are projected once a batch and not once a step (`recurrent.GRU.of_embeddings`).
"""

import functools

import keras
import numpy as np
from keras import ops

from homl_models.errors import UserError
from homl_models.layers import recurrent
from homl_models.layers.masking import AttentionPooling, MaskedConv1D
from homl_models.models.text_classifier import TOKENIZERS, TextClassifier

CELLS = {"gru": recurrent.GRU, "lstm": recurrent.LSTM}
MASKINGS = "none", "mask_zero", "by_hand", "ragged", "masking_layer", "own_layer"
POOLINGS = "last", "attention"
SMALL = 4096  # tokens of a vocabulary that is projected as a whole
PADDING = 0


@keras.saving.register_keras_serializable("homl_models")
class SentimentRNN(TextClassifier):
    """Recurrent classifier: ids (b, t), padded at the right with 0 -> logits (b,), or (b, n) for n > 2 labels.

    Args:
        vocabulary, label_names: see `TextClassifier`.
        tokens: "words" or "characters".
        embed_dim, units, num_layers, cell ("gru" or "lstm"): sizes.
        bidirectional: read the text in both directions.
        dropout: rate, in [0, 1), on the inputs of the recurrent layers.
        pooling: "last" state, or "attention" over the states of all steps.
        masking: see the module.
    """

    def __init__(
        self,
        vocabulary,
        label_names=("negative", "positive"),
        tokens="words",
        embed_dim=128,
        units=128,
        num_layers=1,
        cell="gru",
        bidirectional=False,
        dropout=0.0,
        pooling="last",
        masking="mask_zero",
        **kwargs,
    ):
        for name, value, known in (
            ("tokens", tokens, TOKENIZERS),
            ("cell", cell, CELLS),
            ("pooling", pooling, POOLINGS),
            ("masking", masking, MASKINGS),
        ):
            if value not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        self.tokens = tokens
        super().__init__(vocabulary, label_names, **kwargs)
        self.embed_dim, self.units, self.num_layers, self.cell = embed_dim, units, num_layers, cell
        self.bidirectional, self.dropout, self.pooling, self.masking = bidirectional, dropout, pooling, masking
        dtype = self.dtype_policy
        mask_zero = masking in ("mask_zero", "own_layer")
        self.embedding = keras.layers.Embedding(len(self.vocabulary), embed_dim, mask_zero=mask_zero, dtype=dtype)
        if masking == "masking_layer":
            self.masking_layer = keras.layers.Masking(dtype=dtype)
        if masking == "own_layer":
            self.conv = MaskedConv1D(embed_dim, dtype=dtype)
        self.recurrent = [self.recurrent_layer(i == num_layers - 1) for i in range(num_layers)]
        if pooling == "attention":
            self.attention = AttentionPooling(dtype=dtype)
        self.head = keras.layers.Dense(self.num_logits, name="head", dtype="float32")

    @functools.cached_property
    def tokenizer(self):
        return TOKENIZERS[self.tokens](self.vocabulary)

    def recurrent_layer(self, last):
        sequences = not last or self.pooling == "attention"
        layer = CELLS[self.cell](self.units, return_sequences=sequences, dropout=self.dropout, dtype=self.dtype_policy)
        return keras.layers.Bidirectional(layer, dtype=self.dtype_policy) if self.bidirectional else layer

    def build(self, input_shape=None):
        self.embedding.build((None, None))
        size = self.embed_dim
        if self.masking == "own_layer":
            self.conv.build((None, None, size))
        for layer in self.recurrent:
            layer.build((None, None, size))
            size = self.units * (2 if self.bidirectional else 1)
        if self.pooling == "attention":
            self.attention.build((None, None, size))
        self.head.build((None, size))
        self.built = True

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_logits)[: self.num_logits]

    def call(self, ids, training=None):
        mask, layers = self.explicit_mask(ids), self.recurrent
        if self.projects_vocabulary(training):
            embeddings, mask = self.vocabulary_embeddings(ids, mask)
            x = self.recurrent[0].of_embeddings(ids, embeddings, mask)
            layers = layers[1:]
        else:
            x = self.embedded(ids)
        for layer in layers:
            x = layer(x, mask=mask, training=training)  # of None Keras takes the mask that x carries
        if self.pooling == "attention":
            x = self.attention(x, mask=mask)
        return self.as_logits(self.head(x))

    def explicit_mask(self, ids):
        """Mask (b, t) of the variants that hand it to the layers as an argument; None for the others."""
        if self.masking == "by_hand":
            return ops.not_equal(ids, PADDING)
        if self.masking == "ragged":
            row_lengths = ops.sum(ops.cast(ids != PADDING, "int32"), axis=1)
            return ops.arange(ops.shape(ids)[1]) < row_lengths[:, None]
        return None

    def embedded(self, ids):
        """Ids (b, t) -> inputs of the first recurrent layer (b, t, d), which carry their mask where Keras makes it."""
        x = self.embedding(ids)
        if self.masking == "masking_layer":
            return self.masking_layer(x * ops.cast(ids != PADDING, x.dtype)[..., None])
        return self.conv(x) if self.masking == "own_layer" else x

    def projects_vocabulary(self, training):
        """Whether the first layer is a function of ids alone, and cheaper so."""
        plain = not self.bidirectional and self.masking != "own_layer"
        return plain and not (training and self.dropout) and len(self.vocabulary) <= SMALL

    def vocabulary_embeddings(self, ids, mask):
        """Embeddings of the vocabulary (v, d) as `embedded` has them, and the mask that goes with ids (b, t)."""
        embeddings = self.embedding.embeddings
        if self.masking != "masking_layer":
            return embeddings, self.embedding.compute_mask(ids) if mask is None else mask
        real = ops.cast(ops.arange(len(self.vocabulary)) != PADDING, embeddings.dtype)
        embeddings = embeddings * real[:, None]
        return embeddings, ops.take(self.masking_layer.compute_mask(embeddings), ids, axis=0)

    def nearest(self, token, k=8):
        """The k tokens whose embeddings have the largest cosine to that of `token`: [(token, cosine), ...]."""
        if token not in self.vocabulary[len(self.tokenizer.special) :]:
            raise UserError(f"{token!r} is not in the vocabulary of this model")
        e = ops.convert_to_numpy(self.embedding.embeddings).astype("float64")
        e /= np.maximum(np.linalg.norm(e, axis=1, keepdims=True), 1e-12)
        cosine = e @ e[self.vocabulary.index(token)]
        special = len(self.tokenizer.special)
        order = [i for i in np.argsort(-cosine, kind="stable") if i >= special and self.vocabulary[i] != token]
        return [(self.vocabulary[i], float(cosine[i])) for i in order[:k]]
