"""BLEU and chrF are sacrebleu's; entities are those of CoNLL, and answers are scored as by SQuAD's script."""

import itertools
import random
import types

import numpy as np
import pytest
from seqeval import metrics as seqeval
from seqeval.metrics.sequence_labeling import get_entities

from homl_models import metrics


@pytest.fixture
def sacrebleu():
    return pytest.importorskip("sacrebleu", reason="BLEU and chrF are computed by sacrebleu")


# Translations.

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


@pytest.mark.usefixtures("sacrebleu")
def test_a_perfect_translation_has_100():
    assert metrics.translation(REFERENCES, REFERENCES) == pytest.approx({"bleu": 100, "chrf": 100})


@pytest.mark.usefixtures("sacrebleu")
def test_sentences_in_another_order_have_less():
    scores = metrics.translation(REFERENCES[1:] + REFERENCES[:1], REFERENCES)
    assert scores["bleu"] < 10
    assert 0 < scores["chrf"] < 40


@pytest.mark.usefixtures("sacrebleu")
def test_bleu_is_that_of_its_formula():
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples and 1 of 2 quadruples are in the reference
    scores = metrics.translation(["a b c d x"], ["a b c d e"])
    assert scores["bleu"] == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_the_scores_are_those_of_the_functions_of_sacrebleu(sacrebleu):
    scores = metrics.translation(tuple(TRANSLATIONS), tuple(REFERENCES))
    assert scores == {
        "bleu": sacrebleu.corpus_bleu(TRANSLATIONS, [REFERENCES]).score,
        "chrf": sacrebleu.corpus_chrf(TRANSLATIONS, [REFERENCES]).score,
    }
    assert 20 < scores["bleu"] < 80


@pytest.mark.usefixtures("sacrebleu")
def test_case_and_translation_side_matter():
    scores = metrics.translation(TRANSLATIONS, REFERENCES)
    assert metrics.translation([text.lower() for text in TRANSLATIONS], REFERENCES)["bleu"] < scores["bleu"]
    assert metrics.translation(REFERENCES, TRANSLATIONS) != scores  # what is short is punished on one side alone


def test_the_signatures_are_printed(capsys, sacrebleu):
    metrics.translation(TRANSLATIONS, REFERENCES)
    bleu, chrf = capsys.readouterr().err.splitlines()
    for said in ("nrefs:1", "case:mixed", "tok:13a", "smooth:exp", f"version:{sacrebleu.__version__}"):
        assert said in bleu
    assert bleu.lower().startswith("bleu|")
    for said in ("nrefs:1", "case:mixed", "nc:6", "nw:0", f"version:{sacrebleu.__version__}"):
        assert said in chrf
    assert chrf.lower().startswith("chrf|")


CHINESE = ["今天我看见苹果。", "昨天老师买了很多新的书。", "中午他们都忘了雨伞。"]
JAPANESE = ["今日はとても良い天気です。", "明日は雨が降るでしょう。"]
THAI = ["วันนี้อากาศดีมาก", "พรุ่งนี้ฝนจะตก"]


@pytest.mark.parametrize(
    ("references", "tokenizer"),
    [(CHINESE, "zh"), (JAPANESE, "char"), (THAI, "char"), (["1985-12-12", "abcdef"], "char")],
)
def test_bleu_counts_characters_where_words_have_no_spaces(references, tokenizer, sacrebleu, capsys):
    found = [text[:2] + "x" + text[3:] for text in references]
    scores = metrics.translation(found, references)
    assert scores["bleu"] == sacrebleu.corpus_bleu(found, [references], tokenize=tokenizer).score > 30
    said = capsys.readouterr().err.splitlines()
    assert "written without spaces" in said[0]
    assert f"tok:{tokenizer}|" in said[1]


def test_a_language_with_spaces_is_counted_by_words():
    for references in (REFERENCES, ["한국어 문장입니다.", "또 하나의 문장."], ["Ja.", "Je sais, 中文 oui"], []):
        assert metrics.bleu_tokenizer(references) == "13a"


# Tags.

KINDS = ("O", "B-X", "I-X", "B-Y", "I-Y")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("", ""),
        ("O O", ""),
        ("B-X I-X I-X O", "X03"),
        ("O B-X", "X12"),
        ("I-X I-X O I-X", "X02 X34"),  # as in the data of 2003, where B- stands between neighbours alone
        ("I-X B-X I-X", "X01 X13"),
        ("B-X B-X B-X", "X01 X12 X23"),
        ("B-X I-Y I-Y", "X01 Y13"),
        ("I-X I-Y B-Y", "X01 Y12 Y23"),
        ("B-X O I-X", "X01 X23"),
        ("X X O Y X", "X02 Y34 X45"),
        ("B-X E-X S-X S-X", "X02 X23 X34"),  # BIOES
        ("B-X I-X E-X O S-Y", "X03 Y45"),
        ("B-X L-X U-X U-X", "X02 X23 X34"),  # BILOU
        ("B-X M-X E-X W-Y S-Y", "X03 Y34 Y45"),  # BMEWO
        ("I-X E-X I-X I-X O", "X02 X24"),  # IOE1
        ("I-X E-X E-X O", "X02 X23"),  # IOE2
        ("B-X O E-X", "X01 X23"),
        ("B-X S-X I-X", "X01 X12 X23"),
    ],
)
def test_entities_by_hand(labels, expected):
    wanted = {(kind, int(first), int(last)) for kind, first, last in expected.split()}
    assert metrics.entities(labels.split()) == wanted


@pytest.mark.parametrize("letters", ["BIES", "BI", "IE"])
def test_entities_are_those_of_seqeval(letters):
    """In its lenient mode, which has the letters of BIOES."""
    labels = ["O", *(f"{letter}-{kind}" for letter in letters for kind in "XY")]
    for row in itertools.product(labels, repeat=4 if len(letters) > 2 else 5):
        wanted = {(kind, first, last + 1) for kind, first, last in get_entities(list(row))}
        assert metrics.entities(row) == wanted, row


def test_kinds_may_hold_hyphens_and_be_nothing_more_than_letters():
    labels = ["B-work-of-art", "I-work-of-art", "B-art", "I-of-art", "BIRD", "INN", "B", "I"]
    wanted = [("work-of-art", 0, 2), ("art", 2, 3), ("of-art", 3, 4), ("BIRD", 4, 5), ("INN", 5, 6)]
    assert metrics.entities(labels) == {*wanted, ("B", 6, 7), ("I", 7, 8)}


@pytest.mark.parametrize("length", [1, 3, 5])
def test_entities_of_all_labels_are_what_they_are_said_to_be(length):
    for labels in itertools.product(KINDS, repeat=length):

        def holds(kind, first, last, labels=labels):
            begins = labels[first] == f"B-{kind}" or (
                labels[first] == f"I-{kind}" and (not first or labels[first - 1][2:] != kind)
            )
            inside = all(label == f"I-{kind}" for label in labels[first + 1 : last])
            return begins and inside and labels[last : last + 1] != (f"I-{kind}",)

        spans = itertools.combinations(range(length + 1), 2)
        assert metrics.entities(labels) == {(kind, *span) for span in spans for kind in "XY" if holds(kind, *span)}


def test_tagging_by_hand():
    references = [line.split() for line in ("B-X I-X O B-Y", "O O", "B-X B-X I-X", "B-Y")]
    found = [line.split() for line in ("B-X O O B-Y", "O I-X", "B-X B-X I-X", "B-X")]
    # of 5 entities, "Y" of the first and both of the third are found, among 6
    wanted = {"accuracy": 7 / 10, "precision": 3 / 6, "recall": 3 / 5, "f1": 2 * 3 / (6 + 5)}
    assert metrics.tagging(found, references) == pytest.approx(wanted)
    swapped = wanted | {"precision": 3 / 5, "recall": 3 / 6}
    assert metrics.tagging(references, found) == pytest.approx(swapped)


def test_tagging_of_all_and_of_nothing():
    some, none = [["B-X", "I-X"], ["O"]], [["O", "O"], ["O"]]
    assert metrics.tagging(some, some) == {"accuracy": 1, "precision": 1, "recall": 1, "f1": 1}
    assert metrics.tagging(none, some) == {"accuracy": 1 / 3, "precision": 0, "recall": 0, "f1": 0}
    assert metrics.tagging(some, none) == {"accuracy": 1 / 3, "precision": 0, "recall": 0, "f1": 0}
    assert metrics.tagging(none, none) == {"accuracy": 1, "precision": 0, "recall": 0, "f1": 0}


def test_an_entity_of_another_sentence_is_another_one():
    assert metrics.tagging([["B-X", "O"], ["O", "O"]], [["O", "O"], ["B-X", "O"]])["f1"] == 0


def test_sentences_of_other_lengths_are_a_mistake():
    with pytest.raises(ValueError, match="longer"):
        metrics.tagging([["O"]], [["O", "O"]])


def test_tagging_is_that_of_seqeval():
    draw = random.Random(0)
    for _ in range(20):
        references = [draw.choices(KINDS, k=draw.randint(1, 12)) for _ in range(30)]
        found = [[draw.choice([label, label, draw.choice(KINDS)]) for label in labels] for labels in references]
        wanted = {name: getattr(seqeval, f"{name}_score")(references, found) for name in ("precision", "recall", "f1")}
        wanted["accuracy"] = seqeval.accuracy_score(references, found)
        assert metrics.tagging(found, references) == pytest.approx(wanted)
        assert 0.1 < wanted["f1"] < 0.9


# Answers.


@pytest.mark.parametrize(
    ("answer", "right", "exact", "f1"),
    [
        ("Paris", ["Paris"], 1, 1),
        ("the PARIS.", ["Paris"], 1, 1),
        ("in Paris", ["Paris"], 0, 2 / 3),
        ("in Paris", ["Rome", "Paris", "in paris!"], 1, 1),
        ("a b b c", ["b c d b"], 0, 6 / 7),  # "a" is an article
        ("b b b", ["b"], 0, 1 / 2),
        ("x-ray", ["xray"], 1, 1),
        ("another", ["other"], 0, 0),
        ("Paris", [], 0, 0),
        ("", [], 1, 1),
        ("The", [], 1, 1),
        ("", ["Paris"], 0, 0),
        ("the", ["a"], 1, 1),
    ],
)
def test_answers_by_hand(answer, right, exact, f1):
    assert metrics.answering([answer], [right]) == pytest.approx({"exact": exact, "f1": f1})


def test_answers_are_averaged():
    found = metrics.answering(["Paris", "in Rome", "no", ""], [["Paris"], ["Rome"], ["yes", "maybe"], []])
    each = {"has_answer_exact": 1 / 3, "has_answer_f1": (1 + 2 / 3 + 0) / 3, "no_answer_exact": 1, "no_answer_f1": 1}
    assert found == pytest.approx({"exact": 2 / 4, "f1": (1 + 2 / 3 + 0 + 1) / 4} | each)
    assert metrics.answering(["", "x"], [[], []]) == {"exact": 0.5, "f1": 0.5}
    assert metrics.answering(["", "the cat"], [["the", "cat"], ["a", "cat"]])["exact"] == 0.5  # "the" is left out


def test_the_null_threshold_by_hand():
    """Answers to the first two are right; without the third's, which has none, F1 is greatest."""
    answers, right = ["Rome", "Paris", "no", "x y"], [["Rome"], ["Paris"], [], ["y"]]
    assert metrics.best_null_threshold([-3.0, -1.0, 2.0], answers[:3], right[:3]) == pytest.approx(0.5)
    assert metrics.best_null_threshold([2.0, -3.0], ["no", "no"], [[], []]) == -4  # never an answer
    assert metrics.best_null_threshold([1.0, 1.0], ["aa", "b"], [["aa"], ["c"]]) == 2.0  # equal scores stay together
    assert metrics.best_null_threshold([-3.0, -1.0, 2.0, 4.0], answers, right) == pytest.approx(0.5)


@pytest.mark.parity
def test_unanswerable_questions_are_counted_and_thresholds_found_as_by_the_script_of_squad():
    squad = pytest.importorskip("transformers.data.metrics.squad_metrics", reason="compares with transformers 4")
    draw = np.random.default_rng(0)
    words = ["red cat", "blue", "the dog", "a red", "x"]
    for case in range(30):
        right = [[] if draw.random() < 0.5 else list(draw.choice(words, 2)) for _ in range(40)]
        answers = [some[0] if some and draw.random() < 0.7 else str(draw.choice(words)) for some in right]
        scores = draw.permutation(40) / 10 - 2 + [(-0.81 if some else 0.8) for some in right]
        examples = [
            types.SimpleNamespace(qas_id=i, answers=[{"text": text} for text in some]) for i, some in enumerate(right)
        ]
        names = {"exact": "exact", "f1": "f1", "has_answer_exact": "HasAns_exact", "has_answer_f1": "HasAns_f1"}
        names |= {"no_answer_exact": "NoAns_exact", "no_answer_f1": "NoAns_f1"}
        theirs = squad.squad_evaluate(examples, dict(enumerate(answers)), dict(enumerate(scores)), 99)
        found = metrics.answering(answers, right)
        assert found == pytest.approx({ours: theirs[name] / 100 for ours, name in names.items()})
        threshold = metrics.best_null_threshold(scores, answers, right)
        given = [answer if score < threshold else "" for answer, score in zip(answers, scores)]
        assert metrics.answering(given, right)["f1"] == pytest.approx(theirs["best_f1"] / 100), case


ODD = (
    *("the", "The", "a", "AN", "an", "anthem", "theatre", "a.b", "the-end", "A's", "U.S.", "$5,000", "5000", "3.14"),
    *("\u00a0", "\u2019s", "“the”", "—", "é", "E\u0301", "İ", "ß", "中文", "the\u2028a", "\t", "  ", "", ".", "a_b"),
    *("_the_", "`", "^a^", "\\an\\", "the the", "Rome", "rome", "in", "\u200bthe", "x\u00ady"),
)


@pytest.mark.parity
def test_answers_are_judged_as_by_the_script_of_squad():
    squad = pytest.importorskip("transformers.data.metrics.squad_metrics", reason="compares with transformers 4")
    draw = random.Random(0)
    texts = [*ODD, *(draw.choice(["", " "]).join(draw.choices(ODD, k=draw.randint(0, 6))) for _ in range(800))]
    seen = []
    for answer in texts:
        words = answer.split(" ")
        near = " ".join(draw.sample(words, draw.randint(0, len(words))))
        for right in (near, answer.swapcase(), draw.choice(texts)):
            wanted = {"exact": squad.compute_exact(right, answer), "f1": squad.compute_f1(right, answer)}
            assert metrics.answering([answer], [[right]]) == pytest.approx(wanted), (answer, right)
            seen.append(wanted["f1"])
    assert {0, 1} < set(seen)
    assert sum(0 < f1 < 1 for f1 in seen) > 100
    several = [[draw.choice(texts) for _ in range(draw.randint(1, 3))] for _ in texts]
    for name, score in (("exact", squad.compute_exact), ("f1", squad.compute_f1)):
        wanted = [[text for text in right if squad.normalize_answer(text)] or [""] for right in several]
        best = [max(score(text, answer) for text in right) for answer, right in zip(texts, wanted)]
        assert metrics.answering(texts, several)[name] == pytest.approx(sum(best) / len(best))
