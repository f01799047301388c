"""Pairs of sentences: files, splits without leaks, and batches of a few shapes."""

import codecs
import collections
import gzip
import io
import itertools
import unicodedata
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from homl_models.pipelines import translation
from homl_models.tokenizers.base import END, SPECIAL, START
from homl_models.tokenizers.characters import Characters
from homl_models.tokenizers.words import Words, learn_words
from tests import checks

PAIRS = [("Go.", "Ve."), ("I'm “here”.", "¡Estoy aquí!"), ("Who?", "¿Quién?"), ("a\u2028b\x85c", "one line")]
TEXT = "".join(f"{source}\t{target}\n" for source, target in PAIRS).encode()


def read(folder, data, name="pairs.txt"):
    (folder / name).write_bytes(data)
    return translation.read_pairs(folder / name)


def zipped(**files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def damaged_zip():
    """A zip whose compressed bytes are others than those that were written."""
    data = bytearray(zipped(**{"a.txt": TEXT}))
    begin = 30 + len("a.txt")
    data[begin : begin + 20] = b"\xff" * 20
    return bytes(data)


def encrypted_zip():
    """A zip that says of itself that a password is needed."""
    data = bytearray(zipped(**{"a.txt": TEXT}))
    for place in (6, data.index(b"PK\x01\x02") + 8):  # the flags of the file, and of its entry
        data[place] |= 1
    return bytes(data)


# Reading.

FILES = {
    "plain": TEXT,
    "no last newline": TEXT[:-1],
    "byte order mark": codecs.BOM_UTF8 + TEXT,
    "CRLF": TEXT.replace(b"\n", b"\r\n"),
    "CR": TEXT.replace(b"\n", b"\r"),
    "more columns": TEXT.replace(b"\n", b"\tCC-BY 2.0 (France) Attribution: tatoeba.org #1\t\n"),
    "spaces around": TEXT.replace(b"\t", b"  \t ").replace(b"\n", b" \n"),
    "empty lines": b"\n\n" + TEXT.replace(b"\n", b"\n \t \n\n"),
    "gzip": gzip.compress(codecs.BOM_UTF8 + TEXT),
    "zip": zipped(**{"spa-eng/spa.txt": TEXT}),
    "zip of more": zipped(**{"f/_about.txt": b"?" * 999, "x/a.md": b"?" * 999, "b.txt": b"?", "f/spa.tsv": TEXT}),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_a_file_of_pairs_is_read_in_every_packing(tmp_path, data):
    assert read(tmp_path, data) == PAIRS
    assert read(tmp_path, data, "no_ending") == PAIRS  # it is not the name that tells


def test_the_pairs_of_the_book_are_read(spa_eng):
    assert len(spa_eng) == 118_964
    assert spa_eng[0] == ("Go.", "Ve.")
    assert all(source and target and "\t" not in source + target for source, target in spa_eng)


def test_malformed_lines_are_left_out_and_named(tmp_path):
    lines = [f"source {i}\ttarget {i}" for i in range(1, 401)]
    lines[2], lines[99], lines[399] = "no tab", "\tno source", "no target\t "
    with pytest.warns(UserWarning, match=r"3 of 400 lines .*\(lines 3, 100, 400\); they are left out") as caught:
        pairs = read(tmp_path, "\n".join(lines).encode())
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert pairs == [(f"source {i}", f"target {i}") for i in range(1, 401) if i not in (3, 100, 400)]


def test_no_more_than_one_in_a_hundred_lines_may_be_malformed(tmp_path):
    good, bad = b"source\ttarget\n", b"bad\n"
    with pytest.warns(UserWarning, match="2 of 200 lines"):
        assert len(read(tmp_path, good * 198 + bad * 2)) == 198
    checks.fails(
        r"3 of 200 lines .*\(lines 198, 199, 200\)", lambda: read(tmp_path, good * 197 + bad * 3), "correct the file"
    )
    checks.fails(r"\(lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, \.\.\.\)", lambda: read(tmp_path, bad * 11 + good * 9))


def test_numbers_of_malformed_lines_count_empty_ones(tmp_path):
    with pytest.warns(UserWarning, match=r"1 of 101 lines .*\(lines 4\)"):
        read(tmp_path, b"\n\n\nbad\n" + b"source\ttarget\n" * 100)


def test_lines_with_more_columns_than_the_others_are_warned_about(tmp_path):
    with pytest.warns(UserWarning, match="most lines have 2 columns, but not lines 2; only the first two are read"):
        assert read(tmp_path, b"a\tb\nc\td\te\nf\tg\n") == [("a", "b"), ("c", "d"), ("f", "g")]


LATIN = "Señor\tsir\n".encode("latin-1")
BROKEN = {
    "empty": (b"", "is empty", "a tab"),
    "only empty lines": (b" \n\n\r\n", "is empty", "a tab"),
    "only a byte order mark": (codecs.BOM_UTF8, "is empty", "a tab"),
    "empty gzip": (gzip.compress(b""), "is empty", "a tab"),
    "one column": (b"Hello\nthere\n", "2 of 2 lines are not a source, a tab and a target", "correct the file"),
    "other separator": (b"Hello, Hola\n", "1 of 1 lines", "correct the file"),
    "Latin-1": (LATIN, r"is not UTF-8 text \(line 1\)", "iconv"),
    "gzipped Latin-1": (gzip.compress(LATIN), r"is not UTF-8 text \(line 1\)", "iconv"),
    "UTF-16": ("Hi\tHola\n".encode("utf-16"), r"is not UTF-8 text \(line 1: it is UTF-16\)", "iconv"),
    "half a gzip": (gzip.compress(TEXT * 9)[:-12], "cannot read", "check the file"),
    "a damaged gzip": (gzip.compress(TEXT)[:12] + b"\xff" * 60, "cannot read", "check the file"),
    "a damaged zip": (damaged_zip(), "cannot read", "check the file"),
    "an encrypted zip": (encrypted_zip(), "cannot read .* encrypted", "check the file"),
    "a zip of other things": (zipped(**{"a.csv": TEXT}), r"holds no .txt or .tsv file", "give one"),
    "an empty zip": (zipped(), r"holds no .txt or .tsv file", "give one"),
}


@pytest.mark.parametrize(("data", "what", "named"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_file_of_pairs_is_refused_in_one_line(tmp_path, data, what, named):
    checks.fails(what, lambda: read(tmp_path, data), named, "pairs.txt")


def test_a_file_that_cannot_be_opened_is_refused_in_one_line(tmp_path):
    checks.fails("cannot read .*absent.txt: No such file", lambda: translation.read_pairs(tmp_path / "absent.txt"))
    checks.fails("cannot read .*: Is a directory", lambda: translation.read_pairs(tmp_path))


# Splitting.


def test_the_split_of_the_book(spa_eng):
    parts = translation.book_split(spa_eng, 42)
    assert [len(part) for part in parts] == [100_000, 9_482, 9_482]
    assert sorted(sum(parts, [])) == sorted(spa_eng)
    assert parts == translation.book_split(tuple(spa_eng), 42)
    assert parts[0][:100] != translation.book_split(spa_eng, 43)[0][:100]
    assert 0.4 < np.mean([a > b for a, b in zip(parts[0], parts[0][1:])]) < 0.6  # in no order


def test_fewer_pairs_are_split_in_the_same_proportion():
    pairs = [(str(i), str(i)) for i in range(1_000)]
    parts = translation.book_split(pairs, 0)
    assert [len(part) for part in parts] == [840, 80, 80]
    assert sorted(sum(parts, [])) == sorted(pairs)
    assert [len(part) for part in translation.book_split(pairs, 0, train=900)] == [900, 50, 50]


def sides(part):
    """Normalized sentences of a split: sources, targets."""
    return [{translation.normalized(pair[side]) for pair in part} for side in (0, 1)]


def assert_apart(parts):
    for i, part in enumerate(parts):
        for other in parts[:i]:
            for ours, theirs in zip(sides(part), sides(other)):
                assert ours
                assert not ours & theirs


def test_no_sentence_of_a_group_split_occurs_in_another_split(spa_eng):
    parts = translation.group_split(spa_eng, 42)
    assert sorted(sum(parts, [])) == sorted(spa_eng)
    assert_apart(parts)
    wanted = 0.03 * len(spa_eng)
    assert all(0.98 * wanted < len(part) <= wanted for part in parts[1:])
    for part in parts:
        lengths = [len(source) for source, _ in part]
        assert abs(np.corrcoef(lengths[:-1], lengths[1:])[0, 1]) < 0.05  # shuffled; the file goes by length
    with pytest.raises(AssertionError):
        assert_apart(translation.book_split(spa_eng, 42))  # which is why there is the other one


def test_the_group_split_is_a_function_of_the_seed():
    pairs = [(f"s{i}", f"t{i}") for i in range(2_000)]
    splits = [translation.group_split(pairs, seed) for seed in (0, 1, 1)]
    assert splits[0] != splits[1] == splits[2]
    assert [len(part) for part in splits[0]] == [1_880, 60, 60]
    assert [len(part) for part in translation.group_split(pairs, 0, fraction=0.1)] == [1_600, 200, 200]


@pytest.mark.parametrize("seed", range(10))
def test_connected_pairs_stay_together(seed):
    chain = [("a", "1"), ("B", "1!"), ("b.", "2"), ("C c", "¿2?"), ("c, C", "3")]  # a-1-b-2-c-3
    single = [(f"s{i}", f"t{i}") for i in range(1_000)]
    parts = translation.group_split(chain + single, seed, fraction=0.3)
    held = [len(set(chain) & set(part)) for part in parts]
    assert sorted(held) == [0, 0, 5]


def test_a_chain_can_be_in_any_split():
    chain = [("a", "1"), ("b", "1"), ("b", "2")]
    single = [(f"s{i}", f"t{i}") for i in range(300)]
    held = {
        next(
            i for i, part in enumerate(translation.group_split(chain + single, seed, fraction=0.3)) if chain[0] in part
        )
        for seed in range(40)
    }
    assert held == {0, 1, 2}


def test_a_large_group_is_for_training():
    group = [("hello", f"hola {i}") for i in range(40)]
    single = [(f"s{i}", f"t{i}") for i in range(1_000)]
    for seed in range(5):
        assert set(group) <= set(translation.group_split(group + single, seed)[0])


def test_an_equal_source_and_target_do_not_connect_pairs():
    groups = translation._connected_components([("no", "si"), ("yes", "no")])
    assert sorted(map(len, groups.values())) == [1, 1]


def test_sentences_are_compared_without_case_punctuation_and_spaces():
    assert translation.normalized("¿Qué hora ES?") == translation.normalized("qué  hora es") == "quéhoraes"
    assert translation.normalized("cafe\u0301, ﬁn, ＡＢ") == translation.normalized("café fin ab")
    assert translation.normalized("I ❤️ it") == translation.normalized("i ❤ it")
    assert translation.normalized("का") != translation.normalized("की")  # of one letter, with another vowel's mark
    assert translation.normalized("STRASSE") == translation.normalized("Straße")
    assert translation.normalized("uno") != translation.normalized("una")
    assert translation.normalized("?!") == "?!" != translation.normalized("...")


# Encoding.


def test_sources_end_and_targets_begin_and_end():
    source = Words((*SPECIAL, "who", "me"))
    target = Characters((*SPECIAL, "y", "o"))
    sources, targets = translation.encode([("Who? Me?", "yo"), ("never", ""), ("me", "oyó")], source, target)
    assert [ids.tolist() for ids in sources] == [[4, 5, 3], [1, 3], [5, 3]]
    assert [ids.tolist() for ids in targets] == [[2, 4, 5, 3], [2, 3], [2, 5, 4, 1, 3]]
    assert {ids.dtype for ids in sources + targets} == {np.dtype("int32")}


def test_decomposed_and_composed_letters_are_equal():
    pairs = [(f"Is it café {i}?", f"¿Es café {i}?") for i in range(300)]
    twins = [tuple(unicodedata.normalize("NFD", text) for text in pair) for pair in pairs]
    parts = translation.group_split(pairs + twins, 1, fraction=0.1)
    composed = [{tuple(unicodedata.normalize("NFC", text) for text in pair) for pair in part} for part in parts]
    assert [len(part) for part in parts] == [2 * len(part) for part in composed] == [480, 60, 60]


def test_a_side_of_mostly_unknown_words_is_warned_about():
    pairs = [("one two", "uno"), ("two two", "dos"), ("three", "tres")]
    source, target = (Words([*SPECIAL, *some]) for some in (["one", "two", "three"], ["uno"]))
    with pytest.warns(UserWarning, match="67% of the words of the targets are unknown to the vocabulary of 5") as told:
        translation.encode(pairs, source, target)
    assert len(told) == 1
    assert "--tokenizer subwords or characters" in str(told[0].message)


# Batches. Every token of pair i is 10 + i, so that a row tells its pair.


def encoded(count, words=None, seed=0):
    """Pairs as `encode` gives them, of so many words, or of random lengths with a long tail."""
    s, t = np.random.default_rng(seed).geometric(0.3, (2, count)) - 1 if words is None else [[words] * count] * 2
    sources = [np.array([10 + i] * n + [END], np.int32) for i, n in enumerate(s)]
    targets = [np.array([START] + [10 + i] * n + [END], np.int32) for i, n in enumerate(t)]
    for i, (source, target) in enumerate(zip(sources, targets)):
        source[-1] = target[-1] = 10 + i  # also of those without a word
    return sources, targets


def stream(count=103, num_buckets=3, batch_size=8, seed=None):
    return translation.batches(translation.bucket(*encoded(count), num_buckets), batch_size, seed)


def batches(dataset):
    return [((s.numpy(), t.numpy()), y.numpy()) for (s, t), y in dataset]


def assert_whole(found, pairs):
    """Check that each row of the batches is a pair, padded at the right, or empty -> their numbers, -1 for empty."""
    sources, targets = pairs
    order = []
    for (source, target), wanted in found:
        assert {x.dtype for x in (source, target, wanted)} == {np.dtype("int32")}
        assert len(source) == len(target) == len(wanted)
        for s, t, y in zip(source, target, wanted):
            i = int(s[0]) - 10 if s.any() else -1
            ids, row = (sources[i], targets[i]) if i >= 0 else ([], [0])
            np.testing.assert_array_equal(s, np.pad(ids, (0, len(s) - len(ids))))
            whole = np.pad(row, (0, len(t) + 1 - len(row)))
            np.testing.assert_array_equal(t, whole[:-1])
            np.testing.assert_array_equal(y, whole[1:])
            order.append(i)
    return order


@pytest.mark.parametrize("num_buckets", [1, 2, 5])
def test_buckets_hold_every_pair_once_in_order_of_length(num_buckets):
    sources, targets = encoded(500)
    buckets = translation.bucket(sources, targets, num_buckets)
    assert len(buckets) == num_buckets
    found = [source[:, 0] - 10 for source, _ in buckets]
    assert sorted(np.concatenate(found)) == list(range(500))
    lengths = [[max(len(sources[i]), len(targets[i]) - 1) for i in rows] for rows in found]
    assert all(max(short) < min(long) for short, long in zip(lengths, lengths[1:]))
    for (source, target), longest in zip(buckets, lengths):
        assert max(source.shape[1], target.shape[1] - 1) == max(longest)


@pytest.mark.parametrize("num_buckets", [1, 2, 3, 4, 7])
def test_length_buckets_have_the_least_padding(num_buckets):
    lengths = np.random.RandomState(num_buckets).choice([2, 3, 5, 6, 7, 11, 12, 20], 60, p=np.arange(1, 9)[::-1] / 36)
    sources = [np.full(n, 9, np.int32) for n in lengths]
    targets = [np.full(n + 1, 9, np.int32) for n in lengths]
    cost = sum(source.size for source, _ in translation.bucket(sources, targets, num_buckets))
    others = itertools.combinations(sorted(set(lengths))[:-1], num_buckets - 1)
    assert cost == min(sum(min(b for b in (*some, max(lengths)) if b >= n) for n in lengths) for some in others)


def test_pairs_of_one_length_share_one_bucket():
    sources, targets = encoded(30, words=0)
    assert [(s.shape, t.shape) for s, t in translation.bucket(sources, targets, 5)] == [((30, 1), (30, 2))]


@pytest.mark.parametrize("max_length", [1, 7])
def test_pairs_that_are_too_long_are_left_out_and_counted(max_length):
    sources, targets = encoded(300)
    wanted = [i for i in range(300) if len(sources[i]) <= max_length and len(targets[i]) - 1 <= max_length]
    assert 0 < len(wanted) < 300
    with pytest.warns(UserWarning, match=f"{300 - len(wanted)} of 300 pairs have more than {max_length} tokens"):
        kept, *short = translation.filter_by_length([*range(300)], sources, targets, max_length)
    assert kept == wanted
    found = batches(translation.batches(translation.bucket(*short, 3), 8).dataset())
    assert sorted(set(assert_whole(found, (sources, targets))) - {-1}) == wanted
    assert all(x.shape[1] <= max_length for (s, t), y in found for x in (s, t, y))


@pytest.mark.filterwarnings("error")
def test_short_pairs_are_kept_without_a_warning():
    assert translation.filter_by_length([*range(300)], *encoded(300), 99)[0] == [*range(300)]


def test_no_pair_left_is_an_error():
    checks.fails(
        "no pair has at most 0 tokens", lambda: translation.filter_by_length([1], *encoded(1), 0), "--max-length"
    )


@pytest.mark.parametrize("num_buckets", [1, 4])
@pytest.mark.parametrize("seed", [0, 42])
def test_training_takes_every_pair_once_an_epoch(num_buckets, seed):
    batch_size, pairs = 8, encoded(103)
    buckets = translation.bucket(*pairs, num_buckets)
    training = translation.batches(buckets, batch_size, seed)
    of = {int(i): b for b, (source, _) in enumerate(buckets) for i in source[:, 0] - 10}
    of[-1] = -1
    per_epoch = [-(-len(source) // batch_size) for source, _ in buckets]
    assert training.steps == sum(per_epoch)
    orders = set()
    for epoch in range(5):
        found = batches(training.dataset(epoch * training.steps, (epoch + 1) * training.steps))
        assert all(len(y) == batch_size for _, y in found)
        order = assert_whole(found, pairs)
        assert sorted(i for i in order if i >= 0) == [*range(103)]
        by_bucket = [{of[i] for i in order[k : k + batch_size]} - {-1} for k in range(0, len(order), batch_size)]
        assert all(len(one) == 1 for one in by_bucket)
        assert collections.Counter(b for one in by_bucket for b in one) == dict(enumerate(per_epoch))
        orders.add(tuple(order))
    assert len(orders) == 5


@pytest.mark.parametrize("num_buckets", [1, 3])
def test_each_epoch_is_one_pass_where_batches_divide_the_buckets(num_buckets):
    sources = [np.array([10 + i] * (1 + i // 32), np.int32) for i in range(32 * num_buckets)]
    targets = [np.array([START, *source], np.int32) for source in sources]
    buckets = [translation.bucket(sources[k : k + 32], targets[k : k + 32], 1)[0] for k in range(0, len(sources), 32)]
    training = translation.batches(buckets, 8, 7)
    assert training.steps == 4 * num_buckets
    epochs = [batches(training.dataset(e * training.steps, (e + 1) * training.steps)) for e in range(4)]
    orders = [tuple(assert_whole(found, (sources, targets))) for found in epochs]
    assert all(sorted(order) == list(range(len(sources))) for order in orders)
    assert len({*orders, tuple(range(len(sources)))}) == 5
    together = [{frozenset(order[k : k + 8]) for k in range(0, len(order), 8)} for order in orders]
    assert len(set.union(*together)) == 4 * training.steps  # other pairs meet in each epoch


def test_buckets_come_in_an_order_of_their_own_each_epoch():
    training = stream(400, 4, 8, seed=3)
    epochs = [
        tuple(y.shape[1] for _, y in batches(training.dataset(e * training.steps, (e + 1) * training.steps)))
        for e in range(4)
    ]
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    assert len({*epochs, tuple(sorted(epochs[0]))}) == 5


def test_the_order_is_a_function_of_the_seed():
    orders = [tuple(assert_whole(batches(stream(seed=seed).dataset()), encoded(103))) for seed in (*range(8), 0)]
    assert len(set(orders)) == 8
    assert orders[0] == orders[-1]


@pytest.mark.parametrize(("num_buckets", "seed"), [(3, 5), (1, 5), (3, None), (1, None)])
def test_a_batch_is_a_function_of_its_step(num_buckets, seed):
    one = stream(60, num_buckets, 8, seed)
    whole = batches(one.dataset(0, 3 * one.steps))
    assert len(whole) == 3 * one.steps
    for first, last in ((1, one.steps), (one.steps - 1, one.steps + 2), (3 * one.steps - 1, 3 * one.steps)):
        checks.close(batches(one.dataset(first, last)), whole[first:last])
    checks.close(batches(one.dataset()), whole[: one.steps])
    same = [np.array_equal(a, b) for (_, a), (_, b) in zip(whole[: one.steps], whole[one.steps :])]
    assert all(same) == (seed is None)


@pytest.mark.parametrize(("num_buckets", "batch_size"), [(1, 8), (4, 8), (4, 7), (3, 103), (1, 103)])
def test_validation_takes_each_pair_once_and_pads_with_empty_rows(num_buckets, batch_size):
    validation = stream(103, num_buckets, batch_size)
    found = batches(validation.dataset())
    assert len(found) == validation.steps
    assert all(len(y) == batch_size for _, y in found)
    order = np.array(assert_whole(found, encoded(103)))
    assert sorted(order[order >= 0]) == list(range(103))
    assert (order < 0).sum() == validation.steps * batch_size - 103
    counts = [len(source) for source, _ in translation.bucket(*encoded(103), num_buckets)]
    assert validation.steps == sum(-(-count // batch_size) for count in counts)


def test_few_pairs_in_many_buckets_are_taken_once_an_epoch():
    training = stream(20, 8, 8, seed=1)
    assert training.steps == 8
    counts = collections.Counter(assert_whole(batches(training.dataset(0, 24)), encoded(20)))
    counts.pop(-1)
    assert counts == dict.fromkeys(range(20), 3)


def test_shapes_are_few_and_those_of_a_single_bucket_are_static():
    shapes = {(s.shape, t.shape) for (s, t), _ in batches(stream(300, 4, 8, seed=0).dataset(0, 200))}
    assert len(shapes) == 4
    (source, target), wanted = stream(300, 1, 8, seed=0).dataset().element_spec
    [(sources, targets)] = translation.bucket(*encoded(300), 1)
    s, t = sources.shape[1], targets.shape[1] - 1
    assert [spec.shape for spec in (source, target, wanted)] == [(8, s), (8, t), (8, t)]
    (source, target), wanted = stream(300, 4, 8, seed=0).dataset().element_spec
    assert {spec.shape.rank for spec in (source, target, wanted)} == {2}


def test_little_of_a_real_batch_is_padding(spa_eng):
    pairs = spa_eng[::6]
    sources, targets = ([pair[side] for pair in pairs] for side in (0, 1))
    both = [Words(learn_words(tf.constant(texts), 1000)) for texts in (sources, targets)]
    sources, targets = translation.encode(pairs, *both)
    ratios = {}
    for num_buckets in (1, 5):
        buckets = translation.bucket(sources, targets, num_buckets)
        weights = [max(1, round(len(s) / 64)) * 64 / len(s) for s, _ in buckets]  # as training draws them
        places = sum(w * (s.size + t[:, 1:].size) for w, (s, t) in zip(weights, buckets))
        real = sum(w * ((s > 0).sum() + (t[:, 1:] > 0).sum()) for w, (s, t) in zip(weights, buckets))
        ratios[num_buckets] = places / real
    print("places per token:", ratios)
    assert 1 < ratios[5] < 1.35
    assert ratios[1] > 3
