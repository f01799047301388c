"""What generated things are worth."""

import sys


def translation(translations, references):
    """BLEU and chrF in percent, by sacrebleu: {"bleu": ..., "chrf": ...}; prints its signatures on stderr."""
    from sacrebleu.metrics import BLEU, CHRF

    scores = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        scores[name] = metric.corpus_score(list(translations), [list(references)]).score
        print(f"{name}|{metric.get_signature()}", file=sys.stderr)
    return scores
