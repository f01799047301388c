"""Folders of Hugging Face: their forms, round trips, and damaged ones."""

import dataclasses
import fnmatch
import json
import os
import pickle
import subprocess
import sys
import types
import warnings
import zipfile

import keras
import numpy as np
import pytest

from homl_models.checkpoints import bert, huggingface
from homl_models.checkpoints.family import Tensor
from homl_models.checkpoints.huggingface import from_pretrained, save_pretrained
from homl_models.errors import UserError
from homl_models.models.bert import Bert
from homl_models.models.bert_config import BertConfig, ElectraConfig
from homl_models.models.bert_heads import BertForSequenceClassification, BertForTokenClassification, TextEmbedder
from homl_models.models.bert_pretraining import BertForMaskedLM
from homl_models.models.electra import Electra, ElectraForPreTraining, ElectraPretrainer
from homl_models.tokenizers.wordpiece import SPECIAL
from tests import checks, processes
from tests.checkpoints.test_torch_files import Evil
from tests.models.test_bert import HEADS, INPUTS, SIZES, inputs_of, make, reference, tensors


def weights(model):
    table = huggingface.family_of(model).tensors(model)
    return {name: np.array(tensor.variable) for name, tensor in table.items()}


def same(a, b):
    assert weights(a).keys() == weights(b).keys()
    checks.close(weights(a), weights(b), 0)


@pytest.mark.parity
@pytest.mark.parametrize("name", [*HEADS, "BertModel", "ElectraModel"])
def test_the_reference_loads_our_folders_with_the_same_outputs(name, tmp_path):
    """Theirs -> ours -> theirs -> ours: weights bit for bit; PyTorch's sums depend on where in memory those lie."""
    theirs = reference(name, tmp_path / "theirs")
    ours = from_pretrained(tmp_path / "theirs")
    save_pretrained(ours, tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all((before[key] == after[key]).all() for key in before)
    inputs = tensors(inputs_of(name))
    for a, b in zip(theirs(**inputs).to_tuple(), again(**inputs).to_tuple()):
        if hasattr(a, "shape"):
            checks.close(a.detach().numpy(), b.detach().numpy(), 1e-5)
    again.save_pretrained(tmp_path / "again")
    same(from_pretrained(tmp_path / "again"), ours)


@pytest.mark.parity
@pytest.mark.parametrize("form", ["shards", "bin", "bin shards", "old names", "bfloat16"])
def test_every_form_of_a_folder_is_read(form, tmp_path):
    import torch

    theirs = reference("BertForMaskedLM", tmp_path / "usual")
    wanted, folder = from_pretrained(tmp_path / "usual"), tmp_path / "x"
    if form == "bfloat16":
        theirs.to(torch.bfloat16).save_pretrained(folder)
        found = from_pretrained(folder)
        for name, array in weights(wanted).items():
            rounded = torch.tensor(array).to(torch.bfloat16).float().numpy()
            checks.close(weights(found)[name], rounded, 0)
        return
    theirs.save_pretrained(
        folder, safe_serialization="bin" not in form, max_shard_size="20KB" if "shards" in form else "5GB"
    )
    if "shards" in form:
        assert len([path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")]) > 2
    if form == "old names":  # as in the first files of Google's weights
        (folder / "model.safetensors").unlink()
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in theirs.state_dict().items()
        }
        old["bert.embeddings.position_ids"] = torch.arange(24)[None]
        torch.save(old, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    same(from_pretrained(folder), wanted)


def test_the_backbone_is_found_under_any_prefix_and_new_heads_are_named(tmp_path):
    model = make(BertForMaskedLM, backbone={"add_pooling_layer": False})
    save_pretrained(model, tmp_path / "head")
    backbone = make()
    save_pretrained(backbone, tmp_path / "bare")
    with pytest.warns(
        UserWarning, match="lacks pooler.dense.weight, pooler.dense.bias: newly initialized, to be trained"
    ):
        found = from_pretrained(tmp_path / "head", Bert)
    checks.close(found(INPUTS)["last_hidden_state"], model.backbone(INPUTS)["last_hidden_state"])
    with pytest.warns(UserWarning, match=r"bare lacks classifier.weight, classifier.bias"):
        found = from_pretrained(tmp_path / "bare", BertForSequenceClassification, num_labels=5)
    checks.close(found.backbone(INPUTS)["pooler_output"], backbone(INPUTS)["pooler_output"])
    assert found(INPUTS).shape == (3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        same(from_pretrained(tmp_path / "head"), model)


def test_settings_override_the_configuration(tmp_path):
    save_pretrained(make(BertForTokenClassification), tmp_path)
    model = from_pretrained(tmp_path, dtype="mixed_bfloat16", hidden_dropout_prob=0.3, gradient_checkpointing=True)
    assert model.backbone.compute_dtype == "bfloat16"
    assert model.backbone.blocks[0].dropouts[0].rate == model.dropout_layer.rate == 0.3
    assert model.weights[0].dtype == "float32"


def edit(folder, name="config.json", **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def evil(folder):
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"weight": Evil(folder / "ran")}))


def rewritten(folder, change):
    import safetensors.numpy

    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    change(arrays)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json: it is not the folder of a Hugging Face model"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda f: edit(f, model_type="gpt2"), "is a model of type 'gpt2'; those of type bert, electra, distilbert, "),
        (lambda f: (f / "model.safetensors").unlink(), "has neither model.safetensors nor pytorch_model.bin"),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
            "model.safetensors cannot be read, fetch it again",
        ),
        (evil, "which is no tensor, and was not run"),
        (
            lambda f: edit(f, vocab_size=61),
            r"bert.embeddings.word_embeddings.weight has the shape \(60, 32\), not \(61,",
        ),
        (lambda f: edit(f, num_hidden_layers=3), "lacks weights: encoder.layer.2 and what follows"),
        (lambda f: edit(f, num_hidden_layers=1), "unexpected weights: bert.encoder.layer.1.attention"),
        (
            lambda f: rewritten(f, lambda a: a.update({"bert.extra.weight": np.zeros(2, "float32")})),
            "unexpected weights: bert.extra.weight",
        ),
        (lambda f: edit(f, hidden_act="gelu_11"), "hidden_act must be one of"),
    ],
)
def test_errors_of_a_folder_are_one_line(harm, message, tmp_path):
    save_pretrained(make(BertForMaskedLM), tmp_path)
    harm(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def renamed(change, without=()):
    """A folder's tensors under other names."""

    def harm(folder):
        import safetensors.numpy

        path = folder / "model.safetensors"
        arrays = safetensors.numpy.load_file(path)
        arrays = {change(name): array for name, array in arrays.items() if name not in without}
        safetensors.numpy.save_file(arrays, path)

    return harm


def aliased(folder):
    """The bias and the embeddings under their second names alone, as some conversions have them."""
    names = {"cls.predictions.bias": "cls.predictions.decoder.bias"}
    names |= {"bert.embeddings.word_embeddings.weight": "cls.predictions.decoder.weight"}
    renamed(lambda name: names.get(name, name))(folder)


def dropped(*names):
    def harm(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in config.items() if name not in names}))

    return harm


@pytest.mark.parametrize(
    "change",
    [
        renamed(lambda name: f"module.{name}"),
        renamed(lambda name: f"_orig_mod.model.{name}"),
        renamed(lambda name: f"module.{name.removeprefix('bert.')}"),
        renamed(lambda name: name.replace("norm.weight", "norm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")),
        aliased,
        dropped("model_type"),
        lambda f: edit(f, hidden_act="gelu_python"),
        lambda f: (f / "config.json").rename(f / "bert_config.json"),
    ],
)
def test_old_names_and_configurations_are_read(change, tmp_path):
    model = make(BertForMaskedLM, backbone={"add_pooling_layer": False})
    save_pretrained(model, tmp_path)
    change(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = from_pretrained(tmp_path)
    assert type(found) is BertForMaskedLM
    same(found, model)


def test_the_family_is_inferred_from_the_tensors_without_a_model_type(tmp_path):
    for kind, family in ((BertForMaskedLM, "bert"), (ElectraForPreTraining, "electra")):
        family = huggingface.FAMILIES[family]
        sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = kind(family.backbone(family.config(**sizes, intermediate_size=8)))
        model.build()
        save_pretrained(model, tmp_path)
        dropped("model_type", "architectures")(tmp_path)
        assert type(from_pretrained(tmp_path)) is family.backbone
    renamed(lambda name: name.replace("electra.", ""))(tmp_path)
    with pytest.raises(UserError, match='does not say what it is; add "model_type": "bert" or "electra"'):
        from_pretrained(tmp_path)


def test_two_keys_of_one_tensor_are_refused(tmp_path):
    save_pretrained(make(BertForMaskedLM), tmp_path)
    name = "cls.predictions.bias"
    rewritten(tmp_path, lambda arrays: arrays.update(dict.fromkeys(("bert.pooler.bias", "pooler.bias"), arrays[name])))
    with pytest.raises(UserError, match="two weights for pooler.bias: bert.pooler.bias and pooler.bias"):
        from_pretrained(tmp_path)


def test_a_layer_of_other_shape_is_newly_initialized_and_named(tmp_path):
    model = make(BertForSequenceClassification, num_labels=2, labels=("neg", "pos"))
    save_pretrained(model, tmp_path)
    message = "has other shapes of classifier.weight, classifier.bias: newly initialized"
    with pytest.warns(UserWarning, match=message):
        found = from_pretrained(tmp_path, num_labels=3)
    assert (found(INPUTS).shape, found.label_names) == ((3, 3), ("LABEL_0", "LABEL_1", "LABEL_2"))
    same(found.backbone, model.backbone)
    with pytest.warns(UserWarning, match=message):
        found = huggingface.replace_head(model, BertForSequenceClassification, num_labels=3)
    assert found(INPUTS).shape == (3, 3)
    with pytest.warns(UserWarning, match=message):
        found = from_pretrained(tmp_path, BertForTokenClassification, num_labels=4)
    kept, old = weights(found.backbone), weights(model.backbone)
    checks.close(kept, {name: old[name] for name in kept}, 0)  # all but the pooler


def test_replace_head_keeps_arguments_of_both_heads():
    settings = {"labels": ("a", "b", "c"), "problem_type": "multi_label_classification", "classifier_dropout": 0.25}
    model = make(BertForSequenceClassification, num_labels=3, **settings)
    found = huggingface.replace_head(model, BertForSequenceClassification)
    assert {name: getattr(found, name) for name in settings} == settings
    same(found, model)
    found = huggingface.replace_head(model, BertForTokenClassification, classifier_dropout=0.5)
    assert (found.num_labels, found.labels, found.classifier_dropout) == (3, ("a", "b", "c"), 0.5)


@pytest.mark.parametrize("rows", [0, 3])
def test_a_vocabulary_may_be_smaller_than_the_embeddings_and_no_larger(rows, tmp_path):
    vocabulary = (*SPECIAL, *(f"w{i}" for i in range(55 - rows)))
    save_pretrained(make(BertForMaskedLM, vocabulary=vocabulary), tmp_path)
    found = from_pretrained(tmp_path)
    assert (found.vocabulary, found.backbone.config.vocab_size) == (vocabulary, 60)
    (tmp_path / "vocab.txt").write_text("\n".join((*vocabulary, *"abcd")))
    with pytest.raises(UserError, match=f"the vocabulary has {64 - rows} tokens, the model 60"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "32"}, "hidden_size must be a whole number above 0, not '32'"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a whole number above 0"),
        ({"vocab_size": 10**12}, r"has the shape \(60, 32\), not \(1000000000000, 32\), as vocab_size says"),
        ({"hidden_size": 10**9}, r"has the shape \(48, 32\), not \(48, 1000000000\), as hidden_size says"),
        ({"num_hidden_layers": 10**9}, "lacks weights: encoder.layer.2 and what follows"),
        ({"max_position_embeddings": 10**9}, "as max_position_embeddings says"),
        ({"hidden_dropout_prob": 1.5}, r"hidden_dropout_prob must be in \[0, 1\), not 1.5"),
        ({"layer_norm_eps": None}, "layer_norm_eps must be a number, 0 or more"),
        ({"hidden_act": 3}, "hidden_act must be a text, not 3"),
        ({"is_decoder": "yes"}, "is_decoder must be true or false"),
        ({"id2label": {"0": "a", "2": "b"}}, r"id2label must be \{number: label\}, counted from 0"),
        ({"id2label": ["a", "b"]}, "id2label must be"),
        ({"pruned_heads": {"x": [1]}}, "pruned_heads must be"),
        ({"pruned_heads": {"0": [9]}}, "heads to prune must lie in 0 to 3"),
        ({"model_type": 7}, "a model of type 7"),
        ({"model_type": {"a": 1}}, "a model of type {'a': 1}"),
    ],
)
def test_invalid_configurations_are_refused_before_anything_is_built(change, message, tmp_path):
    save_pretrained(make(BertForMaskedLM), tmp_path)
    edit(tmp_path, **change)
    with pytest.raises(UserError, match=message) as error:
        from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_an_unknown_architecture_is_named(tmp_path):
    save_pretrained(make(), tmp_path)
    edit(tmp_path, architectures=["BertForSomething"])
    with pytest.warns(UserWarning, match="is a BertForSomething, which is not known here: its Bert is read"):
        from_pretrained(tmp_path)


POOLING = {
    "pooling_mode_cls_token": True,
    "pooling_mode_mean_tokens": False,
    "word_embedding_dimension": 32,
    "include_prompt": True,
}


@pytest.mark.parametrize(
    ("pooling", "module", "message"),
    [
        ({"pooling_mode_lasttoken": True}, "Normalize", "pools by pooling_mode_cls_token, pooling_mode_lasttoken"),
        ({"pooling_mode_cls_token": False}, "Normalize", "pools by nothing"),
        ({}, "Dense", "has a module Dense after the model"),
        ({}, "Normalize", ""),
    ],
)
def test_a_folder_of_sentence_transformers_says_how_to_pool(pooling, module, message, tmp_path):
    vocabulary = (*SPECIAL, *(f"w{i}" for i in range(55)))
    save_pretrained(make(BertForMaskedLM, vocabulary=vocabulary), tmp_path)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_X": module}
    modules = [{"path": place, "type": f"sentence_transformers.models.{kind}"} for place, kind in kinds.items()]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 9}')
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(POOLING | pooling))
    if message:
        with pytest.raises(UserError, match=message):
            from_pretrained(tmp_path, TextEmbedder)
    else:
        found = from_pretrained(tmp_path, TextEmbedder)
        assert (found.pooling, found.normalize, found.max_length) == ("cls", True, 9)
    assert type(from_pretrained(tmp_path)) is BertForMaskedLM  # for which it says nothing


def test_a_model_by_its_name_equals_the_one_of_its_folder(tmp_path, monkeypatch):
    """Fetched are the files that say how texts are read, as far as the patterns that are asked for let them through."""
    vocabulary = (*SPECIAL, *(f"W{i}" for i in range(55)))
    save_pretrained(make(BertForMaskedLM, vocabulary=vocabulary, lowercase=False), tmp_path / "there")
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json", "tf_model.h5"):
        (tmp_path / "there" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "there" / name).write_text("{}")

    def snapshot_download(name, allow_patterns):
        for path in (tmp_path / "there").rglob("*"):
            place = path.relative_to(tmp_path / "there")
            if path.is_file() and any(fnmatch.fnmatch(str(place), pattern) for pattern in allow_patterns):
                (tmp_path / "fetched" / place).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "fetched" / place).write_bytes(path.read_bytes())
        return str(tmp_path / "fetched")

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    found, wanted = from_pretrained("someone/some-cased"), from_pretrained(tmp_path / "there")
    assert found.tokenizer.settings == wanted.tokenizer.settings
    assert found.tokenizer.settings["lowercase"] is False
    assert (tmp_path / "fetched" / "1_Pooling" / "config.json").exists()
    assert not (tmp_path / "fetched" / "tf_model.h5").exists()


def test_other_families_and_unknown_settings_are_refused(tmp_path):
    save_pretrained(make(), tmp_path)
    with pytest.raises(UserError, match="a model of type bert, which has no ElectraForPreTraining"):
        from_pretrained(tmp_path, ElectraForPreTraining)
    with pytest.raises(UserError, match="Bert has no setting num_labels"):
        from_pretrained(tmp_path, num_labels=3)
    with pytest.raises(UserError, match="there is no folder /no/where"):
        from_pretrained("/no/where")


def test_models_of_no_family_are_not_saved(tmp_path):
    config = ElectraConfig(20, 8, 1, 2, 8, embedding_size=4)
    pretrainer = ElectraPretrainer(Electra(config), dataclasses.replace(config, hidden_size=4))
    pretrainer.build()
    with pytest.raises(UserError, match="ElectraPretrainer has no such folder; save its `discriminator`"):
        save_pretrained(pretrainer, tmp_path)
    save_pretrained(pretrainer.discriminator, tmp_path)
    same(from_pretrained(tmp_path), pretrainer.discriminator)


@pytest.mark.parity
def test_a_name_that_cannot_be_fetched_is_said(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="there is no folder someone/no-such-model, and no such model could be fetched"):
        from_pretrained("someone/no-such-model")


MEMORY = """
import sys, threading
import keras, numpy, tensorflow
from homl_models.checkpoints import huggingface
from tests.budget import gigabytes

tensorflow.zeros(1)
taken, done = [gigabytes("RssAnon")], threading.Event()  # without the pages of the file, which is memory-mapped
def watch():
    while not done.wait(0.001):
        taken.append(gigabytes("RssAnon"))
thread = threading.Thread(target=watch)
thread.start()
model = huggingface.from_pretrained(sys.argv[1])
done.set()
thread.join()
print((max(taken) - taken[0]) * 1e3, sum(weight.numpy().nbytes for weight in model.weights) / 1e6)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", pytest.param("bin", marks=pytest.mark.parity)])
def test_loading_takes_the_weights_once_and_the_largest_tensor(form, tmp_path):
    """170 MB of weights, the largest of which has 16: not twice as much."""
    keras.utils.set_random_seed(0)
    model = Electra(ElectraConfig(8192, 512, 12, 8, 2048, embedding_size=512))
    model.build()
    save_pretrained(model, tmp_path)
    if form == "bin":
        import safetensors.torch
        import torch

        torch.save(safetensors.torch.load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # what is freed is given back
    done = subprocess.run(command, capture_output=True, text=True, cwd=processes.ROOT, env=environment, check=True)
    taken, size = map(float, done.stdout.split())
    assert size > 165
    assert taken < size + 16 * 2 + 60  # a tensor as it is read, and transposed; 60 for all else


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_replace_head_equals_loading_the_folder_with_that_head(family, tmp_path):
    """`replace_head` gives what saving and `from_pretrained` give, without the folder."""
    family = huggingface.FAMILIES[family]
    small = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"intermediate_size": 24, "max_position_embeddings": 24}
    pretrained, other = BertForMaskedLM, ElectraForPreTraining
    if family.model_type == "electra":
        pretrained, other = other, pretrained
    classifier = huggingface.HEADS[f"{family.backbone.__name__}ForSequenceClassification"]
    model = pretrained(family.backbone(family.config(**small)), dtype="mixed_bfloat16")
    model.build()
    save_pretrained(model, tmp_path)
    settings = {"num_labels": 3, "labels": ("a", "b", "c"), "hidden_dropout_prob": 0.3, "model_max_length": 9}
    with pytest.warns(UserWarning, match="classifier.* newly initialized") as caught:
        found = huggingface.replace_head(model, classifier, **settings)
    with pytest.warns(UserWarning, match="classifier.* newly initialized") as again:
        wanted = from_pretrained(tmp_path, classifier, **settings)
    assert [str(w.message).split(" lacks ")[1] for w in caught if "newly" in str(w.message)] == [
        str(w.message).split(" lacks ")[1] for w in again if "newly" in str(w.message)
    ]
    assert found.backbone.config.hidden_dropout_prob == wanted.backbone.config.hidden_dropout_prob == 0.3
    ours, theirs = weights(found), weights(wanted)
    assert ours.keys() == theirs.keys()
    new = [name for name in ours if "classifier" in name or "pooler" in name]
    assert new
    kept = [name for name in ours if name not in new]
    checks.close([ours[name] for name in kept], [theirs[name] for name in kept], 0)
    assert (found.label_names, found.max_length, found.dtype_policy.name) == (("a", "b", "c"), 9, "float32")
    with pytest.raises(UserError, match="which has no"):
        huggingface.replace_head(model, other)
    with pytest.raises(UserError, match="has no setting colour"):
        huggingface.replace_head(model, classifier, colour=1)


def test_replace_head_takes_the_discriminator_of_a_pretrainer():
    small = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ElectraConfig(**small, intermediate_size=24, embedding_size=8)
    model = ElectraPretrainer(Electra(config), dataclasses.replace(config, hidden_size=8))
    model.build()
    kind = huggingface.HEADS["ElectraForTokenClassification"]
    with pytest.warns(UserWarning, match="newly initialized"):
        found = huggingface.replace_head(model, kind, num_labels=2)
    checks.close(found.backbone.get_weights(), model.discriminator.get_weights(), 0)
    assert not set(map(id, found.weights)) & set(map(id, model.weights))


class Toy(Bert):
    """A backbone of a family that `FAMILIES` does not have."""


def test_a_new_family_is_one_table_and_a_configuration(tmp_path, monkeypatch):
    heads = {BertForMaskedLM: bert.masked_lm}
    toy = dataclasses.replace(bert.FAMILY, model_type="toy", backbone=Toy, head_tensors=heads)
    monkeypatch.setitem(huggingface.FAMILIES, "toy", toy)
    model = BertForMaskedLM(Toy(BertConfig(**SIZES), add_pooling_layer=False))
    model.build()
    save_pretrained(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "toy"
    assert {name.split(".")[0] for name in huggingface.state_dict(model)} == {"toy", "cls"}
    found = from_pretrained(tmp_path)
    assert type(found.backbone) is Toy
    same(found, model)
    with pytest.raises(UserError, match="a model of type toy, which has no BertForTokenClassification"):
        from_pretrained(tmp_path, BertForTokenClassification)


@pytest.mark.parametrize(("shape", "axes"), [((3, 5), (1, 0)), ((2, 4, 3, 5), (2, 3, 1, 0)), ((3, 5), None)])
def test_tensors_are_stored_in_the_layout_of_the_file(shape, axes):
    array = np.random.default_rng(0).normal(size=shape).astype("float32")
    transposed = array if axes is None else array.transpose(axes)
    tensor = Tensor(keras.Variable(np.zeros_like(transposed)), axes)
    assert tensor.file_shape == shape
    tensor.assign(array)
    np.testing.assert_array_equal(tensor.variable, transposed)
    np.testing.assert_array_equal(tensor.to_file(), array)
