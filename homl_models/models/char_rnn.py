"""Character RNN (chapter 16 of the book, after Karpathy, 2015,
https://karpathy.github.io/2015/05/21/rnn-effectiveness/).

A recurrent network reads a text one character at a time and gives, at every
position, the distribution of the next one; drawing from it again and again
writes new text. Recipes: `char_rnn`, `char_rnn_stateful`, `char_rnn_large`,
`char_rnn_reber`. Shapes: b batch, t time, v vocabulary, u units.

Deviations from the book: logits instead of probabilities; ids count the sorted
characters of the vocabulary from 0; the state between batches of stateful training
is the model's, so that the same model predicts at any batch size.
"""

import collections
import functools
import math

import keras
import numpy as np
from keras import ops

from homl_models import decoding
from homl_models.base import Model, compiled
from homl_models.endpoints import Endpoint, Float, Int, String, Text, asserted
from homl_models.errors import UserError
from homl_models.layers import recurrent
from homl_models.layers.dropout import Dropout
from homl_models.tokenizers import characters

CELLS = {"gru": recurrent.GRU, "lstm": recurrent.LSTM}


@keras.saving.register_keras_serializable("homl_models")
class CharRNN(Model):
    """Ids (b, t) of characters -> logits (b, t, v) of the character after each.

    vocabulary: the characters, each once; the id of a character is its place.
    embed_dim: size of a character's embedding.
    units, num_layers, cell ("gru" or "lstm"): the recurrent layers.
    dropout: rate, in [0, 1), on the output of every recurrent layer.
    stateful: in training (`training=True`), row i of a batch starts from the state that row i
        of the batch before ended in. `fit` starts each epoch from zero. Outside of training
        every call starts from zero and leaves that state alone.
    batch_size: rows of a training batch; needed when `stateful`, ignored otherwise.
    tie_weights: the output layer uses the embedding matrix (Press & Wolf, 2016).
    lowercase: texts are lower-cased before they are encoded.
    """

    def __init__(
        self,
        vocabulary,
        embed_dim=16,
        units=128,
        num_layers=1,
        cell="gru",
        dropout=0.0,
        stateful=False,
        batch_size=None,
        tie_weights=False,
        lowercase=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        if cell not in CELLS:
            raise UserError(f"cell must be one of {', '.join(CELLS)}, not {cell!r}")
        if not vocabulary or len(set(vocabulary)) != len(vocabulary):
            raise UserError("vocabulary must hold at least one character, and each only once")
        if stateful and not batch_size:
            raise UserError("a stateful model needs batch_size, the number of rows of a training batch")
        self.vocabulary, self.lowercase = vocabulary, lowercase
        self.embed_dim, self.units, self.num_layers, self.cell = embed_dim, units, num_layers, cell
        self.dropout, self.tie_weights = dropout, tie_weights
        self.stateful, self.batch_size = stateful, batch_size
        dtype = self.dtype_policy
        self.embedding = keras.layers.ReversibleEmbedding(
            len(vocabulary), embed_dim, reverse_dtype="float32", dtype=dtype
        )
        self.recurrent = [
            CELLS[cell](units, return_sequences=True, return_state=True, dtype=dtype) for _ in range(num_layers)
        ]
        self.dropouts = [Dropout(dropout, dtype=dtype) for _ in range(num_layers)]
        if tie_weights:
            self.head = keras.layers.Dense(embed_dim, name="head", dtype=dtype)
        else:
            self.head = keras.layers.Dense(len(vocabulary), name="head", dtype="float32")

    def build(self, input_shape=None):
        self.embedding.build((None, None))
        for i, layer in enumerate(self.recurrent):
            layer.build((None, None, self.units if i else self.embed_dim))
        self.head.build((None, None, self.units))
        if self.stateful:
            self.carried = [
                [self.add_weight(shape=zero.shape, initializer="zeros", trainable=False, name=f"state_{i}_{k}")
                 for k, zero in enumerate(layer)]
                for i, layer in enumerate(self.zero_state(self.batch_size))
            ]  # fmt: skip
        self.built = True

    def compute_output_shape(self, input_shape):
        return (*input_shape, len(self.vocabulary))

    def call(self, ids, mask=None, training=None):
        carry = self.stateful and training
        if carry:
            state = [[ops.cast(s, self.compute_dtype) for s in layer] for layer in self.carried]
        else:
            state = self.zero_state(ops.shape(ids)[0])
        hidden, state = self.read(ids, state, mask=mask, training=training)
        if carry:
            for variables, layer in zip(self.carried, state):
                for variable, value in zip(variables, layer):
                    variable.assign(ops.cast(value, variable.dtype))
        return self.logits(hidden)

    def read(self, ids, state, mask=None, training=None):
        """Ids (b, t) and a state -> hidden (b, t, u) after each character, and the state after the last.

        Masked characters leave the state as it is.
        """
        x, after = self.embedding(ids), []
        for layer, dropout, before in zip(self.recurrent, self.dropouts, state):
            x, *ended = layer(x, initial_state=before, mask=mask, training=training)
            x = dropout(x, training=training)
            after.append(ended)
        return x, after

    def logits(self, hidden):
        """Hidden (..., u) -> logits (..., v)."""
        x = self.head(hidden)
        return self.embedding(x, reverse=True) if self.tie_weights else x

    def zero_state(self, batch):
        """The state before any character: for each layer a list of (b, u) zeros."""
        count = 2 if self.cell == "lstm" else 1
        return [[ops.zeros((batch, self.units), self.compute_dtype)] * count for _ in self.recurrent]

    def reset_state(self):
        """Set the state carried in stateful training to zero."""
        for layer in self.carried:
            for variable in layer:
                variable.assign(ops.zeros(variable.shape, variable.dtype))

    def fit(self, *args, callbacks=None, **kwargs):
        """As `keras.Model.fit`; a stateful model starts every epoch from zero."""
        if self.stateful:
            reset = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.reset_state())
            if isinstance(callbacks, keras.callbacks.CallbackList):
                callbacks.callbacks.insert(0, reset)
            else:
                callbacks = [reset, *(callbacks or [])]
        return super().fit(*args, callbacks=callbacks, **kwargs)

    # Decoding: see `decoding.py` for what a step is.

    def start(self, ids, lengths):
        """Read prompts: ids (b, t), of which the first lengths (b,) count -> logits (b, v) of what follows, state.

        The character after an empty prompt is drawn from the output bias.
        """
        state = self.zero_state(ops.shape(ids)[0])
        mask = ops.arange(ops.shape(ids)[1])[None] < lengths[:, None]
        _, state = self.read(ids, state, mask=mask, training=False)
        return self.logits(state[-1][0]), state

    def step(self, ids, state):
        """Ids (b,) of one character per row and the state before it -> logits (b, v), the state after it."""
        x, after = self.embedding(ids), []
        for layer, before in zip(self.recurrent, state):
            x, ended = layer.cell(x, before, training=False)
            after.append(list(ended))
        return self.logits(x), after

    def continue_ids(self, ids, lengths, noise, length, temperature, top_k, top_p, stop):
        """Ids of prompts (b, t), lengths (b,), noise (n, b) -> ids (b, n) of what follows; see `decoding.sample`."""
        logits, state = self.start(ids, lengths)
        choice = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return decoding.sample(self.step, logits, state, noise, length=length, stop=stop, **choice)

    def log_probabilities(self, ids, mask):
        """Ids (b, t), mask (b, t) -> natural log-probability (b, t) of each character given those before it."""
        hidden, _ = self.read(ids, self.zero_state(ops.shape(ids)[0]), mask=mask, training=False)
        before = ops.concatenate([ops.zeros_like(hidden[:, :1]), hidden[:, :-1]], axis=1)
        log_p = ops.log_softmax(ops.cast(self.logits(before), "float32"), axis=-1)
        return ops.take_along_axis(log_p, ids[..., None], axis=-1)[..., 0] * ops.cast(mask, "float32")

    @functools.cached_property
    def _compiled(self):
        return {name: compiled(getattr(self, name)) for name in ("continue_ids", "log_probabilities", "start")}

    # Strings.

    def encode(self, texts):
        """Texts -> ids (b, t) with t a power of two (few shapes to compile), lengths (b,); `UserError` if unknown."""
        ids = [characters.encode(t.lower() if self.lowercase else t, self.vocabulary) for t in texts]
        return characters.pad(ids, _power_of_two(max(map(len, ids), default=1)))

    def generate(self, prompts, length=200, temperature=1.0, top_k=0, top_p=1.0, seed=None, stop=""):
        """Continue one text, or a list of texts, by `length` characters each.

        temperature: 0 (always the most probable character) and up; below 1 safer, above 1 bolder.
        top_k, top_p: draw only from the k most probable characters (0: all), or from the fewest
            whose probability reaches top_p, in [0, 1]; see `decoding.filter_logits`.
        seed: the same seed continues a text in the same way, alone or among others, and by how many characters it
            may be; None draws one. A text that is given several times has as many continuations.
        stop: a row ends once it has written this text, which is kept.
        Returns the prompts with what follows them, a string for a string.
        """
        if isinstance(prompts, str):
            return self.generate([prompts], length, temperature, top_k, top_p, seed, stop)[0]
        self.check("generate", length=length, temperature=temperature, top_k=top_k, top_p=top_p)
        if not prompts:
            return []
        ids, lengths = self.encode(prompts)
        stop, (stop_length,) = self.encode([stop])
        stop = stop[0, :stop_length] if stop_length else np.array([decoding.PAD], np.int32)
        noise = decoding.draw(seed, _power_of_two(max(length, 1)), _occurrences(prompts))
        choice = np.int32(length), np.float32(temperature), np.int32(top_k), np.float32(top_p)
        new = self._compiled["continue_ids"](*map(ops.convert_to_tensor, (ids, lengths, noise, *choice, stop)))
        new = ops.convert_to_numpy(new)
        return [prompt + characters.decode(row, self.vocabulary) for prompt, row in zip(prompts, new)]

    def next_char(self, prompt):
        """The probability of each character after `prompt`: {character: probability}, most probable first."""
        logits, _ = self._compiled["start"](*map(ops.convert_to_tensor, self.encode([prompt])))
        p = ops.convert_to_numpy(ops.softmax(logits, axis=-1))[0]
        return {self.vocabulary[i]: float(p[i]) for i in np.argsort(-p, kind="stable")}

    def score(self, texts):
        """Bits per character, -log2 p(text) / len(text), of a text or of each text of a list."""
        if isinstance(texts, str):
            return float(self.score([texts])[0])
        if not len(texts):
            return np.zeros(0, np.float32)
        if not all(texts):
            raise UserError("an empty text has no score; give at least one character")
        ids, lengths = self.encode(texts)
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        log_p = self._compiled["log_probabilities"](*map(ops.convert_to_tensor, (ids, mask)))
        return -ops.convert_to_numpy(log_p).sum(axis=1) / lengths / math.log(2)

    def endpoints(self):
        def encode(texts):
            return characters.tf_encode(texts, self.vocabulary, self.lowercase)

        def generate(prompt, length, temperature, top_k, top_p, seed, stop):
            """Continues each prompt by `length` characters; `temperature` 0 is greedy, `stop` ends a text."""
            import tensorflow as tf

            ids, lengths = encode(prompt)
            known = characters.tf_is_known(stop[None], self.vocabulary, self.lowercase)
            stop = asserted(known, "stop holds a character that the model does not know", stop)
            (stop_ids,), (stop_length,) = (tf.unstack(x, 1) for x in encode(stop[None]))
            stop_ids = tf.where(stop_length > 0, stop_ids, decoding.PAD)
            noise = decoding.draw(seed, length, characters.tf_occurrences(prompt))
            new = self.continue_ids(ids, lengths, noise, length, temperature, top_k, top_p, stop_ids)
            return {"text": prompt + characters.tf_decode(new, self.vocabulary)}

        def next_char(prompt):
            """The probability of every character of the vocabulary after each prompt."""
            import tensorflow as tf

            logits, _ = self.start(*encode(prompt))
            return {"characters": tf.constant(list(self.vocabulary)), "probabilities": tf.nn.softmax(logits)}

        def score(text):
            """Bits per character of each text; 0 for an empty one."""
            import tensorflow as tf

            ids, lengths = encode(text)
            log_p = self.log_probabilities(ids, tf.sequence_mask(lengths, tf.shape(ids)[1]))
            bits = -tf.reduce_sum(log_p, axis=1) / math.log(2)
            return {"bits_per_character": tf.math.divide_no_nan(bits, tf.cast(lengths, tf.float32))}

        choice = [
            Int("length", 0, default=200),
            Float("temperature", 0, default=1.0, hint="0 is greedy"),
            Int("top_k", 0, default=0, hint="0 is all characters"),
            Float("top_p", 0, 1, default=1.0),
            Int("seed", default=0),
            String("stop", default=""),
        ]
        return {
            "generate": Endpoint(generate, [Text("prompt"), *choice]),
            "next_char": Endpoint(next_char, [Text("prompt")]),
            "score": Endpoint(score, [Text("text")]),
        }


def _power_of_two(n):
    return 1 << (n - 1).bit_length()


def _occurrences(texts):
    """How many of those before each text are the same, (b,)."""
    counts, found = collections.Counter(), []
    for one in texts:
        found.append(counts[one])
        counts[one] += 1
    return np.array(found, np.int32)
