"""Networks for super-resolution from and to files of PyTorch and ncnn, without either.

ESRGAN and Real-ESRGAN in the dialects of their three codes, SRVGGNetCompact, MSRResNet, VDSR, DnCNN, SRCNN
(`super_resolution_tables.NETWORKS`), bare or within "params_ema", "params" and the like. Blocks, filters, scale and
unshuffling are found from the shapes of the tensors.
"""

import os
import re

import safetensors.numpy

from homl_models.checkpoints import ncnn, torch_files
from homl_models.checkpoints.hub import SafeTensors
from homl_models.checkpoints.super_resolution_tables import NETWORKS, rename
from homl_models.checkpoints.weights import shortened
from homl_models.errors import UserError
from homl_models.training import files

WRAPPERS = "params_ema", "params", "state_dict", "model_state_dict", "net_g", "generator", "model", "module"
ENDINGS = ".pth", ".pt", ".ckpt", ".safetensors", ".param"


def reads(path):
    """Whether `from_pretrained` is for it: a name of ncnn's networks, or a file with such an ending."""
    return str(path) in ncnn.NAMES or str(path).lower().endswith(ENDINGS)


def from_pretrained(path, **settings):
    """A model for super-resolution with its weights.

    Args:
        path: a file of `torch.save` (no code in it is run), a .safetensors file, a .param file of ncnn with its .bin
            beside it, or one of `ncnn.NAMES`, which the extra `realesrgan` installs.
        settings: arguments of the model, such as the `scale` of VDSR and SRCNN, which no file says, and `dtype`.

    Raises:
        UserError: for files that are broken, carry code, hold an unknown network, or lack weights.
    """
    weights = _read(path)
    network, keys = _find(weights, path)
    shapes = {name: tuple(weights.shape(key)) for name, key in keys.items()}
    arguments = _settings(network, shapes, path)
    unknown = set(settings) - {*network.model.argument_names(), "dtype", "name"}
    if unknown:
        raise UserError(f"{network.model.__name__} has no setting {', '.join(sorted(unknown))}")
    model = network.model(**(arguments | settings))
    model.build()
    table = dict(network.tensors(model))
    _check(table, shapes, keys, f"{path}, as {network.model.__name__},")
    for name, tensor in table.items():
        tensor.assign(weights[keys[name]])
    return model


def save_pretrained(model, path):
    """Write a model's weights in BasicSR's dialect, as .safetensors or, for other endings, as `torch.save` does.

    `UserError` for a model that has no such dialect.
    """
    weights = state_dict(model)
    with files.atomic_write(path) as aside:
        if str(path).lower().endswith(".safetensors"):
            safetensors.numpy.save_file(weights, aside, {"format": "pt"})
        else:
            torch_files.save(aside, weights)


def state_dict(model):
    """{name: float32 array} of all weights, named and laid out as in PyTorch; `UserError` for other models."""
    for network in NETWORKS:
        if type(model) is network.model:
            return {name: tensor.to_file() for name, tensor in network.tensors(model)}
    raise UserError(f"a {type(model).__name__} is no network that BasicSR knows; save its generator")


def _read(path):
    if str(path) in ncnn.NAMES:
        return ncnn.NcnnFile(ncnn.find(str(path)))
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise UserError(f"there is no file {path}; the names {', '.join(ncnn.NAMES)} are known as well")
    if path.lower().endswith((".param", ".bin")) and os.path.exists(f"{os.path.splitext(path)[0]}.param"):
        return ncnn.NcnnFile(path)
    return SafeTensors(path) if path.lower().endswith(".safetensors") else torch_files.TorchFile(path)


def _find(weights, path):
    """The network of {key: array}, and {name of a tensor: its key}."""
    bare = _unwrapped({key: key for key in weights})
    keys = {name: bare[key] for key, name in rename(bare).items() if not key.endswith("num_batches_tracked")}
    for network in NETWORKS:
        if any(re.match(network.pattern, name) for name in keys):
            return network, keys
    known = ", ".join(network.model.__name__ for network in NETWORKS)
    found = f"{len(keys)} tensors ({shortened(sorted(bare))})" if keys else "no tensors"
    raise UserError(f"{path} has {found}; known networks are {known}")


def _unwrapped(keys):
    """Without "params." and the like before names; averaged weights first, where there are two kinds."""
    for wrapper in WRAPPERS:
        inner = {key[len(wrapper) + 1 :]: value for key, value in keys.items() if key.startswith(f"{wrapper}.")}
        if inner and not any(name[0].isdigit() for name in inner):  # or else it is a list of the network itself
            return _unwrapped(inner)
    return keys


def _settings(network, shapes, path):
    try:
        return network.settings(shapes)
    except KeyError as error:
        raise UserError(f"{path} looks like {network.model.__name__}, but lacks {error.args[0]}") from None
    except (ValueError, IndexError, ArithmeticError) as error:
        raise UserError(f"{path} looks like {network.model.__name__}, but its shapes do not fit: {error}") from None


def _check(table, shapes, keys, what):
    """Raise `UserError` that begins with `what` unless the file has what the table has."""
    for names, problem in (
        ([name for name in table if name not in shapes], "lacks weights"),
        ([keys[name] for name in shapes if name not in table], "has unexpected weights"),
        ([keys[n] for n in table if n in shapes and shapes[n] != table[n].file_shape], "has odd shapes of"),
    ):
        if names:
            raise UserError(f"{what} {problem}: {shortened(names)}")
