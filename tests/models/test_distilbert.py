"""DistilBERT: parity with `transformers`, folders in and out, the book's cells on natural language inference."""

import json

import keras
import numpy as np
import pytest

from homl_models import models
from homl_models.checkpoints import huggingface
from homl_models.errors import UserError
from homl_models.tokenizers.wordpiece import SPECIAL
from tests import checks
from tests.models.test_bert import HEADS, IDS, MASK, TYPES, tensors

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 24}
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
KINDS = ["MaskedLM", "SequenceClassification", "MultipleChoice", "TokenClassification", "QuestionAnswering"]
WORDS = ["she", "loves", "me", "not", ".", "sky", "is", "blue", "red", "i", "love", "her"]
VOCABULARY = (*SPECIAL, *WORDS)


def make(kind=models.DistilBert, config=None, **settings):
    keras.utils.set_random_seed(0)
    model = models.DistilBert(models.DistilBertConfig(**SIZES | (config or {})))
    model = model if kind is models.DistilBert else kind(model, **settings)
    model.build()
    for i, weight in enumerate(model.trainable_weights):
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.3, seed=i))
    return model


def head(name):
    return getattr(models, f"DistilBertFor{name}")


@pytest.mark.parity
@pytest.mark.parametrize("name", ["Model", *KINDS])
def test_all_outputs_equal_the_reference_and_weights_survive_both_ways(name, tmp_path):
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 24}
    config = transformers.DistilBertConfig(
        attn_implementation="eager", num_labels=2 if name == "QuestionAnswering" else 3, activation="relu", **sizes
    )
    theirs = getattr(transformers, "DistilBertModel" if name == "Model" else f"DistilBertFor{name}")(config).eval()
    for weight in theirs.parameters():
        weight.data.add_(0.1 * torch.randn_like(weight))
    theirs.tie_weights()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = huggingface.from_pretrained(tmp_path / "theirs")
    assert type(ours).__name__ == type(theirs).__name__.removesuffix("Model")
    inputs = {key: value[None] for key, value in INPUTS.items()} if name == "MultipleChoice" else INPUTS
    asked = {"output_hidden_states": True, "output_attentions": True}
    labels = {} if name == "Model" else HEADS[f"BertFor{name}"]
    wanted = theirs(**tensors(inputs | labels), **asked)
    found = ours(inputs | {"token_type_ids": TYPES.reshape(inputs["input_ids"].shape)}, **asked)
    assert set(found) == set(wanted) - {"loss"}
    for key, value in found.items():
        theirs_value = wanted[key]
        both = zip(value, theirs_value) if isinstance(value, tuple) else [(value, theirs_value)]
        for a, b in both:
            checks.close(a, b.detach().numpy(), 1e-5)
    if name not in ("Model", "MultipleChoice", "QuestionAnswering"):  # the last ignores the padding
        ours.compile()
        given = labels["labels"] if list(labels) == ["labels"] else labels
        loss = ours.evaluate(inputs, given, batch_size=3, verbose=0, return_dict=True)["loss"]
        assert loss == pytest.approx(float(wanted["loss"]), rel=1e-4)
    huggingface.save_pretrained(ours, tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours", attn_implementation="eager")
    assert {key: (value == again.state_dict()[key]).all().item() for key, value in theirs.state_dict().items()} == (
        dict.fromkeys(again.state_dict(), True)
    )
    assert again.config.to_dict()["activation"] == "relu"


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_has_their_names_and_comes_back(name, tmp_path):
    model = make(head(name), config={"seq_classif_dropout": 0.3, "hidden_dropout_prob": 0.4})
    huggingface.save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["dim"], config["n_layers"], config["dropout"]) == ("distilbert", 32, 2, 0.4)
    assert not {"hidden_size", "type_vocab_size", "hidden_act", "layer_norm_eps"} & set(config)
    again = huggingface.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert again.backbone.config == model.backbone.config
    inputs = {key: value[None] for key, value in INPUTS.items()} if name == "MultipleChoice" else INPUTS
    checks.close(again(inputs), model(inputs), 0)
    if name in ("SequenceClassification", "MultipleChoice"):
        assert again.dropout_layer.rate == 0.3


def test_there_are_no_token_types(tmp_path):
    model = make()
    checks.close(model(INPUTS | {"token_type_ids": TYPES})["last_hidden_state"], model(INPUTS)["last_hidden_state"], 0)
    assert set(model(INPUTS)) == {"last_hidden_state"}
    assert not [weight.path for weight in model.weights if "token_type" in weight.path or "pooler" in weight.path]
    for name, value in (("type_vocab_size", 2), ("position_embedding_type", "relative_key"), ("is_decoder", True)):
        with pytest.raises(UserError, match=f"{name} of a DistilBERT is"):
            models.DistilBertConfig(**{name: value})
    huggingface.save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dim": 24}))
    with pytest.raises(UserError, match=r"word_embeddings.weight has the shape|lin1.weight has the shape"):
        huggingface.from_pretrained(tmp_path)


def mnli(folder):
    """A folder of a classifier as `distilbert-base-uncased-finetuned-mnli` has it."""
    labels = "contradiction", "entailment", "neutral"
    kind = models.DistilBertForSequenceClassification
    model = make(kind, {"vocab_size": len(VOCABULARY)}, num_labels=3, labels=labels, vocabulary=VOCABULARY)
    huggingface.save_pretrained(model, folder)
    return str(folder)


def test_the_cells_of_the_book_run(tmp_path):
    """Chapter 16, Hugging Face's libraries: a pipeline, a call on token ids, and training on pairs."""
    model = huggingface.from_pretrained(mnli(tmp_path))
    labels, scores = model.classify(["She loves me. [SEP] She loves me not."])
    assert labels[0] in ("contradiction", "entailment", "neutral")
    pairs = model.classify(["She loves me."], ["She loves me not."])
    assert pairs[0] == labels
    checks.close(pairs[1], scores)

    texts = ["I love her. [SEP] She loves me!", "The sky is blue. [SEP] Blue is the sky."]
    tokens = model.tokenizer.encode(texts)
    token_ids = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    probabilities = keras.activations.softmax(model(token_ids))
    checks.close(probabilities, model.classify(texts)[1])

    sentences = [("Sky is blue", "Sky is red"), ("I love her", "She loves me")]
    x_train, y_train = model.tokenizer.encode(*zip(*sentences)), np.array([0, 2])
    x_train = {name: x_train[name] for name in token_ids}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    before = [weight.numpy() for weight in model.trainable_weights]
    model.compile(loss=loss, optimizer="nadam", metrics=["accuracy"])
    history = model.fit(x_train, y_train, epochs=2, verbose=0)
    assert {"loss", "accuracy"} <= set(history.history)
    assert any((a != b.numpy()).any() for a, b in zip(before, model.trainable_weights))


@pytest.mark.parity
def test_the_pipeline_of_the_reference_reads_our_folder(tmp_path):
    import transformers

    text = "She loves me. [SEP] She loves me not."
    pipeline = transformers.pipeline("text-classification", mnli(tmp_path), framework="pt", device="cpu")
    [wanted] = pipeline(text)
    (label,), scores = huggingface.from_pretrained(tmp_path).classify([text])
    assert label == wanted["label"]
    assert scores.max() == pytest.approx(wanted["score"], rel=1e-4)
