"""The writer of SavedModels: strings or images in and out, for processes that have neither Keras nor this package.

`tf.saved_model.load(folder).generate(tf.constant(["To be"]), ...)`. Beside the endpoints a SavedModel holds
`assets.extra/endpoints.json`: what they take and give, their documentation and defaults.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys

from homl_models import loading, serving
from homl_models.endpoints import Input
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
    files.remove(to)
    with files.atomic_write(to) as aside:
        write_saved_model(model, aside)


def write_saved_model(model, folder):
    """Write the endpoints of `model` as a SavedModel to a new folder."""
    import tensorflow as tf

    from homl_models.layers.hub import HubLayer

    module, signatures, offered = tf.Module(), {}, model.endpoints()
    module.variables_of_the_model = [variable.value for variable in model.variables]
    module.modules_of_the_model = [layer.module for layer in model._flatten_layers() if isinstance(layer, HubLayer)]

    def traced(endpoint):
        """The endpoint as a function, which notes its outputs when saving traces it, once."""

        @functools.wraps(endpoint)
        def call(*inputs):
            outputs = endpoint(*inputs)
            endpoint.outputs = {name: Input.from_spec(name, outputs[name]) for name in sorted(outputs)}
            return outputs

        call.__signature__ = endpoint.__signature__
        return call

    for name, endpoint in offered.items():
        signatures[name] = tf.function(traced(endpoint), input_signature=endpoint.signature, autograph=False)
        setattr(module, name, signatures[name])
    signatures["serving_default"] = next(iter(signatures.values()))  # what TensorFlow Serving calls unless told
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # it is not trained any more
    with _warnings_alone(tf.get_logger()):  # or else it tells where it writes, which is not where the folder will be
        tf.saved_model.save(module, folder, signatures, options)
    path = folder / serving.FILE
    path.parent.mkdir()
    described = {name: endpoint.to_json() for name, endpoint in offered.items()}
    path.write_text(json.dumps(described, indent=2), encoding="utf-8")


@contextlib.contextmanager
def _warnings_alone(logger):
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)
