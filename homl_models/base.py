"""Base classes of layers and models: a configuration equal to the constructor's arguments; endpoints."""

import functools
import inspect
import os

import keras

from homl_models import environment

environment.set_keras_defaults(keras)
XLA = os.environ.get("HOML_XLA", "1") != "0"  # whether anything is compiled by XLA; what compiles asks when it does


class Configured:
    """Mixin whose configuration is the constructor's arguments.

    Store every constructor argument under its own name; `get_config` reads them
    back from there. (A plain `keras.Model` subclass whose arguments all have
    defaults saves the defaults, silently.) Arguments may be numbers, strings,
    tuples, layers, models, or anything else that Keras can serialize; a list
    comes back as a tuple.
    """

    @classmethod
    def argument_names(cls):
        """Names of the constructor's arguments, those of parent classes included."""
        names = {}
        for parent in cls.__mro__[: cls.__mro__.index(Configured)]:
            for name, parameter in list(inspect.signature(parent.__init__).parameters.items())[1:]:
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    names.setdefault(name)
        return list(names)

    def get_config(self):
        config = {name: _with_tuples(getattr(self, name)) for name in self.argument_names()}
        config = {name: keras.saving.serialize_keras_object(value) for name, value in config.items()}
        dtype = keras.saving.serialize_keras_object(self.dtype_policy)
        return {"name": self.name, "trainable": self.trainable, "dtype": dtype, **config}

    @classmethod
    def from_config(cls, config):
        config = {name: keras.saving.deserialize_keras_object(value) for name, value in config.items()}
        return cls(**{name: _with_tuples(value) for name, value in config.items()})


def freeze(layer):
    """Make a layer with all layers in it not trainable. Keras does not pass on what a loaded layer is already."""
    for trainable in (True, False):
        layer.trainable = trainable


class Layer(Configured, keras.layers.Layer):
    """`keras.layers.Layer` whose configuration is the constructor's arguments, and which passes masks on."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True


class Model(Configured, keras.Model):
    """`keras.Model` whose configuration is the constructor's arguments; see `Configured`."""

    @property
    def optimizers(self):
        """The optimizers of training, whose variables checkpoints hold."""
        return [self.optimizer]

    @property
    def jit_compile(self):
        """As Keras' `jit_compile`, but False with HOML_XLA=0 in the environment; the configuration keeps it."""
        return XLA and super().jit_compile

    @jit_compile.setter
    def jit_compile(self, value):
        keras.Model.jit_compile.fset(self, value)

    def make_train_function(self, force=False):
        """As Keras', with the optimizer built before the step is traced, which would otherwise be traced twice."""
        if self.built and self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def packed_weights(self):
        """The weights that a preset keeps."""
        return self.weights

    def unpacked(self):
        """Called after a preset has restored `packed_weights`."""

    def endpoints(self):
        """The endpoints of the SavedModel, {name: `endpoints.Endpoint`}, which take and return strings and images.

        Called on every backend, so it imports TensorFlow within the functions of the endpoints alone.
        """
        return {}

    def check(self, endpoint, **values):
        """`UserError` for values that the endpoint of that name refuses; None stands for a default."""
        self.endpoints()[endpoint].check(**{name: value for name, value in values.items() if value is not None})


def _with_tuples(value):
    """Lists as tuples, also within tuples and dictionaries: JSON does not tell them apart."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_with_tuples, value))
    return {key: _with_tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


def compiled(function, jit_compile=True, inputs=None):
    """`function` compiled on TensorFlow; on JAX as it is, since its loops are compiled anyway.

    jit_compile: by XLA; "auto" for XLA wherever there is more than a CPU. With HOML_XLA=0 in the environment: never.
    inputs: [(shape, dtype), ...], also dictionaries of them, to trace it once; by default, for each shape that comes.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    own = functools.partial(function)  # or else TensorFlow takes the same method of several models for one, and warns
    if jit_compile == "auto":
        jit_compile = bool(tf.config.list_physical_devices("GPU"))

    def spec(x):
        return {name: spec(part) for name, part in x.items()} if isinstance(x, dict) else tf.TensorSpec(*x)

    signature = inputs and list(map(spec, inputs))
    return tf.function(own, input_signature=signature, jit_compile=jit_compile and XLA, autograph=False)
