"""TensorFlow Hub: a SavedModel of TensorFlow 2, of texts or images, as a layer.

The interface of such modules is https://www.tensorflow.org/hub/reusable_saved_models. The layer takes the place of
`hub.KerasLayer`, which is for Keras 2 alone (https://github.com/tensorflow/hub/issues/920), and of Keras'
`TFSMLayer`, which knows neither `training` nor regularization losses. Graphs of a module are TensorFlow's, so Keras'
backend must be TensorFlow, without XLA where a module reads texts.
`training/hub_module.py` writes such modules of text encoders.
"""

import contextlib
import hashlib
import inspect
import os
import tempfile

import keras

from homl_models.base import Layer
from homl_models.errors import UserError

FILES = "saved_model.pb", "saved_model.pbtxt"
URLS = "http://", "https://", "gs://"
INSTALL = 'pip install "homl_models[tf-hub]"'


@keras.saving.register_keras_serializable("homl_models")
class HubLayer(Layer):
    """Inputs of a module -> its outputs: tensors, or dictionaries of them, of the module's shapes.

    A module computes in float32, whatever the policy: floats go in as float32 and come out in the policy's type.
    A .keras file holds the handle and the weights, but not the module, which has to be there when it is loaded.
    A module is a program, which can read and write files: load those alone that you trust.

    Args:
        handle: the folder of a SavedModel, or the URL of a module of TensorFlow Hub, from the cache in TFHUB_CACHE_DIR
            or else from the network.
        trainable: whether the module's trainable variables are trained, and its regularization losses added. A frozen
            module computes as for inference in training as well.
        signature: name of one of the module's signatures; None for its own call.
        output_key: the entry of a dictionary of outputs; None for all. A dictionary of one entry, which a signature
            gives, counts as that entry.
        arguments: further arguments of the call, {name: value}.

    Raises:
        UserError: for a handle that is no SavedModel or cannot be fetched, and for unknown signatures and outputs.
    """

    def __init__(self, handle, trainable=False, signature=None, output_key=None, arguments=None, **kwargs):
        super().__init__(trainable=trainable, autocast=False, **kwargs)
        self.handle, self.signature, self.output_key = os.fspath(handle), signature, output_key
        self.arguments = dict(arguments or {})
        self.supports_masking = False
        self.supports_jit = False  # operations on strings have no XLA kernels
        self.module = load_module(self.handle)
        self.function = self._find_function()
        trained, others = variables_of(self.module, self.function)
        self.trained = [_keras_variable(variable, True) for variable in trained]
        self.others = [_keras_variable(variable, False) for variable in others]
        for variable in self.trained:
            variable.trainable = trainable  # a layer sets it when its own attribute changes, and not here
        self.built = True

    def _find_function(self):
        signatures = getattr(self.module, "signatures", {})
        if self.signature is None:
            if callable(self.module):
                return self.module.__call__
            raise UserError(f"{self.handle} has no call of its own; give a signature: {', '.join(signatures)}")
        if self.signature in signatures:
            return signatures[self.signature]
        raise UserError(f"{self.handle} has no signature {self.signature!r}; it has {', '.join(signatures) or 'none'}")

    def call(self, inputs, training=None):
        inputs = keras.tree.map_structure(lambda x: _cast_floats(x, "float32"), inputs)
        if self.trainable:
            for loss in getattr(self.module, "regularization_losses", ()):
                self.add_loss(loss())
        outputs = self._call_module(inputs, bool(training and self.trainable))
        outputs = keras.tree.map_structure(lambda x: _cast_floats(x, self.compute_dtype), outputs)
        return self._choose(outputs)

    def _call_module(self, inputs, training):
        if self.signature is None:
            takes_training = "training" in inspect.signature(self.function).parameters
            return self.function(inputs, **self.arguments, **({"training": training} if takes_training else {}))
        if not isinstance(inputs, dict):
            names = list(self.function.structured_input_signature[1])
            if len(names) > 1:
                raise UserError(f"the signature {self.signature} takes {', '.join(names)}: give a dictionary")
            inputs = dict(zip(names, [inputs]))
        return self.function(**inputs, **self.arguments)

    def _choose(self, outputs):
        if not isinstance(outputs, dict):
            if self.output_key is not None:
                raise UserError(f"{self.handle} has a single output, and none by the name {self.output_key!r}")
            return outputs
        if self.output_key is None:
            single = self.signature is not None and len(outputs) == 1
            return next(iter(outputs.values())) if single else dict(outputs)
        if self.output_key not in outputs:
            raise UserError(f"{self.handle} has no output {self.output_key!r}; it has {', '.join(outputs)}")
        return outputs[self.output_key]


def variables_of(module, function):
    """(trainable, other) variables of a module: those that it lists and those that `function` uses.

    A plain `tf.Module` lists none; its variables know themselves whether they are trained.
    """
    used = [variable for one in getattr(function, "concrete_functions", [function]) for variable in one.variables]
    known = [*getattr(module, "trainable_variables", ()), *getattr(module, "variables", ()), *used]
    known = {id(variable): variable for variable in known}
    trained = getattr(module, "trainable_variables", [variable for variable in known.values() if variable.trainable])
    trained = {id(variable): variable for variable in trained}
    return list(trained.values()), [known[i] for i in known if i not in trained]


def _keras_variable(variable, trainable):
    """A Keras variable that stands for a `tf.Variable`."""
    name = variable.name.split(":")[0].replace("/", "_")
    return keras.Variable(variable, variable.shape, variable.dtype.name, trainable, name=name)


def _cast_floats(x, dtype):
    return keras.ops.cast(x, dtype) if getattr(x.dtype, "is_floating", False) else x


# Handles.


def load_module(handle):
    """The object that `tf.saved_model.load` gives of a handle; `UserError` for one that is none, see `HubLayer`."""
    if keras.backend.backend() != "tensorflow":
        raise UserError(f"{handle} is a SavedModel, which needs TensorFlow: set KERAS_BACKEND to tensorflow")
    import tensorflow as tf

    folder = resolve(handle)
    try:
        try:
            return tf.saved_model.load(folder)
        except Exception as error:
            if "Op type not registered" not in str(error):
                raise
            with contextlib.suppress(ImportError):  # most modules of texts have operations of this package
                import tensorflow_text  # noqa: F401
            return tf.saved_model.load(folder)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = '; pip install "homl_models[text]"' if "Op type not registered" in reason else ""
        raise UserError(f"{handle} is not a SavedModel that can be loaded: {reason}{hint}") from error


def resolve(handle):
    """The folder of a handle: a path, or a URL whose module is in the cache or can be fetched; else `UserError`."""
    if not handle.startswith(URLS):
        return _checked(handle, handle)
    cache = os.environ.get("TFHUB_CACHE_DIR") or os.path.join(tempfile.gettempdir(), "tfhub_modules")
    folder = os.path.join(cache, hashlib.sha1(handle.encode()).hexdigest())
    return _checked(folder if os.path.isdir(folder) else _fetch(handle, cache), handle)


def _fetch(handle, cache):
    """The folder into which `tensorflow_hub` has fetched a module."""
    missing = f"{handle} is not in the cache of modules, {cache} (TFHUB_CACHE_DIR)"
    try:
        import tensorflow_hub
    except ImportError as error:  # also where setuptools no longer has the pkg_resources that it needs
        raise UserError(f"{missing}, and tensorflow_hub, which fetches it, cannot be imported: {INSTALL}") from error
    try:
        return tensorflow_hub.resolve(handle)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{missing}, and cannot be fetched: {reason}") from error


def _checked(folder, handle):
    if any(os.path.isfile(os.path.join(folder, name)) for name in FILES):
        return folder
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {handle}; give that of a SavedModel, or a URL of TensorFlow Hub")
    nested = sorted(name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name, FILES[0])))
    hint = f"; there is one in {os.path.join(handle, nested[0])}" if nested else ""
    raise UserError(f"{handle} is not a SavedModel: it has no {FILES[0]}{hint}")
