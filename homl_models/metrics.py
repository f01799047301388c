"""Metrics: token accuracy, PSNR, codebook usage, translation, tagging, question answering, generated images."""

import collections
import re
import string
import sys

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("homl_models")
class TokenAccuracy(keras.metrics.Mean):
    """Accuracy of ids (b, t) by logits (b, t, v), over all tokens that are not `ignore_class`.

    It replaces Keras' `accuracy` for sequences, which averages over sentences, not over tokens: a token of a short
    sentence counts more there. It may go when Keras' metric can ignore a class and weights tokens equally.

    Args:
        ignore_class: id of padding.
    """

    def __init__(self, ignore_class=0, name="accuracy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.ignore_class = ignore_class

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true = ops.cast(y_true, "int32")
        best = ops.top_k(y_pred, 1)[1][..., 0]  # XLA computes argmax number by number
        hits = ops.cast(ops.equal(best, y_true), "float32")
        weights = ops.cast(ops.not_equal(y_true, self.ignore_class), "float32")
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, "float32")
            weights = weights * ops.reshape(sample_weight, (*sample_weight.shape, 1)[:2])
        super().update_state(ops.reshape(hits, (-1,)), ops.reshape(weights, (-1,)))

    def get_config(self):
        return {**super().get_config(), "ignore_class": self.ignore_class}


@keras.saving.register_keras_serializable("homl_models")
class PSNR(keras.metrics.Mean):
    """Peak signal-to-noise ratio in dB, the mean over images (b, h, w, c), clipped to [0, 1]."""

    def __init__(self, name="psnr", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        error = ops.cast(y_true, "float32") - ops.clip(ops.cast(y_pred, "float32"), 0, 1)
        mse = ops.maximum(ops.mean(ops.square(error), axis=(1, 2, 3)), 1e-10)  # 100 dB at most
        super().update_state(-10 * ops.log10(mse), sample_weight)


@keras.saving.register_keras_serializable("homl_models")
class CodebookUsage(keras.metrics.Metric):
    """Codes of a codebook in use: {"codebook_usage": fraction of all codes, "perplexity": 1 to `vocab_size`}.

    The perplexity is exp(-sum p ln p) of the frequencies p of the codes. Tokens (...) are whole numbers.

    Args:
        vocab_size: number of codes.
    """

    def __init__(self, vocab_size, name="codebook", **kwargs):
        super().__init__(name=name, **kwargs)
        self.vocab_size = vocab_size
        self.counts = self.add_variable(shape=(vocab_size,), initializer="zeros", name="counts")

    def update_state(self, tokens, sample_weight=None):
        tokens = ops.reshape(tokens, (-1,))
        ones = ops.ones_like(tokens, dtype="float32")
        self.counts.assign_add(ops.segment_sum(ones, tokens, num_segments=self.vocab_size))

    def result(self):
        p = self.counts / ops.maximum(ops.sum(self.counts), 1.0)
        entropy = -ops.sum(p * ops.log(ops.maximum(p, 1e-30)))
        used = ops.mean(ops.cast(self.counts > 0, "float32"))
        return {"codebook_usage": used, "perplexity": ops.exp(entropy)}

    def get_config(self):
        return {**super().get_config(), "vocab_size": self.vocab_size}


def translation(translations, references):
    """BLEU and chrF in percent, by sacrebleu: {"bleu": ..., "chrf": ...}; prints its signatures on stderr.

    BLEU counts words, or, of references that are written without spaces, characters, and says so.
    """
    from sacrebleu.metrics import BLEU, CHRF

    translations, references, scores = list(translations), list(references), {}
    tokenizer = bleu_tokenizer(references)
    if tokenizer != "13a":
        how = f"BLEU counts characters (sacrebleu's tokenizer {tokenizer!r})"
        print(f"the references are written without spaces between words: {how}", file=sys.stderr)
    for name, metric in (("bleu", BLEU(tokenize=tokenizer)), ("chrf", CHRF())):
        scores[name] = metric.corpus_score(translations, [references]).score
        print(f"{name}|{metric.get_signature()}", file=sys.stderr)
    return scores


# Letters of scripts that are written without spaces between words.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\U00020000-\U0003ffff]"
)


def bleu_tokenizer(references):
    """sacrebleu's tokenizer for references: "13a", its default; "zh" for Chinese; "char" for others without spaces."""
    text = "\n".join(references)
    unspaced = "".join(UNSPACED.findall(text))
    if 2 * len(unspaced) > sum(map(str.isalpha, text)):
        chinese = sum("\u3400" <= letter <= "\u9fff" or letter >= "\uf900" for letter in unspaced)
        return "zh" if chinese == len(unspaced) else "char"
    alone = references and not any(" " in reference.strip() for reference in references)
    return "char" if alone else "13a"


# Tags and answers.


# Tagging schemes: B begins an entity, I or M continues it, E or L is its last word, S, U or W its only one.
SCHEME = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}


def entities(labels):
    """Entities of a sequence of labels: {(type, start, end)}, the end exclusive.

    Labels of IOB1, IOB2 (BIO), IOE, BIOES (IOBES), BILOU and BMEWO: B-X and S-X begin an entity of type X; I-X and E-X
    continue one, or begin one where there is none of that type; E-X and S-X end it, as "O", a beginning and another
    type do. As in the evaluation of CoNLL-2000, no entity is dropped for a missing beginning or end. A run of equal
    labels without these prefixes is one entity.
    """
    found, kind, first = set(), None, 0
    for i, label in enumerate([*labels, "O"]):
        part, name = (SCHEME[label[0]], label[2:]) if label[1:2] == "-" and label[0] in SCHEME else ("I", label)
        if kind is not None and (part in "BS" or name != kind):
            found.add((kind, first, i))
            kind = None
        if kind is None and label != "O":
            kind, first = name, i
        if part in "ES":
            found.add((kind, first, i + 1))
            kind = None
    return found


def tagging(sentences, references):
    """{"accuracy"} of words and {"precision", "recall", "f1"} of whole entities, for lists of lists of labels."""
    pairs = [
        pair for found, wanted in zip(sentences, references, strict=True) for pair in zip(found, wanted, strict=True)
    ]
    both = [
        {(i, *entity) for i, labels in enumerate(side) for entity in entities(labels)}
        for side in (sentences, references)
    ]
    right = len(both[0] & both[1])
    precision, recall = (right / max(1, len(side)) for side in both)
    f1 = 2 * precision * recall / max(1e-12, precision + recall)
    return {"accuracy": sum(a == b for a, b in pairs) / len(pairs), "precision": precision, "recall": recall, "f1": f1}


def answering(answers, references):
    """SQuAD's exact match and F1 of words, {"exact", "f1"}, of answers against lists of right answers.

    The list is [] for a question without answer, whose right answer is "". With questions of both kinds, also of each
    kind alone, as "has_answer_exact", "has_answer_f1", "no_answer_exact" and "no_answer_f1". Texts are compared without
    case, punctuation and articles (https://arxiv.org/abs/1606.05250, section 6.1, and
    https://arxiv.org/abs/1806.03822). Right answers that consist of articles alone are left out.
    """
    exact, overlap, there = [], [], []
    for answer, right in zip(answers, references, strict=True):
        found = _plain_words(answer)
        wanted = [words for words in map(_plain_words, right) if words] or [[]]
        exact.append(max(found == words for words in wanted))
        overlap.append(max(_overlap(found, words) for words in wanted))
        there.append(bool(right))
    found = {"exact": sum(exact) / len(exact), "f1": sum(overlap) / len(overlap)}
    if any(there) and not all(there):
        for prefix, kind in (("has_answer", True), ("no_answer", False)):
            for name, values in (("exact", exact), ("f1", overlap)):
                found[f"{prefix}_{name}"] = sum(x for x, h in zip(values, there) if h == kind) / there.count(kind)
    return found


def best_null_threshold(null_scores, answers, references):
    """The threshold of null scores (n,), at or above which the answer is "", that gives the greatest F1.

    answers, references: see `answering`. It lies halfway between two scores, as in the search of SQuAD's script
    (https://arxiv.org/abs/1806.03822), which begins with no answer to any question, and takes the least scores first.
    """
    f1 = [answering([answer], [right])["f1"] for answer, right in zip(answers, references, strict=True)]
    none = [answering([""], [right])["f1"] for right in references]
    scores, order = np.sort(null_scores), np.argsort(null_scores, kind="stable")
    gains = np.append(0, np.cumsum(np.subtract(f1, none)[order]))  # of answers to the first 0, 1, ..., n
    edges = np.concatenate([scores[:1] - 1, (scores[1:] + scores[:-1]) / 2, scores[-1:] + 1])
    possible = np.concatenate([[True], scores[1:] > scores[:-1], [True]])
    return float(edges[np.where(possible, gains, -np.inf).argmax()])


def _plain_words(text):
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def _overlap(a, b):
    """F1 of the words of two texts; 1 for two texts without words, 0 for one."""
    if not a or not b:
        return float(a == b)
    common = (collections.Counter(a) & collections.Counter(b)).total()
    return 2 * common / (len(a) + len(b))


# Generated images, by features (n, d) of real and of generated images, in double precision.


def generation_metrics(real, fake, probabilities):
    """The metrics below by name, of features `real` and `fake` (n, d), and of p(y | x) (n, classes) of the fake."""
    return {
        "frechet_distance": frechet_distance(real, fake),
        "kid": kid(real, fake),
        **prdc(real, fake),
        "inception_score": inception_score(probabilities),
    }


def frechet_distance(real, fake):
    """Squared Fréchet distance of two normal distributions with the moments of the features (Heusel et al., 2017).

    |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), https://arxiv.org/abs/1706.08500, section 4: the FID, for
    features of any network. It shrinks as the number of images grows: compare figures from the same numbers only.
    """
    (mean_1, root_1), (mean_2, root_2) = map(_moments, (real, fake))
    overlap = np.linalg.svd(root_1 @ root_2.T, compute_uv=False).sum()  # trace((C1 C2)^(1/2)) with Ci = root_i^T root_i
    return float(np.square(mean_1 - mean_2).sum() + np.square(root_1).sum() + np.square(root_2).sum() - 2 * overlap)


def _moments(features):
    """Mean (d,) and a root (d, d) of the covariance of features (n, d): covariance = root^T root."""
    features = np.asarray(features, np.float64)
    mean = features.mean(0)
    return mean, np.linalg.qr(features - mean, mode="r") / np.sqrt(len(features) - 1)


def kid(real, fake):
    """Kernel inception distance (Bińkowski et al., 2018, https://arxiv.org/abs/1801.01401).

    The squared maximum mean discrepancy with the kernel (x . y / d + 1)^3, unbiased, for features of any network:
    around 0, also below, for features of one distribution.
    """
    real, fake = (np.asarray(x, np.float64) for x in (real, fake))

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):
        total = sum(kernel(part, a).sum() for part in _blocks(a))
        return (total - ((np.square(a).sum(1) / a.shape[1] + 1) ** 3).sum()) / (len(a) * (len(a) - 1))

    between = sum(kernel(part, fake).sum() for part in _blocks(real)) / (len(real) * len(fake))
    return float(within(real) + within(fake) - 2 * between)


def prdc(real, fake, k=5):
    """Precision, recall, density and coverage: {"precision", "recall", "density", "coverage"}.

    The neighbourhood of a point is the ball to its k-th nearest neighbour in its own set. precision: fraction of fake
    points in a neighbourhood of a real one; recall: fraction of real points in a neighbourhood of a fake one
    (Kynkäänniemi et al., 2019, https://arxiv.org/abs/1904.06991); density: mean number of real neighbourhoods that a
    fake point lies in, over k; coverage: fraction of real points with a fake one in their neighbourhood (Naeem et al.,
    2020, https://arxiv.org/abs/2002.09797).
    """
    real, fake = (np.asarray(x, np.float64) for x in (real, fake))

    def radii(x):  # the distance 0 to itself comes first
        return np.concatenate([np.partition(_distances(part, x), k, axis=1)[:, k] for part in _blocks(x)])

    real_radii, fake_radii = radii(real), radii(fake)
    inside = np.zeros(len(fake), int)
    recalled, covered = [], []
    for part, radius in zip(_blocks(real), _blocks(real_radii)):
        distances = _distances(part, fake)
        inside += (distances < radius[:, None]).sum(0)
        recalled.append((distances < fake_radii).any(1))
        covered.append(distances.min(1) < radius)
    recall, coverage = (float(np.concatenate(found).mean()) for found in (recalled, covered))
    return {
        "precision": float((inside > 0).mean()),
        "recall": recall,
        "density": float(inside.mean() / k),
        "coverage": coverage,
    }


def _blocks(x, size=1000):
    return (x[i : i + size] for i in range(0, len(x), size))


def _distances(a, b):
    """Squared distances (n, m) between the rows of a and b."""
    return np.maximum(np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T, 0)


def inception_score(probabilities):
    """Inception score (Salimans et al., 2016, https://arxiv.org/abs/1606.03498), for any classifier.

    exp of the mean KL divergence of p(y | x) (n, classes) from their mean: between 1 and the number of classes.
    """
    p = np.clip(np.asarray(probabilities, np.float64), 1e-12, 1)
    return float(np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()))


def class_fractions(probabilities):
    """Fraction (classes,) of images that are predicted as each class, by p(y | x) (n, classes)."""
    p = np.asarray(probabilities)
    return np.bincount(p.argmax(1), minlength=p.shape[1]) / len(p)
