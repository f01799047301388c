"""What generated things are worth."""

import sys

import numpy as np


def translation(translations, references):
    """BLEU and chrF in percent, by sacrebleu: {"bleu": ..., "chrf": ...}; prints its signatures on stderr."""
    from sacrebleu.metrics import BLEU, CHRF

    translations, references, scores = list(translations), list(references), {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        scores[name] = metric.corpus_score(translations, [references]).score
        print(f"{name}|{metric.get_signature()}", file=sys.stderr)
    return scores


# Generation: features (n, d) of real and of generated things, in double precision.


def generation(real, fake, probabilities):
    """All of the measures below by name, of features `real` and `fake`, and of p(y | x) of the fake."""
    return {
        "frechet": frechet_distance(real, fake),
        "kernel": kernel_distance(real, fake),
        **neighbourhoods(real, fake),
        "classifier_score": classifier_score(probabilities),
    }


def frechet_distance(real, fake):
    """Squared Fréchet distance of two normal distributions with the moments of the features (Heusel et al., 2017).

    |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), https://arxiv.org/abs/1706.08500, section 4. It shrinks as the
    numbers of features grow: compare figures from the same numbers only.
    """
    (mean_1, root_1), (mean_2, root_2) = map(_moments, (real, fake))
    overlap = np.linalg.svd(root_1 @ root_2.T, compute_uv=False).sum()  # trace((C1 C2)^(1/2)) with Ci = root_i^T root_i
    return float(np.square(mean_1 - mean_2).sum() + np.square(root_1).sum() + np.square(root_2).sum() - 2 * overlap)


def _moments(features):
    """Mean (d,) and a root (d, d) of the covariance of features (n, d): covariance = root^T root."""
    features = np.asarray(features, np.float64)
    mean = features.mean(0)
    return mean, np.linalg.qr(features - mean, mode="r") / np.sqrt(len(features) - 1)


def kernel_distance(real, fake):
    """Squared maximum mean discrepancy with the kernel (x . y / d + 1)^3, unbiased: KID (Bińkowski et al., 2018).

    https://arxiv.org/abs/1801.01401. Around 0 for features of one distribution, below 0 as well.
    """
    real, fake = (np.asarray(x, np.float64) for x in (real, fake))

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):
        total = sum(kernel(part, a).sum() for part in _blocks(a))
        return (total - ((np.square(a).sum(1) / a.shape[1] + 1) ** 3).sum()) / (len(a) * (len(a) - 1))

    between = sum(kernel(part, fake).sum() for part in _blocks(real)) / (len(real) * len(fake))
    return float(within(real) + within(fake) - 2 * between)


def neighbourhoods(real, fake, k=5):
    """{"precision", "recall", "density", "coverage"}: whether fakes lie among the real, and the real among fakes.

    Among: nearer to one of the others than its k-th neighbour of its own kind is. precision, the share of fakes
    that do, and recall, the share of the real (Kynkäänniemi et al., 2019, https://arxiv.org/abs/1904.06991);
    density, in how many neighbourhoods of the real a fake lies, over k; coverage, the share of the real with a fake
    in their neighbourhood (Naeem et al., 2020, https://arxiv.org/abs/2002.09797).
    """
    real, fake = (np.asarray(x, np.float64) for x in (real, fake))

    def reach(x):  # the distance 0 to itself comes first
        return np.concatenate([np.partition(_distances(part, x), k, axis=1)[:, k] for part in _blocks(x)])

    reach_real, reach_fake = reach(real), reach(fake)
    inside = np.zeros(len(fake), int)
    recalled, covered = [], []
    for part, own in zip(_blocks(real), _blocks(reach_real)):
        distances = _distances(part, fake)
        inside += (distances < own[:, None]).sum(0)
        recalled.append((distances < reach_fake).any(1))
        covered.append(distances.min(1) < own)
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


def classifier_score(probabilities):
    """exp of the mean divergence of p(y | x) (n, classes) from their mean: 1 to the number of classes.

    The "inception score" of Salimans et al., 2016 (https://arxiv.org/abs/1606.03498), for any classifier.
    """
    p = np.clip(np.asarray(probabilities, np.float64), 1e-12, 1)
    return float(np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean()))


def class_shares(probabilities):
    """The share (classes,) of things that a classifier takes for each class, by p(y | x) (n, classes)."""
    p = np.asarray(probabilities)
    return np.bincount(p.argmax(1), minlength=p.shape[1]) / len(p)
