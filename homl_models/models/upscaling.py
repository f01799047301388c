"""Upscaling of an image of any size in tiles, which overlap and fade into each other, band by band of finished rows.

What is in memory does not grow with the height of the image. Shapes: h height, w width, c channels, s scale, l length
of an axis of a tile, in pixels of the image.
"""

import dataclasses
import math

import numpy as np

from homl_models.errors import UserError

TILE, OVERLAP, RAMP = 256, 48, 8  # default tile; at most, by default, shared by neighbours; of those, faded
LEVELS = {"uint8": 255, "uint16": 65535}
LANCZOS = 3  # lobes of the filter on each side


class Upscaling:
    """The upscaling of one image.

    Args:
        model: `SuperResolution`.
        image: (h, w) or (h, w, c): 1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
        tile, overlap, outscale: see `SuperResolution.upscale`.

    `shape` is the shape of the result.
    """

    def __init__(self, model, image, tile=TILE, overlap=None, outscale=None):
        check_image(image)
        tile, overlap = check_settings(model, tile, overlap, outscale)
        self.model, self.image, self.levels = model, image, LEVELS.get(image.dtype.name, 1)
        pixels = image if image.ndim == 3 else image[..., None]
        height, width = pixels.shape[:2]
        self.size = model.scale * height, model.scale * width
        new_size = self.size if outscale is None else tuple(max(1, round(n * outscale)) for n in (height, width))
        self.shape = (*new_size, *image.shape[2:])
        self.new_size = None if new_size == self.size else new_size
        edges = [(0, -size % model.multiple) for size in (height, width)]
        self.pixels = np.pad(pixels, [*edges, (0, 0)], mode="reflect") if any(map(any, edges)) else pixels
        self.rows, self.columns = (
            Axis.fit(n, tile or n, overlap, model.multiple, model.receptive_field, model.scale)
            for n in self.pixels.shape[:2]
        )
        alpha = pixels[..., -1]
        self.alpha = None if pixels.shape[-1] % 2 else alpha
        self.constant_alpha = self.alpha is not None and alpha.min() == alpha.max()

    def array(self, progress=True):
        """The result, an array of the image's type."""
        result, row = np.empty(self.shape, self.image.dtype), 0
        for band in self.bands(progress):
            result[row : row + len(band)] = band
            row += len(band)
        return result

    def bands(self, progress=True):
        """Bands of the result, (rows, w, c) or (rows, w), of the image's type, from the top."""
        bands = self.float_bands(progress)
        if self.new_size:
            bands = resize_bands(bands, self.size, self.new_size)
        for band in bands:
            band = band if self.image.ndim == 3 else band[..., 0]
            if self.levels > 1:
                band *= self.levels
                np.rint(band, out=band)
            yield band.astype(self.image.dtype)

    def float_bands(self, progress=True):
        """Bands (rows, s * w, c) of floats in [0, 1]."""
        import tqdm

        count = len(self.rows.starts) * len(self.columns.starts)
        with tqdm.tqdm(total=count, desc="upscale", unit="tile", leave=False, disable=not progress or count < 2) as bar:
            left = self.size[0]
            for band in self.rows.joined((self.band(y, bar) for y in self.rows.starts), axis=0):
                yield band[:left]  # without what was padded
                left -= len(band)

    def band(self, y, bar):
        """The tiles of a band side by side, (s * l, s * w, c)."""
        tiles = (self.tile(y, x, bar) for x in self.columns.starts)
        return np.concatenate(list(self.columns.joined(tiles, axis=1)), axis=1)[:, : self.size[1]]

    def tile(self, y, x, bar):
        """One tile, (s * l, s * l, c): its colours and its alpha, each through the network."""
        tile = self.pixels[y : y + self.rows.length, x : x + self.columns.length]
        tile = np.float32(tile) / np.float32(self.levels)
        colours = tile if self.alpha is None else tile[..., :-1]
        enlarged = self.model.enlarge_array(colours[None])[0]
        if self.constant_alpha:
            enlarged = np.concatenate([enlarged, np.full_like(enlarged[..., :1], tile[0, 0, -1])], axis=-1)
        elif self.alpha is not None:
            enlarged = np.concatenate([enlarged, self.model.enlarge_array(tile[None, ..., -1:])[0]], axis=-1)
        bar.update()
        return np.array(enlarged)  # the network's own may be read-only


@dataclasses.dataclass(frozen=True)
class Axis:
    """Tiles of one length along an axis of an image, and the joining of what becomes of them.

    Args:
        starts: of the tiles, ascending; neighbours overlap. length: l.
        receptive_field: pixels on each side on which an output depends. scale: s.
    """

    starts: tuple
    length: int
    receptive_field: int
    scale: int

    @classmethod
    def fit(cls, size, tile, overlap, multiple, receptive_field, scale):
        """As few tiles as cover `size` pixels, no longer than `tile`, of equal length; the last ends at the border."""
        if size <= tile:
            return cls((0,), size, receptive_field, scale)
        count = math.ceil((size - overlap) / (tile - overlap))
        length = math.ceil((size + (count - 1) * overlap) / count / multiple) * multiple
        starts = sorted({min(i * (length - overlap), size - length) for i in range(count)})
        return cls(tuple(starts), length, receptive_field, scale)

    def joined(self, tiles, axis):
        """Enlarged tiles, in their order -> pieces of the enlarged axis that are finished, one after the other."""
        tail = None
        for tile, start, following in zip(tiles, self.starts, (*self.starts[1:], None), strict=True):
            tile = tile.swapaxes(0, axis)
            if tail is not None:
                shared = tile[: len(tail)]
                shared += (tail - shared) * (1 - self.ramp(len(tail) // self.scale))[:, None, None]
            finished = len(tile) if following is None else self.scale * (following - start)
            yield tile[:finished].swapaxes(0, axis)
            tail = tile[finished:]

    def ramp(self, shared):
        """Share of the next tile in each of the s * `shared` enlarged pixels that it has in common with the one before.

        It is 0, and then 1, in the receptive field of a border; if too few are shared for that, outside of the middle.
        """
        inner = 2 * self.receptive_field
        margin = self.receptive_field if shared >= inner else max(shared - RAMP, 0) // 2
        width = self.scale * (shared - 2 * margin)
        ramp = (np.arange(width, dtype=np.float32) + 0.5) / np.float32(max(width, 1))
        edge = np.zeros(self.scale * margin, np.float32)
        return np.concatenate([edge, ramp, edge + 1])


# Resizing of bands.


def lanczos(size, new_size):
    """First taps (new_size,) and weights (new_size, taps) of Lanczos' filter (Duchon, 1979), 3 lobes on each side.

    It is widened where the axis becomes shorter; beyond the border there is nothing, and weights sum to 1.
    """
    stretch = max(size / new_size, 1.0)
    centers = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    count = min(2 * math.ceil(LANCZOS * stretch) + 1, size)
    starts = np.clip(np.ceil(centers - LANCZOS * stretch).astype(int), 0, size - count)
    x = (starts[:, None] + np.arange(count) - centers[:, None]) / stretch
    weights = np.where(np.abs(x) < LANCZOS, np.sinc(x) * np.sinc(x / LANCZOS), 0)
    return starts, np.float32(weights / weights.sum(1, keepdims=True))


def resize_bands(bands, size, new_size):
    """Bands of an image of `size` (h, w) -> bands of one of `new_size`, by Lanczos' filter; clipped to [0, 1]."""
    (rows, row_weights), (columns, column_weights) = (lanczos(*both) for both in zip(size, new_size))
    taps, done, first, buffer = row_weights.shape[1], 0, 0, None
    for band in bands:
        band = sum(column_weights[:, t, None] * band[:, columns + t] for t in range(column_weights.shape[1]))
        buffer = band if buffer is None else np.concatenate([buffer, band])
        ready = np.searchsorted(rows, first + len(buffer) - taps, side="right")
        if ready > done:
            which, weights = rows[done:ready] - first, row_weights[done:ready, :, None, None]
            yield np.clip(sum(weights[:, t] * buffer[which + t] for t in range(taps)), 0, 1)
            done = ready
        drop = rows[done] - first if done < len(rows) else len(buffer)
        buffer, first = buffer[drop:], first + drop


# Images of Pillow.


def from_pil(image):
    """A `PIL.Image`, upright, as an array (h, w) or (h, w, c) of bytes or 16-bit levels."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        image = image.convert("RGBA" if image.has_transparency_data else "L" if image.mode == "1" else "RGB")
    return np.asarray(image)


def to_pil(array):
    from PIL import Image

    return Image.fromarray(array)


# Checks.


def check_image(image):
    """`UserError` unless it is an image that can be upscaled."""
    if image.ndim not in (2, 3) or (image.ndim == 3 and not 1 <= image.shape[2] <= 4):
        raise UserError(f"an image must be (height, width) or (height, width, 1 to 4), not {image.shape}")
    if not image.size:
        raise UserError(f"an image of the shape {image.shape} has no pixels")
    if image.dtype.kind != "f" and image.dtype.name not in LEVELS:
        raise UserError(f"an image must be of uint8, uint16, or floats in [0, 1], not of {image.dtype}")
    if image.dtype.kind == "f" and not (image.min() >= 0 and image.max() <= 1):
        raise UserError(f"floats of an image must lie in [0, 1], not {image.min():g} to {image.max():g}")


def check_settings(model, tile, overlap, outscale):
    """Tile and overlap in pixels that suit the model, for a default of None too; `UserError` for what cannot be."""
    if tile != int(tile) or tile < 0:
        raise UserError(f"tile must be a whole number of pixels, or 0 for the whole image, not {tile}")
    if tile % model.multiple:
        raise UserError(f"tile must be a multiple of {model.multiple} for this model, not {tile}")
    if overlap is None:
        overlap = min(2 * model.receptive_field + RAMP, OVERLAP, tile // 4)
    if overlap != int(overlap) or overlap < 0:
        raise UserError(f"overlap must be a whole number of pixels, not {overlap}")
    overlap = math.ceil(overlap / model.multiple) * model.multiple
    if tile and overlap >= tile:
        raise UserError(f"overlap must be below the tile's {tile} pixels, not {overlap}; an eighth of them is usual")
    if outscale is not None and not (math.isfinite(outscale) and outscale > 0):
        raise UserError(f"outscale must be a number above 0, not {outscale}")
    return int(tile), int(overlap)
