"""Second-order degradation of Real-ESRGAN (Wang et al., 2021, https://arxiv.org/abs/2107.10833, sections 3 and 4.1).

An image is blurred, resized, made noisy and compressed twice, and sinc filters add the ringing of sharpened and
compressed images; a network that was trained on such pairs restores photographs of unknown history. The defaults are
the ranges of the paper, and where it names none (the shares of the kernels, of enlarging and of reducing) those of the
authors' options. Shapes: h height, w width, c channels 1 or 3, k size of a kernel; images are float32 in [0, 1].

Deviations from the authors' code: each crop is degraded by itself, with its own random numbers and with mirrored
borders, rather than a batch of larger crops by the same ones; JPEG is that of Pillow, with whole qualities; beta of a
plateau is uniform, where the code takes 1 half the time.
"""

import dataclasses
import io

import numpy as np

from homl_models.pipelines.resize import cubic

ISOTROPIC, ANISOTROPIC = "isotropic", "anisotropic"
KERNELS = {
    ("gaussian", ISOTROPIC): 0.45,
    ("gaussian", ANISOTROPIC): 0.25,
    ("generalized", ISOTROPIC): 0.12,
    ("generalized", ANISOTROPIC): 0.03,
    ("plateau", ISOTROPIC): 0.12,
    ("plateau", ANISOTROPIC): 0.03,
}  # the six kinds of blur kernels and their shares
MODES = "area", "bilinear", "bicubic"
BT601 = 0.299, 0.587, 0.114  # of the grey level of R, G and B
TORCH_CUBIC = -0.75  # a of the kernel of bicubic interpolation in PyTorch and OpenCV
USM_SIZE, USM_SIGMA = 51, 8.0


@dataclasses.dataclass(frozen=True)
class Round:
    """Ranges of one round of blur, resizing, noise and JPEG; the defaults are those of the first."""

    blur_probability: float = 1.0
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    """Standard deviation of a kernel, in pixels."""
    resize_probabilities: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Of enlarging, of reducing and of keeping the size."""
    resize_range: tuple[float, float] = (0.15, 1.5)
    """Smallest and largest factor."""
    gaussian_probability: float = 0.5
    """Of Gaussian rather than Poisson noise."""
    noise_sigma: tuple[float, float] = (1.0, 30.0)
    """Of Gaussian noise, in levels of 255."""
    poisson_scale: tuple[float, float] = (0.05, 3.0)
    grey_probability: float = 0.4
    """Of noise that all channels share."""
    jpeg_quality: tuple[float, float] = (30.0, 95.0)


SECOND = Round(
    blur_probability=0.8,
    blur_sigma=(0.2, 1.5),
    resize_probabilities=(0.3, 0.4, 0.3),
    resize_range=(0.3, 1.2),
    noise_sigma=(1.0, 25.0),
    poisson_scale=(0.05, 2.5),
)


@dataclasses.dataclass(frozen=True)
class Degradation:
    """Second-order degradation: `degradation(image, generator)` of (h, w, c) in [0, 1] is (h // scale, w // scale, c).

    A pure function of the image and the state of the `np.random.Generator`.

    Args:
        scale: s. first, second: the two rounds.
        kernel_sizes: k, chosen among.
        generalized_beta, plateau_beta: ranges of the shape parameter.
        sinc_probability: of a sinc filter in place of a blur kernel.
        final_sinc_probability: of a sinc filter at the end, before or after the last compression.
    """

    scale: int = 4
    first: Round = Round()
    second: Round = SECOND
    kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    generalized_beta: tuple[float, float] = (0.5, 4.0)
    plateau_beta: tuple[float, float] = (1.0, 2.0)
    sinc_probability: float = 0.1
    final_sinc_probability: float = 0.8

    def __call__(self, image, generator):
        height, width = image.shape[0] // self.scale, image.shape[1] // self.scale
        x = self.blurred_and_resized(np.float32(image), self.first, image.shape[:2], generator)
        x = compressed(noisy(x, self.first, generator), self.first, generator)
        x = noisy(self.blurred_and_resized(x, self.second, (height, width), generator), self.second, generator)
        if generator.uniform() < 0.5:
            x = compressed(self.finished(x, height, width, generator), self.second, generator)
        else:
            x = self.finished(compressed(x, self.second, generator), height, width, generator)
        return to_levels(x) / np.float32(255)

    def blurred_and_resized(self, x, ranges, size, generator):
        """The first half of a round; `size` (h, w) times a random factor is the new one."""
        if generator.uniform() < ranges.blur_probability:
            x = blur(x, self.random_kernel(ranges.blur_sigma, generator))
        factor = random_factor(ranges, generator)
        return resize(x, *(max(1, int(n * factor)) for n in size), MODES[generator.integers(len(MODES))])

    def finished(self, x, height, width, generator):
        """Brought to the size of the low resolution, and by chance filtered by a sinc."""
        x = resize(x, height, width, MODES[generator.integers(len(MODES))])
        if generator.uniform() < self.final_sinc_probability:
            size = generator.choice(self.kernel_sizes)
            x = blur(x, sinc_kernel(size, generator.uniform(np.pi / 3, np.pi)))
        return x

    def random_kernel(self, sigma, generator):
        """A kernel of one of the six kinds, or a sinc: (k, k)."""
        size = generator.choice(self.kernel_sizes)
        if generator.uniform() < self.sinc_probability:
            return sinc_kernel(size, generator.uniform(np.pi / 3 if size < 13 else np.pi / 5, np.pi))
        kind, shape = list(KERNELS)[generator.choice(len(KERNELS), p=list(KERNELS.values()))]
        first = second = generator.uniform(*sigma)
        angle = 0.0
        if shape == ANISOTROPIC:
            second, angle = generator.uniform(*sigma), generator.uniform(-np.pi, np.pi)
        if kind == "plateau":
            return plateau_kernel(size, first, second, angle, random_beta(self.plateau_beta, generator))
        beta = random_beta(self.generalized_beta, generator) if kind == "generalized" else 1.0
        return gaussian_kernel(size, first, second, angle, beta)


# Random numbers.


def random_beta(bounds, generator):
    """A shape parameter: uniform on one side of 1 or on the other, as likely, where the range has both."""
    low, high = bounds
    if low < 1 < high:
        low, high = ((low, 1), (1, high))[generator.integers(2)]
    return generator.uniform(low, high)


def random_factor(ranges, generator):
    """The factor of a resizing: above 1, below 1 or 1."""
    low, high = ranges.resize_range
    bounds = ((1, high), (low, 1), (1, 1))[generator.choice(3, p=ranges.resize_probabilities)]
    return generator.uniform(*bounds)


def noisy(image, ranges, generator):
    """Gaussian or Poisson noise, of each channel or of all alike; in [0, 1]."""
    gaussian, grey = generator.uniform() < ranges.gaussian_probability, generator.uniform() < ranges.grey_probability
    if gaussian:
        noise = gaussian_noise(image.shape, generator.uniform(*ranges.noise_sigma), grey, generator)
    else:
        noise = poisson_noise(image, generator.uniform(*ranges.poisson_scale), grey, generator)
    return np.clip(image + noise, 0, 1)


def compressed(image, ranges, generator):
    """JPEG of a random quality."""
    return jpeg(image, generator.uniform(*ranges.jpeg_quality))


# Kernels. Each (k, k), of sum 1, with its centre in the middle.


def gaussian_kernel(size, sigma_1, sigma_2, angle=0.0, beta=1.0):
    """exp(-(C^T Sigma^-1 C)^beta / 2): Gaussian with beta 1 (equation 2), otherwise generalized (section 3.1)."""
    return _normalized(np.exp(-0.5 * _distance(size, sigma_1, sigma_2, angle) ** beta))


def plateau_kernel(size, sigma_1, sigma_2, angle=0.0, beta=1.0):
    """1 / (1 + (C^T Sigma^-1 C)^beta), section 3.1."""
    return _normalized(1 / (1 + _distance(size, sigma_1, sigma_2, angle) ** beta))


def sinc_kernel(size, cutoff):
    """Circular low-pass filter, cutoff J_1(cutoff r) / (2 pi r) (equation 7); the cutoff is in radians a pixel."""
    radius = np.hypot(*_grid(size))
    x = cutoff * radius
    # J_1(x) = 1/pi int_0^pi cos(t - x sin t) dt; of a periodic function the trapezoidal rule converges at once.
    t = np.linspace(0, np.pi, 129)[:-1] + np.pi / 256
    distances, places = np.unique(x, return_inverse=True)
    bessel = np.cos(t - distances[:, None] * np.sin(t)).mean(1)[places].reshape(x.shape)
    kernel = cutoff * bessel / (2 * np.pi * np.where(radius, radius, 1))
    return _normalized(np.where(radius, kernel, cutoff**2 / (4 * np.pi)))


def _grid(size):
    """Rows and columns (k, k) from the centre."""
    return np.mgrid[:size, :size] - size // 2


def _distance(size, sigma_1, sigma_2, angle):
    """C^T Sigma^-1 C with Sigma = R diag(sigma_1^2, sigma_2^2) R^T (equation 3), C = (column, row)."""
    rows, columns = _grid(size)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    return (along / sigma_1) ** 2 + (across / sigma_2) ** 2


def _normalized(kernel):
    return kernel / kernel.sum()


# Operations, each (h, w, c) -> (h', w', c).


def blur(image, kernel):
    """Convolution with a kernel (k, k), k odd; the image is mirrored at its border, whose pixels are not repeated."""
    reach = len(kernel) // 2
    channels = np.moveaxis(np.float32(image), -1, 0)
    padded = np.pad(channels, [(0, 0), (reach, reach), (reach, reach)], mode="reflect")
    sizes = [n + -n % 16 for n in padded.shape[1:]]  # Fourier transforms like small factors
    spectrum = np.fft.rfft2(padded, sizes) * np.fft.rfft2(np.float32(kernel), sizes)
    blurred = np.fft.irfft2(spectrum, sizes)[:, 2 * reach : padded.shape[1], 2 * reach : padded.shape[2]]
    return np.float32(np.moveaxis(blurred, 0, -1))


def resize(image, height, width, mode):
    """Resizing by "area", "bilinear" or "bicubic" (a = -0.75), as PyTorch's `interpolate`: without antialiasing."""
    x = image
    for size in (height, width):
        if len(x) != size:
            x = _area(x, size) if mode == "area" else _interpolated(x, size, mode)
        x = x.swapaxes(0, 1)
    return np.float32(x)


def _area(x, size):
    """Rows (n, ...) -> (size, ...): means of the rows that each new one touches, whole ones."""
    edges = np.arange(size + 1) * len(x)
    first, last = edges[:-1] // size, -(-edges[1:] // size)
    sums = np.concatenate([np.zeros_like(x[:1], np.float64), np.cumsum(x, axis=0, dtype=np.float64)])
    return (sums[last] - sums[first]) / (last - first).reshape(-1, *[1] * (x.ndim - 1))


def _interpolated(x, size, mode):
    """Rows (n, ...) -> (size, ...), between the nearest 2 or 4."""
    centers = (np.arange(size) + 0.5) * len(x) / size - 0.5
    taps = np.floor(centers).astype(int)[:, None] + (np.arange(2) if mode == "bilinear" else np.arange(-1, 3))
    away = np.abs(centers[:, None] - taps)
    weights = np.float32(1 - away if mode == "bilinear" else cubic(away, TORCH_CUBIC))
    taps = np.clip(taps, 0, len(x) - 1)
    weights = weights.reshape(*weights.shape, *[1] * (x.ndim - 1))
    return sum(weights[:, k] * x[taps[:, k]] for k in range(taps.shape[1]))


def gaussian_noise(shape, sigma, grey, generator):
    """Noise (h, w, c) of a standard deviation in levels of 255; grey: the same in all channels."""
    noise = generator.standard_normal((*shape[:2], 1 if grey else shape[2]), np.float32)
    return np.broadcast_to(noise * np.float32(sigma / 255), shape)


def poisson_noise(image, scale, grey, generator):
    """Noise whose variance is the level of the image, as it is when light is counted in as many photons as levels.

    The number of levels is a power of 2, of at least the distinct values of the image. scale: multiplies the noise.
    grey: that of the grey image in all channels.
    """
    x = image @ np.float32(BT601) if grey and image.shape[-1] == 3 else image
    levels = to_levels(x)
    distinct = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
    photons = 2 ** np.ceil(np.log2(distinct))
    x = levels / np.float32(255)
    noise = np.float32(generator.poisson(x * photons) / photons) - x
    return np.float32(scale) * (noise if noise.ndim == 3 else noise[..., None])


def jpeg(image, quality):
    """JPEG compression by Pillow, with its usual 4:2:0; the quality, 1 to 95, is rounded."""
    from PIL import Image

    levels, file = to_levels(image), io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels).save(file, "JPEG", quality=round(quality))
    with Image.open(file) as decoded:
        return np.float32(np.asarray(decoded).reshape(levels.shape)) / 255


def to_levels(image):
    """Floats in [0, 1], beyond which they are clipped -> bytes."""
    return np.uint8(np.clip(image, 0, 1) * 255 + 0.5)


def sharpen(image, weight=0.5, threshold=10):
    """Unsharp masking (USM) of a target, where the difference to its blurred image is above a threshold of 255 levels.

    As in the authors' code: a Gaussian of 51 pixels; the mask of those places is itself blurred.
    """
    kernel = gaussian_kernel(USM_SIZE, USM_SIGMA, USM_SIGMA)
    residual = image - blur(image, kernel)
    mask = blur(np.abs(residual) * 255 > threshold, kernel)
    return mask * np.clip(image + weight * residual, 0, 1) + (1 - mask) * image
