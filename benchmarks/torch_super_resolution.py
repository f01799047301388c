"""Networks for super-resolution in PyTorch, from their papers: peers of the benchmarks, references of the tests.

Names of modules are those of the authors' code, so that their `state_dict` is BasicSR's dialect.
"""

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs, size=3, bias=True):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)


def lrelu(x, slope=0.2):
    return F.leaky_relu(x, slope, inplace=True)


class DenseBlock(nn.Module):
    """Five convolutions, each of which reads all before it (ESRGAN, figure 4)."""

    def __init__(self, filters, growth):
        super().__init__()
        for i in range(4):
            self.add_module(f"conv{i + 1}", conv(filters + i * growth, growth))
        self.conv5 = conv(filters + 4 * growth, filters)

    def forward(self, x):
        known = [x]
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            known.append(lrelu(layer(torch.cat(known, 1))))
        return x + 0.2 * self.conv5(torch.cat(known, 1))


class RRDB(nn.Module):
    def __init__(self, filters, growth):
        super().__init__()
        for i in (1, 2, 3):
            self.add_module(f"rdb{i}", DenseBlock(filters, growth))

    def forward(self, x):
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    """Images (b, c, h, w); for a scale of 2 or 1 unshuffled first (Real-ESRGAN, section 4.1)."""

    def __init__(self, scale=4, filters=64, num_blocks=23, growth=32, channels=3):
        super().__init__()
        self.factor = 4 // scale
        self.conv_first = conv(channels * self.factor**2, filters)
        self.body = nn.Sequential(*[RRDB(filters, growth) for _ in range(num_blocks)])
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (conv(filters, filters) for _ in range(4))
        self.conv_last = conv(filters, channels)

    def forward(self, x):
        x = self.conv_first(F.pixel_unshuffle(x, self.factor))
        x = x + self.conv_body(self.body(x))
        for layer in (self.conv_up1, self.conv_up2):
            x = lrelu(layer(F.interpolate(x, scale_factor=2, mode="nearest")))
        return self.conv_last(lrelu(self.conv_hr(x)))


class SRVGGNetCompact(nn.Module):
    """Images (b, c, h, w); convolutions and PReLUs in one list, then a pixel shuffle (Real-ESRGAN)."""

    def __init__(self, scale=4, filters=64, num_convs=16, channels=3):
        super().__init__()
        self.scale = scale
        self.body = nn.ModuleList()
        for i in range(num_convs + 1):
            self.body += [conv(filters if i else channels, filters), nn.PReLU(filters)]
        self.body.append(conv(filters, channels * scale**2))

    def forward(self, images):
        x = images
        for layer in self.body:
            x = layer(x)
        return F.pixel_shuffle(x, self.scale) + F.interpolate(images, scale_factor=self.scale, mode="nearest")


class Residual(nn.Module):
    """Two convolutions added to their input, with batch normalization and PReLU, or with ReLU alone."""

    def __init__(self, filters, batch_norm):
        super().__init__()
        self.conv1, self.conv2 = conv(filters, filters), conv(filters, filters)
        self.norm1, self.norm2 = (nn.BatchNorm2d(filters) if batch_norm else nn.Identity() for _ in range(2))
        self.act = nn.PReLU(filters) if batch_norm else nn.ReLU()

    def forward(self, x):
        return x + self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))


class SRResNet(nn.Module):
    """SRGAN's generator (figure 4), for a scale of 4."""

    def __init__(self, filters=64, num_blocks=16):
        super().__init__()
        self.conv_first, self.act_first = conv(3, filters, 9), nn.PReLU(filters)
        self.body = nn.Sequential(*[Residual(filters, True) for _ in range(num_blocks)])
        self.conv_body, self.norm_body = conv(filters, filters), nn.BatchNorm2d(filters)
        self.upconv1, self.upconv2 = conv(filters, 4 * filters), conv(filters, 4 * filters)
        self.act_up1, self.act_up2 = nn.PReLU(filters), nn.PReLU(filters)
        self.conv_last = conv(filters, 3, 9)

    def forward(self, x):
        x = self.act_first(self.conv_first(x))
        x = x + self.norm_body(self.conv_body(self.body(x)))
        x = self.act_up1(F.pixel_shuffle(self.upconv1(x), 2))
        x = self.act_up2(F.pixel_shuffle(self.upconv2(x), 2))
        return self.conv_last(x)


class MSRResNet(nn.Module):
    """BasicSR's residual network without batch normalization, for scales of 4, 3 and 2."""

    def __init__(self, scale=4, filters=64, num_blocks=16):
        super().__init__()
        self.scale, self.factors = scale, [2, 2] if scale == 4 else [scale]
        self.conv_first = conv(3, filters)
        self.body = nn.Sequential(*[Residual(filters, False) for _ in range(num_blocks)])
        for i, factor in enumerate(self.factors, 1):
            self.add_module(f"upconv{i}", conv(filters, filters * factor**2))
        self.conv_hr, self.conv_last = conv(filters, filters), conv(filters, 3)

    def forward(self, images):
        x = self.body(lrelu(self.conv_first(images), 0.1))
        for i, factor in enumerate(self.factors, 1):
            x = lrelu(F.pixel_shuffle(getattr(self, f"upconv{i}")(x), factor), 0.1)
        base = F.interpolate(images, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return self.conv_last(lrelu(self.conv_hr(x), 0.1)) + base


class SRCNN(nn.Module):
    """Three convolutions of an enlarged image (b, c, h, w)."""

    def __init__(self, kernel_sizes=(9, 1, 5), filters=(64, 32), channels=1):
        super().__init__()
        sizes = (channels, *filters, channels)
        for i, size in enumerate(kernel_sizes):
            self.add_module(f"conv{i + 1}", conv(sizes[i], sizes[i + 1], size))

    def forward(self, x):
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class DnCNN(nn.Module):
    """Convolutions and ReLUs in one list that predict the noise of images (b, c, h, w)."""

    def __init__(self, filters=64, num_convs=17, channels=1):
        super().__init__()
        layers = [conv(channels, filters)]
        for _ in range(num_convs - 2):
            layers += [nn.ReLU(), conv(filters, filters)]
        self.model = nn.Sequential(*layers, nn.ReLU(), conv(filters, channels))

    def forward(self, x):
        return x - self.model(x)


class VDSR(nn.Module):
    """Convolutions without biases that predict the residual of an enlarged image (b, 1, h, w)."""

    def __init__(self, filters=64, num_convs=20):
        super().__init__()
        self.input = conv(1, filters, bias=False)
        blocks = [nn.ModuleDict({"conv": conv(filters, filters, bias=False)}) for _ in range(num_convs - 2)]
        self.residual_layer = nn.ModuleList(blocks)
        self.output = conv(filters, 1, bias=False)

    def forward(self, x):
        y = F.relu(self.input(x))
        for block in self.residual_layer:
            y = F.relu(block["conv"](y))
        return x + self.output(y)
