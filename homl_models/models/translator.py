"""What the encoder-decoders share: from sentences to sentences, in Python and in a SavedModel.

A subclass says how it reads and how it takes a step; searching, scoring and the strings are here.
Shapes: b batch, s source tokens, t target tokens, r rows = b times the beam, v target vocabulary.
"""

import functools
import math

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.masking import set_keras_mask  # Keras has no public name for it

from homl_models import decoding, losses
from homl_models.base import Model, compiled
from homl_models.endpoints import Endpoint, Float, Int, Text, asserted
from homl_models.errors import UserError
from homl_models.tokenizers import TOKENIZERS
from homl_models.tokenizers.base import END, PAD, START, UNKNOWN, is_blank


class Translator(Model):
    """Ids ((b, s), (b, t)) of a source and of `START` and the target so far -> logits (b, t, v) of what follows.

    source_vocabulary, target_vocabulary: tokens; they begin with `SPECIAL`.
    tokenizer: "words", "subwords" or "characters"; see `tokens.py`.

    Sources end with `END` and are padded with 0 at the right, as are targets. Where the target so far
    has ended, what follows is padding: there the logits carry Keras' mask, so that losses and metrics
    leave them out.

    A subclass has
        call((source, target), training) -> logits
        start(source, length) -> memory, state        read sources; `length` tokens at most will be written
        step(memory, ids (r,), state) -> logits (r, v), state
        alignment(source, target) -> weights (b, t, s), where `aligns`
    """

    aligns = True  # whether the model has attention
    max_length = None  # source tokens that the model can take, if there is a limit

    def __init__(self, source_vocabulary, target_vocabulary, tokenizer="words", **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        if tokenizer not in TOKENIZERS:
            raise UserError(f"tokenizer must be one of {', '.join(TOKENIZERS)}, not {tokenizer!r}")
        self.source_vocabulary, self.target_vocabulary = tuple(source_vocabulary), tuple(target_vocabulary)
        self.tokenizer = tokenizer
        self.token_loss = keras.metrics.Mean("loss")  # in place of Keras' own, a mean over rows of batches' means

    @functools.cached_property
    def _tokenizers(self):
        make = TOKENIZERS[self.tokenizer]
        return make(self.source_vocabulary), make(self.target_vocabulary)

    @property
    def forbidden(self):
        """Tokens that are never written; only words have a way of writing what they do not know, `[UNK]`."""
        return (PAD, START) if self.tokenizer == "words" else (PAD, START, UNKNOWN)

    def compute_output_shape(self, input_shape):
        return (*input_shape[1], len(self.target_vocabulary))

    def compute_mask(self, inputs, previous_mask=None):
        return ops.logical_and(inputs[1] != PAD, inputs[1] != END)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The mean over tokens of the loss that the model is compiled with; padding has no weight.

        sample_weight: of sentences (b,) or of tokens (b, t). Reported is the mean over all tokens, not over batches.
        """
        loss = keras.losses.get(self.loss)
        values = getattr(loss, "call", loss)(y, y_pred)
        weights = ops.cast(ops.not_equal(y, PAD), "float32")
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, "float32")
            weights = weights * ops.reshape(sample_weight, (*sample_weight.shape, 1)[:2])
        self.token_loss.update_state(ops.reshape(values, (-1,)), ops.reshape(weights, (-1,)))
        return losses.mean(values, weights)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Keras', with masks on JAX too, where `fit` does not pass them on (Keras 3.15)."""
        set_keras_mask(y_pred, self.compute_mask(x))
        return super().compute_metrics(x, y, y_pred, sample_weight)

    # Ids to ids.

    def greedy(self, source, limits, *, length, min_length=0, no_repeat_ngram=0):
        """Sources (b, s) -> ids (b, length) and log-probabilities (b,); see `decoding.greedy_search`."""
        memory, state = self.start(source, length)
        return decoding.greedy_search(
            functools.partial(self.step, memory),
            state,
            ops.shape(source)[0],
            start=START,
            end=END,
            limits=limits,
            length=length,
            min_length=min_length,
            no_repeat_ngram=no_repeat_ngram,
            forbidden=self.forbidden,
        )

    def beam(self, source, limits, length_penalty, *, length, beam_width, n_best, min_length=0, no_repeat_ngram=0):
        """Sources (b, s) -> ids (b, n_best, length) and scores (b, n_best); see `decoding.beam_search`."""
        memory, state = self.start(source, length)
        return decoding.beam_search(
            functools.partial(self.step, memory),
            state,
            ops.shape(source)[0],
            beam_width,
            start=START,
            end=END,
            limits=limits,
            length=length,
            length_penalty=length_penalty,
            n_best=n_best,
            min_length=min_length,
            no_repeat_ngram=no_repeat_ngram,
            forbidden=self.forbidden,
        )

    def log_probabilities(self, source, target):
        """Sources (b, s), targets (b, t) from `START` to `END` -> log p(target | source) (b,)."""
        logits = ops.cast(self((source, target[:, :-1]), training=False), "float32")
        log_p = ops.take_along_axis(ops.log_softmax(logits, axis=-1), target[:, 1:, None], axis=-1)[..., 0]
        return ops.sum(ops.where(target[:, 1:] != PAD, log_p, 0.0), axis=1)

    @functools.cached_property
    def _compiled(self):
        return {}

    def _run(self, name, *arrays, **static):
        """A method of this model, compiled once for each set of static arguments, on arrays -> arrays."""
        key = name, tuple(sorted(static.items()))
        if key not in self._compiled:
            self._compiled[key] = compiled(functools.partial(getattr(self, name), **static))
        out = self._compiled[key](*map(ops.convert_to_tensor, arrays))
        return keras.tree.map_structure(ops.convert_to_numpy, out)

    # Strings, in Python.

    def source_ids(self, sentences):
        """Sentences -> ids (b, s) with `END` and zeros, s a power of two (few shapes to compile)."""
        ids = [[*row, END] for row in _encoded(self._tokenizers[0], sentences)]
        longest = max(map(len, ids), default=1)
        if self.max_length and longest > self.max_length:
            raise UserError(
                f"a sentence has {longest} tokens and the model was trained for {self.max_length}; split it, "
                "or train with a larger --max-length or sinusoidal positions"
            )
        return _padded(ids, min(_power_of_two(max(longest, 8)), self.max_length or longest * 2))

    def target_ids(self, sentences):
        """Sentences -> ids (b, t) from `START` to `END`, with zeros."""
        ids = [[START, *row, END] for row in _encoded(self._tokenizers[1], sentences)]
        longest = max(map(len, ids), default=2)
        if self.max_length and longest > self.max_length + 1:
            raise UserError(f"a translation has {longest - 1} tokens; the model was trained for {self.max_length}")
        return _padded(ids, min(_power_of_two(max(longest - 1, 8)), self.max_length or longest * 2) + 1)

    def text(self, ids):
        """Ids (..., t) of the target -> texts (...)."""
        flat = self._tokenizers[1].decode(np.maximum(ids, 0).reshape(-1, ids.shape[-1])).numpy()
        texts = np.array([text.decode() for text in flat], object)
        return texts.reshape(ids.shape[:-1]).tolist()

    def normalized(self, targets):
        """Targets as this model would write them: of words, lower-case without punctuation, rare ones `[UNK]`."""
        return self.text(self.target_ids(targets))

    def limits(self, source, max_length=None):
        """At most that many tokens for each source (b, s): twice its tokens and 10 more, or `max_length`,

        and one for `END`. Works on NumPy arrays and on tensors in a graph.
        """
        limits = 2 * ops.sum(ops.cast(source != PAD, "int32"), axis=1) + 9
        if max_length is not None:
            limits = ops.full_like(limits, max_length + 1)
        return limits if self.max_length is None else ops.minimum(limits, self.max_length)

    def translate(
        self,
        sentences,
        beam_width=1,
        length_penalty=1.0,
        n_best=None,
        max_length=None,
        min_length=0,
        no_repeat_ngram=0,
    ):
        """Translate one sentence, or a list of them.

        beam_width: 1 takes the most probable token at every step, more compares that many hypotheses.
        length_penalty: 0 or more; larger favours longer translations. See `decoding.beam_search`.
        n_best: instead of the best translation, a list of the n best with their scores, [(text, score), ...].
        max_length, min_length: of a translation, in tokens; by default at most twice the source and 10 more.
        no_repeat_ngram: n > 0 writes no n tokens twice.
        Returns a translation (or list) for a sentence, a list of them for a list. The translation of nothing, of spaces
        or of what has no token, is "", of probability 1. `UserError` for bad values.
        """
        if isinstance(sentences, str):
            return self.translate(
                [sentences], beam_width, length_penalty, n_best, max_length, min_length, no_repeat_ngram
            )[0]
        self._check(beam_width, length_penalty, n_best, max_length, min_length, no_repeat_ngram)
        if not len(sentences):
            return []
        source = self.source_ids(sentences)
        limits = ops.convert_to_numpy(self.limits(source, max_length)).astype("int32")
        empty = _power_of_two(len(source)) - len(source)  # rows that end at once, for fewer shapes to compile
        source, limits = np.pad(source, [(0, empty), (0, 0)]), np.pad(limits, (0, empty), constant_values=1)
        length = _power_of_two(int(limits.max()))
        static = {"length": length, "min_length": min_length, "no_repeat_ngram": no_repeat_ngram}
        blank = is_blank(list(sentences)).numpy() | (source[: len(sentences), 0] == END)
        if beam_width == 1 and n_best is None:
            ids, _ = self._run("greedy", source, limits, **static)
            return ["" if nothing else text for nothing, text in zip(blank, self.text(ids[: len(sentences)]))]
        static |= {"beam_width": beam_width, "n_best": n_best or 1}
        ids, scores = self._run("beam", source, limits, np.float32(length_penalty), **static)
        texts, scores = self.text(ids[: len(sentences)]), scores[: len(sentences)]
        if n_best is None:
            return ["" if nothing else row[0] for nothing, row in zip(blank, texts)]
        return [
            [("", 0.0)] if nothing else [(text, float(score)) for text, score in zip(*row) if score > -np.inf]
            for nothing, *row in zip(blank, texts, scores)
        ]

    def _check(self, beam_width, length_penalty, n_best, max_length, min_length, no_repeat_ngram):
        self.check("translate_beam", beam_width=beam_width, length_penalty=length_penalty)
        if n_best is not None and not 1 <= n_best <= beam_width:
            raise UserError(f"n_best must lie between 1 and beam_width, {beam_width}, not {n_best}")
        if min_length < 0 or no_repeat_ngram < 0:
            raise UserError("min_length and no_repeat_ngram must be 0 or more")
        if max_length is not None and max_length < max(min_length, 1):
            raise UserError(f"max_length must be at least 1 and min_length, {min_length}, not {max_length}")

    def score(self, sources, targets):
        """Natural log-probability of each target given its source; a number for two strings, else an array (b,)."""
        if isinstance(sources, str):
            return float(self.score([sources], [targets])[0])
        if len(sources) != len(targets):
            raise UserError(f"{len(sources)} sources need as many targets, not {len(targets)}")
        if not len(sources):
            return np.zeros(0, np.float32)
        return self._run("log_probabilities", self.source_ids(sources), self.target_ids(targets))

    def attention_weights(self, source, target=None):
        """How a translation looks at its source: (source tokens, target tokens, weights (t, s)).

        target: by default the model's own translation. Row i holds the weights with which token i was
        chosen, `END` last on both sides. `UserError` if the model has no attention.
        """
        if not self.aligns:
            raise UserError("this model has no attention; train one with --attention, or a Transformer")
        target = self.translate(source) if target is None else target
        source_ids, target_ids = self.source_ids([source]), self.target_ids([target])
        weights = self._run("alignment", source_ids, target_ids[:, :-1])
        read, written = (
            [t.decode() for t in tokenizer.tokens(ids[ids != PAD]).numpy()]
            for tokenizer, ids in zip(self._tokenizers, (source_ids[0], target_ids[0, 1:]))
        )
        return read, written, weights[0, : len(written), : len(read)]

    # Strings, in a graph.

    def tf_source_ids(self, texts):
        """Source texts (b,) in a graph -> ids (b, s), each row ended."""
        import tensorflow as tf

        ids = tf.concat([self._tokenizers[0].encode(texts), tf.fill([tf.size(texts), 1], END)], 1).to_tensor()
        ids = tf.pad(ids, [[0, 0], [0, tf.cast(tf.equal(tf.size(texts), 0), tf.int32)]])  # layers need a column
        return self._within(ids, self.max_length, "a sentence")

    def tf_target_ids(self, texts):
        """Target texts (b,) in a graph -> ids (b, t), each row begun and ended."""
        import tensorflow as tf

        ends = [tf.fill([tf.size(texts), 1], token) for token in (START, END)]
        ids = tf.concat([ends[0], self._tokenizers[1].encode(texts), ends[1]], 1).to_tensor()
        ids = tf.pad(ids, [[0, 0], [0, 2 * tf.cast(tf.equal(tf.size(texts), 0), tf.int32)]])
        return self._within(ids, self.max_length and self.max_length + 1, "a translation")

    def _within(self, ids, most, which):
        import tensorflow as tf

        if not most:
            return ids
        message = f"{which} has more than the {self.max_length} tokens that the model was trained for"
        return asserted(tf.shape(ids)[1] <= most, message, ids)

    def endpoints(self):
        def is_nothing(texts, ids):
            return is_blank(texts) | (ids[:, 0] == END)

        def written(ids):
            return self._tokenizers[1].decode(ops.maximum(ids, 0))

        def translate(text):
            """Translates each text, by the most probable token at every step."""
            import tensorflow as tf

            source = self.tf_source_ids(text)
            limits = self.limits(source)
            ids, _ = self.greedy(source, limits, length=tf.reduce_max(tf.concat([limits, [1]], 0)))
            return {"translation": tf.where(is_nothing(text, source), "", written(ids))}

        def translate_beam(text, beam_width, length_penalty):
            """The `beam_width` best translations of each text that a beam finds, best first, and their scores."""
            import tensorflow as tf

            source = self.tf_source_ids(text)
            limits = self.limits(source)
            length = tf.reduce_max(tf.concat([limits, [1]], 0))
            ids, scores = self.beam(
                source, limits, length_penalty, length=length, beam_width=beam_width, n_best=beam_width
            )
            texts = tf.reshape(written(tf.reshape(ids, [-1, length])), tf.shape(scores))
            nothing = is_nothing(text, source)[:, None]
            only = tf.where(tf.range(beam_width) == 0, 0.0, -math.inf)  # one translation, and no other
            return {"translations": tf.where(nothing, "", texts), "scores": tf.where(nothing, only, scores)}

        def score(source, target):
            """The natural log-probability of each target as a translation of its source."""
            return {"log_probability": self.log_probabilities(self.tf_source_ids(source), self.tf_target_ids(target))}

        def attention(source, target):
            """The weights of source tokens for each target token: (targets, target tokens, source tokens)."""
            source, target = self.tf_source_ids(source), self.tf_target_ids(target)
            return {
                "weights": self.alignment(source, target[:, :-1]),
                "source_tokens": self._tokenizers[0].tokens(source),
                "target_tokens": self._tokenizers[1].tokens(target[:, 1:]),
            }

        width = Int("beam_width", 1, len(self.target_vocabulary), default=4, hint="it is at most the vocabulary")
        penalty = Float("length_penalty", 0, default=1.0)
        pairs = [Text("source"), Text("target")]
        offered = {
            "translate": Endpoint(translate, [Text("text")]),
            "translate_beam": Endpoint(translate_beam, [Text("text"), width, penalty]),
            "score": Endpoint(score, pairs),
        }
        return offered | ({"attention": Endpoint(attention, pairs)} if self.aligns else {})


def _encoded(tokenizer, sentences):
    import tensorflow as tf

    for sentence in sentences:
        if not isinstance(sentence, str):
            raise UserError(f"a sentence must be a string, not {sentence!r}")
    return tokenizer.encode(tf.constant(list(sentences), tf.string)).to_list()


def _padded(rows, width):
    ids = np.full((len(rows), width), PAD, np.int32)
    for row, values in zip(ids, rows):
        row[: len(values)] = values
    return ids


def _power_of_two(n):
    return 1 << (n - 1).bit_length()
