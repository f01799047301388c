"""Heads of BERT and ELECTRA for people: texts in, texts and numbers out, in Python and in a SavedModel.

`TextModel` is what heads are made of that have a vocabulary; the classes after it are what such heads do: a method of
tokens, which a method of texts in Python and an endpoint share.
Shapes: b texts, t tokens, n labels, k places.
"""

import functools
import operator
import warnings

import keras
import numpy as np
from keras import ops

from homl_models.base import Model, compiled
from homl_models.endpoints import Endpoint, Int, Text, asserted
from homl_models.errors import UserError
from homl_models.tokenizers.wordpiece import SETTINGS, SPECIAL, WordPiece

BATCH = 32  # texts that are read together
CHUNK = 1024  # texts that are cut into tokens together
OUTSIDE = 1 << 30  # more tokens than there are
ANY = (None, None), "int32"  # shape and type of an input
COLUMNS = "input_ids", "token_type_ids", "attention_mask"


class TextModel(Model):
    """A model that reads texts by a vocabulary of word pieces, if it has one.

    vocabulary: tokens, the id of each its place; () for a model of ids alone. The embeddings may be more, if somebody
    has rounded up their number. lowercase, strip_accents, tokenize_chinese_chars, special_names: see
    `wordpiece.WordPiece`. model_max_length: tokens that a text may have, with those that are added; None for all
    positions of the backbone. A subclass has `backbone`, and calls `check_vocabulary`.
    """

    def __init__(
        self,
        vocabulary=(),
        lowercase=True,
        model_max_length=None,
        strip_accents=None,
        tokenize_chinese_chars=True,
        special_names=SPECIAL,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocabulary, self.model_max_length = tuple(vocabulary), model_max_length
        self.lowercase, self.strip_accents, self.tokenize_chinese_chars = (
            lowercase,
            strip_accents,
            tokenize_chinese_chars,
        )
        self.special_names = tuple(special_names)

    @functools.cached_property
    def tokenizer(self):
        if not self.vocabulary:
            raise UserError("this model has no vocabulary and takes ids alone; give it one, or a folder with vocab.txt")
        return WordPiece(self.vocabulary, **{name: getattr(self, name) for name in SETTINGS})

    def check_vocabulary(self):
        """Raise `UserError` if there are tokens without an embedding."""
        if len(self.vocabulary) > self.backbone.vocab_size:
            raise UserError(
                f"the vocabulary has {len(self.vocabulary)} tokens, the model {self.backbone.vocab_size}; "
                "take the vocab.txt that it was trained with"
            )

    # Quantized by Keras' `quantize`, which a configuration of arguments does not show.

    def get_build_config(self):
        modes = {layer.quantization_mode for layer in self._flatten_layers()} - {None}
        return (super().get_build_config() or {}) | ({"quantized": modes.pop()} if modes else {})

    def build_from_config(self, config):
        self.build()
        if mode := config.get("quantized"):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*does not have a `quantize` method.*")
                self.quantize(mode)

    @property
    def max_length(self):
        """Tokens that a text may have, with those that are added."""
        return min(self.model_max_length or OUTSIDE, self.backbone.max_position_embeddings)

    # In Python.

    @functools.cached_property
    def _compiled(self):
        return {}

    def read(self, name, texts, pairs=None, cut=False, more=lambda tokens: {}):
        """The method `name` of this model on the tokens of texts -> of each text (tokens, what it gives).

        Tokens are a dictionary, see `wordpiece.WordPiece.encode`. cut: texts that are too long are cut at the end; or
        else `UserError`. more: tokens of a batch (b, t) -> what else goes in, (b, k).
        """
        _check_lists(texts, pairs)
        found = []
        for i in range(0, len(texts), CHUNK):
            some, others = texts[i : i + CHUNK], None if pairs is None else pairs[i : i + CHUNK]
            tokens = self.tokenizer.encode(some, others, self.max_length if cut else None, offsets=True)
            length = tokens["input_ids"].shape[1]
            if length > self.max_length:
                raise UserError(f"a text has {length} tokens; this model takes {self.max_length} at most")
            found += self.found(name, tokens, more)
        return found

    def found(self, name, tokens, more=lambda tokens: {}):
        """`read` of tokens (n, t): those of like length are read together."""
        lengths = tokens["attention_mask"].sum(axis=1)
        order, rows = np.argsort(lengths, kind="stable"), [None] * len(lengths)
        for i in range(0, len(order), BATCH):
            places = order[i : i + BATCH]
            batch = {column: x[places, : lengths[places[-1]]] for column, x in tokens.items()}
            given = of_model(batch) | more(batch)
            if name not in self._compiled:  # not by XLA: it reads slower than oneDNN, and each length anew
                self._compiled[name] = compiled(getattr(self, name), False, [dict.fromkeys(given, ANY)])
            found = self._compiled[name]({column: ops.convert_to_tensor(x) for column, x in given.items()})
            both = batch, keras.tree.map_structure(ops.convert_to_numpy, found)
            for row, place in enumerate(places):
                rows[place] = keras.tree.map_structure(operator.itemgetter(row), both)
        return rows

    # In a graph.

    def tf_read(self, texts, pairs=None, cut=False):
        """Texts (b,) -> their tokens, a dictionary of tensors (b, t); see `read`."""
        import tensorflow as tf

        tokens = _with_a_column(self.tokenizer.tf_encode(texts, pairs, self.max_length if cut else None, offsets=True))
        longest = tf.shape(tokens["input_ids"])[1]
        message = f"a text has too many tokens; this model takes {self.max_length} at most"
        tokens = asserted(longest <= self.max_length, message, tokens)
        return {column: x[:, : self.max_length] for column, x in tokens.items()}


def _with_a_column(tokens):
    """Tokens (b, t, ...), of no texts (0, 1, ...): layers need a column."""
    import tensorflow as tf

    empty = tf.cast(tf.equal(tf.shape(tokens["input_ids"])[0], 0), tf.int32)
    return {column: tf.pad(x, [[0, 0], [0, empty], [0, 0]][: x.shape.rank]) for column, x in tokens.items()}


def _check_lists(texts, pairs):
    if isinstance(texts, str) or isinstance(pairs, str):
        raise UserError("give a list of texts, not one text")


def of_model(tokens):
    """What of tokens goes into the model."""
    return {column: tokens[column] for column in COLUMNS}


class Classifies:
    """Texts -> labels.

    A head with `label_names` and `problem`; see `bert_heads.BertForSequenceClassification`.
    """

    def scores(self, tokens):
        """Tokens -> p of each label (b, n); of a regression, what it gives."""
        logits = self(tokens, training=False)
        if self.problem == "regression":
            return logits
        return (ops.softmax if self.problem == "single_label_classification" else ops.sigmoid)(logits)

    def classify(self, texts, pairs=None):
        """Texts, or pairs of texts, each cut where it is too long -> what they are, and scores (b, n).

        The former are a list of the most probable labels; of several labels a text, tuples of those with p > 0.5; of a
        regression the numbers, or tuples of them.
        """
        scores = [found for _, found in self.read("scores", texts, pairs, cut=True)]
        scores = np.reshape(np.float32(scores), (-1, len(self.label_names)))  # also of no texts
        if self.problem == "single_label_classification":
            return [self.label_names[i] for i in scores.argmax(1)], scores
        if self.problem == "regression":
            return [row[0] if len(row) == 1 else tuple(row) for row in scores.tolist()], scores
        return [tuple(np.array(self.label_names, object)[row > 0.5]) for row in scores], scores

    def endpoints(self):
        def found(tokens):
            import tensorflow as tf

            names = tf.constant(self.label_names)
            scores = self.scores(of_model(tokens))
            if self.problem == "single_label_classification":
                return {"labels": tf.gather(names, tf.argmax(scores, 1)), "scores": scores}
            if self.problem == "regression":
                return {"scores": scores}
            every = tf.tile(names[None], [tf.shape(scores)[0], 1])
            return {"labels": tf.ragged.boolean_mask(every, scores > 0.5).to_tensor(), "scores": scores}

        def classify(texts):
            """What each text is, and the score of every label; a text that is too long is cut."""
            return found(self.tf_read(texts, cut=True))

        def classify_pairs(texts, pairs):
            """What each pair of texts is, and the score of every label."""
            return found(self.tf_read(texts, pairs, cut=True))

        both = [Text("texts"), Text("pairs")]
        return {"classify": Endpoint(classify, both[:1]), "classify_pairs": Endpoint(classify_pairs, both)}


class Fills:
    """Texts with [MASK] -> the words that may stand there."""

    def words_at(self, tokens):
        """Tokens with `masked_positions` (b, k) -> p of every word of the vocabulary there (b, k, v)."""
        logits = self(tokens, training=False)
        p = ops.softmax(logits["prediction_logits"] if isinstance(logits, dict) else logits)
        return p[..., : len(self.vocabulary)]

    def fill_mask(self, texts, top_k=5):
        """Texts -> for each text, for each [MASK] in it, the `top_k` most probable tokens, [(token, p), ...].

        `UserError` for a text without [MASK].
        """
        self.check("fill_mask", top_k=top_k)

        def places(tokens):
            masked = tokens["input_ids"] == self.tokenizer.mask
            if not masked.any(1).all():
                raise UserError("every text needs a [MASK]")
            order = np.argsort(~masked, axis=1, kind="stable")
            return {"masked_positions": order[:, : masked.sum(1).max()].astype("int32")}

        filled = []
        for tokens, p in self.read("words_at", texts, more=places):
            count = np.sum(tokens["input_ids"] == self.tokenizer.mask)
            best = np.argsort(-p[:count], axis=-1, kind="stable")[:, :top_k]
            filled.append([[(self.vocabulary[i], float(at[i])) for i in some] for some, at in zip(best, p)])
        return filled

    def endpoints(self):
        def fill_mask(texts, top_k):
            """The most probable tokens for each [MASK] of each text, and their probabilities; "" for no [MASK]."""
            import tensorflow as tf

            tokens = self.tf_read(texts)
            masked = tokens["input_ids"] == self.tokenizer.mask
            counts = tf.reduce_sum(tf.cast(masked, tf.int32), axis=1)
            counts = asserted(tf.reduce_all(counts > 0), "every text needs a [MASK]", counts)
            most = tf.reduce_max(tf.concat([counts, [1]], 0))
            places = tf.argsort(tf.cast(~masked, tf.int32), axis=1, stable=True)[:, :most]
            p, ids = tf.math.top_k(self.words_at(of_model(tokens) | {"masked_positions": places}), top_k)
            there = tf.sequence_mask(counts, most)[..., None]
            return {
                "tokens": tf.where(there, tf.gather(tf.constant(self.vocabulary), ids), ""),
                "scores": tf.where(there, p, 0.0),
            }

        top_k = Int("top_k", 1, max(len(self.vocabulary), 1), default=5, hint="it is at most the vocabulary")
        return {"fill_mask": Endpoint(fill_mask, [Text("texts"), top_k])}


ANSWER = 30  # tokens that an answer may have


class Answers:
    """Questions and contexts -> the part of the context that answers the question.

    A head with `unanswerable`; see `bert_heads.BertForQuestionAnswering`.
    """

    def spans(self, tokens):
        """Tokens -> first and last token of the best answer (b,), its p (b,): p(first) * p(last), and that of [CLS].

        What is left of p belongs to other answers. [CLS] stands for none.
        """
        logits, t = self(tokens, training=False), ops.shape(tokens["input_ids"])[1]
        last = ops.sum(tokens["attention_mask"], axis=1, keepdims=True) - 1  # the last [SEP]
        inside = ops.logical_and(tokens["token_type_ids"] == 1, ops.arange(t) < last)
        possible = ops.logical_or(inside, ops.arange(t) == 0)
        both = [
            ops.log_softmax(ops.where(possible, logits[name], -1e9), axis=-1) for name in ("start_logits", "end_logits")
        ]
        none = ops.exp(both[0][:, 0] + both[1][:, 0])
        start, end = (ops.where(inside, log_p, -1e9) for log_p in both)
        apart = ops.arange(t) - ops.arange(t)[:, None]
        scores = start[:, :, None] + end[:, None]
        scores = ops.where(ops.logical_and(apart >= 0, apart < ANSWER), scores, -float("inf"))
        scores = ops.reshape(scores, (-1, t * t))
        best = ops.cast(ops.argmax(scores, axis=-1), "int32")
        return best // t, best % t, ops.exp(ops.max(scores, axis=-1)), none

    @property
    def overlap(self):
        """Tokens that the parts of a long context share."""
        return self.max_length // 4

    def answer(self, questions, contexts):
        """Questions and contexts -> [(answer, p), ...]; an answer has 30 tokens at most.

        A context that is too long is read in parts, which overlap; the most probable answer of all counts. A question
        is cut where it has more than half of the tokens that fit. Of an `unanswerable` model an answer is "" where
        [CLS] has no less p in any part than the best answer of all parts.
        """
        _check_lists(questions, contexts)
        best, none = [("", 0.0)] * len(questions), np.ones(len(questions))
        for i in range(0, len(questions), CHUNK):
            both = questions[i : i + CHUNK], contexts[i : i + CHUNK]
            windows = self.tokenizer.windows(*both, self.max_length, self.overlap)
            origins = i + windows.pop("overflow_to_sample_mapping")
            for origin, (tokens, (first, last, p, p_none)) in zip(origins, self.found("spans", windows)):
                none[origin] = min(none[origin], p_none)
                if p > best[origin][1]:
                    start, end = tokens["offsets"][first, 0], tokens["offsets"][last, 1]
                    best[origin] = contexts[origin][start:end], float(p)
        if not self.unanswerable:
            return best
        return [("", float(p_none)) if p_none >= p else (text, p) for (text, p), p_none in zip(best, none)]

    def tf_spans(self, tokens):
        """`spans` of tokens (w, t) in a graph, some rows at a time."""
        import tensorflow as tf

        rows, t = tf.unstack(tf.shape(tokens["input_ids"]))
        size = tf.clip_by_value(rows, 1, BATCH)
        count = tf.maximum(-(-rows // size), 1)
        parts = {
            column: tf.reshape(tf.pad(x, [[0, count * size - rows], [0, 0]]), [count, size, t])
            for column, x in of_model(tokens).items()
        }
        kinds = tf.int32, tf.int32, tf.float32, tf.float32
        found = tf.map_fn(self.spans, parts, parallel_iterations=1, fn_output_signature=kinds)
        return [tf.reshape(x, [-1])[:rows] for x in found]

    def endpoints(self):
        def answer(questions, contexts):
            """The part of each context that answers the question, its probability, and where it begins and ends."""
            import tensorflow as tf

            tokens = self.tokenizer.tf_windows(questions, contexts, self.max_length, self.overlap)
            origins, rows = tokens.pop("overflow_to_sample_mapping"), tf.size(questions)
            tokens = _with_a_column(tokens)
            first, last, p, none = self.tf_spans(tokens)
            best, none = (
                tf.math.unsorted_segment_max(p, origins, rows),
                tf.math.unsorted_segment_min(none, origins, rows),
            )
            windows = tf.where(tf.equal(p, tf.gather(best, origins)), tf.range(tf.size(p)), tf.size(p))
            window = tf.math.unsorted_segment_min(windows, origins, rows)  # the first of the best
            offsets = tf.gather(tokens["offsets"], window)
            start = tf.gather(offsets[..., 0], tf.gather(first, window), batch_dims=1)
            end = tf.gather(offsets[..., 1], tf.gather(last, window), batch_dims=1)
            there = best > (none if self.unanswerable else 0.0)
            start, end = (tf.where(there, place, 0) for place in (start, end))
            text = tf.strings.substr(contexts, start, end - start, unit="UTF8_CHAR")
            scores = tf.where(there, best, none if self.unanswerable else 0.0)
            return {"answers": text, "scores": scores, "starts": start, "ends": end}

        return {"answer": Endpoint(answer, [Text("questions"), Text("contexts")])}


class Tags:
    """Texts -> a label for each word."""

    def label_ids(self, tokens):
        """Tokens -> the most probable label of each (b, t), and its p."""
        p = ops.softmax(self(tokens, training=False))
        return ops.cast(ops.argmax(p, axis=-1), "int32"), ops.max(p, axis=-1)

    def tag(self, texts):
        """Texts -> for each text [(word, label, p), ...]; a word has the label of its first piece."""
        tagged = []
        for text, (tokens, (labels, p)) in zip(texts, self.read("label_ids", texts)):
            words, offsets = tokens["word_ids"], tokens["offsets"]
            ends = {word: offsets[at, 1] for at, word in enumerate(words) if word >= 0}
            firsts = {word: at for at, word in reversed(list(enumerate(words))) if word >= 0}
            tagged.append([
                (text[offsets[at, 0] : ends[word]], self.label_names[labels[at]], float(p[at]))
                for word, at in sorted(firsts.items())
            ])  # fmt: skip
        return tagged

    def endpoints(self):
        def tag(texts):
            """The words of each text, their labels and probabilities; "" after the last word."""
            import tensorflow as tf

            tokens = self.tf_read(texts)
            ids, p = self.label_ids(of_model(tokens))
            words = tokens["word_ids"]
            first = (words >= 0) & (words != tf.pad(words, [[0, 0], [1, 0]], constant_values=-1)[:, :-1])
            final = (words >= 0) & (words != tf.pad(words, [[0, 0], [0, 1]], constant_values=-1)[:, 1:])
            start, end = (tf.boolean_mask(tokens["offsets"][..., i], part) for i, part in enumerate((first, final)))
            row = tf.where(first)[:, 0]
            text = tf.strings.substr(tf.gather(texts, row), start, end - start, unit="UTF8_CHAR")
            names = tf.gather(tf.constant(self.label_names), tf.boolean_mask(ids, first))
            found = {"words": text, "labels": names, "scores": tf.boolean_mask(p, first)}
            rows = tf.shape(texts, tf.int64)[0]
            return {name: tf.RaggedTensor.from_value_rowids(x, row, rows).to_tensor() for name, x in found.items()}

        return {"tag": Endpoint(tag, [Text("texts")])}


class Detects:
    """Texts -> for each token how likely it is not the one that was written."""

    def replaced(self, tokens):
        """Tokens -> p (b, t) that each was replaced."""
        return ops.sigmoid(self(tokens, training=False))

    def detect_replaced(self, texts):
        """Texts -> for each text [(token, p), ...] without the tokens that are added."""
        found = []
        for tokens, p in self.read("replaced", texts):
            some = zip(tokens["input_ids"], tokens["word_ids"], p)
            found.append([(self.vocabulary[i], float(x)) for i, word, x in some if word >= 0])
        return found

    def endpoints(self):
        def detect_replaced(texts):
            """The tokens of each text and how likely each was replaced; "" and 0 for what is added or missing."""
            import tensorflow as tf

            tokens = self.tf_read(texts)
            inside = tokens["word_ids"] >= 0
            names = tf.gather(tf.constant(self.vocabulary), tokens["input_ids"])
            p = self.replaced(of_model(tokens))
            return {"tokens": tf.where(inside, names, ""), "scores": tf.where(inside, p, 0.0)}

        return {"detect_replaced": Endpoint(detect_replaced, [Text("texts")])}


class Embeds:
    """Texts -> vectors."""

    def embedded(self, tokens):
        """Tokens -> a vector of each text (b, d)."""
        return self(tokens, training=False)

    def embed(self, texts):
        """Texts, each cut where it is too long -> vectors (b, d)."""
        vectors = [found for _, found in self.read("embedded", texts, cut=True)]
        return np.reshape(np.float32(vectors), (-1, self.backbone.hidden_size))  # also of no texts

    def endpoints(self):
        def embed(texts):
            """A vector for each text; a text that is too long is cut."""
            return {"embeddings": self.embedded(of_model(self.tf_read(texts, cut=True)))}

        return {"embed": Endpoint(embed, [Text("texts")])}
