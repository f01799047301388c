"""BERT and ELECTRA from and to the folders of Hugging Face's `transformers`.

A folder has config.json, the weights (model.safetensors, or pytorch_model.bin, in one file or in shards), and
vocab.txt. The names of its tensors are made here from the model, so that both directions agree.
"""

import collections
import json
import os
import warnings

import keras
import numpy as np
import safetensors
import safetensors.numpy

from homl_models import files
from homl_models.checkpoints.torch_files import TorchFile
from homl_models.errors import UserError
from homl_models.models import bert, bert_heads, electra
from homl_models.wordpiece import WordPiece

BACKBONES = {"bert": bert.Bert, "electra": electra.Electra}
HEADS = {
    kind.__name__: kind
    for kind in (
        bert_heads.BertForPreTraining,
        bert_heads.BertForMaskedLM,
        bert_heads.BertLMHeadModel,
        bert_heads.BertForNextSentencePrediction,
        bert_heads.BertForSequenceClassification,
        bert_heads.BertForMultipleChoice,
        bert_heads.BertForTokenClassification,
        bert_heads.BertForQuestionAnswering,
        electra.ElectraForPreTraining,
        electra.ElectraForMaskedLM,
        electra.ElectraForSequenceClassification,
        electra.ElectraForTokenClassification,
        electra.ElectraForQuestionAnswering,
    )
}
# What heads begin with, so that those of another model are told from tensors that belong nowhere.
PARTS = (
    "cls.", "classifier.", "qa_outputs.", "pooler.", "discriminator_predictions.", "generator_predictions.",
    "generator_lm_head.", "embeddings.position_ids", "embeddings.token_type_ids",
    "embeddings.position_embeddings.",  # unused where positions are relative
)  # fmt: skip
DEFAULTS = {"electra": {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "embedding_size": 128}}


# Names.


def tensors_of(model):
    """{name of a tensor in the folder: variable of the model}; kernels stand there transposed."""
    backbone = getattr(model, "backbone", model)
    prefix = "" if backbone is model else "electra." if isinstance(backbone, electra.Electra) else "bert."
    return {f"{prefix}{name}": variable for name, variable in _of_backbone(backbone)} | dict(_of_head(model))


def _dense(name, layer):
    return [(f"{name}.weight", layer.kernel), (f"{name}.bias", layer.bias)]


def _norm(name, layer):
    return [(f"{name}.weight", layer.gamma), (f"{name}.bias", layer.beta)]


def _of_backbone(model):
    table = model.embeddings
    yield "embeddings.word_embeddings.weight", table.word.embeddings
    if table.position:
        yield "embeddings.position_embeddings.weight", table.position.embeddings
    yield "embeddings.token_type_embeddings.weight", table.token_type.embeddings
    yield from _norm("embeddings.LayerNorm", table.norm)
    if model.project:
        yield from _dense("embeddings_project", model.project)
    for i, block in enumerate(model.blocks):
        at = f"encoder.layer.{i}"
        for name, attention, norm in zip(("attention", "crossattention"), block.attentions, block.norms):
            for part, layer in zip(("self.query", "self.key", "self.value", "output.dense"), attention.denses):
                yield from _dense(f"{at}.{name}.{part}", layer)
            yield from _norm(f"{at}.{name}.output.LayerNorm", norm)
        if model.position_embedding_type != "absolute":
            yield f"{at}.attention.self.distance_embedding.weight", block.attention.distances
        yield from _dense(f"{at}.intermediate.dense", block.hidden)
        yield from _dense(f"{at}.output.dense", block.output_dense)
        yield from _norm(f"{at}.output.LayerNorm", block.norms[-1])
    if model.pooler:
        yield from _dense("pooler.dense", model.pooler)


def _of_head(model):
    if isinstance(model, electra.ElectraForMaskedLM):
        yield from _dense("generator_predictions.dense", model.transform)
        yield from _norm("generator_predictions.LayerNorm", model.norm)
        yield "generator_lm_head.bias", model.bias
        if not model.tie_word_embeddings:
            yield "generator_lm_head.weight", model.decoder
    elif isinstance(model, bert_heads.MaskedLM):
        yield from _dense("cls.predictions.transform.dense", model.transform)
        yield from _norm("cls.predictions.transform.LayerNorm", model.norm)
        yield "cls.predictions.bias", model.bias
        if not model.tie_word_embeddings:
            yield "cls.predictions.decoder.weight", model.decoder
    if hasattr(model, "next_sentence"):
        yield from _dense("cls.seq_relationship", model.next_sentence)
    if isinstance(model, electra.ElectraForSequenceClassification):
        yield from _dense("classifier.dense", model.hidden)
        yield from _dense("classifier.out_proj", model.classifier)
    elif isinstance(model, bert_heads.Classifier):
        yield from _dense("classifier", model.classifier)
    if isinstance(model, bert_heads.BertForQuestionAnswering):
        yield from _dense("qa_outputs", model.span)
    if isinstance(model, electra.ElectraForPreTraining):
        yield from _dense("discriminator_predictions.dense", model.hidden)
        yield from _dense("discriminator_predictions.dense_prediction", model.last)


def turned(name, array):
    """Kernels of dense layers, transposed; tables as they are."""
    table = "embeddings." in name or "distance_embedding" in name or "decoder" in name or "lm_head" in name
    return array if table or array.ndim != 2 else array.T


# In.


def from_pretrained(path, head=None, **settings):
    """The model in a folder, or of a name on the Hugging Face Hub, with its weights.

    head: a class of `HEADS`, for other than what the folder says; weights that it misses begin anew, with a warning
    that names them. The backbone's own class, `Bert` or `Electra`, is possible too.
    settings: arguments of the backbone or the head to change, such as `num_labels` or `dtype`.
    `UserError` for a folder that is none, models of another kind, and weights that are broken, of other shapes, or
    belong nowhere.
    """
    folder = _fetched(path)
    config = _json(os.path.join(folder, "config.json"))
    family = config.get("model_type")
    if family not in BACKBONES:
        raise UserError(f"{path} is a model of type {family!r}; those of type bert and electra can be read")
    if head is None:
        head = HEADS.get((config.get("architectures") or [None])[0], BACKBONES[family])
    _check(head, family, settings, path)
    model = made(head, family, config | _vocabulary(folder), settings)
    model.build()
    fill(model, weights_of(folder), path)
    return model


def with_head(model, head, **settings):
    """A new model of the class `head` with the weights of another, as `from_pretrained` would make it of its folder.

    model: a `Bert`, an `Electra`, a head of one, or an `ElectraPretrainer`, whose discriminator is taken.
    """
    model = getattr(model, "detector", None) or getattr(model, "namer", None) or model
    backbone = getattr(model, "backbone", model)
    family = "electra" if isinstance(backbone, electra.Electra) else "bert"
    _check(head, family, settings, f"the {type(model).__name__}")
    texts = ("vocabulary", "lowercase", "model_max_length")
    config = {name: getattr(backbone, name) for name in backbone.argument_names()}
    new = made(head, family, config | {name: getattr(model, name) for name in texts if hasattr(model, name)}, settings)
    new.build()
    weights = {name: turned(name, keras.ops.convert_to_numpy(x)) for name, x in tensors_of(model).items()}
    fill(new, weights, f"the {type(model).__name__}")
    return new


def _check(head, family, settings, path):
    """Raise `UserError` unless the family has that head, and the head those settings."""
    if not head.__name__.lower().startswith((family, "text")):
        raise UserError(f"{path} is a model of type {family}, which has no {head.__name__}")
    known = {*BACKBONES[family].argument_names(), *head.argument_names(), "dtype"} - {"backbone", "add_pooling_layer"}
    if set(settings) - known:
        raise UserError(f"{head.__name__} has no setting {', '.join(sorted(set(settings) - known))}")


def made(head, family, config, settings):
    """A new model of the class `head`, as `config` and then `settings` say."""
    config = DEFAULTS.get(family, {}) | config | settings
    labels = config.get("id2label")
    if labels and "num_labels" not in config:
        config["num_labels"] = len(labels)
        if "num_labels" in head.argument_names():
            config.setdefault("labels", tuple(labels[i] for i in sorted(labels, key=int)))
    kind = BACKBONES[family]

    def of(kind):
        return {
            name: config[name] for name in (*kind.argument_names(), "dtype") if name in config and name != "backbone"
        }

    config["add_pooling_layer"] = family == "bert" and (head is kind or head.pooled)
    config["is_decoder"] = config.get("is_decoder", False) or head is bert_heads.BertLMHeadModel
    config.pop("dtype", None) if "dtype" not in settings else None
    config.pop("name", None)
    backbone = kind(**of(kind))
    return backbone if head is kind else head(backbone, **of(head))


def _vocabulary(folder):
    """The vocabulary of a folder that has one, whether texts are to be in lower case, and how long they may be."""
    path = os.path.join(folder, "vocab.txt")
    if not os.path.exists(path):
        return {}
    settings = os.path.join(folder, "tokenizer_config.json")
    settings = _json(settings) if os.path.exists(settings) else {}
    found = {"vocabulary": WordPiece.from_file(path).vocabulary, "lowercase": settings.get("do_lower_case", True)}
    return found | {name: settings[name] for name in ("model_max_length",) if name in settings}


def fill(model, weights, path):
    """Give the model the weights {name: array}; see `from_pretrained`."""
    wanted = tensors_of(model)
    found = {_usual(name, wanted): name for name in weights}
    misplaced = [name for known, name in found.items() if known not in wanted and not _of_other_head(known)]
    if misplaced:
        raise UserError(f"{path} has weights that belong nowhere: {_some(misplaced)}")
    missing = [name for name in wanted if name not in found]
    inner = [name for name in missing if name.startswith(("bert.", "electra.", "encoder.", "embeddings"))]
    inner = [name for name in inner if "pooler." not in name and "crossattention" not in name]
    if inner:
        raise UserError(f"{path} lacks weights: {_some(inner)}")
    if missing:
        warnings.warn(f"{path} lacks {_some(missing)}: they begin anew, and must be trained", stacklevel=3)
    for name, variable in wanted.items():
        if name in found:
            array = turned(name, weights[found[name]])
            if array.shape != tuple(variable.shape):
                shapes = f"{turned(name, array).shape}, not {turned(name, np.empty(variable.shape)).shape}"
                raise UserError(f"{path}: {found[name]} has the shape {shapes}")
            variable.assign(array.astype(variable.dtype, copy=False))


def _usual(name, wanted):
    """A tensor's name as in `tensors_of`: whatever prefix and old names it has."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        name = name[: -len(old)] + new if name.endswith(old) else name
    bare = name
    for prefix in ("bert.", "electra."):
        bare = bare.removeprefix(prefix)
    return next((known for known in (name, bare, f"bert.{bare}", f"electra.{bare}") if known in wanted), bare)


def _of_other_head(name):
    return name.startswith(PARTS)


def _some(names):
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _fetched(path):
    """A folder that is there, or one fetched from the Hub."""
    path = os.fspath(path)
    if os.path.isdir(path):
        if not os.path.exists(os.path.join(path, "config.json")):
            raise UserError(f"{path} has no config.json: it is not the folder of a Hugging Face model")
        return path
    if path.count("/") > 1 or path.startswith((".", "/", "~")):
        raise UserError(f"there is no folder {path}")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"there is no folder {path}; to fetch models by name, pip install huggingface_hub") from None
    patterns = ["config.json", "vocab.txt", "*.safetensors", "*.safetensors.index.json"]
    try:
        folder = huggingface_hub.snapshot_download(path, allow_patterns=patterns)
        if not any(name.endswith(".safetensors") for name in os.listdir(folder)):
            folder = huggingface_hub.snapshot_download(path, allow_patterns=[*patterns, "pytorch_model*"])
    except Exception as error:  # no network, no such model, no right to it
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"there is no folder {path}, and no such model could be fetched: {reason}") from None
    return folder


def _json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


class SafeTensors(collections.abc.Mapping):
    """The tensors of a .safetensors file, {name: array}; each is read when it is asked for."""

    def __init__(self, path):
        try:
            self.file = safetensors.safe_open(path, framework="np")
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{path} cannot be read, fetch it again: {error}") from None
        self.names = dict.fromkeys(sorted(self.file.keys()))

    def __getitem__(self, name):
        if name not in self.names:
            raise KeyError(name)
        return self.file.get_tensor(name)

    def __iter__(self):
        return iter(self.names)

    def __len__(self):
        return len(self.names)


def weights_of(folder):
    """{name: array} of a folder, in one file or in shards; an array is read when it is asked for, and not kept."""
    for name, read in (("model.safetensors", SafeTensors), ("pytorch_model.bin", TorchFile)):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return read(path)
        if os.path.exists(f"{path}.index.json"):
            shards = sorted(set(_json(f"{path}.index.json").get("weight_map", {}).values()))
            lost = [shard for shard in shards if not os.path.exists(os.path.join(folder, shard))]
            if lost:
                raise UserError(f"{folder} lacks {_some(lost)}: fetch it again")
            return collections.ChainMap(*(read(os.path.join(folder, shard)) for shard in shards))
    raise UserError(f"{folder} has neither model.safetensors nor pytorch_model.bin")


# Out.

# Arguments that are not of Hugging Face's configuration.
OWN = {"backbone", "add_pooling_layer", "vocabulary", "lowercase", "model_max_length", "labels"}


def save_pretrained(model, path):
    """Write a folder that `from_pretrained`, and that of `transformers`, reads: config.json, model.safetensors.

    `UserError` for what has no place there: other models, and a `Bert` with embeddings of another size.
    """
    backbone = getattr(model, "backbone", model)
    if not isinstance(backbone, bert.Bert):
        raise UserError(f"a {type(model).__name__} has no such folder; save its `discriminator`, or a head of BERT")
    if backbone.project and not isinstance(backbone, electra.Electra):
        raise UserError("a Bert with embeddings of another size has no such folder; make it an Electra")
    family = "electra" if isinstance(backbone, electra.Electra) else "bert"
    kind = type(model).__name__
    config = {"model_type": family, "architectures": [f"{kind}Model" if model is backbone else kind]}
    for part in (backbone, model):
        part_config = {name: getattr(part, name) for name in part.argument_names() if name not in OWN}
        config |= {name: value for name, value in part_config.items() if value is not None}
    if "num_labels" in config:
        labels = dict(enumerate(model.label_names))
        del config["num_labels"]
        config |= {"id2label": labels, "label2id": {label: i for i, label in labels.items()}}
    config |= {"pad_token_id": 0, "torch_dtype": "float32"}
    os.makedirs(path, exist_ok=True)
    tensors = {}
    for name, variable in tensors_of(model).items():
        array = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
        tensors[name] = np.ascontiguousarray(turned(name, array))
    with files.write_aside(os.path.join(path, "model.safetensors")) as aside:
        safetensors.numpy.save_file(tensors, aside, {"format": "pt"})
    files.write_json(os.path.join(path, "config.json"), config)
    if getattr(model, "vocabulary", ()):
        with files.write_aside(os.path.join(path, "vocab.txt")) as aside:
            aside.write_text("\n".join(model.vocabulary) + "\n", encoding="utf-8")
        tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": model.lowercase}
        tokenizer |= {"model_max_length": model.max_length}
        files.write_json(os.path.join(path, "tokenizer_config.json"), tokenizer)
