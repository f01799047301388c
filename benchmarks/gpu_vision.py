"""PyTorch peers of `gpu.py`'s claims on ESRGAN's generator and BEiT; see `gpu_peers.py`.

Shapes: b batch, c channels, (h, w) pixels, t tokens, d dimension, n labels, s scale.
"""

import functools
import tempfile

import numpy as np
import torch
from gpu_peers import Peer, adam, copy, count, trainer
from torch import nn
from torch.nn import functional as F


def as_tensor(array):
    return torch.from_numpy(np.array(array, np.float32))


def pictures(runtime, images):
    """Images (b, h, w, c) -> (b, c, h, w) on the device, channels last."""
    return runtime.put(np.moveaxis(images, -1, 1)).contiguous(memory_format=torch.channels_last)


# Super-resolution.


def rrdb(runtime, ours):
    """A `torch_super_resolution.RRDBNet`, channels last, with the weights of a `models.rrdb.RRDBNet`."""
    from torch_super_resolution import RRDBNet

    from homl_models.checkpoints.super_resolution import state_dict

    network = RRDBNet(ours.scale, ours.filters, ours.num_blocks, ours.growth, ours.channels)
    network.load_state_dict({name: as_tensor(array) for name, array in state_dict(ours).items()})
    return network.to(runtime.device, memory_format=torch.channels_last)


def rrdb_forward(runtime, ours, images):
    """Images (b, h, w, c) -> (b, s h, s w, c)."""
    network, x = rrdb(runtime, ours).eval(), pictures(runtime, images)
    compiled = runtime.compile(network)

    def forward():
        with torch.no_grad():
            return compiled(x).permute(0, 2, 3, 1)

    return Peer(runtime, forward)


def rrdb_step(runtime, ours, images, targets):
    """A step on images (b, h, w, c) and targets (b, s h, s w, c): mean absolute error, Adam, no clipping."""
    network, batch = rrdb(runtime, ours).train(), [pictures(runtime, array) for array in (images, targets)]

    def loss(x, y):
        return F.l1_loss(network(x).float(), y)

    def check():
        with torch.no_grad():
            return network(batch[0]).permute(0, 2, 3, 1).cpu().numpy()

    step = trainer(runtime, loss, batch, [network], adam(runtime, network.parameters(), 2e-4), clip=None)
    return Peer(runtime, step, count(network), check)


# BEiT.


class BeitBlock(nn.Module):
    """A block of BEiT with the weights of ours: (b, t, d) -> (b, t, d); keys have no bias, each block its own table."""

    def __init__(self, ours, index):
        super().__init__()
        config, (query, key, value, out) = ours.config, ours.attention.projections
        d, self.heads = config.hidden_size, config.num_attention_heads
        self.norms = nn.ModuleList(nn.LayerNorm(d, config.layer_norm_eps) for _ in ours.norms)
        self.inputs, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d)
        self.biases = nn.ParameterList(nn.Parameter(as_tensor(layer.bias)) for layer in (query, value))
        self.hidden, self.output = nn.Linear(d, config.intermediate_size), nn.Linear(config.intermediate_size, d)
        self.scales = nn.ParameterList(nn.Parameter(as_tensor(layer.gamma)) for layer in ours.layer_scales)
        self.table = nn.Parameter(as_tensor(ours.relative_position_bias.table))
        self.register_buffer("index", index)  # (t, t)
        self.inputs.weight.data.copy_(torch.cat([as_tensor(layer.kernel).T for layer in (query, key, value)]))
        pairs = (self.out, out), (self.hidden, ours.hidden), (self.output, ours.output_dense)
        for module, layer in (*pairs, *zip(self.norms, ours.norms)):
            copy(module, layer)

    def attention(self, x):
        bias = torch.cat([self.biases[0], torch.zeros_like(self.biases[0]), self.biases[1]])
        parts = F.linear(x, self.inputs.weight, bias).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        positions = self.table[self.index].permute(2, 0, 1)[None].to(query.dtype)
        return self.out(F.scaled_dot_product_attention(query, key, value, positions).transpose(1, 2).flatten(2))

    def forward(self, x):
        x = x + self.scales[0] * self.attention(self.norms[0](x))
        return x + self.scales[1] * self.output(F.gelu(self.hidden(self.norms[1](x))))


class Beit(nn.Module):
    """BEiT with its classifier of the mean patch, as one would write it: pictures (b, c, h, w) -> logits (b, n)."""

    named = "a plain PyTorch BEiT (SDPA)"

    def __init__(self, ours):
        from homl_models.models.vit_layers import relative_position_index

        super().__init__()
        backbone, config = ours.backbone, ours.backbone.config
        index, d = torch.from_numpy(np.int64(relative_position_index(*config.window))), config.hidden_size
        self.patches = nn.Conv2d(config.num_channels, d, config.patch_shape, config.patch_shape)
        self.token = nn.Parameter(as_tensor(backbone.embeddings.class_tokens[0]))
        self.blocks = nn.ModuleList(BeitBlock(block, index) for block in backbone.blocks)
        self.norm, self.head = nn.LayerNorm(d, config.layer_norm_eps), nn.Linear(d, ours.num_labels)
        patches = backbone.embeddings.patches
        self.patches.weight.data.copy_(as_tensor(patches.kernel).permute(3, 2, 0, 1))
        self.patches.bias.data.copy_(as_tensor(patches.bias))
        copy(self.norm, backbone.pooler)
        copy(self.head, ours.classifier)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1).to(x.dtype), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 1:].mean(1)))


class TransformersBeit(nn.Module):
    """`BeitForImageClassification` of `transformers` with SDPA, read from a folder that ours writes.

    Its blocks compute which entry of the table a pair of patches has on the CPU, at every step; here they are told.
    """

    def __init__(self, ours, device):
        import transformers

        from homl_models.checkpoints.huggingface import save_pretrained

        super().__init__()
        kind, settings = transformers.BeitForImageClassification, {"attn_implementation": "sdpa"}
        with tempfile.TemporaryDirectory() as folder:
            save_pretrained(ours, folder)
            self.model, found = kind.from_pretrained(folder, **settings, output_loading_info=True)
        wrong = [found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if found.get(key)]
        assert not wrong, wrong
        self.to(device)
        for module in self.modules():
            if hasattr(module, "generate_relative_position_index"):
                index = module.generate_relative_position_index(module.window_size).to(device)
                module.generate_relative_position_index = functools.partial(told, index)
        self.named = f"transformers {transformers.__version__} (SDPA)"

    def forward(self, x):
        return self.model(pixel_values=x).logits


def told(index, window):
    return index


def beit(runtime, ours):
    """The peer of a `BeitForImageClassification`: that of `transformers`, or `Beit` where there is none."""
    try:
        return TransformersBeit(ours, runtime.device)
    except ImportError:
        return Beit(ours).to(runtime.device)


def beit_step(runtime, ours, images, labels):
    """A step of classification of images (b, h, w, c) in [0, 1]: AdamW, global norm 3.

    Kernels and tables decay; biases, normalizations, layer scale and the class token do not.
    """
    network = beit(runtime, ours).train()
    batch = [runtime.put(np.moveaxis(2 * images - 1, -1, 1)), runtime.put(labels)]
    decayed = [p for p in network.parameters() if p.ndim in (2, 4)]
    others = [p for p in network.parameters() if p.ndim not in (2, 4)]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]

    def loss(x, labels):
        return F.cross_entropy(network(x), labels)

    def check():
        with torch.no_grad():
            return network(batch[0]).cpu().numpy()

    optimizer = adam(runtime, groups, 1e-4, torch.optim.AdamW, eps=1e-6)
    peer = Peer(runtime, trainer(runtime, loss, batch, [network], optimizer, clip=3.0), count(network), check)
    peer.named = network.named
    return peer
