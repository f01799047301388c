"""ELECTRA's pre-training, in float64 NumPy; its heads are tested with BERT's."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from homl_models.errors import UserError
from homl_models.models import scoring
from homl_models.models.bert_config import ElectraConfig
from homl_models.models.electra import OBJECTIVES, Electra, ElectraPretrainer, scatter
from homl_models.models.scoring import fast_argmax
from tests import checks
from tests.models.test_bert import IDS, MASK, SIZES

POSITIONS = np.array([[1, 4, 9], [2, 5, 0], [3, 0, 0]])
LABELS = np.array([[11, 12, 13], [14, 15, -100], [16, -100, -100]])
MASKED = IDS.copy()
for i, (row, labels) in enumerate(zip(POSITIONS, LABELS)):
    MASKED[i, row[labels >= 0]] = 4
INPUTS = {"input_ids": MASKED, "attention_mask": MASK, "masked_positions": POSITIONS, "masked_labels": LABELS}
OBJECTIVE = pytest.mark.parametrize("objective", OBJECTIVES)


def make(objective="electra", dropout=0.0, generator=None, dtype="float32", **settings):
    keras.utils.set_random_seed(0)
    sizes = SIZES | {"num_hidden_layers": 1, "embedding_size": 16}
    config = ElectraConfig(**sizes, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24} | (generator or {})
    small = dataclasses.replace(config, **small)
    model = ElectraPretrainer(Electra(config, dtype=dtype), small, objective, seed=5, dtype=dtype, **settings)
    model.build()
    for i, weight in enumerate(model.trainable_weights):
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.2, seed=i))
    return model


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def texts():
    original = MASKED.copy()
    masked = np.zeros_like(MASKED, bool)
    for i, (row, labels) in enumerate(zip(POSITIONS, LABELS)):
        original[i, row[labels >= 0]] = labels[labels >= 0]
        masked[i, row[labels >= 0]] = True
    return original, masked


@OBJECTIVE
def test_labels_and_losses_equal_the_formulas_of_the_paper(objective):
    model = make(objective)
    found = {name: np.float64(value) for name, value in model(INPUTS).items()}
    given = keras.tree.map_structure(ops.convert_to_tensor, INPUTS), None, model_outputs(found)
    total = model.compute_loss(*given)
    measured = {name: scoring.weighted_mean(pair) for name, pair in model.loss_and_metrics(*given)[1].items()}
    original, masked = texts()
    np.testing.assert_array_equal(found["original"], original)
    replaced = found["replaced"].astype(int)
    np.testing.assert_array_equal(replaced[~masked], original[~masked])
    counted = LABELS >= 0
    log_p = np.take_along_axis(log_softmax(found["generator_logits"]), np.maximum(LABELS, 0)[..., None], 2)[..., 0]
    generator = -log_p[counted].mean()
    if objective.startswith("electra"):
        wanted, where = original != replaced, MASK > 0 if objective == "electra" else masked
        p = sigmoid(found["discriminator_logits"])
        loss = -np.where(wanted, np.log(p), np.log(1 - p))[where].mean()
        right = ((p > 0.5) == wanted)[where].mean()
    else:
        log_p = log_softmax(found["mlm_logits"])
        if objective == "replace_mlm":
            loss = -np.take_along_axis(log_p, np.maximum(LABELS, 0)[..., None], 2)[..., 0][counted].mean()
            right = (log_p.argmax(-1) == LABELS)[counted].mean()
        else:
            copy, word = (
                sigmoid(-found["discriminator_logits"]),
                np.take_along_axis(log_p, original[..., None], 2)[..., 0],
            )
            loss = -np.log(copy * (original == replaced) + (1 - copy) * np.exp(word))[MASK > 0].mean()
            right = (np.where(copy > 0.5, replaced, log_p.argmax(-1)) == original)[MASK > 0].mean()
    weight = 50 if objective.startswith("electra") else 1
    checks.close(total, generator + weight * loss, 1e-4)
    checks.close(measured["generator_loss"], generator)
    checks.close(measured["discriminator_loss"], loss)
    checks.close(measured["discriminator_accuracy"], right)


def model_outputs(found):
    whole = ("original", "replaced")
    return {name: ops.convert_to_tensor(np.int64(x) if name in whole else np.float32(x)) for name, x in found.items()}


def test_tokens_are_sampled_from_the_generators_distribution():
    model = make()
    inputs = {name: x for name, x in INPUTS.items() if name != "masked_labels"}
    p = np.exp(log_softmax(np.float64(model.generator(inputs)[0, 0])))
    logits = ops.broadcast_to(ops.log(ops.cast(p, "float32")), (20_000, len(p)))
    samples = np.array(ops.argmax(logits + model.gumbel(ops.shape(logits)), axis=-1))
    frequencies = np.bincount(samples, minlength=len(p)) / len(samples)
    assert np.abs(frequencies - p).max() < 4 * np.sqrt(p.max() / len(samples))
    again = [np.array(model(INPUTS)["replaced"]) for _ in range(8)]
    assert any((a != again[0]).any() for a in again)


def test_no_gradient_goes_through_the_sampling():
    """The discriminator's loss has no gradient for the generator's own weights."""
    model = make()
    inputs = keras.tree.map_structure(ops.convert_to_tensor, INPUTS)
    shared = {id(weight) for weight in model.discriminator.weights}
    own = [weight for weight in model.generator_backbone.weights if id(weight) not in shared]
    with tf.GradientTape() as tape:
        outputs = model(inputs, training=True)
        loss = model.discriminator_loss(inputs, outputs, inputs["masked_labels"])[0]
    assert own
    assert all(gradient is None for gradient in tape.gradient(loss, [weight.value for weight in own]))


def test_a_token_that_is_sampled_right_counts_as_original():
    model = make()
    model.generator.bias.assign(np.where(np.arange(60) == 11, 1e4, 0.0))  # always writes 11, which is right once
    outputs = model(INPUTS)
    original, masked = texts()
    assert (np.array(outputs["replaced"])[masked] == 11).all()
    wanted = (original != np.array(outputs["replaced"]))[masked]
    assert not wanted[0]
    assert wanted[1:].all()


def test_embeddings_are_shared_or_not():
    shared, own = make(), make(share_embeddings=False)
    assert shared.generator_backbone.embeddings is shared.discriminator.embeddings
    assert own.generator_backbone.embeddings is not own.discriminator.embeddings
    assert len(own.weights) == len(shared.weights) + 5


def test_a_frozen_generator_does_not_move_also_when_loaded(tmp_path):
    model = make(share_embeddings=False, freeze_generator=True)
    before = checks.arrays(model.generator.weights), checks.arrays(model.discriminator_head.weights)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    model.train_on_batch(INPUTS)
    checks.close(model.generator.weights, before[0], 0)
    after = checks.arrays(model.discriminator_head.weights)
    assert all((a != b).any() for a, b in zip(before[1], after) if a.ndim == 1)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert len(again.trainable_variables) == len(model.trainable_variables)


@pytest.mark.parametrize(
    "objective",
    ["electra", "replace_mlm", *(pytest.param(o, marks=pytest.mark.slow) for o in ("electra_15", "all_tokens_mlm"))],
)
def test_it_trains_and_comes_back(objective, tmp_path):
    model = make(objective)
    model.compile(keras.optimizers.Adam(1e-2))
    y = np.zeros(3)
    model.train_on_batch(INPUTS, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.generator_backbone.embeddings is loaded.discriminator.embeddings
    checks.close(loaded.weights, model.weights, 0)
    checks.overfits(model, INPUTS, y, steps=120 if objective == "electra_15" else 40, share=0.8)


def test_half_precision_and_unknown_sizes():
    model = make(dtype="mixed_bfloat16", dropout=0.1)
    model.compile(keras.optimizers.Adam(1e-3))
    assert np.isfinite(model.train_on_batch(INPUTS, np.zeros(3), return_dict=True)["loss"])
    specs = {name: tf.TensorSpec((None, None), tf.int64) for name in INPUTS}
    function = tf.function(make(), input_signature=[specs])
    found = function({name: tf.constant(value, tf.int64) for name, value in INPUTS.items()})
    assert found["generator_logits"].shape == (3, 3, 60)


@pytest.mark.xla
def test_fast_argmax_is_the_first_maximum():
    x = np.random.default_rng(0).integers(-4, 5, (6, 7, 300)).astype("float32")
    found = [tf.function(fast_argmax, jit_compile=jit)(tf.constant(x)) for jit in (False, True)]
    for indices in found:
        assert indices.dtype == tf.int32
        checks.close(indices, x.argmax(-1), 0)


def test_scatter():
    ids = np.arange(8).reshape(2, 4)
    found = scatter(ops.convert_to_tensor(ids), np.array([[1, 3], [0, 0]]), np.array([[50, 51], [52, 53]]),
                np.array([[True, True], [True, False]]))  # fmt: skip
    np.testing.assert_array_equal(found, [[0, 50, 2, 51], [52, 5, 6, 7]])


def test_invalid_arguments_are_refused():
    for settings, message in (
        ({"objective": "gan"}, "objective must be one of electra, "),
        ({"generator": {"embedding_size": 8}}, "share embeddings, but differ in embedding_size"),
        ({"freeze_generator": True}, "needs embeddings of its own"),
    ):
        with pytest.raises(UserError, match=message):
            make(**settings)
