"""The book's translation models (chapter 16): the peers of `translate.py` and `translation_step.py`.

The inputs are strings, which `TextVectorization` layers of the model turn into 50 ids, and
`compile` gets `jit_compile=False`, as XLA takes no strings. `same_weights` copies the weights of one of
our models, so that both must compute the same; `randomized` gives it random weights that make this a test.
"""

import keras
import numpy as np

LENGTH = 50  # tokens to which the book pads
DIM = 128


def vectorizer(vocabulary):
    """`TextVectorization` with the ids of one of our vocabularies; `startofseq` and `endofseq` have ids 2 and 3."""
    words = ["startofseq", "endofseq", *vocabulary[4:]]
    return keras.layers.TextVectorization(output_sequence_length=LENGTH, vocabulary=words)


class Book:
    """The book's model, strings (source, "startofseq " + target) -> probabilities (b, 50, v), and its layers by name.

    kind: seq2seq, seq2seq_bidirectional, seq2seq_attention or transformer_book.
    """

    def __init__(self, kind, source_vocabulary, target_vocabulary):
        self.source_ids, self.target_ids = vectorizer(source_vocabulary), vectorizer(target_vocabulary)
        self.vocabulary = self.target_ids.get_vocabulary()
        source, target = (keras.Input(shape=(), dtype="string") for _ in range(2))
        ids = self.source_ids(source), self.target_ids(target)
        self.embeddings = [
            keras.layers.Embedding(len(words), DIM, mask_zero=True) for words in (source_vocabulary, target_vocabulary)
        ]
        embedded = [embedding(x) for embedding, x in zip(self.embeddings, ids)]
        build = self.transformer if kind == "transformer_book" else self.recurrent
        self.head = keras.layers.Dense(len(target_vocabulary), activation="softmax")
        self.model = keras.Model(inputs=[source, target], outputs=[self.head(build(kind, ids, embedded))])
        self.model.compile(
            loss="sparse_categorical_crossentropy", optimizer="nadam", metrics=["accuracy"], jit_compile=False
        )

    def recurrent(self, kind, ids, embedded):
        attends, bidirectional = kind == "seq2seq_attention", kind != "seq2seq"
        settings = {"return_state": True, "return_sequences": attends}
        if bidirectional:
            self.encoder = keras.layers.Bidirectional(keras.layers.LSTM(256, **settings))
        else:
            self.encoder = keras.layers.LSTM(512, **settings)
        outputs, *state = self.encoder(embedded[0])
        if bidirectional:
            state = [keras.ops.concatenate(state[i::2], axis=-1) for i in range(2)]
        self.decoder = keras.layers.LSTM(512, return_sequences=True)
        hidden = self.decoder(embedded[1], initial_state=state)
        return keras.layers.Attention()([hidden, outputs]) if attends else hidden

    def transformer(self, kind, ids, embedded):
        """N = 2; with the epsilon of our normalizations, which does not change the time."""
        from homl_models.layers.positional import PositionalEncoding

        self.blocks = []
        source_mask, target_mask = (keras.ops.not_equal(x, 0)[:, None] for x in ids)
        order = keras.ops.arange(LENGTH)
        causal = keras.ops.logical_and(target_mask, (order[:, None] >= order)[None])
        z = memory = PositionalEncoding()(embedded[0])
        for _ in range(2):
            block = [attention(), keras.layers.LayerNormalization(epsilon=1e-5), *feed_forward()]
            z = block[1](keras.layers.Add()([block[0](z, value=z, attention_mask=source_mask), z]))
            x = keras.layers.Dropout(0.1)(block[3](block[2](z)))
            z = memory = block[4](keras.layers.Add()([x, z]))
            self.blocks.append(block)
        z = PositionalEncoding()(embedded[1])
        for _ in range(2):
            block = []
            for value, mask in ((None, causal), (memory, source_mask)):
                block += [attention(), keras.layers.LayerNormalization(epsilon=1e-5)]
                x = block[-2](z, value=z if value is None else value, attention_mask=mask)
                z = block[-1](keras.layers.Add()([x, z]))
            block += feed_forward()
            z = block[-1](keras.layers.Add()([block[-2](block[-3](z)), z]))
            self.blocks.append(block)
        return z

    def same_weights(self, model):
        """Take the weights of a `Seq2Seq` (attention none or book) or `Transformer` (heads of 128, untied) of ours."""
        pairs = [*zip(self.embeddings, (model.source_embedding, model.target_embedding))]
        if hasattr(self, "blocks"):
            for theirs, ours in zip(self.blocks, model.encoder + model.decoder):
                pairs += zip(theirs, layers_in_order(ours))
        else:
            pairs += [(self.encoder, model.encoder[0]), (self.decoder, model.decoder[0]), (self.head, model.head)]
        for theirs, ours in pairs:
            theirs.set_weights([w.reshape(x.shape) for w, x in zip(ours.get_weights(), theirs.get_weights())])
        if hasattr(self, "blocks"):  # ours multiplies embeddings by the root of the dimension
            for theirs in self.embeddings:
                theirs.set_weights([theirs.get_weights()[0] * DIM**0.5])
            kernel = model.target_embedding.get_weights()[1]
            self.head.set_weights([kernel, self.head.get_weights()[1]])


def attention():
    return keras.layers.MultiHeadAttention(num_heads=8, key_dim=DIM, dropout=0.1)


def feed_forward():
    hidden = keras.layers.Dense(DIM, activation="relu")
    return [hidden, keras.layers.Dense(DIM), keras.layers.LayerNormalization(epsilon=1e-5)]


def layers_in_order(block):
    """Layers of an encoder or decoder block of ours in the order in which the book's are listed."""
    attentions = [getattr(block, name) for name in block.attentions]
    order = [layer for pair in zip(attentions, block.norms) for layer in pair]
    return [*order, block.hidden, block.output_dense, block.norms[-1]]


def strings(texts):
    """Texts as a string tensor: `predict` and `fit` take no NumPy strings."""
    import tensorflow as tf

    return tf.constant(texts)


def randomized(model, embeddings, attentions, others):
    """Give a model normal random weights, of deviations with which its texts do not repeat one word."""
    rng = np.random.default_rng(42)
    for weight in model.weights:
        if len(weight.shape) > 1:
            scale = (attentions if "attention" in weight.path else others) / weight.shape[0] ** 0.5
            weight.assign(rng.normal(0, embeddings if "embedding" in weight.path else scale, weight.shape))
    return model
