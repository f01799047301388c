"""Pooling in folders of `sentence-transformers`: modules.json and what it names."""

import json
import os

from homl_models.checkpoints.hub import read_json
from homl_models.errors import UserError
from homl_models.training import files

POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
}


def read(folder, model_max_length=None):
    """Arguments of a `TextEmbedder` that a folder asks for; {} for folders without modules.json.

    `UserError` for modules and poolings that are unknown here.
    """
    path = os.path.join(folder, "modules.json")
    if not os.path.exists(path):
        return {}
    arguments = {}
    for kind, subfolder in _modules(path):
        if kind == "Pooling":
            arguments["pooling"] = _pooling(folder, subfolder)
        elif kind == "Normalize":
            arguments["normalize"] = True
        elif kind != "Transformer":
            raise UserError(f"{folder} has a module {kind} after the model, which is not known here")
    length = read_json(os.path.join(folder, "sentence_bert_config.json"), {}).get("max_seq_length")
    if type(length) is int and length > 0:
        arguments["model_max_length"] = min(length, model_max_length or length)
    return arguments


def _modules(path):
    """[(class, folder), ...] of modules.json."""
    try:
        with open(path, encoding="utf-8") as file:
            return [(entry["type"].rsplit(".", 1)[-1], entry["path"]) for entry in json.load(file)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _pooling(folder, subfolder):
    config = read_json(os.path.join(folder, subfolder, "config.json"))
    modes = [key for key, value in config.items() if key.startswith("pooling_mode") and value]
    if len(modes) != 1 or modes[0] not in POOLING:
        raise UserError(f"{folder} pools by {', '.join(modes) or 'nothing'}; known are {', '.join(POOLING)}")
    return POOLING[modes[0]]


def write(folder, model):
    """The files beside the weights of a `TextEmbedder`."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules += [("2_Normalize", "Normalize")] if model.normalize else []
    modules = [
        {"idx": i, "name": str(i), "path": subfolder, "type": f"sentence_transformers.models.{kind}"}
        for i, (subfolder, kind) in enumerate(modules)
    ]
    files.write_json(os.path.join(folder, "modules.json"), modules)
    files.write_json(os.path.join(folder, "sentence_bert_config.json"), {"max_seq_length": model.max_length})
    config = {"word_embedding_dimension": model.backbone.config.hidden_size}
    config |= {key: value == model.pooling for key, value in POOLING.items()}
    os.makedirs(os.path.join(folder, "1_Pooling"), exist_ok=True)
    files.write_json(os.path.join(folder, "1_Pooling", "config.json"), config)
