"""Folders of Hugging Face: on this disk or downloaded from the Hub, their JSON files and their weights."""

import collections
import json
import os

import safetensors

from homl_models.checkpoints.torch_files import TorchFile
from homl_models.errors import UserError

CONFIGS = "config.json", "bert_config.json"  # the second is Google's name
PATTERNS = [
    *CONFIGS, "vocab.txt", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json",
    "modules.json", "sentence_bert_config.json", "*_Pooling/config.json",
    "preprocessor_config.json",
    "*.safetensors", "*.safetensors.index.json",
]  # fmt: skip


def read_json(path, default=None):
    """The object in a JSON file, a dictionary. `default`, if there is one, for a file that does not exist."""
    if default is not None and not os.path.exists(path):
        return default
    try:
        with open(path, encoding="utf-8-sig") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} cannot be read: it holds no object but a {type(found).__name__}")
    return found


def resolve_folder(path):
    """A local folder as it is, or the folder of a model's name, downloaded from the Hub."""
    path = os.fspath(path)
    if os.path.isdir(path):
        if not any(os.path.exists(os.path.join(path, name)) for name in CONFIGS):
            raise UserError(f"{path} has no config.json: it is not the folder of a Hugging Face model")
        return path
    if path.count("/") > 1 or path.startswith((".", "/", "~")):
        raise UserError(f"there is no folder {path}")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"there is no folder {path}; to fetch models by name, pip install huggingface_hub") from None
    try:
        folder = huggingface_hub.snapshot_download(path, allow_patterns=PATTERNS)
        if not any(name.endswith(".safetensors") for name in os.listdir(folder)):
            folder = huggingface_hub.snapshot_download(path, allow_patterns=[*PATTERNS, "pytorch_model*"])
    except Exception as error:  # no network, no such model, no right to it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"there is no folder {path}, and no such model could be fetched: {reason}") from None
    return folder


class SafeTensors(collections.abc.Mapping):
    """Tensors of a .safetensors file, {name: array}, read lazily."""

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

    def shape(self, name):
        return self.file.get_slice(name).get_shape()

    def __iter__(self):
        return iter(self.names)

    def __len__(self):
        return len(self.names)


def shape_of(weights, name):
    """Shape of a tensor of `weights_of`, without reading it."""
    return next(some for some in getattr(weights, "maps", [weights]) if name in some).shape(name)


def weights_of(folder):
    """{name: array} of a folder, in one file or in shards; arrays are read lazily, and not kept."""
    for name, read in (("model.safetensors", SafeTensors), ("pytorch_model.bin", TorchFile)):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return read(path)
        if os.path.exists(f"{path}.index.json"):
            shards = read_json(f"{path}.index.json").get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
                raise UserError(f"{path}.index.json does not say in which files the weights are")
            shards = sorted(set(shards.values()))
            lost = [shard for shard in shards if not os.path.exists(os.path.join(folder, shard))]
            if lost:
                raise UserError(f"{folder} lacks {', '.join(lost[:5])}: fetch it again")
            return collections.ChainMap(*(read(os.path.join(folder, shard)) for shard in shards))
    raise UserError(f"{folder} has neither model.safetensors nor pytorch_model.bin")
