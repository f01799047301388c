"""Families of models in the folders of Hugging Face: tables of tensors and rules of config.json.

A new family is one file like `bert.py`, and its name in `huggingface.FAMILIES`.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from homl_models.checkpoints import tokenizer_files
from homl_models.errors import UserError


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A variable of a model, and the layout of its array in a file.

    Args:
        variable: the Keras variable.
        axes: permutation from the file's axes to ours; None for the same. A dense kernel of PyTorch, (out, in), has
            (1, 0), a convolution's, (out, in, h, w), (2, 3, 1, 0).
        resize: function from an array of the file, of another size, to one for the variable, or None where it cannot
            be; None where no other size will do.
    """

    variable: object
    axes: tuple | None = None
    resize: Callable | None = None

    def to_file(self):
        """The variable as a float32 array in the file's layout."""
        array = keras.ops.convert_to_numpy(keras.ops.cast(self.variable, "float32"))
        return np.ascontiguousarray(array if self.axes is None else array.transpose(np.argsort(self.axes)))

    def assign(self, array):
        """Give the variable an array of the file."""
        array = array if self.axes is None else array.transpose(self.axes)
        self.variable.assign(array.astype(self.variable.dtype, copy=False))

    @property
    def file_shape(self):
        """The shape of the array in a file."""
        shape = tuple(self.variable.shape)
        return shape if self.axes is None else tuple(shape[axis] for axis in np.argsort(self.axes))


def table(name, variable, resize=None):
    """Entry of a variable that is stored as it is, such as an embedding table or a bias. resize: see `Tensor`."""
    yield name, Tensor(variable, resize=resize)


def dense(name, layer):
    """Entries of a dense layer: its kernel, transposed, and its bias, if it has one."""
    yield f"{name}.weight", Tensor(layer.kernel, (1, 0))
    if layer.use_bias:
        yield f"{name}.bias", Tensor(layer.bias)


def norm(name, layer):
    """Entries of a layer normalization."""
    yield f"{name}.weight", Tensor(layer.gamma)
    yield f"{name}.bias", Tensor(layer.beta)


@dataclasses.dataclass(frozen=True)
class Family:
    """A backbone and its heads, the names of their tensors, and the rules of their configuration."""

    model_type: str
    """Name of the family in config.json."""
    backbone: type
    """Class of the model without a head: `backbone(config)`."""
    config: type
    """Frozen dataclass of its configuration, whose fields are named as in config.json."""
    backbone_tensors: Callable
    """Backbone -> (name, `Tensor`) of each variable, named as in the folder of a bare backbone."""
    head_tensors: dict
    """{class of a head: function from a head to (name, `Tensor`) of each of its own variables}; also subclasses of the
    backbone."""
    backbone_arguments: Callable = lambda head: {}
    """Class of a head, or None for a bare backbone -> further arguments of the backbone."""
    config_names: dict = dataclasses.field(default_factory=dict)
    """{field of the configuration: its name in config.json}, where it has another."""
    fixed: tuple = ()
    """Fields of the configuration that are the same for all models of the family, and not in config.json."""
    anchor: str = "embeddings.word_embeddings.weight"
    """Name of a tensor that every folder has, by which a prefix of all names is found."""
    aliases: dict = dataclasses.field(default_factory=dict)
    """{regular expression of a tensor's name: its name in some folders}, where the first is missing."""
    ignored: tuple = ()
    """Prefixes of tensors that a model may lack: of other heads, and buffers."""
    buffers: tuple = ()
    """Ends of the names of further tensors that a model may lack."""
    optional: tuple = ()
    """Parts of the names of backbone tensors that a folder may lack."""
    preprocessing: object = tokenizer_files
    """Module for the files that say how inputs are made: `tokenizer_files` or `image_processor_files`."""
    rules: dict = dataclasses.field(default_factory=dict)
    """{what values must be, one of `configuration.TESTS`: names in config.json}."""
    nullable: tuple = ()
    """Names in config.json whose values may be null."""
    sizes: tuple = ()
    """(name of a tensor, axis, name in config.json of its size)."""
    layer_pattern: str = r"encoder\.layer\.(\d+)\."
    """Regular expression of the layer number in the names of tensors."""

    @property
    def prefix(self):
        """Prefix of the backbone's tensors in a folder of a head."""
        return f"{self.model_type}."

    def from_json(self, config):
        """A config.json with the names of the configuration's fields."""
        names = {theirs: ours for ours, theirs in self.config_names.items()}
        return {names.get(name, name): value for name, value in config.items() if name not in self.fixed}

    def to_json(self, config):
        """The reverse of `from_json`."""
        return {self.config_names.get(name, name): value for name, value in config.items() if name not in self.fixed}

    @property
    def heads(self):
        """{name: class} of the heads."""
        return {head.__name__: head for head in self.head_tensors}

    def tensors(self, model):
        """Table of tensors: {name in the folder: `Tensor`}."""
        return self.tensors_of_backbone(model) | dict(self.own_tensors(model))

    def tensors_of_backbone(self, model):
        backbone = getattr(model, "backbone", model)
        prefix = "" if backbone is model else self.prefix
        return {f"{prefix}{name}": tensor for name, tensor in self.backbone_tensors(backbone)}

    def own_tensors(self, model):
        """Entries of a head's own variables, or of those that a class of backbones has beside the family's."""
        for kind in type(model).__mro__:
            if kind in self.head_tensors:
                return self.head_tensors[kind](model)
        if not hasattr(model, "backbone"):
            return ()
        raise UserError(f"the family {self.model_type} has no {type(model).__name__}")
