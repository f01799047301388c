"""The endpoints of a SavedModel: what they take and give, and calling them.

What they take is read from a file that `export` puts beside them, so that arguments are checked before TensorFlow is
imported; of somebody else's SavedModel, from itself. Only `tf.saved_model` is used, never the models of this package.
"""

import functools
import importlib.util
import json
import re
from pathlib import Path

import numpy as np

from homl_models import cli
from homl_models.errors import UserError
from homl_models.training import files

FILE = "assets.extra/endpoints.json"


class Shape(tuple):
    """Sizes, None where any will do; `rank` is their number."""

    rank = property(len)


class Type:
    """A type of numbers, or "string", by its `name`."""

    def __init__(self, name):
        self.name = name


class Spec:
    """Type and shape of an input or output, as of a `tf.TensorSpec`."""

    def __init__(self, dtype, shape):
        self.dtype, self.shape = Type(dtype), Shape(shape)

    @classmethod
    def of(cls, spec):
        """That of a `tf.TensorSpec`; a shape that is not known is taken for rows of one number or text."""
        return cls(spec.dtype.name, [None] if spec.shape.rank is None else spec.shape.as_list())

    def __str__(self):
        sizes = ", ".join("n" if size is None else str(size) for size in self.shape)
        return self.dtype.name + (f"[{sizes}]" if self.shape else "")

    @property
    def is_image(self):
        return self.dtype.name in ("uint8", "float32") and self.shape.rank in (3, 4)


class Endpoint:
    """What a function of a SavedModel takes and gives: {name: `Spec`}, defaults of inputs, documentation."""

    def __init__(self, inputs, outputs, defaults=None, doc=""):
        self.inputs, self.outputs, self.defaults, self.doc = inputs, outputs, defaults or {}, doc

    @classmethod
    def from_json(cls, described):
        sides = [{name: Spec(*spec) for name, spec in described[side].items()} for side in ("inputs", "outputs")]
        return cls(*sides, described["defaults"], described["doc"])

    @classmethod
    def from_signature(cls, function):
        inputs, outputs = function.structured_input_signature[1], function.structured_outputs
        return cls(*({name: Spec.of(side[name]) for name in sorted(side)} for side in (inputs, outputs)))

    @property
    def main_input(self):
        """The input that arguments, files and standard input are for: the first with a batch axis and no default."""
        rows = [name for name, spec in self.inputs.items() if spec.shape]
        return next((name for name in rows if name not in self.defaults), None)

    @property
    def text_inputs(self):
        """The inputs that share a line of text, with tabs between: the main one and all others that are texts (n,)."""
        texts = [name for name, spec in self.inputs.items() if spec.dtype.name == "string" and spec.shape.rank == 1]
        return texts if self.main_input in texts else []

    def __str__(self):
        inputs = [
            f"{name}: {spec}" + (f" = {self.defaults[name]!r}" if name in self.defaults else "")
            for name, spec in self.inputs.items()
        ]
        outputs = [f"{name}: {spec}" for name, spec in self.outputs.items()]
        return f"({', '.join(inputs)}) -> {', '.join(outputs)}\n    {self.doc}"


class Endpoints:
    """The endpoints of the SavedModel in a folder: a mapping by name, each to be called by its name."""

    def __init__(self, folder):
        self.folder = Path(folder)

    @functools.cached_property
    def model(self):
        cli.import_tensorflow()
        import tensorflow as tf

        _load_word_pieces(self.folder)
        try:
            return tf.saved_model.load(self.folder)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self.folder} is not a SavedModel that can be loaded: {reason}") from error

    @functools.cached_property
    def described(self):
        """{name: `Endpoint`}"""
        if (self.folder / FILE).is_file():
            try:
                return {name: Endpoint.from_json(one) for name, one in files.read_json(self.folder / FILE).items()}
            except (KeyError, TypeError, AttributeError):
                pass  # of another version of this package; the SavedModel knows most of it
        signatures = dict(self.model.signatures)
        if len(signatures) > 1:
            signatures.pop("serving_default", None)  # the same as one of the others
        return {name: Endpoint.from_signature(function) for name, function in signatures.items()}

    def __getitem__(self, name):
        if name not in self.described:
            raise UserError(f"there is no endpoint {name!r}; there are {', '.join(self.described)}")
        return self.described[name]

    def __str__(self):
        return "\n".join(f"{name}{endpoint}" for name, endpoint in self.described.items())

    def call(self, name, given):
        """Call an endpoint with {input: value}, defaults for the rest -> {output: array}."""
        function = self.model.signatures[name]
        import tensorflow as tf

        given = self[name].defaults | given
        feed = {key: tf.constant(given[key], spec.dtype.name) for key, spec in self[name].inputs.items()}
        try:
            return {key: value.numpy() for key, value in function(**feed).items()}
        except (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError) as error:
            refused = re.search(r"assertion failed: \[(.*?)\]", error.message)
            reason = refused[1].rstrip(". ") if refused else error.message.strip().splitlines()[0]
            raise UserError(reason if refused else f"{name} cannot be called with this: {reason}") from error


def parse_value(name, text, spec):
    """A text of the command line as a value for an input: itself, or JSON of numbers."""
    if spec.dtype.name == "string":
        return checked_text(text)
    try:
        parsed = np.array(json.loads(text))
        array = parsed.astype(spec.dtype.name, casting="same_kind")
        exact = array.dtype.kind not in "iu" or (array == parsed).all()
        if array.ndim == spec.shape.rank - 1:
            array = array[None]  # one row
        fits = array.ndim == spec.shape.rank and all(want in (None, n) for n, want in zip(array.shape, spec.shape))
        if exact and fits and (parsed.dtype.kind == "b") == (array.dtype.kind == "b"):
            return array
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass
    raise UserError(f"{name} must be {spec}, not {text[:80]!r}")


def checked_text(text):
    """A text of the command line, which must be UTF-8: Python keeps other bytes as halves of characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"the argument {ascii(text[:80])} is not UTF-8 text; convert it, e.g. with iconv") from None
    return text


def _load_word_pieces(folder):
    """Make TensorFlow know the operation that cuts word pieces, if the SavedModel has it."""
    if b"FastWordpieceTokenize" not in (folder / "saved_model.pb").read_bytes():
        return
    import tensorflow as tf

    package = importlib.util.find_spec("tensorflow_text")  # not imported, as that would import Keras
    if package is None:
        raise UserError(f'{folder} reads texts with tensorflow-text: pip install "homl_models[text]"')
    tf.load_op_library(str(Path(package.origin).parent / "python" / "ops" / "_fast_wordpiece_tokenizer.so"))
