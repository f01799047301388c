"""Tokenizers of classifiers: words as Keras has them, n-grams, learned vocabularies."""

import collections
import functools
import re

import keras
import numpy as np
import tensorflow as tf

from homl_models.tokenizers import classification

TEXTS = ["The cat, the dog!", "A cat's tail<br />is long", "", "DOG dog dog", "the the the cat"]


def test_words_are_those_of_text_vectorization():
    layer = keras.layers.TextVectorization(max_tokens=8)
    layer.adapt([text.replace("<br />", " ") for text in TEXTS])
    vocabulary = classification.learn(TEXTS, 8)
    counts = collections.Counter(
        re.sub(r"<br />|[^\w\s]", lambda m: " " * (len(m[0]) > 1), " ".join(TEXTS)).lower().split()
    )
    assert [counts[word] for word in vocabulary[2:]] == sorted(counts.values(), reverse=True)[:6]
    assert set(vocabulary[:5]) == set(layer.get_vocabulary()[:5])  # the others are as rare as others
    layer.set_vocabulary(list(vocabulary))
    ours = classification.Words(vocabulary).encode(tf.constant(TEXTS)).to_tensor()
    np.testing.assert_array_equal(ours, layer([text.replace("<br />", " ") for text in TEXTS]))


def test_ngrams_are_distinct_known_and_in_order():
    vocabulary = "", "[UNK]", "the", "the cat", "dog dog", "cat", "tail is"
    ids = classification.Ngrams(vocabulary).encode(tf.constant(TEXTS)).to_list()
    for text, row in zip(TEXTS, ids):
        words = re.sub(r"[^\w\s]", "", text.lower().replace("<br />", " ")).split()
        has = {*words, *map(" ".join, zip(words, words[1:]))}
        assert row == [i for i, gram in enumerate(vocabulary) if gram in has]


def test_ngrams_are_learned_by_the_texts_that_have_them():
    split = functools.partial(classification.split_ngrams, n=2)
    # "the" and "cat" stand in two texts each, next to each other in both, "dog" in two, all else in one
    found = classification.learn(TEXTS, 100, split, distinct=True, min_count=2)
    assert found == ("", "[UNK]", "cat", "dog", "the", "the cat")
    assert classification.learn(TEXTS, 4, split, distinct=True) == ("", "[UNK]", "cat", "dog")


def test_ids_of_all_texts_stand_in_a_row():
    tokenizer = classification.Words(classification.learn(TEXTS, 100))
    ids, ends = classification.encode(TEXTS, tokenizer)
    assert ids.dtype == np.int32
    assert [ids[a:b].tolist() for a, b in zip(ends, ends[1:])] == tokenizer.encode(tf.constant(TEXTS)).to_list()
    assert [len(x) for x in classification.encode([], tokenizer)] == [0, 1]
