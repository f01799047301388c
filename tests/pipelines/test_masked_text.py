"""Instances and masks: nothing lost, next sentences or random ones, fractions, whole words, batches by step.

Token i of a corpus has the id 5 + i, so that a row tells where it comes from.
"""

import functools

import numpy as np
import pytest
from scipy import stats

from homl_models.pipelines import masked_text, pretraining_instances, text_files
from homl_models.pipelines.pretraining_instances import Encoded
from homl_models.tokenizers.wordpiece import SPECIAL, WordPiece
from tests import checks
from tests.conftest import DATA

PAD, CLS, SEP, MASK = (SPECIAL.index(name) for name in ("[PAD]", "[CLS]", "[SEP]", "[MASK]"))
FIRST = len(SPECIAL)  # id of the first token of a corpus


# Encoding.

PIECES = WordPiece((*SPECIAL, "play", "##ing", "##s", "a", "b", ".", "!", "dog", "##gy"))


def test_tokens_are_those_of_each_sentence_alone():
    documents = [["a dogs!", "playings doggy ."], ["b"], ["  ", "?" * 900, "dog " * 300, "a [MASK] [SEP] b playing"]]
    encoded = pretraining_instances.encode(documents, PIECES)
    assert encoded.ids.dtype == encoded.word_ids.dtype == np.int32
    sentences = [text for document in documents for text in document if text.strip()]
    assert encoded.documents.tolist() == [0, 2, 3, 6]
    assert len(encoded.sentences) == len(sentences) + 1
    for text, first, last in zip(sentences, encoded.sentences, encoded.sentences[1:]):
        alone = PIECES.encode([text], offsets=True)
        np.testing.assert_array_equal(encoded.ids[first:last], alone["input_ids"][0, 1:-1])
        words, wanted = encoded.word_ids[first:last], alone["word_ids"][0, 1:-1]
        special = np.isin(encoded.ids[first:last], [CLS, SEP, MASK, PAD])
        assert set(words[special]) <= {-1}
        same = words[:, None] == words
        np.testing.assert_array_equal(same[~special][:, ~special], (wanted[:, None] == wanted)[~special][:, ~special])
    assert len(np.unique(encoded.word_ids[encoded.word_ids >= 0])) == 3 + 3 + 1 + 900 + 300 + 3


def test_what_has_no_token_is_left_out():
    encoded = pretraining_instances.encode([[""], ["a", " ", "b"], [], ["\u200b"], ["a"]], PIECES)
    assert encoded.ids.tolist() == PIECES.encode(["a b a"])["input_ids"][0, 1:-1].tolist()
    assert encoded.sentences.tolist() == [0, 1, 2, 3]
    assert encoded.documents.tolist() == [0, 2, 3]
    for nothing in ([], [[]], [["", " "]]):
        checks.fails("hold no words", functools.partial(pretraining_instances.encode, nothing, PIECES))


# Rows.


def corpus(documents=40, sentences=12, longest=30, pieces=4, seed=0):
    """Documents of 1 to `sentences` sentences of up to `longest` distinct tokens, words of 1 to `pieces`."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, sentences + 1, documents)
    lengths = rng.integers(1, longest + 1, counts.sum())
    splits = np.concatenate([[0], np.cumsum(lengths)])
    begins = rng.random(splits[-1]) < 2 / (pieces + 1)
    for i in range(pieces, len(begins)):  # no word is longer than that
        begins[i] |= not begins[i - pieces + 1 : i].any()
    begins[splits[:-1]] = True
    vocabulary = [*SPECIAL, *(f"t{i}" if begin else f"##t{i}" for i, begin in enumerate(begins))]
    ids, words = np.arange(FIRST, len(vocabulary), dtype=np.int32), np.cumsum(begins, dtype=np.int32)
    return Encoded(ids, words, splits, np.concatenate([[0], np.cumsum(counts)]), WordPiece(vocabulary))


def segments(rows):
    """Text of each row without special tokens: [(A, B or None), ...] as positions in the corpus; checks the rest."""
    found = []
    for ids, types, length, words in zip(rows.input_ids, rows.token_type_ids, rows.lengths, rows.word_ids):
        assert (ids[0], ids[length - 1]) == (CLS, SEP)
        assert not ids[length:].any()
        assert not types[length:].any()
        ends = np.flatnonzero(ids == SEP)
        assert len(ends) == 1 + (rows.next_sentence_label is not None)
        np.testing.assert_array_equal(types[:length], np.arange(length) > ends[0])
        np.testing.assert_array_equal(words < 0, ids < FIRST)
        parts = [part - FIRST for part in np.split(ids[1 : ends[-1]], ends[:-1] - 1)]
        found.append((parts[0], parts[1][1:] if len(parts) > 1 else None))
    return found


@pytest.mark.parametrize("full_sentences", [False, True])
@pytest.mark.parametrize("max_length", [3, 16, 50, 2000])
def test_packed_rows_hold_every_token_once_in_order(max_length, full_sentences):
    encoded = corpus()
    rows = pretraining_instances.create_instances(encoded, max_length, pairs=False, full_sentences=full_sentences)
    found = [text for text, _ in segments(rows)]
    np.testing.assert_array_equal(np.concatenate(found), np.arange(len(encoded.ids)))
    assert rows.next_sentence_label is None
    assert rows.lengths.max() == rows.input_ids.shape[1] <= max_length
    document = np.repeat(np.arange(40), np.diff(encoded.sentences[encoded.documents]))
    over = sum(document[text[0]] != document[text[-1]] for text in found)
    assert (over > 0) == (full_sentences and max_length > 3)
    if max_length >= 50:  # longer than any sentence: whole ones, and no other would have fitted
        ends = {text[-1] + 1 for text in found}
        assert ends <= set(encoded.sentences)
        sizes = dict(zip(encoded.sentences, np.diff(encoded.sentences)))
        last = set(encoded.sentences[encoded.documents[1:]]) if not full_sentences else {len(encoded.ids)}
        assert all(t[-1] + 1 in last or len(t) + 2 + sizes[t[-1] + 1] > max_length for t in found)


def test_words_of_rows_are_those_of_the_corpus():
    encoded = corpus()
    for pairs in (False, True):
        rows = pretraining_instances.create_instances(encoded, 40, pairs=pairs)
        text = rows.input_ids >= FIRST
        np.testing.assert_array_equal(rows.word_ids[text], encoded.word_ids[rows.input_ids[text] - FIRST])


def test_a_sentence_longer_than_a_row_is_cut_into_like_parts():
    encoded = corpus(3, 1, 1)
    for length, room in ((25, 10), (30, 10), (31, 10), (7, 1)):
        one = Encoded(np.arange(length), np.arange(length), np.array([0, length]), np.array([0, 1]), encoded.wordpiece)
        sizes = pretraining_instances.create_instances(one, room + 2, pairs=False).lengths - 2
        assert sizes.sum() == length
        assert len(sizes) == -(-length // room)
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(("max_length", "short_seq_prob"), [(64, 0.1), (64, 1.0), (63, 0.0), (5, 0.1), (24, 0.0)])
def test_the_second_segment_follows_or_is_from_another_document(max_length, short_seq_prob):
    encoded = corpus(60, 6)
    rows = pretraining_instances.create_instances(encoded, max_length, short_seq_prob=short_seq_prob, seed=3)
    starts, room = encoded.sentences[encoded.documents], max_length - 3
    document = np.repeat(np.arange(60), np.diff(starts))
    borders = set(pretraining_instances.split_sentences(encoded, room // 2)[0] if room < 60 else encoded.sentences)
    next_place = 0  # what a row leaves of a document is the begin of the next one
    for (a, b), label in zip(segments(rows), rows.next_sentence_label):
        assert len(a)
        assert len(b)
        assert len(a) + len(b) <= room
        for part in (a, b):
            np.testing.assert_array_equal(part, np.arange(part[0], part[-1] + 1))
            assert {part[0], part[-1] + 1} <= borders
            assert document[part[0]] == document[part[-1]]
        assert a[0] == next_place
        if label:
            assert document[a[0]] != document[b[0]]
            next_place = a[-1] + 1
        else:
            assert document[a[0]] == document[b[0]]
            assert b[0] == a[-1] + 1
            next_place = b[-1] + 1
    assert next_place == len(encoded.ids)
    assert set(rows.next_sentence_label) == {0, 1}


def test_half_of_the_pairs_follow_and_documents_are_drawn_evenly():
    encoded = corpus(200, 60, 12)
    rows = pretraining_instances.create_instances(encoded, 64)
    starts = encoded.sentences[encoded.documents]
    document = np.repeat(np.arange(200), np.diff(starts))
    last = np.repeat(encoded.sentences[encoded.documents[1:] - 1], np.diff(starts))  # the last sentence of each
    free = np.array([a[0] != last[a[0]] for a, _ in segments(rows)])
    labels = rows.next_sentence_label
    assert labels[~free].all()
    assert abs(labels[free].mean() - 0.5) < 4 * 0.5 / np.sqrt(free.sum())
    others = np.array([document[b[0]] for (_, b), label in zip(segments(rows), labels) if label])
    assert stats.chisquare(np.bincount(others // 10)).pvalue > 0.01
    print(f"pairs that do not follow: {labels.mean():.3f} of all")


def test_some_rows_are_shorter_and_no_others():
    encoded = corpus(200, 60, 12)
    size = dict(zip(encoded.sentences, np.diff(encoded.sentences)))
    ends = set(encoded.sentences[encoded.documents])
    early = {}  # whether the next sentence would have fitted
    for fraction in (0.0, 0.1, 1.0):
        found = segments(pretraining_instances.create_instances(encoded, 64, short_seq_prob=fraction))
        found = [(len(a) + len(b), b[-1] + 1) for a, b in found if b[-1] + 1 not in ends]
        early[fraction] = np.array([tokens + size[after] <= 61 for tokens, after in found])
    assert not early[0.0].any()
    assert 0.7 < early[1.0].mean() < 0.95
    wanted = 0.1 * early[1.0].mean()
    assert abs(early[0.1].mean() - wanted) < 4 * np.sqrt(wanted / len(early[0.1]))


def test_pairs_are_a_function_of_the_seed():
    encoded = corpus()
    one, same, other = (pretraining_instances.create_instances(encoded, 64, seed=seed) for seed in (1, 1, 2))
    for name in ("input_ids", "token_type_ids", "lengths", "word_ids", "next_sentence_label"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert one.input_ids.shape != other.input_ids.shape or (one.input_ids != other.input_ids).any()


def test_rows_without_room_and_pairs_of_one_document_are_refused():
    checks.fails("have no room", lambda: pretraining_instances.create_instances(corpus(), 2, pairs=False), "max_length")
    checks.fails("have no room", lambda: pretraining_instances.create_instances(corpus(), 4), "max_length")
    checks.fails("two documents at least", lambda: pretraining_instances.create_instances(corpus(1)), "empty lines")
    assert len(pretraining_instances.create_instances(corpus(2), 5).lengths)


# Batches.


@functools.cache
def packed(max_length=40, **settings):
    return pretraining_instances.create_instances(corpus(**settings), max_length, pairs=False)


@functools.cache
def paired():
    return pretraining_instances.create_instances(corpus(), 64)


def read(dataset):
    return [({k: v.numpy() for k, v in x.items()}, {k: v.numpy() for k, v in y.items()}) for x, y in dataset]


def joined(found):
    """Batches of one shape as one."""
    return [{k: np.concatenate([pair[i][k] for pair in found]) for k in found[0][i]} for i in (0, 1)]


def restored(rows, found):
    """Checks each row of the batches against `rows` -> their numbers, -1 for empty ones."""
    number, order = {ids[1]: i for i, ids in enumerate(rows.input_ids)}, []
    for x, y in found:
        assert {v.dtype for v in (*x.values(), *y.values())} == {np.dtype("int32")}
        assert x["masked_positions"].shape == y["labels"].shape
        for r, (ids, positions, labels) in enumerate(zip(x["input_ids"], x["masked_positions"], y["labels"])):
            real = labels != -100
            assert not positions[~real].any()
            assert (np.diff(positions[real]) > 0).all()
            ids = ids.copy()
            ids[positions[real]] = labels[real]
            if not ids.any():
                assert not real.any()
                assert not x["attention_mask"][r].any()
                order.append(-1)
                continue
            i, width = number[ids[1]], len(ids)
            np.testing.assert_array_equal(ids, rows.input_ids[i, :width])
            np.testing.assert_array_equal(x["token_type_ids"][r], rows.token_type_ids[i, :width])
            np.testing.assert_array_equal(x["attention_mask"][r], np.arange(width) < rows.lengths[i])
            assert (labels[real] >= FIRST).all()
            if rows.next_sentence_label is not None:
                assert y["next_sentence_label"][r] == rows.next_sentence_label[i]
            order.append(i)
    return order


@pytest.mark.parametrize("whole_word_mask", [False, True])
@pytest.mark.parametrize("rows", [packed, paired])
def test_undoing_the_masks_gives_the_rows_each_once_an_epoch(rows, whole_word_mask):
    rows = rows()
    for buckets in (1, 3):
        dataset = masked_text.batches(rows, 8, 5, whole_word_mask=whole_word_mask, buckets=buckets)
        order = restored(rows, read(dataset.dataset(0, 3 * dataset.steps)))
        epochs = [[i for i in epoch if i >= 0] for epoch in np.reshape(order, (3, -1)).tolist()]
        assert all(sorted(epoch) == [*range(len(rows.lengths))] for epoch in epochs)
        assert len({tuple(epoch) for epoch in (*epochs, range(len(rows.lengths)))}) == 4


@pytest.mark.parametrize("buckets", [1, 3])
def test_a_batch_is_a_function_of_its_step(buckets):
    one = masked_text.batches(paired(), 8, 5, buckets=buckets)
    whole = read(one.dataset(0, 2 * one.steps))
    checks.close(read(one.dataset(one.steps - 1, one.steps + 1)), whole[one.steps - 1 : one.steps + 1])
    again = masked_text.batches(paired(), 8, 5, buckets=buckets)
    checks.close(read(again.dataset(5)), whole[5 : one.steps])  # resumed
    other = read(masked_text.batches(paired(), 8, 6, buckets=buckets).dataset())
    assert not any(np.array_equal(a["input_ids"], b["input_ids"]) for (a, _), (b, _) in zip(whole, other))


def test_masks_are_others_in_each_epoch():
    rows = packed()
    dataset = masked_text.batches(rows, 8, 5)
    found = {}
    for x, y in read(dataset.dataset(0, 5 * dataset.steps)):
        for i, positions in chosen(rows, x, y):
            found.setdefault(i, []).append(positions.tobytes())
    long = [positions for i, positions in found.items() if rows.lengths[i] > 22]  # three masks of 20 tokens, or more
    assert len(long) > 50
    assert np.mean([len(set(positions)) == len(positions) for positions in long]) > 0.95


def many(rows, count=200, **how):
    """32 times `count` rows with masks, of as many epochs as that takes."""
    size = min(32, len(rows.lengths))
    dataset = masked_text.batches(rows, size, 1, **how)
    steps = -(-32 * count // len(rows.lengths)) * dataset.steps
    found = joined(read(dataset.dataset(0, steps)))
    full = np.flatnonzero(found[0]["attention_mask"].any(axis=1))[: 32 * count]
    return [{name: array[full] for name, array in part.items()} for part in found]


@pytest.mark.parametrize("fraction", [0.15, 0.4, 1.0, 0.001])
def test_each_row_has_its_share_of_masks(fraction):
    x, y = many(packed(), 20, masked_lm_prob=fraction)
    tokens = x["attention_mask"].sum(axis=1) - 2
    wanted = [max(1, round(fraction * n)) for n in tokens.tolist()]
    np.testing.assert_array_equal((y["labels"] >= 0).sum(axis=1), wanted)
    assert y["labels"].shape[1] == max(1, round(fraction * (packed().lengths.max() - 2)))


def outcomes(x, y, rows):
    """Of the chosen tokens: fractions that became [MASK], became others, stayed; the others; their number."""
    real = y["labels"] >= 0
    new = np.take_along_axis(x["input_ids"], x["masked_positions"], axis=1)[real]
    old = y["labels"][real]
    others = new[(new != MASK) & (new != old)]
    return np.mean([new == MASK, (new != MASK) & (new != old), new == old], axis=1), others, len(new)


def test_eighty_ten_and_ten_per_cent_and_any_token_but_a_special_one():
    rows = packed(16, documents=8, sentences=4, longest=8)
    fractions, others, count = outcomes(*many(rows, 500), rows)
    vocabulary = len(rows.wordpiece.vocabulary) - FIRST
    wanted = np.array([0.8, 0.1 - 0.1 / vocabulary, 0.1 + 0.1 / vocabulary])
    assert (abs(fractions - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / count)).all()
    assert others.min() >= FIRST
    assert stats.chisquare(np.bincount(others - FIRST, minlength=vocabulary)).pvalue > 0.01
    fractions, _, _ = outcomes(*many(rows, 10, always_mask=True), rows)
    assert fractions.tolist() == [1, 0, 0]


def test_specials_in_a_text_are_not_masked_and_unknown_words_are():
    encoded = pretraining_instances.encode([["a [MASK] zzz [SEP] b [CLS] [PAD]"]], PIECES)
    x, y = many(pretraining_instances.create_instances(encoded, pairs=False), 10, masked_lm_prob=1.0)
    assert {tuple(positions) for positions in x["masked_positions"]} == {(1, 3, 5)}
    assert {tuple(labels) for labels in y["labels"]} == {tuple(PIECES.encode(["a zzz b"])["input_ids"][0, 1:-1])}


def test_every_place_is_masked_equally_often():
    vocabulary = WordPiece((*SPECIAL, *map(str, range(900))))
    splits = np.arange(0, 901, 18)
    encoded = Encoded(np.arange(900) + FIRST, np.arange(900), splits, np.array([0, 50]), vocabulary)
    x, y = many(pretraining_instances.create_instances(encoded, 20, pairs=False), 400)
    assert y["labels"].shape[1] == 3
    assert (y["labels"] >= 0).all()
    counts, wanted = np.bincount(x["masked_positions"].ravel(), minlength=20), len(x["input_ids"]) / 6
    assert counts[[0, 19]].tolist() == [0, 0]
    assert (abs(counts[1:-1] - wanted) < 4 * np.sqrt(wanted * 5 / 6)).all()
    sets = np.unique(x["masked_positions"], axis=0, return_counts=True)[1]  # and every three of them
    assert len(sets) == 18 * 17 * 16 / 6
    assert stats.chisquare(sets).pvalue > 0.01


def chosen(rows, x, y):
    """For each row of a batch: its number in `rows`, and which of its positions were chosen (t,)."""
    number = {ids[1]: i for i, ids in enumerate(rows.input_ids)}
    for ids, positions, labels in zip(x["input_ids"], x["masked_positions"], y["labels"]):
        ids, real = ids.copy(), labels != -100
        ids[positions[real]] = labels[real]
        if not real.any():  # a row that fills up
            continue
        yield number[ids[1]], np.isin(np.arange(len(ids)), positions[real])


@pytest.mark.parametrize("fraction", [0.05, 0.15, 0.5])
def test_whole_words_are_masked_or_not_at_all(fraction):
    rows = packed(64)
    x, y = many(rows, 30, whole_word_mask=True, masked_lm_prob=fraction)
    total, hits = 0, np.zeros(5, int)
    for i, positions in chosen(rows, x, y):
        words = rows.word_ids[i]
        tokens = (words >= 0).sum()
        budget = max(1, round(fraction * tokens))
        total += budget
        left = budget - positions.sum()
        assert left >= 0
        for word in np.unique(words[words >= 0]):
            size = (words == word).sum()
            masked = positions[words == word].sum()
            if size <= budget:
                assert masked in (0, size)
                assert masked or size > left  # those that were left out would have been too many
            else:
                assert masked == size or not left
            hits[size] += masked > 0
    assert abs((y["labels"] >= 0).sum() / total - 1) < 0.01
    assert (hits[1:] > 0).all()
    print("fraction of tokens chosen, of what was asked for:", (y["labels"] >= 0).sum() / total)


def test_whole_words_are_masked_nearly_equally_often():
    rows = packed(64)
    x, y = many(rows, 100, whole_word_mask=True)
    seen, masked = np.zeros(5), np.zeros(5)
    for i, positions in chosen(rows, x, y):
        words = rows.word_ids[i][rows.word_ids[i] >= 0]
        if len(words) > 50:
            values, first, size = np.unique(words, return_index=True, return_counts=True)
            seen += np.bincount(size, minlength=5)
            masked += np.bincount(size, positions[1 : 1 + len(words)][first], minlength=5)
    print("fraction of words of 1, 2, 3 and 4 pieces that were masked:", masked[1:] / seen[1:])
    assert (abs(masked[1:] / seen[1:] - 0.15) < 0.06).all()


def test_of_a_word_longer_than_the_budget_pieces_are_masked():
    vocabulary = WordPiece((*SPECIAL, *(f"##{i}" for i in range(40))))
    encoded = Encoded(np.arange(40) + FIRST, np.zeros(40, int), np.array([0, 40]), np.array([0, 1]), vocabulary)
    rows = pretraining_instances.create_instances(encoded, 42, pairs=False)
    x, y = many(rows, 100, whole_word_mask=True)
    assert (y["labels"] >= 0).sum(axis=1).tolist() == [6] * 3200
    counts = np.bincount(x["masked_positions"].ravel(), minlength=42)[1:-1]
    assert (abs(counts - 480) < 4 * np.sqrt(480 * 0.85)).all()


@pytest.mark.parametrize(("rows", "whole_word_mask"), [(packed, False), (paired, True)], ids=["packed", "paired"])
def test_buckets_have_static_shapes_and_less_padding(rows, whole_word_mask):
    rows, padding = rows(), {}
    for buckets in (1, 4):
        dataset = masked_text.batches(rows, 8, 2, whole_word_mask=whole_word_mask, buckets=buckets)
        found = read(dataset.dataset())
        restored(rows, found)
        shapes = {(x["input_ids"].shape, y["labels"].shape) for x, y in found}
        assert len(shapes) == buckets
        assert {shape[0] for pair in shapes for shape in pair} == {8}
        mask = np.concatenate([x["attention_mask"].ravel() for x, _ in found])
        padding[buckets] = round(1 - mask.mean(), 3)
    print("fraction of padding by buckets:", padding)
    assert padding[4] < 0.6 * padding[1]
    x, y = masked_text.batches(rows, 8, 2, whole_word_mask=whole_word_mask).dataset().element_spec
    assert {tuple(x[name].shape) for name in x if name != "masked_positions"} == {(8, rows.input_ids.shape[1])}
    assert x["masked_positions"].shape == y["labels"].shape
    assert y["labels"].shape.is_fully_defined()


def by_row(rows, dataset):
    """{first token of a row: (ids, positions, labels)} of an epoch, without padding."""
    found = {}
    for x, y in read(dataset.dataset()):
        for i, (ids, mask) in enumerate(zip(x["input_ids"], x["attention_mask"])):
            real = y["labels"][i] >= 0
            if mask.any():
                key = tuple(rows.input_ids[[n for n, _ in chosen(rows, *part(x, y, i))][0]])
                assert key not in found
                found[key] = tuple(map(tuple, (ids[mask > 0], x["masked_positions"][i][real], y["labels"][i][real])))
    return found


def part(x, y, i):
    return {k: v[i : i + 1] for k, v in x.items()}, {k: v[i : i + 1] for k, v in y.items()}


@pytest.mark.parametrize(("rows", "whole_word_mask"), [(packed, False), (paired, True)], ids=["packed", "paired"])
def test_validation_takes_each_row_once_with_masks_of_the_seed_alone(rows, whole_word_mask):
    rows = rows()
    datasets = [
        masked_text.eval_batches(rows, b, 3, whole_word_mask=whole_word_mask, buckets=n)
        for b, n in ((8, 1), (7, 3), (500, 1))
    ]
    found = [by_row(rows, dataset) for dataset in datasets]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == len(rows.lengths)
    epochs = [read(datasets[1].dataset(k * datasets[1].steps, (k + 1) * datasets[1].steps)) for k in (0, 2)]
    checks.close(*epochs)
    order = restored(rows, epochs[0])
    assert sorted(i for i in order if i >= 0) == list(range(len(rows.lengths)))
    other = by_row(rows, masked_text.eval_batches(rows, 8, 4, whole_word_mask=whole_word_mask))
    assert np.mean([found[0][key] == other[key] for key in other]) < 0.2
    if rows.next_sentence_label is not None:
        labels = np.concatenate([y["next_sentence_label"] for _, y in epochs[0]])
        assert (labels[np.array(order) < 0] == -100).all()


def test_electra_has_its_labels_among_the_inputs():
    dataset = masked_text.batches(paired(), 8, 2, always_mask=True)
    for (x, y), (ours, zeros) in zip(dataset.dataset(0, 3), masked_text.electra_batches(dataset).dataset(0, 3)):
        checks.close({name: ours[name] for name in ours if name != "masked_labels"}, x)
        checks.close(ours["masked_labels"], y["labels"])
        assert zeros.shape == (8,)
        assert not np.any(zeros)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1])
def test_a_share_that_is_none_is_refused(fraction):
    checks.fails("above 0 and at most 1", lambda: masked_text.batches(packed(), 8, 0, masked_lm_prob=fraction))


# With models, and on real reviews.

SIZES = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 64,
}


def test_the_models_take_the_batches():
    from homl_models.models import Bert, BertConfig, BertForPreTraining, Electra, ElectraConfig, ElectraPretrainer

    rows = paired()
    size = len(rows.wordpiece.vocabulary)
    dataset = masked_text.eval_batches(rows, len(rows.lengths) + 3, whole_word_mask=True)  # with empty rows
    [(x, y)] = dataset.dataset()
    model = BertForPreTraining(Bert(BertConfig(size, **SIZES)))
    model.build()
    assert np.isfinite(model.compute_loss(x, y, model(x)))
    config = ElectraConfig(size, embedding_size=8, **SIZES)
    model = ElectraPretrainer(Electra(config), config)
    model.build()
    [(x, _)] = masked_text.electra_batches(dataset).dataset()
    found = model(x)
    np.testing.assert_array_equal(found["original"][:-3], rows.input_ids)
    assert np.isfinite(model.compute_loss(x, None, found))


def test_real_reviews_become_batches():
    reviews = DATA / "imdb" / "imdb_reviews_test_half.csv.gz"
    vocabulary = DATA / "vocab" / "bert-base-uncased-vocab.txt"
    for path in (reviews, vocabulary):
        if not path.exists():
            pytest.skip(f"needs the IMDb reviews, and {path} is not there; set HOML_TEST_DATA to their data folder")
    documents = text_files.read_documents(reviews)
    assert len(documents) == 12_500
    assert not any("<br />" in sentence for document in documents for sentence in document)
    encoded = pretraining_instances.encode(documents[:200], WordPiece.from_file(vocabulary))
    for settings in ({"pairs": True}, {"pairs": False, "full_sentences": True}):
        rows = pretraining_instances.create_instances(encoded, 128, **settings)
        padding = []
        for buckets in (1, 4):
            found = read(masked_text.batches(rows, 16, 0, whole_word_mask=True, buckets=buckets).dataset())
            padding.append(1 - np.concatenate([x["attention_mask"].ravel() for x, _ in found]).mean())
        print(settings, "fraction of padding with 1 and 4 buckets:", np.round(padding, 3))
        assert padding[1] <= padding[0] < 0.3
