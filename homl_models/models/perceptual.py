"""Perceptual features: a frozen image classifier whose feature maps compare images (Johnson et al., 2016,
https://arxiv.org/abs/1603.08155).

ESRGAN (Wang et al., 2018, https://arxiv.org/abs/1809.00219, section 3.3) compares those before the activation, which
are not sparse; SRGAN those after it. Networks: VGG19 with the ImageNet weights of Keras; any VGG of such blocks and
SqueezeNet 1.0, from .npz files. Shapes: b batch, h height, w width, c channels.
Deviation: ESRGAN's own code takes PyTorch's VGG19, whose input is scaled by deviations and whose features are smaller.
"""

import re
from pathlib import Path

import numpy as np
from keras import ops

from homl_models.errors import UserError

VGG19_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
VGG19_MEANS = 103.939, 116.779, 123.68  # of B, G and R among the images of ImageNet, as Keras has them
VGG_MEANS = 104.007, 116.669, 122.679  # and as Caffe's networks have them, to which .npz files go back
SQUEEZENET_MEANS = 104.0, 117.0, 123.0
EPSILON = 1e-10
SQUEEZENET_POOLED = "conv1", "fire4", "fire8"


class FeatureExtractor:
    """Features of a frozen network: images (b, h, w, 3) in [0, 1] -> (b, h', w', c'), or a list of them; float32.

    Neither a layer nor a model: a model that has one saves nothing of it. It computes in float32, whatever the policy.
    Grey images (b, h, w, 1) are taken as RGB.

    Args:
        source: "vgg19", from Keras' cache or the network; the path of VGG19's .h5 file; or of an .npz file of a VGG,
            with arrays conv1_1.kernel (h, w, in, out), conv1_1.bias, conv1_2.kernel, ..., or of SqueezeNet 1.0, with
            conv1.weight (out, in, h, w), conv1.bias, fire2/conv1x1_1.weight (squeeze), fire2/conv1x1_2 and
            fire2/conv3x3_2 (expand), ..., conv_final.
        layers: names of layers, e.g. ("conv5_4",) of VGG19 or ("fire9",); () for the deepest one, "each" for the
            last layer of each resolution. For several a call gives a list.
        activated: after the activation; before it by default.

    `UserError` for a file that holds none of these networks, for unknown layers, and for weights that cannot be had.
    """

    def __init__(self, source="vgg19", layers=(), activated=False):
        arrays = _arrays(source)
        if "conv1_1.kernel" in arrays:
            means = VGG19_MEANS if _is_vgg19(source) else VGG_MEANS
            self._steps = _vgg_steps(arrays)
        elif "fire2/conv1x1_1.kernel" in arrays:
            means = SQUEEZENET_MEANS
            self._steps = _squeezenet_steps(arrays)
        else:
            found = ", ".join(list(arrays)[:3]) or "nothing"
            raise UserError(
                f"{source} has the arrays {found}, ...: neither a VGG (conv1_1.kernel) nor SqueezeNet (fire2)"
            )
        known = [name for name, _, _ in self._steps]
        layers = self._last_of_each_resolution() if layers == "each" else tuple(layers) or _deepest(known)
        self.source, self.layers, self.activated = str(source), layers, activated
        if unknown := set(self.layers) - set(known):
            raise UserError(f"{source} has no layers {', '.join(sorted(unknown))}; it has {', '.join(known)}")
        self._means = np.float32(means)
        self._steps = self._steps[: max(map(known.index, self.layers)) + 1]

    def _last_of_each_resolution(self):
        deepest = _deepest([name for name, _, _ in self._steps])
        return tuple(name for name, _, pool in self._steps if pool is not _identity or (name,) == deepest)

    def __call__(self, images):
        maps = self.maps(images)
        return maps if len(maps) > 1 else maps[0]

    def maps(self, images):
        """Images (b, h, w, 3) in [0, 1] -> the list of the features of all layers."""
        x = _as_bgr(images) - self._means
        found = {}
        for name, convolve, pool in self._steps:
            before = convolve(x)
            after = ops.relu(before)
            found[name] = after if self.activated else before
            x = pool(after)
        return [found[name] for name in self.layers]

    def distance(self, images, others):
        """Perceptual distance (b,) of images, 0 or more, float32.

        LPIPS without its learned weights (Zhang et al., 2018, https://arxiv.org/abs/1801.03924, equation 1): features
        of length 1 at each position; their squared distance, averaged over positions and summed over layers.
        """
        maps = zip(self.maps(images), self.maps(others))
        return sum(ops.mean(ops.sum(ops.square(unit(x) - unit(y)), axis=-1), axis=(1, 2)) for x, y in maps)


# Networks: a list of (name, convolution, pooling) of each layer.


def _vgg_steps(arrays):
    """3x3 convolutions in blocks, each followed by 2x2 pooling (Simonyan and Zisserman, 2014)."""
    names = sorted(name.removesuffix(".kernel") for name in arrays if re.fullmatch(r"conv\d_\d\.kernel", name))
    steps = []
    for name, following in zip(names, [*names[1:], ""]):
        weights = _conv_weights(arrays, name)
        ends_block = following[:5] != name[:5]
        steps.append((name, _convolution(*weights), _pool_2 if ends_block else _identity))
    return steps


def _squeezenet_steps(arrays):
    """Fire modules (Iandola et al., 2016, https://arxiv.org/abs/1602.07360): a squeezing and two expanding layers."""
    names = ["conv1", *(f"fire{i}" for i in range(2, 10)), "conv_final"]
    steps = [("conv1", _convolution(*_conv_weights(arrays, "conv1"), strides=2, padding="valid"), _pool_3)]
    for name in names[1:-1]:
        layers = [
            _convolution(*_conv_weights(arrays, f"{name}/{part}")) for part in ("conv1x1_1", "conv1x1_2", "conv3x3_2")
        ]
        steps.append((name, _fire(*layers), _pool_3 if name in SQUEEZENET_POOLED else _identity))
    if "conv_final.kernel" in arrays:
        final = _convolution(*_conv_weights(arrays, "conv_final"), padding="valid")
        edges = [(0, 0), (1, 1), (1, 1), (0, 0)]
        steps.append(("conv_final", lambda x: final(ops.pad(x, edges)), _identity))
    return steps


def _convolution(kernel, bias, strides=1, padding="same"):
    kernel, bias = ops.convert_to_tensor(kernel), ops.convert_to_tensor(bias)
    return lambda x: ops.conv(x, kernel, strides=strides, padding=padding) + bias


def _fire(squeeze, *expand):
    def fire(x):
        x = ops.relu(squeeze(x))
        return ops.concatenate([layer(x) for layer in expand], axis=-1)

    return fire


def _pool_2(x):
    return ops.max_pool(x, 2, strides=2)


def _pool_3(x):
    """3x3 pooling with strides of 2, whose last window may reach over the edge, as Caffe has it; x is 0 or more."""
    return ops.max_pool(ops.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)]), 3, strides=2)


def _identity(x):
    return x


def _as_bgr(images):
    """Images (b, h, w, 1 or 3) in [0, 1] -> (b, h, w, 3), blue first, in 0 to 255."""
    images = 255 * ops.cast(images, "float32")
    return ops.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else ops.flip(images, axis=-1)


def unit(x):
    """Features (..., c) of length 1 at each position."""
    return x * ops.rsqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + EPSILON)  # with a gradient also where x is 0


def _deepest(names):
    """The deepest layer of features: not SqueezeNet's layer of classes."""
    return ([name for name in names if name != "conv_final"][-1],)


# Weights.


def _is_vgg19(source):
    return source == "vgg19" or str(source).endswith(".h5")


def _arrays(source):
    """Arrays {name: float32} of a source; kernels (h, w, in, out) end in .kernel."""
    if _is_vgg19(source):
        return _vgg19_arrays(source)
    try:
        with np.load(source, allow_pickle=False) as file:
            arrays = {name: np.float32(file[name]) for name in file.files}
    except FileNotFoundError:
        raise UserError(f"there is no file {source} of features; {_advice()}") from None
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise UserError(f"cannot read {source} as an .npz file of a network's weights; {_advice()}") from error
    return dict(_hwio(*item) for item in arrays.items())


def _hwio(name, array):
    """An array as Keras has it: PyTorch's name.weight (out, in, h, w) is name.kernel (h, w, in, out)."""
    if not name.endswith(".weight"):
        return name, array
    return name.removesuffix("weight") + "kernel", array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def _vgg19_arrays(source):
    """Arrays of VGG19's convolutions, from Keras' cache or the network, or from an .h5 file."""
    import keras

    path = Path(source)
    if source != "vgg19" and not path.is_file():
        raise UserError(f"there is no file {source} of features; {_advice()}")
    try:
        model = keras.applications.VGG19(include_top=False, weights="imagenet" if source == "vgg19" else path)
    except Exception as error:
        what = "cannot fetch the ImageNet weights of VGG19 and they are not cached"
        raise UserError(f"{what if source == 'vgg19' else f'{source} does not hold VGG19'}: {_advice()}") from error
    arrays = {}
    for layer in model.layers:
        if match := re.fullmatch(r"block(\d)_conv(\d)", layer.name):
            name = f"conv{match[1]}_{match[2]}"
            arrays |= {f"{name}.kernel": np.array(layer.kernel), f"{name}.bias": np.array(layer.bias)}
    return arrays


def _advice():
    return f"put {VGG19_FILE} into the folder `models` of KERAS_HOME, or give an .npz file of VGG16 or SqueezeNet"


def _conv_weights(arrays, name):
    """Kernel and bias of a convolution; `UserError` if they are not there or do not fit each other."""
    kernel, bias = arrays.get(f"{name}.kernel"), arrays.get(f"{name}.bias")
    if kernel is None or bias is None:
        raise UserError(f"the file of features lacks {name}; fetch it again")
    if kernel.ndim != 4 or kernel.shape[3:] != bias.shape:
        raise UserError(
            f"the file of features has {name} of {kernel.shape} and {bias.shape}, not (h, w, in, out) and (out,)"
        )
    return kernel, bias
