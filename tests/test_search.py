"""Greedy and beam search, against exhaustive search and slow plain Python in double precision."""

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from homl_models import decoding
from homl_models.decoding import PAD
from tests import checks

# A model without weights, whose logits depend on the row and on every token so far, which its state holds.

V, START, END, LENGTH = 6, 2, 3, 8
PRIMES = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29], "int32")
TABLE = np.random.default_rng(3).normal(0, 1.5, (1009, V)).astype("float32")
TABLE[:, END] -= 0.5  # or else most texts would be short
PENALTIES = (0.0, 0.6, 1.0, 2.0)


def begin(rows):
    rows = np.asarray(rows, "int32")
    return {"row": ops.convert_to_tensor(rows), "past": [ops.full((len(rows), len(PRIMES)), PAD, "int32")]}


def step(tokens, state):
    past = state["past"][0]
    age = ops.sum(ops.cast(past != PAD, "int32"), axis=1, keepdims=True)
    past = ops.where(ops.arange(len(PRIMES)) == age, tokens[:, None], past)
    place = (131 * state["row"] + ops.sum((past + 1) * PRIMES, axis=1)) % len(TABLE)
    return ops.take(TABLE, place, axis=0), {"row": state["row"], "past": [past]}


def log_p(row, tokens, table=TABLE):
    logits = np.float64(table[(131 * row + sum((t + 1) * p for t, p in zip((START, *tokens), PRIMES))) % len(table)])
    return logits - np.log(np.exp(logits).sum())


def penalty(tokens, alpha):
    return ((5 + tokens) / 6) ** alpha


def rescored(row, text, alpha):
    total = sum(log_p(row, text[:i])[token] for i, token in enumerate(text))
    return total / penalty(len(text), alpha)


def every_text(row, limit):
    """All texts of at most `limit` tokens, `END` the last of them, and their log-probabilities."""
    found, texts = [((), 0.0)], {}
    for length in range(limit):
        grown = [((*t, token), p + log_p(row, t)[token]) for t, p in found for token in range(V)]
        texts |= {t: p for t, p in grown if t[-1] == END}
        found = [(t, p) for t, p in grown if t[-1] != END] if length < limit else []
    return texts


def allowed(text, limit, min_length=0, no_repeat_ngram=0, suppress_tokens=()):
    """Tokens allowed next, by the definition of each constraint."""
    if len(text) + 1 == limit:
        return [END]
    n, tokens = no_repeat_ngram, [t for t in range(V) if t not in suppress_tokens]
    if len(text) < min_length:
        tokens.remove(END)
    if n:
        seen = {text[i : i + n] for i in range(len(text) - n + 1)}
        tokens = [t for t in tokens if (*text, t)[-n:] not in seen or len(text) + 1 < n]
    return tokens or [END]


def beam_by_definition(row, width, limit=LENGTH, alpha=1.0, n_best=1, stop=True, **rules):
    """The n best texts with their scores, best first, and the number of steps it took."""
    live, ended, steps = [((), 0.0)], [], 0
    while live and steps < limit:
        if stop and len(ended) >= n_best and max(p for _, p in live) / penalty(limit, alpha) <= ended[n_best - 1][1]:
            break
        grown = [((*t, token), p + log_p(row, t)[token]) for t, p in live for token in allowed(t, limit, **rules)]
        grown = sorted(grown, key=lambda x: -x[1])[: width - len(ended)]
        live = [(t, p) for t, p in grown if t[-1] != END]
        ended += [(t, p / penalty(len(t), alpha)) for t, p in grown if t[-1] == END]
        ended.sort(key=lambda x: -x[1])
        steps += 1
    return ended[:n_best], steps


def texts_of(tokens):
    """Rows of tokens as tuples without `PAD`, which has to be at the end, after `END`."""
    texts = [tuple(t for t in row if t != PAD) for row in np.asarray(tokens).reshape(-1, np.shape(tokens)[-1]).tolist()]
    for text, row in zip(texts, np.asarray(tokens).reshape(len(texts), -1).tolist()):
        assert row == [*text, *[PAD] * (len(row) - len(text))]
        assert text.count(END) == (text[-1:] == (END,)) == bool(text)
    return texts


ROWS = (0, 1, 2, 3)


def beam(rows=ROWS, width=3, alpha=1.0, max_new_tokens=LENGTH, length=LENGTH, step=step, state=None, **settings):
    """`decoding.beam_search` over rows of the model -> [[(text, score), ...] for each row], as NumPy gives it."""
    max_new_tokens = np.broadcast_to(np.int32(max_new_tokens), len(rows))
    tokens, scores = decoding.beam_search(
        step,
        begin(rows) if state is None else state,
        len(rows),
        width,
        start=START,
        end=END,
        max_new_tokens=max_new_tokens,
        length=length,
        length_penalty=alpha,
        **settings,
    )
    return paired(tokens, scores)


def paired(tokens, scores):
    tokens, scores = np.asarray(tokens), np.asarray(scores)
    assert (tokens.dtype, scores.dtype) == ("int32", "float32")
    assert tokens.shape[:2] == scores.shape
    return [list(zip(texts_of(row), some.tolist())) for row, some in zip(tokens, scores)]


def greedy(rows=ROWS, max_new_tokens=LENGTH, length=LENGTH, step=step, **settings):
    max_new_tokens = np.broadcast_to(np.int32(max_new_tokens), len(rows))
    tokens, total = decoding.greedy_search(
        step, begin(rows), len(rows), start=START, end=END, max_new_tokens=max_new_tokens, length=length, **settings
    )
    assert (tokens.dtype, total.dtype) == (tf.int32, tf.float32)
    return list(zip(texts_of(tokens), np.asarray(total).tolist()))


def agree(found, expected):
    """The same texts in the same order, with the same scores; what is missing has the score minus infinity."""
    found = [[pair for pair in row if pair[1] > -math.inf] for row in found]
    assert [[text for text, _ in row] for row in found] == [[text for text, _ in row] for row in expected]
    checks.close([[score for _, score in row] for row in found], [[score for _, score in row] for row in expected])


# All texts.

ALL = sum((V - 1) ** i for i in range(5))  # texts of up to 5 tokens


@functools.cache
def widest(jit_compile):
    @functools.partial(tf.function, jit_compile=jit_compile)
    def search(alpha):
        return decoding.beam_search(
            step,
            begin(ROWS),
            len(ROWS),
            ALL,
            start=START,
            end=END,
            max_new_tokens=np.full(len(ROWS), 5, "int32"),
            length=5,
            length_penalty=alpha,
            n_best=20,
        )

    return search


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.xla])])
@pytest.mark.parametrize("alpha", PENALTIES)
def test_a_wide_beam_finds_the_best_of_all_texts_in_order(alpha, jit_compile):
    expected = []
    for row in ROWS:
        texts = every_text(row, 5)
        assert len(texts) == ALL
        ordered = sorted(((t, p / penalty(len(t), alpha)) for t, p in texts.items()), key=lambda x: -x[1])
        expected.append(ordered[:20])
    agree(paired(*widest(jit_compile)(tf.constant(alpha))), expected)


def test_a_narrow_beam_need_not_find_the_best():
    """Else the tests above would say little."""
    best = [max(every_text(row, 5).values()) for row in ROWS]
    narrow = [found[0][1] for found in beam(width=2, alpha=0.0, max_new_tokens=5)]
    assert any(a < b - 1e-3 for a, b in zip(narrow, best))


def test_without_a_penalty_scores_are_log_probabilities_and_with_one_longer_texts_win():
    lengths = []
    for alpha in PENALTIES:
        found = beam(width=12, alpha=alpha, n_best=12)
        lengths.append(np.mean([len(row[0][0]) for row in found]))
        for row, texts in zip(ROWS, found):
            for text, score in texts:
                assert score == pytest.approx(rescored(row, text, alpha), rel=1e-5)
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


# Narrow beams.

RULES = [
    {},
    {"min_length": 3},
    {"min_length": 20},  # the limit wins
    {"no_repeat_ngram": 1},
    {"no_repeat_ngram": 2},
    {"suppress_tokens": (0, 1, 5), "no_repeat_ngram": 3, "min_length": 7},
    {"suppress_tokens": (0, START)},
    {"suppress_tokens": (0, 1, 5), "no_repeat_ngram": 2, "min_length": 6},  # no text obeys
]
EACH_RULE = pytest.mark.parametrize("rules", RULES, ids=str)


@EACH_RULE
def test_beams_equal_their_definition(rules):
    for width, alpha, n_best in ((1, 1.0, 1), (2, 0.0, 1), (3, 0.6, 3), (4, 2.0, 2)):
        expected = [beam_by_definition(row, width, alpha=alpha, n_best=n_best, **rules)[0] for row in ROWS]
        agree(beam(width=width, alpha=alpha, n_best=n_best, **rules), expected)


@EACH_RULE
def test_greedy_equals_its_definition_and_a_beam_of_1_whatever_the_penalty(rules):
    found = greedy(**rules)
    agree([[pair] for pair in found], [beam_by_definition(row, 1, alpha=0.0, **rules)[0] for row in ROWS])
    for alpha in PENALTIES:
        agree(beam(width=1, alpha=alpha, **rules), [[(text, p / penalty(len(text), alpha))] for text, p in found])


def test_each_rule_makes_a_difference():
    """Else the tests above would say little."""
    for rules in RULES:
        with_all = [beam_by_definition(row, 3, **rules)[0] for row in ROWS]
        for name in rules:
            others = {key: value for key, value in rules.items() if key != name}
            assert [beam_by_definition(row, 3, **others)[0] for row in ROWS] != with_all, (rules, name)


def test_each_row_has_its_own_limit():
    max_new_tokens = (1, 3, 8, 5)
    for found in (
        beam(width=3, n_best=3, min_length=7, max_new_tokens=max_new_tokens),
        [[x] for x in greedy(max_new_tokens=max_new_tokens)],
    ):
        assert all(len(row[0][0]) <= limit for row, limit in zip(found, max_new_tokens))
    found = beam(width=3, n_best=3, min_length=7, max_new_tokens=max_new_tokens)
    assert [len(row[0][0]) for row in found] == list(max_new_tokens)
    agree(found, [beam_by_definition(i, 3, limit, n_best=3, min_length=7)[0] for i, limit in zip(ROWS, max_new_tokens)])


def test_missing_texts_are_empty_with_a_score_of_minus_infinity():
    for row in beam(width=4, n_best=4, max_new_tokens=1):
        assert row[0][0] == (END,)
        assert row[1:] == [((), -math.inf)] * 3


def test_rows_do_not_influence_each_other():
    together = beam(width=3, n_best=3, max_new_tokens=(3, 8, 8, 5))
    for row, limit in zip(ROWS, (3, 8, 8, 5)):
        agree([together[row]], beam((row,), width=3, n_best=3, max_new_tokens=limit))
        agree([[greedy()[row]]], [greedy((row,))])


def test_rows_that_tie_are_all_the_same():
    for found in (beam((1, 1, 1), width=3, n_best=3), greedy((1, 1, 1))):
        assert found[0] == found[1] == found[2]


# What ends, and when.


def from_tree(probabilities):
    """Step function of a tree {prefix: probabilities}, uniform for other prefixes; and its initial state."""

    def step(tokens, state):
        past = [(*p, t) for p, t in zip(state.numpy().tolist(), tokens.numpy().tolist())]
        texts = [tuple(t for t in row if t != PAD)[1:] for row in past]
        logits = np.log([probabilities.get(text, [1 / V] * V) for text in texts])
        return tf.constant(logits, tf.float32), tf.constant([row[1:] for row in past])

    return step, tf.fill([1, LENGTH], PAD)


def test_a_hypothesis_that_finished_early_is_never_lost():
    """For six steps a longer hypothesis is more probable than the finished one; then it falls behind."""
    tiny = 1e-9
    tree = {(): [0.6, tiny, tiny, 0.4, tiny, tiny]}
    for i in range(1, 6):
        tree[(0,) * i] = [0.95, 0.03, 0.02, tiny, tiny, tiny]
    tree[(0,) * 6] = [0.25, 0.25, 0.2, 0.3, tiny, tiny]
    for width in (2, 3, 4, 6):
        model, state = from_tree(tree)
        ((best, *_),) = beam((0,), width=width, alpha=0.0, step=model, state=state)
        assert best[0] == (END,)
        assert best[1] == pytest.approx(math.log(0.4), rel=1e-5)
    late = (0,) * 6 + (END,)
    model, state = from_tree(tree)
    ((best, second),) = beam((0,), width=2, alpha=0.3, n_best=2, step=model, state=state)
    assert (best[0], second[0]) == ((END,), late)
    assert second[1] == pytest.approx(math.log(0.6 * 0.95**5 * 0.3) / penalty(7, 0.3), rel=1e-5)
    model, state = from_tree(tree)
    ((best, second),) = beam((0,), width=2, alpha=2.0, n_best=2, step=model, state=state)
    assert (best[0], second[0]) == (late, (END,))  # now the late one wins, and the first is still there


def counting(taken):
    def counted(tokens, state):
        taken.append(tokens)
        return step(tokens, state)

    return counted


@pytest.mark.parametrize("n_best", [1, 4])
def test_early_stopping_does_not_change_the_result(n_best):
    saved = []
    for alpha in (0.0, 1.0):
        for row in range(5):
            taken = []
            found = beam((row,), width=4, alpha=alpha, n_best=n_best, step=counting(taken))
            expected, steps = beam_by_definition(row, 4, alpha=alpha, n_best=n_best)
            assert len(taken) == steps
            whole, all_steps = beam_by_definition(row, 4, alpha=alpha, n_best=n_best, stop=False)
            assert expected == whole
            agree(found, [whole])
            saved.append(all_steps - steps)
    assert (max(saved) > 0) == (n_best < 4)


def test_greedy_search_takes_no_step_after_all_rows_have_finished():
    for max_new_tokens in (LENGTH, 2):
        taken = []
        found = greedy(max_new_tokens=max_new_tokens, step=counting(taken))
        assert len(taken) == max(len(text) for text, _ in found)
    assert len({len(text) for text, _ in greedy()}) > 1


def test_the_state_follows_the_hypotheses():
    """The model state of a hypothesis has the tokens that are returned for it."""
    pasts = []

    def remembering(tokens, state):
        logits, state = step(tokens, state)
        pasts.append({tuple(row) for row in np.asarray(state["past"][0]).tolist()})
        return logits, state

    swaps = 0
    for row in range(4):
        pasts.clear()
        for text, _ in beam((row,), width=5, n_best=5, min_length=3, step=remembering)[0]:
            for i in range(len(text)):
                past = (START, *text[:i])
                assert (*past, *[PAD] * (len(PRIMES) - len(past))) in pasts[i]
            swaps += 1
    assert swaps == 20


# Graphs.


def test_one_graph_serves_every_batch_width_penalty_and_length():
    spec = [
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((), tf.int32),
        tf.TensorSpec(()),
        tf.TensorSpec((), "int32"),
    ]

    @tf.function(input_signature=[*spec, tf.TensorSpec((None,), tf.int32)])
    def search(rows, width, alpha, n_best, max_new_tokens):
        batch, length = tf.shape(rows)[0], tf.reduce_max(tf.concat([max_new_tokens, [1]], 0))
        state = {"row": rows, "past": [tf.fill([batch, len(PRIMES)], PAD)]}
        common = {"start": START, "end": END, "max_new_tokens": max_new_tokens, "length": length, "no_repeat_ngram": 2}
        best = decoding.beam_search(step, state, batch, width, length_penalty=alpha, n_best=n_best, **common)
        return best, decoding.greedy_search(step, state, batch, **common)

    for rows, width, alpha, n_best, max_new_tokens in (
        ((0, 1, 2), 4, 1.0, 4, (8, 3, 8)),
        ((5,), 1, 0.6, 1, (4,)),
        ((3, 4), 6, 0.0, 2, (1, 6)),
    ):
        rows_and_limits = list(zip(rows, max_new_tokens))
        found, first = search(*map(tf.constant, (rows, width, alpha, n_best, max_new_tokens)))
        assert found[0].shape == (len(rows), n_best, max(max_new_tokens))
        rules = {"alpha": alpha, "n_best": n_best, "no_repeat_ngram": 2}
        agree(paired(*found), [beam_by_definition(row, width, limit, **rules)[0] for row, limit in rows_and_limits])
        for text, (row, limit) in zip(texts_of(first[0]), rows_and_limits):
            assert text == beam_by_definition(row, 1, limit, no_repeat_ngram=2)[0][0][0]
    empty = search(np.zeros(0, "int32"), 3, 1.0, 2, np.zeros(0, "int32"))
    assert [tuple(x.shape) for x in keras.tree.flatten(empty)] == [(0, 2, 1), (0, 2), (0, 1), (0,)]


@pytest.mark.xla
def test_xla_finds_what_eager_mode_finds():
    rules = {
        "min_length": 2,
        "no_repeat_ngram": 2,
        "suppress_tokens": (0,),
        "start": START,
        "end": END,
        "length": LENGTH,
    }

    @tf.function(jit_compile=True)
    def search(max_new_tokens):
        best = decoding.beam_search(step, begin(ROWS), len(ROWS), 3, n_best=3, max_new_tokens=max_new_tokens, **rules)
        return best, decoding.greedy_search(step, begin(ROWS), len(ROWS), max_new_tokens=max_new_tokens, **rules)

    rules_alone = {"min_length": 2, "no_repeat_ngram": 2, "suppress_tokens": (0,)}
    for max_new_tokens in ((8, 8, 8, 8), (2, 8, 5, 7)):
        best, first = search(tf.constant(max_new_tokens))
        agree(paired(*best), beam(width=3, n_best=3, max_new_tokens=max_new_tokens, **rules_alone))
        found = list(zip(texts_of(first[0]), first[1].numpy().tolist()))
        agree([[pair] for pair in found], [[pair] for pair in greedy(max_new_tokens=max_new_tokens, **rules_alone)])
