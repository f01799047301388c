"""Character RNN (chapter 16 of the book, after Karpathy, 2015,
https://karpathy.github.io/2015/05/21/rnn-effectiveness/).

A recurrent network predicts, at every position of a text, the distribution of
the next character; sampling from it again and again generates new text.
Recipes: `char_rnn`, `char_rnn_stateful`, `char_rnn_large`, `char_rnn_reber`.
Shapes: b batch, t time, v vocabulary, u units.

Deviations from the book: logits instead of probabilities; ids are positions in the
sorted vocabulary, from 0; the state of stateful training belongs to the model and not
to its layers, so that the same model predicts at any batch size.
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
    """Character-level language model: ids (b, t) -> logits (b, t, v) of the next characters.

    Args:
        vocabulary: string of distinct characters; the id of a character is its position.
        embed_dim: size of a character's embedding.
        units, num_layers, cell ("gru" or "lstm"): the recurrent layers.
        dropout: rate, in [0, 1), on the output of every recurrent layer.
        stateful: in training (`training=True`), row i of a batch starts from the final state of
            row i of the batch before. `fit` resets the state at each epoch. Outside of training
            every call starts from zero and does not touch that state.
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
            self.rnn_state = [
                [self.add_weight(shape=zero.shape, initializer="zeros", trainable=False, name=f"state_{i}_{k}")
                 for k, zero in enumerate(layer)]
                for i, layer in enumerate(self.zero_state(self.batch_size))
            ]  # fmt: skip
        self.built = True

    def compute_output_shape(self, input_shape):
        return (*input_shape, len(self.vocabulary))

    def call(self, ids, mask=None, training=None):
        stateful = self.stateful and training
        if stateful:
            state = [[ops.cast(s, self.compute_dtype) for s in layer] for layer in self.rnn_state]
        else:
            state = self.zero_state(ops.shape(ids)[0])
        hidden, state = self.hidden_states(ids, state, mask=mask, training=training)
        if stateful:
            for variables, layer in zip(self.rnn_state, state):
                for variable, value in zip(variables, layer):
                    variable.assign(ops.cast(value, variable.dtype))
        return self.logits(hidden)

    def hidden_states(self, ids, state, mask=None, training=None):
        """Recurrent layers: ids (b, t), initial state -> outputs (b, t, u) of the last layer, final state.

        Masked characters leave the state unchanged.
        """
        x, final_state = self.embedding(ids), []
        for layer, dropout, initial_state in zip(self.recurrent, self.dropouts, state):
            x, *final = layer(x, initial_state=initial_state, mask=mask, training=training)
            x = dropout(x, training=training)
            final_state.append(final)
        return x, final_state

    def logits(self, hidden):
        """Output layer: (..., u) -> logits (..., v)."""
        x = self.head(hidden)
        return self.embedding(x, reverse=True) if self.tie_weights else x

    def zero_state(self, batch):
        """Initial state: for each layer a list of zeros (b, u)."""
        count = 2 if self.cell == "lstm" else 1
        return [[ops.zeros((batch, self.units), self.compute_dtype)] * count for _ in self.recurrent]

    def reset_state(self):
        """Reset the state of stateful training to zero."""
        for layer in self.rnn_state:
            for variable in layer:
                variable.assign(ops.zeros(variable.shape, variable.dtype))

    def fit(self, *args, callbacks=None, **kwargs):
        """`keras.Model.fit` that resets the state of a stateful model at the start of each epoch."""
        if self.stateful:
            reset = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.reset_state())
            if isinstance(callbacks, keras.callbacks.CallbackList):
                callbacks.callbacks.insert(0, reset)
            else:
                callbacks = [reset, *(callbacks or [])]
        return super().fit(*args, callbacks=callbacks, **kwargs)

    # Decoding; see `decoding.py`.

    def start(self, ids, lengths):
        """Prefill: prompts (b, t) of lengths (b,) -> logits (b, v) of the next character, state.

        The state after an empty prompt is zero: its logits are the bias of the output layer.
        """
        state = self.zero_state(ops.shape(ids)[0])
        mask = ops.arange(ops.shape(ids)[1])[None] < lengths[:, None]
        _, state = self.hidden_states(ids, state, mask=mask, training=False)
        return self.logits(state[-1][0]), state

    def step(self, ids, state):
        """One decoding step: ids (b,), state -> logits (b, v) of the next character, state."""
        x, new_state = self.embedding(ids), []
        for layer, layer_state in zip(self.recurrent, state):
            x, layer_state = layer.cell(x, layer_state, training=False)
            new_state.append(list(layer_state))
        return self.logits(x), new_state

    def sample_ids(self, ids, lengths, noise, length, temperature, top_k, top_p, stop):
        """Sample continuations: prompts (b, t), lengths (b,), noise (n, b) -> ids (b, n); see `decoding.sample`."""
        logits, state = self.start(ids, lengths)
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return decoding.sample(self.step, logits, state, noise, length=length, stop=stop, **settings)

    def log_probabilities(self, ids, mask):
        """Log-likelihood: ids (b, t), mask (b, t) -> log p (b, t) of each character given the ones before it."""
        hidden, _ = self.hidden_states(ids, self.zero_state(ops.shape(ids)[0]), mask=mask, training=False)
        shifted = ops.concatenate([ops.zeros_like(hidden[:, :1]), hidden[:, :-1]], axis=1)
        log_p = ops.log_softmax(ops.cast(self.logits(shifted), "float32"), axis=-1)
        return ops.take_along_axis(log_p, ids[..., None], axis=-1)[..., 0] * ops.cast(mask, "float32")

    @functools.cached_property
    def _compiled(self):
        return {name: compiled(getattr(self, name)) for name in ("sample_ids", "log_probabilities", "start")}

    # Strings.

    def encode(self, texts):
        """Tokenize: texts -> ids (b, t), t a power of two (few shapes to compile), lengths (b,).

        `UserError` for a character outside of the vocabulary.
        """
        ids = [characters.encode(t.lower() if self.lowercase else t, self.vocabulary) for t in texts]
        return characters.pad(ids, _power_of_two(max(map(len, ids), default=1)))

    def generate(self, prompts, length=200, temperature=1.0, top_k=0, top_p=1.0, seed=None, stop=""):
        """Generate `length` characters after one prompt, or after each prompt of a list.

        Args:
            temperature: 0 (greedy: always the most probable character) and up.
            top_k, top_p: sample only from the k most probable characters (0: all), or from the fewest
                whose probability reaches top_p, in [0, 1]; see `decoding.filter_logits`.
            seed: the same seed gives a prompt the same continuation, alone or among others and whatever the length;
                None is a random seed. A prompt that is given several times gets different continuations.
            stop: a continuation ends with this text, which is kept.
        Returns the prompts with their continuations, a string for a string.
        """
        if isinstance(prompts, str):
            return self.generate([prompts], length, temperature, top_k, top_p, seed, stop)[0]
        self.check("generate", length=length, temperature=temperature, top_k=top_k, top_p=top_p)
        if not prompts:
            return []
        ids, lengths = self.encode(prompts)
        stop, (stop_length,) = self.encode([stop])
        stop = stop[0, :stop_length] if stop_length else np.array([decoding.PAD], np.int32)
        noise = decoding.sampling_noise(seed, _power_of_two(max(length, 1)), _occurrences(prompts))
        settings = np.int32(length), np.float32(temperature), np.int32(top_k), np.float32(top_p)
        new = self._compiled["sample_ids"](*map(ops.convert_to_tensor, (ids, lengths, noise, *settings, stop)))
        new = ops.convert_to_numpy(new)
        return [prompt + characters.decode(row, self.vocabulary) for prompt, row in zip(prompts, new)]

    def next_char(self, prompt):
        """Distribution of the character after `prompt`: {character: probability}, most probable first."""
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
            """Generates `length` characters after each prompt; `temperature` 0 is greedy, `stop` ends a text."""
            import tensorflow as tf

            ids, lengths = encode(prompt)
            known = characters.tf_is_known(stop[None], self.vocabulary, self.lowercase)
            stop = asserted(known, "stop holds a character that the model does not know", stop)
            (stop_ids,), (stop_length,) = (tf.unstack(x, 1) for x in encode(stop[None]))
            stop_ids = tf.where(stop_length > 0, stop_ids, decoding.PAD)
            noise = decoding.sampling_noise(seed, length, characters.tf_occurrences(prompt))
            new = self.sample_ids(ids, lengths, noise, length, temperature, top_k, top_p, stop_ids)
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

        settings = [
            Int("length", 0, default=200),
            Float("temperature", 0, default=1.0, hint="0 is greedy"),
            Int("top_k", 0, default=0, hint="0 is all characters"),
            Float("top_p", 0, 1, default=1.0),
            Int("seed", default=0),
            String("stop", default=""),
        ]
        return {
            "generate": Endpoint(generate, [Text("prompt"), *settings]),
            "next_char": Endpoint(next_char, [Text("prompt")]),
            "score": Endpoint(score, [Text("text")]),
        }


def _power_of_two(n):
    return 1 << (n - 1).bit_length()


def _occurrences(texts):
    """Number of earlier equal texts of each text, (b,)."""
    counts, earlier = collections.Counter(), []
    for text in texts:
        earlier.append(counts[text])
        counts[text] += 1
    return np.array(earlier, np.int32)
