"""Choosing tokens, one at a time, from any model that can take a step.

`step(tokens, state) -> (logits, state)`: tokens (b,) int32, logits (b, v), and
`state` any nest of tensors whose first axis is the batch. The loop is
`keras.ops.while_loop`, so it is compiled, stops early, and costs time linear
in the number of tokens produced.
"""

import keras
from keras import ops

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


def draw(seed, length, batch):
    """Noise (length, batch) for `sample`; more length or another process does not change what comes first."""
    return keras.random.uniform((length, batch), seed=seed)


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
