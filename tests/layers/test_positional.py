"""Positional encodings against the formula in double precision."""

import keras
import numpy as np
import pytest
from keras import ops

from homl_models.errors import UserError
from homl_models.layers.positional import LearnedPositionalEmbedding, PositionalEncoding, sinusoids
from tests import checks

B, T, D = 3, 7, 6
X = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
LAYERS = {"sinusoids": PositionalEncoding, "learned": lambda **settings: LearnedPositionalEmbedding(T, **settings)}
BOTH = pytest.mark.parametrize("kind", LAYERS)


def formula(positions, dim, max_wavelength=10_000):
    """Section 3.5 of the paper, number by number."""
    encoding = np.zeros((len(positions), dim))
    for row, position in zip(encoding, positions):
        for i in range(dim // 2):
            angle = position / max_wavelength ** (2 * i / dim)
            row[2 * i], row[2 * i + 1] = np.sin(angle), np.cos(angle)
    return encoding


def expected(layer, x, positions):
    """Expected outputs of the layer at positions (t,)."""
    if isinstance(layer, PositionalEncoding):
        return x + formula(positions, x.shape[-1])
    return x + ops.convert_to_numpy(layer.embeddings)[positions]


@pytest.mark.parametrize("dim", [2, 6, 128])
@pytest.mark.parametrize("wavelength", [10_000, 50.0])
def test_sinusoids_equal_the_formula(dim, wavelength):
    checks.close(sinusoids(np.arange(60), dim, wavelength), formula(range(60), dim, wavelength))


def test_far_positions_are_as_exact_as_single_precision_allows():
    far = [1_000, 4_999, 20_000]
    checks.close(sinusoids(np.array(far), 64), formula(far, 64), 20_000 * 2.0**-23)


def test_sinusoids_keep_the_shape_of_the_positions():
    positions = np.array([[0, 5], [3, 1], [2, 2]])
    checks.close(sinusoids(positions, 4), formula(positions.ravel(), 4).reshape(3, 2, 4))
    checks.close(sinusoids(7, 4), formula([7], 4)[0])


@pytest.mark.parametrize("length", [1, 7, 500])
def test_positional_encoding_adds_the_formula_at_any_length(length):
    layer = PositionalEncoding()
    layer(X)  # one layer serves all lengths
    x = np.random.default_rng(1).normal(size=(2, length, 8)).astype("float32")
    layer = PositionalEncoding()
    layer(x[:, :1])
    checks.close(layer(x), x + formula(range(length), 8), 1e-4)


def test_another_wavelength_is_honoured():
    checks.close(PositionalEncoding(max_wavelength=20.0)(X), X + formula(range(T), D, 20))


def test_an_odd_dimension_is_refused():
    for function in (lambda: sinusoids(np.arange(3), 5), lambda: PositionalEncoding()(X[..., :5])):
        with pytest.raises(UserError, match="must be even, not 5"):
            function()


def test_learned_positions_add_a_vector_for_each_position():
    layer = LearnedPositionalEmbedding(T + 2)
    layer(X)
    assert [w.shape for w in layer.trainable_weights] == [(T + 2, D)]
    checks.close(layer(X), expected(layer, X, range(T)))
    assert len(np.unique(ops.convert_to_numpy(layer.embeddings))) == (T + 2) * D


def test_more_positions_than_were_trained_are_refused():
    with pytest.raises(UserError, match="7 positions are more than the 6"):
        LearnedPositionalEmbedding(T - 1)(X)
    layer = LearnedPositionalEmbedding(T)
    assert layer(X).shape == X.shape
    with pytest.raises(UserError, match="8 positions are more than the 7"):
        layer(keras.Input((T + 1, D)))


@BOTH
def test_positions_can_be_given(kind):
    layer = LAYERS[kind]()
    layer(X)
    positions = np.array([4, 0, 6, 3, 3, 1, 5])
    checks.close(layer(X, positions=positions), expected(layer, X, positions))
    rows = np.random.default_rng(0).integers(0, T, (B, T))
    checks.close(layer(X, positions=rows), np.stack([expected(layer, x, p) for x, p in zip(X, rows)]))
    for t in range(T):  # as a decoder does, one token at a time
        checks.close(layer(X[:, t : t + 1], positions=ops.convert_to_tensor([t])), layer(X)[:, t : t + 1])


@BOTH
def test_the_keras_mask_is_passed_on(kind):
    ids = np.array([[3, 1, 2, 0, 0], [1, 1, 0, 0, 0]])
    embedding, layer = keras.layers.Embedding(5, D, mask_zero=True), LAYERS[kind]()
    averaged = keras.layers.GlobalAveragePooling1D()(layer(embedding(ids)))
    plain = ops.convert_to_numpy(layer(ops.convert_to_tensor(ops.convert_to_numpy(embedding(ids)))))
    checks.close(averaged, np.stack([plain[0, :3].mean(0), plain[1, :2].mean(0)]))


@BOTH
def test_batch_and_length_can_be_unknown(kind):
    layer = LAYERS[kind]()
    checks.symbolic_agrees(layer, X)
    checks.any_batch_and_length(layer, X)


def test_config_round_trips():
    checks.config_round_trip(PositionalEncoding, max_wavelength=123.0, name="there")
    checks.config_round_trip(LearnedPositionalEmbedding, max_length=9)


def test_keras_file_round_trip(tmp_path):
    model = keras.Sequential([keras.Input((None, D)), PositionalEncoding(50.0), LearnedPositionalEmbedding(T)])
    model.save(tmp_path / "model.keras")
    checks.close(keras.models.load_model(tmp_path / "model.keras")(X), model(X), 0)


def test_gradients_reach_the_learned_positions():
    layer = LearnedPositionalEmbedding(T)
    layer(X)
    checks.gradients_reach(layer, layer.trainable_weights, X)


def test_learned_positions_work_in_mixed_precision():
    checks.mixed_precision(lambda **settings: LearnedPositionalEmbedding(T, **settings), 3 * X)


@pytest.mark.parametrize("policy", checks.HALF)
def test_sinusoids_are_computed_in_single_precision_before_they_are_rounded(policy):
    x = np.zeros((1, 400, 32), "float32")
    half = PositionalEncoding(dtype=policy)(x)
    assert half.dtype == policy.removeprefix("mixed_")
    checks.close(half, PositionalEncoding()(x), 2.0**-8)  # in bfloat16 alone position 399 is 400
