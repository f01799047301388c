"""Augmentation of single images: random resized crops, flips, colour jitter and RandAugment, by Pillow.

BEiT (Bao et al., 2021, https://arxiv.org/abs/2106.08254, section 2.3 and appendix) sees one crop twice: at 224 pixels,
by bicubic interpolation, where it takes patches, and at 112 pixels, by Lanczos', where its tokenizer looks. For
classification it adds RandAugment (Cubuk et al., 2019, https://arxiv.org/abs/1909.13719), MixUp, CutMix and random
erasing, which take batches and are in `batch_augmentation.py`. All random numbers come from the generator that is
given, so that a batch is a function of (seed, step).

Shapes: h height, w width, c channels; an image is (h, w) for grey or (h, w, 3) for colour, of bytes.

Deviations: colours are jittered after the crop, which is faster; the authors do so before, which is the same but for
the mean grey that contrast is relative to. `keras.layers.RandAugment` takes no seed for an image, applies the same
operations to all images of a batch, in one direction, and computes every operation for each of them: it takes 15 times
as long for images of 64 pixels (`benchmarks/image_pipelines.py`).
"""

import dataclasses

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from homl_models.errors import UserError

ATTEMPTS = 10  # at a crop
FILL = 128  # level of pixels from beyond the border


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Views of one random crop: `augmentation(image, generator)` of (h, w) or (h, w, 3) is a tuple, a view per size.

    A pure function of the image and the state of the `np.random.Generator`.

    Args:
        sizes: (h, w) of each view.
        filters: interpolation of each view, "bilinear", "bicubic" or "lanczos".
        scale: range of the area of a crop, as a fraction of the image.
        ratio: range of its aspect ratio, width / height.
        flip: probability to mirror it.
        color_jitter: brightness, contrast and saturation are multiplied by 1 - color_jitter to 1 + color_jitter.
        num_ops: operations of RandAugment, on the first view alone.
        magnitude: of these operations, 0 to 10.
    """

    sizes: tuple[tuple[int, int], ...] = ((224, 224), (112, 112))
    filters: tuple[str, ...] = ("bicubic", "lanczos")
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    color_jitter: float = 0.4
    num_ops: int = 0
    magnitude: float = 9.0

    def __post_init__(self):
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"the scale of crops must be a range in (0, 1], not {self.scale}")
        if not 0 <= self.color_jitter <= 1 or not 0 <= self.magnitude <= 10 or self.num_ops < 0:
            raise UserError("color_jitter must lie in [0, 1], magnitude in [0, 10], and num_ops be 0 or more")

    def __call__(self, image, generator):
        left, top, width, height = random_crop(image.shape[1], image.shape[0], self.scale, self.ratio, generator)
        crop = Image.fromarray(np.ascontiguousarray(image[top : top + height, left : left + width]))
        crop = ImageOps.mirror(crop) if generator.random() < self.flip else crop
        crop = jittered(crop, self.color_jitter, generator) if self.color_jitter else crop
        first, *others = [
            crop.resize((w, h), Image.Resampling[name.upper()]) for (h, w), name in zip(self.sizes, self.filters)
        ]
        return tuple(map(np.asarray, (rand_augment(first, self.num_ops, self.magnitude, generator), *others)))


def random_crop(width, height, scale, ratio, generator):
    """Random crop (left, top, width, height) of an image, its area and its aspect ratio within their ranges.

    After ten attempts that do not fit into the image, the largest crop in the middle within the range of ratios.
    """
    for _ in range(ATTEMPTS):
        area = generator.uniform(*scale) * width * height
        aspect = np.exp(generator.uniform(*np.log(ratio)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1)), w, h
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    return (width - w) // 2, (height - h) // 2, w, h


def jittered(image, strength, generator):
    """A `PIL.Image` of another brightness, contrast and saturation, changed in random order."""
    enhancers = ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color
    for i in generator.permutation(3):
        factor = generator.uniform(1 - strength, 1 + strength)
        if image.mode != "L" or i < 2:
            image = enhancers[i](image).enhance(factor)
    return image


def center_crops(images, size, fraction=1.0):
    """Images resized and cropped in the middle, for evaluation: (n, *size) or (n, *size, 3) bytes.

    images: sequence of (h, w) or (h, w, 3) bytes. size: (h, w).
    fraction: of the image, but for its aspect ratio, that the crop shows; the authors take 224 / 256.
    """

    def center_crop(image):
        height, width = image.shape[:2]
        w, h = _fit(width * fraction, height * fraction, size[1] / size[0])
        box = (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2
        return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, box))

    return np.stack([center_crop(image) for image in images])


def _fit(width, height, aspect):
    """Width and height of the largest rectangle of an aspect ratio within another."""
    return (height * aspect, height) if width > height * aspect else (width, width / aspect)


# RandAugment.


def rand_augment(image, num_ops, magnitude, generator):
    """RandAugment of a `PIL.Image`: `num_ops` operations chosen at random, of one magnitude, 0 to 10 (section 3).

    Those that have a direction take either, as likely. At 10 an image is turned by 30 degrees, sheared by 0.3 or moved
    by 0.45 of its size, its colour, contrast, brightness and sharpness change by 0.9, and 4 bits are left of a level.
    """
    operations = list(OPERATIONS.values())
    for i in generator.integers(len(operations), size=num_ops):
        image = operations[i](image, magnitude / 10 * generator.choice((-1, 1)))
    return image


def _enhance(enhancer, image, m):
    return image if (image.mode, enhancer) == ("L", ImageEnhance.Color) else enhancer(image).enhance(1 + 0.9 * m)


def _affine(image, a=1.0, b=0.0, c=0.0, d=0.0, e=1.0, f=0.0):
    """Pixel (x, y) becomes that of (a x + b y + c, d x + e y + f)."""
    transform, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, transform, (a, b, c, d, e, f), bilinear, fillcolor=_fill(image))


def _fill(image):
    return FILL if image.mode == "L" else (FILL, FILL, FILL)


OPERATIONS = {
    "identity": lambda image, m: image,
    "auto_contrast": lambda image, m: ImageOps.autocontrast(image),
    "equalize": lambda image, m: ImageOps.equalize(image),
    "rotate": lambda image, m: image.rotate(30 * m, Image.Resampling.BILINEAR, fillcolor=_fill(image)),
    "solarize": lambda image, m: ImageOps.solarize(image, round(256 * (1 - abs(m)))),
    "color": lambda image, m: _enhance(ImageEnhance.Color, image, m),
    "posterize": lambda image, m: ImageOps.posterize(image, 8 - round(4 * abs(m))),
    "contrast": lambda image, m: _enhance(ImageEnhance.Contrast, image, m),
    "brightness": lambda image, m: _enhance(ImageEnhance.Brightness, image, m),
    "sharpness": lambda image, m: _enhance(ImageEnhance.Sharpness, image, m),
    "shear_x": lambda image, m: _affine(image, b=0.3 * m),
    "shear_y": lambda image, m: _affine(image, d=0.3 * m),
    "translate_x": lambda image, m: _affine(image, c=0.45 * m * image.width),
    "translate_y": lambda image, m: _affine(image, f=0.45 * m * image.height),
}  # (image, magnitude -1 to 1) -> image, in the order of the paper's list
