"""Predictions: inputs of an endpoint from arguments, files and images; results as text or image files."""

import json
import sys
from pathlib import Path

import numpy as np

from homl_models.endpoints import utf8
from homl_models.errors import UserError
from homl_models.pipelines import lines
from homl_models.training import files

BATCH = 64  # lines of a file that are predicted together
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".gif": "GIF", ".webp": "WEBP", ".bmp": "BMP",
    ".tif": "TIFF", ".tiff": "TIFF",
}  # of images that are written  # fmt: skip
IMAGES = "picture", "pictures", "image", "images"  # what outputs are called that are images


def batches(endpoint, name, inputs, file):
    """Batches of inputs, {input: values}, to call the endpoint with, one after the other; {} without a main input.

    A batch of texts; all images, where the endpoint wants one size, or else one after the other; numbers likewise.
    """
    main = endpoint.main_input
    if main is None:
        yield {}
        return
    spec = endpoint.inputs[main]
    if not inputs and file is None and not spec.is_text:
        what = "image" if spec.is_image else f"{spec} as JSON"
        raise UserError(f"name at least one {what} for {name}, or a --file with one a line")
    for batch in [inputs] if inputs else read_lines(file):
        if spec.is_image:
            images = (read_image(path, spec)[None] for path in batch)
            yield from ({main: one} for one in (images if None in spec.shape[1:] else [np.concatenate(list(images))]))
        elif not spec.is_text:
            yield from ({main: spec.parse(text)} for text in batch)
        elif len(texts := endpoint.text_inputs) > 1:
            yield dict(zip(texts, zip(*(columns(utf8(line), texts) for line in batch))))
        else:
            yield {main: list(map(utf8, batch))}


def for_batch(flags, endpoint, given):
    """The values of flags, the file of an image read and repeated for every row."""
    rows = len(next(iter(given.values()), [None]))
    return {
        key: np.repeat(read_image(value, endpoint.inputs[key])[None], rows, axis=0)
        if isinstance(value, str) and endpoint.inputs[key].is_image
        else value
        for key, value in flags.items()
    }


def columns(line, names):
    """A line of as many texts as there are names."""
    parts = line.split("\t")
    if len(parts) != len(names):
        raise UserError(f"a line must be {', a tab, '.join(names)}; this has {len(parts) - 1} tabs: {line!r}")
    return parts


def read_lines(file):
    """Batches of the lines of a file, or single lines of standard input as they come."""
    if file is None:
        empty = True
        for line in lines.read_stream(sys.stdin.buffer, "standard input") if sys.stdin else ():
            empty = False
            yield [line]
        if empty:
            raise UserError("nothing came on standard input; give texts as arguments, or --file PATH")
        return
    found = lines.split(lines.read(file))
    if not found:
        raise UserError(f"{file} is empty; each of its lines is one input")
    for start in range(0, len(found), BATCH):
        yield found[start : start + BATCH]


def read_image(path, spec):
    """An image file as an array that fits `spec`: (h, w) or (h, w, c), bytes, or floats in [0, 1]; see `open_image`."""
    from homl_models.pipelines.image_files import MODES, open_image

    channels = 1 if len(spec.shape) == 3 else spec.shape[-1] or 3
    if channels not in MODES:
        raise UserError(f"{path} cannot be given to an input of {channels} channels; images have 1, 3 or 4")
    pixels = np.asarray(open_image(path, channels))
    if channels == 1 and len(spec.shape) == 4:
        pixels = pixels[..., None]
    for have, want in zip(pixels.shape[:2], spec.shape[1:3]):
        if want is not None and have != want:
            size = f"{spec.shape[2]}x{spec.shape[1]}"
            raise UserError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels, the model wants {size}; resize it")
    return pixels if spec.dtype == "uint8" else np.float32(pixels) / 255


def images_of(result):
    """The outputs that are images, by their names."""
    return [value for key, value in result.items() if key in IMAGES]


def as_text(result):
    """One line per row for a single output, else one JSON object."""
    plain = {key: _plain(value) for key, value in result.items()}
    if len(plain) > 1:
        return json.dumps(plain, ensure_ascii=False)
    rows = next(iter(plain.values()))
    rows = rows if isinstance(rows, list) else [rows]
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


def _plain(value):
    if value.dtype == object:
        return np.vectorize(lambda text: text.decode("utf-8", "replace"), otypes=[object])(value).tolist()
    return value.tolist()


def image_format(path):
    """Pillow's name of the format that a suffix stands for, to write images; `UserError` for another suffix."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"images cannot be written to {path}; name a file that ends with {', '.join(FORMATS)}")
    return FORMATS[suffix]


def save(results, path):
    """Write the results of all calls to a file: images side by side, in the format of its suffix; else text."""
    images = [value for result in results for value in images_of(result)]
    if images:
        from PIL import Image

        kind, image = image_format(path), Image.fromarray(grid(images))
        if kind == "GIF" and image.mode == "RGB":
            image = image.quantize()  # to its own 256 colours
        with files.atomic_write(path) as aside:
            image.save(aside, format=kind, **{"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {}))
    else:
        with files.atomic_write(path) as aside:
            aside.write_text("\n".join(map(as_text, results)) + "\n", encoding="utf-8")


def grid(batches):
    """Batches of images of one size -> one image, as square as can be, without gaps; `UserError` for none."""
    images = [x if x.dtype == np.uint8 else np.uint8(np.round(np.clip(x, 0, 1) * 255)) for b in batches for x in b]
    images = [x[..., 0] if x.ndim == 3 and x.shape[-1] == 1 else x for x in images]
    if not images:
        raise UserError("the result has no images; ask for 1 or more")
    if len({x.shape for x in images}) > 1:
        raise UserError("the images have different sizes; predict them one by one, each with its own --out")
    columns = int(np.ceil(np.sqrt(len(images))))
    images += [np.zeros_like(images[0])] * (-len(images) % columns)
    rows = [np.concatenate(images[i : i + columns], axis=1) for i in range(0, len(images), columns)]
    return np.concatenate(rows)
