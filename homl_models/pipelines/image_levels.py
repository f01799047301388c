"""Image files with all that they hold: grey or colour, alpha, 8 or 16 bits, and the colour profile.

`image_files.open_image` makes every file one of 8 bits and of given channels; this keeps what is there.
"""

import dataclasses

import numpy as np

from homl_models.pipelines.image_files import grey_levels, opened, orientation

BITS_PER_SAMPLE = 0x0102  # tag of TIFF
FLIPS = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}  # by EXIF orientation; from 5 on transposed


@dataclasses.dataclass(frozen=True)
class Levels:
    """The content of an image file, upright.

    Args:
        pixels: (h, w) grey, (h, w, 2) grey and alpha, (h, w, 3) RGB or (h, w, 4) RGB and alpha, uint8 or uint16.
        profile: ICC profile of the colours, or None.
        notes: what was changed or left out, each in words that follow the file's name.
    """

    pixels: np.ndarray
    profile: bytes | None = None
    notes: tuple[str, ...] = ()


def read_levels(path):
    """The `Levels` of an image file; `UserError` that names the file if it cannot be read, as in `open_image`."""
    with opened(path) as image:
        profile, notes = image.info.get("icc_profile"), []
        if image.mode == "CMYK":
            profile = None
            notes.append("is CMYK: its colours become RGB without a profile")
        if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:  # MPO: a photograph with a preview
            notes.append(f"holds {frames} images: the first is taken")
            image.seek(0)
        if image.format == "TIFF" and image.mode.startswith("RGB") and 16 in image.tag_v2.get(BITS_PER_SAMPLE, ()):
            notes.append("has 16 bits of colour, of which 8 are read: save it as PNG to keep them")
        pixels = _colour_of_16_bits(path, image)
        pixels = _pixels(image) if pixels is None else pixels
        return Levels(_upright(pixels, orientation(image)), profile, tuple(notes))


def _colour_of_16_bits(path, image):
    """The array of a PNG file with 16-bit colours or alpha, of which Pillow keeps 8; None for all others."""
    if image.format != "PNG" or image.mode.startswith("I"):
        return None
    with open(path, "rb") as file:
        start = file.read(26)
        if start[24] != 16:
            return None
        import tensorflow as tf

        return tf.io.decode_png(start + file.read(), dtype=tf.uint16).numpy()


def _pixels(image):
    """The array of a `PIL.Image`: 16 bits if it has more than 8, with alpha if any pixel may be transparent."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_of_16_bits(image)
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        return np.asarray(image.convert("LA" if image.mode in ("L", "LA", "La", "1") else "RGBA"))
    return np.asarray(image.convert("L" if image.mode in ("L", "1") else "RGB"))


def _grey_of_16_bits(image):
    """Grey levels (h, w) uint16 of an image of more than 8 bits, or (h, w, 2) with alpha; `ValueError` for others."""
    levels, _ = grey_levels(image)
    grey = np.uint16(np.round(levels * 65535.0) if image.mode == "F" else levels)
    if not isinstance(key := image.info.get("transparency"), int):
        return grey
    return np.stack([grey, np.uint16(65535 * (levels != key))], axis=-1)


def _upright(pixels, orientation):
    """An array of pixels with its EXIF orientation undone."""
    if orientation not in FLIPS:
        return pixels
    return np.ascontiguousarray(np.flip(pixels.swapaxes(0, 1) if orientation > 4 else pixels, FLIPS[orientation]))
