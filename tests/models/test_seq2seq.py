"""The recurrent encoder-decoder, against plain Keras layers and the papers' equations; scheduled sampling."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from homl_models import decoding
from homl_models.models.seq2seq import ATTENTIONS
from homl_models.tokenizers.base import END, PAD
from tests import checks
from tests.models.test_translator import SOURCE, TARGET, log_softmax, make, pairs, trainable

LAYERS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
EACH_CELL = pytest.mark.parametrize("cell", LAYERS)


def copied(layer, units):
    """Keras' own LSTM or GRU with the weights of one of ours."""
    twin = LAYERS[type(layer).__name__.lower()](units, return_sequences=True, return_state=True)
    twin.build((None, None, layer.get_weights()[0].shape[0]))
    twin.set_weights(layer.get_weights())
    return twin


def embedded(embedding, ids):
    """Embeddings of ids by plain NumPy."""
    return embedding.get_weights()[0][ids]


# Against plain Keras.


@EACH_CELL
@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_bidirectional_encoder_concatenates_outputs_and_states(cell, num_layers):
    model, (source, _) = make(f"none {cell}", bidirectional=True, num_layers=num_layers), pairs()
    (outputs, _, mask), state = model.encode(source)
    x, expected = embedded(model.source_embedding, source), []
    for layer in model.encoder:
        there = copied(layer.forward_layer, 3)(x, mask=source != 0)
        results = []
        for row, n in zip(x, (source != 0).sum(axis=1)):  # the way back begins at the last real token
            back, *ended = copied(layer.backward_layer, 3)(row[None, :n][:, ::-1])
            results.append([np.asarray(back)[0, ::-1], *(np.asarray(e)[0] for e in ended)])
        padded = np.zeros((*source.shape, 3), "float32")
        for row, (back, *_) in zip(padded, results):
            row[: len(back)] = back
        x = np.concatenate([there[0], padded], axis=-1)
        ended = [np.stack([row[1 + i] for row in results]) for i in range(len(there) - 1)]
        expected.append([np.concatenate(both, axis=-1) for both in zip(there[1:], ended)])
    real = source != 0
    checks.close(np.asarray(outputs)[real], x[real])
    checks.close(state, expected)
    checks.close(mask, real)


def plain_keras(model, source, target):
    """Logits of the chapter's models, "none" and "book", by Keras' layers."""
    x, states = embedded(model.source_embedding, source), []
    for layer in model.encoder:
        x, *ended = copied(layer, 6)(x, mask=tf.constant(source != 0))
        states.append(ended)
    y = embedded(model.target_embedding, target)
    for layer, state in zip(model.decoder, states):
        y, *_ = copied(layer, 6)(y, initial_state=state)
    if model.attention == "book":
        y = keras.layers.Attention()([y, x], mask=[None, tf.constant(source != 0)])
    kernel, bias = model.head.get_weights()
    return np.float64(y) @ kernel + bias


@EACH_CELL
@pytest.mark.parametrize("attention", ["none", "book"])
def test_the_chapters_models_equal_their_plain_keras(cell, attention):
    model, (source, target) = make(f"{attention} {cell}", bidirectional=False, num_layers=2), pairs()
    checks.close(model((source, target)), plain_keras(model, source, target))


# Against the equations, in double precision.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(x, h, c, layer):
    kernel, recurrent, bias = map(np.float64, layer.get_weights())
    i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def softmax(scores, mask):
    e = np.where(mask, np.exp(scores - scores.max(axis=-1, keepdims=True)), 0)
    return e / e.sum(axis=-1, keepdims=True)


def dense(layer, x):
    kernel, bias = layer.get_weights()
    return x @ np.float64(kernel) + bias


def test_additive_attention_equals_bahdanaus_equations():
    model, (source, target) = make("additive lstm", num_layers=1), pairs()
    (outputs, _, _), ((h, c),) = model.encode(source)
    outputs, h, c = np.float64(outputs), np.float64(h), np.float64(c)
    to_key, to_query = (
        np.float64(d.get_weights()[0]) for d in (model.attention_layer.key_dense, model.attention_layer.query_dense)
    )
    logits, alignment = [], []
    for x in embedded(model.target_embedding, target).swapaxes(0, 1):
        hidden = np.tanh((h @ to_query)[:, None] + outputs @ to_key)  # of the state before the step
        weights = softmax(hidden @ np.float64(model.attention_layer.v), source != 0)
        context = (weights[..., None] * outputs).sum(axis=1)
        h, c = lstm_step(np.concatenate([x, context], axis=-1), h, c, model.decoder[0])
        readout = np.tanh(dense(model.readout, np.concatenate([h, context, x], axis=-1)))
        logits.append(dense(model.head, readout))
        alignment.append(weights)
    checks.close(model((source, target)), np.stack(logits, axis=1))
    checks.close(model.alignment(source, target), np.stack(alignment, axis=1))


@pytest.mark.parametrize("attention", ["dot", "general", "concat", "book"])
def test_luongs_attention_equals_its_equations(attention):
    model, (source, target) = make(f"{attention} lstm", num_layers=1, bidirectional=False), pairs()
    (memory, _, _), ((h, c),) = model.encode(source)
    memory, h, c, outputs = np.float64(memory), np.float64(h), np.float64(c), []
    for x in embedded(model.target_embedding, target).swapaxes(0, 1):
        h, c = lstm_step(x, h, c, model.decoder[0])
        outputs.append(h)
    outputs = np.stack(outputs, axis=1)
    if attention == "concat":  # v . tanh(W [query; key])
        w = np.concatenate(
            [model.attention_layer.query_dense.get_weights()[0], model.attention_layer.key_dense.get_weights()[0]]
        )
        query, key = np.broadcast_arrays(outputs[:, :, None], memory[:, None])
        scores = np.tanh(np.concatenate([query, key], axis=-1) @ np.float64(w)) @ np.float64(model.attention_layer.v)
    else:
        w = model.attention_layer.key_dense.get_weights()[0] if attention == "general" else np.eye(6)
        scores = outputs @ (memory @ np.float64(w)).swapaxes(1, 2)
    weights = softmax(scores, (source != 0)[:, None])
    context = weights @ memory
    if attention != "book":
        context = np.tanh(dense(model.readout, np.concatenate([context, outputs], axis=-1)))
    checks.close(model((source, target)), dense(model.head, context))
    checks.close(model.alignment(source, target), weights)


# Training.


def sampling(kind, schedule="linear", k=1000.0, steps=0, **more):
    model = make(kind, scheduled_sampling=schedule, sampling_k=k, **more)
    model.trained_steps.assign(steps)
    return model


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_scheduled_sampling_begins_as_teacher_forcing(attention):
    for cell in ("lstm", "gru") if attention in ("none", "additive") else ("gru",):
        model, data = sampling(f"{attention} {cell}"), pairs()
        checks.close(model(data, training=True), model(data, training=False))


@pytest.mark.parametrize("attention", ["none", "general", "additive"])
def test_scheduled_sampling_ends_with_the_models_own_tokens(attention, monkeypatch):
    """Teacher forcing on the tokens that were sampled gives the same logits."""
    drawn = []

    def recorded(logits, noise):
        drawn.append(sample_token(logits, noise))
        return drawn[-1]

    sample_token = decoding.sample_token
    monkeypatch.setattr(decoding, "sample_token", recorded)
    model, (source, target) = sampling(f"{attention} gru", steps=2000), pairs()
    logits = model((source, target), training=True)
    drawn = drawn[-target.shape[1] :]  # a scan may try a step before it begins
    own = np.stack([target[:, 0], *drawn[1:]], axis=1)  # `START`, which is never sampled, then the samples
    assert (own != target).any()
    checks.close(logits, model((source, own), training=False))


def test_the_fraction_of_true_inputs_is_the_teacher_forcing_probability():
    fed = []
    model = sampling("none gru", steps=700)
    step = model.step
    model.step = lambda memory, ids, state: (fed.append(np.asarray(ids)), step(memory, ids, state))[1]
    source = np.tile(pairs()[0][:1], (300, 1))
    target = np.full((300, 9), len(TARGET) + 5, "int32")  # no token that can be sampled
    target[:, 0] = 2
    model.target_embedding = lambda ids: ops.zeros((*ids.shape, 5))
    model((source, target), training=True)
    fed = np.stack(fed[-9:], axis=1)
    assert (fed[:, 0] == 2).all()
    assert abs((fed[:, 1:] == len(TARGET) + 5).mean() - 0.3) < 0.04
    drawn = fed[:, 1:][fed[:, 1:] < len(TARGET)]
    assert len(np.unique(drawn)) > 3  # sampled, not always the most probable


def test_only_training_counts_the_steps_of_the_schedule():
    model, (source, target) = sampling("none gru", "inverse_sigmoid", 3.0, scale=0.3), pairs()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), loss, metrics=["accuracy"], run_eagerly=True)
    x, y = (source, target[:, :-1]), target[:, 1:]
    before = model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    model(x)
    model.log_probabilities(source, target)
    assert int(model.trained_steps) == 0
    model.fit(x, y, batch_size=1, epochs=2, verbose=0)
    assert int(model.trained_steps) == 6
    assert model.evaluate(x, y, verbose=0)[0] < before[0]
    assert int(model.trained_steps) == 6
    assert not any(v is model.trained_steps for v in model.trainable_variables)


@pytest.mark.parametrize("kind", ["additive lstm", "none gru"])
def test_scheduled_sampling_has_a_gradient_at_every_weight_and_a_mask(kind):
    model = sampling(kind, steps=500)
    checks.gradients_reach(lambda x: model(x, training=True), model.trainable_variables, pairs())
    logits = model(pairs(), training=True)
    checks.close(logits._keras_mask, (pairs()[1] != PAD) & (pairs()[1] != END))


@pytest.mark.parametrize(
    "how",
    [{"run_eagerly": True}, pytest.param({"jit_compile": True}, marks=[pytest.mark.slow, pytest.mark.xla])],
    ids=str,
)
def test_scheduled_sampling_trains_and_its_step_is_saved(how, tmp_path):
    model = trainable("additive gru", how, scheduled_sampling="exponential", sampling_k=0.99)
    source, target = pairs()
    x, y = (source, target[:, :-1]), target[:, 1:]
    losses = [model.train_on_batch(x, y)[0] for _ in range(8)]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert int(loaded.trained_steps) == 8
    checks.close(loaded(x), model(x))


@pytest.mark.parametrize("kind", ["general lstm", "additive gru"])
def test_dropout_acts_in_training_alone(kind):
    model, plain, data = make(kind, dropout=0.5), make(kind), pairs()
    checks.close(model(data), plain(data))
    first, second = (np.asarray(model(data, training=True)) for _ in range(2))
    assert (first != second).any()


def test_the_source_matters_without_attention_too():
    model, (source, target) = make("none lstm"), pairs()
    a, b = (log_softmax(model((x, target))) for x in (source, np.roll(source, 1, axis=0)))
    assert np.abs(a - b).max() > 0.1
    assert len(SOURCE) != len(TARGET)
