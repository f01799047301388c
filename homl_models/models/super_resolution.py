"""Super-resolution: the base of models that enlarge images.

A subclass maps images (b, h, w, c) in [0, 1] to (b, s * h, s * w, c). Shapes: b batch, h height, w width, c channels,
s scale.
"""

import functools

import numpy as np
from keras import ops

from homl_models.base import Model, compiled
from homl_models.endpoints import Endpoint, Image
from homl_models.errors import UserError
from homl_models.layers.pixels import upsample_bicubic
from homl_models.layers.ycbcr import rgb_to_ycbcr, ycbcr_to_rgb
from homl_models.models import upscaling


class SuperResolution(Model):
    """Base class of networks that enlarge images.

    A subclass has `call`, `build()`, and the property `receptive_field`: the pixels of the input on each side that an
    output pixel depends on.

    Args:
        scale: s. channels: c, 1 for luma or grey, 3 for RGB.
    """

    multiple = 1
    """Height and width that `call` takes are multiples of it."""

    def __init__(self, scale=4, channels=3, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.channels = scale, channels

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *(n and self.scale * n for n in input_shape[1:3]), self.channels)

    def with_precision(self, policy):
        """A copy that computes by another policy, such as "mixed_bfloat16"; its weights are the same, in float32."""
        model = self.from_config(self.get_config() | {"dtype": policy})
        if not model.built:
            model.build()
        model.set_weights(self.get_weights())
        return model

    # Enlarging.

    def upscale(self, images, tile=upscaling.TILE, overlap=None, outscale=None, progress=True):
        """Enlarge an image, or each of a list, in tiles -> an image of the same kind, or a list.

        Grey is enlarged as luma or as equal channels, alpha like grey; a network of luma enlarges Y of BT.601, and
        chroma by bicubic interpolation.

        Args:
            images: array (h, w), (h, w, 1), (h, w, 2) with alpha, (h, w, 3) or (h, w, 4) with alpha: bytes,
                16-bit levels, or floats in [0, 1]; or a `PIL.Image`.
            tile: pixels of the height and width that the network sees at once; 0 for the whole image.
            overlap: pixels that neighbouring tiles share, where one fades into the other. From twice the receptive
                field on the result is that of the whole image; by default that and 8 more, but 48 at most.
            outscale: factor of the result, which is resized to by Lanczos' filter; by default `scale`.
            progress: show a progress bar if there are several tiles.
        """
        settings = {"tile": tile, "overlap": overlap, "outscale": outscale, "progress": progress}
        if isinstance(images, (list, tuple)):
            return [self.upscale(image, **settings) for image in images]
        if not isinstance(images, np.ndarray) and hasattr(images, "getbands"):
            return upscaling.to_pil(self.upscale(upscaling.from_pil(images), **settings))
        return upscaling.Upscaling(self, np.asarray(images), tile, overlap, outscale).array(progress)

    def enlarge(self, images):
        """Images (b, h, w, c) in [0, 1], of any size -> (b, s * h, s * w, c) in [0, 1], float32.

        c is 1 or 3, whatever the network's is: grey goes into one of RGB as equal channels, whose mean comes back; of
        RGB a network of luma enlarges Y, and bicubic interpolation Cb and Cr.
        """
        images = ops.cast(images, "float32")
        channels = images.shape[-1]
        if channels == self.channels:
            images = self._enlarge(images)
        elif channels == 1:
            images = ops.mean(self._enlarge(ops.repeat(images, self.channels, axis=-1)), axis=-1, keepdims=True)
        else:
            images = rgb_to_ycbcr(images)
            chroma = upsample_bicubic(images[..., 1:], self.scale)
            images = ycbcr_to_rgb(ops.concatenate([self._enlarge(images[..., :1]), chroma], axis=-1))
        return ops.clip(images, 0, 1)

    def _enlarge(self, images):
        """Images (b, h, w, self.channels) of any size -> (b, s * h, s * w, self.channels), float32."""
        height, width = ops.shape(images)[1], ops.shape(images)[2]
        padded = images
        if self.multiple > 1:
            for axis, size in ((1, height), (2, width)):
                padded = ops.take(padded, reflected(size, -size % self.multiple), axis=axis)
        padded = ops.cast(self(padded, training=False), "float32")
        return padded[:, : self.scale * height, : self.scale * width]

    @functools.cached_property
    def compiled_enlarge(self):
        """`enlarge` by the number of channels: one graph for all sizes, which XLA, and JAX, would compile for each."""
        signatures = {c: [((None, None, None, c), "float32")] for c in (1, 3)}
        return {c: compiled(self.enlarge, jit_compile=False, inputs=inputs) for c, inputs in signatures.items()}

    def enlarge_array(self, images):
        """`enlarge` of an array -> an array; `UserError` if the network gives values that are not finite."""
        enlarged = ops.convert_to_numpy(self.compiled_enlarge[images.shape[-1]](images))
        if not np.isfinite(enlarged).all():
            half = self.compute_dtype != "float32"
            remedy = "compute in float32, or mixed_bfloat16" if half else "its weights are damaged"
            raise UserError(f"the network gives values that are not finite in {self.compute_dtype}; {remedy}")
        return enlarged

    def endpoints(self):
        def upscale(images):
            """Images in [0, 1], of any one size, enlarged: as a whole, without tiles, so memory grows with the size."""
            return {"images": self.enlarge(images)}

        return {"upscale": Endpoint(upscale, [Image("images", (None, None, 3))])}


def reflected(size, count):
    """Indices (size + count,) that reflect an axis at its last pixel as often as it takes, without repeating it."""
    period = ops.maximum(2 * (size - 1), 1)
    indices = ops.arange(size + count) % period
    return ops.minimum(indices, period - indices)
