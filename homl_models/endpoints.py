"""Endpoints: what a SavedModel offers, declared once by its model.

    Endpoint(self.sample_in_graph, [Int("count", 0, default=64), Int("steps", 1, self.num_steps, default=25)])

From that line come the check in Python (`Endpoint.check`), the assertion in the graph (`Endpoint.__call__`), the flags
of `python -m homl_models.predict` and the documentation. Importing this module loads neither TensorFlow nor Keras.
"""

import dataclasses
import inspect
import json

import numpy as np

from homl_models.errors import UserError


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of an endpoint: a tensor by its name.

    Args:
        name: of the function's argument.
        dtype: of NumPy, or "string".
        shape: sizes, None where any will do.
        default: None for an input that must be given.
        low, high: range of its numbers, both included; None for any.
        exclusive: leave `low` itself out.
        hint: what a message adds, e.g. what 0 stands for.
    """

    name: str
    dtype: str = "float32"
    shape: tuple = ()
    default: object = None
    low: float | None = None
    high: float | None = None
    exclusive: bool = False
    hint: str = ""

    @classmethod
    def from_json(cls, described):
        return cls(**described | {"shape": tuple(described["shape"])})

    @classmethod
    def from_spec(cls, name, spec):
        """Of a `tf.TensorSpec`; a shape that is not known is taken for rows of one number or text."""
        return cls(name, spec.dtype.name, (None,) if spec.shape.rank is None else tuple(spec.shape.as_list()))

    @property
    def is_text(self):
        return self.dtype == "string"

    @property
    def is_image(self):
        return self.dtype in ("uint8", "float32") and len(self.shape) in (3, 4)

    @property
    def flag(self):
        return f"--{self.name.replace('_', '-')}"

    def __str__(self):
        sizes = ", ".join("n" if size is None else str(size) for size in self.shape)
        return self.dtype + (f"[{sizes}]" if self.shape else "")

    @property
    def rule(self):
        """The range in words, "" for any."""
        low, high = ("2^31 - 1" if bound == 2**31 - 1 else bound for bound in (self.low, self.high))
        if low is None:
            return ""
        if high is None:
            return f"must be above {low}" if self.exclusive else f"must be {low} or more"
        if self.dtype.startswith("int"):
            return f"must lie in {low} to {high}"
        return f"must lie in {'(' if self.exclusive else '['}{low}, {high}]"

    def message(self, found=None):
        """One line about a value out of range; `found`: which it was."""
        was, hint = "" if found is None else f", not {found}", f"; {self.hint}" if self.hint else ""
        return f"{self.name} {self.rule}{was}{hint}"

    def inside(self, values):
        """Whether numbers, an array or a tensor, lie in the range, each for itself."""
        inside = values > self.low if self.exclusive else values >= self.low
        if self.high is not None:
            return inside & (values <= self.high)
        return inside & (values < float("inf")) if self.dtype.startswith("float") else inside

    def check(self, value):
        """`UserError` for numbers out of range, or that are not whole where they should be."""
        if self.low is None:
            return
        values = np.asarray(value)
        if self.dtype.startswith("int") and values.size and values.dtype.kind not in "iu":
            raise UserError(f"{self.name} must be {'whole numbers' if self.shape else 'a whole number'}, not {value}")
        if not np.all(self.inside(values)):
            raise UserError(self.message(f"{values.min()} to {values.max()}" if values.size > 1 else values.item()))

    def asserted(self, tensor):
        """`tensor`, to be had in a graph only where it lies in the range; see `asserted`."""
        if self.low is None:
            return tensor
        import tensorflow as tf

        return asserted(tf.reduce_all(self.inside(tensor)), self.message(), tensor)

    def parse(self, text):
        """A text of the command line as a value: itself, or JSON of numbers. `UserError` for another type or shape."""
        if self.is_text:
            return utf8(text)
        try:
            parsed = np.array(json.loads(text))
            array = parsed.astype(self.dtype, casting="same_kind")
            exact = array.dtype.kind not in "iu" or (array == parsed).all()
            if array.ndim == len(self.shape) - 1:
                array = array[None]  # one row
            fits = array.ndim == len(self.shape) and all(want in (None, n) for n, want in zip(array.shape, self.shape))
            fits = exact and fits and (parsed.dtype.kind == "b") == (array.dtype.kind == "b")
        except (ValueError, TypeError, OverflowError, RecursionError):
            fits = False
        if not fits:
            raise UserError(f"{self.name} must be {self}, not {text[:80]!r}")
        self.check(array)
        return array

    def spec(self):
        import tensorflow as tf

        return tf.TensorSpec(self.shape, self.dtype, name=self.name)


def Int(name, low=None, high=None, default=None, hint=""):  # noqa: N802, as a class would be called
    """A whole number from `low` to `high`, both included."""
    return Input(name, "int32", (), default, low, high, hint=hint)


def Ints(name, low=None, high=None, default=None, hint=""):  # noqa: N802
    """Whole numbers (n,) from `low` to `high`, both included."""
    return Input(name, "int32", (None,), default, low, high, hint=hint)


def Float(name, low=None, high=None, default=None, exclusive=False, hint=""):  # noqa: N802
    """A number from `low`, without it if `exclusive`, to `high`."""
    return Input(name, "float32", (), default, low, high, exclusive, hint)


def Text(name):  # noqa: N802
    """Texts (n,)."""
    return Input(name, "string", (None,))


def String(name, default=None):  # noqa: N802
    """A single text."""
    return Input(name, "string", (), default)


def Image(name, shape):  # noqa: N802
    """Images (n, *shape) of floats in [0, 1]."""
    return Input(name, "float32", (None, *shape), None, 0, 1, hint="divide bytes by 255")


def Array(name, *shape):  # noqa: N802
    """Numbers of that shape, None where any size will do."""
    return Input(name, "float32", shape)


SEED = Int("seed", 0, 2**31 - 1, default=0)
COUNT = Int("count", 0, default=64)


class Endpoint:
    """A function of tensors that a SavedModel offers.

    Args:
        function: of tensors, in the order of `inputs` -> {name: tensor}; its docstring is the endpoint's.
        inputs: list of `Input`.
        outputs: {name: `Input`}, known once it has been traced, or read from a SavedModel.
        doc: instead of the function's docstring.
    """

    def __init__(self, function, inputs, outputs=None, doc=""):
        self.function, self.outputs = function, outputs or {}
        self.inputs = {one.name: one for one in inputs}
        self.doc = doc or inspect.getdoc(function) or ""
        self.__name__, self.__doc__ = getattr(function, "__name__", "endpoint"), self.doc
        self.__signature__ = inspect.Signature(
            inspect.Parameter(
                one.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if one.default is None else one.default,
            )
            for one in inputs
        )

    @property
    def defaults(self):
        return {name: one.default for name, one in self.inputs.items() if one.default is not None}

    @property
    def signature(self):
        """`tf.TensorSpec` of each input."""
        return [one.spec() for one in self.inputs.values()]

    def __call__(self, *tensors):
        """The function in a graph, refused there for numbers out of range."""
        return self.function(*(one.asserted(tensor) for one, tensor in zip(self.inputs.values(), tensors, strict=True)))

    def check(self, **values):
        """`UserError` for values of inputs that are out of range."""
        for name, value in values.items():
            self.inputs[name].check(value)

    # Of a SavedModel.

    def to_json(self):
        """Everything but the function, as `endpoints.json` keeps it."""
        both = [[dataclasses.asdict(one) for one in side.values()] for side in (self.inputs, self.outputs)]
        return {"doc": self.doc, "inputs": both[0], "outputs": both[1]}

    @classmethod
    def from_json(cls, described):
        inputs, outputs = (list(map(Input.from_json, described[side])) for side in ("inputs", "outputs"))
        return cls(None, inputs, {one.name: one for one in outputs}, described["doc"])

    @classmethod
    def from_signature(cls, function):
        """Of a function of a SavedModel that says no more of itself."""
        inputs, outputs = function.structured_input_signature[1], function.structured_outputs
        both = [{name: Input.from_spec(name, side[name]) for name in sorted(side)} for side in (inputs, outputs)]
        return cls(None, both[0].values(), both[1])

    @property
    def main_input(self):
        """The input that arguments, files and standard input are for: the first with a batch axis and no default."""
        return next((name for name, one in self.inputs.items() if one.shape and one.default is None), None)

    @property
    def text_inputs(self):
        """The inputs that share a line of text, with tabs between: the main one and all others that are texts (n,)."""
        texts = [name for name, one in self.inputs.items() if one.is_text and len(one.shape) == 1]
        return texts if self.main_input in texts else []

    def __str__(self):
        defaults = {name: f" = {default!r}" for name, default in self.defaults.items()}
        inputs = [f"{name}: {one}{defaults.get(name, '')}" for name, one in self.inputs.items()]
        outputs = [f"{name}: {one}" for name, one in self.outputs.items()]
        return f"({', '.join(inputs)}) -> {', '.join(outputs)}\n    {self.doc}"


def asserted(condition, message, values):
    """`values`, any nest of tensors, to be had in a graph only where `condition` holds.

    Where it does not, `tf.errors.InvalidArgumentError` with `message`. An assertion that nothing depends on runs beside
    the rest of a graph: what the same input brings down there may be the first to speak.
    """
    import tensorflow as tf

    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return tf.nest.map_structure(tf.identity, values)


def utf8(text):
    """A text of the command line, which must be UTF-8: Python keeps other bytes as halves of characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"the argument {ascii(text[:80])} is not UTF-8 text; convert it, e.g. with iconv") from None
    return text
