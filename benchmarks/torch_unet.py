"""The U-Net of `homl_models.models.unet` in PyTorch, as one would write it there: the peer of speed and of tests."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, before, filters, condition):
        super().__init__()
        self.norm_1, self.norm_2 = nn.GroupNorm(8, before, eps=1e-3), nn.GroupNorm(8, filters, eps=1e-3)
        self.conv_1, self.conv_2 = nn.Conv2d(before, filters, 3, padding=1), nn.Conv2d(filters, filters, 3, padding=1)
        self.condition = nn.Linear(condition, filters)
        self.shortcut = nn.Conv2d(before, filters, 1) if before != filters else nn.Identity()

    def forward(self, x, condition):
        y = self.conv_1(functional.silu(self.norm_1(x))) + self.condition(condition)[:, :, None, None]
        return self.shortcut(x) + self.conv_2(functional.silu(self.norm_2(y)))


class Attention(nn.Module):
    def __init__(self, filters, heads):
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(8, filters, eps=1e-3), heads
        self.query, self.key, self.value, self.out = (nn.Linear(filters, filters) for _ in range(4))

    def forward(self, x, condition):
        b, n, h, w = x.shape
        y = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (f(y).view(b, h * w, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, n)
        return x + self.out(y).transpose(1, 2).view(b, n, h, w)


class UNet(nn.Module):
    """Noisy images (b, c, h, w), times (b,), labels (b,) or None -> (b, c, h, w)."""

    def __init__(self, filters=(64, 128), num_blocks=1, attention_levels=(1,), heads=4, patch=2, channels=1, classes=0):
        super().__init__()
        self.filters, self.patch, self.count = filters, patch, num_blocks
        condition, last, n = 4 * filters[0], len(filters) - 1, filters[0]

        def stage(before, level):
            parts = [Block(before, filters[level], condition)]
            return nn.ModuleList(parts + [Attention(filters[level], heads)] * (level in attention_levels))

        self.time = nn.Sequential(nn.Linear(n, 4 * n), nn.SiLU(), nn.Linear(4 * n, 4 * n))
        self.labels = nn.Embedding(classes + 1, 4 * n) if classes else None
        self.enter = nn.Conv2d(channels, n, max(3, 2 * patch), stride=patch, padding=1)
        self.down, self.shrink, self.up, self.grow = (nn.ModuleList() for _ in range(4))
        skips, before = [], n
        for level, n in enumerate(filters):
            if level:
                self.shrink.append(nn.Conv2d(before, n, 3, stride=2))  # padded as TensorFlow does, see forward
                before = n
            for _ in range(num_blocks):
                self.down.append(stage(before, level))
                before = n
                skips.append(n)
        self.middle = stage(before, last)
        self.middle.append(Block(before, before, condition))
        for level in range(last, -1, -1):
            for _ in range(num_blocks):
                self.up.append(stage(before + skips.pop(), level))
                before = filters[level]
            if level:
                self.grow.append(nn.Conv2d(before, filters[level - 1], 3, padding=1))
                before = filters[level - 1]
        self.norm, self.leave = nn.GroupNorm(8, before, eps=1e-3), nn.Conv2d(before, patch**2 * channels, 3, padding=1)

    def forward(self, x, times, labels=None):
        half = self.filters[0] // 2
        angles = times[:, None] * torch.exp(-math.log(10_000) / half * torch.arange(half, device=x.device))
        condition = self.time(torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(self.leave.weight.dtype))
        condition = functional.silu(condition if self.labels is None else condition + self.labels(labels))

        def through(stage, x):
            for part in stage:
                x = part(x, condition)
            return x

        x, skips = self.enter(x), []
        for i, stage in enumerate(self.down):
            if i and i % self.count == 0:
                x = self.shrink[i // self.count - 1](functional.pad(x, (0, 1, 0, 1)))
            x = through(stage, x)
            skips.append(x)
        x = through(self.middle, x)
        for i, stage in enumerate(self.up):
            x = through(stage, torch.cat([x, skips.pop()], 1))
            if (i + 1) % self.count == 0 and i + 1 < len(self.up):
                x = self.grow[i // self.count](functional.interpolate(x, scale_factor=2))
        x = self.leave(functional.silu(self.norm(x)))
        b, _, h, w = x.shape
        x = x.view(b, self.patch, self.patch, -1, h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(b, -1, h * self.patch, w * self.patch)

    def copy(self, ours):
        """Take the weights of a `homl_models.models.unet.UNet`."""

        def put(module, layer):
            arrays = [np.asarray(w) for w in layer.get_weights()]
            if isinstance(module, nn.Conv2d):
                arrays[0] = arrays[0].transpose(3, 2, 0, 1)
            elif isinstance(module, nn.Linear):
                arrays[0] = arrays[0].T
            for parameter, array in zip(module.parameters(), arrays, strict=True):
                parameter.data.copy_(torch.tensor(np.ascontiguousarray(array)))

        def put_stage(stage, layers):
            for module, layer in zip(stage, layers, strict=True):
                if isinstance(module, Block):
                    put(module.norm_1, layer.norms[0])
                    put(module.norm_2, layer.norms[1])
                    put(module.conv_1, layer.first)
                    put(module.conv_2, layer.last)
                    put(module.condition, layer.condition)
                    if isinstance(module.shortcut, nn.Conv2d):
                        put(module.shortcut, layer.shortcut)
                else:
                    put(module.norm, layer.norm)
                    for name, part in (("query", module.query), ("key", module.key), ("value", module.value)):
                        put(part, getattr(layer.attention, f"{name}_dense"))
                    put(module.out, layer.attention.output_dense)

        put(self.time[0], ours.dense[0])
        put(self.time[2], ours.dense[1])
        if self.labels is not None:
            put(self.labels, ours.embedding)
        for stage, layers in zip(self.down, [block for level in ours.down for block in level], strict=True):
            put_stage(stage, layers)
        put_stage(self.middle, ours.middle)
        for stage, layers in zip(self.up, [block for level in ours.up[::-1] for block in level], strict=True):
            put_stage(stage, layers)
        for module, layer in zip(
            [self.enter, *self.shrink, *self.grow, self.norm, self.leave],
            [ours.enter, *ours.halve, *ours.double[::-1], ours.norm, ours.leave],
            strict=True,
        ):
            put(module, layer)
        return self
