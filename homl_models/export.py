"""python -m homl_models.export RUN [--to FOLDER]: a SavedModel of a run or preset, with strings or images in and out.

It needs neither Keras nor this package: `tf.saved_model.load(folder).generate(tf.constant(["To be"]), ...)`.
Beside the endpoints it holds `assets.extra/endpoints.json`, their documentation and defaults.
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

from homl_models import files, runs
from homl_models.errors import UserError


def main(argv=None):
    from homl_models.train import guarded

    parser = argparse.ArgumentParser(prog="python -m homl_models.export", description=__doc__)
    parser.add_argument("run", help="a run folder, a preset, or a .keras file")
    parser.add_argument("--to", type=Path, help="folder to write; default: saved_model in the run folder")
    args = parser.parse_args(argv)
    return guarded(lambda: _export_command(args.run, args.to))


def _export_command(run, to):
    if not run.endswith(".keras"):
        to = to or runs.find(run) / "saved_model"
    if to is None:
        raise UserError("say where to write the SavedModel: --to FOLDER")
    if to.exists():
        raise UserError(f"{to} is there already; choose another --to")
    export(run, to)


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
    model = model or runs.load(run)
    to.parent.mkdir(parents=True, exist_ok=True)
    files.remove(to)
    with files.write_aside(to) as aside:
        write_saved_model(model, aside)


def write_saved_model(model, folder):
    """Write the endpoints of `model` as a SavedModel to a new folder."""
    import tensorflow as tf

    module, signatures, described = tf.Module(), {}, {}
    module.variables_of_the_model = [variable.value for variable in model.variables]
    for name, (function, signature) in model.endpoints().items():
        signatures[name] = tf.function(function, input_signature=signature, autograph=False)  # saving traces it, once
        setattr(module, name, signatures[name])
        described[name] = {
            "doc": inspect.getdoc(function) or "",
            "inputs": [spec.name for spec in signature],
            "defaults": {
                parameter.name: parameter.default
                for parameter in inspect.signature(function).parameters.values()
                if parameter.default is not parameter.empty
            },
        }
    signatures["serving_default"] = next(iter(signatures.values()))  # what TensorFlow Serving calls unless told
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # or else it tells where it writes, which is not where the folder will be
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # it is not trained any more
    tf.saved_model.save(module, folder, signatures, options)
    logger.setLevel(level)
    extra = folder / "assets.extra"
    extra.mkdir()
    (extra / "endpoints.json").write_text(json.dumps(described, indent=2), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
