"""Classifiers of texts: all ways of masking, NBSVM, strings in and out, their recipes."""

import dataclasses
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from keras import ops
from tensorboard.plugins import projector

import homl_models
from homl_models import train
from homl_models.models import nbsvm
from homl_models.models.nbsvm import NBSVM
from homl_models.models.sentiment import MASKINGS, SentimentRNN
from homl_models.pipelines import reber, token_ids
from homl_models.recipes import get, sentiment
from homl_models.tokenizers import classification
from tests import checks

WORDS = "", "[UNK]", "the", "film", "was", "bad", "good", "not"
TEXTS = ["The film was bad.", "", "Good!", "not bad, not bad; the FILM was<br />good", "unknown words"]
LABELS = "red", "green", "blue"
KINDS = {
    "mask_zero": {},
    "by_hand 2 lstm": {"masking": "by_hand", "cell": "lstm", "num_layers": 2, "dropout": 0.2},
    "ragged attention": {"masking": "ragged", "pooling": "attention", "bidirectional": True, "label_names": LABELS},
    "masking_layer": {"masking": "masking_layer", "num_layers": 2},
    "own_layer": {"masking": "own_layer", "pooling": "attention"},
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
SOME_KINDS = pytest.mark.parametrize("kind", ["by_hand 2 lstm", "ragged attention", "own_layer"])


def make(seed=0, **settings):
    """A small model with weights large enough for its scores to be far from even."""
    return randomized(SentimentRNN(WORDS, **{"embed_dim": 5, "units": 6} | settings), seed)


def randomized(model, seed=0):
    if not model.built:
        model.build()
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.8, w.shape) if "float" in w.dtype else w.numpy() for w in model.weights])
    return model


def compiled(model):
    model.compile(keras.optimizers.Adam(0.03), run_eagerly=True)
    return model


def ids(lengths=(6, 2, 4), width=None, seed=0):
    """Ids of texts of these lengths, padded with 0."""
    rng = np.random.default_rng(seed)
    found = np.zeros((len(lengths), width or max(lengths)), "int32")
    for row, n in zip(found, lengths):
        row[:n] = rng.integers(1, len(WORDS), n)
    return found


def labels(model, n=3):
    return np.arange(n, dtype="int32") % model.num_classes


def wider(x, n=3):
    return np.pad(x, ((0, 0), (0, n)))


# What every model has to pass.


@EACH_KIND
def test_config_round_trip(kind):
    checks.config_round_trip(SentimentRNN, vocabulary=WORDS, embed_dim=5, units=7, **KINDS[kind])


def test_config_round_trip_of_nbsvm():
    checks.config_round_trip(NBSVM, vocabulary=WORDS, label_names=LABELS, n=3, l2=0.1)


@SOME_KINDS
def test_keras_file_round_trip(kind, tmp_path):
    model = compiled(make(**KINDS[kind]))
    checks.keras_file_round_trip(model, ids(), labels(model), tmp_path)


def test_keras_file_round_trip_of_nbsvm(tmp_path):
    model = compiled(randomized(NBSVM(WORDS)))
    checks.keras_file_round_trip(model, ids(), labels(model), tmp_path)


@SOME_KINDS
def test_unknown_batch_and_length(kind):
    checks.any_batch_and_length(make(**KINDS[kind]), ids())


@pytest.mark.slow
@EACH_KIND
def test_symbolic_calls_agree(kind):
    checks.symbolic_agrees(make(**KINDS[kind]), ids())


@EACH_KIND
def test_gradients_reach_every_weight(kind):
    model = make(**KINDS[kind])
    checks.gradients_reach(lambda x: model(x, training=True), model.trainable_variables, ids((6, 4, 5, 6)))


@pytest.mark.slow
@EACH_KIND
def test_mixed_precision(kind):
    checks.mixed_precision(lambda dtype: make(dtype=dtype, **KINDS[kind]), ids())


@pytest.mark.parametrize("kind", ["mask_zero", pytest.param("ragged attention", marks=pytest.mark.slow)])
def test_one_batch_overfits(kind):
    model = make(**KINDS[kind])
    model.compile(keras.optimizers.Adam(0.03))
    checks.overfits(model, ids(), labels(model))


# Masks.


def by_keras(masking):
    """The same network of Keras' own layers, with the mask made by Keras, or none."""
    model = make(masking=masking)
    embedding = keras.layers.Embedding(len(WORDS), 5, mask_zero=masking != "none")
    reference = keras.Sequential([keras.Input((None,)), embedding, keras.layers.GRU(6), keras.layers.Dense(1)])
    reference.set_weights(model.get_weights())
    return model, reference


@pytest.mark.parametrize("masking", [name for name in MASKINGS if name != "own_layer"])
def test_all_maskings_compute_what_keras_layers_do(masking):
    model, reference = by_keras(masking)
    checks.close(model(wider(ids())), reference(wider(ids()))[:, 0])
    checks.close(model(ids(), training=True), reference(ids())[:, 0])


@EACH_KIND
def test_padding_changes_nothing(kind):
    model, x = make(**KINDS[kind]), ids()
    checks.close(model(wider(x)), model(x))
    for row, n in zip(range(3), (6, 2, 4)):
        checks.close(model(x[row : row + 1, :n]), model(x)[row : row + 1])


def test_without_masks_padding_changes_the_logits_and_makes_them_alike():
    model, x = make(masking="none"), ids()
    assert np.abs(model(wider(x)) - model(x)).max() > 1e-3
    far = model(wider(x, 300)).numpy()
    assert np.ptp(far) < 0.01 * np.ptp(model(x))


def test_projecting_the_vocabulary_changes_nothing(monkeypatch):
    """Neither outputs nor gradients; `SMALL` says up to which size it is done."""
    monkeypatch.setattr("homl_models.models.sentiment.SMALL", 0)
    for kind in ("mask_zero", "by_hand 2 lstm", "masking_layer"):
        model, x, found = make(**KINDS[kind] | {"dropout": 0.0}), wider(ids()), []
        for small in (0, 100):
            monkeypatch.setattr("homl_models.models.sentiment.SMALL", small)
            assert model.projects_vocabulary(training=True) == bool(small)
            with tf.GradientTape() as tape:
                loss = ops.sum(ops.square(model(x, training=True)))
            gradients = tape.gradient(loss, [w.value for w in model.trainable_variables])
            found.append([loss, *map(tf.convert_to_tensor, gradients)])
        checks.close(*found)


def test_attention_pools_by_its_definition():
    model = make(pooling="attention", masking="by_hand")
    x, n = ids((4,)), 3
    layer = model.attention
    states = np.float64(model.recurrent[0](model.embedding(x)))[0, :n]
    kernel, bias, context = (np.float64(w) for w in (layer.dense.kernel, layer.dense.bias, layer.context))
    scores = np.exp(np.tanh(states @ kernel + bias) @ context[:, 0])
    pooled = (scores[:, None] / scores.sum() * states).sum(0)
    mask = np.arange(4) < n
    checks.close(layer(model.recurrent[0](model.embedding(x)), mask=mask[None]), np.float32(pooled)[None])


def test_dropout_acts_in_training_alone():
    model, x = make(dropout=0.5), ids()
    checks.close(model(x), make()(x))
    assert (model(x, training=True).numpy() != model(x, training=True).numpy()).any()


@pytest.mark.parametrize(
    "settings",
    [{"cell": "rnn"}, {"masking": "some"}, {"pooling": "max"}, {"tokens": "bytes"}, {"label_names": ("a",)}],
)
def test_settings_that_cannot_be_are_refused(settings):
    checks.fails("must be one of|needs two label_names", lambda: SentimentRNN(WORDS, **settings))


# Losses.


def test_losses_are_cross_entropies_without_ignored_rows():
    for names in (("no", "yes"), LABELS):
        model = compiled(make(label_names=names))
        x, y = ids((6, 2, 4, 3)), np.array([1, 0, -100, 1])
        logits = np.float64(model(x))
        logits = np.stack([0 * logits, logits], 1) if logits.ndim == 1 else logits
        log_p = (logits - np.log(np.exp(logits).sum(1, keepdims=True)))[[0, 1, 3], y[[0, 1, 3]]]
        right = (logits.argmax(1) == y)[[0, 1, 3]].mean()
        found = model.evaluate(x, y, batch_size=3, verbose=0, return_dict=True)
        np.testing.assert_allclose([found["loss"], found["accuracy"]], [-log_p.mean(), right], rtol=1e-5)


# Strings.


@pytest.mark.parametrize("names", [("no", "yes"), LABELS])
def test_classify_gives_names_and_scores_alike_in_python_and_in_the_saved_model(names, tmp_path):
    model = make(label_names=names)
    found, p = model.classify(TEXTS)
    for text, name, row in zip(TEXTS, found, p):
        x = classification.Words(WORDS).encode(tf.constant([text])).to_tensor(shape=(1, 12))
        logits = np.float64(model(x))[0]
        expected = np.exp(logits) if len(names) == 3 else np.array([1, np.exp(logits)])
        np.testing.assert_allclose(row, expected / expected.sum(), rtol=1e-4)
        assert name == names[row.argmax()]
    checks.export_agrees(model, tmp_path, {"classify": [TEXTS]})
    served = tf.saved_model.load(str(tmp_path))
    both = served.classify(tf.constant(TEXTS))
    assert [name.decode() for name in both["labels"].numpy()] == found
    checks.close(both["scores"], p)
    assert served.classify(tf.constant([], tf.string))["scores"].shape == (0, len(names))
    assert model.classify([]) == ([], pytest.approx(np.zeros((0, len(names)))))
    checks.fails("give a list of texts", lambda: model.classify("one"))


def test_nearest_words_have_the_largest_cosine():
    model = make()
    e = np.float64(model.embedding.embeddings)
    cosine = [e[5] @ row / np.linalg.norm(e[5]) / np.linalg.norm(row) for row in e]
    expected = sorted(((WORDS[i], cosine[i]) for i in (2, 3, 4, 6, 7)), key=lambda pair: -pair[1])[:3]
    assert [(word, pytest.approx(c)) for word, c in expected] == model.nearest("bad", 3)
    checks.fails("'worse' is not in the vocabulary", lambda: model.nearest("worse"))


# NBSVM.


def test_ratios_and_logits_of_nbsvm_are_those_of_the_paper():
    texts, y = ["good good film", "bad film", "not good", "the film was bad"], np.array([1, 0, 0, 0])
    grams = ["film", "good", "bad", "not good", "good film"]
    model = NBSVM(("", "[UNK]", *grams))
    model.build()
    encoded, ends = classification.encode(texts, model.tokenizer)
    has = np.array([[f" {g} " in f" {text} " for g in grams] for text in texts])
    p, q = 1 + has[y == 1].sum(0), 1 + has[y == 0].sum(0)
    ratios = nbsvm.log_count_ratios(encoded, ends, y, 7, 1)
    # of the two special tokens there are none, but each counts 1 in the norm
    np.testing.assert_allclose(ratios[2:, 0], np.log(p / (p.sum() + 2)) - np.log(q / (q.sum() + 2)))
    weights = np.linspace(-1, 2, 7)[:, None]
    model.set_weights([weights, np.array([0.5]), ratios])
    expected = has @ (ratios * weights)[2:, 0] + 0.5
    _, scores = model.classify(texts)
    np.testing.assert_allclose(np.log(scores[:, 1] / scores[:, 0]), expected, rtol=1e-4)
    strongest = model.strongest(2)
    order = np.argsort(-(ratios * weights)[2:, 0])
    assert [gram for gram, _ in strongest["positive"]] == [grams[i] for i in order[:2]]
    assert [gram for gram, _ in strongest["negative"]] == [grams[i] for i in order[:-3:-1]]


def test_the_loss_of_nbsvm_has_the_squared_weights():
    plain, penalized = randomized(NBSVM(WORDS, l2=0.0)), randomized(NBSVM(WORDS, l2=0.5))
    x, y = ids(), np.array([1, 0, 1])
    losses = [compiled(m).compute_loss(x, y, m(x)) for m in (plain, penalized)]
    checks.close(losses[1] - losses[0], 0.5 * np.sum(np.float64(plain.weight) ** 2).astype("float32"))


def test_each_label_has_its_ratios():
    encoded, ends = np.array([2, 3, 2, 4], np.int32), np.array([0, 1, 3, 4])
    found = nbsvm.log_count_ratios(encoded, ends, [0, 1, 2], 5, 3)
    p, q = np.array([1, 1, 2, 2, 1]), np.array([1, 1, 2, 1, 2])
    np.testing.assert_allclose(found[:, 1], np.log(p / p.sum() / (q / q.sum())))


# Batches.


@pytest.mark.parametrize("make_batches", [token_ids.batches, token_ids.shuffled_batches])
def test_an_epoch_has_each_text_once_with_its_label(make_batches):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 30, 50)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    flat = rng.integers(1, 100, ends[-1]).astype("int32")
    texts = sorted((tuple(flat[a:b]), i) for i, (a, b) in enumerate(zip(ends, ends[1:])))
    data = make_batches(flat, ends, np.arange(50), 8, seed=3, buckets=3)
    epochs = []
    for epoch in range(2):
        found = list(data.dataset(epoch * data.steps, (epoch + 1) * data.steps).as_numpy_iterator())
        assert len({x.shape for x, _ in found}) > 1
        rows = [(tuple(row[row > 0]), int(y)) for x, labels in found for row, y in zip(x, labels)]
        assert sorted(row for row in rows if row[1] >= 0) == texts
        epochs.append([y for _, y in rows])
    assert epochs[0] != epochs[1]


# Recipes.


def test_data_of_the_users_own_and_a_run_that_knows_its_labels(tmp_path, capsys):
    """Quotes, newlines, semicolons and a byte order mark; numbers as labels, in their order."""
    rng = random.Random(0)
    rows = [(f'it was ""very""; {rng.choice("abc")}\nand {word}', i) for word, i in (("good", 10), ("bad", 9))] * 20
    table = "\ufefflabel;text\n" + "".join(f'{i};"{text} {n}"\n' for n, (text, i) in enumerate(rows))
    (tmp_path / "own.csv").write_text(table, encoding="utf-8")
    flags = {"data_file": str(tmp_path / "own.csv"), "num_examples": 0, "verbose": 0, "epochs": 1, "batch_size": 4}
    run = train.train("sentiment_tiny", run_dir=str(tmp_path / "run"), **flags)
    model = homl_models.load(run)
    assert model.label_names == ("9", "10")
    assert {"it", "was", "very", "good", "bad"} <= set(model.vocabulary)
    (tmp_path / "own.csv").unlink()
    (tmp_path / "other.csv").write_text("text,label\nwas good,10\n")
    from homl_models import evaluate

    assert evaluate.main([str(run), "--data-file", str(tmp_path / "other.csv")]) == 0
    (tmp_path / "other.csv").write_text("text,label\nwas good,11\n")
    assert evaluate.main([str(run), "--data-file", str(tmp_path / "other.csv")]) == 2
    assert "the label '11' is not among those that are learned: 9, 10" in capsys.readouterr().err
    tokens = (run / "tensorboard" / "metadata.tsv").read_text(encoding="utf-8").splitlines()
    vectors = np.loadtxt(run / "tensorboard" / "vectors.tsv", delimiter="\t")
    assert tuple(tokens) == model.vocabulary[2:]
    np.testing.assert_allclose(vectors, np.array(model.embedding.embeddings)[2:], rtol=1e-5)
    config = text_format.Parse(
        (run / "tensorboard" / "projector_config.pbtxt").read_text(), projector.ProjectorConfig()
    )
    assert config.embeddings[0].tensor_path == "vectors.tsv"
    assert config.embeddings[0].metadata_path == "metadata.tsv"
    assert "nearest embeddings" in (run / "samples.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("text,stars\nfine,1\n", "has no columns text and label"),
        ("text,label\n" + "same,1\n" * 20, "too few to split"),
        ("text,label\n" + "".join(f"text {i},1\n" for i in range(20)), "all texts have the label '1'"),
    ],
)
def test_tables_that_cannot_be_learned_are_refused(table, message, tmp_path):
    (tmp_path / "own.csv").write_text(table)
    recipe = dataclasses.replace(get("sentiment_tiny"), data_file=str(tmp_path / "own.csv"), num_examples=0)
    checks.fails(message, recipe.datasets)


def test_flags_that_do_not_go_together_are_refused():
    for bad, flag in (
        ({"test_file": "a.csv"}, "--test-file"),
        ({"vocab_size": 2}, "--vocab-size"),
        ({"num_buckets": 0}, "--num-buckets"),
    ):
        checks.fails(flag, lambda bad=bad: dataclasses.replace(get("sentiment"), **bad))
    checks.fails("--l2", lambda: dataclasses.replace(get("sentiment_ngrams"), l2=-1.0))


def test_reber_strings_are_half_right_and_those_of_the_test_new():
    recipe = dataclasses.replace(get("reber_classifier"), num_strings=400, num_judged=100)
    (train_rows, valid, test), wrong, right = recipe.splits, *sentiment.TRICKY
    known = {text for text, _ in train_rows + valid}
    assert not known & {text for text, _ in test}
    for rows in (train_rows + valid, test):
        assert all((label == "right") == reber.accepts(text) for text, label in rows)
        assert sum(label == "right" for _, label in rows) == len(rows) / 2
    assert recipe.label_names == ("right", "wrong")
    assert reber.accepts(right)
    assert not reber.accepts(wrong)
    assert sum(a != b for a, b in zip(right, wrong)) == 1
