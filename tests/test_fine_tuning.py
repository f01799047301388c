"""Recipes of BERT and ELECTRA: starts from other models, files of the user, two stages."""

import dataclasses
import json
import shutil
import types
from pathlib import Path

import numpy as np
import pytest

import homl_models
from homl_models import recipes
from homl_models.checkpoints import huggingface
from homl_models.errors import UserError
from homl_models.models import Bert, BertConfig, BertForMaskedLM, BertForSequenceClassification
from homl_models.pipelines import events, tagged_text
from homl_models.tokenizers.wordpiece import SPECIAL
from homl_models.training import loop
from tests import checks

NEW = {"hidden_size": 0, "num_hidden_layers": 0, "num_attention_heads": 0, "intermediate_size": 0, "vocab_size": 0}


def recipe(name, **settings):
    return dataclasses.replace(recipes.get(name), **settings)


@pytest.mark.parametrize(
    ("start", "name", "family"),
    [
        ("bert_pretrain_tiny", "bert_tag_tiny", "bert"),
        ("bert_pretrain_tiny", "bert_answer_tiny", "bert"),
        ("electra_pretrain_tiny", "electra_classify_tiny", "electra"),
        ("electra_pretrain_tiny", "bert_tag_tiny", "electra"),
    ],
)
def test_a_task_starts_from_the_encoder_of_a_run(start, name, family, untrained):
    run = str(untrained(start))
    made = recipe(name, pretrained=run, family=family, max_length=32, dropout=0.25, initializer_range=0.3, **NEW)
    model, source = made.model(), homl_models.load(run)
    encoder = getattr(source, "discriminator", None) or source.backbone
    kept = [w for w in model.backbone.weights if "pooler" not in w.path]
    checks.close([w.numpy() for w in kept], [w.numpy() for w in encoder.weights if "pooler" not in w.path], 0)
    assert made.wordpiece.vocabulary == model.vocabulary == source.vocabulary
    config = model.backbone.config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.25, 0.25)
    known = {w.path for w in model.backbone.weights}
    new = [w.numpy().ravel() for w in model.weights if w.path not in known and w.path.endswith("kernel")]
    assert 0.15 < np.concatenate(new).std() < 0.45
    assert model.max_length == 32
    assert model.optimizer.num_layers == encoder.config.num_hidden_layers


@pytest.mark.parametrize(
    ("name", "given", "positions"),
    [
        ("bert_tag_tiny", "", "absolute"),
        ("bert_tag_tiny", "relative_key", "relative_key"),
        ("bert_answer_tiny", "", "relative_key_query"),
        ("bert_answer_tiny", "absolute", "absolute"),
        ("bert_pretrain_tiny", "relative_key", "relative_key"),
    ],
)
def test_a_new_encoder_knows_positions_or_distances(name, given, positions):
    made = recipe(name, **({"position_embedding_type": given} if given else {}))
    encoder = made.model().backbone.config
    assert encoder.position_embedding_type == positions
    assert encoder.initializer_range == made.initializer_range == (0.08 if "answer" in name else 0.02)


def test_a_task_starts_from_a_folder_and_learns(untrained, tmp_path):
    run = homl_models.load(str(untrained("bert_pretrain_tiny")))
    huggingface.save_pretrained(run, tmp_path)
    made = recipe("bert_tag_tiny", pretrained=str(tmp_path), layer_decay=0.8, **NEW)
    model = made.model()
    model.fit(made.datasets()[0].dataset(0, 2), verbose=0, shuffle=False)
    assert model.vocabulary == run.vocabulary
    assert model.optimizer.layer_decay == 0.8
    assert any((a != b).any() for a, b in zip(model.backbone.get_weights(), run.backbone.get_weights()))


def folder_of(tmp_path, **settings):
    sizes = {"vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForMaskedLM(Bert(BertConfig(**sizes, intermediate_size=8, max_position_embeddings=16)), **settings)
    model.build()
    huggingface.save_pretrained(model, tmp_path)
    return str(tmp_path)


WORDS = (*SPECIAL, "a", "b", "c")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("bert_tag", {"vocab_file": "v", "pretrained": "p"}, "--vocab-file is not for --pretrained"),
        ("bert_tag", {"vocab_size": 100, "pretrained": "p"}, "--vocab-size is not for --pretrained"),
        ("bert_tag", {"test_file": "t"}, "--test-file is for --data-file; give both"),
        ("bert_tag", {"valid_file": "t"}, "--valid-file is for --data-file; give both"),
        ("bert_tag", {"hidden_size": -1}, "--hidden-size must be 0 or more, not -1"),
        ("bert_tag", {"hidden_size": 31}, "--num-attention-heads 2 does not divide --hidden-size 31"),
        ("bert_tag", {"layer_decay": 0.0}, r"--layer-decay must lie in \(0, 1\]"),
        ("bert_tag", {"max_length": 4}, "--max-length must be 5 or more"),
        ("bert_answer", {"doc_stride": 64}, r"--doc-stride must lie in \[0, 64\)"),
        ("bert_pretrain", {"masked_lm_prob": 1.5}, "--masked-lm-prob must be 1 at most"),
        ("bert_pretrain", {"vocab_size": 5}, "--vocab-size must be 10 or more"),
        ("bert_pretrain", {"warmup": 1.0}, "--warmup must lie in"),
        ("bert_tag", {"initializer_range": 0.0}, "--initializer-range must be above 0"),
        ("electra_pretrain", {"generator_size": 0.1}, "whole number of heads, not 0.2"),
        ("electra_pretrain", {"generator_epochs": 2}, "--generator-epochs needs --no-share-embeddings"),
        ("electra_pretrain", {"generator_epochs": -1}, "--generator-epochs must be 0 or more"),
        ("electra_pretrain", {"objective": "replace_mlm", "weight": 3.0}, "--weight is for other objectives"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(name, settings, message):
    with pytest.raises(UserError, match=message):
        recipe(name, **settings)


def test_a_start_that_does_not_fit_is_refused(untrained, tmp_path):
    run = str(untrained("bert_pretrain_tiny"))
    cases = [
        ({"pretrained": run, "family": "electra", **NEW}, "is of another family: --family bert"),
        ({"pretrained": run, **NEW, "hidden_size": 24, "num_attention_heads": 2}, "--hidden-size of .* is 16; leave"),
        ({"pretrained": run, **NEW, "position_embedding_type": "relative_key"}, "-type of .* is absolute; leave"),
        ({"pretrained": run, **NEW, "max_length": 64}, "takes --max-length 32 at most"),
        ({"pretrained": run, **NEW, "lowercase": False}, "reads texts in lower case; leave --no-lowercase out"),
        ({"pretrained": str(untrained("char_rnn_tiny")), **NEW}, "neither a BERT nor an ELECTRA|has no vocabulary"),
        ({"pretrained": str(tmp_path), **NEW}, "has no config.json"),
        (
            {"pretrained": folder_of(tmp_path / "bare"), **NEW, "max_length": 16},
            "has no vocabulary of word pieces, so it cannot read",
        ),
    ]
    for settings, message in cases:
        with pytest.raises(UserError, match=message):
            recipe("bert_tag_tiny", **settings).model()
    folder = folder_of(tmp_path / "named", vocabulary=WORDS, model_max_length=16)
    assert recipe("bert_tag_tiny", pretrained=folder, **NEW, max_length=16).model().vocabulary == WORDS


def test_files_of_the_user_are_trained_on_and_evaluated(untrained, tmp_path, capsys):
    texts, labels = events.labelled(60, 1)
    rows = "\n".join(f'"{text}",{label}' for text, label in zip(texts, labels))
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text(f"text,label\n{rows}\n")
    tiny = {"verbose": 0, "epochs": 1, "num_examples": 0, "data_file": str(tmp_path / "train.csv")}
    made = recipe("electra_classify_tiny", **tiny, test_file=str(tmp_path / "test.csv"))
    train_part, valid, test = made.splits
    assert (len(train_part), len(valid), len(test)) == (54, 6, 60)
    assert not {text for text, _ in train_part} & {text for text, _ in valid}
    assert made.labels == tuple(sorted(set(labels)))
    model = made.model()
    before = model.get_weights()
    model.fit(made.datasets()[0].dataset(0, 2), verbose=0, shuffle=False)
    assert any((a != b).any() for a, b in zip(model.get_weights(), before))
    run = untrained("electra_classify_tiny", **tiny)
    assert len(homl_models.load(str(run)).label_names) == 4
    (tmp_path / "train.csv").unlink()  # a run knows its labels and words
    (tmp_path / "other.csv").write_text('text,label\n"It rains.",monsoon\n')
    capsys.readouterr()
    from homl_models import evaluate

    assert evaluate.main([str(run), "--data-file", str(tmp_path / "test.csv")]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert evaluate.main([str(run), "--data-file", str(tmp_path / "other.csv")]) == 2
    assert "the label 'monsoon' is not among those that are learned" in capsys.readouterr().err


def test_tags_and_questions_come_from_files(tmp_path):
    (tmp_path / "t.conll").write_text("".join(
        "".join(f"{word} {label}\n" for word, label in zip(*sentence)) + "\n" for sentence in events.tagged(40, 2)
    ))  # fmt: skip
    made = recipe("bert_tag_tiny", data_file=str(tmp_path / "t.conll"), num_examples=0)
    assert sorted(map(len, made.splits)) == [4, 4, 32]
    assert made.labels[0] == "O"
    questions = [
        {"context": context, "qas": [{"id": i, "question": question, "answers": [
            {"answer_start": start, "text": text} for start, text in answers]}]}
        for i, (question, context, answers) in enumerate(events.questions(40, 2))
    ]  # fmt: skip
    (tmp_path / "q.json").write_text(json.dumps({"data": [{"paragraphs": questions}]}))
    made = recipe("bert_answer_tiny", data_file=str(tmp_path / "q.json"), num_examples=0)
    assert sorted(map(len, made.splits)) == [4, 4, 32]
    batch, labels = next(iter(made.datasets()[0].dataset(0, 1)))
    assert set(labels) == {"start_positions", "end_positions"}
    assert batch["input_ids"].shape[1] <= 48


def test_tags_are_learned_in_a_scheme_and_written_beside_the_predicted_ones(tmp_path):
    documents = [
        [(["Ada", "Bo", "in", "Rome"], ["I-P", "B-P", "O", "I-L"]), (["x"] * 40, ["O"] * 40)] for _ in range(20)
    ]
    (tmp_path / "t.conll").write_text(tagged_text.as_columns(documents))
    made = recipe("bert_tag_tiny", data_file=str(tmp_path / "t.conll"), num_examples=0, scheme="BIOES")
    assert [len(split) for split in made.splits] == [32, 4, 4]  # documents stay whole
    assert all([sentence[0][0] for sentence in split[:2]] == ["Ada", "x"] for split in made.splits)
    assert made.labels == ("O", "S-L", "S-P")
    model = made.model()
    found = made.evaluate(model, str(tmp_path / "t.conll"), str(tmp_path / "out.conll"))
    again = tagged_text.read_documents(tmp_path / "out.conll")
    assert [[words for words, _ in some] for some in again] == [[words for words, _ in some] for some in documents]
    right = tagged_text.read_tagged(tmp_path / "out.conll", 0, 1)
    assert right[0][1] == ["S-P", "S-P", "O", "S-L"]
    pairs = [pair for (_, tags), some in zip(right, sum(again, [])) for pair in zip(tags, some[1])]
    assert found["accuracy"] == pytest.approx(np.mean([a == b for a, b in pairs]))
    assert {"precision", "recall", "f1"} < found.keys()


def test_validation_examples_may_be_given_and_parts_of_speech_have_no_entities(tmp_path):
    for name, word in (("train", "a"), ("valid", "b")):
        (tmp_path / name).write_text("".join(f"{word} DET\nw{i} NOUN\n\n" for i in range(20)))
    given = {"data_file": str(tmp_path / "train"), "valid_file": str(tmp_path / "valid"), "num_examples": 0}
    made = recipe("bert_tag_tiny", **given)
    assert [len(split) for split in made.splits] == [18, 20, 2]
    assert {words[0] for words, _ in made.splits[1]} == {"b"}
    assert made.scores(types.SimpleNamespace(label_names=made.labels), [(["a"], ["DET"])], [["NOUN"]]) == {
        "accuracy": 0
    }


def test_a_cased_start_is_read_as_it_was_trained(tmp_path):
    folder = folder_of(tmp_path / "cased", vocabulary=(*SPECIAL, "A", "b", "c"), lowercase=False, strip_accents=True)
    made = recipe("bert_tag_tiny", pretrained=folder, **NEW, max_length=16)
    assert made.wordpiece.settings == made.model().tokenizer.settings
    assert made.wordpiece.settings["lowercase"] is False
    assert made.wordpiece.settings["strip_accents"] is True
    bare = homl_models.checkpoints.huggingface.from_pretrained(folder, Bert)
    huggingface.save_pretrained(bare, tmp_path / "bare")
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / "bare" / name).write_bytes((tmp_path / "cased" / name).read_bytes())
    made = recipe("bert_tag_tiny", pretrained=str(tmp_path / "bare"), **NEW, max_length=16)
    assert made.model().tokenizer.settings["lowercase"] is False  # a model without a head has a tokenizer as well
    (tmp_path / "cased.txt").write_text("\n".join([*SPECIAL, "A", "b", "c"]))
    with pytest.raises(UserError, match="have capitals: give --no-lowercase"):
        recipe("bert_tag_tiny", vocab_file=str(tmp_path / "cased.txt"), vocab_size=0).wordpiece  # noqa: B018


def test_labels_of_a_test_file_that_nothing_is_learned_of_are_refused_at_once(tmp_path):
    for name, label in (("train", "B-A"), ("test", "B-B")):
        (tmp_path / name).write_text("".join(f"{word} {label}\nis O\n\n" for word in "abcdefghijklmnopqrstuvwxyz"))
    made = recipe("bert_tag_tiny", data_file=str(tmp_path / "train"), test_file=str(tmp_path / "test"), num_examples=0)
    with pytest.raises(UserError, match="--test-file has the label 'B-B', which --data-file does not have"):
        made.datasets()


def questions_file(path, examples):
    """A file in SQuAD format, version 2.0."""
    paragraphs = [
        {"context": context, "qas": [{"id": i, "question": question, "is_impossible": not answers, "answers": [
            {"answer_start": start, "text": text} for start, text in answers]}]}
        for i, (question, context, answers) in enumerate(examples)
    ]  # fmt: skip
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return str(path)


def test_questions_without_an_answer_make_a_model_that_may_give_none(tmp_path):
    examples = [(q, c, a if i % 3 else []) for i, (q, c, a) in enumerate(events.questions(40, 2))]
    for name, given, expected in (("some", examples, True), ("all", [e for e in examples if e[2]], False)):
        made = recipe("bert_answer_tiny", data_file=questions_file(tmp_path / name, given), num_examples=0)
        model = made.model()
        assert model.unanswerable == expected
        assert ("no_answer_exact" in made.metrics(model, examples[:6])) is True
        valid = made.splits[1]
        least = max(made.metrics(model, valid)["f1"], np.mean([not right for *_, right in valid]) if expected else 0)
        made.calibrate(model)  # as well as with any threshold, and as never to answer
        assert made.metrics(model, valid)["f1"] >= least
        assert (model.null_threshold == 0) == (not expected)
    none = [(question, context, []) for question, context, _ in examples]
    with pytest.raises(UserError, match="none of the questions to learn has an answer"):
        recipe("bert_answer_tiny", data_file=questions_file(tmp_path / "none", none), num_examples=0).model()


@pytest.mark.parametrize("name", ["bert_pretrain_tiny", "electra_pretrain_tiny"])
def test_pretraining_is_evaluated_in_the_words_of_the_model_without_its_texts(name, untrained, tmp_path):
    made, model = recipe(name), homl_models.load(str(untrained(name)))
    (tmp_path / "texts.txt").write_text("\n\n".join(". ".join(d) for d in made.splits[1] * 2))
    wanted = made.evaluate(model, text_files=str(tmp_path / "texts.txt"))
    other = recipe(name, text_files=str(tmp_path / "gone.txt"))
    assert other.evaluate(model, text_files=str(tmp_path / "texts.txt")) == pytest.approx(wanted, rel=1e-5)


TWO_STAGES = {"share_embeddings": False, "generator_epochs": 1, "epochs": 1, "num_documents": 24}


def second_stage(tmp_path, **settings):
    """Recipe, its second stage, a new model of it that has begun from a random first stage, and that one's model."""
    made = recipe("electra_pretrain_tiny", **TWO_STAGES, **settings)
    first, second = made.stages()
    assert [(stage.name, stage.epochs, stage.monitor) for stage in (first, second)] == [
        ("generator", 1, ""),
        ("discriminator", 1, made.monitor),
    ]
    source, model = first.model(), second.model()
    source.save_weights(tmp_path / "generator.weights.h5")
    before = {weight.path: weight.numpy() for weight in model.discriminator.weights}
    second.begin(model, tmp_path / "generator.weights.h5")
    return made, second, model, source, before


def test_the_second_stage_begins_with_the_generator_and_keeps_it_frozen(tmp_path):
    made, second, model, source, _ = second_stage(tmp_path, generator_size=1.0, monitor="val_discriminator_loss")
    checks.close(model.generator.get_weights(), source.get_weights(), 0)
    checks.close(model.discriminator.get_weights(), source.backbone.get_weights(), 0)
    before = model.generator.get_weights(), model.discriminator.get_weights()
    model.fit(second.datasets()[0].dataset(0, 2), verbose=0, shuffle=False)
    checks.close(model.generator.get_weights(), before[0], 0)
    assert any((a != b).any() for a, b in zip(model.discriminator.get_weights(), before[1]))


def test_a_greater_discriminator_begins_with_the_weights_of_the_generator_that_fit(tmp_path):
    _, _, model, source, before = second_stage(tmp_path, generator_size=0.5)
    checks.close(model.generator.get_weights(), source.get_weights(), 0)
    taken = {path for path, old in before.items() if "/embeddings/" in path}
    assert taken
    trained = [weight.numpy() for weight in source.backbone.embeddings.weights]
    checks.close([weight.numpy() for weight in model.discriminator.embeddings.weights], trained, 0)
    for weight in model.discriminator.weights:
        assert weight.path in taken or (weight.numpy() == before[weight.path]).all(), weight.path


def without_xla(stage):
    """The stage, compiled faster."""

    def model():
        model = stage.model()
        model.jit_compile = False
        return model

    return dataclasses.replace(stage, model=model)


@pytest.mark.slow
def test_a_run_resumes_between_the_stages(tmp_path):
    """It ends with the weights of one that was never stopped; the first stage is a masked language model."""
    made = recipe("electra_pretrain_tiny", **TWO_STAGES, verbose=0)
    stages = [*map(without_xla, made.stages())]
    made.__dict__["stages"] = lambda: stages
    whole, progress = loop.fit(made, tmp_path / "whole")
    first, second = progress.history
    assert (first["stage"], second["stage"]) == ("generator", "discriminator")
    assert {"val_accuracy"} < {*first} - {*second}
    assert {"val_generator_accuracy", "val_discriminator_accuracy"} < {*second} - {*first}
    done = Path("checkpoints", "generator")
    shutil.copytree(tmp_path / "whole" / done, tmp_path / "stopped" / done)
    resumed, progress = loop.fit(made, tmp_path / "stopped")
    checks.close(resumed.get_weights(), whole.get_weights(), 0)
    assert [row["stage"] for row in progress.history] == ["generator", "discriminator"]


def test_bert_learns_of_single_texts():
    made = recipe("bert_pretrain_tiny", pairs=False)
    train, valid = made.datasets()
    model = made.model()
    before = model.get_weights()
    found = model.fit(train.dataset(0, 3), validation_data=valid.dataset(), verbose=0, shuffle=False).history
    assert set(found) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert any((a != b).any() for a, b in zip(model.get_weights(), before))
    assert type(model) is BertForMaskedLM


def test_a_run_of_pretraining_goes_to_transformers_and_back(untrained, tmp_path):
    model = homl_models.load(str(untrained("bert_pretrain_tiny")))
    huggingface.save_pretrained(model, tmp_path)
    again = huggingface.from_pretrained(tmp_path)
    text = ["Ada [MASK] in Rome."]
    assert [t for t, _ in again.fill_mask(text)[0][0]] == [t for t, _ in model.fill_mask(text)[0][0]]
    with pytest.warns(UserWarning, match="newly initialized"):
        classifier = huggingface.from_pretrained(tmp_path, BertForSequenceClassification)
    assert np.isfinite(classifier.classify(["Ada sang."])[1]).all()
