"""Writers of images that come as bands of rows: PNG row by row, other formats from memory."""

import struct
import zlib

import numpy as np

from homl_models.errors import UserError

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by the number of channels
PAETH, CHUNK = 4, 64  # the filter of PNG that is used; rows that are filtered together
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
}  # by suffix  # fmt: skip
LARGEST = {"JPEG": 65500, "WEBP": 16383}  # pixels of a side
SETTINGS = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "TIFF": {"compression": "raw"}}


class PngWriter:
    """A PNG file (ISO/IEC 15948) that is written from the top while its rows are made.

    Args:
        file: open for writing bytes.
        shape: (h, w) or (h, w, 1 to 4). dtype: uint8 or uint16.
        profile: ICC profile, or None.
        level: of zlib's compression.
    """

    def __init__(self, file, shape, dtype, profile=None, level=4):
        self.file, self.compressor = file, zlib.compressobj(level)
        channels, depth = shape[2] if len(shape) == 3 else 1, np.dtype(dtype).itemsize
        self.stride = channels * depth  # bytes of a pixel
        self.above = np.zeros((1, shape[1] * self.stride), np.uint8)
        file.write(b"\x89PNG\r\n\x1a\n")
        sizes = struct.pack(">IIBBBBB", shape[1], shape[0], 8 * depth, COLOUR_TYPES[channels], 0, 0, 0)
        self.chunk(b"IHDR", sizes)
        if profile:
            self.chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))

    def chunk(self, name, data):
        self.file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))

    def write(self, band):
        """Append rows (rows, w) or (rows, w, c)."""
        rows = np.ascontiguousarray(band, ">u2" if band.dtype == np.uint16 else np.uint8)
        rows = rows.view(np.uint8).reshape(len(rows), -1)
        for first in range(0, len(rows), CHUNK):
            some = rows[first : first + CHUNK]
            data = self.compressor.compress(self.filtered(some))
            self.above = some[-1:].copy()
            if data:
                self.chunk(b"IDAT", data)

    def filtered(self, rows):
        """Rows of bytes (rows, n) -> (rows, 1 + n), less what Paeth's filter predicts from left, above and both."""
        wide = np.int16(np.pad(np.concatenate([self.above, rows]), [(0, 0), (self.stride, 0)]))
        left, above, corner = wide[1:, : -self.stride], wide[:-1, self.stride :], wide[:-1, : -self.stride]
        to_left, to_above = np.abs(above - corner), np.abs(left - corner)
        to_corner = np.abs(left + above - 2 * corner)
        predicted = np.where(to_above <= to_corner, above, corner)
        predicted = np.where((to_left <= to_above) & (to_left <= to_corner), left, predicted)
        filtered = np.full((len(rows), 1 + rows.shape[1]), PAETH, np.uint8)
        filtered[:, 1:] = rows - predicted.astype(np.uint8)  # modulo 256
        return filtered

    def close(self):
        """End the file, which stays open."""
        self.chunk(b"IDAT", self.compressor.flush())
        self.chunk(b"IEND", b"")


def check_format(path, shape=None):
    """Pillow's name of the format that a suffix stands for; `UserError` for another, or if `shape` is too large."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"images cannot be written to {path}; name a file that ends with {', '.join(FORMATS)}")
    kind = FORMATS[suffix]
    if shape and max(shape[:2]) > LARGEST.get(kind, 2**31 - 1):
        size = f"{shape[1]}x{shape[0]} pixels are more than {LARGEST[kind]} a side"
        raise UserError(f"cannot write {path}: {size}, the most that {kind} can hold; write a .png")
    return kind


def lost(kind, shape, dtype):
    """Properties of such an image that a format does not keep, in words; "" for none."""
    grey = len(shape) == 2 or shape[2] == 1
    parts = []
    if np.dtype(dtype) == np.uint16 and kind != "PNG" and not (kind == "TIFF" and grey):
        parts.append("8 of 16 bits")
    if len(shape) == 3 and shape[2] in (2, 4) and kind in ("JPEG", "BMP"):
        parts.append("transparency (on white)")
    return " and ".join(parts)


def write_image(path, kind, bands, shape, dtype, profile=None):
    """Write bands of rows as an image of that shape and type; all but PNG are first put together in memory."""
    if kind == "PNG":
        with open(path, "wb") as file:
            writer = PngWriter(file, shape, dtype, profile)
            for band in bands:
                writer.write(band)
            writer.close()
        return
    narrow = dtype == np.uint16 and "bits" in lost(kind, shape, dtype)
    pixels, row = np.empty(shape, np.uint8 if narrow else dtype), 0
    for band in bands:
        pixels[row : row + len(band)] = np.rint(band / 257.0) if narrow else band
        row += len(band)
    _save(path, kind, pixels, profile)


def _save(path, kind, pixels, profile):
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    if image.mode in ("LA", "RGBA") and kind in ("JPEG", "BMP"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = image.convert("L" if pixels.shape[2] == 2 else "RGB")
    image.save(path, format=kind, icc_profile=profile, **SETTINGS.get(kind, {}))
