"""The one opener of image files, for training, `predict` and `evaluate` alike: an image as a viewer shows it."""

import contextlib
import errno
import warnings

import numpy as np

from homl_models.errors import UserError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's mode by the number of 8-bit channels
ORIENTATION, PHOTOMETRIC, WHITE_IS_ZERO = 0x0112, 0x0106, 0  # tags of EXIF and of TIFF, and a value of the latter


def open_image(path, channels=1):
    """Open an image file as a `PIL.Image` of mode L (1 channel), RGB (3) or RGBA (4).

    The EXIF orientation is applied; transparency is composited on white, unless channels is 4; 16-bit levels and floats
    in [0, 1] are scaled to 8 bits; of an animation the first frame is taken.
    `UserError` that names the file if it is damaged or truncated, has levels of another range, or more than
    `PIL.Image.MAX_IMAGE_PIXELS` * 2 pixels.
    """
    with opened(path) as image:
        return _to_channels(_rotate(_to_8_bits(image), orientation(image)), channels)


@contextlib.contextmanager
def opened(path):
    """The `PIL.Image` of a file as it is stored, of an animation the first frame; `UserError` as in `open_image`.

    An exception in the body of the `with` is taken for one of the decoder.
    """
    from PIL import Image

    Image.init()
    formats = [name for name in Image.OPEN if name != "EPS"]  # Pillow would run Ghostscript for it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as many are an error
            # Given a path, Pillow maps a TIFF file into memory, and mixes up height and width of a rotated one.
            with open(path, "rb") as file, Image.open(file, formats=formats) as image:
                image.load()
                yield image
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file makes the decoders raise
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise UserError(f"cannot read {path} as an image ({error_message(error)})") from error


def error_message(error):
    """The message of an exception, on one line, without the path of the file."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "its format is none that can be read"
    message = getattr(error, "strerror", None) or str(error)
    return " ".join(message.split()) or type(error).__name__


def _to_8_bits(image):
    """A `PIL.Image` with 8-bit levels, scaled from 16 bits or from floats in [0, 1]; `ValueError` for others."""
    from PIL import Image

    if image.mode == "RGB" and isinstance(key := image.info.get("transparency"), tuple) and max(key) > 255:
        image.info["transparency"] = tuple(level >> 8 for level in key)  # as Pillow does with the pixels
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    levels, white = grey_levels(image)
    grey = Image.fromarray(np.uint8(np.round(levels * (255 / white))))
    if isinstance(key := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.uint8(255 * (levels != key))))
    return grey


def grey_levels(image):
    """Levels (h, w) of a grey `PIL.Image` of more than 8 bits, and the level of white; `ValueError` for others."""
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # there Pillow scales to 0 to 65,535
        raise ValueError("it has 32 bits per level and no known white; save it with 8 or 16 bits")
    levels, white = np.asarray(image), 1 if image.mode == "F" else 65535
    if not (levels.min() >= 0 and levels.max() <= white):
        raise ValueError(f"its levels are {levels.min():g} to {levels.max():g}, not 0 to {white}; scale them")
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        levels = white - levels
    return levels, white


def orientation(image):
    """EXIF orientation, 1 (upright) to 8; 1 if the EXIF data are damaged, as for viewers."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever the parsers raise
        return 1


def _rotate(image, orientation):
    """Undo an EXIF orientation."""
    from PIL.Image import Transpose

    transposes = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
    }  # fmt: skip
    return image.transpose(transposes[orientation]) if orientation in transposes else image


def _to_channels(image, channels):
    """A `PIL.Image` of any 8-bit mode in the mode for that number of channels, composited on white unless it is 4."""
    from PIL import Image

    image = image.convert("LA") if image.mode == "La" else image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels != 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif channels == 4:
        image = image.convert("RGB")
    return image.convert(MODES[channels])


def is_grey(path):
    """Whether an image file that can be read has levels of grey alone, as its format says, whatever its pixels are."""
    from PIL import Image, ImageMode

    with Image.open(path) as image:
        return ImageMode.getmode(image.mode).basemode == "L"
