"""VDSR (Kim et al., 2016, Accurate image super-resolution using very deep convolutional networks,
https://arxiv.org/abs/1511.04587): twenty convolutions that predict what a bicubic enlargement lacks.

DnCNN (Zhang et al., 2017, https://arxiv.org/abs/1608.03981) is the same network against noise, at a scale of 1: it
predicts the noise, which is taken away. Shapes: b batch, h height, w width, c channels, f filters.

Deviations: DnCNN has no batch normalization, as its authors' later weights have it merged into the convolutions.
"""

import keras
from keras import ops

from homl_models.layers.pixels import reach_of_bicubic, upsample_bicubic
from homl_models.models.super_resolution import SuperResolution


@keras.saving.register_keras_serializable("homl_models")
class VDSR(SuperResolution):
    """Images (b, h, w, c) in [0, 1] -> (b, scale * h, scale * w, c), near [0, 1]: enlargement plus residual.

    Args:
        scale: of the bicubic enlargement, a whole number: one network serves all.
        filters: f. num_convs: convolutions in all. use_bias: of the convolutions.
        channels: c, 1 for luma (Y of BT.601 in [0, 1]).
    """

    sign = 1  # of what the convolutions predict

    def __init__(self, scale=2, filters=64, num_convs=20, use_bias=False, channels=1, **kwargs):
        super().__init__(scale=scale, channels=channels, **kwargs)
        self.filters, self.num_convs, self.use_bias = filters, num_convs, use_bias
        self.convolutions = [
            keras.layers.Conv2D(
                n,
                3,
                padding="same",
                use_bias=use_bias,
                kernel_initializer="he_normal",
                name=f"conv_{i}",
                dtype=self.dtype_policy,
            )
            for i, n in enumerate([filters] * (num_convs - 1) + [channels])
        ]

    @property
    def receptive_field(self):
        """Pixels of the input on each side that an output pixel depends on."""
        return reach_of_bicubic(self.num_convs, self.scale)

    def build(self, input_shape=None):
        for i, layer in enumerate(self.convolutions):
            layer.build((None, None, None, self.filters if i else self.channels))
        self.built = True

    def call(self, images, training=None):
        enlarged = x = upsample_bicubic(images, self.scale)
        for layer in self.convolutions[:-1]:
            x = ops.relu(layer(x))
        return enlarged + self.sign * self.convolutions[-1](x)


@keras.saving.register_keras_serializable("homl_models")
class DnCNN(VDSR):
    """Noisy images (b, h, w, c) in [0, 1] -> images without the noise, near [0, 1].

    Args:
        scale: 1, or of a bicubic enlargement that is cleaned.
        filters: f. num_convs: convolutions in all; 17 for one level of noise, 20 for many.
        channels: c, 1 for grey.
    """

    sign = -1

    def __init__(self, scale=1, filters=64, num_convs=17, use_bias=True, channels=1, **kwargs):
        super().__init__(scale, filters, num_convs, use_bias, channels, **kwargs)
