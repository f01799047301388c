"""BERT and ELECTRA from and to the folders of Hugging Face's `transformers`.

A folder has config.json, the weights (model.safetensors, or pytorch_model.bin, in one file or in shards), and
the files of a tokenizer (see `tokenizer_files.py`); one of `sentence-transformers` says how to pool. The names of its
tensors are made here from the model, so that both directions agree.
"""

import os
import warnings

import keras
import numpy as np
import safetensors.numpy

from homl_models.checkpoints import tokenizer_files
from homl_models.checkpoints.configuration import POOLING, check_config, family_of, pooling_of
from homl_models.checkpoints.hub import CONFIGS, fetched, read_json, weights_of
from homl_models.errors import UserError
from homl_models.models import bert, bert_heads, electra
from homl_models.training import files

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
# What heads begin with, so that those of another model are told from unexpected tensors.
PARTS = (
    "cls.", "classifier.", "qa_outputs.", "pooler.", "discriminator_predictions.", "generator_predictions.",
    "generator_lm_head.", "embeddings.position_ids", "embeddings.token_type_ids",
    "embeddings.position_embeddings.",  # unused where positions are relative
)  # fmt: skip
# What some folders call a tensor, where the usual name is missing.
ALIASES = {
    "cls.predictions.bias": "cls.predictions.decoder.bias",
    "bert.embeddings.word_embeddings.weight": "cls.predictions.decoder.weight",
    "electra.embeddings.word_embeddings.weight": "generator_lm_head.weight",
}
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
            for part, layer in zip(("self.query", "self.key", "self.value", "output.dense"), attention.projections):
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


def transpose(name, array):
    """Kernels of dense layers, transposed; tables as they are."""
    table = "embeddings." in name or "distance_embedding" in name or "decoder" in name or "lm_head" in name
    return array if table or array.ndim != 2 else array.T


# In.


def from_pretrained(path, head=None, **settings):
    """The model in a folder, or of a name on the Hugging Face Hub, with its weights.

    head: a class of `HEADS`, for other than what the folder says; layers of the head whose weights it misses, or has in
    other shapes, are newly initialized, with a warning that names them. The backbone's own class, `Bert` or `Electra`,
    is possible too; what it knows of texts is then its attribute `texts`.
    settings: arguments of the backbone or the head to change, such as `num_labels` or `dtype`.
    `UserError` for a folder that is none, models of another kind, and weights that are broken, of other shapes, or
    unexpected.
    """
    folder = fetched(path)
    name = next((name for name in CONFIGS if os.path.exists(os.path.join(folder, name))), CONFIGS[0])
    config = read_json(os.path.join(folder, name))
    weights = weights_of(folder)
    kinds = config.get("architectures") or [None]
    kind = kinds[0] if isinstance(kinds, list) else kinds
    family = config.get("model_type") or family_of(str(kind or ""), weights)
    if family is None:
        raise UserError(f'{path} does not say what it is; add "model_type": "bert" or "electra" to its {name}')
    if not isinstance(family, str) or family not in BACKBONES:
        raise UserError(f"{path} is a model of type {family!r}; those of type bert and electra can be read")
    if head is None:
        head = HEADS.get(str(kind), BACKBONES[family])
        if kind not in (None, head.__name__, f"{head.__name__}Model"):
            warnings.warn(f"{path} is a {kind}, which is not known here: its {head.__name__} is read", stacklevel=2)
    _check(head, family, settings, path)
    texts = tokenizer_files.read(folder, config, settings)
    if head is bert_heads.TextEmbedder:
        texts |= pooling_of(folder, texts.get("model_max_length"))
    config = {name: value for name, value in config.items() if name not in OWN} | texts
    check_config(config | settings, weights, path)
    model = from_config(head, family, config, settings)
    model.build()
    load_weights(model, weights, path)
    if head is BACKBONES[family]:
        model.texts = texts
    return model


def with_head(model, head, **settings):
    """A new model of the class `head` with the weights of another, as `from_pretrained` would make it of its folder.

    model: a `Bert`, an `Electra`, a head of one, or an `ElectraPretrainer`, whose discriminator is taken. Arguments
    that both heads have, such as the labels, are those of the old one where `settings` does not say otherwise.
    """
    model = getattr(model, "detector", None) or getattr(model, "namer", None) or model
    backbone = getattr(model, "backbone", model)
    family = "electra" if isinstance(backbone, electra.Electra) else "bert"
    _check(head, family, settings, f"the {type(model).__name__}")
    config = {name: getattr(backbone, name) for name in backbone.argument_names()} | texts_of(model)
    if model is not backbone:
        own = {name: getattr(model, name) for name in model.argument_names() if name != "backbone"}
        if settings.get("num_labels", own.get("num_labels")) != own.get("num_labels"):
            own.pop("labels", None)
        config |= own
    new = from_config(head, family, config, settings)
    new.build()
    weights = {name: transpose(name, keras.ops.convert_to_numpy(x)) for name, x in tensors_of(model).items()}
    load_weights(new, weights, f"the {type(model).__name__}")
    return new


def texts_of(model):
    """{argument: value} of how a model, with a head or bare, reads texts; {} for one of ids alone."""
    names = [name for name in tokenizer_files.ARGUMENTS if hasattr(model, name)]
    return dict(getattr(model, "texts", {})) or {name: getattr(model, name) for name in names}


def _check(head, family, settings, path):
    """Raise `UserError` unless the family has that head, and the head those settings."""
    if not head.__name__.lower().startswith((family, "text")):
        raise UserError(f"{path} is a model of type {family}, which has no {head.__name__}")
    known = {*BACKBONES[family].argument_names(), *head.argument_names(), "dtype"} - {"backbone", "add_pooling_layer"}
    if set(settings) - known:
        raise UserError(f"{head.__name__} has no setting {', '.join(sorted(set(settings) - known))}")


def from_config(head, family, config, settings):
    """A new model of the class `head`, as `config` and then `settings` say."""
    config = DEFAULTS.get(family, {}) | config | settings
    labels = config.get("id2label")
    if labels and config.get("num_labels", len(labels)) == len(labels):
        config["num_labels"] = len(labels)
        if "num_labels" in head.argument_names():
            config.setdefault(
                "labels", tuple(str(label) for _, label in sorted(labels.items(), key=lambda x: int(x[0])))
            )
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


def load_weights(model, weights, path):
    """Give the model the weights {name: array}; see `from_pretrained`."""
    wanted, found = tensors_of(model), {}
    prefix = _prefix(weights)
    for name in weights:
        known = _usual(name.removeprefix(prefix), wanted)
        if known in found:
            raise UserError(f"{path} has two weights for {known}: {found[known]} and {name}")
        found[known] = name
    for known, other in ALIASES.items():
        if known in wanted and known not in found and other in found:
            found[known] = found[other]
    unexpected = [name for known, name in found.items() if known not in wanted and not _of_other_head(known)]
    if unexpected:
        raise UserError(f"{path} has unexpected weights: {_some(unexpected)}")
    missing = [name for name in wanted if name not in found]
    inner = [name for name in missing if name.startswith(BACKBONE)]
    inner = [name for name in inner if "pooler." not in name and "crossattention" not in name]
    if inner:
        raise UserError(f"{path} lacks weights: {_some(inner)}")
    if missing:
        warnings.warn(f"{path} lacks {_some(missing)}: newly initialized, to be trained", stacklevel=3)
    others = []
    for name, variable in wanted.items():
        if name not in found:
            continue
        array = transpose(name, weights[found[name]])
        if array.shape == tuple(variable.shape):
            variable.assign(array.astype(variable.dtype, copy=False))
        elif name.startswith(BACKBONE):
            shapes = f"{transpose(name, array).shape}, not {transpose(name, np.empty(variable.shape)).shape}"
            raise UserError(f"{path}: {found[name]} has the shape {shapes}")
        else:
            others.append(name)
    if others:
        warnings.warn(f"{path} has other shapes of {_some(others)}: newly initialized, to be trained", stacklevel=3)


BACKBONE = "bert.", "electra.", "encoder.", "embeddings", "pooler."  # how names of its tensors begin


def _prefix(names):
    """What stands before all names, such as the "module." of PyTorch's DataParallel; "" if nothing does."""
    end = "embeddings.word_embeddings.weight"
    found = {name[: -len(end)].removesuffix("bert.").removesuffix("electra.") for name in names if name.endswith(end)}
    return found.pop() if len(found) == 1 else ""


def _usual(name, wanted):
    """A tensor's name as in `tensors_of`: whether it is of a head or bare, and whatever old names it has."""
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


# Out.

# Arguments that are not of Hugging Face's configuration.
OWN = {"backbone", "add_pooling_layer", "labels", "pooling", "normalize", *tokenizer_files.ARGUMENTS}


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
    bare = model is backbone or isinstance(model, bert_heads.TextEmbedder)
    kind = f"{type(backbone).__name__}Model" if bare else type(model).__name__
    config = {"model_type": family, "architectures": [kind]}
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
        tensors[name] = np.ascontiguousarray(transpose(name, array))
    with files.atomic_write(os.path.join(path, "model.safetensors")) as aside:
        safetensors.numpy.save_file(tensors, aside, {"format": "pt"})
    files.write_json(os.path.join(path, "config.json"), config)
    if getattr(model, "vocabulary", ()):
        tokenizer_files.write(path, model)
    if isinstance(model, bert_heads.TextEmbedder):
        _write_pooling(model, path)


def _write_pooling(model, path):
    """What `sentence-transformers` reads beside the model."""
    parts = [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        *([("2_Normalize", "Normalize")] if model.normalize else []),
    ]
    modules = [
        {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for i, (place, kind) in enumerate(parts)
    ]
    files.write_json(os.path.join(path, "modules.json"), modules)
    files.write_json(os.path.join(path, "sentence_bert_config.json"), {"max_seq_length": model.max_length})
    config = {"word_embedding_dimension": model.backbone.hidden_size}
    config |= {key: value == model.pooling for key, value in POOLING.items()}
    os.makedirs(os.path.join(path, "1_Pooling"), exist_ok=True)
    files.write_json(os.path.join(path, "1_Pooling", "config.json"), config)
