"""Texts to ids and back, in Python and in a TensorFlow graph."""

import unicodedata

import numpy as np
import pytest
import tensorflow as tf

from homl_models.errors import UserError
from homl_models.tokenizers import characters
from tests import checks

VOCABULARY = "z\n aé😀b𝄞ßc"  # not in order; é of two bytes in UTF-8, 😀 and 𝄞 beyond the first 65,536 characters
TEXTS = ["", "a", "z𝄞 \n", "😀😀éßab c", "b" * 20]


@pytest.mark.parametrize("some", TEXTS)
def test_encode_gives_positions_in_the_vocabulary_and_decode_the_text(some):
    ids = characters.encode(some, VOCABULARY)
    assert ids.dtype == np.int32
    assert ids.tolist() == [VOCABULARY.index(character) for character in some]
    assert characters.decode(ids, VOCABULARY) == some


@pytest.mark.parametrize(
    ("some", "named", "position"),
    [
        ("abQ", "'Q' (U+0051", 2),
        ("😀é🎉aQ", "'🎉' (U+1F389", 2),
        ("\0", r"'\x00' (U+0000", 0),
        ("a\ud800", "U+D800", 1),
    ],
    ids=ascii,
)
def test_the_first_unknown_character_is_named_with_its_position(some, named, position):
    with pytest.raises(UserError) as error:
        characters.encode(some, VOCABULARY)
    assert named in str(error.value)
    assert f"at position {position})" in str(error.value)
    assert "\n" not in str(error.value)


def test_decode_drops_padding():
    assert characters.decode([-1, 3, -1, -1, 5, -1], VOCABULARY) == "a😀"


def test_pad_puts_zeros_at_the_right():
    ids, lengths = characters.pad([[3, 4], [], [5, 6, 7]], 4)
    assert ids.tolist() == [[3, 4, 0, 0], [0, 0, 0, 0], [5, 6, 7, 0]]
    assert lengths.tolist() == [2, 0, 3]
    assert ids.dtype == lengths.dtype == np.int32


def tf_encoded(texts, vocabulary, lowercase=False):
    """Rows of `tf_encode` in a graph, without their padding, which has to be zero."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def encode(texts):
        return characters.tf_encode(texts, vocabulary, lowercase)

    ids, lengths = (x.numpy() for x in encode(tf.constant(texts, tf.string)))
    assert ids.dtype == lengths.dtype == np.int32
    assert ids.shape == (len(texts), max(map(len, ["x", *texts])))  # one column at least
    assert not any(row[n:].any() for row, n in zip(ids, lengths))
    return [row[:n].tolist() for row, n in zip(ids, lengths)]


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[::-1], [""], ["", ""], []], ids=len)
def test_tf_encode_equals_encode(texts):
    assert tf_encoded(texts, VOCABULARY) == [characters.encode(t, VOCABULARY).tolist() for t in texts]


def test_tf_encode_lowercases_as_python_does():
    texts = ["ÀB c", "ΣΑΣ", "àb C", "ΟΔΟΣ!"]
    vocabulary = "".join(sorted(set("".join(texts).lower())))
    assert tf_encoded(texts, vocabulary, lowercase=True) == [
        characters.encode(t.lower(), vocabulary).tolist() for t in texts
    ]


@pytest.mark.parametrize(("vocabulary", "instead"), [("ca b", " "), ("cab", "c"), ("𝄞ab", "𝄞")])
def test_tf_encode_replaces_unknown_characters(vocabulary, instead):
    assert characters.replacement(vocabulary) == instead
    unknown = "aQb🎉\0\U0010ffff"
    replaced = "".join(c if c in vocabulary else instead for c in unknown)
    assert tf_encoded([unknown], vocabulary) == [characters.encode(replaced, vocabulary).tolist()]


def test_tf_encode_replaces_bytes_that_are_not_utf8():
    ids, lengths = characters.tf_encode(tf.constant([b"a\xffb"]), "ab ")
    assert ids.numpy().tolist() == [[0, 2, 1]]
    assert lengths.numpy().tolist() == [3]


def test_tf_decode_equals_decode_and_drops_padding():
    ids = np.array([[3, 5, 7, -1, -1], [-1] * 5, [4, -1, 8, 0, 1]], np.int32)
    decode = tf.function(lambda ids: characters.tf_decode(ids, VOCABULARY))
    assert [t.decode() for t in decode(ids).numpy()] == [characters.decode(row, VOCABULARY) for row in ids]
    assert decode(np.zeros((2, 0), np.int32)).numpy().tolist() == [b"", b""]


LOWER = """
import json
import tensorflow as tf
from homl_models.tokenizers import characters
from homl_models.tokenizers.words import split_words
every = [chr(point) for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000]
found = [letter.decode() for letter in characters.tf_lower(tf.constant(every)).numpy()]
some = "IN Ĩ I\\u0300 J\\u0301 Į\\u0303 ÌÍ İ I\\u0307 ΟΔΟΣ ΣΑΣ! \\U0001d400"
words = [word.decode() for word in split_words(tf.constant([some])).flat_values.numpy()]
print(json.dumps([[a for a, b in zip(every, found) if a.lower() != b], words == some.lower().replace("!", "").split()]))
"""


@pytest.mark.parametrize(
    "locale", ["tr_TR.UTF-8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lt_LT.UTF-8", "C.UTF-8"))]
)
def test_lower_case_equals_python_in_every_locale(locale):
    """Except for letters newer than TensorFlow's tables, which stay unchanged."""
    others, same = checks.in_fresh_process(LOWER, LC_ALL=locale, LANG=locale)
    assert same
    assert all(letter >= "\u2c2f" and unicodedata.category(letter) == "Lu" for letter in others)
    assert len(others) <= 40 + (unicodedata.unidata_version > "14") * 60


def test_occurrences_count_earlier_equal_strings():
    count = tf.function(characters.tf_occurrences, input_signature=[tf.TensorSpec((None,), tf.string)])
    assert count(["b", "a", "b", "", "b", "a", ""]).numpy().tolist() == [0, 0, 1, 0, 2, 1, 1]
    assert count(tf.constant([], tf.string)).numpy().tolist() == []
