"""Texts to ids and back, in a graph: against Keras' and the `tokenizers` library's, and every real sentence."""

import functools
import random
import re
import string

import keras
import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from homl_models.errors import UserError
from homl_models.tokenizers import TOKENIZERS, subwords
from homl_models.tokenizers.base import END, PAD, SPECIAL, START, UNKNOWN
from homl_models.tokenizers.characters import Characters, learn_characters
from homl_models.tokenizers.subwords import Subwords
from homl_models.tokenizers.words import Words, learn_words, split_words
from tests import checks

SENTENCES = [
    "¿Qué hora es?",
    "¡No, no y NO!",
    "Él dijo: “Mañana iré… quizás”.",
    "It's 10:30 a.m. — isn't it?",
    "I like soccer and also going to the beach.",
    "Me gusta el fútbol y también ir a la playa.",
    "El niño pequeño comía piñas en Logroño.",
]
EDGES = {  # text: what comes back
    "": "",
    " ": "",
    "\n\t ": "",
    "▁": "",
    "?": "?",
    "¿¡Qué!?": "¿¡Qué!?",
    "Dijo “no” y «sí»…": "Dijo “no” y «sí»…",
    "a\xa0b": "a b",
    "a \xa0\u2003 b": "a b",
    "  begins and ends   with  runs  ": "begins and ends with runs",
    "two\nlines\r\nand a\ttab": "two lines and a tab",
    "a literal ▁ is a space": "a literal is a space",
    "tied▁together": "tied together",
    "👍🏽 family 👨‍👩‍👧": "👍🏽 family 👨‍👩‍👧",
    "e\u0301 n\u0303 \u0301": "e\u0301 n\u0303 \u0301",  # combining accents, one of them alone
    "日本語とрусский": "日本語とрусский",
    "x" * 100: "x" * 100,
    "[START] [UNK] [END]": "[START] [UNK] [END]",
    "a.b,c;d -- e_f (g)": "a.b,c;d -- e_f (g)",
    r"\1 \n $ ^ .* [a-z]": r"\1 \n $ ^ .* [a-z]",
    "½ 10² №5 ８": "½ 10² №5 ８",
}


def strings(tensor):
    """A tensor or a ragged tensor of strings as nested lists of `str`."""

    def decoded(thing):
        return thing.decode() if isinstance(thing, bytes) else [decoded(item) for item in thing]

    return decoded(tensor.to_list() if isinstance(tensor, tf.RaggedTensor) else tensor.numpy().tolist())


def back(tokenizer, texts):
    return strings(tokenizer.decode(tokenizer.encode(tf.constant(list(texts)))))


@functools.cache
def learned(size=150):
    """Learned on the sentences; knows each of their characters, and each of the edge cases'."""
    return Subwords(with_characters(subwords.learn_subwords(tf.constant(SENTENCES), size), [*SENTENCES, *EDGES]))


def with_characters(vocabulary, texts):
    missing = set("".join(texts)) - set(vocabulary) - {subwords.SPACE}
    return (*vocabulary, *sorted(missing), *({subwords.SPACE} - set(vocabulary)))


def all_tokenizers():
    return {
        "words": Words(learn_words(tf.constant(SENTENCES), 40)),
        "subwords": learned(),
        "characters": Characters(learn_characters(SENTENCES)),
    }


KINDS = pytest.mark.parametrize("kind", TOKENIZERS)


# Words.


def test_words_are_lower_case_without_punctuation():
    words = strings(split_words(tf.constant(["¿Qué hora ES?", "¡Don't  Stop!", "", " “Sí”, ÑANDÚ"])))
    assert words == [["qué", "hora", "es"], ["dont", "stop"], [], ["“sí”", "ñandú"]]


def test_only_ascii_letters_become_lower_case_in_keras_and_all_in_ours():
    layer, texts = keras.layers.TextVectorization(), ["Él y Ella", "AÑO ÚTIL"]
    layer.adapt(texts)
    assert set(layer.get_vocabulary()[2:]) == {"Él", "y", "ella", "aÑo", "Útil"}
    assert set(learn_words(tf.constant(texts), 100)[4:]) == {"él", "y", "ella", "año", "útil"}


@pytest.mark.parametrize("side", [0, 1], ids=["English", "Spanish"])
def test_words_and_vocabulary_equal_the_book_on_real_text(spa_eng, side):
    texts = [pair[side] for pair in spa_eng[::8]]
    keras_texts = [text.lower().replace("¡", "").replace("¿", "") for text in texts]  # `lower`: see above
    theirs = keras.layers.TextVectorization(1000, output_sequence_length=50)
    theirs.adapt([f"startofseq {text} endofseq" for text in keras_texts])

    vocabulary = learn_words(tf.constant(texts), 1000)
    split = [word for text in keras_texts for word in re.sub(f"[{re.escape(string.punctuation)}]", "", text).split()]
    rarest = split.count(vocabulary[-1])
    assert len(vocabulary) == len(theirs.get_vocabulary()) == 1000
    other = set(vocabulary[4:]) ^ set(theirs.get_vocabulary()[2:]) - {"startofseq", "endofseq"}
    assert all(split.count(word) == rarest for word in other)  # of words as rare as the last, Keras takes others

    theirs = keras.layers.TextVectorization(output_sequence_length=50, vocabulary=list(vocabulary[2:]))
    ours = Words(vocabulary).encode(tf.constant(texts)).to_tensor(shape=(None, 50))
    checks.close(ours, theirs(tf.constant(keras_texts)))
    assert 0.02 < np.mean(ours.numpy()[ours.numpy() > 0] == UNKNOWN) < 0.2


def test_words_are_joined_with_spaces():
    tokenizer = all_tokenizers()["words"]
    assert back(tokenizer, ["¿QUÉ   hora es?", "unheard of", ""]) == ["qué hora es", "[UNK] [UNK]", ""]


def test_a_vocabulary_with_less_room_than_there_are_characters_is_refused():
    checks.fails(
        "27 different characters", lambda: subwords.learn_subwords(["abcdefghijklmnopqrstuvwxyz"], 30), "no room"
    )
    assert len(subwords.learn_subwords(["abcdefghijklmnopqrstuvwxyz"], 31)) == 31


def test_the_most_frequent_words_are_learned_and_ties_are_in_order():
    texts = tf.constant(["b a c", "c b", "D c, ä"])
    assert learn_words(texts, 100) == (*SPECIAL, "c", "b", "a", "d", "ä")
    assert learn_words(texts, 7) == (*SPECIAL, "c", "b", "a")


# Subwords.


@pytest.mark.parametrize("every", [15, pytest.param(1, marks=pytest.mark.slow)])
def test_every_real_sentence_is_decoded_exactly(spa_eng, every):
    sentences = [sentence for pair in spa_eng[::every] for sentence in pair]
    vocabulary = subwords.learn_subwords(tf.constant(sentences[::20]), 2000)
    tokenizer = Subwords(with_characters(vocabulary, sentences))
    sentences = sorted(set(sentences))
    ids = tokenizer.encode(tf.constant(sentences))
    assert ids.shape[0] == len(sentences) > 200_000 / every
    assert not np.isin(ids.flat_values, [PAD, UNKNOWN, START, END]).any()
    found = strings(tokenizer.decode(ids))
    different = [(a, b) for a, b in zip(sentences, found) if a != b]
    assert different == [(a, b) for a, b in different if re.search(r"\s\s", a) and re.sub(r"\s+", " ", a) == b]
    assert len(different) <= 1


@pytest.mark.parametrize(("text", "expected"), EDGES.items(), ids=range(len(EDGES)))
def test_odd_texts_are_decoded(text, expected):
    assert back(learned(), [text]) == [expected]


def test_odd_texts_are_decoded_in_one_batch_as_alone():
    texts = list(EDGES) + SENTENCES
    together = learned().encode(tf.constant(texts)).to_list()
    assert together == [learned().encode(tf.constant([text])).to_list()[0] for text in texts]
    assert back(learned(), texts) == [*EDGES.values(), *SENTENCES]


def test_an_unknown_character_is_one_unknown_token_and_spares_its_word():
    tokenizer = Subwords((*SPECIAL, "▁", "▁h", "o", "la", "!"))
    split = strings(tokenizer.split(tf.constant(["hoßla! ß 👍"])))
    assert split == [["▁h", "o", "ß", "la", "!", "▁", "ß", "▁", "👍"]]
    assert tokenizer.encode(tf.constant(["hoßla! ß 👍"])).to_list() == [[5, 6, 1, 7, 8, 4, 1, 4, 1]]
    assert back(tokenizer, ["hoßla!"]) == ["ho[UNK]la!"]


def test_chunks_are_words_and_single_other_characters():
    chunks = strings(subwords.split_chunks(tf.constant(["¿Qué es_1? —sí…", "", " a", "b "])))
    assert chunks == [["▁¿", "Qué", "▁es", "_", "1", "?", "▁—", "sí", "…"], [], ["▁a"], ["▁b"]]


def word_piece(vocabulary):
    """Another greedy longest match from the left, of the `tokenizers` library: chunk -> pieces."""
    ids = {token: i for i, token in enumerate(vocabulary) if token}
    model = tokenizers.models.WordPiece(
        ids, unk_token="[UNK]", continuing_subword_prefix="", max_input_chars_per_word=1000
    )
    return lambda chunk: [piece.value for piece in model.tokenize(chunk)]


def assert_longest_match(vocabulary, chunks):
    tokenizer, match = Subwords(vocabulary), word_piece(vocabulary)
    found = strings(tokenizer.longest_match(tf.constant(chunks)))
    assert found == [match(chunk) for chunk in chunks]
    assert ["".join(pieces) for pieces in found] == chunks
    return found


@pytest.mark.parametrize("seed", range(5))
def test_pieces_of_a_random_vocabulary_are_the_longest_from_the_left(seed):
    draw = random.Random(seed)

    def word(longest):
        return "".join(draw.choices("abñ▁", k=draw.randint(1, longest)))

    chunks = [word(60) for _ in range(200)]
    vocabulary = (*SPECIAL, *"abñ▁", *sorted({word(8) for _ in range(300)} - set("abñ▁")))
    found = assert_longest_match(vocabulary, chunks)
    assert 2 < np.mean([len(piece) for pieces in found for piece in pieces]) < 8


def test_pieces_of_real_words_are_the_longest_from_the_left(spa_eng):
    sentences = [sentence for pair in spa_eng[::40] for sentence in pair]
    vocabulary = subwords.learn_subwords(tf.constant(sentences), 1500)
    assert len(vocabulary) == 1500
    chunks = sorted(set(subwords.split_chunks(tf.constant(sentences)).flat_values.numpy()))
    found = assert_longest_match(vocabulary, [chunk.decode() for chunk in chunks])
    assert max(map(len, found)) > 4
    assert min(map(len, found)) == 1


def test_a_piece_of_the_greatest_length_is_found():
    long = "a" * subwords.MAX_PIECE_LENGTH
    assert strings(Subwords((*SPECIAL, "a", long)).longest_match(tf.constant([long + "a", long[1:]]))) == [
        [long, "a"],
        ["a"] * (subwords.MAX_PIECE_LENGTH - 1),
    ]


def test_learned_pieces_fit_and_stay_within_words():
    vocabulary = subwords.learn_subwords(tf.constant(SENTENCES + ["abcdefghijklmnopqrstuvwxyz"] * 50), 400)
    assert tuple(vocabulary[:4]) == SPECIAL
    assert len(set(vocabulary)) == len(vocabulary) <= 400
    assert 10 < max(map(len, vocabulary)) <= subwords.MAX_PIECE_LENGTH  # 27 without a limit
    assert all(subwords.SPACE not in piece[1:] for piece in vocabulary)
    assert all(len(piece.lstrip("▁")) < 2 or piece.lstrip("▁").isalnum() for piece in vocabulary[4:])
    frequent = subwords.learn_subwords(tf.constant(["the cat", "the dog"] * 5), 100)
    assert {"▁the", "▁cat", "▁dog"} <= set(frequent)


# Characters.


def test_characters_are_unchanged():
    tokenizer = Characters(learn_characters(["Ñu 👍"]))
    assert tokenizer.vocabulary == (*SPECIAL, " ", "u", "Ñ", "👍")
    assert tokenizer.encode(tf.constant(["uÑ", "", "n👍 "])).to_list() == [[5, 6], [], [1, 7, 4]]
    assert back(tokenizer, ["  Ñu  👍", ""]) == ["  Ñu  👍", ""]


# All of them.


@KINDS
def test_a_graph_gives_what_eager_calls_give(kind):
    tokenizer = all_tokenizers()[kind]
    signature = [tf.TensorSpec([None], tf.string)]
    encode = tf.function(tokenizer.encode, input_signature=signature)
    both = tf.function(lambda texts: tokenizer.decode(tokenizer.encode(texts)), input_signature=signature)
    for texts in ([*EDGES, *SENTENCES], SENTENCES[:1], [""], ["", ""]):
        texts = tf.constant(texts)
        assert encode(texts).to_list() == tokenizer.encode(texts).to_list()
        assert strings(both(texts)) == strings(tokenizer.decode(tokenizer.encode(texts)))


@KINDS
def test_no_text_at_all_gives_no_ids(kind):
    tokenizer = all_tokenizers()[kind]
    encode = tf.function(tokenizer.encode, input_signature=[tf.TensorSpec([None], tf.string)])
    for function in (encode, tokenizer.encode):
        ids = function(tf.constant([], tf.string))
        assert ids.to_list() == []
        assert ids.dtype == tf.int32
        assert tokenizer.decode(ids).shape == (0,)


@KINDS
def test_a_saved_model_needs_no_lookup_table(kind, tmp_path):
    tokenizer, module = all_tokenizers()[kind], tf.Module()
    texts = tf.constant([*EDGES, *SENTENCES])
    module.encode = tf.function(
        lambda texts: tokenizer.encode(texts).to_tensor(), input_signature=[tf.TensorSpec([None], tf.string)]
    )
    module.decode = tf.function(tokenizer.decode, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    ids = tokenizer.encode(texts).to_tensor()
    checks.close(loaded.encode(texts), ids)
    assert strings(loaded.decode(ids)) == strings(tokenizer.decode(ids))
    graphs = [loaded.encode, loaded.decode]
    ops = {op.type for f in graphs for op in f.concrete_functions[0].graph.get_operations()}
    library = [f.concrete_functions[0].graph.as_graph_def().library for f in graphs]
    ops |= {node.op for part in library for function in part.function for node in function.node_def}
    assert "StringToHashBucketFast" in ops
    assert not [op for op in ops if "Table" in op or "PyFunc" in op]


@KINDS
def test_special_tokens_have_the_first_ids_and_no_text_becomes_one(kind):
    tokenizer = all_tokenizers()[kind]
    assert (PAD, UNKNOWN, START, END) == (0, 1, 2, 3)
    assert strings(tokenizer.tokens(tf.range(4))) == ["", "[UNK]", "[START]", "[END]"]
    ids = tokenizer.encode(tf.constant(["[START]", "[END]", "[UNK]", "", " [START] [END] "])).flat_values
    assert len(ids)
    assert not np.isin(ids, [PAD, START, END]).any()


@KINDS
def test_special_tokens_are_left_out_of_a_text(kind):
    tokenizer = all_tokenizers()[kind]
    ids = tokenizer.encode(tf.constant(["hora", "Me gusta", ""]))
    padded = ids.to_tensor().numpy()
    start = np.full((3, 1), START)
    padded = np.concatenate([start, padded, start + 1, start * 0], axis=1).astype(np.int32)
    assert strings(tokenizer.decode(tf.constant(padded))) == strings(tokenizer.decode(ids))
    assert strings(tokenizer.decode(tf.constant([[START, END, PAD]]))) == [""]


@KINDS
def test_ids_of_tokens_and_tokens_of_ids_are_inverse(kind):
    tokenizer = all_tokenizers()[kind]
    ids = np.random.default_rng(0).integers(0, len(tokenizer.vocabulary), (3, 2, 5))
    assert strings(tokenizer.tokens(tf.constant(ids))) == np.array(tokenizer.vocabulary, object)[ids].tolist()
    checks.close(tokenizer.ids(tokenizer.tokens(tf.constant(ids))), ids)
    checks.close(tokenizer.ids(tf.constant(["never\nseen", tokenizer.vocabulary[5], "▁▁"])), np.array([1, 5, 1]))


@KINDS
@pytest.mark.parametrize(
    "vocabulary",
    [(), ("a", "b"), SPECIAL[:3], ("[UNK]", "", "[START]", "[END]", "a"), (*SPECIAL, "a", "b", "a"), (*SPECIAL, "")],
    ids=str,
)
def test_invalid_vocabularies_are_refused(kind, vocabulary):
    with pytest.raises(UserError, match="begins with .* and holds each token once") as error:
        TOKENIZERS[kind](vocabulary)
    assert "\n" not in str(error.value)
    assert TOKENIZERS[kind]([*SPECIAL, "a"]).vocabulary == (*SPECIAL, "a")


def test_learning_twice_gives_the_same():
    for learn in (
        lambda texts: learn_words(tf.constant(texts), 30),
        lambda texts: subwords.learn_subwords(tf.constant(texts), 120),
        learn_characters,
    ):
        assert len({learn(SENTENCES) for _ in range(5)}) == 1
        assert learn(SENTENCES[::-1]) == learn(SENTENCES)
        assert learn(SENTENCES[:3]) != learn(SENTENCES)
