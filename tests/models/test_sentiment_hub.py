"""Classifiers on modules of TensorFlow Hub, the module that `export --hub` writes, and one with the other."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models import export, recipes
from homl_models.errors import UserError
from homl_models.layers.hub import HubLayer
from homl_models.models import bert_heads
from homl_models.models.bert import Bert
from homl_models.models.bert_config import BertConfig
from homl_models.models.sentiment_hub import HubClassifier
from homl_models.training import hub_module
from homl_models.training.saved_model import write_saved_model
from tests.checks import close
from tests.layers import hub_modules

TEXTS = ["good film", "bad bad film", "no"]
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *hub_modules.WORDS)


def tiny_bert(add_pooling_layer=False):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    return Bert(BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=12, **sizes), add_pooling_layer)


@pytest.fixture(scope="module")
def embedder():
    keras.utils.set_random_seed(0)
    model = bert_heads.TextEmbedder(tiny_bert(), vocabulary=VOCABULARY)
    model.build()
    for weight in model.weights:
        weight.assign(np.random.default_rng(weight.shape[0]).normal(0, 0.3, weight.shape))
    return model


@pytest.fixture(scope="module")
def module(embedder, tmp_path_factory):
    """The folder of the embedder as a module, from its .keras file."""
    folder = tmp_path_factory.mktemp("hub")
    embedder.save(folder / "model.keras")
    assert export.main([str(folder / "model.keras"), "--to", str(folder / "module"), "--hub"]) == 0
    return folder / "module"


# The module of an encoder.


def test_the_module_of_an_encoder_gives_its_vectors_and_needs_no_keras(embedder, module):
    loaded = tf.saved_model.load(module)
    close(loaded(tf.constant(TEXTS)), embedder.embed(TEXTS))
    close(loaded.signatures["serving_default"](tf.constant(TEXTS))["vectors"], embedder.embed(TEXTS))
    assert loaded(tf.constant([], tf.string)).shape == (0, 8)
    assert len(loaded.trainable_variables) == len(embedder.trainable_variables)
    trained = {tuple(loaded(tf.constant(TEXTS), training=True).numpy().ravel()) for _ in range(2)}
    assert len(trained) == 2  # of dropout


def test_the_gradients_of_the_module_are_those_of_the_encoder(embedder, module):
    layer = HubLayer(module, trainable=True)  # its variables are in the order of the encoder's
    tokens = embedder.tokenizer.encode(TEXTS)
    with tf.GradientTape(persistent=True) as tape:
        theirs = tf.reduce_sum(embedder({name: tokens[name] for name in ("input_ids", "attention_mask")}) ** 2)
        ours = tf.reduce_sum(layer(tf.constant(TEXTS)) ** 2)
    expected = [tape.gradient(theirs, x.value) for x in embedder.trainable_variables]
    found = [tape.gradient(ours, x.value) for x in layer.trainable_variables]
    close(list(map(tf.convert_to_tensor, found)), list(map(tf.convert_to_tensor, expected)))


def test_other_models_are_exported_as_their_encoder_or_refused(tmp_path, capsys):
    head = bert_heads.BertForSequenceClassification(tiny_bert(True), vocabulary=VOCABULARY, dtype="mixed_bfloat16")
    head.build()
    head.save(tmp_path / "head.keras")
    model = hub_module.text_embedder(str(tmp_path / "head.keras"))
    assert (type(model), model.pooling, model.dtype_policy.name) == (bert_heads.TextEmbedder, "mean", "float32")
    bare = tiny_bert()
    bare.build()
    bare.save(tmp_path / "bare.keras")
    for run, message in {"bare.keras": "has no vocabulary", "none.keras": "there is no such file"}.items():
        assert export.main([str(tmp_path / run), "--to", str(tmp_path / "new"), "--hub"]) == 2
        assert message in capsys.readouterr().err
    assert export.main(["dates", "--to", str(tmp_path / "new"), "--hub"]) == 2
    assert "is no encoder of texts" in capsys.readouterr().err
    assert export.main(["dates", "--hub"]) == 2
    assert "--to FOLDER" in capsys.readouterr().err


# The classifier.


def test_logits_are_dense_layers_on_the_module(tmp_path):
    model = HubClassifier(hub_modules.save_text(tmp_path / "text"), hidden_units=3)
    model.build()
    weights = [layer.kernel.numpy() for layer in (model.hidden, model.classifier)]
    logits = np.maximum(hub_modules.embed(TEXTS) @ weights[0], 0) @ weights[1]
    close(model(tf.constant(TEXTS)), logits)
    labels, scores = model.classify(TEXTS)
    p = 1 / (1 + np.exp(-logits))
    close(scores, np.concatenate([1 - p, p], axis=1))
    assert labels == [("negative", "positive")[int(x > 0)] for x in logits[:, 0]]
    assert [len(part) for part in model.classify([])] == [0, 0]
    with pytest.raises(UserError, match="a list of texts"):
        model.classify("good film")


def test_its_saved_model_holds_the_module_with_its_table_of_words(tmp_path):
    model = HubClassifier(hub_modules.save_text(tmp_path / "text"), ("a", "b", "c"), signature="vectors")
    model.build()
    labels, scores = model.classify(TEXTS)
    model.save(tmp_path / "model.keras")
    close(keras.models.load_model(tmp_path / "model.keras").classify(TEXTS)[1], scores)
    write_saved_model(model, tmp_path / "saved_model")
    (tmp_path / "text").rename(tmp_path / "elsewhere")
    loaded = tf.saved_model.load(tmp_path / "saved_model")
    found = loaded.classify(tf.constant(TEXTS))
    close(found["scores"], scores)
    assert [label.decode() for label in found["labels"].numpy()] == labels


def test_modules_that_give_no_vector_for_a_text_are_refused(tmp_path):
    text, image = hub_modules.save_text(tmp_path / "text"), hub_modules.save_image(tmp_path / "image")
    for settings, message in [
        ({"handle": image}, "does not take texts"),
        ({"handle": text, "signature": "serving_default"}, "choose one by output_key: .*lengths"),
        ({"handle": text, "signature": "serving_default", "output_key": "lengths"}, "not a vector for each"),
    ]:
        with pytest.raises(UserError, match=message):
            HubClassifier(**settings).build()


def test_a_preprocessor_makes_the_inputs_of_the_module(tmp_path):
    class Join(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts):
            return tf.strings.join([texts, " bad"])

    tf.saved_model.save(Join(), str(tmp_path / "join"))
    text = hub_modules.save_text(tmp_path / "text")
    model = HubClassifier(text, preprocessor=str(tmp_path / "join"))
    model.build()
    close(model.encode(tf.constant(["good"])), hub_modules.embed(["good bad"]))


@pytest.mark.parametrize("frozen", [False, True])
def test_the_recipe_fine_tunes_the_module_of_an_encoder_or_leaves_it(frozen, module):
    recipe = dataclasses.replace(recipes.get("sentiment_hub_tiny"), module=str(module), frozen=frozen, verbose=0)
    model = recipe.model()
    before = [x.numpy() for x in model.encoder.trained]
    model.fit(recipe.datasets()[0].dataset(0, 2), shuffle=False, verbose=0)
    changed = any((x.numpy() != old).any() for x, old in zip(model.encoder.trained, before, strict=True))
    assert changed != frozen


def test_the_recipe_refuses_what_cannot_be():
    recipe = recipes.get("sentiment_hub")
    with pytest.raises(UserError, match="--module PATH"):
        recipe.handle  # noqa: B018
    with pytest.raises(UserError, match="--test-file is for --data-file"):
        dataclasses.replace(recipe, test_file="x.csv")
    assert dataclasses.replace(recipe, module="https://tfhub.dev/a/1").handle == "https://tfhub.dev/a/1"
