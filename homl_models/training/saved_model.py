"""The writer of SavedModels: strings or images in and out, for processes that have neither Keras nor this package.

`tf.saved_model.load(folder).generate(tf.constant(["To be"]), ...)`. Beside the endpoints a SavedModel holds
`assets.extra/endpoints.json`: what they take and give, their documentation and defaults.
"""

import contextlib
import functools
import inspect
import json
import os
import subprocess
import sys

from homl_models import endpoints, loading
from homl_models.training import files


def export(run, to, model=None):
    """Write the SavedModel of `run` (run folder, preset or .keras file) to the folder `to`, replacing it.

    model: what `run` holds, if it is at hand.
    """
    import keras

    if keras.backend.backend() != "tensorflow":  # its graphs are TensorFlow's: let a process that runs it do this
        files.remove(to)
        command = [sys.executable, "-m", "homl_models.export", str(run), "--to", str(to)]
        subprocess.run(command, check=True, env={**os.environ, "KERAS_BACKEND": "tensorflow"})
        return
    model = model or loading.load(run)
    to.parent.mkdir(parents=True, exist_ok=True)
    files.remove(to)
    with files.atomic_write(to) as aside:
        write_saved_model(model, aside)


def write_saved_model(model, folder):
    """Write the endpoints of `model` as a SavedModel to a new folder."""
    import tensorflow as tf

    module, signatures = tf.Module(), {}
    module.variables_of_the_model = [variable.value for variable in model.variables]
    outputs = {}

    def noted(name, function):
        """`function`, whose outputs are noted when saving traces it, once."""

        @functools.wraps(function)
        def traced(*inputs):
            outputs[name] = function(*inputs)
            return outputs[name]

        return traced

    offered = model.endpoints()
    for name, (function, signature) in offered.items():
        signatures[name] = tf.function(noted(name, function), input_signature=signature, autograph=False)
        setattr(module, name, signatures[name])
    signatures["serving_default"] = next(iter(signatures.values()))  # what TensorFlow Serving calls unless told
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # it is not trained any more
    with _warnings_alone(tf.get_logger()):  # or else it tells where it writes, which is not where the folder will be
        tf.saved_model.save(module, folder, signatures, options)
    described = {name: describe(*both, outputs[name]) for name, both in offered.items()}
    path = folder / endpoints.FILE
    path.parent.mkdir()
    path.write_text(json.dumps(described, indent=2), encoding="utf-8")


def describe(function, signature, outputs=()):
    """What `endpoints.Endpoint` reads of a function of a model: inputs and outputs by name, defaults, documentation."""
    parameters = inspect.signature(function).parameters.values()
    return {
        "doc": inspect.getdoc(function) or "",
        "inputs": {spec.name: _plain(spec) for spec in signature},
        "outputs": {name: _plain(outputs[name]) for name in sorted(outputs)},
        "defaults": {
            parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty
        },
    }


def _plain(spec):
    """(type, shape) of a `tf.TensorSpec` or tensor."""
    return spec.dtype.name, spec.shape.as_list()


@contextlib.contextmanager
def _warnings_alone(logger):
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)
