"""Examples against slow, simple computations, and batches of them as functions of a step."""

import collections
import functools
import itertools
import random
import re
import string

import keras
import numpy as np
import pytest

from homl_models.models import scoring
from homl_models.models.bert import Bert
from homl_models.models.bert_config import BertConfig
from homl_models.models.bert_heads import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from homl_models.models.text_pipelines import with_marks
from homl_models.pipelines import events, labelled_text, text_files
from homl_models.pipelines.labelled_text import OUTSIDE, Examples
from homl_models.pipelines.random_access import IGNORED, length_buckets
from homl_models.tokenizers.wordpiece import SPECIAL, WordPiece
from tests import checks
from tests.conftest import DATA

LETTERS = string.ascii_lowercase + string.digits + ",.?'/-:"
WHOLE = "on", "in", "the", "when", "where", "who", "did", "was", "it", "19", "20", "##19", "##20", "##ed", "paris", "of"
PIECES = WordPiece((*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WHOLE))
CLS, SEP = map(PIECES.vocabulary.index, ("[CLS]", "[SEP]"))
NAMES = "O", "B-DATE", "I-DATE", "B-X", "NOUN"


def rows_of(examples):
    """The ids of each row, without padding, which is at the right."""
    found = []
    for ids, mask in zip(examples.tokens["input_ids"], examples.tokens["attention_mask"]):
        assert mask.tolist() == [1] * mask.sum() + [0] * (1 - mask).sum()
        assert not ids[mask.sum() :].any()
        found.append(ids[: mask.sum()].tolist())
    return found


def assert_int32(examples):
    found = [*examples.tokens.values(), *examples.labels.values()]
    assert {array.dtype for array in found} == {np.dtype("int32")}
    assert {len(array) for array in found} == {len(examples.overflow_to_sample_mapping)}
    assert tuple(examples.tokens) == labelled_text.COLUMNS


def alone(text):
    """Ids, positions in the text and numbers of the words of a text by itself, without special tokens."""
    found = {name: array[0, 1:-1].tolist() for name, array in PIECES.encode([text], offsets=True).items()}
    return list(zip(found["input_ids"], found["offsets"], found["word_ids"]))


# One label for a text.


@pytest.mark.parametrize("max_length", [2, 3, 9, 500])
def test_texts_are_cut_and_have_their_labels(max_length):
    given = ["It was in Paris.", "", "who?", "a" * 150, "on 3/4/1999 " * 20, "\u200b"]
    examples = labelled_text.text_classification(given, [3, 0, 1, 2, 2, 0], PIECES, max_length)
    assert_int32(examples)
    checks.close(examples.tokens, PIECES.encode(given, max_length=max_length))
    for row, text in zip(rows_of(examples), given):
        assert row == [CLS, *[token for token, _, _ in alone(text)][: max_length - 2], SEP]
    assert not examples.tokens["token_type_ids"].any()
    assert list(examples.labels) == ["labels"]
    assert examples.labels["labels"].tolist() == [3, 0, 1, 2, 2, 0]
    assert examples.overflow_to_sample_mapping.tolist() == [*range(6)]
    assert examples.word_starts is None


# A label for each word.

WORDS = """
It was in Paris on 3/4/1999 don't U.S. '70s 19:20 Ångström e\u0301\u0301 中文 [MASK] unlettered 1999 , . ? x-y-z a/b//c
\u200b \x07 \u0301 \xad in\u200bside new\u2009york
"""
WORDS = [*re.split("[ \n]+", WORDS.strip()), "New York", "x" * 101, "abcdefgh" * 4, "3.4/5.6"]


def wanted_tokens(words, labels):
    """[(id, label, number of the word that begins there or -1), ...] of a sentence, word by word."""
    found = []
    for number, (word, label) in enumerate(zip(words, labels)):
        tokens = alone(word)
        for i, (token, _, part) in enumerate(tokens):
            if i == 0:
                found.append((token, NAMES.index(label), number))
            elif part != tokens[i - 1][2]:
                found.append((token, NAMES.index("I-DATE" if label == "B-DATE" else label), -1))
            else:
                found.append((token, -100, -1))
    return found


def given_sentences(count, longest, seed=0):
    rng = random.Random(seed)
    sizes = [rng.randint(1, longest) for _ in range(count)]
    return [(rng.choices(WORDS, k=size), rng.choices(NAMES, k=size)) for size in sizes]


def tagged_rows(examples):
    """[(which sentence, [(id, label, word), ...]), ...] without special tokens; checks those."""
    assert_int32(examples)
    found = []
    for row, ids in enumerate(rows_of(examples)):
        assert (ids[0], ids[-1]) == (CLS, SEP)
        labels, words = examples.labels["labels"][row], examples.word_starts[row]
        inside = np.arange(len(labels)) % (len(ids) - 1) > 0
        inside[len(ids) :] = False
        assert set(labels[~inside]) == {-100}
        assert set(words[~inside]) == {-1}
        found.append((examples.overflow_to_sample_mapping[row], list(zip(ids[1:-1], labels[1:], words[1:]))))
    assert not examples.tokens["token_type_ids"].any()
    return found


@pytest.mark.parametrize("max_length", [30, 12, 5, 3])
def test_each_word_has_its_label_at_its_first_token_where_it_has_most_context(max_length):
    given = given_sentences(60, 12)
    found = tagged_rows(labelled_text.token_classification(given, NAMES, PIECES, max_length))
    assert [sample for sample, _ in found] == sorted(sample for sample, _ in found)
    room, split = max_length - 2, 0
    step = max(1, room - max_length // 4)
    for i, (words, labels) in enumerate(given):
        wanted = wanted_tokens(words, labels)
        rows = [row for sample, row in found if sample == i]
        firsts = [step * k for k in range(len(rows))]
        assert firsts[-1] == 0 or firsts[-1] + room - step < len(wanted) <= firsts[-1] + room
        for first, row in zip(firsts, rows):
            assert [token for token, *_ in row] == [token for token, *_ in wanted[first : first + room]]
        for place, (_, *label) in enumerate(wanted):
            seen = {}  # the context in each window that holds the token, and its label there
            for first, row in zip(firsts, rows):
                if first <= place < first + len(row):
                    left = place - first if first else max_length
                    right = first + len(row) - 1 - place if first + len(row) < len(wanted) else max_length
                    seen.setdefault(min(left, right), []).append(list(row[place - first][1:]))
            labelled = [(context, one) for context, some in seen.items() for one in some if one != [-100, -1]]
            assert labelled in ([], [(labelled[0][0], label)] if labelled else [])
            assert labelled or label == [-100, -1]
            assert not labelled or labelled[0][0] >= max(seen) - 1
        split += len(rows) > 1
    assert split > 5


def test_further_words_of_a_last_or_only_word_of_an_entity_have_no_label():
    names = "O", "S-X", "B-X", "I-X", "E-X"
    given = [(["x-y", "x-y", "x-y"], ["S-X", "B-X", "E-X"])]
    [(_, row)] = tagged_rows(labelled_text.token_classification(given, names, PIECES, 20))
    assert [label for _, label, _ in row] == [1, -100, -100, 2, 3, 3, 4, -100, -100]


def test_sentences_that_fit_are_whole():
    given = given_sentences(40, 8)
    found = tagged_rows(labelled_text.token_classification(given, NAMES, PIECES, 500))
    assert [row for _, row in found] == [wanted_tokens(*sentence) for sentence in given]
    assert [sample for sample, _ in found] == [*range(40)]


def test_labels_by_hand():
    words, labels = ["It", "was", "3/4/1999", "on"], ["O", "NOUN", "B-DATE", "B-X"]
    [(_, row)] = tagged_rows(labelled_text.token_classification([(words, labels)], NAMES, PIECES, 20))
    expected = "it 0 0|was 4 1|3 1 2|/ 2 -1|4 2 -1|/ 2 -1|19 2 -1|##9 -100 -1|##9 -100 -1|on 3 3"
    assert "|".join(f"{PIECES.vocabulary[i]} {label} {word}" for i, label, word in row) == expected


def test_a_label_of_the_kind_b_goes_on_as_such_where_there_is_no_i():
    given = [(["x-y", "x-y", "x-y"], ["B-X", "I-DATE", "O"])]
    [(_, row)] = tagged_rows(labelled_text.token_classification(given, NAMES, PIECES, 20))
    assert [label for _, label, _ in row] == [3] * 3 + [2] * 3 + [0] * 3


def test_a_word_without_tokens_is_left_out():
    given = [(["\x07", "in", "\u200b", "paris", "\u0301"], ["B-X", "O", "B-DATE", "NOUN", "B-X"]), (["\x07"], ["O"])]
    first, second = tagged_rows(labelled_text.token_classification(given, NAMES, PIECES, 20))
    assert [(label, word) for _, label, word in first[1]] == [(0, 1), (4, 3)]
    assert second == (1, [])


def test_a_label_that_is_not_to_be_learned_is_refused():
    given = [(["in"], ["O"]), (["paris", "on"], ["B-LOC", "I-LOC"])]
    checks.fails(
        "the labels B-LOC, I-LOC are not among",
        lambda: labelled_text.token_classification(given, NAMES, PIECES, 20),
        *NAMES,
    )
    many = [(["in"] * 9, [f"L{i}" for i in range(9)])]
    checks.fails(
        "the labels L0, L1, L2, L3, L4 are not", lambda: labelled_text.token_classification(many, NAMES, PIECES, 20)
    )


def test_generated_sentences_are_tagged():
    given = events.tagged(50)
    examples = labelled_text.token_classification(given, events.LABELS, PIECES, 64)
    for (words, labels), row, found, positions in zip(
        given, rows_of(examples), examples.labels["labels"], examples.word_starts, strict=True
    ):
        at = {word: place for place, word in enumerate(positions) if word >= 0}
        assert [*at] == [*range(len(words))]
        assert [events.LABELS[found[at[i]]] for i in at] == labels
        assert "".join(PIECES.vocabulary[i].removeprefix("##") for i in row[1:-1]) == "".join(words).lower()


# Answers.


def wanted_windows(question, context, answers, max_length, doc_stride):
    """[(ids, first place of the answer, last place), ...], one window after the other; 0 and 0 if it is not there."""
    q = [token for token, _, _ in alone(question)][: max_length // 2 - 2]
    tokens = alone(context)
    room = max_length - len(q) - 3
    found, first = [], 0
    while True:
        ids = [token for token, _, _ in tokens[first : first + room]]
        span = 0, 0
        if answers:
            start, end = answers[0][0], answers[0][0] + len(answers[0][1])
            of_answer = [i for i, (_, (a, b), _) in enumerate(tokens) if a < end and b > start]
            if of_answer and first <= of_answer[0] and of_answer[-1] < first + room:
                span = tuple(len(q) + 2 + of_answer[i] - first for i in (0, -1))
        found.append(([CLS, *q, SEP, *ids, SEP], *span))
        if first + room >= len(tokens):
            return found
        first += max(1, room - doc_stride)


def assert_asked(questions, max_length, doc_stride):
    """The windows, their labels and samples are those wanted -> for each question how many windows hold its answer."""
    examples = labelled_text.question_answering(questions, PIECES, max_length, doc_stride)
    assert_int32(examples)
    assert examples.word_starts is None
    wanted = [wanted_windows(*question, max_length, doc_stride) for question in questions]
    flat = list(itertools.chain(*wanted))
    assert rows_of(examples) == [ids for ids, _, _ in flat]
    assert set(examples.labels) == {"start_positions", "end_positions"}
    assert examples.labels["start_positions"].tolist() == [first for _, first, _ in flat]
    assert examples.labels["end_positions"].tolist() == [last for _, _, last in flat]
    assert examples.overflow_to_sample_mapping.tolist() == [i for i, windows in enumerate(wanted) for _ in windows]
    for ids, types in zip(rows_of(examples), examples.tokens["token_type_ids"]):
        assert types.tolist() == [int(ids.index(SEP) < i < len(ids)) for i in range(len(types))]
    return [sum(first > 0 for _, first, _ in windows) for windows in wanted], examples


def labelled_span(examples, row):
    first, last = (examples.labels[f"{end}_positions"][row] for end in ("start", "end"))
    ids = examples.tokens["input_ids"][row, first : last + 1]
    return "".join(PIECES.vocabulary[i].removeprefix("##") for i in ids)


@pytest.mark.parametrize(("max_length", "doc_stride"), [(200, 0), (64, 20), (52, 22)])
def test_the_labelled_span_is_the_answer(max_length, doc_stride):
    given = events.questions(40)
    counts, examples = assert_asked(given, max_length, doc_stride)
    spoken = collections.Counter()
    for row, sample in enumerate(examples.overflow_to_sample_mapping):
        if examples.labels["start_positions"][row]:
            [(_, answer)] = given[sample][2]
            assert labelled_span(examples, row) == answer.replace(" ", "").lower()
            spoken[sample] += 1
    assert [spoken[i] for i in range(40)] == counts
    if max_length == 200:
        assert counts == [1] * 40
    else:
        assert min(counts) >= 1
        assert len(examples.overflow_to_sample_mapping) > 80


@pytest.mark.parametrize(("max_length", "doc_stride"), [(9, 0), (9, 2), (12, 3), (12, 6), (12, 7), (12, 50), (40, 5)])
def test_every_answer_at_every_border_of_the_windows(max_length, doc_stride):
    context = "a, bc de? f g hi j. k l m"
    ends = range(len(context) + 1)
    given = [("who?", context, [(a, context[a:b])]) for a, b in itertools.combinations(ends, 2) if context[a:b].strip()]
    counts, _ = assert_asked(given, max_length, doc_stride)
    assert (0 in counts) == (max_length < 40)  # of those that are longer than the overlap, some are cut everywhere
    assert max(counts) > 1 or doc_stride < 2 or max_length == 40
    for count, (_, _, [(start, answer)]) in zip(counts, given):
        size = sum(first < start + len(answer) and last > start for _, (first, last), _ in alone(context))
        assert count or size > min(doc_stride, max_length - 6) + 1


def test_questions_without_an_answer_and_with_several():
    context = "In Paris, Ada sang in Rome."
    given = [
        ("Who?", context, []),
        ("Where?", context, [(22, "Rome"), (3, "Paris")]),
        ("Where did she sing, and when, and who, and why? " * 3, context, [(10, "Ada")]),
        ("", context, [(0, context)]),
        ("Who?", "", []),
    ]
    counts, examples = assert_asked(given, 64, 8)
    assert counts == [0, 1, 1, 1, 0]
    assert [labelled_span(examples, row) for row in (1, 2, 3)] == ["rome", "ada", "inparis,adasanginrome."]
    assert_asked(given, 20, 4)


ODD_ANSWERS = ["🐈\u200d⬛", "sat.\r\nCafe\u0301", "Cafe\u0301 n\u0303", "🏠", "in\r\n\r\nParis"]
ODD_ANSWERS += ["👩\u200d👩\u200d👧 on", "中", "mat"]
ODD_CONTEXT = "\ufeffThe 🐈\u200d⬛ sat.\r\nCafe\u0301 n\u0303 🏠 in\r\n\r\nParis "
ODD_CONTEXT += "👩\u200d👩\u200d👧 on the 中 mat\u0301."


@pytest.mark.parametrize("max_length", [200, 20])
def test_labels_count_characters_of_the_text_with_emoji_marks_and_crlf(max_length):
    rows = [("who?", ODD_CONTEXT, [(ODD_CONTEXT.index(text), text)]) for text in ODD_ANSWERS]
    examples = labelled_text.question_answering(rows, PIECES, max_length, 4)
    windows = PIECES.windows(["who?"] * len(rows), [ODD_CONTEXT] * len(rows), max_length, 4)
    found = set()
    for i, sample in enumerate(examples.overflow_to_sample_mapping):
        start, end = (examples.labels[f"{name}_positions"][i] for name in ("start", "end"))
        if start:
            first, last = windows["offsets"][i, start, 0], windows["offsets"][i, end, 1]
            assert ODD_CONTEXT[first : with_marks(ODD_CONTEXT, last)].rstrip("\u0301") == ODD_ANSWERS[sample].rstrip(
                "\u0301"
            )
            found.add(sample)
    assert found == {*range(len(rows))}


def test_answers_with_spaces_and_accents_around_them_are_found():
    """Characters without a token do not matter, at the borders of the context either."""
    given = [
        ("q", " in paris", [(0, " in")]),
        ("q", "in paris ", [(3, "paris ")]),
        ("q", "in paris\u0301", [(3, "paris\u0301")]),
        ("q", "\u200bin paris\u200b", [(0, "\u200bin paris\u200b")]),
        ("q", "in 1999, x", [(3, "1999")]),
        ("q", "in 1999, x", [(2, " ")]),
        ("q", "unlettered 191920 x", [(13, "9")]),  # inside of a token
    ]
    counts, examples = assert_asked(given, 64, 8)
    found = [labelled_span(examples, row) if count else None for row, count in enumerate(counts)]
    assert found == ["in", "paris", "paris", "inparis", "1999", None, "19"]
    assert_asked(given, 8, 1)


# Batches. Token t of example i is 1000 * (i + 1) + t, so that a row tells where it comes from.


def synthetic(lengths, kind="labels"):
    n, t = len(lengths), max(lengths)
    mask = (np.arange(t) < np.array(lengths)[:, None]).astype(np.int32)
    ids = (np.arange(t) + 1000 * (1 + np.arange(n))[:, None]).astype(np.int32) * mask
    tokens = {"input_ids": ids, "token_type_ids": mask * (ids % 2), "attention_mask": mask}
    labels = {
        "labels": {"labels": np.arange(n, dtype=np.int32)},
        "words": {"labels": np.where(mask, ids + 1, IGNORED).astype(np.int32)},
        "spans": {
            "start_positions": np.arange(n, dtype=np.int32),
            "end_positions": np.arange(n, dtype=np.int32) + 7,
        },
    }[kind]
    return Examples(tokens, labels, np.arange(n))


def lengths(n=103, longest=30, seed=0):
    return np.random.default_rng(seed).integers(1, longest + 1, n).tolist()


def read(dataset):
    return [keras.tree.map_structure(lambda value: value.numpy(), batch) for batch in dataset]


def restored(examples, found):
    """Checks each row of the batches against the examples -> their numbers, -1 for those that do not count."""
    order = []
    for x, y in found:
        assert isinstance(y, dict) == (len(examples.labels) > 1)
        both = [(x, examples.tokens), (named(y), examples.labels)]
        assert all(set(given) == set(wanted) for given, wanted in both)
        assert {value.dtype for given, _ in both for value in given.values()} == {np.dtype("int32")}
        width = x["input_ids"].shape[1]
        for row, first in enumerate(x["input_ids"][:, 0]):
            i = first // 1000 - 1
            order.append(i)
            for given, wanted in both:
                for name, value in given.items():
                    empty = 0 if name in x else OUTSIDE if name.endswith("positions") else IGNORED
                    whole = wanted[name][i] if i >= 0 else np.full_like(wanted[name][0], empty)
                    np.testing.assert_array_equal(value[row], whole[:width] if whole.ndim else whole)
            assert i < 0 or examples.tokens["attention_mask"][i].sum() <= width
    return order


def named(labels):
    return labels if isinstance(labels, dict) else {"labels": labels}


KINDS = pytest.mark.parametrize("kind", ["labels", "words", "spans"])


@KINDS
@pytest.mark.parametrize(("count", "buckets"), [(96, 1), (103, 1), (103, 4)])
def test_training_takes_each_example_once_an_epoch(kind, count, buckets):
    examples = synthetic(lengths(count), kind)
    dataset = labelled_text.batches(examples, 8, 5, buckets)
    parts = length_buckets(np.array(lengths(count)), buckets)
    assert len(parts) == buckets
    assert dataset.steps == sum(-(-len(rows) // 8) for rows, _ in parts)
    found = read(dataset.dataset(0, 3 * dataset.steps))
    order = restored(examples, found)
    for rows, length in parts:
        of_part = [(x, order[8 * k : 8 * k + 8]) for k, (x, _) in enumerate(found) if order[8 * k] in rows]
        assert all({*some} <= {*rows, -1} and x["input_ids"].shape == (8, length) for x, some in of_part)
    epochs = [[i for i in epoch if i >= 0] for epoch in np.reshape(order, (3, -1)).tolist()]
    assert all(sorted(epoch) == [*range(count)] for epoch in epochs)
    assert all(epoch != sorted(epoch) for epoch in epochs)
    together = {frozenset(order[k : k + 8]) for k in range(0, len(order), 8)}
    assert len(together) == 3 * dataset.steps  # others meet in each epoch
    widths = np.reshape([x["input_ids"].shape[1] for x, _ in found], (3, -1)).tolist()
    orders = {tuple(some) for some in (*widths, sorted(widths[0]))}
    assert len(orders) == (4 if buckets > 1 else 1)  # and the lengths come in another order


@pytest.mark.parametrize("buckets", [1, 3])
def test_a_batch_is_a_function_of_its_step_and_the_seed(buckets):
    examples = synthetic(lengths(), "words")
    one = labelled_text.batches(examples, 8, 5, buckets)
    whole = read(one.dataset(0, 2 * one.steps))
    assert len(whole) == 2 * one.steps
    for first, last in ((3, one.steps), (one.steps - 1, one.steps + 2), (one.steps, 2 * one.steps)):
        checks.close(read(one.dataset(first, last)), whole[first:last])
    checks.close(read(labelled_text.batches(examples, 8, 5, buckets).dataset(5)), whole[5 : one.steps])  # resumed
    other = read(labelled_text.batches(examples, 8, 6, buckets).dataset())
    assert not any(np.array_equal(a["input_ids"], b["input_ids"]) for (a, _), (b, _) in zip(whole, other))


@pytest.mark.parametrize("buckets", [1, 4])
def test_shapes_are_few_and_those_of_a_single_length_are_static(buckets):
    examples = synthetic(lengths(), "words")
    dataset = labelled_text.batches(examples, 8, 0, buckets)
    found = read(dataset.dataset())
    shapes = {tuple(v.shape for v in (*x.values(), y)) for x, y in found}
    assert shapes == {((8, length),) * 4 for _, length in length_buckets(np.array(lengths()), buckets)}
    x, y = dataset.dataset().element_spec
    assert {spec.shape.rank for spec in (*x.values(), y)} == {2}
    assert (y.shape == x["input_ids"].shape == (8, 30)) == (buckets == 1)


@KINDS
@pytest.mark.parametrize(("batch_size", "buckets"), [(8, 1), (7, 3), (103, 1), (300, 2)])
def test_validation_takes_each_once_in_order_and_fills_up_with_rows_that_do_not_count(kind, batch_size, buckets):
    examples = synthetic(lengths(), kind)
    dataset = labelled_text.batches(examples, batch_size, buckets=buckets)
    parts = length_buckets(np.array(lengths()), buckets)
    assert dataset.steps == sum(-(-len(rows) // batch_size) for rows, _ in parts)
    found = read(dataset.dataset())
    assert {len(x["input_ids"]) for x, _ in found} == {batch_size}
    wanted = [[*rows, *[-1] * (-len(rows) % batch_size)] for rows, _ in parts]
    assert restored(examples, found) == list(itertools.chain(*wanted))
    checks.close(read(dataset.dataset(dataset.steps, 2 * dataset.steps)), found)


# With models.

SIZES = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 64,
}
HEADS = {
    "text": (
        functools.partial(BertForSequenceClassification, num_labels=3),
        lambda: labelled_text.text_classification(events.labelled(11)[0], [0, 1, 2, 1] * 2 + [0, 0, 2], PIECES, 48),
    ),
    "words": (
        functools.partial(BertForTokenClassification, num_labels=len(events.LABELS)),
        lambda: labelled_text.token_classification(events.tagged(11), events.LABELS, PIECES, 24),
    ),
    "answers": (BertForQuestionAnswering, lambda: labelled_text.question_answering(events.questions(7), PIECES, 48, 8)),
}


def scored(model, labels, found):
    """The loss, and {metric: its mean}."""
    pairs = model.loss_and_metrics(None, labels, found)[1]
    metrics = {name: scoring.weighted_mean(pair) for name, pair in pairs.items()}
    return model.compute_loss(y=labels, y_pred=found), metrics


@pytest.mark.parametrize(("head", "make"), HEADS.values(), ids=HEADS)
def test_rows_that_do_not_count_change_no_loss_and_no_metric(head, make):
    keras.utils.set_random_seed(1)
    model, examples = head(Bert(BertConfig(len(PIECES.vocabulary), **SIZES))), make()
    model.build()
    for weight in model.trainable_variables:  # or else all logits are nearly alike
        weight.assign(keras.random.normal(weight.shape, stddev=0.5))
    count = len(examples.overflow_to_sample_mapping)
    [(x, y)] = read(labelled_text.batches(examples, count).dataset())
    [(more, labels)] = read(labelled_text.batches(examples, count + 5).dataset())
    assert not more["attention_mask"][count:].any()
    found = model(more)
    assert all(np.isfinite(array).all() for array in checks.arrays(found))
    wanted, filled = scored(model, y, model(x)), scored(model, labels, found)
    checks.close(filled, wanted)
    assert 0.1 < float(wanted[0]) < 20
    changed = {name: np.concatenate([v[:count], np.zeros_like(v[count:])]) for name, v in named(labels).items()}
    counted = scored(model, changed if isinstance(labels, dict) else changed["labels"], found)
    assert abs(float(counted[0]) - float(wanted[0])) > 1e-3  # as it would be if they counted


# On real reviews.


def real():
    """The reviews of half of the test split, their labels, and BERT's own vocabulary."""
    reviews = DATA / "imdb" / "imdb_reviews_test_half.csv.gz"
    vocabulary = DATA / "vocab" / "bert-base-uncased-vocab.txt"
    for path in (reviews, vocabulary):
        if not path.exists():
            pytest.skip(f"needs the IMDb reviews, and {path} is not there; set HOML_TEST_DATA to their data folder")
    return *text_files.read_labelled(reviews), WordPiece.from_file(vocabulary)


def test_real_reviews_become_batches():
    given, labels, wordpiece = real()
    given, labels = given[:300], list(map(int, labels[:300]))
    examples = labelled_text.text_classification(given, labels, wordpiece, 200)
    whole = wordpiece.encode(given)
    fits = whole["attention_mask"].sum(axis=1) <= 200
    assert 0.2 < fits.mean() < 0.8
    assert examples.tokens["input_ids"].shape == (300, 200)
    np.testing.assert_array_equal(examples.tokens["input_ids"][fits], whole["input_ids"][fits, :200])
    np.testing.assert_array_equal(examples.tokens["input_ids"][~fits, :199], whole["input_ids"][~fits, :199])
    number = {row.tobytes(): i for i, row in enumerate(examples.tokens["input_ids"])}
    assert len(number) == 300
    padding = {}
    for buckets in (1, 4):
        seen, positions, tokens = [], 0, 0
        for x, y in read(labelled_text.batches(examples, 10, 3, buckets).dataset()):
            ids = np.pad(x["input_ids"], [(0, 0), (0, 200 - x["input_ids"].shape[1])])
            rows = [number[row.tobytes()] for row in ids if row.any()]
            assert y.tolist() == [labels[i] for i in rows] + [-100] * (len(ids) - len(rows))
            mask = x["attention_mask"][: len(rows)]
            seen, positions, tokens = seen + rows, positions + mask.size, tokens + mask.sum()
        padding[buckets] = 1 - tokens / positions
        assert sorted(seen) == [*range(300)]
    print("fraction of padding by buckets:", padding)
    assert padding[4] < 0.5 * padding[1]


def test_words_of_real_reviews_keep_their_labels():
    given, _, wordpiece = real()
    rng = random.Random(0)
    words = [text.split() for text in given[300:500]]
    given = [(some, rng.choices(NAMES, k=len(some))) for some in words]
    examples = labelled_text.token_classification(given, NAMES, wordpiece, 64)
    seen = [{} for _ in given]
    for sample, labels, positions in zip(
        examples.overflow_to_sample_mapping, examples.labels["labels"], examples.word_starts
    ):
        new = {word: NAMES[labels[at]] for at, word in enumerate(positions.tolist()) if word >= 0}
        assert not set(new) & set(seen[sample])
        seen[sample] |= new
    lost = 0
    for found, (some, labels) in zip(seen, given):
        empty = wordpiece.encode(some)["attention_mask"].sum(axis=1) == 2  # of control characters alone
        assert found == {i: label for i, label in enumerate(labels) if not empty[i]}
        lost += empty.sum()
    assert lost < 5
    assert len(examples.overflow_to_sample_mapping) > 3 * len(given)
