"""Checks of a config.json of Hugging Face, before anything is built."""

import re

from homl_models.checkpoints.hub import shape_of
from homl_models.errors import UserError


def check_config(config, family, weights, path):
    """Raise `UserError` for values that cannot be, and sizes that are not those of the weights."""
    _check_values(config, family, path)
    _check_num_layers(config, family, weights, path)
    _check_sizes(config, family, weights, path)


def _check_values(config, family, path):
    for words, (fits, names) in family.rules.items():
        for name in names:
            value = config.get(name)
            if name in config and not fits(value) and not (value is None and name in family.nullable):
                raise UserError(f"{path}: {name} must be {words}, not {value!r}")


def _check_num_layers(config, family, weights, path):
    layers = 1 + max(map(int, re.findall(family.layer_pattern, " ".join(weights))), default=-1)
    if layers and config.get("num_hidden_layers", layers) > layers:
        raise UserError(f"{path} lacks weights: encoder.layer.{layers} and what follows")


def _check_sizes(config, family, weights, path):
    for end, axis, key in family.sizes:
        for name in (name for name in weights if name.endswith(end)):
            shape = tuple(shape_of(weights, name))
            if len(shape) == 2 and config.get(key, shape[axis]) != shape[axis]:
                expected = tuple(config[key] if i == axis else size for i, size in enumerate(shape))
                raise UserError(f"{path}: {name} has the shape {shape}, not {expected}, as {key} says")
