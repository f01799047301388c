"""SavedModels, called by the names of their endpoints; only `tf.saved_model` is used, never the models of this package.

What endpoints take is read from a file that `training.saved_model` puts beside them, so that arguments are checked
before TensorFlow is imported; of somebody else's SavedModel, from itself.
"""

import functools
import importlib.util
import re
from pathlib import Path

from homl_models import cli
from homl_models.endpoints import Endpoint
from homl_models.errors import UserError
from homl_models.training import files

FILE = "assets.extra/endpoints.json"


class SavedModel:
    """The SavedModel in a folder: a mapping of its endpoints by name."""

    def __init__(self, folder):
        self.folder = Path(folder)

    @functools.cached_property
    def loaded(self):
        cli.import_tensorflow()
        import tensorflow as tf

        _load_word_pieces(self.folder)
        try:
            return tf.saved_model.load(self.folder)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self.folder} is not a SavedModel that can be loaded: {reason}") from error

    @functools.cached_property
    def endpoints(self):
        """{name: `endpoints.Endpoint`}"""
        if (self.folder / FILE).is_file():
            try:
                return {name: Endpoint.from_json(one) for name, one in files.read_json(self.folder / FILE).items()}
            except (KeyError, TypeError, AttributeError):
                pass  # of another version of this package; the SavedModel knows most of it
        signatures = dict(self.loaded.signatures)
        if len(signatures) > 1:
            signatures.pop("serving_default", None)  # the same as one of the others
        return {name: Endpoint.from_signature(function) for name, function in signatures.items()}

    def __getitem__(self, name):
        if name not in self.endpoints:
            raise UserError(f"there is no endpoint {name!r}; there are {', '.join(self.endpoints)}")
        return self.endpoints[name]

    def __str__(self):
        return "\n".join(f"{name}{endpoint}" for name, endpoint in self.endpoints.items())

    def call(self, name, given):
        """Call an endpoint with {input: value}, defaults for the rest -> {output: array}."""
        function = self.loaded.signatures[name]
        import tensorflow as tf

        given = self[name].defaults | given
        feed = {key: tf.constant(given[key], one.dtype) for key, one in self[name].inputs.items()}
        try:
            return {key: value.numpy() for key, value in function(**feed).items()}
        except (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError) as error:
            refused = re.search(r"assertion failed: \[(.*)\]", error.message)
            reason = refused[1].rstrip(". ") if refused else error.message.strip().splitlines()[0]
            raise UserError(reason if refused else f"{name} cannot be called with this: {reason}") from error


def _load_word_pieces(folder):
    """Make TensorFlow know the operation that cuts word pieces, if the SavedModel has it."""
    if b"FastWordpieceTokenize" not in (folder / "saved_model.pb").read_bytes():
        return
    import tensorflow as tf

    package = importlib.util.find_spec("tensorflow_text")  # not imported, as that would import Keras
    if package is None:
        raise UserError(f'{folder} reads texts with tensorflow-text: pip install "homl_models[text]"')
    tf.load_op_library(str(Path(package.origin).parent / "python" / "ops" / "_fast_wordpiece_tokenizer.so"))
