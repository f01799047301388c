"""Image files of people, opened as a viewer shows them; for training, `predict` and `evaluate` alike."""

import errno
import warnings

import numpy as np

from homl_models.errors import UserError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, of so many channels of 8 bits
ORIENTATION, PHOTOMETRIC, WHITE_IS_ZERO = 0x0112, 0x0106, 0  # tags of EXIF and of TIFF, and a value


def open_image(path, channels=1):
    """An image file as a viewer shows it: a `PIL.Image` of mode L (1 channel), RGB (3) or RGBA (4).

    It is turned as its EXIF orientation says; what is transparent lies on white, unless channels is 4; 16 bits and
    floats in [0, 1] are scaled to 8 bits; of an animation it is the first frame.
    `UserError` that names the file if it cannot be read whole, has levels of another range, or more than
    `PIL.Image.MAX_IMAGE_PIXELS` * 2 pixels.
    """
    from PIL import Image

    Image.init()
    formats = [name for name in Image.OPEN if name != "EPS"]  # for which Pillow would run another program
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # there is an error for twice as many
            # By its path Pillow maps a TIFF file into memory, and gets the sides of one that is to be turned wrong.
            with open(path, "rb") as file, Image.open(file, formats=formats) as image:
                image.load()
                return _flat(_turned(_of_bytes(image), _orientation(image)), channels)
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file makes the decoders raise
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise UserError(f"cannot read {path} as an image ({reason(error)})") from error


def reason(error):
    """What an exception says, on one line."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it begins like no image that can be read"
    told = getattr(error, "strerror", None) or str(error)  # of the system's errors without the path again
    return " ".join(told.split()) or type(error).__name__


def _of_bytes(image):
    """A `PIL.Image` whose levels have 8 bits, scaled from 16 bits or from floats in [0, 1]."""
    from PIL import Image

    if image.mode == "RGB" and isinstance(key := image.info.get("transparency"), tuple) and max(key) > 255:
        image.info["transparency"] = tuple(level >> 8 for level in key)  # as Pillow does with the pixels
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # which hold 16 bits, brought to 0 to 65,535
        raise ValueError("it has 32 bits for each level, of which white is not known; save it with 8 or 16 bits")
    levels, white = np.asarray(image), 1 if image.mode == "F" else 65535
    if not (levels.min() >= 0 and levels.max() <= white):
        raise ValueError(f"its levels go from {levels.min():g} to {levels.max():g}, not from 0 to {white}; scale them")
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        levels = white - levels
    grey = Image.fromarray(np.uint8(np.round(levels * (255 / white))))
    if isinstance(key := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.uint8(255 * (levels != key))))
    return grey


def _orientation(image):
    """How an image is to be turned, from 1 for not at all to 8; 1 if its EXIF data are damaged, as for viewers."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever the parsers raise
        return 1


def _turned(image, orientation):
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
    }  # fmt: skip
    return image.transpose(turns[orientation]) if orientation in turns else image


def _flat(image, channels):
    """A `PIL.Image` of any mode of 8 bits in the mode for so many channels, on white where it is transparent."""
    from PIL import Image

    image = image.convert("LA") if image.mode == "La" else image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels != 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif channels == 4:
        image = image.convert("RGB")
    return image.convert(MODES[channels])
