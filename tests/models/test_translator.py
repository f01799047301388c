"""Tests of all encoder-decoders, with any cells, attention, norms and positions; and of their strings."""

import json
import math
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from homl_models.errors import UserError
from homl_models.models import translator
from homl_models.models.seq2seq import ATTENTIONS, Seq2Seq
from homl_models.models.transformer import Transformer
from homl_models.tokenizers.base import END, PAD, SPECIAL, START
from homl_models.training.saved_model import write_saved_model
from tests import checks, processes

SOURCE = (*SPECIAL, *"abcdefghij")
TARGET = (*SPECIAL, *"rstuvwxy")
S2S = {"embed_dim": 5, "units": 6}
FORMER = {"dim": 8, "num_heads": 2, "hidden_units": 10, "dropout": 0.0}
SHARED = {"target_vocabulary": SOURCE, "share_embeddings": True, "num_encoder_layers": 1, "num_decoder_layers": 1}
KINDS = {
    **{
        f"{attention} {cell}": (Seq2Seq, {**S2S, "attention": attention, "cell": cell, **more})
        for i, attention in enumerate(ATTENTIONS)
        for cell, more in (("lstm", {"num_layers": 1 + i % 2}), ("gru", {"num_layers": 2 - i % 2}))
    },
    "post-norm": (Transformer, FORMER),
    "pre-norm": (Transformer, {**FORMER, "pre_norm": True, "head_dim": 3, "num_decoder_layers": 1}),
    "post-norm trained": (Transformer, {**FORMER, "positions": "trained", "max_length": 20, "tie_weights": False}),
    "pre-norm trained": (Transformer, {**FORMER, "pre_norm": True, "positions": "trained", "max_length": 20}),
    "shared": (Transformer, {**FORMER, **SHARED}),
}
for kind in ("none gru", "general gru", "additive lstm", "book gru", "dot lstm"):
    KINDS[kind][1]["bidirectional"] = True
FEW = ("none gru", "additive lstm", "pre-norm trained")
FEW_KINDS = pytest.mark.parametrize("kind", [pytest.param("none gru", marks=pytest.mark.slow), *FEW[1:]])
SOME = (*FEW, "general lstm", "book gru", "post-norm")
IN_SHORT = (*SOME, "dot gru", "concat lstm", "shared")  # every attention, cell and norm; the others with -m slow
MARKS = {kind: () if kind in IN_SHORT else pytest.mark.slow for kind in KINDS}
EACH_KIND = pytest.mark.parametrize("kind", [pytest.param(kind, marks=MARKS[kind]) for kind in KINDS])
SOME_KINDS = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in SOME else pytest.mark.slow) for kind in KINDS]
)


def make(kind, seed=0, scale=0.7, **more):
    """A small model with weights large enough for its distributions to be far from even."""
    cls, settings = KINDS[kind]
    model = cls(**{"source_vocabulary": SOURCE, "target_vocabulary": TARGET, **settings, **more})
    model.build()
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, scale, w.shape) if w.trainable else w.numpy() for w in model.weights])
    return model


def pairs(source_lengths=(6, 3, 5), target_lengths=(7, 4, 2), seed=0):
    """Sources with `END`, and targets from `START` to `END`, padded at the right with zeros."""
    rng = np.random.default_rng(seed)
    source = np.zeros((len(source_lengths), max(source_lengths)), "int32")
    target = np.zeros((len(target_lengths), max(target_lengths)), "int32")
    for row, n in zip(source, source_lengths):
        row[:n] = [*rng.integers(4, len(SOURCE), n - 1), END]
    for row, n in zip(target, target_lengths):
        row[:n] = [START, *rng.integers(4, len(TARGET), n - 2), END]
    return source, target


def wider(ids, n=3):
    return np.pad(ids, ((0, 0), (0, n)))


def log_softmax(logits):
    z = np.float64(logits)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def log_p(model, source, target):
    """log p(target | source) (b,) by definition, in double precision."""
    found = np.take_along_axis(log_softmax(model((source, target[:, :-1]))), target[:, 1:, None], axis=-1)[..., 0]
    return (found * (target[:, 1:] != 0)).sum(axis=1)


# Ids.


@pytest.mark.parametrize(
    ("kind", "k"), [*(pytest.param(kind, 2, marks=MARKS[kind]) for kind in KINDS), *((kind, 1) for kind in FEW)]
)
def test_steps_equal_the_full_call(kind, k):
    """Also where k hypotheses share each memory."""
    model, (source, _) = make(kind), pairs()
    rng = np.random.default_rng(2)
    target = rng.integers(1, len(TARGET), (3 * k, 5)).astype("int32")
    memory, state = model.start(source, 6)
    state = keras.tree.map_structure(lambda x: ops.repeat(x, k, axis=0), state)
    full = model((np.repeat(source, k, axis=0), target))
    for t in range(5):
        logits, state = model.step(memory, target[:, t], state)
        checks.close(logits, full[:, t])


@SOME_KINDS
def test_the_state_can_be_reordered(kind):
    """Rows of the state can be permuted between two steps: they hold all that a hypothesis needs."""
    model, (source, _) = make(kind), pairs((4,), (2,))
    target = np.random.default_rng(2).integers(1, len(TARGET), (3, 5)).astype("int32")
    memory, state = model.start(source, 5)
    state = keras.tree.map_structure(lambda x: ops.repeat(x, 3, axis=0), state)
    full, order = model((np.repeat(source, 3, axis=0), target)).numpy(), np.arange(3)
    for t in range(5):
        logits, state = model.step(memory, target[order, t], state)
        checks.close(logits, full[order, t])
        swap = [1, 2, 0] if t % 2 else [0, 2, 1]
        order = order[swap]
        state = keras.tree.map_structure(lambda x, swap=swap: ops.take(x, swap, axis=0), state)


@SOME_KINDS
def test_decoding_is_causal(kind):
    model, (source, _) = make(kind), pairs()
    target = np.random.default_rng(2).integers(1, len(TARGET), (3, 5)).astype("int32")
    checks.causal(lambda target: model((source, target)), target)


@EACH_KIND
def test_padding_does_not_matter(kind):
    model, (source, target) = make(kind), pairs()
    logits = model((source, target)).numpy()
    padded = model((wider(source), wider(target))).numpy()
    for i, (s, t) in enumerate(zip((source != 0).sum(axis=1), (target != 0).sum(axis=1))):
        alone = model((source[i : i + 1, :s], target[i : i + 1, :t]))[0]
        checks.close(logits[i, :t], alone)
        checks.close(padded[i, :t], alone)
        other = model((np.roll(source, 1, axis=0)[i : i + 1], target[i : i + 1]))[0, :t]
        assert np.abs(other - alone).max() > 1e-3  # what is not padding does matter


@EACH_KIND
def test_gradients_reach_every_weight(kind):
    model = make(kind, scale=0.4)
    checks.gradients_reach(lambda x: model(x, training=True), model.trainable_variables, pairs())


@EACH_KIND
def test_config_round_trip(kind):
    cls, settings = KINDS[kind]
    settings = {"source_vocabulary": SOURCE, "target_vocabulary": TARGET, "tokenizer": "characters", **settings}
    checks.config_round_trip(cls, **settings)


@FEW_KINDS
def test_unknown_batch_and_length(kind):
    model = make(kind)
    checks.symbolic_agrees(model, pairs())
    checks.any_batch_and_length(model, pairs())


@pytest.mark.slow
@pytest.mark.xla
@pytest.mark.parametrize("kind", ["additive lstm", "pre-norm trained"])
def test_unknown_batch_and_length_by_xla(kind):
    checks.any_batch_and_length(make(kind), pairs())


@FEW_KINDS
def test_mixed_precision(kind):
    checks.mixed_precision(lambda dtype: make(kind, scale=0.4, dtype=dtype), pairs())
    for policy in checks.HALF:
        model, (source, target) = make(kind, dtype=policy), pairs()
        assert model((source, target)).dtype == tf.float32
        memory, state = model.start(source, 4)
        logits, after = model.step(memory, target[:, 0], state)
        assert logits.dtype == tf.float32
        keras.tree.map_structure(lambda a, b: a.dtype == b.dtype or pytest.fail(f"{a.dtype} {b.dtype}"), state, after)


def trainable(kind, how=None, **more):
    model = make(kind, scale=0.3, **more)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"], **how or {})
    return model


@pytest.mark.parametrize("kind", ["general lstm", pytest.param("shared", marks=pytest.mark.slow)])
def test_keras_file_round_trip_and_one_batch_overfits(kind, tmp_path):
    source, target = pairs()
    model = trainable(kind, {"run_eagerly": True})
    checks.keras_file_round_trip(model, (source, target[:, :-1]), target[:, 1:], tmp_path)
    checks.overfits(trainable(kind), (source, target[:, :-1]), target[:, 1:], steps=100)


@pytest.mark.parametrize("kind", ["general lstm", "post-norm"])
def test_loss_and_accuracy_leave_padding_out(kind):
    model, (source, target) = trainable(kind, {"run_eagerly": True}), pairs()
    wanted, real = target[:, 1:], target[:, 1:] != 0
    logits = model((source, target[:, :-1])).numpy()
    every = log_softmax(logits)
    chosen = np.take_along_axis(every, wanted[..., None], axis=-1)[..., 0]
    right = every.argmax(axis=-1) == wanted
    assert abs(-chosen.mean() + chosen[real].mean()) > 1e-2  # with padding it would be something else
    assert right.mean() != right[real].mean() or not right.any()
    for extra in (0, 3):
        found = model.evaluate((wider(source, extra), wider(target[:, :-1], extra)), wider(wanted, extra), verbose=0)
        assert found[0] == pytest.approx(-chosen[real].mean(), rel=1e-5)
        assert found[1] == pytest.approx(right[real].mean(), rel=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("none")])
def test_alignments_are_distributions_over_the_real_tokens(kind):
    model, (source, target) = make(kind), pairs()
    weights = model.alignment(wider(source), target[:, :-1]).numpy()
    assert weights.shape == (3, target.shape[1] - 1, source.shape[1] + 3)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    real = np.broadcast_to((wider(source) != 0)[:, None], weights.shape)
    assert (weights[~real] == 0).all()
    assert (weights[real] > 0).all()
    assert weights[0].std(axis=0).max() > 1e-3  # each target token looks elsewhere
    checks.close(weights[1:2, :, :3], model.alignment(source[1:2, :3], target[1:2, :-1]))


# Strings. Most tests run them eagerly or in a plain graph, since XLA compiles every shape anew.

SENTENCES = ["a b c", "", "j i h g f e d c b a", "a q! A b"]
WHO = {"additive lstm": {"seed": 9, "scale": 1.2}, "pre-norm": {"seed": 4}}  # whose texts end early, late, never


@pytest.fixture(scope="module", params=["additive lstm", pytest.param("pre-norm", marks=pytest.mark.slow)])
def model(request):
    """One model for all tests that only call it."""
    return make(request.param, **WHO[request.param])


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setattr(translator, "compiled", lambda function: function)


@pytest.fixture
def fresh(model):
    """The module's model with an empty cache of compiled functions."""
    model._compiled.clear()
    yield model
    model._compiled.clear()


def short(model, sentences, **settings):
    return model.translate(sentences, max_length=6, **settings)


@pytest.mark.usefixtures("eager")
def test_a_string_is_translated_as_in_a_list_and_in_a_batch(fresh):
    for settings in ({}, {"beam_width": 3}, {"beam_width": 3, "n_best": 2, "length_penalty": 0.5}):
        together = short(fresh, SENTENCES, **settings)
        assert len(together) == len(SENTENCES)
        for sentence, expected in zip(SENTENCES[:2], together):
            alone = short(fresh, sentence, **settings)
            if "n_best" in settings:
                assert [text for text, _ in alone] == [text for text, _ in expected]
                checks.close([s for _, s in alone], [s for _, s in expected])
            else:
                assert isinstance(alone, str)
                assert alone == expected
        assert fresh.translate([], **settings) == []
    assert short(fresh, "a b") == short(fresh, ["a b"])[0]
    assert len(set(short(fresh, SENTENCES))) > 1


NOTHING = ["", " ", " \t\r\n\x0b\x0c", "\u00a0\u3000\u2028\x85\x1c", "?!"]  # the last has no words


@pytest.mark.usefixtures("eager")
def test_empty_sentences_have_empty_translations_and_do_not_change_others(fresh):
    texts = ["a b", *NOTHING, "c d e"]
    right = [short(fresh, ["a b"])[0], *[""] * len(NOTHING), short(fresh, ["c d e"])[0]]
    assert short(fresh, texts) == right
    best = short(fresh, texts, beam_width=3, n_best=3)
    assert best[1:-1] == [[("", 0.0)]] * len(NOTHING)
    assert short(fresh, texts, beam_width=3) == [row[0][0] for row in best]
    endpoints = fresh.endpoints()
    assert decoded(endpoints["translate"](tf.constant(NOTHING))["translation"]) == [""] * len(NOTHING)
    out = endpoints["translate_beam"](tf.constant(NOTHING), tf.constant(2), tf.constant(1.0))
    assert decoded(out["translations"]) == [["", ""]] * len(NOTHING)
    assert out["scores"].numpy().tolist() == [[0.0, -math.inf]] * len(NOTHING)


@pytest.mark.usefixtures("eager")
def test_beam_scores_are_those_of_the_texts(fresh):
    for alpha in (0.0, 1.3):
        found = short(fresh, SENTENCES, beam_width=4, n_best=4, length_penalty=alpha)
        assert [row[0][0] for row in found] == short(fresh, SENTENCES, beam_width=4, length_penalty=alpha)
        for sentence, row in zip(SENTENCES, found):
            if not sentence:
                continue
            texts, scores = zip(*row)
            assert len(set(texts)) == 4
            assert list(scores) == sorted(scores, reverse=True)
            total = fresh.score([sentence] * 4, texts)
            lengths = np.array([len(text.split()) + 1 for text in texts])
            checks.close(list(scores), list(total / ((5 + lengths) / 6) ** alpha))


@pytest.mark.usefixtures("eager")
def test_a_beam_of_1_is_greedy_whatever_the_penalty(fresh):
    greedy = short(fresh, SENTENCES)
    for alpha in (0.0, 2.0):
        assert [row[0][0] for row in short(fresh, SENTENCES, n_best=1, length_penalty=alpha)] == greedy
    source = fresh.source_ids(SENTENCES)
    for i, text in enumerate(greedy):  # the most probable token each time, of those that may be written
        if not SENTENCES[i]:
            continue
        ids = fresh.target_ids([text])[:, :8]
        best = np.array(fresh((source[i : i + 1], ids)))
        best[..., [PAD, START]] = -np.inf
        n = len(text.split())
        assert best.argmax(axis=-1)[0, : min(n + 1, 6)].tolist() == ids[0, 1 : min(n + 1, 6) + 1].tolist()


@pytest.mark.usefixtures("eager")
def test_length_and_repetition_constraints_hold(fresh):
    for beam_width in (1, 3):
        lengths = {}
        for low, high in ((0, 6), (0, 2), (5, 6)):
            texts = fresh.translate([SENTENCES[0], *SENTENCES[2:]], beam_width, max_length=high, min_length=low)
            lengths[low, high] = [len(text.split()) for text in texts]
            assert all(low <= n <= high for n in lengths[low, high])
        assert beam_width > 1 or min(lengths[0, 6]) < 3 < max(lengths[0, 6])
        for text in short(fresh, SENTENCES[2:], beam_width=beam_width, min_length=6, no_repeat_ngram=1):
            assert len(set(text.split())) == 6


@pytest.mark.usefixtures("eager")
def test_score_is_the_log_probability_of_the_target(fresh):
    targets = ["r s t", "", "y", "w q v v v v v v v v v"]
    found = fresh.score(SENTENCES, targets)
    assert found.shape == (4,)
    for sentence, target, score in zip(SENTENCES, targets, found):
        source = [[*(SOURCE.index(w) if w in SOURCE else 1 for w in sentence.replace("!", "").lower().split()), 3]]
        ids = [[2, *(TARGET.index(w) if w in TARGET else 1 for w in target.split()), 3]]
        assert score == pytest.approx(log_p(fresh, np.int32(source), np.int32(ids))[0], rel=1e-5)
        assert fresh.score(sentence, target) == pytest.approx(score, rel=1e-5)
    assert isinstance(fresh.score("a", "r"), float)


@pytest.mark.usefixtures("eager")
def test_attention_weights_have_source_and_target_tokens(fresh):
    source, target, weights = fresh.attention_weights("a q! B", "r s")
    assert source == ["a", "[UNK]", "b", "[END]"]
    assert target == ["r", "s", "[END]"]
    assert weights.shape == (3, 4)
    checks.close(weights, fresh.alignment(np.int32([[4, 1, 5, 3]]), np.int32([[2, 4, 5]]))[0])
    own = fresh.attention_weights("a b")
    assert " ".join(own[1][:-1]) == fresh.translate("a b")


@pytest.mark.xla
def test_xla_equals_eager_mode(fresh, monkeypatch):
    sentences = SENTENCES[:3]

    def found():
        fresh._compiled.clear()
        return short(fresh, sentences), short(fresh, sentences, beam_width=3, n_best=3, length_penalty=0.7)

    greedy, beams = found()
    monkeypatch.setattr(translator, "compiled", lambda function: function)
    expected_greedy, expected_beams = found()
    assert greedy == expected_greedy
    assert [[text for text, _ in row] for row in beams] == [[text for text, _ in row] for row in expected_beams]
    checks.close([[s for _, s in row] for row in beams], [[s for _, s in row] for row in expected_beams])


@pytest.mark.usefixtures("eager")
def test_other_tokenizers_write_texts():
    whole = make("dot gru", tokenizer="characters", seed=2)
    text = short(whole, "abc", beam_width=3)
    assert isinstance(text, str)
    assert " " not in text
    assert whole.attention_weights("abz", "rs")[:2] == (["a", "b", "[UNK]", "[END]"], ["r", "s", "[END]"])


def test_max_new_tokens():
    model, trained = make("dot gru"), make("pre-norm trained")
    source = model.source_ids(["", "a b", "a " * 9])
    assert source.shape == (3, 16)
    assert np.asarray(model.max_new_tokens(source)).tolist() == [11, 15, 29]  # twice the tokens and 10, one for `END`
    assert np.asarray(model.max_new_tokens(source, 3)).tolist() == [4] * 3
    assert np.asarray(trained.max_new_tokens(source)).tolist() == [11, 15, 20]
    assert trained.source_ids(["a " * 19]).shape == (1, 20)
    assert model.source_ids(["a " * 200]).shape == (1, 256)
    assert trained.target_ids(["r " * 19]).shape == (1, 21)


@pytest.mark.usefixtures("eager")
def test_trained_positions_allow_texts_up_to_their_number():
    model = make("pre-norm trained", seed=1)
    text = model.translate("a " * 19, min_length=30)
    assert len(text.split()) == 19
    assert np.isfinite(model.score("a " * 19, text))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m: m.translate("a", beam_width=0), ["beam_width", "0"]),
        (lambda m: m.translate("a", beam_width=13), ["beam_width", "12", "13"]),
        (lambda m: m.translate([], beam_width=13), ["beam_width", "13"]),
        (lambda m: m.translate("a", length_penalty=-0.5), ["length_penalty", "-0.5"]),
        (lambda m: m.translate("a", length_penalty=math.nan), ["length_penalty", "nan"]),
        (lambda m: m.translate("a", length_penalty=math.inf), ["length_penalty", "inf"]),
        (lambda m: m.translate("a", beam_width=2, n_best=3), ["n_best", "2", "3"]),
        (lambda m: m.translate("a", n_best=0), ["n_best", "0"]),
        (lambda m: m.translate("a", min_length=-1), ["min_length"]),
        (lambda m: m.translate("a", no_repeat_ngram=-1), ["no_repeat_ngram"]),
        (lambda m: m.translate("a", max_length=0), ["max_length", "0"]),
        (lambda m: m.translate("a", max_length=3, min_length=4), ["max_length", "3", "4"]),
        (lambda m: m.translate(["a", 3]), ["string", "3"]),
        (lambda m: m.translate([b"a"]), ["string", "b'a'"]),
        (lambda m: m.translate("a " * 20), ["21 tokens", "20"]),
        (lambda m: m.score("a", "r " * 20), ["21 tokens", "20"]),
        (lambda m: m.score(["a", "b"], ["r"]), ["2", "1"]),
    ],
    ids=range(17),
)
def test_mistakes_are_named_in_one_line(call, named):
    with pytest.raises(UserError) as error:
        call(make("pre-norm trained"))
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in named), error.value


def test_a_model_without_attention_says_so():
    model = make("none gru")
    with pytest.raises(UserError, match="no attention"):
        model.attention_weights("a", "r")
    assert set(model.endpoints()) == {"translate", "translate_beam", "score"}


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (Seq2Seq, {"tokenizer": "letters"}),
        (Seq2Seq, {"cell": "rnn"}),
        (Seq2Seq, {"attention": "luong"}),
        (Seq2Seq, {"units": 7, "bidirectional": True}),
        (Seq2Seq, {"scheduled_sampling": "cosine"}),
        (Seq2Seq, {"scheduled_sampling": "exponential", "sampling_k": 1.0}),
        (Transformer, {"positions": "learned"}),
        (Transformer, {"positions": "trained"}),
        (Transformer, {"share_embeddings": True}),
        (Transformer, {"dim": 9, "num_heads": 2}),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(cls, settings):
    with pytest.raises(UserError) as error:
        cls(SOURCE, TARGET, **settings)
    assert "\n" not in str(error.value)


# The SavedModel.

LONG = " ".join("abcdefghij"[i * i % 10] for i in range(200))


def near(found, expected):
    checks.close(np.asarray(found, "float64"), np.asarray(expected, "float64"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pre-norm", "additive lstm"])
def test_the_saved_model_equals_the_python_api(kind, tmp_path, monkeypatch):
    """An empty sentence and one of 200 words among them."""
    fresh = make(kind, **WHO[kind])
    monkeypatch.setattr(translator, "compiled", lambda function: function)
    max_new_tokens = fresh.max_new_tokens
    monkeypatch.setattr(fresh, "max_new_tokens", lambda *args: ops.minimum(max_new_tokens(*args), 8))  # to save time
    write_saved_model(fresh, tmp_path / "saved_model")
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    rng = np.random.default_rng(0)
    some = [" ".join(rng.choice(list("abcdefghij?"), n)) for n in rng.integers(1, 9, 64)]
    targets = [" ".join(rng.choice(list("rstuvwxyz"), n)) for n in rng.integers(0, 12, 64)]
    for n in (1, 7, 64):
        texts = [LONG, "", *some[2:n]] if n > 1 else ["B c!"]
        given = tf.constant(texts)
        assert decoded(loaded.translate(given)["translation"]) == fresh.translate(texts)
        out = loaded.translate_beam(given, 4, 0.6)
        expected = fresh.translate(texts, beam_width=4, length_penalty=0.6, n_best=4)
        found = zip(decoded(out["translations"]), out["scores"].numpy())
        found = [[pair for pair in zip(*row) if pair[1] > -np.inf] for row in found]
        assert [[text for text, _ in row] for row in found] == [[text for text, _ in row] for row in expected]
        near([score for row in found for _, score in row], [score for row in expected for _, score in row])
        wanted = targets[: len(texts)]
        near(loaded.score(given, tf.constant(wanted))["log_probability"], fresh.score(texts, wanted))
        out = loaded.attention(given, tf.constant(wanted))
        for i in range(min(len(texts), 2)):
            source, target, weights = fresh.attention_weights(texts[i], wanted[i])
            assert decoded(out["source_tokens"])[i][: len(source)] == source
            assert decoded(out["target_tokens"])[i][: len(target)] == target
            near(out["weights"][i, : len(target), : len(source)], weights)
    with pytest.raises(tf.errors.InvalidArgumentError, match="beam_width must lie in 1 to 12"):
        loaded.translate_beam(tf.constant(["a"]), 13, 1.0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="beam_width must lie in 1 to 12"):
        loaded.translate_beam(tf.constant(["a"]), 0, 1.0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="length_penalty must be 0 or more"):
        loaded.translate_beam(tf.constant(["a"]), 2, -1.0)
    nothing = tf.constant([], tf.string)
    assert loaded.translate(nothing)["translation"].shape == (0,)
    assert loaded.translate_beam(nothing, 3, 1.0)["scores"].shape == (0, 3)
    assert loaded.score(nothing, nothing)["log_probability"].shape == (0,)
    assert {len(x) for x in loaded.attention(nothing, nothing).values()} == {0}


def decoded(strings):
    strings = strings.numpy().tolist() if tf.is_tensor(strings) else strings
    return [decoded(s) if isinstance(s, list) else s.decode() for s in strings]


def test_the_endpoints_of_trained_positions_refuse_what_is_too_long():
    model = make("post-norm trained")
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than the 20 tokens"):
        model.endpoints()["score"](tf.constant(["a", "a " * 20]), tf.constant(["r", "r"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="a translation has more than the 20 tokens"):
        model.endpoints()["score"](tf.constant(["a"]), tf.constant(["r " * 20]))
    at_most = model.endpoints()["score"](tf.constant(["a"]), tf.constant([" ".join("r" * 19)]))["log_probability"]
    near(at_most, model.score(["a"], [" ".join("r" * 19)]))


# Another backend.

ELSEWHERE = """
import json, sys
import keras, numpy as np
from homl_models.tokenizers.base import END, PAD, SPECIAL, START
from homl_models.models import translator
from homl_models.models.seq2seq import Seq2Seq
from homl_models.models.transformer import Transformer
V = (*SPECIAL, *"abcdef")
usual = translator.compiled
if keras.backend.backend() == "jax":
    import jax
    translator.compiled = jax.jit  # not needed, but faster
results = []
make = {
    "seq2seq": lambda: Seq2Seq(V, V, embed_dim=5, units=6, attention="additive"),
    "transformer": lambda: Transformer(
        V, V, dim=8, num_heads=2, hidden_units=10, pre_norm=True, num_encoder_layers=1, num_decoder_layers=1),
}
for name in sys.argv[1].split():
    model = make[name]()
    model.build()
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.7, w.shape) if w.trainable else np.array(w) for w in model.weights])
    source, max_new_tokens = np.int32([[4, 5, 6, 3], [9, 3, 0, 0]]), np.int32([6, 4])
    found = model._run("greedy", source, max_new_tokens, length=6)
    if sys.argv[2] == "all":
        more = {"length": 6, "beam_width": 3, "n_best": 3, "no_repeat_ngram": 2}
        found += model._run("beam", source, max_new_tokens, np.float32(0.7), **more)
    found += (model._run("alignment", source, np.int32([[2, 4, 5], [2, 6, 0]])),)
    results.append([np.asarray(x).tolist() for x in found])
translator.compiled = usual
print(json.dumps(results))
"""


@pytest.mark.xdist_group("jax")
@pytest.mark.parametrize(
    "what", [("seq2seq", "greedy"), pytest.param(("seq2seq transformer", "all"), marks=pytest.mark.slow)], ids=str
)
@pytest.mark.usefixtures("eager")
def test_jax_equals_tensorflow(what, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", *what])
    exec(ELSEWHERE, {})
    here = json.loads(capsys.readouterr().out.splitlines()[-1])
    there = processes.run(ELSEWHERE, *what, process=processes.JAX)
    for ours, theirs in zip(here, there, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            if np.asarray(a).dtype.kind == "f":
                near(b, a)
            else:
                assert a == b
    assert what[1] == "greedy" or here[0][0] != here[1][0]
