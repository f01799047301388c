"""The discriminators of super-resolution: sizes; against PyTorch's layers with the same weights."""

import keras
import numpy as np
import pytest

from homl_models.errors import UserError
from homl_models.models.sr_discriminators import UNetDiscriminator, VGGDiscriminator
from tests import checks


@pytest.mark.parametrize("size", [32, 96, 128, 192, 256])
def test_the_vgg_discriminator_takes_crops_of_its_size(size):
    model = VGGDiscriminator(size, 2)
    model.build()
    assert model.hidden.kernel.shape[0] == (size // (64 if size > 128 else 32)) ** 2 * 16
    assert model(np.zeros((2, size, size, 3), np.float32)).shape == (2,)


@pytest.mark.parametrize("size", [16, 100, 160])
def test_the_vgg_discriminator_refuses_other_sizes(size):
    with pytest.raises(UserError, match="image_size must be a multiple of"):
        VGGDiscriminator(size)


def torch_conv(layer, norm=False):
    """An `nn.Conv2d` with the weights of a Keras layer, padded by 1 as all of these are; with `norm` spectral."""
    import torch
    from torch import nn

    kernel = np.array(layer.kernel).transpose(3, 2, 0, 1)
    made = nn.Conv2d(*kernel.shape[1::-1], kernel.shape[2], layer.strides[0], 1, bias=layer.use_bias)
    made.weight.data = torch.tensor(kernel)
    if layer.use_bias:
        made.bias.data = torch.tensor(np.array(layer.bias))
    if not norm:
        return made
    made = nn.utils.spectral_norm(made)
    made.weight_u.data = nn.functional.normalize(torch.tensor(np.array(layer.u)), dim=0)
    return made


def lrelu(x):
    from torch import nn

    return nn.functional.leaky_relu(x, 0.2)


def randomized(model):
    keras.utils.set_random_seed(3)
    model.build()
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif "seed" not in weight.path:
            weight.assign(rng.normal(0, 0.1, weight.shape))
    return model


def nchw(images):
    import torch

    return torch.tensor(images.transpose(0, 3, 1, 2))


@pytest.mark.parity
def test_u_net():
    """Also its second step in training, whose singular vectors are those that the first one left."""
    from torch import nn

    model = randomized(UNetDiscriminator(8))
    down, up = ([torch_conv(layer, norm=True) for layer in layers] for layers in (model.down, model.up))
    last = [torch_conv(layer, norm=True) for layer in model.last]

    def reference(x):
        x0 = lrelu(torch_conv(model.first)(x))
        x1 = lrelu(down[0](x0))
        x2 = lrelu(down[1](x1))
        x = lrelu(down[2](x2))
        for layer, skip in zip(up, (x2, x1, x0)):
            x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = lrelu(layer(x)) + skip
        for layer in last:
            x = lrelu(layer(x))
        return torch_conv(model.logit)(x)[:, 0].detach().numpy()

    images = np.random.default_rng(1).uniform(size=(2, 24, 40, 3)).astype(np.float32)
    for _ in range(2):
        checks.close(model(images, training=True), reference(nchw(images)), 1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("training", [False, True])
def test_vgg_style(training):
    import torch
    from torch import nn

    model = randomized(VGGDiscriminator(64, 4))
    norms = []
    for norm in model.norms:
        made = nn.BatchNorm2d(norm.gamma.shape[0])
        for ours, theirs in (("gamma", "weight"), ("beta", "bias"), ("moving_mean", "running_mean")):
            getattr(made, theirs).data = torch.tensor(np.array(getattr(norm, ours)))
        made.running_var.data = torch.tensor(np.array(norm.moving_variance))
        norms.append(made.train(training))
    images = np.random.default_rng(1).uniform(size=(3, 64, 64, 3)).astype(np.float32)
    x = lrelu(torch_conv(model.convolutions[0])(nchw(images)))
    for convolution, norm in zip(model.convolutions[1:], norms):
        x = lrelu(norm(torch_conv(convolution)(x)))
    flat = x.permute(0, 2, 3, 1).flatten(1).detach().numpy()
    hidden = flat @ np.array(model.hidden.kernel) + np.array(model.hidden.bias)
    logits = np.where(hidden > 0, hidden, 0.2 * hidden) @ np.array(model.logit.kernel) + np.array(model.logit.bias)
    checks.close(model(images, training=training), logits[:, 0], 1e-3)
    checks.close(model.norms[0].moving_mean, norms[0].running_mean.numpy(), 1e-4)
