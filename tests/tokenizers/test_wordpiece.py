"""WordPiece: by hand, Python against the graph, both against `transformers`, on every Unicode block and on reviews."""

import csv
import functools
import gzip
import itertools
import json
import random
import sys

import numpy as np
import pytest
import tensorflow as tf

from homl_models.errors import UserError
from homl_models.tokenizers import basic_tokenizer, wordpiece_rows
from homl_models.tokenizers.wordpiece import SPECIAL, WordPiece
from tests import checks, processes
from tests.conftest import DATA

PIECES = "un ##aff ##able a ##a don ' t naive cafe 中 文 ! . , [ ] < x ##x mask ᄒ ##ᅡ ##ᆫ Un É n't e ##e"
SMALL = (*SPECIAL, *PIECES.split())
KINDS = pytest.mark.parametrize("lowercase", [True, False], ids=["uncased", "cased"])
STRINGS = tf.TensorSpec([None], tf.string)


@functools.cache
def small(lowercase=True, special_tokens=True):
    return WordPiece(SMALL, lowercase, special_tokens)


@functools.cache
def real(lowercase=True):
    path = DATA / "vocab" / "bert-base-uncased-vocab.txt"
    if not path.exists():
        pytest.skip(f"needs BERT's vocabulary, and {path} is not there; set HOML_TEST_DATA to its data folder")
    return WordPiece.from_file(path, lowercase)


@functools.cache
def letters(lowercase=True):
    """A vocabulary of single letters, so that no [UNK] hides how a text was cleaned."""
    page, table = basic_tokenizer.unicode_table(lowercase, lowercase, True)
    codes = np.array([*range(0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x20000)])
    found = table[page[codes // 256], codes % 256, 0]
    cleaned = map(chr, np.unique((found + codes[:, None])[found < basic_tokenizer.REMOVED]))
    cleaned = [letter for letter in cleaned if letter not in "\ue000\ue001"]
    return WordPiece((*SPECIAL, *cleaned, *(f"##{letter}" for letter in cleaned)), lowercase)


def reviews(count):
    path = DATA / "imdb" / "imdb_reviews.csv.gz"
    if not path.exists():
        pytest.skip(f"needs the IMDb reviews, and {path} is not there; set HOML_TEST_DATA to their data folder")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [row["text"] for row in itertools.islice(csv.DictReader(file), count)]


def block_texts(rng, each=1, size=40):
    """Texts of the code points of each 256, assigned or not: side by side, or with letters and spaces between."""
    for first in [*range(0, 0x33400, 256), *range(0x40000, 0x110000, 0x4000), 0xE0000, 0xE0100, 0xFFF00, 0x10FF00]:
        if not 0xD800 <= first < 0xE000:  # surrogates are no characters
            for _ in range(each):
                between = rng.choice([[""], ["", "a"], ["", "a", " "]])
                yield "".join(chr(first + rng.randrange(256)) + rng.choice(between) for _ in range(size))


SPACES = ["", *" \n\t\r\x00\x7f\x85\xa0\xad\u2003\u3000\ufeff\ufffd\ud7ff\u200b\u200d\u2028\u2060\u180e\u202e"]
OTHERS = [*"\ue000\ue001\ue002\uf8ff\U0010ffff\u0301\u0323\u0334\u3099\u302e\u0f71\u05b0\U0001d165\U0001d15e\u0344"]
WORDS = """
é ÅNGSTRÖM İ ß ẞ Σας ΣΑΣ ﬁ ǅ Ǹ ≠ ʼn ệ ё Ⅷ ½ ² ` $ ^ ~ | < don't un-believ.able U.S.A. The quick brown fox tokenization
中文 日本語 カタカナ が 한국어 ㄅ 豈 𠀀 𪚥 😀 👍🏽 👨‍👩‍👧 🇩🇪 ❤️ 1️⃣ 𝒳 हिन्दी ไทย العَرَبِيَّة עִבְרִית தமிழ் <br /> 3.14 a_b http://x.org/?q=1&r=2
[MASK] [SEP] [CLS] [PAD] [UNK] [mask] [MA SK] [[MASK]] ##able [unused1] ## unaffable unaffableunaffable
"""
LONG = ["x" * 99, "x" * 100, "x" * 101, "é" * 100, "e\u0301" * 101, "中" * 101, "한" * 34]
ODD = [*SPACES, *OTHERS, *WORDS.split(), *LONG, "\u9fff", "\U00020000", "\U00030000"]


def odd_texts(rng, count):
    for _ in range(count):
        separator = rng.choice(["", "", " "])
        yield separator.join(rng.choices(ODD, k=rng.randint(1, 12)))


def many(rng, blocks=1, odd=300):
    return [*ODD, *block_texts(rng, blocks), *odd_texts(rng, odd)]


@functools.cache
def graph(tokenizer, pairs=False, **settings):
    """One compiled function of texts, or of texts and their pairs."""
    return tf.function(lambda *texts: tokenizer.tf_encode(*texts, **settings), input_signature=[STRINGS] * (1 + pairs))


def assert_equal(encode, tokenizer, texts, pairs=None, **settings):
    """A function in TensorFlow gives the arrays that Python does, in batches of 256 texts."""
    for i in range(0, len(texts), 256):
        given = [part[i : i + 256] for part in (texts, pairs) if part is not None]
        checks.close(encode(*map(tf.constant, given)), tokenizer.encode(*given, **settings))


def assert_graph_equal(tokenizer, texts, pairs=None, max_length=None):
    encode = graph(tokenizer, pairs is not None, max_length=max_length, offsets=True)
    assert_equal(encode, tokenizer, texts, pairs, max_length=max_length, offsets=True)


def both(tokenizer, texts, pairs=None, max_length=None):
    """The arrays, which are the same in Python and in TensorFlow."""
    settings = {"max_length": max_length, "offsets": True}
    encode = functools.partial(tokenizer.tf_encode, **settings)
    assert_equal(encode, tokenizer, texts, pairs, **settings)
    return tokenizer.encode(texts, pairs, **settings)


def pieces(tokenizer, text):
    (ids,) = both(tokenizer, [text])["input_ids"]
    return " ".join(tokenizer.vocabulary[i] for i in ids[1:-1])


# By hand.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unaffable", "un ##aff ##able"),
        ("UnAffable!", "un ##aff ##able !"),
        ("don't", "don ' t"),
        ("naïve café", "naive cafe"),
        ("nai\u0308ve cafe\u0301", "naive cafe"),
        ("中文", "中 文"),
        ("a中a", "a 中 a"),
        ("한", "ᄒ ##ᅡ ##ᆫ"),
        ("≮", "<"),  # < with a stroke through it
        ("un\u200baff\x00ab\ue000le", "un ##aff ##able"),
        ("a\xa0a\u3000a\r\na", "a a a a"),
        ("unknown", "[UNK]"),
        ("unaffableu", "[UNK]"),  # no piece for the end: the word is lost
        ("aa aaa", "a ##a a ##a ##a"),
        ("x" * 100, " ".join(["x"] + ["##x"] * 99)),
        ("x" * 101, "[UNK]"),
        ("x" * 101 + "!x", "[UNK] ! x"),
        ("x[MASK]x", "x [MASK] x"),
        ("[CLS][SEP][PAD][UNK]", "[CLS] [SEP] [PAD] [UNK]"),
        ("[mask]", "[ mask ]"),
        ("[MASK", "[ mask"),
        ("[[MASK]]", "[ [MASK] ]"),
        ("\ue000mask\ue001", "mask"),
        ("", ""),
        (" \n\u200b\u0301", ""),
    ],
)
def test_pieces_by_hand(text, expected):
    assert pieces(small(), text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Un un", "Un un"),
        ("É", "É"),
        ("E\u0301 é", "[UNK] [UNK]"),
        ("[MASK]中", "[MASK] 中"),
        ("Mask mask", "[UNK] mask"),
    ],
)
def test_cased_keeps_case_and_accents(text, expected):
    assert pieces(small(lowercase=False), text) == expected


def test_special_tokens_may_be_plain_characters():
    assert pieces(small(special_tokens=False), "x [MASK]") == "x [ mask ]"
    assert pieces(small(special_tokens=True), "x [MASK]") == "x [MASK]"


def test_a_batch_by_hand():
    unk, cls, sep, un, aff, able, mark = 1, 2, 3, 5, 6, 7, 17
    assert (SMALL[mark], SMALL[un : able + 1]) == ("!", ("un", "##aff", "##able"))
    found = both(small(), ["unaffable!", "?"], ["?", "!un"])
    expected = {
        "input_ids": [[cls, un, aff, able, mark, sep, unk, sep], [cls, unk, sep, mark, un, sep, 0, 0]],
        "token_type_ids": [[0, 0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 0, 0]],
        "attention_mask": [[1] * 8, [1] * 6 + [0] * 2],
        "word_ids": [[-1, 0, 0, 0, 1, -1, 0, -1], [-1, 0, -1, 0, 1, -1, -1, -1]],
    }
    assert {name: found[name].tolist() for name in expected} == expected
    assert found["offsets"][0].tolist() == [[0, 0], [0, 2], [2, 5], [5, 9], [9, 10], [0, 0], [0, 1], [0, 0]]
    assert all(array.dtype == np.int32 for array in found.values())
    assert set(small().encode(["a"])) == set(small().tf_encode(["a"])) == {*wordpiece_rows.COLUMNS}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  naïve  café!", ["naïve", "café", "!"]),
        ("nai\u0308ve un\u200baffable", ["nai\u0308ve", "un", "aff", "able"]),
        ("cafe\u0301 x", ["cafe", "x"]),  # an accent at the end is no part of the token, as in `tokenizers`
        ("👍 don't [MASK]?", ["👍", "don", "'", "t", "[MASK]", "?"]),
        ("a中\x00文 한", ["a", "中", "文", "한", "한", "한"]),
        ("un" + "é" * 101 + " un", ["un" + "é" * 101, "un"]),
    ],
)
def test_offsets_cut_the_tokens_out_of_the_text_as_it_was_given(text, expected):
    (offsets,) = both(small(), [text])["offsets"]
    assert [text[first:last] for first, last in offsets[1:-1]] == expected


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [
        ((5, 3), 8, (5, 3)),
        ((5, 3), 7, (4, 3)),
        ((5, 3), 6, (3, 3)),
        ((5, 3), 5, (3, 2)),
        ((3, 5), 5, (2, 3)),
        ((9, 1), 4, (3, 1)),
        ((0, 9), 4, (0, 4)),
        ((9, 9), 1, (0, 1)),
        ((9, 9), 0, (0, 0)),
    ],
)
def test_the_longer_of_a_pair_is_cut(lengths, room, kept):
    texts = ["a " * length for length in lengths]
    found = both(small(), texts[:1], texts[1:], max_length=room + 3)
    assert found["input_ids"].tolist() == [[2] + [8] * kept[0] + [3] + [8] * kept[1] + [3]]
    assert found["token_type_ids"].sum() == kept[1] + 1


def test_texts_come_back_by_hand():
    tokenizer = small()
    rows = tokenizer.encode(["unaffable, don't! [MASK] a.", "naïve 中 unheard", ""])["input_ids"]
    expected = ["unaffable, don't! a.", "naive 中", ""]
    assert tokenizer.decode(rows) == expected
    assert [text.decode() for text in tokenizer.tf_decode(tf.constant(rows)).numpy()] == expected
    assert tokenizer.decode(rows[1:2], skip_special=False)[0].startswith("[CLS] naive 中 [UNK] [SEP] [PAD]")
    assert tokenizer.decode([[6, 7], [5, 6]]) == ["##affable", "unaff"]  # an answer may begin inside a word


# Windows.


def segments(tokenizer, found, row):
    """A row of windows -> ids, offsets and words of its text and of its pair; checks the special tokens."""
    ids, types, mask, words = (found[name][row] for name in (*wordpiece_rows.COLUMNS, "word_ids"))
    size = mask.sum()
    first, last = np.flatnonzero(types[:size])[0] - 1, size - 1
    assert (ids[0], ids[first], ids[last]) == (tokenizer.cls, tokenizer.sep, tokenizer.sep)
    assert mask.tolist() == [1] * size + [0] * (len(mask) - size)
    assert types.tolist() == [0] * (first + 1) + [1] * (last - first) + [0] * (len(types) - size)
    assert not ids[size:].any()
    added = [0, first, *range(last, len(ids))]
    assert set(words[added]) == {-1}
    assert not found["offsets"][row, added].any()
    columns = list(zip(ids, map(tuple, found["offsets"][row]), words))
    return columns[1:first], columns[first + 1 : last]


def tokens_alone(tokenizer, text):
    found = tokenizer.encode([text], offsets=True)
    columns = list(zip(found["input_ids"][0], map(tuple, found["offsets"][0]), found["word_ids"][0]))
    return columns[1:-1]


@KINDS
@pytest.mark.parametrize(
    ("max_length", "doc_stride"), [(5, 0), (5, 9), (6, 1), (13, 0), (13, 3), (40, 10), (40, 39), (900, 5)]
)
def test_windows_hold_every_token_of_a_pair_and_share_doc_stride_tokens(lowercase, max_length, doc_stride):
    tokenizer, rng = small(lowercase), random.Random(max_length)
    texts, pairs = list(odd_texts(rng, 60)), [" ".join(odd_texts(rng, rng.randint(0, 9))) for _ in range(60)]
    texts[3] = pairs[4] = pairs[5] = ""
    found = tokenizer.windows(texts, pairs, max_length, doc_stride)
    assert {array.dtype for array in found.values()} == {np.dtype("int32")}
    assert set(found) == {*wordpiece_rows.COLUMNS, "offsets", "word_ids", "overflow_to_sample_mapping"}
    assert found["attention_mask"].sum(axis=1).max() == found["input_ids"].shape[1] <= max_length
    assert found["overflow_to_sample_mapping"].tolist() == sorted(found["overflow_to_sample_mapping"])
    assert set(found["overflow_to_sample_mapping"]) == {*range(60)}
    several = 0
    for i, (text, pair) in enumerate(zip(texts, pairs)):
        windows = [segments(tokenizer, found, row) for row in np.flatnonzero(found["overflow_to_sample_mapping"] == i)]
        head = tokens_alone(tokenizer, text)[: max(1, max_length // 2 - 2)]
        assert all(first == head for first, _ in windows)
        room = max_length - 3 - len(head)
        joined = windows[0][1]
        for (_, before), (_, after) in itertools.pairwise(windows):
            assert len(before) == room
            shared = min(doc_stride, room - 1)
            assert before[room - shared :] == after[:shared]
            assert len(after) > shared  # it has something new
            joined = joined + after[shared:]
        assert joined == tokens_alone(tokenizer, pair)
        assert len(windows[-1][1]) <= room
        several += len(windows) > 1
    assert (several > 30) == (max_length < 900)


def test_a_pair_that_fits_is_a_single_window_as_encode_gives_it():
    rng = random.Random(2)
    texts, pairs = list(odd_texts(rng, 50)), list(odd_texts(rng, 50))
    found = real().windows(texts, pairs, 2000, 30)
    assert found.pop("overflow_to_sample_mapping").tolist() == [*range(50)]
    checks.close(found, real().encode(texts, pairs, offsets=True))


def test_windows_by_hand():
    a, un, aff, able, cls, sep = 8, 5, 6, 7, 2, 3
    found = small().windows(["a a a", ""], ["unaffable a", "a"], 8, 2)
    assert found["input_ids"].tolist() == [
        [cls, a, a, sep, un, aff, able, sep],
        [cls, a, a, sep, aff, able, a, sep],
        [cls, sep, a, sep, 0, 0, 0, 0],
    ]
    assert found["offsets"][1].tolist() == [[0, 0], [0, 1], [2, 3], [0, 0], [2, 5], [5, 9], [10, 11], [0, 0]]
    assert found["word_ids"][1].tolist() == [-1, 0, 1, -1, 0, 0, 1, -1]
    assert found["overflow_to_sample_mapping"].tolist() == [0, 0, 1]


# Learning.

CORPUS = [*WORDS.split("\n"), "low lower lowest new newer newest wide wider widest", "aa ab ba bb cc cd dc dd"]
LEARNED = """
import json, sys
from homl_models.tokenizers.wordpiece import WordPiece
corpus = json.loads(sys.argv[1])
print(json.dumps([WordPiece.train(corpus, 500, lowercase).vocabulary for lowercase in (True, False)]))
"""


def test_learning_is_the_same_in_every_process():
    one = checks.in_fresh_process(LEARNED, json.dumps(CORPUS), PYTHONHASHSEED="1")  # this one has another seed
    assert one == [list(WordPiece.train(iter(CORPUS), 500, lowercase).vocabulary) for lowercase in (True, False)]
    assert one[0] != one[1]


@KINDS
def test_a_learned_vocabulary_has_the_special_tokens_first_and_no_more_than_its_size(lowercase):
    with pytest.raises(UserError, match="a vocabulary of 10 tokens is too small; give [0-9]+ or more") as error:
        WordPiece.train(CORPUS, 10, lowercase)
    least = int(str(error.value).split()[-3])
    with pytest.raises(UserError, match=f"give {least} or more"):
        WordPiece.train(CORPUS, least - 1, lowercase)
    for size in (least, least + 1, least + 40):
        found = WordPiece.train(CORPUS, size, lowercase)
        assert len(found.vocabulary) == size
        assert found.vocabulary[: len(SPECIAL)] == SPECIAL
        assert found.lowercase == lowercase
        letters = found.vocabulary[len(SPECIAL) : least]
        assert {len(token.removeprefix("##")) for token in letters} == {1}
        assert all(len(token.removeprefix("##")) > 1 for token in found.vocabulary[least:])
    assert set(WordPiece.train(["ab"], 500, lowercase).vocabulary) == {*SPECIAL, "a", "b", "##b", "ab"}  # no more


@KINDS
def test_all_that_was_learned_from_can_be_read(lowercase):
    texts = [text for text in CORPUS if "[UNK]" not in text] + reviews(100)
    for size in (1000, 3000):
        found = WordPiece.train(texts, size, lowercase)
        ids = both(found, texts)["input_ids"]
        assert not (ids == found.unknown).any()
        assert (found.encode(["\u0e01"])["input_ids"] == found.unknown).any()
    assert {"the", "movie", "##ing"} <= set(found.vocabulary)
    assert ("I" in found.vocabulary) != lowercase


# Python against the graph.


@pytest.mark.parametrize(
    ("vocabulary", "lowercase"), [(real, True), (letters, True), (letters, False)], ids=["real", "uncased", "cased"]
)
def test_graph_and_python_are_equal_on_every_unicode_block(vocabulary, lowercase):
    texts = many(random.Random(f"{vocabulary.__name__} {lowercase}"))
    assert len(texts) > 1200
    assert_graph_equal(vocabulary(lowercase), texts)


def test_graph_and_python_are_equal_on_reviews():
    assert_graph_equal(real(), reviews(300))


@pytest.mark.parametrize("max_length", [3, 4, 5, 8, 13, 32, 128, 512])
def test_both_are_equal_on_truncated_pairs(max_length):
    rng = random.Random(max_length)
    first, second = list(odd_texts(rng, 200)), list(odd_texts(rng, 200))
    assert both(real(), first, second, max_length)["input_ids"].shape[1] <= max_length
    both(real(), first, None, max_length)


@pytest.mark.parametrize("skip_special", [True, False])
def test_graph_and_python_decode_alike(skip_special):
    tokenizer, rng = real(), np.random.default_rng(0)
    ids = rng.integers(0, len(tokenizer.vocabulary), (300, 40)).astype(np.int32)
    ids[:, ::3] = rng.choice([tokenizer.vocabulary.index(mark) for mark in ".,!?'"], (300, 14))
    ids[:, ::7] = rng.integers(0, 110, (300, 6))
    decode = tf.function(lambda ids: tokenizer.tf_decode(ids, skip_special))
    expected = tokenizer.decode(ids, skip_special)
    assert [text.decode() for text in decode(ids).numpy()] == expected
    ragged = tf.RaggedTensor.from_tensor(ids)
    assert [text.decode() for text in decode(ragged).numpy()] == expected


@KINDS
def test_no_text_at_all(lowercase):
    tokenizer = small(lowercase)
    assert both(tokenizer, [""])["input_ids"].tolist() == [[2, 3]]
    empty = tokenizer.tf_encode(tf.constant([], tf.string), tf.constant([], tf.string), offsets=True)
    checks.close(empty, tokenizer.encode([], [], offsets=True))
    assert tokenizer.tf_decode(tf.zeros([0, 0], tf.int32)).shape == (0,)
    assert tokenizer.decode([]) == []


def test_bytes_that_are_no_utf8_are_left_out():
    found = small().tf_encode([b"un\xffaff\xed\xa0\x80able"], offsets=True)
    assert found["input_ids"].numpy().tolist() == [[2, 5, 6, 7, 3]]


def test_in_a_data_set():
    texts = list(odd_texts(random.Random(0), 64))
    data = tf.data.Dataset.from_tensor_slices(texts).batch(64).map(lambda x: small().tf_encode(x, max_length=16))
    checks.close(next(iter(data)), small().encode(texts, max_length=16))


WITHOUT_KERAS = """
import json, pathlib, sys
import numpy as np, tensorflow as tf
sys.modules["tokenizers"] = None  # its import fails from here on, as that of Keras and this package does
folder = pathlib.Path(sys.argv[1])
loaded = tf.saved_model.load(str(folder / "saved_model"))
texts = tf.constant(np.load(folder / "texts.npy").tolist())
found = loaded.encode(texts, texts[::-1])
np.savez(folder / "found.npz", decoded=loaded.decode(found["input_ids"]).numpy().astype("S"), **found)
print(json.dumps(len(texts)))
"""


def test_a_saved_model_works_where_there_is_neither_keras_nor_this_package(tmp_path):
    tokenizer, module = small(), tf.Module()
    module.encode = tf.function(
        lambda texts, pairs: tokenizer.tf_encode(texts, pairs, 20, offsets=True), input_signature=[STRINGS] * 2
    )
    module.decode = tf.function(tokenizer.tf_decode, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    tf.saved_model.save(module, str(tmp_path / "saved_model"))
    texts = [text for text in odd_texts(random.Random(1), 300) if not text.endswith("\x00")]  # which NumPy would cut
    np.save(tmp_path / "texts.npy", [text.encode() for text in texts])
    assert processes.run(WITHOUT_KERAS, tmp_path, process=processes.NO_KERAS) == len(texts)
    found = dict(np.load(tmp_path / "found.npz"))
    expected = tokenizer.encode(texts, texts[::-1], 20, offsets=True)
    assert [text.decode() for text in found.pop("decoded")] == tokenizer.decode(expected["input_ids"])
    checks.close(found, expected)


FAST_CLEANS = [(True, False, False), (False, True, True)]
CLEANS = [
    pytest.param(cleans, marks=() if cleans in FAST_CLEANS else pytest.mark.slow)
    for cleans in itertools.product([True, False], repeat=3)
]


@pytest.mark.parametrize("cleans", CLEANS)
def test_graph_and_python_clean_alike_whatever_is_asked(cleans):
    """Case, accents and Chinese characters, each kept or not."""
    lowercase, strip_accents, chinese = cleans
    settings = {"lowercase": lowercase, "strip_accents": strip_accents, "tokenize_chinese_chars": chinese}
    words = "é E e ё Ё е 中 文 中文 a中a ##a ##中 a e\u0301 ñ n ##\u0301 i ı İ"
    tokenizer = WordPiece((*SPECIAL, *words.split()), **settings)
    assert tokenizer.settings == settings | {"special_names": SPECIAL}
    assert_graph_equal(tokenizer, [*ODD, *words.split(), "É中文e", *block_texts(random.Random(str(cleans)), 1)])


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({"strip_accents": False}, "É Ö e", "é [UNK] e"),
        ({"strip_accents": True}, "É e", "e e"),
        ({}, "É e", "e e"),
        ({"lowercase": False}, "É é E", "É é [UNK]"),
        ({"lowercase": False, "strip_accents": True}, "É é", "[UNK] e"),
        ({"tokenize_chinese_chars": False}, "中文 a中 中", "中文 [UNK] 中"),
        ({}, "中文 a中", "中 文 [UNK] 中"),
    ],
)
def test_settings_of_the_cleaning(settings, text, expected):
    assert pieces(WordPiece((*SPECIAL, "é", "É", "e", "中", "文", "中文"), **settings), text) == expected


NAMES = "<pad>", "<unk>", "<s>", "</s>", "[M.*]"


@KINDS
def test_special_tokens_of_other_names(lowercase):
    tokenizer = WordPiece(("a", "##b", *NAMES, "[", "]", "m", "<", ">", "s"), lowercase, special_names=NAMES)
    found = tokenizer.pad, tokenizer.unknown, tokenizer.cls, tokenizer.sep, tokenizer.mask
    assert found == (2, 3, 4, 5, 6)
    texts = ["a[M.*]b ab", "<s> <pad>ab é", "[CLS] a", "[mx*]", "x" * 101 + " a"]
    found = both(tokenizer, texts)
    assert found["input_ids"][0].tolist()[:6] == [4, 0, 6, 3, 0, 1]
    assert found["offsets"][0].tolist()[1:5] == [[0, 1], [1, 6], [6, 7], [8, 9]]
    assert tokenizer.decode([[4, 0, 1, 5, 2]]) == ["ab"]
    assert tokenizer.tf_decode(tf.constant([[4, 0, 1, 5, 2]])).numpy().tolist() == [b"ab"]


def test_a_token_twice_has_the_last_of_its_places():
    tokenizer = WordPiece((*SPECIAL, "a", "b", "a", "", "##c"))
    assert both(tokenizer, ["a b ac"])["input_ids"].tolist() == [[2, 7, 6, 7, 9, 3]]
    assert tokenizer.decode([[5, 6, 7, 8]]) == ["b a"]
    assert tokenizer.tf_decode(tf.constant([[5, 6, 7, 8]])).numpy().tolist() == [b"b a"]


WINDOWS = [("", ""), ("a", ""), ("", "a a"), ("a don", "a a don"), ("a " * 9, "a un naive " * 9), ("a", "a " * 40)]


@pytest.mark.parametrize(("max_length", "doc_stride"), [(5, 0), (12, 3), (20, 99)])
def test_windows_of_the_graph_are_those_of_python(max_length, doc_stride):
    firsts, seconds = zip(*WINDOWS)
    windows = functools.partial(small().tf_windows, max_length=max_length, doc_stride=doc_stride)
    wanted = small().windows(firsts, seconds, max_length, doc_stride)
    assert len(wanted["overflow_to_sample_mapping"]) >= 12
    checks.close(tf.function(windows, input_signature=[STRINGS] * 2)(*map(tf.constant, (firsts, seconds))), wanted)
    none = windows(tf.constant([], tf.string), tf.constant([], tf.string))
    assert {name: x.shape[0] for name, x in none.items()} == dict.fromkeys(none, 0)


@pytest.mark.parametrize(("max_length", "doc_stride"), [(9, 0), (9, 3), (4, 1), (3, 2)])
def test_windows_of_a_text_hold_each_token_once_that_counts_and_are_the_same_in_the_graph(max_length, doc_stride):
    texts = ["unaffable a don't 中文", "", "a", "unaffable " * 7 + "Café", "naive! <a> cafe 中"]
    found = small().text_windows(texts, max_length, doc_stride)
    graph = functools.partial(small().tf_text_windows, max_length=max_length, doc_stride=doc_stride)
    checks.close(tf.function(graph, input_signature=[STRINGS])(tf.constant(texts)), found)
    room = max_length - 2
    step = max(1, room - doc_stride)
    for i, text in enumerate(texts):
        whole = small().encode([text], offsets=True)
        rows = np.flatnonzero(found["overflow_to_sample_mapping"] == i)
        for name in ("input_ids", "offsets", "word_ids"):
            tokens = whole[name][0, 1:-1]
            for k, row in enumerate(rows):
                part = tokens[k * step : k * step + room]
                checks.close(found[name][row, 1 : 1 + len(part)], part, 0)
                assert found["attention_mask"][row].sum() == len(part) + 2
            checks.close(np.concatenate([found[name][row][found["is_owned"][row] > 0] for row in rows]), tokens, 0)
    assert {name: len(x) for name, x in graph(tf.constant([], tf.string)).items()} == dict.fromkeys(found, 0)
    for windows in (small().text_windows, small().tf_text_windows):
        with pytest.raises(UserError, match="max_length 2 has no room for a token of a text; give 3 or more"):
            windows(["a"], 2, 0)


# Against `transformers`.


@functools.cache
def reference(lowercase=True):
    import transformers

    path = DATA / "vocab" / "bert-base-uncased-vocab.txt"
    return real(lowercase) and transformers.BertTokenizerFast(str(path), do_lower_case=lowercase)


@pytest.mark.parity
@KINDS
def test_both_are_equal_to_transformers_on_every_unicode_block(lowercase):
    texts = many(random.Random(f"real {lowercase}"))
    theirs = reference(lowercase)(texts, return_offsets_mapping=True)
    ours = both(real(lowercase), texts)
    for i, (ids, offsets) in enumerate(zip(theirs["input_ids"], theirs["offset_mapping"])):
        assert ours["input_ids"][i, : len(ids)].tolist() == ids
        assert ours["offsets"][i, : len(ids)].tolist() == [list(pair) for pair in offsets]
        assert theirs.word_ids(i) == [None if word < 0 else word for word in ours["word_ids"][i, : len(ids)]]


@pytest.mark.parity
@pytest.mark.parametrize("max_length", [5, 6, 9, 40])
def test_truncated_pairs_are_those_of_transformers(max_length):
    rng = random.Random(max_length)
    first, second = list(odd_texts(rng, 200)), list(odd_texts(rng, 200))
    theirs = reference()(first, second, truncation="longest_first", max_length=max_length, padding=True)
    ours = real().encode(first, second, max_length)
    checks.close(ours, {name: np.array(theirs[name], np.int32) for name in ours})
    ids, clean = ours["input_ids"], {"skip_special_tokens": True, "clean_up_tokenization_spaces": True}
    assert real().decode(ids) == reference().batch_decode(ids, **clean)


# Errors.


def test_ids_of_the_special_tokens():
    tokenizer = WordPiece(["a", *SPECIAL[::-1], "b"])
    found = tokenizer.mask, tokenizer.sep, tokenizer.cls, tokenizer.unknown, tokenizer.pad
    assert found == (1, 2, 3, 4, 5)
    assert pieces(tokenizer, "a [MASK] c") == "a [MASK] [UNK]"
    assert tokenizer.vocabulary == ("a", *SPECIAL[::-1], "b")


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: WordPiece(["[PAD]", "[UNK]", "a"]), r"lacks \[CLS\] \[SEP\] \[MASK\]; give"),
        (lambda: WordPiece(["<p>", "?", "<s>", "</s>", "<m>"], special_names=SPECIAL), r"lacks \[PAD\]"),
        (
            lambda: WordPiece(["<p>", "?", "<s>", "</s>", "<m>"], special_names=["<p>", "?", "<s>", "</s>", "<m>"]),
            r"the special tokens <p> \? <s> </s> <m> cannot be read",
        ),
        (lambda: small().tf_windows(["a"], ["a"], 4, 0), "max_length 4 has no room for a token of both texts; give 5"),
        (lambda: small().encode("a text"), "a list of strings"),
        (lambda: small().encode(["a", "b"], ["c"]), "2 texts need as many pairs, not 1"),
        (lambda: small().encode(["a"], max_length=1), "max_length 1 has no room for the 2 tokens"),
        (lambda: small().encode(["a"], ["a"], max_length=2), "max_length 2 has no room for the 3 tokens"),
        (lambda: small().windows(["a"], ["a"], 4, 0), "max_length 4 has no room for a token of both texts; give 5"),
        (lambda: small().windows(["a", "b"], ["a"], 9, 0), "2 texts need as many pairs, not 1"),
        (lambda: small().windows("a", ["a"], 9, 0), "a list of strings"),
        (lambda: small().tf_encode(["a"], ["a"], max_length=2), "max_length 2 has no room for the 3 tokens"),
    ],
)
def test_mistakes_are_one_line(use, message):
    with pytest.raises(UserError, match=message) as error:
        use()
    assert "\n" not in str(error.value)


def test_a_file_is_a_token_a_line(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\n".join([*SPECIAL, "é\u2028", " x"]).encode() + b"\r\n")
    assert WordPiece.from_file(tmp_path / "vocab.txt").vocabulary == (*SPECIAL, "é\u2028", " x")
    lines = (*SPECIAL, "é", "", "x")
    for data in ("\ufeff" + "\n".join(lines), "\r\n".join(lines) + "\r\n", "\r".join(lines) + "\n\n\n"):
        (tmp_path / "vocab.txt").write_bytes(data.encode())
        assert WordPiece.from_file(tmp_path / "vocab.txt").vocabulary == lines
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    for name, message in {
        "none.txt": "cannot read .*none.txt: No such file",
        "latin.txt": "is no UTF-8 text",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            WordPiece.from_file(tmp_path / name)
        assert "\n" not in str(error.value)


def test_without_tensorflow_text_python_still_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_text", None)
    tokenizer = WordPiece(SMALL)
    assert tokenizer.encode(["unaffable"])["input_ids"].tolist() == [[2, 5, 6, 7, 3]]
    with pytest.raises(UserError, match=r'pip install "homl_models\[text\]"'):
        tokenizer.tf_encode(["unaffable"])
