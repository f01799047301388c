"""Endpoints of translators: strings to strings in a TensorFlow graph, as their SavedModel has them.

Shapes: b batch, s source tokens, t target tokens.
"""

import math

from keras import ops

from homl_models.endpoints import Endpoint, Float, Int, Text, asserted
from homl_models.tokenizers.base import END, START, is_blank


def endpoints(model):
    """{name: `Endpoint`} of a `Translator`: translate, translate_beam, score, and attention if it has any."""

    def is_empty(texts, ids):
        return is_blank(texts) | (ids[:, 0] == END)

    def translate(text):
        """Translates each text greedily: the most probable token at every step."""
        import tensorflow as tf

        source = source_ids(model, text)
        max_new_tokens = model.max_new_tokens(source)
        length = tf.reduce_max(tf.concat([max_new_tokens, [1]], 0))
        ids, _ = model.greedy(source, max_new_tokens, length=length)
        return {"translation": tf.where(is_empty(text, source), "", decode(model, ids))}

    def translate_beam(text, beam_width, length_penalty):
        """The `beam_width` best translations of each text that beam search finds, best first, and their scores."""
        import tensorflow as tf

        source = source_ids(model, text)
        max_new_tokens = model.max_new_tokens(source)
        length = tf.reduce_max(tf.concat([max_new_tokens, [1]], 0))
        ids, scores = model.beam(
            source, max_new_tokens, length_penalty, length=length, beam_width=beam_width, n_best=beam_width
        )
        texts = tf.reshape(decode(model, tf.reshape(ids, [-1, length])), tf.shape(scores))
        empty = is_empty(text, source)[:, None]
        only_one = tf.where(tf.range(beam_width) == 0, 0.0, -math.inf)  # scores of the one translation of nothing
        return {"translations": tf.where(empty, "", texts), "scores": tf.where(empty, only_one, scores)}

    def score(source, target):
        """The natural log-probability of each target as a translation of its source."""
        return {"log_probability": model.log_probabilities(source_ids(model, source), target_ids(model, target))}

    def attention(source, target):
        """The attention weights of source tokens for each target token: (targets, target tokens, source tokens)."""
        source, target = source_ids(model, source), target_ids(model, target)
        return {
            "weights": model.alignment(source, target[:, :-1]),
            "source_tokens": model.source_tokenizer.tokens(source),
            "target_tokens": model.target_tokenizer.tokens(target[:, 1:]),
        }

    width = Int("beam_width", 1, len(model.target_vocabulary), default=4, hint="it is at most the vocabulary")
    penalty = Float("length_penalty", 0, default=1.0)
    pair = [Text("source"), Text("target")]
    endpoints = {
        "translate": Endpoint(translate, [Text("text")]),
        "translate_beam": Endpoint(translate_beam, [Text("text"), width, penalty]),
        "score": Endpoint(score, pair),
    }
    return endpoints | ({"attention": Endpoint(attention, pair)} if model.has_attention else {})


def source_ids(model, texts):
    """Source texts (b,) -> ids (b, s), each row followed by `END`; an assertion that they fit the model."""
    import tensorflow as tf

    ids = tf.concat([model.source_tokenizer.encode(texts), tf.fill([tf.size(texts), 1], END)], 1).to_tensor()
    ids = tf.pad(ids, [[0, 0], [0, tf.cast(tf.equal(tf.size(texts), 0), tf.int32)]])  # layers need a column
    return _assert_length(ids, model, 0, "a sentence")


def target_ids(model, texts):
    """Target texts (b,) -> ids (b, t), each row between `START` and `END`; an assertion that they fit the model."""
    import tensorflow as tf

    start, end = (tf.fill([tf.size(texts), 1], token) for token in (START, END))
    ids = tf.concat([start, model.target_tokenizer.encode(texts), end], 1).to_tensor()
    ids = tf.pad(ids, [[0, 0], [0, 2 * tf.cast(tf.equal(tf.size(texts), 0), tf.int32)]])
    return _assert_length(ids, model, 1, "a translation")


def decode(model, ids):
    """Target ids (b, t) -> texts (b,)."""
    return model.target_tokenizer.decode(ops.maximum(ids, 0))


def _assert_length(ids, model, extra, name):
    import tensorflow as tf

    if not model.max_length:
        return ids
    message = f"{name} has more than the {model.max_length} tokens that the model was trained for"
    return asserted(tf.shape(ids)[1] <= model.max_length + extra, message, ids)
