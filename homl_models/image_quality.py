"""Quality of restored images: PSNR and SSIM, on luma or on all channels.

Tables of the literature on super-resolution mean the luma Y of BT.601 without a border as wide as the scale; on RGB the
figures are lower, by about 1.8 dB on Set14.
"""

import numpy as np

BT601 = np.array([65.481, 128.553, 24.966]) / 255  # of R, G and B in 0 to 255
K1, K2, WINDOW, SIGMA = 0.01, 0.03, 11, 1.5  # of SSIM


def luma(images):
    """Images (..., h, w, 3) in 0 to 255 -> Y (..., h, w) in 16 to 235, float64, as MATLAB's `rgb2ycbcr` has it."""
    return 16 + sum(weight * np.float64(images[..., i]) for i, weight in enumerate(BT601))


def psnr(images, others, border=0):
    """Peak signal-to-noise ratio in dB of two images (h, w) or (h, w, c) in 0 to 255; `border` pixels are left out."""
    error = np.square(_inner(images, border) - _inner(others, border)).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(images, others, border=0):
    """Structural similarity (Wang et al., 2004, https://doi.org/10.1109/TIP.2003.819861, equation 13), mean of a map.

    Of images (h, w) or (h, w, c) in 0 to 255, a Gaussian window of 11x11 and sigma 1.5 where it fits wholly.
    """
    x, y = _inner(images, border), _inner(others, border)
    if min(x.shape[:2]) < WINDOW:
        return float("nan")
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return float((luminance * structure).mean())


def _inner(image, border):
    height, width = image.shape[:2]
    return np.float64(image)[border : height - border, border : width - border]


def _blurred(x):
    """Means in a Gaussian window, where it fits wholly."""
    taps = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    taps /= taps.sum()
    for _ in (0, 1):
        inner = len(x) - WINDOW + 1
        x = sum(tap * x[i : i + inner] for i, tap in enumerate(taps)).swapaxes(0, 1)
    return x
