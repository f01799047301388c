"""The Transformer: embeddings, positions, cache and attention weights; its blocks are tested with the layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models.errors import UserError
from homl_models.models.transformer import Transformer
from tests import checks
from tests.models.test_translator import FORMER, SOURCE, TARGET, make, pairs

NORMS = pytest.mark.parametrize("kind", ["post-norm", "pre-norm", "post-norm trained", "pre-norm trained"])


def embeddings(model):
    return [w for w in model.weights if w.shape[0] in (len(SOURCE), len(TARGET)) and len(w.shape) == 2]


def matrix(embedding):
    return np.float64(embedding.embeddings)


def positions(kind, model, length):
    if "trained" in kind:
        return np.float64(model.target_positions.embeddings)[:length]
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, 8, 2) / 8)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, 8)


@NORMS
def test_it_is_its_blocks_between_scaled_embeddings_and_logits(kind):
    model, (source, target) = make(kind), pairs()
    x = matrix(model.source_embedding)[source] * np.sqrt(8)
    if "trained" in kind:
        x = x + np.float64(model.source_positions.embeddings)[: source.shape[1]]
    else:
        x = x + positions(kind, model, source.shape[1])
    mask = tf.constant(source != 0)
    for block in model.encoder:
        x = block(x, mask=mask)
    x = model.norms[0](x) if model.pre_norm else x
    y = matrix(model.target_embedding)[target] * np.sqrt(8) + positions(kind, model, target.shape[1])
    for block in model.decoder:
        y = block(y, x, mask)
    if model.pre_norm:
        y = model.norms[1](y)
    output = matrix(model.target_embedding).T if model.tie_weights else model.target_embedding.reverse_embeddings
    checks.close(model((source, target)), np.float64(y) @ np.float64(output))


def test_tied_and_shared_embeddings_are_one_variable():
    counts = {}
    for name, more in {
        "tied": {},
        "untied": {"tie_weights": False},
        "shared": {"target_vocabulary": SOURCE, "share_embeddings": True},
        "shared, untied": {"target_vocabulary": SOURCE, "share_embeddings": True, "tie_weights": False},
    }.items():
        model = make("post-norm", **more)
        sizes = [w.shape for w in model.weights if sorted(w.shape)[-1] in (len(SOURCE), len(TARGET))]
        counts[name] = len(sizes)
        assert len({id(w) for w in model.weights}) == len(model.weights)
        assert (model.source_embedding is model.target_embedding) == ("shared" in name)
    assert counts == {"tied": 2, "untied": 3, "shared": 1, "shared, untied": 2}


@pytest.mark.parametrize("kind", ["post-norm", "shared"])
def test_ties_hold_after_a_file_and_a_training_step(kind, tmp_path):
    make(kind).save(tmp_path / "model.keras")
    model, (source, target) = keras.models.load_model(tmp_path / "model.keras"), pairs()
    assert len(embeddings(model)) == 2 - (kind == "shared")
    checks.close(model((source, target)), make(kind)((source, target)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    before = matrix(model.target_embedding)
    model.train_on_batch((source, target[:, :-1]), target[:, 1:])
    assert (matrix(model.target_embedding) != before).all()  # as output weights all rows move
    x = np.random.default_rng(0).normal(size=(2, 8)).astype("float32")
    checks.close(model.logits(x), np.float64(x) @ matrix(model.target_embedding).T)
    if kind == "shared":
        checks.close(matrix(model.source_embedding), matrix(model.target_embedding), 0)


@NORMS
def test_the_cache_may_be_longer_than_the_target(kind):
    model, (source, target) = make(kind), pairs()
    for length in (3, 7, 16):
        memory, state = model.start(source, length)
        for t in range(3):
            logits, state = model.step(memory, target[:, t], state)
        checks.close(logits, model((source, target[:, :3]))[:, 2])


@NORMS
def test_every_step_costs_the_same(kind):
    """The state has the same shape at every step, and the input of a step is one token per row."""
    model, (source, target) = make(kind), pairs()
    memory, state = model.start(source, 7)
    shapes = keras.tree.map_structure(lambda x: tuple(x.shape), state)
    for t in range(7):
        _, state = model.step(memory, target[:, t], state)
        assert keras.tree.map_structure(lambda x: tuple(x.shape), state) == shapes
    assert {x.shape[0] for x in keras.tree.flatten(state)} == {3}


@NORMS
def test_alignment_is_the_mean_over_heads_and_blocks(kind):
    model, (source, target) = make(kind), pairs()
    memory, mask = model.encode(source)
    x, seen = model.embed(1, target), []
    for block in model.decoder:
        x, weights = block.call_with_weights(x, memory, mask)
        seen.append(np.float64(weights))
    assert np.concatenate(seen, axis=1).std(axis=1).max() > 0.01  # the heads differ
    checks.close(model.alignment(source, target), np.mean(np.concatenate(seen, axis=1), axis=1))


def test_positions_make_a_difference():
    for kind in ("post-norm", "post-norm trained"):
        model, (_, target) = make(kind), pairs()
        a, b = (np.asarray(model((np.int32([ids]), target[:1]))) for ids in ([4, 5, 6, 3], [6, 5, 4, 3]))
        assert np.abs(a - b).max() > 0.01


def test_trained_positions_end_at_max_length():
    model = make("pre-norm trained")
    target = np.full((1, 21), 4, "int32")
    assert model((target[:, :20], target[:, :20])).shape == (1, 20, len(TARGET))
    for some in ((target, target[:, :20]), (target[:, :20], target)):
        with pytest.raises(UserError, match="21 positions are more than the 20"):
            model(some)


def test_sinusoidal_positions_take_any_length():
    model = make("post-norm")
    ids = np.full((1, 300), 4, "int32")
    assert np.isfinite(model((ids, ids))).all()
    assert model.max_length is None


@pytest.mark.parametrize("more", [{"dropout": 0.3}, {"attention_dropout": 0.3}], ids=str)
def test_dropout_acts_in_training_alone(more):
    model, plain, data = make("pre-norm", **more), make("pre-norm"), pairs()
    checks.close(model(data), plain(data))
    first, second = (np.asarray(model(data, training=True)) for _ in range(2))
    assert (first != second).any()
    if "dropout" in more:  # on the embeddings too, with the positions
        embedded = np.asarray(model.embed(0, data[0], training=True))
        assert (embedded == 0).mean() == pytest.approx(0.3, abs=0.1)


def test_embeddings_begin_small_enough_to_be_output_weights():
    model = Transformer(SOURCE, (*SOURCE, *map(str, range(3000))), **FORMER)
    model.build()
    assert np.std(matrix(model.target_embedding)) == pytest.approx(8**-0.5, rel=0.05)


def test_dimensions_that_are_odd_are_refused_for_sinusoids():
    with pytest.raises(UserError, match="even"):
        Transformer(SOURCE, TARGET, dim=9, num_heads=3).build()
