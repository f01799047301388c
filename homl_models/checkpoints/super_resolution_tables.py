"""Networks for super-resolution in files of PyTorch: the names of their tensors, and what the shapes say.

Names are those of BasicSR, and of the authors where it has no such network; `rename` leads other dialects there.
"""

import dataclasses
import math
import re
from collections.abc import Callable

from homl_models.checkpoints.family import Tensor
from homl_models.models.rrdb import RRDBNet
from homl_models.models.srcnn import SRCNN
from homl_models.models.srresnet import MSRResNet, SRResNet
from homl_models.models.srvgg import SRVGGNetCompact
from homl_models.models.vdsr import VDSR, DnCNN


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as files have it."""

    model: type
    pattern: str
    """Regular expression of a name that no other network has, and every file of this one."""
    tensors: Callable
    """Model -> (name, `Tensor`) of each variable."""
    settings: Callable
    """{name: shape} -> arguments of the model. `KeyError` of a name that is missing; `ValueError` for odd shapes."""


def rename(names):
    """{name in the file: name here}, for ESRGAN's first and second code, BasicSR's first, and its present one."""
    if any(re.match(r"model\.1\.sub\.\d+\.RDB", name) for name in names):
        return {name: _of_first_code(name, _tail(names)) for name in names}
    if any(name.startswith("RRDB_trunk.") for name in names):
        return {name: _of_second_code(name) for name in names}
    return {name: re.sub(r"^recon_trunk\.", "body.", name).replace("HRconv.", "conv_hr.") for name in names}


def _tail(names):
    """Numbers of the convolutions after the trunk -> their names."""
    numbers = sorted({int(n) for name in names for n in re.findall(r"^model\.(\d+)\.(?:weight|bias)$", name)} - {0})
    *ups, hr, last = numbers if len(numbers) > 1 else [-2, -1]
    return {hr: "conv_hr", last: "conv_last"} | {n: f"conv_up{i}" for i, n in enumerate(ups, 1)}


def _of_first_code(name, tail):
    name = re.sub(r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3.", name)
    name = re.sub(r"^model\.1\.sub\.\d+\.(weight|bias)$", r"conv_body.\1", name)
    name = re.sub(r"^model\.0\.(weight|bias)$", r"conv_first.\1", name)
    return re.sub(r"^model\.(\d+)\.(?=weight|bias)", lambda m: f"{tail.get(int(m[1]), m[0][:-1])}.", name)


def _of_second_code(name):
    name = re.sub(r"^RRDB_trunk\.(\d+)\.RDB(\d)\.", r"body.\1.rdb\2.", name)
    return (
        re.sub(r"^upconv(\d)\.", r"conv_up\1.", name)
        .replace("trunk_conv.", "conv_body.")
        .replace("HRconv.", "conv_hr.")
    )


def conv(name, layer):
    """Entries of a convolution: its kernel, (out, in, h, w) in a file, and its bias."""
    yield f"{name}.weight", Tensor(layer.kernel, (2, 3, 1, 0))
    if layer.use_bias:
        yield f"{name}.bias", Tensor(layer.bias)


def batch_norm(name, layer):
    """Entries of a batch normalization."""
    parts = {"weight": layer.gamma, "bias": layer.beta}
    parts |= {"running_mean": layer.moving_mean, "running_var": layer.moving_variance}
    for part, variable in parts.items():
        yield f"{name}.{part}", Tensor(variable)


def count(shapes, pattern):
    """How many there are of what a pattern numbers, in its first group."""
    return 1 + max((int(m[1]) for m in (re.match(pattern, name) for name in shapes) if m), default=-1)


def root(n):
    """Square root of a square number; `ValueError` for others."""
    if n < 1 or math.isqrt(int(n)) ** 2 != n:
        raise ValueError(f"{n} is no square")
    return math.isqrt(int(n))


# RRDBNet


def rrdb_tensors(model):
    yield from conv("conv_first", model.conv_first)
    for i, block in enumerate(model.body):
        for j, dense in enumerate(block.blocks, 1):
            for k, layer in enumerate(dense.convolutions, 1):
                yield from conv(f"body.{i}.rdb{j}.conv{k}", layer)
    yield from conv("conv_body", model.conv_body)
    for i, layer in enumerate(model.conv_up, 1):
        yield from conv(f"conv_up{i}", layer)
    yield from conv("conv_hr", model.conv_hr)
    yield from conv("conv_last", model.conv_last)


def rrdb_settings(shapes):
    filters, inputs = shapes["conv_first.weight"][:2]
    channels = shapes["conv_last.weight"][0]
    factor = root(inputs / channels)
    ups = max(count(shapes, r"conv_up(\d)\.weight") - 1, 0)  # numbered from 1
    scale = 2**ups / factor
    if scale not in (1, 2, 4, 8) or factor not in (1, 2, 4):
        raise ValueError(f"a scale of {scale:g} by an unshuffling of {factor}")
    settings = {"scale": int(scale), "filters": filters, "num_blocks": count(shapes, r"body\.(\d+)\.")}
    settings |= {"growth": shapes["body.0.rdb1.conv1.weight"][0], "channels": channels}
    return settings | ({} if factor == max(1, 4 // settings["scale"]) else {"unshuffle": factor})


# SRVGGNetCompact


def srvgg_tensors(model):
    for i, layer in enumerate(model.convolutions):
        yield from conv(f"body.{2 * i}", layer)
    for i, layer in enumerate(model.activations):
        yield f"body.{2 * i + 1}.weight", Tensor(layer.alpha)


def srvgg_settings(shapes):
    filters, channels = shapes["body.0.weight"][:2]
    last = count(shapes, r"body\.(\d+)\.") - 1
    scale = root(shapes[f"body.{last}.weight"][0] / channels)
    return {"scale": scale, "filters": filters, "num_convs": last // 2 - 1, "channels": channels}


# SRResNet and MSRResNet


def srresnet_tensors(model):
    yield from conv("conv_first", model.conv_first)
    yield "act_first.weight", Tensor(model.act_first.alpha)
    for i, block in enumerate(model.body):
        yield f"body.{i}.act.weight", Tensor(block.act.alpha)
        yield from _residual(f"body.{i}", block)
    yield from conv("conv_body", model.conv_body)
    if model.batch_norm:
        yield from batch_norm("norm_body", model.norm_body)
    for i, (layer, act) in enumerate(zip(model.upconv, model.act_up), 1):
        yield from conv(f"upconv{i}", layer)
        yield f"act_up{i}.weight", Tensor(act.alpha)
    yield from conv("conv_last", model.conv_last)


def msrresnet_tensors(model):
    yield from conv("conv_first", model.conv_first)
    for i, block in enumerate(model.body):
        yield from _residual(f"body.{i}", block)
    for i, layer in enumerate(model.upconv, 1):
        yield from conv(f"upconv{i}", layer)
    yield from conv("conv_hr", model.conv_hr)
    yield from conv("conv_last", model.conv_last)


def _residual(name, block):
    for i, layer in enumerate(block.convolutions, 1):
        yield from conv(f"{name}.conv{i}", layer)
    for i, layer in enumerate(block.norms, 1):
        yield from batch_norm(f"{name}.norm{i}", layer)


def msrresnet_settings(shapes):
    filters, channels = shapes["conv_first.weight"][:2]
    ups = count(shapes, r"upconv(\d)\.weight") - 1  # numbered from 1
    scale = root(shapes["upconv1.weight"][0] / filters) ** ups if ups > 0 else 1
    return {"scale": scale, "filters": filters, "num_blocks": count(shapes, r"body\.(\d+)\."), "channels": channels}


def srresnet_settings(shapes):
    return msrresnet_settings(shapes) | {"batch_norm": any(name.startswith("norm_body.") for name in shapes)}


# SRCNN, VDSR, DnCNN


def srcnn_tensors(model):
    for i, layer in enumerate(model.convolutions, 1):
        yield from conv(f"conv{i}", layer)


def srcnn_settings(shapes):
    kernels = [shapes[f"conv{i}.weight"] for i in (1, 2, 3)]
    filters = tuple(kernel[0] for kernel in kernels[:2])
    return {"kernel_sizes": tuple(kernel[2] for kernel in kernels), "filters": filters, "channels": kernels[2][0]}


def vdsr_tensors(model):
    yield from conv("input", model.convolutions[0])
    for i, layer in enumerate(model.convolutions[1:-1]):
        yield from conv(f"residual_layer.{i}.conv", layer)
    yield from conv("output", model.convolutions[-1])


def vdsr_settings(shapes):
    filters, channels = shapes["input.weight"][:2]
    num_convs = count(shapes, r"residual_layer\.(\d+)\.") + 2
    return {"filters": filters, "num_convs": num_convs, "channels": channels, "use_bias": "input.bias" in shapes}


def dncnn_tensors(model):
    for i, layer in enumerate(model.convolutions):
        yield from conv(f"model.{2 * i}", layer)


def dncnn_settings(shapes):
    filters, channels = shapes["model.0.weight"][:2]
    num_convs = count(shapes, r"model\.(\d+)\.") // 2 + 1
    return {"filters": filters, "num_convs": num_convs, "channels": channels, "use_bias": "model.0.bias" in shapes}


NETWORKS = (
    Network(RRDBNet, r"body\.\d+\.rdb\d\.", rrdb_tensors, rrdb_settings),
    Network(SRVGGNetCompact, r"body\.\d+\.weight$", srvgg_tensors, srvgg_settings),
    Network(SRResNet, r"body\.\d+\.act\.weight$", srresnet_tensors, srresnet_settings),
    Network(MSRResNet, r"body\.\d+\.conv1\.weight$", msrresnet_tensors, msrresnet_settings),
    Network(VDSR, r"residual_layer\.\d+\.conv\.weight$", vdsr_tensors, vdsr_settings),
    Network(DnCNN, r"model\.\d+\.weight$", dncnn_tensors, dncnn_settings),
    Network(SRCNN, r"conv[123]\.weight$", srcnn_tensors, srcnn_settings),
)
