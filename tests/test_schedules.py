"""Learning rate schedules, and the probability of teacher forcing."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models.errors import UserError
from homl_models.schedules import (
    SHAPES,
    Cosine,
    InverseSquareRoot,
    WarmUp,
    check_teacher_forcing,
    teacher_forcing_probability,
)

STEPS = np.array([0, 1, 5, 398, 399, 400, 1000, 99_999])


@pytest.mark.parametrize(("dim", "warmup"), [(512, 4000), (128, 400), (64, 1)])
def test_inverse_square_root_equals_the_paper(dim, warmup):
    ours = InverseSquareRoot((dim * warmup) ** -0.5, warmup)
    number = STEPS + 1.0  # the paper counts from 1, optimizers from 0
    expected = dim**-0.5 * np.minimum(number**-0.5, number * warmup**-1.5)
    np.testing.assert_allclose([float(ours(step)) for step in STEPS], expected, rtol=1e-6)


def test_the_warm_up_is_linear_and_the_peak_is_its_end():
    rates = np.array([float(InverseSquareRoot(0.25, 10)(step)) for step in range(40)])
    assert rates.argmax() == 9
    assert rates.max() == 0.25
    np.testing.assert_allclose(np.diff(rates[:10]), 0.025, rtol=1e-5)
    assert (np.diff(rates[9:]) < 0).all()
    assert rates[39] == pytest.approx(0.125)


def test_an_optimizer_follows_the_schedule_in_a_compiled_graph():
    weight = keras.Variable([0.0])
    optimizer = keras.optimizers.SGD(InverseSquareRoot(1.0, 4))

    @tf.function(jit_compile=True)
    def step():
        optimizer.apply([tf.constant([-1.0])], [weight])

    optimizer.build([weight])
    moves = []
    for _ in range(6):
        before = float(weight.numpy()[0])
        step()
        moves.append(float(weight.numpy()[0]) - before)
    np.testing.assert_allclose(moves, [0.25, 0.5, 0.75, 1, (4 / 5) ** 0.5, (4 / 6) ** 0.5], rtol=1e-5)


def test_the_learning_rate_comes_back_from_its_config():
    config = keras.optimizers.schedules.serialize(InverseSquareRoot(0.5, 7))
    copy = keras.optimizers.schedules.deserialize(config)
    assert type(copy) is InverseSquareRoot
    assert (copy.peak, copy.warmup_steps) == (0.5, 7)
    optimizer = keras.optimizers.Adam.from_config(keras.optimizers.Adam(copy).get_config())
    assert float(optimizer.learning_rate) == pytest.approx(0.5 / 7)


SHARES = {
    "linear": (500.0, lambda k, step: np.maximum(0, 1 - step / k)),
    "exponential": (0.999, lambda k, step: k**step),
    "inverse_sigmoid": (150.0, lambda k, step: k / (k + np.exp(np.minimum(step / k, 700)))),
}


@pytest.mark.parametrize("schedule", SHARES)
def test_teacher_forcing_probability_equals_the_paper(schedule):
    k, formula = SHARES[schedule]
    check_teacher_forcing(schedule, k)
    graph = tf.function(lambda step: teacher_forcing_probability(schedule, k, step), jit_compile=True)
    for function in (graph, lambda step: teacher_forcing_probability(schedule, k, step)):
        shares = np.array([float(function(tf.constant(step, tf.int64))) for step in STEPS])
        np.testing.assert_allclose(shares, formula(k, STEPS.astype("float64")), rtol=1e-4, atol=1e-7)
        assert (np.diff(shares) <= 0).all()
        assert shares[0] > 0.99
        assert shares[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "k", "said"),
    [
        ("linear", 0, "above 0"),
        ("linear", -1.0, "above 0"),
        ("exponential", 0.0, "between 0 and 1"),
        ("exponential", 1.0, "between 0 and 1"),
        ("inverse_sigmoid", 0.99, "at least 1"),
        ("cosine", 1, "linear, exponential, inverse_sigmoid"),
    ],
)
def test_invalid_teacher_forcing_schedules_are_refused(schedule, k, said):
    with pytest.raises(UserError, match=said) as error:
        check_teacher_forcing(schedule, k)
    assert "\n" not in str(error.value)
    assert repr(schedule) in str(error.value) or f"{schedule} schedule" in str(error.value)


@pytest.mark.parametrize(("schedule", "k"), [("linear", 1e-3), ("exponential", 0.5), ("inverse_sigmoid", 1)])
def test_k_at_the_border_of_its_range_is_valid(schedule, k):
    check_teacher_forcing(schedule, k)
    assert 0 < float(teacher_forcing_probability(schedule, k, 0)) <= 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warmup", [0, 10])
def test_warm_up_and_decay(shape, warmup):
    schedule = WarmUp(2.0, 50, warmup, shape, end=0.0 if shape == "constant" else 0.5, power=2.0)
    steps = np.arange(60.0)
    left = np.clip((50 - steps) / (50 - warmup), 0, 1)
    way = {"linear": left, "polynomial": left**2, "cosine": (1 - np.cos(np.pi * left)) / 2}
    down = np.full(60, 2.0) if shape == "constant" else 0.5 + 1.5 * way[shape]
    expected = np.where(steps < warmup, 2.0 * (steps + 1) / max(warmup, 1), down)
    np.testing.assert_allclose([float(schedule(step)) for step in range(60)], expected, rtol=1e-5)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert float(copy(17)) == float(schedule(17))


@pytest.mark.parametrize(("start", "end"), [(1.0, 1 / 16), (0.0, 6.6)])
def test_half_a_cosine_from_start_to_end(start, end):
    schedule, steps = Cosine(start, end, 50), np.arange(70.0)
    expected = start + (end - start) * np.sin(np.pi / 2 * np.minimum(steps / 50, 1)) ** 2
    np.testing.assert_allclose([float(schedule(step)) for step in range(70)], expected, rtol=1e-5, atol=1e-6)
    assert float(schedule(0)) == pytest.approx(start, abs=1e-7)
    assert float(schedule(25)) == pytest.approx((start + end) / 2, rel=1e-6)
    for step in (50, 51, 10**6):
        assert float(schedule(step)) == np.float32(end)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert float(copy(17)) == float(schedule(17))
    with pytest.raises(UserError, match="a number of steps above 0, not 0"):
        Cosine(start, end, 0)


def test_invalid_warm_ups_are_refused():
    with pytest.raises(UserError, match="the shape must be one of constant, linear, polynomial, cosine, not 'step'"):
        WarmUp(1.0, 10, shape="step")
    with pytest.raises(UserError, match="must be shorter than the 10 steps of training, not 10"):
        WarmUp(1.0, 10, 10)
