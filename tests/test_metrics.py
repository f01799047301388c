"""BLEU and chrF are sacrebleu's."""

import pytest

from homl_models import metrics

sacrebleu = pytest.importorskip("sacrebleu", reason="BLEU and chrF are computed by sacrebleu")

REFERENCES = [
    "Me gusta el fútbol.",
    "¿Dónde está la biblioteca?",
    "Ella no quiere ir a la playa con nosotros.",
    "¡Qué día tan bonito hace hoy!",
]
TRANSLATIONS = [
    "Me gusta el fútbol y la playa.",
    "¿Dónde está la tienda?",
    "Ella no quiere ir a la playa.",
    "¡Qué bonito día hace hoy!",
]


def test_a_perfect_translation_has_100():
    assert metrics.translation(REFERENCES, REFERENCES) == pytest.approx({"bleu": 100, "chrf": 100})


def test_sentences_in_another_order_have_less():
    scores = metrics.translation(REFERENCES[1:] + REFERENCES[:1], REFERENCES)
    assert scores["bleu"] < 10
    assert 0 < scores["chrf"] < 40


def test_bleu_is_that_of_its_formula():
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples and 1 of 2 quadruples are in the reference
    scores = metrics.translation(["a b c d x"], ["a b c d e"])
    assert scores["bleu"] == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_the_scores_are_those_of_the_functions_of_sacrebleu():
    scores = metrics.translation(tuple(TRANSLATIONS), tuple(REFERENCES))
    assert scores == {
        "bleu": sacrebleu.corpus_bleu(TRANSLATIONS, [REFERENCES]).score,
        "chrf": sacrebleu.corpus_chrf(TRANSLATIONS, [REFERENCES]).score,
    }
    assert 20 < scores["bleu"] < 80


def test_case_and_translation_side_matter():
    scores = metrics.translation(TRANSLATIONS, REFERENCES)
    assert metrics.translation([text.lower() for text in TRANSLATIONS], REFERENCES)["bleu"] < scores["bleu"]
    assert metrics.translation(REFERENCES, TRANSLATIONS) != scores  # what is short is punished on one side alone


def test_the_signatures_are_printed(capsys):
    metrics.translation(TRANSLATIONS, REFERENCES)
    bleu, chrf = capsys.readouterr().err.splitlines()
    for said in ("nrefs:1", "case:mixed", "tok:13a", "smooth:exp", f"version:{sacrebleu.__version__}"):
        assert said in bleu
    assert bleu.lower().startswith("bleu|")
    for said in ("nrefs:1", "case:mixed", "nc:6", "nw:0", f"version:{sacrebleu.__version__}"):
        assert said in chrf
    assert chrf.lower().startswith("chrf|")
