"""SRVGGNetCompact, Real-ESRGAN's small generator (Wang et al., 2021, https://arxiv.org/abs/2107.10833; code of the
authors): 3x3 convolutions with PReLU at the low resolution, and a pixel shuffle whose result is added to the image,
each pixel repeated. Shapes: b batch, h height, w width, c channels, f filters.

Deviations: none known. The initialization of the convolutions is Keras' own, with slopes of 0.25.
"""

import keras

from homl_models.layers.pixels import pixel_shuffle, upsample_nearest
from homl_models.layers.prelu import PReLU
from homl_models.models.super_resolution import SuperResolution


@keras.saving.register_keras_serializable("homl_models")
class SRVGGNetCompact(SuperResolution):
    """Images (b, h, w, c) in [0, 1] -> (b, scale * h, scale * w, c), near [0, 1].

    Args:
        scale: of the image. filters: f. num_convs: convolutions between the first and the last.
        channels: c.
    """

    def __init__(self, scale=4, filters=64, num_convs=16, channels=3, **kwargs):
        super().__init__(scale=scale, channels=channels, **kwargs)
        self.filters, self.num_convs = filters, num_convs
        dtype = self.dtype_policy
        sizes = [filters] * (num_convs + 1) + [channels * scale**2]
        self.convolutions = [
            keras.layers.Conv2D(n, 3, padding="same", name=f"conv_{i}", dtype=dtype) for i, n in enumerate(sizes)
        ]
        self.activations = [PReLU(name=f"act_{i}", dtype=dtype) for i in range(num_convs + 1)]

    def build(self, input_shape=None):
        sizes = [self.channels] + [self.filters] * (self.num_convs + 1)
        for layer, n in zip(self.convolutions, sizes):
            layer.build((None, None, None, n))
        for layer in self.activations:
            layer.build((None, None, None, self.filters))
        self.built = True

    @property
    def receptive_field(self):
        """Pixels of the input on each side that an output pixel depends on."""
        return self.num_convs + 2

    def call(self, images, training=None):
        x = images
        for convolution, activation in zip(self.convolutions, self.activations):
            x = activation(convolution(x))
        x = pixel_shuffle(self.convolutions[-1](x), self.scale)
        return x + upsample_nearest(images, self.scale)
