"""Loading of foreign weights into a model by its table of tensors (`family.Family`)."""

import re
import warnings

from homl_models.errors import UserError


def load_weights(model, family, weights, path):
    """Assign {name: array} to the model's variables.

    Layers of the head that are missing, or have other shapes, stay newly initialized, with a warning. path: what
    messages call the weights. `UserError` for unexpected keys, missing weights of the backbone, and other shapes of it.
    """
    tensors, backbone = family.tensors(model), family.tensors_of_backbone(model)
    keys = match_keys(weights, tensors, family, path)
    _check_unexpected(keys, tensors, family, path)
    _check_missing(keys, tensors, backbone, family, path)
    other_shapes = []
    for name, tensor in tensors.items():
        if name not in keys:
            continue
        array = weights[keys[name]]
        if array.shape != tensor.file_shape and tensor.resize and array.ndim == len(tensor.file_shape):
            array = tensor.resize(array)
        if array.shape == tensor.file_shape:
            tensor.assign(array)
        elif name in backbone:
            raise UserError(f"{path}: {keys[name]} has the shape {array.shape}, not {tensor.file_shape}")
        else:
            other_shapes.append(name)
    if other_shapes:
        message = f"{path} has other shapes of {shortened(other_shapes)}: newly initialized, to be trained"
        warnings.warn(message, stacklevel=3)


def match_keys(weights, tensors, family, path):
    """{name of a tensor: its key in `weights`}; keys without a tensor stand under their own name."""
    prefix, keys = _common_prefix(weights, family), {}
    for key in weights:
        name = _canonical_name(key.removeprefix(prefix), tensors, family)
        if name in keys:
            raise UserError(f"{path} has two weights for {name}: {keys[name]} and {key}")
        keys[name] = key
    for pattern, alias in family.aliases.items():
        missing = [name for name in tensors if name not in keys and re.fullmatch(pattern, name)]
        keys |= {name: keys[alias] for name in missing if alias in keys}
    return keys


def _common_prefix(keys, family):
    """Prefix of all keys, such as the "module." of PyTorch's DataParallel; "" for none."""
    end = family.anchor
    prefixes = {key[: -len(end)].removesuffix(family.prefix) for key in keys if key.endswith(end)}
    return prefixes.pop() if len(prefixes) == 1 else ""


def _canonical_name(key, tensors, family):
    """The name in the table of tensors: with or without the family's prefix, and without the names of old files."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        key = key[: -len(old)] + new if key.endswith(old) else key
    bare = key.removeprefix(family.prefix)
    return next((name for name in (key, bare, f"{family.prefix}{bare}") if name in tensors), bare)


def _check_unexpected(keys, tensors, family, path):
    unexpected = [
        key
        for name, key in keys.items()
        if name not in tensors and not name.startswith(family.ignored) and not name.endswith(family.buffers)
    ]
    if unexpected:
        raise UserError(f"{path} has unexpected weights: {shortened(unexpected)}")


def _check_missing(keys, tensors, backbone, family, path):
    """Raise `UserError` for weights that the backbone needs; warn of others."""
    missing = [name for name in tensors if name not in keys]
    needed = [name for name in missing if name in backbone and not any(part in name for part in family.optional)]
    if needed:
        raise UserError(f"{path} lacks weights: {shortened(needed)}")
    if missing:
        warnings.warn(f"{path} lacks {shortened(missing)}: newly initialized, to be trained", stacklevel=4)


def shortened(names):
    """The first five of a list of names, as a phrase."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
