"""The character RNN: logits, stateful training, sampling."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from homl_models.errors import UserError
from homl_models.models.char_rnn import CharRNN
from homl_models.tokenizers import characters
from homl_models.training.saved_model import write_saved_model
from tests import checks, processes

VOCABULARY = "\n abcdeé😀"
V = len(VOCABULARY)
PROMPTS = ["abé", "", "c😀 a", "d\n"]
KINDS = {
    "gru": {},
    "lstm": {"cell": "lstm"},
    "2 gru": {"num_layers": 2, "dropout": 0.2},
    "2 lstm tied": {"cell": "lstm", "num_layers": 2, "tie_weights": True},
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


def char_rnn(seed=0, **settings):
    """A small model with weights large enough for its distributions to be far from even."""
    model = CharRNN(VOCABULARY, **{"embed_dim": 5, "units": 7, **settings})
    model.build()
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.8, w.shape) if w.trainable else w.numpy() for w in model.weights])
    return model


def compiled(model, **how):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), loss, metrics=["accuracy"], **how)
    return model


def stateful(**settings):
    return char_rnn(stateful=True, batch_size=3, **settings)


@pytest.fixture(scope="module")
def model():
    """One model for all tests that only call it."""
    return char_rnn(num_layers=2)


def ids(batch, length, seed=0):
    return np.random.default_rng(seed).integers(0, V, (batch, length)).astype("int32")


def log_softmax(logits):
    z = np.float64(logits)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


# What every model has to pass.


@EACH_KIND
def test_config_round_trip(kind):
    checks.config_round_trip(CharRNN, vocabulary=VOCABULARY, embed_dim=5, units=7, **KINDS[kind])


@pytest.mark.parametrize("kind", ["2 gru", "2 lstm tied"])
def test_keras_file_round_trip(kind, tmp_path):
    x = ids(3, 8)
    checks.keras_file_round_trip(compiled(char_rnn(**KINDS[kind]), run_eagerly=True), x[:, :-1], x[:, 1:], tmp_path)


def test_stateful_keras_file_round_trip(tmp_path):
    x = ids(3, 8)
    checks.keras_file_round_trip(compiled(stateful(), run_eagerly=True), x[:, :-1], x[:, 1:], tmp_path)


@EACH_KIND
def test_unknown_batch_and_length(kind):
    checks.symbolic_agrees(char_rnn(**KINDS[kind]), ids(3, 6))
    checks.any_batch_and_length(char_rnn(**KINDS[kind]), ids(3, 6))


@pytest.mark.xla
def test_unknown_batch_and_length_by_xla():
    checks.any_batch_and_length(char_rnn(**KINDS["2 lstm tied"]), ids(3, 6))


@pytest.mark.parametrize("policy", checks.HALF)
def test_logits_are_float32_in_every_precision(policy):
    for tie_weights in (False, True):
        model = char_rnn(dtype=policy, tie_weights=tie_weights)
        assert model(ids(2, 3)).dtype == tf.float32
        assert model.start(ids(2, 3), np.array([1, 3]))[0].dtype == tf.float32


@EACH_KIND
def test_padding_does_not_matter_and_the_model_is_causal(kind):
    model = char_rnn(**KINDS[kind])
    checks.padding_does_not_matter(lambda x, mask: model(x, mask=mask), ids(3, 6), [6, 2, 4])
    checks.causal(model, ids(3, 6))


@EACH_KIND
def test_gradients_reach_every_weight(kind):
    model = char_rnn(**KINDS[kind])
    checks.gradients_reach(lambda x: model(x, training=True), model.trainable_variables, ids(4, 6))


@EACH_KIND
def test_mixed_precision(kind):
    checks.mixed_precision(lambda dtype: char_rnn(dtype=dtype, **KINDS[kind]), ids(3, 6))


@pytest.mark.parametrize("kind", ["gru", pytest.param("2 lstm tied", marks=pytest.mark.slow)])
def test_one_batch_overfits(kind):
    x = ids(2, 9)
    model = compiled(char_rnn(**KINDS[kind], units=32))
    checks.overfits(model, x[:, :-1], x[:, 1:], steps=80)


# Reading.


@EACH_KIND
def test_step_by_step_equals_call(kind):
    model, x = char_rnn(**KINDS[kind]), ids(3, 6)
    logits, state = model(x), model.zero_state(3)
    for t in range(6):
        one, state = model.step(x[:, t], state)
        checks.close(one, logits[:, t])


@EACH_KIND
def test_start_on_padded_prompts_equals_each_prompt_alone(kind):
    model, x, lengths = char_rnn(**KINDS[kind]), ids(4, 6), [6, 2, 0, 4]
    logits, state = model.start(x, np.array(lengths))
    for i, n in enumerate(lengths):
        one, alone = model.logits(ops.zeros((1, 7))), model.zero_state(1)
        for t in range(n):
            one, alone = model.step(x[i : i + 1, t], alone)
        checks.close(logits[i : i + 1], one)
        checks.close(keras.tree.map_structure(lambda s, i=i: s[i : i + 1], state), alone)


def test_dropout_acts_in_training_alone():
    model, plain, x = char_rnn(dropout=0.5, num_layers=2), char_rnn(num_layers=2), ids(3, 6)
    checks.close(model(x), plain(x))
    assert (model(x, training=True).numpy() != model(x, training=True).numpy()).any()


@pytest.mark.parametrize("settings", [{"cell": "rnn"}, {"vocabulary": ""}, {"vocabulary": "aba"}, {"stateful": True}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(UserError):
        CharRNN(**{"vocabulary": VOCABULARY, **settings})


# Stateful training.


def rnn_state(model):
    return [variable.numpy().copy() for layer in model.rnn_state for variable in layer]


@pytest.mark.parametrize("kind", ["gru", "2 lstm tied"])
def test_two_batches_of_10_equal_one_of_20(kind):
    model, x = stateful(**KINDS[kind]), ids(3, 20)
    for call in (model, tf.function(model)):
        model.reset_state()
        halves = [call(x[:, :10], training=True), call(x[:, 10:], training=True)]
        ended = rnn_state(model)
        model.reset_state()
        checks.close(ops.concatenate(halves, axis=1), call(x, training=True))
        checks.close(ended, rnn_state(model))


def test_fit_starts_each_epoch_from_zero():
    x = ids(3, 31)
    batches = np.stack(np.split(x[:, :30], 3, axis=1)), np.stack(np.split(x[:, 1:], 3, axis=1))
    model = compiled(stateful())
    model.optimizer.learning_rate = 0.0
    for variable in model.rnn_state[0]:
        variable.assign(ops.ones_like(variable))
    data = tf.data.Dataset.from_tensor_slices(batches)
    losses = model.fit(data, epochs=2, shuffle=False, verbose=0).history["loss"]
    log_p = log_softmax(model(x[:, :30]))  # from zero, without a break
    expected = -np.take_along_axis(log_p, x[:, 1:, None], axis=-1).mean()
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert all(state.any() for state in rnn_state(model))


def test_outside_of_training_the_rnn_state_is_neither_used_nor_changed():
    model, x = compiled(stateful(num_layers=2), run_eagerly=True), ids(3, 11)

    def used():
        loss, _ = model.evaluate(x[:, :10], x[:, 1:], verbose=0)
        return model.predict(x[:, :10], verbose=0), loss, model.generate("ab", 5, temperature=0), model.score("ab")

    unused = used()
    model(x, training=True)
    before = rnn_state(model)
    assert all(state.any() for state in before)
    checks.close(used(), unused)
    assert model.predict(ids(5, 4), verbose=0).shape == (5, 4, V)  # any number of rows
    checks.close(rnn_state(model), before, 0)


# Strings.


def test_score_is_the_log_probability_per_character(model):
    texts = ["abc😀 é\n", "e", "dd"]
    bits = model.score(texts)
    for some, score in zip(texts, bits):
        row = characters.encode(some, VOCABULARY)[None]
        logits = np.concatenate([model.logits(np.zeros((1, 1, 7), "float32")), model(row)[:, :-1]], axis=1)
        log_p = log_softmax(logits)[0, np.arange(len(some)), row[0]]
        assert score == pytest.approx(-log_p.sum() / math.log(2) / len(some), rel=1e-5)
        assert model.score(some) == pytest.approx(score, rel=1e-5)


def test_probabilities_of_the_next_character(model):
    p = model.next_char("ab")
    assert set(p) == set(VOCABULARY)
    assert list(p.values()) == sorted(p.values(), reverse=True)
    assert sum(p.values()) == pytest.approx(1, abs=1e-6)
    expected = np.exp(log_softmax(model(characters.encode("ab", VOCABULARY)[None])[0, -1]))
    checks.close([p[c] for c in VOCABULARY], list(expected))
    assert model.score("abé") * 3 - model.score("ab") * 2 == pytest.approx(-math.log2(p["é"]), rel=1e-4)


def test_temperature_0_is_greedy(model):
    logits = tf.function(model, input_signature=[tf.TensorSpec((None, None), tf.int32)])
    for prompt, written in zip(PROMPTS, model.generate(PROMPTS, 20, temperature=0), strict=True):
        expected = prompt or next(iter(model.next_char("")))
        while len(expected) < len(prompt) + 20:
            expected += VOCABULARY[np.argmax(logits(characters.encode(expected, VOCABULARY)[None])[0, -1])]
        assert written == expected
        assert model.generate(prompt, 20, temperature=0) == expected


def test_the_seed_decides_the_text(model):
    for temperature, top_k, top_p in ((1.0, 0, 1.0), (2.0, 5, 0.9)):
        choice = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        texts = {seed: model.generate(PROMPTS, 30, seed=seed, **choice) for seed in (1, 2)}
        assert model.generate(PROMPTS, 30, seed=1, **choice) == texts[1] != texts[2]
        for length in (0, 1, 17):
            shorter = model.generate(PROMPTS, length, seed=1, **choice)
            assert shorter == [t[: len(p) + length] for t, p in zip(texts[1], PROMPTS)]
    assert model.generate(PROMPTS, 30) != model.generate(PROMPTS, 30)  # a seed is drawn if none is given


def test_a_prompt_has_the_same_continuation_alone_and_in_a_batch_and_others_when_repeated(model):
    among = model.generate([*PROMPTS, PROMPTS[0], PROMPTS[0]], 30, seed=3)
    assert [model.generate(prompt, 30, seed=3) for prompt in PROMPTS] == among[: len(PROMPTS)]
    assert len({among[0], *among[-2:]}) == 3
    assert model.generate([PROMPTS[0]] * 3, 30, seed=3) == [among[0], *among[-2:]]


def test_top_k_1_and_top_p_0_are_greedy(model):
    greedy = model.generate(PROMPTS, 20, temperature=0)
    assert model.generate(PROMPTS, 20, temperature=2.0, top_k=1, seed=1) == greedy
    assert model.generate(PROMPTS, 20, temperature=2.0, top_p=0.0, seed=2) == greedy
    assert model.generate(PROMPTS, 20, temperature=2.0, seed=1) != greedy


def test_a_text_ends_with_the_stop_string(model):
    whole = model.generate(PROMPTS, 30, seed=5)
    for stop in ("a", "é", whole[0][20:23]):
        ended = 0
        for prompt, long, short in zip(PROMPTS, whole, model.generate(PROMPTS, 30, seed=5, stop=stop), strict=True):
            new = long[len(prompt) :]
            ended += stop in new
            assert short == prompt + new[: new.find(stop) + len(stop) if stop in new else 30]
        assert ended


def test_no_prompts_no_texts(model):
    assert model.generate([]) == []
    assert model.generate("", length=0) == ""
    assert model.score([]).shape == (0,)


def test_a_lowercase_model_lowers_its_inputs_and_returns_prompts_unchanged():
    model = char_rnn(lowercase=True)
    assert model.generate("AbÉ", 8, temperature=0) == "AbÉ" + model.generate("abé", 8, temperature=0)[3:]
    assert model.score("ABC") == pytest.approx(model.score("abc"))
    whole = model.generate("a", 30, seed=1)
    assert model.generate("a", 30, seed=1, stop=whole[9:12].upper()) == whole[: whole.index(whole[9:12], 1) + 3]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m: m.generate("abQ"), ["'Q'", "position 2"]),
        (lambda m: m.generate(["ab", "🎉"]), ["'🎉'", "U+1F389"]),
        (lambda m: m.next_char("A"), ["'A'"]),
        (lambda m: m.score(["ab", "a~"]), ["'~'", "position 1"]),
        (lambda m: m.score(["ab", ""]), ["empty"]),
        (lambda m: m.generate("a", stop="zz"), ["'z'"]),
        (lambda m: m.generate("a", length=-1), ["length", "-1"]),
        (lambda m: m.generate("a", temperature=-0.1), ["temperature", "-0.1"]),
        (lambda m: m.generate("a", temperature=math.nan), ["temperature"]),
        (lambda m: m.generate("a", temperature=math.inf), ["temperature"]),
        (lambda m: m.generate("a", top_k=-1), ["top_k", "-1"]),
        (lambda m: m.generate("a", top_p=-0.01), ["top_p", "-0.01"]),
        (lambda m: m.generate("a", top_p=1.01), ["top_p", "1.01"]),
    ],
    ids=range(13),
)
def test_mistakes_are_named_in_one_line(model, call, named):
    with pytest.raises(UserError) as error:
        call(model)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in named), error.value


# The SavedModel.

WITHOUT_KERAS = """
import json, sys
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
results = []
for name, arguments in json.loads(sys.argv[2]):
    outputs = getattr(loaded, name)(*map(tf.constant, arguments))
    plain = {k: v.numpy().tolist() for k, v in outputs.items()}
    results.append({k: [t.decode() for t in v] if outputs[k].dtype == tf.string else v for k, v in plain.items()})
print(json.dumps(results))
"""


def generate_arguments(prompts, length=20, temperature=1.0, top_k=0, top_p=1.0, seed=0, stop=""):
    return [prompts, length, temperature, top_k, top_p, seed, stop]


def test_the_saved_model_equals_the_python_model_where_there_is_no_keras(model, tmp_path):
    write_saved_model(model, tmp_path / "saved_model")
    choices = [
        {"seed": 3},
        {"length": 30, "temperature": 1.5, "top_k": 6, "top_p": 0.9, "seed": 2**31 - 3},
        {"temperature": 0.0},
        {"length": 30, "stop": "a"},
        {"prompts": [*PROMPTS, PROMPTS[0], PROMPTS[0]], "seed": -4},
        {"length": 0},
    ]
    calls = [("generate", generate_arguments(**{"prompts": PROMPTS, **choice})) for choice in choices]
    calls += [("generate", generate_arguments([prompt], temperature=0.0)) for prompt in PROMPTS]
    calls += [("generate", generate_arguments(["aQ🎉b"], temperature=0.0))]
    calls += [("next_char", [PROMPTS]), ("next_char", [[""]]), ("next_char", [["a~b"]])]
    calls += [("score", [["abé😀", "", "c~"]]), ("score", [[""]])]
    folder = tmp_path / "saved_model"
    results = processes.run(WITHOUT_KERAS, folder, json.dumps(calls), process=processes.NO_KERAS)
    expected = [{"text": model.generate(**{"prompts": PROMPTS, "length": 20, "seed": 0, **c})} for c in choices]
    expected += [{"text": model.generate([prompt], 20, temperature=0)} for prompt in PROMPTS]
    expected += [{"text": ["aQ🎉b" + model.generate("a  b", 20, temperature=0)[4:]]}]
    for prompts in (PROMPTS, [""], ["a b"]):
        p = [model.next_char(prompt) for prompt in prompts]
        expected += [{"characters": list(VOCABULARY), "probabilities": [[row[c] for c in VOCABULARY] for row in p]}]
    expected += [{"bits_per_character": [model.score("abé😀"), 0.0, model.score("c ")]}, {"bits_per_character": [0.0]}]
    for result, right in zip(results, expected, strict=True):
        checks.close(result, right)


def test_an_endpoint_stops_where_python_does_or_refuses_as_python_does():
    model = char_rnn(lowercase=True)
    generate = model.endpoints()["generate"]
    for stop in ("A", "bÉ", ""):
        arguments = [tf.constant(x) for x in generate_arguments(["ab"], 30, seed=2, stop=stop)]
        assert [x.decode() for x in generate(*arguments)["text"].numpy()] == model.generate(
            ["ab"], 30, seed=2, stop=stop
        )
    with pytest.raises(tf.errors.InvalidArgumentError, match="stop holds a character that the model does not know"):
        generate(*map(tf.constant, generate_arguments(["ab"], stop="zz")))


def test_every_endpoint_of_the_export_agrees(tmp_path):
    calls = {
        "generate": generate_arguments(["ab", ""], 9, 0.8, 4, 0.95, 7, "e"),
        "next_char": [["Ab", "É~"]],
        "score": [["AB", "", "é😀"]],
    }
    checks.export_agrees(char_rnn(cell="lstm", tie_weights=True, lowercase=True), tmp_path / "saved_model", calls)
