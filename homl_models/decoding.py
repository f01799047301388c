"""Decoding: sampling, greedy search and beam search over any model that can take a step.

`step(tokens, state) -> (logits, state)`: tokens (b,) int32, logits (b, v), and
`state` any nest of tensors whose first axis is the batch. The loop is
`keras.ops.while_loop`, so it is compiled, stops early, and costs time linear
in the number of tokens generated. What a model attends to but does not change while it
decodes (an encoded sentence) is no state: bind it to `step`.

Greedy and beam search return the most probable sequences. Every sequence ends with the
token `end`, at the latest as its `max_new_tokens`-th token, so that each score is the
score of a complete sequence. Shapes: b batch, k beam width, v vocabulary, t tokens.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from homl_models.layers.dropout import lowbias32

PAD = -1  # fills the output after the end of a sequence


# Sampling.


def filter_logits(logits, temperature=1.0, top_k=0, top_p=1.0):
    """Top-k and nucleus filtering: logits (..., v) -> float32 logits (..., v), minus infinity for excluded tokens.

    All three may be tensors.

    Args:
        temperature: above 0; divides the logits.
        top_k: keep the k most probable tokens and those that tie with the last of them; 0 keeps all.
        top_p: of the rest keep the fewest tokens whose probability reaches top_p, ties again
            kept (nucleus sampling, Holtzman et al., 2019, https://arxiv.org/abs/1904.09751);
            1 keeps all, 0 the most probable.
    """
    logits = ops.cast(logits, "float32") / ops.cast(temperature, "float32")
    if isinstance(top_k, int) and isinstance(top_p, (int, float)) and top_k == 0 and top_p == 1:
        return logits  # without sorting them
    vocab_size = logits.shape[-1]
    descending = ops.flip(ops.sort(logits, axis=-1), axis=-1)
    top_k, top_p = ops.cast(top_k, "int32"), ops.cast(top_p, "float32")
    k = ops.where(ops.logical_and(top_k > 0, top_k < vocab_size), top_k, vocab_size)
    kth_largest = ops.expand_dims(ops.take(descending, k - 1, axis=-1), -1)
    probabilities = ops.softmax(ops.where(descending >= kth_largest, descending, -float("inf")), axis=-1)
    mass_before = ops.cumsum(probabilities, axis=-1) - probabilities
    in_nucleus = ops.logical_or(mass_before < top_p, top_p >= 1)
    in_nucleus = ops.logical_or(in_nucleus, ops.arange(vocab_size) == 0)
    smallest = ops.min(ops.where(in_nucleus, descending, float("inf")), axis=-1, keepdims=True)
    return ops.where(logits >= ops.maximum(kth_largest, smallest), logits, -float("inf"))


def sample_token(logits, noise, temperature=1.0, top_k=0, top_p=1.0):
    """Inverse transform sampling: logits (b, v), noise (b,) uniform in [0, 1) -> tokens (b,) int32.

    `temperature` 0 takes the most probable token (the first of equals). The rest as in `filter_logits`.
    """
    temperature = ops.cast(temperature, "float32")
    filtered = filter_logits(logits, ops.where(temperature > 0, temperature, 1.0), top_k, top_p)
    p = ops.softmax(filtered, axis=-1)
    cdf = ops.where(p > 0, ops.cumsum(p, axis=-1), 0.0)  # XLA's cumsum of many terms may decrease, even where p is 0
    sampled = ops.argmax(cdf > noise[:, None] * ops.max(cdf, axis=-1, keepdims=True), axis=-1)
    return ops.cast(ops.where(temperature > 0, sampled, ops.argmax(logits, axis=-1)), "int32")


def sampling_noise(seed, length, rows):
    """Counter-based uniform noise (length, b) in [0, 1) for `sample`: entry (t, row) is a hash of (seed, t, row).

    So a row gets the same noise whatever the length, the other rows, the process and the backend.

    Args:
        seed: a whole number, of which 32 bits count, or None for a random one.
        rows: b, for the rows 0 to b - 1, or row numbers (b,); rows of the same number get the same noise.
    """
    if seed is None:
        seed = random.getrandbits(32)
    seed = np.uint32(seed & 0xFFFFFFFF) if isinstance(seed, (int, np.integer)) else ops.cast(seed, "uint32")
    rows = ops.arange(rows) if isinstance(rows, int) else rows
    key = lowbias32(seed)
    t, row = ops.arange(length)[:, None], ops.convert_to_tensor(rows)[None]
    row_key = lowbias32(key + np.uint32(0x9E3779B9))
    t, row = lowbias32(ops.cast(t, "uint32") + key), lowbias32(ops.cast(row, "uint32") + row_key)
    bits = lowbias32(ops.bitwise_xor(t, row))
    return ops.cast(ops.bitwise_right_shift(bits, np.uint32(8)), "float32") * np.float32(2**-24)


def sample(step, logits, state, noise, *, length=None, stop=None, **settings):
    """Sample tokens for each row until all rows have finished.

    Args:
        step, state: see the module.
        logits: (b, v), of the first token.
        noise: (t, b) uniform in [0, 1), one number for each token; see `sampling_noise`.
        length: tokens at most, a tensor or a whole number <= t; None is t.
        stop: tokens (k,), k >= 1; a row finishes with this sequence, which is kept.
        settings: temperature, top_k, top_p, as in `sample_token`.
    Returns tokens (b, t) int32, with `PAD` after the end of a row.
    """
    batch = ops.shape(logits)[0]
    length = ops.cast(ops.shape(noise)[0] if length is None else length, "int32")
    stop = ops.cast(ops.convert_to_tensor([PAD] if stop is None else stop), "int32")
    recent = ops.full((batch, ops.shape(stop)[0]), PAD, "int32")
    tokens = ops.full(ops.shape(noise), PAD, "int32")

    def unfinished(i, logits, state, finished, recent, tokens):
        return ops.logical_and(i < length, ops.logical_not(ops.all(finished)))

    def append_token(i, logits, state, finished, recent, tokens):
        token = ops.where(finished, PAD, sample_token(logits, noise[i], **settings))
        tokens = ops.scatter_update(tokens, ops.reshape(i, (1, 1)), token[None])
        recent = ops.concatenate([recent[:, 1:], token[:, None]], axis=1)
        finished = ops.logical_or(finished, ops.all(recent == stop, axis=1))
        logits, state = step(ops.maximum(token, 0), state)
        return i + 1, logits, state, finished, recent, tokens

    initial = (ops.cast(0, "int32"), logits, state, ops.zeros((batch,), "bool"), recent, tokens)
    return ops.transpose(ops.while_loop(unfinished, append_token, initial)[-1])


# Greedy search.


def greedy_search(
    step, state, batch, *, start, end, max_new_tokens, length, min_length=0, no_repeat_ngram=0, suppress_tokens=()
):
    """Greedy search: the most probable token at every step, until all rows have finished.

    Where the constraints allow no token, `end` is generated.

    Args:
        step, state: see the module.
        batch: b, the number of rows.
        start, end: tokens that begin and end a sequence.
        max_new_tokens: (b,), each at least 1 and at most `length`: the most tokens of each row, `end` included.
        length: t, the size of the output.
        min_length: at least that many tokens before `end`.
        no_repeat_ngram: n > 0 generates no n-gram that the row already has.
        suppress_tokens: tokens that are never generated.
    Returns tokens (b, length), `PAD` after `end`, and the log-probability (b,) of each row, `end` included.
    """
    constraints = _Constraints(end, max_new_tokens, min_length, no_repeat_ngram, suppress_tokens)

    def unfinished(i, token, finished, tokens, total, state):
        return ops.logical_and(i < length, ops.logical_not(ops.all(finished)))

    def append_token(i, token, finished, tokens, total, state):
        logits, state = step(token, state)
        log_p = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        token = ops.cast(ops.argmax(constraints.mask(log_p, tokens, i), axis=-1), "int32")
        token_log_p = ops.take_along_axis(log_p, token[:, None], axis=-1)[:, 0]
        total = total + ops.where(finished, 0.0, token_log_p)
        tokens = ops.where(_is_position(i, length), ops.where(finished, PAD, token)[:, None], tokens)
        return i + 1, token, ops.logical_or(finished, token == end), tokens, total, state

    first = ops.cast(0, "int32"), ops.full((batch,), start, "int32"), ops.zeros((batch,), "bool")
    tokens, total = ops.full((batch, length), PAD, "int32"), ops.zeros((batch,), "float32")
    *_, tokens, total, _ = ops.while_loop(unfinished, append_token, (*first, tokens, total, state))
    return tokens, total


# Beam search.


def beam_search(
    step,
    state,
    batch,
    beam_width,
    *,
    start,
    end,
    max_new_tokens,
    length,
    length_penalty=1.0,
    n_best=1,
    min_length=0,
    no_repeat_ngram=0,
    suppress_tokens=(),
):
    """Beam search with length normalization.

    A step extends every running hypothesis by every token and keeps the most probable ones. A hypothesis that ends
    leaves the beam for the finished ones and gives up its place in it: nothing that has finished is lost, and a beam of
    1 is `greedy_search`. A row is done when no running hypothesis can still come among its n best.

    Args:
        step: takes tokens (b * k,) and a state of b * k rows, the hypotheses of a row side by side.
        state: of b rows.
        beam_width: k.
        length_penalty: alpha, 0 or more, of
            score(Y) = log p(Y) / ((5 + |Y|) / 6)^alpha, |Y| counting `end` (Wu et al., 2016, equation 14).
        n_best: sequences to return, at most beam_width.
        The rest as in `greedy_search`.
    Returns tokens (b, n_best, length) and scores (b, n_best), best first; minus infinity where a row
    has fewer sequences.
    """
    search = _BeamSearch(
        step,
        batch,
        beam_width,
        start=start,
        end=end,
        max_new_tokens=max_new_tokens,
        length=length,
        alpha=length_penalty,
        n_best=n_best,
        constraints=_Constraints(
            end, ops.repeat(max_new_tokens, beam_width, axis=0), min_length, no_repeat_ngram, suppress_tokens
        ),
    )
    (final,) = ops.while_loop(search.can_improve, search.advance, (search.initial(state),))
    return final.finished[:, :n_best], final.finished_scores[:, :n_best]


class _Beams(NamedTuple):
    """Loop state of beam search.

    Attributes:
        i: () int32, tokens generated so far.
        running_log_p: (b, k) log p of the running hypotheses; minus infinity for empty slots of the beam.
        running: (b, k, t) tokens of the running hypotheses.
        finished: (b, k, t) tokens of the best finished hypotheses, best first.
        finished_scores: (b, k) their scores, minus infinity where fewer have finished.
        beam_indices: (b * k,) the row of `model_state` that each running hypothesis continues.
        model_state: of b * k rows, after the tokens before the last.
    """

    i: Any
    running_log_p: Any
    running: Any
    finished: Any
    finished_scores: Any
    beam_indices: Any
    model_state: Any


@dataclasses.dataclass(frozen=True)
class _BeamSearch:
    """Steps of `beam_search`: `while can_improve(beams): beams = advance(beams)`, from `initial(state)`."""

    step: Callable
    batch: Any
    beam_width: Any
    start: Any
    end: int
    max_new_tokens: Any
    length: Any
    alpha: Any
    n_best: Any
    constraints: "_Constraints"

    def initial(self, model_state):
        """One running hypothesis in each row, the empty one; none has finished."""
        shape = self.batch, self.beam_width
        log_p = ops.where(ops.arange(self.beam_width) > 0, -float("inf"), ops.zeros(shape))
        empty = ops.full((*shape, self.length), PAD, "int32")
        beam_indices = ops.arange(self.batch * self.beam_width, dtype="int32")
        model_state = keras.tree.map_structure(lambda x: ops.repeat(x, self.beam_width, axis=0), model_state)
        scores = ops.full(shape, -float("inf"))
        return _Beams(ops.cast(0, "int32"), log_p, empty, empty, scores, beam_indices, model_state)

    def can_improve(self, beams):
        """Whether in any row a running hypothesis could still come among the n best: log p only falls."""
        worst_finished = ops.min(beams.finished_scores[:, : self.n_best], axis=1)  # minus infinity until n have
        best_log_p = ops.max(beams.running_log_p, axis=1)
        upper_bound = self.score(best_log_p, self.max_new_tokens)
        can_win = ops.logical_and(best_log_p > -float("inf"), upper_bound > worst_finished)
        return ops.logical_and(beams.i < self.length, ops.any(can_win))

    def advance(self, beams):
        """Extend the running hypotheses by one token; those that it ends move to the finished ones."""
        logits, model_state = self.next_logits(beams)
        log_p, token, beam_indices = self.top_continuations(beams, logits)
        running = self.append(beams, token, beam_indices)
        log_p = self.shrink_beam(beams, log_p)
        ends = ops.logical_and(token == self.end, log_p > -float("inf"))
        finished, scores = self.update_finished(beams, running, log_p, ends)
        log_p = ops.where(ends, -float("inf"), log_p)
        return (_Beams(beams.i + 1, log_p, running, finished, scores, beam_indices, model_state),)

    def next_logits(self, beams):
        """Logits (b * k, v) of the next token of each running hypothesis, and the model's state."""
        reordered = keras.tree.map_structure(  # here, not in the step before: XLA fuses it with the model's step
            lambda x: ops.take(x, beams.beam_indices, axis=0), beams.model_state
        )
        last_only = ops.where(_is_position(beams.i - 1, self.length), self.flat(beams.running), PAD)
        last_token = ops.where(beams.i > 0, ops.max(last_only, axis=1), self.start)
        logits, model_state = self.step(last_token, reordered)
        return ops.cast(logits, "float32"), model_state

    def top_continuations(self, beams, logits):
        """The k most probable continuations in each row: log p (b, k), last token (b, k), beam_indices (b * k,)."""
        k, vocab_size = self.beam_width, logits.shape[-1]
        n = min(k, vocab_size) if isinstance(k, int) else ops.minimum(k, vocab_size)  # of each hypothesis n suffice
        best, token = ops.top_k(self.constraints.mask(logits, self.flat(beams.running), beams.i), n)  # (b * k, n)
        log_p = ops.reshape(beams.running_log_p, (-1, 1)) + best - ops.logsumexp(logits, axis=-1, keepdims=True)
        log_p, index = ops.top_k(ops.reshape(log_p, (self.batch, k * n)), k)
        index = ops.cast(index, "int32")
        token = ops.reshape(ops.cast(token, "int32"), (self.batch, k * n))
        beam_indices = index // n + k * ops.arange(self.batch, dtype="int32")[:, None]
        return log_p, ops.take_along_axis(token, index, axis=1), ops.reshape(beam_indices, (-1,))

    def append(self, beams, token, beam_indices):
        """Running hypotheses (b, k, t): those that beam_indices names, each followed by its token (b, k)."""
        running = ops.take(self.flat(beams.running), beam_indices, axis=0)
        running = ops.reshape(running, (self.batch, self.beam_width, self.length))
        return ops.where(_is_position(beams.i, self.length), token[..., None], running)

    def shrink_beam(self, beams, log_p):
        """Each finished hypothesis takes a slot: of the continuations (b, k) only the best k - num_finished go on."""
        num_finished = ops.sum(ops.cast(beams.finished_scores > -float("inf"), "int32"), axis=1, keepdims=True)
        return ops.where(ops.arange(self.beam_width) < self.beam_width - num_finished, log_p, -float("inf"))

    def update_finished(self, beams, running, log_p, ends):
        """The k best of the finished hypotheses and of the running ones that end: tokens (b, k, t), scores (b, k)."""
        new_scores = ops.where(ends, self.score(log_p, beams.i + 1), -float("inf"))
        scores, best = ops.top_k(ops.concatenate([beams.finished_scores, new_scores], axis=1), self.beam_width)
        tokens = ops.concatenate([beams.finished, running], axis=1)
        return ops.take_along_axis(tokens, ops.cast(best, "int32")[..., None], axis=1), scores

    def score(self, log_p, num_tokens):
        """Length-normalized log-probability (Wu et al., 2016, equation 14, without the coverage penalty)."""
        return log_p / ops.power((5.0 + ops.cast(num_tokens, "float32")) / 6.0, self.alpha)

    def flat(self, tokens):
        """(b, k, t) -> (b * k, t)"""
        return ops.reshape(tokens, (-1, self.length))


# Constraints.


def _is_position(i, length):
    """(length,) bool, True at position i."""
    return ops.arange(length) == i


@dataclasses.dataclass(frozen=True)
class _Constraints:
    """Tokens that a search may generate; for the arguments see `greedy_search`."""

    end: int
    max_new_tokens: Any
    min_length: int
    no_repeat_ngram: int
    suppress_tokens: tuple

    def mask(self, scores, tokens, i):
        """Scores (r, v) of the token at position i of tokens (r, t) -> minus infinity for tokens not allowed there."""
        ids = ops.arange(scores.shape[-1])
        is_end = ids == self.end
        banned = sum((ops.cast(ids == token, "int32") for token in self.suppress_tokens), 0 * ids) > 0
        banned = ops.logical_or(banned, ops.logical_and(is_end, i < self.min_length))[None]
        if self.no_repeat_ngram:
            banned = ops.logical_or(banned, self.repeated_ngrams(tokens, i, scores.shape[-1]))
            banned = ops.logical_and(banned, ops.logical_or(ids != self.end, i < self.min_length))
        must_end = ops.logical_or((i + 1 >= self.max_new_tokens)[:, None], ops.all(banned, axis=1, keepdims=True))
        banned = ops.where(must_end, ids != self.end, banned)
        return ops.where(banned, -float("inf"), scores)

    def repeated_ngrams(self, tokens, i, vocab_size):
        """(r, v) bool: tokens that would complete an n-gram that tokens (r, t), the first i of them, already have."""
        rows, length = ops.shape(tokens)
        n, starts = self.no_repeat_ngram, ops.arange(length)
        same_prefix = ops.broadcast_to((starts + n - 1 < i)[None], (rows, length))
        for j in range(n - 1):
            last = ops.take(tokens, ops.maximum(i - n + 1 + j, 0), axis=1)
            earlier = ops.take(tokens, ops.minimum(starts + j, length - 1), axis=1)
            same_prefix = ops.logical_and(same_prefix, earlier == last[:, None])
        completion = ops.take(tokens, ops.minimum(starts + n - 1, length - 1), axis=1)
        row = ops.broadcast_to(ops.arange(rows)[:, None], (rows, length))
        index = ops.reshape(row * vocab_size + ops.maximum(completion, 0), (-1, 1))
        count = ops.scatter(index, ops.reshape(ops.cast(same_prefix, "int32"), (-1,)), (rows * vocab_size,))
        return ops.reshape(count, (rows, vocab_size)) > 0
