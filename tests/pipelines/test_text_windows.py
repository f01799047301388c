"""Texts as training batches."""

import numpy as np
import pytest
from scipy import stats

from homl_models.errors import UserError
from homl_models.pipelines import text_windows
from homl_models.tokenizers import characters
from tests import checks

OFFLINE = """
import json, pathlib, sys
from homl_models.errors import UserError
from homl_models.pipelines import text_windows
try:
    error = text_windows.shakespeare()
except UserError as refusal:
    error = str(refusal)
(pathlib.Path(sys.argv[1]) / "datasets" / "shakespeare.txt").write_text("First Citizen")
print(json.dumps([error, text_windows.shakespeare()]))
"""
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
NO_NETWORK |= {"no_proxy": "", "NO_PROXY": ""}


def batches(dataset):
    return [tuple(part.numpy() for part in batch) for batch in dataset]


def starts(dataset):
    """Where the windows of a text 0, 1, 2, ... start, in order; windows and targets have to be right."""
    found = []
    for x, y in batches(dataset):
        assert x.dtype == y.dtype == np.int32
        np.testing.assert_array_equal(x, x[:, :1] + np.arange(x.shape[1]))
        np.testing.assert_array_equal(y, x + 1)
        found += x[:, 0].tolist()
    return found


# Windows. A text of 60 characters has 50 windows of 10 + 1.

IDS = np.arange(60)


def test_windows_in_order_come_once_each_with_a_smaller_last_batch():
    stream = text_windows.windows(IDS, 10, 7)
    assert stream.steps == 8
    assert starts(stream.dataset()) == list(range(50))
    assert [x.shape for x, _ in batches(stream.dataset())] == [(7, 10)] * 7 + [(1, 10)]


@pytest.mark.parametrize("stride", [3, 7, 49, 50, 100])
def test_windows_start_at_every_stride(stride):
    assert starts(text_windows.windows(IDS, 10, 4, stride=stride).dataset()) == list(range(0, 50, stride))
    shuffled = starts(text_windows.windows(IDS, 10, 1, seed=0, stride=stride).dataset())
    assert sorted(shuffled) == list(range(0, 50, stride))


@pytest.mark.parametrize("seed", [0, 42, 2**31 - 1])
def test_each_pass_is_another_permutation_of_the_windows(seed):
    stream = text_windows.windows(IDS, 10, 7, seed=seed)  # batches 7, 14 and 21 straddle two passes
    assert stream.steps == 50 // 7
    order = starts(stream.dataset(0, 29))[:200]
    passes = [tuple(order[i : i + 50]) for i in range(0, 200, 50)]
    for one in passes:
        assert sorted(one) == list(range(50))
    assert len({tuple(range(50)), *passes}) == 5
    assert all(len(x) == 7 for x, _ in batches(stream.dataset(0, 29)))


def test_seeds_give_different_orders():
    orders = {tuple(starts(text_windows.windows(IDS, 10, 10, seed=seed).dataset())) for seed in range(10)}
    assert len(orders) == 10


@pytest.mark.parametrize("seed", [0, 42])
def test_any_window_can_be_the_first_of_a_pass(seed):
    passes = np.array(starts(text_windows.windows(IDS, 10, 50, seed=seed).dataset(0, 300))).reshape(300, 50)
    assert stats.chisquare(np.bincount(passes[:, 0] // 10)).pvalue > 0.01
    assert stats.chisquare(np.bincount(passes[:, 1] // 10)).pvalue > 0.01


@pytest.mark.parametrize("seed", [0, 42])
def test_the_permutation_of_a_long_text_separates_neighbours(seed):
    order = np.array(starts(text_windows.windows(np.arange(1_000_000), 10, 64, seed=seed).dataset(0, 100)))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert stats.chisquare(np.bincount(order // 100_000, minlength=10)).pvalue > 0.01


def test_steps_per_epoch_can_be_set():
    stream = text_windows.windows(IDS, 10, 5, seed=1, steps=3)
    assert stream.steps == 3
    assert len(starts(stream.dataset())) == 15


def test_one_window_is_enough():
    assert starts(text_windows.windows(np.arange(11), 10, 4).dataset()) == [0]
    assert starts(text_windows.windows(np.arange(11), 10, 4, seed=3).dataset()) == [0] * 4


@pytest.mark.parametrize(
    "stream",
    [
        text_windows.windows(IDS, 10, 7, seed=5),
        text_windows.windows(IDS, 10, 7),
        text_windows.streams(IDS, 4, 3),
    ],
    ids=["shuffled", "ordered", "streams"],
)
def test_a_batch_is_a_function_of_its_step(stream):
    whole = batches(stream.dataset(0, 20))
    assert len(whole) == 20
    for first, last in ((0, 20), (1, 20), (6, 9), (19, 20)):
        checks.close(batches(stream.dataset(first, last)), whole[first:last])
    checks.close(batches(stream.dataset(3)), whole[3 : stream.steps])


# Streams. 60 characters in 3 rows of 20 make 4 windows of 4 + 1, the next one does not fit.


def test_streams_are_contiguous_across_batches():
    stream = text_windows.streams(IDS, 4, 3)
    assert stream.steps == 4
    rows = batches(stream.dataset())
    assert all(x.shape == y.shape == (3, 4) for x, y in rows)
    for part, shift in ((0, 0), (1, 1)):
        joined = np.concatenate([row[part] for row in rows], axis=1)
        np.testing.assert_array_equal(joined, np.array([[0], [20], [40]]) + np.arange(16) + shift)


def test_streams_start_again_with_each_epoch():
    stream = text_windows.streams(IDS, 4, 3)
    checks.close(batches(stream.dataset(4, 8)), batches(stream.dataset()))


def test_streams_have_a_static_shape():
    for spec in text_windows.streams(IDS, 4, 3).dataset().element_spec:
        assert spec.shape == (3, 4)


def test_streams_use_the_whole_of_a_text_that_fits():
    stream = text_windows.streams(IDS, 19, 3)
    assert stream.steps == 1
    assert batches(stream.dataset())[0][1][:, -1].tolist() == [19, 39, 59]


@pytest.mark.parametrize(("length", "batch_size"), [(20, 3), (4, 13), (60, 1), (1, 61)])
def test_too_few_characters_for_the_streams(length, batch_size):
    fails("too few", lambda: text_windows.streams(IDS, length, batch_size), "--batch-size", "--length")


# Parts of a text.


def test_a_long_text_is_split_as_in_the_book(keras_home):
    shakespeare = text_windows.read_text(keras_home / "datasets" / "shakespeare.txt")
    vocabulary = "".join(sorted(set(shakespeare.lower())))
    assert (len(shakespeare), len(vocabulary)) == (1_115_394, 39)
    ids = characters.encode(shakespeare.lower(), vocabulary)
    parts = text_windows.split(ids)
    assert [len(part) for part in parts] == [1_000_000, 60_000, 55_394]
    np.testing.assert_array_equal(np.concatenate(parts), ids)


def test_a_short_text_is_split_in_the_same_proportion():
    ids = np.arange(10_000)
    parts = text_windows.split(ids, length=100)
    assert [len(part) for part in parts] == [8966, 538, 496]
    np.testing.assert_array_equal(np.concatenate(parts), ids)


@pytest.mark.parametrize("n", [0, 50, 1_000, 2_001])
def test_a_text_too_short_for_a_window_in_each_split(n):
    fails("too short", lambda: text_windows.split(np.arange(n), length=100), "--length")


def test_a_text_just_long_enough_is_split():
    assert [len(part) for part in text_windows.split(np.arange(2_002), length=100)] == [1794, 107, 101]


# Files.


def fails(what, function, *named):
    """`function` raises a `UserError` of one line with `what` and the remedies named."""
    with pytest.raises(UserError, match=what) as error:
        function()
    assert "\n" not in str(error.value)
    assert all(name in str(error.value) for name in named), error.value


def test_a_file_or_all_of_a_folder_is_read(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_bytes(b"zwei\r\ndrei")
    (tmp_path / "a.txt").write_bytes("\ufeffüno".encode())  # with a byte order mark
    (tmp_path / "deep" / "c.txt").write_text("four\n")
    (tmp_path / "d.md").write_text("not this")
    assert text_windows.read_text(tmp_path / "a.txt") == "üno"
    assert text_windows.read_text(str(tmp_path / "b.txt")) == "zwei\ndrei"
    with pytest.warns(UserWarning, match="left out, such as d.md"):
        assert text_windows.read_text(tmp_path) == "üno\nzwei\ndrei\nfour\n"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "No such file"),
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"text\0more", "binary"),
        (b"caf\xe9 ol\xe9", r"not UTF-8 text \(line 1\)"),
        ("text".encode("utf-16"), "not UTF-8"),
    ],
    ids=["missing", "empty", "mark only", "NUL", "latin-1", "utf-16"],
)
def test_a_file_that_is_not_a_text_is_refused(content, what, tmp_path):
    path = tmp_path / "some.txt"
    if content is not None:
        path.write_bytes(content)
    fails(what, lambda: text_windows.read_text(path), str(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "some.txt"
    path.symlink_to(path)  # not even root reads it
    for what in (path, tmp_path):
        fails("cannot read .*: Too many levels of", lambda what=what: text_windows.read_text(what), str(path))


def test_a_folder_without_texts_is_refused(tmp_path):
    (tmp_path / "readme.md").write_text("text")
    fails("holds no .txt or .txt.gz file", lambda: text_windows.read_text(tmp_path), str(tmp_path))


def test_sonnets_come_with_the_package():
    sonnets = text_windows.sonnets()
    assert sonnets.count("\n\n") >= 3
    assert "summer's day" in sonnets
    assert min(map(len, text_windows.split(characters.encode(sonnets, "".join(sorted(set(sonnets)))), length=16))) > 16


@pytest.mark.slow
def test_shakespeare_without_a_network_comes_from_the_cache_or_not_at_all(tmp_path):
    error, cached = checks.in_fresh_process(OFFLINE, tmp_path, KERAS_HOME=str(tmp_path), **NO_NETWORK)
    assert "--text-file" in error
    assert "char_rnn_reber" in error
    assert "\n" not in error
    assert cached == "First Citizen"
