"""Base class of encoder-decoders that translate sentences.

A subclass encodes a source and decodes one token of the target at a time; loss, search, scoring and strings are here,
the endpoints of its SavedModel in `translation_endpoints.py`.
Shapes: b batch, s source tokens, t target tokens, r rows = b times the beam width, v target vocabulary.
"""

import functools

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.masking import set_keras_mask  # Keras has no public name for it

from homl_models import decoding, losses
from homl_models.base import Model, compiled
from homl_models.errors import UserError
from homl_models.models import translation_endpoints
from homl_models.tokenizers import TOKENIZERS
from homl_models.tokenizers.base import END, PAD, START, UNKNOWN, is_blank


class Translator(Model):
    """Ids ((b, s), (b, t)) of a source and of its target shifted right -> logits (b, t, v) of the next tokens.

    Sources end with `END` and are padded with 0 at the right. Targets begin with `START` and are padded alike; after
    their end the logits carry Keras' mask, so that losses and metrics leave the padding out.

    A subclass has
        call((source, target), training) -> logits
        start(source, length) -> memory, state        encode sources, to generate at most `length` tokens
        step(memory, ids (r,), state) -> logits (r, v), state
        alignment(source, target) -> attention weights (b, t, s), if `has_attention`

    Args:
        source_vocabulary, target_vocabulary: tokens, beginning with `SPECIAL`.
        tokenizer: "words", "subwords" or "characters"; see `tokenizers`.
    """

    has_attention = True
    max_length = None  # most tokens of a source or target, None for any

    def __init__(self, source_vocabulary, target_vocabulary, tokenizer="words", **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        if tokenizer not in TOKENIZERS:
            raise UserError(f"tokenizer must be one of {', '.join(TOKENIZERS)}, not {tokenizer!r}")
        self.source_vocabulary, self.target_vocabulary = tuple(source_vocabulary), tuple(target_vocabulary)
        self.tokenizer = tokenizer
        self.token_loss = keras.metrics.Mean("loss")  # per token; Keras' own is a mean of the batches' means

    @functools.cached_property
    def source_tokenizer(self):
        return TOKENIZERS[self.tokenizer](self.source_vocabulary)

    @functools.cached_property
    def target_tokenizer(self):
        return TOKENIZERS[self.tokenizer](self.target_vocabulary)

    @property
    def suppress_tokens(self):
        """Tokens that are never generated; words have `[UNK]` for words outside of the vocabulary."""
        return (PAD, START) if self.tokenizer == "words" else (PAD, START, UNKNOWN)

    def compute_output_shape(self, input_shape):
        return (*input_shape[1], len(self.target_vocabulary))

    def compute_mask(self, inputs, previous_mask=None):
        return ops.logical_and(inputs[1] != PAD, inputs[1] != END)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Mean over tokens of the compiled loss; padding has no weight.

        The reported loss is the mean over all tokens of an epoch, not over its batches.

        Args:
            sample_weight: of sentences (b,) or of tokens (b, t).
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
        """Keras' metrics, masked on JAX too, where `fit` does not pass the mask on (Keras 3.15)."""
        set_keras_mask(y_pred, self.compute_mask(x))
        return super().compute_metrics(x, y, y_pred, sample_weight)

    # Ids to ids.

    def greedy(self, source, max_new_tokens, *, length, min_length=0, no_repeat_ngram=0):
        """Greedy search: sources (b, s) -> ids (b, length), log-probabilities (b,); see `decoding.greedy_search`."""
        memory, state = self.start(source, length)
        return decoding.greedy_search(
            functools.partial(self.step, memory),
            state,
            ops.shape(source)[0],
            start=START,
            end=END,
            max_new_tokens=max_new_tokens,
            length=length,
            min_length=min_length,
            no_repeat_ngram=no_repeat_ngram,
            suppress_tokens=self.suppress_tokens,
        )

    def beam(
        self, source, max_new_tokens, length_penalty, *, length, beam_width, n_best, min_length=0, no_repeat_ngram=0
    ):
        """Beam search: sources (b, s) -> ids (b, n_best, length), scores (b, n_best); see `decoding.beam_search`."""
        memory, state = self.start(source, length)
        return decoding.beam_search(
            functools.partial(self.step, memory),
            state,
            ops.shape(source)[0],
            beam_width,
            start=START,
            end=END,
            max_new_tokens=max_new_tokens,
            length=length,
            length_penalty=length_penalty,
            n_best=n_best,
            min_length=min_length,
            no_repeat_ngram=no_repeat_ngram,
            suppress_tokens=self.suppress_tokens,
        )

    def log_probabilities(self, source, target):
        """Log-likelihood: sources (b, s), targets (b, t) from `START` to `END` -> log p(target | source) (b,)."""
        logits = ops.cast(self((source, target[:, :-1]), training=False), "float32")
        log_p = ops.take_along_axis(ops.log_softmax(logits, axis=-1), target[:, 1:, None], axis=-1)[..., 0]
        return ops.sum(ops.where(target[:, 1:] != PAD, log_p, 0.0), axis=1)

    @functools.cached_property
    def _compiled(self):
        return {}

    def _run(self, name, *arrays, **static):
        """Call a method of this model, compiled once for each set of static arguments: arrays -> arrays."""
        key = name, tuple(sorted(static.items()))
        if key not in self._compiled:
            self._compiled[key] = compiled(functools.partial(getattr(self, name), **static))
        out = self._compiled[key](*map(ops.convert_to_tensor, arrays))
        return keras.tree.map_structure(ops.convert_to_numpy, out)

    # Strings.

    def source_ids(self, sentences):
        """Tokenize sources: sentences -> ids (b, s) with `END` and zeros, s a power of two (few shapes to compile)."""
        ids = [[*row, END] for row in _encode(self.source_tokenizer, sentences)]
        longest = max(map(len, ids), default=1)
        if self.max_length and longest > self.max_length:
            raise UserError(
                f"a sentence has {longest} tokens and the model was trained for {self.max_length}; split it, "
                "or train with a larger --max-length or sinusoidal positions"
            )
        return _pad(ids, min(_power_of_two(max(longest, 8)), self.max_length or longest * 2))

    def target_ids(self, sentences):
        """Tokenize targets: sentences -> ids (b, t) from `START` to `END`, with zeros."""
        ids = [[START, *row, END] for row in _encode(self.target_tokenizer, sentences)]
        longest = max(map(len, ids), default=2)
        if self.max_length and longest > self.max_length + 1:
            raise UserError(f"a translation has {longest - 1} tokens; the model was trained for {self.max_length}")
        return _pad(ids, min(_power_of_two(max(longest - 1, 8)), self.max_length or longest * 2) + 1)

    def detokenize(self, ids):
        """Detokenize: ids (..., t) of the target -> texts (...)."""
        flat = self.target_tokenizer.decode(np.maximum(ids, 0).reshape(-1, ids.shape[-1])).numpy()
        texts = np.array([text.decode() for text in flat], object)
        return texts.reshape(ids.shape[:-1]).tolist()

    def normalize(self, targets):
        """Targets within this model's vocabulary: words in lower case without punctuation, rare ones as `[UNK]`."""
        return self.detokenize(self.target_ids(targets))

    def max_new_tokens(self, source, max_length=None):
        """The most tokens of each translation, `END` included: sources (b, s) -> (b,) int32.

        Twice the tokens of the source and 10 more, or `max_length`, and one for `END`. Works on NumPy arrays and on
        tensors in a graph.
        """
        most = 2 * ops.sum(ops.cast(source != PAD, "int32"), axis=1) + 9
        if max_length is not None:
            most = ops.full_like(most, max_length + 1)
        return most if self.max_length is None else ops.minimum(most, self.max_length)

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

        The translation of an empty sentence, of spaces or of a text without any token is "", of probability 1.

        Args:
            beam_width: hypotheses that beam search keeps; 1 is greedy search.
            length_penalty: 0 or more; larger favours longer translations. See `decoding.beam_search`.
            n_best: instead of the best translation, a list of the n best with their scores, [(text, score), ...].
            max_length, min_length: of a translation, in tokens; by default at most twice the source and 10 more.
            no_repeat_ngram: n > 0 generates no n-gram twice.
        Returns a translation (or list) for a sentence, a list of them for a list. `UserError` for bad values.
        """
        if isinstance(sentences, str):
            return self.translate(
                [sentences], beam_width, length_penalty, n_best, max_length, min_length, no_repeat_ngram
            )[0]
        self._check(beam_width, length_penalty, n_best, max_length, min_length, no_repeat_ngram)
        if not len(sentences):
            return []
        source = self.source_ids(sentences)
        empty = is_blank(list(sentences)).numpy() | (source[:, 0] == END)
        source, most = self._pad_batch(source, max_length)
        static = {"length": _power_of_two(int(most.max()))}
        static |= {"min_length": min_length, "no_repeat_ngram": no_repeat_ngram}
        if beam_width == 1 and n_best is None:
            ids, _ = self._run("greedy", source, most, **static)
            return ["" if blank else text for blank, text in zip(empty, self.detokenize(ids[: len(sentences)]))]
        static |= {"beam_width": beam_width, "n_best": n_best or 1}
        ids, scores = self._run("beam", source, most, np.float32(length_penalty), **static)
        texts, scores = self.detokenize(ids[: len(sentences)]), scores[: len(sentences)]
        if n_best is None:
            return ["" if blank else row[0] for blank, row in zip(empty, texts)]
        return [
            [("", 0.0)] if blank else [(text, float(score)) for text, score in zip(*row) if score > -np.inf]
            for blank, *row in zip(empty, texts, scores)
        ]

    def _pad_batch(self, source, max_length):
        """Ids (b, s) and their `max_new_tokens`, padded to a power of two of rows: fewer shapes to compile."""
        most = ops.convert_to_numpy(self.max_new_tokens(source, max_length)).astype("int32")
        rows = _power_of_two(len(source)) - len(source)  # they end after one token
        return np.pad(source, [(0, rows), (0, 0)]), np.pad(most, (0, rows), constant_values=1)

    def _check(self, beam_width, length_penalty, n_best, max_length, min_length, no_repeat_ngram):
        self.check("translate_beam", beam_width=beam_width, length_penalty=length_penalty)
        if n_best is not None and not 1 <= n_best <= beam_width:
            raise UserError(f"n_best must lie between 1 and beam_width, {beam_width}, not {n_best}")
        if min_length < 0 or no_repeat_ngram < 0:
            raise UserError("min_length and no_repeat_ngram must be 0 or more")
        if max_length is not None and max_length < max(min_length, 1):
            raise UserError(f"max_length must be at least 1 and min_length, {min_length}, not {max_length}")

    def score(self, sources, targets):
        """Log-likelihood (natural) of each target given its source; a number for two strings, else an array (b,)."""
        if isinstance(sources, str):
            return float(self.score([sources], [targets])[0])
        if len(sources) != len(targets):
            raise UserError(f"{len(sources)} sources need as many targets, not {len(targets)}")
        if not len(sources):
            return np.zeros(0, np.float32)
        return self._run("log_probabilities", self.source_ids(sources), self.target_ids(targets))

    def attention_weights(self, source, target=None):
        """Cross-attention weights of a translation: (source tokens, target tokens, weights (t, s)).

        Row i holds the weights of the step that predicts target token i; `END` is the last token on both sides.
        `UserError` if the model has no attention.

        Args:
            target: by default the model's own translation.
        """
        if not self.has_attention:
            raise UserError("this model has no attention; train one with --attention, or a Transformer")
        target = self.translate(source) if target is None else target
        source_ids, target_ids = self.source_ids([source]), self.target_ids([target])
        weights = self._run("alignment", source_ids, target_ids[:, :-1])
        source_tokens, target_tokens = (
            [token.decode() for token in tokenizer.tokens(ids[ids != PAD]).numpy()]
            for tokenizer, ids in ((self.source_tokenizer, source_ids[0]), (self.target_tokenizer, target_ids[0, 1:]))
        )
        return source_tokens, target_tokens, weights[0, : len(target_tokens), : len(source_tokens)]

    def endpoints(self):
        return translation_endpoints.endpoints(self)


def _encode(tokenizer, sentences):
    import tensorflow as tf

    for sentence in sentences:
        if not isinstance(sentence, str):
            raise UserError(f"a sentence must be a string, not {sentence!r}")
    return tokenizer.encode(tf.constant(list(sentences), tf.string)).to_list()


def _pad(rows, width):
    ids = np.full((len(rows), width), PAD, np.int32)
    for row, values in zip(ids, rows):
        row[: len(values)] = values
    return ids


def _power_of_two(n):
    return 1 << (n - 1).bit_length()
