"""The U-Net of `homl_models.models.unet` in PyTorch, as one would write it there: for benchmarks and tests."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Feature maps (b, before, h, w) and a condition (b, condition) -> (b, filters, h, w)."""

    def __init__(self, before, filters, condition):
        super().__init__()
        self.norm_1, self.norm_2 = nn.GroupNorm(8, before, eps=1e-3), nn.GroupNorm(8, filters, eps=1e-3)
        self.conv_1, self.conv_2 = nn.Conv2d(before, filters, 3, padding=1), nn.Conv2d(filters, filters, 3, padding=1)
        self.condition = nn.Linear(condition, filters)
        self.shortcut = nn.Conv2d(before, filters, 1) if before != filters else nn.Identity()

    def forward(self, x, condition):
        y = self.conv_1(functional.silu(self.norm_1(x))) + self.condition(condition)[:, :, None, None]
        return self.shortcut(x) + self.conv_2(functional.silu(self.norm_2(y)))


class AttentionBlock(nn.Module):
    """Self-attention over the positions of feature maps (b, n, h, w), with a residual connection."""

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
    """Noisy images (b, c, h, w), timesteps (b,), labels (b,) or None -> (b, c, h, w)."""

    def __init__(self, filters=(64, 128), num_blocks=1, attention_levels=(1,), heads=4, patch=2, channels=1, classes=0):
        super().__init__()
        self.filters, self.patch, self.count = filters, patch, num_blocks
        condition, last, n = 4 * filters[0], len(filters) - 1, filters[0]

        def stage(before, level):
            layers = [ResidualBlock(before, filters[level], condition)]
            return nn.ModuleList(layers + [AttentionBlock(filters[level], heads)] * (level in attention_levels))

        self.time_mlp = nn.Sequential(nn.Linear(n, 4 * n), nn.SiLU(), nn.Linear(4 * n, 4 * n))
        self.embedding = nn.Embedding(classes + 1, 4 * n) if classes else None
        self.conv_in = nn.Conv2d(channels, n, max(3, 2 * patch), stride=patch, padding=1)
        self.down_blocks, self.downsample, self.up_blocks, self.upsample = (nn.ModuleList() for _ in range(4))
        skips, before = [], n
        for level, n in enumerate(filters):
            if level:
                self.downsample.append(nn.Conv2d(before, n, 3, stride=2))  # padded as TensorFlow does, see forward
                before = n
            for _ in range(num_blocks):
                self.down_blocks.append(stage(before, level))
                before = n
                skips.append(n)
        self.mid_block = stage(before, last)
        self.mid_block.append(ResidualBlock(before, before, condition))
        for level in range(last, -1, -1):
            for _ in range(num_blocks):
                self.up_blocks.append(stage(before + skips.pop(), level))
                before = filters[level]
            if level:
                self.upsample.append(nn.Conv2d(before, filters[level - 1], 3, padding=1))
                before = filters[level - 1]
        self.norm_out = nn.GroupNorm(8, before, eps=1e-3)
        self.conv_out = nn.Conv2d(before, patch**2 * channels, 3, padding=1)

    def forward(self, x, timesteps, labels=None):
        half = self.filters[0] // 2
        angles = timesteps[:, None] * torch.exp(-math.log(10_000) / half * torch.arange(half, device=x.device))
        sinusoids = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
        condition = self.time_mlp(sinusoids.to(self.conv_out.weight.dtype))
        condition = functional.silu(condition if self.embedding is None else condition + self.embedding(labels))

        def run(stage, x):
            for layer in stage:
                x = layer(x, condition)
            return x

        x, skip_connections = self.conv_in(x), []
        for i, stage in enumerate(self.down_blocks):
            if i and i % self.count == 0:
                x = self.downsample[i // self.count - 1](functional.pad(x, (0, 1, 0, 1)))
            x = run(stage, x)
            skip_connections.append(x)
        x = run(self.mid_block, x)
        for i, stage in enumerate(self.up_blocks):
            x = run(stage, torch.cat([x, skip_connections.pop()], 1))
            if (i + 1) % self.count == 0 and i + 1 < len(self.up_blocks):
                x = self.upsample[i // self.count](functional.interpolate(x, scale_factor=2))
        x = self.conv_out(functional.silu(self.norm_out(x)))
        b, _, h, w = x.shape
        x = x.view(b, self.patch, self.patch, -1, h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(b, -1, h * self.patch, w * self.patch)

    def load_keras_weights(self, ours):
        """Copy the weights of a `homl_models.models.unet.UNet`."""

        def copy(module, layer):
            arrays = [np.asarray(w) for w in layer.get_weights()]
            if isinstance(module, nn.Conv2d):
                arrays[0] = arrays[0].transpose(3, 2, 0, 1)
            elif isinstance(module, nn.Linear):
                arrays[0] = arrays[0].T
            for parameter, array in zip(module.parameters(), arrays, strict=True):
                parameter.data.copy_(torch.tensor(np.ascontiguousarray(array)))

        def copy_stage(stage, layers):
            for module, layer in zip(stage, layers, strict=True):
                if isinstance(module, ResidualBlock):
                    copy(module.norm_1, layer.norms[0])
                    copy(module.norm_2, layer.norms[1])
                    copy(module.conv_1, layer.conv_1)
                    copy(module.conv_2, layer.conv_2)
                    copy(module.condition, layer.condition_dense)
                    if isinstance(module.shortcut, nn.Conv2d):
                        copy(module.shortcut, layer.shortcut)
                else:
                    copy(module.norm, layer.norm)
                    for name, part in (("query", module.query), ("key", module.key), ("value", module.value)):
                        copy(part, getattr(layer.attention, f"{name}_dense"))
                    copy(module.out, layer.attention.output_dense)

        copy(self.time_mlp[0], ours.time_mlp[0])
        copy(self.time_mlp[2], ours.time_mlp[1])
        if self.embedding is not None:
            copy(self.embedding, ours.embedding)
        down_blocks, up_blocks = (sum(levels, []) for levels in (ours.down_blocks, ours.up_blocks[::-1]))
        for stage, layers in zip(self.down_blocks, down_blocks, strict=True):
            copy_stage(stage, layers)
        copy_stage(self.mid_block, ours.mid_block)
        for stage, layers in zip(self.up_blocks, up_blocks, strict=True):
            copy_stage(stage, layers)
        for module, layer in zip(
            [self.conv_in, *self.downsample, *self.upsample, self.norm_out, self.conv_out],
            [ours.conv_in, *ours.downsample, *ours.upsample[::-1], ours.norm_out, ours.conv_out],
            strict=True,
        ):
            copy(module, layer)
        return self
