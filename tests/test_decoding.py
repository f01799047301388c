"""Sampling, against plain Python and NumPy in double precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from homl_models import decoding
from homl_models.decoding import PAD
from tests import checks

LAST = np.float32(1 - 2**-23)  # the largest value of `sampling_noise`
MODES = pytest.mark.parametrize(
    "jit_compile", [None, False, pytest.param(True, marks=pytest.mark.xla)], ids=["eager", "graph", "xla"]
)


def compiled(function, jit_compile):
    return function if jit_compile is None else tf.function(function, jit_compile=jit_compile)


def random_logits(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 2, shape).astype("float32")


def kept_by_definition(row, temperature, top_k, top_p):
    """Tokens of a row of logits that top-k, then nucleus sampling keep, with ties of the last; by definition."""
    best_first = sorted(range(len(row)), key=lambda i: -row[i])
    if 0 < top_k < len(row):
        best_first = [i for i in best_first if row[i] >= row[best_first[top_k - 1]]]
    weights = {i: np.exp((float(row[i]) - float(row.max())) / temperature) for i in best_first}
    kept, mass = [], 0.0
    for i in best_first:
        if kept and top_p < 1 and mass >= top_p and row[i] != row[kept[-1]]:
            break
        kept.append(i)
        mass += weights[i] / sum(weights.values())
    return kept


def filtered_by_definition(logits, temperature, top_k, top_p):
    out = np.full(logits.shape, -np.inf)
    for place in np.ndindex(logits.shape[:-1]):
        kept = kept_by_definition(logits[place], temperature, top_k, top_p)
        out[place][kept] = np.float64(logits[place][kept]) / temperature
    return out


CHOICES = [(t, k, p) for t in (0.7, 2.0) for k in (0, 1, 3, 11, 12, 100) for p in (0.0, 0.3, 0.9, 1.0)]


@MODES
def test_filter_logits_equals_its_definition(jit_compile):
    logits = random_logits(5, 12)
    filter_logits = compiled(decoding.filter_logits, jit_compile)
    for choice in CHOICES:
        checks.close(filter_logits(logits, *map(tf.constant, choice)), filtered_by_definition(logits, *choice))


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis -1")  # of one token
@pytest.mark.parametrize("shape", [(12,), (1, 12), (3, 2, 12), (4, 1)], ids=str)
def test_filter_logits_takes_any_batch_shape_and_python_numbers(shape):
    logits = random_logits(*shape)
    for choice in CHOICES:
        checks.close(decoding.filter_logits(logits, *choice), filtered_by_definition(logits, *choice))


TIES = [  # top_k, top_p, the places kept among these probabilities
    (1, 1.0, [1]),
    (2, 1.0, [1, 2, 4, 5]),
    (4, 1.0, [1, 2, 4, 5]),
    (5, 1.0, [0, 1, 2, 3, 4, 5]),
    (0, 0.0, [1]),
    (0, 0.39, [1]),
    (0, 0.41, [1, 2, 4, 5]),
    (0, 0.84, [1, 2, 4, 5]),
    (0, 0.86, [0, 1, 2, 3, 4, 5]),
    (2, 0.46, [1]),  # of what top_k leaves: 0.40 of 0.85
    (2, 0.48, [1, 2, 4, 5]),
]


@MODES
def test_filter_logits_keeps_ties_of_the_last_token_kept(jit_compile):
    logits = np.log(np.array([0.075, 0.40, 0.15, 0.075, 0.15, 0.15], "float32"))
    filter_logits = compiled(decoding.filter_logits, jit_compile)
    for top_k, top_p, kept in TIES:
        out = filter_logits(logits, 1.0, tf.constant(top_k), tf.constant(top_p))
        assert np.flatnonzero(np.isfinite(out)).tolist() == kept, (top_k, top_p)


@MODES
def test_temperature_0_takes_the_first_of_the_most_probable(jit_compile):
    logits = np.array([[0, 3, 1, 3], [2, 2, 2, 2], [-5, -9, -7, -4]], "float32")
    sample_token = compiled(decoding.sample_token, jit_compile)
    for noise in (0.0, 0.5, LAST):
        for filters in ((0, 1.0), (2, 0.5)):
            assert sample_token(logits, tf.fill([3], noise), 0.0, *filters).numpy().tolist() == [1, 0, 3]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_token_frequencies_equal_their_probabilities(temperature):
    logits, n = random_logits(9), 20_000
    noise = decoding.sampling_noise(3, n, 1)[:, 0]
    tokens = decoding.sample_token(np.tile(logits, (n, 1)), noise, temperature).numpy()
    counts = np.bincount(tokens, minlength=9)

    def p_value(temperature):
        p = np.exp(np.float64(logits) / temperature)
        return stats.chisquare(counts, n * p / p.sum()).pvalue

    assert p_value(temperature) > 0.01
    assert p_value(temperature * 1.1) < 1e-6  # the test has the power to tell


@MODES
@pytest.mark.parametrize("vocab_size", [65, 1000])  # over about 256, XLA sums in blocks, and sums may decrease
def test_an_excluded_token_is_never_sampled(vocab_size, jit_compile):
    logits = random_logits(1, vocab_size)
    logits[0, [0, 1, -2, -1]] = -20  # excluded at both ends
    sample_token, filter_logits = (
        compiled(decoding.sample_token, jit_compile),
        compiled(decoding.filter_logits, jit_compile),
    )
    for filters in ((3, 1.0), (0, 0.5), (vocab_size // 2, 0.99)):
        kept = np.isfinite(filter_logits(logits, 1.0, *filters).numpy()[0])
        assert not kept[[0, 1, -2, -1]].any()
        p = np.where(kept, np.exp(np.float64(logits[0])), 0)
        edges = np.unique(p.cumsum() / p.sum())[:-1, None]  # where one token ends and another begins
        near = (edges + np.arange(-3, 4) * 2**-24).ravel()
        noise = np.float32([0, LAST, *near[(near >= 0) & (near <= LAST)]])
        tokens = sample_token(np.tile(logits, (len(noise), 1)), noise, 1.0, *filters).numpy()
        assert kept[tokens].all()
        assert tokens[:2].tolist() == np.flatnonzero(kept)[[0, -1]].tolist()


# `sample`, over a model without weights: the logits depend on the last two tokens and on how many there were.

V = 6
TABLE, AGE = random_logits(V, V, V, seed=1), random_logits(4, V, seed=2)
FIRST = random_logits(4, V, seed=3)


def step(tokens, state):
    logits = tf.gather_nd(TABLE, tf.stack([state["before"], tokens], axis=1)) + tf.gather(AGE, state["age"] % 4)
    return logits, {"before": tokens, "age": state["age"] + 1}


def start(batch):
    return {"before": tf.zeros([batch], tf.int32), "age": tf.zeros([batch], tf.int32)}


def sampled(noise, step=step, jit_compile=None, **settings):
    """`decoding.sample` of that model, its settings given as tensors."""

    def run(logits, noise, settings):
        return decoding.sample(step, logits, start(tf.shape(logits)[0]), noise, **settings)

    return compiled(run, jit_compile)(FIRST[: noise.shape[1]], noise, {k: tf.constant(v) for k, v in settings.items()})


def sampled_in_python(noise, length=None, stop=None, temperature=1.0, top_k=0, top_p=1.0):
    """The same, one row and one token at a time, by definition."""
    length = len(noise) if length is None else length
    out = np.full(noise.shape[::-1], PAD)
    for row, column in enumerate(np.float64(noise).T):
        logits, before, tokens = FIRST[row], 0, []
        while len(tokens) < length and not (stop and tokens[-len(stop) :] == list(stop)):
            if temperature:
                kept = sorted(kept_by_definition(logits, temperature, top_k, top_p))
                p = np.exp(np.float64(logits[kept]) / temperature).cumsum()
                token = kept[np.searchsorted(p, column[len(tokens)] * p[-1], side="right")]
            else:
                token = int(np.argmax(logits))
            logits, before = TABLE[before, token] + AGE[len(tokens) % 4], token
            tokens.append(token)
        out[row, : len(tokens)] = tokens
    return out


NOISE = np.random.default_rng(4).random((20, 4)).astype("float32")
SETTINGS = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_k": 3, "top_p": 0.9},
    {"stop": [2]},
    {"stop": [5, 0, 4]},  # two rows end
    {"stop": [4, 3, 4]},  # all rows end
    {"length": 7, "stop": [4, 3, 4]},
    {"length": 0},
    {"length": 1},
]


@MODES
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sample_equals_plain_python(settings, jit_compile):
    tokens = sampled(NOISE, jit_compile=jit_compile, **settings).numpy()
    assert tokens.dtype == np.int32
    assert tokens.tolist() == sampled_in_python(NOISE, **settings).tolist()


@pytest.mark.parametrize("stop", [[2], [5, 0, 4], [4, 3, 4]], ids=str)
def test_a_row_ends_with_the_stop_sequence_while_other_rows_continue(stop):
    ends = []
    for row in sampled(NOISE, stop=stop).numpy().tolist():
        tokens = [token for token in row if token != PAD]
        assert row == tokens + [PAD] * (20 - len(tokens))
        found = [i for i in range(21) if tokens[i - len(stop) : i] == stop]
        assert found in ([], [len(tokens)])  # once, at the end, or never
        ends.append(len(tokens))
    assert len(set(ends)) > 1
    assert min(ends) < 20


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_no_step_is_taken_after_all_rows_have_ended(settings):
    taken = []

    def counting(tokens, state):
        taken.append(tokens)
        return step(tokens, state)

    tokens = sampled(NOISE, counting, **settings).numpy()
    assert len(taken) == (tokens != PAD).any(axis=0).sum()


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.xla)])
def test_one_trace_serves_every_batch_length_and_choice(jit_compile):
    spec = [
        tf.TensorSpec((None, V)),
        tf.TensorSpec((None, None)),
        tf.TensorSpec((), tf.int32),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec(()),
    ]

    @tf.function(input_signature=spec, jit_compile=jit_compile)
    def run(logits, noise, length, stop, temperature):
        first = start(tf.shape(logits)[0])
        return decoding.sample(step, logits, first, noise, length=length, stop=stop, temperature=temperature)

    cases = [(4, 20, 20, [2], 1.0), (2, 9, 5, [4, 0], 0.0), (1, 1, 0, [0], 2.0)]
    if not jit_compile:
        cases.append((3, 0, 0, [0], 1.0))  # no noise at all, which XLA does not compile
    for batch, t, length, stop, temperature in cases:
        noise = NOISE[:t, :batch]
        expected = sampled_in_python(noise, length, stop, temperature)
        assert run(FIRST[:batch], noise, length, stop, temperature).numpy().tolist() == expected.tolist()


def test_each_row_is_sampled_as_if_alone():
    together = sampled(NOISE, stop=[2]).numpy()
    for row in range(4):
        alone = decoding.sample(step, FIRST[row : row + 1], start(1), NOISE[:, row : row + 1], stop=[2])
        assert alone.numpy()[0].tolist() == together[row].tolist()


def test_sampling_noise_does_not_depend_on_the_length():
    long = keras.ops.convert_to_numpy(decoding.sampling_noise(7, 64, 3))
    assert long.shape == (64, 3)
    assert (long >= 0).all()
    assert (long <= LAST).all()
    for length in (1, 10, 63):
        np.testing.assert_array_equal(decoding.sampling_noise(7, length, 3), long[:length])
    assert (decoding.sampling_noise(8, 64, 3).numpy() != long).any()


def test_sampling_noise_of_a_row_depends_on_its_number_alone():
    many = keras.ops.convert_to_numpy(decoding.sampling_noise(7, 50, 9))
    for count in (1, 4):
        np.testing.assert_array_equal(decoding.sampling_noise(7, 50, count), many[:, :count])
    np.testing.assert_array_equal(
        decoding.sampling_noise(7, 20, np.array([8, 0, 0, 5], np.int32)), many[:20, [8, 0, 0, 5]]
    )
    for seed in (-3, 2**31 - 1):  # as an endpoint has it
        graph = tf.function(lambda seed, length: decoding.sampling_noise(seed, length, 9), jit_compile=False)
        np.testing.assert_array_equal(graph(tf.constant(seed), tf.constant(50)), decoding.sampling_noise(seed, 50, 9))


def test_sampling_noise_is_uniform_and_independent():
    noise = np.stack(
        [keras.ops.convert_to_numpy(decoding.sampling_noise(seed, 400, 100)) for seed in (1, 2)]
    )  # (seed, t, row)
    assert stats.kstest(noise.ravel(), "uniform").pvalue > 0.001
    for a, b in ((noise[0], noise[1]), (noise[:, 1:], noise[:, :-1]), (noise[:, :, 1:], noise[:, :, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)
