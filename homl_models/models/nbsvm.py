"""NBSVM: a linear classifier of words and pairs of words that begins with naive Bayes (Wang & Manning, 2012, Baselines
and Bigrams, https://aclanthology.org/P12-2018).

Each n-gram g that a text has counts by its log-count ratio r_g, fixed, times a weight w_g, trained:
logit = sum over g in the text of r_g w_g, plus b. Recipe: `sentiment_ngrams`.
Shapes: b batch, t n-grams, v vocabulary, m logits (1 for two labels, or one for each).

Deviations from the paper: cross-entropy instead of the squared hinge loss, so that scores are probabilities; no
interpolation of the weights with their mean.
"""

import functools

import keras
import numpy as np
from keras import ops

from homl_models.models.text_classifier import TextClassifier
from homl_models.tokenizers.classification import Ngrams


@keras.saving.register_keras_serializable("homl_models")
class NBSVM(TextClassifier):
    """Linear classifier of n-grams: ids (b, t), each once, padded with 0 -> logits (b,), or (b, m) for m > 2 labels.

    Args:
        vocabulary: n-grams, "" and "[UNK]" first; see `TextClassifier`.
        label_names: see `TextClassifier`.
        n: words of the longest n-gram.
        l2: factor of the sum of w^2 in the loss.
    """

    def __init__(self, vocabulary, label_names=("negative", "positive"), n=2, l2=1e-3, **kwargs):
        self.n = n
        super().__init__(vocabulary, label_names, **kwargs)
        self.l2 = l2

    @functools.cached_property
    def tokenizer(self):
        return Ngrams(self.vocabulary, self.n)

    def build(self, input_shape=None):
        shape = len(self.vocabulary), self.num_logits
        self.ratios = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="ratios")
        self.weight = self.add_weight(shape=shape, initializer="zeros", name="weight")
        self.bias = self.add_weight(shape=shape[1:], initializer="zeros", name="bias")
        self.built = True

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_logits)[: self.num_logits]

    def contributions(self):
        """r w (v, m): what each n-gram adds to each logit."""
        real = ops.arange(len(self.vocabulary))[:, None] >= len(self.tokenizer.special)
        return ops.where(real, self.ratios * self.weight, 0.0)

    def call(self, ids, training=None):
        return self.as_logits(ops.sum(ops.take(self.contributions(), ids, axis=0), axis=1) + self.bias)

    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs) + self.l2 * ops.sum(ops.square(self.weight))

    def strongest(self, k=10):
        """For each label the k n-grams that speak for it most: {label: [(n-gram, r w), ...]}."""
        scores = ops.convert_to_numpy(self.contributions())
        scores = np.concatenate([-scores, scores], axis=1) if self.num_logits == 1 else scores
        order = np.argsort(-scores, axis=0, kind="stable")[:k].T
        return {
            name: [(self.vocabulary[i], float(column[i])) for i in best]
            for name, best, column in zip(self.label_names, order, scores.T)
        }


def log_count_ratios(ids, ends, labels, size, num_logits):
    """r = log of (p / |p|) / (q / |q|), (size, m): p and q are 1 + counts of texts with and without the label.

    ids (m,), ends (n + 1,): distinct n-grams of each text, see `tokenizers.classification.encode`. labels (n,).
    With one logit the label is 1.
    """
    of_ids = np.repeat(np.asarray(labels), np.diff(ends))
    columns = []
    for label in [1] if num_logits == 1 else range(num_logits):
        p, q = (1.0 + np.bincount(ids[some], minlength=size) for some in (of_ids == label, of_ids != label))
        columns.append(np.log(p / p.sum()) - np.log(q / q.sum()))
    return np.stack(columns, axis=1)
