"""Checks of a config.json of Hugging Face, before anything is built."""

import math
import re

from homl_models.checkpoints.hub import shape_of
from homl_models.errors import UserError


def _whole_numbers(values):
    return isinstance(values, (list, tuple)) and all(type(value) is int for value in values)


def _sizes(value):
    values = value if isinstance(value, (list, tuple)) and len(value) == 2 else [value]
    return _whole_numbers(values) and min(values) > 0


TESTS = {  # what values must be
    "a whole number above 0": lambda value: type(value) is int and value > 0,
    "a whole number above 0, or two": _sizes,
    "whole numbers": _whole_numbers,
    "in [0, 1)": lambda value: type(value) in (int, float) and 0 <= value < 1,
    "a number, 0 or more": lambda value: type(value) in (int, float) and 0 <= value < math.inf,
    "true or false": lambda value: type(value) is bool,
    "a text": lambda value: type(value) is str,
    "{layer: [heads]}": lambda value: (
        isinstance(value, dict) and all(str(i).isdigit() and _whole_numbers(some) for i, some in value.items())
    ),
    "{number: label}, counted from 0": lambda value: (
        isinstance(value, dict) and {str(i) for i in value} == {str(i) for i in range(len(value))}
    ),
}


def check_config(config, family, weights, path):
    """Raise `UserError` for values that cannot be, and sizes that are not those of the weights."""
    _check_values(config, family, path)
    _check_num_layers(config, family, weights, path)
    _check_sizes(config, family, weights, path)


def _check_values(config, family, path):
    for words, names in family.rules.items():
        for name in names:
            value = config.get(name)
            if name in config and not TESTS[words](value) and not (value is None and name in family.nullable):
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
