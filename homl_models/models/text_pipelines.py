"""Pipelines of BERT's and ELECTRA's heads: texts in, labels, words, answers or vectors out.

Each is a base class of heads that have a tokenizer (`text_model.TextModel`). A method of tokens does the work; a method
of texts in Python and an endpoint of the SavedModel share it.
Shapes: b texts, t tokens, n labels, k masked positions, v vocabulary, w windows.
"""

import itertools
import operator
import unicodedata

import numpy as np
from keras import ops

from homl_models.endpoints import Endpoint, Int, Text, asserted
from homl_models.errors import UserError
from homl_models.layers.attention import MASK_VALUE
from homl_models.models.text_model import (
    TOKENIZER_CHUNK,
    check_lists,
    model_inputs,
    pad_empty,
)

MAX_ANSWER_LENGTH = 30  # tokens


def with_marks(text, end):
    """The end of a span of a text, moved behind the combining marks that follow, of which tokens know nothing."""
    while end < len(text) and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return end


def tf_with_marks(texts, ends):
    """`with_marks` of texts (b,) and ends (b,) in a graph."""
    import tensorflow as tf

    rest = tf.strings.substr(texts, ends, tf.strings.length(texts, unit="UTF8_CHAR"), unit="UTF8_CHAR")
    marks = tf.strings.regex_replace(rest, r"(?s)^(\p{M}*).*$", r"\1")
    return ends + tf.strings.length(marks, unit="UTF8_CHAR")


class TextClassification:
    """Pipeline of text classification: texts -> labels.

    A head has `label_names` and `problem`; see `bert_heads.BertForSequenceClassification`.
    """

    def scores(self, tokens):
        """Tokens -> p of each label (b, n); of a regression its outputs."""
        logits = self(tokens, training=False)
        if self.problem == "regression":
            return logits
        return (ops.softmax if self.problem == "single_label_classification" else ops.sigmoid)(logits)

    def classify(self, texts, pairs=None):
        """Texts, or pairs of texts, truncated to the model's length -> labels and scores (b, n).

        Labels are a list of the most probable ones; for multi-label classification of tuples of those with p > 0.5; for
        regression of numbers, or tuples of them.
        """
        scores = [scores for _, scores in self.tokenize_and_call("scores", texts, pairs, truncate=True)]
        scores = np.reshape(np.float32(scores), (-1, len(self.label_names)))  # also of no texts
        if self.problem == "single_label_classification":
            return [self.label_names[i] for i in scores.argmax(1)], scores
        if self.problem == "regression":
            return [row[0] if len(row) == 1 else tuple(row) for row in scores.tolist()], scores
        return [tuple(np.array(self.label_names, object)[row > 0.5]) for row in scores], scores

    def endpoints(self):
        def labels_and_scores(tokens):
            import tensorflow as tf

            names = tf.constant(self.label_names)
            scores = self.scores(model_inputs(tokens))
            if self.problem == "single_label_classification":
                return {"labels": tf.gather(names, tf.argmax(scores, 1)), "scores": scores}
            if self.problem == "regression":
                return {"scores": scores}
            names = tf.tile(names[None], [tf.shape(scores)[0], 1])
            return {"labels": tf.ragged.boolean_mask(names, scores > 0.5).to_tensor(), "scores": scores}

        def classify(texts):
            """The label of each text, and the score of every label; a text that is too long is truncated."""
            return labels_and_scores(self.tf_tokenize(texts, truncate=True))

        def classify_pairs(texts, pairs):
            """The label of each pair of texts, and the score of every label."""
            return labels_and_scores(self.tf_tokenize(texts, pairs, truncate=True))

        both = [Text("texts"), Text("pairs")]
        return {"classify": Endpoint(classify, both[:1]), "classify_pairs": Endpoint(classify_pairs, both)}


class FillMask:
    """Pipeline of masked language modelling: texts with [MASK] -> the most probable words."""

    def mask_probabilities(self, tokens):
        """Tokens with `masked_positions` (b, k) -> p of every word of the vocabulary at those (b, k, v)."""
        logits = self(tokens, training=False)
        p = ops.softmax(logits["prediction_logits"] if isinstance(logits, dict) else logits)
        return p[..., : len(self.vocabulary)]

    def fill_mask(self, texts, top_k=5):
        """For each text, for each [MASK] in it, the `top_k` most probable tokens, [(token, p), ...].

        `UserError` for a text without [MASK].
        """
        self.check("fill_mask", top_k=top_k)

        def masked_positions(tokens):
            masked = tokens["input_ids"] == self.tokenizer.mask
            if not masked.any(1).all():
                raise UserError("every text needs a [MASK]")
            order = np.argsort(~masked, axis=1, kind="stable")
            return {"masked_positions": order[:, : masked.sum(1).max()].astype("int32")}

        filled = []
        for tokens, p in self.tokenize_and_call("mask_probabilities", texts, extra_inputs=masked_positions):
            count = np.sum(tokens["input_ids"] == self.tokenizer.mask)
            best = np.argsort(-p[:count], axis=-1, kind="stable")[:, :top_k]
            filled.append([[(self.vocabulary[i], float(row[i])) for i in ids] for ids, row in zip(best, p)])
        return filled

    def endpoints(self):
        def fill_mask(texts, top_k):
            """The most probable tokens for each [MASK] of each text, and their probabilities; "" for no [MASK]."""
            import tensorflow as tf

            tokens = self.tf_tokenize(texts)
            masked = tokens["input_ids"] == self.tokenizer.mask
            counts = tf.reduce_sum(tf.cast(masked, tf.int32), axis=1)
            counts = asserted(tf.reduce_all(counts > 0), "every text needs a [MASK]", counts)
            most = tf.reduce_max(tf.concat([counts, [1]], 0))
            positions = tf.argsort(tf.cast(~masked, tf.int32), axis=1, stable=True)[:, :most]
            inputs = model_inputs(tokens) | {"masked_positions": positions}
            p, ids = tf.math.top_k(self.mask_probabilities(inputs), top_k)
            real = tf.sequence_mask(counts, most)[..., None]
            return {
                "tokens": tf.where(real, tf.gather(tf.constant(self.vocabulary), ids), ""),
                "scores": tf.where(real, p, 0.0),
            }

        top_k = Int("top_k", 1, max(len(self.vocabulary), 1), default=5, hint="it is at most the vocabulary")
        return {"fill_mask": Endpoint(fill_mask, [Text("texts"), top_k])}


class QuestionAnswering:
    """Pipeline of extractive question answering: questions and contexts -> a span of the context.

    A head has `unanswerable` and `null_threshold`; see `bert_heads.BertForQuestionAnswering`.
    """

    def best_spans(self, tokens):
        """Tokens -> first and last token of the best answer (b,), its p(first) p(last) (b,), and that of [CLS].

        [CLS], the span of no answer, takes part in the softmax.
        """
        logits, t = self(tokens, training=False), ops.shape(tokens["input_ids"])[1]
        last = ops.sum(tokens["attention_mask"], axis=1, keepdims=True) - 1  # the last [SEP]
        in_context = ops.logical_and(tokens["token_type_ids"] == 1, ops.arange(t) < last)
        possible = ops.logical_or(in_context, ops.arange(t) == 0)
        log_p = [
            ops.log_softmax(ops.where(possible, logits[name], MASK_VALUE), axis=-1)
            for name in ("start_logits", "end_logits")
        ]
        no_answer = ops.exp(log_p[0][:, 0] + log_p[1][:, 0])
        start, end = (ops.where(in_context, x, MASK_VALUE) for x in log_p)
        length = ops.arange(t) - ops.arange(t)[:, None]  # of the span, less 1
        scores = start[:, :, None] + end[:, None]
        scores = ops.where(ops.logical_and(length >= 0, length < MAX_ANSWER_LENGTH), scores, -float("inf"))
        scores = ops.reshape(scores, (-1, t * t))
        best = ops.cast(ops.argmax(scores, axis=-1), "int32")
        return best // t, best % t, ops.exp(ops.max(scores, axis=-1)), no_answer

    def answer(self, questions, contexts):
        """Questions and contexts -> [(answer, p), ...]; an answer has 30 tokens at most.

        A context that is too long is read in overlapping windows, and the most probable answer of all is taken. A
        question is truncated to half of the tokens that fit. Of an `unanswerable` model an answer is "", with the p of
        [CLS], where the null score is `null_threshold` or more; see `best_answers`.
        """
        found = self.best_answers(questions, contexts)
        if not self.unanswerable:
            return [(text, p) for text, p, _ in found]
        return [("", none) if none >= p * self.null_odds else (text, p) for text, p, none in found]

    @property
    def null_odds(self):
        """p of none by p of an answer from which on there is none, as far as float32 goes."""
        return float(np.exp(np.clip(self.null_threshold, -80, 80)))

    def best_answers(self, questions, contexts):
        """Questions and contexts -> [(answer, p, p of none), ...], whether or not there may be none.

        p of none is the least p of [CLS] in any window. log(p of none / p) is the null score (Devlin et al., 2018,
        section 4.3), of probabilities within each window instead of logits.
        """
        check_lists(questions, contexts)
        best, no_answer = [("", 0.0)] * len(questions), np.ones(len(questions))
        for i in range(0, len(questions), TOKENIZER_CHUNK):
            chunk = slice(i, i + TOKENIZER_CHUNK)
            windows = self.tokenizer.windows(questions[chunk], contexts[chunk], self.max_length, self.doc_stride)
            examples = i + windows.pop("overflow_to_sample_mapping")
            for example, (tokens, span) in zip(examples, self.call_in_batches("best_spans", windows)):
                first, last, p, p_no_answer = span
                no_answer[example] = min(no_answer[example], p_no_answer)
                if p > best[example][1]:
                    context, start = contexts[example], tokens["offsets"][first, 0]
                    best[example] = context[start : with_marks(context, tokens["offsets"][last, 1])], float(p)
        return [(text, p, float(none)) for (text, p), none in zip(best, no_answer)]

    def endpoints(self):
        def answer(questions, contexts):
            """The span of each context that answers the question, its probability, and its first and last offset."""
            import tensorflow as tf

            tokens = self.tokenizer.tf_windows(questions, contexts, self.max_length, self.doc_stride)
            examples, count = tokens.pop("overflow_to_sample_mapping"), tf.size(questions)
            tokens = pad_empty(tokens)
            dtypes = tf.int32, tf.int32, tf.float32, tf.float32
            first, last, p, p_no_answer = self.tf_call_in_batches(self.best_spans, tokens, dtypes)
            best = tf.math.unsorted_segment_max(p, examples, count)
            no_answer = tf.math.unsorted_segment_min(p_no_answer, examples, count)
            windows = tf.where(tf.equal(p, tf.gather(best, examples)), tf.range(tf.size(p)), tf.size(p))
            window = tf.math.unsorted_segment_min(windows, examples, count)  # the first of the best
            offsets = tf.gather(tokens["offsets"], window)
            start = tf.gather(offsets[..., 0], tf.gather(first, window), batch_dims=1)
            end = tf.gather(offsets[..., 1], tf.gather(last, window), batch_dims=1)
            end = tf_with_marks(contexts, end)
            answered = no_answer < best * self.null_odds if self.unanswerable else best > 0.0
            start, end = (tf.where(answered, offset, 0) for offset in (start, end))
            text = tf.strings.substr(contexts, start, end - start, unit="UTF8_CHAR")
            scores = tf.where(answered, best, no_answer if self.unanswerable else 0.0)
            return {"answers": text, "scores": scores, "starts": start, "ends": end}

        return {"answer": Endpoint(answer, [Text("questions"), Text("contexts")])}


class TokenClassification:
    """Pipeline of token classification: texts -> a label for each word."""

    def label_ids(self, tokens):
        """Tokens -> the most probable label of each (b, t), and its p."""
        p = ops.softmax(self(tokens, training=False))
        return ops.cast(ops.argmax(p, axis=-1), "int32"), ops.max(p, axis=-1)

    def tag(self, texts):
        """Texts -> for each text [(word, label, p), ...]; a word has the label of its first piece.

        A text that is too long is read in overlapping windows, and each word labelled where it has more context.
        """
        check_lists(texts)
        pieces = [[] for _ in texts]  # of each text (word, start, end, label, p)
        for i in range(0, len(texts), TOKENIZER_CHUNK):
            windows = self.tokenizer.text_windows(texts[i : i + TOKENIZER_CHUNK], self.max_length, self.doc_stride)
            samples = i + windows.pop("overflow_to_sample_mapping")
            for sample, (tokens, (labels, p)) in zip(samples, self.call_in_batches("label_ids", windows)):
                columns = np.flatnonzero((tokens["is_owned"] > 0) & (tokens["word_ids"] >= 0))
                arrays = tokens["word_ids"], *tokens["offsets"].T, labels, p
                pieces[sample] += zip(*(x[columns].tolist() for x in arrays))
        return [self._tagged_words(text, some) for text, some in zip(texts, pieces)]

    def _tagged_words(self, text, pieces):
        tagged = []
        for _, some in itertools.groupby(pieces, key=operator.itemgetter(0)):
            (_, start, end, label, p), *rest = some
            end = with_marks(text, rest[-1][2] if rest else end)
            tagged.append((text[start:end], self.label_names[label], p))
        return tagged

    def endpoints(self):
        def tag(texts):
            """The words of each text, their labels and probabilities; "" after the last word."""
            import tensorflow as tf

            tokens = self.tokenizer.tf_text_windows(texts, self.max_length, self.doc_stride)
            row, tokens = tokens.pop("overflow_to_sample_mapping"), pad_empty(tokens)
            ids, p = self.tf_call_in_batches(self.label_ids, tokens, (tf.int32, tf.float32))
            kept = (tokens["is_owned"] > 0) & (tokens["word_ids"] >= 0)
            row = tf.gather(row, tf.where(kept)[:, 0])
            word, offsets, ids, p = (tf.boolean_mask(x, kept) for x in (tokens["word_ids"], tokens["offsets"], ids, p))
            begins = (word[1:] != word[:-1]) | (row[1:] != row[:-1])
            first, final = (tf.concat(parts, 0)[: tf.size(word)] for parts in ([[True], begins], [begins, [True]]))
            start, end = (tf.boolean_mask(offsets[:, i], part) for i, part in enumerate((first, final)))
            row = tf.boolean_mask(row, first)
            texts_of_words = tf.gather(texts, row)
            size = tf_with_marks(texts_of_words, end) - start
            text = tf.strings.substr(texts_of_words, start, size, unit="UTF8_CHAR")
            names = tf.gather(tf.constant(self.label_names), tf.boolean_mask(ids, first))
            columns = {"words": text, "labels": names, "scores": tf.boolean_mask(p, first)}
            rows = tf.shape(texts)[0]
            return {name: tf.RaggedTensor.from_value_rowids(x, row, rows).to_tensor() for name, x in columns.items()}

        return {"tag": Endpoint(tag, [Text("texts")])}


class ReplacedTokenDetection:
    """Pipeline of replaced token detection: texts -> p for each token that it was replaced."""

    def replaced_probabilities(self, tokens):
        """Tokens -> p (b, t) that each was replaced."""
        return ops.sigmoid(self(tokens, training=False))

    def detect_replaced(self, texts):
        """Texts -> for each text [(token, p), ...] without special tokens."""
        results = []
        for tokens, p in self.tokenize_and_call("replaced_probabilities", texts):
            columns = zip(tokens["input_ids"], tokens["word_ids"], p)
            results.append([(self.vocabulary[i], float(x)) for i, word, x in columns if word >= 0])
        return results

    def endpoints(self):
        def detect_replaced(texts):
            """The tokens of each text and p that each was replaced; "" and 0 for special tokens and padding."""
            import tensorflow as tf

            tokens = self.tf_tokenize(texts)
            in_text = tokens["word_ids"] >= 0
            names = tf.gather(tf.constant(self.vocabulary), tokens["input_ids"])
            p = self.replaced_probabilities(model_inputs(tokens))
            return {"tokens": tf.where(in_text, names, ""), "scores": tf.where(in_text, p, 0.0)}

        return {"detect_replaced": Endpoint(detect_replaced, [Text("texts")])}


class Embedding:
    """Pipeline of text embeddings: texts -> vectors."""

    def vectors(self, tokens):
        """Tokens -> a vector of each text (b, d)."""
        return self(tokens, training=False)

    def embed(self, texts):
        """Texts, truncated to the model's length -> vectors (b, d)."""
        vectors = [vector for _, vector in self.tokenize_and_call("vectors", texts, truncate=True)]
        return np.reshape(np.float32(vectors), (-1, self.backbone.config.hidden_size))  # also of no texts

    def endpoints(self):
        def embed(texts):
            """A vector for each text; a text that is too long is truncated."""
            return {"embeddings": self.vectors(model_inputs(self.tf_tokenize(texts, truncate=True)))}

        return {"embed": Endpoint(embed, [Text("texts")])}
