"""RGB to luma and chroma and back (Recommendation ITU-R BT.601), as MATLAB's `rgb2ycbcr` has it.

Y lies in 16/255 to 235/255, Cb and Cr in 16/255 to 240/255, for images in [0, 1]. Shapes: b batch, h height, w width.
"""

import numpy as np
from keras import ops

FROM_RGB = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
OFFSETS = np.array([16, 128, 128]) / 255
TO_RGB = np.linalg.inv(FROM_RGB)


def rgb_to_ycbcr(images):
    """RGB (b, h, w, 3) in [0, 1] -> YCbCr (b, h, w, 3)."""
    return images @ ops.convert_to_tensor(FROM_RGB.T, images.dtype) + ops.convert_to_tensor(OFFSETS, images.dtype)


def ycbcr_to_rgb(images):
    """YCbCr (b, h, w, 3) -> RGB (b, h, w, 3), not clipped."""
    return (images - ops.convert_to_tensor(OFFSETS, images.dtype)) @ ops.convert_to_tensor(TO_RGB.T, images.dtype)
