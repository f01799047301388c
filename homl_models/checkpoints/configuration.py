"""The configuration in a folder of Hugging Face: what it is, whether it can be right, how it pools."""

import json
import math
import os
import re

from homl_models.checkpoints.hub import read_json, shape_of
from homl_models.errors import UserError


def family_of(kind, weights):
    """The family of an architecture's name, or else of the names of tensors; None if neither says."""
    for family in ("electra", "bert"):
        if kind.lower().startswith(family) or any(f".{family}." in f".{name}" for name in weights):
            return family
    return None


RULES = {  # what the values of a configuration must be
    "a whole number above 0": (
        lambda value: type(value) is int and value > 0,
        ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        + ("max_position_embeddings", "type_vocab_size", "embedding_size", "num_labels"),
    ),
    "in [0, 1)": (
        lambda value: type(value) in (int, float) and 0 <= value < 1,
        ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
    ),
    "a number, 0 or more": (
        lambda value: type(value) in (int, float) and 0 <= value < math.inf,
        ("layer_norm_eps", "initializer_range", "chunk_size_feed_forward"),
    ),
    "true or false": (
        lambda value: type(value) is bool,
        ("is_decoder", "add_cross_attention", "tie_word_embeddings", "gradient_checkpointing"),
    ),
    "a text": (lambda value: type(value) is str, ("hidden_act", "position_embedding_type", "problem_type")),
    "{layer: [heads]}": (
        lambda value: isinstance(value, dict) and all(str(i).isdigit() and _whole(some) for i, some in value.items()),
        ("pruned_heads",),
    ),
    "{number: label}, counted from 0": (
        lambda value: isinstance(value, dict) and {str(i) for i in value} == {str(i) for i in range(len(value))},
        ("id2label",),
    ),
}
OPTIONAL = "embedding_size", "classifier_dropout", "problem_type", "pruned_heads", "id2label"  # which may be null


def _whole(numbers):
    return isinstance(numbers, (list, tuple)) and all(type(number) is int for number in numbers)


def check_config(config, weights, path):
    """Raise `UserError` for values that cannot be, and sizes that are not those of the weights."""
    for words, (fits, names) in RULES.items():
        for name in names:
            value = config.get(name)
            if name in config and not fits(value) and not (value is None and name in OPTIONAL):
                raise UserError(f"{path}: {name} must be {words}, not {value!r}")
    numbers = re.findall(r"encoder\.layer\.(\d+)\.", " ".join(weights))
    layers = 1 + max(map(int, numbers), default=-1)
    if layers and config.get("num_hidden_layers", layers) > layers:
        raise UserError(f"{path} lacks weights: encoder.layer.{layers} and what follows")
    for end, axis, key in (
        ("embeddings.word_embeddings.weight", 0, "vocab_size"),
        ("embeddings.position_embeddings.weight", 0, "max_position_embeddings"),
        ("encoder.layer.0.intermediate.dense.weight", 0, "intermediate_size"),
        ("encoder.layer.0.intermediate.dense.weight", 1, "hidden_size"),
    ):
        for name in (name for name in weights if name.endswith(end)):
            shape = tuple(shape_of(weights, name))
            if len(shape) == 2 and config.get(key, shape[axis]) != shape[axis]:
                wanted = tuple(config[key] if i == axis else size for i, size in enumerate(shape))
                raise UserError(f"{path}: {name} has the shape {shape}, not {wanted}, as {key} says")


POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
}


def pooling_of(folder, model_max_length=None):
    """Arguments of a `TextEmbedder` that a folder of `sentence-transformers` asks for; {} for other folders.

    `UserError` for what is not known here.
    """
    modules = os.path.join(folder, "modules.json")
    if not os.path.exists(modules):
        return {}
    try:
        with open(modules, encoding="utf-8") as file:
            modules = [(entry["type"].rsplit(".", 1)[-1], entry["path"]) for entry in json.load(file)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{modules} cannot be read: {error}") from None
    found = {}
    for kind, place in modules:
        if kind == "Pooling":
            config = read_json(os.path.join(folder, place, "config.json"))
            asked = [key for key, value in config.items() if key.startswith("pooling_mode") and value]
            if len(asked) != 1 or asked[0] not in POOLING:
                raise UserError(f"{folder} pools by {', '.join(asked) or 'nothing'}; known are {', '.join(POOLING)}")
            found["pooling"] = POOLING[asked[0]]
        elif kind == "Normalize":
            found["normalize"] = True
        elif kind != "Transformer":
            raise UserError(f"{folder} has a module {kind} after the model, which is not known here")
    length = read_json(os.path.join(folder, "sentence_bert_config.json"), {}).get("max_seq_length")
    if type(length) is int and length > 0:
        found["model_max_length"] = min(length, model_max_length or length)
    return found
