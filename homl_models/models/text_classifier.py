"""Base class of classifiers of texts that are trained from scratch, with a vocabulary of their own.

Shapes: b texts, t tokens, n labels.
"""

import functools

import numpy as np
from keras import ops

from homl_models.base import compiled
from homl_models.endpoints import Endpoint, Text
from homl_models.errors import UserError
from homl_models.models.scoring import SupervisedModel, binary_cross_entropy
from homl_models.models.text_model import check_lists
from homl_models.tokenizers import classification

BATCH_SIZE = 64  # texts in a forward pass
TOKENIZERS = {"words": classification.Words, "characters": classification.Characters}


class TextClassifier(SupervisedModel):
    """Ids (b, t) of tokens, padded at the right with 0 -> a logit (b,) of the second of two labels, or logits (b, n).

    Labels of training are whole numbers (b,); those of -100 are ignored.

    Args:
        vocabulary: tokens, "" and "[UNK]" first; the id of a token is its position.
        label_names: names of the labels, two or more.
    """

    def __init__(self, vocabulary, label_names=("negative", "positive"), **kwargs):
        super().__init__(**kwargs)
        self.vocabulary, self.label_names = tuple(vocabulary), tuple(label_names)
        if len(set(self.label_names)) != len(self.label_names) or len(self.label_names) < 2:
            raise UserError(f"a classifier needs two label_names or more, and each once, not {self.label_names}")
        self.num_classes = len(self.label_names)
        self.tokenizer  # noqa: B018, checks the vocabulary

    @property
    def num_logits(self):
        return 1 if self.num_classes == 2 else self.num_classes

    def as_logits(self, x):
        """Outputs (b, 1) or (b, n) of the last layer -> float32 logits, (b,) for two labels."""
        x = ops.cast(x, "float32")
        return x[:, 0] if self.num_logits == 1 else x

    def loss_and_metric(self, labels, logits, sample_weight=None):
        if self.num_logits == 1:
            return binary_cross_entropy(labels, logits, sample_weight)
        return super().loss_and_metric(labels, logits, sample_weight)

    def scores(self, ids):
        """Ids (b, t) -> p of each label (b, n)."""
        logits = self(ids, training=False)
        if self.num_logits == 1:
            return ops.stack([ops.sigmoid(-logits), ops.sigmoid(logits)], axis=-1)
        return ops.softmax(logits)

    # Strings.

    @functools.cached_property
    def _compiled_scores(self):
        return compiled(self.scores, False, [((None, None), "int32")])  # XLA would compile each length anew

    def classify(self, texts):
        """Texts -> labels, a list of the most probable ones, and p of each label (b, n)."""
        check_lists(texts)
        ids, ends = classification.encode(list(texts), self.tokenizer)
        lengths, scores = np.diff(ends), np.zeros((len(texts), self.num_classes), np.float32)
        order = np.argsort(lengths, kind="stable")
        for i in range(0, len(order), BATCH_SIZE):
            rows = order[i : i + BATCH_SIZE]
            batch = np.zeros((len(rows), max(1, lengths[rows[-1]])), np.int32)
            for row, index in zip(batch, rows):
                row[: lengths[index]] = ids[ends[index] : ends[index + 1]]
            scores[rows] = ops.convert_to_numpy(self._compiled_scores(ops.convert_to_tensor(batch)))
        return [self.label_names[i] for i in scores.argmax(1)], scores

    def endpoints(self):
        def classify(texts):
            """The label of each text, and the score of every label."""
            import tensorflow as tf

            ids = self.tokenizer.encode(texts).to_tensor()
            ids = tf.pad(ids, [[0, 0], [0, tf.cast(tf.shape(ids)[1] == 0, tf.int32)]])  # at least one column
            scores = self.scores(ids)
            return {"labels": tf.gather(tf.constant(self.label_names), tf.argmax(scores, 1)), "scores": scores}

        doc = f"The label of each text, and the score of every label: {', '.join(self.label_names)}."
        return {"classify": Endpoint(classify, [Text("texts")], doc=doc)}
