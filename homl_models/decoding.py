"""Choosing tokens, one at a time, from any model that can take a step.

`step(tokens, state) -> (logits, state)`: tokens (b,) int32, logits (b, v), and
`state` any nest of tensors whose first axis is the batch. The loop is
`keras.ops.while_loop`, so it is compiled, stops early, and costs time linear
in the number of tokens produced. What a model looks at but does not change while it
decodes (an encoded sentence) is no state: bind it to `step`.

The searches return what the model finds most probable. Every hypothesis ends with the
token `end`, at the latest as its `limits`-th token, so that each score is that of a
complete text. Shapes: b batch, k beam, v vocabulary, t tokens.
"""

import random

import keras
import numpy as np
from keras import ops

from homl_models.layers.dropout import lowbias32

PAD = -1  # stands in the output after a row has ended


def filter_logits(logits, temperature=1.0, top_k=0, top_p=1.0):
    """Logits (..., v) -> float32 logits (..., v) to sample from, minus infinity for what is excluded.

    temperature: above 0; divides the logits.
    top_k: keep the k most probable tokens and those that tie with the last of them; 0 keeps all.
    top_p: of what is left keep the fewest tokens whose probability reaches top_p, ties again
        kept (nucleus sampling, Holtzman et al., 2019, https://arxiv.org/abs/1904.09751);
        1 keeps all, 0 the most probable.
    All three may be tensors.
    """
    logits = ops.cast(logits, "float32") / ops.cast(temperature, "float32")
    if isinstance(top_k, int) and isinstance(top_p, (int, float)) and top_k == 0 and top_p == 1:
        return logits  # without sorting them
    vocab_size = logits.shape[-1]
    ordered = ops.flip(ops.sort(logits, axis=-1), axis=-1)
    top_k, top_p = ops.cast(top_k, "int32"), ops.cast(top_p, "float32")
    count = ops.where(ops.logical_and(top_k > 0, top_k < vocab_size), top_k, vocab_size)
    kth = ops.expand_dims(ops.take(ordered, count - 1, axis=-1), -1)
    probabilities = ops.softmax(ops.where(ordered >= kth, ordered, -float("inf")), axis=-1)
    before = ops.cumsum(probabilities, axis=-1) - probabilities
    inside = ops.logical_or(before < top_p, top_p >= 1)
    inside = ops.logical_or(inside, ops.arange(vocab_size) == 0)
    nucleus = ops.min(ops.where(inside, ordered, float("inf")), axis=-1, keepdims=True)
    return ops.where(logits >= ops.maximum(kth, nucleus), logits, -float("inf"))


def choose(logits, noise, temperature=1.0, top_k=0, top_p=1.0):
    """Logits (b, v), noise (b,) uniform in [0, 1) -> tokens (b,) int32, by inverting the distribution function.

    `temperature` 0 takes the most probable token (the first of equals).
    """
    temperature = ops.cast(temperature, "float32")
    filtered = filter_logits(logits, ops.where(temperature > 0, temperature, 1.0), top_k, top_p)
    p = ops.softmax(filtered, axis=-1)
    mass = ops.where(p > 0, ops.cumsum(p, axis=-1), 0.0)  # XLA's sum of many terms wavers, even where p is 0
    sampled = ops.argmax(mass > noise[:, None] * ops.max(mass, axis=-1, keepdims=True), axis=-1)
    return ops.cast(ops.where(temperature > 0, sampled, ops.argmax(logits, axis=-1)), "int32")


def draw(seed, length, rows):
    """Noise (length, b) in [0, 1) for `sample`: number t of a row follows from the seed, t and the row's number alone.

    So neither more length, nor more rows, nor another process or backend changes what a row draws.
    seed: a whole number, of which 32 bits count, or None to draw one. rows: b, for the rows 0 to b - 1, or whole
    numbers (b,); rows of the same number draw the same.
    """
    if seed is None:
        seed = random.getrandbits(32)
    seed = np.uint32(seed & 0xFFFFFFFF) if isinstance(seed, (int, np.integer)) else ops.cast(seed, "uint32")
    rows = ops.arange(rows) if isinstance(rows, int) else rows
    key = lowbias32(seed)
    place, row = ops.arange(length)[:, None], ops.convert_to_tensor(rows)[None]
    key_of_rows = lowbias32(key + np.uint32(0x9E3779B9))
    place, row = lowbias32(ops.cast(place, "uint32") + key), lowbias32(ops.cast(row, "uint32") + key_of_rows)
    bits = lowbias32(ops.bitwise_xor(place, row))
    return ops.cast(ops.bitwise_right_shift(bits, np.uint32(8)), "float32") * np.float32(2**-24)


def sample(step, logits, state, noise, *, length=None, stop=None, **choice):
    """Sample tokens for each row until all have ended.

    step, state: see the module. logits: (b, v), those of the first token to choose.
    noise: (t, b) uniform in [0, 1), one number for each token; `draw` makes it from a seed.
    length: end after that many tokens, a tensor or a whole number <= t; None is t.
    stop: tokens (k,), k >= 1; a row ends once it has produced them in this order.
    choice: temperature, top_k, top_p, as in `choose`.
    Returns tokens (b, t) int32, with `PAD` after the end of a row.
    """
    batch = ops.shape(logits)[0]
    length = ops.cast(ops.shape(noise)[0] if length is None else length, "int32")
    stop = ops.cast(ops.convert_to_tensor([PAD] if stop is None else stop), "int32")
    recent = ops.full((batch, ops.shape(stop)[0]), PAD, "int32")
    tokens = ops.full(ops.shape(noise), PAD, "int32")

    def more(i, logits, state, done, recent, tokens):
        return ops.logical_and(i < length, ops.logical_not(ops.all(done)))

    def one(i, logits, state, done, recent, tokens):
        token = ops.where(done, PAD, choose(logits, noise[i], **choice))
        tokens = ops.scatter_update(tokens, ops.reshape(i, (1, 1)), token[None])
        recent = ops.concatenate([recent[:, 1:], token[:, None]], axis=1)
        done = ops.logical_or(done, ops.all(recent == stop, axis=1))
        logits, state = step(ops.maximum(token, 0), state)
        return i + 1, logits, state, done, recent, tokens

    start = (ops.cast(0, "int32"), logits, state, ops.zeros((batch,), "bool"), recent, tokens)
    return ops.transpose(ops.while_loop(more, one, start)[-1])


def greedy_search(step, state, batch, *, start, end, limits, length, min_length=0, no_repeat_ngram=0, forbidden=()):
    """The most probable token at every step, until each row has ended.

    step, state: see the module; batch: b, the number of rows.
    start, end: tokens that begin and end a text. forbidden: tokens never to choose.
    limits: (b,), each at least 1 and at most `length`: row i has at most limits[i] tokens, `end` among them.
    min_length: at least that many tokens before `end`.
    no_repeat_ngram: n > 0 chooses no token that would repeat n tokens of the row in their order.
    Where these rules leave no token, `end` is chosen.
    Returns tokens (b, length), `PAD` after `end`, and log-probabilities (b,) of each row, `end` included.
    """
    rules = _Rules(end, limits, min_length, no_repeat_ngram, forbidden)

    def more(i, token, done, tokens, total, state):
        return ops.logical_and(i < length, ops.logical_not(ops.all(done)))

    def one(i, token, done, tokens, total, state):
        logits, state = step(token, state)
        log_p = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        token = ops.cast(ops.argmax(rules.apply(log_p, tokens, i), axis=-1), "int32")
        gained = ops.take_along_axis(log_p, token[:, None], axis=-1)[:, 0]
        total = total + ops.where(done, 0.0, gained)
        tokens = ops.where(_at(i, length), ops.where(done, PAD, token)[:, None], tokens)
        return i + 1, token, ops.logical_or(done, token == end), tokens, total, state

    first = ops.cast(0, "int32"), ops.full((batch,), start, "int32"), ops.zeros((batch,), "bool")
    tokens, total = ops.full((batch, length), PAD, "int32"), ops.zeros((batch,), "float32")
    *_, tokens, total, _ = ops.while_loop(more, one, (*first, tokens, total, state))
    return tokens, total


def beam_search(
    step,
    state,
    batch,
    beam_width,
    *,
    start,
    end,
    limits,
    length,
    length_penalty=1.0,
    n_best=1,
    min_length=0,
    no_repeat_ngram=0,
    forbidden=(),
):
    """The best texts that a beam of `beam_width` hypotheses per row meets.

    A step extends every live hypothesis by every token and keeps the most probable ones, as many as
    have not ended yet; one that ends leaves the beam and is kept. So nothing that ended is lost, and a
    beam of 1 is `greedy_search`. A row is done when no live hypothesis can still come among its n best.
    step: takes tokens (b * k,) and a state of b * k rows, the hypotheses of a row side by side;
    state: that of b rows. length_penalty: alpha, 0 or more, of
        score = log p(text) / ((5 + |text|) / 6)^alpha, |text| counting `end` (Wu et al., 2016, equation 14).
    n_best: texts to return, at most beam_width. The rest as in `greedy_search`.
    Returns tokens (b, n_best, length) and scores (b, n_best), best first; minus infinity where a row
    has fewer texts.
    """
    rules = _Rules(end, ops.repeat(limits, beam_width, axis=0), min_length, no_repeat_ngram, forbidden)
    k, shape = beam_width, (batch, beam_width)
    below = -float("inf")

    def penalty(tokens):
        return ops.power((5.0 + ops.cast(tokens, "float32")) / 6.0, length_penalty)

    def more(i, live, tokens, ended, scores, rows, state):
        worst = ops.min(scores[:, :n_best], axis=1)  # minus infinity until n have ended
        best = ops.max(live, axis=1)
        can_win = ops.logical_and(best > below, best / penalty(limits) > worst)
        return ops.logical_and(i < length, ops.any(can_win))

    def one(i, live, tokens, ended, scores, rows, state):
        state = keras.tree.map_structure(lambda x: ops.take(x, rows, axis=0), state)  # here XLA merges it with the step
        flat = ops.reshape(tokens, (-1, length))
        last = ops.where(i > 0, ops.max(ops.where(_at(i - 1, length), flat, PAD), axis=1), start)
        logits, state = step(last, state)
        logits = ops.cast(logits, "float32")
        v = logits.shape[-1]
        n = min(k, v) if isinstance(k, int) else ops.minimum(k, v)  # no hypothesis can have more among the best
        best, token = ops.top_k(rules.apply(logits, flat, i), n)  # (b * k, n)
        total = ops.reshape(live, (-1, 1)) + best - ops.logsumexp(logits, axis=-1, keepdims=True)
        live, choice = ops.top_k(ops.reshape(total, (batch, k * n)), k)
        choice = ops.cast(choice, "int32")
        token = ops.take_along_axis(ops.reshape(ops.cast(token, "int32"), (batch, k * n)), choice, axis=1)
        rows = ops.reshape(choice // n + k * ops.arange(batch, dtype="int32")[:, None], (-1,))
        tokens = ops.reshape(ops.take(flat, rows, axis=0), (batch, k, length))
        tokens = ops.where(_at(i, length), token[..., None], tokens)
        free = k - ops.sum(ops.cast(scores > below, "int32"), axis=1, keepdims=True)
        live = ops.where(ops.arange(k) < free, live, below)
        ending = ops.logical_and(token == end, live > below)
        new = ops.where(ending, live / penalty(i + 1), below)
        scores, best = ops.top_k(ops.concatenate([scores, new], axis=1), k)
        ended = ops.concatenate([ended, tokens], axis=1)
        ended = ops.take_along_axis(ended, ops.cast(best, "int32")[..., None], axis=1)
        return i + 1, ops.where(ending, below, live), tokens, ended, scores, rows, state

    live = ops.where(ops.arange(k) > 0, below, ops.zeros(shape))  # one hypothesis, the empty one
    tokens = ops.full((batch, k, length), PAD, "int32")
    rows = ops.arange(batch * k, dtype="int32")
    state = keras.tree.map_structure(lambda x: ops.repeat(x, k, axis=0), state)
    start_at = ops.cast(0, "int32"), live, tokens, tokens, ops.full(shape, below), rows, state
    *_, ended, scores, _, _ = ops.while_loop(more, one, start_at)
    return ended[:, :n_best], scores[:, :n_best]


def _at(i, length):
    """(length,), True at place i."""
    return ops.arange(length) == i


class _Rules:
    """Which tokens a search may choose; see `greedy_search`."""

    def __init__(self, end, limits, min_length, no_repeat_ngram, forbidden):
        self.end, self.limits, self.min_length = end, limits, min_length
        self.ngram, self.forbidden = no_repeat_ngram, forbidden

    def apply(self, scores, tokens, i):
        """Scores (r, v) of what may stand at place i of tokens (r, t) -> minus infinity for what is refused."""
        ids = ops.arange(scores.shape[-1])
        is_end = ids == self.end
        refused = sum((ops.cast(ids == token, "int32") for token in self.forbidden), 0 * ids) > 0
        refused = ops.logical_or(refused, ops.logical_and(is_end, i < self.min_length))[None]
        if self.ngram:
            refused = ops.logical_or(refused, self.repeating(tokens, i, scores.shape[-1]))
            refused = ops.logical_and(refused, ops.logical_or(ids != self.end, i < self.min_length))
        last = ops.logical_or((i + 1 >= self.limits)[:, None], ops.all(refused, axis=1, keepdims=True))
        refused = ops.where(last, ids != self.end, refused)
        return ops.where(refused, -float("inf"), scores)

    def repeating(self, tokens, i, vocab_size):
        """(r, v): whether a token would end an n-gram that tokens (r, t), of which i count, hold already."""
        rows, length = ops.shape(tokens)
        n, starts = self.ngram, ops.arange(length)
        same = ops.broadcast_to((starts + n - 1 < i)[None], (rows, length))
        for j in range(n - 1):
            behind = ops.take(tokens, ops.maximum(i - n + 1 + j, 0), axis=1)
            ahead = ops.take(tokens, ops.minimum(starts + j, length - 1), axis=1)
            same = ops.logical_and(same, ahead == behind[:, None])
        ends = ops.take(tokens, ops.minimum(starts + n - 1, length - 1), axis=1)
        row = ops.broadcast_to(ops.arange(rows)[:, None], (rows, length))
        place = ops.reshape(row * vocab_size + ops.maximum(ends, 0), (-1, 1))
        count = ops.scatter(place, ops.reshape(ops.cast(same, "int32"), (-1,)), (rows * vocab_size,))
        return ops.reshape(count, (rows, vocab_size)) > 0
