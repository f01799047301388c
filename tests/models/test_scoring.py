"""Losses and metrics of heads: weighted means, sample and class weights, losses and metrics of `compile`."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models import models
from homl_models.checkpoints import huggingface
from homl_models.errors import UserError
from tests import checks, processes

ROWS, LENGTH, WORDS = 33, 7, 20
SIZES = {"vocab_size": WORDS, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 8, "max_position_embeddings": 16}
DRAW = np.random.default_rng(0)
LENGTHS = DRAW.integers(1, LENGTH + 1, ROWS)
MASK = np.int32(np.arange(LENGTH) < LENGTHS[:, None])
IDS = np.int32(DRAW.integers(5, WORDS, (ROWS, LENGTH)) * MASK)
X = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": np.zeros_like(IDS)}
PADDING = DRAW.random(ROWS) < 0.2  # rows of weight 0
CLASSES = np.where(PADDING, -100, DRAW.integers(0, 3, ROWS)).astype("int32")
TWO = np.where(CLASSES < 0, -100, CLASSES % 2).astype("int32")
TAGS = np.where((MASK > 0) & ~PADDING[:, None], IDS % 3, -100).astype("int32")
MASKED = np.where(DRAW.random((ROWS, LENGTH)) < 0.3, TAGS + 5, -100).astype("int32")
MASKED[TAGS < 0] = -100
POSITIONS = np.where(PADDING, 99, DRAW.integers(0, LENGTH, ROWS)).astype("int32")
LABELS = {
    "BertForMaskedLM": MASKED,
    "BertForPreTraining": {"labels": MASKED, "next_sentence_label": TWO},
    "BertLMHeadModel": np.where(TAGS < 0, -100, IDS).astype("int32"),
    "BertForNextSentencePrediction": TWO,
    "BertForSequenceClassification": CLASSES,
    "BertForTokenClassification": TAGS,
    "BertForQuestionAnswering": {"start_positions": POSITIONS, "end_positions": np.roll(POSITIONS, 5)},
    "ElectraForPreTraining": np.where(TAGS < 0, -100, IDS % 2).astype("int32"),
    "ElectraForSequenceClassification": CLASSES,
}
SLOW = {"BertLMHeadModel", "BertForNextSentencePrediction", "ElectraForSequenceClassification", "BertForMaskedLM"}
KINDS = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in LABELS]
)


def make(name, **settings):
    keras.utils.set_random_seed(0)
    kind = getattr(models, name)
    family = huggingface.FAMILIES["electra" if name.startswith("Electra") else "bert"]
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = family.config(**SIZES, **dropout, **kind.required_config)
    labels = {"num_labels": 3} if "num_labels" in kind.argument_names() else {}
    model = kind(family.backbone(config, **family.backbone_arguments(kind)), **labels | settings)
    model.build()
    for i, weight in enumerate(model.trainable_weights):  # or else all logits are nearly alike
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.5, seed=i))
    if hasattr(model, "bias"):  # so that some words are right
        model.bias.assign(np.float32(np.isin(np.arange(WORDS), (5, 6, 7))) * 3)
    return model


def by_hand(name, logits, labels):
    """Loss and metrics of all rows, in float64."""

    def mean(logits, labels):
        logits, labels = np.float64(logits), np.asarray(labels)
        if name == "ElectraForPreTraining":
            logits = np.stack([np.zeros_like(logits), logits], -1)
        counts = (labels >= 0) & (labels < logits.shape[-1])
        logits, labels = logits[counts], labels[counts]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        chosen = log_p[np.arange(len(labels)), labels]
        return -chosen.sum(), (logits.argmax(-1) == labels).sum(), len(labels)

    if name == "BertForPreTraining":
        (a, right, n), (b, follows, m) = (
            mean(logits["prediction_logits"], labels["labels"]),
            mean(logits["seq_relationship_logits"], labels["next_sentence_label"]),
        )
        return {"loss": a / n + b / m, "accuracy": right / n, "next_sentence_accuracy": follows / m}
    if name == "BertForQuestionAnswering":
        labels = {
            key: np.where(MASK[np.arange(ROWS), positions % LENGTH] > 0, positions, 99)
            for key, positions in labels.items()
        }
        logits = {key: np.where(MASK > 0, np.float64(part), -np.inf) for key, part in logits.items()}  # no place there
        (a, first, n), (b, last, m) = (mean(logits[f"{x}_logits"], labels[f"{x}_positions"]) for x in ("start", "end"))
        return {"loss": (a / n + b / m) / 2, "accuracy": (first + last) / (n + m)}
    if name == "BertLMHeadModel":
        logits, labels = logits[:, :-1], labels[:, 1:]
    total, right, n = mean(logits, labels)
    return {"loss": total / n, "accuracy": right / n}


def numpy_of(nest):
    return keras.tree.map_structure(np.asarray, nest)


@KINDS
def test_metrics_equal_the_formula_for_every_batch_size(name):
    model = make(name)
    model.compile(run_eagerly=True)
    expected = by_hand(name, numpy_of(model(X)), LABELS[name])
    assert 0 < expected["accuracy"] < 1
    for batch_size in (7, 32, ROWS):
        found = model.evaluate(X, LABELS[name], batch_size=batch_size, return_dict=True, verbose=0)
        assert found == pytest.approx(expected, rel=1e-5)


def gradients(model, x, y, weights=None):
    values = [w.value for w in model.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = model.compute_loss(x, y, model(x, training=True), weights)
    found = tape.gradient(loss, values, unconnected_gradients="zero")
    return float(loss), [np.array(tf.convert_to_tensor(gradient)) for gradient in found]


def rows(nest, indices):
    return keras.tree.map_structure(lambda array: array[indices], nest)


@KINDS
def test_a_weight_of_two_is_the_example_twice_and_of_none_is_no_example(name):
    model, y = make(name), LABELS[name]
    weights = np.float32([2, 0, 1] * (ROWS // 3))
    indices = np.repeat(np.arange(ROWS), weights.astype(int))
    expected = gradients(model, rows(X, indices), rows(y, indices))
    checks.close(gradients(model, X, y, weights), expected, 1e-5)
    checks.close(gradients(model, X, y, weights / 2), expected, 1e-5)  # only their ratio counts
    if isinstance(y, dict):
        checks.close(gradients(model, X, y, dict.fromkeys(y, weights)), expected, 1e-5)
    else:  # each label has its own, as here those of a row have one
        each = weights if y.ndim == 1 else np.repeat(weights[:, None], LENGTH, 1)
        each = each[:, 1:] if name == "BertLMHeadModel" else each  # of the words that are predicted
        checks.close(gradients(model, X, y, each), expected, 1e-5)


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_other_problems_of_texts_are_weighted_alike(problem):
    model = make("BertForSequenceClassification", problem_type=problem)
    y = np.float32(DRAW.random((ROWS, 3)) > 0.4)
    weights = np.float32([2, 0, 1] * (ROWS // 3))
    indices = np.repeat(np.arange(ROWS), weights.astype(int))
    checks.close(gradients(model, X, y, weights), gradients(model, rows(X, indices), y[indices]), 1e-5)
    loss = {"regression": "mse", "multi_label_classification": keras.losses.BinaryCrossentropy(from_logits=True)}
    model.compile(run_eagerly=True)
    own = model.evaluate(X, y, batch_size=7, return_dict=True, verbose=0)
    model.compile(loss=loss[problem], run_eagerly=True)
    assert model.evaluate(X, y, batch_size=7, return_dict=True, verbose=0) == pytest.approx(own, rel=1e-5)


KERAS_LOSSES = {
    "BertForSequenceClassification": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "BertForTokenClassification": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "ElectraForPreTraining": keras.losses.BinaryCrossentropy(from_logits=True),
}


@pytest.mark.parametrize("name", KERAS_LOSSES)
def test_losses_and_metrics_of_compile_ignore_labels_of_minus_100(name):
    """Keras' own cross-entropy and accuracy equal the head's, for all batch sizes, with weights and without."""
    model, y = make(name), LABELS[name]
    weights = np.float32([2, 0, 1] * (ROWS // 3))
    binary = name == "ElectraForPreTraining"
    metric = keras.metrics.BinaryAccuracy("given", threshold=0.0) if binary else (
        keras.metrics.SparseCategoricalAccuracy("given")
    )  # fmt: skip
    for given in (None, weights):
        model.compile(run_eagerly=True)
        own = model.evaluate(X, y, sample_weight=given, batch_size=7, return_dict=True, verbose=0)
        for metrics in ({"metrics": [metric]}, {"weighted_metrics": [metric]}):
            model.compile(loss=KERAS_LOSSES[name], run_eagerly=True, **metrics)
            found = model.evaluate(X, y, sample_weight=given, batch_size=7, return_dict=True, verbose=0)
            assert found == pytest.approx(own | {"given": own["accuracy"]}, rel=1e-5)
    twice = 2 * float(model.compute_loss(X, y, model(X), None))

    def double(labels, logits):
        return 2 * KERAS_LOSSES[name].call(labels, logits)

    model.compile(loss=double)
    assert float(model.compute_loss(X, y, model(X), None)) == pytest.approx(twice, rel=1e-5)


def test_outputs_with_names_have_losses_and_metrics_by_name():
    model, y = make("BertForQuestionAnswering"), LABELS["BertForQuestionAnswering"]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    names = "start_logits", "end_logits"
    model.compile("sgd", loss=dict.fromkeys(names, loss), metrics={name: ["accuracy"] for name in names})
    found = model.fit(X, y, sample_weight=np.ones(ROWS), batch_size=ROWS, verbose=0).history
    assert {"loss", "accuracy", "start_logits_accuracy", "end_logits_accuracy"} <= set(found)
    both = found["start_logits_accuracy"][0], found["end_logits_accuracy"][0]
    positions = [y[f"{x}_positions"] for x in ("start", "end")]
    counts = [((at < LENGTH) & (MASK[np.arange(ROWS), at % LENGTH] > 0)).sum() for at in positions]
    assert found["accuracy"][0] == pytest.approx(np.average(both, weights=counts), rel=1e-5)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "BertForTokenClassification"])
@pytest.mark.parametrize("form", ["arrays", "data set"])
def test_weights_of_classes_are_weights_of_their_examples(name, form):
    y, given = LABELS[name], {0: 3.0, 2: 0.0}
    weights = np.choose(np.maximum(y, 0), [3.0, 1.0, 0.0]).astype("float32")
    found = []
    for kind in ("classes", "samples"):
        model = make(name)
        model.compile(keras.optimizers.SGD(0.5))
        if kind == "samples":
            model.fit(X, y, sample_weight=weights, batch_size=11, shuffle=False, verbose=0)
        elif form == "arrays":
            model.fit(X, y, class_weight=given, batch_size=11, shuffle=False, verbose=0)
        else:
            model.fit(tf.data.Dataset.from_tensor_slices((X, y)).batch(11), class_weight=given, verbose=0)
        found.append(model.get_weights())
    checks.close(*found, 1e-6)
    assert np.abs(found[0][0] - make(name).get_weights()[0]).max() > 1e-4


def test_weights_of_classes_that_cannot_be_are_refused():
    model = make("BertForSequenceClassification")
    model.compile("sgd")
    for y, given, message in (
        (CLASSES, {"class_weight": {3: 1.0}}, "a weight, 0 or more, to classes of 0 to 2"),
        (CLASSES, {"class_weight": {0: -1.0}}, "a weight, 0 or more"),
        (CLASSES, {"class_weight": {0: 1.0}, "validation_split": 0.5}, "give validation_data"),
    ):
        with pytest.raises(UserError, match=message):
            model.fit(X, y, **given)
    model = make("BertForQuestionAnswering")
    model.compile("sgd")
    with pytest.raises(UserError, match="class_weight is for classifiers"):
        model.fit(X, LABELS["BertForQuestionAnswering"], class_weight={0: 1.0})


def test_the_state_of_the_losses_is_among_the_variables_of_the_metrics():
    """On them depend JAX, and a run that goes on within an epoch."""
    model = make("BertForPreTraining")
    for loss, terms in ((None, 2), (dict.fromkeys(("prediction_logits", "seq_relationship_logits"), "mse"), 1)):
        model.compile("sgd", loss=loss)
        kept = [v.path for v in model._loss_tracker.variables]
        assert len(kept) == 2 * terms
        assert set(kept) <= {v.path for v in model.metrics_variables}
        assert len(set(map(id, model.variables))) == len(model.variables)
        assert not set(map(id, model._loss_tracker.variables)) & set(map(id, model.weights))


def test_a_head_with_a_loss_of_keras_comes_back(tmp_path):
    model = make("BertForTokenClassification")
    model.compile("sgd", loss=KERAS_LOSSES["BertForTokenClassification"], metrics=["accuracy"])
    expected = model.evaluate(X, TAGS, verbose=0, return_dict=True)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.evaluate(X, TAGS, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-5)


def test_the_generators_metrics_are_means_over_tokens_for_every_batch_size():
    """The discriminator's depend on the samples."""
    config = models.ElectraConfig(**SIZES, embedding_size=8)
    model = models.ElectraPretrainer(models.Electra(config), dataclasses.replace(config, hidden_size=4), weight=3.0)
    model.build()
    positions = np.tile(np.arange(LENGTH, dtype="int32"), (ROWS, 1))
    x = X | {"masked_positions": positions, "masked_labels": MASKED}
    model.compile(run_eagerly=True)
    logits = np.asarray(model(x)["generator_logits"])
    expected = by_hand("BertForMaskedLM", logits, MASKED)
    for batch_size in (7, ROWS):
        found = model.evaluate(x, batch_size=batch_size, return_dict=True, verbose=0)
        assert found["generator_loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["generator_accuracy"] == pytest.approx(expected["accuracy"], rel=1e-5)
        assert found["loss"] == pytest.approx(found["generator_loss"] + 3 * found["discriminator_loss"], rel=1e-5)


ON_JAX = """
import json, sys
import keras, numpy as np
from homl_models.models import Bert, BertConfig, BertForTokenClassification
sizes, ids, labels = map(json.loads, sys.argv[1:])
model = BertForTokenClassification(Bert(BertConfig(**sizes), add_pooling_layer=False), num_labels=3)
model.build()
model.compile("sgd", weighted_metrics=["accuracy"])
ids, labels = np.array(ids), np.array(labels)
found = [model.evaluate(ids, labels, batch_size=size, verbose=0, return_dict=True) for size in (7, len(ids))]
history = model.fit(ids, labels, class_weight={0: 2.0}, batch_size=7, verbose=0).history
print(json.dumps([*found, history["loss"]]))
"""


@pytest.mark.slow
@pytest.mark.xdist_group("jax")
@pytest.mark.usefixtures("jax_process")
def test_losses_and_metrics_on_jax_are_the_same_for_every_batch_size():
    given = json.dumps(SIZES), json.dumps(IDS.tolist()), json.dumps(TAGS.tolist())
    small, whole, trained = processes.run(ON_JAX, *given, process=processes.JAX)
    assert small == pytest.approx(whole, rel=1e-5)
    assert 0.5 < whole["loss"] < 3
    assert 0.5 < trained[0] < 3
