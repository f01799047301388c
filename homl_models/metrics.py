"""What generated things are worth."""

import sys


def translation(translations, references):
    """BLEU and chrF in percent, by sacrebleu: {"bleu": ..., "chrf": ...}; prints its signatures on stderr."""
    from sacrebleu.metrics import BLEU, CHRF

    translations, references, scores = list(translations), list(references), {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        scores[name] = metric.corpus_score(translations, [references]).score
        print(f"{name}|{metric.get_signature()}", file=sys.stderr)
    return scores
