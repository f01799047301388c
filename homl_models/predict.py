"""python -m homl_models.predict RUN [ENDPOINT [INPUT ...] [--file PATH] [--out PATH] [--NAME VALUE ...]]

RUN is a run folder, a preset, or any SavedModel folder; alone it lists the endpoints. INPUTs
are texts, or image files where the endpoint takes those; without any, each line of
--file or of standard input is a text. An endpoint of several texts (a source and a target) takes
them on one line, with tabs between. Every other input of the endpoint is a flag: a number, a list
as JSON, or a picture for all INPUTs, such as a mask. Image files are read as viewers show
them, transparent parts on white. --out names the file for the result: for
images one of the formats .png, .jpg, .gif, .webp, .bmp and .tif, else text.

Only `tf.saved_model` is used, never the models of this package.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from homl_models import files, runs
from homl_models.errors import UserError

BATCH = 64  # lines of a file that are predicted together
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".gif": "GIF", ".webp": "WEBP", ".bmp": "BMP",
    ".tif": "TIFF", ".tiff": "TIFF",
}  # of images that are written  # fmt: skip
IMAGES = "picture", "pictures", "image", "images"  # what outputs are called that are images


def main(argv=None):
    """The command: returns the exit status."""
    from homl_models.train import guarded

    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return guarded(lambda: _predict_command(argv))


def _predict_command(argv):
    endpoints = Endpoints(locate(argv[0]))
    if len(argv) == 1:
        print(endpoints.listing())
        return
    name, args = parse(endpoints, argv)
    flags = {key: value for key, value in vars(args).items() if value is not None}
    inputs, file, out = flags.pop("INPUT", []), flags.pop("file", None), flags.pop("out", None)
    if out and any(key in IMAGES for key in endpoints.signatures[name].structured_outputs):
        image_format(out)  # refused before the work
    results = []
    for batch in batches(endpoints, name, inputs, file):
        result = endpoints.call(name, batch, flags)
        if out:
            results.append(result)
        else:
            show(result)
    if out:
        save(results, Path(out))


def parse(endpoints, argv):
    """RUN ENDPOINT ... -> the endpoint's name and its arguments; `UserError` if there are no such."""
    run, name, *rest = argv
    if name not in endpoints.signatures:
        raise UserError(f"{run} has no endpoint {name!r}; it has {', '.join(endpoints.signatures)}")
    return name, endpoints.parser(name).parse_args(rest)


def locate(run):
    """The SavedModel folder of a run folder, a preset or a SavedModel folder."""
    for folder in (Path(run), Path(run) / "saved_model"):
        if (folder / "saved_model.pb").is_file():
            return folder
    folder = runs.find(run)
    if not (folder / "weights.npz").is_file():
        raise UserError(f"the run in {folder} has no SavedModel yet; go on with it by the command that started it")
    digest = hashlib.sha256((folder / "weights.npz").read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "homl_models" / f"{folder.name}-{digest}"
    if not cache.is_dir():
        print(f"exporting {run} to {cache}, this once", file=sys.stderr)
        command = [sys.executable, "-m", "homl_models.export", run, "--to", str(cache)]
        done = subprocess.run(command, env={**os.environ, "KERAS_BACKEND": "tensorflow"}, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise UserError(f"cannot export {run} to {cache}; set KERAS_HOME to a folder that can be written")
    return cache


def load_word_pieces(folder):
    """Make TensorFlow know the operation that cuts word pieces, if the SavedModel has it."""
    if b"FastWordpieceTokenize" not in (folder / "saved_model.pb").read_bytes():
        return
    import tensorflow as tf

    package = importlib.util.find_spec("tensorflow_text")  # not imported, as that would import Keras
    if package is None:
        raise UserError(f'{folder} reads texts with tensorflow-text: pip install "homl_models[text]"')
    tf.load_op_library(str(Path(package.origin).parent / "python" / "ops" / "_fast_wordpiece_tokenizer.so"))


class Endpoints:
    """The signatures of a SavedModel, with the documentation and defaults that `export` puts beside them."""

    def __init__(self, folder):
        import tensorflow as tf

        load_word_pieces(folder)
        try:
            self.model = tf.saved_model.load(folder)  # signatures need this reference
        except Exception as error:
            raise UserError(f"{folder} is not a SavedModel that can be loaded: {str(error).splitlines()[0]}") from error
        signatures = dict(self.model.signatures)
        if len(signatures) > 1:
            signatures.pop("serving_default", None)  # the same as one of the others
        self.signatures = signatures
        described = folder / "assets.extra" / "endpoints.json"
        self.described = files.read_json(described) if described.is_file() else {}

    def doc(self, name):
        return self.described.get(name, {}).get("doc", "")

    def defaults(self, name):
        return self.described.get(name, {}).get("defaults", {})

    def inputs(self, name):
        """{input: TensorSpec}, in the order of the function's arguments."""
        specs = self.signatures[name].structured_input_signature[1]
        order = self.described.get(name, {}).get("inputs", sorted(specs))
        return {key: specs[key] for key in order}

    def main_input(self, name):
        """The input that arguments, files and standard input are for: the first with a batch axis and no default."""
        rows = [key for key, spec in self.inputs(name).items() if spec.shape.rank != 0]
        return next((key for key in rows if key not in self.defaults(name)), None)

    def text_inputs(self, name):
        """The inputs that share a line of text, with tabs between: the main one and all others that are texts (n,)."""
        texts = [key for key, spec in self.inputs(name).items() if spec.dtype.name == "string" and spec.shape.rank == 1]
        return texts if self.main_input(name) in texts else []

    def listing(self):
        """Every endpoint with its inputs, defaults, outputs and documentation."""
        lines = []
        for name, function in self.signatures.items():
            defaults = self.defaults(name)
            inputs = [
                _described(key, spec) + (f" = {defaults[key]!r}" if key in defaults else "")
                for key, spec in self.inputs(name).items()
            ]
            outputs = [_described(key, spec) for key, spec in function.structured_outputs.items()]
            lines += [f"{name}({', '.join(inputs)}) -> {', '.join(outputs)}", f"    {self.doc(name)}"]
        return "\n".join(lines)

    def parser(self, name):
        parser = _Parser(prog=f"python -m homl_models.predict RUN {name}", description=self.doc(name))
        main, defaults, texts = self.main_input(name), self.defaults(name), self.text_inputs(name)
        if main:
            given = ", a tab, ".join(texts or [main])
            parser.add_argument("INPUT", nargs="*", help=f"{given}; without any, lines of --file or standard input")
            parser.add_argument("--file", help="read inputs from this file, one a line")
        parser.add_argument("--out", help="write the result to this file (images: .png, .jpg, .gif, ...)")
        for key, spec in self.inputs(name).items():
            if key != main and key not in texts:
                required = key not in defaults
                help = f"{spec.dtype.name}" + ("" if required else f", default {defaults[key]!r}")
                parser.add_argument(f"--{key.replace('_', '-')}", dest=key, required=required, help=help)
        return parser

    def call(self, name, batch, flags):
        """Call an endpoint on a batch for its main input and the flags -> {output: array}."""
        import tensorflow as tf

        given = {self.main_input(name): batch}
        if len(texts := self.text_inputs(name)) > 1:
            given = dict(zip(texts, zip(*(_columns(line, texts) for line in batch))))
        feed = {}
        for key, spec in self.inputs(name).items():
            value = given[key] if key in given else flags.get(key, self.defaults(name).get(key))
            if _is_picture(spec) and isinstance(value, str):
                value = np.repeat(read_picture(value, spec)[None], len(batch), axis=0)  # one for all
            feed[key] = tf.constant(_parse(key, value, spec), spec.dtype)
        try:
            return {key: value.numpy() for key, value in self.signatures[name](**feed).items()}
        except tf.errors.InvalidArgumentError as error:
            refused = re.search(r"assertion failed: \[(.*?)\]", error.message)
            if not refused:
                raise
            raise UserError(refused[1].rstrip(". ")) from error


def _columns(line, names):
    """A line of as many texts as there are names."""
    columns = line.split("\t")
    if len(columns) != len(names):
        raise UserError(f"a line must be {', a tab, '.join(names)}; this has {len(columns) - 1} tabs: {line!r}")
    return columns


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see {self.prog} --help")


def _described(key, spec):
    shape = "" if spec.shape.rank == 0 else "[" + ", ".join("n" if d is None else str(d) for d in spec.shape) + "]"
    return f"{key}: {spec.dtype.name}{shape}"


def _is_picture(spec):
    return spec.dtype.name in ("uint8", "float32") and spec.shape.rank in (3, 4)


def _parse(key, value, spec):
    """A flag's text, or a default, as an array of the input's type."""
    if not isinstance(value, str) or spec.dtype.name == "string":
        return value
    try:
        parsed = np.array(json.loads(value)).astype(spec.dtype.as_numpy_dtype, casting="same_kind")
        return np.atleast_1d(parsed) if spec.shape.rank == 1 else parsed
    except (ValueError, TypeError) as error:
        flag = f"--{key.replace('_', '-')}"
        raise UserError(f"{flag} must be {spec.dtype.name}{list(spec.shape) or ''}, not {value!r}") from error


def batches(endpoints, name, inputs, file):
    """What to call the endpoint with, one after the other; None without inputs.

    A batch of texts; all pictures, where the endpoint wants one size, or else one after the other.
    """
    main = endpoints.main_input(name)
    if main is None:
        yield None
        return
    spec = endpoints.inputs(name)[main]
    if _is_picture(spec):
        if not inputs:
            raise UserError(f"name at least one image for {name}")
        pictures = (read_picture(path, spec)[None] for path in inputs)
        if None in spec.shape[1:]:
            yield from pictures
        else:
            yield np.concatenate(list(pictures))
    elif spec.dtype.name != "string":
        yield from (_parse(main, text, spec) for text in inputs)
    elif inputs:
        yield inputs
    else:
        yield from read_lines(file)


def read_lines(file):
    """Batches of the lines of a file, or single lines of standard input as they come."""
    if file is None:
        empty = True
        for line in sys.stdin:
            empty = False
            yield [line.rstrip("\n")]
        if empty:
            raise UserError("nothing came on standard input; give texts as arguments, or --file PATH")
        return
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file} as UTF-8 text ({error}); check the path") from error
    if not lines:
        raise UserError(f"{file} is empty; each of its lines is one input")
    for start in range(0, len(lines), BATCH):
        yield lines[start : start + BATCH]


def read_picture(path, spec):
    """An image file as an array that fits `spec`: (h, w) or (h, w, c), bytes, or floats in [0, 1]; see `open_image`."""
    from homl_models.pipelines.image_files import MODES, open_image

    channels = 1 if spec.shape.rank == 3 else spec.shape[-1] or 3
    if channels not in MODES:
        raise UserError(f"{path} cannot be given to an input of {channels} channels; images have 1, 3 or 4")
    pixels = np.asarray(open_image(path, channels))
    if channels == 1 and spec.shape.rank == 4:
        pixels = pixels[..., None]
    for have, want in zip(pixels.shape[:2], spec.shape[1:3]):
        if want is not None and have != want:
            size = f"{spec.shape[2]}x{spec.shape[1]}"
            raise UserError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels, the model wants {size}; resize it")
    return pixels if spec.dtype.name == "uint8" else np.float32(pixels) / 255


def _pictures(result):
    """The outputs that are images: they are called so."""
    return [value for key, value in result.items() if key in IMAGES]


def show(result):
    """Print a result: lines of text for a single output, else JSON; pictures need --out."""
    if _pictures(result):
        raise UserError("the result is a picture; name a file for it with --out PATH.png")
    print(as_text(result), flush=True)


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
    images = [value for result in results for value in _pictures(result)]
    if images:
        from PIL import Image

        kind, image = image_format(path), Image.fromarray(grid(images))
        if kind == "GIF" and image.mode == "RGB":
            image = image.quantize()  # to its own 256 colours
        with files.write_aside(path) as aside:
            image.save(aside, format=kind, **{"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {}))
    else:
        with files.write_aside(path) as aside:
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


if __name__ == "__main__":
    sys.exit(main())
